"""A network that swallows everything, a broker that is not one, and a session that rests."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import select
import selectors
import socket
import ssl
import struct
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest

from infoscreen_reboot.mqtt import session
from infoscreen_reboot.mqtt.connection import Connection
from infoscreen_reboot.mqtt.messages import BrokerSettings, Delivery, Message, NotDelivered
from infoscreen_reboot.mqtt.packets import Kind, Protocol, Publish, Reader
from infoscreen_reboot.mqtt.session import Statistics
from infoscreen_reboot.mqtt.tls import TlsSettings
from tests.broker.conftest import AT_ONCE_S, PATIENCE_S, Authority, Broker, Run
from tests.broker.inbox import FAREWELL, Client, at, child, plain, trouble_of


@contextlib.contextmanager
def black_hole(*, accepts: bool) -> Iterator[socket.socket]:
    """A port where no answer comes: the connection is taken and left alone, or is not even taken."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=8 if accepts else 0))
        if not accepts:
            # Linux queues one connection more than the backlog says. Just that one: others would try again at the
            # same time as the one under test, and take its place.
            stack.enter_context(socket.create_connection(server.getsockname()))
        yield server


@pytest.mark.parametrize("accepts", [True, False], ids=["no-answer", "no-connection"])
def test_silence_is_bounded_and_the_timers_keep_running(run: Run, accepts: bool) -> None:
    async def story(server: socket.socket) -> None:
        client = Client(replace(at(server), keep_alive_s=1))
        longest_s = 0.0
        async with client.running():
            watching = asyncio.create_task(client.until(lambda: client.session.trouble))
            while not watching.done():
                await asyncio.wait([watching], timeout=0.1)
                longest_s = max(longest_s, time.monotonic() - client.session.last_tick())
            await watching
            assert "no answer within 1.5 s; next attempt in" in (client.session.trouble or "")
            assert longest_s < 1

    with black_hole(accepts=accepts) as server:
        run(story(server))


def test_the_timers_keep_running_while_the_session_pauses(broker: Broker, run: Run) -> None:
    async def story() -> None:
        broker.kill()
        client = Client(replace(plain(broker), keep_alive_s=1))
        async with client.running():
            await client.until(lambda: len(client.changes) >= 3)
            assert time.monotonic() - client.session.last_tick() < 1

    run(story())


def first_to_close(server: socket.socket) -> bytes:
    """What the first connection that was closed by the other side has said."""
    said: dict[socket.socket, bytes] = {}
    with contextlib.ExitStack() as stack:
        while True:
            readable, _, _ = select.select([server, *said], [], [], PATIENCE_S)
            assert readable, "nobody closed a connection"
            for each in readable:
                if each is server:
                    said[stack.enter_context(server.accept()[0])] = b""
                elif heard := each.recv(4096):
                    said[each] += heard
                else:
                    return said[each]


