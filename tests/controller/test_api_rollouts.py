"""Rollouts by the API: what is shown, what is made of it, and what a person can say to one that goes on."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.lifecycle import Limits
from infoscreen_reboot.controller.orders import House
from infoscreen_reboot.controller.rollouts import Rollouts
from infoscreen_reboot.controller.store.tables import client, command, label, rollout
from tests.controller.played import aged
from tests.controller.web import Web, kind

TERMS = {"action": "reboot_host", "stages": ["canary 1"], "labels": {"version": "7"}, "settle_s": 0, "pause_s": 0}


def planned(web: Web, **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the preview shows, and the request that makes it."""
    terms = TERMS | more
    answer = web.call("POST", "/rollouts/preview", json=terms | {"selector": "site=alpine"})
    assert answer.status_code == 200, answer.text
    plan = answer.json()
    return plan, terms | {name: plan[name] for name in ("clients", "hash", "count")}


def made(web: Web, **more: Any) -> str:
    answer = web.call("POST", "/rollouts", json=planned(web, **more)[1])
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def look(web: Web, times: int = 1) -> None:
    """As the engine does it, some seconds later each time."""
    for _ in range(times):
        aged(web.database, timedelta(seconds=10))
        with web.database.write() as tx:
            tx.db.execute(update(rollout).where(rollout.c.due_at.is_not(None)).values(due_at=tx.now))
            Rollouts(House(), Limits()).step(tx, [])


def say(web: Web, made: str, what: str, **more: Any) -> Any:
    return web.call("POST", f"/rollouts/{made}/{what}", **more)


