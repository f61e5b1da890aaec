"""Two callers at one moment, and the rules from the order to the screen: nobody passes a rule together with another."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from mmap import mmap

import pytest
from sqlalchemy import insert, select, update

from infoscreen_reboot.contract.ack import AckStatus, ErrorCode
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.contract.telemetry import PresenceReason
from infoscreen_reboot.controller import engine as engines
from infoscreen_reboot.controller import orders
from infoscreen_reboot.controller.engine import Orders
from infoscreen_reboot.controller.orders import Caller, House, Kind, Refused, Wish
from infoscreen_reboot.controller.safety import Amount, Budget
from infoscreen_reboot.controller.store import database as databases
from infoscreen_reboot.controller.store import fleet
from infoscreen_reboot.controller.store.database import Database, Transaction
from infoscreen_reboot.controller.store.facts import Policy
from infoscreen_reboot.controller.store.tables import command, event, label
from infoscreen_reboot.mqtt.messages import Message
from tests.broker.conftest import Broker
from tests.controller.played import Controller, PlayedClient, aged, forked, without_waits
from tests.controller.test_ingest import HEALTH
from tests.controller.test_orders import ANN, REBOOT, site, uuid

CALLERS = 3
# How long each caller keeps its transaction open, for the others to come into it: if they cannot, and if they can.
OPEN_S, MET_S = 0.15, 60
ONE_OF_A_SITE = Budget(("site",), min_available=Amount(1))
SHUTDOWN = Wish(Action.SHUTDOWN_HOST, someone_is_there=True)
BOSS = Caller("boss", "test", may_shut_down=True)


# --- Two at one moment


def at_one_moment(database: Database, work: Callable[[Database, int, Callable[[], None]], bool], open_s: float) -> int:
    """Runs `work` in as many processes as there are callers, all at once; returns how many of them said yes.

    It calls what it is given in its transaction: that waits until all others are as far, or as long as is said.
    """
    address = database.engine.url.render_as_string(hide_password=False)
    database.close()  # no child may share a connection
    shared = mmap(-1, 2 * CALLERS)
    start = time.monotonic() + 0.3

    def call(number: int) -> None:
        os.closerange(3, 1024)
        mine = Database(address)
        with mine.read():
            pass  # connected, and all that is made at the first time is made
        time.sleep(max(0.0, start - time.monotonic()))
        shared[number] = 1 + work(mine, number, lambda: meet(number))

    def meet(number: int) -> None:
        shared[CALLERS + number] = 1
        until = time.monotonic() + open_s
        while not all(shared[CALLERS:]) and time.monotonic() < until:
            time.sleep(0.005)

    for pid in [forked(lambda number=number: call(number)) for number in range(CALLERS)]:  # type: ignore[misc]
        assert os.waitpid(pid, 0)[1] == 0, "a caller failed"
    answers = [shared[number] for number in range(CALLERS)]
    assert all(answers)
    return answers.count(2)


def prepare(tx: Transaction, rule: str) -> tuple[list[str], House]:
    """Who is ordered by each caller, and by which settings."""
    match rule:
        case "one_open_command":
            return site(tx, 1) * CALLERS, House()
        case "lockout":
            [one] = site(tx, 1)
            for number in (1, 2):
                command_id, _ = orders.order(tx, ANN, REBOOT, one, None, House())
                row = {"state": "completed", "rank": 5, "started_at": tx.now, "ended_at": tx.now, "due_at": None}
                row |= {"started_boot_id": uuid(number), "ended_boot_id": uuid(number + 1)}
                tx.db.execute(update(command).where(command.c.id == command_id).values(**row))
            return [one] * CALLERS, House()
        case "budget":
            return site(tx, CALLERS), House(policy=Policy(budgets=(Budget(("site",), max_unavailable=Amount(1)),)))
        case "fleet_cap":
            return site(tx, CALLERS), House(policy=Policy(fleet_cap=1))
    raise AssertionError(rule)


def passing(database: Database, rule: str, open_s: float) -> int:
    """How many of the callers pass."""
    with database.write() as tx:
        uuids, house = prepare(tx, rule)

    def order(mine: Database, number: int, meet: Callable[[], None]) -> bool:
        with mine.write() as tx:
            command_id, _ = orders.order(tx, Caller(f"caller {number}", "api"), REBOOT, uuids[number], None, house)
            state = tx.db.execute(select(command.c.state).where(command.c.id == command_id)).scalar_one()
            meet()
        return bool(state == "queued")

    return at_one_moment(database, order, open_s)


RULES = ("one_open_command", "lockout", "budget", "fleet_cap")


@pytest.mark.parametrize("rule", RULES)
def test_callers_in_processes_of_their_own_never_pass_a_rule_together(database: Database, rule: str) -> None:
    assert passing(database, rule, OPEN_S) == 1


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
@pytest.mark.parametrize("rule", RULES)
def test_without_the_writers_lock_they_would(database: Database, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the test before can fail. SQLite has no second writer, whatever we do."""
    monkeypatch.setattr(databases, "_WRITER", "pg_backend_pid()")  # a lock of its own for each
    monkeypatch.setattr(databases, "_IDLE_S", 2 * MET_S)
    assert passing(database, rule, MET_S) == CALLERS


