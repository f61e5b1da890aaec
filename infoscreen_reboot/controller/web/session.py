"""Signing in and out, and who is asking. A session is a token like any other: it ends, and it can be revoked."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response

from infoscreen_reboot.controller import passwords, text
from infoscreen_reboot.controller.api import access
from infoscreen_reboot.controller.api.access import Call
from infoscreen_reboot.controller.api.problems import Problem
from infoscreen_reboot.controller.auth import Identity, Role
from infoscreen_reboot.controller.store import people
from infoscreen_reboot.controller.store.database import Database, Transaction
from infoscreen_reboot.controller.web import shell
from infoscreen_reboot.controller.web.attempts import Attempts

router = APIRouter()

# The prefix makes browsers refuse it from any other host, path or plain connection.
COOKIE = "__Host-infoscreen"
# A long shift; and as long as nobody wants to touch a screen on the wall, for who can only look.
LASTS = timedelta(hours=12)
LASTS_TO_LOOK = timedelta(days=30)
_VIA, _VIA_PROXY = "console", "proxy"
_WRONG = "Name and password do not fit together."
_NAMED = "The server in front of the console says that you are {name}. Continue as {name}, or sign out there."
_UNKNOWN = "The server in front of the console says that you are {name}. There is no such user here, or it is disabled."
_NO_TOKEN = "This token is unknown, has expired or was revoked."


class Form(dict[str, list[str]]):
    """What a page sends."""

    def text(self, name: str, most: int = 1000) -> str:
        """Empty if it is not there. Raises Problem for what nobody types into a field."""
        found = self.get(name, [""])[0].strip()
        if len(found) > most or "\0" in found:
            raise Problem("invalid", f"{name}: this is too long, or holds what is no text")
        return found

    def typed(self, name: str) -> str:
        """As it was typed, also with spaces around it: for passwords."""
        return self.get(name, [""])[0]

    def uuids(self, name: str) -> list[UUID]:
        """Each once."""
        try:
            return sorted({UUID(each) for each in self.get(name, [])})
        except ValueError:
            raise Problem("invalid", f"{name}: this is no UUID") from None


async def _form(request: Request) -> Form:
    try:
        return Form(parse_qs((await request.body()).decode(), keep_blank_values=True, max_num_fields=25_000))
    except ValueError:
        raise Problem("bad_request", "this is no form that a page of ours sends") from None


def is_from_here(request: Request) -> bool:
    """Whether a page of ours sends it. Browsers say so themselves where the connection can be trusted."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("Origin")
    return origin is not None and urlsplit(origin).netloc == request.headers.get("Host")


def _check_origin(request: Request) -> None:
    if not is_from_here(request):
        raise Problem("forbidden", "this came from a page of somebody else: open the console, and do it there")


def _needs(role: Role) -> Callable[..., Call]:
    def check(request: Request) -> Call:
        if request.method not in ("GET", "HEAD"):
            _check_origin(request)
        call, name = access.enter(request, role, request.cookies.get(COOKIE), _VIA), named(request)
        if name is not None and name != call.who.name:
            raise Problem("not_authenticated", _NAMED.format(name=name))
        return call

    return check


def named(request: Request) -> str | None:
    """Whom the server in front names. Only at the Unix socket: whoever reaches a port can send any header.

    Raises Problem if it names nobody, or two.
    """
    header = access.site(request).user_header
    if header is None or request.scope.get("server") is not None:
        return None
    found = request.headers.getlist(header)
    if not found:
        return None
    if len(found) > 1 or not found[0].strip():
        raise Problem("bad_request", f"the server in front has to send {header} once, with one name in it")
    return found[0].strip()


Sent = Annotated[Form, Depends(_form)]
Viewer = Annotated[Call, Depends(_needs(Role.VIEWER))]
Operator = Annotated[Call, Depends(_needs(Role.OPERATOR))]
Admin = Annotated[Call, Depends(_needs(Role.ADMIN))]


@router.get(shell.SIGN_IN)
def show_sign_in(request: Request) -> Response:
    return form(request, after=within(request.query_params.get("next", "")))


@router.post(shell.SIGN_IN)
def sign_in(request: Request, sent: Sent) -> Response:
    _check_origin(request)
    name, after = sent.text("name", 64), within(sent.text("next", 2000))
    who = named(request)
    if who is not None:
        secret, fault = _open_named(request, who, sent.text("named"))
    else:
        secret, fault = _open(request, name, sent.typed("password"), sent.text("token", 200))
    if secret is None:
        return form(request, 401, after, name, fault)
    return begun(secret, after)


