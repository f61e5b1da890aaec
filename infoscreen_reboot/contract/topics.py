"""Where each message between controller and client goes."""

from dataclasses import dataclass


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
