"""The few MQTT packets that we read and write without paho, in 3.1.1 and in 5: bytes in, values out.

Section numbers in comments are those of the OASIS standard of MQTT 5, or of 3.1.1 where they say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Self

# A command has 4 KiB, and the broker keeps what is larger than 128 KiB from the agent.
_MAX_PACKET_BYTES = 1024 * 1024
DUP, RETAIN = 0x08, 0x01  # in the first byte of a PUBLISH (3.3.1)
_MAX_LENGTH, _MAX_TEXT_BYTES, _MAX_PACKET_ID = 268_435_455, 65_535, 65_535
# In the flags of a CONNECT (3.1.2.3).
_CLEAN_START = 0x02
_HAS_WILL = 0x04
_WILL_RETAIN = 0x20
_HAS_PASSWORD = 0x40
_HAS_USERNAME = 0x80


class MalformedPacket(ValueError):
    """What came is not MQTT; in a sentence that says why. What cannot be written is a plain ValueError."""


class Protocol(IntEnum):
    """As a CONNECT says it (3.1.2.2; in 3.1.1 the same section), and as paho does."""

    MQTT_3_1_1 = 4
    MQTT_5 = 5

    @property
    def version(self) -> str:
        """As people say it."""
        return "5" if self is Protocol.MQTT_5 else "3.1.1"


class Kind(IntEnum):
    """The first byte of a packet; a PUBLISH adds flags of its own, all others have fixed ones (2.1.2, 2.1.3)."""

    CONNECT = 0x10
    CONNACK = 0x20
    PUBLISH = 0x30
    PUBACK = 0x40
    PUBREC = 0x50
    PUBREL = 0x62
    PUBCOMP = 0x70
    SUBSCRIBE = 0x82
    SUBACK = 0x90
    UNSUBSCRIBE = 0xA2
    UNSUBACK = 0xB0
    PINGREQ = 0xC0
    PINGRESP = 0xD0
    DISCONNECT = 0xE0
    AUTH = 0xF0  # not in 3.1.1


class Property(IntEnum):
    """What MQTT 5 adds to packets (2.2.2.2); those that we read or write."""

    SESSION_EXPIRY = 0x11
    ASSIGNED_CLIENT_ID = 0x12
    SERVER_KEEP_ALIVE = 0x13
    REASON_STRING = 0x1F
    RECEIVE_MAXIMUM = 0x21
    MAXIMUM_QOS = 0x24
    RETAIN_AVAILABLE = 0x25
    MAXIMUM_PACKET_SIZE = 0x27
    WILDCARDS_AVAILABLE = 0x28
    SUBSCRIPTION_IDS_AVAILABLE = 0x29
    SHARED_AVAILABLE = 0x2A


# What stands behind the identifier of each property: so many bytes of a number, or another shape.
_BYTES = {
    **dict.fromkeys((0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A), 1),
    **dict.fromkeys((0x13, 0x21, 0x22, 0x23), 2),
    **dict.fromkeys((0x02, 0x11, 0x18, 0x27), 4),
}
_TEXTS = (0x03, 0x08, 0x12, 0x15, 0x1A, 0x1C, 0x1F)
_BINARIES = (0x09, 0x16)
_NUMBER_OF_ANY_LENGTH, _PAIR = 0x0B, 0x26
_KNOWN_PROPERTIES = frozenset(Property)

# QoS 0, 1 and 2, and with DUP only 1 and 2: QoS 3 does not exist (3.3.1-4), DUP does not go with QoS 0 (3.3.1-2).
_PUBLISH_FLAGS = *range(0x0, 0x6), *range(0xA, 0xE)
# By the first byte of a packet.
_KINDS: dict[int, Kind] = {
    **{int(kind): kind for kind in Kind},
    **{Kind.PUBLISH | flags: Kind.PUBLISH for flags in _PUBLISH_FLAGS},
}


# Packet, Publish and Acknowledgement are not frozen, unlike our other values: a frozen one takes three times as long to
# make. The benchmarks make thousands a second, and must not measure themselves.
@dataclass(slots=True)
class Packet:
    """`raw` is all of it, byte for byte as it came; what follows its length begins at `start`."""

    kind: Kind
    raw: bytes
    start: int


class Reader:
    """Takes the bytes of one direction of a connection, in any pieces, and gives whole packets."""

    def __init__(self, max_packet_bytes: int = _MAX_PACKET_BYTES) -> None:
        self._max_packet_bytes = max_packet_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next_packet(self) -> Packet | None:
        """None until all of it is there.

        Raises MalformedPacket as soon as the first bytes show it, and from then on: nobody can tell where the next one
        would begin.
        """
        buffer = self._buffer
        if not buffer:
            return None
        kind = _KINDS.get(buffer[0])
        if kind is None:
            raise MalformedPacket(f"cannot read a packet: none begins with 0x{buffer[0]:02x}")
        header = read_length(buffer, 1)
        if header is None:
            return None
        length, start = header
        end = start + length
        if end > self._max_packet_bytes:
            raise MalformedPacket(f"cannot read {kind.name}: {end} bytes, allowed are {self._max_packet_bytes}")
        if len(buffer) < end:
            return None
        raw = bytes(buffer[:end])
        del buffer[:end]
        return Packet(kind, raw, start)


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker says when it has lost the client."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False


@dataclass(frozen=True, slots=True)
class Connect:
    """The session is a new one. A keep-alive of 0 is none (3.1.2.10); `properties` as in a PUBLISH."""

    client_id: str
    keep_alive_s: int
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    will: Will | None = None
    properties: bytes = b""

    def write(self, protocol: Protocol) -> bytes:
        flags = _CLEAN_START
        parts = [text(self.client_id)]
        if (will := self.will) is not None:
            flags |= _HAS_WILL | will.qos << 3 | will.retain * _WILL_RETAIN
            parts += [_with_length(b"", protocol), text(will.topic), _binary(will.payload)]
        if self.username is not None:
            flags |= _HAS_USERNAME
            parts.append(text(self.username))
        if self.password is not None:
            flags |= _HAS_PASSWORD
            parts.append(text(self.password))
        options = bytes([protocol, flags]) + self.keep_alive_s.to_bytes(2)
        return frame(Kind.CONNECT, text("MQTT"), options, _with_length(self.properties, protocol), *parts)


@dataclass(frozen=True, slots=True)
class Connack:
    """`code` is 0 for a yes; the others mean something else in each protocol (3.2.2.2; 3.1.1: 3.2.2.3)."""

    code: int
    has_session: bool = False
    properties: bytes = b""

    def write(self, protocol: Protocol) -> bytes:
        return frame(Kind.CONNACK, bytes([self.has_session, self.code]), _with_length(self.properties, protocol))

    @classmethod
    def read(cls, packet: Packet) -> Self:
        """In either protocol: a broker that does not know MQTT 5 says so in 3.1.1."""
        flags, at = _byte(packet, packet.start)
        code, at = _byte(packet, at)
        if flags > 1:
            raise _malformed(packet, "flags that are reserved")
        return cls(code, bool(flags), _last_properties(packet, at))


@dataclass(frozen=True, slots=True)
class Subscribe:
    """`options` of each topic: the QoS, and in MQTT 5 how retained messages are treated (3.8.3.1)."""

    packet_id: int
    topics: Sequence[str]
    options: int

    def write(self, protocol: Protocol) -> bytes:
        wanted = [text(topic) + bytes([self.options]) for topic in self.topics]
        return frame(Kind.SUBSCRIBE, _written_id(self.packet_id), _with_length(b"", protocol), *wanted)


@dataclass(frozen=True, slots=True)
class Suback:
    """One code for each topic, in their order; from 0x80 on it is refused (3.9.3)."""

    packet_id: int
    codes: tuple[int, ...]
    properties: bytes = b""

    def write(self, protocol: Protocol) -> bytes:
        properties = _with_length(self.properties, protocol)
        return frame(Kind.SUBACK, _written_id(self.packet_id), properties, bytes(self.codes))

    @classmethod
    def read(cls, packet: Packet, protocol: Protocol) -> Self:
        packet_id, at = _packet_id(packet, packet.start)
        properties = b""
        if protocol is Protocol.MQTT_5:
            properties, at = _properties(packet, at)
        if at == len(packet.raw):
            raise _malformed(packet, "no codes")
        return cls(packet_id, tuple(packet.raw[at:]), properties)


@dataclass(slots=True)
class Publish:
    """`packet_id` is 0 at QoS 0; `properties` are those of MQTT 5 as they go over the wire, without their length."""

    topic: str
    payload: bytes
    qos: int = 0
    packet_id: int = 0
    retain: bool = False
    dup: bool = False
    properties: bytes = b""

    def write(self, protocol: Protocol) -> bytes:
        if self.qos not in (0, 1, 2) or (self.dup and not self.qos):
            raise ValueError(f"cannot write PUBLISH: QoS {self.qos}{' with DUP' * self.dup}")
        first = Kind.PUBLISH | self.dup * DUP | self.qos << 1 | self.retain
        packet_id = _written_id(self.packet_id) if self.qos else b""
        return frame(first, text(self.topic), packet_id, _with_length(self.properties, protocol), self.payload)

    @classmethod
    def read(cls, packet: Packet, protocol: Protocol) -> Self:
        raw = packet.raw
        flags = raw[0]
        topic, at = _text(packet, packet.start)
        qos = flags >> 1 & 0x03
        packet_id, properties = 0, b""
        if qos:
            packet_id, at = _packet_id(packet, at)
        if protocol is Protocol.MQTT_5:
            properties, at = _properties(packet, at)
        return cls(topic, raw[at:], qos, packet_id, bool(flags & RETAIN), bool(flags & DUP), properties)


@dataclass(slots=True)
class Acknowledgement:
    """PUBACK, PUBREC, PUBREL or PUBCOMP; another `reason` than 0 is in MQTT 5 only (3.4.2.1)."""

    kind: Kind
    packet_id: int
    reason: int = 0
    properties: bytes = b""

    def write(self) -> bytes:
        return frame(self.kind, _written_id(self.packet_id), _reason(self.reason, self.properties))

    @classmethod
    def read(cls, packet: Packet) -> Self:
        packet_id, at = _packet_id(packet, packet.start)
        reason, at = _byte(packet, at) if at < len(packet.raw) else (0, at)
        return cls(packet.kind, packet_id, reason, _last_properties(packet, at))


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Another `reason` than 0 is in MQTT 5 only, and so is a DISCONNECT from the broker (3.14.2.1)."""

    reason: int = 0
    properties: bytes = b""

    def write(self) -> bytes:
        return frame(Kind.DISCONNECT, _reason(self.reason, self.properties))

    @classmethod
    def read(cls, packet: Packet) -> Self:
        at = packet.start
        reason, at = _byte(packet, at) if at < len(packet.raw) else (0, at)
        return cls(reason, _last_properties(packet, at))


