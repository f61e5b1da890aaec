"""The console's pages, as a browser without scripts gets them: who may enter, and what an order wants."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import uuid4

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from sqlalchemy import update

from infoscreen_reboot.controller import passwords
from infoscreen_reboot.controller.api.app import create_app
from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.store import people
from infoscreen_reboot.controller.store.database import Database
from infoscreen_reboot.controller.store.tables import client, label
from infoscreen_reboot.controller.web import attempts, labels
from infoscreen_reboot.controller.web.attempts import Attempts
from infoscreen_reboot.controller.web.session import COOKIE, LASTS, LASTS_TO_LOOK
from infoscreen_reboot.controller.web.shell import POLICY, span
from tests.controller.web import Web

HERE = "https://console.example"
FROM_HERE = {"Origin": HERE, "Sec-Fetch-Site": "same-origin"}
PASSWORD = "four words and 1 more"
HOSTILE = '<img src=x onerror=alert(1)>"\u202e=cmd|x\x1b[31m'


# Which page wants which role. What has none stands open.
PAGES = {
    ("GET", "/sign-in"): None,
    ("POST", "/sign-in"): None,
    ("GET", "/sign-in/oidc"): None,
    ("GET", "/sign-in/oidc/back"): None,
    ("GET", "/static/{name}"): None,
    ("POST", "/sign-out"): Role.VIEWER,
    ("GET", "/live"): Role.VIEWER,
    ("GET", "/"): Role.VIEWER,
    ("GET", "/rows"): Role.VIEWER,
    ("GET", "/labels"): Role.VIEWER,
    ("POST", "/views"): Role.VIEWER,
    ("POST", "/views/remove"): Role.VIEWER,
    ("GET", "/c/{uuid}"): Role.VIEWER,
    ("POST", "/c/{uuid}/cancel/{command_id}"): Role.OPERATOR,
    ("POST", "/confirm"): Role.OPERATOR,
    ("POST", "/order"): Role.OPERATOR,
    ("GET", "/batches"): Role.VIEWER,
    ("GET", "/batches/{batch_id}"): Role.VIEWER,
    ("GET", "/batches/{batch_id}/members.{form}"): Role.VIEWER,
    ("POST", "/batches/{batch_id}/cancel"): Role.OPERATOR,
    ("GET", "/schedules"): Role.VIEWER,
    ("POST", "/schedules"): Role.OPERATOR,
    ("GET", "/schedules/new"): Role.OPERATOR,
    ("POST", "/schedules/new"): Role.OPERATOR,
    ("GET", "/schedules/{schedule_id}"): Role.VIEWER,
    ("GET", "/schedules/{schedule_id}/change"): Role.OPERATOR,
    ("POST", "/schedules/{schedule_id}/change"): Role.OPERATOR,
    ("POST", "/schedules/{schedule_id}"): Role.OPERATOR,
    ("POST", "/schedules/{schedule_id}/pause"): Role.OPERATOR,
    ("POST", "/schedules/{schedule_id}/resume"): Role.OPERATOR,
    ("POST", "/schedules/{schedule_id}/skip"): Role.OPERATOR,
    ("POST", "/schedules/{schedule_id}/unskip"): Role.OPERATOR,
    ("POST", "/schedules/{schedule_id}/run"): Role.OPERATOR,
    ("POST", "/schedules/{schedule_id}/run/order"): Role.OPERATOR,
    ("GET", "/nights/{night_id}"): Role.VIEWER,
    ("GET", "/nights/{night_id}/report.csv"): Role.VIEWER,
    ("GET", "/rollouts"): Role.VIEWER,
    ("GET", "/rollouts/{rollout_id}"): Role.VIEWER,
    ("POST", "/rollouts/{rollout_id}/pause"): Role.OPERATOR,
    ("GET", "/rollouts/{rollout_id}/resume"): Role.OPERATOR,
    ("POST", "/rollouts/{rollout_id}/resume"): Role.OPERATOR,
    ("GET", "/rollouts/{rollout_id}/recovery"): Role.OPERATOR,
    ("POST", "/rollouts/{rollout_id}/recovery"): Role.OPERATOR,
    ("GET", "/rollouts/{rollout_id}/abort"): Role.OPERATOR,
    ("POST", "/rollouts/{rollout_id}/abort"): Role.OPERATOR,
    ("GET", "/rollouts/{rollout_id}/rollback"): Role.OPERATOR,
    ("POST", "/rollouts/{rollout_id}/rollback"): Role.OPERATOR,
    ("GET", "/rollouts/new"): Role.OPERATOR,
    ("POST", "/rollouts/new"): Role.OPERATOR,
    ("POST", "/rollouts"): Role.OPERATOR,
    ("GET", "/unknown"): Role.VIEWER,
    ("POST", "/standing/confirm"): Role.ADMIN,
    ("POST", "/standing"): Role.ADMIN,
    ("POST", "/c/{uuid}/accept"): Role.ADMIN,
    ("POST", "/c/{uuid}/reject"): Role.ADMIN,
    ("GET", "/c/{uuid}/change"): Role.OPERATOR,
    ("POST", "/c/{uuid}/change"): Role.OPERATOR,
    ("GET", "/c/{uuid}/retire"): Role.ADMIN,
    ("POST", "/c/{uuid}/retire"): Role.ADMIN,
    ("GET", "/ports"): Role.ADMIN,
    ("GET", "/c/{uuid}/port"): Role.ADMIN,
    ("POST", "/c/{uuid}/port"): Role.ADMIN,
    ("POST", "/c/{uuid}/port/test"): Role.ADMIN,
    ("POST", "/c/{uuid}/port/remove"): Role.ADMIN,
    ("GET", "/holds"): Role.VIEWER,
    ("POST", "/notify/test"): Role.ADMIN,
    ("POST", "/freezes"): Role.OPERATOR,
    ("POST", "/freezes/{freeze_id}/end"): Role.OPERATOR,
    ("GET", "/audit"): Role.ADMIN,
    ("GET", "/me"): Role.VIEWER,
    ("POST", "/me/password"): Role.VIEWER,
    ("POST", "/me/tokens"): Role.VIEWER,
    ("POST", "/me/revoke/{token_id}"): Role.VIEWER,
    ("GET", "/users"): Role.ADMIN,
    ("POST", "/users"): Role.ADMIN,
    ("GET", "/users/{name}"): Role.ADMIN,
    ("POST", "/users/{name}"): Role.ADMIN,
    ("POST", "/users/{name}/password"): Role.ADMIN,
    ("POST", "/users/{name}/revoke/{token_id}"): Role.ADMIN,
}


class Visitor:
    """Somebody with a browser."""

    def __init__(self, web: Web) -> None:
        self.web = web
        self.http = TestClient(web.app, base_url=HERE, raise_server_exceptions=False, follow_redirects=False)

    def sign_in(self, role: Role) -> Visitor:
        answer = self.post("/sign-in", token=self.web.tokens[role].secret)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        return self

    def get(self, path: str, **headers: str) -> Any:
        return self.http.get(path, headers=headers)

    def post(self, path: str, headers: dict[str, str] | None = None, **fields: Any) -> Any:
        return self.http.post(path, data=fields, headers=FROM_HERE if headers is None else headers)

    def confirmed(self, **fields: Any) -> tuple[Any, dict[str, Any]]:
        """The confirmation, and what its form would send."""
        page = self.post("/confirm", action="reboot_host", **fields)
        form = page.text.partition('action="/order"')[2]
        found: dict[str, Any] = {"client": []}
        for name, value in re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form):
            if name == "client":
                found["client"].append(value)
            else:
                found[name] = value
        return page, found


@pytest.fixture
def web(sqlite: Database) -> Web:
    """On SQLite only: pages see the API's functions, and those are tried on both."""
    return Web(sqlite)


