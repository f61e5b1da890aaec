"""Adds the pages to the API's app."""

from __future__ import annotations

import functools
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import FileResponse
from starlette.routing import BaseRoute

from infoscreen_reboot.controller.api import problems
from infoscreen_reboot.controller.api.access import Site
from infoscreen_reboot.controller.api.problems import Problem
from infoscreen_reboot.controller.web import (
    account,
    action,
    audit,
    batches,
    client,
    draft,
    fleet,
    holds,
    labels,
    live,
    newcomers,
    nights,
    ports,
    provided,
    record,
    revision,
    rollouts,
    schedules,
    session,
    shell,
    users,
    views,
)
from infoscreen_reboot.controller.web.attempts import Attempts

# Debian's; it is not in our tree.
HTMX = Path("/usr/share/javascript/htmx/htmx.min.js")
_FILES = {
    "console.css": "text/css",
    "console.js": "text/javascript",
    "icon.svg": "image/svg+xml",
    "htmx.min.js": "text/javascript",
}


def add_pages(app: FastAPI, site: Site) -> None:
    app.state.attempts = Attempts()
    app.state.changes = live.Changes(site)
    app.state.numbers = fleet.Numbers()
    app.state.refuse = _refuse
    app.router.routes.extend(_routes())


@functools.cache
def _routes() -> list[BaseRoute]:
    router = APIRouter(include_in_schema=False)
    for part in (
        *(
            session,
            provided,
            live,
            fleet,
            views,
            labels,
            client,
            action,
            batches,
            schedules,
            revision,
            nights,
            rollouts,
            draft,
        ),
        *(newcomers, record, ports, holds, audit, account, users),
    ):
        router.include_router(part.router)
    router.add_api_route("/static/{name}", static)
    return router.routes


def static(name: str) -> Response:
    """Asked again each time, and answered in a word while it has not changed: an upgrade is seen at once."""
    if name not in _FILES:
        raise Problem("not_found", f"there is no file {name[:60]}")
    file = HTMX if name == HTMX.name else shell.HERE / "static" / name
    return FileResponse(file, media_type=_FILES[name], headers={"Cache-Control": "no-cache"})


def _refuse(request: Request, problem: Problem, headers: dict[str, str] | None) -> Response:
    if shell.is_page(request):
        return shell.refusal(request, problem)
    return problems.answer(problem, headers)
