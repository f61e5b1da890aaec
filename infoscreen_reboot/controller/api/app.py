"""Puts the routes together, and answers every error in one form."""

from __future__ import annotations

import functools
import logging
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute

from infoscreen_reboot import __version__
from infoscreen_reboot.controller.api import (
    batches,
    clients,
    commands,
    fleet,
    live,
    metrics,
    models,
    people,
    power,
    problems,
    recoveries,
    rollouts,
    schedules,
    sites,
    telling,
    views,
)
from infoscreen_reboot.controller.api.access import Call, Site
from infoscreen_reboot.controller.api.door import Door
from infoscreen_reboot.controller.api.problems import Problem
from infoscreen_reboot.controller.orders import Kind, Refused
from infoscreen_reboot.controller.store.database import StoreError

log = logging.getLogger(__name__)

PREFIX = "/api/v1"
_BY_STATUS = {
    401: "not_authenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
}
# Refusals that somebody should be able to read later: they may be an attack, or will be asked about.
_AUDITED = ("forbidden", "last_admin", Kind.NO_SUCH_CLIENT)
_TAGS = {
    "commands": "One command to one client: made, read, explained, cancelled.",
    "batches": "Many commands that are made together, from a preview.",
    "rollouts": "Many commands in stages, with a brake.",
    "clients": "Who there is, and who may get commands.",
    "recoveries": "What is done about clients that did not come back.",
    "power": "Ports of switches that feed clients, and power cycles.",
    "fleet": "What holds everybody.",
    "schedules": "Commands that are made night after night, and how each night ended.",
    "people": "Users, their tokens, and what everybody did.",
    "notices": "What people are told, and whether it has arrived.",
    "events": "What happens, as it happens.",
}


class App(FastAPI):
    """Two things of FastAPI's document are put right: it names two types for a refusal, and drops nulls in examples."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is not None:
            return self.openapi_schema
        document = super().openapi()
        operations = [operation for methods in document["paths"].values() for operation in methods.values()]
        for answer in (answer for operation in operations for answer in operation["responses"].values()):
            if problems.MEDIA_TYPE in answer.get("content", {}):
                del answer["content"]["application/json"]
        for name, schema in document["components"]["schemas"].items():
            if "examples" in schema:
                schema["examples"] = models.examples_of(name) or schema["examples"]
        return document


def create_app(site: Site) -> FastAPI:
    app = App(
        title="infoscreen-reboot-controller",
        version=__version__,
        description="Reboots and shuts down the clients of a fleet, and knows what became of every command.",
        openapi_url=f"{PREFIX}/openapi.json",
        openapi_tags=[{"name": name, "description": words} for name, words in _TAGS.items()],
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # it would be redirected to what the Host header says
    )
    app.state.site = site
    app.state.is_stopping = False
    app.state.pulse = live.Pulse(site)
    # How a refusal is answered: whoever adds pages for people answers there in a page.
    app.state.refuse = _refuse
    app.router.routes.extend(_routes())
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(Refused, _on_refused)
    app.add_exception_handler(StoreError, _on_store_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_bug)
    app.add_middleware(Door)
    return app


@functools.cache
def _routes() -> list[BaseRoute]:
    """They know nothing of a site. To make them takes more than a second, and whoever has many apps makes them once."""
    router = APIRouter(generate_unique_id_function=_operation_id)
    for part in (
        commands,
        batches,
        rollouts,
        clients,
        recoveries,
        power,
        fleet,
        sites,
        views,
        schedules,
        people,
        telling,
        live,
    ):
        router.include_router(part.router, prefix=PREFIX)
    router.include_router(metrics.router)
    router.add_api_route("/healthz", healthz, include_in_schema=False)
    router.add_api_route("/readyz", readyz, include_in_schema=False)
    return router.routes


def _operation_id(route: APIRoute) -> str:
    """`cancel_batch`, as a generated client names its function."""
    return str(route.operation_id or route.name)


def healthz() -> dict[str, str]:
    """The process lives."""
    return {"status": "ok"}


def readyz(request: Request) -> JSONResponse:
    """It can serve: the database answers, and no stop has begun."""
    if request.app.state.is_stopping:
        raise Problem("unavailable", "the server is stopping")
    with request.app.state.site.database.read():
        return JSONResponse({"status": "ok"})


def _refuse(request: Request, problem: Problem, headers: dict[str, str] | None) -> Response:
    return problems.answer(problem, headers)


def _answer(request: Request, problem: Problem, headers: dict[str, str] | None = None) -> Response:
    answer: Response = request.app.state.refuse(request, problem, headers)
    return answer


def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    if error.kind in _AUDITED:
        return _audited(request, error)
    return _answer(request, error)


def _on_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return _on_problem(request, Problem(error.kind, str(error), **error.details))


def _audited(request: Request, problem: Problem) -> Response:
    """What was begun is rolled back by now, so the refusal is a transaction of its own."""
    call: Call | None = getattr(request.state, "call", None)
    if call is not None:
        try:
            with call.site.database.write() as tx:
                call.note(tx, f"{request.method} {_template(request)}"[:64], None, problem.kind, _shortened(problem))
        except StoreError as error:
            return _on_store_error(request, error)
    return _answer(request, problem)


def _template(request: Request) -> str:
    """The address without the ids in it."""
    return str(getattr(request.scope.get("route"), "path_format", request.url.path))


def _shortened(problem: Problem) -> dict[str, Any]:
    said = {name: value[:20] if isinstance(value, list) else value for name, value in problem.more.items()}
    return {"detail": problem.detail, **said}


def _on_store_error(request: Request, error: Exception) -> Response:
    log.error("%s", error)
    return _answer(request, Problem("unavailable", "the database cannot be used now; try again"))


def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = [
        {"field": ".".join(str(part) for part in fault["loc"][1:])[:200], "rule": fault["msg"]}
        for fault in error.errors()[:50]
    ]
    words = "; ".join(f"{fault['field']}: {fault['rule']}" for fault in faults[:5])
    is_unreadable = any(fault["type"] == "json_invalid" for fault in error.errors())
    return _answer(request, Problem("bad_request" if is_unreadable else "invalid", words, faults=faults))


def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = _BY_STATUS.get(error.status_code, "bad_request")
    headers = {"Allow": _allowed(request)} if error.status_code == 405 else None
    return _answer(request, Problem(kind, str(error.detail)), headers)


def _allowed(request: Request) -> str:
    """Each route has one method, and several of them may have the same address."""
    found: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, APIRoute) and route.path_regex.match(request.url.path):
            found |= route.methods
    return ", ".join(sorted(found))


def _on_bug(request: Request, error: Exception) -> Response:
    # The handler runs in a thread of its own, which knows of no error.
    log.error("cannot answer %s %s", request.method, request.url.path, exc_info=error)
    return _answer(request, Problem("internal", "an error of ours; the log of the server says more"))
