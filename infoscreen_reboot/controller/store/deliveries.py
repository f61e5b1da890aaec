"""The outbox of messages to people: what goes to which target, when it is tried again, and what became of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, RowMapping, and_, func, or_, select, update

from infoscreen_reboot.controller.notifying import Post
from infoscreen_reboot.controller.store.database import Transaction
from infoscreen_reboot.controller.store.tables import delivery, message

# How long it is tried, and the pauses in between: each one is twice as long as the one before, up to the longest.
GIVE_UP = timedelta(hours=24)
_PAUSE, _LONGEST_PAUSE = timedelta(seconds=30), timedelta(hours=1)
_MOST = 500
_LONGEST_WORDS = 300


@dataclass(frozen=True, slots=True)
class Attempt:
    """A message that goes to a target now, for the `number`th time; `at` is when this was decided."""

    post: Post
    target: str
    number: int
    at: datetime


def is_something_due(tx: Transaction) -> bool:
    where = and_(delivery.c.next_at.is_not(None), delivery.c.next_at <= tx.now)
    return tx.db.execute(select(delivery.c.target).where(where).limit(1)).first() is not None


def claim(tx: Transaction, targets: Collection[str]) -> list[Attempt]:
    """The oldest message that is due for each of these targets. It is written down as tried before it is sent.

    Whoever is killed in between has perhaps sent it: it goes out again after the pause. Nothing is lost, and a webhook
    can tell by its number that it comes twice.
    """
    found: dict[str, RowMapping] = {}
    columns = (*message.c, delivery.c.target, delivery.c.attempts)
    query = select(*columns).join(message, message.c.id == delivery.c.message_id)
    where = and_(delivery.c.next_at.is_not(None), delivery.c.next_at <= tx.now, delivery.c.target.in_(list(targets)))
    for row in tx.db.execute(query.where(where).order_by(delivery.c.message_id).limit(_MOST)).mappings():
        found.setdefault(row["target"], row)
    attempts = []
    for target, row in found.items():
        number = row["attempts"] + 1
        next_at = tx.now + min(_PAUSE * 2 ** min(number - 1, 20), _LONGEST_PAUSE)
        changed = {"attempts": number, "next_at": next_at, "words": f"no answer yet to attempt {number}"}
        tx.db.execute(update(delivery).where(_is(row["id"], target)).values(**changed))
        post = Post(
            row["id"], row["made_at"], row["kind"], row["title"], row["body"], row["is_loud"], dict(row["content"])
        )
        attempts.append(Attempt(post, target, number, tx.now))
    return attempts


def end(tx: Transaction, attempt: Attempt, fault: str | None) -> None:
    """How an attempt has ended: without a fault it is sent. If it was given up meanwhile, and was sent, it is so."""
    same = and_(_is(attempt.post.id, attempt.target), delivery.c.attempts == attempt.number)
    if fault is None:
        changed = {"state": "sent", "next_at": None, "ended_at": tx.now, "words": None}
        tx.db.execute(update(delivery).where(same).values(**changed))
    else:
        tx.db.execute(update(delivery).where(same).values(words=fault[:_LONGEST_WORDS]))


def give_up(tx: Transaction, targets: Sequence[str]) -> int:
    """End what was tried for a day, and what is for a target that there is no more; returns how many these are."""
    waits = delivery.c.next_at.is_not(None)
    old = select(message.c.id).where(message.c.made_at < tx.now - GIVE_UP)
    ended = {"state": "failed", "next_at": None, "ended_at": tx.now}
    is_old = and_(waits, delivery.c.next_at <= tx.now, delivery.c.message_id.in_(old))
    count = tx.db.execute(update(delivery).where(is_old).values(**ended)).rowcount
    is_gone = and_(waits, ~delivery.c.target.in_(list(targets)))
    words = "there is no such target any more"
    return count + tx.db.execute(update(delivery).where(is_gone).values(**ended, words=words)).rowcount


def undelivered(tx: Transaction) -> list[RowMapping]:
    """For each target that has not taken a message: how many are tried again, how many were given up within the last
    day, and why, of one of them.
    """
    columns = (
        delivery.c.target,
        func.count().filter(delivery.c.state == "waiting").label("waiting"),
        func.count().filter(delivery.c.state == "failed").label("failed"),
        func.max(delivery.c.words).label("words"),
    )
    query = select(*columns).where(_is_undelivered(tx)).group_by(delivery.c.target).order_by(delivery.c.target)
    return list(tx.db.execute(query).mappings())


def _is_undelivered(tx: Transaction) -> ColumnElement[bool]:
    waits = and_(delivery.c.next_at.is_not(None), delivery.c.attempts > 0)
    return or_(waits, and_(delivery.c.state == "failed", delivery.c.ended_at > tx.now - GIVE_UP))


def of_messages(tx: Transaction, ids: Collection[int]) -> dict[int, list[RowMapping]]:
    found: dict[int, list[RowMapping]] = {}
    query = select(delivery).where(delivery.c.message_id.in_(list(ids))).order_by(delivery.c.target)
    for row in tx.db.execute(query).mappings():
        found.setdefault(row["message_id"], []).append(row)
    return found


def _is(message_id: int, target: str) -> ColumnElement[bool]:
    return and_(delivery.c.message_id == message_id, delivery.c.target == target)
