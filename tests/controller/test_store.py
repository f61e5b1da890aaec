"""The store: what is made, what facts move, and what nobody may move."""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import insert, select, update

from infoscreen_reboot.contract.ack import AckStatus, ErrorCode
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.contract.telemetry import BootReport, Cause, FailureAlert, PresenceReason, Status
from infoscreen_reboot.controller.ingest import Cleared, Heard
from infoscreen_reboot.controller.lifecycle import VERDICT_RANK, Acked, Cancelled, Limits, Published, Seen, State
from infoscreen_reboot.controller.safety import Standing, ask, first_hold
from infoscreen_reboot.controller.store import clients, commands, facts, figures, lease, tables
from infoscreen_reboot.controller.store.commands import Letter, New, Request
from infoscreen_reboot.controller.store.database import Database, Transaction
from infoscreen_reboot.controller.store.facts import Policy
from infoscreen_reboot.controller.store.lease import LeaseLost
from infoscreen_reboot.controller.store.tables import alert, boot, client, command, event, outbox

LIMITS = Limits()
ASKED = Request(Action.REBOOT_HOST, by="ann", via="api")
VALID = timedelta(minutes=4)
TOLD_AT = datetime(2026, 4, 3, 12, 48, tzinfo=UTC)


def uuid(number: int) -> str:
    return str(UUID(int=number))


PROGRESS = AckStatus.ACCEPTED, AckStatus.EXECUTION_STARTED, AckStatus.COMPLETED
CLIENT, COMMAND, OLD, NEW = uuid(1), uuid(100), uuid(201), uuid(202)


def a_status(reason: str, session: int = 1, boot_id: str = OLD, of: str = CLIENT, retained: bool = False) -> Heard:
    told_at = TOLD_AT + timedelta(seconds=session)
    return Heard(of, Status(PresenceReason(reason), of, uuid(300 + session), boot_id, told_at), retained)


def make(tx: Transaction, number: int = 0, of: str = CLIENT) -> str:
    """A command that may go at once."""
    command_id = uuid(100 + number)
    commands.create(tx, ASKED, [New(command_id, of, None)], VALID)
    letter = Letter(command_id, of, f"infoscreen/{of}/commands", b"{}", ())
    commands.release(tx, [letter], tx.now, tx.now + VALID)
    return command_id


def row_of(tx: Transaction, command_id: str = COMMAND) -> dict[str, object]:
    return dict(tx.db.execute(select(command).where(command.c.id == command_id)).mappings().one())


def kinds(tx: Transaction, command_id: str = COMMAND) -> list[str]:
    query = select(event.c.kind).where(event.c.command_id == command_id).order_by(event.c.seq)
    return list(tx.db.execute(query).scalars())


def test_a_command_from_its_making_to_its_verdict(database: Database) -> None:
    with database.write() as tx:
        clients.hear(tx, [a_status("connected")], accepts_all=True)
        make(tx)
    with database.write() as tx:
        [letter] = commands.to_send(tx, 10)
        assert (letter.payload, letter.topic) == (b"{}", f"infoscreen/{CLIENT}/commands")
        commands.mark_sent(tx, [letter], LIMITS)
        assert commands.to_send(tx, 10) == []
        assert commands.in_flight(tx) == [COMMAND]
    course: list[Published | Acked | Seen] = [
        Published(tx.now),
        Acked(tx.now, AckStatus.ACCEPTED, OLD),
        Acked(tx.now, AckStatus.EXECUTION_STARTED, OLD),
        Seen(tx.now, False, OLD),
        Seen(tx.now, True, NEW),
        Acked(tx.now, AckStatus.COMPLETED, NEW),
    ]
    for fact in course:
        with database.write() as tx:
            [change] = commands.learn(tx, [(COMMAND, replace(fact, at=tx.now))], LIMITS)
            assert (change.client_uuid, change.command_id) == (CLIENT, COMMAND)
    with database.read() as tx:
        row = row_of(tx)
        assert (row["state"], row["started_boot_id"], row["ended_boot_id"]) == ("completed", OLD, NEW)
        assert row["due_at"] is None and row["ended_at"] is not None
        assert kinds(tx) == [
            *("queued", "sent", "published", "accepted", "execution_started"),
            *("awaiting_reconnect", "seen", "completed"),
        ]
        assert tx.db.execute(select(outbox)).all() == [], "what has ended is never sent again"


