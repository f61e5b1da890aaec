"""On which days a schedule runs: the part of RFC 5545 that it needs, by dateutil.

Days and no times: a time of day has its zone and its clock changes, and those are the business of `calendar`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, time
from functools import lru_cache
from typing import Any

from dateutil import rrule
from dateutil.relativedelta import relativedelta

from infoscreen_reboot.controller.windows import DAYS

_FREQUENCIES: dict[str, Any] = {"DAILY": rrule.DAILY, "WEEKLY": rrule.WEEKLY, "MONTHLY": rrule.MONTHLY}
_PERIODS = {"DAILY": relativedelta(days=1), "WEEKLY": relativedelta(weeks=1), "MONTHLY": relativedelta(months=1)}
_WEEKDAYS = {day[:2].upper(): number for number, day in enumerate(DAYS)}
_LONGEST_INTERVAL = {"DAILY": 366, "WEEKLY": 52, "MONTHLY": 12}
_PARTS = ("FREQ", "INTERVAL", "BYDAY", "BYMONTHDAY", "UNTIL")
# What each month has: a rule for the 31st or the fifth Monday would leave some months out, and some rules never end.
_LAST_DAY, _LAST_WEEK = 28, 4
_DAY = re.compile(r"([+-]?\d{1,2})?([A-Z]{2})", re.ASCII)
_NUMBER = re.compile(r"-?\d{1,3}", re.ASCII)
MOST = 200
DAY_WORDS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_UNITS = {"DAILY": "day", "WEEKLY": "week", "MONTHLY": "month"}
_ORDINALS = {1: "first", 2: "second", 3: "third", 4: "fourth", -1: "last"}


@dataclass(frozen=True, slots=True)
class Recurrence:
    """`by_day` are weekdays (0 is Monday), each with its number in the month, or 0 for every one."""

    frequency: str
    interval: int = 1
    by_day: tuple[tuple[int, int], ...] = ()
    by_month_day: tuple[int, ...] = ()
    until: date | None = None


def parse(text: str) -> Recurrence:
    """`FREQ=WEEKLY;BYDAY=MO,TH;INTERVAL=2;UNTIL=20271231`. Raises ValueError, which names the part."""
    if len(text) > MOST:
        raise ValueError(f"a rule has at most {MOST} characters")
    parts = _parts(text)
    frequency = parts.get("FREQ", "")
    if frequency not in _FREQUENCIES:
        raise ValueError(f"FREQ is {frequency[:20]!r}; allowed are {', '.join(_FREQUENCIES)}")
    found = Recurrence(
        frequency,
        _number("INTERVAL", parts.get("INTERVAL", "1"), 1, _LONGEST_INTERVAL[frequency]),
        tuple(_day(part) for part in _listed(parts, "BYDAY")),
        tuple(_number("BYMONTHDAY", part, -_LAST_DAY, _LAST_DAY) for part in _listed(parts, "BYMONTHDAY")),
        _until(parts["UNTIL"]) if "UNTIL" in parts else None,
    )
    _check(found)
    return found


def _parts(text: str) -> dict[str, str]:
    parts: dict[str, str] = {}
    for part in text.strip().upper().removeprefix("RRULE:").split(";"):
        name, equals, value = part.partition("=")
        if not equals or not value:
            raise ValueError(f"{part[:40]!r} is no part of a rule; allowed is as in FREQ=WEEKLY;BYDAY=MO,TH")
        if name not in _PARTS:
            raise ValueError(f"{name[:40]!r} cannot be used in a rule; allowed are {', '.join(_PARTS)}")
        if name in parts:
            raise ValueError(f"{name} is there more than once")
        parts[name] = value
    return parts


def _listed(parts: dict[str, str], name: str) -> list[str]:
    return parts[name].split(",") if name in parts else []


def _number(name: str, text: str, low: int, high: int) -> int:
    number = int(text) if _NUMBER.fullmatch(text) else 0
    if number == 0 or not low <= number <= high:
        advice = "; -1 is the last day of a month" if name == "BYMONTHDAY" else ""
        raise ValueError(f"{name} has {text[:20]!r}; allowed is {low} to {high}{advice}")
    return number


def _day(text: str) -> tuple[int, int]:
    found = _DAY.fullmatch(text)
    if found is None or found[2] not in _WEEKDAYS:
        raise ValueError(f"BYDAY has {text[:20]!r}; allowed are {', '.join(_WEEKDAYS)}, and 1MO or -1FR in a month")
    number = 0 if found[1] is None else _number("BYDAY", found[1].removeprefix("+"), -_LAST_WEEK, _LAST_WEEK)
    return _WEEKDAYS[found[2]], number


def _until(text: str) -> date:
    try:
        return datetime.strptime(text, "%Y%m%d").date()
    except ValueError:
        raise ValueError(f"UNTIL is {text[:20]!r}; allowed is a date, as in 20271231") from None


def _check(found: Recurrence) -> None:
    """Refuses what RFC 5545 forbids, and what could wait for a day that never comes."""
    is_numbered = any(number for _, number in found.by_day)
    match found.frequency:
        case "DAILY" if found.by_month_day:
            raise ValueError("BYMONTHDAY goes with FREQ=MONTHLY")
        case "DAILY" if found.by_day and found.interval > 1:
            raise ValueError("BYDAY and INTERVAL go together with FREQ=WEEKLY")
        case "WEEKLY" if not found.by_day:
            raise ValueError("FREQ=WEEKLY needs BYDAY, as in FREQ=WEEKLY;BYDAY=MO")
        case "WEEKLY" if found.by_month_day:
            raise ValueError("BYMONTHDAY goes with FREQ=MONTHLY")
        case "MONTHLY" if not found.by_day and not found.by_month_day:
            raise ValueError("FREQ=MONTHLY needs BYDAY or BYMONTHDAY, as in FREQ=MONTHLY;BYMONTHDAY=1")
        case "MONTHLY" if is_numbered and found.by_month_day:
            raise ValueError("BYMONTHDAY goes with days without a number")
    if is_numbered and found.frequency != "MONTHLY":
        raise ValueError("a numbered day, as 1MO, goes with FREQ=MONTHLY")


@lru_cache(maxsize=4096)
def days(rule: Recurrence, anchor: date, first: date, last: date) -> tuple[date, ...]:
    """Those from `first` to `last`, both included. Intervals count from `anchor`, and two before it are there too.

    `anchor` is today in one zone. In others it may still be yesterday or the day before, and they have those days.
    """
    more: dict[str, Any] = {}
    if rule.by_day:
        more["byweekday"] = [_weekday(day, number) for day, number in rule.by_day]
    if rule.by_month_day:
        more["bymonthday"] = rule.by_month_day
    until = None if rule.until is None else datetime.combine(rule.until, time())
    start = datetime.combine(anchor, time()) - 2 * rule.interval * _PERIODS[rule.frequency]
    wanted = rrule.rrule(
        _FREQUENCIES[rule.frequency], dtstart=start, interval=rule.interval, until=until, wkst=rrule.MO, **more
    )
    between = wanted.between(datetime.combine(first, time()), datetime.combine(last, time()), inc=True)
    return tuple(moment.date() for moment in between)


def _weekday(day: int, number: int) -> rrule.weekday:
    return rrule.weekday(day, number) if number else rrule.weekday(day)


def in_words(rule: Recurrence) -> str:
    """`every 2 weeks on Monday and Thursday, until 2027-12-31`."""
    unit = _UNITS[rule.frequency]
    often = f"every {unit}" if rule.interval == 1 else f"every {rule.interval} {unit}s"
    days = [_ordinal(rule, number) + DAY_WORDS[day] for day, number in rule.by_day]
    month_days = [_month_day(day) for day in rule.by_month_day]
    if days and month_days:
        names = [DAY_WORDS[day] for day, _ in rule.by_day]
        often += f" on {_listing(month_days)}, if that is a {_listing(names, 'or')}"
    elif days and rule.interval == 1 and rule.frequency != "MONTHLY":
        often = f"every {_listing(days)}"
    elif days or month_days:
        often += f" on {_listing(days or month_days)}"
    return often if rule.until is None else f"{often}, until {rule.until}"


def _ordinal(rule: Recurrence, number: int) -> str:
    if number == 0:
        return "each " if rule.frequency == "MONTHLY" else ""
    return f"the {_ORDINALS[number]} " if number in _ORDINALS else f"the {_ORDINALS[-number]} last "


def _month_day(day: int) -> str:
    if day > 0:
        return f"day {day}"
    return "the last day" if day == -1 else f"the {_th(-day)} last day"


def _th(number: int) -> str:
    ending = "th" if 10 < number < 14 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _listing(words: list[str], last: str = "and") -> str:
    return f"{', '.join(words[:-1])} {last} {words[-1]}" if len(words) > 1 else words[0]
