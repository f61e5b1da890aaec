"""Users, tokens and the audit over the API: nobody gets more rights than he has, and what was refused can be read."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Update, update

from infoscreen_reboot.controller import passwords
from infoscreen_reboot.controller.auth import Identity, Role
from infoscreen_reboot.controller.store import people, views
from infoscreen_reboot.controller.store.database import Transaction
from infoscreen_reboot.controller.store.people import NewToken
from infoscreen_reboot.controller.store.tables import token, user
from tests.controller.web import Web, kind

PASSWORD = "four words and 1 more"


def make(web: Web, by: Role, **content: Any) -> Any:
    return web.call("POST", "/tokens", by, json={"name": "t", **content})


def use(web: Web, answer: Any) -> Any:
    """Whose token this is, and with which rights."""
    return web.client.get("/api/v1/whoami", headers={"Authorization": f"Bearer {answer.json()['token']}"})


def test_a_user_is_added_changed_and_disabled(web: Web) -> None:
    added = web.call("POST", "/users", Role.ADMIN, json={"name": "ann", "role": "operator", "may_shut_down": True})
    assert added.status_code == 201 and added.json()["is_disabled"] is False
    assert kind(web.call("POST", "/users", Role.ADMIN, json={"name": "ann", "role": "viewer"})) == (409, "exists")
    hers = make(web, Role.ADMIN, user="ann", may_shut_down=True)
    rights = {"name": "ann", "role": "operator", "may_shut_down": True, "has_password": False, "by_provider": False}
    assert use(web, hers).json() == rights
    changed = web.call("PATCH", "/users/ann", Role.ADMIN, json={"role": "viewer", "may_shut_down": False})
    assert (changed.json()["role"], changed.json()["may_shut_down"]) == ("viewer", False)
    assert use(web, hers).json() == rights | {"role": "viewer", "may_shut_down": False}
    web.call("PATCH", "/users/ann", Role.ADMIN, json={"is_disabled": True})
    assert kind(use(web, hers)) == (401, "not_authenticated")
    web.call("PATCH", "/users/ann", Role.ADMIN, json={"is_disabled": False})
    assert use(web, hers).status_code == 200
    names = [each["name"] for each in web.call("GET", "/users", Role.ADMIN).json()]
    assert names == ["a admin", "a operator", "a viewer", "ann"]
    assert kind(web.call("PATCH", "/users/bob", Role.ADMIN, json={})) == (404, "not_found")


@pytest.mark.parametrize("name", ["", " a", "a/b", "a\x1b[0m", "x" * 65, "a\n"])
def test_a_name_that_is_none_of_a_user(web: Web, name: str) -> None:
    assert kind(web.call("POST", "/users", Role.ADMIN, json={"name": name, "role": "viewer"})) == (422, "invalid")


@pytest.mark.parametrize("change", [{"role": "operator"}, {"is_disabled": True}])
def test_the_last_admin_stays_one(web: Web, change: dict[str, Any]) -> None:
    assert kind(web.call("PATCH", "/users/a admin", Role.ADMIN, json=change)) == (409, "last_admin")
    web.call("POST", "/users", Role.ADMIN, json={"name": "second", "role": "admin"})
    web.call("PATCH", "/users/second", Role.ADMIN, json={"is_disabled": True})
    assert kind(web.call("PATCH", "/users/a admin", Role.ADMIN, json=change)) == (409, "last_admin")
    web.call("PATCH", "/users/second", Role.ADMIN, json={"is_disabled": False})
    assert web.call("PATCH", "/users/a admin", Role.ADMIN, json=change).status_code == 200


def test_two_admins_who_lower_each_other_at_the_same_moment_leave_one(web: Web) -> None:
    web.call("POST", "/users", Role.ADMIN, json={"name": "second", "role": "admin"})
    both = threading.Barrier(2)
    outcomes: list[int] = []

    def lower(one: Web, name: str) -> None:
        both.wait()
        outcomes.append(one.call("PATCH", f"/users/{name}", Role.ADMIN, json={"role": "viewer"}).status_code)

    with web.again() as other:
        threads = [threading.Thread(target=lower, args=each) for each in ((web, "a admin"), (other, "second"))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    # Whoever comes second is no admin any more, or would be the last one.
    assert sorted(outcomes)[0] == 200 and sorted(outcomes)[1] in (403, 409)
    with web.database.read() as tx:
        assert [row["name"] for row in people.users(tx) if row["role"] == Role.ADMIN] != []


@pytest.mark.parametrize("role", list(Role))
def test_a_token_has_no_more_rights_than_its_user(web: Web, role: Role) -> None:
    made = make(web, role)
    assert made.status_code == 201 and use(web, made).json()["role"] == str(role)
    for wanted in Role:
        assert (make(web, role, role=wanted).status_code == 201) == role.covers(wanted)
    assert kind(make(web, role, may_shut_down=True)) == (403, "forbidden")
    other = "a viewer" if role is not Role.VIEWER else "a operator"
    answer = make(web, role, user=other)
    assert answer.status_code == 201 if role is Role.ADMIN else kind(answer) == (403, "forbidden")
    assert kind(make(web, Role.ADMIN, user="a viewer", role="operator")) == (403, "forbidden")
    assert kind(make(web, Role.ADMIN, user="nobody")) == (404, "not_found")


def test_a_token_has_no_more_rights_than_the_one_that_made_it(web: Web) -> None:
    """A lesser token of an admin is not the way to a better one, and one that ends none to one that does not."""
    lesser = make(web, Role.ADMIN, role="viewer", expires_in_days=1)
    web.tokens[Role.ADMIN] = NewToken("", lesser.json()["token"])
    assert kind(make(web, Role.ADMIN, role="admin")) == (403, "forbidden")
    child = make(web, Role.ADMIN, expires_in_days=30).json()
    assert (child["role"], child["expires_at"]) == ("viewer", lesser.json()["expires_at"])
    ends_in = datetime.fromisoformat(child["expires_at"]) - datetime.fromisoformat(child["created_at"])
    assert timedelta(hours=23) < ends_in <= timedelta(days=1)


def test_with_ones_password_ones_own_token_may_outlive_the_one_that_makes_it(web: Web) -> None:
    with web.database.write() as tx:
        people.set_password(tx, "a operator", passwords.hashed(PASSWORD))
    ends = make(web, Role.OPERATOR, role="viewer", expires_in_days=1)
    web.tokens[Role.OPERATOR] = NewToken("", ends.json()["token"])
    assert make(web, Role.OPERATOR, password=PASSWORD).json()["expires_at"] is None
    assert kind(make(web, Role.OPERATOR, password=PASSWORD, role="operator")) == (403, "forbidden")
    assert kind(make(web, Role.OPERATOR, password="guessed")) == (403, "forbidden")
    assert kind(make(web, Role.VIEWER, password="")) == (403, "forbidden"), "who has none cannot type it"


def test_everybody_sees_and_revokes_his_own_tokens_and_an_admin_all(web: Web) -> None:
    made = make(web, Role.VIEWER).json()
    assert "token" in made
    mine = web.call("GET", "/tokens", Role.VIEWER).json()
    assert {each["user"] for each in mine} == {"a viewer"} and len(mine) == 2
    assert all("token" not in each and "digest" not in each for each in mine)
    assert len(web.call("GET", "/tokens", Role.ADMIN).json()) == 4
    assert kind(web.call("DELETE", f"/tokens/{made['id']}", Role.OPERATOR)) == (404, "not_found")
    assert web.call("DELETE", f"/tokens/{made['id']}", Role.VIEWER).status_code == 204
    assert kind(web.call("DELETE", f"/tokens/{made['id']}", Role.VIEWER)) == (404, "not_found")
    own = web.tokens[Role.OPERATOR].token_id
    assert web.call("DELETE", f"/tokens/{own}", Role.ADMIN).status_code == 204
    assert kind(web.call("GET", "/whoami", Role.OPERATOR)) == (401, "not_authenticated")


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        (update(user).where(user.c.name == "a operator").values(role="viewer"), (403, "forbidden")),
        (update(token).values(revoked_at=token.c.created_at), (401, "not_authenticated")),
    ],
)
def test_rights_are_asked_again_in_the_transaction_that_writes(
    web: Web, monkeypatch: pytest.MonkeyPatch, change: Update, answer: tuple[int, str]
) -> None:
    """Pitfall 48: a role or a token that is taken away just after the question who it is makes nothing."""
    recognise = people.identify

    def then_another_writes(tx: Transaction, secret: str) -> Identity | None:
        found = recognise(tx, secret)
        with web.again() as other, other.database.write() as of_other:
            of_other.db.execute(change)
        return found

    monkeypatch.setattr(people, "identify", then_another_writes)
    assert kind(web.order()) == answer
    with web.database.read() as tx:
        assert views.commands_page(tx, 1, None)[0] == []


def test_what_a_person_ordered_goes_on_when_his_rights_end(web: Web) -> None:
    """Pitfall 48: the policy is that it continues, until somebody cancels it; the user's page says so."""
    command_id = web.order().json()["id"]
    web.call("PATCH", "/users/a operator", Role.ADMIN, json={"is_disabled": True})
    assert kind(web.order(1)) == (401, "not_authenticated")
    left = web.call("GET", f"/commands/{command_id}", Role.ADMIN).json()
    assert (left["state"], left["created_by"]) == ("queued", "a operator")
    assert web.call("POST", f"/commands/{command_id}/cancel", Role.ADMIN).json()["state"] == "cancelled"