def test_a_batch_of_facts_is_one_step_for_many_commands(database: Database) -> None:
    with database.write() as tx:
        ids = [make(tx, number, uuid(number + 1)) for number in range(50)]
        commands.mark_sent(tx, commands.to_send(tx, 100), LIMITS)
        acks = [(each, Acked(tx.now, status, OLD)) for each in ids for status in PROGRESS]
        commands.learn(tx, [*acks, (uuid(999), Published(tx.now))], LIMITS)
        states = tx.db.execute(select(command.c.state).distinct()).scalars().all()
        assert states == ["completed"]


def test_a_rank_never_falls_and_a_verdict_never_changes_whoever_writes(database: Database) -> None:
    """Not even by a process that has read the row before another one moved it on."""
    with database.write() as tx:
        make(tx)
        commands.mark_sent(tx, commands.to_send(tx, 1), LIMITS)
        rows = commands.by_id(tx, [COMMAND])
        behind = commands.record_of(rows[COMMAND])
        commands.learn(tx, [(COMMAND, Acked(tx.now, AckStatus.FAILED, OLD, ErrorCode.INHIBITED, "x"))], LIMITS)
        commands.write(tx, [(behind, replace(behind, state=State.ACCEPTED), rows[COMMAND])], LIMITS)
        commands.write(tx, [(behind, replace(behind, state=State.COMPLETED), rows[COMMAND])], LIMITS)
        assert (row_of(tx)["state"], row_of(tx)["error_code"]) == ("failed", "inhibited")


def test_open_commands_are_found_without_reading_all_that_have_ended(database: Database) -> None:
    with database.write() as tx:
        if tx.is_sqlite:
            ask = "EXPLAIN QUERY PLAN "
        else:
            ask = "EXPLAIN "
            tx.db.exec_driver_sql("SET LOCAL enable_seqscan = off")  # a small table is read whole otherwise
        # Of an empty table a planner knows nothing, and takes the one index or the other.
        ended: dict[str, object] = {
            "client_uuid": uuid(1),
            "action": "reboot_host",
            "created_by": "ann",
            "via": "api",
            "state": "completed",
        }
        ended |= {"rank": VERDICT_RANK, "created_at": tx.now, "expires_at": tx.now}
        tx.db.execute(insert(command), [ended | {"id": uuid(number)} for number in range(1000, 1500)])
        tx.db.exec_driver_sql("ANALYZE command")
        query = f"SELECT id FROM command WHERE client_uuid = '{uuid(1)}' AND {command.c.rank < VERDICT_RANK}"
        plan = " ".join(str(row) for row in tx.db.exec_driver_sql(ask + query))
        assert "command_open" in plan, plan


def test_what_was_given_to_the_broker_cannot_be_cancelled(database: Database) -> None:
    with database.write() as tx:
        make(tx, 0)
        make(tx, 1, uuid(2))
        commands.learn(tx, [(COMMAND, Cancelled(tx.now))], LIMITS)
        assert [letter.command_id for letter in commands.to_send(tx, 10)] == [uuid(101)]
        commands.mark_sent(tx, commands.to_send(tx, 10), LIMITS)
        assert commands.learn(tx, [(uuid(101), Cancelled(tx.now))], LIMITS) == []
        assert (row_of(tx)["state"], row_of(tx, uuid(101))["state"]) == ("cancelled", "queued")


def test_a_question_is_the_same_bytes_again(database: Database) -> None:
    with database.write() as tx:
        make(tx)
        [first] = commands.to_send(tx, 1)
        commands.mark_sent(tx, [first], LIMITS)
        commands.send_again(tx, [COMMAND], tx.now)
        assert commands.to_send(tx, 1) == [first]
        assert row_of(tx)["asks"] == 1


def test_a_command_that_waits_is_not_sent_and_one_that_may_not_is_blocked(database: Database) -> None:
    with database.write() as tx:
        clients.hear(tx, [a_status("stopped")], accepts_all=True)
        found = facts.gather(tx, [CLIENT], Action.REBOOT_HOST, Policy(), may_shut_down=False, someone_is_there=False)

        hold = first_hold(ask(found[CLIENT]))
        assert hold is not None and hold.rule == "online"
        commands.create(tx, ASKED, [New(COMMAND, CLIENT, hold)], VALID)
        waiting = replace(ASKED, wait_until=tx.now + timedelta(hours=1))
        commands.create(tx, waiting, [New(uuid(101), CLIENT, hold)], VALID)
        assert row_of(tx)["state"] == "blocked_safety" and row_of(tx)["error_code"] == "online"
        assert (row_of(tx, uuid(101))["state"], row_of(tx, uuid(101))["hold_rule"]) == ("queued", "online")
        assert [row["id"] for row in commands.waiting(tx, 10)] == [uuid(101)]
        assert kinds(tx) == ["queued", "blocked_safety"] and kinds(tx, uuid(101)) == ["queued", "held"]
        assert commands.to_send(tx, 10) == []


