"""Places: what is known of each value of the label `site`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import RowMapping, delete, insert, or_, select, update

from infoscreen_reboot.controller.calendar import SITE_LABEL
from infoscreen_reboot.controller.lifecycle import VERDICT_RANK
from infoscreen_reboot.controller.safety import Standing
from infoscreen_reboot.controller.store.bulk import among
from infoscreen_reboot.controller.store.database import Transaction
from infoscreen_reboot.controller.store.tables import client, command, label, site


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


def left_dark(tx: Transaction, going: Sequence[str]) -> list[str]:
    """Sites where no client stays up when these go: all others are offline, or on their way down, or about to be."""
    of_site = label.c.key == SITE_LABEL
    theirs = select(label.c.value).where(of_site, among(tx, label.c.client_uuid, going)).distinct()
    is_going = or_(command.c.sent_at.is_not(None), command.c.hold_rule.is_(None))
    others = select(command.c.client_uuid).where(command.c.rank < VERDICT_RANK, is_going)
    stay = (
        select(label.c.value)
        .join(client, client.c.uuid == label.c.client_uuid)
        .where(of_site, client.c.standing == Standing.ACCEPTED, client.c.is_online)
        .where(~among(tx, client.c.uuid, going), client.c.uuid.not_in(others))
        .distinct()
    )
    return sorted(set(tx.db.execute(theirs).scalars()) - set(tx.db.execute(stay).scalars()))
