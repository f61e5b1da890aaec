"""What a controller asks of a client, and the strict door it comes in by."""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from infoscreen_reboot.contract import wire
from infoscreen_reboot.contract.wire import SCHEMA_VERSION, ContractError

MAX_BYTES = 4096
MAX_VALIDITY = timedelta(hours=24)
_CANONICAL = json.JSONEncoder(sort_keys=True)


class Action(StrEnum):
    REBOOT_HOST = "reboot_host"
    SHUTDOWN_HOST = "shutdown_host"


@dataclass(frozen=True, slots=True)
class Command:
    """A command that keeps every rule of the contract; UUIDs in lower case, times in UTC."""

    command_id: str
    client_uuid: str
    action: Action
    issued_at: datetime
    expires_at: datetime
    requested_by: str | int | None = None
    reason: str | None = None


def parse(payload: bytes) -> Command:
    """Read a command.

    Raises ContractError naming field and rule; its `command_id` is set when the id could be read.
    """
    content = wire.decode(payload, MAX_BYTES)
    command_id = content.get("command_id")
    if not isinstance(command_id, str) or not wire.is_uuid(command_id):
        raise ContractError("command_id", "is missing or not a UUID")
    # RFC 9562, section 4: UUIDs are written in lower case and read in either.
    command_id = command_id.lower()
    wire.check("command", content, command_id)
    issued_at, expires_at = _times(content, command_id)
    return Command(
        command_id=command_id,
        client_uuid=content["client_uuid"].lower(),
        action=Action(content["action"]),
        issued_at=issued_at,
        expires_at=expires_at,
        requested_by=content.get("requested_by"),
        reason=content.get("reason"),
    )


def encode(command: Command) -> bytes:
    """The bytes to send; ContractError where `parse` would refuse the times, which no type holds together."""
    content: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "command_id": command.command_id,
        "client_uuid": command.client_uuid,
        "action": command.action,
        "issued_at": wire.format_time(command.issued_at),
        "expires_at": wire.format_time(command.expires_at),
        "requested_by": command.requested_by,
        "reason": command.reason,
    }
    _times(content, command.command_id)
    return wire.encode(content)


def _times(content: dict[str, Any], command_id: str) -> tuple[datetime, datetime]:
    """When it was issued and when it expires. Raises ContractError for what no schema can say of the two."""
    issued_at = wire.parse_time(content["issued_at"], "issued_at", command_id)
    expires_at = wire.parse_time(content["expires_at"], "expires_at", command_id)
    if expires_at <= issued_at:
        raise ContractError("expires_at", "must be later than issued_at", command_id)
    if expires_at - issued_at > MAX_VALIDITY:
        raise ContractError("expires_at", "must be at most 24 h after issued_at", command_id)
    return issued_at, expires_at


def say_the_same(one: bytes, other: bytes) -> bool:
    """Whether two payloads differ in white space and the order of members at most.

    With one `command_id` and different content they are a conflict. Raises ContractError where `parse` would not have
    read an id either.
    """
    try:
        return one == other or _canonical(one) == _canonical(other)
    except RecursionError:  # nested deeper than the encoder goes, and than any command
        return False


def _canonical(payload: bytes) -> str:
    return _CANONICAL.encode(wire.decode(payload, MAX_BYTES))
