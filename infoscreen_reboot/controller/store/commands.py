"""Commands and their events: made, moved on by facts, read. What a fact moved and its event are one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, get_args

from sqlalchemy import (
    ColumnElement,
    FromClause,
    RowMapping,
    and_,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    tuple_,
    update,
)

from infoscreen_reboot.contract import wire
from infoscreen_reboot.contract.ack import AckStatus
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.controller import lifecycle
from infoscreen_reboot.controller.lifecycle import (
    VERDICT_RANK,
    Acked,
    Blocked,
    Fact,
    Limits,
    Record,
    Sent,
    State,
    Step,
)
from infoscreen_reboot.controller.safety import Answer
from infoscreen_reboot.controller.store.bulk import among, insert_many, update_many
from infoscreen_reboot.controller.store.database import Transaction
from infoscreen_reboot.controller.store.tables import client, command, event, outbox, to_number

_FIELDS = tuple(field.name for field in fields(Record))
_MADE = ("id", "client_uuid", "batch_id", "limits")
# What a fact says besides its time, which is that of the event.
_TOLD = {kind: tuple(field.name for field in fields(kind) if field.name != "at") for kind in get_args(Fact)}


@dataclass(frozen=True, slots=True)
class Letter:
    """The exact bytes of a command on their topic, with the user properties that sign them."""

    command_id: str
    client_uuid: str
    topic: str
    payload: bytes
    properties: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Change:
    """A command that a fact has moved on, or of which it has told something new.

    `letter` are its bytes, if this has made it time out: they leave the outbox, and a recovery may ask with them.
    """

    command_id: str
    client_uuid: str
    before: Record
    after: Record
    letter: Letter | None = None

    @property
    def has_timed_out(self) -> bool:
        return self.after.state is State.TIMED_OUT and self.before.state is not State.TIMED_OUT


def record_of(row: RowMapping | Mapping[str, Any]) -> Record:
    """What `lifecycle` knows of this row."""
    known = {name: row[name] for name in _FIELDS}
    known["action"] = Action(known["action"])
    known["state"] = State(known["state"])
    known["overdue"] = Step(known["overdue"]) if known["overdue"] is not None else None
    known["late"] = AckStatus(known["late"]) if known["late"] is not None else None
    return Record(**known)


def limits_of(stored: Mapping[str, float] | None, fleet: Limits) -> Limits:
    """The fleet's limits, and those that a label has set for this command in their place."""
    if not stored:
        return fleet
    return Limits(**(asdict(fleet) | {name: timedelta(seconds=seconds) for name, seconds in stored.items()}))


def learn(
    tx: Transaction, facts: Sequence[tuple[str, Fact]], fleet: Limits, rows: Mapping[str, RowMapping] | None = None
) -> list[Change]:
    """Applies facts to their commands, in this order, with one statement for all; returns what has changed.

    Facts of commands that do not exist are left out. `rows` is what `by_id` has found in this transaction.
    """
    if not facts:
        return []
    if rows is None:
        rows = by_id(tx, {command_id for command_id, _ in facts})
    stored = {command_id: record_of(row) for command_id, row in rows.items()}
    records = dict(stored)
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
        write(tx, [(stored[command_id], records[command_id], rows[command_id]) for command_id in moved], fleet)
        insert_many(tx, event, events)
    ended = [command_id for command_id in moved if records[command_id].state.is_verdict]
    if not ended:
        return changes
    late = [change.command_id for change in changes if change.has_timed_out]
    letters = _letters(tx, among(tx, outbox.c.command_id, late)) if late else {}
    tx.db.execute(delete(outbox).where(among(tx, outbox.c.command_id, ended)))
    return [
        replace(change, letter=letters.get(change.command_id)) if change.has_timed_out else change for change in changes
    ]


def _letters(tx: Transaction, which: ColumnElement[bool]) -> dict[str, Letter]:
    return {row.command_id: _letter(row) for row in tx.db.execute(select(outbox).where(which))}


def _letter(row: Any) -> Letter:
    return Letter(row.command_id, row.client_uuid, row.topic, row.payload, tuple(map(tuple, row.properties)))


