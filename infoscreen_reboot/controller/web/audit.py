"""Who did what, and what was refused."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Query, Response

from infoscreen_reboot.controller.api import models, people
from infoscreen_reboot.controller.web import shell
from infoscreen_reboot.controller.web.session import Admin

router = APIRouter()

_PAGE = 50


@router.get("/audit")
def show(call: Admin, cursor: Annotated[int | None, Query(ge=1, lt=2**63)] = None) -> Response:
    page = people.read_audit(call, _PAGE, cursor)
    return shell.page(
        call, "audit.html", page=page, is_first=cursor is None, links={each.seq: _link(each) for each in page.items}
    )


def _link(line: models.AuditLine) -> str | None:
    """Where the target has a page of its own."""
    what, target = line.what, line.target
    if target is None:
        return None
    if what.endswith(" user") or what == "set password":
        return f"/users/{quote(target)}"
    if not _is_uuid(target):
        return None
    if what.endswith((" client", " port")) or what == "power cycle":
        return f"/c/{target}"
    return f"/batches/{target}" if "batch" in what.split() else None


def _is_uuid(target: str) -> bool:
    try:
        return str(UUID(target)) == target
    except ValueError:
        return False
