"""The console's pages about clients that are new or gone, about people, and about what holds commands."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from typing import Any

import argon2
import pytest
from sqlalchemy import insert, update

from infoscreen_reboot.controller import passwords
from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.selection import Selector
from infoscreen_reboot.controller.store import people
from infoscreen_reboot.controller.store.database import Database
from infoscreen_reboot.controller.store.tables import client, notice, power_cycle, power_port
from infoscreen_reboot.controller.web.session import COOKIE
from infoscreen_reboot.controller.windows import Window
from tests.controller.test_api_telling import with_targets
from tests.controller.test_console import HOSTILE, PASSWORD, Visitor
from tests.controller.web import Web

NEW, OTHER = "9b8d1856-ff34-4864-a726-12de072d0f77", "0d9a1a86-6ff0-4b0e-8f40-3b2d8f1d7c11"


@pytest.fixture
def web(sqlite: Database) -> Web:
    """On SQLite only: pages see the API's functions, and those are tried on both."""
    found = Web(sqlite)
    with sqlite.write() as tx:
        for uuid in (NEW, OTHER):
            values = {"uuid": uuid, "standing": "unknown", "first_heard_at": tx.now, "heard_at": tx.now}
            tx.db.execute(insert(client).values(**values))
    return found


@pytest.fixture
def admin(web: Web) -> Visitor:
    return Visitor(web).sign_in(Role.ADMIN)


@pytest.fixture
def operator(web: Web) -> Visitor:
    return Visitor(web).sign_in(Role.OPERATOR)


@pytest.fixture
def viewer(web: Web) -> Visitor:
    return Visitor(web).sign_in(Role.VIEWER)


def read(web: Web, uuid: str) -> Any:
    return web.call("GET", f"/clients/{uuid}").json()


def plain(page: Any) -> str:
    """The page's text, with one space between words."""
    return " ".join(re.sub(r"<[^>]+>", " ", page.text).split())


# --- Clients that are new, and those that are gone


def test_an_unknown_client_is_listed_and_accepted_with_a_name(admin: Visitor) -> None:
    assert NEW in admin.get("/unknown").text
    assert "First heard" in admin.get("/unknown").text
    answer = admin.post(f"/c/{NEW}/accept", name="Lobby 2", next="unknown")
    assert (answer.status_code, answer.headers["location"]) == (303, "/unknown")
    found = read(admin.web, NEW)
    assert (found["name"], found["standing"]) == ("Lobby 2", "accepted")
    assert NEW not in admin.get("/unknown").text
    assert OTHER in admin.get("/unknown").text


def test_a_name_that_cannot_be_one_accepts_nobody(admin: Visitor) -> None:
    for name, status in (("Bar\x1bleft", 422), (OTHER, 422), ("x" * 129, 422)):
        assert admin.post(f"/c/{NEW}/accept", name=name).status_code == status
    assert read(admin.web, NEW)["standing"] == "unknown"


def test_who_is_rejected_stays_on_the_page_and_can_be_accepted(admin: Visitor) -> None:
    assert admin.post(f"/c/{NEW}/reject").headers["location"] == f"/c/{NEW}"
    assert "1 rejected" in plain(admin.get("/unknown"))
    assert "Accept it again" in admin.get(f"/c/{NEW}").text
    admin.post(f"/c/{NEW}/accept")
    assert read(admin.web, NEW)["standing"] == "accepted"
    assert "0 rejected" in plain(admin.get("/unknown"))


def test_many_are_accepted_only_with_their_count(admin: Visitor) -> None:
    page = admin.post("/standing/confirm", client=[NEW, OTHER], standing="accepted")
    assert "Accept 2 clients?" in page.text
    for count in ("", "1", "3"):
        answer = admin.post("/standing", client=[NEW, OTHER], standing="accepted", count=count)
        assert answer.status_code == 412
        assert "Nothing was changed: this is about 2 clients" in answer.text
        assert read(admin.web, NEW)["standing"] == "unknown"
    answer = admin.post("/standing", client=[NEW, OTHER], standing="accepted", count="2")
    assert answer.headers["location"] == "/unknown"
    assert [read(admin.web, uuid)["standing"] for uuid in (NEW, OTHER)] == ["accepted", "accepted"]
    assert "Every client that was heard" in admin.get("/unknown").text


