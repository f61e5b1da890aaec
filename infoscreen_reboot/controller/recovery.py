"""What is done about a client that did not come back from its reboot: one step after the other, and then a person.

- TABLE lists which fact leads from which state to which. `learn` is the only way to apply one. A fact for which there
  is no row changes nothing.
- Each step is there for at least COOLDOWN before the next one begins. Whatever it is at, the ladder ends when the
  client is back.
- A step is left out where it can do nothing, and the record says why.
- `needs_person` is no end: a client that comes back by itself ends it, and so does somebody who says so. Nor is
  `held_back`: it goes on where it was when that is allowed.
- Nothing here asks a clock. Times are the controller's, by the clock of its database.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

COOLDOWN = timedelta(seconds=60)
# For so long the first step may wait for the command to expire.
LONGEST_COOLDOWN = timedelta(minutes=4)
# A switch that cannot be reached is tried again and again; a person is told meanwhile.
POWER_WAIT = timedelta(minutes=10)


class Step(StrEnum):
    """What can be tried, in this order."""

    ASK = "ask"
    WATCHDOG = "watchdog"
    POWER = "power"


ORDER: tuple[Step, ...] = (Step.ASK, Step.WATCHDOG, Step.POWER)
DEFAULT: tuple[Step, ...] = (Step.ASK, Step.WATCHDOG)
_DOES = {
    Step.ASK: "ask the client again",
    Step.WATCHDOG: "wait for its hardware watchdog",
    Step.POWER: "switch its power off and on",
}


class State(StrEnum):
    COOLING = "cooling"
    ASKING = "asking"
    WATCHDOG = "waiting_for_watchdog"
    POWER = "cycling_power"
    BOOTING = "waiting_for_client"
    HELD_BACK = "held_back"
    NEEDS_PERSON = "needs_person"
    BACK = "back"
    STOPPED = "stopped"

    @property
    def is_over(self) -> bool:
        return self in OVER


OVER = (State.BACK, State.STOPPED)
# In which the controller still does something by itself.
AT_WORK = tuple(state for state in State if state not in (*OVER, State.NEEDS_PERSON, State.HELD_BACK))
OPEN = (*AT_WORK, State.HELD_BACK, State.NEEDS_PERSON)
_STATE_OF = {Step.ASK: State.ASKING, Step.WATCHDOG: State.WATCHDOG, Step.POWER: State.POWER}
_BEFORE_A_STEP = (State.COOLING, State.ASKING, State.WATCHDOG)


@dataclass(frozen=True, slots=True)
class Tried:
    """A step, and what came of it; None while it is under way."""

    at: datetime
    step: Step
    outcome: str | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """`left` are the steps that are still to come; `since` is when the state was entered.

    `boots_within` is how long the client may take to be back, once it has power or is reset. `asks_from` is when the
    command has expired: before that, a client that has lost its records would execute it again. `cycle_id` is that of
    the power cycle. `words` is the newest of what happened, as one sentence.
    """

    began_at: datetime
    since: datetime
    left: tuple[Step, ...]
    boots_within: timedelta
    asks_from: datetime
    state: State = State.COOLING
    tried: tuple[Tried, ...] = ()
    cycle_id: int | None = None
    words: str = ""
    ended_at: datetime | None = None

    @property
    def next_step(self) -> Step | None:
        return self.left[0] if self.left else None


@dataclass(frozen=True, slots=True)
class Due:
    """The time of this state is over. `cycle_id` is that of the power cycle, if one was begun for the next step."""

    at: datetime
    cycle_id: int | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """The next step can do nothing for this client."""

    at: datetime
    why: str


@dataclass(frozen=True, slots=True)
class AskedAgain:
    """The bytes go out once more: the answer to the first ones could not have been heard."""

    at: datetime


@dataclass(frozen=True, slots=True)
class PowerDone:
    """How the power cycle ended."""

    at: datetime
    is_on_again: bool
    words: str


@dataclass(frozen=True, slots=True)
class Locked:
    """Reboots do not help this client."""

    at: datetime
    why: str


@dataclass(frozen=True, slots=True)
class Held:
    """A plan keeps recovery away from the client, until somebody allows it."""

    at: datetime
    why: str


@dataclass(frozen=True, slots=True)
class Allowed:
    """Nothing keeps it back any more."""

    at: datetime


@dataclass(frozen=True, slots=True)
class Back:
    """The client is there. `how` says by what that is known."""

    at: datetime
    how: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """Somebody has ended it."""

    at: datetime
    by: str
    why: str


Fact = Due | Skipped | AskedAgain | PowerDone | Locked | Held | Allowed | Back | Stopped
Guard = Callable[[Record, Fact], bool]


def _ask_is_next(record: Record, fact: Fact) -> bool:
    return record.next_step is Step.ASK


def _watchdog_is_next(record: Record, fact: Fact) -> bool:
    return record.next_step is Step.WATCHDOG


def _power_is_next(record: Record, fact: Fact) -> bool:
    return record.next_step is Step.POWER


def _nothing_is_left(record: Record, fact: Fact) -> bool:
    return not record.left


def _on_again(record: Record, fact: Fact) -> bool:
    return isinstance(fact, PowerDone) and fact.is_on_again


def _failed(record: Record, fact: Fact) -> bool:
    return isinstance(fact, PowerDone) and not fact.is_on_again


@dataclass(frozen=True, slots=True)
class Row:
    state: State
    fact: type[Fact]
    to: State
    guard: Guard | None = None


TABLE: tuple[Row, ...] = (
    Row(State.COOLING, Due, State.ASKING, _ask_is_next),
    Row(State.ASKING, AskedAgain, State.ASKING),
    *(Row(state, Due, State.WATCHDOG, _watchdog_is_next) for state in (State.COOLING, State.ASKING)),
    *(Row(state, Due, State.POWER, _power_is_next) for state in _BEFORE_A_STEP),
    Row(State.POWER, PowerDone, State.BOOTING, _on_again),
    *(Row(state, Due, State.NEEDS_PERSON, _nothing_is_left) for state in _BEFORE_A_STEP),
    Row(State.POWER, PowerDone, State.NEEDS_PERSON, _failed),
    *(Row(state, Due, State.NEEDS_PERSON) for state in (State.POWER, State.BOOTING)),
    *(Row(state, Locked, State.NEEDS_PERSON) for state in AT_WORK),
    # A power cycle goes on to its end.
    *(Row(state, Held, State.HELD_BACK) for state in (*_BEFORE_A_STEP, State.BOOTING)),
    Row(State.HELD_BACK, Allowed, State.COOLING),
    *(Row(state, Back, State.BACK) for state in OPEN),
    *(Row(state, Stopped, State.STOPPED) for state in OPEN),
)


def begin(
    at: datetime, steps: Sequence[Step], has_watchdog: bool, boots_within: timedelta, expires_at: datetime
) -> Record:
    """The ladder of a client whose site allows `steps`; its command expires at `expires_at`."""
    useless: dict[Step, str] = {}
    if not has_watchdog:
        useless[Step.WATCHDOG] = "left out: the client has reported none"
    if expires_at > at + LONGEST_COOLDOWN:
        useless[Step.ASK] = "left out: the command can still be executed"
    left = tuple(step for step in ORDER if step in steps and step not in useless)
    tried = tuple(Tried(at, step, useless[step]) for step in ORDER if step in steps and step in useless)
    record = Record(at, at, left, boots_within, expires_at, tried=tried)
    return replace(record, words=f"the client did not come back; next: {_next_words(record)}")


def learn(record: Record, fact: Fact) -> Record:
    """The record after `fact`; the same one if the fact does not concern its state."""
    if isinstance(fact, Skipped):
        return _without_next_step(record, fact)
    row = next((row for row in TABLE if _fits(row, record, fact)), None)
    if row is None:
        return record
    record = replace(record, tried=_with_outcome(record, fact))
    record = replace(record, state=row.to, since=fact.at)
    if isinstance(fact, Due) and row.to in _STATE_OF.values():
        record = _begun(record, fact)
    record = replace(record, words=_words(record, fact))
    return replace(record, ended_at=fact.at) if row.to.is_over else record


def _fits(row: Row, record: Record, fact: Fact) -> bool:
    return row.state is record.state and isinstance(fact, row.fact) and (row.guard is None or row.guard(record, fact))


def _without_next_step(record: Record, fact: Skipped) -> Record:
    if record.state not in _BEFORE_A_STEP or record.next_step is None:
        return record
    tried = (*record.tried, Tried(fact.at, record.next_step, f"left out: {fact.why}"))
    return replace(record, left=record.left[1:], tried=tried)


def _begun(record: Record, due: Due) -> Record:
    step = record.left[0]
    if step is Step.POWER and due.cycle_id is None:
        raise ValueError("power is the next step, and no power cycle was begun for it")
    tried = (*record.tried, Tried(due.at, step))
    return replace(record, left=record.left[1:], tried=tried, cycle_id=due.cycle_id or record.cycle_id)


def _with_outcome(record: Record, fact: Fact) -> tuple[Tried, ...]:
    """What came of the step under way; the power cycle is over only when the client had its time to boot."""
    number = next((number for number, one in enumerate(record.tried) if one.outcome is None), None)
    match fact:
        case Back():
            outcome: str | None = "the client came back"
        case Due() if record.state is State.ASKING:
            outcome = "no answer"
        case Due() if record.state is State.POWER:
            outcome = f"no word of it within {_minutes(POWER_WAIT)}"
        case Due() if record.state is State.BOOTING:
            outcome = "done; the client did not come"
        case Due():
            outcome = "the client did not come"
        case PowerDone(is_on_again=False):
            outcome = f"failed: {fact.words}"
        case Locked() | Held() | Stopped():
            outcome = "ended before its time"
        case _:
            outcome = None
    if number is None or outcome is None:
        return record.tried
    done = replace(record.tried[number], outcome=outcome)
    return (*record.tried[:number], done, *record.tried[number + 1 :])


def _words(record: Record, fact: Fact) -> str:
    match fact:
        case Due() if record.state is State.NEEDS_PERSON:
            return "nothing has brought the client back"
        case Due() | AskedAgain():
            return f"{_DOES[record.tried[-1].step]}; next: {_next_words(record)}"
        case PowerDone(is_on_again=True):
            return f"its power is on again ({fact.words}); the client may take {_minutes(record.boots_within)} to boot"
        case PowerDone():
            return f"cannot switch its power off and on: {fact.words}"
        case Locked():
            return f"reboots do not help: {fact.why}"
        case Held():
            return f"held back: {fact.why}"
        case Allowed():
            return f"it is allowed again; next: {_next_words(record)}"
        case Back():
            return fact.how
        case Stopped():
            return f"stopped by {fact.by}: {fact.why}"
    raise ValueError(f"{fact} moves nothing")


def _next_words(record: Record) -> str:
    return _DOES[record.left[0]] if record.left else "call a person"


def _minutes(span: timedelta) -> str:
    seconds = span.total_seconds()
    return f"{seconds:.0f} s" if seconds < 300 else f"{seconds / 60:.0f} minutes"


def deadline(record: Record) -> datetime | None:
    """When the time of this state is over; None if it waits for a person, or is over."""
    match record.state:
        case State.COOLING if record.next_step is Step.ASK:
            return max(record.since + COOLDOWN, record.asks_from)
        case State.COOLING | State.ASKING:
            return record.since + COOLDOWN
        case State.POWER:
            return record.since + POWER_WAIT
        case State.WATCHDOG | State.BOOTING:
            return record.since + record.boots_within
    return None


@dataclass(frozen=True, slots=True)
class Subject:
    """The client and its command, as a person who goes there has to know them."""

    client_uuid: str
    name: str | None
    note: str | None
    labels: Mapping[str, str]
    heard_at: datetime | None
    boot_id: str | None
    command_id: str
    ordered_at: datetime | None = None
    ordered_by: str | None = None
    reason: str | None = None

    @property
    def title(self) -> str:
        return self.name or self.client_uuid


def ticket(record: Record, subject: Subject) -> str:
    """What can be pasted into a ticket, for somebody who has never seen this controller."""
    lines = [
        f"{subject.title} does not come back and needs a person.",
        f"Diagnosis: {record.words}.",
        f"Client: {subject.client_uuid}",
    ]
    if subject.labels:
        lines.append("Labels: " + ", ".join(f"{key}={value}" for key, value in sorted(subject.labels.items())))
    if subject.note:
        lines.append(f"Note: {subject.note}")
    reason = f" ({subject.reason})" if subject.reason else ""
    ordered = f"ordered by {subject.ordered_by} at {_time(subject.ordered_at)}{reason}, " if subject.ordered_at else ""
    lines += [
        f"Reboot: {ordered}command {subject.command_id}",
        f"Last heard: {_time(subject.heard_at) if subject.heard_at else 'never'}, boot {subject.boot_id or 'unknown'}",
        "Tried:" if record.tried else "Tried: nothing",
        *(f"- {_time(one.at)} {_DOES[one.step]}: {one.outcome or 'under way'}" for one in in_order(record.tried)),
        "To do: check power and network cable, see what the screen shows, and switch it off and on. The controller"
        " notices by itself when it is back.",
    ]
    return "\n".join(lines)


def in_order(tried: Sequence[Tried]) -> list[Tried]:
    """What is left out is known before the steps in front of it are done."""
    return sorted(tried, key=lambda one: ORDER.index(one.step))


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def diagram() -> str:
    """TABLE as a Mermaid state diagram, for docs/controller.md."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.COOLING}"]
    for row in TABLE:
        guard = f" [{row.guard.__name__.strip('_').replace('_', ' ')}]" if row.guard else ""
        lines.append(f"    {row.state} --> {row.to}: {row.fact.__name__}{guard}")
    lines += [f"    {state} --> [*]" for state in OVER]
    return "\n".join(lines) + "\n"
