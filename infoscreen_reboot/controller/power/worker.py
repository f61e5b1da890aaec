"""Carries power cycles out, and switches on again what is owed: threads of whoever holds the lease.

Only who holds the lease switches off. To switch on needs no lease: it is always right.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from infoscreen_reboot.controller.power import cycle
from infoscreen_reboot.controller.power.cycle import MAY_BE_OFF, MOST_AT_ONCE, TAKEN_WITHIN, Pace, State, Step
from infoscreen_reboot.controller.power.outlet import Outlet, switch_on
from infoscreen_reboot.controller.power.port import Port, PowerError
from infoscreen_reboot.controller.store import lease, power
from infoscreen_reboot.controller.store.database import Database, Row, StoreError, Transaction
from infoscreen_reboot.controller.store.lease import LeaseLost

log = logging.getLogger(__name__)

# A switch that does not answer takes this long; then the process may end, and the unit of its own goes on.
_STOP_S = 12.0
_NEVER_OFF = "it was never seen off, and is on"
_NOT_TAKEN = "nobody took it up in time: the controller was not at work"
_MOVED = "the inventory names another port of this client by now"


class Cycles:
    """The worker of each time that the lease is held, as `leader.Worker`."""

    def __init__(self, database: Database, outlet: Outlet, pace: Pace) -> None:
        self._database = database
        self._outlet = outlet
        self._pace = pace
        self._worker: Worker | None = None

    def start(self, epoch: int) -> None:
        self._worker = Worker(self._database, self._outlet, epoch, self._pace)
        self._worker.start()

    def stop(self) -> None:
        if self._worker is not None:
            self._worker.stop()
            self._worker = None


class Worker(threading.Thread):
    """From its start until it is left: `with Worker(…):`."""

    def __init__(self, database: Database, outlet: Outlet, epoch: int, pace: Pace | None = None) -> None:
        super().__init__(name="power", daemon=True)
        self._database = database
        self._outlet = outlet
        self._epoch = epoch
        self._pace = pace or Pace()
        self._stopping = threading.Event()
        # By the number of their cycles.
        self._jobs: dict[int, threading.Thread] = {}
        self._tried_s: dict[int, float] = {}
        self._trouble = ""

    def __enter__(self) -> Worker:
        self.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """What is off just now is switched on at once."""
        self._stopping.set()
        ends_s = time.monotonic() + _STOP_S
        self.join(_STOP_S)
        for job in list(self._jobs.values()):
            job.join(max(0.0, ends_s - time.monotonic()))

    def run(self) -> None:
        is_first = True
        while not self._stopping.is_set():
            try:
                self.look(is_first)
                is_first, self._trouble = False, ""
            except (StoreError, LeaseLost) as error:
                # The leader says so, too, and ends this one if the lease is lost.
                if str(error) != self._trouble:
                    self._trouble = str(error)
                    log.warning("power cycles wait: %s", error)
            self._stopping.wait(self._pace.looks_every.total_seconds())

    def look(self, is_first: bool = False) -> None:
        """Begin what can begin now. At the start all that is owed is of a process that is gone: that is not waited for.

        Raises StoreError, LeaseLost.
        """
        self._jobs = {cycle_id: job for cycle_id, job in self._jobs.items() if job.is_alive()}
        with self._database.read() as tx:
            rows, now = power.under_way(tx), tx.now
        requested: dict[int, str] = {}
        busy: set[str] = set()
        for row in rows:
            state = State(row["state"])
            # One that was taken up reads its port first.
            if state is not State.REQUESTED or row["id"] in self._jobs:
                busy.add(power.port_in(row).device)
            if row["id"] in self._jobs:
                continue
            if state is State.REQUESTED:
                requested[row["id"]] = power.port_in(row).device
            elif state is State.ON:
                self._do(row, self._observe)
            elif is_first or ((row["must_be_on_by"] <= now or row["attempts"]) and self._is_due(row["id"])):
                self._do(row, self._restore)
        by_id = {row["id"]: row for row in rows}
        self._tried_s = {cycle_id: at_s for cycle_id, at_s in self._tried_s.items() if cycle_id in by_id}
        late = [each for each in requested if by_id[each]["requested_at"] < now - TAKEN_WITHIN]
        if late:
            self._refuse_late(late)
        waiting = {cycle_id: device for cycle_id, device in requested.items() if cycle_id not in late}
        for cycle_id in cycle.to_begin(waiting, busy, MOST_AT_ONCE - len(self._jobs)):
            self._do(by_id[cycle_id], self._cycle)

    def _is_due(self, cycle_id: int) -> bool:
        tried_s = self._tried_s.get(cycle_id)
        return tried_s is None or time.monotonic() >= tried_s + self._pace.retries_every.total_seconds()

    def _refuse_late(self, late: Sequence[int]) -> None:
        with self._database.write() as tx:
            lease.hold(tx, self._epoch)
            for cycle_id in late:
                power.move(tx, cycle_id, Step.REFUSE, _NOT_TAKEN)

    def _do(self, row: Row, what: Callable[[Row], None]) -> None:
        def run() -> None:
            try:
                what(row)
            except (StoreError, LeaseLost) as error:
                log.warning("power cycle %d: %s", row["id"], error)
            finally:
                self._tried_s[row["id"]] = time.monotonic()

        self._jobs[row["id"]] = threading.Thread(target=run, name=f"power-{row['id']}", daemon=True)
        self._jobs[row["id"]].start()

    # --- One cycle

    def _cycle(self, row: Row) -> None:
        port = power.port_in(row)
        began_s = self._owe(row, port)
        if began_s is None:
            return
        words = None
        try:
            words = self._switch_off(row, port, began_s)
            if words is None:
                self._stopping.wait(self._pace.off_for.total_seconds())
        finally:
            # Also if the database cannot be asked just now.
            self._bring_back(row, port, words)

    def _owe(self, row: Row, port: Port) -> float | None:
        """Write down that the port has to be on again; returns when (monotonic), or None if it must not go off."""
        try:
            reading = self._outlet.read(port)
            fault = cycle.fault_before_off(reading)
        except PowerError as error:
            fault = str(error)
        with self._database.write() as tx:
            lease.hold(tx, self._epoch)
            if fault is None:
                fault = _fault_now(tx, row, port)
            if fault is not None:
                power.move(tx, row["id"], Step.REFUSE, fault)
                self._say(row, "refused", fault)
                return None
            began_s = time.monotonic()
            must_be_on_by = tx.now + self._pace.off_for + self._pace.grace
            if power.move(tx, row["id"], Step.OWE, must_be_on_by=must_be_on_by) is None:
                return None
        return began_s

    def _switch_off(self, row: Row, port: Port, began_s: float) -> str | None:
        """None once the port is off by its own word, else why it is not."""
        if self._stopping.is_set() or time.monotonic() > began_s + self._pace.sent_within.total_seconds():
            return "it was not switched off: the controller was held up, or stopped"
        try:
            self._outlet.switch(port, False)
            if self._outlet.read(port).is_on:
                return f"{port} stays on: it takes the value, without effect"
        except PowerError as error:
            return str(error)
        with self._database.write() as tx:
            power.move(tx, row["id"], Step.SEE_OFF)
        self._say(row, "off")
        return None

    def _bring_back(self, row: Row, port: Port, words: str | None) -> None:
        try:
            reading = switch_on(self._outlet, port)
        except PowerError as error:
            with self._database.write() as tx:
                power.fail(tx, row["id"], str(error))
            self._say(row, "owed", str(error))
            return
        with self._database.write() as tx:
            to = power.move(tx, row["id"], Step.SEE_ON, words or reading.words)
        self._say(row, str(to or "on"), words)
        if to is State.ON:
            self._observe(row)

    def _observe(self, row: Row) -> None:
        """After "on": does it deliver power?"""
        port = power.port_in(row)
        words = "it is on"
        while True:
            is_read, delivers = False, False
            try:
                reading = self._outlet.read(port)
                is_read, delivers, words = True, reading.is_on and reading.delivers is not False, reading.words
            except PowerError as error:
                words = str(error)
            with self._database.read() as tx:
                now, found = tx.now, power.cycle_of(tx, row["id"])
            if found is None or found["state"] != State.ON:
                return
            is_over = now >= found["on_at"] + self._pace.delivers_within
            if is_read and delivers:
                self._end(row, Step.SEE_POWER, words)
                return
            if is_over:
                self._end(row, Step.GIVE_UP, f"it is on again, but delivers no power: {words}")
                return
            if self._stopping.wait(self._pace.asks_every.total_seconds()):
                return

    def _end(self, row: Row, step: Step, words: str) -> None:
        with self._database.write() as tx:
            to = power.move(tx, row["id"], step, words)
        self._say(row, str(to), words)

    def _restore(self, row: Row) -> None:
        restore(self._database, self._outlet, row, self._pace)

    def _say(self, row: Row, state: str, words: str | None = None) -> None:
        log.info("power cycle %d, %s: %s%s", row["id"], power.port_in(row), state, f" ({words})" if words else "")


def _fault_now(tx: Transaction, row: Row, port: Port) -> str | None:
    """The client may be back meanwhile, or somebody has moved its cable."""
    if power.port_of(tx, row["client_uuid"]) not in (port, None):
        return _MOVED
    refusal = power.refusal(tx, row["client_uuid"], row["is_online_anyway"], without=row["id"])
    return refusal[1] if refusal is not None else None


# --- What is owed


def restore(database: Database, outlet: Outlet, row: Row, pace: Pace) -> str | None:
    """Switch on the port of a cycle that may be off; returns why it is not on for sure. Raises StoreError.

    Whoever asks: the port is written in the row. If the process that wrote it may still send an "off", the port is
    switched on all the same, and looked at again later.
    """
    port = power.port_in(row)
    was_off = False
    with contextlib.suppress(PowerError):  # it may take "on" even if it says nothing
        was_off = not outlet.read(port).is_on
    try:
        reading = switch_on(outlet, port)
    except PowerError as error:
        with database.write() as tx:
            power.fail(tx, row["id"], str(error))
        log.warning("power cycle %d: %s is owed: %s", row["id"], port, error)
        return str(error)
    with database.write() as tx:
        if was_off:
            power.note_off(tx, row["id"])
        now = power.cycle_of(tx, row["id"])
        if now is None or now["state"] not in MAY_BE_OFF:
            return None
        if not cycle.may_close(State(now["state"]), now["owed_at"], tx.now, pace):
            return f"{port} is on; whether it stays on is known in {pace.closed_after.total_seconds():g} s"
        if now["off_at"] is not None:
            power.move(tx, row["id"], Step.SEE_OFF)
        power.move(tx, row["id"], Step.SEE_ON, _NEVER_OFF if now["off_at"] is None else reading.words)
    log.info("power cycle %d: %s is on again", row["id"], port)
    return None


def restore_all(database: Database, outlet: Outlet, pace: Pace) -> list[tuple[Row, str | None]]:
    """All that is owed, each port at the same time; with each, why it is not on for sure. Raises StoreError."""
    with database.read() as tx:
        rows = power.owed(tx)
    found: dict[int, str | None] = {}

    def one(row: Row) -> None:
        try:
            found[row["id"]] = restore(database, outlet, row, pace)
        except StoreError as error:
            found[row["id"]] = str(error)

    threads = [threading.Thread(target=one, args=(row,), daemon=True) for row in rows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [(row, found[row["id"]]) for row in rows]