def test_the_open_command_and_the_reboots_of_a_client_are_facts_for_the_rules(database: Database) -> None:
    with database.write() as tx:
        clients.hear(tx, [a_status("connected")], accepts_all=True)
        make(tx)

        def gathered(without: tuple[str, ...] = ()) -> tuple[str | None, int]:
            found = facts.gather(
                tx,
                [CLIENT],
                Action.REBOOT_HOST,
                Policy(),
                may_shut_down=False,
                someone_is_there=False,
                without=without,
            )[CLIENT]
            return found.open_command_id, len(found.started)

        assert gathered() == (COMMAND, 0)
        assert gathered((COMMAND,)) == (None, 0)
        commands.mark_sent(tx, commands.to_send(tx, 1), LIMITS)
        commands.learn(tx, [(COMMAND, Acked(tx.now, AckStatus.EXECUTION_STARTED, OLD))], LIMITS)
        assert gathered() == (COMMAND, 1)
        commands.learn(tx, [(COMMAND, Acked(tx.now, AckStatus.COMPLETED, OLD))], LIMITS)
        assert gathered() == (None, 0), "a mock reboots nothing"


@pytest.mark.parametrize(("code", "counted"), [(ErrorCode.INHIBITED, 0), (ErrorCode.EXECUTION_TIMEOUT, 1)])
def test_a_reboot_that_the_client_was_refused_is_none(database: Database, code: ErrorCode, counted: int) -> None:
    """Its helper counts it neither. After a timeout the host may still go down."""
    with database.write() as tx:
        clients.hear(tx, [a_status("connected")], accepts_all=True)
        make(tx)
        commands.mark_sent(tx, commands.to_send(tx, 1), LIMITS)
        commands.learn(tx, [(COMMAND, Acked(tx.now, AckStatus.EXECUTION_STARTED, OLD))], LIMITS)
        commands.learn(tx, [(COMMAND, Acked(tx.now, AckStatus.FAILED, OLD, code, "no"))], LIMITS)
        of = facts.gather(tx, [CLIENT], Action.REBOOT_HOST, Policy(), may_shut_down=False, someone_is_there=False)
        assert len(of[CLIENT].started) == counted


def test_a_client_is_listed_when_it_is_first_heard_and_not_without_bound(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "MOST_UNKNOWN", 3)
    with database.write() as tx:
        heard = [a_status("connected", of=uuid(number)) for number in range(1, 6)]
        batch = clients.hear(tx, heard, accepts_all=False)
        assert batch.turned_away == 2
        assert tx.db.execute(select(client.c.standing)).scalars().all() == [Standing.UNKNOWN] * 3
        assert clients.hear(tx, heard, accepts_all=False).turned_away == 2
        assert clients.hear(tx, heard, accepts_all=True).turned_away == 0


def test_a_will_that_comes_late_takes_nobody_offline(database: Database) -> None:
    with database.write() as tx:
        for each in (a_status("connected", 1), a_status("connected", 2), a_status("connection_lost", 1)):
            clients.hear(tx, [each], accepts_all=True)
        assert clients.presences(tx, [CLIENT])[CLIENT].is_online
        batch = clients.hear(tx, [a_status("connection_lost", 2)], accepts_all=True)
        assert not batch.seen[CLIENT].is_online


def test_two_hosts_with_one_uuid_are_found_out_by_boots_that_return(database: Database) -> None:
    with database.write() as tx:
        for session, boot_id in enumerate([OLD, NEW, OLD], start=1):
            clients.hear(tx, [a_status("connected", session, boot_id)], accepts_all=True)
        assert tx.db.execute(select(client.c.two_hosts_at)).scalar_one() is None, "once may be a late message"
        clients.hear(tx, [a_status("connected", 4, NEW)], accepts_all=True)
        assert tx.db.execute(select(client.c.two_hosts_at)).scalar_one() is not None
        told = tx.db.execute(select(event.c.kind).where(event.c.kind == "two_hosts")).scalars().all()
        assert len(told) == 1


