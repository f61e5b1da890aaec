"""Stands between a client and its broker: writes down what passes, and is in the way when told to be."""

from __future__ import annotations

import asyncio
import ctypes
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from infoscreen_reboot.mqtt.packets import DUP, Acknowledgement, Kind, Packet, Protocol, Publish, Reader, protocol_of
from tools.lab.scratch import LabError

PORT = 1884
CLONE_NEWNET = 0x40000000  # linux/sched.h
# A slow link: so many bytes, then so long nothing.
SLOW_BYTES, SLOW_PAUSE_S = 24, 0.015
# What was held back to come after a later one comes at last when there is none.
HELD_BACK_S = 0.6


@dataclass(frozen=True, slots=True)
class Passed:
    """One PUBLISH, or the PUBACK of one, that went on; `from_client` tells who sent this packet."""

    at: float
    is_puback: bool
    from_client: bool
    topic: str
    payload: bytes
    retain: bool = False


@dataclass(slots=True)
class Way:
    """What stands in the way at the moment."""

    refuses: bool = False
    stalls: bool = False
    is_slow: bool = False
    doubles: bool = False
    reorders: bool = False
    # Whose next PUBACK gets lost, and the connection with it: True the client's, False the broker's.
    loses_puback_of_client: bool | None = None


@dataclass(slots=True, eq=False)
class Link:
    """One connection of the client, and the one to the broker that was made for it."""

    client: asyncio.StreamWriter
    broker: asyncio.StreamWriter
    is_dead: bool = False
    protocol: Protocol = Protocol.MQTT_3_1_1
    # By packet identifier and sender: what was published and not yet acknowledged.
    open: dict[tuple[int, bool], tuple[str, bytes]] = field(default_factory=dict)
    # PUBACKs of what we have doubled ourselves; the sender of the first must not see them.
    surplus: Counter[tuple[int, bool]] = field(default_factory=Counter)
    held_back: list[tuple[bytes, Passed]] = field(default_factory=list)

    def abort(self) -> None:
        for writer in (self.client, self.broker):
            writer.transport.abort()


