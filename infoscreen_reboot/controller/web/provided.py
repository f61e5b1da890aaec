"""Signing in by an OpenID provider: the way to it, and the way back."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote, unquote

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from infoscreen_reboot.controller import config, grants, oidc
from infoscreen_reboot.controller.api import access
from infoscreen_reboot.controller.api.access import Site
from infoscreen_reboot.controller.api.problems import Problem
from infoscreen_reboot.controller.auth import Identity
from infoscreen_reboot.controller.oidc import Provider, Trip
from infoscreen_reboot.controller.store import people
from infoscreen_reboot.controller.web import session, shell

log = logging.getLogger(__name__)
router = APIRouter()

# For whoever is on the way. Lax, because it has to come back from another site.
TRIP = "__Host-infoscreen-trip"
_LASTS_S = 600
# A browser keeps 4 kB of a cookie.
_LONGEST_AFTER = 1500
_VIA = "oidc"
_ELSEWHERE = "This sign-in was begun in another browser, or too long ago. Begin again, at {url}."
_AWAY = (
    "{host} cannot sign you in now. Try again later, or use a password or a token; an admin finds the cause in the log."
)
_NOT_PROVED = "What {host} says of you cannot be checked. Begin again. The log says why."
_DECLINED = "{host} did not sign you in."
_NO_ROLE = "{host} knows you, but gives you no role here. Ask whoever manages the groups there."
_NO_NAME = "{host} says no name of you that can be one here: letters, digits, dots and the like, 64 at most."
_DISABLED = "{name} is disabled here. Ask an admin of this controller."


@router.get("/sign-in/oidc")
async def go(request: Request) -> Response:
    provider, trip = _provider(request), oidc.new_trip()
    after = quote(session.within(request.query_params.get("next", "")), safe="")
    try:
        address = await provider.address(trip)
    except oidc.Unavailable as error:
        return _failed(request, provider, _AWAY, error)
    answer = shell.see(address)
    kept = after if len(after) <= _LONGEST_AFTER else ""
    _keep(answer, ".".join((trip.state, trip.nonce, trip.verifier, kept)), _LASTS_S)
    return answer


@router.get(config.OIDC_CALLBACK)
async def come_back(request: Request) -> Response:
    """A code is good for one try, whatever comes of it."""
    answer = await _come_back(request)
    _keep(answer, "", 0)
    return answer


async def _come_back(request: Request) -> Response:
    provider, given = _provider(request), request.query_params
    kept = request.cookies.get(TRIP, "").split(".", 3)
    is_whole = len(kept) == 4 and all(kept[:3])  # the fourth may be empty
    if not is_whole or not hmac.compare_digest(kept[0].encode(), given.get("state", "").encode()):
        return session.form(request, 401, fault=_ELSEWHERE.format(url=provider.settings.console))
    trip, after = Trip(*kept[:3]), session.within(unquote(kept[3]))
    code = given.get("code")
    if not code:
        return _refused(request, after, _DECLINED.format(host=provider.host))
    site = access.site(request)
    try:
        now = await run_in_threadpool(_clock, site)
        claims = await provider.claims(code, trip, now)
    except oidc.Unavailable as error:
        return _failed(request, provider, _AWAY, error)
    except oidc.NotProved as error:
        return _failed(request, provider, _NOT_PROVED, error, 401)
    secret, fault = await run_in_threadpool(_enter, site, provider, claims, session.address_of(request))
    return _refused(request, after, fault) if secret is None else session.begun(secret, after)


def _provider(request: Request) -> Provider:
    found = access.site(request).provider
    if found is None:
        raise Problem("not_found", "no provider of sign-ins is set here: sign in with a password or a token")
    return found


def _keep(answer: Response, kept: str, lasts_s: int) -> None:
    answer.set_cookie(TRIP, kept, max_age=lasts_s, path="/", secure=True, httponly=True, samesite="lax")


def _failed(request: Request, provider: Provider, words: str, error: Exception, status: int = 503) -> Response:
    log.warning("cannot sign somebody in by %s: %s", provider.host, error)
    return session.form(request, status, fault=words.format(host=provider.host))


def _refused(request: Request, after: str, fault: str | None) -> Response:
    return session.form(request, 401, after, fault=fault)


def _clock(site: Site) -> datetime:
    with site.database.read() as tx:
        return tx.now


def _enter(
    site: Site, provider: Provider, claims: Mapping[str, Any], address: str | None
) -> tuple[str | None, str | None]:
    """The secret of a new session, or why there is none. The role is the one that the provider gives now."""
    settings = provider.settings
    subject = f"{settings.issuer} {claims['sub']}"
    role = settings.grants.role_of(claims)
    with site.database.write() as tx:
        user = people.provided(tx, subject)
        name = grants.name_in(claims) if user is None else user["name"]
        is_disabled = user is not None and user["disabled_at"] is not None
        if role is None or name is None or is_disabled:
            if role is None and user is not None:
                people.revoke_all(tx, user["name"])
            people.note(tx, name or "?", _VIA, address, "sign in", None, "refused")
            words = _DISABLED if is_disabled else _NO_ROLE if role is None else _NO_NAME
            return None, words.format(host=provider.host, name=name)
        if user is None:
            name = people.add_provided(tx, subject, name, role)
            people.note(tx, name, _VIA, address, "add user", name, "made", {"role": str(role)})
        elif user["role"] != role:
            people.set_role(tx, name, role)
            people.note(tx, name, _VIA, address, "change user", name, "changed", {"role": str(role)})
        who = Identity(name, role, user is not None and user["may_shut_down"], "")
        return session.open_session(tx, who, _VIA, address, session.LASTS), None
