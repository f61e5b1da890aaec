"""The only door to icalendar: reads the events of a calendar, and refuses what it cannot read as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from infoscreen_reboot.controller.freezing import Event

MOST_BYTES = 1 << 20
# How far ahead events are read. The calendar is read each day; if it cannot be read for long, so much is known.
AHEAD = timedelta(days=400)
# What began so long ago may still last: a zone is at most 14 hours away, and its end is compared below.
_BACK = timedelta(days=2)
_MOST_EVENTS, _MOST_RULES = 2000, 200
# Rules that are finer than a day could be a million events.
_FREQUENCIES = ("DAILY", "WEEKLY", "MONTHLY", "YEARLY")
_FINE = ("BYHOUR", "BYMINUTE", "BYSECOND")
_LONGEST_WHY = 120
_MISSING = "apt install python3-icalendar python3-recurring-ical-events: without them no calendar can be read"


class Unreadable(Exception):
    """The calendar as it is now cannot be used. The sentence says why."""


def read(content: bytes, zone: str, now: datetime) -> list[Event]:
    """The events that are not over, up to 400 days ahead. Whole days, and times without a zone, are in `zone`.

    Raises Unreadable if any event cannot be read: a freeze that is silently missing is worse than an old calendar.
    """
    if len(content) > MOST_BYTES:
        raise Unreadable(f"it has more than {MOST_BYTES >> 20} MiB")
    try:
        import icalendar
        import recurring_ical_events
    except ImportError:
        raise Unreadable(_MISSING) from None
    try:
        calendar = icalendar.Calendar.from_ical(content)
    except Exception as error:  # it raises whatever its parts raise
        raise Unreadable(f"it is no calendar: {_words(error)}") from None
    if calendar.name != "VCALENDAR":
        raise Unreadable("it is no calendar: it does not begin with BEGIN:VCALENDAR")
    _check(calendar.walk("VEVENT"))
    try:
        found = recurring_ical_events.of(calendar, components=("VEVENT",)).between(now - _BACK, now + AHEAD)
        events = list(_events(found, ZoneInfo(zone)))
    except Exception as error:
        raise Unreadable(f"an event cannot be read: {_words(error)}") from None
    return [event for event in events if event.until > now]


def _check(components: list[Any]) -> None:
    if len(components) > _MOST_EVENTS:
        raise Unreadable(f"it has more than {_MOST_EVENTS} events")
    rules = [rule for component in components for rule in _rules(component)]
    if len(rules) > _MOST_RULES:
        raise Unreadable(f"it has more than {_MOST_RULES} events that recur")
    for component in components:
        name = _summary(component)
        if component.errors:
            field, fault = component.errors[0]
            raise Unreadable(f"{field or 'a line'} of the event {name!r} cannot be read: {fault[:100]}")
        if "DTSTART" not in component:
            raise Unreadable(f"the event {name!r} has no beginning")
    for rule in rules:
        frequency = [str(each).upper() for each in rule.get("FREQ", [])]
        if len(frequency) != 1 or frequency[0] not in _FREQUENCIES:
            raise Unreadable("an event recurs more often than once a day")
        if any(part in rule for part in _FINE):
            raise Unreadable("an event recurs by hours, minutes or seconds")


def _rules(component: Any) -> list[Any]:
    rules = component.get("RRULE", [])
    return rules if isinstance(rules, list) else [rules]


def _events(components: list[Any], zone: ZoneInfo) -> Iterator[Event]:
    for component in components:
        if str(component.get("STATUS", "")).upper() != "CANCELLED":
            begins_at, until = component["DTSTART"].dt, component["DTEND"].dt
            yield Event(_moment(begins_at, zone), _moment(until, zone), _summary(component))


def _moment(value: date | datetime, zone: ZoneInfo) -> datetime:
    if not isinstance(value, datetime):
        return datetime.combine(value, time(), zone).astimezone(UTC)
    return (value if value.tzinfo is not None else value.replace(tzinfo=zone)).astimezone(UTC)


def _summary(component: Any) -> str:
    """What people wrote as its title: one line, and no character that steers a terminal."""
    text = "".join(each if each.isprintable() else " " for each in str(component.get("SUMMARY", "")))
    return " ".join(text.split())[:_LONGEST_WHY] or "an event of the calendar"


def _words(error: Exception) -> str:
    return "".join(each if each.isprintable() else " " for each in f"{error}"[:120]) or type(error).__name__
