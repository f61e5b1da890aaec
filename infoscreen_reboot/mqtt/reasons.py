"""What a broker's answer means, in an operator's words: one table for CONNACK, SUBACK, UNSUBACK, PUBACK, DISCONNECT."""

from __future__ import annotations

from infoscreen_reboot.mqtt import packets
from infoscreen_reboot.mqtt.packets import MalformedPacket, Property

# From here on a code is a refusal (MQTT 5, 2.4).
REFUSED = 0x80
PROTOCOL_VERSION = 0x84
NOT_AUTHORISED = 0x87
BAD_LOGIN = 0x86
TAKEN_OVER_CODE = 0x8E
PACKET_TOO_LARGE = 0x95
RETAIN_NOT_SUPPORTED = 0x9A
QOS_NOT_SUPPORTED = 0x9B
NO_SUBSCRIBERS = 0x10

TAKEN_OVER = "another host has taken this client's session"
BAD_USER_OR_PASSWORD = "bad user name or password"

# The codes of MQTT 5 (2.4). Each means the same in every packet that may carry it.
_WORDS = {
    0x04: "the client left and asked for its will",
    NO_SUBSCRIBERS: "nobody has subscribed to this topic",
    0x11: "there was no such subscription",
    0x80: "the broker refuses without saying why",
    0x81: "the broker cannot read what we sent",
    0x82: "the broker says that we broke the rules of MQTT",
    0x83: "the broker has a fault of its own that stops it here",
    PROTOCOL_VERSION: "the broker does not accept this protocol version",
    0x85: "the broker does not accept our client id",
    BAD_LOGIN: BAD_USER_OR_PASSWORD,
    NOT_AUTHORISED: "not authorised",
    0x88: "the broker is not available now",
    0x89: "the broker is busy",
    0x8A: "the broker has banned this client",
    0x8B: "the broker is shutting down",
    0x8C: "the broker does not accept this way to log in",
    0x8D: "the broker heard nothing from us within the keep-alive",
    TAKEN_OVER_CODE: TAKEN_OVER,
    0x8F: "the broker does not accept this topic filter",
    0x90: "the broker does not accept this topic",
    0x91: "the broker says that this packet identifier is in use",
    0x92: "the broker does not know this packet identifier",
    0x93: "the broker says that we sent more than it can receive at once",
    0x94: "the broker does not know this topic alias",
    PACKET_TOO_LARGE: "too large for this broker",
    0x96: "the broker says that we send too fast",
    0x97: "a limit of the broker is reached",
    0x98: "an administrator of the broker ended it",
    0x99: "the broker says that the payload has the wrong format",
    RETAIN_NOT_SUPPORTED: "the broker keeps no retained messages",
    QOS_NOT_SUPPORTED: "the broker does not know this quality of service",
    0x9C: "the broker asks us to use another server for now",
    0x9D: "the broker has moved to another server",
    0x9E: "the broker knows no shared subscriptions",
    0x9F: "the broker takes no more new connections just now",
    0xA0: "the broker says that the connection has lasted as long as it may",
    0xA1: "the broker knows no subscription identifiers",
    0xA2: "the broker knows no wildcards in subscriptions",
}
# CONNACK of MQTT 3.1.1 (3.2.2.3) has codes of its own, which mean what these do.
_OF_3_1_1 = {1: PROTOCOL_VERSION, 2: 0x85, 3: 0x88, 4: BAD_LOGIN, 5: NOT_AUTHORISED}
_LONGEST = 200


def of_connack(code: int) -> int:
    """The code of MQTT 5, also for one of 3.1.1."""
    return _OF_3_1_1.get(code, code)


def words(code: int, properties: bytes = b"") -> str:
    """The code in words, and what the broker itself says about it, if it does (MQTT 5's Reason String)."""
    text = _WORDS.get(code, f"the broker answers with code {code}, which MQTT does not have")
    said = reason_string(properties)
    return f'{text} ("{said}")' if said else text


def reason_string(properties: bytes) -> str:
    """What the broker says, printable and not longer than an operator would read; "" if nothing."""
    try:
        said = str(packets.read_properties(properties).get(Property.REASON_STRING, ""))
    except MalformedPacket:
        return ""
    printable = "".join(c if c.isprintable() else "?" for c in said)
    return printable if len(printable) <= _LONGEST else printable[:_LONGEST] + "…"
