"""Who is calling, and what that role may do. Every route names the role that it needs; a test walks all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from infoscreen_reboot.controller import brake, sending
from infoscreen_reboot.controller.api.problems import Problem
from infoscreen_reboot.controller.auth import Identity, Role
from infoscreen_reboot.controller.lifecycle import Limits
from infoscreen_reboot.controller.oidc import Provider
from infoscreen_reboot.controller.orders import Caller, House
from infoscreen_reboot.controller.power.outlet import Outlets
from infoscreen_reboot.controller.sending import Deliver
from infoscreen_reboot.controller.store import people
from infoscreen_reboot.controller.store.database import Database, StoreError, Transaction
from infoscreen_reboot.controller.targets import Target

_bearer = HTTPBearer(auto_error=False, description="A token of `infoscreen-rebootctl token`")
_NO_TOKEN = "this token is unknown, has expired or was revoked"
_WAYS = ("api", "cli")


@dataclass(frozen=True, slots=True)
class Site:
    """What the routes work on. `targets` are those who are told; of their file there may be faults.

    `wake` tells the engine that there is something to do. `rubbish` says how many messages this process could not use,
    and what they were. `outlets` read ports, and switch them on. `max_failed` is the brake of a rollout that names
    none. `provider` is who else says of people who they are, and so does a server in front, in `user_header`.
    """

    database: Database
    house: House
    limits: Limits
    wake: Callable[[], None]
    rubbish: Callable[[], Mapping[str, int]] = field(default=dict)
    outlets: Outlets = field(default_factory=Outlets)
    targets: tuple[Target, ...] = ()
    notify_faults: tuple[str, ...] = ()
    deliver: Deliver = sending.deliver
    max_failed: str = brake.MAX_FAILED
    provider: Provider | None = None
    user_header: str | None = None

    @property
    def fleet_zone(self) -> str:
        return self.house.zone


@dataclass(frozen=True, slots=True)
class Call:
    """A request of somebody who may make it."""

    site: Site
    who: Identity
    needs: Role
    via: str
    address: str | None

    @contextlib.contextmanager
    def read(self) -> Iterator[Transaction]:
        with self.site.database.read() as tx:
            yield tx

    @contextlib.contextmanager
    def write(self) -> Iterator[tuple[Transaction, Caller]]:
        """A transaction, and the caller with the rights that he has in it: a token may just have been revoked."""
        with self.site.database.write() as tx:
            now = people.identify_again(tx, self.who.token_id)
            if now is None:
                raise Problem("not_authenticated", _NO_TOKEN)
            _check(now, self.needs)
            yield tx, Caller(now.name, self.via, self.address, now.may_shut_down)

    def note(
        self, tx: Transaction, what: str, target: str | None, outcome: str, content: Mapping[str, Any] | None = None
    ) -> None:
        """One line of the audit."""
        people.note(tx, self.who.name, self.via, self.address, what, target, outcome, content)


def site(request: Request) -> Site:
    found: Site = request.app.state.site
    return found


def _needs(role: Role) -> Callable[..., Call]:
    """A dependency that hands over the call, if the caller has that role."""

    def check(
        request: Request,
        given: HTTPAuthorizationCredentials | None = Depends(_bearer),  # noqa: B008  # FastAPI's way
    ) -> Call:
        via = request.headers.get("X-Requested-Via", "api")
        return enter(request, role, given.credentials if given is not None else None, via if via in _WAYS else "api")

    return check


def enter(request: Request, role: Role, secret: str | None, via: str) -> Call:
    """The call of whoever has that token. Raises Problem if it is of no use, or may not do that."""
    if secret is None:
        raise Problem("not_authenticated", "send a token: `Authorization: Bearer …`")
    database = site(request).database
    with database.read() as tx:
        who = people.identify(tx, secret)
        is_use_due = who is not None and people.is_use_due(who.used_at, tx.now)
    if who is None:
        raise Problem("not_authenticated", _NO_TOKEN)
    address = request.client.host if request.client is not None else None
    call = Call(site(request), who, role, via, address)
    request.state.call = call  # for the audit of what is refused
    _check(who, role)
    if is_use_due:
        _note_use(database, who.token_id)
    return call


def _check(who: Identity, needed: Role) -> None:
    if not who.role.covers(needed):
        raise Problem("forbidden", f"this needs the role {needed}, and {who.name} is {who.role} here")


def _note_use(database: Database, token_id: str) -> None:
    # Whoever only wants to read can do so while nobody can write.
    with contextlib.suppress(StoreError), database.write() as tx:
        people.note_use(tx, token_id)


Viewer = Annotated[Call, Depends(_needs(Role.VIEWER))]
Operator = Annotated[Call, Depends(_needs(Role.OPERATOR))]
Admin = Annotated[Call, Depends(_needs(Role.ADMIN))]