def write(tx: Transaction, moved: Sequence[tuple[Record, Record, RowMapping]], fleet: Limits) -> None:
    """The guarded update of many commands, each from the record that is stored to the one after all facts: a rank never
    falls, and a verdict never changes.
    """
    # Most batches change a few columns of twenty, and each column of a row costs.
    names = [name for name in _FIELDS if any(getattr(old, name) is not getattr(new, name) for old, new, _ in moved)]
    values = []
    for _, new, row in moved:
        due = lifecycle.deadline(new, limits_of(row["limits"], fleet))
        due_at = to_number(due[1]) if due is not None else None
        known = {name: _plain(getattr(new, name)) for name in names}
        values.append({**known, "id": row["id"], "state": str(new.state), "rank": new.state.rank, "due_at": due_at})
    update_many(tx, command, values, "command.rank < v.rank OR command.state = v.state")


def by_id(tx: Transaction, ids: Iterable[str]) -> dict[str, RowMapping]:
    """What `learn` has to know of these commands."""
    ids = list(ids)
    if not ids:
        return {}
    wanted = [command.c[name] for name in dict.fromkeys((*_MADE, *_FIELDS))]
    rows = tx.db.execute(select(*wanted).where(among(tx, command.c.id, ids))).mappings().all()
    return {row["id"]: row for row in rows}


def _event_of(tx: Transaction, row: RowMapping, before: Record, after: Record, fact: Fact) -> dict[str, Any]:
    content: dict[str, Any] = {"fact": type(fact).__name__.lower()}
    content |= {name: shown(value) for name in _TOLD[type(fact)] if (value := getattr(fact, name)) is not None}
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


def shown(value: Any) -> Any:
    """As people read it in an event; times as on the wire."""
    match value:
        case datetime():
            return wire.format_time(value)
        case Enum():
            return str(value.value)
        case Mapping():
            return {name: shown(part) for name, part in value.items()}
        case list() | tuple():
            return [shown(part) for part in value]
    return value


# --- Made


@dataclass(frozen=True, slots=True)
class Request:
    """Who asks for what, and how: the same for all commands of a batch."""

    action: Action
    by: str
    via: str
    reason: str | None = None
    address: str | None = None
    batch_id: str | None = None
    idempotency_key: str | None = None
    request_digest: str | None = None
    someone_is_there: bool = False
    wait_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class New:
    """One command to make: `answer` is the first hold that the rules gave, or None for yes."""

    command_id: str
    client_uuid: str
    answer: Answer | None
    limits: Mapping[str, float] | None = None
    not_before: datetime | None = None


def create(tx: Transaction, request: Request, new: Sequence[New], valid_for: timedelta) -> None:
    """Make commands, each with its event. What a rule holds is `queued` if it may wait, else `blocked_safety`."""
    commands, events = [], []
    for each in new:
        held = each.answer
        is_blocked = held is not None and (request.wait_until is None or not held.can_wait)
        expires_at = request.wait_until if held is not None and not is_blocked else tx.now + valid_for
        record = Record(request.action, expires_at or tx.now + valid_for)
        if is_blocked and held is not None:
            record = lifecycle.learn(record, Blocked(tx.now, held.rule, held.hold or ""))
        commands.append(_row(tx, request, each, record))
        content = {"by": request.by, "via": request.via, "reason": request.reason}
        events.append(_told(tx, each, request, str(State.QUEUED), content))
        if held is not None:
            kind = str(State.BLOCKED_SAFETY) if is_blocked else "held"
            events.append(_told(tx, each, request, kind, {"rule": held.rule, "why": held.hold, "inputs": held.inputs}))
    tx.db.execute(insert(command), commands)
    insert_many(tx, event, events)


def _row(tx: Transaction, request: Request, each: New, record: Record) -> dict[str, Any]:
    due = lifecycle.deadline(record, Limits())
    return {
        "id": each.command_id,
        "client_uuid": each.client_uuid,
        "batch_id": request.batch_id,
        "action": str(request.action),
        "reason": request.reason,
        "created_at": tx.now,
        "created_by": request.by,
        "via": request.via,
        "address": request.address,
        "idempotency_key": request.idempotency_key,
        "request_digest": request.request_digest,
        "someone_is_there": request.someone_is_there,
        "not_before": each.not_before,
        "wait_until": request.wait_until,
        "hold_rule": each.answer.rule if each.answer else None,
        "hold_why": each.answer.hold if each.answer else None,
        "hold_opens_at": each.answer.opens_at if each.answer else None,
        "limits": dict(each.limits) if each.limits else None,
        "state": str(record.state),
        "rank": record.state.rank,
        "expires_at": record.expires_at,
        "ended_at": record.ended_at,
        "error_code": record.error_code,
        "error_message": record.error_message,
        "due_at": due[1] if due else None,
    }


