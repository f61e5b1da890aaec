"""Every state of a command, every event, and which steps are legal.

- A command starts as NEW, which is never stored, and ends once, as COMPLETED or FAILED.
- `step` is the only way from one state to the next; an event that TABLE does not list raises and changes nothing.
- If the guard of a listed event says no, the record stays as it is: `AgentStarted` in the same boot, for example,
  changes nothing.
- Facts (boot id, deadline, error) arrive inside events; nothing here asks a clock.
- No row leads back from EXECUTING: a command that was given to the helper once is never given to it again.
- Another boot id proves a reboot. It is completed only when everything that must run on the host runs: so CHECKING
  comes in between.
- `Mocked` is the only way in which a reboot is COMPLETED without another boot. Only a canary's agent, whose executor is
  a mock, sends it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from infoscreen_reboot.contract.ack import AckStatus, ErrorCode
from infoscreen_reboot.contract.command import Action


class State(StrEnum):
    NEW = "new"
    HELD = "held"
    ACCEPTED = "accepted"
    EXECUTING = "executing"
    CHECKING = "checking"
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def is_terminal(self) -> bool:
        return self in (State.COMPLETED, State.FAILED)

    @property
    def ack_status(self) -> AckStatus | None:
        """The ack that the controller gets when a command enters this state; None if it gets none."""
        return _ACK_STATUS.get(self)


_ACK_STATUS = {
    State.ACCEPTED: AckStatus.ACCEPTED,
    State.EXECUTING: AckStatus.EXECUTION_STARTED,
    State.COMPLETED: AckStatus.COMPLETED,
    State.FAILED: AckStatus.FAILED,
}


@dataclass(frozen=True, slots=True)
class Record:
    """All that is known of one command. Times ending in `_s` are seconds on the boot clock of the boot that set them.

    `keep_until_s` is of the wall clock: until then the command could be executed if we forgot it and it came again.
    """

    command_id: str
    received_boot_id: str
    command: bytes
    action: Action | None = None
    state: State = State.NEW
    decide_by_s: float | None = None
    expires_at_s: float | None = None
    started_boot_id: str | None = None
    down_by_s: float | None = None
    came_by_transitional: bool = False
    ack: bytes | None = None
    keep_until_s: float | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """The clock cannot be trusted yet; the command waits for it until `decide_by_s`."""

    decide_by_s: float


@dataclass(frozen=True, slots=True)
class Accepted:
    """Policy said yes; execution may start until `expires_at_s`."""

    expires_at_s: float


@dataclass(frozen=True, slots=True)
class ExecutionStarted:
    """Execution starts now, in boot `boot_id`; the host is to be down by `down_by_s`."""

    boot_id: str
    down_by_s: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The command ends here with an error."""

    code: ErrorCode
    message: str


@dataclass(frozen=True, slots=True)
class GoingDown:
    """logind has announced the shutdown that the helper ordered."""


@dataclass(frozen=True, slots=True)
class AgentStarted:
    """The agent started, in boot `boot_id`."""

    boot_id: str


@dataclass(frozen=True, slots=True)
class ChecksPassed:
    """Everything that must run on the host after a boot is running."""


@dataclass(frozen=True, slots=True)
class Mocked:
    """Nothing was executed, and the settings say that this counts as done."""


Event = Held | Accepted | ExecutionStarted | Failed | GoingDown | AgentStarted | ChecksPassed | Mocked
Guard = Callable[[Record, Event], bool]


def _another_boot_than_received(record: Record, event: Event) -> bool:
    return isinstance(event, AgentStarted) and event.boot_id != record.received_boot_id


def _rebooting(record: Record, event: Event) -> bool:
    return record.action is Action.REBOOT_HOST


def _shutting_down(record: Record, event: Event) -> bool:
    return record.action is Action.SHUTDOWN_HOST


def _another_boot_after_reboot(record: Record, event: Event) -> bool:
    return _rebooting(record, event) and isinstance(event, AgentStarted) and event.boot_id != record.started_boot_id


def _another_boot_after_shutdown(record: Record, event: Event) -> bool:
    return _shutting_down(record, event) and isinstance(event, AgentStarted) and event.boot_id != record.started_boot_id


@dataclass(frozen=True, slots=True)
class Row:
    """One legal transition. `codes` are the errors that `Failed` may carry, or the one that `AgentStarted` sets."""

    state: State
    event: type[Event]
    to: State
    guard: Guard | None = None
    codes: tuple[ErrorCode, ...] = ()


_REFUSALS = (
    ErrorCode.RETAINED,
    ErrorCode.WRONG_CLIENT,
    ErrorCode.UNSUPPORTED_ACTION,
    ErrorCode.EXPIRED,
    ErrorCode.NOT_YET_VALID,
    ErrorCode.BUSY,
)