def test_all_unknown_ones_are_confirmed_by_their_ids(admin: Visitor) -> None:
    page = admin.post("/standing/confirm", all="unknown", standing="accepted")
    assert "Accept 2 clients?" in page.text
    assert sorted(re.findall(r'name="client" value="([^"]+)"', page.text)) == sorted([NEW, OTHER])


@pytest.mark.parametrize(
    "fields",
    [
        {"standing": "accepted"},
        {"client": "no uuid", "standing": "accepted"},
        {"client": NEW, "standing": "unknown"},
        {"all": "<b>", "standing": "accepted"},
    ],
)
def test_what_no_page_of_ours_sends_changes_no_standing(admin: Visitor, fields: dict[str, Any]) -> None:
    for path in ("/standing/confirm", "/standing"):
        answer = admin.post(path, **fields, count="1")
        assert answer.status_code in (412, 422), answer.text
    assert read(admin.web, NEW)["standing"] == "unknown"


def test_who_may_not_decide_is_told_who_may(operator: Visitor) -> None:
    page = operator.get("/unknown").text
    assert NEW in page
    assert "needs the role admin" in page
    assert "Accept the selected" not in page
    assert "Accept" not in operator.get(f"/c/{NEW}").text
    assert operator.post(f"/c/{NEW}/accept").status_code == 403
    assert read(operator.web, NEW)["standing"] == "unknown"


def test_retiring_is_a_page_of_its_own_and_can_be_undone(admin: Visitor) -> None:
    uuid = admin.web.uuids[0]
    assert f"/c/{uuid}/retire" in admin.get(f"/c/{uuid}").text
    assert "gone for good" in admin.get(f"/c/{uuid}/retire").text
    assert read(admin.web, uuid)["standing"] == "accepted"
    assert admin.post(f"/c/{uuid}/retire").headers["location"] == f"/c/{uuid}"
    assert read(admin.web, uuid)["standing"] == "retired"
    assert "1 retired" in plain(admin.get("/unknown"))
    admin.post(f"/c/{uuid}/accept")
    assert read(admin.web, uuid)["standing"] == "accepted"


# --- What is said of a client


def test_name_note_and_labels_are_changed(operator: Visitor) -> None:
    web, uuid = operator.web, operator.web.uuids[0]
    before = read(web, uuid)
    was = "\n".join(f"{key}={value}" for key, value in before["labels"].items())
    assert f"{was}</textarea>" in operator.get(f"/c/{uuid}/change").text
    fields: dict[str, Any] = {"was_name": before["name"] or "", "was_note": "", "was_labels": was}
    fields |= {"name": "Bar left", "note": "key at\r\nthe desk", "labels": "site = berlin\r\n\r\nroom=bar"}
    assert operator.post(f"/c/{uuid}/change", **fields).headers["location"] == f"/c/{uuid}"
    after = read(web, uuid)
    assert (after["name"], after["note"]) == ("Bar left", "key at\nthe desk")
    assert after["labels"] == {"site": "berlin", "room": "bar"}


def test_what_was_not_touched_stays_as_others_have_changed_it(operator: Visitor) -> None:
    web, uuid = operator.web, operator.web.uuids[0]
    fields: dict[str, Any] = {"was_name": "Old", "name": "Old", "was_note": "", "note": "mine"}
    fields |= {"was_labels": "site=alpine", "labels": "site=alpine\nroom=bar"}
    meanwhile = {"name": "New", "labels": {"floor": "2", "site": "berlin"}}
    assert web.call("PATCH", f"/clients/{uuid}", json=meanwhile).status_code == 200
    operator.post(f"/c/{uuid}/change", **fields)
    after = read(web, uuid)
    assert (after["name"], after["note"]) == ("New", "mine")
    assert after["labels"] == {"site": "berlin", "floor": "2", "room": "bar"}


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"labels": "site"}, 422, "has no “=”"),
        ({"labels": "a=1\na=2"}, 422, "a is there twice"),
        ({"labels": "<b>=1"}, 422, "cannot be the key of a label"),
        ({"note": "\x1b[31m"}, 422, "note: "),
        ({"name": "Taken"}, 409, "is the name of client"),
    ],
)
def test_what_cannot_be_is_said_beside_what_was_typed(
    operator: Visitor, fields: dict[str, Any], status: int, words: str
) -> None:
    web, uuid = operator.web, operator.web.uuids[0]
    with web.database.write() as tx:
        tx.db.execute(update(client).values(name="Taken").where(client.c.uuid == web.uuids[1]))
    before = read(web, uuid)
    answer = operator.post(f"/c/{uuid}/change", **{"note": "typed before"} | fields)
    assert answer.status_code == status
    assert words in answer.text
    assert fields.get("note", "typed before") in answer.text
    assert read(web, uuid) == before


