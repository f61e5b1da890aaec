"""The nights of a schedule over a year, in zones whose clocks change in each way that there is."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest

from infoscreen_reboot.controller import calendar
from infoscreen_reboot.controller.calendar import Night, NightState, Plan, Turn
from infoscreen_reboot.controller.recurrence import parse

MADE = datetime(2026, 1, 1, tzinfo=UTC)
TAKES = timedelta(seconds=225)


def plan(start: str = "02:30", rule: str = "FREQ=DAILY", **more: Any) -> Plan:
    values: dict[str, Any] = {
        "rule": parse(rule),
        "start": time.fromisoformat(start),
        "window": timedelta(hours=2),
        "spread": timedelta(0),
        "back_by": timedelta(hours=3),
        "anchor": MADE.date(),
        "since": MADE,
        "takes": TAKES,
    }
    return Plan(**(values | more))


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


CHANGES = {
    ("Europe/Berlin", "02:30"): [
        "2026-03-29T03:30:00+02:00 clocks go forward by 60 min at 02:00",
        "2026-10-25T02:30:00+02:00 clocks go back by 60 min at 03:00",
    ],
    ("Europe/Berlin", "04:00"): [
        "2026-03-29T04:00:00+02:00 clocks go forward by 60 min at 02:00",
        "2026-10-25T04:00:00+01:00 clocks go back by 60 min at 03:00",
    ],
    ("America/New_York", "02:30"): [
        "2026-03-08T03:30:00-04:00 clocks go forward by 60 min at 02:00",
        "2026-11-01T02:30:00-05:00 clocks go back by 60 min at 02:00",
    ],
    ("Australia/Lord_Howe", "02:15"): [
        "2026-04-05T02:15:00+10:30 clocks go back by 30 min at 02:00",
        "2026-10-04T02:45:00+11:00 clocks go forward by 30 min at 02:00",
    ],
    # Its clocks go forward in the hour before midnight: that night is the one of the day before.
    ("America/Nuuk", "23:30"): [
        "2026-03-29T00:30:00-01:00 clocks go forward by 60 min at 23:00",
        "2026-10-24T23:30:00-01:00 clocks go back by 60 min at 00:00",
    ],
    ("Asia/Kolkata", "02:30"): [],
    ("UTC", "02:30"): [],
}


@pytest.mark.parametrize(("zone", "start"), CHANGES)
def test_the_nights_in_which_the_clocks_change_by_name(zone: str, start: str) -> None:
    found = calendar.known(zone)
    assert found is not None
    nights = list(calendar.nights(plan(start), found, date(2026, 1, 1), date(2026, 12, 31)))
    changed = [
        f"{each.starts_at.astimezone(found).isoformat()} {words}"
        for each in nights
        if (words := calendar.clock_change(*each.span, found)) is not None
    ]
    assert changed == CHANGES[zone, start]


@pytest.mark.parametrize(("zone", "start"), [*CHANGES, ("Europe/Berlin", "00:00")])
def test_a_year_of_nights_each_once(zone: str, start: str) -> None:
    """Looked at every 50 minutes, for a year; once a week the clock is set back by an hour."""
    found = calendar.known(zone)
    assert found is not None
    asked = plan(start)
    opened: Counter[date] = Counter()
    done: set[date] = set()
    looked_at = now = MADE
    steps = 0
    while now < MADE + timedelta(days=366):
        steps += 1
        now += timedelta(minutes=50)
        if steps % 200 == 0:
            now -= timedelta(hours=1)
        for each in calendar.begun(asked, found, looked_at, now):
            if each.day not in done:
                assert calendar.turn_of(each, now, is_paused=False, skips=()) is Turn.OPENED
                assert now - each.starts_at <= timedelta(minutes=50)
                opened[each.day] += 1
                done.add(each.day)
        looked_at = max(looked_at, now)
    days = {date(2026, 1, 1) + timedelta(days=n) for n in range(1, 364)}
    assert days <= opened.keys() and set(opened.values()) == {1}


@pytest.mark.parametrize(
    ("back_at", "expected"),
    [
        ("2026-06-01T02:29:00+00:00", []),
        ("2026-06-01T02:31:00+00:00", [Turn.OPENED]),
        ("2026-06-01T04:29:59+00:00", [Turn.OPENED]),
        ("2026-06-01T04:30:00+00:00", [Turn.PASSED]),
        ("2026-06-03T03:00:00+00:00", [Turn.PASSED, Turn.PASSED, Turn.OPENED]),
    ],
)
def test_a_controller_that_was_down_runs_a_night_within_it_and_misses_it_after_it(
    back_at: str, expected: list[Turn]
) -> None:
    utc = calendar.known("UTC")
    assert utc is not None
    found = calendar.begun(plan(), utc, at("2026-05-31T12:00:00+00:00"), at(back_at))
    assert [calendar.turn_of(each, at(back_at), is_paused=False, skips=()) for each in found] == expected


def test_a_long_absence_lists_no_more_than_two_months() -> None:
    utc = calendar.known("UTC")
    assert utc is not None
    assert 60 <= len(calendar.begun(plan(), utc, MADE, at("2029-06-01T12:00:00+00:00"))) <= 61


def test_nothing_is_of_a_plan_that_was_changed_after_it_had_begun() -> None:
    utc = calendar.known("UTC")
    assert utc is not None
    changed = plan(since=at("2026-06-01T02:30:01+00:00"))
    now = at("2026-06-02T03:00:00+00:00")
    assert [each.day for each in calendar.begun(changed, utc, MADE, now)] == [date(2026, 6, 2)]


def test_what_a_person_has_said_comes_before_the_clock() -> None:
    each = Night(date(2026, 6, 1), "UTC", MADE, MADE + timedelta(hours=2), MADE + timedelta(hours=3))
    for now in (MADE, MADE + timedelta(hours=9)):
        assert calendar.turn_of(each, now, is_paused=True, skips=()) is Turn.LEFT_OUT
        assert calendar.turn_of(each, now, is_paused=False, skips={each.day}) is Turn.LEFT_OUT
    assert calendar.turn_of(each, MADE - timedelta(seconds=1), is_paused=True, skips={each.day}) is None


def test_the_table_is_all_that_can_happen() -> None:
    for state in NightState:
        for turn in Turn:
            if (state, turn) in calendar.TABLE:
                assert calendar.turned(state, turn) is calendar.TABLE[state, turn]
            else:
                with pytest.raises(ValueError, match=f"{state} cannot be {turn}"):
                    calendar.turned(state, turn)
    assert {state for state, _ in calendar.TABLE} | set(calendar.TABLE.values()) == set(NightState)


def test_the_last_command_goes_out_while_its_client_can_still_be_back_in_time() -> None:
    utc = calendar.known("UTC")
    assert utc is not None
    early = calendar.night(plan(back_by=timedelta(minutes=30)), date(2026, 6, 1), utc)
    assert early.ends_at == early.back_by - TAKES
    late = calendar.night(plan(), date(2026, 6, 1), utc)
    assert late.ends_at == late.starts_at + timedelta(hours=2)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({}, None),
        ({"back_by": timedelta(minutes=4)}, "back_by_min"),
        ({"spread": timedelta(minutes=119)}, None),
        ({"spread": timedelta(hours=2)}, "spread_min"),
        ({"spread": timedelta(minutes=90), "back_by": timedelta(minutes=90)}, "spread_min"),
    ],
)
def test_what_cannot_be_done_in_time_is_said_before(more: dict[str, Any], named: str | None) -> None:
    fault = calendar.fault(plan(**more))
    assert fault is None if named is None else (fault or "").startswith(f"{named}: ")


def test_the_next_nights_are_found_however_rare_they_are() -> None:
    berlin = calendar.known("Europe/Berlin")
    assert berlin is not None
    now = at("2026-06-01T00:31:00+00:00")  # 02:31 in Berlin: tonight has begun
    assert [each.day.isoformat() for each in calendar.following(plan(), berlin, now, 3)] == [
        "2026-06-02",
        "2026-06-03",
        "2026-06-04",
    ]
    rare = plan(rule="FREQ=MONTHLY;INTERVAL=12;BYMONTHDAY=20")
    assert [each.day.year for each in calendar.following(rare, berlin, now, 3)] == [2027, 2028, 2029]
    assert calendar.following(plan(rule="FREQ=DAILY;UNTIL=20260102"), berlin, now, 3) == []


def test_turns_are_spread_and_the_same_whoever_asks() -> None:
    hour = timedelta(hours=1)
    turns = [calendar.member_turn("s", "2026-06-01", str(n), MADE, hour) for n in range(600)]
    assert turns == [calendar.member_turn("s", "2026-06-01", str(n), MADE, hour) for n in range(600)]
    assert all(MADE <= turn < MADE + hour for turn in turns)
    by_tenth = Counter((turn - MADE) // timedelta(minutes=6) for turn in turns)
    assert len(by_tenth) == 10 and max(by_tenth.values()) < 100
    assert turns != [calendar.member_turn("s", "2026-06-02", str(n), MADE, hour) for n in range(600)]
    assert calendar.member_turn("s", "x", "y", MADE, timedelta(0)) == MADE


def test_whose_zone_a_clients_is() -> None:
    sites = {"alpine": "Europe/Vienna"}
    assert calendar.zone_of({"tz": "America/Nuuk", "site": "alpine"}, sites, "UTC") == "America/Nuuk"
    assert calendar.zone_of({"site": "alpine"}, sites, "UTC") == "Europe/Vienna"
    assert calendar.zone_of({"site": "plain"}, sites, "UTC") == "UTC"
    assert calendar.zone_of({}, sites, "Asia/Kolkata") == "Asia/Kolkata"


@pytest.mark.parametrize("name", ["", "Europe", "Mars/Base", "../../etc/passwd", "a\0b", "x" * 300, "/UTC"])
def test_what_is_no_zone(name: str) -> None:
    assert calendar.known(name) is None
