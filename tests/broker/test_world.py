"""The played broker of `tests/world.py` does to a session what mosquitto does: each story is told to both."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from infoscreen_reboot.mqtt import session
from infoscreen_reboot.mqtt.messages import Delivery, Message, NotDelivered, Redeliver
from tests.broker.conftest import PATIENCE_S, Broker, MakeBroker, Run
from tests.broker.inbox import COMMANDS, FAREWELL, STATUS, Client, plain
from tests.played_broker import Immortal, PlayedBroker, PlayedConnection


class Stage:
    """One broker, real or played, with one client, in which what happens is written down in words."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.told: list[str] = []
        client.refuse = self._on_delivery
        self.refusals: list[bytes] = []

    def _on_delivery(self, delivery: Delivery) -> None:
        if delivery.payload in self.refusals:
            self.refusals.remove(delivery.payload)
            self.told.append(f"refuses {delivery.payload!r}")
            raise Redeliver("disk full")
        self.told.append(f"takes {delivery.payload!r}, retained: {delivery.retain}")

    async def publish(self, payload: bytes) -> None:
        raise NotImplementedError

    async def statuses(self, last: bytes) -> list[bytes]:
        """All that was said of the client, as soon as that is what was said last."""
        await self.until(lambda: self.said()[-1:] == [last])
        return self.said()

    def said(self) -> list[bytes]:
        raise NotImplementedError

    async def freeze(self) -> None:
        raise NotImplementedError

    async def thaw(self) -> None:
        raise NotImplementedError

    async def until(self, is_it: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not is_it():
                await asyncio.sleep(0.01)


class RealStage(Stage):
    def __init__(self, broker: Broker) -> None:
        super().__init__(Client(plain(broker)))
        self._broker = broker
        self._statuses: list[bytes] = []

    @contextlib.asynccontextmanager
    async def observed(self) -> AsyncIterator[None]:
        async with self._broker.observe(STATUS) as observer:

            async def watch() -> None:
                while True:
                    self._statuses.append((await observer.next()).payload)

            watching = asyncio.create_task(watch())
            try:
                yield
            finally:
                watching.cancel()
                await asyncio.wait([watching])

    async def publish(self, payload: bytes) -> None:
        await asyncio.to_thread(self._broker.publish, COMMANDS, payload)

    def said(self) -> list[bytes]:
        return self._statuses

    async def freeze(self) -> None:
        self._frozen = self._broker.frozen()
        self._frozen.__enter__()

    async def thaw(self) -> None:
        self._frozen.__exit__(None, None, None)


class PlayedStage(Stage):
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.heard: list[Message] = []
        self.broker = PlayedBroker(self.heard.append)

        def connection(*args: Any, **options: Any) -> PlayedConnection:
            return PlayedConnection(self.broker, Immortal(), *args, **options)

        monkeypatch.setattr(session, "Connection", connection)
        super().__init__(Client(session.BrokerSettings("played", 1883, None, None, None)))

    @contextlib.asynccontextmanager
    async def observed(self) -> AsyncIterator[None]:
        yield

    async def publish(self, payload: bytes) -> None:
        self.broker.publish(Delivery(COMMANDS, payload, False))

    def said(self) -> list[bytes]:
        return [message.payload for message in self.heard if message.topic == STATUS]

    async def freeze(self) -> None:
        self.broker.freeze()

    async def thaw(self) -> None:
        self.broker.thaw()


AnyStage = RealStage | PlayedStage


async def deliveries_come_in_order_and_each_once(stage: AnyStage) -> list[object]:
    async with stage.client.connected():
        for number in range(5):
            await stage.publish(b"%d" % number)
        await stage.until(lambda: len(stage.told) == 5)
    async with stage.client.connected():
        await stage.publish(b"last")
        await stage.until(lambda: len(stage.told) == 6)
    return [*stage.told]


async def what_is_sent_while_we_are_away_waits(stage: AnyStage) -> list[object]:
    async with stage.client.connected():
        pass
    for number in range(3):
        await stage.publish(b"%d" % number)
    async with stage.client.connected():
        await stage.until(lambda: len(stage.told) == 3)
    return [*stage.told]


async def without_a_subscription_nothing_waits(stage: AnyStage) -> list[object]:
    await stage.publish(b"too early")
    async with stage.client.connected():
        await stage.publish(b"in time")
        await stage.until(lambda: stage.told)
    return [*stage.told]


async def a_refused_delivery_ends_the_connection_and_comes_again_in_order(stage: AnyStage) -> list[object]:
    stage.refusals = [b"1"]
    async with stage.observed(), stage.client.connected():
        for number in range(3):
            await stage.publish(b"%d" % number)
        await stage.until(lambda: b"takes b'2', retained: False".decode() in stage.told)
        await stage.client.session.wait_connected()
        return [stage.told[: stage.told.index("refuses b'1'")], stage.told[-2:], await stage.statuses(b"online 2")]


async def a_farewell_is_the_last_word(stage: AnyStage) -> list[object]:
    async with stage.observed():
        async with stage.client.connected():
            await stage.client.session.leave(FAREWELL, PATIENCE_S)
            is_connected = stage.client.session.is_connected
            await asyncio.sleep(0.3)
        return [is_connected, await stage.statuses(FAREWELL.payload)]


async def a_farewell_that_nobody_acknowledges_leaves_the_word_to_the_will(stage: AnyStage) -> list[object]:
    async with stage.observed():
        async with stage.client.connected():
            await stage.freeze()
            await stage.client.session.leave(FAREWELL, 0.2)
            await stage.thaw()
            await stage.statuses(b"lost 1")
            await asyncio.sleep(0.2)
        return [stage.said()[-1]]


async def who_comes_back_is_told_what_was_sent_meanwhile(stage: AnyStage) -> list[object]:
    async with stage.observed(), stage.client.connected():
        await stage.client.session.leave(FAREWELL, PATIENCE_S)
        await stage.publish(b"meanwhile")
        await asyncio.sleep(0.3)
        before = [*stage.told]
        stage.client.session.come_back()
        await stage.until(lambda: stage.told)
        await stage.client.session.wait_connected()
        said = await stage.statuses(b"online 2")
        return [before, stage.told, said]


async def who_has_left_cannot_publish(stage: AnyStage) -> list[object]:
    async with stage.client.connected():
        await stage.client.session.leave(FAREWELL, PATIENCE_S)
        with pytest.raises(NotDelivered):
            await stage.client.session.publish(Message("ack", b"too late"))
    return [stage.client.session.is_connected]


async def the_client_that_ends_without_a_word_is_called_lost(stage: AnyStage) -> list[object]:
    async with stage.observed():
        async with stage.client.connected():
            pass
        return [await stage.statuses(b"lost 1")]


async def a_publish_waits_for_its_puback(stage: AnyStage) -> list[object]:
    async with stage.client.connected():
        await stage.freeze()
        publish = asyncio.ensure_future(stage.client.session.publish(Message("ack", b"accepted")))
        await asyncio.wait([publish], timeout=0.2)
        was_done = publish.done()
        await stage.thaw()
        await asyncio.wait_for(publish, 15)
        await stage.freeze()
        await asyncio.wait_for(stage.client.session.publish(Message("health", b"", qos=0)), 15)
        await stage.thaw()
    return [was_done, "of quality 0 it does not wait"]


STORIES: list[Callable[[AnyStage], Awaitable[list[object]]]] = [
    deliveries_come_in_order_and_each_once,
    what_is_sent_while_we_are_away_waits,
    without_a_subscription_nothing_waits,
    a_refused_delivery_ends_the_connection_and_comes_again_in_order,
    a_farewell_is_the_last_word,
    a_farewell_that_nobody_acknowledges_leaves_the_word_to_the_will,
    who_comes_back_is_told_what_was_sent_meanwhile,
    who_has_left_cannot_publish,
    the_client_that_ends_without_a_word_is_called_lost,
    a_publish_waits_for_its_puback,
]


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_the_played_broker_is_no_kinder_than_mosquitto(
    story: Callable[[AnyStage], Awaitable[list[object]]],
    make_broker: MakeBroker,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    outcomes: list[list[object]] = []

    async def tell(stage: AnyStage) -> None:
        outcomes.append(await story(stage))

    run(_on(lambda: RealStage(make_broker()), tell))
    run(_on(lambda: PlayedStage(monkeypatch), tell))
    assert outcomes[0] == outcomes[1]


async def _on(make: Callable[[], AnyStage], tell: Callable[[AnyStage], Awaitable[None]]) -> None:
    await tell(make())
