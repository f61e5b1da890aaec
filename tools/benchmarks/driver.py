"""A controller that costs next to nothing: MQTT 3.1.1 on a bare socket, so that what is measured is the others."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from infoscreen_reboot.mqtt.packets import Acknowledgement, Connect, Kind, Packet, Protocol, Publish, Reader, Subscribe

_VERSION = Protocol.MQTT_3_1_1


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
        self._reader = Reader()
        self._mid = 0
        self._writing = threading.Lock()
        self._send(Connect("driver", keep_alive_s=0).write(_VERSION))
        assert self._packet().kind is Kind.CONNACK
        if topics:
            self._send(Subscribe(1, topics, options=1).write(_VERSION))
            while self._packet().kind is not Kind.SUBACK:
                pass

    def close(self) -> None:
        self._socket.close()

    def publish(self, topic: str, payload: bytes) -> float:
        """When it began to be sent; the broker's PUBACK is not waited for."""
        self._mid = self._mid % 65535 + 1
        packet = Publish(topic, payload, qos=1, packet_id=self._mid).write(_VERSION)
        at = time.perf_counter()
        self._send(packet)
        return at

    def hear(self, timeout_s: float = 30) -> Iterator[Heard]:
        """Whatever comes, as it comes; raises TimeoutError where nothing comes for that long."""
        self._socket.settimeout(timeout_s)
        while True:
            packet = self._packet()
            at = time.perf_counter()
            if packet.kind is Kind.PUBLISH:
                publish = Publish.read(packet, _VERSION)
                if publish.qos:
                    self._send(Acknowledgement(Kind.PUBACK, publish.packet_id).write())
                yield Heard(at, publish.topic, publish.payload)

    def await_one(self, is_it: Callable[[Heard], bool], timeout_s: float = 30) -> Heard:
        return next(heard for heard in self.hear(timeout_s) if is_it(heard))

    def _send(self, packet: bytes) -> None:
        with self._writing:
            self._socket.sendall(packet)

    def _packet(self) -> Packet:
        while (packet := self._reader.next_packet()) is None:
            data = self._socket.recv(1 << 16)
            if not data:
                raise ConnectionError("the broker has closed the connection")
            self._reader.feed(data)
        return packet


@contextmanager
def driving(port: int, *topics: str) -> Iterator[Driver]:
    driver = Driver(port, *topics)
    try:
        yield driver
    finally:
        driver.close()
