"""Tells people: makes messages of notices, and brings them to their targets, for whoever holds the lease."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

from infoscreen_reboot.controller import notifying, sending
from infoscreen_reboot.controller.notifying import GRACE, Post
from infoscreen_reboot.controller.sending import Deliver
from infoscreen_reboot.controller.store import deliveries, lease, notices
from infoscreen_reboot.controller.store.database import StoreError, Transaction
from infoscreen_reboot.controller.store.deliveries import Attempt
from infoscreen_reboot.controller.store.lease import LeaseLost
from infoscreen_reboot.controller.targets import Target

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
# What is of a closed site is pending for hours.
_DIGEST_EVERY = timedelta(seconds=5)
# After an error of ours. Clients are rebooted whether or not anybody can be told, so it does not end the controller.
_REST_S = 60.0
# At a stop, what is on its way is waited for: it would else be sent twice.
_LAST_S = 2.0
# A message that comes later than this says so.
_LATE = timedelta(minutes=10)


class Database(Protocol):
    def write(self) -> AbstractContextManager[Transaction]: ...

    def read(self) -> AbstractContextManager[Transaction]: ...


class Notifier:
    """A worker of the leader. Each target has a lane of its own, in which one message after the other goes: so a target
    that is slow holds nobody up but itself, and has one thread at most.
    """

    def __init__(
        self,
        database: Database,
        targets: Sequence[Target],
        fleet_zone: str,
        grace: timedelta = GRACE,
        deliver: Deliver = sending.deliver,
    ) -> None:
        self._database = database
        self._targets = {target.name: target for target in targets}
        self._fleet_zone = fleet_zone
        self._grace = grace
        self._deliver = deliver
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._digests_at: datetime | None = None
        self._busy: set[str] = set()
        self._unwritten: list[tuple[Attempt, str | None]] = []
        self._ended: queue.SimpleQueue[tuple[Attempt, str | None]] = queue.SimpleQueue()

    def start(self, epoch: int) -> None:
        self._digests_at = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(epoch, self._stopping), name="notifier", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, epoch: int, stopping: threading.Event) -> None:
        try:
            while not stopping.wait(_LOOK_EVERY_S):
                try:
                    self.work(epoch)
                except StoreError as error:
                    log.warning("cannot tell anybody now: %s", error)
                except LeaseLost:
                    raise
                except Exception:
                    log.exception("cannot tell anybody now, for an error of ours")
                    stopping.wait(_REST_S)
            self.finish(epoch, _LAST_S)
        except (LeaseLost, StoreError) as error:
            log.info("the notifier stops: %s", error)

    def work(self, epoch: int) -> None:
        """One round. Raises LeaseLost or StoreError."""
        self._take()
        with self._database.read() as tx:
            is_digest_due = self._may_digest(tx.now) and notices.is_something_pending(tx)
            is_idle = not (self._unwritten or is_digest_due or deliveries.is_something_due(tx))
        if is_idle:
            return
        with self._database.write() as tx:
            lease.hold(tx, epoch)
            self._write_down(tx)
            if is_digest_due:
                self._digest(tx)
            given_up = deliveries.give_up(tx, list(self._targets))
            attempts = deliveries.claim(tx, self._targets.keys() - self._busy)
        self._unwritten.clear()
        if given_up:
            log.error("%d messages to people were given up: infoscreen-reboot-controller doctor says which", given_up)
        for attempt in attempts:
            self._begin(attempt)

    def finish(self, epoch: int, seconds: float) -> None:
        """Wait so long for what is on its way, and write down what came of it. Raises LeaseLost or StoreError."""
        until_s = time.monotonic() + seconds
        while self._busy and (left_s := until_s - time.monotonic()) > 0:
            self._take(left_s)
        self._take()
        if self._unwritten:
            with self._database.write() as tx:
                lease.hold(tx, epoch)
                self._write_down(tx)
            self._unwritten.clear()

    def _take(self, wait_s: float = 0.0) -> None:
        """What attempts have ended. It is kept until it is committed."""
        while True:
            try:
                ended = self._ended.get(timeout=wait_s) if wait_s > 0 else self._ended.get_nowait()
            except queue.Empty:
                return
            wait_s = 0.0
            self._unwritten.append(ended)
            self._busy.discard(ended[0].target)

    def _write_down(self, tx: Transaction) -> None:
        for attempt, fault in self._unwritten:
            deliveries.end(tx, attempt, fault)
            if fault is not None and attempt.number == 1:
                log.warning(
                    "%s has not taken message %d, it is tried again: %s", attempt.target, attempt.post.id, fault
                )

    def _may_digest(self, now: datetime) -> bool:
        """Not more often than that; and also if the clock was put back."""
        return self._digests_at is None or not self._digests_at - _DIGEST_EVERY <= now < self._digests_at

    def _digest(self, tx: Transaction) -> None:
        self._digests_at = tx.now + _DIGEST_EVERY
        waiting = notices.pending(tx)
        sites = {notice.site for notice in waiting if notice.site is not None}
        hours = notices.opening_hours(tx, sorted(sites), self._fleet_zone)
        told = notices.told(tx, sorted({notice.subject for notice in waiting}))
        made = notifying.digest(tx.now, waiting, hours, told, notices.last_messages(tx), self._grace)
        notices.settle(tx, sorted(made.dropped))
        for message in made.messages:
            names = [name for name, each in self._targets.items() if each.takes(message.kind, message.is_loud)]
            notices.make(tx, message, names)
            log.info("%s, to %s", message.title.removeprefix("infoscreen: "), ", ".join(names) or "nobody")

    def _begin(self, attempt: Attempt) -> None:
        self._busy.add(attempt.target)
        target = self._targets[attempt.target]

        def run() -> None:
            self._ended.put((attempt, sending.fault(self._deliver, target, _on_its_way(attempt), attempt.at)))

        threading.Thread(target=run, name=f"notify-{target.name}", daemon=True).start()


def _on_its_way(attempt: Attempt) -> Post:
    post = attempt.post
    if attempt.at < post.made_at + _LATE:
        return post
    late = f"This message is of {post.made_at:%Y-%m-%d %H:%M} UTC. It could not be sent before."
    return replace(post, body=f"{post.body}\n{late}")
