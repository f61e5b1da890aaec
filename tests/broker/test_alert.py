"""The failure notifier's one message: it arrives, leaves nothing else behind, or says why it did not arrive."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from infoscreen_reboot.client.notifier.notify_failure import Sender
from infoscreen_reboot.contract.telemetry import FailureAlert, encode_failure_alert, is_failure_alert
from infoscreen_reboot.mqtt.messages import BrokerSettings, Message, NotDelivered
from tests.broker.conftest import Broker, MakeBroker, Run
from tests.broker.inbox import plain
from tests.broker.test_protocol import Gate

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


def test_a_broker_that_closes_at_mqtt_5_gets_the_alert_in_3_1_1(broker: Broker, run: Run) -> None:
    async def story() -> None:
        gate = Gate(broker, refusal=b"")
        async with gate.open() as settings:
            sender = Sender(settings, "alert")
            with pytest.raises(NotDelivered, match="the broker closed the connection without an answer"):
                await sender.send(ALERT)
            await sender.send(ALERT)
        async with broker.observe("#") as observer:
            assert [(seen.topic, seen.payload) for seen in observer.retained] == [(TOPIC, ALERT.payload)]

    run(story())


def test_an_alert_is_cut_to_what_the_broker_takes(make_broker: MakeBroker, run: Run) -> None:
    broker = make_broker("max_packet_size 2000")
    told = FailureAlert(
        client_uuid="9b8d1856-ff34-4864-a726-12de072d0f77",
        unit="player.service",
        result="exit-code",
        exit_status=1,
        restarts=5,
        boot_id="0f8fad5b-d9cb-469f-a165-70867728950e",
        timestamp=datetime.now(UTC),
        last_log_lines=tuple(f"line {number} {'x' * 400}" for number in range(20)),
    )

    async def story() -> None:
        await Sender(plain(broker), "alert").send(replace(ALERT, payload=encode_failure_alert(told)))
        async with broker.observe("#") as observer:
            ((seen),) = observer.retained
        assert is_failure_alert(seen.payload)
        lines = json.loads(seen.payload)["last_log_lines"]
        assert 1 < len(lines) < 20 and tuple(lines) == told.last_log_lines[-len(lines) :]

    run(story())


def test_a_broker_that_does_not_answer_is_given_up_in_time(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        settings = replace(BrokerSettings(host, port, None, None, None), keep_alive_s=1)
        assert refusal(run, settings) == f"no answer from {host}:{port} within 1.5 s"