def test_what_strangers_say_of_clients_is_text(admin: Visitor) -> None:
    web = admin.web
    with web.database.write() as tx:
        tx.db.execute(update(client).values(name=HOSTILE, note="</textarea>" + HOSTILE).where(client.c.uuid == NEW))
    pages = [admin.get(path) for path in ("/unknown", f"/c/{NEW}", f"/c/{NEW}/change", f"/c/{NEW}/retire")]
    pages.append(admin.post("/standing/confirm", client=NEW, standing="accepted"))
    for page in pages:
        assert page.status_code == 200
        assert "&lt;img src=x" in page.text
        assert "<img" not in page.text


# --- What everybody did


def test_the_audit_says_who_did_what_to_which_client(admin: Visitor) -> None:
    admin.post(f"/c/{NEW}/accept", name="Lobby 2")
    page = admin.get("/audit")
    assert f'<a href="/c/{NEW}">{NEW}</a>' in page.text
    assert "a admin accepted client" in plain(page).replace(" What", "")
    assert "console" in plain(page)
    batch = admin.post("/order", **order(admin, *admin.web.uuids[:2])).headers["location"]
    assert f'<a href="{batch}">' in admin.get("/audit").text


def order(visitor: Visitor, *uuids: str) -> dict[str, Any]:
    _, form = visitor.confirmed(client=list(uuids))
    return form | {"count": str(len(uuids))}


def test_the_audit_leads_to_older_lines(admin: Visitor) -> None:
    with admin.web.database.write() as tx:
        for number in range(60):
            people.note(tx, "ann", "api", None, "change client", HOSTILE, f"line {number}")
    first = admin.get("/audit")
    assert "line 59" in first.text
    assert "line 5<" not in first.text
    assert "<img" not in first.text
    (older,) = re.findall(r'rel="next" href="([^"]+)"', first.text)
    second = admin.get(older)
    assert "line 5<" in second.text
    assert "There is nothing older." in second.text
    assert "Show the newest" in admin.get("/audit?cursor=1").text
    assert admin.get("/audit?cursor=x").status_code == 422


# --- Who one is


def with_password(web: Web, role: Role) -> Visitor:
    with web.database.write() as tx:
        people.set_password(tx, f"a {role}", passwords.hashed(PASSWORD))
    found = Visitor(web)
    assert found.post("/sign-in", name=f"a {role}", password=PASSWORD).status_code == 303
    return found


def test_everybody_changes_his_own_password(web: Web) -> None:
    viewer = with_password(web, Role.VIEWER)
    assert "Change my password" in viewer.get("/me").text
    new = "  another one, with spaces  "
    answer = viewer.post("/me/password", current=PASSWORD, password=new, again=new)
    assert (answer.status_code, answer.headers["location"]) == (303, "/me")
    assert Visitor(web).post("/sign-in", name="a viewer", password=PASSWORD).status_code == 401
    assert Visitor(web).post("/sign-in", name="a viewer", password=new).status_code == 303


