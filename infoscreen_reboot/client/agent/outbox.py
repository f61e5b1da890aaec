"""Delivers the letters that the store owes, and strikes each out only on the broker's PUBACK.

They go out in order, except that a topic which the broker does not take just now holds up no other.
"""

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from infoscreen_reboot.client.agent.ports import Post
from infoscreen_reboot.client.agent.store import OWED_BOUND, Letter, Owed, Store, StoreError, StoreUnusable
from infoscreen_reboot.mqtt.messages import Message, NotDelivered, Refused
from infoscreen_reboot.mqtt.paho_client import IN_FLIGHT

log = logging.getLogger(__name__)

# A full disk keeps what the broker has from being struck out. There may be room again at any time.
_STRIKE_OUT_AGAIN_S = 30.0


@dataclass
class _Sent:
    """A letter under way. `delivery` is done on the broker's PUBACK, or lost."""

    letter: Letter
    delivery: asyncio.Future[bool]

    @cached_property
    def command_id(self) -> object:
        return _command_id(self.letter)


class Outbox:
    """Sends the owed letters of `store` through `post` while `run` is running."""

    def __init__(self, store: Store, post: Post) -> None:
        self._store = store
        self._post = post
        # Sent and not struck out, by the letter's number. All were sent on the same connection.
        self._sent: dict[int, _Sent] = {}
        # Sent on this connection, which has no PUBACK: the broker knows QoS 0 only. They stay owed.
        self._unacknowledged: set[int] = set()
        # Delivered, but not struck out because the disk refused it. This process does not send them again.
        self._delivered: list[int] = []
        self._kept = 0  # so many of them, when the disk refused
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

    def resume(self) -> None:
        """The broker may take now what it did not take before, or the connection is lost."""
        self._work.set()

    def answer_again(self, letters: Sequence[Letter]) -> None:
        """Answer a command that is known already. Raises StoreError."""
        # What the broker has acknowledged a moment ago does not wait any more.
        with contextlib.suppress(NotDelivered):  # `run` meets with it, too
            self._settle()
        self._strike_out()
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
        # Not at once: what is owed goes first.
        asyncio.get_running_loop().call_soon(self._send_once)

    def _send_once(self) -> None:
        while self._is_delivering and self._once:
            letter = self._once.popleft()
            with contextlib.suppress(NotDelivered):
                # At QoS 0: a broker that acknowledges nothing must not fill the memory instead of the disk.
                self._post.send(Message(letter.topic, letter.payload, qos=0)).add_done_callback(_is_lost)

    async def wait_empty(self, timeout_s: float) -> bool:
        """Wait until everything owed is delivered that the broker takes just now. Raises StoreError.

        Returns whether that was within `timeout_s`.
        """
        if not self._sent and not self._next(1):
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
            self._settle()
            if not self._post.is_connected:
                raise NotDelivered
            self._send_more()
            if not self._sent and self._post.has_room:
                self._empty.set()
            self._strike_out()
            await self._wait_for_work()

    async def _wait_for_work(self) -> None:
        """Until there is something new, or until something that was not possible may be tried again."""
        pauses_s = [_STRIKE_OUT_AGAIN_S] if self._delivered else []
        if (next_try_s := self._post.next_try_s()) is not None:
            pauses_s.append(next_try_s)
        if not pauses_s:
            await self._work.wait()
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(pauses_s)):
                await self._work.wait()

    def _next(self, limit: int) -> list[Owed]:
        """The oldest letters that are not under way, and that the broker would take now."""
        done_with = {*self._sent, *self._delivered, *self._unacknowledged}
        return self._store.owed(limit, besides=done_with, not_on=self._post.topics_set_aside())

    def _send_more(self) -> None:
        if not self._is_delivering or not self._post.has_room:
            return
        for owed in self._next(IN_FLIGHT):
            if self._has_to_wait(owed.letter):
                return  # nothing overtakes it
            self._send(owed)
            if not self._post.has_room:
                return

    def _has_to_wait(self, letter: Letter) -> bool:
        """The acks of one command keep their order, even if the broker refuses the first one."""
        ahead = [each for each in self._sent.values() if each.letter.topic == letter.topic and not each.delivery.done()]
        command_id = _command_id(letter) if ahead else None
        return command_id is not None and command_id in [each.command_id for each in ahead]

    def _send(self, owed: Owed) -> None:
        try:
            delivery = self._post.send(_message(owed.letter))
        except Refused:
            return  # its topic is set aside now
        self._sent[owed.seq] = _Sent(owed.letter, delivery)
        delivery.add_done_callback(self._on_delivery)

    def _on_delivery(self, delivery: asyncio.Future[bool]) -> None:
        """The next letter goes out now; the rest has time."""
        self._work.set()
        if not _is_lost(delivery):
            with contextlib.suppress(NotDelivered, StoreError):  # `run` meets with it, too
                self._settle()
                self._send_more()

    def _settle(self) -> None:
        """Take note of what the broker has. Raises NotDelivered if the connection is lost."""
        is_lost = False
        for seq, sent in list(self._sent.items()):
            if not sent.delivery.done():
                continue
            del self._sent[seq]
            if _is_lost(sent.delivery):
                is_lost = is_lost or not isinstance(sent.delivery.exception(), Refused)
            elif sent.delivery.result():
                self._delivered.append(seq)
            else:
                self._unacknowledged.add(seq)
        if is_lost:
            raise NotDelivered

    def _strike_out(self) -> None:
        """Strike out, in one transaction, what the broker has."""
        if not self._delivered:
            return
        try:
            self._store.strike_out(self._delivered)
        except StoreUnusable:
            raise
        except StoreError as error:
            if len(self._delivered) > self._kept:
                log.warning("%s; what the broker has may be sent once more", error)
            self._kept = len(self._delivered)
        else:
            self._delivered.clear()
            self._kept = 0

    async def _forget_sent(self) -> None:
        self._is_delivering = False
        self._work.set()
        deliveries = [sent.delivery for sent in self._sent.values()]
        self._sent.clear()
        self._unacknowledged.clear()
        for delivery in deliveries:
            delivery.cancel()
        await asyncio.gather(*deliveries, return_exceptions=True)


def _is_lost(delivery: asyncio.Future[bool]) -> bool:
    return delivery.done() and (delivery.cancelled() or delivery.exception() is not None)


def _command_id(letter: Letter) -> object:
    """None if it is about no command."""
    try:
        return json.loads(letter.payload)["command_id"]
    except (ValueError, LookupError, TypeError):
        return None


def _message(letter: Letter) -> Message:
    return Message(letter.topic, letter.payload, retain=letter.retain)
