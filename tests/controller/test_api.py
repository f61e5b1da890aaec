"""The API: each route for each role, each refusal with its kind, and what comes twice or at the same moment."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from fastapi.routing import APIRoute
from sqlalchemy import update

from infoscreen_reboot.controller import policies
from infoscreen_reboot.controller.api.app import PREFIX, create_app
from infoscreen_reboot.controller.api.door import MOST_BYTES
from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.lifecycle import Limits
from infoscreen_reboot.controller.orders import House
from infoscreen_reboot.controller.store import commands, lease, people
from infoscreen_reboot.controller.store.database import Database
from infoscreen_reboot.controller.store.facts import Policy
from infoscreen_reboot.controller.store.tables import client, command, label, token
from tests.controller.test_orders import site as some_clients
from tests.controller.web import Web, kind

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
    ("GET", "/batches/{batch_id}/reasons"): Role.VIEWER,
    ("GET", "/batches/{batch_id}/reconnects"): Role.VIEWER,
    ("POST", "/batches/{batch_id}/cancel"): Role.OPERATOR,
    ("POST", "/rollouts/preview"): Role.OPERATOR,
    ("POST", "/rollouts"): Role.OPERATOR,
    ("GET", "/rollouts"): Role.VIEWER,
    ("GET", "/rollouts/{rollout_id}"): Role.VIEWER,
    ("GET", "/rollouts/{rollout_id}/members"): Role.VIEWER,
    ("GET", "/rollouts/{rollout_id}/reconnects"): Role.VIEWER,
    ("POST", "/rollouts/{rollout_id}/pause"): Role.OPERATOR,
    ("POST", "/rollouts/{rollout_id}/recovery"): Role.OPERATOR,
    ("POST", "/rollouts/{rollout_id}/resume"): Role.OPERATOR,
    ("POST", "/rollouts/{rollout_id}/abort"): Role.OPERATOR,
    ("POST", "/rollouts/{rollout_id}/rollback"): Role.OPERATOR,
    ("GET", "/clients"): Role.VIEWER,
    ("GET", "/clients/{client_uuid}"): Role.VIEWER,
    ("PATCH", "/clients/{client_uuid}"): Role.OPERATOR,
    ("GET", "/clients/{client_uuid}/health"): Role.VIEWER,
    ("GET", "/clients/{client_uuid}/boots"): Role.VIEWER,
    ("GET", "/clients/{client_uuid}/alerts"): Role.VIEWER,
    ("POST", "/clients/{client_uuid}/standing"): Role.ADMIN,
    ("POST", "/clients/standing"): Role.ADMIN,
    ("POST", "/clients/import"): Role.ADMIN,
    ("GET", "/clients/export"): Role.VIEWER,
    ("GET", "/batches"): Role.VIEWER,
    ("POST", "/batches/{batch_id}/retry"): Role.OPERATOR,
    ("GET", "/holds"): Role.VIEWER,
    ("GET", "/views"): Role.VIEWER,
    ("PUT", "/views/{view_name}"): Role.VIEWER,
    ("DELETE", "/views/{view_name}"): Role.VIEWER,
    ("GET", "/sites"): Role.VIEWER,
    ("PUT", "/sites/{site_name}"): Role.OPERATOR,
    ("DELETE", "/sites/{site_name}"): Role.OPERATOR,
    ("GET", "/schedules"): Role.VIEWER,
    ("POST", "/schedules"): Role.OPERATOR,
    ("POST", "/schedules/preview"): Role.OPERATOR,
    ("GET", "/schedules/{schedule_id}"): Role.VIEWER,
    ("PATCH", "/schedules/{schedule_id}"): Role.OPERATOR,
    ("DELETE", "/schedules/{schedule_id}"): Role.OPERATOR,
    ("POST", "/schedules/{schedule_id}/pause"): Role.OPERATOR,
    ("POST", "/schedules/{schedule_id}/resume"): Role.OPERATOR,
    ("POST", "/schedules/{schedule_id}/skip"): Role.OPERATOR,
    ("POST", "/schedules/{schedule_id}/unskip"): Role.OPERATOR,
    ("GET", "/schedules/{schedule_id}/preview"): Role.VIEWER,
    ("POST", "/schedules/{schedule_id}/preview"): Role.OPERATOR,
    ("POST", "/schedules/{schedule_id}/run/preview"): Role.OPERATOR,
    ("POST", "/schedules/{schedule_id}/run"): Role.OPERATOR,
    ("GET", "/schedules/{schedule_id}/nights"): Role.VIEWER,
    ("GET", "/nights"): Role.VIEWER,
    ("GET", "/nights/{night_id}"): Role.VIEWER,
    ("GET", "/nights/{night_id}/report"): Role.VIEWER,
    ("GET", "/users"): Role.ADMIN,
    ("POST", "/users"): Role.ADMIN,
    ("PATCH", "/users/{name}"): Role.ADMIN,
    ("PUT", "/users/{name}/password"): Role.VIEWER,
    ("GET", "/tokens"): Role.VIEWER,
    ("POST", "/tokens"): Role.VIEWER,
    ("DELETE", "/tokens/{token_id}"): Role.VIEWER,
    ("GET", "/audit"): Role.ADMIN,
    ("GET", "/metrics"): Role.VIEWER,
    ("GET", "/whoami"): Role.VIEWER,
    ("GET", "/freezes"): Role.VIEWER,
    ("POST", "/freezes"): Role.OPERATOR,
    ("DELETE", "/freezes/{freeze_id}"): Role.OPERATOR,
    ("GET", "/windows"): Role.VIEWER,
    ("GET", "/fleet"): Role.VIEWER,
    ("GET", "/fleet/clients"): Role.VIEWER,
    ("GET", "/events"): Role.VIEWER,
    ("GET", "/notices"): Role.VIEWER,
    ("GET", "/notify/targets"): Role.VIEWER,
    ("POST", "/notify/test"): Role.ADMIN,
    ("GET", "/recoveries"): Role.VIEWER,
    ("GET", "/recoveries/{recovery_id}"): Role.VIEWER,
    ("POST", "/recoveries/{recovery_id}/stop"): Role.OPERATOR,
    ("GET", "/power/ports"): Role.VIEWER,
    ("PUT", "/power/ports/{client_uuid}"): Role.ADMIN,
    ("DELETE", "/power/ports/{client_uuid}"): Role.ADMIN,
    ("POST", "/power/ports/import"): Role.ADMIN,
    ("POST", "/power/ports/{client_uuid}/test"): Role.OPERATOR,
    ("POST", "/power/cycles"): Role.OPERATOR,
    ("GET", "/power/cycles"): Role.VIEWER,
    ("GET", "/power/cycles/{cycle_id}"): Role.VIEWER,
    ("POST", "/power/restore"): Role.OPERATOR,
}
OPEN = {"/healthz", "/readyz", f"{PREFIX}/openapi.json"}


def test_every_route_stands_in_the_matrix_and_each_role_gets_what_it_may(web: Web) -> None:
    routes = {
        (method, route.path_format.removeprefix(PREFIX))
        for route in create_app(web.app.state.site).routes  # without the pages: test_console.py has a matrix of theirs
        if isinstance(route, APIRoute) and route.path not in OPEN
        for method in route.methods
    }
    assert routes == MATRIX.keys()
    for (method, path), needed in MATRIX.items():
        if path == "/events":
            continue
        address = path.replace("{name}", "nobody")
        for number in ("freeze_id", "recovery_id", "cycle_id"):
            address = address.replace(f"{{{number}}}", "1")
        for name in re.findall(r"{(\w+)}", address):
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
    assert all(rule["is_yes"] for rule in told["rules"]) and len(told["rules"]) == 18
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


def both(first: Callable[[], Any], second: Callable[[], Any]) -> list[Any]:
    """What the two answer that ask at the same moment."""
    ready = threading.Barrier(2)
    answers: list[Any] = []

    def ask(how: Callable[[], Any]) -> None:
        ready.wait()
        answers.append(how())

    threads = [threading.Thread(target=ask, args=(how,)) for how in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_a_form_that_is_sent_twice_or_reloaded_makes_one_command(web: Web) -> None:
    """Pitfall 1: the id is made by the client, and stays the same in the form."""
    own = str(uuid4())
    with web.again() as other:
        answers = both(partial(web.order, command_id=own), partial(other.order, command_id=own))
    assert sorted(answer.status_code for answer in answers) == [200, 201]
    assert {answer.json()["id"] for answer in answers} == {own}
    assert web.order(command_id=own).status_code == 200
    assert len(web.call("GET", "/commands").json()["items"]) == 1


@pytest.mark.parametrize("what", ["/commands", "/batches"])
def test_one_idempotency_key_makes_one_thing(web: Web, what: str) -> None:
    """Pitfall 6: at the same moment on two connections, with another body, and after a restart."""
    seen = web.preview()
    many = {"clients": seen["clients"], "hash": seen["hash"], "count": 3}
    content = {"action": "reboot_host", **({"client_uuid": web.uuids[0]} if what == "/commands" else many)}

    def send(one: Web, **more: Any) -> Any:
        return one.call("POST", what, json=content | more, headers={"Idempotency-Key": "k"})

    with web.again() as other:
        answers = both(partial(send, web), partial(send, other))
    assert sorted(answer.status_code for answer in answers) == [200, 201]
    [made] = {answer.json()["id"] for answer in answers}
    assert kind(send(web, reason="another")) == (409, "key_used_otherwise")
    web.database.close()
    with web.again() as restarted:
        again = send(restarted)
        assert (again.status_code, again.json()["id"]) == (200, made)
        assert len(restarted.call("GET", "/commands").json()["items"]) == (1 if what == "/commands" else 3)
        notes = restarted.call("GET", "/audit", Role.ADMIN).json()["items"]
    assert [each["outcome"] for each in notes] == ["made"], "said once"


def test_a_key_belongs_to_whoever_uses_it(web: Web) -> None:
    """Pitfall 6: two people may think of the same key."""
    headers = {"Idempotency-Key": "k"}
    for number, role in enumerate((Role.OPERATOR, Role.ADMIN)):
        content = {"action": "reboot_host", "client_uuid": web.uuids[number]}
        assert web.call("POST", "/commands", role, json=content, headers=headers).status_code == 201


def test_two_operators_and_one_client_the_second_gets_the_first_ones_command(web: Web) -> None:
    """Pitfall 7: on two connections at the same moment; the refusal links the command that is open."""
    with web.again() as other:
        answers = both(web.order, other.order)
    [made] = [answer for answer in answers if answer.status_code == 201]
    [busy] = [answer for answer in answers if answer.status_code != 201]
    assert kind(busy) == (409, "held") and busy.json()["rule"] == "one_open_command"
    assert busy.json()["open_command_id"] == made.json()["id"]
    assert web.call("GET", f"/commands/{busy.json()['open_command_id']}").json()["is_open"] is True
    again = web.call("POST", "/commands", json={"action": "reboot_host", "client_uuid": web.uuids[0]})
    assert again.json()["open_command_id"] == made.json()["id"]


def test_writers_that_read_before_they_write_wait_for_each_other(web: Web) -> None:
    """Pitfall 16: no SQLITE_BUSY_SNAPSHOT, whatever two instances write at the same time."""
    statuses: list[int] = []

    def freeze(one: Web) -> None:
        for _ in range(8):
            made = one.call("POST", "/freezes", json={"why": "x"})
            ended = one.call("DELETE", f"/freezes/{made.json()['id']}")
            statuses.extend((made.status_code, ended.status_code))

    with web.again() as other:
        both(partial(freeze, web), partial(freeze, other))
    assert Counter(statuses) == {201: 16, 204: 16}


STEERING = ["\x1b[2J", "a\x07b", "\x9b31m", "a\x00", "a\x7f", "a\u202eb", "a\u2028b"]


@pytest.mark.parametrize("text", STEERING)
def test_no_text_of_a_person_steers_a_terminal(web: Web, text: str) -> None:
    """Pitfall 50: in reasons, names, notes, labels and freezes."""
    one = f"/clients/{web.uuids[0]}"
    refused = [
        web.order(reason=text),
        web.call("POST", "/batches/preview", json={"action": "reboot_host", "selector": "site", "reason": text}),
        web.call("PATCH", one, json={"name": text}),
        web.call("PATCH", one, json={"note": text}),
        web.call("PATCH", one, json={"labels": {"site": text}}),
        web.call("PATCH", one, json={"labels": {text: "a"}}),
        web.call("POST", "/freezes", json={"why": text}),
        web.call("POST", "/tokens", json={"name": text}),
        web.call("GET", "/clients", params={"name": text}),
    ]
    assert [kind(answer) for answer in refused] == [(422, "invalid")] * len(refused)


def test_a_note_may_have_lines_and_html_is_only_text(web: Web) -> None:
    """Pitfall 50: it is kept as it is; whoever shows it shows text."""
    one, note = f"/clients/{web.uuids[0]}", "<script>alert(1)</script>\nkey at the reception"
    assert web.call("PATCH", one, json={"note": note}).json()["note"] == note
    assert web.order(reason="<b>now</b>").json()["reason"] == "<b>now</b>"
    assert kind(web.order(1, reason="a\nb")) == (422, "invalid")


@pytest.mark.parametrize("is_length_said", [True, False])
def test_a_request_that_is_too_large_is_413(web: Web, is_length_said: bool) -> None:
    content = b"x" * (MOST_BYTES + 1)
    parts = (content[at : at + 65536] for at in range(0, len(content), 65536))
    answer = web.call("POST", "/commands", content=content if is_length_said else parts)
    assert kind(answer) == (413, "too_large")
    assert kind(web.call("POST", "/commands", content=content[:-1])) == (400, "bad_request")


def test_a_batch_of_as_many_clients_as_may_be_fits_into_a_request(web: Web) -> None:
    content = {"action": "reboot_host", "reason": "x" * 500, "clients": [str(uuid4()) for _ in range(20_000)]}
    assert kind(web.call("POST", "/batches/preview", json=content)) == (404, "no_such_client")
    content["clients"] = [*content["clients"], str(uuid4())]
    assert kind(web.call("POST", "/batches/preview", json=content)) == (422, "invalid")


@pytest.mark.parametrize(
    "content",
    [
        {"someone_is_there": 1},
        {"wait_until": 1795701600},
        {"wait_until": "2026-11-26T14:00:00"},
        {"wait_until": "soon"},
    ],
)
def test_a_number_is_no_yes_and_a_time_has_a_zone(web: Web, content: dict[str, Any]) -> None:
    assert kind(web.order(**content)) == (422, "invalid")


def test_an_answer_is_kept_by_no_cache_and_a_wrong_method_is_told_the_right_ones(web: Web) -> None:
    answer = web.call("GET", "/whoami")
    assert answer.headers["cache-control"] == "no-store" and answer.headers["x-content-type-options"] == "nosniff"
    wrong = web.call("DELETE", f"/clients/{web.uuids[0]}")
    assert kind(wrong) == (405, "method_not_allowed") and wrong.headers["allow"] == "GET, PATCH"
    assert kind(web.call("GET", "/clients/")) == (404, "not_found"), "no redirect to what Host says"


def test_what_holds_commands_is_told_by_rule(web: Web) -> None:
    web.call("POST", "/freezes", json={"why": "trade fair"})
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    for number in range(2):
        assert web.order(number, wait_until=until).status_code == 201
    told = web.call("GET", "/holds", Role.VIEWER).json()
    assert [each["why"] for each in told["freezes"]] == ["trade fair"]
    [waiting] = told["waiting"]
    assert (waiting["rule"], waiting["count"], waiting["opens_at"]) == ("freeze", 2, None)
    assert "trade fair" in waiting["why"]


def test_the_windows_are_told_with_their_next_openings(web: Web) -> None:
    weekend, always = (
        policies.window("site=alpine sun 01:00 4h Europe/Berlin"),
        policies.window("mon-sun 00:00 24h UTC"),
    )
    house = House(Policy(windows=(weekend, always, policies.window("site!=alpine mon 02:00 1h UTC"))))
    web.app.state.site = replace(web.app.state.site, house=house)
    first, second, third = web.call("GET", "/windows?openings=60", Role.VIEWER).json()
    assert [first["selector"], second["selector"], third["selector"]] == ["site=alpine", "", "site!=alpine"]
    assert [first["clients"], second["clients"], third["clients"]] == [3, 3, 0]
    assert (first["days"], first["start"], first["duration_h"]) == (["sun"], "01:00", 4)
    assert len(first["openings"]) == 60
    assert {each["opens_local"][11:19] for each in first["openings"]} == {"01:00:00"}
    # Sixty Sundays: on two or three of them the clocks change.
    marked = [each for each in first["openings"] if each["clocks"] is not None]
    assert 2 <= len(marked) <= 3 and all(
        re.match("clocks go (forward|back) by 60 min at", each["clocks"]) for each in marked
    )
    assert second["is_open"] and not any(each["clocks"] for each in second["openings"])
    assert datetime.fromisoformat(second["openings"][0]["opens_at"]) <= datetime.now(UTC)
    assert len(web.call("GET", "/windows").json()[0]["openings"]) == 5
    assert kind(web.call("GET", "/windows?openings=0")) == (422, "invalid")


def test_a_freeze_ends_within_a_year_or_by_hand(web: Web) -> None:
    for until in ("2020-01-01T00:00:00Z", "9999-12-31T23:59:59-14:00"):
        assert kind(web.call("POST", "/freezes", json={"why": "x", "until": until})) == (422, "invalid")


def test_the_numbers_for_prometheus_are_those_of_the_rows(web: Web) -> None:
    web.order(0)
    held = web.order(0)
    assert held.status_code == 409
    with web.database.write() as tx:
        tx.db.execute(update(client).where(client.c.uuid == web.uuids[2]).values(is_online=False))
        lease.take(tx, "here")
    answer = web.call("GET", "/metrics", Role.VIEWER)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
    lines = {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in answer.text.splitlines() if line[0] != "#"
    }
    assert lines['infoscreen_commands{action="reboot_host",proof="",state="queued"}'] == 1
    assert lines['infoscreen_commands{action="reboot_host",proof="",state="blocked_safety"}'] == 1
    assert lines['infoscreen_clients{presence="online",standing="accepted"}'] == 2
    assert lines['infoscreen_clients{presence="unknown",standing="accepted"}'] == 1
    assert lines['infoscreen_ignored_messages_total{what="health"}'] == 3
    assert (lines["infoscreen_lease_held"], lines["infoscreen_broker_heard"]) == (1, 0)
    assert 0 <= lines["infoscreen_oldest_open_command_seconds"] < 60
    assert 0 < lines["infoscreen_database_latency_seconds"] < 60
    with web.database.write() as tx:
        tx.db.execute(update(command).values(state="completed", rank=5, started_boot_id="a", ended_boot_id="a"))
    text = web.call("GET", "/metrics", Role.VIEWER).text
    assert 'infoscreen_commands{action="reboot_host",proof="mock",state="completed"} 2.0' in text


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
    assert (seen["count"], seen["held"], seen["eligible"]) == (3, {}, web.uuids)
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


def test_a_preview_names_the_sites_where_no_screen_stays_on(web: Web) -> None:
    def dark(*numbers: int) -> list[str]:
        found: list[str] = web.preview(selector=None, clients=[web.uuids[number] for number in numbers])["dark_sites"]
        return found

    assert dark(0, 1) == []
    assert dark(0, 1, 2) == ["alpine"]
    assert web.order(2).status_code == 201
    assert dark(0, 1) == ["alpine"], "the third is about to go"
    assert dark(2) == [], "it does not go again"
    with web.database.write() as tx:
        tx.db.execute(update(command).values(state="completed", rank=5))
        tx.db.execute(update(client).where(client.c.uuid == web.uuids[2]).values(is_online=False))
    assert dark(0) == []
    assert dark(0, 1) == ["alpine"], "the third is offline"
    with web.database.write() as tx:
        tx.db.execute(update(client).where(client.c.uuid == web.uuids[2]).values(is_online=True))
        tx.db.execute(update(label).where(label.c.client_uuid == web.uuids[2]).values(value="pier"))
    assert dark(0, 1, 2) == ["alpine", "pier"]


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
    assert web.call("GET", "/whoami").json() == {
        "name": "a operator",
        "role": "operator",
        "may_shut_down": False,
        "has_password": False,
        "by_provider": False,
    }
    with web.database.write() as tx:
        stolen = people.add_token(tx, "a viewer", "x", Role.ADMIN, True, None)
        web.tokens[Role.ADMIN] = stolen
    assert web.call("GET", "/whoami", Role.ADMIN).json() == {
        "name": "a viewer",
        "role": "viewer",
        "may_shut_down": False,
        "has_password": False,
        "by_provider": False,
    }
    with web.database.write() as tx:
        assert people.revoke(tx, stolen.token_id) and not people.revoke(tx, stolen.token_id)
        of_operator = token.c.id == web.tokens[Role.OPERATOR].token_id
        tx.db.execute(update(token).where(of_operator).values(expires_at=tx.now))
    for role in (Role.ADMIN, Role.OPERATOR):
        assert kind(web.call("GET", "/whoami", role)) == (401, "not_authenticated")


def test_a_database_that_is_gone_is_no_500(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    web.database.close()
    monkeypatch.setattr(web.database, "engine", Database("sqlite:////nowhere/at/all").engine)
    answer = web.call("GET", "/commands")
    assert kind(answer) == (503, "unavailable")
    assert web.client.get("/healthz").status_code == 200
    assert web.client.get("/readyz").status_code == 503


def test_a_server_that_stops_is_not_ready(web: Web) -> None:
    assert web.client.get("/readyz").status_code == 200
    web.app.state.is_stopping = True
    assert kind(web.client.get("/readyz")) == (503, "unavailable")
