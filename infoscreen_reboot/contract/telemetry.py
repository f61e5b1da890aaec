"""What a client says of itself."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from infoscreen_reboot.contract import wire


class PresenceReason(StrEnum):
    CONNECTED = "connected"
    CONNECTION_LOST = "connection_lost"
    STOPPED = "stopped"
    REBOOTING = "rebooting"
    SHUTTING_DOWN = "shutting_down"

    @property
    def state(self) -> str:
        return "online" if self is PresenceReason.CONNECTED else "offline"


@dataclass(frozen=True, slots=True)
class Status:
    """Online or offline, and why; `session_id` tells an old session's late will from the present one."""

    reason: PresenceReason
    client_uuid: str
    session_id: str
    boot_id: str
    timestamp: datetime


def encode_status(status: Status) -> bytes:
    content = {
        "state": status.reason.state,
        "reason": status.reason,
        "client_uuid": status.client_uuid,
        "session_id": status.session_id,
        "boot_id": status.boot_id,
        "timestamp": wire.format_time(status.timestamp),
    }
    wire.check("status", content)
    return wire.encode(content)