def test_retained_messages_are_how_things_stand_and_told_once(database: Database) -> None:
    report = BootReport(CLIENT, NEW, OLD, Cause.COMMAND, COMMAND, True, TOLD_AT, TOLD_AT, None)
    failed = FailureAlert(CLIENT, "player.service", "exit-code", 1, 5, NEW, TOLD_AT, ("x",))
    with database.write() as tx:
        for _ in range(3):
            heard = [
                a_status("connected", 1, NEW, retained=True),
                Heard(CLIENT, report, True),
                Heard(CLIENT, failed, True),
            ]
            clients.hear(tx, heard, accepts_all=True)
        told = tx.db.execute(select(event.c.kind).order_by(event.c.seq)).scalars().all()
        assert told == ["client_listed", "client_online", "boot_reported", "alert_raised"]
        assert tx.db.execute(select(boot.c.report["cause"])).scalars().all() == ["command"]
        assert tx.db.execute(select(client.c.heard_at)).scalar_one() is None, "no sign of life"
        clients.hear(tx, [Heard(CLIENT, Cleared(CLIENT), False)], accepts_all=True)
        assert tx.db.execute(select(alert.c.cleared_at)).scalar_one() is not None


def test_since_when_nobody_hears_the_broker_outlives_whoever_hears_nothing(database: Database) -> None:
    with database.read() as tx:
        assert figures.broker(tx) == (False, None)
    with database.write() as tx:
        epoch = taken(lease.take(tx, "one"))
        began = tx.now
        assert figures.broker(tx) == (False, began)
    with database.write() as tx:
        lease.listen(tx, epoch, is_heard=True)
        assert figures.broker(tx) == (True, None)
    with database.write() as tx:
        lease.listen(tx, epoch, is_heard=False)
        lost = tx.now
    with database.write() as tx:
        lease.listen(tx, epoch, is_heard=False)
        lease.give_up(tx, epoch)
    with database.write() as tx:
        epoch = taken(lease.take(tx, "two"))
        assert figures.broker(tx) == (False, lost)
        lease.listen(tx, epoch, is_heard=True)
    with database.write() as tx:
        killed = tx.now - timedelta(minutes=3)
        tx.db.execute(update(tables.lease).values(ends_at=killed))
        assert figures.broker(tx) == (False, killed)


def taken(epoch: int | None) -> int:
    assert epoch is not None
    return epoch


def test_a_holder_whose_lease_was_taken_over_writes_nothing(database: Database) -> None:
    with database.write() as tx:
        assert lease.take(tx, "one") == 1
    with database.write() as tx:
        assert lease.take(tx, "two") is None
        tx.db.execute(update(tables.lease).values(ends_at=tx.now - timedelta(seconds=1)))
    with database.write() as tx:
        assert lease.take(tx, "two") == 2
    with pytest.raises(LeaseLost), database.write() as tx:
        make(tx)
        lease.hold(tx, 1)
    with database.write() as tx:
        assert tx.db.execute(select(command)).all() == []
        lease.hold(tx, 2)
        lease.give_up(tx, 2)
    with database.write() as tx:
        assert lease.take(tx, "one") == 3


def test_a_writer_reads_what_no_other_one_changes_until_it_has_written(database: Database) -> None:
    """Two that each look first: with deferred transactions one of them would fail, whatever the timeout."""
    with database.write() as tx:
        make(tx)
    found: list[int] = []

    def count_up() -> None:
        for _ in range(50):
            with database.write() as mine:
                asks = mine.db.execute(select(command.c.asks)).scalar_one()
                mine.db.execute(update(command).values(asks=asks + 1))
        found.append(1)

    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as tx:
        assert (len(found), row_of(tx)["asks"]) == (4, 200)
        assert isinstance(tx.now, datetime) and abs(tx.now - datetime.now(UTC)) < timedelta(seconds=5)


def test_no_part_of_the_controller_asks_this_machines_clock() -> None:
    """Pitfall 20: the clock of one instance is an hour wrong. Lease, windows and deadlines are by the database's.

    The doctor compares the two clocks, and the command line is a program of another machine.
    """
    folder = Path(commands.__file__).parents[1]
    files = [file for file in folder.rglob("*.py") if file.parent.name != "ctl" and file.name != "doctor.py"]
    clocks = re.compile(r"datetime\.(now|utcnow|today)|date\.today|time\.(time|localtime|gmtime)\b")
    assert len(files) > 30
    assert [file.name for file in files if clocks.search(file.read_text("utf-8"))] == []
