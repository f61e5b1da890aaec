"""`/freezes`, `/whoami`: what holds everybody, and who one is."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request

from infoscreen_reboot.controller.api import access, models
from infoscreen_reboot.controller.api.access import operator, viewer
from infoscreen_reboot.controller.api.problems import Problem, documented
from infoscreen_reboot.controller.auth import Identity
from infoscreen_reboot.controller.store import fleet, people, views
from infoscreen_reboot.controller.store.database import Row

router = APIRouter(tags=["fleet"])


@router.get("/whoami", responses=documented())
def whoami(who: Annotated[Identity, Depends(viewer)]) -> models.Whoami:
    return models.Whoami(name=who.name, role=str(who.role), may_shut_down=who.may_shut_down)


@router.get("/freezes", responses=documented())
def freezes(request: Request, who: Annotated[Identity, Depends(viewer)]) -> list[models.Freeze]:
    """Those that stand."""
    with access.site(request).database.read() as tx:
        return [_shown(row) for row in views.freezes(tx)]


@router.post("/freezes", status_code=201, responses=documented())
def begin(request: Request, content: models.NewFreeze, who: Annotated[Identity, Depends(operator)]) -> models.Freeze:
    """From now on nothing is sent, until `until`, or until somebody ends it."""
    site, caller = access.site(request), access.caller(request, who)
    with site.database.write() as tx:
        if content.until is not None and content.until <= tx.now:
            raise Problem("invalid", "until is over already")
        row = fleet.begin_freeze(tx, content.why, who.name, content.until)
        people.note(tx, who.name, caller.via, caller.address, "freeze", str(row["id"]), "made", {"why": content.why})
    return _shown(row)


@router.delete("/freezes/{freeze_id}", status_code=204, response_model=None, responses=documented("not_found"))
def end(request: Request, freeze_id: int, who: Annotated[Identity, Depends(operator)]) -> None:
    site, caller = access.site(request), access.caller(request, who)
    with site.database.write() as tx:
        if not fleet.end_freeze(tx, freeze_id, who.name):
            raise Problem("not_found", f"no freeze {freeze_id} stands")
        people.note(tx, who.name, caller.via, caller.address, "end freeze", str(freeze_id), "ended")
    site.wake()


def _shown(row: Row) -> models.Freeze:
    return models.Freeze(**{name: row[name] for name in models.Freeze.model_fields})