class Witness:
    """Lives in a thread of its own that has entered the machine's network; everything public is for other threads."""

    def __init__(self, network: str) -> None:
        self.way = Way()
        self.on_passed: Callable[[Passed], None] = lambda _: None
        self.connects = 0
        self._passed: list[Passed] = []
        self._links: set[Link] = set()
        self._network = network
        self._loop = asyncio.new_event_loop()
        self._clear = asyncio.Event()
        self._failure: BaseException | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{network}-witness", daemon=True)
        self._thread.start()
        self._ready.wait(10)
        if self._failure is not None or not self._ready.is_set():
            raise LabError(f"cannot stand between client and broker in {network}: {self._failure}")

    @property
    def passed(self) -> list[Passed]:
        return list(self._passed)

    def set(self, **way: bool | None) -> None:
        """Changes what stands in the way; refusing takes the connections that are there with it."""

        async def change() -> None:
            for name, value in way.items():
                setattr(self.way, name, value)
            if self.way.refuses:
                for link in self._links:
                    link.abort()
            (self._clear.clear if self.way.stalls else self._clear.set)()

        asyncio.run_coroutine_threadsafe(change(), self._loop).result(10)

    def forsake(self) -> None:
        """The connections of now stay open for ever and carry nothing any more; new ones are good."""

        async def change() -> None:
            for link in self._links:
                link.is_dead = True

        asyncio.run_coroutine_threadsafe(change(), self._loop).result(10)

    @property
    def is_forsaken(self) -> bool:
        """Whether the client still holds on to a connection that carries nothing."""
        return any(link.is_dead for link in list(self._links))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            with Path("/run/netns", self._network).open() as network:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(network.fileno(), CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            self._clear.set()
            server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", PORT))
        except BaseException as error:
            self._failure = error
            return
        finally:
            self._ready.set()
        self._loop.run_forever()
        server.close()
        self._clear.set()
        for link in self._links:
            link.abort()
        self._loop.run_until_complete(asyncio.gather(*asyncio.all_tasks(self._loop), return_exceptions=True))
        self._loop.close()

    async def _serve(self, from_client: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        if self.way.refuses:
            client.transport.abort()
            return
        try:
            from_broker, broker = await asyncio.open_connection("127.0.0.1", 1883)
        except OSError:
            client.transport.abort()
            return
        link = Link(client, broker)
        self._links.add(link)
        pumps = [asyncio.create_task(self._pump(link, from_client, broker, True))]
        pumps += [asyncio.create_task(self._pump(link, from_broker, client, False))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Orderly, so that what was written last still arrives.
            for writer in (client, broker):
                writer.close()
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._links.discard(link)

    async def _pump(self, link: Link, source: asyncio.StreamReader, sink: asyncio.StreamWriter, up: bool) -> None:
        reader = Reader()
        with suppress(OSError, EOFError):
            while True:
                packet = await _next_packet(reader, source)
                await self._clear.wait()
                if not link.is_dead:
                    for piece in self._treat(link, packet, up):
                        await self._send(sink, piece)

    async def _send(self, sink: asyncio.StreamWriter, packet: bytes) -> None:
        if not self.way.is_slow:
            sink.write(packet)
        else:
            for start in range(0, len(packet), SLOW_BYTES):
                sink.write(packet[start : start + SLOW_BYTES])
                await asyncio.sleep(SLOW_PAUSE_S)
        await sink.drain()

    def _treat(self, link: Link, packet: Packet, up: bool) -> list[bytes]:
        """What goes on in place of the packet."""
        match packet.kind:
            case Kind.CONNECT:
                self.connects += 1
                link.protocol = protocol_of(packet)
            case Kind.PUBLISH:
                return self._treat_publish(link, packet, up)
            case Kind.PUBACK:
                return self._treat_puback(link, packet, up)
        return [packet.raw]

    def _treat_publish(self, link: Link, packet: Packet, up: bool) -> list[bytes]:
        publish = Publish.read(packet, link.protocol)
        mid = publish.packet_id
        passed = Passed(time.time(), False, up, publish.topic, publish.payload, publish.retain)
        pieces = [packet.raw]
        if mid:
            link.open[mid, up] = publish.topic, publish.payload
            if self.way.doubles:
                link.surplus[mid, not up] += 1
                pieces = [packet.raw, bytes([packet.raw[0] | DUP]) + packet.raw[1:]]
        if mid and not up and self.way.reorders and not link.held_back:
            link.held_back = [(piece, passed) for piece in pieces]
            self._loop.call_later(HELD_BACK_S, self._let_go, link)
            return []
        self._write_down(passed)
        if up or not link.held_back:
            return pieces
        for _, held in link.held_back[:1]:
            self._write_down(held)
        pieces += [piece for piece, _ in link.held_back]
        link.held_back = []
        return pieces

    def _let_go(self, link: Link) -> None:
        for piece, passed in link.held_back:
            self._write_down(passed)
            link.client.write(piece)
        link.held_back = []

    def _treat_puback(self, link: Link, packet: Packet, up: bool) -> list[bytes]:
        mid = Acknowledgement.read(packet).packet_id
        if (mid, not up) not in link.open and link.surplus[mid, up] > 0:
            link.surplus[mid, up] -= 1
            return []
        topic, payload = link.open.pop((mid, not up), ("", b""))
        if self.way.loses_puback_of_client is up:
            self.way.loses_puback_of_client = None
            link.abort()
            return []
        self._write_down(Passed(time.time(), True, up, topic, payload))
        return [packet.raw]

    def _write_down(self, passed: Passed) -> None:
        self._passed.append(passed)
        self.on_passed(passed)


async def _next_packet(reader: Reader, source: asyncio.StreamReader) -> Packet:
    """Raises EOFError at the end of the connection, wherever in a packet that is."""
    while (packet := reader.next_packet()) is None:
        data = await source.read(65536)
        if not data:
            raise EOFError
        reader.feed(data)
    return packet
