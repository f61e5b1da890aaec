"""When a calendar freezes the fleet: events that touch each other are one freeze, so what waits knows until when."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

_LONGEST_WHY = 300


@dataclass(frozen=True, slots=True)
class Event:
    """Nothing is sent from `begins_at` on, until `until`."""

    begins_at: datetime
    until: datetime
    why: str

    @property
    def key(self) -> str:
        """By which it is known again when the calendar is read anew: somebody may have ended it by hand meanwhile.

        The beginning of one that has begun long ago may not be in what is read any more; its end is.
        """
        return f"{self.until.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def merged(events: Iterable[Event]) -> list[Event]:
    """In their order, none of them touching another one. What lasts for no time is left out."""
    found: list[Event] = []
    for event in sorted(events, key=lambda each: (each.begins_at, each.until)):
        if event.until <= event.begins_at:
            continue
        if not found or event.begins_at > found[-1].until:
            found.append(event)
            continue
        last = found[-1]
        found[-1] = Event(last.begins_at, max(last.until, event.until), _both(last.why, event.why))
    return found


def _both(first: str, second: str) -> str:
    if second in first.split(", "):
        return first
    both = f"{first}, {second}"
    return both if len(both) <= _LONGEST_WHY else first