def test_the_audit_has_what_was_done_and_what_was_refused(web: Web) -> None:
    web.call("POST", "/freezes", json={"why": "fair"}, headers={"X-Requested-Via": "cli"})
    web.call("POST", "/freezes", Role.VIEWER, json={"why": "fair"})
    web.call("POST", "/freezes", None, json={"why": "fair"})
    items = web.call("GET", "/audit", Role.ADMIN).json()["items"]
    said = [(each["who"], each["via"], each["what"], each["outcome"]) for each in items]
    assert said == [
        ("a viewer", "api", "POST /api/v1/freezes", "forbidden"),
        ("a operator", "cli", "freeze", "made"),
    ]
    page = web.call("GET", "/audit?limit=1", Role.ADMIN).json()
    rest = web.call("GET", f"/audit?limit=1&cursor={page['next']}", Role.ADMIN).json()
    assert [*page["items"], *rest["items"]] == items and rest["next"] is None


def test_when_a_token_was_used_is_known_within_minutes(web: Web) -> None:
    def used_at() -> datetime:
        [mine] = web.call("GET", "/tokens", Role.VIEWER).json()
        return datetime.fromisoformat(mine["used_at"])

    first = used_at()
    assert used_at() == first
    with web.database.write() as tx:
        tx.db.execute(update(token).values(used_at=tx.now - timedelta(minutes=6)))
    used_at()
    assert used_at() > first
