"""A broker with one client, and the client's connection: the part of `connection.Connection` that `mqtt.Session` uses.

The session itself is the real one. `tests/broker/test_world.py` does the same to this broker and to a mosquitto,
and compares.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from infoscreen_reboot.mqtt.connection import ANSWER_S, Connection, Granted
from infoscreen_reboot.mqtt.manner import Manner
from infoscreen_reboot.mqtt.messages import CLOSED, BrokerSettings, Delivery, Message, NotDelivered, Redeliver, words
from infoscreen_reboot.mqtt.obstacles import messages_on, subscription_to
from infoscreen_reboot.mqtt.terms import UNLIMITED_BYTES, Terms
from tests.virtual import Crash, Wire


class PlayedBroker:
    """Keeps the client's session for ever: subscriptions, and each delivery until its PUBACK."""

    # After this many keep-alives without a sign of a client that lost its power the broker publishes its will.
    PATIENCE = 1.5

    def __init__(self, heard: Callable[[Message], None]) -> None:
        """`heard` is told of each message at the moment in which the broker has it, wills included."""
        self._heard = heard
        self.queue: list[Delivery] = []
        self.subscriptions: set[str] = set()
        self.retained: dict[str, Message] = {}
        self.line: PlayedConnection | None = None
        self.is_up = True
        self.has_session = False
        # Takes publishes and does not say so: the PUBACKs are lost with the connection.
        self.withholds_pubacks = False
        self.is_frozen = False
        self._late_will: tuple[asyncio.TimerHandle, Message] | None = None

    def publish(self, delivery: Delivery) -> None:
        """By the controller. Without a subscription nobody gets it."""
        if delivery.topic in self.subscriptions:
            self.queue.append(delivery)
            if self.line is not None:
                self.line.deliver(delivery)

    def go_away(self) -> None:
        self.is_up = False
        self.cut()

    def come_back(self) -> None:
        self.is_up = True

    def cut(self) -> None:
        """The network loses the connection: the broker sees it now, the client as soon."""
        if self.line is not None:
            line = self.line
            line.lose()
            self.forget(line)

    def freeze(self) -> None:
        """Connections stay, and nothing is answered."""
        self.is_frozen = True
        if self.line is not None:
            self.line.to_broker.is_frozen = True

    def thaw(self) -> None:
        self.is_frozen = False
        if self.line is not None:
            self.line.to_broker.thaw()

    def lose_power(self, line: PlayedConnection) -> None:
        """The client is gone without a packet: the will comes when the keep-alive is over, or with a new connection."""
        if self.line is line:
            self.line = None
            if line.will is not None:
                patience_s = self.PATIENCE * line.keep_alive_s
                loop = asyncio.get_running_loop()
                self._late_will = loop.call_later(patience_s, self._speak_will), line.will

    def _speak_will(self) -> None:
        if self._late_will is not None:
            timer, will = self._late_will
            self._late_will = None
            timer.cancel()
            self.take(will)

    def forget(self, line: PlayedConnection) -> None:
        """The connection ended, and without a DISCONNECT."""
        if self.line is line:
            self.line = None
            if line.will is not None and self.is_up:
                self.take(line.will)

    def welcome(self, line: PlayedConnection) -> None:
        self._speak_will()
        if self.line is not None:
            self.cut()  # of two connections of one client the new one stays
        self.line = line
        self.has_session = True
        for delivery in self.queue:
            line.deliver(delivery)

    def take(self, message: Message) -> None:
        if message.retain:
            self.retained[message.topic] = message
        self._heard(message)

    def on_puback(self, delivery: Delivery) -> None:
        # The same bytes may wait twice; the one that is meant is the first.
        for number, waiting in enumerate(self.queue):
            if waiting is delivery:
                del self.queue[number]
                return


class Process(Protocol):
    """Whose connection it is. A process that is dead does nothing any more."""

    def check_alive(self) -> None:
        """Raises Crash where it is dead."""

    def point(self) -> None:
        """The process may be killed here."""


class Immortal:
    """A process that nobody kills."""

    def check_alive(self) -> None: ...

    def point(self) -> None: ...


