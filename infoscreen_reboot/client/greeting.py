"""How this client introduces itself to the broker: the id of its session, and the will that it leaves there."""

from datetime import datetime

from infoscreen_reboot.contract.telemetry import PresenceReason, Status, encode_status
from infoscreen_reboot.contract.topics import Topics
from infoscreen_reboot.mqtt.messages import Message


def client_id(client_uuid: str) -> str:
    return f"infoscreen-{client_uuid}"


def will(client_uuid: str, session_id: str, boot_id: str, now: datetime) -> Message:
    return status(PresenceReason.CONNECTION_LOST, client_uuid, session_id, boot_id, now)


def status(reason: PresenceReason, client_uuid: str, session_id: str, boot_id: str, now: datetime) -> Message:
    """Retained: whoever subscribes later sees it, too."""
    content = encode_status(Status(reason, client_uuid, session_id, boot_id, now))
    return Message(Topics(client_uuid).status, content, qos=1, retain=True)
