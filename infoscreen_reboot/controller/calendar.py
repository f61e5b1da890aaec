"""When the nights of a schedule are, in each zone, and what becomes of one: `due`, then run, missed or left out.

- A night is a local day in a zone. It begins at the schedule's time on that day: a time that the night skips counts as
  that much later, of a time that comes twice the first counts.
- Commands go out until the window is over, or for as long as a client can still be back in time, if that is shorter.
- A night runs if somebody looks at it before that end. After it, it is `missed`, and is never made up for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from infoscreen_reboot.controller import recurrence
from infoscreen_reboot.controller.recurrence import Recurrence
from infoscreen_reboot.controller.windows import start_on, zone_named

# Labels of a client: its own zone, and the place whose zone it has otherwise.
ZONE_LABEL, SITE_LABEL = "tz", "site"
# A controller that was down for longer does not list each night that it has missed before that.
LOOKS_BACK = timedelta(days=60)
_HALF_DAY = timedelta(hours=12)


class NightState(StrEnum):
    DUE = "due"
    RUNNING = "running"
    MISSED = "missed"
    SKIPPED = "skipped"
    ENDED = "ended"


class Turn(StrEnum):
    """What can happen to a night."""

    OPENED = "opened"
    PASSED = "passed"
    LEFT_OUT = "left_out"
    CLOSED = "closed"


TABLE = {
    (NightState.DUE, Turn.OPENED): NightState.RUNNING,
    (NightState.DUE, Turn.PASSED): NightState.MISSED,
    (NightState.DUE, Turn.LEFT_OUT): NightState.SKIPPED,
    (NightState.RUNNING, Turn.CLOSED): NightState.ENDED,
}


def turned(state: NightState, turn: Turn) -> NightState:
    """The state after it. Raises ValueError if that cannot happen in this state."""
    if (state, turn) not in TABLE:
        raise ValueError(f"a night that is {state} cannot be {turn}")
    return TABLE[state, turn]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a schedule says about time. `anchor` is the day from which intervals count, `since` when it was last
    changed: no night that has begun before that is of this plan.

    `takes` is how long a client may be on its way: so long before `back_by` the last command goes out.
    """

    rule: Recurrence
    start: time
    window: timedelta
    spread: timedelta
    back_by: timedelta
    anchor: date
    since: datetime
    takes: timedelta

    @property
    def sending(self) -> timedelta:
        """How long after its begin commands go out."""
        return min(self.window, self.back_by - self.takes)


@dataclass(frozen=True, slots=True)
class Night:
    """One local day in one zone. Times are UTC; no command goes out from `ends_at` on."""

    day: date
    zone: str
    starts_at: datetime
    ends_at: datetime
    back_by: datetime

    @property
    def span(self) -> tuple[datetime, datetime]:
        """From its start until nothing more is to come of it."""
        return self.starts_at, max(self.ends_at, self.back_by)


def fault(plan: Plan) -> str | None:
    """Why such a schedule cannot do what it says; None if it can."""
    minutes = plan.takes // timedelta(minutes=1) + 1
    if plan.sending < timedelta(minutes=1):
        return f"back_by_min: a client may take {minutes} min until it is back, and somebody has to go first"
    if plan.spread >= plan.sending:
        end = plan.sending // timedelta(minutes=1)
        return f"spread_min: commands go out for {end} min (window_min, and back_by_min less {minutes}); spread is more"
    return None


def night(plan: Plan, day: date, zone: ZoneInfo, name: str | None = None) -> Night:
    """`name` is what the clients call their zone, if the night is reckoned in another one."""
    starts_at = start_on(day, plan.start, zone)
    return Night(day, name or zone.key, starts_at, starts_at + plan.sending, starts_at + plan.back_by)


def nights(plan: Plan, zone: ZoneInfo, first: date, last: date, name: str | None = None) -> Iterator[Night]:
    """Those of the days `first` to `last` that the plan has, the earliest first."""
    for day in recurrence.days(plan.rule, plan.anchor, first, last):
        found = night(plan, day, zone, name)
        if found.starts_at >= plan.since:
            yield found


def following(plan: Plan, zone: ZoneInfo, now: datetime, count: int) -> list[Night]:
    """The next ones that have not begun; fewer if there are no more within about five years."""
    found: list[Night] = []
    first = now.astimezone(zone).date() - timedelta(days=1)
    for days in (14, 90, 400, 1900):
        last = first + timedelta(days=days)
        found = [each for each in nights(plan, zone, first, last) if each.starts_at > now][:count]
        if len(found) == count:
            break
    return found


def begun(plan: Plan, zone: ZoneInfo, looked_at: datetime, now: datetime, name: str | None = None) -> list[Night]:
    """Those that have begun and were not over when somebody last looked."""
    seen = max(min(looked_at, now), now - LOOKS_BACK)
    # A night may be over two days after the day that it is called by.
    first = seen.astimezone(zone).date() - timedelta(days=3)
    last = now.astimezone(zone).date() + timedelta(days=1)
    return [each for each in nights(plan, zone, first, last, name) if each.starts_at <= now and each.ends_at > seen]


def turn_of(found: Night, now: datetime, *, is_paused: bool, skips: Collection[date]) -> Turn | None:
    """What becomes of a night that nobody has decided about; None while it has not begun."""
    if now < found.starts_at:
        return None
    if found.day in skips or is_paused:
        return Turn.LEFT_OUT
    return Turn.OPENED if now < found.ends_at else Turn.PASSED


def member_turn(schedule_id: str, occurrence: str, uuid: str, begin: datetime, spread: timedelta) -> datetime:
    """When this client's command goes out: anywhere in `spread`, and at the same place whoever asks again."""
    seconds = int(spread.total_seconds())
    if seconds <= 0:
        return begin
    digest = hashlib.sha256(f"{schedule_id}/{occurrence}/{uuid}".encode()).digest()
    return begin + timedelta(seconds=int.from_bytes(digest[:8], "big") % seconds)


def zone_of(labels: Mapping[str, str], sites: Mapping[str, str], fleet: str) -> str:
    """The zone of a client: its own, else that of its site, else the fleet's."""
    return labels.get(ZONE_LABEL) or sites.get(labels.get(SITE_LABEL, "")) or fleet


def known(name: str) -> ZoneInfo | None:
    """None for a zone that the system's tzdata does not have."""
    try:
        return zone_named(name)
    except ValueError:
        return None


def clock_change(starts_at: datetime, ends_at: datetime, zone: ZoneInfo) -> str | None:
    """How the clocks change in this time or in the 12 hours before it; None where they do not."""
    low, high = starts_at - _HALF_DAY, ends_at
    step = timedelta(minutes=15)
    while low < high:
        before, after = _offset(low, zone), _offset(low + step, zone)
        if before != after:
            return _named(before, after, _change_at(low, low + step, zone) + before)
        low += step
    return None


def _offset(moment: datetime, zone: ZoneInfo) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta()


def _change_at(low: datetime, high: datetime, zone: ZoneInfo) -> datetime:
    """The second from which on the other offset holds."""
    old = _offset(low, zone)
    while high - low > timedelta(seconds=1):
        middle = (low + (high - low) / 2).replace(microsecond=0)
        low, high = (middle, high) if _offset(middle, zone) == old else (low, middle)
    return high.astimezone(UTC)


def _named(before: timedelta, after: timedelta, local: datetime) -> str:
    way = "forward" if after > before else "back"
    minutes = abs(after - before) // timedelta(minutes=1)
    return f"clocks go {way} by {minutes} min at {local:%H:%M}"
