"""Where each message between controller and client goes."""

import re
from dataclasses import dataclass
from enum import StrEnum


class Leaf(StrEnum):
    """What a client publishes: the end of its topics."""

    ACK = "commands/ack"
    TRANSITIONAL_ACK = "command/ack"
    STATUS = "status"
    HEALTH = "health"
    BOOT = "boot"
    SERVICE_FAILED = "service_failed"

    @property
    def filter(self) -> str:
        """The topic filter for all clients. One for each leaf: `#` would also match the commands, and a broker then no
        longer says that nobody listens to one."""
        return f"infoscreen/+/{self}"


_FROM_CLIENT = re.compile(
    rf"infoscreen/([0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}})/({'|'.join(Leaf)})", re.ASCII
)


def from_client(topic: str) -> tuple[str, Leaf] | None:
    """Whose topic it is, and which; None if no client publishes there."""
    found = _FROM_CLIENT.fullmatch(topic)
    return (found[1], Leaf(found[2])) if found else None


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one client; `client_uuid` in lower-case canonical form."""

    client_uuid: str

    def _under(self, leaf: str) -> str:
        return f"infoscreen/{self.client_uuid}/{leaf}"

    @property
    def commands(self) -> str:
        return self._under("commands")

    @property
    def commands_ack(self) -> str:
        return self._under("commands/ack")

    @property
    def transitional_command(self) -> str:
        return self._under("command")

    @property
    def transitional_ack(self) -> str:
        return self._under("command/ack")

    @property
    def status(self) -> str:
        return self._under("status")

    @property
    def health(self) -> str:
        return self._under("health")

    @property
    def boot(self) -> str:
        return self._under("boot")

    @property
    def service_failed(self) -> str:
        return self._under("service_failed")
