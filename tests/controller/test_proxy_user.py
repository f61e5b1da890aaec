"""A web server in front that knows its users: whom it may name, and where it is believed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.store import people
from infoscreen_reboot.controller.store.database import Database
from infoscreen_reboot.controller.store.tables import audit
from infoscreen_reboot.controller.web.session import COOKIE
from tests.controller.played_fleet import Fleet
from tests.controller.test_console import FROM_HERE, Visitor
from tests.controller.web import Web

HEADER = "X-Forwarded-User"


@pytest.fixture
def front(sqlite: Database, tmp_path: Path) -> Iterator[httpx.Client]:
    """What the server in front has: the socket."""
    fleet = Fleet(sqlite)
    fleet.app.state.site = replace(fleet.site, user_header=HEADER)
    path = tmp_path / "api.sock"
    transport = httpx.HTTPTransport(uds=str(path))
    with fleet.serving(path), httpx.Client(transport=transport, base_url="http://localhost", timeout=60) as http:
        yield http


def enter(front: httpx.Client, name: str, seen: str | None = None) -> httpx.Response:
    """By the button of the sign-in page, which shows the name."""
    return front.post("/sign-in", data={"named": seen or name}, headers={HEADER: name} | FROM_HERE)


def audited(database: Database) -> list[Any]:
    with database.read() as tx:
        return [tuple(line) for line in tx.db.execute(select(audit.c.who, audit.c.via, audit.c.what, audit.c.outcome))]


def test_whom_the_server_in_front_names_comes_in_as_that(front: httpx.Client, sqlite: Database) -> None:
    page = front.get("/sign-in", headers={HEADER: "an-operator"}).text
    assert "Continue as an-operator" in page
    assert 'name="password"' not in page
    answer = enter(front, "an-operator")
    assert answer.status_code == 303
    cookie = {"Cookie": f"{COOKIE}={answer.cookies[COOKIE]}"}
    assert "signed in as operator" in front.get("/me", headers=cookie | {HEADER: "an-operator"}).text
    assert audited(sqlite) == [("an-operator", "proxy", "sign in", "done")]
    other = front.get("/me", headers=cookie | {HEADER: "an-admin"})
    assert (other.status_code, other.headers["location"]) == (303, "/sign-in?next=/me"), "it is not the other's session"
    forged = front.post("/sign-in", data={"named": "an-admin"}, headers={HEADER: "an-admin", "Origin": "https://x"})
    assert forged.status_code == 403


def test_it_names_nobody_who_is_unknown_disabled_or_of_a_provider(front: httpx.Client, sqlite: Database) -> None:
    with sqlite.write() as tx:
        people.change_user(tx, "an-operator", None, None, True)
        people.add_provided(tx, "https://idp.example 17", "ann", Role.ADMIN)
    for name in ("nobody", "an-operator", "ann", "An-Admin", "x" * 300, "<b>"):
        answer = enter(front, name)
        assert answer.status_code == 401
        assert "no such user here, or it is disabled" in answer.text
        assert "<b>" not in answer.text
        assert COOKIE not in answer.cookies
    assert ("an-operator", "proxy", "sign in", "refused") in audited(sqlite)


def test_the_button_is_for_the_name_that_it_shows(front: httpx.Client) -> None:
    answer = enter(front, "an-admin", seen="an-operator")
    assert answer.status_code == 401
    assert "Continue as an-admin" in answer.text
    password = front.post("/sign-in", data={"name": "an-admin", "password": "x"}, headers={HEADER: "ann"} | FROM_HERE)
    assert "says that you are ann" in password.text


def test_a_header_that_names_nobody_or_two_is_refused(front: httpx.Client) -> None:
    entered = enter(front, "an-operator")
    cookie = [("Cookie", f"{COOKIE}={entered.cookies[COOKIE]}")]
    for given in ([(HEADER, "")], [(HEADER, "an-operator"), (HEADER, "an-operator")]):
        for path in ("/sign-in", "/me", "/live"):
            answer = front.get(path, headers=[*cookie, *given])
            assert answer.status_code == 400, path
            assert "once, with one name in it" in answer.text


def test_without_the_header_one_signs_in_as_always(front: httpx.Client) -> None:
    assert 'name="password"' in front.get("/sign-in").text
    assert "do not fit" in front.post("/sign-in", data={"name": "an-admin", "password": "x"}, headers=FROM_HERE).text


def test_at_a_port_the_header_is_ignored(sqlite: Database) -> None:
    web = Web(sqlite)
    web.app.state.site = replace(web.app.state.site, user_header=HEADER)
    visitor = Visitor(web)
    visitor.http.headers[HEADER] = "a admin"
    assert "Continue as" not in visitor.get("/sign-in").text
    assert visitor.post("/sign-in", named="a admin").status_code == 401
    assert "a viewer" in visitor.sign_in(Role.VIEWER).get("/me").text
