"""A client as the fleet has it: Debian with our package on it, its broker, and the controller's view of both."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tools.broker import Broker, Message
from tools.container import POWER_CUT, POWERED_OFF, REBOOTED, Container
from tools.roots import digest, larder, layer, machine_root

__all__ = ["AGENT", "HELPER", "POWERED_OFF", "POWER_CUT", "REBOOTED", "Machine", "bare_machine", "new_command"]

AGENT, HELPER = "infoscreen-simclient.service", "infoscreen-reboot-helper.service"
SETTINGS = "/etc/infoscreen-reboot/agent.env.d/50-test.env"
CLOCK_FLAG = "/run/systemd/timesync/synchronized"
CLOCK_SNIPPET = "/etc/tmpfiles.d/lab-clock.conf"


class Machine(Container):
    """Installed by apt before it is first switched on; nothing is configured yet."""

    def __init__(self, suite: str, deb: Path, auto_restart: bool = False, *, layers: Sequence[Path] = ()) -> None:
        super().__init__(suite, layers or installed_layers(suite, deb), auto_restart)
        self.uuid = str(uuid.uuid4())
        self.settings: dict[str, str] = {}
        self.broker = Broker(self.scratch)

    # As an administrator.

    def configure(self, **variables: str | None) -> None:
        """Adds to the agent's settings; None takes one away. The agent reads them when it starts."""
        merged: dict[str, str | None] = {**self.settings, **variables}
        self.settings = {name: value for name, value in merged.items() if value is not None}
        self.write(SETTINGS, "".join(f'{name}="{value}"\n' for name, value in self.settings.items()), 0o640)

    def configure_for_broker(self) -> None:
        """What a client needs to know to reach the broker beside it."""
        self.configure(MQTT_BROKER="127.0.0.1", MQTT_TLS="no", CLIENT_UUID=self.uuid)

    def set_clock_synchronised(self, now: bool = True, at_boot: bool = True) -> None:
        """Says what timesyncd would: that the clock is (not) synchronised, now and after each boot.

        A container has its host's clock, and timedated would tell the host's opinion of it: it is masked here, so
        that the flag alone speaks.
        """
        mask = self.root / "etc/systemd/system/systemd-timedated.service"
        if not mask.is_symlink():
            mask.symlink_to("/dev/null")
        self.write(CLOCK_SNIPPET, f"f {CLOCK_FLAG} 0644 root root -\n" if at_boot else "")
        if self.is_running:
            flag = self.path(CLOCK_FLAG)
            flag.parent.mkdir(parents=True, exist_ok=True)
            flag.touch() if now else flag.unlink(missing_ok=True)

    def install(self, deb: Path) -> str:
        """Installs a package on the running machine; what apt said."""
        shutil.copy(deb, self.root / "var/tmp" / deb.name)
        return self.apt("install", f"/var/tmp/{deb.name}")

    def apt(self, *args: str) -> str:
        return self.run("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qy", *args, timeout_s=180)

    # As the controller.

    def topic(self, tail: str) -> str:
        return f"infoscreen/{self.uuid}/{tail}"

    def command(self, action: str = "reboot_host", **changes: Any) -> dict[str, Any]:
        """A valid command for this client, not sent yet; `changes` as in new_command()."""
        return new_command(self.uuid, action, **changes)

    def send(self, command: dict[str, Any] | bytes, tail: str = "commands", retain: bool = False) -> None:
        payload = command if isinstance(command, bytes) else json.dumps(command).encode()
        self.broker.publish(self.topic(tail), payload, retain=retain)

    def acks(self, command_id: str | None = None, tail: str = "commands/ack") -> list[Message]:
        """What was acknowledged so far, in order; every command's if none is named."""
        return [ack for ack in self.broker.on(self.topic(tail)) if command_id in (None, ack.json["command_id"])]

    def statuses(self, command_id: str) -> list[str]:
        return [str(ack.json["status"]) for ack in self.acks(command_id)]

    def wait_ack(self, command_id: str, status: str, timeout_s: float = 60) -> dict[str, Any]:
        ack: dict[str, Any] = self._wait_for("commands/ack", timeout_s, command_id=command_id, status=status)
        return ack

    def wait_online(self, timeout_s: float = 60, after: int = 0) -> None:
        """Waits until the agent of the present boot has said that it is online."""
        self._wait_for("status", timeout_s, after, state="online", boot_id=self.boot_id)

    def _wait_for(self, tail: str, timeout_s: float, after: int = 0, **members: str) -> Any:
        def is_it(message: Message) -> bool:
            if message.topic != self.topic(tail) or not message.payload:
                return False
            found = message.json
            return all(found[name] == value for name, value in members.items())

        return self.broker.wait_for(is_it, timeout_s, after).json


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


def bare_machine(suite: str, deb: Path) -> Machine:
    """A plain Debian that has all that installing `deb` will fetch, for it has no network."""
    return Machine(suite, deb, layers=[larder(suite, deb), machine_root(suite)])


def installed_layers(suite: str, deb: Path) -> list[Path]:
    """A machine's layers after apt has installed the package while real systemd was running."""
    base, food = machine_root(suite), larder(suite, deb)

    def make(target: Path) -> None:
        with bare_machine(suite, deb) as machine:
            machine.boot()
            machine.wait_booted()
            machine.install(deb)
            machine.stop()
            shutil.rmtree(machine.root / "var/log/journal" / machine.read("/etc/machine-id").strip())
            (machine.root / "var/tmp" / deb.name).unlink()
            machine.scratch.keep_as(target)

    return [layer(f"installed-{suite}-{digest(deb.read_bytes(), food.name.encode())}", make), food, base]
