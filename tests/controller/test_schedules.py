"""Schedules in virtual time: each night once, whoever is killed, late, edited or in two of them, and its report."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, insert, select, update
from sqlalchemy.event import listen, remove

from infoscreen_reboot.contract.ack import AckStatus
from infoscreen_reboot.controller import orders, schedules
from infoscreen_reboot.controller.lifecycle import Acked, Fact, Limits, Overdue, Seen, Sent, Step
from infoscreen_reboot.controller.orders import Caller, House, Refused
from infoscreen_reboot.controller.schedules import Schedules
from infoscreen_reboot.controller.store import commands, fleet, retention, sites
from infoscreen_reboot.controller.store import schedules as store
from infoscreen_reboot.controller.store.database import Database, Row, Transaction
from infoscreen_reboot.controller.store.tables import (
    audit,
    batch,
    client,
    command,
    label,
    notice,
    schedule,
    schedule_member,
    schedule_night,
    schedule_skip,
)

BERLIN, NUUK, KOLKATA = "Europe/Berlin", "America/Nuuk", "Asia/Kolkata"
ZONES = (BERLIN, "America/New_York", "Australia/Lord_Howe", NUUK, KOLKATA, "UTC")
OLD, NEW = str(UUID(int=1, version=4)), str(UUID(int=2, version=4))
HOUR = timedelta(hours=1)
NIGHTLY = {
    "name": "nightly",
    "selector": "site",
    "action": "reboot_host",
    "rule": "FREQ=DAILY",
    "start": "03:00",
    "zone": None,
    "window_min": 120,
    "spread_min": 0,
    "back_by_min": 180,
    "anchor": "2026-01-01",
}


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


class World:
    """A database whose clock says what a test wants."""

    def __init__(self, database: Database, now: datetime) -> None:
        self.database = database
        self.now = now
        self.plan = Schedules(House(), Limits())

    def restart(self) -> None:
        self.plan = Schedules(House(), Limits())

    def add(self, *zones: str | None, site: str = "alpine", **columns: Any) -> list[str]:
        """Clients that are online, each with its zone."""
        with self.database.write() as tx:
            first = int(tx.db.execute(select(func.count()).select_from(client)).scalar_one()) + 1
            uuids = [str(UUID(int=first + number)) for number in range(len(zones))]
            for uuid, zone in zip(uuids, zones, strict=True):
                values = {"standing": "accepted", "is_online": True, "heard_at": self.now} | columns
                tx.db.execute(insert(client).values(uuid=uuid, **values))
                labels = {"site": site} | ({"tz": zone} if zone else {})
                tx.db.execute(insert(label), [{"client_uuid": uuid, "key": k, "value": v} for k, v in labels.items()])
        return uuids

    def write(self, tx: Transaction) -> Transaction:
        return replace(tx, now=self.now)

    def schedule(self, **more: Any) -> str:
        with self.database.write() as tx:
            return store.create(self.write(tx), NIGHTLY | more, "ann")

    def look(self, moment: str | datetime | None = None) -> None:
        if moment is not None:
            self.now = at(moment) if isinstance(moment, str) else moment
        with self.database.write() as tx:
            self.plan.step(self.write(tx), [])

    def learn(self, uuid: str, *facts: Fact) -> None:
        with self.database.write() as tx:
            newest = select(command.c.id).where(command.c.client_uuid == uuid).order_by(command.c.created_at.desc())
            made = tx.db.execute(newest.limit(1)).scalar_one()
            commands.learn(self.write(tx), [(made, fact) for fact in facts], Limits())

    def gone(self) -> list[Fact]:
        return [
            Sent(self.now),
            Acked(self.now, AckStatus.ACCEPTED, OLD),
            Acked(self.now, AckStatus.EXECUTION_STARTED, OLD),
            Seen(self.now, False, OLD),
        ]

    def reboot(self, *uuids: str) -> None:
        for uuid in uuids:
            self.learn(uuid, *self.gone(), Seen(self.now, True, NEW), Acked(self.now, AckStatus.COMPLETED, NEW))

    def rows(self, table: Any) -> Sequence[Row]:
        with self.database.read() as tx:
            return tx.db.execute(select(table)).mappings().all()

    def nights(self) -> list[tuple[str, str, str]]:
        with self.database.read() as tx:
            query = select(schedule_night).order_by(schedule_night.c.starts_at, schedule_night.c.zone)
            return [(row.occurrence, row.zone, row.state) for row in tx.db.execute(query)]

    def report(self, number: int = 0) -> dict[str, Any]:
        with self.database.read() as tx:
            query = select(schedule_night.c.report).order_by(schedule_night.c.starts_at)
            return dict(tx.db.execute(query).scalars().all()[number])

    def told(self) -> list[tuple[str, str]]:
        return [(row["kind"], row["words"]) for row in self.rows(notice)]

    def ordered(self) -> list[tuple[str, datetime]]:
        with self.database.read() as tx:
            query = select(command.c.client_uuid, command.c.created_at).order_by(command.c.created_at, command.c.id)
            return [(row.client_uuid, row.created_at) for row in tx.db.execute(query)]


@pytest.fixture
def world(database: Database) -> World:
    return World(database, at("2026-06-01T12:00"))


def test_a_night_from_its_begin_to_its_report(world: World) -> None:
    first, second = world.add(BERLIN, BERLIN)
    world.schedule()
    world.look("2026-06-02T00:59:59")
    assert world.nights() == []
    world.look("2026-06-02T01:00:01")  # 03:00 in Berlin
    assert world.nights() == [("2026-06-02", BERLIN, "running")]
    [row] = world.rows(batch)
    assert (row["via"], row["created_by"], row["reason"]) == ("schedule", "schedule nightly", "schedule nightly")
    assert row["wait_until"] == at("2026-06-02T03:00")
    [line] = world.rows(audit)
    assert (line["who"], line["target"], line["content"]["clients"]) == ("schedule nightly", row["id"], 2)
    world.reboot(first)
    world.look("2026-06-02T01:10:00")
    assert world.nights() == [("2026-06-02", BERLIN, "running")]
    world.reboot(second)
    world.look("2026-06-02T01:10:02")
    assert world.nights() == [("2026-06-02", BERLIN, "ended")]
    assert world.report()["counts"]["back"] == 2
    night = "Schedule nightly, night of 2026-06-02 in Europe/Berlin"
    assert world.told() == [
        ("started", f"{night} has begun: 2 clients, all back by 06:00 there"),
        ("finished", f"{night}: 2 back"),
    ]


def test_a_freeze_holds_a_night_until_it_ends_or_the_window_does(world: World) -> None:
    first, second = world.add(BERLIN, BERLIN)
    world.schedule()
    world.now = at("2026-06-02T00:30")
    with world.database.write() as tx:
        fleet.begin_freeze(world.write(tx), "trade fair", "ann", None)
    world.look("2026-06-02T01:00")
    assert [(row["state"], row["hold_rule"]) for row in world.rows(command)] == [("queued", "freeze")] * 2
    world.now = at("2026-06-02T03:00")
    for uuid in (first, second):
        world.learn(uuid, Overdue(world.now, Step.SEND))
    world.look("2026-06-02T03:00:02")
    assert [line["why"] for line in world.report()["lines"]] == ["frozen by ann: trade fair"] * 2
    assert world.report()["counts"]["skipped"] == 2


def test_one_batch_for_each_zone_at_its_own_time(world: World) -> None:
    world.add(BERLIN, KOLKATA, "America/New_York", None, None)
    with world.database.write() as tx:
        sites.put(tx, "alpine", {"zone": NUUK})
    world.schedule()
    for step in range(2 * 37 + 1):
        world.look(at("2026-06-01T12:00") + step * timedelta(minutes=30))
    expected = [
        ("2026-06-02", KOLKATA, at("2026-06-01T21:30")),
        ("2026-06-02", BERLIN, at("2026-06-02T01:00")),
        ("2026-06-02", NUUK, at("2026-06-02T04:00")),
        ("2026-06-02", "America/New_York", at("2026-06-02T07:00")),
        ("2026-06-03", KOLKATA, at("2026-06-02T21:30")),
        ("2026-06-03", BERLIN, at("2026-06-03T01:00")),
    ]
    rows = sorted(world.rows(schedule_night), key=_by_start)
    assert [(row["occurrence"], row["zone"], row["starts_at"]) for row in rows][:6] == expected
    assert len(world.rows(batch)) == len(rows)


def _by_start(row: Row) -> datetime:
    return row["starts_at"]  # type: ignore[no-any-return]


# The days around each clock change of a year in these zones. (365 days from 2026-01-01 take some minutes, and pass.)
CHANGES = ("2026-03-06", "2026-03-27", "2026-04-03", "2026-10-02", "2026-10-23", "2026-10-30")


@pytest.mark.parametrize(("first", "days"), [(first, 4) for first in CHANGES])
def test_every_night_once_and_none_twice_whatever_the_clocks_do(world: World, first: str, days: int) -> None:
    """Looked at every two hours. The process is a new one each day, and each third day the controller's clock is set
    back by an hour."""
    world.now = at(f"{first}T12:00")
    world.add(*ZONES)
    world.schedule(start="02:30")
    begin, made = world.now, list[str]()
    for day in range(days):
        world.restart()
        with world.database.write() as tx:
            for minutes in (*range(0, 24 * 60, 115), *([23 * 60] if day % 3 == 0 else [])):
                world.now = begin + timedelta(days=day, minutes=minutes)
                world.plan.step(world.write(tx), [])
                opened = [row.id for row in tx.db.execute(select(command.c.id).where(command.c.rank < 5))]
                facts = [*world.gone(), Seen(world.now, True, NEW), Acked(world.now, AckStatus.COMPLETED, NEW)]
                commands.learn(world.write(tx), [(each, fact) for each in opened for fact in facts], Limits())
                made += opened
    for zone in ZONES:
        nights = [date.fromisoformat(occurrence) for occurrence, of, _ in world.nights() if of == zone]
        assert nights == [nights[0] + timedelta(days=number) for number in range(len(nights))]
        assert days - 1 <= len(nights) <= days
    assert {state for _, _, state in world.nights()[:-6]} == {"ended"}
    assert len(world.nights()) == len(made) == len(set(made))
    for uuid in {uuid for uuid, _ in world.ordered()}:
        times = [moment for each, moment in world.ordered() if each == uuid]
        assert all(later - earlier > timedelta(hours=20) for earlier, later in pairwise(times))


@pytest.mark.parametrize(
    ("back_at", "states"),
    [
        ("2026-06-02T01:20", ["running"]),
        ("2026-06-02T03:00", ["missed"]),
        ("2026-06-04T02:00", ["missed", "missed", "running"]),
    ],
)
def test_a_controller_that_was_down_runs_the_night_late_or_misses_it(
    world: World, back_at: str, states: list[str]
) -> None:
    world.add(BERLIN)
    world.schedule(spread_min=60)
    world.look()
    world.restart()
    world.look(back_at)
    world.look(at(back_at) + timedelta(minutes=5))
    assert [state for _, _, state in world.nights()] == states
    missed = [words for kind, words in world.told() if kind == "missed"]
    assert len(missed) == (1 if "missed" in states else 0)
    if states == ["missed", "missed", "running"]:
        assert missed == [
            "Schedule nightly: 2 nights from 2026-06-02 to 2026-06-03 in Europe/Berlin were missed, "
            "because the controller was not at work, or did not hear the broker"
        ]
    for row in world.rows(command):
        assert at(back_at) <= row["not_before"] < at(back_at) + HOUR


def test_a_client_that_moves_to_another_zone_in_the_night_is_rebooted_once(world: World) -> None:
    one, other = world.add(KOLKATA, BERLIN)
    world.schedule()
    world.look("2026-06-01T21:30")
    world.reboot(one)
    with world.database.write() as tx:
        tx.db.execute(update(label).where(label.c.client_uuid == one, label.c.key == "tz").values(value=BERLIN))
    world.look("2026-06-02T01:00")
    assert [uuid for uuid, _ in world.ordered()] == [one, other]
    assert {row["client_uuid"] for row in world.rows(schedule_member)} == {one, other}


def test_a_client_in_two_schedules_of_one_night_is_rebooted_once(world: World) -> None:
    one, other = world.add(BERLIN, BERLIN)
    world.schedule()
    with world.database.write() as tx:
        tx.db.execute(insert(label).values(client_uuid=one, key="model", value="pi5"))
    world.schedule(name="pi5", selector="model=pi5", start="04:00")
    world.look("2026-06-02T01:00")
    world.reboot(one, other)
    world.look("2026-06-02T01:01")
    world.look("2026-06-02T02:00")
    world.look("2026-06-02T02:01")
    assert sorted(uuid for uuid, _ in world.ordered()) == [one, other]
    assert world.report(1)["lines"][0]["why"] == "it is in the schedule nightly tonight"
    assert world.report(1)["counts"] == {"not_back": 0, "back_late": 0, "skipped": 1, "mock": 0, "back": 0}


def test_a_zone_that_tzdata_does_not_have_leaves_its_clients_out_by_name(world: World) -> None:
    lost, fine = world.add("Mars/Base", BERLIN)
    world.schedule()
    for hour in range(30):
        world.look(at("2026-06-01T12:00") + hour * HOUR)
    assert ("2026-06-02", "Mars/Base", "missed") in world.nights()
    [row] = [row for row in world.rows(schedule_night) if row["zone"] == "Mars/Base"]
    [line] = row["report"]["lines"]
    assert (line["client_uuid"], line["outcome"]) == (lost, "skipped")
    assert line["why"] == row["words"] == "the system's tzdata has no zone 'Mars/Base'"
    assert [uuid for uuid, _ in world.ordered()] == [fine]
    assert [kind for kind, _ in world.told()] == ["started", "missed"]


def test_a_fixed_zone_that_has_vanished_is_a_missed_night_and_no_crash(world: World) -> None:
    world.add(BERLIN)
    world.schedule(zone="Atlantis/Port")
    world.look("2026-06-02T03:00")
    assert world.nights() == [("2026-06-02", "Atlantis/Port", "missed")]
    assert world.ordered() == []


def test_a_rule_of_another_version_is_left_alone_and_the_others_go_on(world: World) -> None:
    world.add(BERLIN)
    world.schedule(name="newer", rule="FREQ=YEARLY")
    world.schedule()
    world.look("2026-06-02T01:00")
    assert len(world.nights()) == 1


def test_an_edit_does_not_touch_the_night_that_runs_and_starts_none_for_the_past(world: World) -> None:
    [one] = world.add(BERLIN)
    made = world.schedule()
    world.look("2026-06-02T01:00")
    world.now = at("2026-06-02T01:30")
    for start in ("02:00", "04:00"):  # before it, and later in the same night
        with world.database.write() as tx:
            store.change(world.write(tx), made, {"start": start}, "ann")
        world.look("2026-06-02T02:00")
        assert world.nights() == [("2026-06-02", BERLIN, "running")]
    world.reboot(one)
    world.look("2026-06-02T02:05")
    assert world.nights() == [("2026-06-02", BERLIN, "ended")]
    world.look("2026-06-03T02:00")
    assert world.nights()[1:] == [("2026-06-03", BERLIN, "running")]


def test_a_new_schedule_starts_with_its_next_night(world: World) -> None:
    world.add(BERLIN)
    world.now = at("2026-06-02T01:30")  # 03:30 in Berlin
    world.schedule()
    world.look()
    world.look("2026-06-02T02:00")
    assert world.nights() == []


def test_a_zone_in_which_it_is_still_yesterday_has_its_night(world: World) -> None:
    world.add("America/New_York", BERLIN)
    world.now = at("2026-06-02T01:30")  # 21:30 of the day before in New York
    world.schedule(start="22:00", anchor="2026-06-02")
    world.look("2026-06-02T02:00")
    assert world.nights() == [("2026-06-01", "America/New_York", "running")]


def test_a_schedule_that_is_deleted_ends_the_night_that_runs_and_begins_no_other(world: World) -> None:
    [one] = world.add(BERLIN)
    made = world.schedule()
    world.look("2026-06-02T01:00")
    with world.database.write() as tx:
        store.remove(world.write(tx), made, "ann")
    world.reboot(one)
    world.look("2026-06-02T01:05")
    world.look("2026-06-03T01:00")
    assert world.nights() == [("2026-06-02", BERLIN, "ended")]
    world.schedule()  # the name is free again


def test_pause_and_skip_leave_nights_out_and_say_who_it_was(world: World) -> None:
    world.add(BERLIN)
    made = world.schedule()
    with world.database.write() as tx:
        assert store.skip(world.write(tx), made, date(2026, 6, 2), "bob")
        assert not store.skip(world.write(tx), made, date(2026, 6, 2), "bob")
    world.look("2026-06-02T01:00")
    with world.database.write() as tx:
        assert store.unskip(tx, made, date(2026, 6, 2)) and not store.unskip(tx, made, date(2026, 6, 2))
        store.pause(world.write(tx), made, "ann")
    world.look("2026-06-03T01:00")
    with world.database.write() as tx:
        store.pause(world.write(tx), made, None)
    world.look("2026-06-03T01:30")
    assert [(row["occurrence"], row["state"], row["words"]) for row in world.rows(schedule_night)] == [
        ("2026-06-02", "skipped", "skipped by bob"),
        ("2026-06-03", "skipped", "paused by ann"),
    ]
    world.look("2026-06-04T01:00")
    assert world.nights()[-1] == ("2026-06-04", BERLIN, "running")


def test_who_is_missing_has_until_the_time_that_was_said_and_late_truth_changes_no_report(world: World) -> None:
    early, late, never = world.add(BERLIN, BERLIN, BERLIN)
    world.schedule()
    world.look("2026-06-02T01:00")
    world.reboot(early)
    for uuid in (late, never):
        world.learn(uuid, *world.gone(), Overdue(world.now + timedelta(minutes=3), Step.BACK))
    world.look("2026-06-02T01:30")
    assert world.nights() == [("2026-06-02", BERLIN, "running")], "they may still come"
    world.now = at("2026-06-02T02:00")
    world.learn(late, Acked(world.now, AckStatus.COMPLETED, NEW))
    world.look("2026-06-02T03:59:59")
    assert world.nights() == [("2026-06-02", BERLIN, "running")]
    world.look("2026-06-02T04:00:00")
    kept = world.report()
    assert {each["client_uuid"]: each["outcome"] for each in kept["lines"]} == {
        early: "back",
        late: "back_late",
        never: "not_back",
    }
    assert world.told()[-1][1].endswith("1 not back, 1 back late, 1 back")
    assert world.rows(notice)[-1]["content"]["missing"] == [never]
    world.now = at("2026-06-02T09:00")
    world.learn(never, Acked(world.now, AckStatus.COMPLETED, NEW))
    world.look("2026-06-02T09:01")
    assert world.report() == kept and [kind for kind, _ in world.told()] == ["started", "finished"]


def test_whom_a_rule_refuses_is_in_the_report_with_the_rule(world: World) -> None:
    [fine] = world.add(BERLIN)
    [cloned] = world.add(BERLIN, two_hosts_at=world.now)
    world.schedule()
    world.look("2026-06-02T01:00")
    world.reboot(fine)
    world.look("2026-06-02T01:05")
    [line] = [each for each in world.report()["lines"] if each["client_uuid"] == cloned]
    assert line["outcome"] == "skipped" and line["why"].startswith("two hosts")


def test_a_zone_in_which_nobody_is_has_no_nights(world: World) -> None:
    world.add(BERLIN)
    world.add(NUUK, standing="retired")
    world.schedule()
    for hour in range(24):
        world.look(at("2026-06-01T12:00") + hour * HOUR)
    assert {zone for _, zone, _ in world.nights()} == {BERLIN}


class Killed(Exception):
    """As if the process had ended here: what it had not committed is gone."""


def test_killed_before_any_of_its_statements_it_makes_the_night_once(world: World) -> None:
    world.add(BERLIN, BERLIN)
    world.schedule()
    world.look("2026-06-01T12:30")
    world.now = at("2026-06-02T01:00")
    left = 0

    def count(*_: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed

    listen(world.database.engine, "before_cursor_execute", count)
    survived, kills = False, 0
    while not survived:
        world.restart()
        left = kills
        with contextlib.suppress(Killed):
            world.look()
            survived = True
        left = 10_000
        if not survived:
            kills += 1
            assert (world.nights(), world.rows(command), world.rows(batch), world.rows(audit)) == ([], [], [], [])
    remove(world.database.engine, "before_cursor_execute", count)
    assert kills > 20
    world.restart()
    world.look("2026-06-02T01:00:05")
    assert len(world.nights()) == 1 and len(world.rows(command)) == 2


def test_a_person_runs_it_now_from_a_preview_and_the_night_comes_all_the_same(world: World) -> None:
    first, second = world.add(BERLIN, BERLIN)
    made = world.schedule()
    ann = Caller("ann", "api")
    with world.database.write() as tx:
        tx = world.write(tx)
        row = store.schedule_of(tx, made)
        assert row is not None
        seen = orders.preview(tx, ann, schedules.wish_of(tx, row), [first, second], House())
        with pytest.raises(Refused, match="say that number"):
            schedules.run_now(tx, ann, row, [first, second], (seen.hash, None), House(), "k")
        night, is_new = schedules.run_now(tx, ann, row, [first, second], (seen.hash, 2), House(), "k")
        assert is_new and (night["zone"], night["state"]) == ("run", "running")
        later = replace(tx, now=tx.now + timedelta(minutes=2))
        again, is_new = schedules.run_now(later, ann, row, [first, second], (seen.hash, 2), House(), "k")
        assert not is_new and again["id"] == night["id"]
    world.reboot(first, second)
    world.look("2026-06-01T12:05")
    assert world.report()["counts"]["back"] == 2
    world.look("2026-06-02T01:00")
    assert [state for _, _, state in world.nights()] == ["ended", "running"]
    assert len(world.ordered()) == 4


def test_the_next_nights_say_how_the_clocks_change_and_which_are_taken_out(world: World) -> None:
    world.now = at("2026-10-23T12:00")
    world.add(BERLIN, BERLIN, KOLKATA, "Mars/Base")
    made = world.schedule()
    with world.database.write() as tx:
        tx = world.write(tx)
        row = store.schedule_of(tx, made)
        assert row is not None
        found = schedules.forecast(tx, row, {date(2026, 10, 24): "bob"}, House(), Limits(), 3)
    assert [(each.zone, each.clients, len(each.nights)) for each in found] == [
        (KOLKATA, 1, 3),
        (BERLIN, 2, 3),
        ("Mars/Base", 1, 0),
    ]
    assert found[2].fault == "the system's tzdata has no zone 'Mars/Base'"
    assert [(str(night.day), change, skipped) for night, change, skipped in found[1].nights] == [
        ("2026-10-24", None, "bob"),
        ("2026-10-25", "clocks go back by 60 min at 03:00", None),
        ("2026-10-26", None, None),
    ]


def test_old_nights_are_forgotten_with_their_members_and_one_that_runs_is_kept(world: World) -> None:
    [one] = world.add(BERLIN)
    made = world.schedule()
    world.look("2026-06-02T01:00")
    world.reboot(one)
    world.look("2026-06-02T01:05")
    world.look("2026-06-03T01:00")
    with world.database.write() as tx:
        for day in (date(2026, 6, 9), date(2027, 6, 9)):
            store.skip(world.write(tx), made, day, "ann")
        store.remove(world.write(tx), made, "ann")
        while retention.forget(tx, at("2027-01-01T00:00")):
            pass
    assert world.nights() == [("2026-06-03", BERLIN, "running")]
    assert len(world.rows(schedule_member)) == len(world.rows(schedule)) == 1
    assert [row["day"] for row in world.rows(schedule_skip)] == ["2027-06-09"]
    world.reboot(one)
    world.look("2026-06-03T01:05")
    with world.database.write() as tx:
        while retention.forget(tx, at("2027-01-01T00:00")):
            pass
    assert (world.nights(), world.rows(schedule)) == ([], [])
