"""What the faces read: commands, batches, clients and events as they stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, Select, Table, and_, case, func, or_, select

from infoscreen_reboot.controller.lifecycle import VERDICT_RANK, State
from infoscreen_reboot.controller.store.bulk import among
from infoscreen_reboot.controller.store.database import Transaction
from infoscreen_reboot.controller.store.facts import freezes_now
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
    return _cut(list(tx.db.execute(query).mappings()), limit)


def _cut(rows: list[RowMapping], limit: int) -> tuple[list[RowMapping], str | None]:
    """One row more than the page holds was asked for: if it came, there is a next page."""
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


def clients_between(tx: Transaction, after: int, upto: int, most: int) -> frozenset[str] | None:
    """To whom something happened after the one event and up to the other; None: to more than `most` of them."""
    where = and_(event.c.seq > after, event.c.seq <= upto, event.c.client_uuid.is_not(None))
    found = tx.db.execute(select(event.c.client_uuid).where(where).distinct().limit(most + 1)).scalars().all()
    return frozenset(found) if len(found) <= most else None


def revision(tx: Transaction) -> int:
    """The number of the last event. Writers come one after the other, so no smaller one appears later."""
    return int(tx.db.execute(select(func.coalesce(func.max(event.c.seq), 0))).scalar_one())


def first_event(tx: Transaction) -> int:
    """The number of the oldest event that is kept; 0 if there is none."""
    return int(tx.db.execute(select(func.coalesce(func.min(event.c.seq), 0))).scalar_one())


def hold_inputs(tx: Transaction, command_id: str) -> dict[str, Any]:
    """What the rule saw that has refused this command."""
    where = and_(event.c.command_id == command_id, event.c.kind == State.BLOCKED_SAFETY)
    content = tx.db.execute(select(event.c.content).where(where).order_by(event.c.seq).limit(1)).scalar_one_or_none()
    return dict((content or {}).get("inputs", {}))


def batch_of(tx: Transaction, batch_id: str) -> RowMapping | None:
    return tx.db.execute(select(batch).where(batch.c.id == batch_id)).mappings().one_or_none()


def batches_page(tx: Transaction, limit: int, cursor: str | None) -> tuple[list[RowMapping], str | None]:
    """The newest first. Raises ValueError for a cursor that is none of ours."""
    return newest_first(tx, batch, limit, cursor)


def newest_first(
    tx: Transaction, table: Table, limit: int, cursor: str | None, where: ColumnElement[bool] | None = None
) -> tuple[list[RowMapping], str | None]:
    """A page of a table that has `created_at` and `id`. Raises ValueError for a cursor that is none of ours."""
    query = select(table) if where is None else select(table).where(where)
    if cursor is not None:
        at, last = _position(cursor)
        query = query.where(or_(table.c.created_at < at, and_(table.c.created_at == at, table.c.id < last)))
    query = query.order_by(table.c.created_at.desc(), table.c.id.desc()).limit(limit + 1)
    return _cut(list(tx.db.execute(query).mappings()), limit)


def batch_states(tx: Transaction, batch_ids: Sequence[str]) -> dict[str, Counter[str]]:
    """Counted from the rows, each time: a count beside them would drift."""
    found: dict[str, Counter[str]] = {batch_id: Counter() for batch_id in batch_ids}
    columns = command.c.batch_id, command.c.state
    query = select(*columns, func.count()).where(among(tx, command.c.batch_id, batch_ids)).group_by(*columns)
    for batch_id, state, count in tx.db.execute(query):
        found[batch_id][state] = count
    return found


# Why a command does not go, or has not done what it was made for: in one word, and in a sentence.
_is_held = and_(
    command.c.sent_at.is_(None), command.c.hold_rule.is_not(None), command.c.state.in_((State.QUEUED, State.EXPIRED))
)
_kind = case((_is_held, command.c.hold_rule), else_=func.coalesce(command.c.error_code, command.c.overdue))
_why = case((_is_held, command.c.hold_why), else_=command.c.error_message)


def members(tx: Transaction, batch_id: str, state: str | None, kind: str | None = None) -> list[RowMapping]:
    """With `kind` and `why`: the rule, code or step that is in the way, and its sentence."""
    columns = batch_member.c.client_uuid, client.c.name, command.c.id, command.c.state
    query = (
        select(*columns, _kind.label("kind"), _why.label("why"))
        .join(command, command.c.id == batch_member.c.command_id)
        .join(client, client.c.uuid == batch_member.c.client_uuid, isouter=True)
        .where(batch_member.c.batch_id == batch_id)
    )
    if state is not None:
        query = query.where(command.c.state == state)
    if kind is not None:
        query = query.where(_kind == kind)
    return list(tx.db.execute(query.order_by(client.c.name, batch_member.c.client_uuid)).mappings())


def reasons(tx: Transaction, batch_id: str) -> list[RowMapping]:
    """How many of its commands are in which state for which reason, the most first; with the words of one of them."""
    count = func.count().label("count")
    query = select(command.c.state, _kind.label("kind"), func.min(_why).label("why"), count)
    query = query.where(command.c.batch_id == batch_id, _kind.is_not(None))
    return list(tx.db.execute(query.group_by("state", "kind").order_by(count.desc(), "state", "kind")).mappings())


def client_rows(
    tx: Transaction, uuids: Sequence[str] | None = None, standing: str | None = None, name: str | None = None
) -> list[RowMapping]:
    query = select(client).order_by(client.c.uuid)
    if name is not None:
        query = query.where(client.c.name == name)
    if uuids is not None:
        query = query.where(among(tx, client.c.uuid, uuids))
    if standing is not None:
        query = query.where(client.c.standing == standing)
    return list(tx.db.execute(query).mappings())


def labels_of(tx: Transaction, uuids: Sequence[str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {uuid: {} for uuid in uuids}
    for row in tx.db.execute(select(label).where(among(tx, label.c.client_uuid, uuids))):
        found[row.client_uuid][row.key] = row.value
    return found


def open_commands(tx: Transaction, uuids: Sequence[str]) -> dict[str, str]:
    where = and_(among(tx, command.c.client_uuid, uuids), command.c.rank < VERDICT_RANK)
    return {row.client_uuid: row.id for row in tx.db.execute(select(command.c.client_uuid, command.c.id).where(where))}


def standing_alerts(tx: Transaction, uuids: Sequence[str]) -> dict[str, list[str]]:
    where = and_(among(tx, alert.c.client_uuid, uuids), alert.c.cleared_at.is_(None))
    found: dict[str, list[str]] = {}
    for row in tx.db.execute(select(alert.c.client_uuid, alert.c.unit).where(where).order_by(alert.c.id)):
        found.setdefault(row.client_uuid, []).append(row.unit)
    return found


def freezes(tx: Transaction, coming: bool = False) -> list[RowMapping]:
    """Those that hold now, or those of the calendar that have not begun, in the order of their beginnings."""
    if coming:
        where = and_(freeze.c.begins_at > tx.now, freeze.c.ended_at.is_(None))
        return list(tx.db.execute(select(freeze).where(where).order_by(freeze.c.begins_at).limit(PAGE)).mappings())
    return list(tx.db.execute(select(freeze).where(freezes_now(tx)).order_by(freeze.c.id)).mappings())


def waiting(tx: Transaction) -> list[RowMapping]:
    """How many commands each rule holds now, the reason of one of them, and when the first of them may go."""
    count = func.count().label("count")
    why, opens_at = func.min(command.c.hold_why).label("why"), func.min(command.c.hold_opens_at).label("opens_at")
    is_held = and_(command.c.rank < VERDICT_RANK, command.c.sent_at.is_(None), command.c.hold_rule.is_not(None))
    query = select(command.c.hold_rule.label("rule"), why, opens_at, count).where(is_held)
    return list(tx.db.execute(query.group_by(command.c.hold_rule).order_by(count.desc())).mappings())