def test_a_connection_that_comes_too_late_is_closed_again_without_a_word(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The kernel tries again after 1 s, 3 s, 7 s...: the attempt is to be still under way when somebody accepts it.
    monkeypatch.setattr("infoscreen_reboot.mqtt.connection._REACH_S", PATIENCE_S)

    async def story(server: socket.socket) -> None:
        client = Client(at(server))
        async with client.running() as task:
            await asyncio.wait([task], timeout=0.3)  # the connection attempt is under way
            await asyncio.wait_for(client.session.leave(FAREWELL, timeout_s=30), AT_ONCE_S)
        assert await asyncio.to_thread(first_to_close, server) == b""

    with black_hole(accepts=False) as server:
        run(story(server))


def test_a_name_look_up_that_answers_late_does_not_throw_out_the_live_session(
    broker: Broker, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up, answers, late = socket.getaddrinfo, threading.Event(), threading.Event()
    first = iter([True])

    def hangs_once(*args: Any, **options: Any) -> Any:
        if next(first, False):
            late.set()
            assert answers.wait(PATIENCE_S)
        return look_up(*args, **options)

    async def story() -> None:
        client = Client(plain(broker))
        async with client.running():
            assert await asyncio.to_thread(late.wait, PATIENCE_S)
            await asyncio.wait_for(client.session.wait_connected(), PATIENCE_S / 2)
            answers.set()
            await asyncio.to_thread(ends_soon, "mqtt-connect")
            # The broker answers in order: had it been told to, it would have thrown us out by now.
            await client.session.publish(FAREWELL)
            await client.session.publish(FAREWELL)
            assert client.session.is_connected
            assert client.session.statistics == Statistics()

    monkeypatch.setattr(socket, "getaddrinfo", hangs_once)
    # A try is given up after 1.5 s. By the keep-alive, a broker or a client that is held up would end the connection.
    monkeypatch.setattr(session, "PATIENCE", 1.5 / plain(broker).keep_alive_s)
    run(story())


def ends_soon(thread_name: str) -> None:
    for thread in threading.enumerate():
        if thread.name == thread_name:
            thread.join(PATIENCE_S)


@pytest.mark.parametrize("hole", ["connection", "name"])
def test_a_hanging_connect_or_name_look_up_does_not_hold_up_the_exit(run: Run, hole: str) -> None:
    async def story(server: socket.socket) -> None:
        settings = at(server)
        hang = "socket.getaddrinfo = lambda *_, **__: time.sleep(300)" if hole == "name" else ""
        process = child(
            settings,
            f"""
            {hang}
            async def main():
                s = session(print)
                task = asyncio.create_task(s.run())
                await asyncio.wait([task], timeout=0.3)
                print("leaving", flush=True)
                await s.leave(presence.will, 30)
                task.cancel()
            asyncio.run(main())
            """,
        )
        assert process.stdout is not None
        with process:
            assert await asyncio.to_thread(process.stdout.readline) == "leaving\n"
            began = time.monotonic()
            assert await asyncio.to_thread(process.wait, PATIENCE_S) == 0
            assert time.monotonic() - began < AT_ONCE_S

    with black_hole(accepts=False) as server:
        run(story(server))


CONNACK, SUBACK, BIRTH_PUBACK = b"\x20\x03\x00\x00\x00", b"\x90\x04\x00\x01\x00\x01", b"\x40\x02\x00\x02"


@contextlib.asynccontextmanager
async def scripted(
    *answers: bytes, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[BrokerSettings, asyncio.Queue[bytes]]]:
    """Answers each packet of the client with the next of `answers`; the queue has the packets."""
    packets: asyncio.Queue[bytes] = asyncio.Queue()
    serving: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        remaining = iter(answers)
        stream = Reader()
        with contextlib.suppress(ConnectionError), contextlib.closing(writer):
            while data := await reader.read(4096):
                stream.feed(data)
                while packet := stream.next_packet():
                    packets.put_nowait(packet.raw)
                    writer.write(next(remaining, b""))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield at(server.sockets[0]), packets
    finally:
        server.close()
        await asyncio.wait([task for task in serving if task is not None])  # our client has closed its end


@pytest.mark.parametrize(
    ("connack", "words"),
    [
        (b"\x20\x03\x00\x85\x00", "the broker does not accept our client id"),
        (b"\x20\x03\x00\x88\x00", "the broker is not available now"),
        (b"\x20\x03\x00\x86\x00", "bad user name or password"),
        (b"\x20\x03\x00\x87\x00", "not authorised"),
        (b"\x20\x03\x00\x97\x00", "a limit of the broker is reached"),
        (b"\x20\x0a\x00\x8a\x07\x1f\x00\x04a\nb\x1b", 'the broker has banned this client ("a?b?")'),
        (b"\x20\x02\x00\x05", "MQTT"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n" * 8, "MQTT"),
        (b"\x20\x01\x00", "MQTT"),
    ],
)
def test_a_refusal_is_told_in_words(run: Run, connack: bytes, words: str) -> None:
    async def story() -> None:
        async with scripted(connack) as (settings, _):
            assert words in await trouble_of(settings)

    run(story())


@pytest.mark.parametrize(
    "broken",
    [
        b"\x32\x03\x00\x09x",  # a topic longer than the packet
        b"\x32\x09\x00\x01t\x00\x07\x02\x7f\x00x",  # a property that MQTT 5 does not know
        b"\x32\x0b\x00\x01t\x00\x07\x04\x01\x00\x01\x00x",  # one that may come only once
        b"\x32\x0b\x00\x01t\x00\x07\x05\x26\x00\x09ab",  # text longer than the properties
        b"\x32\x05\x00\x01t\x00\x07",  # no properties at all
        b"\xe0\x03\x42\x00\x00",  # DISCONNECT for a reason that MQTT 5 does not know
    ],
    ids=range(6),
)
def test_a_broken_packet_costs_the_connection_and_not_the_session(run: Run, broken: bytes) -> None:
    async def story() -> None:
        async with scripted(CONNACK, SUBACK, BIRTH_PUBACK + broken) as (settings, _):
            client = Client(settings)
            async with client.running():
                await client.until(lambda: client.session.statistics.last_disconnect_at)
                assert client.session.statistics.last_disconnect_reason == "the broker sent what is not MQTT"
                await client.until(lambda: client.session.statistics.reconnect_count)

    run(story())


def of_qos_2(number: int, payload: bytes) -> bytes:
    return Publish("t", payload, qos=2, packet_id=number).write(Protocol.MQTT_5)


@pytest.mark.parametrize(
    ("flood", "words"),
    [
        (
            b"".join(of_qos_2(number, bytes(1000)) for number in range(1, 3001)),
            "the broker sends with QoS 2, for which nobody asked",
        ),
        (Publish("t", bytes(2**22)).write(Protocol.MQTT_5), "the broker sends a packet of more than 131072 bytes"),
    ],
    ids=["qos-2", "too-long"],
)
def test_what_the_broker_may_not_send_costs_the_connection_and_no_memory(run: Run, flood: bytes, words: str) -> None:
    async def story() -> None:
        async with scripted(CONNACK, SUBACK, BIRTH_PUBACK + flood) as (settings, _):
            client = Client(settings)
            async with client.running():
                await client.until(lambda: client.session.statistics.last_disconnect_at)
                assert client.session.statistics.last_disconnect_reason == words
                assert client.inbox.empty()
                await client.until(lambda: client.session.statistics.reconnect_count)

    run(story())


def test_what_comes_again_and_cannot_be_taken_is_left_behind_with_its_session(run: Run) -> None:
    poison = of_qos_2(1, b"for ever")

    async def story() -> None:
        async with scripted(CONNACK, SUBACK, BIRTH_PUBACK + poison) as (settings, packets):
            asks_for_new: list[bool] = []
            async with Client(settings).running():
                while True not in asks_for_new:
                    packet = await asyncio.wait_for(packets.get(), PATIENCE_S)
                    if packet[0] == Kind.CONNECT:
                        asks_for_new.append(bool(packet[9] & 0x02))
            assert asks_for_new == [False, False, False, True]

    run(story())


@pytest.mark.parametrize(
    ("farewell", "words"),
    [
        (b"\xe0\x01\x8e", "another host has taken this client's session"),
        (b"\xe0\x02\x8e\x00", "another host has taken this client's session"),
        (b"\xe0\x0a\x8e\x08\x1f\x00\x05clone", 'another host has taken this client\'s session ("clone")'),
        (b"\xe0\x01\x8b", "the broker is shutting down"),
        (b"\xe0\x00", "the broker closed the connection"),
    ],
    ids=["short", "no-properties", "with-a-reason", "another-code", "no-code"],
)
def test_two_hosts_with_one_name_are_told_apart_from_a_broker_that_goes(run: Run, farewell: bytes, words: str) -> None:
    async def story() -> None:
        async with scripted(CONNACK, SUBACK, BIRTH_PUBACK + farewell) as (settings, _):
            client = Client(settings)
            async with client.running():
                await client.until(lambda: client.session.statistics.last_disconnect_at)
                assert client.session.statistics.last_disconnect_reason == words
                # For `systemctl status`, and for the doctor in the journal.
                await client.until(lambda: f" lost: {words}; next attempt in " in (client.session.trouble or ""))

    run(story())


async def let_in_and_hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.closing(writer):
        for answer in (CONNACK, SUBACK, BIRTH_PUBACK):
            await reader.read(4096)
            writer.write(answer)


def test_connections_that_follow_each_other_quickly_do_not_keep_the_timer_from_running(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "back_off_s", lambda *_: 0.05)

    def has_come_back(client: Client, count: int) -> bool:
        return client.session.statistics.reconnect_count > count

    async def story() -> None:
        async with await asyncio.start_server(let_in_and_hang_up, "127.0.0.1", 0) as server:
            client = Client(replace(at(server.sockets[0]), keep_alive_s=3))
            async with client.running():
                began, longest_s = time.monotonic(), 0.0
                while client.session.statistics.reconnect_count < 60:
                    count = client.session.statistics.reconnect_count
                    await client.until(functools.partial(has_come_back, client, count))
                    longest_s = max(longest_s, time.monotonic() - client.session.last_tick())
                assert longest_s < (time.monotonic() - began) / 2, "it runs every second"

    run(story())


def test_a_broker_that_lets_us_in_and_hangs_up_again_and_again_may_have_two_clients_of_one_name(run: Run) -> None:
    def has_lost(client: Client, times: int) -> bool:
        statistics = client.session.statistics
        return statistics.is_lost and statistics.reconnect_count == times

    async def story() -> None:
        async with await asyncio.start_server(let_in_and_hang_up, "127.0.0.1", 0) as server:
            client = Client(at(server.sockets[0]))
            reasons: list[str | None] = []
            async with client.running():
                for times in range(3):
                    await client.until(functools.partial(has_lost, client, times))
                    reasons.append(client.session.statistics.last_disconnect_reason)
        closed = "the broker closed the connection"
        pattern = " again and again, soon after it had let us in: does another host have the same client UUID?"
        assert reasons == [closed, closed, closed + pattern]

    run(story())


@pytest.mark.parametrize(
    "answers",
    [
        [b"\x20\x02\x00\xf3"],  # a code that MQTT does not have
        [CONNACK, b"\x90\x02\x00\x01"],  # no answer to the subscription
        [CONNACK, b"\x90\x04\x00\x01\x01\x01"],  # two, where one was asked for
        [CONNACK, b"\x90\x03\x00\x01\x67"],  # a code that MQTT does not have
    ],
    ids=["connack", "suback-none", "suback-two", "suback-code"],
)
def test_an_answer_that_is_no_mqtt_costs_the_connection_and_not_the_session(run: Run, answers: list[bytes]) -> None:
    async def story() -> None:
        async with scripted(*answers) as (settings, _):
            assert "cannot connect to 127.0.0.1:" in await trouble_of(replace(settings, keep_alive_s=1))

    run(story())


def test_a_topic_that_is_not_utf_8_is_acknowledged_lest_it_come_for_ever(run: Run) -> None:
    async def story() -> None:
        bad = b"\x32\x07\x00\x01\xff\x00\x07\x00x"
        async with scripted(CONNACK, SUBACK, BIRTH_PUBACK + bad) as (settings, packets):
            client = Client(settings)
            async with client.connected(), asyncio.timeout(PATIENCE_S):
                while (await packets.get()) != b"\x40\x02\x00\x07":
                    pass
                assert client.inbox.empty()

    run(story())


def test_deliveries_that_came_in_one_tls_record_do_not_wait_for_the_next(authority: Authority, run: Run) -> None:
    async def story() -> None:
        identity = authority.issue("broker")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(identity.certificate, identity.key)
        deliveries = [b"\x32\x07\x00\x01t\x00%c\x00%d" % (number, number) for number in range(1, 6)]
        async with scripted(CONNACK, SUBACK, BIRTH_PUBACK + b"".join(deliveries), tls=context) as (settings, _):
            client = Client(replace(settings, tls=TlsSettings(authority.certificate, None, None)))
            async with client.connected():
                assert [await client.received() for _ in deliveries] == [b"1", b"2", b"3", b"4", b"5"]

    run(story())


def test_a_session_at_rest_lets_the_processor_sleep(broker: Broker) -> None:
    class Counting(selectors.DefaultSelector):
        wake_ups = 0

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            self.wake_ups += 1
            return super().select(timeout)

    selector = Counting()

    async def story() -> None:
        client = Client(plain(broker))
        async with client.connected() as task:
            began = selector.wake_ups
            await asyncio.wait([task], timeout=3)
            assert selector.wake_ups - began <= 5
            assert client.session.last_tick() > time.monotonic() - 10

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        runner.run(story())


def deliver_and_vanish(server: socket.socket, told: threading.Event, gone: threading.Event) -> None:
    """A broker of MQTT 5 that delivers one message and, once told, ends the connection with a reset."""
    client, _ = server.accept()
    client.recv(4096)
    client.sendall(b"\x20\x03\x00\x00\x00" + b"\x32\x07\x00\x01t\x00\x01\x00x")
    told.wait(10)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    gone.set()


def test_a_connection_that_is_lost_while_a_delivery_is_answered_ends_and_does_not_hang() -> None:
    told, gone, reasons = threading.Event(), threading.Event(), list[str]()

    async def story(server: socket.socket) -> None:
        def on_message(_: Delivery) -> None:
            told.set()
            assert gone.wait(10)
            with contextlib.suppress(NotDelivered):
                while True:
                    connection.send(Message("answers", b"yes"))

        connection = Connection(at(server), "client", None, on_message)
        await connection.open()
        reasons.append(await connection.closed)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=deliver_and_vanish, args=(server, told, gone), daemon=True).start()
        # In a thread that can be left behind: it was paho's lock that hung, and with it the whole loop.
        client = threading.Thread(target=lambda: asyncio.run(story(server)), daemon=True)
        client.start()
        client.join(20)
    assert reasons == ["the broker closed the connection"]
