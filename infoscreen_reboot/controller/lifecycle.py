"""Every state of a command as the controller knows it, every fact that moves it on, and when a step is overdue.

- TABLE lists which fact leads from which state to which. `learn` is the only way to apply one. A fact for which there
  is no row changes no state: it came late, or twice.
- A state's rank only grows. So acks may come in any order, twice, or with one of them missing: the end is the same.
- A verdict is given once. What is heard afterwards is kept beside it as late truth, and never instead of it.
- What a fact says is filled in even if the state had moved on before it came: the old boot id of an
  `execution_started` that came after its `completed` is still the proof of that reboot.
- Nothing here asks a clock. `at` is when the controller heard of a fact, by the clock of its database. What a client's
  own clock says is shown, and decides nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from infoscreen_reboot.contract.ack import AckStatus, ErrorCode
from infoscreen_reboot.contract.command import Action


class State(StrEnum):
    """In the order of their rank; all verdicts have the same."""

    QUEUED = "queued"
    PUBLISHED = "published"
    ACCEPTED = "accepted"
    EXECUTION_STARTED = "execution_started"
    AWAITING_RECONNECT = "awaiting_reconnect"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    BLOCKED_SAFETY = "blocked_safety"

    @property
    def rank(self) -> int:
        return _RANK[self]

    @property
    def is_verdict(self) -> bool:
        return self.rank == VERDICT_RANK


OPEN = (State.QUEUED, State.PUBLISHED, State.ACCEPTED, State.EXECUTION_STARTED, State.AWAITING_RECONNECT)
VERDICTS = tuple(state for state in State if state not in OPEN)
VERDICT_RANK = len(OPEN)
_RANK = {state: rank for rank, state in enumerate(OPEN)} | dict.fromkeys(VERDICTS, VERDICT_RANK)


class Step(StrEnum):
    """What a command waits for; the value is how an operator reads it."""

    SEND = "to be sent"
    FIRST_ACK = "first answer of the client"
    START = "start of the execution"
    DOWN = "host going down"
    BACK = "client back on MQTT"
    LAST_ACK = "last answer of the client"


class Proof(StrEnum):
    """What proves that a `completed` reboot was one."""

    BOOT_ID = "boot_id"
    MOCK = "mock"
    UNHEARD = "unheard"


@dataclass(frozen=True, slots=True)
class Limits:
    """How long each step may take. The figures are those of docs/contract.md, "Operational defaults".

    `down` is what the client promises, and `word` the time that its own `execution_timeout` may take to reach us:
    without it, our verdict would always come just before the client's.
    """

    first_ack: timedelta = timedelta(seconds=60)
    start: timedelta = timedelta(seconds=10)
    down: timedelta = timedelta(seconds=60)
    word: timedelta = timedelta(seconds=15)
    back: timedelta = timedelta(seconds=150)
    last_ack: timedelta = timedelta(seconds=180)


@dataclass(frozen=True, slots=True)
class Record:
    """All that is known of the course of one command. Times are UTC and the controller's.

    `sent_at` is when its bytes were first given to the broker, `published_at` when the broker's PUBACK came. `down_at`
    and `back_at` are of its reboot. `ended_boot_id` is the boot id of the ack that ended it. `late` is the status of
    the newest ack that came after the verdict and says something else.
    """

    action: Action
    expires_at: datetime
    state: State = State.QUEUED
    sent_at: datetime | None = None
    published_at: datetime | None = None
    accepted_at: datetime | None = None
    started_at: datetime | None = None
    started_boot_id: str | None = None
    down_at: datetime | None = None
    back_at: datetime | None = None
    back_boot_id: str | None = None
    ended_at: datetime | None = None
    ended_boot_id: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    overdue: Step | None = None
    late: AckStatus | None = None
    late_at: datetime | None = None

    @property
    def is_heard_of(self) -> bool:
        """Whether the client has ever said anything about it."""
        return self.accepted_at is not None or self.started_at is not None

    @property
    def proof(self) -> Proof | None:
        """Only for a reboot that is completed. BOOT_ID is the only one that counts as a reboot."""
        if self.state is not State.COMPLETED or self.action is not Action.REBOOT_HOST:
            return None
        if self.started_boot_id is None:
            return Proof.UNHEARD
        return Proof.MOCK if self.ended_boot_id == self.started_boot_id else Proof.BOOT_ID


@dataclass(frozen=True, slots=True)
class Sent:
    """The bytes were given to the broker; from now on it cannot be taken back."""

    at: datetime


@dataclass(frozen=True, slots=True)
class Published:
    """The broker's PUBACK. `reason` is its reason code, if it says more than yes (16: nobody listens)."""

    at: datetime
    reason: int | None = None


