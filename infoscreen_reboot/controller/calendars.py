"""Reads the calendar of freezes each day and when its file has changed, for whoever holds the lease."""

from __future__ import annotations

import logging
import threading
from datetime import datetime, timedelta
from pathlib import Path

from infoscreen_reboot.controller import ics
from infoscreen_reboot.controller.freezing import Event, merged
from infoscreen_reboot.controller.ics import Unreadable
from infoscreen_reboot.controller.notifier import Database
from infoscreen_reboot.controller.store import calendars, lease
from infoscreen_reboot.controller.store.database import StoreError
from infoscreen_reboot.controller.store.lease import LeaseLost

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 20.0
_READ_EVERY = timedelta(days=1)
_State = tuple[int, int, int]


class Calendars:
    """A worker of the leader. Without a file it takes away what an earlier calendar has left."""

    def __init__(self, database: Database, file: Path | None, zone: str) -> None:
        self._database = database
        self._file = file
        self._zone = zone
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._seen: _State | None = None
        self._read_at: datetime | None = None

    def start(self, epoch: int) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(epoch, self._stopping), name="calendars", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, epoch: int, stopping: threading.Event) -> None:
        self._read_at = None  # another instance may have read another file meanwhile
        try:
            while not stopping.is_set():
                try:
                    self.look(epoch)
                except StoreError as error:
                    log.warning("cannot read the calendar now: %s", error)
                stopping.wait(_LOOK_EVERY_S)
        except LeaseLost as error:
            log.info("the calendar is read by another instance now: %s", error)

    def look(self, epoch: int) -> None:
        """Read it, if that is due. Raises LeaseLost or StoreError."""
        with self._database.read() as tx:
            now = tx.now
        file = self._file
        if file is None:
            if self._read_at is None:
                with self._database.write() as tx:
                    lease.hold(tx, epoch)
                    calendars.forget(tx)
                self._read_at = now
            return
        seen = _seen(file)
        if seen is not None and seen == self._seen and self._read_at is not None and now < self._read_at + _READ_EVERY:
            return
        events: list[Event] = []
        fault = None
        try:
            events = merged(ics.read(content_of(file), self._zone, now))
        except Unreadable as error:
            fault = str(error)
        with self._database.write() as tx:
            lease.hold(tx, epoch)
            if fault is None:
                calendars.take(tx, str(file), events)
                is_news = self._seen != seen
            else:
                is_news = calendars.cannot_read(tx, str(file), fault)
        self._seen, self._read_at = seen, now
        if is_news and fault is None:
            log.info("%s has %d freezes in the next 400 days", file, len(events))
        elif is_news:
            log.warning("cannot read %s, the last good one counts: %s", file, fault)


def content_of(file: Path) -> bytes:
    """Raises Unreadable."""
    try:
        with file.open("rb") as opened:
            return opened.read(ics.MOST_BYTES + 1)
    except OSError as error:
        raise Unreadable(f"{error.strerror}") from None


def _seen(file: Path) -> _State | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
