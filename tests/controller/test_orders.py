"""Whoever asks for a command, by whatever way: made once, as it was shown, or refused with a reason."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, insert, select, update

from infoscreen_reboot.contract.command import Action, parse
from infoscreen_reboot.controller import orders, selection
from infoscreen_reboot.controller.lifecycle import Limits
from infoscreen_reboot.controller.orders import Caller, House, Kind, Refused, Wish
from infoscreen_reboot.controller.safety import Amount, Budget
from infoscreen_reboot.controller.store import commands, fleet
from infoscreen_reboot.controller.store.database import Database, Transaction
from infoscreen_reboot.controller.store.facts import Policy
from infoscreen_reboot.controller.store.tables import batch, client, command, event, freeze, label, outbox

ANN, BOB = Caller("ann", "api"), Caller("bob", "cli")
REBOOT = Wish(Action.REBOOT_HOST, "player frozen")
HOUSE = House()


def uuid(number: int) -> str:
    return str(UUID(int=number))


def site(tx: Transaction, count: int, name: str = "alpine", first: int = 1, **columns: object) -> list[str]:
    """Accepted clients that are online, with a label."""
    uuids = [uuid(number) for number in range(first, first + count)]
    values = {"standing": "accepted", "is_online": True, "heard_at": tx.now} | columns
    tx.db.execute(insert(client), [{"uuid": each, **values} for each in uuids])
    tx.db.execute(insert(label), [{"client_uuid": each, "key": "site", "value": name} for each in uuids])
    return uuids


def count(tx: Transaction, table: object) -> int:
    return int(tx.db.execute(select(func.count()).select_from(table)).scalar_one())  # type: ignore[arg-type]


def refusal(tx: Transaction, wish: Wish, uuids: list[str], seen: str, typed: int | None, house: House = HOUSE) -> Kind:
    with pytest.raises(Refused) as caught:
        orders.order_many(tx, ANN, wish, uuids, seen, typed, house)
    assert (count(tx, batch), count(tx, command), count(tx, outbox)) == (0, 0, 0), "nothing is made"
    return caught.value.kind


def test_one_command_with_its_event_and_its_bytes(database: Database) -> None:
    with database.write() as tx:
        [one] = site(tx, 1)
        command_id, is_new = orders.order(tx, ANN, REBOOT, one, None, HOUSE)
        [letter] = commands.to_send(tx, 10)
        sent = parse(letter.payload)
        assert is_new and (sent.command_id, sent.client_uuid) == (command_id, one)
        assert (sent.requested_by, sent.reason, sent.action) == ("ann", "player frozen", Action.REBOOT_HOST)
        assert sent.expires_at - sent.issued_at == HOUSE.valid_for
        assert tx.db.execute(select(event.c.kind)).scalars().all() == ["queued"]


def test_the_same_request_again_makes_nothing_and_another_one_with_its_key_is_refused(database: Database) -> None:
    with database.write() as tx:
        [one, two] = site(tx, 2)
        own_id, with_key = str(uuid4()), replace(REBOOT, idempotency_key="k")
        first = orders.order(tx, ANN, REBOOT, one, own_id, HOUSE)
        assert first == (own_id, True)
        assert orders.order(tx, ANN, REBOOT, one, own_id, HOUSE) == (own_id, False)
        keyed, _ = orders.order(tx, ANN, with_key, two, None, HOUSE)
        assert orders.order(tx, ANN, with_key, two, None, HOUSE) == (keyed, False)
        for wish, of, command_id in ((REBOOT, two, own_id), (with_key, one, None)):
            with pytest.raises(Refused) as caught:
                orders.order(tx, ANN, wish, of, command_id, HOUSE)
            assert caught.value.kind is Kind.KEY_USED_OTHERWISE
        assert orders.order(tx, BOB, with_key, two, None, HOUSE)[1], "another caller's key is another key"


def test_the_second_caller_is_told_of_the_first_ones_command(database: Database) -> None:
    with database.write() as tx:
        [one] = site(tx, 1)
        first, _ = orders.order(tx, ANN, REBOOT, one, None, HOUSE)
        second, _ = orders.order(tx, BOB, REBOOT, one, None, HOUSE)
        row = tx.db.execute(select(command).where(command.c.id == second)).mappings().one()
        assert (row["state"], row["hold_rule"]) == ("blocked_safety", "one_open_command")
        assert first in row["hold_why"]


def test_two_callers_at_one_moment_never_pass_a_rule_together(database: Database) -> None:
    with database.write() as tx:
        [one] = site(tx, 1)
    barrier = threading.Barrier(4)
    states: list[str] = []

    def call(name: str) -> None:
        barrier.wait()
        with database.write() as tx:
            command_id, _ = orders.order(tx, Caller(name, "api"), REBOOT, one, None, HOUSE)
            states.append(tx.db.execute(select(command.c.state).where(command.c.id == command_id)).scalar_one())

    threads = [threading.Thread(target=call, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(states) == ["blocked_safety"] * 3 + ["queued"]


def test_many_from_a_preview(database: Database) -> None:
    with database.write() as tx:
        uuids = site(tx, 3)
        seen = orders.preview(tx, ANN, REBOOT, uuids, HOUSE)
        assert (seen.count, dict(seen.held)) == (3, {})
        batch_id, is_new = orders.order_many(tx, ANN, REBOOT, uuids, seen.hash, 3, HOUSE)
        assert is_new and count(tx, command) == 3
        assert commands.to_send(tx, 10) == [], "for five seconds it can be taken back"
        send_at = set(tx.db.execute(select(outbox.c.send_at)).scalars())
        assert send_at == {tx.now + orders.TAKE_BACK}
        assert tx.db.execute(select(batch.c.id)).scalar_one() == batch_id


def test_a_batch_is_made_once_for_each_key(database: Database) -> None:
    with database.write() as tx:
        uuids = site(tx, 2)
        wish = replace(REBOOT, idempotency_key="k")
        seen = orders.preview(tx, ANN, wish, uuids, HOUSE).hash
        first, _ = orders.order_many(tx, ANN, wish, uuids, seen, 2, HOUSE)
        assert orders.order_many(tx, ANN, wish, uuids, seen, 2, HOUSE) == (first, False)
        assert count(tx, batch) == 1


def test_if_anything_has_moved_since_the_preview_nothing_is_made(database: Database) -> None:
    with database.write() as tx:
        uuids = site(tx, 3)
        seen = orders.preview(tx, ANN, REBOOT, uuids, HOUSE).hash
        assert refusal(tx, REBOOT, uuids[:2], seen, 2) is Kind.PREVIEW_CHANGED
        for changed in ({"is_online": False}, {"standing": "retired"}, {"two_hosts_at": tx.now}):
            one = client.c.uuid == uuids[0]
            before = dict(tx.db.execute(select(client).where(one)).mappings().one())
            tx.db.execute(update(client).where(one).values(**changed))
            assert refusal(tx, REBOOT, uuids, seen, 3) is Kind.PREVIEW_CHANGED
            tx.db.execute(update(client).where(one).values(**before))
        tx.db.execute(insert(freeze).values(why="fair", made_by="bob", made_at=tx.now))
        assert refusal(tx, REBOOT, uuids, seen, 3) is Kind.PREVIEW_CHANGED


def test_the_count_has_to_be_typed_from_two_on(database: Database) -> None:
    with database.write() as tx:
        uuids = site(tx, 3)
        seen = orders.preview(tx, ANN, REBOOT, uuids, HOUSE).hash
        assert refusal(tx, REBOOT, uuids, seen, None) is Kind.COUNT_DIFFERS
        assert refusal(tx, REBOOT, uuids, seen, 2) is Kind.COUNT_DIFFERS
        one = orders.preview(tx, ANN, REBOOT, uuids[:1], HOUSE).hash
        assert orders.order_many(tx, ANN, REBOOT, uuids[:1], one, None, HOUSE)[1]


def test_a_client_that_does_not_exist_refuses_the_whole(database: Database) -> None:
    with database.write() as tx:
        uuids = site(tx, 2)
        seen = orders.preview(tx, ANN, REBOOT, uuids, HOUSE).hash
        assert refusal(tx, REBOOT, [*uuids, uuid(99)], seen, 2) is Kind.NO_SUCH_CLIENT


def test_what_is_held_is_shown_by_its_rule_and_left_out_or_waits(database: Database) -> None:
    with database.write() as tx:
        online, offline = site(tx, 2), site(tx, 1, first=10, is_online=False)
        seen = orders.preview(tx, ANN, REBOOT, [*online, *offline], HOUSE)
        assert (seen.count, {uuid: hold.rule for uuid, hold in seen.held.items()}) == (2, {offline[0]: "online"})
        waiting = replace(REBOOT, wait_until=tx.now + timedelta(hours=2))
        waits = orders.preview(tx, ANN, waiting, [*online, *offline], HOUSE)
        assert waits.count == 3
        orders.order_many(tx, ANN, waiting, [*online, *offline], waits.hash, 3, HOUSE)
        assert [row["client_uuid"] for row in commands.waiting(tx, 10)] == offline
        assert count(tx, outbox) == 2


def test_a_wait_has_an_end(database: Database) -> None:
    with database.write() as tx:
        [one] = site(tx, 1)
        for until in (tx.now, tx.now + timedelta(hours=25)):
            with pytest.raises(Refused) as caught:
                orders.order(tx, ANN, replace(REBOOT, wait_until=until), one, None, HOUSE)
            assert caught.value.kind is Kind.BAD_WAIT


def test_the_last_screen_of_a_site_stays(database: Database) -> None:
    house = House(policy=Policy(budgets=(Budget(("site",), min_available=Amount(1)),)))
    with database.write() as tx:
        uuids = [*site(tx, 2, "alpine"), *site(tx, 2, "plain", first=10)]
        seen = orders.preview(tx, ANN, REBOOT, uuids, house)
        assert seen.count == 2 and {hold.rule for hold in seen.held.values()} == {"budget"}
        orders.order_many(tx, ANN, REBOOT, uuids, seen.hash, 2, house)
        again = orders.preview(tx, BOB, REBOOT, uuids, house)
        assert again.count == 0


def test_a_selector_means_accepted_clients_only(database: Database) -> None:
    with database.write() as tx:
        alpine, _ = site(tx, 2, "alpine"), site(tx, 1, "plain", first=10)
        site(tx, 1, "alpine", first=20, standing="unknown")
        assert orders.select_clients(tx, "site=alpine") == alpine
        with pytest.raises(Refused) as caught:
            orders.select_clients(tx, "site=<")
        assert caught.value.kind is Kind.BAD_SELECTOR


def test_the_deadlines_of_a_label_are_those_of_its_commands(database: Database) -> None:
    slow = selection.parse("site=alpine"), {"back": 600.0}
    slower = selection.parse("room=bar"), {"back": 900.0, "last_ack": 300.0}
    house = House(deadlines=(slow, slower))
    with database.write() as tx:
        uuids = site(tx, 3)
        fleet.change_client(tx, uuids[1], {}, {"room": "bar"})
        fleet.change_client(tx, uuids[2], {}, {"site": None})
        for number, limits in enumerate(({"back": 600.0}, {"back": 900.0, "last_ack": 300.0}, {})):
            made, _ = orders.order(tx, ANN, REBOOT, uuids[number], None, house)
            stored = tx.db.execute(select(command.c.limits).where(command.c.id == made)).scalar_one()
            assert (stored or {}) == limits
            assert commands.limits_of(stored, Limits()).back.total_seconds() == limits.get("back", 150)


def test_a_plan_has_a_command_for_each_client_that_waits_for_its_turn_or_says_why_it_never_goes(
    database: Database,
) -> None:
    later = timedelta(minutes=20)
    with database.write() as tx:
        first, second, third = site(tx, 3)
        tx.db.execute(update(client).where(client.c.uuid == third).values(two_hosts_at=tx.now))
        wish = replace(REBOOT, wait_until=tx.now + timedelta(hours=2), idempotency_key="nightly/2026-11-27")
        turns = {first: tx.now, second: tx.now + later, third: tx.now}
        batch_id = orders.order_planned(tx, Caller("nightly", "schedule"), wish, turns, HOUSE)
        rows = {row.client_uuid: row for row in tx.db.execute(select(command).where(command.c.batch_id == batch_id))}
        assert {uuid: (row.state, row.hold_rule) for uuid, row in rows.items()} == {
            first: ("queued", None),
            second: ("queued", "turn"),
            third: ("blocked_safety", "one_host"),
        }
        assert rows[second].hold_opens_at == tx.now + later
        later_on = replace(tx, now=tx.now + later)
        assert commands.waiting(tx, 10) == []
        assert [row["client_uuid"] for row in commands.waiting(later_on, 10)] == [second]
