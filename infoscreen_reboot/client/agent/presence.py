"""Writes the retained status of this client: birth, will and farewell of each session with the broker."""

import uuid

from infoscreen_reboot.client import greeting
from infoscreen_reboot.client.agent.ports import Clock
from infoscreen_reboot.contract.telemetry import PresenceReason
from infoscreen_reboot.mqtt.messages import Message
from infoscreen_reboot.mqtt.session import Presence


class StatusWriter:
    """Writes the status messages of one client; a new session id with each `open_session`."""

    def __init__(self, client_uuid: str, clock: Clock) -> None:
        self._client_uuid = client_uuid
        self._clock = clock
        self._session_id = str(uuid.uuid4())

    def open_session(self) -> Presence:
        self._session_id = str(uuid.uuid4())
        return Presence(will=self.write(PresenceReason.CONNECTION_LOST), birth=self.write(PresenceReason.CONNECTED))

    def write(self, reason: PresenceReason) -> Message:
        return greeting.status(reason, self._client_uuid, self._session_id, self._clock.boot_id(), self._clock.now())
