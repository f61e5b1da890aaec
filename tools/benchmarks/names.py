"""A name server for one name, as RFC 1035 has it: `names.py ADDRESS NAME`; what it tells is its own address."""

from __future__ import annotations

import socket
import struct
import sys

_HEADER = struct.Struct("!HHHHHH")
_RESPONSE = 0x8480  # authoritative, and recursion is there
_IPV4, _INTERNET = 1, 1
_TO_THE_QUESTIONS_NAME = 0xC00C
_NO_SUCH_NAME = 3


def answer(question: bytes, name: str, address: str) -> bytes:
    """No address of another kind, and no other name."""
    number, *_ = _HEADER.unpack_from(question)
    wanted = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    end = question.index(b"\0", _HEADER.size) + 1
    kind, of = struct.unpack_from("!HH", question, end)
    is_known = question[_HEADER.size : end].lower() == wanted
    has_answer = is_known and (kind, of) == (_IPV4, _INTERNET)
    flags = _RESPONSE if is_known else _RESPONSE | _NO_SUCH_NAME
    told = _HEADER.pack(number, flags, 1, int(has_answer), 0, 0) + question[_HEADER.size : end + 4]
    if has_answer:
        told += struct.pack("!HHHIH", _TO_THE_QUESTIONS_NAME, kind, of, 60, 4) + socket.inet_aton(address)
    return told


def serve(address: str, name: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((address, 53))
        print("ready", flush=True)
        while True:
            question, client = server.recvfrom(512)
            server.sendto(answer(question, name, address), client)


if __name__ == "__main__":
    serve(*sys.argv[1:])