def _told(tx: Transaction, each: New, request: Request, kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "at": tx.now,
        "kind": kind,
        "client_uuid": each.client_uuid,
        "command_id": each.command_id,
        "batch_id": request.batch_id,
        "content": shown(content),
    }


def release(tx: Transaction, letters: Sequence[Letter], send_at: datetime, expires_at: datetime) -> None:
    """Give commands to the outbox, with their exact bytes: from `send_at` on `dispatch` hands them to the broker."""
    if not letters:
        return
    rows = [
        {
            "command_id": letter.command_id,
            "client_uuid": letter.client_uuid,
            "topic": letter.topic,
            "payload": letter.payload,
            "properties": [list(pair) for pair in letter.properties],
            "send_at": send_at,
        }
        for letter in letters
    ]
    tx.db.execute(insert(outbox), rows)
    changed = {
        "expires_at": expires_at,
        "due_at": expires_at,
        "hold_rule": None,
        "hold_why": None,
        "hold_opens_at": None,
    }
    ids = [letter.command_id for letter in letters]
    tx.db.execute(update(command).where(among(tx, command.c.id, ids)).values(**changed))


# --- Sent


def to_send(tx: Transaction, most: int) -> list[Letter]:
    """What is due in the outbox, the oldest first.

    What has expired before it was ever sent is left out: it has only not got its verdict yet. What may not go out
    again now is left out, too, until it may.
    """
    is_first = and_(command.c.sent_at.is_(None), command.c.expires_at > tx.now)
    is_again = and_(command.c.sent_at.is_not(None), _may_go_again(tx))
    query = select(outbox).join(command, command.c.id == outbox.c.command_id)
    query = query.where(outbox.c.send_at <= tx.now, or_(is_first, is_again)).order_by(outbox.c.send_at).limit(most)
    return [_letter(row) for row in tx.db.execute(query)]


def _may_go_again(tx: Transaction) -> ColumnElement[bool]:
    """`dispatch.may_ask`, but for the minute between two questions."""
    boot_id = select(client.c.boot_id).where(client.c.uuid == command.c.client_uuid).scalar_subquery()
    is_same_boot = or_(command.c.sent_boot_id.is_(None), command.c.sent_boot_id == boot_id)
    is_unheard = and_(command.c.accepted_at.is_(None), command.c.started_at.is_(None))
    return or_(command.c.expires_at < tx.now, and_(is_unheard, is_same_boot))


def mark_sent(tx: Transaction, letters: Sequence[Letter], fleet: Limits) -> None:
    """They go out as soon as this is committed, and not before: so a command that was cancelled never goes out."""
    ids = [letter.command_id for letter in letters]
    tx.db.execute(update(outbox).where(among(tx, outbox.c.command_id, ids)).values(send_at=None))
    boot_id = select(client.c.boot_id).where(client.c.uuid == command.c.client_uuid).scalar_subquery()
    first = and_(among(tx, command.c.id, ids), command.c.sent_at.is_(None))
    tx.db.execute(update(command).where(first).values(sent_boot_id=boot_id))
    learn(tx, [(command_id, Sent(tx.now)) for command_id in ids], fleet)


def send_again(tx: Transaction, command_ids: Sequence[str], at: datetime) -> None:
    """The same bytes: a question to whoever knows the command, and nothing else."""
    tx.db.execute(update(outbox).where(among(tx, outbox.c.command_id, command_ids)).values(send_at=at))
    asked = update(command).where(among(tx, command.c.id, command_ids)).values(asked_at=at, asks=command.c.asks + 1)
    tx.db.execute(asked)


def in_flight(tx: Transaction) -> list[str]:
    """Given to the broker by a process that may be gone, and without its PUBACK: they go out again at a start."""
    where = and_(command.c.state == State.QUEUED, command.c.sent_at.is_not(None))
    return list(tx.db.execute(select(command.c.id).where(where)).scalars())


def due(tx: Transaction, most: int, *, only_unsent: bool = False) -> list[RowMapping]:
    """Commands whose step has taken too long."""
    wanted = [command.c[name] for name in dict.fromkeys((*_MADE, *_FIELDS))]
    query = select(*wanted).where(command.c.due_at <= tx.now, command.c.rank < VERDICT_RANK)
    if only_unsent:
        query = query.where(command.c.sent_at.is_(None))
    return list(tx.db.execute(query.order_by(command.c.due_at).limit(most)).mappings())


