"""The failure notifier's one message: it arrives, leaves nothing else behind, or says why it did not arrive."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from infoscreen_reboot.client.notifier.notify_failure import Sender
from infoscreen_reboot.mqtt.messages import BrokerSettings, Message, NotDelivered
from tests.broker.conftest import Broker, MakeBroker, Run
from tests.broker.inbox import plain

TOPIC = "screen/service_failed"
ALERT = Message(TOPIC, b'{"unit":"player.service"}', retain=True)


def refusal(run: Run, settings: BrokerSettings) -> str:
    async def story() -> None:
        await Sender(settings, "alert").send(ALERT)

    with pytest.raises(NotDelivered) as refused:
        run(story())
    return str(refused.value)


def test_an_alert_is_retained_and_leaves_neither_a_will_nor_a_session(broker: Broker, run: Run) -> None:
    async def story() -> None:
        await Sender(plain(broker), "alert").send(ALERT)
        async with broker.observe("#") as observer:
            assert [(seen.topic, seen.payload) for seen in observer.retained] == [(TOPIC, ALERT.payload)]

    run(story())
    log = broker.log()
    assert "as alert (p5, c1," in log  # c1: a clean session
    assert "Received DISCONNECT from alert" in log
    assert "Sending PUBACK to alert" in log and "will" not in log.partition("as alert")[2].partition("\n")[0]


def test_the_reason_of_a_refusal_names_the_broker(make_broker: MakeBroker, run: Run) -> None:
    broker = make_broker("allow_anonymous false")
    assert refusal(run, plain(broker)) == f"127.0.0.1:{broker.port}: not authorised"
    broker.kill()
    assert refusal(run, plain(broker)) == f"127.0.0.1:{broker.port}: connection refused"


def test_a_broker_that_does_not_answer_is_given_up_in_time(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        settings = replace(BrokerSettings(host, port, None, None, None), keep_alive_s=1)
        assert refusal(run, settings) == f"no answer from {host}:{port} within 1.5 s"
