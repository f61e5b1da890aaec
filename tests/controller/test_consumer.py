"""How the consumer gathers a batch: it waits for more as long as nobody waits for it. And what a broker demands."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infoscreen_reboot.mqtt import consumer as consumer_module
from infoscreen_reboot.mqtt.consumer import LINGER_S, Consumer, Lost, Terms
from infoscreen_reboot.mqtt.messages import BrokerSettings
from tests.broker.conftest import Broker
from tools.benchmarks.controller.ground import Hose


@pytest.fixture
def consumer(broker: Broker) -> Iterator[Consumer]:
    found = Consumer(BrokerSettings(broker.host, broker.port, None, None, None), "consumer", ["said"])
    found.open()
    yield found
    found.end()


@pytest.fixture
def hose(broker: Broker) -> Iterator[Hose]:
    found = Hose(broker.port)
    yield found
    found.close()


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """So long that no busy machine takes it for the other one."""
    monkeypatch.setattr(consumer_module, "UNHURRIED_LINGER_S", 60.0)


def test_what_nobody_waits_for_is_gathered_longer(consumer: Consumer, hose: Hose) -> None:
    hose.send([("said", b"first")], qos=0)
    later = threading.Timer(50 * LINGER_S, hose.send, [[("said", b"second")], 0])
    later.start()
    received, _ = consumer.receive(2, 60)
    later.join()
    assert [each.delivery.payload for each in received] == [b"first", b"second"]


def test_what_the_broker_waits_for_ends_the_gathering(consumer: Consumer, hose: Hose) -> None:
    hose.send([("said", b"health")], qos=0)
    hose.send([("said", b"ack")], qos=1)
    began = time.monotonic()
    received, _ = consumer.receive(500, 60)
    assert time.monotonic() < began + 30
    assert [each.delivery.payload for each in received] == [b"health", b"ack"]


def test_whoever_wakes_it_need_not_wait(consumer: Consumer, hose: Hose) -> None:
    hose.send([("said", b"health")], qos=0)
    consumer.wake()
    began = time.monotonic()
    consumer.receive(500, 60)
    assert time.monotonic() < began + 30


def test_what_the_broker_allows_is_known(tmp_path: Path) -> None:
    broker = Broker(tmp_path, "max_inflight_messages 7\nretain_available false")
    broker.start()
    consumer = Consumer(BrokerSettings(broker.host, broker.port, None, None, None), "consumer", ["said"])
    consumer.open()
    assert consumer.terms == Terms(receive_maximum=7, has_retained=False)
    consumer.end()
    broker.kill()


def test_the_brokers_word_on_the_keep_alive_counts() -> None:
    """It says one second, where we have asked for more: it would throw us out."""
    heard = threading.Event()

    def broker() -> None:
        # Whoever ends while something of ours is unread resets the connection.
        with contextlib.suppress(ConnectionError), listener.accept()[0] as link:
            link.settimeout(30)
            link.recv(1000)
            link.sendall(bytes.fromhex("20 06 00 00 03 13 00 01"))
            while data := link.recv(1000):
                if b"\xc0\x00" in data:
                    heard.set()
                    link.sendall(b"\xd0\x00")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        thread = threading.Thread(target=broker)
        thread.start()
        settings = BrokerSettings("127.0.0.1", listener.getsockname()[1], None, None, None)
        consumer = Consumer(settings, "consumer", ["said"])
        consumer.connect()
        until = time.monotonic() + settings.keep_alive_s / 2
        # On a busy machine the answer may come after the second for which it waits; it has asked all the same.
        with contextlib.suppress(Lost):
            while not heard.is_set() and time.monotonic() < until:
                consumer.receive(1, 0.1)
        consumer.end()
        thread.join()
    assert heard.is_set(), "no PINGREQ"


@pytest.mark.parametrize(("protocol", "said"), [("3.1.1", [b"\x04"]), ("5", [b"\x05"]), ("auto", [b"\x05", b"\x04"])])
def test_a_version_that_is_set_is_the_only_one_that_is_tried(protocol: str, said: list[bytes]) -> None:
    heard: list[bytes] = []

    def broker() -> None:
        for _ in said:
            with listener.accept()[0] as link:
                link.settimeout(30)
                heard.append(link.recv(1000)[8:9])
                # "Unacceptable protocol version" to MQTT 5, "server unavailable" to 3.1.1.
                link.sendall(b"\x20\x02\x00" + (b"\x01" if heard[-1] == b"\x05" else b"\x03"))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        thread = threading.Thread(target=broker)
        thread.start()
        settings = BrokerSettings("127.0.0.1", listener.getsockname()[1], None, None, None, protocol=protocol)
        consumer = Consumer(settings, "consumer", ["said"])
        with pytest.raises(Lost, match="MQTT_PROTOCOL|version|not available"):
            consumer.connect()
        consumer.end()
        thread.join()
    assert heard == said