@pytest.fixture
def visitor(web: Web) -> Visitor:
    return Visitor(web)


@pytest.fixture
def operator(visitor: Visitor) -> Visitor:
    return visitor.sign_in(Role.OPERATOR)


def commands(web: Web) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = web.call("GET", "/commands").json()["items"]
    return found


# --- Who may enter


def test_every_page_stands_in_the_matrix_and_each_role_gets_what_it_may(web: Web) -> None:
    api = {route.path for route in create_app(web.app.state.site).routes if isinstance(route, APIRoute)}
    pages = {
        (method, route.path_format)
        for route in web.app.routes
        if isinstance(route, APIRoute) and route.path not in api
        for method in route.methods
    }
    assert pages == PAGES.keys()
    stranger, people_of = Visitor(web), {role: Visitor(web).sign_in(role) for role in (Role.VIEWER, Role.OPERATOR)}
    for (method, path), needed in PAGES.items():
        if needed is None or path in ("/live", "/sign-out", "/me/password"):
            continue
        address = re.sub(r"{\w+}", str(uuid4()), path)
        answer = stranger.http.request(method, address, headers=FROM_HERE)
        assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/sign-in"), path
        for role, visitor in people_of.items():
            status = visitor.http.request(method, address, headers=FROM_HERE).status_code
            assert (status == 403) != role.covers(needed), (method, path, role, status)
    for path in ("/live", "/sign-out", "/me/password"):
        method = "GET" if path == "/live" else "POST"
        assert stranger.http.request(method, path, headers=FROM_HERE).headers["location"].startswith("/sign-in")


