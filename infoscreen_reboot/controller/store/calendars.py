"""Freezes out of a calendar: the same rows as those by hand, so that every instance and every rule sees the same."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import and_, delete, insert, select, update

from infoscreen_reboot.controller.freezing import Event
from infoscreen_reboot.controller.store.database import Row, Transaction
from infoscreen_reboot.controller.store.tables import calendar, freeze

# Who has made a freeze that is an event.
MAKER = "calendar"
_FREEZES = "freezes"


def take(tx: Transaction, file: str, events: Sequence[Event]) -> None:
    """The calendar was read: its events are freezes now, and no others are. What was ended by hand stays ended."""
    known = {row.event: row for row in tx.db.execute(select(freeze).where(freeze.c.event.is_not(None)))}
    for event in events:
        changed = {"why": event.why, "begins_at": event.begins_at, "until": event.until}
        row = known.get(event.key)
        if row is None:
            new = {"event": event.key, "made_by": MAKER, "made_at": tx.now, **changed}
            tx.db.execute(insert(freeze).values(**new))
        elif row.ended_at is None and _differs(row, event, tx.now):
            tx.db.execute(update(freeze).where(freeze.c.id == row.id).values(**changed))
    _take_away(tx, [event.key for event in events])
    _write(tx, {"file": file, "read_at": tx.now, "events": len(events), "fault": None, "fault_since": None})


def _differs(row: Any, event: Event, now: datetime) -> bool:
    """Of an event that has begun, the beginning is not looked at: days that are over are not read any more."""
    has_moved = row.begins_at != event.begins_at and max(row.begins_at, event.begins_at) > now
    return bool(has_moved or row.why != event.why)


def _take_away(tx: Transaction, but: Sequence[str]) -> None:
    """What is over stays for the records, until it is old."""
    kept = set(but)
    open_ones = and_(freeze.c.event.is_not(None), freeze.c.until > tx.now, freeze.c.ended_at.is_(None))
    for row in tx.db.execute(select(freeze.c.id, freeze.c.event).where(open_ones)).all():
        if row.event not in kept:
            tx.db.execute(delete(freeze).where(freeze.c.id == row.id))


def cannot_read(tx: Transaction, file: str, fault: str) -> bool:
    """The last good calendar counts. Returns whether this fault is news."""
    before = state(tx)
    if before is not None and (before["file"], before["fault"]) == (file, fault):
        return False
    since = before["fault_since"] if before is not None and before["fault"] is not None else tx.now
    _write(tx, {"file": file, "fault": fault, "fault_since": since})
    return True


def forget(tx: Transaction) -> None:
    """No calendar is set any more."""
    _take_away(tx, [])
    tx.db.execute(delete(calendar).where(calendar.c.name == _FREEZES))


def state(tx: Transaction) -> Row | None:
    """How the last reading has ended; None if no calendar is set."""
    return tx.db.execute(select(calendar).where(calendar.c.name == _FREEZES)).mappings().one_or_none()


def _write(tx: Transaction, values: dict[str, Any]) -> None:
    if not tx.db.execute(update(calendar).where(calendar.c.name == _FREEZES).values(**values)).rowcount:
        tx.db.execute(insert(calendar).values(name=_FREEZES, **values))
