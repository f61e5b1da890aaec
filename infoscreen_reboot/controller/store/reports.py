"""What clients have said of themselves, for whoever looks at it: health, boots and alerts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import and_, select

from infoscreen_reboot.contract import wire
from infoscreen_reboot.controller.store.bulk import among
from infoscreen_reboot.controller.store.database import Row, Transaction
from infoscreen_reboot.controller.store.tables import alert, boot, client, health

# How many boots or alerts of one client are shown.
_MOST = 50


@dataclass(frozen=True, slots=True)
class Said:
    """The last health of a client, with its content as in the contract, and when it was heard."""

    heard_at: datetime
    content: dict[str, Any]


def healths(tx: Transaction, uuids: Sequence[str]) -> dict[str, Said]:
    """By UUID; a client that has sent none is left out."""
    rows = tx.db.execute(select(health).where(among(tx, health.c.client_uuid, uuids)))
    return {row.client_uuid: Said(row.heard_at, json.loads(row.content)) for row in rows}


def last_boots(tx: Transaction, uuids: Sequence[str]) -> dict[str, Row]:
    """By UUID: the boot in which a client was heard last."""
    this = and_(boot.c.client_uuid == client.c.uuid, boot.c.boot_id == client.c.boot_id)
    query = select(boot).join(client, this).where(among(tx, client.c.uuid, uuids))
    return {row["client_uuid"]: row for row in tx.db.execute(query).mappings()}


def boots(tx: Transaction, uuid: str) -> list[Row]:
    """Of one client, the newest first."""
    order = boot.c.first_heard_at.desc(), boot.c.boot_id
    query = select(boot).where(boot.c.client_uuid == uuid).order_by(*order).limit(_MOST)
    return list(tx.db.execute(query).mappings())


def began_at(row: Row) -> datetime:
    """When a boot began: as the client says; until it has said so, when we first heard of it.

    A client whose clock was wrong after the boot may name a time that had not come yet: then ours is nearer.
    """
    heard_at: datetime = row["first_heard_at"]
    if row["report"] is None:
        return heard_at
    return min(heard_at, wire.parse_time(row["report"]["boot_started_at"], "boot_started_at"))


def alerts(tx: Transaction, uuid: str) -> list[Row]:
    """Of one client: those that stand, then the others, each the newest first."""
    order = alert.c.cleared_at.is_not(None), alert.c.raised_at.desc(), alert.c.id.desc()
    query = select(alert).where(alert.c.client_uuid == uuid).order_by(*order).limit(_MOST)
    return list(tx.db.execute(query).mappings())
