"""Reads the way to the broker from environment variables, and names every fault."""

from collections.abc import Mapping
from pathlib import Path

from infoscreen_reboot.mqtt.manner import PROTOCOLS
from infoscreen_reboot.mqtt.messages import BrokerSettings
from infoscreen_reboot.mqtt.tls import TlsSettings, tls_context

PASSWORD_CREDENTIAL = "mqtt-password-broker"
_WORDS = {
    "yes": True,
    "true": True,
    "on": True,
    "1": True,
    "no": False,
    "false": False,
    "off": False,
    "0": False,
}


class Reader:
    """Reads one variable at a time and gathers the problems; an empty variable counts as not set."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.problems: list[str] = []

    def text(self, name: str) -> str | None:
        return self._environment.get(name) or None

    def flag(self, name: str, default: bool = True) -> bool:
        text = self.text(name)
        if text is None:
            return default
        if text.lower() not in _WORDS:
            self.problems.append(f"{name} is {text!r}; allowed are yes and no")
        return _WORDS.get(text.lower(), default)

    def number(self, name: str, *, default: int, low: int, high: int) -> int:
        text = self.text(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            self.problems.append(f"{name} is {text!r}; allowed is a whole number from {low} to {high}")
            return default
        return int(text)

    def file(self, name: str) -> Path | None:
        text = self.text(name)
        if text is None:
            return None
        try:
            with Path(text).open("rb"):
                pass
        except OSError as error:
            self.problems.append(f"{name} is {text!r}; that file cannot be read: {error.strerror}")
        return Path(text)

    def broker(self) -> BrokerSettings:
        host = self.text("MQTT_BROKER")
        if host is None:
            self.problems.append("MQTT_BROKER is not set; it takes the broker's host name or address")
        elif any(c.isspace() or c in "/@" for c in host):
            self.problems.append(f"MQTT_BROKER is {host!r}; allowed is a host name or an address, without a scheme")
        uses_tls = self.flag("MQTT_TLS")
        tls = self._tls() if uses_tls else None
        if not uses_tls:
            self.problems += [
                f"MQTT_TLS is {self.text('MQTT_TLS')!r}, but {name} is set; remove one of them"
                for name in ("MQTT_TLS_CA", "MQTT_TLS_CERT", "MQTT_TLS_KEY")
                if self.text(name)
            ]
        username = self.text("MQTT_USER")
        password = self._password()
        if password is not None and username is None:
            self.problems.append("a broker password is set, but MQTT_USER is not; MQTT has no password without a user")
        port = self.number("MQTT_PORT", default=8883 if uses_tls else 1883, low=1, high=65535)
        return BrokerSettings(host or "", port, username, password, tls, protocol=self._protocol())

    def _protocol(self) -> str:
        text, default = self.text("MQTT_PROTOCOL"), "auto"
        if text is not None and text not in PROTOCOLS:
            self.problems.append(f"MQTT_PROTOCOL is {text[:64]!r}; allowed are {', '.join(PROTOCOLS)}")
            return default
        return text or default

    def _tls(self) -> TlsSettings:
        tls = TlsSettings(self.file("MQTT_TLS_CA"), self.file("MQTT_TLS_CERT"), self.file("MQTT_TLS_KEY"))
        if (tls.cert_file is None) != (tls.key_file is None):
            self.problems.append("MQTT_TLS_CERT and MQTT_TLS_KEY go together; one of them is not set")
        elif not self.problems:
            try:
                tls_context(tls)
            except ValueError as error:
                self.problems.append(str(error))
        return tls

    def _password(self) -> str | None:
        text = self.text("MQTT_PASSWORD_BROKER")
        directory = self.text("CREDENTIALS_DIRECTORY")
        credential = Path(directory, PASSWORD_CREDENTIAL) if directory else None
        if credential is None or not credential.exists():
            return text
        if text is not None:
            self.problems.append(
                f"MQTT_PASSWORD_BROKER and the credential {PASSWORD_CREDENTIAL} are both set; keep one"
            )
        try:
            return credential.read_text("utf-8").rstrip("\n")
        except (OSError, UnicodeError) as error:
            self.problems.append(f"the credential {PASSWORD_CREDENTIAL} cannot be read: {type(error).__name__}")
            return None