def test_whoever_is_not_signed_in_is_led_there_and_back(visitor: Visitor) -> None:
    answer = visitor.get("/?condition=offline")
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in?next=/%3Fcondition%3Doffline")
    answer = visitor.post("/sign-in", token=visitor.web.tokens[Role.VIEWER].secret, next="/?condition=offline")
    assert answer.headers["location"] == "/?condition=offline"
    assert visitor.get("/?condition=offline").status_code == 200


@pytest.mark.parametrize("after", ["https://evil.example/", "//evil.example", "/\\evil.example", "/sign-in", "/a\nb"])
def test_after_signing_in_nobody_is_led_elsewhere(visitor: Visitor, after: str) -> None:
    answer = visitor.post("/sign-in", token=visitor.web.tokens[Role.VIEWER].secret, next=after)
    assert answer.headers["location"] == "/"


def test_a_password_lets_in_and_a_wrong_one_does_not(visitor: Visitor) -> None:
    with visitor.web.database.write() as tx:
        people.set_password(tx, "a operator", passwords.hashed(PASSWORD))
    for name, password in (("a operator", "another one"), ("nobody", PASSWORD), ("a viewer", "")):
        answer = visitor.post("/sign-in", name=name, password=password)
        assert answer.status_code == 401
        assert "do not fit together" in answer.text
        assert COOKIE not in visitor.http.cookies
    assert visitor.post("/sign-in", name="a operator", password=PASSWORD).status_code == 303
    assert "a operator" in visitor.get("/").text
    lines = visitor.web.call("GET", "/audit", Role.ADMIN).json()["items"]
    told = [(line["who"], line["via"], line["outcome"]) for line in lines if line["what"] == "sign in"]
    assert told[0] == ("a operator", "console", "done")
    assert told[1:] == [(name, "console", "refused") for name in ("a viewer", "nobody", "a operator")]
    assert PASSWORD not in str(lines)


def test_a_disabled_user_does_not_get_in(visitor: Visitor) -> None:
    with visitor.web.database.write() as tx:
        people.set_password(tx, "a operator", passwords.hashed(PASSWORD))
        people.change_user(tx, "a operator", None, None, True)
    assert visitor.post("/sign-in", name="a operator", password=PASSWORD).status_code == 401


def test_after_five_wrong_passwords_the_right_one_waits_too(visitor: Visitor) -> None:
    with visitor.web.database.write() as tx:
        people.set_password(tx, "a operator", passwords.hashed(PASSWORD))
    for _ in range(attempts.MOST):
        assert "do not fit" in visitor.post("/sign-in", name="a operator", password="guessed").text
    assert "Try again in 1" in visitor.post("/sign-in", name="a operator", password=PASSWORD).text
    assert visitor.post("/sign-in", name="a viewer", password="guessed").status_code == 401
    visitor.sign_in(Role.OPERATOR)  # a token is nothing to guess


def test_attempts_are_forgotten_with_time_and_their_memory_is_bounded() -> None:
    found = Attempts()
    for second in range(attempts.MOST):
        assert found.wait_s("ann", second) == 0
        found.fail("ann", second)
    assert found.wait_s("ann", 10) == attempts.WITHIN_S - 10
    assert found.wait_s("ben", 10) == 0
    assert found.wait_s("ann", attempts.WITHIN_S) == 0
    for number in range(3000):
        found.fail(f"made up {number}", 20)
    assert len(found._failed) == 1000


