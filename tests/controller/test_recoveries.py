"""Clients whose reboot never comes back: asked again, waited for, power-cycled, or left to a person; and each exactly
once, whatever the controller is killed between."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert, select, update

from infoscreen_reboot.contract import ack
from infoscreen_reboot.contract.ack import Ack, AckStatus, ErrorCode
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.controller import orders, policies, recoveries
from infoscreen_reboot.controller.engine import Orders
from infoscreen_reboot.controller.lifecycle import Acked, Fact, Limits, Overdue, Seen, Step
from infoscreen_reboot.controller.orders import Caller, House, Wish
from infoscreen_reboot.controller.recoveries import Recoveries, never_off
from infoscreen_reboot.controller.safety import Standing
from infoscreen_reboot.controller.store import commands, fleet, lease
from infoscreen_reboot.controller.store import recoveries as stored
from infoscreen_reboot.controller.store.database import Database, Row, StoreError, Transaction
from infoscreen_reboot.controller.store.tables import client, command, event, health, notice, outbox, recovery
from tests.broker.conftest import Broker
from tests.controller.played import Controller, PlayedClient, without_waits
from tests.controller.test_orders import site

OLD, NEW = str(UUID(int=100)), str(UUID(int=101))
ALL = (policies.recovery("ask,watchdog,power"),)
BOOT_S = 151


class Clocked(Database):
    """A database whose clock a test turns on. By itself it goes on by a millisecond with each transaction."""

    ahead = timedelta(0)
    _began: datetime | None = None

    @contextlib.contextmanager
    def write(self) -> Iterator[Transaction]:
        with super().write() as tx:
            yield self._by_its_clock(tx)

    @contextlib.contextmanager
    def read(self) -> Iterator[Transaction]:
        with super().read() as tx:
            yield self._by_its_clock(tx)

    def _by_its_clock(self, tx: Transaction) -> Transaction:
        self._began = self._began or tx.now
        self.ahead += timedelta(milliseconds=1)
        return replace(tx, now=self._began + self.ahead)


@pytest.fixture
def clocked(database: Database) -> Iterator[Clocked]:
    found = Clocked(database.engine.url.render_as_string(hide_password=False))
    yield found
    found.close()


@dataclass
class PlayedSwitch:
    """Has a port for some clients. It answers when it is told to."""

    ports: set[str] = field(default_factory=set)
    cycles: list[tuple[str, str, str]] = field(default_factory=list)
    answer: tuple[str, str] | None = None

    def request(self, tx: Transaction, client_uuid: str, by: str, why: str) -> int | None:
        if client_uuid not in self.ports:
            return None
        self.cycles.append((client_uuid, by, why))
        return len(self.cycles)

    def outcome(self, tx: Transaction, cycle_id: int) -> tuple[str, str] | None:
        return self.answer


class Abort(Exception):
    """The process is killed before the commit."""


@dataclass
class Night:
    """Nobody is there; clients do not come back, and time passes."""

    database: Clocked
    switch: PlayedSwitch = field(default_factory=PlayedSwitch)
    plan: Recoveries = field(default_factory=Recoveries)
    is_killed_before_each_commit: bool = False

    def __post_init__(self) -> None:
        self.plan = replace(self.plan, ladders=ALL, power=self.switch)
        with self.database.write() as tx:
            epoch = lease.take(tx, "test")
            assert epoch is not None
            lease.listen(tx, epoch, is_heard=True)
            self.epoch = epoch
            self.uuids = site(tx, 3)

    def has_watchdog(self, uuid: str, **lockout: Any) -> None:
        content = {
            "capabilities": {"actions": ["reboot_host"], "hardware_watchdog": True},
            "executor": "helper",
            "clock_synchronized": True,
            "commands": {"bad_signatures": None},
            "lockout": {"used": 0, "limit": 3, "unlocks_at": None} | lockout,
            "state": {"disk_full": False},
            "agent_version": "1",
        }
        with self.database.write() as tx:
            tx.db.execute(insert(health).values(client_uuid=uuid, heard_at=tx.now, content=json.dumps(content)))

    def lose(self, uuid: str) -> str:
        """A reboot that is executed, and does not come back; the command has its verdict."""
        with self.database.write() as tx:
            tx.db.execute(update(client).where(client.c.uuid == uuid).values(is_online=True, boot_id=OLD))
            command_id, _ = orders.order(tx, Caller("ann", "api"), Wish(Action.REBOOT_HOST), uuid, None, House())
            commands.mark_sent(tx, commands.to_send(tx, 10), Limits())
            told: list[Fact] = [
                Acked(tx.now, status, OLD) for status in (AckStatus.ACCEPTED, AckStatus.EXECUTION_STARTED)
            ]
            told.append(Seen(tx.now, False, OLD))
            commands.learn(tx, [(command_id, fact) for fact in told], Limits())
            tx.db.execute(update(client).where(client.c.uuid == uuid).values(is_online=False))
        self.wait(150)
        self.step((command_id, Overdue))
        return command_id

    def wait(self, seconds: float) -> None:
        self.database.ahead += timedelta(seconds=seconds)

    def step(self, *told: tuple[str, Any]) -> None:
        if self.is_killed_before_each_commit:
            with contextlib.suppress(Abort):
                self._step(told, is_killed=True)
        self._step(told, is_killed=False)

    def _step(self, told: Any, is_killed: bool) -> None:
        with self.database.write() as tx:
            facts = [(each, kind(tx.now, Step.BACK) if kind is Overdue else kind) for each, kind in told]
            self.plan.step(tx, commands.learn(tx, facts, Limits()))
            if is_killed:
                raise Abort

    def after(self, seconds: float) -> str:
        """The state of the newest recovery, after so long."""
        self.wait(seconds)
        self.step()
        return self.row["state"] if self.rows else ""

    def comes(self, uuid: str) -> None:
        with self.database.write() as tx:
            tx.db.execute(update(client).where(client.c.uuid == uuid).values(is_online=True, boot_id=NEW))

    @property
    def rows(self) -> list[Row]:
        with self.database.read() as tx:
            return list(tx.db.execute(select(recovery).order_by(recovery.c.id)).mappings())

    @property
    def row(self) -> Row:
        return self.rows[-1]

    def told(self) -> list[tuple[str, str, str | None]]:
        with self.database.read() as tx:
            rows = tx.db.execute(select(notice).order_by(notice.c.id))
            return [(row.kind, row.subject, row.site) for row in rows]

    def events(self, uuid: str) -> list[str]:
        with self.database.read() as tx:
            query = select(event.c.kind).where(event.c.client_uuid == uuid, event.c.kind.startswith("recovery"))
            return list(tx.db.execute(query.order_by(event.c.seq)).scalars())


@pytest.fixture
def night(clocked: Clocked) -> Night:
    return Night(clocked)


@pytest.mark.parametrize("is_killed", [False, True])
def test_every_step_is_tried_once_and_then_a_person_is_called(night: Night, is_killed: bool) -> None:
    night.is_killed_before_each_commit = is_killed
    uuid = night.uuids[0]
    night.has_watchdog(uuid)
    night.switch.ports.add(uuid)
    command_id = night.lose(uuid)
    assert night.row["state"] == "cooling"
    assert night.after(30) == "cooling"
    assert night.after(61) == "asking", "the command has expired"
    assert night.after(59) == "asking"
    assert night.after(2) == "waiting_for_watchdog"
    assert night.after(BOOT_S) == "cycling_power"
    night.switch.answer = ("done", "port 7 of alpine-1")
    assert night.after(20) == "waiting_for_client"
    assert night.after(149) == "waiting_for_client"
    assert night.told() == []
    assert night.after(2) == "needs_person"
    assert night.after(10_000) == "needs_person"
    assert night.told() == [("needs_person", f"client/{uuid}", "alpine")]
    assert len(night.switch.cycles) == (2 if is_killed else 1), "the first one was rolled back"
    assert night.switch.cycles[0] == (uuid, "recovery", f"command {command_id}: it did not come back")
    assert night.events(uuid) == [
        "recovery_began",
        "recovery_asking",
        "recovery_waiting_for_watchdog",
        "recovery_cycling_power",
        "recovery_waiting_for_client",
        "recovery_needs_person",
    ]
    assert "switch its power off and on: done; the client did not come" in night.row["ticket"]


def test_a_client_with_neither_watchdog_nor_port_needs_a_person(night: Night) -> None:
    night.lose(night.uuids[0])
    assert [night.after(91), night.after(61)] == ["asking", "needs_person"]
    outcomes = [(each["step"], each["outcome"]) for each in night.row["tried"]]
    assert outcomes == [
        ("watchdog", "left out: the client has reported none"),
        ("ask", "no answer"),
        ("power", "left out: no port of its own that may be switched is in the inventory"),
    ]


def test_without_a_word_in_the_settings_no_power_is_switched(night: Night) -> None:
    night.plan = replace(night.plan, ladders=())
    night.switch.ports.add(night.uuids[0])
    night.lose(night.uuids[0])
    assert [night.after(91), night.after(61)] == ["asking", "needs_person"]
    assert night.switch.cycles == []


def test_the_last_entry_that_fits_a_client_counts(night: Night) -> None:
    entries = "ask", "site=alpine power", "site=other person"
    night.plan = replace(night.plan, ladders=tuple(map(policies.recovery, entries)))
    night.switch.ports.add(night.uuids[0])
    night.lose(night.uuids[0])
    assert night.after(61) == "cycling_power"


@pytest.mark.parametrize("after_s", [0, 91, 61, BOOT_S])
def test_the_ladder_ends_the_moment_the_client_is_back_whatever_it_is_at(night: Night, after_s: int) -> None:
    uuid = night.uuids[0]
    night.has_watchdog(uuid)
    night.switch.ports.add(uuid)
    night.lose(uuid)
    for seconds in (0, 91, 61, BOOT_S):
        night.after(seconds)
        if seconds == after_s:
            break
    night.comes(uuid)
    assert night.after(0) == "back"
    assert night.row["words"] == f"the client is online again, in boot {NEW}"
    assert night.told() == [], "nobody was called"
    assert night.after(10_000) == "back"
    with night.database.read() as tx:
        assert tx.db.execute(select(outbox)).all() == []


def test_whoever_was_called_is_told_that_the_client_is_back(night: Night) -> None:
    uuid = night.uuids[0]
    night.lose(uuid)
    assert [night.after(91), night.after(61)] == ["asking", "needs_person"]
    night.comes(uuid)
    assert night.after(3600) == "back"
    assert [kind for kind, _, _ in night.told()] == ["needs_person", "back"]


def test_the_question_is_the_same_bytes_and_goes_out_once_the_command_has_expired(night: Night) -> None:
    with night.database.read() as tx:
        assert commands.to_send(tx, 10) == []
    command_id = night.lose(night.uuids[0])
    sent = night.row["payload"]
    with night.database.read() as tx:
        assert commands.to_send(tx, 10) == [], "not before its step"
    night.after(91)
    with night.database.write() as tx:
        [letter] = commands.to_send(tx, 10)
        commands.mark_sent(tx, [letter], Limits())
        assert (letter.command_id, letter.payload) == (command_id, sent)
        assert commands.to_send(tx, 10) == [], "once"


def test_an_answer_is_a_sign_that_the_client_is_there(night: Night) -> None:
    """A broker may have lost its birth: nobody switches off a client that works."""
    command_id = night.lose(night.uuids[0])
    night.after(91)
    with night.database.read() as tx:
        now = tx.now
    night.step((command_id, Acked(now, AckStatus.COMPLETED, NEW)))
    assert (night.row["state"], night.row["words"]) == ("back", "the client has answered: completed")


def test_no_time_is_over_while_the_broker_is_not_heard(night: Night) -> None:
    uuid = night.uuids[0]
    night.lose(uuid)
    assert night.after(91) == "asking"
    with night.database.write() as tx:
        lease.listen(tx, night.epoch, is_heard=False)
    assert night.after(3600) == "asking"
    with night.database.write() as tx:
        lease.listen(tx, night.epoch, is_heard=True)
    assert night.after(59) == "asking"
    assert night.after(2) == "asking", "the answer may have been lost: it is asked again"
    assert night.after(59) == "asking"
    assert night.after(2) == "needs_person"
    assert night.events(uuid).count("recovery_asking") == 2


def test_three_reboots_that_did_not_help_are_a_diagnosis(night: Night) -> None:
    uuid = night.uuids[0]
    night.has_watchdog(uuid)
    night.switch.ports.add(uuid)
    for _ in range(2):
        night.lose(uuid)
        night.comes(uuid)
        night.step()
    night.lose(uuid)
    assert [row["state"] for row in night.rows] == ["back", "back", "needs_person"]
    assert night.row["words"] == "reboots do not help: 3 reboots of this client in the last 15 minutes"
    assert night.switch.cycles == []


def test_a_power_cycle_counts_as_a_reboot(night: Night) -> None:
    uuid = night.uuids[0]
    night.plan = replace(night.plan, ladders=(policies.recovery("power"),))
    night.switch.ports.add(uuid)
    night.lose(uuid)
    assert night.after(61) == "cycling_power"
    night.comes(uuid)
    night.step()
    night.lose(uuid)
    assert night.row["state"] == "needs_person"


def test_the_lockout_that_a_client_reports_is_respected(night: Night) -> None:
    uuid = night.uuids[0]
    night.lose(uuid)
    night.has_watchdog(uuid, used=3)
    assert night.after(91) == "needs_person"
    assert night.row["words"] == "reboots do not help: the client says that it was rebooted 3 times"


def test_a_freeze_leaves_the_power_alone_and_calls_a_person(night: Night) -> None:
    uuid = night.uuids[0]
    night.plan = replace(night.plan, ladders=(policies.recovery("power"),))
    night.switch.ports.add(uuid)
    night.lose(uuid)
    with night.database.write() as tx:
        fleet.begin_freeze(tx, "trade fair", "ann", None)
    assert night.after(61) == "needs_person"
    assert "left out: frozen by ann: trade fair" in night.row["ticket"]
    assert night.switch.cycles == []


@pytest.mark.parametrize("when", ["before it begins", "while it is under way"])
def test_a_rollout_that_was_stopped_keeps_recovery_off(night: Night, when: str) -> None:
    uuid = night.uuids[0]
    off = replace(night.plan, is_off=lambda tx, each: each == uuid)
    if when == "before it begins":
        night.plan = off
    night.lose(uuid)
    night.plan = off
    assert night.after(91) == "held_back"
    assert night.row["words"].startswith("held back: a rollout was stopped")
    assert night.after(3600) == "held_back" and night.told() == [], "nobody has allowed it"
    night.plan = replace(night.plan, is_off=never_off)
    assert night.after(0) == "cooling" and "allowed again" in night.row["words"]
    assert night.after(61) == "asking", "it goes on where it was"


def test_a_client_that_is_retired_is_left_alone(night: Night) -> None:
    uuid = night.uuids[0]
    night.lose(uuid)
    with night.database.write() as tx:
        fleet.set_standing(tx, [uuid], Standing.RETIRED, "ann", Limits())
    assert night.after(0) == "stopped"


def test_somebody_who_is_there_ends_it(night: Night) -> None:
    night.lose(night.uuids[0])
    with night.database.write() as tx:
        assert recoveries.stop(tx, night.row["id"], "ann", "I am there")
        assert not recoveries.stop(tx, night.row["id"], "ann", "I am there"), "it is over"
        assert not recoveries.stop(tx, 99, "ann", "I am there")
    assert night.row["words"] == "stopped by ann: I am there"
    assert night.after(10_000) == "stopped"
    assert night.told() == []


def test_a_switch_that_fails_calls_a_person(night: Night) -> None:
    uuid = night.uuids[0]
    night.plan = replace(night.plan, ladders=(policies.recovery("power"),))
    night.switch.ports.add(uuid)
    night.lose(uuid)
    night.after(61)
    night.switch.answer = ("failed", "alpine-1 does not answer")
    assert night.after(5) == "needs_person"
    assert night.row["words"] == "cannot switch its power off and on: alpine-1 does not answer"


def test_a_client_has_one_recovery_at_a_time(night: Night) -> None:
    night.lose(night.uuids[0])
    with pytest.raises(StoreError), night.database.write() as tx:
        row = night.row
        stored.begin(tx, row["client_uuid"], str(uuid4()), stored.record_of(row), None)


def test_a_second_reboot_that_is_lost_meanwhile_begins_no_second_one(night: Night) -> None:
    first = night.lose(night.uuids[0])
    night.lose(night.uuids[0])
    assert [(row["command_id"], row["ended_at"]) for row in night.rows] == [(first, None)]


def test_only_a_reboot_that_does_not_come_back_begins_one(night: Night) -> None:
    uuid = night.uuids[0]
    with night.database.write() as tx:
        tx.db.execute(update(client).where(client.c.uuid == uuid).values(boot_id=OLD))
        command_id, _ = orders.order(tx, Caller("ann", "api"), Wish(Action.REBOOT_HOST), uuid, None, House())
        commands.mark_sent(tx, commands.to_send(tx, 10), Limits())
        facts: list[Fact] = [
            Acked(tx.now, AckStatus.EXECUTION_STARTED, OLD),
            Overdue(tx.now, Step.DOWN),
            Acked(tx.now, AckStatus.FAILED, OLD, ErrorCode.EXECUTION_TIMEOUT),
        ]
        night.plan.step(tx, commands.learn(tx, [(command_id, fact) for fact in facts], Limits()))
        assert tx.db.execute(select(command.c.state)).scalar_one() == "timed_out"
    assert night.rows == []


# --- At a real broker


@pytest.fixture
def tower(
    clocked: Clocked, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Controller, PlayedSwitch]]:
    without_waits(monkeypatch)
    switch = PlayedSwitch({str(UUID(int=1))})
    plan = Recoveries(ladders=ALL, power=switch)
    found = Controller(clocked, broker, Orders(accepts_all=True, plans=(plan,)))
    yield found, switch
    found.consumer.end()


def passes(controller: Controller, seconds: float) -> str:
    assert isinstance(controller.database, Clocked)
    controller.database.ahead += timedelta(seconds=seconds)
    controller.settle()
    with controller.database.read() as tx:
        row = tx.db.execute(select(recovery.c.state).order_by(recovery.c.id)).first()
        return row.state if row else ""


def test_a_host_that_never_comes_back_is_power_cycled_and_comes_back_then(
    tower: tuple[Controller, PlayedSwitch], client: PlayedClient
) -> None:
    controller, switch = tower
    controller.settle()
    passes(controller, 61)
    command_id = controller.order(client.uuid)
    controller.until(command_id, "published")
    assert client.hear() == [command_id]
    client.execute(command_id)
    client.go_down()
    controller.until(command_id, "awaiting_reconnect")
    assert [passes(controller, seconds) for seconds in (149, 2, 91, 61)] == ["", "cooling", "asking", "cycling_power"]
    assert controller.state(command_id) == "timed_out"
    assert [uuid for uuid, _, _ in switch.cycles] == [client.uuid]
    switch.answer = ("done", "port 7 of alpine-1")
    assert passes(controller, 15) == "waiting_for_client"
    client.come()
    assert passes(controller, 30) == "back"
    assert client.hear() == [], "the question that has waited at the broker is answered, and nothing else is done"
    client.answer(command_id, AckStatus.COMPLETED)
    controller.settle()
    assert client.executed == [command_id]
    with controller.database.read() as tx:
        row = tx.db.execute(select(command)).mappings().one()
        assert (row["state"], row["late"]) == ("timed_out", "completed"), "late truth stands beside the verdict"


def test_a_client_that_is_there_and_was_not_heard_answers_the_question(
    tower: tuple[Controller, PlayedSwitch], client: PlayedClient
) -> None:
    controller, switch = tower
    controller.settle()
    passes(controller, 61)
    command_id = controller.order(client.uuid)
    controller.until(command_id, "published")
    client.hear()
    client.execute(command_id)
    client.go_down()
    controller.until(command_id, "awaiting_reconnect")
    assert [passes(controller, seconds) for seconds in (151, 91)] == ["cooling", "asking"]
    client.link.open()  # without its birth, as if the broker had lost it
    said = Ack(command_id, client.uuid, AckStatus.COMPLETED, datetime.now(UTC), client.boot_id)
    client.acks[command_id] = ack.encode(said)
    assert client.hear() == []
    assert passes(controller, 1) == "back"
    assert switch.cycles == []
