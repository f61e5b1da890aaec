"""Places: what is known of each value of the label `site`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import RowMapping, delete, insert, select, update

from infoscreen_reboot.controller.store.database import Transaction
from infoscreen_reboot.controller.store.tables import label, site


def all_sites(tx: Transaction) -> list[RowMapping]:
    return list(tx.db.execute(select(site).order_by(site.c.name)).mappings())


def site_of(tx: Transaction, name: str) -> RowMapping | None:
    return tx.db.execute(select(site).where(site.c.name == name)).mappings().one_or_none()


def put(tx: Transaction, name: str, values: Mapping[str, Any]) -> bool:
    """Returns whether it is new."""
    if tx.db.execute(update(site).where(site.c.name == name).values(**values)).rowcount == 1:
        return False
    tx.db.execute(insert(site).values(name=name, **values))
    return True


def remove(tx: Transaction, name: str) -> bool:
    return tx.db.execute(delete(site).where(site.c.name == name)).rowcount == 1


def zones(tx: Transaction) -> dict[str, str]:
    """Of the sites that have one."""
    rows = tx.db.execute(select(site.c.name, site.c.zone).where(site.c.zone.is_not(None)))
    return {row.name: row.zone for row in rows}


def values_of(tx: Transaction, key: str) -> list[str]:
    """All values that a label has, of any client."""
    return list(tx.db.execute(select(label.c.value).where(label.c.key == key).distinct()).scalars())
