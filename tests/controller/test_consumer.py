"""How the consumer gathers a batch: it waits for more as long as nobody waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from infoscreen_reboot.mqtt import consumer as consumer_module
from infoscreen_reboot.mqtt.consumer import LINGER_S, Consumer
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
