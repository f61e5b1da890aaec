"""What a client asks of a broker, read as strictly as the standard allows: whatever it forbids is a Breach.

The product's own readers are not used for this: what they overlook would be overlooked twice. Section numbers are those
of the OASIS standard of MQTT 5; 3.1.1 forbids the same where it knows the same.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Self

from infoscreen_reboot.mqtt.packets import Kind, Packet, Protocol, Publish, read_length

MALFORMED, AGAINST_THE_RULES, ALIAS_UNKNOWN, NO_SUBSCRIPTION_IDS = 0x81, 0x82, 0x94, 0xA1
WRONG_VERSION, WRONG_FILTER, WRONG_TOPIC = 0x84, 0x8F, 0x90

# The properties that a client may send (2.2.2.2), by what carries them.
_OF_CONNECT = {0x11, 0x15, 0x16, 0x17, 0x19, 0x21, 0x22, 0x26, 0x27}
_OF_WILL = {0x01, 0x02, 0x03, 0x08, 0x09, 0x18, 0x26}
_OF_PUBLISH = {0x01, 0x02, 0x03, 0x08, 0x09, 0x23, 0x26}
_OF_ANSWER = {0x1F, 0x26}
_OF_SUBSCRIBE, _OF_UNSUBSCRIBE = {0x0B, 0x26}, {0x26}
_OF_DISCONNECT = {0x11, 0x1F, 0x26}
_SESSION_EXPIRY, _SUBSCRIPTION_ID, _TOPIC_ALIAS, _PAIR = 0x11, 0x0B, 0x23, 0x26
_RECEIVE_MAXIMUM, _MAXIMUM_PACKET_SIZE, _WANTS_REASONS = 0x21, 0x27, 0x17
_NUMBERS = {
    **dict.fromkeys((0x01, 0x17, 0x19), 1),
    **dict.fromkeys((0x21, 0x22, 0x23), 2),
    **dict.fromkeys((0x02, 0x11, 0x18, 0x27), 4),
}
_BINARIES = {0x09, 0x16}
_FLAGS = {0x01, 0x17, 0x19}
_NEVER_0 = {0x0B, 0x21, 0x23, 0x27}

# In the flags of a CONNECT (3.1.2.3).
_RESERVED, _CLEAN, _WILL, _WILL_QOS, _WILL_RETAIN, _PASSWORD, _USERNAME = 0x01, 0x02, 0x04, 0x18, 0x20, 0x40, 0x80
# In the options of a subscription (3.8.3.1).
QOS, NO_LOCAL, AS_PUBLISHED, HANDLING = 0x03, 0x04, 0x08, 0x30


class Breach(Exception):
    """The client did what the standard forbids; `code` is what a broker of MQTT 5 says to that."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class _Body:
    """What follows the length of a packet, taken from its beginning on."""

    def __init__(self, packet: Packet) -> None:
        self._kind, self._raw, self._at = packet.kind, packet.raw, packet.start

    @property
    def is_over(self) -> bool:
        return self._at == len(self._raw)

    def breach(self, sentence: str, code: int = MALFORMED) -> Breach:
        return Breach(code, f"{self._kind.name}: {sentence}")

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._raw):
            raise self.breach("it ends too early")
        taken, self._at = self._raw[self._at : end], end
        return taken

    def number(self, count: int = 1) -> int:
        return int.from_bytes(self.take(count))

    def packet_id(self) -> int:
        if not (packet_id := self.number(2)):
            raise self.breach("its packet identifier is 0", AGAINST_THE_RULES)  # 2.2.1-3
        return packet_id

    def binary(self) -> bytes:
        return self.take(self.number(2))

    def text(self) -> str:
        try:
            content = self.binary().decode()
        except UnicodeDecodeError:
            raise self.breach("its text is not UTF-8") from None
        if "\0" in content:
            raise self.breach("its text has a NUL")
        return content

    def rest(self) -> bytes:
        return self.take(len(self._raw) - self._at)

    def length(self) -> int:
        header = read_length(self._raw, self._at)
        if header is None:
            raise self.breach("it ends too early")
        length, self._at = header
        return length

    def properties(self, allowed: Collection[int]) -> dict[int, int]:
        """The numbers among them; the others are checked only."""
        length = self.length()
        end = self._at + length
        found: dict[int, int] = {}
        seen: set[int] = set()
        while self._at < end:
            name = self.number()
            if name not in allowed:
                raise self.breach(f"property 0x{name:02x} has no place here", AGAINST_THE_RULES)
            if name in seen and name != _PAIR:
                raise self.breach(f"property 0x{name:02x} comes twice", AGAINST_THE_RULES)
            seen.add(name)
            if (value := self._property(name)) is not None:
                if (name in _NEVER_0 and not value) or (name in _FLAGS and value > 1):
                    raise self.breach(f"property 0x{name:02x} is {value}", AGAINST_THE_RULES)
                found[name] = value
        if self._at != end:
            raise self.breach("its properties are longer than they say")
        return found

    def _property(self, name: int) -> int | None:
        if name in _NUMBERS:
            return self.number(_NUMBERS[name])
        if name == _SUBSCRIPTION_ID:
            return self.length()
        if name in _BINARIES:
            self.binary()
            return None
        self.text()
        if name == _PAIR:
            self.text()
        return None

    def end(self) -> None:
        if not self.is_over:
            raise self.breach("something follows its end")


