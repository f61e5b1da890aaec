"""Takes the lease, and keeps the engine at work while it holds it: the one thread that speaks with the broker."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

from infoscreen_reboot.controller import ingest
from infoscreen_reboot.controller.dispatch import Signs
from infoscreen_reboot.controller.engine import Engine, Orders, Rubbish
from infoscreen_reboot.controller.store import lease, retention, schema
from infoscreen_reboot.controller.store.database import Database, StoreError
from infoscreen_reboot.controller.store.lease import LeaseLost
from infoscreen_reboot.mqtt.consumer import Consumer, Lost
from infoscreen_reboot.mqtt.messages import BrokerSettings

log = logging.getLogger(__name__)

# One for all instances: the broker keeps what is not acknowledged for whoever comes with this id next.
CLIENT_ID = "infoscreen-reboot-controller"
# Also between attempts to reach the broker: what clients say to one that has forgotten us is lost until we are there.
_RETRY_S = 1.0
# Another instance may reach the broker: after so long without it, the lease is given up, and left alone for a while.
_DEAF_S, _OTHERS_FIRST_S = 30.0, 3.0
_FORGET_EVERY_S = 3600.0


class Worker(Protocol):
    """What else the holder of the lease does, in a thread of its own: what takes longer than a step of the engine may.

    It writes with the epoch, as the engine does. It is started and stopped again with each time that the lease is held.
    """

    def start(self, epoch: int) -> None: ...

    def stop(self) -> None:
        """Returns when it writes nothing more, within seconds. It may be stopped twice."""


class Leader(threading.Thread):
    """`words` says what it does, for `systemctl status`; `failed` is the error that ended it.

    `moved_at_s` (of the monotonic clock) is when it was last seen alive.
    """

    def __init__(
        self,
        database: Database,
        broker: BrokerSettings,
        orders: Orders,
        signer: Signs | None,
        holder: str,
        keep: timedelta,
        workers: Sequence[Worker] = (),
    ) -> None:
        super().__init__(name="leader", daemon=True)
        self._database = database
        self._address = f"{broker.host}:{broker.port}"
        self._consumer = Consumer(broker, CLIENT_ID, ingest.TOPICS)
        self._orders = orders
        self._signer = signer
        self._holder = holder
        self._keep = keep
        self._workers = workers
        self._stopping = threading.Event()
        self._forgets_at_s = time.monotonic()
        self.words = "starting"
        self.moved_at_s = time.monotonic()
        self.failed: Exception | None = None
        self._rubbish = Rubbish()

    def ignored(self) -> dict[str, int]:
        """How many messages nobody could use so far, by the end of their topic, or because there was no room."""
        return {**self._rubbish.counts, "no room": self._rubbish.turned_away}

    def wake(self) -> None:
        """There is something to send. Without this it would be seen half a second later."""
        self._consumer.wake()

    def stop(self) -> None:
        """Ends it in good order: the next holder of the lease need not wait."""
        self._stopping.set()
        self._consumer.wake()
        self.join()
        self._consumer.end()  # not before: others may wake it until then

    def run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._try_to_lead()
        except Exception as error:  # it ends the process, which says why
            self.failed = error

    def _try_to_lead(self) -> None:
        try:
            with self._database.write() as tx:
                schema.check(tx)
                epoch = lease.take(tx, self._holder)
            if epoch is None:
                self._say("another instance speaks with the broker")
                self._wait(_RETRY_S)
            else:
                self._lead_with_workers(epoch)
        except LeaseLost as error:
            log.warning("%s", error)
        except StoreError as error:
            self._say(str(error))
            self._wait(_RETRY_S)
        finally:
            self._consumer.close()  # what it has in hand comes again

    def _lead_with_workers(self, epoch: int) -> None:
        for worker in self._workers:
            worker.start(epoch)
        try:
            self._lead(epoch)
        finally:
            self._stop_workers()

    def _stop_workers(self) -> None:
        for worker in self._workers:
            worker.stop()

    def _lead(self, epoch: int) -> None:
        engine = Engine(self._database, self._consumer, self._orders, epoch, self._signer, self._rubbish)
        heard_at_s = time.monotonic()
        while not self._stopping.is_set() and time.monotonic() < heard_at_s + _DEAF_S:
            try:
                self._consumer.open()
                engine.begin()
                self._say(f"connected to {self._address}")
                try:
                    self._work(engine, epoch)
                finally:
                    heard_at_s = time.monotonic()
            except Lost as error:
                self._say(f"cannot hear the broker at {self._address}: {error}")
                self._be_deaf(engine, epoch)
        self._stop_workers()  # while they still may write
        with self._database.write() as tx:
            lease.give_up(tx, epoch)
        self._wait(_OTHERS_FIRST_S)

    def _work(self, engine: Engine, epoch: int) -> None:
        """Until the end, or until the broker is lost."""
        while not self._stopping.is_set():
            self._moved()
            engine.step()
            if time.monotonic() >= self._forgets_at_s:
                self._forget(epoch)

    def _be_deaf(self, engine: Engine, epoch: int) -> None:
        with self._database.write() as tx:
            lease.listen(tx, epoch, is_heard=False)
        engine.rest()
        self._wait(_RETRY_S)

    def _forget(self, epoch: int) -> None:
        """Some of what is older than it has to be kept; the rest of it in one of the next rounds."""
        with self._database.write() as tx:
            lease.hold(tx, epoch)
            count = retention.forget(tx, tx.now - self._keep)
        self._forgets_at_s = time.monotonic() + (_RETRY_S if count else _FORGET_EVERY_S)

    def _wait(self, seconds: float) -> None:
        self._moved()
        self._stopping.wait(seconds)

    def _moved(self) -> None:
        self.moved_at_s = time.monotonic()

    def _say(self, words: str) -> None:
        if words != self.words:
            self.words = words
            log.info("%s", words)
