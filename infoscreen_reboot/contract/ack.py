"""What a client answers to a command."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from infoscreen_reboot.contract import wire
from infoscreen_reboot.contract.wire import SCHEMA_VERSION, Check, ContractError

MAX_BYTES = 8192
_MAX_MESSAGE = 1000


class AckStatus(StrEnum):
    ACCEPTED = "accepted"
    EXECUTION_STARTED = "execution_started"
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def is_terminal(self) -> bool:
        return self in (AckStatus.COMPLETED, AckStatus.FAILED)


class ErrorCode(StrEnum):
    INVALID_SCHEMA = "invalid_schema"
    WRONG_CLIENT = "wrong_client"
    UNSUPPORTED_ACTION = "unsupported_action"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    CLOCK_UNSYNCHRONIZED = "clock_unsynchronized"
    RETAINED = "retained"
    INVALID_SIGNATURE = "invalid_signature"
    BUSY = "busy"
    LOCKOUT = "lockout"
    NOT_AUTHORIZED = "not_authorized"
    INHIBITED = "inhibited"
    HELPER_UNAVAILABLE = "helper_unavailable"
    HELPER_FAILED = "helper_failed"
    EXECUTION_TIMEOUT = "execution_timeout"
    INTERRUPTED = "interrupted"
    NOT_REBOOTED = "not_rebooted"
    POST_CHECK_FAILED = "post_check_failed"
    INTERNAL_ERROR = "internal_error"


@dataclass(frozen=True, slots=True)
class Ack:
    """One answer; `timestamp` is when the fact came about, `boot_id` the boot in which it did."""

    command_id: str
    client_uuid: str
    status: AckStatus
    timestamp: datetime
    boot_id: str
    error_code: ErrorCode | None = None
    error_message: str | None = None


def encode(ack: Ack) -> bytes:
    """The bytes to send; an overlong message is cut."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "command_id": ack.command_id,
        "client_uuid": ack.client_uuid,
        "status": ack.status,
        "error_code": ack.error_code,
        "error_message": ack.error_message[:_MAX_MESSAGE] if ack.error_message is not None else None,
        "timestamp": wire.format_time(ack.timestamp),
        "boot_id": ack.boot_id,
    }
    return wire.encode(content)


def parse(payload: bytes, check: Check = wire.check) -> Ack:
    """Read an ack. Raises ContractError naming field and rule. `check` judges it by its schema."""
    content = wire.decode(payload, MAX_BYTES)
    command_id = content.get("command_id")
    if not isinstance(command_id, str) or not wire.is_uuid(command_id):
        raise ContractError("command_id", "is missing or not a UUID")
    check("ack", content, command_id.lower())
    return Ack(
        command_id=command_id.lower(),
        client_uuid=content["client_uuid"].lower(),
        status=AckStatus(content["status"]),
        timestamp=wire.parse_time(content["timestamp"], "timestamp", command_id),
        boot_id=content["boot_id"].lower(),
        error_code=ErrorCode(content["error_code"]) if content["error_code"] is not None else None,
        error_message=content["error_message"],
    )