class PlayedConnection:
    """One connection, from its CONNECT to its end, as `connection.Connection`."""

    def __init__(
        self,
        broker: PlayedBroker,
        process: Process,
        settings: BrokerSettings,
        client_id: str,
        will: Message | None,
        on_message: Callable[[Delivery], None],
        *,
        manner: Manner,
        turn: int,
        on_taken: Callable[[str, str | None], None],
    ) -> None:
        self._broker = broker
        self._process = process
        self.keep_alive_s = settings.keep_alive_s
        self.manner, self.turn, self._on_taken = manner, turn, on_taken
        self.terms = Terms()
        self.is_reached = self.is_welcome = self.is_poisoned = self.was_hung_up = False
        self.refusal: int | None = None
        self.answer_s = ANSWER_S
        self.unanswered: list[str] = []
        self.overdue: list[str] = []
        # Nothing that is sent at QoS 0 ends a connection to this broker.
        self.unproved = 0
        self.will = will
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self.to_broker, self.to_client = Wire(), Wire()
        self.to_broker.is_frozen = broker.is_frozen
        # What an answer has to come for, since when, and whether that is a message.
        self._awaited: dict[asyncio.Future[Any], tuple[str, float, bool]] = {}
        self._heard_at_s = self._loop.time()
        self.closed: asyncio.Future[str] = self._loop.create_future()

    # what the session does

    async def open(self) -> None:
        self._process.check_alive()
        connected = self._expect("", is_publish=False)
        # The network connection of a broker that is frozen stands, too.
        self.is_reached = self._broker.is_up
        self.to_broker.send(lambda: self._on_connect(connected))
        await connected

    async def subscribe(self, topic: str) -> Granted:
        def subscribe() -> Granted:
            self._broker.subscriptions.add(topic)
            return Granted(1, "")

        granted: Granted = await self._ask(subscribe, subscription_to(topic))
        return granted

    async def unsubscribe(self, topic: str) -> Granted:
        def unsubscribe() -> Granted:
            self._broker.subscriptions.discard(topic)
            return Granted(0, "")

        ended: Granted = await self._ask(unsubscribe, subscription_to(topic))
        return ended

    async def publish(self, message: Message) -> bool:
        return await self.send(message)

    def send(self, message: Message) -> asyncio.Future[bool]:
        if message.qos == 0:
            self._process.check_alive()
            self._check_open()
            self.to_broker.send(lambda: self._broker.take(message))
            written = self._loop.create_future()
            written.set_result(False)
            return written
        self._process.point()

        def take() -> bool:
            self._broker.take(message)
            return True

        answer = self._ask(take, messages_on(message.topic), is_publish=True)
        self._process.point()
        return answer

    @property
    def under_way(self) -> int:
        return sum(is_publish for _, _, is_publish in self._awaited.values())

    def prove(self) -> None:
        """Nothing is unproved."""

    def largest_payload_bytes(self, _topic: str) -> int:
        return UNLIMITED_BYTES

    teach = Connection.teach

    def tick(self) -> None:
        """Keep-alive: a PINGREQ of which the answer is due one keep-alive later. And no answer may take too long."""
        latest_s = self._loop.time() - self.answer_s
        late = [what for what, since_s, _ in self._awaited.values() if since_s < latest_s]
        if late and not self.closed.done():
            self.overdue = [what for what in late if what]
            self.close(f"no answer within {self.answer_s:g} s")
        if self.is_welcome and not self.closed.done():
            now_s = self._loop.time()
            if not self._broker.is_frozen:
                self._heard_at_s = now_s
            elif now_s - self._heard_at_s >= 2 * self.keep_alive_s:
                self.close("the broker did not answer the keep-alive")

    def disconnect(self) -> None:
        def forget_will() -> None:
            self.will = None

        self.to_broker.send(forget_will)

    def close(self, reason: str) -> None:
        """What was written before arrives, and then the end does."""
        self._end(reason)
        self.to_client.cut()
        self.to_broker.send(self._on_end)

    # what the network and the broker do

    def lose(self) -> None:
        self.to_broker.cut()
        self.to_client.send(lambda: self._end(CLOSED, by_broker=True))

    def lose_power(self) -> None:
        """Nothing that was under way arrives."""
        self.to_broker.cut()
        self.to_client.cut()
        self._broker.lose_power(self)

    def deliver(self, delivery: Delivery) -> None:
        self.to_client.send(lambda: self._on_delivery(delivery))

    def _on_connect(self, connected: asyncio.Future[Any]) -> None:
        if not self._broker.is_up:
            self.to_client.send(lambda: self._end("connection refused"))
            return
        self.terms = Terms(has_session=self._broker.has_session)
        self.to_client.send(lambda: self._on_welcome(connected))
        self._broker.welcome(self)

    def _on_welcome(self, connected: asyncio.Future[Any]) -> None:
        self.is_welcome = True
        self._settle(connected, None)

    def _on_end(self) -> None:
        self.to_broker.cut()
        self._broker.forget(self)

    def _on_delivery(self, delivery: Delivery) -> None:
        """The PUBACK goes out when the session has taken it; when that raises there is none, and this ends."""
        if self.closed.done():
            return
        try:
            self._process.check_alive()
            self._on_message(delivery)
            self._process.point()
        except Crash:
            return
        except Redeliver as error:
            self.close(words(error))
        except Exception as error:
            if not self.closed.done():
                self.closed.set_exception(error)
            self.close(str(error))
        else:
            self.to_broker.send(lambda: self._broker.on_puback(delivery))

    def _check_open(self) -> None:
        if self.closed.done():
            raise NotDelivered("not connected")

    def _expect(self, what: str, *, is_publish: bool) -> asyncio.Future[Any]:
        answer = self._loop.create_future()
        self._awaited[answer] = what, self._loop.time(), is_publish
        return answer

    def _ask(self, act: Callable[[], Any], what: str, is_publish: bool = False) -> asyncio.Future[Any]:
        self._process.check_alive()
        self._check_open()
        answer = self._expect(what, is_publish=is_publish)

        def arrive() -> None:
            result = act()
            if not (is_publish and self._broker.withholds_pubacks):
                self.to_client.send(lambda: self._settle(answer, result))

        self.to_broker.send(arrive)
        return answer

    def _settle(self, answer: asyncio.Future[Any], result: object) -> None:
        what, _, is_publish = self._awaited.pop(answer, ("", 0.0, False))
        if is_publish:
            self._on_taken(what, None)
        if not answer.done():
            answer.set_result(result)

    def _end(self, reason: str, *, by_broker: bool = False) -> None:
        if not self.closed.done():
            self.was_hung_up = by_broker
            self.unanswered = list(dict.fromkeys(what for what, _, _ in self._awaited.values() if what))
            self.closed.set_result(reason)
        while self._awaited:
            answer, _ = self._awaited.popitem()
            if not answer.done():
                answer.set_exception(NotDelivered(reason))
                # As one that paho has forgotten: who did not wait for it is not told of it by asyncio.
                answer.exception()