def publish_bytes(topic: str, payload: bytes) -> int:
    """How long a PUBLISH without properties is, at QoS 1 in MQTT 5; it is never longer in another way."""
    length = 2 + len(topic.encode()) + 2 + 1 + len(payload)
    return 1 + len(coded_length(length)) + length


def protocol_of(connect: Packet) -> Protocol:
    """Of what follows on the connection, in both directions."""
    name, at = _text(connect, connect.start)
    version, _ = _byte(connect, at)
    if name != "MQTT" or version not in tuple(Protocol):
        raise _malformed(connect, f"{name} {version} is neither MQTT 3.1.1 nor 5")
    return Protocol(version)


# --- What packets are made of


def frame(first: int, *parts: bytes) -> bytes:
    """A packet: its first byte, the length of `parts`, and these."""
    body = b"".join(parts)
    return bytes([first]) + coded_length(len(body)) + body


def coded_length(length: int) -> bytes:
    """As MQTT writes one: seven bits a byte, the lowest first; the eighth says that another byte follows.

    1.5.5; 3.1.1: 2.2.3.
    """
    if length > _MAX_LENGTH:
        raise ValueError(f"cannot write a length of {length}: MQTT knows none above {_MAX_LENGTH}")
    coded = bytearray()
    while length > 0x7F:
        coded.append(length & 0x7F | 0x80)
        length >>= 7
    coded.append(length)
    return bytes(coded)


