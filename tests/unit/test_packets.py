"""MQTT's own bytes: as the OASIS standards print them, as paho reads and writes them, in pieces, and broken.

Section numbers are those of MQTT 5, or of 3.1.1 where they say so.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from infoscreen_reboot.mqtt import packets, paho_client, reasons
from infoscreen_reboot.mqtt.packets import (
    Acknowledgement,
    Connack,
    Connect,
    Disconnect,
    Kind,
    MalformedPacket,
    Packet,
    Protocol,
    Publish,
    Reader,
    Suback,
    Subscribe,
)

MQTT_3_1_1, MQTT_5 = Protocol.MQTT_3_1_1, Protocol.MQTT_5
BOTH = pytest.mark.parametrize("protocol", Protocol)


def taken(reader: Reader) -> list[Packet]:
    return list(iter(reader.next_packet, None))


def one(raw: bytes) -> Packet:
    reader = Reader()
    reader.feed(raw)
    (packet,) = taken(reader)
    assert packet.raw == raw
    return packet


# --- What the standards print

# Table 1-1; 3.1.1: table 2.4.
LENGTHS = [
    (0, b"\x00"),
    (127, b"\x7f"),
    (128, b"\x80\x01"),
    (16_383, b"\xff\x7f"),
    (16_384, b"\x80\x80\x01"),
    (2_097_151, b"\xff\xff\x7f"),
    (2_097_152, b"\x80\x80\x80\x01"),
    (268_435_455, b"\xff\xff\xff\x7f"),
]


@pytest.mark.parametrize(("length", "coded"), LENGTHS)
def test_a_length_takes_as_many_bytes_as_the_standards_say(length: int, coded: bytes) -> None:
    assert packets.coded_length(length) == coded
    assert packets.read_length(b"?" + coded + b"\xff", 1) == (length, 1 + len(coded))
    for end in range(len(coded)):
        assert packets.read_length(coded[:end], 0) is None, "more is to come"


def test_text_is_utf_8_behind_its_length() -> None:
    assert packets.text("A\U0002a6d4") == b"\x00\x05\x41\xf0\xaa\x9b\x94"  # figure 1-2; 3.1.1: figure 1.2
    assert packets.text("") == b"\x00\x00"


@pytest.mark.parametrize(
    ("protocol", "header"),
    [
        (MQTT_3_1_1, b"\x00\x04MQTT\x04\xce\x00\x0a"),  # 3.1.1: 3.1.2.11
        (MQTT_5, b"\x00\x04MQTT\x05\xce\x00\x0a\x05\x11\x00\x00\x00\x0a"),  # 3.1.2.12
    ],
)
def test_a_connect_says_the_protocol_of_its_connection(protocol: Protocol, header: bytes) -> None:
    assert packets.protocol_of(one(packets.frame(Kind.CONNECT, header, b"\x00\x01x"))) is protocol


@pytest.mark.parametrize(
    ("protocol", "content"),
    [
        # Keep-alive of 10 s, user name, password and a clean start; the sections as above, then 3.1.3.
        (MQTT_3_1_1, b"\x00\x04MQTT\x04\xc2\x00\x0a" + b"\x00\x01c" + b"\x00\x02me" + b"\x00\x00"),
        (MQTT_5, b"\x00\x04MQTT\x05\xc2\x00\x0a\x00" + b"\x00\x01c" + b"\x00\x02me" + b"\x00\x00"),
    ],
)
def test_a_connect_has_its_names_in_the_order_of_the_standard(protocol: Protocol, content: bytes) -> None:
    raw = Connect("c", keep_alive_s=10, username="me", password="").write(protocol)
    assert raw == b"\x10" + bytes([len(content)]) + content
    assert packets.protocol_of(one(raw)) is protocol


@pytest.mark.parametrize(
    ("protocol", "header"),
    [
        (MQTT_3_1_1, b"\x00\x03a/b\x00\x0a"),  # 3.1.1: 3.3.2.3
        (MQTT_5, b"\x00\x03a/b\x00\x0a\x00"),  # figure 3-9
    ],
)
def test_a_publish_is_read_and_written_as_the_standards_print_it(protocol: Protocol, header: bytes) -> None:
    raw = b"\x32" + bytes([len(header) + 2]) + header + b"{}"
    publish = Publish("a/b", b"{}", qos=1, packet_id=10)
    assert Publish.read(one(raw), protocol) == publish
    assert publish.write(protocol) == raw


@pytest.mark.parametrize(
    ("first", "between", "protocol", "expected"),
    [
        (0x30, b"", MQTT_3_1_1, Publish("a/b", b"{}")),
        (0x32, b"\x01\x02", MQTT_3_1_1, Publish("a/b", b"{}", qos=1, packet_id=258)),
        (0x3B, b"\x00\x07", MQTT_3_1_1, Publish("a/b", b"{}", qos=1, packet_id=7, retain=True, dup=True)),
        (0x34, b"\xff\xff", MQTT_3_1_1, Publish("a/b", b"{}", qos=2, packet_id=65_535)),
        (0x32, b"\x00\x07\x00", MQTT_5, Publish("a/b", b"{}", qos=1, packet_id=7)),
        # A user property, of which the bytes are more than one byte can count.
        (
            *(0x32, b"\x00\x07\x8a\x01\x26\x00\x01a\x00\x84" + b"b" * 132, MQTT_5),
            Publish("a/b", b"{}", qos=1, packet_id=7, properties=b"\x26\x00\x01a\x00\x84" + b"b" * 132),
        ),
        (0x31, b"\x00", MQTT_5, Publish("a/b", b"{}", retain=True)),
    ],
)
def test_flags_identifier_and_properties_of_a_publish(
    first: int, between: bytes, protocol: Protocol, expected: Publish
) -> None:
    raw = packets.frame(first, b"\x00\x03a/b", between, b"{}")
    assert Publish.read(one(raw), protocol) == expected
    assert expected.write(protocol) == raw


@pytest.mark.parametrize(
    ("packet", "raw"),
    [
        # 3.8.3; 3.1.1: the same section.
        (Subscribe(10, ["a/b", "c/d"], 1).write(MQTT_3_1_1), b"\x82\x0e\x00\x0a\x00\x03a/b\x01\x00\x03c/d\x01"),
        (Subscribe(10, ["a/b"], 0x21).write(MQTT_5), b"\x82\x09\x00\x0a\x00\x00\x03a/b\x21"),
        (packets.frame(Kind.PINGREQ), b"\xc0\x00"),  # 3.12
        (packets.frame(Kind.PINGRESP), b"\xd0\x00"),  # 3.13
        (Disconnect().write(), b"\xe0\x00"),  # 3.1.1: 3.14
        (Disconnect(0x8E).write(), b"\xe0\x01\x8e"),  # 3.14.2.1: without the length of properties that it has not
        (Acknowledgement(Kind.PUBACK, 10).write(), b"\x40\x02\x00\x0a"),  # 3.4.2.1: the same in both
        (Acknowledgement(Kind.PUBREL, 10).write(), b"\x62\x02\x00\x0a"),  # 3.6.1
        (Acknowledgement(Kind.PUBREC, 10, 0x87).write(), b"\x50\x03\x00\x0a\x87"),
        (Connack(0).write(MQTT_3_1_1), b"\x20\x02\x00\x00"),
        (Connack(0x87, has_session=True).write(MQTT_5), b"\x20\x03\x01\x87\x00"),
        (Suback(10, (0, 2, 0x80)).write(MQTT_3_1_1), b"\x90\x05\x00\x0a\x00\x02\x80"),  # 3.1.1: 3.9.3
        (Suback(10, (0, 2, 0x80)).write(MQTT_5), b"\x90\x06\x00\x0a\x00\x00\x02\x80"),
    ],
)
def test_what_is_written_is_what_the_standards_say(packet: bytes, raw: bytes) -> None:
    assert packet == raw
    assert one(raw).kind == raw[0]


@pytest.mark.parametrize(
    ("raw", "read", "expected"),
    [
        (b"\x20\x02\x00\x01", Connack.read, Connack(1)),
        (b"\x20\x09\x00\x84\x06\x1f\x00\x03old", Connack.read, Connack(0x84, properties=b"\x1f\x00\x03old")),
        (b"\x40\x02\x00\x07", Acknowledgement.read, Acknowledgement(Kind.PUBACK, 7)),
        (b"\x40\x04\x00\x07\x10\x00", Acknowledgement.read, Acknowledgement(Kind.PUBACK, 7, 0x10)),
        (
            b"\x50\x09\x00\x07\x87\x05\x1f\x00\x02no",
            Acknowledgement.read,
            Acknowledgement(Kind.PUBREC, 7, 0x87, b"\x1f\x00\x02no"),
        ),
        (b"\xe0\x00", Disconnect.read, Disconnect()),
        (b"\xe0\x01\x8e", Disconnect.read, Disconnect(0x8E)),
        (b"\xe0\x0a\x8e\x08\x1f\x00\x05clone", Disconnect.read, Disconnect(0x8E, b"\x1f\x00\x05clone")),
    ],
)
def test_what_a_broker_may_leave_out_and_what_it_may_add(
    raw: bytes, read: Callable[[Packet], object], expected: object
) -> None:
    assert read(one(raw)) == expected


def test_a_suback_of_mqtt_5_may_give_its_reason() -> None:
    raw = b"\x90\x09\x00\x01\x05\x1f\x00\x02no\x87"
    assert Suback.read(one(raw), MQTT_5) == Suback(1, (0x87,), b"\x1f\x00\x02no")


def test_a_connect_with_a_will_is_what_the_standard_says() -> None:
    connect = Connect("a", 20, "u", "p", packets.Will("w", b"gone", 1, retain=True), b"\x27\x00\x02\x00\x00")
    # 3.1.2.3: user name, password, will retain, will QoS 1, will, clean start. 3.1.3: id, will, login.
    head = b"\x00\x04MQTT\x05\xee\x00\x14\x05\x27\x00\x02\x00\x00"
    rest = b"\x00\x01a\x00\x00\x01w\x00\x04gone\x00\x01u\x00\x01p"
    assert connect.write(MQTT_5) == bytes([0x10, len(head + rest)]) + head + rest
    without = replace(connect, will=None, username=None, password=None, properties=b"")
    assert without.write(MQTT_3_1_1) == b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x14\x00\x01a"


def test_every_property_of_mqtt_5_is_read_over() -> None:
    told: dict[packets.Property, int | str] = {
        packets.Property.RECEIVE_MAXIMUM: 20,
        packets.Property.REASON_STRING: "no",
    }
    # A pair, a number of any length, a binary, a text and a byte that we do not use (2.2.2.2).
    others = b"\x26\x00\x01a\x00\x01b" + b"\x0b\x80\x01" + b"\x09\x00\x01x" + b"\x1a\x00\x01y" + b"\x01\x01"
    assert packets.read_properties(others + packets.write_properties(told) + others) == told


@pytest.mark.parametrize(
    "broken", [b"\x7f\x00", b"\x21\x00", b"\x1f\x00\x09ab", b"\x26\x00\x01a\x00", b"\x0b\x80", b"\x1f"]
)
def test_properties_that_mqtt_5_does_not_have_or_that_end_too_early_are_refused(broken: bytes) -> None:
    with pytest.raises(packets.MalformedPacket):
        packets.read_properties(broken)


# --- There and back

TEXTS = st.text(st.characters(min_codepoint=1, blacklist_categories=["Cs"]), max_size=200)
IDS = st.integers(1, 65_535)
ACKNOWLEDGEMENTS = st.sampled_from([Kind.PUBACK, Kind.PUBREC, Kind.PUBREL, Kind.PUBCOMP])
CODES = st.integers(0, 255)
PAYLOADS = st.binary(max_size=500)


@st.composite
def publishes(draw: st.DrawFn, protocol: Protocol) -> Publish:
    qos = draw(st.sampled_from([0, 1, 2]))
    return Publish(
        draw(TEXTS),
        draw(PAYLOADS),
        qos,
        packet_id=draw(IDS) if qos else 0,
        retain=draw(st.booleans()),
        dup=bool(qos) and draw(st.booleans()),
        properties=draw(PAYLOADS) if protocol is MQTT_5 else b"",
    )


@BOTH
@given(data=st.data())
def test_a_publish_comes_back(protocol: Protocol, data: st.DataObject) -> None:
    publish = data.draw(publishes(protocol))
    assert Publish.read(one(publish.write(protocol)), protocol) == publish


@BOTH
@given(connack=st.builds(Connack, CODES, st.booleans()), suback=st.builds(Suback, IDS, st.tuples(CODES, CODES)))
def test_a_brokers_answers_come_back(protocol: Protocol, connack: Connack, suback: Suback) -> None:
    assert Connack.read(one(connack.write(protocol))) == connack
    assert Suback.read(one(suback.write(protocol)), protocol) == suback


@given(st.builds(Acknowledgement, ACKNOWLEDGEMENTS, IDS, CODES), st.builds(Disconnect, CODES))
def test_acknowledgements_and_farewells_come_back(acknowledgement: Acknowledgement, farewell: Disconnect) -> None:
    assert Acknowledgement.read(one(acknowledgement.write())) == acknowledgement
    assert Disconnect.read(one(farewell.write())) == farewell


def test_a_text_that_begins_with_u_feff_keeps_it() -> None:
    publish = Publish("\ufefftopic", b"")  # 1.5.4-3
    assert Publish.read(one(publish.write(MQTT_5)), MQTT_5) == publish


# --- A stream in pieces

KINDS = st.sampled_from([kind for kind in Kind if kind is not Kind.PUBLISH])
ANYTHING = st.builds(packets.frame, KINDS, st.binary(max_size=300)) | publishes(MQTT_5).map(lambda p: p.write(MQTT_5))


@given(st.lists(ANYTHING, max_size=5), st.data())
def test_a_stream_in_any_pieces_gives_its_packets_byte_for_byte(whole: Sequence[bytes], data: st.DataObject) -> None:
    stream = b"".join(whole)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    reader, came = Reader(), list[bytes]()
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        reader.feed(stream[start:end])
        came += [packet.raw for packet in taken(reader)]
    assert came == list(whole)


@pytest.mark.parametrize("length", [0, 1, 127, 128, 20_000])
def test_a_packet_comes_with_its_last_byte_and_not_before(length: int) -> None:
    first = packets.frame(0x30, bytes(length))
    stream = first + b"\x40\x02\x00\x01"
    reader, came = Reader(), list[tuple[int, bytes]]()
    for at in range(len(stream)):
        reader.feed(stream[at : at + 1])
        came += [(at + 1, packet.raw) for packet in taken(reader)]
    assert came == [(len(first), first), (len(stream), stream[len(first) :])]


# --- What is not MQTT


# Table 2-1, with the flags of table 2-2 (3.1.1: 2.1 and 2.2), and those of PUBLISH in 3.3.1.
FIRST_BYTES = {
    *(0x10, 0x20, 0x40, 0x50, 0x62, 0x70, 0x82, 0x90, 0xA2, 0xB0, 0xC0, 0xD0, 0xE0, 0xF0),
    *(0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x3A, 0x3B, 0x3C, 0x3D),
}


@pytest.mark.parametrize("first", range(256))
def test_a_packet_begins_as_the_standards_say_or_is_none(first: int) -> None:
    reader = Reader()
    reader.feed(bytes([first]))
    if first in FIRST_BYTES:
        assert reader.next_packet() is None, "more is to come"
        assert one(bytes([first, 0])).kind >> 4 == first >> 4
    else:
        with pytest.raises(MalformedPacket):
            reader.next_packet()


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        (b"\x00", "cannot read a packet: none begins with 0x00"),  # 2.1.2: reserved
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "cannot read a packet: none begins with 0x48"),
        (b"\x15\x03\x03\x00\x02\x02\x0a", "cannot read a packet: none begins with 0x15"),  # an alert of TLS
        (b"\x80\x00", "cannot read a packet: none begins with 0x80"),  # 2.1.3: a SUBSCRIBE has 0x02 there
        (b"\x36\x00", "cannot read a packet: none begins with 0x36"),  # 3.3.1-4: QoS 3
        (b"\x38\x00", "cannot read a packet: none begins with 0x38"),  # 3.3.1-2: DUP at QoS 0
        (b"\x30\xff\xff\xff\xff", "cannot read a length: it takes more than four bytes"),
        (b"\x30\x80\x00", "cannot read a length: it takes more bytes than it needs"),
        (b"\x30\x63", "cannot read PUBLISH: 101 bytes, allowed are 100"),
        (b"\x30\xff\xff\xff\x7f", "cannot read PUBLISH: 268435460 bytes, allowed are 100"),
    ],
)
def test_what_is_no_packet_is_told_by_its_first_bytes_and_ends_the_stream(stream: bytes, words: str) -> None:
    reader = Reader(max_packet_bytes=100)
    reader.feed(b"\xd0\x00" + packets.frame(0x30, bytes(98)) + stream)
    assert [packet.kind for packet in (reader.next_packet(), reader.next_packet()) if packet] == [0xD0, 0x30]
    for _ in range(2):
        with pytest.raises(MalformedPacket) as error:
            reader.next_packet()
        assert str(error.value) == words
        reader.feed(b"\xd0\x00")


@pytest.mark.parametrize(
    ("raw", "protocol", "words"),
    [
        (b"\x32\x03\x00\x09x", MQTT_5, "PUBLISH: it ends before its text does"),
        (b"\x30\x01\x00", MQTT_3_1_1, "PUBLISH: it ends before its text does"),
        (b"\x30\x00", MQTT_3_1_1, "PUBLISH: it ends before its text does"),
        (b"\x30\x03\x00\x01\xff", MQTT_3_1_1, "PUBLISH: its text is not UTF-8"),
        (b"\x30\x05\x00\x03\xed\xa0\x80", MQTT_3_1_1, "PUBLISH: its text is not UTF-8"),  # 1.5.4-1: a surrogate
        (b"\x30\x03\x00\x01\x00", MQTT_3_1_1, "PUBLISH: its text has a NUL"),  # 1.5.4-2
        (b"\x32\x04\x00\x01t\x00", MQTT_5, "PUBLISH: it ends before its packet identifier does"),
        (b"\x32\x06\x00\x01t\x00\x00\x00", MQTT_5, "PUBLISH: its packet identifier is 0"),  # 2.2.1
        (b"\x32\x05\x00\x01t\x00\x07", MQTT_5, "PUBLISH: it ends before the length of its properties does"),
        (b"\x32\x06\x00\x01t\x00\x07\x80", MQTT_5, "PUBLISH: it ends before the length of its properties does"),
        (b"\x32\x07\x00\x01t\x00\x07\x80\x00", MQTT_5, "a length: it takes more bytes than it needs"),
        (b"\x32\x07\x00\x01t\x00\x07\x02x", MQTT_5, "PUBLISH: it ends before its properties do"),
        (b"\x20\x00", MQTT_5, "CONNACK: it ends too early"),
        (b"\x20\x01\x00", MQTT_5, "CONNACK: it ends too early"),
        (b"\x20\x02\x02\x00", MQTT_5, "CONNACK: flags that are reserved"),  # 3.2.2.1
        (b"\x20\x03\x00\x00\x01", MQTT_5, "CONNACK: it ends before its properties do"),
        (b"\x20\x04\x00\x00\x00\x00", MQTT_5, "CONNACK: something follows its properties"),
        (b"\x90\x02\x00\x01", MQTT_3_1_1, "SUBACK: no codes"),
        (b"\x90\x03\x00\x01\x00", MQTT_5, "SUBACK: no codes"),
        (b"\x90\x02\x00\x01", MQTT_5, "SUBACK: it ends before the length of its properties does"),
        (b"\x40\x00", MQTT_5, "PUBACK: it ends before its packet identifier does"),
        (b"\x50\x04\x00\x01\x87\x01", MQTT_5, "PUBREC: it ends before its properties do"),
        (b"\xe0\x03\x8e\x00\x00", MQTT_5, "DISCONNECT: something follows its properties"),
        (b"\x10\x07\x00\x04MQTT\x03", MQTT_5, "CONNECT: MQTT 3 is neither MQTT 3.1.1 nor 5"),
        (b"\x10\x09\x00\x06MQIsdp\x03", MQTT_5, "CONNECT: MQIsdp 3 is neither MQTT 3.1.1 nor 5"),  # MQTT 3.1
        (b"\x10\x06\x00\x04MQTT", MQTT_5, "CONNECT: it ends too early"),
    ],
)
def test_a_packet_that_is_malformed_is_refused_with_what_is_wrong(raw: bytes, protocol: Protocol, words: str) -> None:
    with pytest.raises(MalformedPacket) as error:
        read(one(raw), protocol)
    assert str(error.value) == f"cannot read {words}"


def read(packet: Packet, protocol: Protocol) -> object:
    """As whatever it says that it is."""
    match packet.kind:
        case Kind.CONNECT:
            return packets.protocol_of(packet)
        case Kind.CONNACK:
            return Connack.read(packet)
        case Kind.PUBLISH:
            return Publish.read(packet, protocol)
        case Kind.SUBACK:
            return Suback.read(packet, protocol)
        case Kind.DISCONNECT:
            return Disconnect.read(packet)
        case Kind.PUBACK | Kind.PUBREC | Kind.PUBREL | Kind.PUBCOMP:
            return Acknowledgement.read(packet)
    return None


@BOTH
@given(noise=st.binary(max_size=60) | st.builds(packets.frame, st.sampled_from(Kind), st.binary(max_size=60)))
@example(noise=b"\x30\x02\x00\x00")
def test_whatever_comes_is_read_or_refused_and_nothing_else_happens(protocol: Protocol, noise: bytes) -> None:
    reader, length = Reader(), 0
    reader.feed(noise)
    with contextlib.suppress(MalformedPacket):
        for packet in iter(reader.next_packet, None):
            length += len(packet.raw)
            assert noise[:length].endswith(packet.raw)
            read(packet, protocol)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda: packets.text("ä" * 32_768), "a text of 65536 bytes: MQTT knows none above 65535"),
        (lambda: packets.coded_length(268_435_456), "a length of 268435456: MQTT knows none above 268435455"),
        (lambda: Publish("t", b"", qos=1).write(MQTT_5), "the packet identifier 0: it is 1 to 65535"),
        (lambda: Subscribe(65_536, ["t"], 1).write(MQTT_5), "the packet identifier 65536: it is 1 to 65535"),
        (lambda: Publish("t", b"", qos=3, packet_id=1).write(MQTT_5), "PUBLISH: QoS 3"),
        (lambda: Publish("t", b"", dup=True).write(MQTT_5), "PUBLISH: QoS 0 with DUP"),
        (lambda: Publish("t", b"", properties=b"\x01\x00").write(MQTT_3_1_1), "properties: MQTT 3.1.1 has none"),
    ],
)
def test_what_mqtt_has_no_bytes_for_is_not_written(write: Callable[[], bytes], words: str) -> None:
    with pytest.raises(ValueError) as error:
        write()
    assert str(error.value) == f"cannot write {words}"
    assert not isinstance(error.value, MalformedPacket), "which is for what comes from outside"


def test_a_password_is_not_in_what_is_logged() -> None:
    assert "secret" not in repr(Connect("c", 60, "me", "secret"))


# --- paho, the other half of the conversation


class Talk:
    """A client of paho, and a broker's end of its connection without a network between them."""

    def __init__(self, client: Any, end: socket.socket) -> None:
        self.client = client
        self.heard: dict[str, tuple[Any, ...]] = {}
        for event in ("connect", "subscribe", "message", "publish", "disconnect"):
            setattr(client, f"on_{event}", self._listener(event))
        self._end = end
        self._reader = Reader()

    def _listener(self, event: str) -> Callable[..., None]:
        return lambda *arguments: self.heard.update({event: arguments})

    def said(self) -> Packet:
        """The next packet of paho."""
        while (packet := self._reader.next_packet()) is None:
            data = self._end.recv(65_536)
            assert data, "paho has closed the connection"
            self._reader.feed(data)
        return packet

    def hear(self, raw: bytes) -> None:
        """Has paho read that; what it calls then lands in `heard`."""
        self._end.sendall(raw)
        self.client.loop_read()