def test_a_session_ends_with_signing_out_and_when_it_is_revoked(web: Web) -> None:
    first, second = Visitor(web).sign_in(Role.OPERATOR), Visitor(web).sign_in(Role.OPERATOR)
    secret = first.http.cookies[COOKIE]
    assert first.post("/sign-out").headers["location"] == "/sign-in"
    assert COOKIE not in first.http.cookies
    first.http.cookies.set(COOKIE, secret)
    assert first.get("/").status_code == 303
    sessions = [each for each in web.call("GET", "/tokens").json() if each["name"] == "session of the console"]
    assert len(sessions) == 1
    assert sessions[0]["expires_at"] is not None
    assert second.get("/").status_code == 200
    assert web.call("DELETE", f"/tokens/{sessions[0]['id']}").status_code == 204
    assert second.get("/").status_code == 303


def test_a_script_whose_session_is_over_sends_the_whole_page_to_sign_in(operator: Visitor) -> None:
    operator.http.cookies.clear()
    answer = operator.get("/rows", **{"HX-Request": "true"})
    assert (answer.status_code, answer.headers["HX-Redirect"], answer.text) == (401, "/sign-in", "")


def test_the_cookie_is_for_this_host_and_for_no_script(visitor: Visitor) -> None:
    answer = visitor.post("/sign-in", token=visitor.web.tokens[Role.VIEWER].secret)
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-")
    assert {"HttpOnly", "Secure", "Path=/", "SameSite=lax"} <= set(cookie.split("; "))


