"""Says where the broker is, what clients and broker send each other, and what the broker's refusals mean."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field

from infoscreen_reboot.mqtt import paho_client
from infoscreen_reboot.mqtt.tls import TlsSettings, tls_trouble

TOO_NEW = (1, 132)
# Each refusal has two codes: the CONNACK code of MQTT 3.1.1 (paho 1.6), and the reason code of paho 2 and MQTT 5.
REFUSALS = {
    **dict.fromkeys(TOO_NEW, "the broker does not accept this protocol version"),
    **dict.fromkeys((2, 133), "the broker does not accept our client id"),
    **dict.fromkeys((3, 136), "the broker is not available now"),
    **dict.fromkeys((4, 134), "bad user name or password"),
    **dict.fromkeys((5, 135), "not authorised"),
}
CLOSED = "the broker closed the connection"
LEFT = "left"
# What the broker's DISCONNECT in MQTT 5 tells an operator, if it tells more than CLOSED.
TAKEN_OVER = "another host has taken this client's session"
FAREWELLS = {0x8E: TAKEN_OVER}
NOT_MQTT = "the broker sent what is not MQTT"
UNASKED_QOS_2 = "the broker sends with QoS 2, for which nobody asked, and does not finish it"


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """`protocol` is a version of MQTT, "5" or "3.1.1", or "auto" for the newest that the broker speaks."""

    host: str
    port: int
    username: str | None
    password: str | None = field(repr=False)
    tls: TlsSettings | None
    keep_alive_s: int = 20
    protocol: str = "auto"

    @property
    def address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Message:
    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False


@dataclass(frozen=True, slots=True)
class Delivery:
    """`properties` are the user properties of MQTT 5, in their order; a name may come more than once."""

    topic: str
    payload: bytes
    retain: bool
    properties: tuple[tuple[str, str], ...] = ()


class NotDelivered(Exception):
    """The PUBACK of a message did not come on this connection; the broker may have the message all the same."""


class Redeliver(Exception):
    """A delivery could not be stored: it gets no PUBACK, and comes again on the next connection."""


def words(error: Exception) -> str:
    """Says in words for operators what ended a connection."""
    match error:
        case ssl.SSLError():
            return tls_trouble(error)
        case Redeliver():
            return f"a delivery could not be stored: {error}"
        case ConnectionResetError():
            return CLOSED
        case _ if isinstance(error, paho_client.UNREADABLE):
            return NOT_MQTT
        case OSError(strerror=str(text)):
            return text[:1].lower() + text[1:]
    return str(error)