@contextlib.contextmanager
def talking(protocol: Protocol, username: str | None = None, password: str | None = None) -> Iterator[Talk]:
    ours, theirs = socket.socketpair()
    client: Any = paho_client.new_client(protocol, "screen", True)
    client._create_socket_connection = lambda: theirs
    client.username_pw_set(username, password)
    with ours, theirs:
        ours.settimeout(10)
        talk = Talk(client, ours)
        # No property besides, unlike the agent, which says what it takes.
        client.connect("nowhere", 1883, 60, **({"clean_start": True} if protocol is MQTT_5 else {}))
        yield talk


@BOTH
@pytest.mark.parametrize(("username", "password"), [(None, None), ("me", None), ("me", "käse")])
def test_our_connect_is_pahos(protocol: Protocol, username: str | None, password: str | None) -> None:
    with talking(protocol, username, password) as talk:
        connect = talk.said()
        assert connect.raw == Connect("screen", 60, username, password).write(protocol)
        assert packets.protocol_of(connect) is protocol


@BOTH
def test_paho_reads_our_refusal(protocol: Protocol) -> None:
    with talking(protocol) as talk:
        talk.said()
        talk.hear(Connack(0x87 if protocol is MQTT_5 else 5).write(protocol))
        assert reasons.of_connack(paho_client.code(talk.heard["connect"][3])) == reasons.NOT_AUTHORISED


