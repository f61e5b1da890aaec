"""Puts the routes together, and answers every error in one form."""

from __future__ import annotations

import logging

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from infoscreen_reboot import __version__
from infoscreen_reboot.controller.api import batches, clients, commands, fleet, live, problems
from infoscreen_reboot.controller.api.access import Site
from infoscreen_reboot.controller.api.problems import Problem
from infoscreen_reboot.controller.orders import Refused
from infoscreen_reboot.controller.store.database import StoreError

log = logging.getLogger(__name__)

PREFIX = "/api/v1"
_BY_STATUS = {401: "not_authenticated", 403: "forbidden", 404: "not_found", 405: "method_not_allowed"}


def create_app(site: Site) -> FastAPI:
    app = FastAPI(
        title="infoscreen-reboot-controller",
        version=__version__,
        description="Reboots and shuts down the clients of a fleet, and knows what became of every command.",
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    app.state.site = site
    app.state.is_stopping = False
    api = APIRouter(prefix=PREFIX)
    for routes in (commands, batches, clients, fleet, live):
        api.include_router(routes.router)
    app.include_router(api)
    app.add_api_route("/healthz", healthz, include_in_schema=False)
    app.add_api_route("/readyz", readyz, include_in_schema=False)
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(Refused, _on_refused)
    app.add_exception_handler(StoreError, _on_store_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_bug)
    return app


def healthz() -> dict[str, str]:
    """The process lives."""
    return {"status": "ok"}


def readyz(request: Request) -> JSONResponse:
    """It can serve: the database answers."""
    with request.app.state.site.database.read():
        return JSONResponse({"status": "ok"})


def _on_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)
    return problems.answer(request, error)


def _on_refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refused)
    return problems.answer(request, Problem(error.kind, str(error), **error.details))


def _on_store_error(request: Request, error: Exception) -> JSONResponse:
    log.error("%s", error)
    return problems.answer(request, Problem("unavailable", "the database cannot be used now; try again"))


def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    faults = [
        {"field": ".".join(str(part) for part in fault["loc"][1:]), "rule": fault["msg"]} for fault in error.errors()
    ]
    words = "; ".join(f"{fault['field']}: {fault['rule']}" for fault in faults[:5])
    is_unreadable = any(fault["type"] == "json_invalid" for fault in error.errors())
    return problems.answer(request, Problem("bad_request" if is_unreadable else "invalid", words, faults=faults))


def _on_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    kind = _BY_STATUS.get(error.status_code, "bad_request")
    return problems.answer(request, Problem(kind, str(error.detail)))


def _on_bug(request: Request, error: Exception) -> JSONResponse:
    log.exception("cannot answer %s %s", request.method, request.url.path)
    return problems.answer(request, Problem("internal", "an error of ours; the log of the server says more"))