@pytest.mark.parametrize(
    ("headers", "is_from_here"),
    [
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://behind-a-proxy.example"}, True),
        ({"Origin": HERE}, True),
        ({"Sec-Fetch-Site": "cross-site", "Origin": HERE}, False),
        ({"Sec-Fetch-Site": "same-site", "Origin": HERE}, False),
        ({"Sec-Fetch-Site": "none"}, False),
        ({"Origin": "https://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({}, False),
    ],
)
def test_a_form_of_somebody_elses_page_does_nothing(
    operator: Visitor, headers: dict[str, str], is_from_here: bool
) -> None:
    _, form = operator.confirmed(client=operator.web.uuids[0])
    answer = operator.post("/order", headers=headers, **form)
    assert answer.status_code == (303 if is_from_here else 403)
    assert len(commands(operator.web)) == is_from_here
    for path in ("/sign-in", "/sign-out", "/confirm"):
        assert (operator.post(path, headers=headers).status_code == 403) is not is_from_here, path


def test_a_viewer_sees_everything_and_can_order_nothing(web: Web) -> None:
    viewer = Visitor(web).sign_in(Role.VIEWER)
    assert "Reboot" not in viewer.get("/").text
    assert "Reboot…" not in viewer.get(f"/c/{web.uuids[0]}").text
    for path in ("/confirm", "/order"):
        answer = viewer.post(path, action="reboot_host", client=web.uuids[0])
        assert answer.status_code == 403
        assert "this needs the role operator" in answer.text.lower()
    assert commands(web) == []


def test_who_can_only_look_stays_for_a_month_and_everybody_else_for_a_shift(web: Web) -> None:
    for role, lasts in ((Role.VIEWER, LASTS_TO_LOOK), (Role.OPERATOR, LASTS)):
        Visitor(web).sign_in(role)
        sessions = [each for each in web.call("GET", "/tokens", role).json() if each["name"].startswith("session")]
        made, ends = (datetime.fromisoformat(sessions[0][name]) for name in ("created_at", "expires_at"))
        assert ends - made == lasts


# --- What each page says of itself


def test_the_wall_has_the_sick_and_nothing_to_touch(web: Web) -> None:
    take_offline(web)
    shown = Visitor(web).sign_in(Role.OPERATOR).get("/?wall=1").text
    assert re.findall(r"<(?:button|input|a href=\"/)", shown) == []
    assert "<b>1</b> offline" in shown
    assert shown.count('<span class="state is-') == 1, "one is sick"


def test_every_page_has_the_same_strict_headers(operator: Visitor) -> None:
    uuid = operator.web.uuids[0]
    pages = [
        "/",
        f"/c/{uuid}",
        "/labels",
        "/batches",
        "/unknown",
        f"/c/{uuid}/change",
        "/holds",
        "/me",
        "/schedules",
        "/sign-in",
        "/rows",
    ]
    pages += ["/schedules/new", "/rollouts", f"/c/{uuid4()}", "/nowhere"]
    for path in pages:
        answer = operator.get(path)
        assert answer.headers["Content-Security-Policy"] == POLICY, path
        assert (answer.headers["Cache-Control"], answer.headers["Vary"]) == ("no-store", "HX-Request"), path
        assert answer.headers["content-type"].startswith("text/html"), path
        assert not re.search(r"<script(?! src)|<style|\sstyle=|\son\w+=|hx-on|hx-vals|javascript:", answer.text), path
    for name in ("console.css", "console.js", "icon.svg", "htmx.min.js"):
        assert operator.get(f"/static/{name}").status_code == 200
    for name in ("..%2fshell.py", "shell.py", "templates"):
        assert operator.get(f"/static/{name}").status_code == 404


def test_a_program_is_answered_as_a_program_and_a_person_as_a_person(web: Web) -> None:
    visitor = Visitor(web)
    assert visitor.get("/api/v1/nowhere").headers["content-type"] == "application/problem+json"
    assert visitor.get("/metrics").headers["content-type"] == "application/problem+json"
    nowhere = visitor.get("/nowhere")
    assert (nowhere.status_code, nowhere.headers["content-type"]) == (404, "text/html; charset=utf-8")


def test_what_strangers_write_is_shown_as_text(operator: Visitor) -> None:
    web = operator.web
    with web.database.write() as tx:
        tx.db.execute(update(client).values(note=HOSTILE).where(client.c.uuid == web.uuids[0]))
        tx.db.execute(update(client).values(name=HOSTILE).where(client.c.uuid == web.uuids[0]))
    page, form = operator.confirmed(client=web.uuids[:2])
    batch = operator.post("/order", **form, count="2", reason="<b>why</b>").headers["location"]
    pages = [operator.get(path).text for path in ("/", f"/c/{web.uuids[0]}", batch, "/batches")] + [page.text]
    pages.append(operator.get("/?text=<script>alert(1)</script>&selector=<b>").text)
    for text in pages:
        assert "<img" not in text
        assert "<b>why" not in text
        assert "<script>a" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in pages[0]


# --- Views


def test_a_search_is_kept_under_a_name_and_nobody_else_sees_it(web: Web) -> None:
    viewer, operator = (Visitor(web).sign_in(role) for role in (Role.VIEWER, Role.OPERATOR))
    assert "Keep this search" not in viewer.get("/").text
    assert "Keep this search" in viewer.get("/?condition=offline").text
    address = "/?condition=offline&selector=site%3Dalpine&text=b%26r"
    said: dict[str, Any] = {"condition": "offline", "selector": "site=alpine", "text": "b&r"}
    answer = viewer.post("/views", name="gone <b>at</b> alpine", **said)
    assert (answer.status_code, answer.headers["location"]) == (303, address)
    shown = viewer.get(address).text
    link = f'<a href="{address.replace("&", "&amp;")}" aria-current="true">gone &lt;b&gt;at&lt;/b&gt; alpine</a>'
    assert link in shown
    assert "gone" not in operator.get("/").text
    assert operator.post("/views/remove", name="gone <b>at</b> alpine").status_code == 404
    assert viewer.post("/views/remove", name="gone <b>at</b> alpine").headers["location"] == "/"
    assert "gone" not in viewer.get("/").text


@pytest.mark.parametrize(
    ("field", "value"), [("name", ""), ("name", "x" * 200), ("condition", "fine"), ("selector", "="), ("text", "a\tb")]
)
def test_a_search_that_cannot_be_kept_is_refused_in_words(operator: Visitor, field: str, value: str) -> None:
    said: dict[str, Any] = {"name": "mine", "text": "bar", field: value}
    answer = operator.post("/views", **said)
    assert answer.status_code in (400, 422)
    assert '<p class="fault" role="alert">' in answer.text
    assert operator.web.call("GET", "/views").json() == []


# --- Labels


def test_labels_lead_to_where_the_page_was_asked_and_are_in_the_order_of_a_walk(operator: Visitor) -> None:
    web = operator.web
    with web.database.write() as tx:
        tx.db.execute(update(client).where(client.c.uuid == web.uuids[0]).values(name="zebra"))
        tx.db.execute(update(client).where(client.c.uuid == web.uuids[1]).values(name="bear"))
        tx.db.execute(update(client).where(client.c.uuid == web.uuids[2]).values(name="ape"))
        tx.db.execute(update(label).where(label.c.client_uuid == web.uuids[0]).values(value="airport"))
    page = operator.get("/labels").text
    assert (
        page.index("<b>zebra</b>") < page.index("<b>ape</b>") < page.index("<b>bear</b>")
    ), "one place after the other"
    assert f"<code>{HERE}</code>" in page
    assert "Phones cannot reach" not in page
    for host in ("localhost:8480", "127.0.0.1:8480", "[::1]:8480"):
        assert "Phones cannot reach" in operator.get("/labels", Host=host).text, host
    assert operator.get("/").text.count('href="/labels"') == 1
    assert 'href="/labels?text=ape"' in operator.get("/?text=ape").text
    assert operator.get("/labels?text=ape").text.count("<svg") == 1
    assert "is no part of a selector" in operator.get("/labels?selector==").text


def test_labels_that_cannot_be_made_say_why(operator: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "MOST", 2)
    page = operator.get("/labels").text
    assert "are too many for one print: 2 at most" in page
    assert "<svg" not in page
    monkeypatch.setattr(labels, "MOST", 100)
    monkeypatch.setitem(sys.modules, "segno", None)
    page = operator.get("/labels").text
    assert "apt install python3-segno" in page
    assert 'class="sheet"' not in page


# --- Ordering


def test_one_client_is_confirmed_ordered_and_shown(operator: Visitor) -> None:
    web = operator.web
    page, form = operator.confirmed(client=web.uuids[0])
    assert "Reboot 1 client?" in page.text
    answer = operator.post("/order", **form, reason="player frozen")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/c/{web.uuids[0]}")
    (made,) = commands(web)
    assert (made["client_uuid"], made["via"], made["created_by"]) == (web.uuids[0], "console", "a operator")
    assert (made["reason"], web.woken) == ("player frozen", 1)
    shown = operator.get(f"/c/{web.uuids[0]}").text
    assert "Take it back" in shown
    assert "Reboot…" not in shown, "one command at a time"


def test_a_double_click_or_a_reload_of_the_order_makes_one_batch(operator: Visitor) -> None:
    _, form = operator.confirmed(client=operator.web.uuids[:2])
    first, again = (operator.post("/order", **form, count="2") for _ in range(2))
    assert first.headers["location"] == again.headers["location"]
    assert len(commands(operator.web)) == 2


@pytest.mark.parametrize("count", ["", "1", "3", "two", "2.0", "²"])
def test_a_wrong_count_makes_nothing(operator: Visitor, count: str) -> None:
    _, form = operator.confirmed(client=operator.web.uuids[:2])
    answer = operator.post("/order", **form, count=count)
    assert answer.status_code == 412
    assert "Nothing was sent: this is about 2 clients: say that number" in answer.text
    assert commands(operator.web) == []


def take_offline(web: Web) -> None:
    with web.database.write() as tx:
        tx.db.execute(update(client).where(client.c.uuid == web.uuids[1]).values(is_online=False))


def order_elsewhere(web: Web) -> None:
    assert web.order(1).status_code == 201


def retire(web: Web) -> None:
    answer = web.call("POST", f"/clients/{web.uuids[1]}/standing", Role.ADMIN, json={"standing": "retired"})
    assert answer.status_code == 200


@pytest.mark.parametrize("moves", [take_offline, order_elsewhere, retire])
def test_what_moves_between_confirmation_and_order_makes_nothing(
    operator: Visitor, moves: Callable[[Web], None]
) -> None:
    web = operator.web
    _, form = operator.confirmed(client=web.uuids)
    moves(web)
    before = len(commands(web))
    answer = operator.post("/order", **form, count="3")
    assert answer.status_code == 412
    assert "what the preview has shown is not so any more" in answer.text
    assert "Reboot 2 clients?" in answer.text
    assert len(commands(web)) == before


def test_an_order_for_a_client_that_does_not_exist_is_refused_whole(operator: Visitor) -> None:
    web = operator.web
    _, form = operator.confirmed(client=web.uuids[:2])
    form["client"].append(str(uuid4()))
    answer = operator.post("/order", **form, count="2")
    assert answer.status_code == 404
    assert commands(web) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("action", "format_disk"),
        ("hash", "short"),
        ("order_id", ""),
        ("order_id", "not ours" + "x" * 40),
        ("client", "no-uuid"),
        ("reason", "x" * 2000),
        ("reason", "a\0b"),
        ("wait_until", "tomorrow"),
        ("wait_until", "2026-11-27"),
    ],
)
def test_an_order_that_no_page_of_ours_sends_is_refused_in_words(operator: Visitor, field: str, value: str) -> None:
    _, form = operator.confirmed(client=operator.web.uuids[0])
    answer = operator.post("/order", **form | {field: value})
    assert answer.status_code in (409, 422), answer.text
    assert '<p class="fault" role="alert">' in answer.text
    assert commands(operator.web) == []


