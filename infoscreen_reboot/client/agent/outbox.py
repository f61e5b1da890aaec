"""Delivers the letters that the store owes, in order, and strikes each out only on the broker's PUBACK."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Sequence

from infoscreen_reboot.client.agent.ports import Post
from infoscreen_reboot.client.agent.store import OWED_BOUND, Letter, Store, StoreError, StoreUnusable
from infoscreen_reboot.mqtt.messages import Message, NotDelivered
from infoscreen_reboot.mqtt.paho_client import IN_FLIGHT

log = logging.getLogger(__name__)

# A full disk keeps what the broker has from being struck out. There may be room again at any time.
_STRIKE_OUT_AGAIN_S = 30.0


class Outbox:
    """Sends the owed letters of `store` through `post` while `run` is running."""

    def __init__(self, store: Store, post: Post) -> None:
        self._store = store
        self._post = post
        # Sent and not struck out: the letter's number and its delivery. All were sent on the same connection.
        self._sent: deque[tuple[int, asyncio.Future[None]]] = deque()
        # Delivered, but not struck out because the disk refused it. This process does not send them again.
        self._delivered: list[int] = []
        # To be sent once; they are not owed. If there are too many, the oldest are dropped.
        self._once: deque[Letter] = deque(maxlen=OWED_BOUND)
        self._is_delivering = False
        self._work = asyncio.Event()
        self._empty = asyncio.Event()
        self.nudge()

    def nudge(self) -> None:
        """The store has something new: send it before this returns, if that is possible. Raises StoreError."""
        self._empty.clear()
        self._work.set()
        with contextlib.suppress(NotDelivered):
            self._send_more()

    def answer_again(self, letters: Sequence[Letter]) -> None:
        """Answer a command that is known already. Raises StoreError."""
        if self._store.why_no_new_command() is None:
            self._store.owe_again(letters)
            self.nudge()
        # An answer that still waits is sent in its turn. Sent now, it would overtake an earlier ack.
        elif not self._store.owes_any(letters):
            self.send_once(letters)

    def send_once(self, letters: Sequence[Letter]) -> None:
        """Send as soon as there is a connection.

        The letters are not owed, and are lost if the process ends: who asks again is answered again.
        """
        self._once.extend(letters)
        self._work.set()
        # Not at once: paho hangs if something is sent at QoS 0 while it delivers a message.
        asyncio.get_running_loop().call_soon(self._send_once)

    def _send_once(self) -> None:
        while self._is_delivering and self._once:
            letter = self._once.popleft()
            with contextlib.suppress(NotDelivered):
                # At QoS 0: a broker that acknowledges nothing must not fill the memory instead of the disk.
                self._post.send(Message(letter.topic, letter.payload, qos=0)).add_done_callback(_is_lost)

    async def wait_empty(self, timeout_s: float) -> bool:
        """Wait until everything owed is delivered; returns whether that was within `timeout_s`. Raises StoreError."""
        if not self._store.owed(1, after=self._last_delivered()):
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Runs for ever. Raises StoreError."""
        while True:
            await self._work.wait()
            await self._post.wait_connected()
            try:
                self._is_delivering = True
                self._send_once()
                await self._deliver()
            except NotDelivered:
                pass  # all that is owed goes out again on the next connection
            finally:
                await self._forget_sent()

    async def _deliver(self) -> None:
        """Deliver as long as the connection lasts; raises NotDelivered when it ends."""
        while True:
            self._work.clear()
            self._send_more()
            if self._sent:
                await self._sent[0][1]
                self._strike_out()
            else:
                self._empty.set()
                await self._wait_for_work()

    async def _wait_for_work(self) -> None:
        """Wait until there is something new. In the meantime, try to strike out what a full disk has kept."""
        while self._delivered:
            try:
                async with asyncio.timeout(_STRIKE_OUT_AGAIN_S):
                    await self._work.wait()
                return
            except TimeoutError:
                self._strike_out()
        await self._work.wait()

    def _send_more(self) -> None:
        if not self._is_delivering or len(self._sent) == IN_FLIGHT:
            return
        # If a letter was lost with its connection, no later one may go out before it on the next connection.
        if any(_is_lost(delivery) for _, delivery in self._sent):
            return
        last = self._sent[-1][0] if self._sent else self._last_delivered()
        for owed in self._store.owed(IN_FLIGHT - len(self._sent), after=last):
            self._sent.append((owed.seq, self._post.send(_message(owed.letter))))

    def _strike_out(self) -> None:
        """Strike out, in one transaction, the first letters of the queue, as far as the broker has them."""
        is_news = bool(self._sent)
        while self._sent and self._sent[0][1].done() and not _is_lost(self._sent[0][1]):
            self._delivered.append(self._sent.popleft()[0])
        try:
            self._store.strike_out(self._delivered)
        except StoreUnusable:
            raise
        except StoreError as error:
            if is_news:
                log.warning("%s; what the broker has may be sent once more", error)
        else:
            self._delivered.clear()

    def _last_delivered(self) -> int:
        return self._delivered[-1] if self._delivered else 0

    async def _forget_sent(self) -> None:
        self._is_delivering = False
        self._work.set()
        deliveries = [delivery for _, delivery in self._sent]
        self._sent.clear()
        for delivery in deliveries:
            delivery.cancel()
        await asyncio.gather(*deliveries, return_exceptions=True)


def _is_lost(delivery: asyncio.Future[None]) -> bool:
    return delivery.done() and (delivery.cancelled() or delivery.exception() is not None)


def _message(letter: Letter) -> Message:
    return Message(letter.topic, letter.payload, retain=letter.retain)
