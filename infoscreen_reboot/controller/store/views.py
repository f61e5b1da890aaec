"""What the faces read: commands, batches, clients and events as they stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import RowMapping, Select, and_, func, or_, select

from infoscreen_reboot.controller.lifecycle import VERDICT_RANK
from infoscreen_reboot.controller.store.database import Transaction
from infoscreen_reboot.controller.store.tables import (
    alert,
    batch,
    batch_member,
    client,
    command,
    event,
    freeze,
    label,
    to_moment,
    to_number,
)

# How many rows a page has at most.
PAGE = 200


def command_of(tx: Transaction, command_id: str) -> RowMapping | None:
    return tx.db.execute(select(command).where(command.c.id == command_id)).mappings().one_or_none()


def commands_page(
    tx: Transaction,
    limit: int,
    cursor: str | None,
    client_uuid: str | None = None,
    batch_id: str | None = None,
    state: str | None = None,
    is_open: bool | None = None,
) -> tuple[list[RowMapping], str | None]:
    """The newest first. Raises ValueError for a cursor that is none of ours."""
    query: Select[tuple[object]] = select(command)
    if client_uuid is not None:
        query = query.where(command.c.client_uuid == client_uuid)
    if batch_id is not None:
        query = query.where(command.c.batch_id == batch_id)
    if state is not None:
        query = query.where(command.c.state == state)
    if is_open is not None:
        query = query.where(command.c.rank < VERDICT_RANK if is_open else command.c.rank == VERDICT_RANK)
    if cursor is not None:
        at, last = _position(cursor)
        query = query.where(or_(command.c.created_at < at, and_(command.c.created_at == at, command.c.id < last)))
    query = query.order_by(command.c.created_at.desc(), command.c.id.desc()).limit(limit + 1)
    rows = list(tx.db.execute(query).mappings())
    is_last = len(rows) <= limit
    rows = rows[:limit]
    return rows, None if is_last else f"{to_number(rows[-1]['created_at'])}.{rows[-1]['id']}"


def _position(cursor: str) -> tuple[datetime, str]:
    number, _, command_id = cursor.partition(".")
    if not number.isascii() or not number.isdigit() or len(number) > 18 or len(command_id) != 36:
        raise ValueError(f"{cursor[:60]!r} is no cursor of ours")
    return to_moment(int(number)), command_id


def events_after(
    tx: Transaction,
    seq: int,
    limit: int,
    command_id: str | None = None,
    client_uuid: str | None = None,
    batch_id: str | None = None,
) -> list[RowMapping]:
    query = select(event).where(event.c.seq > seq)
    for column, value in (("command_id", command_id), ("client_uuid", client_uuid), ("batch_id", batch_id)):
        if value is not None:
            query = query.where(event.c[column] == value)
    return list(tx.db.execute(query.order_by(event.c.seq).limit(limit)).mappings())


def revision(tx: Transaction) -> int:
    """The number of the last event. Writers come one after the other, so no smaller one appears later."""
    return int(tx.db.execute(select(func.coalesce(func.max(event.c.seq), 0))).scalar_one())


def batch_of(tx: Transaction, batch_id: str) -> RowMapping | None:
    return tx.db.execute(select(batch).where(batch.c.id == batch_id)).mappings().one_or_none()


def batch_states(tx: Transaction, batch_id: str) -> Counter[str]:
    """Counted from the rows, each time: a count beside them would drift."""
    query = select(command.c.state, func.count()).where(command.c.batch_id == batch_id).group_by(command.c.state)
    return Counter({row[0]: row[1] for row in tx.db.execute(query)})


def members(tx: Transaction, batch_id: str, state: str | None) -> list[RowMapping]:
    query = (
        select(batch_member.c.client_uuid, client.c.name, command.c.id, command.c.state)
        .join(command, command.c.id == batch_member.c.command_id)
        .join(client, client.c.uuid == batch_member.c.client_uuid, isouter=True)
        .where(batch_member.c.batch_id == batch_id)
    )
    if state is not None:
        query = query.where(command.c.state == state)
    return list(tx.db.execute(query.order_by(client.c.name, batch_member.c.client_uuid)).mappings())


def client_rows(tx: Transaction, uuids: Sequence[str] | None = None, standing: str | None = None) -> list[RowMapping]:
    query = select(client).order_by(client.c.uuid)
    if uuids is not None:
        query = query.where(client.c.uuid.in_(uuids))
    if standing is not None:
        query = query.where(client.c.standing == standing)
    return list(tx.db.execute(query).mappings())


def labels_of(tx: Transaction, uuids: Sequence[str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {uuid: {} for uuid in uuids}
    for row in tx.db.execute(select(label).where(label.c.client_uuid.in_(uuids))):
        found[row.client_uuid][row.key] = row.value
    return found


def open_commands(tx: Transaction, uuids: Sequence[str]) -> dict[str, str]:
    where = and_(command.c.client_uuid.in_(uuids), command.c.rank < VERDICT_RANK)
    return {row.client_uuid: row.id for row in tx.db.execute(select(command.c.client_uuid, command.c.id).where(where))}


def standing_alerts(tx: Transaction, uuids: Sequence[str]) -> dict[str, list[str]]:
    where = and_(alert.c.client_uuid.in_(uuids), alert.c.cleared_at.is_(None))
    found: dict[str, list[str]] = {}
    for row in tx.db.execute(select(alert.c.client_uuid, alert.c.unit).where(where).order_by(alert.c.id)):
        found.setdefault(row.client_uuid, []).append(row.unit)
    return found


def freezes(tx: Transaction) -> list[RowMapping]:
    standing = and_(freeze.c.ended_at.is_(None), or_(freeze.c.until.is_(None), freeze.c.until > tx.now))
    return list(tx.db.execute(select(freeze).where(standing).order_by(freeze.c.id)).mappings())
