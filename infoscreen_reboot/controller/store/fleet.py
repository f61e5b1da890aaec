"""What people change: clients and their labels, and freezes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import and_, delete, insert, select, update

from infoscreen_reboot.controller.safety import Standing
from infoscreen_reboot.controller.store.database import Row, Transaction
from infoscreen_reboot.controller.store.tables import client, freeze, label


def change_client(tx: Transaction, uuid: str, columns: Mapping[str, Any], labels: Mapping[str, str | None]) -> None:
    """Labels that are None are removed; those that are not named stay."""
    if columns:
        tx.db.execute(update(client).where(client.c.uuid == uuid).values(**columns))
    for key, value in labels.items():
        tx.db.execute(delete(label).where(label.c.client_uuid == uuid, label.c.key == key))
        if value is not None:
            tx.db.execute(insert(label).values(client_uuid=uuid, key=key, value=value))


def set_standing(tx: Transaction, uuid: str, standing: Standing) -> None:
    """Whoever says something about a client anew has seen that it is one host."""
    retired_at = tx.now if standing is Standing.RETIRED else None
    values = {"standing": str(standing), "retired_at": retired_at, "two_hosts_at": None}
    tx.db.execute(update(client).where(client.c.uuid == uuid).values(**values))


def begin_freeze(tx: Transaction, why: str, by: str, until: datetime | None) -> Row:
    values = {"why": why, "made_by": by, "made_at": tx.now, "until": until}
    made = tx.db.execute(insert(freeze).values(**values).returning(freeze.c.id)).scalar_one()
    return tx.db.execute(select(freeze).where(freeze.c.id == made)).mappings().one()


def end_freeze(tx: Transaction, freeze_id: int, by: str) -> bool:
    """Returns False if none of that number stands."""
    standing = and_(freeze.c.id == freeze_id, freeze.c.ended_at.is_(None))
    return tx.db.execute(update(freeze).where(standing).values(ended_at=tx.now, ended_by=by)).rowcount == 1