@dataclass(frozen=True, slots=True)
class Acked:
    """The client's answer."""

    at: datetime
    status: AckStatus
    boot_id: str
    code: ErrorCode | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """How things stand with the client's connection: the newest word of its presence, not each one."""

    at: datetime
    is_online: bool
    boot_id: str


@dataclass(frozen=True, slots=True)
class Overdue:
    """The step for which the command waits has taken too long."""

    at: datetime
    step: Step


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A person or a brake took it back; the event says who, and why."""

    at: datetime
    by: str | None = None
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Blocked:
    """A rule refused it, and waiting was not asked for."""

    at: datetime
    rule: str
    why: str


Fact = Sent | Published | Acked | Seen | Overdue | Cancelled | Blocked
Guard = Callable[[Record, Fact], bool]


def _accepted(record: Record, fact: Fact) -> bool:
    return isinstance(fact, Acked) and fact.status is AckStatus.ACCEPTED


def _started(record: Record, fact: Fact) -> bool:
    return isinstance(fact, Acked) and fact.status is AckStatus.EXECUTION_STARTED


def _completed(record: Record, fact: Fact) -> bool:
    return isinstance(fact, Acked) and fact.status is AckStatus.COMPLETED


def _failed(record: Record, fact: Fact) -> bool:
    return isinstance(fact, Acked) and fact.status is AckStatus.FAILED and not _has_forgotten(record, fact)


def _has_forgotten(record: Record, ack: Acked) -> bool:
    """Whether a client that was installed anew, or lost its store, answers for what it once executed.

    After `execution_started` a client fails a command in another boot for one reason only: what must run after a boot
    does not. Any other failure there means that it does not know the command any more: it says `expired`, or its root
    helper refuses to execute it a second time.
    """
    is_another_boot = record.started_boot_id is not None and ack.boot_id != record.started_boot_id
    return is_another_boot and ack.status is AckStatus.FAILED and ack.code is not ErrorCode.POST_CHECK_FAILED


def _gone(record: Record, fact: Fact) -> bool:
    return isinstance(fact, Seen) and (not fact.is_online or fact.boot_id != record.started_boot_id)


def _unsent(record: Record, fact: Fact) -> bool:
    return record.sent_at is None


@dataclass(frozen=True, slots=True)
class Row:
    state: State
    fact: type[Fact]
    to: State
    guard: Guard | None = None


def _rows() -> tuple[Row, ...]:
    early = (State.QUEUED, State.PUBLISHED)
    before_start = (*early, State.ACCEPTED)
    return (
        Row(State.QUEUED, Cancelled, State.CANCELLED, _unsent),
        Row(State.QUEUED, Blocked, State.BLOCKED_SAFETY, _unsent),
        Row(State.QUEUED, Published, State.PUBLISHED),
        *(Row(state, Acked, State.ACCEPTED, _accepted) for state in early),
        *(Row(state, Acked, State.EXECUTION_STARTED, _started) for state in before_start),
        Row(State.EXECUTION_STARTED, Seen, State.AWAITING_RECONNECT, _gone),
        *(Row(state, Acked, State.COMPLETED, _completed) for state in OPEN),
        *(Row(state, Acked, State.FAILED, _failed) for state in OPEN),
        *(Row(state, Overdue, State.EXPIRED if state in early else State.TIMED_OUT) for state in OPEN),
    )


TABLE = _rows()


def learn(record: Record, fact: Fact) -> Record:
    """The record after `fact`. If its state is another one, this fact moved it."""
    row = next((row for row in TABLE if _fits(row, record, fact)), None)
    if row is not None:
        record = _entered(replace(record, state=row.to), fact)
    return _filled_in(record, fact)


def _fits(row: Row, record: Record, fact: Fact) -> bool:
    return row.state is record.state and isinstance(fact, row.fact) and (row.guard is None or row.guard(record, fact))


def _entered(record: Record, fact: Fact) -> Record:
    """What only the fact that gave the verdict may write."""
    if not record.state.is_verdict:
        return record
    match fact:
        case Acked():
            code = str(fact.code) if fact.code is not None else None
            record = replace(record, ended_boot_id=fact.boot_id, error_code=code, error_message=fact.message)
            if record.started_boot_id not in (None, fact.boot_id) and record.back_at is None:
                # Its presence may be heard in the same moment, and nobody looks at that after the verdict.
                down_at = record.down_at or fact.at
                record = replace(record, down_at=down_at, back_at=fact.at, back_boot_id=fact.boot_id)
        case Overdue():
            record = replace(record, overdue=fact.step)
        case Blocked():
            record = replace(record, error_code=fact.rule, error_message=fact.why)
    return replace(record, ended_at=fact.at)


def _filled_in(record: Record, fact: Fact) -> Record:
    """What a fact says, whatever the state: the first word on each thing counts."""
    match fact:
        case Sent() if record.sent_at is None:
            return replace(record, sent_at=fact.at)
        case Published() if record.published_at is None:
            return replace(record, published_at=fact.at)
        case Acked(status=AckStatus.ACCEPTED) if record.accepted_at is None:
            return replace(record, accepted_at=fact.at)
        case Acked(status=AckStatus.EXECUTION_STARTED) if record.started_at is None:
            return replace(record, started_at=fact.at, started_boot_id=fact.boot_id)
        case Acked() if _is_late_truth(record, fact):
            return replace(record, late=fact.status, late_at=fact.at)
        case Seen() if record.state in (State.EXECUTION_STARTED, State.AWAITING_RECONNECT):
            return _with_presence(record, fact)
    return record


def _is_late_truth(record: Record, ack: Acked) -> bool:
    """A verdict stands, and the client's last word is another one."""
    if not ack.status.is_terminal or not record.state.is_verdict or record.late is ack.status:
        return False
    return record.state.value != ack.status.value and not _has_forgotten(record, ack)


