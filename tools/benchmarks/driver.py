"""A controller that costs next to nothing: MQTT 3.1.1 on a bare socket, so that what is measured is the others."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_CONNECT, _CONNACK, _PUBLISH, _PUBACK, _SUBSCRIBE, _SUBACK = 0x10, 0x20, 0x30, 0x40, 0x82, 0x90
_QOS_1 = 0x02


@dataclass(frozen=True, slots=True)
class Heard:
    """`at` is time.perf_counter() when it was read from the socket."""

    at: float
    topic: str
    payload: bytes


class Driver:
    """Publishes and hears at QoS 1. One thread at a time may publish, and one may listen."""

    def __init__(self, port: int, *topics: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        self._mid = 0
        self._writing = threading.Lock()
        self._send(_CONNECT, _text("MQTT") + b"\x04\x02\x00\x00" + _text("driver"))
        assert self._packet()[0] == _CONNACK
        if topics:
            self._send(_SUBSCRIBE, b"\x00\x01" + b"".join(_text(topic) + b"\x01" for topic in topics))
            while self._packet()[0] != _SUBACK:
                pass

    def close(self) -> None:
        self._socket.close()

    def publish(self, topic: str, payload: bytes) -> float:
        """When it began to be sent; the broker's PUBACK is not waited for."""
        self._mid = self._mid % 65535 + 1
        packet = _text(topic) + struct.pack("!H", self._mid) + payload
        at = time.perf_counter()
        self._send(_PUBLISH | _QOS_1, packet)
        return at

    def hear(self, timeout_s: float = 30) -> Iterator[Heard]:
        """Whatever comes, as it comes; raises TimeoutError where nothing comes for that long."""
        self._socket.settimeout(timeout_s)
        while True:
            kind, body = self._packet()
            at = time.perf_counter()
            if kind & 0xF0 == _PUBLISH:
                end = 2 + int.from_bytes(body[:2], "big")
                if kind & 0x06:
                    self._send(_PUBACK, body[end : end + 2])
                yield Heard(at, body[2:end].decode(), bytes(body[end + 2 * bool(kind & 0x06) :]))

    def await_one(self, is_it: Callable[[Heard], bool], timeout_s: float = 30) -> Heard:
        return next(heard for heard in self.hear(timeout_s) if is_it(heard))

    def _send(self, kind: int, body: bytes) -> None:
        length, left = bytearray(), len(body)
        while not length or left:
            length.append((left & 0x7F) | (0x80 if left > 0x7F else 0))
            left >>= 7
        with self._writing:
            self._socket.sendall(bytes([kind]) + length + body)

    def _packet(self) -> tuple[int, bytes]:
        while True:
            length, shift, position = 0, 0, 1
            while position < len(self._buffer):
                byte = self._buffer[position]
                length |= (byte & 0x7F) << shift
                shift, position = shift + 7, position + 1
                if byte < 0x80:
                    if len(self._buffer) >= position + length:
                        kind, body = self._buffer[0], bytes(self._buffer[position : position + length])
                        del self._buffer[: position + length]
                        return kind, body
                    break
            data = self._socket.recv(1 << 16)
            if not data:
                raise ConnectionError("the broker has closed the connection")
            self._buffer += data


@contextmanager
def driving(port: int, *topics: str) -> Iterator[Driver]:
    driver = Driver(port, *topics)
    try:
        yield driver
    finally:
        driver.close()


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("!H", len(data)) + data
