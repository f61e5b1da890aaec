"""Schedules, nights and sites over the API: what is taken, what is refused in which words, and what is shown."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import select, update

from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.lifecycle import Limits
from infoscreen_reboot.controller.orders import House
from infoscreen_reboot.controller.schedules import Schedules
from infoscreen_reboot.controller.store.tables import audit, client, label, schedule
from tests.controller.web import Web, kind

NEW = {"name": "nightly", "selector": "site=alpine", "rule": "FREQ=DAILY", "start": "03:00", "zone": "Europe/Berlin"}


def create(web: Web, **more: Any) -> Any:
    return web.call("POST", "/schedules", json=NEW | more)


def test_a_schedule_is_made_read_changed_and_deleted(web: Web) -> None:
    made = create(web)
    assert made.status_code == 201
    shown = made.json()
    assert (shown["version"], shown["back_by_min"], shown["spread_min"]) == (1, 135, 0)
    assert (shown["created_by"], shown["skips"], shown["paused_at"]) == ("a operator", [], None)
    address = f"/schedules/{shown['id']}"
    assert web.call("GET", address, Role.VIEWER).json() == shown
    assert web.call("GET", "/schedules", Role.VIEWER).json() == [shown]
    changed = web.call("PATCH", address, json={"version": 1, "start": "04:00", "zone": None})
    assert (changed.json()["version"], changed.json()["start"], changed.json()["zone"]) == (2, "04:00", None)
    late = web.call("PATCH", address, json={"version": 1, "start": "05:00"})
    assert kind(late) == (412, "changed_meanwhile") and late.json()["version"] == 2
    assert web.call("DELETE", address).status_code == 204
    for method, where in (("GET", address), ("DELETE", address), ("POST", f"{address}/pause")):
        assert kind(web.call(method, where)) == (404, "not_found")
    assert web.call("GET", f"{address}/nights").json() == {"items": [], "next": None}
    assert create(web).status_code == 201, "its name is free again"
    with web.database.read() as tx:
        told = tx.db.execute(select(audit.c.what).order_by(audit.c.seq)).scalars().all()
    assert told == ["create schedule", "change schedule", "delete schedule", "create schedule"]


WRONG: list[tuple[dict[str, Any], tuple[int, str], str]] = [
    ({"rule": "FREQ=HOURLY"}, (422, "invalid"), "HOURLY"),
    ({"rule": "FREQ=DAILY;COUNT=2"}, (422, "invalid"), "COUNT"),
    ({"start": "24:00"}, (422, "invalid"), "start"),
    ({"zone": "Mars/Base"}, (422, "invalid"), "Mars/Base"),
    ({"zone": "Europe"}, (422, "invalid"), "zone"),
    ({"selector": "site=<"}, (400, "bad_selector"), "site=<"),
    ({"name": " x"}, (422, "invalid"), "name"),
    ({"name": "a\x1b[31m"}, (422, "invalid"), "name"),
    ({"spread_min": 120}, (422, "invalid"), "spread_min"),
    ({"window_min": 1441}, (422, "invalid"), "window_min"),
    ({"action": "shutdown_host"}, (422, "invalid"), "action"),
    ({"unknown": 1}, (422, "invalid"), "unknown"),
]


def test_what_cannot_be_done_is_refused_by_its_name(web: Web) -> None:
    for more, expected, named in WRONG:
        for address in ("/schedules", "/schedules/preview"):
            answer = web.call("POST", address, json=NEW | more)
            assert kind(answer) == expected and named in answer.json()["detail"]
    assert web.call("GET", "/schedules").json() == []
    assert create(web, back_by_min=5, window_min=1).status_code == 201, "as short as it can be"


def test_a_name_is_given_once_and_nothing_is_taken_away(web: Web) -> None:
    create(web)
    assert kind(create(web)) == (409, "exists")
    other = create(web, name="weekly").json()["id"]
    assert kind(web.call("PATCH", f"/schedules/{other}", json={"version": 1, "name": "nightly"})) == (409, "exists")
    assert web.call("PATCH", f"/schedules/{other}", json={"version": 1, "name": "weekly"}).status_code == 200
    taken = web.call("PATCH", f"/schedules/{other}", json={"version": 2, "rule": None})
    assert kind(taken) == (422, "invalid") and "rule" in taken.json()["detail"]


def test_the_next_nights_of_a_draft_and_of_a_schedule(web: Web) -> None:
    with web.database.write() as tx:
        tx.db.execute(label.insert().values(client_uuid=web.uuids[0], key="tz", value="Asia/Kolkata"))
    draft = web.call("POST", "/schedules/preview?nights=2", json=NEW | {"zone": None}).json()
    assert [(each["zone"], each["clients"], len(each["nights"])) for each in draft] == [
        ("Asia/Kolkata", 1, 2),
        ("UTC", 2, 2),
    ]
    assert draft[0]["nights"][0]["starts_local"].endswith("T03:00:00+05:30")
    assert web.call("GET", "/schedules").json() == []
    made = create(web).json()["id"]
    [berlin] = web.call("GET", f"/schedules/{made}/preview?nights=60", Role.VIEWER).json()
    assert berlin["clients"] == 3 and len(berlin["nights"]) == 60


def test_the_next_nights_of_a_change_that_is_not_made(web: Web) -> None:
    made = create(web, rule="FREQ=DAILY;INTERVAL=2", zone="UTC").json()["id"]
    with web.database.write() as tx:
        anchor = (tx.now - timedelta(days=1)).date().isoformat()
        tx.db.execute(update(schedule).values(anchor=anchor))
    address = f"/schedules/{made}/preview"
    [now] = web.call("GET", f"{address}?nights=2").json()
    web.call("POST", f"/schedules/{made}/skip", json={"day": now["nights"][1]["day"]})
    changed = {"version": 1, "start": "23:59", "zone": "UTC"}
    [then] = web.call("POST", f"{address}?nights=2", json=changed).json()
    assert then["nights"][0]["starts_local"].endswith("T23:59:00+00:00")
    assert {each["day"] for each in then["nights"]} & {each["day"] for each in now["nights"]}, "it counts from that day"
    assert "a operator" in {each["skipped_by"] for each in then["nights"]}
    assert web.call("GET", f"/schedules/{made}").json()["start"] == "03:00"
    assert kind(web.call("POST", address, json={"version": 2})) == (412, "changed_meanwhile")
    assert kind(web.call("POST", address, json={"version": 1, "rule": "FREQ=HOURLY"})) == (422, "invalid")


def test_pause_and_skip(web: Web) -> None:
    made = create(web).json()["id"]
    address = f"/schedules/{made}"
    assert web.call("POST", f"{address}/pause").json()["paused_by"] == "a operator"
    assert web.call("POST", f"{address}/pause").json()["version"] == 1, "again is no fault, and no change"
    assert web.call("POST", f"{address}/resume").json()["paused_at"] is None
    [zone] = web.call("GET", f"{address}/preview?nights=2").json()
    day = zone["nights"][1]["day"]
    assert web.call("POST", f"{address}/skip", json={"day": day}).json()["skips"] == [day]
    [zone] = web.call("GET", f"{address}/preview?nights=2").json()
    assert [night["skipped_by"] for night in zone["nights"]] == [None, "a operator"]
    assert web.call("POST", f"{address}/unskip", json={"day": day}).json()["skips"] == []
    for wrong in ("2026-02-30", "2020-01-01", "tomorrow", 20261224):
        assert kind(web.call("POST", f"{address}/skip", json={"day": wrong})) == (422, "invalid")


def begun(web: Web) -> dict[str, Any]:
    """A schedule whose night has just begun."""
    made = create(web, zone="UTC").json()["id"]
    with web.database.write() as tx:
        before = tx.now - timedelta(days=2)
        start = f"{tx.now - timedelta(minutes=1):%H:%M}"
        tx.db.execute(update(schedule).values(start=start, changed_at=before, looked_at=tx.now - timedelta(minutes=2)))
        tx.db.execute(update(client).where(client.c.uuid == web.uuids[2]).values(two_hosts_at=tx.now, name="=cmd()"))
        Schedules(House(), Limits()).step(tx, [])
    [night] = web.call("GET", f"/schedules/{made}/nights").json()["items"]
    return dict(night)


def test_a_night_and_its_report_while_it_runs(web: Web) -> None:
    night = begun(web)
    assert (night["state"], night["schedule"], night["zone"]) == ("running", "nightly", "UTC")
    assert web.call("GET", f"/nights/{night['id']}", Role.VIEWER).json() == night
    assert web.call("GET", "/nights").json()["items"] == [night]
    assert web.call("GET", f"/batches/{night['batch_id']}").json()["states"] == {"queued": 2, "blocked_safety": 1}
    running, others = (web.call("GET", f"/nights?open={said}").json()["items"] for said in ("true", "false"))
    assert running == [night] and others == []
    counted = web.call("GET", "/metrics", Role.VIEWER).text
    assert 'infoscreen_nights{state="running"} 1.0' in counted and 'infoscreen_nights{state="missed"} 0.0' in counted
    told = web.call("GET", f"/nights/{night['id']}/report", Role.VIEWER).json()
    assert (told["is_final"], told["night"]) == (False, night)
    assert told["counts"]["skipped"] == 3
    [cloned] = [line for line in told["lines"] if line["client_uuid"] == web.uuids[2]]
    assert cloned["why"].startswith("two hosts") and cloned["name"] == "=cmd()"
    answer = web.call("GET", f"/nights/{night['id']}/report?format=csv")
    assert answer.headers["content-type"].startswith("text/csv")
    assert f"{web.uuids[2]},'=cmd(),alpine,skipped," in answer.text
    assert kind(web.call("GET", f"/nights/{night['id']}/report?format=xml")) == (422, "invalid")
    assert kind(web.call("GET", f"/nights/{uuid4()}/report")) == (404, "not_found")


def test_the_nights_come_in_pages(web: Web) -> None:
    night = begun(web)
    first = web.call("GET", "/nights?limit=1").json()
    assert (first["items"], first["next"]) == ([night], None)
    assert kind(web.call("GET", "/nights?cursor=x")) == (400, "bad_request")


def test_it_is_run_now_as_it_was_shown_and_only_once(web: Web) -> None:
    made = create(web).json()["id"]
    seen = web.call("POST", f"/schedules/{made}/run/preview").json()
    assert seen["count"] == 3
    content = {"clients": seen["clients"], "hash": seen["hash"]}
    address, headers = f"/schedules/{made}/run", {"Idempotency-Key": "one"}
    assert kind(web.call("POST", address, json=content)) == (412, "count_differs")
    night = web.call("POST", address, json=content | {"count": 3}, headers=headers)
    assert night.status_code == 201 and night.json()["zone"] == "run"
    again = web.call("POST", address, json=content | {"count": 3}, headers=headers)
    assert (again.status_code, again.json()["id"]) == (200, night.json()["id"])
    moved = web.call("POST", address, json=content | {"count": 3})
    assert kind(moved) in ((412, "preview_changed"), (409, "nothing_eligible"))


def test_sites(web: Web) -> None:
    site = {"zone": "Europe/Vienna", "opening_hours": "mon-fri 08:00 12h", "note": "key at the desk"}
    for status in (201, 200):
        assert web.call("PUT", "/sites/alpine", json=site).status_code == status
    assert web.call("PUT", "/sites/a/b", json={}).status_code == 201, "a label may have a slash"
    assert web.call("GET", "/sites", Role.VIEWER).json() == [
        {"name": "a/b", "zone": None, "opening_hours": None, "note": None},
        {"name": "alpine", **site},
    ]
    for wrong, named in (
        ({"zone": "Mars/Base"}, "zone"),
        ({"opening_hours": "always"}, "opening_hours"),
        ({"opening_hours": "mon 08:00 12h UTC"}, "opening_hours"),
        ({"opening_hours": "site=x mon 08:00 12h"}, "opening_hours"),
    ):
        answer = web.call("PUT", "/sites/alpine", json=wrong)
        assert kind(answer) == (422, "invalid") and answer.json()["detail"].startswith(f"{named}: ")
    assert kind(web.call("PUT", "/sites/a(b", json={})) == (422, "invalid")
    assert web.call("DELETE", "/sites/alpine").status_code == 204
    assert kind(web.call("DELETE", "/sites/alpine")) == (404, "not_found")