@router.post("/sign-out")
def sign_out(call: Viewer) -> Response:
    with call.write() as (tx, _):
        people.revoke(tx, call.who.token_id)
        call.note(tx, "sign out", None, "done")
    answer = shell.see(shell.SIGN_IN)
    _give(answer, "", 0)
    return answer


def form(request: Request, status: int = 200, after: str = "", name: str = "", fault: str | None = None) -> Response:
    """Where one signs in."""
    provider = access.site(request).provider
    at = provider.host if provider is not None else None
    who = named(request)
    return shell.page(None, "sign-in.html", status, after=after, name=name, fault=fault, provider=at, named=who)


def begun(secret: str, after: str) -> Response:
    """The first page of a session."""
    answer = shell.see(after or "/")
    # The server knows when the session ends; the cookie may stay longer.
    _give(answer, secret, int(LASTS_TO_LOOK.total_seconds()))
    return answer


def _give(answer: Response, secret: str, lasts_s: int) -> None:
    answer.set_cookie(COOKIE, secret, max_age=lasts_s, path="/", secure=True, httponly=True, samesite="lax")


def within(wanted: str) -> str:
    """Where to go then: a page of ours, or the first one."""
    is_ours = wanted.startswith("/") and not wanted.startswith(("//", "/\\", shell.SIGN_IN)) and wanted.isprintable()
    return wanted if is_ours else ""


def address_of(request: Request) -> str | None:
    return request.client.host if request.client is not None else None


def open_session(tx: Transaction, who: Identity, via: str, address: str | None, lasts: timedelta) -> str:
    """Its secret."""
    ends = [end for end in (tx.now + lasts, who.expires_at) if end is not None]
    made = people.add_token(tx, who.name, "session of the console", who.role, who.may_shut_down, min(ends))
    people.note(tx, who.name, via, address, "sign in", made.token_id, "done")
    return made.secret


def _open_named(request: Request, name: str, sent: str) -> tuple[str | None, str | None]:
    """The same for whom the server in front names. He has seen under which name he comes in."""
    if sent != name:
        return None, _NAMED.format(name=name)
    is_name = text.is_clean(name, text.USER_NAME)
    with access.site(request).database.write() as tx:
        row = people.user_of(tx, name) if is_name else None
        # One of an OpenID provider may have the same name and be somebody else.
        if row is None or row["disabled_at"] is not None or row["subject"] is not None:
            said = name if is_name else "?"
            people.note(tx, said, _VIA_PROXY, address_of(request), "sign in", None, "refused")
            return None, _UNKNOWN.format(name=name)
        who = Identity(row["name"], Role(row["role"]), row["may_shut_down"], "")
        return open_session(tx, who, _VIA_PROXY, address_of(request), LASTS), None


def _open(request: Request, name: str, password: str, token: str) -> tuple[str | None, str | None]:
    """The secret of a new session, or why there is none."""
    site = access.site(request)
    attempts: Attempts = request.app.state.attempts
    now_s = time.monotonic()
    wait_s = attempts.wait_s(name, now_s)
    if not token and wait_s > 0:
        return None, f"Too many wrong passwords for {name}. Try again in {shell.span(wait_s)}."
    if token:
        with site.database.read() as tx:
            who = people.identify(tx, token)
    else:
        # Counted before it is tried: many at once are no way around it.
        attempts.fail(name, now_s)
        who = _by_password(site.database, name, password)
    with site.database.write() as tx:
        if who is None:
            people.note(tx, name or "?", _VIA, address_of(request), "sign in", None, "refused")
            return None, _NO_TOKEN if token else _WRONG
        lasts = LASTS_TO_LOOK if who.role is Role.VIEWER else LASTS
        secret = open_session(tx, who, _VIA, address_of(request), lasts)
    attempts.forget(name)
    return secret, None


def _by_password(database: Database, name: str, password: str) -> Identity | None:
    """One is tried after the other: meanwhile nobody's connection to the database is kept."""
    with database.read() as tx:
        row = people.user_of(tx, name)
    is_ours = row is not None and row["disabled_at"] is None and row["subject"] is None
    stored = row["password_hash"] if row is not None and is_ours else None
    if not passwords.is_right(stored, password) or row is None or stored is None:
        return None
    if passwords.is_outdated(stored):
        made = passwords.hashed(password)
        with database.write() as tx:
            if people.password_hash_of(tx, name) == stored:  # nobody has set another one meanwhile
                people.set_password(tx, name, made)
    return Identity(row["name"], Role(row["role"]), row["may_shut_down"], "")
