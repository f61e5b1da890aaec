"""The scripted broker keeps to the standard, as far as mosquitto does, and is unkind where the standard allows it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest

from infoscreen_reboot.mqtt import packets
from infoscreen_reboot.mqtt.packets import (
    Acknowledgement,
    Connack,
    Connect,
    Disconnect,
    Kind,
    Packet,
    Property,
    Protocol,
    Publish,
    Reader,
    Suback,
    Subscribe,
    Will,
)
from infoscreen_reboot.mqtt.terms import Terms
from tests.broker.conftest import PATIENCE_S, MakeBroker, Run
from tests.broker.line import WHY
from tests.broker.rules import Closed, Lowered, Refused, Rule, Silent
from tests.broker.scripted import ScriptedBroker

V5, V3 = Protocol.MQTT_5, Protocol.MQTT_3_1_1
PINGREQ = packets.frame(Kind.PINGREQ)
KEEPS = packets.write_properties({Property.SESSION_EXPIRY: 0xFFFFFFFF})


def connect(protocol: Protocol = V5, *, will: Will | None = None, keep_alive_s: int = 60, clean: bool = True) -> bytes:
    data = Connect("screen", keep_alive_s, will=will, properties=KEEPS if protocol is V5 else b"").write(protocol)
    # Of the flags, behind the length, the name and the version.
    return data if clean else data[:9] + bytes([data[9] & ~0x02]) + data[10:]


def publish(topic: str, packet_id: int = 1, qos: int = 1, retain: bool = False, size: int = 1) -> bytes:
    return Publish(topic, b"x" * size, qos, packet_id if qos else 0, retain).write(V5)


def subscribe(*topics: str, options: int = 1) -> bytes:
    return Subscribe(7, topics, options).write(V5)


class Wire:
    """A client that says what it is told to say."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer
        self._stream = Reader()

    async def next(self) -> Packet | None:
        """None at the end of the connection."""
        async with asyncio.timeout(PATIENCE_S):
            while (packet := self._stream.next_packet()) is None:
                try:
                    data = await self._reader.read(65536)
                except ConnectionError:
                    return None
                if not data:
                    return None
                self._stream.feed(data)
            return packet

    async def next_in_words(self) -> str:
        packet = await self.next()
        return in_words(packet, V5) if packet is not None else "closed"

    async def said(self, *data: bytes, protocol: Protocol = V5) -> list[str]:
        """What the broker answers to all of it, until it has nothing more to say; each in a word and its code."""
        self.writer.write(b"".join(data) + PINGREQ)
        words = []
        while (packet := await self.next()) is not None and packet.kind is not Kind.PINGRESP:
            words.append(in_words(packet, protocol))
        # Where a PINGREQ ends it, what was asked last may still be answered.
        while packet is not None and self.owes(words, data):
            packet = await self.next()
            words += [in_words(packet, protocol)] if packet is not None else []
        return words if packet is not None else [*words, "closed"]

    def owes(self, words: Sequence[str], data: Sequence[bytes]) -> bool:
        """Whether a PUBACK is still to come: it comes a moment later than what was asked after it."""
        asked = sum(each[0] & 0xF6 == 0x32 for each in data)
        return sum(word.startswith("PUBACK") for word in words) < asked


def in_words(packet: Packet, protocol: Protocol) -> str:
    match packet.kind:
        case Kind.CONNACK:
            connack = Connack.read(packet)
            return f"CONNACK 0x{connack.code:02x}{' again' * connack.has_session}"
        case Kind.PUBACK:
            return f"PUBACK 0x{Acknowledgement.read(packet).reason:02x}"
        case Kind.SUBACK:
            return f"SUBACK {' '.join(f'0x{code:02x}' for code in Suback.read(packet, protocol).codes)}"
        case Kind.DISCONNECT:
            return f"DISCONNECT 0x{Disconnect.read(packet).reason:02x}"
        case Kind.PUBLISH:
            message = Publish.read(packet, protocol)
            return f"PUBLISH {message.topic} {message.qos}{' retained' * message.retain}{' again' * message.dup}"
    return packet.kind.name


@contextlib.asynccontextmanager
async def wire_to(port: int) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def answers(run: Run, broker: ScriptedBroker, *data: bytes, protocol: Protocol = V5) -> list[str]:
    said: list[str] = []

    async def story() -> None:
        async with broker.serving(), wire_to(broker.port) as wire:
            said.extend(await wire.said(*data, protocol=protocol))

    run(story())
    return said