@BOTH
def test_paho_and_we_understand_each_other(protocol: Protocol) -> None:
    with talking(protocol) as talk:
        talk.said()
        talk.hear(Connack(0).write(protocol))

        _, mid = talk.client.subscribe(paho_client.subscriptions(protocol, ["a/b", "c"]))
        assert talk.said().raw == Subscribe(mid, ["a/b", "c"], 1).write(protocol)
        talk.hear(Suback(mid, (1, 0x80)).write(protocol))
        assert [paho_client.code(code) for code in talk.heard["subscribe"][3]] == [1, 0x80]

        payload = "{käse}".encode() * 50
        mid = talk.client.publish("a/ü", payload, 1, True).mid
        packet = talk.said()
        assert Publish.read(packet, protocol) == Publish("a/ü", payload, 1, mid, retain=True)
        assert Publish.read(packet, protocol).write(protocol) == packet.raw
        talk.hear(Acknowledgement(Kind.PUBACK, mid).write())
        assert "publish" in talk.heard

        properties = b"\x26\x00\x03key\x00\x042026" if protocol is MQTT_5 else b""
        talk.hear(Publish("a/ü", payload, 1, 7, retain=True, properties=properties).write(protocol))
        message = talk.heard["message"][2]
        assert (message.topic, message.payload, message.qos, message.retain) == ("a/ü", payload, 1, True)
        assert paho_client.user_properties(message) == ((("key", "2026"),) if properties else ())
        puback = talk.said()
        assert Acknowledgement.read(puback) == Acknowledgement(Kind.PUBACK, 7)
        assert Acknowledgement(Kind.PUBACK, 7).write() == puback.raw

        talk.client.disconnect()
        assert Disconnect.read(talk.said()) == Disconnect()