TABLE = (
    Row(State.NEW, Held, State.HELD),
    Row(State.NEW, Accepted, State.ACCEPTED),
    Row(
        State.NEW,
        Failed,
        State.FAILED,
        codes=(ErrorCode.INVALID_SCHEMA, ErrorCode.INVALID_SIGNATURE, *_REFUSALS, ErrorCode.INTERNAL_ERROR),
    ),
    Row(State.HELD, Accepted, State.ACCEPTED),
    Row(
        State.HELD,
        Failed,
        State.FAILED,
        # The last two are possible after a restart with other settings.
        codes=(
            ErrorCode.CLOCK_UNSYNCHRONIZED,
            ErrorCode.EXPIRED,
            ErrorCode.NOT_YET_VALID,
            ErrorCode.UNSUPPORTED_ACTION,
            ErrorCode.WRONG_CLIENT,
        ),
    ),
    Row(State.HELD, AgentStarted, State.FAILED, _another_boot_than_received, (ErrorCode.INTERRUPTED,)),
    Row(State.ACCEPTED, ExecutionStarted, State.EXECUTING),
    Row(State.ACCEPTED, Failed, State.FAILED, codes=(ErrorCode.EXPIRED,)),
    Row(State.ACCEPTED, AgentStarted, State.FAILED, _another_boot_than_received, (ErrorCode.INTERRUPTED,)),
    Row(
        State.EXECUTING,
        Failed,
        State.FAILED,
        codes=(
            # The agent waited for someone else's shutdown before it asked the helper, and that shutdown was taken back.
            ErrorCode.EXPIRED,
            ErrorCode.LOCKOUT,
            ErrorCode.NOT_AUTHORIZED,
            ErrorCode.INHIBITED,
            ErrorCode.HELPER_UNAVAILABLE,
            ErrorCode.HELPER_FAILED,
            ErrorCode.EXECUTION_TIMEOUT,
            ErrorCode.NOT_REBOOTED,
        ),
    ),
    Row(State.EXECUTING, GoingDown, State.COMPLETED, _shutting_down),
    Row(State.EXECUTING, Mocked, State.COMPLETED, _rebooting),
    Row(State.EXECUTING, AgentStarted, State.CHECKING, _another_boot_after_reboot),
    Row(State.EXECUTING, AgentStarted, State.COMPLETED, _another_boot_after_shutdown),
    Row(State.CHECKING, ChecksPassed, State.COMPLETED),
    Row(State.CHECKING, Failed, State.FAILED, codes=(ErrorCode.POST_CHECK_FAILED,)),
    # The agent or the host was restarted during the checks: they begin again.
    Row(State.CHECKING, AgentStarted, State.CHECKING),
)

_INTERRUPTED = "the host went down before execution began; nothing was executed"


class IllegalEvent(Exception):
    """An event that TABLE does not list for the record's state; the record is unchanged."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The ack that the controller has to get."""

    status: AckStatus
    code: ErrorCode | None = None
    message: str | None = None


def step(record: Record, event: Event) -> tuple[Record, Reply | None]:
    """The record after `event`, and the reply that is owed to the controller, if any. Raises IllegalEvent."""
    rows = [row for row in TABLE if row.state is record.state and isinstance(event, row.event)]
    if not rows:
        raise IllegalEvent(f"cannot apply {type(event).__name__} to {record.command_id} in state {record.state}")
    row = next((row for row in rows if row.guard is None or row.guard(record, event)), None)
    if row is None:
        return record, None
    code: ErrorCode | None = None
    message: str | None = None
    match event:
        case Held(decide_by_s):
            record = replace(record, decide_by_s=decide_by_s)
        case Accepted(expires_at_s):
            record = replace(record, expires_at_s=expires_at_s)
        case ExecutionStarted(boot_id, down_by_s):
            record = replace(record, started_boot_id=boot_id, down_by_s=down_by_s)
        case Failed():
            if event.code not in row.codes:
                raise IllegalEvent(f"cannot fail {record.command_id} as {event.code} in state {record.state}")
            code, message = event.code, event.message
        case Mocked():
            record = replace(record, started_boot_id=None)  # nothing was started: this is not the cause of any boot
        case AgentStarted() if row.codes:
            code, message = row.codes[0], _INTERRUPTED
    status = row.to.ack_status
    return replace(record, state=row.to), Reply(status, code, message) if status is not None else None


def diagram() -> str:
    """TABLE as a Mermaid state diagram, for docs/architecture.md."""
    lines = ["stateDiagram-v2", "    [*] --> new"]
    for row in TABLE:
        guard = f" [{row.guard.__name__.strip('_').replace('_', ' ')}]" if row.guard else ""
        lines.append(f"    {row.state} --> {row.to}: {row.event.__name__}{guard}")
    lines += [f"    {state} --> [*]" for state in State if state.is_terminal]
    return "\n".join(lines) + "\n"