@dataclass(frozen=True, slots=True)
class Connection:
    """A CONNECT. `session_expiry_s` is None for a session of MQTT 3.1.1 that is to be kept."""

    protocol: Protocol
    client_id: str
    is_clean: bool
    keep_alive_s: int
    username: str | None = None
    password: bytes | None = field(default=None, repr=False)
    will: Publish | None = None
    session_expiry_s: int | None = 0
    receive_maximum: int = 65535
    maximum_packet_bytes: int = 0xFFFFFFFF
    wants_reasons: bool = True

    @classmethod
    def read(cls, packet: Packet) -> Self:
        body = _Body(packet)
        name, version = body.text(), body.number()
        if name != "MQTT" or version not in tuple(Protocol):
            raise body.breach(f"{name} {version} is neither MQTT 3.1.1 nor 5", WRONG_VERSION)
        protocol = Protocol(version)
        flags, keep_alive_s = body.number(), body.number(2)
        _check_flags(body, flags, protocol)
        is_new = protocol is Protocol.MQTT_5
        said = body.properties(_OF_CONNECT) if is_new else {}
        client_id = body.text()
        will = None
        if flags & _WILL:
            if is_new:
                body.properties(_OF_WILL)
            topic = checked_topic(body.text())
            will = Publish(topic, body.binary(), qos=(flags & _WILL_QOS) >> 3, retain=bool(flags & _WILL_RETAIN))
        username = body.text() if flags & _USERNAME else None
        password = body.binary() if flags & _PASSWORD else None
        body.end()
        is_clean = bool(flags & _CLEAN)
        return cls(
            protocol=protocol,
            client_id=client_id,
            is_clean=is_clean,
            keep_alive_s=keep_alive_s,
            username=username,
            password=password,
            will=will,
            session_expiry_s=said.get(_SESSION_EXPIRY, 0) if is_new else 0 if is_clean else None,
            receive_maximum=said.get(_RECEIVE_MAXIMUM, 65535),
            maximum_packet_bytes=said.get(_MAXIMUM_PACKET_SIZE, 0xFFFFFFFF),
            wants_reasons=bool(said.get(_WANTS_REASONS, 1)),
        )


def _check_flags(body: _Body, flags: int, protocol: Protocol) -> None:
    """3.1.2.3 to 3.1.2.9."""
    if flags & _RESERVED:
        raise body.breach("a reserved flag is set")
    if not flags & _WILL and flags & (_WILL_QOS | _WILL_RETAIN):
        raise body.breach("it says how, and has no will")
    if flags & _WILL_QOS == _WILL_QOS:
        raise body.breach("its will has QoS 3")
    if protocol is Protocol.MQTT_3_1_1 and flags & _PASSWORD and not flags & _USERNAME:
        raise body.breach("a password without a user name")


