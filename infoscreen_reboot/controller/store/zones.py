"""In which time zone a client is: its own, that of its site, or the fleet's."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import and_, select

from infoscreen_reboot.controller import calendar
from infoscreen_reboot.controller.store.bulk import among
from infoscreen_reboot.controller.store.database import Transaction
from infoscreen_reboot.controller.store.tables import label, site


def zones_of(tx: Transaction, uuids: Collection[str], fleet_zone: str) -> dict[str, str]:
    """By UUID: the label `tz`, else what its site has, else the fleet's. What is no zone here is passed over."""
    if not uuids:
        return {}
    where = and_(among(tx, label.c.client_uuid, uuids), label.c.key.in_(("tz", "site")))
    its_site = and_(label.c.key == "site", site.c.name == label.c.value)
    query = select(label.c.client_uuid, label.c.key, label.c.value, site.c.zone).outerjoin(site, its_site).where(where)
    zones: dict[tuple[str, str], str | None] = {}
    for row in tx.db.execute(query):
        zones[row.client_uuid, row.key] = row.value if row.key == "tz" else row.zone
    found = {}
    for uuid in uuids:
        wanted = zones.get((uuid, "tz")), zones.get((uuid, "site"))
        found[uuid] = next((zone for zone in wanted if zone is not None and calendar.known(zone)), fleet_zone)
    return found