def test_two_bulks_for_one_site_never_take_its_last_screen(database: Database) -> None:
    """Pitfall 44: one site with two screens, a bulk from each of several instances, each with a preview of its own."""
    house = House(policy=Policy(budgets=(ONE_OF_A_SITE,)))
    with database.write() as tx:
        uuids = site(tx, 2)
        seen = [orders.preview(tx, ANN, REBOOT, [uuids[number % 2]], house).hash for number in range(CALLERS)]

    def order(mine: Database, number: int, meet: Callable[[], None]) -> bool:
        try:
            with mine.write() as tx:
                caller = Caller(f"caller {number}", "api")
                orders.order_many(tx, caller, REBOOT, [uuids[number % 2]], seen[number], None, house)
                meet()
        except Refused as refused:
            assert refused.kind is Kind.PREVIEW_CHANGED  # 412
            return False
        return True

    assert at_one_moment(database, order, OPEN_S) == 1
    with database.read() as tx:
        assert len(tx.db.execute(select(command.c.id)).all()) == 1, "nothing is made of what was refused"


# --- From the order to the screen


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    without_waits(monkeypatch)


class Fleet:
    """Accepted clients of one site, played at the broker, and a controller with these rules."""

    def __init__(self, database: Database, broker: Broker, count: int, policy: Policy) -> None:
        self.database = database
        self.house = House(policy=policy)
        self.controller = Controller(database, broker, Orders(policy=policy, accepts_all=True))
        self.clients = [PlayedClient(broker, uuid(number + 1)) for number in range(count)]
        for each in self.clients:
            each.come()
        self.controller.settle()
        with database.write() as tx:
            tx.db.execute(
                insert(label), [{"client_uuid": each.uuid, "key": "site", "value": "alpine"} for each in self.clients]
            )

    def end(self) -> None:
        for each in self.clients:
            each.link.end()
        self.controller.consumer.end()

    def order(self, number: int, wish: Wish = REBOOT) -> str:
        with self.database.write() as tx:
            if wish.wait_until is not None:
                wish = replace(wish, wait_until=tx.now + timedelta(hours=2))
            command_id, _ = orders.order(tx, BOSS, wish, self.clients[number].uuid, None, self.house)
        return command_id

    def row(self, command_id: str) -> dict[str, object]:
        with self.database.read() as tx:
            return dict(tx.db.execute(select(command).where(command.c.id == command_id)).mappings().one())

    def hears(self, number: int) -> list[str]:
        """What this client gets, after the engine has had the time to send it."""
        found: list[str] = []
        for _ in range(2):
            self.controller.settle()
            found += self.clients[number].hear()
        return found

    def reboot(self, number: int, command_id: str) -> None:
        played = self.clients[number]
        played.execute(command_id)
        played.go_down()
        self.controller.until(command_id, "awaiting_reconnect")
        played.come()
        played.answer(command_id, AckStatus.COMPLETED)
        self.controller.until(command_id, "completed")
        self.controller.settle()


