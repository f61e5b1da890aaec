"""Who is calling, and what that role may do. Every route names the role that it needs; a test walks all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from infoscreen_reboot.controller.api.problems import Problem
from infoscreen_reboot.controller.auth import Identity, Role
from infoscreen_reboot.controller.lifecycle import Limits
from infoscreen_reboot.controller.orders import Caller, House
from infoscreen_reboot.controller.store import people
from infoscreen_reboot.controller.store.database import Database

_bearer = HTTPBearer(auto_error=False, description="A token of `infoscreen-rebootctl token`")


@dataclass(frozen=True, slots=True)
class Site:
    """What the routes work on. `wake` tells the engine that there is something to do."""

    database: Database
    house: House
    limits: Limits
    wake: Callable[[], None]


def site(request: Request) -> Site:
    found: Site = request.app.state.site
    return found


def identity(
    request: Request,
    given: HTTPAuthorizationCredentials | None = Depends(_bearer),  # noqa: B008  # FastAPI's way
) -> Identity:
    if given is None:
        raise Problem("not_authenticated", "send a token: `Authorization: Bearer …`")
    with site(request).database.read() as tx:
        found = people.identify(tx, given.credentials)
    if found is None:
        raise Problem("not_authenticated", "this token is unknown, has expired or was revoked")
    return found


class Needs:
    """The role that a route needs, as a dependency that hands over who is calling."""

    def __init__(self, role: Role) -> None:
        self.role = role

    def __call__(self, found: Identity = Depends(identity)) -> Identity:  # noqa: B008
        if not found.role.covers(self.role):
            raise Problem("forbidden", f"this needs the role {self.role}, and {found.name} is {found.role} here")
        return found


viewer, operator, admin = Needs(Role.VIEWER), Needs(Role.OPERATOR), Needs(Role.ADMIN)


def caller(request: Request, who: Identity) -> Caller:
    """The same person to whom the rules answer. A console or a CLI says itself by which way it comes."""
    via = request.headers.get("X-Requested-Via", "api")
    address = request.client.host if request.client is not None else None
    return Caller(who.name, via if via in ("api", "cli", "console") else "api", address, who.may_shut_down)
