"""`/sites`: what is known of each place, by the value of the label `site` of its clients."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

from infoscreen_reboot.controller import policies, text, windows
from infoscreen_reboot.controller.api import models
from infoscreen_reboot.controller.api.access import Operator, Viewer
from infoscreen_reboot.controller.api.problems import Problem, documented
from infoscreen_reboot.controller.calendar import SITE_LABEL
from infoscreen_reboot.controller.store import sites

router = APIRouter(prefix="/sites", tags=["fleet"])

SiteName = Annotated[str, Path(min_length=1, max_length=256)]


@router.get("", summary="List the sites", responses=documented())
def list_sites(call: Viewer) -> list[models.Site]:
    """Those of which something is known; clients may have the label of others."""
    with call.read() as tx:
        return [models.Site(**row) for row in sites.all_sites(tx)]


@router.put(
    "/{site_name:path}",
    summary="Say what is known of a site",
    status_code=201,
    responses=documented(
        "not_found", "too_large", well={"model": models.Site, "description": "It was known before, and is changed."}
    ),
)
def put_site(call: Operator, response: Response, site_name: SiteName, content: models.SiteContent) -> models.Site:
    """Its time zone is that of its clients without a label tz."""
    fault = text.fault_of_label(SITE_LABEL, site_name) or _fault(content)
    if fault is not None:
        raise Problem("invalid", fault)
    with call.write() as (tx, _):
        is_new = sites.put(tx, site_name, content.model_dump())
        call.note(tx, "put site", site_name, "made" if is_new else "changed", content.model_dump())
    response.status_code = 201 if is_new else 200
    return models.Site(name=site_name, **content.model_dump())


def _fault(content: models.SiteContent) -> str | None:
    try:
        if content.zone is not None:
            windows.zone_named(content.zone)
    except ValueError as error:
        return f"zone: {error}"
    try:
        if content.opening_hours is not None:
            policies.opening_hours(content.opening_hours)
    except ValueError as error:
        return f"opening_hours: {error}"
    return text.fault_of_note(content.note) if content.note is not None else None


@router.delete(
    "/{site_name:path}",
    status_code=204,
    response_model=None,
    summary="Forget what is known of a site",
    responses=documented("not_found"),
)
def delete_site(call: Operator, site_name: SiteName) -> None:
    """Its clients keep their label, and have the fleet's zone then."""
    with call.write() as (tx, _):
        if not sites.remove(tx, site_name):
            raise Problem("not_found", f"nothing is known of a site {site_name!r}")
        call.note(tx, "delete site", site_name, "deleted")