MakeFleet = Callable[..., Fleet]
WAITS = replace(REBOOT, wait_until=datetime.now(UTC))


@pytest.fixture
def make_fleet(database: Database, broker: Broker) -> Iterator[MakeFleet]:
    made: list[Fleet] = []

    def make(count: int, policy: Policy | None = None) -> Fleet:
        made.append(Fleet(database, broker, count, policy or Policy()))
        return made[-1]

    yield make
    for each in made:
        each.end()


def test_the_lockout_ends_when_the_first_of_three_reboots_is_15_minutes_old(make_fleet: MakeFleet) -> None:
    fleet_of_one = make_fleet(1)
    for _ in range(3):
        command_id = fleet_of_one.order(0)
        assert fleet_of_one.hears(0) == [command_id]
        fleet_of_one.reboot(0, command_id)
    refused = fleet_of_one.row(fleet_of_one.order(0))
    assert (refused["state"], refused["error_code"]) == ("blocked_safety", "lockout")
    waits = fleet_of_one.order(0, WAITS)
    assert fleet_of_one.hears(0) == []
    assert (fleet_of_one.row(waits)["state"], fleet_of_one.row(waits)["hold_rule"]) == ("queued", "lockout")
    aged(fleet_of_one.database, timedelta(minutes=15))
    assert fleet_of_one.hears(0) == [waits]


def test_the_clients_own_count_is_respected(make_fleet: MakeFleet) -> None:
    fleet_of_one = make_fleet(1)
    played = fleet_of_one.clients[0]
    health = HEALTH | {"client_uuid": played.uuid}
    health["lockout"] = {"used": 3, "limit": 3, "window_s": 900, "unlocks_at": "2999-01-01T00:00:00Z"}
    played.give(Message(played.topics.health, json.dumps(health).encode()))
    fleet_of_one.controller.settle()
    refused = fleet_of_one.row(fleet_of_one.order(0))
    assert (refused["state"], refused["error_code"]) == ("blocked_safety", "lockout_of_client")
    assert fleet_of_one.hears(0) == []


def test_one_screen_of_two_stays_and_the_other_one_waits_until_it_is_back(make_fleet: MakeFleet) -> None:
    """Pitfall 44."""
    pair = make_fleet(2, Policy(budgets=(ONE_OF_A_SITE,)))
    first, second = pair.order(0, WAITS), pair.order(1, WAITS)
    assert pair.hears(0) == [first]
    pair.clients[0].execute(first)
    pair.clients[0].go_down()
    pair.controller.until(first, "awaiting_reconnect")
    assert pair.hears(1) == [] and pair.row(second)["hold_rule"] == "budget"
    pair.clients[0].come()
    assert pair.hears(1) == [], "it is back, and its command has not ended"
    pair.clients[0].answer(first, AckStatus.COMPLETED)
    pair.controller.until(first, "completed")
    assert pair.hears(1) == [second]


def test_a_screen_that_is_being_shut_down_counts_before_it_has_left(make_fleet: MakeFleet) -> None:
    """Its `completed` comes before its farewell: in between it is online and has no open command."""
    pair = make_fleet(2, Policy(budgets=(ONE_OF_A_SITE,)))
    first = pair.order(0, SHUTDOWN)
    assert pair.hears(0) == [first]
    pair.clients[0].execute(first)
    pair.clients[0].answer(first, AckStatus.COMPLETED)
    pair.controller.until(first, "completed")
    refused = pair.row(pair.order(1))
    assert (refused["state"], refused["error_code"]) == ("blocked_safety", "budget")
    pair.clients[0].say(PresenceReason.SHUTTING_DOWN)
    pair.controller.settle()
    assert pair.row(pair.order(1))["error_code"] == "budget"


