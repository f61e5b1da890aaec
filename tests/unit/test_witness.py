"""How the witness takes packets off the stream that passes it."""

import asyncio

import pytest

from infoscreen_reboot.mqtt.packets import Kind, Reader, frame
from tools.campaign.witness import _next_packet


@pytest.mark.parametrize("length", [0, 1, 127, 128, 20_000, 200_000])
def test_packets_are_taken_off_the_stream_one_by_one(length: int) -> None:
    first, second = frame(Kind.PUBLISH, bytes(length)), frame(Kind.PUBACK, b"\x00\x01")

    async def read() -> list[bytes]:
        reader, stream = Reader(), asyncio.StreamReader()
        stream.feed_data(first + second)
        return [(await _next_packet(reader, stream)).raw for _ in range(2)]

    assert asyncio.run(read()) == [first, second]


@pytest.mark.parametrize("rest", [b"", b"\x30", b"\x30\x80", b"\x30\x03\x00\x01"])
def test_a_connection_that_ends_in_a_packet_ends_as_any_other(rest: bytes) -> None:
    async def read() -> None:
        reader, stream = Reader(), asyncio.StreamReader()
        stream.feed_data(b"\xd0\x00" + rest)
        stream.feed_eof()
        assert (await _next_packet(reader, stream)).kind is Kind.PINGRESP
        with pytest.raises(EOFError):
            await _next_packet(reader, stream)

    asyncio.run(read())
