"""The light clients of the benchmarks say what the real agent says: the same commands lead to the same messages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from infoscreen_reboot.client.agent import agent
from infoscreen_reboot.contract import command, wire
from infoscreen_reboot.contract.command import Action, Command
from infoscreen_reboot.contract.topics import Topics
from infoscreen_reboot.mqtt.connection import Connection
from infoscreen_reboot.mqtt.messages import BrokerSettings, Delivery, Message
from tests.broker.conftest import PATIENCE_S, Broker
from tools.simulated import agents
from tools.simulated.agents import FleetLoop, SimulatedClient
from tools.simulated.light import Crowd
from tools.simulated.manner import Manner, client_uuid

QUICK = (0.3, 0.3)
LEAVES = "commands/ack", "status", "boot", "health"


class Ear:
    """Hears one client, checks each message by its schema, and sends it commands."""

    def __init__(self, settings: BrokerSettings, uuid: str) -> None:
        self.topics = Topics(uuid)
        self.uuid = uuid
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self._news = asyncio.Event()
        self._line = Connection(settings, f"ear-{uuid4()}", None, self._on_message, clean_session=True)

    async def open(self) -> None:
        await self._line.open()
        for leaf in LEAVES:
            await self._line.subscribe(f"infoscreen/{self.uuid}/{leaf}")

    def _on_message(self, delivery: Delivery) -> None:
        leaf = delivery.topic.removeprefix(f"infoscreen/{self.uuid}/")
        content = json.loads(delivery.payload)
        wire.check("ack" if leaf.endswith("ack") else leaf, content)
        self.heard.append((leaf, content))
        self._news.set()

    async def until(self, is_it: Callable[[str, dict[str, Any]], bool], after: int = 0) -> int:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for number, said in enumerate(self.heard[after:], after + 1):
                    if is_it(*said):
                        return number
                self._news.clear()
                await self._news.wait()

    async def until_online(self, after: int = 0) -> int:
        return await self.until(lambda leaf, said: leaf == "status" and said["state"] == "online", after)

    async def until_end(self, order: Command, after: int = 0) -> int:
        def is_end(leaf: str, said: dict[str, Any]) -> bool:
            is_mine = leaf == "commands/ack" and said["command_id"] == order.command_id
            return is_mine and said["status"] in ("completed", "failed")

        return await self.until(is_end, after)

    async def send(self, order: Command) -> None:
        await self._line.publish(Message(self.topics.commands, command.encode(order)))

    def order(self, action: Action = Action.REBOOT_HOST, expires_in_s: float = 240) -> Command:
        now = datetime.now(UTC)
        issued_at = now - timedelta(seconds=300)
        return Command(str(uuid4()), self.uuid, action, issued_at, now + timedelta(seconds=expires_in_s), "ann", None)

    def close(self) -> None:
        self._line.close("over")

    @property
    def story(self) -> list[str]:
        """Acks and statuses in their order, with the number of the boot in which each was said.

        `busy` is left out: it comes at any moment until the first command has ended.
        """
        boots: list[str] = []
        told = []
        for leaf, said in self.heard:
            if leaf not in ("commands/ack", "status") or said.get("error_code") == "busy":
                continue
            if said["boot_id"] not in boots:
                boots.append(said["boot_id"])
            word = said["reason"] if leaf == "status" else said["error_code"] or said["status"]
            told.append(f"{word} in boot {boots.index(said['boot_id'])}")
        return told

    @property
    def busy(self) -> int:
        return sum(said.get("error_code") == "busy" for _, said in self.heard)

    @property
    def reports(self) -> list[tuple[str, bool, bool]]:
        """Of each boot its cause, whether it was clean and whether it names a command."""
        told = [said for leaf, said in self.heard if leaf == "boot"]
        return [(said["cause"], said["clean_shutdown"], said["command_id"] is not None) for said in told]

    @property
    def first_health(self) -> dict[str, Any]:
        """Without what depends on the moment, or says who it is."""
        said = next(said for leaf, said in self.heard if leaf == "health")
        # The boot report may still wait for the broker's receipt, or not.
        commands = {name: part for name, part in said["commands"].items() if name != "outbox"}
        moment = "client_uuid", "timestamp", "boot_id", "uptime_s"
        return {name: part for name, part in said.items() if name not in moment} | {"commands": commands}


@pytest.fixture(autouse=True)
def patient_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a broker that is held up for a second hears no farewell, and says something of its own."""
    for name in ("DELIVERY_S", "LAST_WORDS_S", "FAREWELL_S"):
        monkeypatch.setattr(agent, name, PATIENCE_S)


