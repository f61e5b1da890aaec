"""No letter and no subscription stops another: every topic of the contract, with everything a broker may do to it.

The whole agent runs in each cell, at a scripted broker of its own. All cells run side by side: they wait in real time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import pytest

from infoscreen_reboot.contract.topics import Topics, from_client
from infoscreen_reboot.mqtt import reasons
from infoscreen_reboot.mqtt.packets import Kind, Protocol
from infoscreen_reboot.mqtt.terms import Terms
from tests.broker.line import WHY
from tests.broker.rules import Closed, Lowered, Manner, Refused, Rule, Silent
from tests.broker.scripted import NOTHING_SAID, ScriptedBroker
from tests.broker.stage import Play, names_of_topics, playing
from tools.lab.patience import Patience
from tools.simulated.agents import FleetLoop
from tools.simulated.manner import client_uuid

# The others get through within this time, however long the cell's own topic is in trouble.
OTHERS_WITHIN_S = 30.0
# The longest pause that grows within a cell, and what it takes to find a silence.
TAKEN_WITHIN_S = 90.0
CHANGE_EVERY_S = 5.0
# Numbers in a report have more digits when they are larger.
ROOM_BYTES = 64


@dataclass(frozen=True, slots=True)
class TooLarge:
    """The broker says a Maximum Packet Size that what is said on this topic does not fit into."""


# Each with the name of its cells.
MANNERS: dict[str, Manner | TooLarge] = {
    "refused": Refused(),
    "closed": Closed(),
    "thrown_out": Closed(reasons.PACKET_TOO_LARGE),
    "silence": Silent(),
    "too_large": TooLarge(),
    "qos_lowered": Lowered(),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """`topic` as `Topics` calls it."""

    topic: str
    manner: str
    protocol: Protocol

    def __str__(self) -> str:
        return f"{self.topic}-{self.manner}-{self.protocol.name}"

    @property
    def kind(self) -> Kind:
        """Of the packets that the broker does not take as they are meant."""
        topic: str = getattr(Topics(client_uuid(1)), self.topic)
        return Kind.SUBSCRIBE if from_client(topic) is None else Kind.PUBLISH


# What the client says at QoS 0.
UNANSWERED = ("health",)
# What the client cuts to fit; tests/broker/test_terms.py has it.
CUT = ("service_failed",)


def why_not(cell: Cell) -> str | None:
    """Why there is no such cell; None if there is."""
    is_old = cell.protocol is Protocol.MQTT_3_1_1
    match MANNERS[cell.manner], cell.kind:
        case Refused() | Silent(), Kind.PUBLISH if cell.topic in UNANSWERED:
            return "nothing answers what is said at QoS 0: a refusal and a silence are its usual way"
        case Refused(), Kind.PUBLISH if is_old:
            return "the PUBACK of MQTT 3.1.1 has no code: there a broker can only close"
        case Closed(int()), _ if is_old:
            return "in MQTT 3.1.1 a broker says nothing before it closes"
        case Closed(int()), Kind.SUBSCRIBE:
            return "the packet is smaller than every other: a broker that it is too large for takes nothing"
        case TooLarge(), Kind.SUBSCRIBE:
            return "the packet is smaller than every other: a broker that it is too large for takes nothing"
        case TooLarge(), _ if is_old:
            return "in MQTT 3.1.1 a broker cannot say how much it takes"
        case TooLarge(), _ if cell.topic in CUT:
            return "it is cut until it fits"
        case Lowered(), Kind.PUBLISH:
            return "the QoS of a message is its sender's; what the broker takes at most holds for all topics"
    return None


ALL = [Cell(topic, manner, protocol) for protocol in Protocol for topic in names_of_topics() for manner in MANNERS]
CELLS = [cell for cell in ALL if why_not(cell) is None]


class Measure:
    """What the client says where nothing stands in its way: the sizes of its packets."""

    def __init__(self, play: Play) -> None:
        self._sizes = {
            name: [heard.size for heard in play.broker.heard_of(Kind.PUBLISH, play.topic(name))]
            for name in names_of_topics()
        }

    def below(self, name: str) -> int:
        """A packet size into which nothing fits that is said on this topic."""
        return min(self._sizes[name]) - ROOM_BYTES

    def fits(self, name: str, packet_bytes: int) -> bool:
        return max(self._sizes[name], default=0) + ROOM_BYTES <= packet_bytes


async def give_orders(play: Play, patience: Patience, unheard: Collection[str] = (), deaf: str | None = None) -> None:
    """A command on each topic on which the client listens, if there was none yet, one after the other.

    On `deaf` it does not listen, and on the topics `unheard` nothing comes. The order of a command whose end nobody
    hears is the last one: another would be refused as `busy`.
    """
    for topic in play.subscribed:
        if topic == deaf or any(topic == came_by for came_by, _ in play.orders):
            continue
        await play.broker.until(partial(play.listens, topic), patience)
        order = play.order(topic)
        if set(play.answers_to(topic)) <= set(unheard):
            return
        await play.broker.until(partial(play.has_ended, order), patience)


async def measured(folder: Path) -> Measure:
    """One agent at a broker that takes everything."""
    async with playing(folder, ScriptedBroker(), prepare=Play.let_a_unit_fail) as (play,):
        await give_orders(play, patience := Patience(OTHERS_WITHIN_S))
        await play.broker.until(lambda: not play.unspoken(), patience)
        assert not list(play.faults())
        return Measure(play)


def broker_of(cell: Cell, measure: Measure) -> ScriptedBroker:
    """Its rule needs the client's UUID, so it comes later."""
    terms = NOTHING_SAID
    if isinstance(MANNERS[cell.manner], TooLarge):
        terms = Terms(maximum_packet_bytes=measure.below(cell.topic))
    return ScriptedBroker(terms, speaks=(cell.protocol,))