@dataclass(frozen=True, slots=True)
class Subscription:
    """A SUBSCRIBE: each filter with its options."""

    packet_id: int
    wanted: tuple[tuple[str, int], ...]
    has_id: bool = False

    @classmethod
    def read(cls, packet: Packet, protocol: Protocol) -> Self:
        body = _Body(packet)
        packet_id = body.packet_id()
        said = body.properties(_OF_SUBSCRIBE) if protocol is Protocol.MQTT_5 else {}
        wanted = []
        while not body.is_over:
            wanted.append((checked_filter(body.text()), body.number()))
        if not wanted:
            raise body.breach("it names no topic", AGAINST_THE_RULES)  # 3.8.3-2
        most = QOS if protocol is Protocol.MQTT_3_1_1 else QOS | NO_LOCAL | AS_PUBLISHED | HANDLING
        for topic, options in wanted:
            if options & ~most or options & QOS == QOS or options & HANDLING == HANDLING:
                raise body.breach(f"options 0x{options:02x} do not exist")
            if options & NO_LOCAL and topic.startswith("$share/"):
                raise body.breach("a shared subscription has no No Local", AGAINST_THE_RULES)  # 3.8.3-4
        return cls(packet_id, tuple(wanted), _SUBSCRIPTION_ID in said)


@dataclass(frozen=True, slots=True)
class Unsubscription:
    packet_id: int
    topics: tuple[str, ...]

    @classmethod
    def read(cls, packet: Packet, protocol: Protocol) -> Self:
        body = _Body(packet)
        packet_id = body.packet_id()
        if protocol is Protocol.MQTT_5:
            body.properties(_OF_UNSUBSCRIBE)
        topics = []
        while not body.is_over:
            topics.append(checked_filter(body.text()))
        if not topics:
            raise body.breach("it names no topic", AGAINST_THE_RULES)  # 3.10.3-2
        return cls(packet_id, tuple(topics))


def read_publish(packet: Packet, protocol: Protocol) -> Publish:
    """No aliases: the broker never allows any."""
    body, flags = _Body(packet), packet.raw[0]
    topic = checked_topic(body.text())
    qos = flags >> 1 & 0x03
    packet_id = body.packet_id() if qos else 0
    if protocol is Protocol.MQTT_5 and _TOPIC_ALIAS in body.properties(_OF_PUBLISH):
        raise body.breach("it uses a topic alias, and none is allowed", ALIAS_UNKNOWN)  # 3.3.2-9
    return Publish(topic, body.rest(), qos, packet_id, retain=bool(flags & 0x01), dup=bool(flags & 0x08))


def read_answer(packet: Packet, protocol: Protocol) -> int:
    """The packet identifier of a PUBACK."""
    body = _Body(packet)
    packet_id = body.packet_id()
    if protocol is Protocol.MQTT_5:
        _read_reason(body, _OF_ANSWER)
    body.end()
    return packet_id


def read_farewell(packet: Packet, protocol: Protocol) -> int:
    """The reason of a DISCONNECT; 0 is the only one that keeps the will back."""
    body = _Body(packet)
    reason = _read_reason(body, _OF_DISCONNECT) if protocol is Protocol.MQTT_5 else 0
    body.end()
    return reason


def _read_reason(body: _Body, allowed: Collection[int]) -> int:
    reason = 0 if body.is_over else body.number()
    if not body.is_over:
        body.properties(allowed)
    return reason


def checked_topic(topic: str) -> str:
    """4.7.1-1, 4.7.3-1."""
    if not topic or "+" in topic or "#" in topic:
        raise Breach(WRONG_TOPIC, f"{topic!r} is no topic to publish on")
    return topic


def checked_filter(wanted: str) -> str:
    """4.7.1, 4.7.3-1."""
    levels = wanted.split("/")
    are_whole = all(level in ("+", "#") or not set("+#") & set(level) for level in levels)
    if not wanted or not are_whole or "#" in levels[:-1]:
        raise Breach(WRONG_FILTER, f"{wanted!r} is no topic filter")
    return wanted


def matches(wanted: str, topic: str) -> bool:
    """Whether a message on `topic` is for who subscribed to `wanted` (4.7.1)."""
    levels, names = wanted.split("/"), topic.split("/")
    if topic.startswith("$") and levels[0] in ("+", "#"):
        return False
    for number, level in enumerate(levels):
        if level == "#":
            return True
        if number == len(names) or level not in ("+", names[number]):
            return False
    return len(levels) == len(names)


# What only a broker says (2.1.2); AUTH needs a method that was agreed on.
NOT_FOR_CLIENTS = (Kind.CONNACK, Kind.SUBACK, Kind.UNSUBACK, Kind.PINGRESP, Kind.AUTH)
