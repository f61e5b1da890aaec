"""What people change: clients with their names, labels and standing, the whole list at once, and freezes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import and_, bindparam, delete, insert, select, update

from infoscreen_reboot.controller.inventory import Entry, Known
from infoscreen_reboot.controller.lifecycle import VERDICT_RANK, Cancelled, Limits
from infoscreen_reboot.controller.safety import Standing
from infoscreen_reboot.controller.store import commands, notices
from infoscreen_reboot.controller.store.bulk import among
from infoscreen_reboot.controller.store.database import Row, Transaction
from infoscreen_reboot.controller.store.tables import client, command, event, freeze, label


def change_client(tx: Transaction, uuid: str, columns: Mapping[str, Any], labels: Mapping[str, str | None]) -> None:
    """Labels that are None are removed; those that are not named stay."""
    if columns:
        tx.db.execute(update(client).where(client.c.uuid == uuid).values(**columns))
    _change_labels(tx, [(uuid, labels)])


def _change_labels(tx: Transaction, changes: Sequence[tuple[str, Mapping[str, str | None]]]) -> None:
    gone = [{"of": uuid, "which": key} for uuid, labels in changes for key in labels]
    rows = [
        {"client_uuid": uuid, "key": key, "value": value}
        for uuid, labels in changes
        for key, value in labels.items()
        if value is not None
    ]
    if gone:
        where = and_(label.c.client_uuid == bindparam("of"), label.c.key == bindparam("which"))
        tx.db.execute(delete(label).where(where), gone)
    if rows:
        tx.db.execute(insert(label), rows)


def bearer_of(tx: Transaction, name: str, but: str) -> str | None:
    """Another client that has this name. A retired one may have had it, and may keep it."""
    where = and_(client.c.name == name, client.c.uuid != but, client.c.standing != Standing.RETIRED)
    return tx.db.execute(select(client.c.uuid).where(where).limit(1)).scalar_one_or_none()


def set_standing(tx: Transaction, uuids: Sequence[str], standing: Standing, by: str, fleet: Limits) -> None:
    """Whoever accepts a client anew says that it is one host. From others, what was not sent is taken back."""
    retired_at = tx.now if standing is Standing.RETIRED else None
    values = {"standing": str(standing), "retired_at": retired_at, "two_hosts_at": None}
    tx.db.execute(update(client).where(among(tx, client.c.uuid, uuids)).values(**values))
    notices.withdraw(tx, (notices.Kind.UNKNOWN_CLIENT, notices.Kind.TWO_HOSTS), uuids)
    if standing is not Standing.ACCEPTED:
        of_them = among(tx, command.c.client_uuid, uuids)
        unsent = and_(of_them, command.c.rank < VERDICT_RANK, command.c.sent_at.is_(None))
        ids = tx.db.execute(select(command.c.id).where(unsent)).scalars().all()
        commands.learn(tx, [(each, Cancelled(tx.now, by, f"the client was {standing}")) for each in ids], fleet)
    told = [{"at": tx.now, "kind": f"client_{standing}", "client_uuid": uuid, "content": {"by": by}} for uuid in uuids]
    if told:
        tx.db.execute(insert(event), told)


def standings(tx: Transaction, uuids: Sequence[str] | None) -> dict[str, Standing]:
    """Of these clients, or of all; whoever does not exist is left out."""
    query = select(client.c.uuid, client.c.standing)
    if uuids is not None:
        query = query.where(among(tx, client.c.uuid, uuids))
    return {row.uuid: Standing(row.standing) for row in tx.db.execute(query)}


def known(tx: Transaction) -> dict[str, Known]:
    """All clients as an inventory lists them, by UUID."""
    labels: dict[str, dict[str, str]] = {}
    for row in tx.db.execute(select(label)):
        labels.setdefault(row.client_uuid, {})[row.key] = row.value
    columns = client.c.uuid, client.c.standing, client.c.name, client.c.note
    rows = tx.db.execute(select(*columns).order_by(client.c.uuid))
    return {row.uuid: Known(Standing(row.standing), row.name, row.note, labels.get(row.uuid, {})) for row in rows}


def apply(tx: Transaction, entries: Sequence[Entry], before: Mapping[str, Known], by: str, fleet: Limits) -> None:
    """Make clients so as an inventory says; a client that is new is accepted, if nothing else is said."""
    values = []
    standings: dict[Standing, list[str]] = {}
    for entry in entries:
        was = before.get(entry.uuid, Known(Standing.UNKNOWN))
        name, note = entry.columns.get("name", was.name), entry.columns.get("note", was.note)
        values.append({"of": entry.uuid, "name": name, "note": note})
        default = Standing.ACCEPTED if entry.uuid not in before else was.standing
        wanted = Standing(entry.columns.get("standing") or default)
        if wanted is not was.standing or entry.uuid not in before:
            standings.setdefault(wanted, []).append(entry.uuid)
    new = [{"uuid": entry.uuid, "standing": Standing.UNKNOWN} for entry in entries if entry.uuid not in before]
    if new:
        tx.db.execute(insert(client), new)
    if values:
        tx.db.execute(update(client).where(client.c.uuid == bindparam("of")), values)
    _change_labels(tx, [(entry.uuid, entry.labels) for entry in entries])
    for standing, uuids in standings.items():
        set_standing(tx, uuids, standing, by, fleet)


def begin_freeze(tx: Transaction, why: str, by: str, until: datetime | None) -> Row:
    values = {"why": why, "made_by": by, "made_at": tx.now, "until": until}
    made = tx.db.execute(insert(freeze).values(**values).returning(freeze.c.id)).scalar_one()
    return tx.db.execute(select(freeze).where(freeze.c.id == made)).mappings().one()


def end_freeze(tx: Transaction, freeze_id: int, by: str) -> bool:
    """Returns False if none of that number stands."""
    standing = and_(freeze.c.id == freeze_id, freeze.c.ended_at.is_(None))
    return tx.db.execute(update(freeze).where(standing).values(ended_at=tx.now, ended_by=by)).rowcount == 1