def prepare(play: Play, cell: Cell) -> None:
    play.let_a_unit_fail()
    manner = MANNERS[cell.manner]
    if not isinstance(manner, TooLarge):
        play.broker.rules.append(Rule(cell.kind, play.topic(cell.topic), manner))


async def tried(play: Play, cell: Cell, measure: Measure, within_s: float) -> str:
    """What is wrong in this cell; "" if nothing."""
    topic, excused = play.topic(cell.topic), excused_in(play, cell, measure)

    def others() -> list[str]:
        return [name for name in play.unspoken() if name not in excused]

    patience = Patience(within_s)
    try:
        await give_orders(play, patience, unheard=[play.topic(name) for name in excused], deaf=topic)
        await play.broker.until(lambda: not others(), patience)
        await play.broker.until(lambda: any(names(status, topic, cell) for status in play.statuses), patience)
    except TimeoutError:
        said = "\n".join(dict.fromkeys(play.statuses))
        return f"after {within_s:g} s {others()} are missing; it said:\n{said}"
    return await mended(play, cell)


def excused_in(play: Play, cell: Cell, measure: Measure) -> set[str]:
    """The topics that need not be heard in this cell, as `Topics` calls them."""
    if cell.kind is Kind.SUBSCRIBE:
        # Where no command comes in, no ack goes out.
        heard = {
            answer for topic in play.subscribed if topic != play.topic(cell.topic) for answer in play.answers_to(topic)
        }
        return {cell.topic} | {name for name in names_of_topics() if play.topic(name) in set(play.ack_topics) - heard}
    largest = play.broker.terms.maximum_packet_bytes
    return {cell.topic} | {name for name in names_of_topics() if not measure.fits(name, largest)}


def names(status: str, topic: str, cell: Cell) -> bool:
    """Whether it says which topic is in trouble, and why, as far as the broker has said why."""
    manner = MANNERS[cell.manner]
    if isinstance(manner, Refused) and cell.protocol is Protocol.MQTT_5:
        return topic in status and reasons.words(manner.code) in status and WHY in status
    return topic in status


async def mended(play: Play, cell: Cell) -> str:
    """The broker takes from now on what it did not take; what is wrong then."""
    broker, topic = play.broker, play.topic(cell.topic)
    broker.rules.clear()
    if broker.terms != NOTHING_SAID:
        broker.terms = NOTHING_SAID
        broker.drop()  # it says its terms with a new connection
    patience = Patience(TAKEN_WITHIN_S)
    try:
        await broker.until(lambda: all(play.has_ended(order) for _, order in play.orders), patience)
        await give_orders(play, patience)
        async with changing(play):
            await broker.until(lambda: not play.unspoken() and topic not in play.client.status, patience)
    except TimeoutError:
        return f"{play.unspoken()} are missing after the broker takes all again; it says {play.client.status}"
    return "; ".join(play.faults())


@contextlib.asynccontextmanager
async def changing(play: Play) -> AsyncIterator[None]:
    """A command comes and ends, again and again. Without any change, health and an alert are not said for 30 s."""

    async def change() -> None:
        while True:
            await asyncio.sleep(CHANGE_EVERY_S)
            if all(play.has_ended(order) for _, order in play.orders):
                play.order(play.topics.commands)

    task = asyncio.create_task(change())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def tried_all(folder: Path, cells: Sequence[Cell], within_s: float = OTHERS_WITHIN_S) -> dict[Cell, str]:
    """What is wrong in each of these cells."""
    measure = await measured(folder / "measured")
    brokers = [broker_of(cell, measure) for cell in cells]
    of_broker = dict(zip(brokers, cells, strict=True))
    async with playing(folder, *brokers, prepare=lambda play: prepare(play, of_broker[play.broker])) as plays:
        said = await asyncio.gather(*(tried(play, of_broker[play.broker], measure, within_s) for play in plays))
    return dict(zip(cells, said, strict=True))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[Cell, str]:
    """Of all cells, tried side by side."""
    with asyncio.Runner(loop_factory=FleetLoop) as runner:
        return runner.run(tried_all(tmp_path_factory.mktemp("matrix"), CELLS))


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_what_a_broker_does_to_one_topic_stops_no_other_and_nothing_is_lost(
    outcomes: dict[Cell, str], cell: Cell
) -> None:
    assert not outcomes[cell], outcomes[cell]


def test_every_topic_of_the_contract_is_tried() -> None:
    assert {cell.topic for cell in CELLS} == set(names_of_topics())
    assert {cell.manner for cell in CELLS} == set(MANNERS)
    assert len(names_of_topics()) >= 8


def test_a_client_that_takes_a_refusal_for_a_yes_is_found_out(tmp_path: Path) -> None:
    cell = Cell("boot", "refused", Protocol.MQTT_5)
    with mock.patch.object(reasons, "REFUSED", 0x100), asyncio.Runner(loop_factory=FleetLoop) as runner:
        said = runner.run(tried_all(tmp_path, [cell], within_s=5))
    assert "after 5 s [] are missing" in said[cell]
    assert "/boot" not in said[cell]