def test_a_hash_with_old_settings_is_made_anew_when_its_password_is_typed(web: Web) -> None:
    weak = argon2.PasswordHasher(1, 8192, 1).hash(PASSWORD)
    with web.database.write() as tx:
        people.set_password(tx, "a viewer", weak)
    for password, status in (("guessed guessed", 401), (PASSWORD, 303), (PASSWORD, 303)):
        assert Visitor(web).post("/sign-in", name="a viewer", password=password).status_code == status
        with web.database.read() as tx:
            stored = people.password_hash_of(tx, "a viewer")
        assert stored is not None
        assert (stored == weak) is (status == 401)
        assert passwords.is_outdated(stored) is (status == 401)


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"current": "guessed guessed"}, 403, "The current password is another one"),
        ({"again": "something else"}, 422, "was not typed the same twice"),
        ({"password": "short", "again": "short"}, 422, "12 to 256 characters"),
        ({"password": "x" * 2000, "again": "x" * 2000}, 422, "password: "),
    ],
)
def test_a_password_that_cannot_be_is_not_set_nor_repeated(
    web: Web, fields: dict[str, Any], status: int, words: str
) -> None:
    viewer = with_password(web, Role.VIEWER)
    typed = {"current": PASSWORD, "password": "quite a new one", "again": "quite a new one"} | fields
    answer = viewer.post("/me/password", **typed)
    assert answer.status_code == status
    assert words in answer.text
    assert not [each for each in typed.values() if each in answer.text]
    assert Visitor(web).post("/sign-in", name="a viewer", password=PASSWORD).status_code == 303


def test_who_has_no_password_is_told_who_sets_it(viewer: Visitor, admin: Visitor) -> None:
    assert "You have no password." in viewer.get("/me").text
    assert "Set my password" in admin.get("/me").text
    assert admin.post("/me/password", password=PASSWORD, again=PASSWORD).status_code == 303


def test_my_sessions_and_tokens_are_revoked(viewer: Visitor, admin: Visitor) -> None:
    other = Visitor(viewer.web).sign_in(Role.VIEWER)
    page = viewer.get("/me").text
    assert page.count("session of the console") == 4  # each as a name, and in what its button says
    assert page.count("this session") == 1
    assert "a admin" not in page
    assert admin.get("/me").text.count("/me/revoke/") == 2, "an admin sees only his own there, too"
    for visitor, mine in ((other, False), (viewer, True)):
        token_id = token_of(visitor)
        assert f"/me/revoke/{token_id}" in page
        assert viewer.post(f"/me/revoke/{token_id}").headers["location"] == "/me"
        assert visitor.get("/me").status_code == 303
        assert (viewer.get("/me").status_code == 303) is mine
    assert admin.get("/me").status_code == 200


def token_of(visitor: Visitor) -> str:
    with visitor.web.database.read() as tx:
        who = people.identify(tx, visitor.http.cookies[COOKIE])
    assert who is not None
    return who.token_id


def test_a_token_is_made_with_the_password_and_shown_once(web: Web) -> None:
    operator = with_password(web, Role.OPERATOR)
    answer = operator.post("/me/tokens", name=HOSTILE[:40], role="viewer", days="90", password=PASSWORD)
    assert answer.status_code == 422, "a name is text"
    answer = operator.post("/me/tokens", name="<b>metrics", role="viewer", days="90", password=PASSWORD)
    assert answer.status_code == 201
    assert "&lt;b&gt;metrics" in answer.text and "<b>metrics" not in answer.text
    [secret] = re.findall(r"irc_[\w-]{40,}", answer.text)
    assert secret not in operator.get("/me").text
    assert PASSWORD not in answer.text
    with web.database.read() as tx:
        who = people.identify(tx, secret)
        assert who is not None and who.expires_at is not None
        assert (who.name, who.role) == ("a operator", Role.VIEWER)
        assert timedelta(days=89) < who.expires_at - tx.now <= timedelta(days=90), "it outlives the session"
    forever = operator.post("/me/tokens", name="script", role="operator", days="", password=PASSWORD)
    assert "when it is revoked" in forever.text


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"password": "guessed"}, 403, "your password is another one"),
        ({"role": "admin"}, 403, "no more rights"),
        ({"name": ""}, 422, "name: "),
        ({"days": "9999"}, 422, "expires_in_days: "),
    ],
)
def test_a_token_that_cannot_be_is_not_made(web: Web, fields: dict[str, Any], status: int, words: str) -> None:
    operator = with_password(web, Role.OPERATOR)
    wish = {"name": "script", "role": "operator", "days": "1", "password": PASSWORD} | fields
    answer = operator.post("/me/tokens", **wish)
    assert (answer.status_code, words in answer.text.lower()) == (status, True), answer.text
    assert len(web.call("GET", "/tokens", Role.OPERATOR).json()) == 2


