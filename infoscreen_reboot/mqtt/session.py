"""Keeps one client id connected to the broker: it connects again whenever the connection is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from infoscreen_reboot.mqtt.connection import PATIENCE, Connection
from infoscreen_reboot.mqtt.manner import Trial
from infoscreen_reboot.mqtt.messages import (
    CLOSED,
    LEFT,
    BrokerSettings,
    Delivery,
    Message,
    NotDelivered,
    Redeliver,
    Refused,
)
from infoscreen_reboot.mqtt.obstacles import Obstacles, messages_on, subscription_to
from infoscreen_reboot.mqtt.paho_client import IN_FLIGHT
from infoscreen_reboot.mqtt.terms import UNLIMITED_BYTES
from infoscreen_reboot.mqtt.tls import TlsSettings, tls_context

__all__ = [
    "IN_FLIGHT",
    "BrokerSettings",
    "Delivery",
    "Message",
    "NotDelivered",
    "Presence",
    "Redeliver",
    "Refused",
    "Session",
    "Statistics",
    "TlsSettings",
    "back_off_s",
    "tls_context",
]

log = logging.getLogger(__name__)

BACK_OFF_MAX_S = 60.0
# While a host boots, its network, its name server and its clock come one after the other, and nobody waits for more.
BACK_OFF_AT_START_MAX_S, START_S = 5.0, 120.0
# When network or clock have become right, the next try begins at once, but tries do not follow each other faster.
LEAST_PAUSE_S = 1.0
# A try that hangs longer is given up then. A younger one may still succeed, whatever the news was about.
_OLD_TRY_S = 3.0
# A start that goes well does not need to watch its surroundings.
_WATCH_AFTER_S = 0.5
TICK_MAX_S = 10.0
# So many connections in a row that end soon after they began, and without a reason, look like two hosts with one name.
_ENDS_OF_A_PATTERN = 3
_PATTERN = " again and again, soon after it had let us in: does another host have the same client UUID?"
_TRY_MQTT_5 = "to find out whether the broker has learnt MQTT 5"
_CHANGED = "network or clock have changed"


@dataclass(frozen=True, slots=True)
class Presence:
    """The will is what the broker says when it loses us, the birth what we say when we have come.

    Each connection has its own.
    """

    will: Message
    birth: Message


@dataclass(frozen=True, slots=True)
class Statistics:
    """`is_lost` is true from the loss of a connection until the next one; each connection after a loss is counted.

    `speaks_3_1_1`: the broker did not answer in MQTT 5, and was found to speak 3.1.1.
    """

    is_lost: bool = False
    reconnect_count: int = 0
    last_disconnect_at: datetime | None = None
    last_disconnect_reason: str | None = None
    speaks_3_1_1: bool = False


def back_off_s(failures: int, chance: float, most_s: float = BACK_OFF_MAX_S) -> float:
    """The pause after so many failures in a row. `chance`, a random 0 to 1, spreads the reconnects of a fleet."""
    return chance * min(most_s, 2.0 ** min(failures - 1, 10))


@contextlib.contextmanager
def _no_surroundings(_on_news: Callable[[], None]) -> Iterator[None]:
    yield


class Session:
    def __init__(
        self,
        settings: BrokerSettings,
        *,
        client_id: str,
        subscriptions: Sequence[str],
        unsubscriptions: Sequence[str] = (),
        presence: Callable[[], Presence],
        on_message: Callable[[Delivery], None],
        on_change: Callable[[], None] = lambda: None,
        on_free: Callable[[], None] = lambda: None,
        on_forgotten: Callable[[], None] = lambda: None,
        statistics: Statistics | None = None,
        surroundings: Callable[[Callable[[], None]], AbstractContextManager[None]] = _no_surroundings,
        mqtt_5_again_s: float = 300.0,
    ) -> None:
        """`on_change` is called when `is_connected` or `trouble` has changed; counting goes on from `statistics`.

        The first of `subscriptions` counts most. `unsubscriptions` are topics that an earlier run may have subscribed
        to: the broker remembers them. `on_free` is called when there may be room for more, and when a connection has
        ended; `on_forgotten` when we are connected and the broker may have forgotten what is retained there. While
        there is no connection, `surroundings` is open; it calls its argument when a new try is worth while.
        `mqtt_5_again_s` is for how long MQTT 3.1.1 is spoken with a broker that did not answer in MQTT 5, until MQTT 5
        is tried again.
        """
        self._settings = settings
        self._client_id = client_id
        self._subscriptions = subscriptions
        self._unsubscriptions = unsubscriptions
        self._presence = presence
        self._on_message = on_message
        self._on_change = on_change
        self._on_free = on_free
        self._on_forgotten = on_forgotten
        self._surroundings = surroundings
        self._connection: Connection | None = None
        self._serving: Connection | None = None
        self._served = asyncio.Event()
        self._freed = asyncio.Event()
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._left = asyncio.Event()
        # Set by what ends a pause: we leave, or a new try has become worth while.
        self._disturbed = asyncio.Event()
        self._is_news = False
        self._watching = contextlib.ExitStack()
        self._is_watching = False
        self._last_tick = time.monotonic()
        # When run() began, and the last try, and the last connection that was of use.
        self._began_s = self._tried_s = self._served_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.statistics = statistics or Statistics()
        self._trial = Trial(settings.protocol, speaks_3_1_1=self.statistics.speaks_3_1_1, mqtt_5_again_s=mqtt_5_again_s)
        # Which of the broker's addresses is next, and which one we were connected to.
        self._turn = 0
        self._served_turn: int | None = None
        self._obstacles = Obstacles()
        self._has_changed = asyncio.Event()
        # What was under way when the connection ended. Until each has been taken, or for a minute, only one message is
        # under way, so that the next end shows which one it is.
        self._suspects: set[str] = set()
        self._short_ends = 0
        # Why we ourselves end a connection that is good.
        self._wish: str | None = None
        self.trouble: str | None = None

    @property
    def is_connected(self) -> bool:
        return self._serving is not None and not self._serving.closed.done()

    @property
    def is_away(self) -> bool:
        """Whether we have left and not come back."""
        return self._left.is_set()

    def largest_payload_bytes(self, topic: str) -> int:
        """The largest payload on this topic that the broker takes."""
        return self._serving.largest_payload_bytes(topic) if self._serving is not None else UNLIMITED_BYTES

    def last_tick(self) -> float:
        """When run()'s timer ran last, by time.monotonic(). It runs whether the broker is there or not."""
        return self._last_tick

    async def run(self) -> None:
        """Runs until cancelled, also while we are away. An exception of on_message ends it, except Redeliver."""
        failures = 0
        self._began_s = time.monotonic()
        self._tick()
        watch_soon = asyncio.get_running_loop().call_later(_WATCH_AFTER_S, self._watch)
        try:
            while True:
                if self._left.is_set():
                    self._stop_watching()
                    await self._stay_away()
                    failures = 0
                served_s, reason = await self._serve()
                self._watch()
                if self._left.is_set() or reason in (LEFT, self._wish):
                    failures, self._wish = 0, None
                    self._on_change()
                    continue
                # Only a connection that lasted counts as good. With a full disk, or with two clients that have the
                # same id, each connection is made and lost at once.
                is_fresh = served_s > BACK_OFF_MAX_S or self._is_news
                failures = 1 if is_fresh else failures + 1
                is_start = time.monotonic() - self._began_s < START_S
                most_s = BACK_OFF_AT_START_MAX_S if is_start else BACK_OFF_MAX_S
                delay_s = back_off_s(failures, random.random(), most_s)
                self._report(reason, delay_s, was_served=served_s > 0)
                await self._pause(delay_s)
        finally:
            watch_soon.cancel()
            self._stop_watching()
            if self._timer is not None:
                self._timer.cancel()

    async def _pause(self, delay_s: float) -> None:
        """Ends early if we leave. If network or clock have become right, it ends as early as the last try allows."""
        until_s = time.monotonic() + delay_s
        while not self._left.is_set():
            if self._is_news:
                until_s = min(until_s, self._tried_s + LEAST_PAUSE_S)
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                break
            self._disturbed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._disturbed.wait()

    def _on_news(self) -> None:
        """Network or clock have become right, or may have: a pause ends, and a try that hangs begins anew."""
        self._is_news = True
        self._disturbed.set()
        if self._connection is not None:
            old_in_s = self._tried_s + _OLD_TRY_S - time.monotonic()
            asyncio.get_running_loop().call_later(max(0.0, old_in_s), self._give_up_try, self._connection)

    def _give_up_try(self, connection: Connection) -> None:
        if connection is self._connection and not connection.is_reached:
            connection.close(_CHANGED)

    def _watch(self) -> None:
        """While there is no connection, and none is to be."""
        if not (self._is_watching or self.is_connected or self._left.is_set()):
            self._watching.enter_context(self._surroundings(self._on_news))
            self._is_watching = True

    def _stop_watching(self) -> None:
        self._watching.close()
        self._is_watching = False

    @property
    def has_room(self) -> bool:
        """Whether one more message may be under way."""
        serving = self._serving
        if serving is None:
            return False
        if self._suspects:
            return serving.under_way + serving.unproved == 0
        return serving.under_way < min(IN_FLIGHT, serving.terms.receive_maximum)

    def topics_set_aside(self) -> list[str]:
        """The topics on which the broker takes nothing just now."""
        return self._obstacles.topics_set_aside(time.monotonic()) if self._obstacles else []

    def next_try_s(self) -> float | None:
        """In how many seconds something that is set aside may be tried again; None if nothing is set aside."""
        return self._obstacles.next_try_s(time.monotonic())

    def send(self, message: Message) -> asyncio.Future[bool]:
        """Returns what publish() waits for. The message is already out, or in the socket's queue.

        Raises Refused for a topic that is set aside just now.
        """
        if self._serving is None:
            raise NotDelivered("not connected")
        what = messages_on(message.topic)
        if self._is_set_aside(what):
            raise Refused(f"{what} are set aside for a while")
        answer = self._serving.send(message)
        if self._suspects:
            self._serving.prove()
        return answer

    async def publish(self, message: Message) -> bool:
        """Wait for the PUBACK (QoS 1), or until the message is in the socket (QoS 0). Raises NotDelivered.

        Returns whether there was a PUBACK.
        """
        while self._suspects and self._serving is not None and not self.has_room:
            self._freed.clear()
            await self._freed.wait()
        return await self.send(message)

    async def wait_connected(self) -> None:
        """Wait until we are subscribed and the broker has answered the birth message."""
        while not self.is_connected:
            self._served.clear()
            await self._served.wait()

    async def leave(self, farewell: Message, timeout_s: float) -> None:
        """Say farewell and stay away until come_back(). run() and its timer go on.

        We send DISCONNECT only after the farewell's PUBACK; without it the broker publishes the will. However this
        ends, the connection that carried the farewell is closed: if we come back, the birth on the next one must follow
        the farewell.
        """
        self._wanted.clear()
        self._left.set()
        self._disturbed.set()
        leaving = self._connection
        try:
            if (serving := self._serving) is not None:
                try:
                    async with asyncio.timeout(timeout_s):
                        await serving.publish(farewell)
                except (NotDelivered, TimeoutError):
                    log.warning("cannot say goodbye to %s within %g s", self._settings.address, timeout_s)
                else:
                    serving.disconnect()
        finally:
            if leaving is not None:
                leaving.close(LEFT)

    def come_back(self) -> None:
        """Connect again at once; does nothing if we have not left."""
        self._left.clear()
        self._wanted.set()

    def _tick(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        connection = self._connection
        keep_alive_s = connection.keep_alive_s if connection is not None else self._settings.keep_alive_s
        interval_s = min(keep_alive_s / 3, TICK_MAX_S)
        self._timer = asyncio.get_running_loop().call_later(interval_s, self._tick)
        self._last_tick = time.monotonic()
        if connection is not None:
            connection.tick()
        if self._suspects and self._serving is not None and self._last_tick - self._served_s > BACK_OFF_MAX_S:
            self._suspects.clear()
            self._freed.set()
            self._on_free()
        if self._serving is not None and self._trial.wants_mqtt_5_again(self._last_tick):
            self._trial.try_mqtt_5()
            self._wish = _TRY_MQTT_5
            self._serving.disconnect()
            self._serving.close(_TRY_MQTT_5)

    async def _stay_away(self) -> None:
        log.info("left %s", self._settings.address)
        self.trouble = None
        self._on_change()
        while self._left.is_set():  # we may be told to come back and to leave again before this wakes up
            await self._wanted.wait()

    async def _serve(self) -> tuple[float, str]:
        """Run one connection from its start to its end; returns for how many seconds it served, and why it ended."""
        presence = self._presence()
        self._is_news = False
        self._tried_s = time.monotonic()
        connection = Connection(
            self._settings,
            self._client_id,
            presence.will,
            self._on_message,
            manner=self._trial.manner(),
            turn=self._turn,
            on_taken=self._on_taken,
        )
        self._connection = connection
        served_at = math.inf
        try:
            try:
                await self._begin(connection, presence.birth)
            except NotDelivered:
                pass  # `closed` has the reason
            else:
                self._served_s = served_at = time.monotonic()
                self._serving = connection
                self._welcome(connection)
            reason = await self._until_closed(connection, presence.birth)
        finally:
            connection.close("stopped")
            self._connection = self._serving = None
            self._freed.set()
            self._on_free()
        served_s = max(0.0, time.monotonic() - served_at)
        if not self._left.is_set() and reason not in (LEFT, self._wish):
            self._learn(connection, reason, served_s)
            reason = self._with_pattern(connection, reason, served_s)
            if served_at < math.inf:
                self.statistics = replace(
                    self.statistics,
                    is_lost=True,
                    last_disconnect_at=datetime.now(UTC),
                    last_disconnect_reason=reason,
                )
        return served_s, reason

    async def _begin(self, connection: Connection, birth: Message) -> None:
        """From CONNECT until the connection is of use. Raises NotDelivered."""
        patience_s = PATIENCE * self._settings.keep_alive_s
        try:
            async with asyncio.timeout(patience_s):
                await connection.open()
        except TimeoutError:
            connection.close(f"no answer within {patience_s:g} s")
            raise NotDelivered from None
        # From now on with the keep-alive that the broker wants. Not only to set the timer anew: connections that follow
        # each other quickly would put it off for ever.
        self._tick()
        self._obstacles.begin_anew(time.monotonic())
        terms = connection.terms
        self._trial.on_welcome(
            connection.manner,
            time.monotonic(),
            has_retained=terms.has_retained,
            maximum_qos=terms.maximum_qos,
        )
        self.statistics = replace(self.statistics, speaks_3_1_1=self._trial.speaks_3_1_1)
        # Each by itself, the most important first: if the broker ends the connection, we know at what.
        for topic in self._unsubscriptions:
            if not self._is_set_aside(subscription_to(topic)):
                ended = await connection.unsubscribe(topic)
                if ended.is_refusal:
                    log.warning("the broker does not end the subscription to %s: %s", topic, ended.words)
        for topic in self._subscriptions:
            if not self._is_set_aside(subscription_to(topic)):
                await self._subscribe(connection, topic)
        if not self._is_set_aside(messages_on(birth.topic)):
            with contextlib.suppress(Refused):
                await connection.publish(birth)

    async def _subscribe(self, connection: Connection, topic: str) -> None:
        what = subscription_to(topic)
        granted = await connection.subscribe(topic)
        if granted.is_refusal:
            self._on_taken(what, granted.words)
        elif granted.code == 0:
            self._on_taken(what, "it grants QoS 0 only, so commands can get lost")
        else:
            self._on_taken(what, None)

    async def _until_closed(self, connection: Connection, birth: Message) -> str:
        """Why it was closed. Raises what on_message has raised."""
        caring = asyncio.create_task(self._look_after(connection, birth), name="mqtt subscriptions")
        try:
            await asyncio.wait((connection.closed, caring), return_when=asyncio.FIRST_COMPLETED)
            if caring.done():
                caring.result()
            return await connection.closed
        finally:
            caring.cancel()
            await asyncio.gather(caring, return_exceptions=True)

    async def _look_after(self, connection: Connection, birth: Message) -> None:
        """Ask again for what belongs to the connection itself and was refused: the subscriptions and the birth."""
        try:
            while not connection.closed.done():
                self._has_changed.clear()
                for topic in self._subscriptions:
                    if self._is_due(subscription_to(topic)):
                        await self._subscribe(connection, topic)
                if self._is_due(messages_on(birth.topic)):
                    with contextlib.suppress(Refused):
                        await connection.publish(birth)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.next_try_s()):
                        await self._has_changed.wait()
        except NotDelivered:
            pass

    def _is_set_aside(self, what: str) -> bool:
        return bool(self._obstacles) and self._obstacles.is_set_aside(what, time.monotonic())

    def _is_due(self, what: str) -> bool:
        return bool(self._obstacles) and self._obstacles.is_due(what, time.monotonic())

    def _on_taken(self, what: str, refusal: str | None) -> None:
        """The broker has taken this, or has said why not."""
        is_narrow = bool(self._suspects)
        if refusal is not None:
            self._set_aside(what, refusal)
        elif self._obstacles and self._obstacles.remove(what):
            log.info("the broker takes %s again", what)
            self._tell()
        self._suspects.discard(what)
        self._freed.set()
        if is_narrow or (self._serving is not None and self._serving.terms.receive_maximum < IN_FLIGHT):
            self._on_free()

    def _set_aside(self, what: str, why: str, *, ends_connections: bool = False) -> None:
        if self._obstacles.put(what, why, time.monotonic(), ends_connections=ends_connections):
            log.error("the broker refuses %s: %s; it will be tried again", what, why)
        self._has_changed.set()
        self._tell()

    def _learn(self, connection: Connection, reason: str, served_s: float) -> None:
        """Draw from the end of a connection what the next one is to do in another way."""
        self._turn = connection.turn + 1
        connection.teach(self._trial)
        if served_s > BACK_OFF_MAX_S and not connection.is_poisoned:
            self._trial.on_good_service()
        for what in connection.overdue:
            self._set_aside(what, f"no answer within {connection.answer_s:g} s", ends_connections=True)
        if not connection.was_hung_up:
            return
        match connection.unanswered:
            case [what] if what in self._suspects:
                why = "it ends the connection there" + (f": {reason}" if reason != CLOSED else "")
                self._set_aside(what, why, ends_connections=True)
                self._suspects.discard(what)
            case [*several]:
                self._suspects = set(several)

    def _with_pattern(self, connection: Connection, reason: str, served_s: float) -> str:
        """Two hosts with one name throw each other out, and only MQTT 5 has a word for that."""
        is_short = 0 < served_s < BACK_OFF_MAX_S and reason == CLOSED and not connection.unanswered
        self._short_ends = self._short_ends + 1 if is_short else 0
        return reason + _PATTERN if self._short_ends >= _ENDS_OF_A_PATTERN else reason

    def _welcome(self, connection: Connection) -> None:
        self._stop_watching()
        if self.statistics.is_lost:
            count = self.statistics.reconnect_count + 1
            self.statistics = replace(self.statistics, is_lost=False, reconnect_count=count)
        self._served.set()
        log.info("connected to %s in MQTT %s", self._settings.address, connection.manner.protocol.version)
        for sentence in self._shortcomings(connection):
            log.warning("%s", sentence)
        self._tell()
        if not connection.terms.has_session or self._served_turn not in (None, connection.turn):
            self._on_forgotten()
        self._served_turn = connection.turn

    def _shortcomings(self, connection: Connection) -> list[str]:
        without_will = "the broker does not take this client's will, and so does not tell when the client is lost"
        return [*connection.terms.shortcomings(), *[without_will] * (not connection.manner.has_will)]

    def _tell(self) -> None:
        """While we are connected, `trouble` is what the broker does not do for us."""
        if self._serving is not None:
            told = [*self._shortcomings(self._serving), *self._obstacles.sentences()]
            self.trouble = "; ".join(told) or None
            self._on_change()

    def _report(self, reason: str, delay_s: float, *, was_served: bool) -> None:
        address = self._settings.address
        what = f"connection to {address} lost" if was_served else f"cannot connect to {address}"
        text = f"{what}: {reason}; next attempt in "
        # A broker that is away for days would fill the journal with the same line.
        is_news = self.trouble is None or not self.trouble.startswith(text)
        self.trouble = f"{text}{math.ceil(delay_s)} s"
        log.log(logging.WARNING if is_news else logging.DEBUG, "%s", self.trouble)
        self._on_change()
