"""Ports and power cycles over HTTP."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.power.cycle import Step
from infoscreen_reboot.controller.store import power
from tests.controller.web import Web, kind

PRETENDED = {"switch": "core-1", "port": "1.7", "backend": "dry-run"}


def put(web: Web, number: int = 0, **more: Any) -> Any:
    return web.call("PUT", f"/power/ports/{web.uuids[number]}", Role.ADMIN, json=PRETENDED | more)


def ask(web: Web, **more: Any) -> Any:
    content = {"client_uuid": web.uuids[0], "reason": "frozen", **more}
    return web.call("POST", "/power/cycles", json=content)


def test_a_port_is_said_read_tested_and_forgotten(web: Web) -> None:
    made = put(web)
    assert made.status_code == 200 and made.json()["changed_by"] == "a admin"
    assert web.call("GET", "/power/ports", Role.VIEWER).json() == [made.json()]
    tested = web.call("POST", f"/power/ports/{web.uuids[0]}/test").json()
    assert tested == {"is_on": True, "delivers": True, "words": "it only pretends", "fault": None}
    assert kind(put(web, 1)) == (409, "exists"), "a port feeds one client"
    assert kind(put(web, 1, port="1.8", backend="snmp")) == (422, "invalid")
    assert kind(web.call("PUT", f"/power/ports/{uuid4()}", Role.ADMIN, json=PRETENDED)) == (404, "no_such_client")
    no_profile: dict[str, Any] = {"backend": "snmp", "address": "127.0.0.1", "profile": "lab"}
    assert put(web, **no_profile).status_code == 200, "it may be said before the profile is there"
    tested = web.call("POST", f"/power/ports/{web.uuids[0]}/test").json()
    assert tested["is_on"] is None and "no SNMP profile was given" in tested["fault"]
    address = f"/power/ports/{web.uuids[0]}"
    assert web.call("DELETE", address, Role.ADMIN).status_code == 204
    assert kind(web.call("DELETE", address, Role.ADMIN)) == (404, "not_found")
    assert kind(web.call("POST", f"{address}/test")) == (404, "not_found")


def test_the_port_of_a_retired_client_is_free(web: Web) -> None:
    put(web)
    web.call("POST", f"/clients/{web.uuids[0]}/standing", Role.ADMIN, json={"standing": "retired"})
    assert put(web, 1).status_code == 200
    assert [each["client_uuid"] for each in web.call("GET", "/power/ports").json()] == [web.uuids[1]]


def test_a_list_of_ports_is_applied_as_a_whole_or_not_at_all(web: Web) -> None:
    def send(text: str, dry_run: bool) -> Any:
        headers = {"Content-Type": "text/csv"}
        address = f"/power/ports/import?dry_run={str(dry_run).lower()}"
        return web.call("POST", address, Role.ADMIN, content=text.encode(), headers=headers)

    lines = [
        "client,switch,port,backend",
        *(f"{uuid},core,{number},dry-run" for number, uuid in enumerate(web.uuids, 1)),
    ]
    assert send("\n".join(lines), True).json()["applied"] is False
    assert web.call("GET", "/power/ports").json() == []
    assert kind(send("\n".join([*lines, "nobody,core,9,dry-run"]), False)) == (422, "rows_refused")
    assert web.call("GET", "/power/ports").json() == []
    assert send("\n".join(lines), False).json()["applied"] is True
    swapped = [lines[0], f"{web.uuids[0]},core,2,dry-run", f"{web.uuids[1]},core,1,dry-run"]
    assert {row["outcome"] for row in send("\n".join(swapped), False).json()["rows"]} == {"changed"}
    ports = {each["client_uuid"]: each["port"] for each in web.call("GET", "/power/ports").json()}
    assert ports == dict(zip(web.uuids, ("2", "1", "3"), strict=True))
    said = web.call("GET", "/audit", Role.ADMIN).json()["items"]
    assert [each["outcome"] for each in said if each["what"] == "import ports"] == ["2 changed", "3 changed"]


def test_a_cycle_is_refused_by_a_rule_or_made_with_a_reason(web: Web) -> None:
    assert ask(web).json()["rule"] == "no_port"
    put(web)
    refused = ask(web)
    assert kind(refused) == (409, "power_refused") and refused.json()["rule"] == "client_online"
    assert kind(ask(web, is_online_anyway="yes")) == (422, "invalid")
    assert kind(ask(web, reason="", is_online_anyway=True)) == (422, "invalid")
    assert kind(ask(web, client_uuid=str(uuid4()))) == (404, "no_such_client")
    made = ask(web, is_online_anyway=True)
    assert (made.status_code, made.json()["state"], made.json()["requested_by"]) == (201, "requested", "a operator")
    assert ask(web, is_online_anyway=True).json()["rule"] == "one_cycle"
    address = f"/power/cycles/{made.json()['id']}"
    assert web.call("GET", address, Role.VIEWER).json() == made.json()
    assert kind(web.call("GET", "/power/cycles/999")) == (404, "not_found")
    page = web.call("GET", f"/power/cycles?client={web.uuids[0]}&limit=1").json()
    assert page == {"items": [made.json()], "next": None}
    assert web.call("GET", f"/power/cycles?client={web.uuids[1]}").json()["items"] == []


def test_a_port_that_is_held_off_is_seen_and_restored(web: Web) -> None:
    put(web)
    made = ask(web, is_online_anyway=True).json()["id"]
    with web.database.write() as tx:
        power.move(tx, made, Step.OWE, must_be_on_by=tx.now - timedelta(seconds=1))
        power.move(tx, made, Step.SEE_OFF)
    assert web.call("GET", f"/power/cycles/{made}").json()["is_held_off"] is True
    assert "infoscreen_ports_held_off 1.0" in web.call("GET", "/metrics", Role.VIEWER).text
    [restored] = web.call("POST", "/power/restore").json()
    assert (restored["cycle_id"], restored["why"]) == (made, None)
    after = web.call("GET", f"/power/cycles/{made}").json()
    assert (after["state"], after["is_held_off"]) == ("on", False)
    assert "infoscreen_ports_held_off 0.0" in web.call("GET", "/metrics", Role.VIEWER).text
    assert web.call("POST", "/power/restore").json() == []


def test_pages_of_cycles_follow_each_other(web: Web) -> None:
    for number in range(3):
        put(web, number, port=str(number))
        assert ask(web, client_uuid=web.uuids[number], is_online_anyway=True).status_code == 201
    first = web.call("GET", "/power/cycles?limit=2").json()
    second = web.call("GET", f"/power/cycles?limit=2&cursor={first['next']}").json()
    assert [each["client_uuid"] for each in first["items"] + second["items"]] == web.uuids[::-1]
    assert second["next"] is None
