"""What a client says of itself."""

from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from infoscreen_reboot.contract import wire
from infoscreen_reboot.contract.ack import AckStatus
from infoscreen_reboot.contract.command import Action

MAX_LOG_LINES, _MAX_LOG_LINE = 20, 500
# Lines of four bytes a character, and all else with room to spare.
_MAX_ALERT = 65_536
_MAX_REASON = 500


class PresenceReason(StrEnum):
    CONNECTED = "connected"
    CONNECTION_LOST = "connection_lost"
    STOPPED = "stopped"
    REBOOTING = "rebooting"
    SHUTTING_DOWN = "shutting_down"

    @property
    def state(self) -> str:
        return "online" if self is PresenceReason.CONNECTED else "offline"


class Executor(StrEnum):
    """Who carries commands out; with MOCK nobody does."""

    HELPER = "helper"
    MOCK = "mock"


class Cause(StrEnum):
    """Why the boot before this one ended."""

    COMMAND = "command"
    LOCAL = "local"
    POWER_LOSS = "power_loss"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Status:
    """Online or offline, and why; `session_id` tells an old session's late will from the present one."""

    reason: PresenceReason
    client_uuid: str
    session_id: str
    boot_id: str
    timestamp: datetime


@dataclass(frozen=True, slots=True)
class BrokerConnection:
    broker_reachable: bool
    reconnect_count: int
    last_disconnect_at: datetime | None
    last_disconnect_reason: str | None


@dataclass(frozen=True, slots=True)
class LastCommand:
    command_id: str
    status: AckStatus
    timestamp: datetime


@dataclass(frozen=True, slots=True)
class Commands:
    """`in_progress` is the id of the command that is not terminal yet.

    `bad_signatures` is None, and not sent, where commands need no signature.
    """

    in_progress: str | None
    last: LastCommand | None
    outbox: int
    unreadable: int
    conflicts: int
    bad_signatures: int | None = None


@dataclass(frozen=True, slots=True)
class Lockout:
    """How many of `limit` reboots the last `window_s` seconds have seen."""

    used: int
    limit: int
    window_s: int
    unlocks_at: datetime | None


@dataclass(frozen=True, slots=True)
class Capabilities:
    actions: tuple[Action, ...]
    hardware_watchdog: bool
    post_boot_checks: tuple[str, ...]
    recovery_tier: int


@dataclass(frozen=True, slots=True)
class StateDirectory:
    """Where the client writes down what it does.

    `writable` is False while it cannot, and keeps its state in memory only; `set_aside` counts the files that could not
    be used and still lie there.
    """

    writable: bool
    disk_full: bool
    set_aside: int


@dataclass(frozen=True, slots=True)
class Health:
    client_uuid: str
    timestamp: datetime
    boot_id: str
    uptime_s: int
    agent_version: str
    executor: Executor
    broker_connection: BrokerConnection
    commands: Commands
    lockout: Lockout | None
    clock_synchronized: bool
    capabilities: Capabilities
    state: StateDirectory


@dataclass(frozen=True, slots=True)
class BootReport:
    client_uuid: str
    boot_id: str
    previous_boot_id: str | None
    cause: Cause
    command_id: str | None
    clean_shutdown: bool
    boot_started_at: datetime
    reported_at: datetime
    previous_boot_last_seen_at: datetime | None


@dataclass(frozen=True, slots=True)
class FailureAlert:
    """systemd gave up on `unit`; `exit_status` is the exit code, the signal's name, or None if no process ran."""

    client_uuid: str
    unit: str
    result: str
    exit_status: int | str | None
    restarts: int
    boot_id: str
    timestamp: datetime
    last_log_lines: tuple[str, ...]


def encode_status(status: Status) -> bytes:
    return _encode({"state": status.reason.state, **asdict(status)})


def encode_health(health: Health) -> bytes:
    """An overlong reason is cut."""
    content = {"schema_version": wire.SCHEMA_VERSION, **asdict(health)}
    if health.commands.bad_signatures is None:
        del content["commands"]["bad_signatures"]
    if (reason := health.broker_connection.last_disconnect_reason) is not None:
        content["broker_connection"]["last_disconnect_reason"] = reason[:_MAX_REASON]
    return _encode(content)


def encode_boot_report(report: BootReport) -> bytes:
    return _encode(asdict(report))


def encode_failure_alert(alert: FailureAlert) -> bytes:
    """Of too many log lines the last are sent, of an overlong line its beginning."""
    lines = [line[:_MAX_LOG_LINE] for line in alert.last_log_lines[-MAX_LOG_LINES:]]
    return _encode({"event": "service_failed", **asdict(alert), "last_log_lines": lines})


def shorten_failure_alert(payload: bytes, most_bytes: int) -> bytes:
    """The same alert with as many of its last log lines as fit; without any if it is too large all the same."""
    if len(payload) <= most_bytes:
        return payload
    content = wire.decode(payload, _MAX_ALERT)
    lines = content["last_log_lines"]
    while lines and len(payload) > most_bytes:
        lines.pop(0)
        payload = _encode(content)
    return payload