Play = Callable[[Ear], Coroutine[Any, Any, None]]


async def a_reboot_and_the_same_again(ear: Ear) -> None:
    order = ear.order()
    await ear.send(order)
    end = await ear.until_end(order)
    await ear.until(lambda leaf, said: leaf == "boot" and said["cause"] == "command")
    await ear.send(order)
    await ear.until_end(order, after=end)


async def two_at_once(ear: Ear) -> None:
    first, second = ear.order(), ear.order()
    await asyncio.gather(ear.send(first), ear.send(second))
    await ear.until_end(second)
    await ear.until_end(first)
    await ear.until(lambda leaf, said: leaf == "boot" and said["cause"] == "command")


async def one_that_has_expired(ear: Ear) -> None:
    order = ear.order(expires_in_s=-1)
    await ear.send(order)
    await ear.until_end(order)


async def a_mocked_reboot(ear: Ear) -> None:
    order = ear.order()
    await ear.send(order)
    await ear.until_end(order)


async def a_shutdown(ear: Ear) -> None:
    order = ear.order(Action.SHUTDOWN_HOST)
    await ear.send(order)
    await ear.until(lambda leaf, said: leaf == "status" and said["reason"] == "shutting_down")


def told_by(kind: str, broker: Broker, folder: Path, manner: Manner, play: Play) -> Ear:
    settings = BrokerSettings(broker.host, broker.port, None, None, None)
    uuid = client_uuid(1 if kind == "real" else 2)

    async def scene() -> Ear:
        ear = Ear(settings, uuid)
        await ear.open()
        if kind == "real":
            client = SimulatedClient(folder, uuid, broker.port, manner)
            client.host.inhibit_delay_max_s = 3 * PATIENCE_S
            life = agents.run([client])
        else:
            life = Crowd(settings, [uuid], manner).run()
        living, acting = asyncio.ensure_future(life), asyncio.ensure_future(act(ear))
        await asyncio.wait([living, acting], return_when=asyncio.FIRST_COMPLETED)
        if living.done():
            living.result()  # it was switched off; a fault would be raised here
        await acting
        ear.close()
        living.cancel()
        await asyncio.wait([living])
        return ear

    async def act(ear: Ear) -> None:
        await ear.until_online()
        await ear.until(lambda leaf, _: leaf == "health")
        await ear.until(lambda leaf, _: leaf == "boot")
        await play(ear)

    with asyncio.Runner(loop_factory=FleetLoop) as runner:
        return runner.run(scene())


@pytest.mark.parametrize(
    ("play", "mocks"),
    [
        (a_reboot_and_the_same_again, False),
        (two_at_once, False),
        (one_that_has_expired, False),
        (a_shutdown, False),
        (a_mocked_reboot, True),
    ],
)
def test_a_light_client_says_what_the_agent_says(broker: Broker, tmp_path: Path, play: Play, mocks: bool) -> None:
    manner = Manner(reboot_s=QUICK, mocks=mocks)
    real = told_by("real", broker, tmp_path / "state", manner, play)
    light = told_by("light", broker, tmp_path, manner, play)
    assert light.story == real.story
    assert light.busy == real.busy
    assert light.reports == real.reports
    assert light.first_health == real.first_health


def test_a_client_that_is_to_stay_away_does(broker: Broker, tmp_path: Path) -> None:
    async def one_that_is_lost(ear: Ear) -> None:
        await ear.send(ear.order())
        await ear.until(lambda leaf, said: leaf == "status" and said["reason"] == "rebooting")
        await asyncio.sleep(5 * QUICK[1])

    manner = Manner(reboot_s=QUICK, comes_back=False)
    for kind in ("real", "light"):
        ear = told_by(kind, broker, tmp_path / "state", manner, one_that_is_lost)
        assert ear.story[-1] == "rebooting in boot 0"