def test_the_second_command_of_a_client_goes_when_the_first_has_ended(make_fleet: MakeFleet) -> None:
    """Pitfall 7. Two that wait are given out one after the other, in the order in which they were made."""
    fleet_of_one = make_fleet(1)
    first, second = fleet_of_one.order(0), fleet_of_one.order(0, WAITS)
    aged(fleet_of_one.database, timedelta(seconds=1))  # those of one millisecond have no order
    third = fleet_of_one.order(0, WAITS)
    assert fleet_of_one.hears(0) == [first]
    for ended, following in ((first, second), (second, third)):
        fleet_of_one.clients[0].answer(ended, AckStatus.FAILED, ErrorCode.INHIBITED)
        fleet_of_one.controller.until(ended, "failed")
        assert fleet_of_one.hears(0) == [following]


def held_batch(three: Fleet, wish: Wish = REBOOT) -> list[str]:
    """Three commands that had their yes, and a freeze before they were sent."""
    uuids = [each.uuid for each in three.clients]
    with three.database.write() as tx:
        seen = orders.preview(tx, ANN, wish, uuids, three.house)
        batch_id, _ = orders.order_many(tx, ANN, wish, uuids, seen.hash, 3, three.house)
    with three.database.write() as tx:
        fleet.begin_freeze(tx, "fair", "bob", tx.now + timedelta(days=1))
    aged(three.database, orders.TAKE_BACK)
    three.controller.settle()
    with three.database.read() as tx:
        rows = tx.db.execute(select(command).where(command.c.batch_id == batch_id).order_by(command.c.client_uuid))
        found = list(rows.mappings())
        assert [(row["state"], row["hold_rule"]) for row in found] == [("queued", "freeze")] * 3
        told = tx.db.execute(select(event.c.kind).where(event.c.kind == "held")).all()
        assert len(told) == 3
    assert all(each.hear() == [] for each in three.clients)
    return [row["id"] for row in found]


def test_a_freeze_that_begins_in_the_middle_of_a_batch_holds_what_is_not_sent(make_fleet: MakeFleet) -> None:
    """Pitfall 37. It is ended before the time that was said."""
    three = make_fleet(3)
    ids = held_batch(three)
    with three.database.write() as tx:
        assert fleet.end_freeze(tx, 1, "bob")
    for number, command_id in enumerate(ids):
        assert three.hears(number) == [command_id]


def test_what_a_freeze_holds_for_too_long_expires_and_is_never_sent(make_fleet: MakeFleet) -> None:
    three = make_fleet(3)
    ids = held_batch(three)
    aged(three.database, timedelta(minutes=5))
    for command_id in ids:
        three.controller.until(command_id, "expired")
    with three.database.write() as tx:
        fleet.end_freeze(tx, 1, "bob")
    assert all(three.hears(number) == [] for number in range(3))


def test_what_was_sent_before_a_freeze_goes_on(make_fleet: MakeFleet) -> None:
    fleet_of_one = make_fleet(1)
    command_id = fleet_of_one.order(0)
    assert fleet_of_one.hears(0) == [command_id]
    with fleet_of_one.database.write() as tx:
        fleet.begin_freeze(tx, "fair", "bob", None)
    fleet_of_one.reboot(0, command_id)


def test_those_that_wait_behind_a_full_batch_are_asked_as_well(
    make_fleet: MakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest ones wait for clients that are offline, and the last one only for a freeze."""
    four = make_fleet(4)
    monkeypatch.setattr(engines, "BATCH", 2)
    for number in range(3):
        four.clients[number].say(PresenceReason.STOPPED)
    four.controller.settle()
    with four.database.write() as tx:
        fleet.begin_freeze(tx, "fair", "bob", None)
    ids = [four.order(number, WAITS) for number in range(4)]
    with four.database.write() as tx:
        assert fleet.end_freeze(tx, 1, "bob")
    assert four.hears(3) == [ids[3]]
    assert [four.row(each)["state"] for each in ids[:3]] == ["queued"] * 3
