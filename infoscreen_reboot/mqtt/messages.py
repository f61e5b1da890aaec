"""Says where the broker is, what clients and broker send each other, and what the broker's refusals mean."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field

from infoscreen_reboot.mqtt import paho_client
from infoscreen_reboot.mqtt.packets import MalformedPacket
from infoscreen_reboot.mqtt.tls import TlsSettings, tls_trouble

CLOSED = "the broker closed the connection"
LEFT = "left"
NOT_MQTT = "the broker sent what is not MQTT"
UNASKED_QOS_2 = "the broker sends with QoS 2, for which nobody asked"
TOO_LONG = f"the broker sends a packet of more than {paho_client.MAX_PACKET_BYTES} bytes"


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    host: str
    port: int
    username: str | None
    password: str | None = field(repr=False)
    tls: TlsSettings | None
    keep_alive_s: int = 20
    # A name in manner.PROTOCOLS.
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


class Refused(NotDelivered):
    """The broker said that it does not take this message, or it is not to be sent now; the text says why."""


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
        case _ if isinstance(error, (MalformedPacket, *paho_client.UNREADABLE)):
            return NOT_MQTT
        case OSError(strerror=str(text)):
            return text[:1].lower() + text[1:]
    return str(error)
