"""What is known of the clients: their connection, boots, health and alerts, as they tell it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import RowMapping, Table, and_, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from infoscreen_reboot.contract import wire
from infoscreen_reboot.contract.ack import Ack
from infoscreen_reboot.contract.telemetry import BootReport, FailureAlert, Health, PresenceReason, Status
from infoscreen_reboot.controller import presence
from infoscreen_reboot.controller.ingest import Cleared, Heard
from infoscreen_reboot.controller.presence import RETURNS_OF_TWO_HOSTS, Presence
from infoscreen_reboot.controller.safety import Standing
from infoscreen_reboot.controller.store import people
from infoscreen_reboot.controller.store.database import Transaction
from infoscreen_reboot.controller.store.tables import alert, boot, client, event, health

# Whoever may publish could invent clients: so many are listed, and no more until some are accepted or rejected.
MOST_UNKNOWN = 1000
# Where all are accepted that come, the list has an end, too.
MOST_CLIENTS = 100_000
# How old a boot id's return may be to count as a sign of two hosts.
_TWO_HOSTS_WITHIN = timedelta(minutes=30)
# How often it is said that a retired client still speaks.
_WARN_EVERY = timedelta(hours=1)


@dataclass(slots=True)
class Batch:
    """What came of one batch of messages."""

    born: set[str] = field(default_factory=set)
    seen: dict[str, Presence] = field(default_factory=dict)
    acks: list[tuple[str, Ack]] = field(default_factory=list)
    turned_away: int = 0


def hear(tx: Transaction, heard: Sequence[Heard], accepts_all: bool) -> Batch:
    """Write down what clients said of themselves. The acks among it are handed back, in their order."""
    batch = Batch()
    rows = _rows(tx, {each.client_uuid for each in heard})
    batch.turned_away = _welcome(tx, heard, rows, accepts_all)
    heard = [each for each in heard if each.client_uuid in rows]
    _warn_of_retired(tx, heard, rows)
    heard = [each for each in heard if not _is_left_out(each, rows[each.client_uuid]["standing"])]
    _touch(tx, {each.client_uuid for each in heard if not each.is_retained})
    _hear_statuses(tx, [(each, each.said) for each in heard if isinstance(each.said, Status)], rows, batch)
    _hear_boots(tx, [each.said for each in heard if isinstance(each.said, BootReport)])
    _hear_health(tx, [each.said for each in heard if isinstance(each.said, Health)])
    _hear_alerts(tx, [each.said for each in heard if isinstance(each.said, FailureAlert | Cleared)])
    batch.acks = [(each.client_uuid, each.said) for each in heard if isinstance(each.said, Ack)]
    return batch


def presences(tx: Transaction, uuids: Iterable[str]) -> dict[str, Presence]:
    return {uuid: presence_of(row) for uuid, row in _rows(tx, set(uuids)).items()}


def presence_of(row: RowMapping) -> Presence:
    return Presence(
        is_online=row["is_online"],
        reason=None if row["presence_reason"] is None else PresenceReason(row["presence_reason"]),
        session_id=row["session_id"],
        boot_id=row["boot_id"],
        at=row["presence_at"],
        told_at=row["presence_told_at"],
        ended=tuple(row["ended_sessions"]),
    )


def upsert(tx: Transaction, table: Table, rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> None:
    """Insert, or set the other columns of what is there."""
    if not rows:
        return
    how: Any = (sqlite if tx.is_sqlite else postgresql).insert(table)
    changed = {name: how.excluded[name] for name in rows[0] if name not in keys}
    tx.db.execute(how.on_conflict_do_update(index_elements=list(keys), set_=changed), list(rows))


def _rows(tx: Transaction, uuids: set[str]) -> dict[str, RowMapping]:
    found = tx.db.execute(select(client).where(client.c.uuid.in_(uuids))).mappings()
    return {row["uuid"]: row for row in found}


def _welcome(tx: Transaction, heard: Sequence[Heard], rows: dict[str, RowMapping], accepts_all: bool) -> int:
    """List clients that were never heard before; returns how many were not, because the list is full."""
    new = list(dict.fromkeys(each.client_uuid for each in heard if each.client_uuid not in rows))
    if not new:
        return 0
    listed_so_far = select(func.count()).select_from(client)
    if not accepts_all:
        listed_so_far = listed_so_far.where(client.c.standing == Standing.UNKNOWN)
    most = MOST_CLIENTS if accepts_all else MOST_UNKNOWN
    room = max(0, most - tx.db.execute(listed_so_far).scalar_one())
    standing = Standing.ACCEPTED if accepts_all else Standing.UNKNOWN
    listed = new[:room]
    if listed:
        values = [{"uuid": uuid, "standing": str(standing), "first_heard_at": tx.now} for uuid in listed]
        tx.db.execute(insert(client), values)
        rows |= _rows(tx, set(listed))
        _tell(tx, [(uuid, "client_listed", {"standing": str(standing)}) for uuid in listed])
    return len(new) - len(listed)


def _is_left_out(heard: Heard, standing: str) -> bool:
    """Of a client that was rejected or retired only its connection and its acks are of interest.

    A command that was sent before still gets its verdict. What the broker has retained of it is no sign of life.
    """
    if standing not in (Standing.REJECTED, Standing.RETIRED):
        return False
    return heard.is_retained or not isinstance(heard.said, Status | Ack)


def _warn_of_retired(tx: Transaction, heard: Sequence[Heard], rows: Mapping[str, RowMapping]) -> None:
    """A retired client that speaks is a host that somebody believes to be gone: said once an hour."""
    speaking = dict.fromkeys(each.client_uuid for each in heard if not each.is_retained)
    for uuid in speaking:
        row = rows[uuid]
        if row["standing"] != Standing.RETIRED:
            continue
        since = max(tx.now - _WARN_EVERY, row["retired_at"] or tx.now - _WARN_EVERY)
        if row["heard_at"] is not None and row["heard_at"] > since:
            continue
        # Also where all that it said is left out below.
        _touch(tx, {uuid})
        _tell(tx, [(uuid, "retired_client_heard", {})])
        people.note(tx, uuid, "mqtt", None, "retired client heard", uuid, "ignored")


def _touch(tx: Transaction, uuids: set[str]) -> None:
    """Retained messages are no sign of life."""
    if uuids:
        tx.db.execute(update(client).where(client.c.uuid.in_(uuids)).values(heard_at=tx.now))


def _hear_statuses(
    tx: Transaction, said: Sequence[tuple[Heard, Status]], rows: Mapping[str, RowMapping], batch: Batch
) -> None:
    known = {heard.client_uuid: presence_of(rows[heard.client_uuid]) for heard, _ in said}
    before = dict(known)
    told = []
    for heard, status in said:
        uuid = heard.client_uuid
        after = presence.hear(known[uuid], status, tx.now)
        if after.session_id == known[uuid].session_id and after.is_online == known[uuid].is_online:
            known[uuid] = after
            continue
        boot_before = known[uuid].boot_id
        known[uuid] = after
        kind = "client_online" if after.is_online else "client_offline"
        told.append((uuid, kind, {"reason": str(status.reason), "boot_id": status.boot_id}))
        if after.is_online:
            batch.born.add(uuid)
            _note_boot(tx, uuid, status.boot_id, boot_before)
    changed = {uuid: after for uuid, after in known.items() if after != before[uuid]}
    for uuid, after in changed.items():
        tx.db.execute(update(client).where(client.c.uuid == uuid).values(**_presence_columns(after)))
    batch.seen |= changed
    _tell(tx, told)


def _presence_columns(after: Presence) -> dict[str, Any]:
    return {
        "is_online": after.is_online,
        "presence_reason": None if after.reason is None else str(after.reason),
        "session_id": after.session_id,
        "boot_id": after.boot_id,
        "presence_at": after.at,
        "presence_told_at": after.told_at,
        "ended_sessions": list(after.ended),
    }


def _note_boot(tx: Transaction, uuid: str, boot_id: str, boot_before: str | None) -> None:
    """A boot that comes back after another one, again and again, is that of a second host."""
    of_client = boot.c.client_uuid == uuid
    this = and_(of_client, boot.c.boot_id == boot_id)
    if tx.db.execute(select(boot.c.boot_id).where(this)).one_or_none() is None:
        values = {"client_uuid": uuid, "boot_id": boot_id, "first_heard_at": tx.now, "heard_at": tx.now}
        tx.db.execute(insert(boot).values(**values))
        return
    is_return = boot_before is not None and boot_before != boot_id
    tx.db.execute(update(boot).where(this).values(heard_at=tx.now, returns=boot.c.returns + int(is_return)))
    if not is_return:
        return
    recent = and_(of_client, boot.c.heard_at > tx.now - _TWO_HOSTS_WITHIN)
    returns = tx.db.execute(select(func.sum(boot.c.returns)).where(recent)).scalar_one() or 0
    if returns < RETURNS_OF_TWO_HOSTS:
        return
    found = update(client).where(client.c.uuid == uuid, client.c.two_hosts_at.is_(None)).values(two_hosts_at=tx.now)
    if tx.db.execute(found).rowcount:
        _tell(tx, [(uuid, "two_hosts", {"boot_ids": [boot_before, boot_id]})])


def _hear_boots(tx: Transaction, reports: Sequence[BootReport]) -> None:
    for report in reports:
        where = and_(boot.c.client_uuid == report.client_uuid, boot.c.boot_id == report.boot_id)
        known = tx.db.execute(select(boot.c.reported_at).where(where)).one_or_none()
        if known is not None and known.reported_at is not None:
            continue  # retained, or sent twice: one report a boot
        content = json.loads(wire.encode(_plain(report)))
        row = {
            "client_uuid": report.client_uuid,
            "boot_id": report.boot_id,
            "first_heard_at": tx.now,
            "heard_at": tx.now,
            "report": content,
            "reported_at": tx.now,
        }
        if known is None:
            tx.db.execute(insert(boot).values(**row))
        else:
            tx.db.execute(update(boot).where(where).values(report=content, reported_at=tx.now))
        _tell(tx, [(report.client_uuid, "boot_reported", content)])


def _hear_health(tx: Transaction, said: Sequence[Health]) -> None:
    latest = {each.client_uuid: each for each in said}
    rows = [
        {"client_uuid": uuid, "heard_at": tx.now, "content": wire.encode(_plain(each)).decode()}
        for uuid, each in latest.items()
    ]
    upsert(tx, health, rows, ["client_uuid"])


def _hear_alerts(tx: Transaction, said: Sequence[FailureAlert | Cleared]) -> None:
    for each in said:
        standing = and_(alert.c.client_uuid == each.client_uuid, alert.c.cleared_at.is_(None))
        if isinstance(each, Cleared):
            if tx.db.execute(update(alert).where(standing).values(cleared_at=tx.now)).rowcount:
                _tell(tx, [(each.client_uuid, "alert_cleared", {})])
            continue
        content = json.loads(wire.encode(_plain(each)))
        # The topic is retained and there is one for each client: a new alert takes the place of the one before.
        same = and_(standing, alert.c.unit == each.unit)
        found = tx.db.execute(select(alert.c.content).where(same)).one_or_none()
        if found is not None and found.content == content:
            continue
        tx.db.execute(update(alert).where(standing).values(cleared_at=tx.now))
        row = {"client_uuid": each.client_uuid, "unit": each.unit, "raised_at": tx.now, "content": content}
        tx.db.execute(insert(alert).values(**row))
        _tell(tx, [(each.client_uuid, "alert_raised", {"unit": each.unit, "result": each.result})])


def _tell(tx: Transaction, told: Sequence[tuple[str, str, Mapping[str, Any]]]) -> None:
    if told:
        rows = [{"at": tx.now, "kind": kind, "client_uuid": uuid, "content": content} for uuid, kind, content in told]
        tx.db.execute(insert(event), rows)


def _plain(value: Any) -> Any:
    """A dataclass as JSON holds it; times as on the wire."""
    match value:
        case datetime():
            return wire.format_time(value)
        case dict():
            return {name: _plain(part) for name, part in value.items()}
        case list() | tuple():
            return [_plain(part) for part in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return value
