"""The right to speak with the broker: one holder at a time, and each of its writes names its epoch.

A holder that slept, or whose clock is wrong, finds its epoch gone when it wakes: its write is refused, whatever it
believes. Times are the database's.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import insert, select, update

from infoscreen_reboot.controller.store.database import Transaction
from infoscreen_reboot.controller.store.tables import lease

TTL = timedelta(seconds=10)
_NAME = "broker"


class LeaseLost(Exception):
    """Another instance holds the lease, or may: what was to be written is not written."""


def take(tx: Transaction, holder: str) -> int | None:
    """The epoch, if nobody holds the lease or its time is over; None while another one holds it."""
    found = tx.db.execute(select(lease).where(lease.c.name == _NAME)).mappings().one_or_none()
    if found is None:
        values = {"name": _NAME, "holder": holder, "epoch": 1, "ends_at": tx.now + TTL}
        tx.db.execute(insert(lease).values(**values))
        return 1
    if found["holder"] is not None and found["ends_at"] > tx.now:
        return None
    epoch = int(found["epoch"]) + 1
    changed = {"holder": holder, "epoch": epoch, "ends_at": tx.now + TTL, "listening_since": None}
    tx.db.execute(update(lease).where(lease.c.name == _NAME).values(**changed))
    return epoch


def hold(tx: Transaction, epoch: int) -> None:
    """Prolong it, in the transaction of each write. Raises LeaseLost, and nothing of that transaction is committed."""
    mine = (lease.c.name == _NAME) & (lease.c.epoch == epoch) & (lease.c.ends_at > tx.now)
    if tx.db.execute(update(lease).where(mine).values(ends_at=tx.now + TTL)).rowcount != 1:
        raise LeaseLost("another instance has taken over")


def give_up(tx: Transaction, epoch: int) -> None:
    """At an orderly stop: the next one need not wait."""
    mine = (lease.c.name == _NAME) & (lease.c.epoch == epoch)
    tx.db.execute(update(lease).where(mine).values(holder=None, ends_at=tx.now, listening_since=None))
