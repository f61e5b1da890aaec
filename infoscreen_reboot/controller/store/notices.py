"""What people are to be told: written in the transaction of what happened, sent by whoever holds the lease."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping, and_, func, insert, select, update

from infoscreen_reboot.controller import policies
from infoscreen_reboot.controller.notifying import Kind as Kind  # whoever tells something takes it from here
from infoscreen_reboot.controller.notifying import Message, Notice
from infoscreen_reboot.controller.store.bulk import among, insert_many
from infoscreen_reboot.controller.store.commands import shown
from infoscreen_reboot.controller.store.database import Transaction
from infoscreen_reboot.controller.store.tables import delivery, label, message, notice, site
from infoscreen_reboot.controller.windows import Window

# What is decided about at once. The rest comes in the next round.
_MOST = 5000
_ABOUT_CLIENTS = (str(Kind.NEEDS_PERSON), str(Kind.BACK))


def tell(
    tx: Transaction,
    kind: Kind,
    subject: str,
    words: str,
    content: Mapping[str, Any] | None = None,
    site: str | None = None,
) -> None:
    """`subject` is what it is about, as `rollout/<id>`; `words` is one sentence, which can stand alone in a message.

    `site` is the place whose opening hours count. A list `missing` in `content` is put into the text, too: the names of
    those that did not come back.
    """
    values = {"at": tx.now, "kind": str(kind), "subject": subject, "words": words, "site": site}
    tx.db.execute(insert(notice).values(**values, content=shown(content or {})))


def tell_of_clients(tx: Transaction, kind: Kind, words: Mapping[str, str]) -> None:
    """One notice for each client, by its UUID, with the site of that client."""
    if not words:
        return
    sites = sites_of(tx, list(words))
    rows: list[dict[str, Any]] = [
        {
            "at": tx.now,
            "kind": str(kind),
            "subject": f"client/{uuid}",
            "words": sentence,
            "site": sites.get(uuid),
            "content": {},
        }
        for uuid, sentence in words.items()
    ]
    insert_many(tx, notice, rows)


def withdraw(tx: Transaction, kinds: Collection[Kind], uuids: Sequence[str]) -> None:
    """Somebody has looked after these clients before they were told of: nobody needs to hear it any more."""
    subjects = [f"client/{uuid}" for uuid in uuids]
    where = and_(notice.c.settled_at.is_(None), among(tx, notice.c.subject, subjects), notice.c.kind.in_(list(kinds)))
    tx.db.execute(update(notice).where(where).values(settled_at=tx.now))


def sites_of(tx: Transaction, uuids: Sequence[str]) -> dict[str, str]:
    """The label `site` of those clients that have one."""
    where = and_(among(tx, label.c.client_uuid, uuids), label.c.key == "site")
    return {
        row.client_uuid: row.value for row in tx.db.execute(select(label.c.client_uuid, label.c.value).where(where))
    }


# --- What becomes of it


def pending(tx: Transaction) -> list[Notice]:
    """Those about which nothing is decided, in the order in which they were written."""
    rows = tx.db.execute(select(notice).where(notice.c.settled_at.is_(None)).order_by(notice.c.id).limit(_MOST))
    return [Notice(row.id, row.at, Kind(row.kind), row.subject, row.words, row.content, row.site) for row in rows]


def is_something_pending(tx: Transaction) -> bool:
    return tx.db.execute(select(notice.c.id).where(notice.c.settled_at.is_(None)).limit(1)).first() is not None


def opening_hours(tx: Transaction, names: Sequence[str], fleet_zone: str) -> dict[str, tuple[Window, ...]]:
    """Of those sites that have some, each in its zone. What cannot be read is always open: better loud than mute."""
    where = and_(among(tx, site.c.name, names), site.c.opening_hours.is_not(None))
    found = {}
    for row in tx.db.execute(select(site.c.name, site.c.zone, site.c.opening_hours).where(where)):
        try:
            found[row.name] = policies.opening_hours(row.opening_hours, row.zone or fleet_zone)
        except ValueError:
            continue
    return found


def told(tx: Transaction, subjects: Sequence[str]) -> frozenset[str]:
    """Those of which the last message said that they need a person."""
    where = and_(
        among(tx, notice.c.subject, subjects), notice.c.kind.in_(_ABOUT_CLIENTS), notice.c.message_id.is_not(None)
    )
    last: dict[str, str] = {}
    for row in tx.db.execute(select(notice.c.subject, notice.c.kind).where(where).order_by(notice.c.id)):
        last[row.subject] = row.kind
    return frozenset(subject for subject, kind in last.items() if kind == Kind.NEEDS_PERSON)


def last_messages(tx: Transaction) -> dict[Kind, datetime]:
    """When the last message of each kind was made."""
    rows = tx.db.execute(select(message.c.kind, func.max(message.c.made_at).label("at")).group_by(message.c.kind))
    return {Kind(row.kind): row.at for row in rows}


def settle(tx: Transaction, ids: Sequence[int], message_id: int | None = None) -> None:
    """It is decided: this message tells these notices, or none does."""
    for start in range(0, len(ids), 500):
        these = notice.c.id.in_(ids[start : start + 500])
        tx.db.execute(update(notice).where(these).values(settled_at=tx.now, message_id=message_id))


def make(tx: Transaction, made: Message, targets: Sequence[str]) -> int:
    """The message, and a delivery to each of these targets; returns its number."""
    values = {
        "made_at": tx.now,
        "kind": str(made.kind),
        "title": made.title,
        "body": made.body,
        "is_loud": made.is_loud,
        "content": shown(made.content),
    }
    message_id = int(tx.db.execute(insert(message).values(**values).returning(message.c.id)).scalar_one())
    rows = [{"message_id": message_id, "target": name, "state": "waiting", "next_at": tx.now} for name in targets]
    if rows:
        tx.db.execute(insert(delivery), rows)
    settle(tx, made.notice_ids, message_id)
    return message_id


def page(tx: Transaction, limit: int, before: int | None) -> list[RowMapping]:
    """The newest first; one more than `limit` if there is a next page."""
    query = select(notice).order_by(notice.c.id.desc()).limit(limit + 1)
    if before is not None:
        query = query.where(notice.c.id < before)
    return list(tx.db.execute(query).mappings())


def messages(tx: Transaction, ids: Collection[int]) -> dict[int, RowMapping]:
    rows = tx.db.execute(select(message).where(message.c.id.in_(list(ids)))).mappings()
    return {row["id"]: row for row in rows}
