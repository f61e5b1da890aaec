"""The judge of the matrix finds what breaks the contract."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from infoscreen_reboot.mqtt.packets import Publish
from tests.broker.scripted import NOTHING_SAID, ScriptedBroker
from tests.broker.stage import Play, playing
from tools.simulated.agents import FleetLoop


def take(play: Play, topic: str, payload: bytes) -> None:
    play.broker.take(Publish(topic, payload, 1))


def lose_the_first_ack(play: Play) -> None:
    play.broker.taken.remove(next(each for each in play.broker.taken if each.message.topic == play.topics.commands_ack))


def swap_two_acks(play: Play) -> None:
    acks = [each for each in play.broker.taken if each.message.topic == play.topics.commands_ack]
    first, second = (play.broker.taken.index(each) for each in acks[:2])
    play.broker.taken[first], play.broker.taken[second] = acks[1], acks[0]


def say_an_ack_again_in_another_way(play: Play) -> None:
    payload = play.broker.payloads(play.topics.commands_ack)[0]
    take(play, play.topics.commands_ack, payload.replace(b'":', b'": ', 1))


def report_the_boot_twice(play: Play) -> None:
    take(play, play.topics.boot, play.broker.payloads(play.topics.boot)[0] + b" ")


def nothing(_: Play) -> None: ...


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (nothing, ""),
        (lose_the_first_ack, "has on"),
        (swap_two_acks, "has on"),
        (say_an_ack_again_in_another_way, "in two ways"),
        (report_the_boot_twice, "2 boot reports"),
    ],
)
def test_a_fault_is_found(tmp_path: Path, fault: Callable[[Play], None], words: str) -> None:
    async def story() -> str:
        async with playing(tmp_path, ScriptedBroker(NOTHING_SAID), prepare=Play.let_a_unit_fail) as (play,):
            topic = play.topics.transitional_command
            await play.broker.until(lambda: play.listens(topic))
            order = play.order(topic)
            await play.broker.until(lambda: play.has_ended(order) and not play.unspoken())
            fault(play)
            return "; ".join(play.faults())

    with asyncio.Runner(loop_factory=FleetLoop) as runner:
        said = runner.run(story())
    assert (words in said) and bool(said) == bool(words)
