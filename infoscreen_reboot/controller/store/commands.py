"""Commands and their events: made, moved on by facts, read. What a fact moved and its event are one transaction."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from sqlalchemy import RowMapping, Table, delete, insert, select, text, update

from infoscreen_reboot.contract.ack import AckStatus
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.controller import lifecycle
from infoscreen_reboot.controller.lifecycle import Acked, Fact, Limits, Record, State, Step
from infoscreen_reboot.controller.store import tables
from infoscreen_reboot.controller.store.database import Transaction
from infoscreen_reboot.controller.store.tables import command, event, outbox, to_number

_FIELDS = tuple(field.name for field in fields(Record))
_MADE = ("id", "client_uuid", "batch_id", "limits")


@dataclass(frozen=True, slots=True)
class Change:
    """A command that a fact has moved on, or of which it has told something new."""

    command_id: str
    client_uuid: str
    before: Record
    after: Record


@dataclass(frozen=True, slots=True)
class Letter:
    """The exact bytes of a command on their topic, with the user properties that sign them."""

    command_id: str
    client_uuid: str
    topic: str
    payload: bytes
    properties: tuple[tuple[str, str], ...]


def record_of(row: RowMapping | Mapping[str, Any]) -> Record:
    """What `lifecycle` knows of this row."""
    known = {name: row[name] for name in _FIELDS}
    known["action"] = Action(known["action"])
    known["state"] = State(known["state"])
    known["overdue"] = Step(known["overdue"]) if known["overdue"] is not None else None
    known["late"] = AckStatus(known["late"]) if known["late"] is not None else None
    return Record(**known)


def columns_of(record: Record) -> dict[str, Any]:
    """The same as it stands in the table, with the rank that the guard of an update compares."""
    return {name: _plain(getattr(record, name)) for name in _FIELDS} | {"rank": record.state.rank}


def limits_of(stored: Mapping[str, float] | None, fleet: Limits) -> Limits:
    """The fleet's limits, and those that a label has set for this command in their place."""
    if not stored:
        return fleet
    return Limits(**(asdict(fleet) | {name: timedelta(seconds=seconds) for name, seconds in stored.items()}))


def learn(tx: Transaction, facts: Sequence[tuple[str, Fact]], fleet: Limits) -> list[Change]:
    """Applies facts to their commands, in this order, with one statement for all; returns what has changed.

    Facts of commands that do not exist are left out.
    """
    ids = {command_id for command_id, _ in facts}
    rows = _by_id(tx, ids)
    records = {command_id: record_of(row) for command_id, row in rows.items()}
    changes: list[Change] = []
    events: list[dict[str, Any]] = []
    for command_id, fact in facts:
        if command_id not in records:
            continue
        before = records[command_id]
        after = records[command_id] = lifecycle.learn(before, fact)
        if after != before:
            row = rows[command_id]
            changes.append(Change(command_id, row["client_uuid"], before, after))
            events.append(_event_of(tx, row, before, after, fact))
    moved = {change.command_id for change in changes}
    if moved:
        write(tx, {command_id: records[command_id] for command_id in moved}, rows, fleet)
        tx.db.execute(insert(event), events)
    ended = [command_id for command_id in moved if records[command_id].state.is_verdict]
    if ended:
        tx.db.execute(delete(outbox).where(outbox.c.command_id.in_(ended)))
    return changes


def write(tx: Transaction, records: Mapping[str, Record], rows: Mapping[str, RowMapping], fleet: Limits) -> None:
    """The guarded update of the present state of many commands: a rank never falls, and a verdict never changes."""
    values = []
    for command_id, record in records.items():
        due = lifecycle.deadline(record, limits_of(rows[command_id]["limits"], fleet))
        due_at = to_number(due[1]) if due is not None else None
        values.append({"id": command_id, **columns_of(record), "due_at": due_at})
    update_many(tx, command, values, "command.rank < v.rank OR command.state = v.state")


def update_many(tx: Transaction, table: Table, values: Sequence[Mapping[str, Any]], guard: str) -> int:
    """Sets all columns named in `values` of the rows with these `id`s, in one statement; returns how many there were.

    A statement for each row would cost five to ten times as much, on both databases.
    """
    names = list(values[0])
    types = {name: _type_of(tx, table, name) for name in names}
    if tx.is_sqlite:
        picked = ", ".join(f"json_extract(value, '$.{name}') AS {name}" for name in names)
        source = f"(SELECT {picked} FROM json_each(:rows)) AS v"
    else:
        source = f"jsonb_to_recordset(CAST(:rows AS jsonb)) AS v({', '.join(f'{n} {t}' for n, t in types.items())})"
    changed = ", ".join(f"{name} = v.{name}" for name in names if name != "id")
    statement = f"UPDATE {table.name} SET {changed} FROM {source} WHERE {table.name}.id = v.id AND ({guard})"
    return tx.db.execute(text(statement), {"rows": json.dumps([dict(row) for row in values])}).rowcount


def _type_of(tx: Transaction, table: Table, name: str) -> str:
    return table.c[name].type.compile(tx.db.dialect)


def _by_id(tx: Transaction, ids: Iterable[str]) -> dict[str, RowMapping]:
    wanted = [command.c[name] for name in dict.fromkeys((*_MADE, *_FIELDS))]
    rows = tx.db.execute(select(*wanted).where(command.c.id.in_(list(ids)))).mappings()
    return {row["id"]: row for row in rows}


def _event_of(tx: Transaction, row: RowMapping, before: Record, after: Record, fact: Fact) -> dict[str, Any]:
    content: dict[str, Any] = {"fact": type(fact).__name__.lower()}
    content |= {name: _shown(value) for name, value in asdict(fact).items() if name != "at" and value is not None}
    if after.state is not before.state:
        kind = str(after.state)
    elif after.late is not before.late:
        kind = "late_truth"
    elif isinstance(fact, Acked):
        kind = f"{fact.status}_heard"
    else:
        kind = type(fact).__name__.lower()
    return {
        "at": tx.now,
        "kind": kind,
        "client_uuid": row["client_uuid"],
        "command_id": row["id"],
        "batch_id": row["batch_id"],
        "content": content,
    }


def _plain(value: Any) -> Any:
    """As JSON carries it into the database."""
    match value:
        case Enum():
            return str(value.value)
        case datetime():
            return to_number(value)
    return value


def _shown(value: Any) -> Any:
    """As people read it in an event."""
    return value.isoformat() if isinstance(value, datetime) else str(value) if isinstance(value, Enum) else value


__all__ = [
    "Change",
    "Letter",
    "columns_of",
    "learn",
    "limits_of",
    "record_of",
    "tables",
    "update",
    "update_many",
    "write",
]