def read_length(data: bytes | bytearray, at: int) -> tuple[int, int] | None:
    """The length that begins at `at`, and where it ends; None where more bytes belong to it."""
    length = shift = 0
    while shift < 28:
        if at == len(data):
            return None
        digit = data[at]
        at += 1
        length |= (digit & 0x7F) << shift
        if digit < 0x80:
            if shift and not digit:
                raise MalformedPacket("cannot read a length: it takes more bytes than it needs")  # 1.5.5-1
            return length, at
        shift += 7
    raise MalformedPacket("cannot read a length: it takes more than four bytes")


def text(content: str) -> bytes:
    """In UTF-8, with its length in two bytes before it (1.5.4; 3.1.1: 1.5.3)."""
    data = content.encode()
    if len(data) > _MAX_TEXT_BYTES:
        raise ValueError(f"cannot write a text of {len(data)} bytes: MQTT knows none above {_MAX_TEXT_BYTES}")
    return len(data).to_bytes(2) + data


def write_properties(values: Mapping[Property, int | str]) -> bytes:
    """As they go over the wire, without their length."""
    coded = bytearray()
    for name, value in values.items():
        coded.append(name)
        coded += text(value) if isinstance(value, str) else value.to_bytes(_BYTES[name])
    return bytes(coded)


