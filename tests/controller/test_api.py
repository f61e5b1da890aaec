"""The API: each route for each role, each refusal with its kind, and the stream of events."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi.routing import APIRoute
from sqlalchemy import update

from infoscreen_reboot.controller.api.app import PREFIX
from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.lifecycle import Limits
from infoscreen_reboot.controller.store import commands, people
from infoscreen_reboot.controller.store.database import Database
from infoscreen_reboot.controller.store.tables import client, token
from tests.controller.test_orders import site as some_clients
from tests.controller.web import Web, kind, serving

# What each role may do. A route that is not here fails the test: think first.
MATRIX: dict[tuple[str, str], Role] = {
    ("POST", "/commands"): Role.OPERATOR,
    ("GET", "/commands"): Role.VIEWER,
    ("GET", "/commands/{command_id}"): Role.VIEWER,
    ("GET", "/commands/{command_id}/events"): Role.VIEWER,
    ("GET", "/commands/{command_id}/explain"): Role.VIEWER,
    ("POST", "/commands/{command_id}/cancel"): Role.OPERATOR,
    ("POST", "/batches/preview"): Role.OPERATOR,
    ("POST", "/batches"): Role.OPERATOR,
    ("GET", "/batches/{batch_id}"): Role.VIEWER,
    ("GET", "/batches/{batch_id}/members"): Role.VIEWER,
    ("POST", "/batches/{batch_id}/cancel"): Role.OPERATOR,
    ("GET", "/clients"): Role.VIEWER,
    ("GET", "/clients/{client_uuid}"): Role.VIEWER,
    ("PATCH", "/clients/{client_uuid}"): Role.OPERATOR,
    ("POST", "/clients/{client_uuid}/standing"): Role.ADMIN,
    ("POST", "/clients/standing"): Role.ADMIN,
    ("POST", "/clients/import"): Role.ADMIN,
    ("GET", "/clients/export"): Role.VIEWER,
    ("GET", "/batches"): Role.VIEWER,
    ("POST", "/batches/{batch_id}/retry"): Role.OPERATOR,
    ("GET", "/holds"): Role.VIEWER,
    ("GET", "/users"): Role.ADMIN,
    ("POST", "/users"): Role.ADMIN,
    ("PATCH", "/users/{name}"): Role.ADMIN,
    ("GET", "/tokens"): Role.VIEWER,
    ("POST", "/tokens"): Role.VIEWER,
    ("DELETE", "/tokens/{token_id}"): Role.VIEWER,
    ("GET", "/audit"): Role.ADMIN,
    ("GET", "/metrics"): Role.VIEWER,
    ("GET", "/whoami"): Role.VIEWER,
    ("GET", "/freezes"): Role.VIEWER,
    ("POST", "/freezes"): Role.OPERATOR,
    ("DELETE", "/freezes/{freeze_id}"): Role.OPERATOR,
    ("GET", "/events"): Role.VIEWER,
}
OPEN = {"/healthz", "/readyz", f"{PREFIX}/openapi.json"}


def test_every_route_stands_in_the_matrix_and_each_role_gets_what_it_may(web: Web) -> None:
    routes = {
        (method, route.path_format.removeprefix(PREFIX))
        for route in web.app.routes
        if isinstance(route, APIRoute) and route.path not in OPEN
        for method in route.methods
    }
    assert routes == MATRIX.keys()
    for (method, path), needed in MATRIX.items():
        if path == "/events":
            continue
        address = path.replace("{freeze_id}", "1").replace("{name}", "nobody")
        for name in ("command_id", "batch_id", "client_uuid", "token_id"):
            address = address.replace(f"{{{name}}}", str(uuid4()))
        assert kind(web.call(method, address, None)) == (401, "not_authenticated")
        for role in Role:
            status = web.call(method, address, role).status_code
            assert (status == 403) != role.covers(needed), (method, path, role, status)


def test_a_command_is_made_read_and_explained(web: Web) -> None:
    made = web.order(reason="frozen")
    assert (made.status_code, made.json()["state"], web.woken) == (201, "queued", 1)
    command_id = made.json()["id"]
    assert web.call("GET", f"/commands/{command_id}", Role.VIEWER).json() == made.json()
    told = web.call("GET", f"/commands/{command_id}/explain").json()
    assert all(rule["is_yes"] for rule in told["rules"]) and len(told["rules"]) == 17
    assert [event["kind"] for event in told["events"]] == ["queued"]
    assert told["command"]["waits_for"] == "to be sent"


def test_the_same_request_again_is_no_second_command(web: Web) -> None:
    own = str(uuid4())
    assert web.order(command_id=own).status_code == 201
    assert web.order(command_id=own).status_code == 200
    assert kind(web.order(1, command_id=own)) == (409, "key_used_otherwise")
    headers = {"Idempotency-Key": "k"}
    content = {"action": "reboot_host", "client_uuid": web.uuids[2]}
    for status in (201, 200):
        assert web.call("POST", "/commands", json=content, headers=headers).status_code == status


def test_a_refusal_says_which_rule_and_when_it_opens(web: Web) -> None:
    first = web.order().json()["id"]
    second = web.order()
    assert kind(second) == (409, "held")
    assert second.json()["rule"] == "one_open_command" and first in second.json()["detail"]
    recorded = web.call("GET", f"/commands/{second.json()['command_id']}").json()
    assert recorded["state"] == "blocked_safety"
    assert kind(web.call("POST", "/commands", json={"action": "reboot_host", "client_uuid": str(uuid4())})) == (
        404,
        "no_such_client",
    )
    shutdown = web.call("POST", "/commands", json={"action": "shutdown_host", "client_uuid": web.uuids[1]})
    assert shutdown.json()["rule"] == "right_to_shut_down"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({}, "action"),
        ({"action": "dance", "client_uuid": str(uuid4())}, "action"),
        ({"action": "reboot_host", "client_uuid": "x"}, "client_uuid"),
        ({"action": "reboot_host", "client_uuid": str(uuid4()), "force": True}, "force"),
        ({"action": "reboot_host", "client_uuid": str(uuid4()), "reason": "x" * 501}, "reason"),
    ],
)
def test_bad_input_is_named_by_its_field(web: Web, content: dict[str, Any], named: str) -> None:
    answer = web.call("POST", "/commands", json=content)
    assert kind(answer) == (422, "invalid") and named in answer.json()["detail"]


def test_what_is_no_json_or_no_address_of_ours(web: Web) -> None:
    assert kind(web.call("POST", "/commands", content=b"{")) == (400, "bad_request")
    assert kind(web.call("GET", "/nothing")) == (404, "not_found")
    assert kind(web.call("PUT", "/commands")) == (405, "method_not_allowed")
    assert kind(web.call("GET", "/commands?cursor=x")) == (400, "bad_request")


def test_many_from_preview_to_cancel(web: Web) -> None:
    seen = web.preview()
    assert (seen["count"], seen["held"]) == (3, {})
    content = {"action": "reboot_host", "clients": seen["clients"], "hash": seen["hash"], "count": 3}
    assert kind(web.call("POST", "/batches", json=content | {"count": 2})) == (412, "count_differs")
    made = web.call("POST", "/batches", json=content)
    assert made.status_code == 201 and made.json()["states"] == {"queued": 3}
    batch = made.json()["id"]
    members = web.call("GET", f"/batches/{batch}/members?state=queued").json()
    assert [member["client_uuid"] for member in members] == web.uuids
    assert web.call("POST", f"/batches/{batch}/cancel").json() == {"cancelled": 3, "too_late": 0}
    ended = web.call("GET", f"/batches/{batch}").json()
    assert (ended["states"], ended["is_over"]) == ({"cancelled": 3}, True)


def test_what_has_moved_since_the_preview_is_412(web: Web) -> None:
    seen = web.preview()
    with web.database.write() as tx:
        tx.db.execute(update(client).where(client.c.uuid == web.uuids[0]).values(is_online=False))
    content = {"action": "reboot_host", "clients": seen["clients"], "hash": seen["hash"], "count": 3}
    answer = web.call("POST", "/batches", json=content)
    assert kind(answer) == (412, "preview_changed") and answer.json()["hash"] != seen["hash"]


def test_a_selection_is_either_ids_or_a_selector(web: Web) -> None:
    for content in ({}, {"selector": "site", "clients": web.uuids}):
        answer = web.call("POST", "/batches/preview", json={"action": "reboot_host", **content})
        assert kind(answer) == (422, "invalid")
    bad = web.call("POST", "/batches/preview", json={"action": "reboot_host", "selector": "site=<"})
    assert kind(bad) == (400, "bad_selector")


def test_only_what_was_not_sent_can_be_cancelled(web: Web) -> None:
    one, two = web.order(0).json()["id"], web.order(1).json()["id"]
    assert web.call("POST", f"/commands/{one}/cancel").json()["state"] == "cancelled"
    assert web.call("POST", f"/commands/{one}/cancel").json()["state"] == "cancelled", "again is no fault"
    with web.database.write() as tx:
        commands.mark_sent(tx, commands.to_send(tx, 10), Limits())
    assert kind(web.call("POST", f"/commands/{two}/cancel")) == (409, "too_late")


def test_a_list_goes_on_where_it_ended(web: Web) -> None:
    with web.database.write() as tx:
        some_clients(tx, 20, first=100)
    uuids = [*web.uuids, *(f"00000000-0000-0000-0000-{number:012x}" for number in range(100, 120))]
    wanted = [{"action": "reboot_host", "client_uuid": uuid} for uuid in uuids]
    ids = {web.call("POST", "/commands", json=content).json()["id"] for content in wanted}
    seen: list[str] = []
    cursor = ""
    for _ in range(5):
        page = web.call("GET", f"/commands?limit=7{cursor}").json()
        seen += [item["id"] for item in page["items"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert len(seen) == len(set(seen)) == 23 and set(seen) == ids
    assert len(web.call("GET", f"/commands?client={web.uuids[0]}&open=true").json()["items"]) == 1


def test_a_freeze_holds_everybody_until_it_is_ended(web: Web) -> None:
    made = web.call("POST", "/freezes", json={"why": "trade fair"})
    assert made.status_code == 201
    assert kind(web.order()) == (409, "held")
    assert [each["why"] for each in web.call("GET", "/freezes").json()] == ["trade fair"]
    assert web.call("DELETE", f"/freezes/{made.json()['id']}").status_code == 204
    assert kind(web.call("DELETE", f"/freezes/{made.json()['id']}")) == (404, "not_found")
    assert web.order().status_code == 201


def test_a_client_is_changed_accepted_and_retired(web: Web) -> None:
    one = f"/clients/{web.uuids[0]}"
    change = {"name": "Bar left", "labels": {"room": "bar", "site": None}}
    changed = web.call("PATCH", one, json=change).json()
    assert (changed["name"], changed["labels"]) == ("Bar left", {"room": "bar"})
    assert kind(web.call("PATCH", one, json={"labels": {"a b": "c"}})) == (422, "invalid")
    assert web.call("POST", f"{one}/standing", Role.ADMIN, json={"standing": "retired"}).json()["standing"] == "retired"
    assert web.order().json()["rule"] == "client_accepted"
    assert len(web.call("GET", "/clients?standing=accepted").json()) == 2
    assert len(web.call("GET", "/clients?selector=site").json()) == 2


def test_a_token_ends_when_it_is_revoked_or_over_and_has_no_more_rights_than_its_user(web: Web) -> None:
    assert web.call("GET", "/whoami").json() == {"name": "a operator", "role": "operator", "may_shut_down": False}
    with web.database.write() as tx:
        stolen = people.add_token(tx, "a viewer", "x", Role.ADMIN, True, None)
        web.tokens[Role.ADMIN] = stolen
    assert web.call("GET", "/whoami", Role.ADMIN).json() == {
        "name": "a viewer",
        "role": "viewer",
        "may_shut_down": False,
    }
    with web.database.write() as tx:
        assert people.revoke(tx, stolen.token_id) and not people.revoke(tx, stolen.token_id)
        of_operator = token.c.id == web.tokens[Role.OPERATOR].token_id
        tx.db.execute(update(token).where(of_operator).values(expires_at=tx.now))
    for role in (Role.ADMIN, Role.OPERATOR):
        assert kind(web.call("GET", "/whoami", role)) == (401, "not_authenticated")


def test_the_stream_begins_where_it_is_told_to_and_ends_with_the_token(web: Web) -> None:
    for number in range(3):
        web.order(number)
    headers = {"Authorization": f"Bearer {web.tokens[Role.VIEWER].secret}", "Last-Event-ID": "1"}
    seen: list[dict[str, Any]] = []
    with serving(web) as address, httpx.stream("GET", f"{address}/events", headers=headers, timeout=30) as stream:
        assert stream.headers["x-accel-buffering"] == "no"
        for line in stream.iter_lines():
            if line.startswith('data: {"seq'):
                seen.append(json.loads(line.removeprefix("data: ")))
                if len(seen) == 2:
                    with web.database.write() as tx:
                        people.revoke(tx, web.tokens[Role.VIEWER].token_id)
        assert line == "" and [event["seq"] for event in seen] == [2, 3]
    assert seen[0]["kind"] == "queued"


def test_a_database_that_is_gone_is_no_500(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    web.database.close()
    monkeypatch.setattr(web.database, "engine", Database("sqlite:////nowhere/at/all").engine)
    answer = web.call("GET", "/commands")
    assert kind(answer) == (503, "unavailable")
    assert web.client.get("/healthz").status_code == 200
    assert web.client.get("/readyz").status_code == 503