RETAINED_WILL = Will("lost", b"x", 1, retain=True)
TERMS = {
    "receive-maximum": (
        Terms(receive_maximum=1),
        [connect(), publish("a", 1), publish("a", 2)],
        ["CONNACK 0x00", "DISCONNECT 0x93", "closed"],
    ),
    "maximum-packet-size": (
        Terms(maximum_packet_bytes=100),
        [connect(), publish("a", size=100)],
        ["CONNACK 0x00", "DISCONNECT 0x95", "closed"],
    ),
    "maximum-qos": (
        Terms(maximum_qos=0),
        [connect(), publish("a")],
        ["CONNACK 0x00", "DISCONNECT 0x9b", "closed"],
    ),
    "maximum-qos-of-a-subscription": (
        Terms(maximum_qos=0),
        [connect(), subscribe("a", "b")],
        ["CONNACK 0x00", "SUBACK 0x00 0x00"],
    ),
    "maximum-qos-of-a-will": (
        Terms(maximum_qos=0),
        [connect(will=Will("lost", b"x", 1))],
        ["CONNACK 0x9b", "closed"],
    ),
    "retain-available": (
        Terms(has_retained=False),
        [connect(), publish("a", retain=True)],
        ["CONNACK 0x00", "DISCONNECT 0x9a", "closed"],
    ),
    "retain-available-of-a-will": (
        Terms(has_retained=False),
        [connect(will=RETAINED_WILL)],
        ["CONNACK 0x9a", "closed"],
    ),
}
# In mosquitto's configuration, as a whole and of its second listener.
AS_MOSQUITTO_SAYS_THEM = {
    "maximum-packet-size": ("max_packet_size 100", ""),
    "maximum-qos": ("", "max_qos 0"),
    "maximum-qos-of-a-subscription": ("", "max_qos 0"),
    "maximum-qos-of-a-will": ("", "max_qos 0"),
    "retain-available": ("retain_available false", ""),
    "retain-available-of-a-will": ("retain_available false", ""),
}


@pytest.mark.parametrize("name", TERMS)
def test_who_breaks_the_terms_is_thrown_out(run: Run, name: str) -> None:
    terms, data, said = TERMS[name]
    assert answers(run, ScriptedBroker(terms), *data) == said


@pytest.mark.parametrize("name", AS_MOSQUITTO_SAYS_THEM)
def test_mosquitto_enforces_its_terms_in_the_same_way(make_broker: MakeBroker, run: Run, name: str) -> None:
    _, data, said = TERMS[name]

    async def story() -> None:
        config, listener = AS_MOSQUITTO_SAYS_THEM[name]
        broker = make_broker(config, listener=listener)
        async with wire_to(broker.tls_port if listener else broker.port) as wire:
            assert await wire.said(*data) == said

    run(story())


def test_terms_are_said_with_the_connack(run: Run) -> None:
    terms = Terms(
        keep_alive_s=5,
        receive_maximum=3,
        maximum_packet_bytes=700,
        maximum_qos=1,
        has_retained=False,
        session_expiry_s=300,
        client_id="another",
        has_wildcards=False,
        has_subscription_ids=False,
        has_shared_subscriptions=False,
    )

    async def story() -> None:
        async with ScriptedBroker(terms).serving() as broker, wire_to(broker.port) as wire:
            wire.writer.write(connect())
            packet = await wire.next()
            assert packet is not None
            assert Terms.read(Connack.read(packet)) == terms

    run(story())


def test_who_is_silent_for_longer_than_the_broker_allows_is_thrown_out(run: Run) -> None:
    async def story() -> None:
        async with ScriptedBroker(Terms(keep_alive_s=1)).serving() as broker, wire_to(broker.port) as wire:
            wire.writer.write(connect(keep_alive_s=600))
            assert [await wire.next_in_words() for _ in range(3)] == ["CONNACK 0x00", "DISCONNECT 0x8d", "closed"]
            assert broker.breaches == ["it was silent for 1.5 times 1 s"]

    run(story())