def test_without_a_password_a_token_ends_with_the_session(operator: Visitor) -> None:
    assert "it ends when your session does" in operator.get("/me").text
    for days in ("", "365"):
        assert operator.post("/me/tokens", name="script", role="viewer", days=days).status_code == 201
    tokens = {each["name"]: each["expires_at"] for each in operator.web.call("GET", "/tokens").json()}
    assert tokens["script"] == tokens["session of the console"]


def test_nobody_revokes_what_is_of_others(viewer: Visitor, operator: Visitor) -> None:
    assert viewer.post(f"/me/revoke/{token_of(operator)}").status_code == 404
    assert operator.get("/me").status_code == 200


# --- Users


def test_a_user_is_added_gets_a_password_and_signs_in(admin: Visitor) -> None:
    answer = admin.post("/users", name="ann b", role="operator", may_shut_down="yes")
    assert (answer.status_code, answer.headers["location"]) == (303, "/users/ann%20b")
    assert "has no password yet" in admin.get("/users/ann%20b").text
    assert admin.post("/users/ann%20b/password", password=PASSWORD, again=PASSWORD).status_code == 303
    ann = Visitor(admin.web)
    assert ann.post("/sign-in", name="ann b", password=PASSWORD).status_code == 303
    assert "signed in as operator, and may shut down" in plain(ann.get("/me"))
    assert "password or token" in plain(admin.get("/users"))


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"name": "a viewer"}, 409, "there is a user a viewer"),
        ({"name": "<b>"}, 422, "name: "),
        ({"name": ""}, 422, "name: "),
        ({"role": "king"}, 422, "role: "),
    ],
)
def test_a_user_who_cannot_be_is_not_added(admin: Visitor, fields: dict[str, Any], status: int, words: str) -> None:
    answer = admin.post("/users", **{"name": "ann", "role": "viewer"} | fields)
    assert answer.status_code == status
    assert f"Nobody was added: {words}" in answer.text
    assert len(admin.web.call("GET", "/users", Role.ADMIN).json()) == 3


def test_rights_are_changed_and_count_at_once(admin: Visitor, operator: Visitor) -> None:
    path = "/users/a%20operator"
    assert admin.post(path, role="viewer").headers["location"] == path
    assert operator.post("/confirm", action="reboot_host").status_code == 403
    assert admin.post(path, role="viewer", is_disabled="yes").status_code == 303
    assert operator.get("/").status_code == 303
    assert "Disabled" in admin.get(path).text
    assert admin.post(path, role="operator", may_shut_down="yes").status_code == 303
    assert "signed in as operator" in plain(operator.get("/me"))


def test_the_last_admin_stays_one(admin: Visitor) -> None:
    answer = admin.post("/users/a%20admin", role="viewer")
    assert answer.status_code == 409
    assert "a admin has to stay one" in answer.text
    lines = admin.web.call("GET", "/audit", Role.ADMIN).json()["items"]
    assert lines[0]["outcome"] == "last_admin"
    assert admin.get("/users").status_code == 200


def test_an_admin_revokes_anybodys_session(admin: Visitor, operator: Visitor) -> None:
    page = admin.get("/users/a%20operator").text
    path = f"/users/a%20operator/revoke/{token_of(operator)}"
    assert path in page
    assert admin.post(path).headers["location"] == "/users/a%20operator"
    assert operator.get("/").status_code == 303
    assert admin.get("/users/nobody").status_code == 404


def test_only_admins_are_led_to_users_and_audit(admin: Visitor, operator: Visitor) -> None:
    for path in ("/users", "/audit"):
        assert f'href="{path}"' in admin.get("/").text
        assert f'href="{path}"' not in operator.get("/").text


# --- What holds commands


