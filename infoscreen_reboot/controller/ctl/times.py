"""Moments and durations, as people write and read them. A moment is shown in local time and with its zone, always."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, time, timedelta
from typing import Any

_DURATION = re.compile(
    r"(?:(?P<days>\d{1,4})d)?(?:(?P<hours>\d{1,4})h)?(?:(?P<minutes>\d{1,5})m(?:in)?)?(?:(?P<seconds>\d{1,6})s)?",
    re.ASCII,
)
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})", re.ASCII)


def parse_when(text: str, now: datetime) -> datetime:
    """`30m`, `1h30m`, `04:00` (the next one), `2026-11-27T04:00` (local) or with a zone. Raises ValueError."""
    duration = _duration(text)
    if duration is not None:
        return now + duration
    clock = _CLOCK.fullmatch(text.strip())
    if clock is not None:
        return _next(time(int(clock[1]), int(clock[2])), now)
    return datetime.fromisoformat(text.strip()).astimezone(UTC)


def parse_span(text: str) -> timedelta:
    """`30m`, `1h30m`, `90s`. Raises ValueError."""
    duration = _duration(text)
    if duration is None:
        raise ValueError(f"{text!r} is no duration")
    return duration


def _duration(text: str) -> timedelta | None:
    found = _DURATION.fullmatch(text.strip())
    if found is None or not any(found.groups()):
        return None
    return timedelta(**{unit: int(number) for unit, number in found.groupdict(default="0").items()})


def _next(at: time, now: datetime) -> datetime:
    """Added to the local date and not to the moment: in the night of a clock change a day has not 24 hours."""
    today = now.astimezone().date()
    moment = datetime.combine(today, at).astimezone(UTC)
    if moment <= now:
        moment = datetime.combine(today + timedelta(days=1), at).astimezone(UTC)
    return moment


def as_sent(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()


def local(text: str) -> str:
    """A moment of the API by the clocks of its place, which the server has reckoned."""
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M %z}"


def read(text: str) -> datetime:
    """A moment of the API."""
    return datetime.fromisoformat(text).astimezone()


def clock(text: str | None, now: datetime) -> str:
    """The time of a moment; with its date, unless that is today."""
    if text is None:
        return "-"
    moment = read(text)
    form = "%H:%M:%S %Z" if moment.date() == now.astimezone().date() else "%Y-%m-%d %H:%M %Z"
    return moment.strftime(form)


def stamp(text: str) -> str:
    """A moment in a log: always with its date."""
    return read(text).strftime("%Y-%m-%d %H:%M:%S %Z")


def until(text: str | None, now: datetime) -> str:
    """When something opens or ends, and how far that is."""
    if text is None:
        return "not known"
    left = read(text) - now
    far = f"in {span(left)}" if left > timedelta(0) else "now"
    return f"{clock(text, now)} ({far})"


def opens(hold: Mapping[str, Any], now: datetime) -> str:
    """When a hold ends: by the clock of whoever reads this, and by that of the client where it shows another time."""
    at, there, zone = hold.get("opens_at"), hold.get("opens_at_local"), hold.get("zone")
    words = until(at, now)
    if at is None or there is None or zone is None:
        return words
    here, moment = read(at), datetime.fromisoformat(there)
    if here.utcoffset() == moment.utcoffset():
        return words
    form = "%H:%M" if moment.date() == here.date() else "%Y-%m-%d %H:%M"
    return f"{words}, at the client {moment.strftime(form)} {zone}"


def left(text: str, now: datetime) -> str:
    return span(max(read(text) - now, timedelta(0)))


def ago(text: str | None, now: datetime) -> str:
    if text is None:
        return "never"
    return f"{span(max(now - read(text), timedelta(0)))} ago"


def span(duration: timedelta) -> str:
    """One number and one unit: whoever wants more looks at the moment."""
    seconds = int(duration.total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{round(seconds / size)} {unit}"
    return f"{seconds} s"


def elapsed(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
