"""Searches of the fleet that people keep, each his own."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import RowMapping, and_, delete, func, insert, select, update

from infoscreen_reboot.controller.store.database import Transaction
from infoscreen_reboot.controller.store.tables import saved_view


def of_user(tx: Transaction, user_name: str) -> list[RowMapping]:
    order = func.lower(saved_view.c.name), saved_view.c.name
    query = select(saved_view).where(saved_view.c.user_name == user_name).order_by(*order)
    return list(tx.db.execute(query).mappings())


def put(tx: Transaction, user_name: str, name: str, values: Mapping[str, str | None]) -> bool:
    """Returns whether it is new."""
    this = and_(saved_view.c.user_name == user_name, saved_view.c.name == name)
    if tx.db.execute(update(saved_view).where(this).values(**values)).rowcount == 1:
        return False
    tx.db.execute(insert(saved_view).values(user_name=user_name, name=name, **values))
    return True


def remove(tx: Transaction, user_name: str, name: str) -> bool:
    this = and_(saved_view.c.user_name == user_name, saved_view.c.name == name)
    return tx.db.execute(delete(saved_view).where(this)).rowcount == 1