def test_what_is_empty_says_what_would_fill_it(viewer: Visitor) -> None:
    page = plain(viewer.get("/holds"))
    for words in ("is not frozen", "No command waits", "No window is set", "No port is known", "no target is set"):
        assert words in page
    assert "Freeze the fleet" not in page


def test_a_freeze_begins_with_a_reason_and_is_ended(operator: Visitor) -> None:
    until = datetime.now(UTC) + timedelta(hours=3)
    answer = operator.post("/freezes", why="trade <b>fair", until=f"{until:%Y-%m-%dT%H:%M}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/holds")
    page = operator.get("/holds").text
    assert "trade &lt;b&gt;fair" in page
    assert f"{until:%a %H:%M} in UTC" in page
    (freeze,) = operator.web.call("GET", "/freezes").json()
    assert (freeze["why"], freeze["made_by"], freeze["until"][:16]) == (
        "trade <b>fair",
        "a operator",
        f"{until:%Y-%m-%dT%H:%M}",
    )
    wait = f"{datetime.now(UTC) + timedelta(hours=1):%Y-%m-%dT%H:%M:%S}Z"
    assert operator.web.order(0, wait_until=wait).status_code == 201
    assert re.search(r">1</td><th scope=\"row\">freeze", operator.get("/holds").text)
    assert operator.post(f"/freezes/{freeze['id']}/end").headers["location"] == "/holds"
    assert "The fleet is not frozen." in operator.get("/holds").text


def test_a_time_is_read_by_the_clock_of_the_fleet(operator: Visitor) -> None:
    site = operator.web.app.state.site
    operator.web.app.state.site = replace(site, house=replace(site.house, zone="Asia/Tokyo"))
    day = datetime.now(UTC).date() + timedelta(days=2)
    assert "by the clock of Asia/Tokyo" in operator.get("/holds").text
    assert operator.post("/freezes", why="fair", until=f"{day}T14:00").status_code == 303
    (freeze,) = operator.web.call("GET", "/freezes").json()
    assert freeze["until"] == f"{day}T05:00:00Z"


@pytest.mark.parametrize(
    ("why", "until"),
    [("", ""), ("x\x1b", ""), ("fair", "tomorrow"), ("fair", "2001-01-01T10:00"), ("fair", "0001-01-01T00:00")],
)
def test_a_freeze_that_cannot_be_is_not_begun(operator: Visitor, why: str, until: str) -> None:
    answer = operator.post("/freezes", why=why, until=until)
    assert answer.status_code == 422
    assert "Nothing was frozen: " in answer.text
    assert operator.web.call("GET", "/freezes").json() == []


def test_windows_are_shown_by_both_clocks(viewer: Visitor) -> None:
    site = viewer.web.app.state.site
    window = Window(frozenset(range(7)), time(1), timedelta(hours=4), "Asia/Tokyo")
    policy = replace(site.house.policy, windows=((Selector(), window),))
    viewer.web.app.state.site = replace(site, house=replace(site.house, policy=policy))
    page = viewer.get("/holds").text
    assert "01:00 for 4 h, Asia/Tokyo" in page
    assert len(re.findall(r"16:00:00 UTC</time> <small [^>]*>\w+ 01:00 in Asia/Tokyo", page)) == 3


def test_ports_that_are_held_off_come_first(viewer: Visitor) -> None:
    web = viewer.web
    with web.database.write() as tx:
        for number, uuid in enumerate(web.uuids):
            values = {"client_uuid": uuid, "switch": "core-1", "port": f"1.{number}", "backend": "snmp", "place": uuid}
            tx.db.execute(insert(power_port).values(**values, changed_at=tx.now, changed_by="ann"))
        late = tx.now - timedelta(minutes=5)
        values = {"client_uuid": web.uuids[2], "switch": "core-1", "port": "1.2", "backend": "snmp", "state": "off"}
        more = {"requested_by": "ann", "requested_at": late, "must_be_on_by": late, "attempts": 2}
        tx.db.execute(insert(power_cycle).values(**values, **more, words=HOSTILE))
    page = viewer.get("/holds").text
    assert page.index("Held off:") < page.index('<td data-said="Port">1.0')
    assert '<td data-said="Port">1.2' not in page
    assert "&lt;img src=x" in page
    assert "<img" not in page