def test_all_that_match_is_a_step_of_its_own_and_counts_them(operator: Visitor) -> None:
    page, form = operator.confirmed(all="reboot_host", text="", selector="site=alpine", condition="")
    assert f"Reboot {len(form['client'])} clients?" in page.text
    assert sorted(form["client"]) == sorted(
        each["uuid"] for each in operator.web.call("GET", "/clients?selector=site=alpine").json()
    )


def test_nothing_selected_orders_nothing(operator: Visitor) -> None:
    answer = operator.post("/confirm", action="reboot_host")
    assert answer.status_code == 409
    assert "no client is selected" in answer.text.lower()


def test_who_is_held_says_why_and_may_wait(operator: Visitor) -> None:
    web = operator.web
    take_offline(web)
    page, form = operator.confirmed(client=web.uuids[:2])
    assert "Reboot 1 client?" in page.text
    assert "1 held by a rule" in page.text
    assert " is left out: this client is offline" in page.text
    assert "alpine: 1" in page.text
    page, form = operator.confirmed(client=web.uuids[:2], wait="60")
    assert "Reboot 2 clients?" in page.text
    assert " waits: this client is offline" in page.text
    assert "alpine: 2" in page.text, "who waits goes dark, too"
    assert operator.post("/order", **form, count="2").status_code == 303
    assert {each["wait_until"] is None for each in commands(web)} == {False}


