"""All clients, the sickest first: numbers that lead to exactly the rows that they count."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Annotated
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from infoscreen_reboot.controller.api import fleet, models, views
from infoscreen_reboot.controller.api.access import Call
from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.condition import Condition
from infoscreen_reboot.controller.orders import Kind, Refused
from infoscreen_reboot.controller.web import shell
from infoscreen_reboot.controller.web.session import Viewer

router = APIRouter()

PAGE = 50
# The sick that fit on a wall.
WALL = 24
# All pages that are open ask for the same numbers, whenever something happens.
_NUMBERS_S = 1.0
_DIFFERENT = 100

Text = Annotated[str, Query(max_length=1000, pattern=r"^[^\x00-\x1f\x7f]*$")]
Chosen = Annotated[str, Query(pattern=f"^({'|'.join(Condition)})?$")]
_SICK = (Condition.NEEDS_PERSON, Condition.LATE, Condition.OFFLINE)
_NOBODY = models.ClientPage(items=[], count=0, page=1, pages=1)


class Numbers:
    """How many clients stand in which way, not asked for more than once a second for the same clients."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, str], tuple[float, models.FleetSummary]] = {}

    def of(self, call: Call, selector: str, text: str) -> models.FleetSummary:
        key = selector, text
        with self._lock:
            at_s, found = self._kept.get(key, (float("-inf"), None))
            if found is None or time.monotonic() > at_s + _NUMBERS_S:
                found = fleet.read_fleet(call, selector or None, text or None)
                if len(self._kept) >= _DIFFERENT:
                    self._kept.clear()
                self._kept[key] = time.monotonic(), found
            return found


@router.get("/")
def show(
    request: Request,
    call: Viewer,
    condition: Chosen = "",
    selector: Text = "",
    text: Text = "",
    page: Annotated[int, Query(ge=1, le=100_000)] = 1,
    wall: bool = False,
) -> Response:
    if wall:
        return _wall(request, call, selector, text)
    chosen = Condition(condition) if condition else None
    fault = None
    try:
        shown = fleet.list_fleet(call, chosen, selector or None, text or None, page, PAGE)
        numbers = _numbers(request).of(call, selector, text)
    except Refused as error:
        if error.kind != Kind.BAD_SELECTOR:
            raise
        fault = str(error)
        shown, numbers = _NOBODY, models.FleetSummary(conditions=[], count=0)
    return shell.page(
        call,
        "fleet.html",
        page=shown,
        numbers=numbers,
        condition=chosen,
        selector=selector,
        text=text,
        fault=fault,
        views=views.list_views(call),
        may_order=call.who.role.covers(Role.OPERATOR),
        address=_addresses(chosen, selector, text),
    )


def _wall(request: Request, call: Call, selector: str, text: str) -> Response:
    """For a screen that nobody touches: the numbers, and who needs somebody."""
    found = fleet.list_fleet(call, None, selector or None, text or None, 1, WALL)
    return shell.page(
        call,
        "wall.html",
        numbers=_numbers(request).of(call, selector, text),
        sick=[client for client in found.items if client.condition in _SICK],
        what=selector or text,
    )


@router.get("/rows")
def show_rows(
    request: Request,
    call: Viewer,
    uuid: Annotated[list[UUID], Query(max_length=PAGE)] = [],  # noqa: B006  # FastAPI copies it
    condition: Chosen = "",
    selector: Text = "",
    text: Text = "",
) -> Response:
    """How these clients stand now, and the numbers: for a page that is open."""
    chosen = Condition(condition) if condition else None
    return shell.part(
        call,
        "rows.html",
        clients=fleet.read_some(call, [str(each) for each in uuid]),
        numbers=_numbers(request).of(call, selector, text),
        condition=chosen,
        may_order=call.who.role.covers(Role.OPERATOR),
        address=_addresses(chosen, selector, text),
    )


def _numbers(request: Request) -> Numbers:
    found: Numbers = request.app.state.numbers
    return found


def _addresses(condition: Condition | None, selector: str, text: str) -> Callable[..., str]:
    """Where the same search leads with some of it changed."""

    def address(**changes: object) -> str:
        chosen = {"condition": condition, "selector": selector, "text": text, **changes}
        query = urlencode({name: str(value) for name, value in chosen.items() if value})
        return f"/?{query}" if query else "/"

    return address
