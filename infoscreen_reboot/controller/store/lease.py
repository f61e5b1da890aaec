"""The right to speak with the broker: one holder at a time, and each of its writes names its epoch.

A holder that slept, or whose clock is wrong, finds its epoch gone when it wakes, if another one has taken over: its
write is refused, whatever it believes. If nobody has, it goes on. Times are the database's.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import and_, func, insert, literal, select, update

from infoscreen_reboot.controller.store.database import Row, Transaction
from infoscreen_reboot.controller.store.tables import Moment, lease

TTL = timedelta(seconds=10)
_NAME = "broker"


class LeaseLost(Exception):
    """Another instance holds the lease, or may: what was to be written is not written."""


def take(tx: Transaction, holder: str) -> int | None:
    """The epoch, if nobody else holds the lease or his time is over; None while another one holds it."""
    found = tx.db.execute(select(lease).where(lease.c.name == _NAME)).mappings().one_or_none()
    if found is None:
        values = {"name": _NAME, "holder": holder, "epoch": 1, "ends_at": tx.now + TTL, "deaf_since": tx.now}
        tx.db.execute(insert(lease).values(**values))
        return 1
    if found["holder"] not in (None, holder) and found["ends_at"] > tx.now:
        return None
    epoch = int(found["epoch"]) + 1
    changed = {"holder": holder, "epoch": epoch, "ends_at": tx.now + TTL}
    tx.db.execute(update(lease).where(lease.c.name == _NAME).values(**changed, **_deaf(tx)))
    return epoch


def hold(tx: Transaction, epoch: int) -> None:
    """Prolong it, in the transaction of each write. Raises LeaseLost, and nothing of that transaction is committed.

    It is written only when half of its time is over: an engine that has nothing to do would else write twice a second.
    """
    held = and_(lease.c.name == _NAME, lease.c.epoch == epoch, lease.c.holder.is_not(None))
    ends_at = tx.db.execute(select(lease.c.ends_at).where(held)).scalar_one_or_none()
    if ends_at is None:
        raise LeaseLost("another instance has taken over")
    if ends_at < tx.now + TTL / 2:
        tx.db.execute(update(lease).where(held).values(ends_at=tx.now + TTL))


def listen(tx: Transaction, epoch: int, is_heard: bool) -> None:
    """Whether its holder hears the broker, from now on."""
    changed = {"listening_since": tx.now, "deaf_since": None} if is_heard else _deaf(tx)
    tx.db.execute(update(lease).where(lease.c.name == _NAME, lease.c.epoch == epoch).values(**changed))


def seize(tx: Transaction) -> None:
    """Take it from whoever holds it, for nobody: so a holder of an older version writes nothing in a newer schema."""
    changed = {"holder": None, "epoch": lease.c.epoch + 1, "ends_at": tx.now}
    tx.db.execute(update(lease).where(lease.c.name == _NAME).values(**changed, **_deaf(tx)))


def standing(tx: Transaction) -> Row | None:
    """Who holds it; its time may be over."""
    return tx.db.execute(select(lease).where(lease.c.name == _NAME)).mappings().one_or_none()


def give_up(tx: Transaction, epoch: int) -> None:
    """At an orderly stop: the next one need not wait."""
    mine = (lease.c.name == _NAME) & (lease.c.epoch == epoch)
    tx.db.execute(update(lease).where(mine).values(holder=None, ends_at=tx.now, **_deaf(tx)))


def _deaf(tx: Transaction) -> dict[str, Any]:
    """The broker is not heard, from now on or for longer."""
    return {"listening_since": None, "deaf_since": func.coalesce(lease.c.deaf_since, literal(tx.now, Moment()))}