def test_a_site_that_goes_dark_as_a_whole_is_named(operator: Visitor) -> None:
    web = operator.web
    page, _ = operator.confirmed(client=web.uuids[:2])
    assert "No screen stays on" not in page.text
    page, _ = operator.confirmed(client=web.uuids)
    assert "No screen stays on at <b>alpine</b>." in page.text
    with web.database.write() as tx:
        tx.db.execute(update(label).values(value="a site / <b>x</b>"))
    page, _ = operator.confirmed(client=web.uuids)
    assert "No screen stays on at <b>a site / &lt;b&gt;x&lt;/b&gt;</b>." in page.text


def test_a_batch_can_be_taken_back_whole_and_tried_again(operator: Visitor) -> None:
    _, form = operator.confirmed(client=operator.web.uuids[:2])
    batch = operator.post("/order", **form, count="2").headers["location"]
    assert "Take it all back" in operator.get(batch).text
    assert operator.post(f"{batch}/cancel").headers["location"] == batch
    shown = operator.get(batch).text
    assert "It is over." in shown
    assert "2 cancelled" in re.sub(r"<[^>]+>|\s+", " ", shown).replace("  ", " ")
    assert operator.get(f"{batch}?state=cancelled").text.count('<th scope="row">') == 2
    assert operator.get(f"{batch}?state=completed").text.count('<th scope="row">') == 0


def test_a_wait_that_no_page_of_ours_offers_is_none(operator: Visitor) -> None:
    for wait in ("²", "-1", "100000", "soon"):
        page, form = operator.confirmed(client=operator.web.uuids[0], wait=wait)
        assert (page.status_code, "wait_until" in form) == (200, False)


def test_a_shutdown_wants_its_own_right(web: Web) -> None:
    operator = Visitor(web).sign_in(Role.OPERATOR)
    assert "Shut down" not in operator.get(f"/c/{web.uuids[0]}").text
    page = operator.post("/confirm", action="shutdown_host", client=web.uuids[0])
    assert "None of these clients can get it now." in page.text


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0 s"), (-5, "0 s"), (119.9, "119 s"), (120, "2 min"), (7200, "2 h"), (172800, "2 d")]
)
def test_spans_are_said_in_one_unit(seconds: float, said: str) -> None:
    assert span(seconds) == said
