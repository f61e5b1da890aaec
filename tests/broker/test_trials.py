"""A broker that lets the client in only in some way, and does not say in which, is found out by trying."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from infoscreen_reboot.mqtt.packets import Kind, Protocol
from tests.broker.rules import Closed, Manner, Refused, Rule, Silent
from tests.broker.scripted import ScriptedBroker
from tests.broker.stage import Play, playing
from tools.lab.patience import Patience
from tools.simulated.agents import FleetLoop

# Its pauses double: of seven tries the last comes after a minute at most.
IN_WITHIN_S = 120.0
FAULT = Refused(0x83)


@dataclass(frozen=True)
class Trial:
    """What the broker does not let in, and how the client gets in: in which version, new or not, with a will or not.

    `knows_it` is that the client was connected before, without these.
    """

    gets_in_as: tuple[Protocol, bool, bool]
    rules: list[Rule] = field(default_factory=list)
    with_will: Manner | None = None
    old_session: Manner | None = None

    @property
    def knows_it(self) -> bool:
        return self.old_session is not None


V5, V3 = Protocol.MQTT_5, Protocol.MQTT_3_1_1
TRIALS = {
    "mqtt-5-closed": Trial((V3, False, True), [Rule(Kind.CONNECT, None, Closed(), V5)]),
    "mqtt-5-silence": Trial((V3, False, True), [Rule(Kind.CONNECT, None, Silent(), V5)]),
    "will-closed": Trial((V5, False, False), with_will=Closed()),
    "will-of-3.1.1-closed": Trial((V3, False, False), [Rule(Kind.CONNECT, None, Closed(), V5)], with_will=Closed()),
    "old-session-closed": Trial((V5, True, True), old_session=Closed()),
    "old-session-refused": Trial((V5, True, True), old_session=FAULT),
}


async def tried(play: Play, trial: Trial) -> str:
    """What is wrong; "" if nothing."""
    broker = play.broker
    patience = Patience(IN_WITHIN_S)
    try:
        if trial.knows_it:
            await broker.until(lambda: broker.owes_no_answer and play.has_spoken(play.topics.boot), patience)
            broker.at_old_session = trial.old_session
            broker.drop()
            await broker.until(lambda: broker.line is None, patience)
        await broker.until(lambda: all(map(play.listens, play.subscribed)) and broker.line is not None, patience)
        order = play.order(play.topics.commands)
        await broker.until(lambda: play.has_ended(order), patience)
    except TimeoutError:
        return f"it is not in; it tried {broker.connections}"
    entry = broker.connections[-1]
    way = entry.protocol, entry.is_clean, entry.will is not None
    return "" if way == trial.gets_in_as else f"it came in as {way}"


async def tried_all(folder: Path) -> dict[str, str]:
    trials = list(TRIALS.values())
    brokers = [ScriptedBroker() for _ in trials]
    of_broker = dict(zip(brokers, trials, strict=True))

    def prepare(play: Play) -> None:
        trial = of_broker[play.broker]
        play.broker.rules += trial.rules
        if trial.with_will is not None:
            play.broker.rules.append(Rule(Kind.CONNECT, play.topics.status, trial.with_will))

    async with playing(folder, *brokers, prepare=prepare) as plays:
        said = await asyncio.gather(*(tried(play, of_broker[play.broker]) for play in plays))
    return dict(zip(TRIALS, said, strict=True))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of all trials, side by side."""
    with asyncio.Runner(loop_factory=FleetLoop) as runner:
        return runner.run(tried_all(tmp_path_factory.mktemp("trials")))


@pytest.mark.parametrize("name", TRIALS)
def test_a_way_in_is_found(outcomes: dict[str, str], name: str) -> None:
    assert not outcomes[name], outcomes[name]
