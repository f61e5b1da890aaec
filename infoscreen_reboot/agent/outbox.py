"""Delivers what the journal owes, in order, and strikes a letter out only on the broker's PUBACK."""

import asyncio

from infoscreen_reboot.agent.journal import Journal, Letter
from infoscreen_reboot.agent.ports import Post
from infoscreen_reboot.mqtt import Message, NotDelivered

_BATCH = 20


class Outbox:
    """Owed letters of `journal`, sent by `post` while `run` is running."""

    def __init__(self, journal: Journal, post: Post) -> None:
        self._journal = journal
        self._post = post
        self._work = asyncio.Event()
        self._empty = asyncio.Event()
        self.nudge()

    def nudge(self) -> None:
        """There is something new in the journal."""
        self._empty.clear()
        self._work.set()

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
        while True:
            await self._work.wait()
            await self._post.wait_connected()
            self._work.clear()
            try:
                while await self._deliver_some():
                    pass
            except NotDelivered:
                self._work.set()

    async def _deliver_some(self) -> bool:
        owed = self._journal.owed(_BATCH)
        if not owed:
            if not self._work.is_set():
                self._empty.set()
            return False
        sent: list[asyncio.Future[None]] = []
        try:
            for letter in owed:
                sent.append(self._post.send(_message(letter.letter)))
            for letter, delivery in zip(owed, sent, strict=True):
                await delivery
                self._journal.strike_out(letter.seq)
        finally:
            for delivery in sent:
                delivery.cancel()
            await asyncio.gather(*sent, return_exceptions=True)
        return True


def _message(letter: Letter) -> Message:
    return Message(letter.topic, letter.payload, retain=letter.retain)
