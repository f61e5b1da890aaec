"""Delivers what the journal owes, in order, and strikes a letter out only on the broker's PUBACK."""

import asyncio
import contextlib
from collections import deque

from infoscreen_reboot.agent.journal import Journal, Letter
from infoscreen_reboot.agent.ports import Post
from infoscreen_reboot.mqtt import IN_FLIGHT, Message, NotDelivered


class Outbox:
    """Owed letters of `journal`, sent by `post` while `run` is running."""

    def __init__(self, journal: Journal, post: Post) -> None:
        self._journal = journal
        self._post = post
        # Sent and not struck out, by the letters' numbers; all on one connection.
        self._sent: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._is_delivering = False
        self._work = asyncio.Event()
        self._empty = asyncio.Event()
        self.nudge()

    def nudge(self) -> None:
        """There is something new in the journal: it goes out before this returns, if it can. Raises JournalError."""
        self._empty.clear()
        self._work.set()
        with contextlib.suppress(NotDelivered):
            self._send_more()

    async def wait_empty(self, timeout_s: float) -> bool:
        """Whether everything owed was delivered within `timeout_s`. Raises JournalError."""
        if not self._journal.owed(1):
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """For ever. Raises JournalError."""
        while True:
            await self._work.wait()
            await self._post.wait_connected()
            try:
                self._is_delivering = True
                await self._deliver()
            except NotDelivered:
                pass  # all that is owed goes out again on the next connection
            finally:
                await self._forget_sent()

    async def _deliver(self) -> None:
        """For as long as the connection lasts; raises NotDelivered."""
        while True:
            self._work.clear()
            self._send_more()
            if self._sent:
                await self._sent[0][1]
                self._strike_out()
            else:
                self._empty.set()
                await self._work.wait()

    def _send_more(self) -> None:
        if not self._is_delivering or len(self._sent) == IN_FLIGHT:
            return
        # After a letter that was lost with its connection none may go out on the next before it.
        if any(_is_lost(delivery) for _, delivery in self._sent):
            return
        last = self._sent[-1][0] if self._sent else 0
        for owed in self._journal.owed(IN_FLIGHT - len(self._sent), after=last):
            self._sent.append((owed.seq, self._post.send(_message(owed.letter))))

    def _strike_out(self) -> None:
        """All from the first on that the broker has, in one transaction."""
        delivered = []
        while self._sent and self._sent[0][1].done() and not _is_lost(self._sent[0][1]):
            delivered.append(self._sent.popleft()[0])
        self._journal.strike_out(delivered)

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
