"""Freezes out of a calendar: what is read, what is refused as a whole, and that the last good one counts."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infoscreen_reboot.controller import ics, safety
from infoscreen_reboot.controller.calendars import Calendars
from infoscreen_reboot.controller.freezing import Event, merged
from infoscreen_reboot.controller.ics import Unreadable
from infoscreen_reboot.controller.store import calendars, facts, fleet, lease, views
from infoscreen_reboot.controller.store.database import Database, Row
from tests.controller.test_notifier import Later
from tools.lab.patience import Patience

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def ical(*events: str) -> bytes:
    lines = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//site//EN"]
    for number, event in enumerate(events):
        uid = f"UID:{number}@site.example"
        lines += ["BEGIN:VEVENT", uid, "DTSTAMP:20261101T000000Z", *event.split("|"), "END:VEVENT"]
    return "\r\n".join([*lines, "END:VCALENDAR", ""]).encode()


def span(begins_at: str, until: str, why: str = "fair") -> Event:
    return Event(datetime.fromisoformat(f"{begins_at}Z"), datetime.fromisoformat(f"{until}Z"), why)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ("SUMMARY:fair|DTSTART:20261201T080000Z|DTEND:20261201T180000Z", [("2026-12-01T08", "2026-12-01T18")]),
        # Without a zone, and whole days: those of the fleet.
        ("SUMMARY:fair|DTSTART:20261201T080000|DURATION:PT2H", [("2026-12-01T07", "2026-12-01T09")]),
        ("SUMMARY:fair|DTSTART;VALUE=DATE:20261224|DTEND;VALUE=DATE:20261227", [("2026-12-23T23", "2026-12-26T23")]),
        ("SUMMARY:fair|DTSTART;VALUE=DATE:20261224", [("2026-12-23T23", "2026-12-24T23")]),
        (
            "SUMMARY:fair|DTSTART;TZID=America/New_York:20261201T080000|DTEND;TZID=America/New_York:20261201T090000",
            [("2026-12-01T13", "2026-12-01T14")],
        ),
        # The night in which the clocks change has 25 hours, or 23.
        ("SUMMARY:fair|DTSTART;VALUE=DATE:20270328", [("2027-03-27T23", "2027-03-28T22")]),
        ("SUMMARY:fair|DTSTART;VALUE=DATE:20271031", [("2027-10-30T22", "2027-10-31T23")]),
        # Each week at the same local time, without one of them.
        (
            "SUMMARY:fair|DTSTART;TZID=Europe/Berlin:20270321T080000|DURATION:PT1H|RRULE:FREQ=WEEKLY;COUNT=3"
            "|EXDATE;TZID=Europe/Berlin:20270404T080000",
            [("2027-03-21T07", "2027-03-21T08"), ("2027-03-28T06", "2027-03-28T07")],
        ),
        # It has begun, and is not over; it is over; it is too far away.
        ("SUMMARY:fair|DTSTART:20261001T080000Z|DTEND:20261201T180000Z", [("2026-10-01T08", "2026-12-01T18")]),
        ("SUMMARY:fair|DTSTART:20261127T080000Z|DTEND:20261127T120000Z", []),
        ("SUMMARY:fair|DTSTART:20290101T080000Z|DTEND:20290101T120000Z", []),
        ("SUMMARY:fair|STATUS:CANCELLED|DTSTART:20261201T080000Z|DTEND:20261201T180000Z", []),
    ],
)
def test_what_an_event_means(event: str, expected: list[tuple[str, str]]) -> None:
    found = ics.read(ical(event), "Europe/Berlin", NOW)
    assert found == [span(f"{begins_at}:00", f"{until}:00") for begins_at, until in expected]


GOOD = "SUMMARY:fair|DTSTART:20261201T080000Z|DTEND:20261201T180000Z"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no calendar"),
        (b"\xff\xfe", "no calendar"),
        (b"<!DOCTYPE html><html>404</html>", "no calendar"),
        (ical(GOOD)[:-40], "no calendar"),
        (b"BEGIN:VEVENT\r\nEND:VEVENT\r\n", "BEGIN:VCALENDAR"),
        (ical(GOOD, "SUMMARY:next|DTSTART:soon"), "DTSTART of the event 'next'"),
        (ical(GOOD, "SUMMARY:next|DTEND:20261201T180000Z"), "'next' has no beginning"),
        (ical(GOOD, f"{GOOD}|RRULE:FREQ=SECONDLY"), "more often than once a day"),
        (ical(GOOD, f"{GOOD}|RRULE:FREQ=HOURLY;COUNT=2"), "more often than once a day"),
        (ical(GOOD, f"{GOOD}|RRULE:FREQ=DAILY;BYMINUTE=1,2,3"), "by hours, minutes or seconds"),
        (ical(GOOD, f"{GOOD}|RRULE:FREQ=NEVER"), "cannot be read"),
        (ical(GOOD, "SUMMARY:next|DTSTART:20261201T080000Z|DTEND:20261101T180000Z|RRULE:FREQ=YEARLY;UNTIL=x"), "read"),
        (ical(*[GOOD] * 6), "more than 5 events"),
        (ical(*[f"{GOOD}|RRULE:FREQ=DAILY"] * 4), "more than 3 events that recur"),
        (b"x" * (1 << 20) + b"y", "more than 1 MiB"),
    ],
)
def test_what_cannot_be_read_is_refused_as_a_whole(content: bytes, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ics, "_MOST_EVENTS", 5)
    monkeypatch.setattr(ics, "_MOST_RULES", 3)
    with pytest.raises(Unreadable, match=words):
        ics.read(content, "Europe/Berlin", NOW)


def test_without_its_library_a_calendar_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "recurring_ical_events", None)
    with pytest.raises(Unreadable, match="apt install"):
        ics.read(ical(GOOD), "UTC", NOW)


def test_what_a_title_holds_steers_no_terminal() -> None:
    [event] = ics.read(ical(GOOD.replace("fair", "a\x1b[31m\x07 \u202e" + "x" * 500)), "UTC", NOW)
    assert event.why.startswith("a [31m xxx") and len(event.why) == 120


hours = st.integers(0, 60)


@settings(deadline=None)
@given(st.lists(st.tuples(hours, hours), max_size=12))
def test_merged_events_freeze_the_same_hours_and_touch_each_other_nowhere(spans: list[tuple[int, int]]) -> None:
    events = [Event(NOW + timedelta(hours=a), NOW + timedelta(hours=b), f"{a}") for a, b in spans]
    found = merged(events)
    for hour in range(61):
        at = NOW + timedelta(hours=hour, minutes=1)
        assert any(each.begins_at <= at < each.until for each in found) == any(
            each.begins_at <= at < each.until for each in events
        )
    assert all(one.until < other.begins_at for one, other in pairwise(found))
    assert len({each.key for each in found}) == len(found)


# --- In the database


class Site:
    """A holder of the lease, with a calendar that somebody writes."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.clock = Later(database)
        self.file = folder / "freezes.ics"
        with database.write() as tx:
            taken = lease.take(tx, "one")
            self.start = tx.now.replace(minute=0, second=0, microsecond=0)
        assert taken is not None
        self.epoch = taken
        self.calendars = Calendars(self.clock, self.file, "UTC")
        self.writes = 0

    def event(self, begins: int, ends: int, why: str) -> str:
        """From and until so many hours from now on."""
        begins_at, until = (f"{self.start + timedelta(hours=hours):%Y%m%dT%H%M%SZ}" for hours in (begins, ends))
        return f"SUMMARY:{why}|DTSTART:{begins_at}|DTEND:{until}"

    def write(self, content: bytes) -> None:
        self.writes += 1
        self.file.write_bytes(content)
        os.utime(self.file, (1_700_000_000 + self.writes,) * 2)

    def look(self, ahead: timedelta = timedelta()) -> list[str]:
        """Why the fleet is frozen now."""
        self.clock.ahead += ahead
        self.calendars.look(self.epoch)
        with self.clock.read() as tx:
            return [freeze.why for freeze in facts.freezes(tx)]

    def state(self) -> Row | None:
        with self.clock.read() as tx:
            return calendars.state(tx)

    def fault(self) -> str | None:
        state = self.state()
        return None if state is None else state["fault"]


