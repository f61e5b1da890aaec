"""What is known of the clients: their connection, boots, health and alerts, as they tell it."""

from __future__ import annotations

import json
from collections import Counter
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
from infoscreen_reboot.controller.store import notices, people
from infoscreen_reboot.controller.store.bulk import among, insert_many, update_many
from infoscreen_reboot.controller.store.database import Transaction
from infoscreen_reboot.controller.store.tables import alert, boot, client, event, health, to_number

# Whoever may publish could invent clients: so many are listed, and no more until some are accepted or rejected.
MOST_UNKNOWN = 1000
# Where all are accepted that come, the list has an end, too.
MOST_CLIENTS = 100_000
# How old a boot id's return may be to count as a sign of two hosts.
_TWO_HOSTS_WITHIN = timedelta(minutes=30)
# How often it is said that a retired client still speaks.
_WARN_EVERY = timedelta(hours=1)
# When a client was heard is known to within this: a client that says much at once costs one write.
_HEARD_EVERY = timedelta(seconds=5)
# The reason of a presence that no client has told: it was online, and says nothing any more.
SILENT = "silent"
_PRESENCE = (
    "is_online",
    "presence_reason",
    "session_id",
    "boot_id",
    "presence_at",
    "presence_told_at",
    "ended_sessions",
)


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
    if not heard:
        return batch
    rows = _rows(tx, {each.client_uuid for each in heard})
    batch.turned_away = _welcome(tx, heard, rows, accepts_all)
    heard = [each for each in heard if each.client_uuid in rows]
    _warn_of_retired(tx, heard, rows)
    heard = [each for each in heard if not _is_left_out(each, rows[each.client_uuid]["standing"])]
    speaking = {each.client_uuid for each in heard if not each.is_retained}
    _touch(tx, {uuid for uuid in speaking if _is_new_sign(tx, rows[uuid])})
    _hear_again(tx, {uuid for uuid in speaking if rows[uuid]["presence_reason"] == SILENT})
    _hear_statuses(tx, [each.said for each in heard if isinstance(each.said, Status)], batch)
    _hear_boots(tx, [each.said for each in heard if isinstance(each.said, BootReport)])
    _hear_health(tx, [each.said for each in heard if isinstance(each.said, Health)])
    _hear_alerts(tx, [each.said for each in heard if isinstance(each.said, FailureAlert | Cleared)])
    batch.acks = [(each.client_uuid, each.said) for each in heard if isinstance(each.said, Ack)]
    return batch


def fall_silent(tx: Transaction, since: datetime) -> set[str]:
    """Clients that were online and have said nothing since then are offline from now on; returns who they are."""
    # What the broker has retained is no sign of life: such a client may never have been heard.
    silent = and_(client.c.is_online, func.coalesce(client.c.heard_at, client.c.presence_at) < since)
    uuids = set(tx.db.execute(select(client.c.uuid).where(silent)).scalars())
    _change_presence(tx, uuids, "client_offline", is_online=False, reason=SILENT)
    return uuids


def _hear_again(tx: Transaction, uuids: set[str]) -> None:
    """Their connection was never lost: else they would have said a new status."""
    _change_presence(tx, uuids, "client_online", is_online=True, reason=str(PresenceReason.CONNECTED))


def _change_presence(tx: Transaction, uuids: set[str], kind: str, *, is_online: bool, reason: str) -> None:
    """As we conclude it, and not as the client has told it."""
    if uuids:
        values = {"is_online": is_online, "presence_reason": reason, "presence_at": tx.now}
        tx.db.execute(update(client).where(among(tx, client.c.uuid, uuids)).values(**values))
        _tell(tx, [(uuid, kind, {"reason": reason}) for uuid in sorted(uuids)])


def presences(tx: Transaction, uuids: Iterable[str]) -> dict[str, Presence]:
    query = select(client.c.uuid, *(client.c[name] for name in _PRESENCE)).where(among(tx, client.c.uuid, set(uuids)))
    return {row["uuid"]: presence_of(row) for row in tx.db.execute(query).mappings().all()}