@dataclass(frozen=True, slots=True)
class Open:
    """A command that was sent and has no verdict. `boot_id` is that of the client when the bytes first went out."""

    command_id: str
    client_uuid: str
    record: Record
    boot_id: str | None
    asked_at: datetime | None


def open_of(tx: Transaction, clients: Iterable[str]) -> list[Open]:
    return _open(tx, among(tx, command.c.client_uuid, clients))


def going_down(tx: Transaction) -> list[Open]:
    """Commands that are executed, of clients that have not gone down so far."""
    return _open(tx, command.c.state == State.EXECUTION_STARTED)


def unanswered(tx: Transaction, since: datetime, most: int) -> list[Open]:
    """Open commands of clients that are online, that were last sent before `since` and may go out again."""
    last = func.coalesce(command.c.asked_at, command.c.sent_at)
    online = select(client.c.uuid).where(client.c.is_online)
    return _open(tx, and_(last <= since, command.c.client_uuid.in_(online), _may_go_again(tx)), most)


def _open(tx: Transaction, which: ColumnElement[bool], most: int | None = None) -> list[Open]:
    names = dict.fromkeys((*_MADE, *_FIELDS, "sent_boot_id", "asked_at"))
    where = and_(which, command.c.rank < VERDICT_RANK, command.c.sent_at.is_not(None))
    rows = tx.db.execute(select(*(command.c[name] for name in names)).where(where).limit(most)).mappings()
    return [Open(row["id"], row["client_uuid"], record_of(row), row["sent_boot_id"], row["asked_at"]) for row in rows]


def hold(tx: Transaction, command_id: str, answer: Answer) -> None:
    """What a command waits for now."""
    values = {"hold_rule": answer.rule, "hold_why": answer.hold, "hold_opens_at": answer.opens_at}
    tx.db.execute(update(command).where(command.c.id == command_id).values(**values))


def hold_back(tx: Transaction, answer: Answer) -> None:
    """All that has its yes and is not sent waits again: until it expires, where nobody said that it may wait longer."""
    query = select(command).join(outbox, outbox.c.command_id == command.c.id).where(command.c.sent_at.is_(None))
    rows = list(tx.db.execute(query).mappings())
    if not rows:
        return
    ids = [row["id"] for row in rows]
    tx.db.execute(delete(outbox).where(among(tx, outbox.c.command_id, ids)))
    values = {"hold_rule": answer.rule, "hold_why": answer.hold, "hold_opens_at": answer.opens_at}
    tx.db.execute(update(command).where(among(tx, command.c.id, ids)).values(**values))
    content = shown({"rule": answer.rule, "why": answer.hold, "inputs": answer.inputs})
    told = [
        {
            "at": tx.now,
            "kind": "held",
            "client_uuid": row["client_uuid"],
            "command_id": row["id"],
            "batch_id": row["batch_id"],
            "content": content,
        }
        for row in rows
    ]
    tx.db.execute(insert(event), told)


def waiting(tx: Transaction, most: int, after: tuple[datetime, str] | None = None) -> list[RowMapping]:
    """Commands that a rule holds and that may wait: of each client the oldest; of them all the oldest first.

    `after` is the time and the id of the one before.
    """
    older = command.alias("older")
    is_behind = (
        select(older.c.id)
        .where(
            older.c.client_uuid == command.c.client_uuid,
            _waits(older),
            tuple_(older.c.created_at, older.c.id) < tuple_(command.c.created_at, command.c.id),
        )
        .exists()
    )
    # A freeze may be ended before the time that was said.
    is_open = or_(command.c.hold_opens_at.is_(None), command.c.hold_opens_at <= tx.now, command.c.hold_rule == "freeze")
    query = select(command).where(_waits(command), is_open, ~is_behind)
    if after is not None:
        query = query.where(
            tuple_(command.c.created_at, command.c.id) > tuple_(literal(to_number(after[0])), literal(after[1]))
        )
    return list(tx.db.execute(query.order_by(command.c.created_at, command.c.id).limit(most)).mappings())


def _waits(table: FromClause) -> ColumnElement[bool]:
    is_held = and_(table.c.hold_rule.is_not(None), table.c.sent_at.is_(None))
    return and_(table.c.rank < VERDICT_RANK, table.c.state == State.QUEUED, is_held)
