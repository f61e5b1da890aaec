"""Recoveries: begun, moved on with their events, read; and the bytes of a command as a question to its client."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, insert, literal_column, or_, select, update

from infoscreen_reboot.contract import wire
from infoscreen_reboot.controller.recovery import Record, State, Step, Subject, Tried, deadline
from infoscreen_reboot.controller.safety import Standing
from infoscreen_reboot.controller.store.bulk import among
from infoscreen_reboot.controller.store.commands import Letter, shown
from infoscreen_reboot.controller.store.database import Row, Transaction
from infoscreen_reboot.controller.store.tables import client, command, event, label, outbox, recovery

# Whose end does not come with time.
_WATCHED = (State.POWER, State.HELD_BACK)


def begin(tx: Transaction, client_uuid: str, command_id: str, record: Record, letter: Letter | None) -> int:
    """Returns its number. Its client has no other one that is open."""
    values = {
        "client_uuid": client_uuid,
        "command_id": command_id,
        "began_at": record.began_at,
        "boots_within_s": int(record.boots_within.total_seconds()),
        "asks_from": record.asks_from,
        **_columns(record),
    }
    if letter is not None:
        properties = [list(pair) for pair in letter.properties]
        values |= {"topic": letter.topic, "payload": letter.payload, "properties": properties}
    made = int(tx.db.execute(insert(recovery).values(**values).returning(recovery.c.id)).scalar_one())
    _tell(tx, made, client_uuid, command_id, "recovery_began", record)
    return made


def write(tx: Transaction, row: Row, after: Record, ticket: str | None = None) -> None:
    """What a fact has made of it, with its event."""
    values = _columns(after)
    if ticket is not None:
        values["ticket"] = ticket
    if State(row["state"]) is State.ASKING and after.state is not State.ASKING:
        tx.db.execute(delete(outbox).where(outbox.c.command_id == row["command_id"]))
    if after.state.is_over:
        values |= {"payload": None, "properties": None}
    tx.db.execute(update(recovery).where(recovery.c.id == row["id"]).values(**values))
    _tell(tx, row["id"], row["client_uuid"], row["command_id"], f"recovery_{after.state}", after)


def _columns(record: Record) -> dict[str, Any]:
    return {
        "state": str(record.state),
        "since": record.since,
        "due_at": deadline(record),
        "ended_at": record.ended_at,
        "steps_left": [str(step) for step in record.left],
        "tried": [{"at": wire.format_time(one.at), "step": one.step, "outcome": one.outcome} for one in record.tried],
        "cycle_id": record.cycle_id,
        "words": record.words,
    }


def _tell(tx: Transaction, number: int, client_uuid: str, command_id: str, kind: str, record: Record) -> None:
    content = {"recovery": number, "words": record.words, "due_at": deadline(record)}
    values = {"at": tx.now, "kind": kind, "client_uuid": client_uuid, "command_id": command_id}
    tx.db.execute(insert(event).values(**values, content=shown(content)))


def record_of(row: Row) -> Record:
    """What `recovery` knows of this row."""
    return Record(
        began_at=row["began_at"],
        since=row["since"],
        left=tuple(Step(step) for step in row["steps_left"]),
        boots_within=timedelta(seconds=row["boots_within_s"]),
        asks_from=row["asks_from"],
        state=State(row["state"]),
        tried=tuple(_tried(each) for each in row["tried"]),
        cycle_id=row["cycle_id"],
        words=row["words"],
        ended_at=row["ended_at"],
    )


def _tried(stored: Mapping[str, Any]) -> Tried:
    return Tried(wire.parse_time(stored["at"], "at"), Step(stored["step"]), stored["outcome"])


def ask(tx: Transaction, row: Row) -> None:
    """The same bytes go out once more. Who knows the command answers; who does not, finds that it has expired."""
    if row["payload"] is None:
        return
    values = {"topic": row["topic"], "payload": row["payload"], "properties": row["properties"], "send_at": tx.now}
    tx.db.execute(delete(outbox).where(outbox.c.command_id == row["command_id"]))
    tx.db.execute(insert(outbox).values(command_id=row["command_id"], client_uuid=row["client_uuid"], **values))


def to_look_at(tx: Transaction, answered: Iterable[str], hears: bool, most: int) -> list[Row]:
    """The open ones of clients that are there again or get no commands any more, and those whose time is over.

    While the controller does not hear everything, no time is over: the client may be there.
    """
    is_there = or_(client.c.is_online, among(tx, recovery.c.client_uuid, answered))
    concerns = or_(is_there, client.c.standing != Standing.ACCEPTED, recovery.c.state.in_(_WATCHED))
    if hears:
        concerns = or_(concerns, recovery.c.due_at <= tx.now)
    columns = recovery, client.c.is_online, client.c.standing, client.c.boot_id.label("boot_now")
    query = select(*columns).join(client, client.c.uuid == recovery.c.client_uuid)
    query = query.where(recovery.c.ended_at.is_(None), concerns)
    # What is sure to move comes first: a power cycle that takes long keeps nobody out.
    query = query.order_by(func.coalesce(recovery.c.due_at, literal_column("0")), recovery.c.id).limit(most)
    return list(tx.db.execute(query).mappings())


def cycled(tx: Transaction, client_uuid: str, since: datetime) -> tuple[datetime, ...]:
    """When recoveries have switched its power off lately. For the lockout that is a reboot."""
    mine = and_(recovery.c.client_uuid == client_uuid, recovery.c.cycle_id.is_not(None), recovery.c.since > since)
    rows = tx.db.execute(select(recovery.c.tried).where(mine)).scalars()
    tried = [_tried(each) for stored in rows for each in stored]
    return tuple(one.at for one in tried if one.step is Step.POWER and one.at > since)


def commands_of(tx: Transaction, command_ids: Sequence[str]) -> dict[str, Row]:
    rows = tx.db.execute(select(command).where(among(tx, command.c.id, command_ids))).mappings()
    return {row["id"]: row for row in rows}


def subject(tx: Transaction, client_uuid: str, command_id: str) -> Subject:
    host = tx.db.execute(select(client).where(client.c.uuid == client_uuid)).mappings().one()
    ordered = tx.db.execute(select(command).where(command.c.id == command_id)).mappings().one_or_none()
    labels = tx.db.execute(select(label.c.key, label.c.value).where(label.c.client_uuid == client_uuid))
    return Subject(
        client_uuid=client_uuid,
        name=host["name"],
        note=host["note"],
        labels={row.key: row.value for row in labels},
        heard_at=host["heard_at"],
        boot_id=host["boot_id"],
        command_id=command_id,
        ordered_at=ordered["created_at"] if ordered else None,
        ordered_by=ordered["created_by"] if ordered else None,
        reason=ordered["reason"] if ordered else None,
    )


# --- Read


def one(tx: Transaction, number: int) -> Row | None:
    return tx.db.execute(select(recovery).where(recovery.c.id == number)).mappings().one_or_none()


def open_of(tx: Transaction, client_uuids: Iterable[str]) -> dict[str, Row]:
    """The open one of each of these clients."""
    where = and_(among(tx, recovery.c.client_uuid, client_uuids), recovery.c.ended_at.is_(None))
    return {row["client_uuid"]: row for row in tx.db.execute(select(recovery).where(where)).mappings()}


def page(
    tx: Transaction, limit: int, cursor: int | None, is_open: bool | None, client_uuid: str | None
) -> tuple[list[Row], int | None]:
    """The newest first; with the cursor of the next page, or None on the last one."""
    which: list[ColumnElement[bool]] = []
    if cursor is not None:
        which.append(recovery.c.id < cursor)
    if is_open is not None:
        which.append(recovery.c.ended_at.is_(None) if is_open else recovery.c.ended_at.is_not(None))
    if client_uuid is not None:
        which.append(recovery.c.client_uuid == client_uuid)
    query = select(recovery).where(*which).order_by(recovery.c.id.desc()).limit(limit + 1)
    rows = list(tx.db.execute(query).mappings())
    return rows[:limit], rows[limit - 1]["id"] if len(rows) > limit else None