HOUR = timedelta(hours=1)


def test_events_hold_commands_until_the_last_of_them_ends(database: Database, tmp_path: Path) -> None:
    site = Site(database, tmp_path)
    site.write(ical(site.event(2, 4, "fair"), site.event(4, 6, "party"), site.event(9, 10, "visit")))
    assert site.look() == []
    assert site.look(3 * HOUR) == ["fair, party"]
    with site.clock.read() as tx:
        answer = safety.frozen(facts.freezes(tx), tx.now)
        assert answer.hold == "frozen by calendar: fair, party" and answer.can_wait
        assert answer.opens_at == site.start + 6 * HOUR
        assert [row["why"] for row in views.freezes(tx, coming=True)] == ["visit"]
        later = replace(tx, now=site.start + 6 * HOUR)
        assert facts.freezes(later) == ()


def test_while_it_cannot_be_read_the_last_good_one_counts(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(database, tmp_path)
    assert site.look() == [] and site.fault() == "No such file or directory"
    site.write(ical(site.event(0, 48, "fair")))
    assert site.look(HOUR) == ["fair"] and site.fault() is None
    site.write(b"<html>")
    caplog.clear()
    for _ in range(3):
        assert site.look(HOUR) == ["fair"] and "no calendar" in str(site.fault())
    assert caplog.text.count("the last good one counts") == 1
    site.file.unlink()
    assert site.look(HOUR) == ["fair"] and site.fault() == "No such file or directory"
    with site.clock.read() as tx:
        state = calendars.state(tx)
        assert state is not None and state["fault_since"] < tx.now - 2 * HOUR and state["events"] == 1
    site.write(ical())
    assert site.look(HOUR) == [] and site.fault() is None


def test_it_is_read_again_when_it_has_changed_and_each_day(database: Database, tmp_path: Path) -> None:
    site = Site(database, tmp_path)
    site.write(ical(site.event(0, 2000, "fair")))
    assert site.look() == ["fair"]
    content = ical(site.event(0, 2000, "tidy"))
    kept = site.file.stat()
    site.file.write_bytes(content)
    os.utime(site.file, ns=(kept.st_mtime_ns, kept.st_mtime_ns))
    assert site.look(HOUR) == ["fair"], "it looks as it did"
    assert site.look(DAY) == ["tidy"]
    site.write(ical(site.event(0, 2000, "both")))
    assert site.look() == ["both"]


def test_an_event_that_is_moved_or_renamed_before_it_begins_holds_from_then_on(
    database: Database, tmp_path: Path
) -> None:
    site = Site(database, tmp_path)
    site.write(ical(site.event(9, 12, "fair")))
    assert site.look() == []
    site.write(ical(site.event(2, 12, "party")))
    assert site.look(3 * HOUR) == ["party"]


def test_what_somebody_has_ended_by_hand_stays_ended(database: Database, tmp_path: Path) -> None:
    site = Site(database, tmp_path)
    every_day = [site.event(24 * day, 24 * day + 24, "fair") for day in range(5)]
    site.write(ical(*every_day))
    assert site.look(HOUR) == ["fair"]
    with site.clock.write() as tx:
        [row] = views.freezes(tx)
        assert fleet.end_freeze(tx, row["id"], "ann")
    site.write(ical(*every_day[1:]))
    assert site.look(25 * HOUR) == []
    site.write(ical(site.event(0, 200, "another one")))
    assert site.look(HOUR) == ["another one"]


def test_without_a_calendar_its_freezes_go_and_those_by_hand_stay(database: Database, tmp_path: Path) -> None:
    site = Site(database, tmp_path)
    site.write(ical(site.event(0, 48, "fair"), site.event(90, 91, "visit")))
    with site.clock.write() as tx:
        fleet.begin_freeze(tx, "by hand", "ann", None)
    assert sorted(site.look(HOUR)) == ["by hand", "fair"]
    site.calendars = Calendars(site.clock, None, "UTC")
    assert site.look(HOUR) == ["by hand"]
    with site.clock.read() as tx:
        assert calendars.state(tx) is None and views.freezes(tx, coming=True) == []


def test_it_reads_by_itself_and_stops_in_good_order(database: Database, tmp_path: Path) -> None:
    site = Site(database, tmp_path)
    site.write(ical(site.event(0, 48, "fair")))
    site.calendars.start(site.epoch)
    patience = Patience(30)
    while site.state() is None and not patience.is_over:
        threading.Event().wait(0.01)
    site.calendars.stop()
    site.calendars.stop()
    state = site.state()
    assert state is not None and state["events"] == 1
