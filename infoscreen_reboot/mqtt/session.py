"""Keeps one client id connected to the broker: it connects again whenever the connection is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from infoscreen_reboot.mqtt.connection import Connection
from infoscreen_reboot.mqtt.messages import LEFT, BrokerSettings, Delivery, Message, NotDelivered, Redeliver
from infoscreen_reboot.mqtt.paho_client import IN_FLIGHT
from infoscreen_reboot.mqtt.tls import TlsSettings, tls_context

__all__ = [
    "IN_FLIGHT",
    "BrokerSettings",
    "Delivery",
    "Message",
    "NotDelivered",
    "Presence",
    "Redeliver",
    "Session",
    "Statistics",
    "TlsSettings",
    "back_off_s",
    "tls_context",
]

log = logging.getLogger(__name__)

BACK_OFF_MAX_S = 60.0
TICK_MAX_S = 10.0
# How long a connection may take until it is of use, in keep-alives. MQTT gives a silent client the same time.
PATIENCE = 1.5


@dataclass(frozen=True, slots=True)
class Presence:
    """The will is what the broker says when it loses us, the birth what we say when we have come.

    Each connection has its own.
    """

    will: Message
    birth: Message


@dataclass(frozen=True, slots=True)
class Statistics:
    """`is_lost` is true from the loss of a connection until the next one; each connection after a loss is counted."""

    is_lost: bool = False
    reconnect_count: int = 0
    last_disconnect_at: datetime | None = None
    last_disconnect_reason: str | None = None


def back_off_s(failures: int, chance: float) -> float:
    """The pause after so many failures in a row. `chance`, a random 0 to 1, spreads the reconnects of a fleet."""
    return chance * min(BACK_OFF_MAX_S, 2.0 ** min(failures - 1, 10))


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
        statistics: Statistics | None = None,
    ) -> None:
        """`on_change` is called when `is_connected` or `trouble` has changed; counting goes on from `statistics`.

        `unsubscriptions` are topics that an earlier run may have subscribed to: the broker remembers them.
        """
        self._settings = settings
        self._client_id = client_id
        self._subscriptions = subscriptions
        self._unsubscriptions = unsubscriptions
        self._presence = presence
        self._on_message = on_message
        self._on_change = on_change
        self._connection: Connection | None = None
        self._serving: Connection | None = None
        self._served = asyncio.Event()
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._left = asyncio.Event()
        self._last_tick = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None
        self.statistics = statistics or Statistics()
        self.trouble: str | None = None

    @property
    def is_connected(self) -> bool:
        return self._serving is not None and not self._serving.closed.done()

    @property
    def is_away(self) -> bool:
        """Whether we have left and not come back."""
        return self._left.is_set()

    def last_tick(self) -> float:
        """When run()'s timer ran last, by time.monotonic(). It runs whether the broker is there or not."""
        return self._last_tick

    async def run(self) -> None:
        """Runs until cancelled, also while we are away. An exception of on_message ends it, except Redeliver."""
        failures = 0
        self._tick()
        try:
            while True:
                if self._left.is_set():
                    await self._stay_away()
                    failures = 0
                served_s, reason = await self._serve()
                if self._left.is_set() or reason == LEFT:
                    failures = 0
                    self._on_change()
                    continue
                # Only a connection that lasted counts as good. With a full disk, or with two clients that have the
                # same id, each connection is made and lost at once.
                failures = 1 if served_s > BACK_OFF_MAX_S else failures + 1
                delay_s = back_off_s(failures, random.random())
                self._report(reason, delay_s, was_served=served_s > 0)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay_s):
                        await self._left.wait()
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def send(self, message: Message) -> asyncio.Future[Any]:
        """Returns what publish() waits for. The message is already out, or in the socket's queue."""
        if self._serving is None:
            raise NotDelivered("not connected")
        return self._serving.send(message)

    async def publish(self, message: Message) -> None:
        """Wait for the PUBACK (QoS 1), or until the message is in the socket (QoS 0). Raises NotDelivered."""
        await self.send(message)

    async def wait_connected(self) -> None:
        """Wait until we are subscribed and the broker has acknowledged the birth message."""
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
        interval_s = min(self._settings.keep_alive_s / 3, TICK_MAX_S)
        self._timer = asyncio.get_running_loop().call_later(interval_s, self._tick)
        self._last_tick = time.monotonic()
        if self._connection is not None:
            self._connection.tick()

    async def _stay_away(self) -> None:
        log.info("left %s", self._settings.address)
        self.trouble = None
        self._on_change()
        while self._left.is_set():  # we may be told to come back and to leave again before this wakes up
            await self._wanted.wait()

    async def _serve(self) -> tuple[float, str]:
        """Run one connection from its start to its end; returns for how many seconds it served, and why it ended."""
        presence = self._presence()
        connection = Connection(self._settings, self._client_id, presence.will, self._on_message)
        self._connection = connection
        patience_s = PATIENCE * self._settings.keep_alive_s
        served_at = math.inf
        try:
            try:
                async with asyncio.timeout(patience_s):
                    await connection.open()
                    await connection.unsubscribe(self._unsubscriptions)
                    refused = await connection.subscribe(self._subscriptions)
                    await connection.publish(presence.birth)
            except TimeoutError:
                connection.close(f"no answer within {patience_s:g} s")
            except NotDelivered:
                pass  # `closed` has the reason
            else:
                served_at = time.monotonic()
                self._serving = connection
                self._welcome(refused)
            reason = await connection.closed
        finally:
            connection.close("stopped")
            self._connection = self._serving = None
        if served_at < math.inf and not self._left.is_set() and reason != LEFT:
            self.statistics = Statistics(True, self.statistics.reconnect_count, datetime.now(UTC), reason)
        return max(0.0, time.monotonic() - served_at), reason

    def _welcome(self, refused: Sequence[str]) -> None:
        if self.statistics.is_lost:
            count = self.statistics.reconnect_count + 1
            self.statistics = replace(self.statistics, is_lost=False, reconnect_count=count)
        self._served.set()
        self.trouble = None
        log.info("connected to %s", self._settings.address)
        if refused:
            self.trouble = f"the broker refuses the subscription to {', '.join(refused)}"
            log.error("%s", self.trouble)
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