FORBIDDEN = {
    "a-second-connect": [connect(), connect()],
    "another-packet-than-connect": [publish("a")],
    "a-packet-of-a-broker": [connect(), Acknowledgement(Kind.PUBACK, 1).write(), b"\x20\x03\x00\x00\x00"],
    "packet-id-0": [connect(), b"\x32\x06\x00\x01a\x00\x00\x00"],
    "an-id-in-use": [connect(), publish("a", 1), publish("a", 1)],
    "qos-3": [connect(), b"\x36\x06\x00\x01a\x00\x01\x00"],
    "dup-without-qos": [connect(), b"\x38\x04\x00\x01a\x00"],
    "wrong-flags": [connect(), b"\x80\x07\x00\x01\x00\x00\x01a\x01"],
    "subscribe-without-topics": [connect(), b"\x82\x03\x00\x01\x00"],
    "subscribe-with-qos-3": [connect(), subscribe("a", options=3)],
    "subscribe-with-reserved-options": [connect(), subscribe("a", options=0x41)],
    "a-filter-that-is-none": [connect(), subscribe("a/#/b")],
    "unsubscribe-without-topics": [connect(), b"\xa2\x03\x00\x01\x00"],
    "a-topic-with-a-wildcard": [connect(), publish("a/+")],
    "a-topic-alias": [connect(), b"\x32\x09\x00\x01a\x00\x01\x03\x23\x00\x01"],
    "a-property-twice": [connect(), b"\x32\x0a\x00\x01a\x00\x01\x04\x01\x00\x01\x00"],
    "a-property-out-of-place": [connect(), b"\x32\x09\x00\x01a\x00\x01\x03\x21\x00\x01"],
    "an-ack-of-nothing": [connect(), Acknowledgement(Kind.PUBACK, 9).write()],
    "a-length-that-is-too-long": [connect(), b"\xc0\x80\x80\x80\x80\x00"],
    "not-utf-8": [connect(), b"\x32\x06\x00\x01\xff\x00\x01\x00"],
}
# What mosquitto 2.0.11 or 2.0.21 lets pass (it allows aliases). All else it ends, too.
MOSQUITTO_IS_KINDER = (
    "an-id-in-use",
    "an-ack-of-nothing",
    "a-packet-of-a-broker",
    "subscribe-with-reserved-options",
    "dup-without-qos",
    "a-topic-alias",
)


@pytest.mark.parametrize("name", FORBIDDEN)
def test_who_does_what_the_standard_forbids_is_thrown_out(run: Run, name: str) -> None:
    broker = ScriptedBroker()
    assert answers(run, broker, *FORBIDDEN[name])[-1] == "closed"
    assert len(broker.breaches) == 1


@pytest.mark.parametrize("name", [name for name in FORBIDDEN if name not in MOSQUITTO_IS_KINDER])
def test_mosquitto_throws_them_out_too(make_broker: MakeBroker, run: Run, name: str) -> None:
    async def story() -> None:
        async with wire_to(make_broker().port) as wire:
            assert (await wire.said(*FORBIDDEN[name]))[-1] == "closed"

    run(story())


AUTHORISED = "CONNACK 0x00"


@pytest.mark.parametrize(
    ("rule", "data", "said"),
    [
        (Rule(Kind.CONNECT, None, Refused(0x97)), [connect()], ["CONNACK 0x97", "closed"]),
        (Rule(Kind.CONNECT, "lost", Closed()), [connect(will=RETAINED_WILL)], ["closed"]),
        (Rule(Kind.CONNECT, "lost", Closed()), [connect()], [AUTHORISED]),
        (Rule(Kind.CONNECT, None, Closed(), V3), [connect()], [AUTHORISED]),
        (Rule(Kind.SUBSCRIBE, "a", Refused()), [connect(), subscribe("a", "b")], [AUTHORISED, "SUBACK 0x87 0x01"]),
        (Rule(Kind.SUBSCRIBE, "a", Lowered()), [connect(), subscribe("a", "b")], [AUTHORISED, "SUBACK 0x00 0x01"]),
        (Rule(Kind.SUBSCRIBE, "a", Silent()), [connect(), subscribe("a")], [AUTHORISED]),
        (Rule(Kind.SUBSCRIBE, "a", Closed()), [connect(), subscribe("a")], [AUTHORISED, "closed"]),
        (Rule(Kind.PUBLISH, "a", Refused()), [connect(), publish("a")], [AUTHORISED, "PUBACK 0x87"]),
        (Rule(Kind.PUBLISH, "a", Refused()), [connect(), publish("b")], [AUTHORISED, "PUBACK 0x10"]),
        (Rule(Kind.PUBLISH, "a", Refused()), [connect(), publish("a", qos=0)], [AUTHORISED]),
        (Rule(Kind.PUBLISH, "a", Closed()), [connect(), publish("a")], [AUTHORISED, "closed"]),
        (
            Rule(Kind.PUBLISH, "a", Closed(0x95)),
            [connect(), publish("a")],
            [AUTHORISED, "DISCONNECT 0x95", "closed"],
        ),
        (
            Rule(Kind.UNSUBSCRIBE, "a", Refused()),
            [connect(), b"\xa2\x06\x00\x01\x00\x00\x01a"],
            [AUTHORISED, "UNSUBACK"],
        ),
        (Rule(Kind.PINGREQ, None, Closed(0x98)), [connect()], [AUTHORISED, "DISCONNECT 0x98", "closed"]),
    ],
)
def test_a_rule_is_for_its_kind_of_packet_and_its_topic(
    run: Run, rule: Rule, data: list[bytes], said: list[str]
) -> None:
    assert answers(run, ScriptedBroker(Terms(), rule), *data) == said


