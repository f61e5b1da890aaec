"""When a maintenance window is open: days, a local start time, a duration and a zone."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True, slots=True)
class Window:
    """Open from `start` local time on each of `days` (0 is Monday) for `duration`, at most a week.

    `duration` is real time: a window of 4 h has 4 h in the night in which the clocks change, too.
    """

    days: frozenset[int]
    start: time
    duration: timedelta
    zone: str

    def __str__(self) -> str:
        days = ",".join(DAYS[day] for day in sorted(self.days))
        return f"{days} {self.start:%H:%M} {self.duration.total_seconds() / 3600:g}h {self.zone}"


def opens_at(windows: Iterable[Window], now: datetime) -> datetime | None:
    """The moment from which one of the windows is open: not after `now` if one is open now. None without windows."""
    return min((next_openings(window, now, 1)[0][0] for window in windows), default=None)


def next_openings(window: Window, now: datetime, count: int) -> list[tuple[datetime, datetime]]:
    """Start and end, in UTC, of the next `count` openings that are not over; the first may have begun."""
    zone = ZoneInfo(window.zone)
    # A week before, for what is still open, and a day more for the zone.
    day = now.astimezone(zone).date() - timedelta(days=8)
    found: list[tuple[datetime, datetime]] = []
    while len(found) < count:
        start = start_on(day, window.start, zone)
        if day.weekday() in window.days and start + window.duration > now:
            found.append((start, start + window.duration))
        day += timedelta(days=1)
    return found


def zone_named(name: str) -> ZoneInfo:
    """Raises ValueError for a zone that the system's tzdata does not have."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, OSError, ValueError):  # OSError: a folder of zones, or a name too long for a file
        raise ValueError(f"there is no time zone {name[:64]!r} in the system's tzdata") from None


def start_on(day: date, at: time, zone: ZoneInfo) -> datetime:
    """In UTC. A time that a night skips counts as that much later; of one that comes twice the first (PEP 495)."""
    return datetime.combine(day, at, zone).astimezone(UTC)
