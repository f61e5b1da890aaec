"""A broker for one client that says what it allows, holds the client to it, and answers as its rules say.

It is unkind: whoever does what the standard forbids is thrown out, and `breaches` says why. Section numbers are those
of the OASIS standard of MQTT 5.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Self

from infoscreen_reboot.mqtt import reasons
from infoscreen_reboot.mqtt.messages import BrokerSettings
from infoscreen_reboot.mqtt.packets import (
    Kind,
    MalformedPacket,
    Protocol,
    Publish,
    Reader,
)
from infoscreen_reboot.mqtt.terms import Terms
from tests.broker import requests
from tests.broker.kept import Session
from tests.broker.line import Heard, Line
from tests.broker.requests import Breach, Connection
from tests.broker.rules import Manner, Rule
from tools.lab.patience import Patience

NOTHING_SAID = Terms()
WITHIN_S = 30.0


@dataclass(frozen=True, slots=True)
class Taken:
    """A message that the broker has taken on, wills included."""

    at_s: float
    message: Publish
    is_will: bool = False


class ScriptedBroker:
    """`terms` is what the next CONNACK says, `rules` how the next packets are treated; the first that fits counts.

    `at_old_session` is how a client is treated that asks for the session that the broker has kept.
    """

    def __init__(
        self, terms: Terms = NOTHING_SAID, *rules: Rule, speaks: tuple[Protocol, ...] = tuple(Protocol)
    ) -> None:
        self.terms = terms
        self.rules = list(rules)
        self.at_old_session: Manner | None = None
        self.speaks = speaks
        self.heard: list[Heard] = []
        self.taken: list[Taken] = []
        self.connections: list[Connection] = []
        self.breaches: list[str] = []
        self.farewells: list[int] = []
        self.retained: dict[str, Publish] = {}
        self.port = 0
        self.line: Line | None = None
        self.session: Session | None = None
        self._lines = 0
        self._serving: set[asyncio.Task[None]] = set()
        self._forgetting: asyncio.TimerHandle | None = None
        self._news = asyncio.Event()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Self]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            if self._forgetting is not None:
                self._forgetting.cancel()
            for task in self._serving:
                task.cancel()
            if self._serving:
                await asyncio.wait(self._serving)

    @property
    def settings(self) -> BrokerSettings:
        return BrokerSettings("127.0.0.1", self.port, None, None, None)

    @property
    def owes_no_answer(self) -> bool:
        """Whether there is a connection, and each PUBACK is on its way."""
        return self.line is not None and self.line.owes_no_answer

    # --- What a test does with it

    def publish(
        self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, properties: bytes = b""
    ) -> None:
        """To the client, if it has subscribed; in MQTT 3.1.1 without the properties."""
        message = Publish(topic, payload, qos, retain=retain, properties=properties)
        if retain:
            self.retain(message)
        self.pass_on(message)

    def drop(self) -> None:
        """The connection is lost."""
        if self.line is not None:
            self.line.close()

    def forget(self, *, retained: bool = False) -> None:
        """The session, and what waits in it, as after a restart without memory; the connection ends with it."""
        self.session = None
        if retained:
            self.retained.clear()
        self.drop()

    async def until(self, is_so: Callable[[], object], patience: Patience | None = None) -> None:
        """Raises TimeoutError. On a busy machine the time is longer by what was waited for a processor."""
        patience = patience or Patience(WITHIN_S)
        while not is_so():
            if patience.is_over:
                raise TimeoutError
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience.look_s):
                    await self._news.wait()

    def payloads(self, topic: str) -> list[bytes]:
        """What it has taken on this topic, in order."""
        return [taken.message.payload for taken in self.taken if taken.message.topic == topic and not taken.is_will]

    def heard_of(self, kind: Kind, topic: str | None = None) -> list[Heard]:
        return [heard for heard in self.heard if heard.kind is kind and (topic is None or topic in heard.topics)]

    def nudge(self) -> None:
        """Whoever waits looks again."""
        self._news.set()

    # --- What its lines ask of it

    def manner(self, kind: Kind, topic: str | None, protocol: Protocol) -> Manner | None:
        for rule in self.rules:
            if rule.kind is kind and rule.topic in (None, topic) and rule.protocol in (None, protocol):
                return rule.manner
        return None

    def note(self, heard: Heard) -> None:
        self.heard.append(heard)
        self.nudge()

    def take(self, message: Publish, *, is_will: bool = False) -> bool:
        """By the client; returns whether anybody has subscribed, and nobody but the client itself can."""
        if message.retain:
            self.retain(message)
        self.taken.append(Taken(asyncio.get_running_loop().time(), message, is_will))
        self.nudge()
        return self.pass_on(replace(message, dup=False))

    def pass_on(self, message: Publish) -> bool:
        is_wanted = self.session is not None and self.session.give(message)
        self.deliver()
        return is_wanted

    def retain(self, message: Publish) -> None:
        if not message.payload:
            self.retained.pop(message.topic, None)
        else:
            self.retained[message.topic] = message

    def welcome(self, line: Line, connection: Connection) -> bool:
        """Whether it knows this client from before. Of two connections with one client id the new one stays."""
        if self.line is not None:
            self.line.throw_out(reasons.TAKEN_OVER_CODE)
            self.line.end()
        if self._forgetting is not None:
            self._forgetting.cancel()
        has_session = self.session is not None and not connection.is_clean
        if self.session is None or connection.is_clean:
            self.session = Session()
        self.line = line
        return has_session

    def deliver(self) -> None:
        if self.line is not None and self.session is not None:
            for delivery in list(self.session.to_send(self.line.receive_maximum)):
                if not self.line.deliver(delivery) and delivery.qos:
                    self.session.on_puback(delivery.packet_id)

    def lose(self, line: Line) -> None:
        """The line is at its end: what the client's session is worth from now on."""
        if self.line is not line:
            return
        self.line = None
        if self.session is not None:
            self.session.line_is_lost()
        if (expiry_s := line.session_expiry_s) is not None:
            self._forgetting = asyncio.get_running_loop().call_later(expiry_s, self.forget)
        self.nudge()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        self._lines += 1
        line = Line(self, writer, self._lines)
        stream = Reader()
        try:
            while line.is_open and (data := await line.read(reader)):
                stream.feed(data)
                while line.is_open and (packet := stream.next_packet()) is not None:
                    line.hear(packet)
        except MalformedPacket as error:
            line.breach(requests.MALFORMED, str(error))
        except Breach as error:
            line.breach(error.code, str(error))
        except ConnectionError:
            pass
        finally:
            line.close()
            line.end()