def test_a_refusal_says_why(run: Run) -> None:
    async def story() -> None:
        rule = Rule(Kind.PUBLISH, "a", Refused())
        async with ScriptedBroker(Terms(), rule).serving() as broker, wire_to(broker.port) as wire:
            wire.writer.write(connect() + publish("a"))
            await wire.next()
            packet = await wire.next()
            assert packet is not None
            properties = Acknowledgement.read(packet).properties
            assert packets.read_properties(properties) == {Property.REASON_STRING: WHY}

    run(story())


def test_silence_is_no_answer_and_nothing_done(run: Run) -> None:
    async def story() -> None:
        rule = Rule(Kind.PUBLISH, "a", Silent())
        async with ScriptedBroker(Terms(), rule).serving() as broker, wire_to(broker.port) as wire:
            wire.writer.write(connect() + publish("a", 1) + publish("b", 2))
            assert [await wire.next_in_words() for _ in range(2)] == [AUTHORISED, "PUBACK 0x10"]
            assert [taken.message.topic for taken in broker.taken] == ["b"]

    run(story())


@pytest.mark.parametrize(
    ("speaks", "data", "said"),
    [
        ((V3,), connect(V5), ["CONNACK 0x01", "closed"]),
        ((V3,), connect(V3), ["CONNACK 0x00"]),
        ((V5,), connect(V3), ["CONNACK 0x01", "closed"]),
    ],
)
def test_a_broker_may_know_one_version_only(
    run: Run, speaks: tuple[Protocol, ...], data: bytes, said: list[str]
) -> None:
    assert answers(run, ScriptedBroker(speaks=speaks), data, protocol=V3) == said


async def stays_the_same(port: int) -> list[str]:
    """A session, from its first connection to its last, as its client sees it: each time in whatever order."""
    seen = []
    async with wire_to(port) as wire:
        seen += sorted(await wire.said(connect(clean=False, will=Will("lost", b"x", 1)), subscribe("a", options=1)))
        seen += sorted(await wire.said(publish("a")))
    async with wire_to(port) as wire:  # what has no PUBACK comes again
        seen += sorted(
            await wire.said(connect(clean=False), publish("b", 1, retain=True), publish("a", 2, retain=True))
        )
        seen += sorted(await wire.said(subscribe("b", options=1 | 0x08)))
        seen += sorted(await wire.said(publish("b", 3, retain=True)))
    async with wire_to(port) as wire, wire_to(port) as other:
        seen += sorted(await wire.said(connect(clean=True)))
        seen += sorted(await other.said(connect(clean=True)))
        # Of two connections with one client id the new one stays; mosquitto 2.0.11 does not tell the other why.
        assert await wire.next_in_words() in ("DISCONNECT 0x8e", "closed")
    return seen


def test_mosquitto_keeps_a_session_in_the_same_way(make_broker: MakeBroker, run: Run) -> None:
    async def story() -> None:
        async with ScriptedBroker().serving() as broker:
            ours = await stays_the_same(broker.port)
            assert not broker.breaches
        assert ours == await stays_the_same(make_broker().port)

    run(story())
