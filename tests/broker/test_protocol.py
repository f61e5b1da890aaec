"""MQTT 5 for the properties that a signature travels in, and 3.1.1 where the broker knows no other."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import AsyncIterator

import pytest

from infoscreen_reboot.mqtt.messages import BrokerSettings, Delivery, Message
from infoscreen_reboot.mqtt.packets import Connect, Kind, Packet, Protocol, Publish, Reader
from infoscreen_reboot.mqtt.paho_client import MAX_PACKET_BYTES
from tests.broker.conftest import PATIENCE_S, Broker, Run
from tests.broker.inbox import COMMANDS, Client, at, plain

MQTT_5 = b"\x00\x04MQTT\x05"
TOO_NEW = b"\x20\x02\x00\x01"  # MQTT 3.1.1, 3.2.2.3: unacceptable protocol version


class Gate:
    """In front of a broker, which it makes one of MQTT 3.1.1 as long as `is_old`."""

    def __init__(self, broker: Broker, refusal: bytes = TOO_NEW) -> None:
        """`refusal` is what it answers to MQTT 5 before it closes the connection."""
        self.is_old = True
        self._refusal = refusal
        self.refused = 0
        self._broker = broker
        self._passing: set[asyncio.Task[None] | None] = set()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[BrokerSettings]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            yield at(server.sockets[0])
            await asyncio.gather(*(task for task in self._passing if task is not None))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._passing.add(asyncio.current_task())
        with contextlib.closing(writer):
            connect = await reader.read(4096)
            if self.is_old and MQTT_5 in connect:
                self.refused += 1
                writer.write(self._refusal)
                return
            from_broker, to_broker = await asyncio.open_connection(self._broker.host, self._broker.port)
            to_broker.write(connect)
            await asyncio.gather(_pass_on(reader, to_broker), _pass_on(from_broker, writer))


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.closing(writer), contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)


def signed(broker: Broker, payload: str, *pairs: tuple[str, str]) -> None:
    properties = [word for pair in pairs for word in ("-D", "publish", "user-property", *pair)]
    broker.publish(COMMANDS, payload, "-V", "5", *properties)


def test_user_properties_come_in_their_order_with_names_that_are_there_twice(broker: Broker, run: Run) -> None:
    async def story() -> None:
        client = Client(plain(broker))
        pairs = ("signature-key-id", "2026a"), ("b", ""), ("signature-key-id", "käse"), ("b", "2")
        async with client.connected():
            signed(broker, "reboot", *pairs)
            assert await client.inbox.get() == Delivery(COMMANDS, b"reboot", False, pairs)
            signed(broker, "unsigned")
            assert await client.inbox.get() == Delivery(COMMANDS, b"unsigned", False)

    run(story())


def test_what_waits_for_us_keeps_its_properties_when_the_broker_is_restarted(broker: Broker, run: Run) -> None:
    async def story() -> None:
        async with Client(plain(broker)).connected():
            pass
        signed(broker, "reboot", ("signature", "abc="))
        broker.restart()
        client = Client(plain(broker))
        async with client.connected():
            assert await client.inbox.get() == Delivery(COMMANDS, b"reboot", False, (("signature", "abc="),))

    run(story())


def test_the_session_of_an_agent_that_spoke_3_1_1_goes_on(broker: Broker, run: Run) -> None:
    before = ("mosquitto_sub", "-h", broker.host, "-p", str(broker.port), "-V", "311", "-c", "-i", "screen", "-q", "1")
    subprocess.run([*before, "-t", COMMANDS, "-E"], check=True, timeout=PATIENCE_S)
    broker.publish(COMMANDS, "sent before the upgrade")

    async def story() -> None:
        client = Client(plain(broker))
        async with client.connected():
            assert await client.received() == b"sent before the upgrade"

    run(story())


def test_a_broker_that_does_not_know_mqtt_5_is_spoken_to_in_3_1_1(broker: Broker, run: Run) -> None:
    async def story() -> None:
        gate = Gate(broker)
        async with gate.open() as settings:
            client = Client(settings)
            async with client.connected(), broker.observe("ack") as observer:
                signed(broker, "1", ("signature", "is lost on the way"))
                assert await client.inbox.get() == Delivery(COMMANDS, b"1", False)
                await client.session.publish(Message("ack", b"accepted"))
                assert (await observer.next()).payload == b"accepted"
            signed(broker, "2")
            second = Client(settings)
            async with second.connected():
                assert await second.received() == b"2", "the broker keeps the session in 3.1.1, too"
            assert gate.refused == 2
            assert client.session.trouble is second.session.trouble is None

    run(story())


def test_a_broker_that_has_learnt_mqtt_5_meanwhile_is_spoken_to_in_it(broker: Broker, run: Run) -> None:
    async def story() -> None:
        gate = Gate(broker)
        async with gate.open() as settings:
            client = Client(settings)
            async with client.connected():
                gate.is_old = False
                broker.restart()
                await client.until(lambda: client.session.statistics.reconnect_count)
                signed(broker, "reboot", ("signature", "abc="))
                assert (await client.inbox.get()).properties == (("signature", "abc="),)

    run(story())


def test_text_that_paho_takes_for_an_error_is_no_message_that_comes_for_ever(broker: Broker, run: Run) -> None:
    async def story() -> None:
        client = Client(plain(broker))
        async with client.connected():
            signed(broker, "poison", ("\ufeffname", "\ufeffvalue"))
            assert (await client.inbox.get()).properties == (("\ufeffname", "\ufeffvalue"),)
            assert client.session.statistics.reconnect_count == 0

    run(story())


@pytest.mark.parametrize("size", [2 * MAX_PACKET_BYTES, 2**23])
def test_a_packet_that_is_too_large_stays_with_the_broker(broker: Broker, run: Run, size: int) -> None:
    async def story() -> None:
        async with Client(plain(broker)).connected():
            pass
        broker.publish(COMMANDS, bytes(size))
        client = Client(plain(broker))
        async with client.connected():
            broker.publish(COMMANDS, bytes(size))
            broker.publish(COMMANDS, "after")
            assert await client.received() == b"after"
            assert client.session.statistics.reconnect_count == 0

    run(story())


def test_as_many_properties_as_a_packet_holds_do_not_hold_the_agent_up(broker: Broker, run: Run) -> None:
    async def story() -> None:
        client = Client(plain(broker))
        async with client.connected() as task:
            began_s = time.process_time()
            # The command line has no room for as many as the packet: one that is full, made by hand.
            await _publish_by_hand(broker, properties=b"\x26\x00\x00\x00\x00" * ((MAX_PACKET_BYTES - 100) // 5))
            delivery = await client.inbox.get()
            # A second or two of a processor, however many want it.
            assert time.process_time() - began_s < 15
            assert len(delivery.properties) == (MAX_PACKET_BYTES - 100) // 5
            assert not task.done()

    run(story())


async def _publish_by_hand(broker: Broker, properties: bytes) -> None:
    """A PUBLISH of QoS 1 in MQTT 5, until its PUBACK."""
    from_broker, writer = await asyncio.open_connection(broker.host, broker.port)
    reader = Reader()

    async def answer() -> Packet:
        while (packet := reader.next_packet()) is None:
            data = await from_broker.read(4096)
            assert data, "the broker has closed the connection"
            reader.feed(data)
        return packet

    with contextlib.closing(writer):
        writer.write(Connect("by hand", keep_alive_s=60).write(Protocol.MQTT_5))
        assert (await answer()).kind is Kind.CONNACK
        publish = Publish(COMMANDS, b"many", qos=1, packet_id=1, properties=properties)
        writer.write(publish.write(Protocol.MQTT_5))
        assert (await answer()).kind is Kind.PUBACK
