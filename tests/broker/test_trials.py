"""A broker that lets the client in only in some way, and does not say in which, is found out by trying."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest

from infoscreen_reboot.mqtt.packets import Kind, Protocol
from tests.broker.rules import Closed, Manner, Refused, Rule, Silent
from tests.broker.scripted import ScriptedBroker
from tests.broker.stage import Play, playing
from tools.lab.patience import Patience
from tools.simulated.agents import FleetLoop

# Seven tries, of which one may meet silence; the pauses are short while a host boots.
IN_WITHIN_S = 60.0
# RabbitMQ says so where it cannot reach the node that keeps the session.
FAULT = 0x83


@dataclass(frozen=True)
class Trial:
    """What the broker does not let in, and how the client gets in: in which version (None: in any), with a will or not.

    `with_will` is how it treats one that has a will, `old_session` one that asks for a session which the broker kept
    from a first connection. With `is_once` all that ends when the client has come for the first time.
    """

    protocol: Protocol | None = None
    has_will: bool = True
    rules: tuple[Rule, ...] = ()
    with_will: Manner | None = None
    old_session: Manner | None = None
    speaks: tuple[Protocol, ...] = tuple(Protocol)
    is_once: bool = False


V5, V3 = Protocol.MQTT_5, Protocol.MQTT_3_1_1
NO_MQTT_5 = (Rule(Kind.CONNECT, None, Closed(), V5),)
TRIALS = {
    "mqtt-5-closed": Trial(V3, rules=NO_MQTT_5),
    "mqtt-5-silence": Trial(V3, rules=(Rule(Kind.CONNECT, None, Silent(), V5),)),
    "mqtt-5-closed-once-and-no-3.1.1": Trial(V5, rules=NO_MQTT_5, speaks=(V5,), is_once=True),
    "will-closed": Trial(V5, has_will=False, with_will=Closed()),
    "will-closed-and-no-mqtt-5": Trial(V3, has_will=False, rules=NO_MQTT_5, with_will=Closed()),
    "old-session-closed": Trial(V5, old_session=Closed()),
    "old-session-refused": Trial(V5, old_session=Refused(FAULT)),
    "old-session-refused-and-no-mqtt-5": Trial(V3, rules=NO_MQTT_5, old_session=Refused(FAULT)),
}


async def tried(play: Play, trial: Trial) -> str:
    """What is wrong; "" if nothing."""
    broker = play.broker
    patience = Patience(IN_WITHIN_S)
    try:
        if trial.old_session is not None:
            await broker.until(lambda: broker.owes_no_answer and play.has_spoken(play.topics.boot), patience)
            broker.at_old_session = trial.old_session
            broker.drop()
            await broker.until(lambda: broker.line is None, patience)
        if trial.is_once:
            await broker.until(lambda: broker.connections, patience)
            broker.rules.clear()
        await broker.until(lambda: broker.line is not None and all(map(play.listens, play.subscribed)), patience)
        order = play.order(play.topics.commands)
        await broker.until(lambda: play.has_ended(order), patience)
    except TimeoutError:
        ways = [(each.protocol.name, each.is_clean, each.will is not None) for each in broker.connections]
        return f"it is not in; it tried {ways} and says {play.client.status}"
    entry = broker.connections[-1]
    if trial.protocol not in (None, entry.protocol) or trial.has_will != (entry.will is not None):
        return f"it came in with {entry}"
    return ""


async def tried_all(folder: Path) -> dict[str, str]:
    trials = list(TRIALS.values())
    brokers = [ScriptedBroker(speaks=trial.speaks) for trial in trials]
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
