"""A client as its administrator configures it and its controller sees it, whatever kind of machine it is."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from tools.lab.mosquitto import Broker, Message

AGENT, HELPER = "infoscreen-simclient.service", "infoscreen-reboot-helper.service"
SETTINGS = "/etc/infoscreen-reboot/agent.env.d/50-test.env"
CLOCK_FLAG = "/run/systemd/timesync/synchronized"
CLOCK_SNIPPET = "/etc/tmpfiles.d/lab-clock.conf"


class Client:
    """The part that a container and a virtual machine have in common; each brings its own power and files."""

    BROKER_HOST = "127.0.0.1"

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.uuid = str(uuid.uuid4())
        self.settings: dict[str, str] = {}

    @property
    def boot_id(self) -> str:
        """Of the present or last boot."""
        raise NotImplementedError

    def write(self, inside: str, text: str, mode: int = 0o644) -> None:
        """A file of the machine."""
        raise NotImplementedError

    # As an administrator.

    def configure(self, **variables: str | None) -> None:
        """Adds to the agent's settings; None takes one away. The agent reads them when it starts."""
        merged: dict[str, str | None] = {**self.settings, **variables}
        self.settings = {name: value for name, value in merged.items() if value is not None}
        self.write(SETTINGS, "".join(f'{name}="{value}"\n' for name, value in self.settings.items()), 0o640)

    def configure_for_broker(self) -> None:
        """What a client needs to know to reach the broker beside it."""
        self.configure(MQTT_BROKER=self.BROKER_HOST, MQTT_TLS="no", CLIENT_UUID=self.uuid)

    # As the controller.

    def topic(self, tail: str) -> str:
        return f"infoscreen/{self.uuid}/{tail}"

    def command(self, action: str = "reboot_host", **changes: Any) -> dict[str, Any]:
        """A valid command for this client, not sent yet; `changes` as in new_command()."""
        return new_command(self.uuid, action, **changes)

    def send(
        self,
        command: dict[str, Any] | bytes,
        tail: str = "commands",
        retain: bool = False,
        properties: Sequence[tuple[str, str]] = (),
    ) -> None:
        payload = command if isinstance(command, bytes) else json.dumps(command).encode()
        self.broker.publish(self.topic(tail), payload, retain=retain, properties=properties)

    def sent_at(self, command_id: str) -> float:
        """When the broker passed a command on, in seconds of the wall clock."""
        return self.hear("commands", 10, command_id=command_id).heard_at

    def acks(self, command_id: str | None = None, tail: str = "commands/ack") -> list[Message]:
        """What was acknowledged so far, in order; every command's if none is named."""
        return [ack for ack in self.broker.on(self.topic(tail)) if command_id in (None, ack.json["command_id"])]

    def statuses(self, command_id: str) -> list[str]:
        return [str(ack.json["status"]) for ack in self.acks(command_id)]

    def wait_ack(self, command_id: str, status: str, timeout_s: float = 60) -> dict[str, Any]:
        message = self.hear("commands/ack", timeout_s, command_id=command_id, status=status)
        ack: dict[str, Any] = message.json
        return ack

    def wait_online(self, timeout_s: float = 60, after: int = 0) -> Message:
        """Waits until the agent of the present boot has said that it is online."""
        return self.hear("status", timeout_s, after, state="online", boot_id=self.boot_id)

    def hear(self, tail: str, timeout_s: float, after: int = 0, **members: str) -> Message:
        """The first message on that topic of this client whose members have those values, heard already or in time."""

        def is_it(message: Message) -> bool:
            if message.topic != self.topic(tail) or not message.payload:
                return False
            found = message.json
            return all(found[name] == value for name, value in members.items())

        return self.broker.wait_for(is_it, timeout_s, after)


def new_command(client_uuid: str, action: str = "reboot_host", **changes: Any) -> dict[str, Any]:
    """A valid command issued now, for four minutes; `changes` replace members, and `...` leaves a member out."""
    now = datetime.now(UTC)
    members: dict[str, Any] = {
        "schema_version": "1.0",
        "command_id": str(uuid.uuid4()),
        "client_uuid": client_uuid,
        "action": action,
        "issued_at": timestamp(now),
        "expires_at": timestamp(now + timedelta(minutes=4)),
        "requested_by": "lab",
        "reason": None,
    }
    return {name: value for name, value in (members | changes).items() if value is not ...}


def timestamp(moment: datetime) -> str:
    """As the contract writes it, to the second."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