def _with_presence(record: Record, seen: Seen) -> Record:
    if seen.boot_id != record.started_boot_id:
        down_at = record.down_at or seen.at
        if seen.is_online and record.back_at is None:
            return replace(record, down_at=down_at, back_at=seen.at, back_boot_id=seen.boot_id)
        return replace(record, down_at=down_at)
    if seen.is_online:  # only its connection was lost: the host has not gone down
        return replace(record, down_at=None)
    return replace(record, down_at=record.down_at or seen.at)


def deadline(record: Record, limits: Limits) -> tuple[Step, datetime] | None:
    """For what the command waits, and until when; None if it has its verdict."""
    match record.state:
        case State.QUEUED if record.sent_at is None:
            return Step.SEND, record.expires_at
        case State.QUEUED | State.PUBLISHED:
            return Step.FIRST_ACK, record.expires_at + limits.first_ack
        case State.ACCEPTED:
            return Step.START, record.expires_at + limits.start
        case State.EXECUTION_STARTED | State.AWAITING_RECONNECT:
            return _deadline_of_execution(record, limits)
    return None


def _deadline_of_execution(record: Record, limits: Limits) -> tuple[Step, datetime] | None:
    if record.started_at is None:
        raise ValueError(f"state {record.state} without the time of execution_started")
    if record.back_at is not None:
        # A broker may have lost that answer, and before `expires_at` nobody may ask for it again (`dispatch.may_ask`).
        return Step.LAST_ACK, max(record.back_at + limits.last_ack, record.expires_at + limits.first_ack)
    if record.down_at is None:
        return Step.DOWN, record.started_at + limits.down + limits.word
    if record.action is Action.SHUTDOWN_HOST:  # nobody expects it back
        return Step.LAST_ACK, record.down_at + limits.last_ack
    return Step.BACK, record.down_at + limits.back


def diagram() -> str:
    """TABLE as a Mermaid state diagram, for docs/controller.md."""
    lines = ["stateDiagram-v2", "    [*] --> queued"]
    for row in TABLE:
        guard = f" [{row.guard.__name__.strip('_').replace('_', ' ')}]" if row.guard else ""
        lines.append(f"    {row.state} --> {row.to}: {row.fact.__name__}{guard}")
    lines += [f"    {state} --> [*]" for state in VERDICTS]
    return "\n".join(lines) + "\n"
