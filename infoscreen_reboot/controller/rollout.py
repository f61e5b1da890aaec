"""Every state of a rollout, and every fact that moves it on.

- TABLE lists which fact leads from which state to which. `learn` is the only way to apply one. A fact for which there
  is no row changes nothing.
- What has stopped goes on only if a person says so: no fact of a client, and no time, leads out of `paused` or
  `stopped`.
- After a resume the brake counts anew, if it was the brake that paused or stopped: what had failed by then was accepted
  by whoever resumed. Else what it has counted stays counted.
- Nothing here asks a clock: `at` is the time of the transaction in which the fact is applied.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum


class State(StrEnum):
    """In the order of a rollout that goes well; then those in which a person is asked; then the ends."""

    PLANNED = "planned"
    RUNNING = "running"
    SETTLING = "settling"
    PAUSING = "pausing"
    PAUSED = "paused"
    STOPPED = "stopped"
    FINISHED = "finished"
    ABORTED = "aborted"
    ROLLED_BACK = "rolled_back"

    @property
    def is_over(self) -> bool:
        return self in OVER


MOVING = (State.PLANNED, State.RUNNING, State.SETTLING, State.PAUSING)
ASKING = (State.PAUSED, State.STOPPED)
OVER = (State.FINISHED, State.ABORTED, State.ROLLED_BACK)


@dataclass(frozen=True, slots=True)
class Record:
    """`stage` is the number of the present one, 0 before the first. `run` grows with each resume; the brake counts the
    verdicts of the runs from `counts_from` on. `due_at` is when time moves it on. `is_asking` says that the brake
    paused it, and not a person. `recovery_off`: nobody power-cycles its clients until a person allows it again.
    """

    state: State = State.PLANNED
    stage: int = 0
    run: int = 1
    counts_from: int = 1
    due_at: datetime | None = None
    is_asking: bool = False
    recovery_off: bool = False
    why: str | None = None
    changed_by: str | None = None
    changed_at: datetime | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Begun:
    """The next stage is given out."""

    at: datetime


@dataclass(frozen=True, slots=True)
class StageEnded:
    """Each client of the stage has its verdict. `until` is when what shows itself late should have done so."""

    at: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Settled:
    """Nothing has shown itself; the next stage begins at `until`."""

    at: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Completed:
    """The last stage has settled."""

    at: datetime


@dataclass(frozen=True, slots=True)
class Asked:
    """The brake asks a person, or a person has paused it: `by` is who."""

    at: datetime
    why: str
    by: str | None = None


@dataclass(frozen=True, slots=True)
class Tripped:
    """The brake stops it."""

    at: datetime
    why: str


@dataclass(frozen=True, slots=True)
class Resumed:
    at: datetime
    by: str


@dataclass(frozen=True, slots=True)
class Aborted:
    at: datetime
    by: str


@dataclass(frozen=True, slots=True)
class RolledBack:
    at: datetime
    by: str


@dataclass(frozen=True, slots=True)
class RecoveryAllowed:
    """A person has looked: its clients may be recovered again. No state changes."""

    at: datetime
    by: str


Fact = Begun | StageEnded | Settled | Completed | Asked | Tripped | Resumed | Aborted | RolledBack | RecoveryAllowed


@dataclass(frozen=True, slots=True)
class Row:
    state: State
    fact: type[Fact]
    to: State


def _rows() -> tuple[Row, ...]:
    begun = State.RUNNING, State.SETTLING, State.PAUSING
    return (
        Row(State.PLANNED, Begun, State.RUNNING),
        Row(State.RUNNING, StageEnded, State.SETTLING),
        Row(State.SETTLING, Settled, State.PAUSING),
        Row(State.SETTLING, Completed, State.FINISHED),
        Row(State.PAUSING, Begun, State.RUNNING),
        *(Row(state, Asked, State.PAUSED) for state in begun),
        *(Row(state, Tripped, State.STOPPED) for state in (*MOVING, State.PAUSED)),
        *(Row(state, Resumed, State.RUNNING) for state in ASKING),
        *(Row(state, Aborted, State.ABORTED) for state in (*MOVING, *ASKING)),
        *(Row(state, RolledBack, State.ROLLED_BACK) for state in State if state is not State.ROLLED_BACK),
    )


TABLE = _rows()


def learn(record: Record, fact: Fact) -> Record:
    """The record after `fact`; the same one if there is no row for it."""
    if isinstance(fact, RecoveryAllowed):
        return replace(record, recovery_off=False) if record.recovery_off else record
    row = next((row for row in TABLE if row.state is record.state and isinstance(fact, row.fact)), None)
    if row is None:
        return record
    moved = replace(record, state=row.to, due_at=None, changed_at=fact.at, changed_by=None)
    match fact:
        case Begun():
            return replace(moved, stage=record.stage + 1, why=None)
        case StageEnded() | Settled():
            return replace(moved, due_at=fact.until, why=None)
        case Completed():
            return replace(moved, ended_at=fact.at, why=None)
        case Asked():
            return replace(moved, why=fact.why, changed_by=fact.by, is_asking=fact.by is None)
        case Tripped():
            return replace(moved, why=fact.why, is_asking=False, recovery_off=True)
        case Resumed():
            run = record.run + 1
            is_anew = record.is_asking or record.state is State.STOPPED
            return replace(
                moved,
                run=run,
                counts_from=run if is_anew else record.counts_from,
                is_asking=False,
                recovery_off=False,
                why=None,
                changed_by=fact.by,
            )
        case Aborted() | RolledBack():
            return replace(moved, is_asking=False, changed_by=fact.by, ended_at=record.ended_at or fact.at)


def diagram() -> str:
    """TABLE as a Mermaid state diagram, for docs/controller.md."""
    lines = ["stateDiagram-v2", "    [*] --> planned"]
    lines += [f"    {row.state} --> {row.to}: {row.fact.__name__}" for row in TABLE]
    lines += [f"    {state} --> [*]" for state in OVER]
    return "\n".join(lines) + "\n"