def is_failure_alert(payload: bytes) -> bool:
    """Whether these bytes, read from a file, may be sent as one."""
    try:
        wire.check("service_failed", wire.decode(payload, _MAX_ALERT))
    except wire.ContractError:
        return False
    return True


def parse_status(payload: bytes, check: wire.Check = wire.check) -> Status:
    """Raises ContractError, as all of these. `check` judges by the schema."""
    content = _decoded("status", payload, check)
    return Status(
        reason=PresenceReason(content["reason"]),
        client_uuid=content["client_uuid"].lower(),
        session_id=content["session_id"].lower(),
        boot_id=content["boot_id"].lower(),
        timestamp=wire.parse_time(content["timestamp"], "timestamp"),
    )


def parse_boot_report(payload: bytes, check: wire.Check = wire.check) -> BootReport:
    content = _decoded("boot", payload, check)
    return BootReport(
        client_uuid=content["client_uuid"].lower(),
        boot_id=content["boot_id"].lower(),
        previous_boot_id=_lower(content["previous_boot_id"]),
        cause=Cause(content["cause"]),
        command_id=_lower(content["command_id"]),
        clean_shutdown=content["clean_shutdown"],
        boot_started_at=wire.parse_time(content["boot_started_at"], "boot_started_at"),
        reported_at=wire.parse_time(content["reported_at"], "reported_at"),
        previous_boot_last_seen_at=_time(content, "previous_boot_last_seen_at"),
    )


def parse_failure_alert(payload: bytes, check: wire.Check = wire.check) -> FailureAlert:
    content = _decoded("service_failed", payload, check)
    return FailureAlert(
        client_uuid=content["client_uuid"].lower(),
        unit=content["unit"],
        result=content["result"],
        exit_status=content["exit_status"],
        restarts=content["restarts"],
        boot_id=content["boot_id"].lower(),
        timestamp=wire.parse_time(content["timestamp"], "timestamp"),
        last_log_lines=tuple(content["last_log_lines"]),
    )


def parse_health(payload: bytes, check: wire.Check = wire.check) -> Health:
    """A client that is older than `state` sends none: all is well with it as far as it knows."""
    content = _decoded("health", payload, check)
    connection, commands, capabilities = content["broker_connection"], content["commands"], content["capabilities"]
    last, lockout = commands["last"], content["lockout"]
    return Health(
        client_uuid=content["client_uuid"].lower(),
        timestamp=wire.parse_time(content["timestamp"], "timestamp"),
        boot_id=content["boot_id"].lower(),
        uptime_s=content["uptime_s"],
        agent_version=content["agent_version"],
        executor=Executor(content["executor"]),
        broker_connection=BrokerConnection(
            connection["broker_reachable"],
            connection["reconnect_count"],
            _time(connection, "last_disconnect_at"),
            connection["last_disconnect_reason"],
        ),
        commands=Commands(
            in_progress=_lower(commands["in_progress"]),
            last=None if last is None else _last_command(last),
            outbox=commands["outbox"],
            unreadable=commands["unreadable"],
            conflicts=commands["conflicts"],
            bad_signatures=commands.get("bad_signatures"),
        ),
        lockout=None
        if lockout is None
        else Lockout(lockout["used"], lockout["limit"], lockout["window_s"], _time(lockout, "unlocks_at")),
        clock_synchronized=content["clock_synchronized"],
        capabilities=Capabilities(
            actions=tuple(Action(action) for action in capabilities["actions"]),
            hardware_watchdog=capabilities["hardware_watchdog"],
            post_boot_checks=tuple(capabilities["post_boot_checks"]),
            recovery_tier=capabilities["recovery_tier"],
        ),
        state=_state(content.get("state", {"writable": True, "disk_full": False, "set_aside": 0})),
    )


def _decoded(name: str, payload: bytes, check: wire.Check) -> dict[str, Any]:
    content = wire.decode(payload, _MAX_ALERT)
    check(name, content, None)
    return content


def _state(content: dict[str, Any]) -> StateDirectory:
    return StateDirectory(content["writable"], content["disk_full"], content["set_aside"])


def _last_command(content: dict[str, Any]) -> LastCommand:
    moment = wire.parse_time(content["timestamp"], "commands.last.timestamp")
    return LastCommand(content["command_id"].lower(), AckStatus(content["status"]), moment)


def _time(content: dict[str, Any], name: str) -> datetime | None:
    return None if content[name] is None else wire.parse_time(content[name], name)


def _lower(text: str | None) -> str | None:
    return None if text is None else text.lower()


def _encode(content: dict[str, Any]) -> bytes:
    return wire.encode(_on_the_wire(content))


def _on_the_wire(value: Any) -> Any:
    match value:
        case dict():
            return {name: _on_the_wire(part) for name, part in value.items()}
        case list() | tuple():
            return [_on_the_wire(part) for part in value]
        case datetime():
            return wire.format_time(value)
    return value
