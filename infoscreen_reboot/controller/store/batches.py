"""Batches and their members, and whom a selector means."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import and_, insert, select

from infoscreen_reboot.controller.safety import Standing
from infoscreen_reboot.controller.selection import Selector
from infoscreen_reboot.controller.store.bulk import among
from infoscreen_reboot.controller.store.commands import New, Request
from infoscreen_reboot.controller.store.database import Row, Transaction
from infoscreen_reboot.controller.store.tables import batch, batch_member, client, command, label


def create(
    tx: Transaction,
    batch_id: str,
    request: Request,
    seen_hash: str | None,
    key: str | None,
    digest: str | None,
    send_at: datetime,
) -> None:
    values = {
        "id": batch_id,
        "action": str(request.action),
        "reason": request.reason,
        "preview_hash": seen_hash,
        "created_at": tx.now,
        "created_by": request.by,
        "via": request.via,
        "send_at": send_at,
        "wait_until": request.wait_until,
        "idempotency_key": key,
        "request_digest": digest,
    }
    tx.db.execute(insert(batch).values(**values))


def add_members(tx: Transaction, batch_id: str, new: Sequence[New]) -> None:
    rows = [{"batch_id": batch_id, "client_uuid": each.client_uuid, "command_id": each.command_id} for each in new]
    tx.db.execute(insert(batch_member), rows)


def command_known(tx: Transaction, by: str, key: str | None, command_id: str | None) -> Row | None:
    """The command that an earlier request with the same id, or the same key of this caller, has made."""
    if command_id is not None:
        found = tx.db.execute(select(command).where(command.c.id == command_id)).mappings().one_or_none()
        if found is not None:
            return found
    if key is None:
        return None
    of_caller = and_(command.c.created_by == by, command.c.idempotency_key == key)
    return tx.db.execute(select(command).where(of_caller)).mappings().one_or_none()


def known(tx: Transaction, by: str, key: str | None) -> Row | None:
    """The batch that an earlier request with the same key of this caller has made."""
    if key is None:
        return None
    of_caller = and_(batch.c.created_by == by, batch.c.idempotency_key == key)
    return tx.db.execute(select(batch).where(of_caller)).mappings().one_or_none()


def selected(tx: Transaction, wanted: Selector) -> list[str]:
    """The accepted clients that a selector means."""
    return list(selected_labels(tx, wanted))


def selected_labels(tx: Transaction, wanted: Selector) -> dict[str, dict[str, str]]:
    """The same with the labels of each."""
    labels: dict[str, dict[str, str]] = {}
    for row in tx.db.execute(select(label)):
        labels.setdefault(row.client_uuid, {})[row.key] = row.value
    accepted = select(client.c.uuid).where(client.c.standing == Standing.ACCEPTED).order_by(client.c.uuid)
    found = {uuid: labels.get(uuid, {}) for uuid in tx.db.execute(accepted).scalars()}
    return {uuid: of_client for uuid, of_client in found.items() if wanted.matches(of_client)}


def commands_by_id(tx: Transaction, ids: Sequence[str]) -> list[Row]:
    return list(tx.db.execute(select(command).where(among(tx, command.c.id, ids))).mappings())
