"""Recoveries as the API shows them, and how somebody who is there ends one."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import select

from infoscreen_reboot.controller import recovery
from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.recovery import Back, Due, Record, Step
from infoscreen_reboot.controller.store import recoveries
from infoscreen_reboot.controller.store.tables import audit, event
from tests.controller.web import Web, kind

STEPS = Step.ASK, Step.WATCHDOG


def begun(web: Web, number: int = 0, *, is_over: bool = False) -> int:
    """A recovery that has asked its client, or one whose client is back."""
    command_id = web.order(number).json()["id"]
    with web.database.write() as tx:
        record: Record = recovery.begin(tx.now, STEPS, False, timedelta(seconds=150), tx.now)
        made = recoveries.begin(tx, web.uuids[number], command_id, record, None)
        row = recoveries.one(tx, made)
        assert row is not None
        fact = Back(tx.now, "it is online") if is_over else Due(tx.now)
        recoveries.write(tx, row, recovery.learn(record, fact))
    return made


def test_a_recovery_is_read_with_what_was_tried_and_what_comes_next(web: Web) -> None:
    number = begun(web)
    shown = web.call("GET", f"/recoveries/{number}", Role.VIEWER).json()
    assert (shown["state"], shown["is_open"], shown["next_steps"], shown["ticket"]) == ("asking", True, [], None)
    assert shown["words"] == "ask the client again; next: call a person"
    assert [(one["step"], one["outcome"]) for one in shown["tried"]] == [
        ("ask", None),
        ("watchdog", "left out: the client has reported none"),
    ]
    assert kind(web.call("GET", "/recoveries/99")) == (404, "not_found")


def test_they_are_listed_by_client_and_by_whether_they_are_open_in_pages(web: Web) -> None:
    numbers = [begun(web, 0, is_over=True), begun(web, 1), begun(web, 2)]

    def listed(**params: object) -> tuple[list[int], int | None]:
        page = web.call("GET", "/recoveries", Role.VIEWER, params=params).json()
        return [item["id"] for item in page["items"]], page["next"]

    assert listed() == (numbers[::-1], None)
    assert listed(open="true") == (numbers[:0:-1], None)
    assert listed(open="false") == (numbers[:1], None)
    assert listed(client=web.uuids[1]) == ([numbers[1]], None)
    assert listed(limit=2) == (numbers[:0:-1], numbers[1])
    assert listed(limit=2, cursor=numbers[1]) == (numbers[:1], None)


def test_a_client_names_its_open_recovery(web: Web) -> None:
    number = begun(web, 1)
    begun(web, 0, is_over=True)
    shown = {each["uuid"]: each for each in web.call("GET", "/clients").json()}
    found = [(shown[uuid]["recovery_id"], shown[uuid]["recovery_state"]) for uuid in web.uuids]
    assert found == [(None, None), (number, "asking"), (None, None)]


def test_somebody_who_is_there_stops_it_once_and_that_is_in_the_audit(web: Web) -> None:
    number = begun(web)
    stopped = web.call("POST", f"/recoveries/{number}/stop", json={"why": "I am there"})
    assert stopped.status_code == 200
    assert (stopped.json()["state"], stopped.json()["is_open"]) == ("stopped", False)
    again = web.call("POST", f"/recoveries/{number}/stop", json={"why": "I am there"})
    assert kind(again) == (409, "too_late")
    assert again.json()["detail"] == "this recovery is over: stopped by a operator: I am there"
    with web.database.read() as tx:
        noted = tx.db.execute(select(audit).where(audit.c.what == "stop recovery").order_by(audit.c.seq)).all()
        assert [(line.target, line.outcome) for line in noted] == [(str(number), "stopped"), (str(number), "too_late")]
        kinds = tx.db.execute(select(event.c.kind).where(event.c.kind.startswith("recovery")).order_by(event.c.seq))
        assert list(kinds.scalars()) == ["recovery_began", "recovery_asking", "recovery_stopped"]


def test_a_reason_is_needed_to_stop_one(web: Web) -> None:
    number = begun(web)
    assert kind(web.call("POST", f"/recoveries/{number}/stop", json={"why": ""})) == (422, "invalid")


def test_the_open_ones_are_counted_by_state(web: Web) -> None:
    begun(web, 0)
    begun(web, 1, is_over=True)
    text = web.call("GET", "/metrics", Role.VIEWER).text
    assert 'infoscreen_recoveries{state="asking"} 1.0' in text
    assert 'infoscreen_recoveries{state="needs_person"} 0.0' in text