def test_a_rollout_is_shown_made_once_and_read(web: Web) -> None:
    plan, wanted = planned(web)
    assert [(stage["name"], len(stage["clients"])) for stage in plan["stages"]] == [("canary 1", 1), ("rest", 2)]
    assert plan["stages"][0]["brake"] == "none has run so far; failure 1 stops it" and plan["max_failed"] == "5 %"
    headers = {"Idempotency-Key": "k"}
    answers = [web.call("POST", "/rollouts", json=wanted, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 200] and answers[0].json() == answers[1].json()
    one = answers[0].json()
    assert (one["state"], one["states"], one["stage"]) == ("planned", {"waiting": 3}, 0)
    assert web.call("GET", "/rollouts", Role.VIEWER).json() == {"items": [one], "next": None}
    look(web)
    now = web.call("GET", f"/rollouts/{one['id']}", Role.VIEWER).json()
    assert (now["state"], now["stage"], now["stages"][0]["states"]) == ("running", 1, {"queued": 1})
    counted = web.call("GET", "/metrics", Role.VIEWER).text
    assert 'infoscreen_rollouts{state="running"} 1.0' in counted
    open_ones, over = (web.call("GET", f"/rollouts?open={said}").json()["items"] for said in ("true", "false"))
    assert [each["id"] for each in open_ones] == [one["id"]] and over == []
    assert 'infoscreen_rollouts{state="stopped"} 0.0' in counted and 'state="finished"' not in counted
    [batch] = now["stages"][0]["batches"]
    assert web.call("GET", f"/batches/{batch}").json()["states"] == {"queued": 1}
    members = web.call("GET", f"/rollouts/{one['id']}/members?stage=2").json()
    assert [(each["state"], each["stage"], each["command_id"]) for each in members] == [("waiting", 2, None)] * 2
    audit = web.call("GET", "/audit", Role.ADMIN).json()["items"]
    assert [(line["what"], line["outcome"]) for line in audit] == [("rollout reboot_host", "made")]


def test_who_has_to_wait_is_in_a_stage_and_who_never_gets_it_is_not(web: Web) -> None:
    waits, never, _ = web.uuids
    with web.database.write() as tx:
        tx.db.execute(update(client).where(client.c.uuid == waits).values(is_online=False))
        tx.db.execute(update(client).where(client.c.uuid == never).values(two_hosts_at=tx.now))
    plan, _ = planned(web)
    assert plan["count"] == 2 and plan["held_by_rule"] == {"online": 1, "one_host": 1}
    assert {each["rule"] for each in plan["held"].values()} == {"online", "one_host"}
    assert never not in [uuid for stage in plan["stages"] for uuid in stage["clients"]]


@pytest.mark.parametrize(
    ("more", "status", "word"),
    [
        ({"max_failed": "5"}, 422, "bad_terms"),
        ({"stages": ["site=nowhere"]}, 422, "bad_terms"),
        ({"stages": ["1", "canary 1"]}, 422, "bad_terms"),
        ({"labels": {"a b": "x"}}, 422, "bad_terms"),
        ({"stages": ["\x1b[2J"]}, 422, "invalid"),
        ({"wait_s": 5}, 422, "invalid"),
        ({"minimum_sample": 0}, 422, "invalid"),
        ({"clients": []}, 422, "invalid"),
        ({"selector": "site=<"}, 400, "bad_selector"),
    ],
)
def test_terms_that_cannot_be_meant_are_refused(web: Web, more: dict[str, Any], status: int, word: str) -> None:
    content = TERMS | {"selector": "site=alpine"} | more
    assert kind(web.call("POST", "/rollouts/preview", json=content)) == (status, word)


def test_other_terms_than_were_shown_make_nothing(web: Web) -> None:
    _, wanted = planned(web)
    others: tuple[dict[str, Any], ...] = ({"stages": ["2"]}, {"max_failed": "6 %"}, {"settle_s": 1}, {"labels": {}})
    for other in others:
        assert kind(web.call("POST", "/rollouts", json=wanted | other)) == (412, "preview_changed")
    assert kind(web.call("POST", "/rollouts", json=wanted | {"count": 2})) == (412, "count_differs")
    assert web.call("GET", "/rollouts").json()["items"] == []


def test_a_person_pauses_resumes_and_aborts_and_what_cannot_be_done_says_why(web: Web) -> None:
    one = made(web)
    assert kind(say(web, one, "pause")) == (409, "wrong_state")
    look(web)
    paused = say(web, one, "pause", json={"why": "lunch"}).json()
    assert (paused["state"], paused["why"], paused["changed_by"]) == (
        "paused",
        "paused by a operator: lunch",
        "a operator",
    )
    assert paused["states"] == {"waiting": 3}, "it was not sent"
    resumed = say(web, one, "resume").json()
    assert (resumed["state"], resumed["run"]) == ("running", 2)
    look(web)
    assert say(web, one, "abort").json()["state"] == "aborted"
    refused = say(web, one, "resume")
    assert kind(refused) == (409, "wrong_state") and refused.json()["state"] == "aborted"
    assert kind(say(web, one, "recovery")) == (409, "wrong_state")
    with web.database.read() as tx:
        assert set(tx.db.execute(select(command.c.state)).scalars()) == {"cancelled"}
    done = [line["what"] for line in web.call("GET", "/audit", Role.ADMIN).json()["items"]]
    assert done == ["abort rollout", "resume rollout", "pause rollout", "rollout reboot_host"]


def test_what_the_brake_has_stopped_can_be_allowed_recovery_and_rolled_back(web: Web) -> None:
    one = made(web)
    look(web)
    with web.database.write() as tx:
        tx.db.execute(update(command).values(state="failed", rank=5))
    look(web)
    stopped = web.call("GET", f"/rollouts/{one}").json()
    assert (stopped["state"], stopped["recovery_off"], stopped["changed_by"]) == ("stopped", True, None)
    assert stopped["why"] == "1 of 1 failed (100 %): however the other 2 end, it will be more than 5 % of 3"
    assert [each["counted"] for each in web.call("GET", f"/rollouts/{one}/members?counted=failed").json()] == ["failed"]
    assert say(web, one, "recovery").json()["recovery_off"] is False
    assert say(web, one, "rollback").json() == {"cancelled": 0, "labels_restored": 0, "labels_left": 0}
    assert kind(say(web, one, "rollback")) == (409, "wrong_state")


def test_the_brake_of_the_site_is_that_of_a_rollout_that_names_none(web: Web) -> None:
    plan, _ = planned(web, max_failed=None)
    assert plan["max_failed"] == "5 %"
    assert planned(web, max_failed="50 %")[0]["stages"][0]["brake"].startswith("none has run so far; failure 1 pauses")


def test_a_label_is_set_when_its_client_has_completed(web: Web) -> None:
    made(web, stages=[])
    look(web)
    with web.database.write() as tx:
        tx.db.execute(update(command).values(state="completed", rank=5, ended_boot_id="x"))
    look(web)
    with web.database.read() as tx:
        versions = tx.db.execute(select(label.c.value).where(label.c.key == "version")).scalars().all()
    assert versions == ["7"] * 3


def test_who_came_back_how_fast_is_counted_and_who_never_did_is_apart(web: Web) -> None:
    one = made(web, stages=[])
    look(web)
    ids = {}
    with web.database.write() as tx:
        for row in tx.db.execute(select(command.c.client_uuid, command.c.id)):
            ids[row.client_uuid] = row.id
    [batch] = web.call("GET", f"/rollouts/{one}").json()["stages"][0]["batches"]
    addresses = (f"/rollouts/{one}/reconnects", f"/batches/{batch}/reconnects")

    def now(number: int, back_s: float | None, **values: Any) -> None:
        with web.database.write() as tx:
            started_at = tx.now - timedelta(minutes=10)
            values |= {"started_at": started_at, "back_at": back_s and started_at + timedelta(seconds=back_s)}
            if values.get("late") is not None:
                values["late_at"] = started_at + timedelta(seconds=400)
            tx.db.execute(update(command).where(command.c.id == ids[web.uuids[number]]).values(**values))

    def told() -> tuple[dict[int, int], int, int]:
        first, second = (web.call("GET", address, Role.VIEWER).json() for address in addresses)
        assert first == second
        assert [slot["from_s"] for slot in first["slots"]] == [15 * number for number in range(11)]
        assert [slot["to_s"] for slot in first["slots"]] == [*(15 * number for number in range(1, 11)), None]
        assert (first["late_after_s"], first["lost_after_s"]) == (90, 150)
        return (
            {slot["from_s"]: slot["count"] for slot in first["slots"] if slot["count"]},
            first["not_back"],
            first["on_the_way"],
        )

    assert told() == ({}, 0, 0), "nobody has begun"
    now(0, 89.999, state="completed", rank=5)
    now(1, 90, state="awaiting_reconnect", rank=4)
    now(2, None, state="execution_started", rank=3)
    assert told() == ({75: 1, 90: 1}, 0, 1)
    now(1, 14400, state="completed", rank=5)
    now(2, None, state="timed_out", rank=5, overdue="client back on MQTT")
    assert told() == ({75: 1, 150: 1}, 1, 0)
    now(2, None, late="completed")
    assert told() == ({75: 1, 150: 2}, 0, 0), "it was given up, and has come back"
    now(2, None, late=None, overdue="host going down")
    assert told() == ({75: 1, 150: 1}, 0, 0), "it did not go down"