def presence_of(row: RowMapping) -> Presence:
    return Presence(
        is_online=row["is_online"],
        reason=None if row["presence_reason"] in (None, SILENT) else PresenceReason(row["presence_reason"]),
        session_id=row["session_id"],
        boot_id=row["boot_id"],
        at=row["presence_at"],
        told_at=row["presence_told_at"],
        ended=tuple(row["ended_sessions"]),
    )


def upsert(
    tx: Transaction, table: Table, rows: Sequence[Mapping[str, Any]], keys: Sequence[str], kept: Sequence[str] = ()
) -> None:
    """Insert, or set the other columns of what is there, but for those that are `kept`."""
    if not rows:
        return
    how: Any = (sqlite if tx.is_sqlite else postgresql).insert(table)
    changed = {name: how.excluded[name] for name in rows[0] if name not in (*keys, *kept)}
    tx.db.execute(how.on_conflict_do_update(index_elements=list(keys), set_=changed), list(rows))


def _rows(tx: Transaction, uuids: set[str]) -> dict[str, RowMapping]:
    columns = client.c.uuid, client.c.standing, client.c.heard_at, client.c.retired_at, client.c.presence_reason
    found = tx.db.execute(select(*columns).where(among(tx, client.c.uuid, uuids))).mappings().all()
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
        if standing is Standing.UNKNOWN:
            words = {uuid: f"client {uuid} was heard for the first time, and nobody has accepted it" for uuid in listed}
            notices.tell_of_clients(tx, notices.Kind.UNKNOWN_CLIENT, words)
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


def _is_new_sign(tx: Transaction, row: RowMapping) -> bool:
    return row["heard_at"] is None or row["heard_at"] <= tx.now - _HEARD_EVERY


def _touch(tx: Transaction, uuids: set[str]) -> None:
    """Retained messages are no sign of life."""
    if uuids:
        tx.db.execute(update(client).where(among(tx, client.c.uuid, uuids)).values(heard_at=tx.now))


def _hear_statuses(tx: Transaction, said: Sequence[Status], batch: Batch) -> None:
    if not said:
        return
    before = presences(tx, {status.client_uuid for status in said})
    known = dict(before)
    told, births = [], []
    for status in said:
        uuid = status.client_uuid
        was = known[uuid]
        after = known[uuid] = presence.hear(was, status, tx.now)
        if after.session_id == was.session_id and after.is_online == was.is_online:
            continue
        kind = "client_online" if after.is_online else "client_offline"
        told.append((uuid, kind, {"reason": str(status.reason), "boot_id": status.boot_id}))
        if after.is_online:
            batch.born.add(uuid)
            births.append(_Birth(uuid, status.boot_id, was.boot_id))
    _note_boots(tx, births)
    changed = {uuid: after for uuid, after in known.items() if after != before[uuid]}
    if changed:
        rows = [{"uuid": uuid, **_presence_columns(after)} for uuid, after in changed.items()]
        update_many(tx, client, rows, key="uuid")
    batch.seen |= changed
    _tell(tx, told)


def _presence_columns(after: Presence) -> dict[str, Any]:
    """As the database keeps them."""
    return {
        "is_online": after.is_online,
        "presence_reason": None if after.reason is None else str(after.reason),
        "session_id": after.session_id,
        "boot_id": after.boot_id,
        "presence_at": None if after.at is None else to_number(after.at),
        "presence_told_at": None if after.told_at is None else to_number(after.told_at),
        "ended_sessions": list(after.ended),
    }


@dataclass(frozen=True, slots=True)
class _Birth:
    """A client has come, in this boot; `boot_before` is the one in which it was before."""

    client_uuid: str
    boot_id: str
    boot_before: str | None

    @property
    def boot(self) -> tuple[str, str]:
        return self.client_uuid, self.boot_id

    @property
    def is_another_boot(self) -> bool:
        return self.boot_before is not None and self.boot_before != self.boot_id


