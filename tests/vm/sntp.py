"""A time server for a test: what RFC 4330 asks of an SNTP server, with this machine's own clock."""

from __future__ import annotations

import socket
import struct
import sys
import time

# Seconds from 1900, which NTP counts from, to 1970.
TO_1900_S = 2208988800
SERVER, VERSION = 4, 4
STRATUM, PRECISION = 1, -20
PACKET = struct.Struct("!BBbb11I")


def stamp(seconds: float) -> tuple[int, int]:
    whole, fraction = divmod(seconds, 1)
    return int(whole) + TO_1900_S, int(fraction * 2**32)


def answer(question: bytes, received: float) -> bytes:
    """The client's own transmit time comes back as the originate time: by that it knows its answer."""
    poll = question[2]
    originate = struct.unpack("!II", question[40:48])
    flags = VERSION << 3 | SERVER
    reference = stamp(received - 1)
    return PACKET.pack(
        flags, STRATUM, poll, PRECISION, 0, 0, 0x4C4F434C, *reference, *originate, *stamp(received), *stamp(time.time())
    )


def serve(address: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((address, 123))
        print("ready", flush=True)
        while True:
            question, client = server.recvfrom(512)
            if len(question) >= 48:
                server.sendto(answer(question, time.time()), client)


if __name__ == "__main__":
    serve(sys.argv[1])
