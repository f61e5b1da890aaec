"""What the witness reads in the packets that pass it, of either version of MQTT."""

import asyncio

import pytest

from tools.campaign.witness import _parse_publish, _read_packet

TOPIC, PAYLOAD = "infoscreen/x/commands", b"{}"
NAMED = len(TOPIC).to_bytes(2) + TOPIC.encode()


def packet(first: int, body: bytes) -> bytes:
    size, length = b"", len(body)
    while True:
        size += bytes([length & 0x7F | (0x80 if length > 0x7F else 0)])
        length >>= 7
        if not length:
            return bytes([first]) + size + body


@pytest.mark.parametrize(
    ("first", "between", "has_properties", "mid"),
    [
        (0x30, b"", False, 0),
        (0x32, b"\x01\x02", False, 258),
        (0x3B, b"\x00\x07", False, 7),
        (0x32, b"\x00\x07\x00", True, 7),
        # A user property, of which the bytes are more than one byte can count.
        (0x32, b"\x00\x07\x8a\x01\x26\x00\x01a\x00\x84" + b"b" * 132, True, 7),
        (0x30, b"\x00", True, 0),
    ],
)
def test_topic_identifier_and_payload_of_a_publish(first: int, between: bytes, has_properties: bool, mid: int) -> None:
    whole = packet(first, NAMED + between + PAYLOAD)
    assert _parse_publish(whole, has_properties) == (TOPIC, mid, PAYLOAD)


@pytest.mark.parametrize("length", [0, 1, 127, 128, 20_000])
def test_packets_are_taken_off_the_stream_one_by_one(length: int) -> None:
    first, second = packet(0x30, bytes(length)), packet(0x40, b"\x00\x01")

    async def read() -> list[bytes]:
        stream = asyncio.StreamReader()
        stream.feed_data(first + second)
        return [await _read_packet(stream), await _read_packet(stream)]

    assert asyncio.run(read()) == [first, second]