def test_a_port_is_said_found_tested_and_forgotten(admin: Visitor, viewer: Visitor) -> None:
    web = admin.web
    address = f"/c/{web.uuids[0]}/port"
    assert "No port is known of this client" in admin.get(address).text
    assert f'href="{address}"' in admin.get(f"/c/{web.uuids[0]}").text
    assert "/port" not in viewer.get(f"/c/{web.uuids[0]}").text
    said: dict[str, Any] = {
        "backend": "dry-run",
        "switch": HOSTILE.replace("\x1b", "").replace("\u202e", ""),
        "port": "1.7",
    }
    answer = admin.post(address, **said)
    assert (answer.status_code, answer.headers["location"]) == (303, address)
    for path in ("/ports", "/ports?text=1.7", "/ports?text=&lt;", address):
        assert "<img" not in admin.get(path).text, path
    assert "Change or test…" in admin.get("/ports?text=1.7").text
    assert "No port matches" in admin.get("/ports?text=core-9").text
    assert "It is on; it only pretends." in admin.post(f"{address}/test").text
    other = admin.post(f"/c/{web.uuids[1]}/port", **said)
    assert other.status_code == 409
    assert "Nothing was changed: " in other.text
    assert admin.post(f"{address}/remove").headers["location"] == "/ports"
    assert "No port is known yet." in admin.get("/ports").text
    assert admin.post(f"{address}/test").status_code == 404


@pytest.mark.parametrize(("field", "value"), [("backend", "magic"), ("port", ""), ("switch", "a\x1b"), ("backend", "")])
def test_a_port_that_cannot_be_is_refused_and_what_was_typed_stays(admin: Visitor, field: str, value: str) -> None:
    said: dict[str, Any] = {
        "backend": "dry-run",
        "switch": "core-1",
        "port": "1.7",
        "address": "10.0.0.2",
        field: value,
    }
    answer = admin.post(f"/c/{admin.web.uuids[0]}/port", **said)
    assert answer.status_code == 422
    assert "Nothing was changed: " in answer.text
    assert 'value="10.0.0.2"' in answer.text
    assert admin.web.call("GET", "/power/ports").json() == []


def test_a_port_that_is_held_off_says_so_in_the_list(admin: Visitor) -> None:
    web = admin.web
    assert admin.post(f"/c/{web.uuids[0]}/port", backend="dry-run", switch="core-1", port="1").status_code == 303
    assert "held off" not in admin.get("/ports").text
    with web.database.write() as tx:
        late = tx.now - timedelta(minutes=5)
        values = {"client_uuid": web.uuids[0], "switch": "core-1", "port": "1", "backend": "dry-run", "state": "off"}
        more = {"requested_by": "ann", "requested_at": late, "must_be_on_by": late, "attempts": 2}
        tx.db.execute(insert(power_cycle).values(**values, **more))
    assert "held off: it should be on" in admin.get("/ports").text


def test_a_test_message_says_of_each_target_what_came_of_it(admin: Visitor, viewer: Visitor) -> None:
    with_targets(admin.web, down="chat")
    assert "Send a test" in admin.get("/holds").text
    assert "Send a test" not in viewer.get("/holds").text
    told = plain(admin.post("/notify/test"))
    assert re.search(r"mail \S+ : sent\. Look whether it has arrived", told), told
    assert "not sent : it answers 500" in told
    assert "chat" not in plain(admin.post("/notify/test", target="mail"))
    assert admin.post("/notify/test", target="nobody").status_code == 404


def test_notices_of_the_last_days_are_listed(viewer: Visitor) -> None:
    with viewer.web.database.write() as tx:
        for words, days in ((HOSTILE, 0), ("long ago", 9)):
            values = {"kind": "needs_person", "subject": f"client/{days}", "words": words, "content": {}}
            tx.db.execute(insert(notice).values(**values, at=tx.now - timedelta(days=days)))
    page = viewer.get("/holds").text
    assert "needs person" in page
    assert "waits to be told" in page
    assert "long ago" not in page
    assert "<img" not in page
