"""The console's pages about clients that are new or gone, about people, and about what holds commands."""

from __future__ import annotations

import re
from typing import Any

import pytest
from sqlalchemy import insert, update

from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.store.database import Database
from infoscreen_reboot.controller.store.tables import client
from tests.controller.test_console import HOSTILE, Visitor
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
