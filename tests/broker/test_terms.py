"""Whatever a broker says with its CONNACK, the agent keeps to it, and says what it costs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from infoscreen_reboot.contract import telemetry
from infoscreen_reboot.contract.ack import AckStatus
from infoscreen_reboot.mqtt.packets import Kind, Publish
from infoscreen_reboot.mqtt.terms import Terms
from tests.broker.scripted import NOTHING_SAID, ScriptedBroker
from tests.broker.stage import Play, playing
from tools.simulated.agents import FleetLoop

Story = Callable[[Play], Coroutine[Any, Any, None]]
Act = Callable[[Terms, Story], None]
# As many as the issue asks for, and more than are ever under way at once.
MANY = 50


@pytest.fixture
def act(tmp_path: Path) -> Act:
    """Runs a story of an agent at a broker with these terms. Whatever the agent does against them makes it red."""

    async def played(terms: Terms, story: Story) -> None:
        async with playing(tmp_path, ScriptedBroker(terms), prepare=lambda play: play.let_a_unit_fail(*LINES)) as (
            play,
        ):
            await story(play)
            assert play.broker.breaches == []
            assert play.client.lives == 1

    def run(terms: Terms, story: Story) -> None:
        with asyncio.Runner(loop_factory=FleetLoop) as runner:
            runner.run(played(terms, story))

    return run


# Of an alert that no broker with a small maximum takes.
LINES = tuple(f"line {number} {'x' * 480}" for number in range(20))


def a_unit_has_failed(play: Play) -> None:
    play.let_a_unit_fail(*LINES)


async def is_ready(play: Play) -> None:
    """Connected, subscribed, and all that is said at the beginning is said."""
    qos = min(1, play.broker.terms.maximum_qos)
    await play.broker.until(lambda: all(play.listens(topic, qos) for topic in play.subscribed))
    await play.broker.until(lambda: not {"status", "boot"} & set(play.unspoken()))


async def says(play: Play, *words: str) -> None:
    await play.broker.until(lambda: all(word in play.client.status for word in words))


def messages(play: Play) -> list[Publish]:
    return [taken.message for taken in play.broker.taken if not taken.is_will]


def with_puback(play: Play, topic: str) -> list[bytes]:
    return [message.payload for message in messages(play) if message.topic == topic and message.qos]


def test_the_brokers_keep_alive_is_kept(act: Act) -> None:
    async def story(play: Play) -> None:
        await is_ready(play)
        await play.broker.until(lambda: len(play.broker.heard_of(Kind.PINGREQ)) >= 5)
        assert len(play.broker.connections) == 1

    act(Terms(keep_alive_s=1), story)


def test_of_many_owed_acks_no_more_are_under_way_than_the_broker_takes_at_once(act: Act) -> None:
    async def story(play: Play) -> None:
        await is_ready(play)
        orders = [play.order(play.topics.commands, is_expired=True) for _ in range(MANY)]
        await play.broker.until(lambda: play.has_ended(orders[0]))
        play.broker.drop()
        await play.broker.until(lambda: all(map(play.has_ended, orders)))
        assert len(play.broker.connections) == 2

    act(Terms(receive_maximum=1), story)


def test_what_is_too_large_is_cut_or_named_and_the_rest_goes_through(act: Act) -> None:
    async def story(play: Play) -> None:
        topics = play.topics
        await is_ready(play)
        order = play.order(topics.transitional_command)
        await play.broker.until(lambda: all(play.is_answered(order, topic) for topic in play.ack_topics))
        await play.broker.until(lambda: play.broker.payloads(topics.service_failed))
        (cut,) = play.broker.payloads(topics.service_failed)
        assert telemetry.is_failure_alert(cut)
        content, whole = json.loads(cut), json.loads(play.alert)
        assert content.pop("last_log_lines") != whole.pop("last_log_lines")
        assert content == whole
        # Health has some 900 bytes.
        await says(play, topics.health, "too large for this broker")
        assert not play.broker.heard_of(Kind.PUBLISH, topics.health)
        assert len(play.broker.connections) == 1

    act(Terms(maximum_packet_bytes=700), story)


def test_where_the_broker_takes_qos_0_only_it_is_said_and_what_is_owed_is_kept(act: Act) -> None:
    async def story(play: Play) -> None:
        topics = play.topics
        await is_ready(play)
        order = play.order(topics.commands)
        await play.broker.until(lambda: play.is_answered(order, topics.commands_ack))
        await says(play, "QoS 0")
        assert {message.qos for message in messages(play)} == {0}
        acks = [payload for _, payload in play.acks(order, topics.commands_ack)]
        play.broker.terms = NOTHING_SAID
        play.broker.drop()
        await play.broker.until(lambda: len(with_puback(play, topics.commands_ack)) == len(acks) == 3)
        await play.broker.until(lambda: with_puback(play, topics.boot))
        assert with_puback(play, topics.commands_ack) == acks
        await says(play, "ready for commands")

    act(Terms(maximum_qos=0), story)


def test_where_the_broker_keeps_no_retained_messages_the_status_goes_without(act: Act) -> None:
    async def story(play: Play) -> None:
        await is_ready(play)
        await says(play, "the broker keeps no retained messages")
        await play.broker.until(lambda: play.has_spoken(play.topics.service_failed))
        assert not any(message.retain for message in messages(play))
        order = play.order(play.topics.commands)
        await play.broker.until(lambda: play.is_answered(order, play.topics.commands_ack))
        assert [connection.will is not None and connection.will.retain for connection in play.broker.connections] == [
            True,
            False,
        ]

    act(Terms(has_retained=False), story)


@pytest.mark.parametrize(
    ("terms", "words"),
    [(Terms(session_expiry_s=300), "forgets this client 300 s after"), (Terms(client_id="x-1"), "'x-1'")],
    ids=["session-expiry", "assigned-client-id"],
)
def test_what_the_broker_takes_away_is_said(act: Act, terms: Terms, words: str) -> None:
    async def story(play: Play) -> None:
        await is_ready(play)
        await says(play, words)

    act(terms, story)


def test_what_the_agent_does_not_use_may_be_missing(act: Act) -> None:
    async def story(play: Play) -> None:
        await is_ready(play)
        await says(play, "ready for commands")
        assert len(play.broker.connections) == 1

    act(Terms(has_wildcards=False, has_subscription_ids=False, has_shared_subscriptions=False), story)


def test_a_broker_that_has_forgotten_everything_is_told_everything_again(act: Act) -> None:
    async def story(play: Play) -> None:
        broker, said_once = play.broker, (play.topics.boot, play.topics.service_failed)

        def times(topic: str) -> int:
            return len(broker.payloads(topic))

        async def next_health(after: int) -> None:
            await broker.until(lambda: times(play.topics.health) > after and broker.owes_no_answer)

        await is_ready(play)
        await broker.until(lambda: all(map(play.has_spoken, said_once)) and broker.owes_no_answer)
        had = times(play.topics.health)
        broker.drop()
        await broker.until(lambda: times(play.topics.status) == 2)
        await next_health(had)
        assert list(map(times, said_once)) == [1, 1]
        broker.forget(retained=True)
        await broker.until(lambda: times(play.topics.status) == 3)
        await broker.until(lambda: list(map(times, said_once)) == [2, 2] and all(map(play.listens, play.subscribed)))
        assert [len(set(broker.payloads(topic))) for topic in said_once] == [1, 1]

    act(NOTHING_SAID, story)


def test_a_command_that_is_published_to_be_retained_is_refused_though_we_were_there(act: Act) -> None:
    async def story(play: Play) -> None:
        await is_ready(play)
        order = play.order(play.topics.commands, retain=True)
        await play.broker.until(lambda: play.has_ended(order))
        ((status, payload),) = play.acks(order, play.topics.commands_ack)
        assert status is AckStatus.FAILED
        assert json.loads(payload)["error_code"] == "retained"

    act(NOTHING_SAID, story)
