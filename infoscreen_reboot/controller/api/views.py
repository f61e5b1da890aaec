"""`/views`: searches of the fleet that somebody keeps under a name, each his own."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

from infoscreen_reboot.controller import selection
from infoscreen_reboot.controller.api import models
from infoscreen_reboot.controller.api.access import Viewer
from infoscreen_reboot.controller.api.problems import Problem, documented
from infoscreen_reboot.controller.store import saved_views

router = APIRouter(prefix="/views", tags=["fleet"])

# More are no help to find one.
MOST = 50
ViewName = Annotated[models.Name, Path()]


@router.get("", summary="List your views", responses=documented())
def list_views(call: Viewer) -> list[models.View]:
    """By name. Nobody else sees them."""
    with call.read() as tx:
        rows = saved_views.of_user(tx, call.who.name)
    return [models.View(**{name: row[name] for name in models.View.model_fields}) for row in rows]


@router.put(
    "/{view_name:path}",
    summary="Keep a search as a view",
    status_code=201,
    responses=documented(
        *("bad_selector", "not_found", "too_large"),
        well={"model": models.View, "description": "One of that name was replaced."},
    ),
)
def put_view(call: Viewer, response: Response, view_name: ViewName, content: models.ViewContent) -> models.View:
    """Of `GET /fleet/clients`: it is searched anew each time, and keeps no clients."""
    try:
        selection.parse(content.selector or "")
    except selection.SelectorError as error:
        raise Problem("bad_selector", str(error)) from None
    with call.write() as (tx, caller):
        is_new = saved_views.put(tx, caller.name, view_name, content.model_dump(mode="json"))
        if len(saved_views.of_user(tx, caller.name)) > MOST:
            raise Problem("invalid", f"you keep {MOST} views, and more are not possible: remove one first")
        call.note(tx, "put view", view_name, "made" if is_new else "changed", content.model_dump(mode="json"))
    response.status_code = 201 if is_new else 200
    return models.View(name=view_name, **content.model_dump())


@router.delete(
    "/{view_name:path}",
    status_code=204,
    response_model=None,
    summary="Remove a view",
    responses=documented("not_found"),
)
def delete_view(call: Viewer, view_name: ViewName) -> None:
    """Only your own; no client is touched."""
    with call.write() as (tx, caller):
        if not saved_views.remove(tx, caller.name, view_name):
            raise Problem("not_found", f"you keep no view {view_name!r}")
        call.note(tx, "delete view", view_name, "deleted")