def read_properties(coded: bytes) -> dict[Property, int | str]:
    """Those that we know. Raises MalformedPacket for one that MQTT 5 does not have, or that ends too early."""
    found: dict[Property, int | str] = {}
    at = 0
    while at < len(coded):
        name = coded[at]
        value, at = _property(name, coded, at + 1)
        if at > len(coded):
            raise MalformedPacket("cannot read properties: they end too early")
        if name in _KNOWN_PROPERTIES and value is not None:
            found[Property(name)] = value
    return found


def _property(name: int, coded: bytes, at: int) -> tuple[int | str | None, int]:
    """Its value, if it is a number or a text, and where it ends."""
    if (count := _BYTES.get(name)) is not None:
        return int.from_bytes(coded[at : at + count]), at + count
    if name == _NUMBER_OF_ANY_LENGTH:
        header = read_length(coded, at)
        return None, header[1] if header is not None else len(coded) + 1
    if name not in (*_TEXTS, *_BINARIES, _PAIR):
        raise MalformedPacket(f"cannot read properties: MQTT 5 has no 0x{name:02x}")
    end = at + 2 + int.from_bytes(coded[at : at + 2])
    if name == _PAIR:
        return None, end + 2 + int.from_bytes(coded[end : end + 2])
    return (coded[at + 2 : end].decode(errors="replace"), end) if name in _TEXTS else (None, end)


def _reason(reason: int, properties: bytes) -> bytes:
    """At the end of a packet; what says nothing may be left out (3.4.2.1)."""
    if properties:
        return bytes([reason]) + coded_length(len(properties)) + properties
    return bytes([reason] if reason else [])


def _binary(data: bytes) -> bytes:
    """With its length in two bytes before it (1.5.6)."""
    return len(data).to_bytes(2) + data


def _with_length(properties: bytes, protocol: Protocol) -> bytes:
    """Nothing in 3.1.1, which has no properties."""
    if protocol is Protocol.MQTT_5:
        return coded_length(len(properties)) + properties
    if properties:
        raise ValueError("cannot write properties: MQTT 3.1.1 has none")
    return b""


def _written_id(packet_id: int) -> bytes:
    if not 0 < packet_id <= _MAX_PACKET_ID:
        raise ValueError(f"cannot write the packet identifier {packet_id}: it is 1 to {_MAX_PACKET_ID}")  # 2.2.1
    return packet_id.to_bytes(2)


# --- Each of these gives what stands at `at` in a packet, and where that ends


def _byte(packet: Packet, at: int) -> tuple[int, int]:
    if at >= len(packet.raw):
        raise _malformed(packet, "it ends too early")
    return packet.raw[at], at + 1


def _packet_id(packet: Packet, at: int) -> tuple[int, int]:
    end = at + 2
    if end > len(packet.raw):
        raise _malformed(packet, "it ends before its packet identifier does")
    packet_id = int.from_bytes(packet.raw[at:end])
    if not packet_id:
        raise _malformed(packet, "its packet identifier is 0")  # 2.2.1
    return packet_id, end


def _text(packet: Packet, at: int) -> tuple[str, int]:
    start = at + 2
    end = start + int.from_bytes(packet.raw[at:start])
    if end > len(packet.raw):
        raise _malformed(packet, "it ends before its text does")
    try:
        content = packet.raw[start:end].decode()
    except UnicodeDecodeError:
        raise _malformed(packet, "its text is not UTF-8") from None
    if "\0" in content:
        raise _malformed(packet, "its text has a NUL")  # 1.5.4-2
    return content, end


def _properties(packet: Packet, at: int) -> tuple[bytes, int]:
    header = read_length(packet.raw, at)
    if header is None:
        raise _malformed(packet, "it ends before the length of its properties does")
    length, start = header
    end = start + length
    if end > len(packet.raw):
        raise _malformed(packet, "it ends before its properties do")
    return packet.raw[start:end], end


def _last_properties(packet: Packet, at: int) -> bytes:
    """Those that end the packet; where nothing is left there are none."""
    if at == len(packet.raw):
        return b""
    properties, end = _properties(packet, at)
    if end != len(packet.raw):
        raise _malformed(packet, "something follows its properties")
    return properties


def _malformed(packet: Packet, what: str) -> MalformedPacket:
    return MalformedPacket(f"cannot read {packet.kind.name}: {what}")