def _note_boots(tx: Transaction, births: Sequence[_Birth]) -> None:
    """A boot that comes back after another one, again and again, is that of a second host."""
    if not births:
        return
    known = _reports(tx, [birth.boot for birth in births if birth.is_another_boot]).keys()
    noted = set(known)
    returns = []
    for birth in births:
        if birth.is_another_boot and birth.boot in noted:
            returns.append(birth)
        noted.add(birth.boot)
    rows = []
    boots_of: Counter[str] = Counter()
    for uuid, boot_id in dict.fromkeys(birth.boot for birth in births):
        # After an outage of the controller, several boots of a client come at once: each counts as a microsecond later
        # than the one before, so that their order is kept.
        first_heard_at = tx.now + timedelta(microseconds=boots_of[uuid])
        rows.append({"client_uuid": uuid, "boot_id": boot_id, "first_heard_at": first_heard_at, "heard_at": tx.now})
        boots_of[uuid] += 1
    upsert(tx, boot, rows, keys=["client_uuid", "boot_id"], kept=["first_heard_at"])
    for birth in returns:
        _note_return(tx, birth)


def _note_return(tx: Transaction, birth: _Birth) -> None:
    of_client = boot.c.client_uuid == birth.client_uuid
    this = and_(of_client, boot.c.boot_id == birth.boot_id)
    tx.db.execute(update(boot).where(this).values(returns=boot.c.returns + 1))
    recent = and_(of_client, boot.c.heard_at > tx.now - _TWO_HOSTS_WITHIN)
    returns = tx.db.execute(select(func.sum(boot.c.returns)).where(recent)).scalar_one() or 0
    if returns < RETURNS_OF_TWO_HOSTS:
        return
    mine = and_(client.c.uuid == birth.client_uuid, client.c.two_hosts_at.is_(None))
    if tx.db.execute(update(client).where(mine).values(two_hosts_at=tx.now)).rowcount:
        _tell(tx, [(birth.client_uuid, "two_hosts", {"boot_ids": [birth.boot_before, birth.boot_id]})])
        who = tx.db.execute(select(client.c.name).where(client.c.uuid == birth.client_uuid)).scalar_one()
        words = f"two hosts use the UUID of client {who or birth.client_uuid}: give one of them another machine id"
        notices.tell_of_clients(tx, notices.Kind.TWO_HOSTS, {birth.client_uuid: words})


def _reports(tx: Transaction, boots: Sequence[tuple[str, str]]) -> dict[tuple[str, str], datetime | None]:
    """Those of these boots that are known, and when each was reported."""
    if not boots:
        return {}
    ids = {boot_id for _, boot_id in boots}
    uuids = {uuid for uuid, _ in boots}
    where = and_(among(tx, boot.c.client_uuid, uuids), among(tx, boot.c.boot_id, ids))
    rows = tx.db.execute(select(boot.c.client_uuid, boot.c.boot_id, boot.c.reported_at).where(where)).all()
    return {(row.client_uuid, row.boot_id): row.reported_at for row in rows}


def _hear_boots(tx: Transaction, reports: Sequence[BootReport]) -> None:
    """Retained, or sent twice: one report a boot counts."""
    if not reports:
        return
    known = _reports(tx, [(report.client_uuid, report.boot_id) for report in reports])
    news: dict[tuple[str, str], dict[str, Any]] = {}
    for report in reports:
        this = report.client_uuid, report.boot_id
        if known.get(this) is None:
            news.setdefault(this, json.loads(wire.encode(_plain(report))))
    rows = [
        {
            "client_uuid": uuid,
            "boot_id": boot_id,
            "first_heard_at": tx.now,
            "heard_at": tx.now,
            "report": content,
            "reported_at": tx.now,
        }
        for (uuid, boot_id), content in news.items()
    ]
    upsert(tx, boot, rows, keys=["client_uuid", "boot_id"], kept=["first_heard_at", "heard_at"])
    _tell(tx, [(uuid, "boot_reported", content) for (uuid, _), content in news.items()])


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
        insert_many(tx, event, rows)


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
