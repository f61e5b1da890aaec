"""`/clients`: who there is, and who may get commands."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request

from infoscreen_reboot.controller import orders, selection
from infoscreen_reboot.controller.api import access, models, show
from infoscreen_reboot.controller.api.access import admin, operator, viewer
from infoscreen_reboot.controller.api.problems import Problem, documented
from infoscreen_reboot.controller.auth import Identity
from infoscreen_reboot.controller.safety import Standing
from infoscreen_reboot.controller.store import fleet, people, views
from infoscreen_reboot.controller.store.database import Transaction

router = APIRouter(prefix="/clients", tags=["clients"])


@router.get("", responses=documented("bad_selector"))
def index(
    request: Request,
    who: Annotated[Identity, Depends(viewer)],
    selector: Annotated[str | None, Query(max_length=1000)] = None,
    standing: Standing | None = None,
) -> list[models.Client]:
    """All, or those that a selector means; a selector means accepted clients only."""
    with access.site(request).database.read() as tx:
        uuids = orders.select_clients(tx, selector) if selector is not None else None
        return show.clients(tx, views.client_rows(tx, uuids, str(standing) if standing else None))


@router.get("/{client_uuid}", responses=documented("not_found"))
def read(request: Request, client_uuid: UUID, who: Annotated[Identity, Depends(viewer)]) -> models.Client:
    with access.site(request).database.read() as tx:
        return _shown(tx, str(client_uuid))


@router.patch("/{client_uuid}", responses=documented("not_found"))
def change(
    request: Request, client_uuid: UUID, content: models.ClientChange, who: Annotated[Identity, Depends(operator)]
) -> models.Client:
    """Name, note and labels. Labels that are named are set, those set to null are removed, the others stay."""
    site, caller = access.site(request), access.caller(request, who)
    uuid = str(client_uuid)
    for key, value in (content.labels or {}).items():
        if not selection.KEY.fullmatch(key) or (value is not None and not selection.VALUE.fullmatch(value)):
            raise Problem("invalid", f"{key[:64]!r}: {value!r:.64} is no label")
    with site.database.write() as tx:
        _shown(tx, uuid)
        columns = content.model_dump(exclude_unset=True, exclude={"labels"})
        fleet.change_client(tx, uuid, columns, content.labels or {})
        said = content.model_dump(exclude_unset=True)
        people.note(tx, who.name, caller.via, caller.address, "change client", uuid, "changed", said)
        return _shown(tx, uuid)


@router.post("/{client_uuid}/standing", responses=documented("not_found"))
def set_standing(
    request: Request, client_uuid: UUID, content: models.NewStanding, who: Annotated[Identity, Depends(admin)]
) -> models.Client:
    """Accept, reject or retire a client. To accept one again says that it is one host now."""
    site, caller = access.site(request), access.caller(request, who)
    uuid = str(client_uuid)
    with site.database.write() as tx:
        _shown(tx, uuid)
        fleet.set_standing(tx, uuid, content.standing)
        people.note(tx, who.name, caller.via, caller.address, f"{content.standing} client", uuid, "changed")
        return _shown(tx, uuid)


def _shown(tx: Transaction, uuid: str) -> models.Client:
    rows = views.client_rows(tx, [uuid])
    if not rows:
        raise Problem("not_found", f"there is no client {uuid}")
    return show.clients(tx, rows)[0]
