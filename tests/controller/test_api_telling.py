"""What the API says of what people were told, of freezes out of a calendar, and of the time where a client is."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import insert, select

from infoscreen_reboot.controller import targets
from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.freezing import Event
from infoscreen_reboot.controller.notifying import GRACE, NotSent, Post
from infoscreen_reboot.controller.store import calendars, fleet, notices, zones
from infoscreen_reboot.controller.store.notices import Kind
from infoscreen_reboot.controller.store.tables import audit, label, site
from infoscreen_reboot.controller.targets import Target
from tests.controller.test_notifier import House
from tests.controller.web import Web, kind

HOUR = timedelta(hours=1)
LINES = "mail mailto://user:topsecret@mail.example kinds=stopped\nchat slack://topsecret/b/c loud\n"


def with_targets(web: Web, down: str = "") -> list[str]:
    """Who is told, in this instance; returns the names of those to whom something was sent."""
    sent: list[str] = []

    def deliver(target: Target, post: Post, now: datetime) -> None:
        if target.name == down:
            raise NotSent("it answers 500")
        sent.append(target.name)

    found, _ = targets.parse(LINES)
    web.app.state.site = replace(web.app.state.site, targets=found, notify_faults=("line 3: no",), deliver=deliver)
    return sent


def test_a_test_message_goes_to_one_or_to_all_and_says_what_came_of_it(web: Web) -> None:
    assert web.call("POST", "/notify/test", Role.ADMIN, json={}).json() == []
    sent = with_targets(web, down="chat")
    told = web.call("POST", "/notify/test", Role.ADMIN, json={}).json()
    assert [(each["target"], each["is_sent"], each["words"]) for each in told] == [
        ("mail", True, None),
        ("chat", False, "it answers 500"),
    ]
    [one] = web.call("POST", "/notify/test", Role.ADMIN, json={"target": "mail"}).json()
    assert one["address"] == "mailto://mail.example" and sent == ["mail", "mail"]
    assert kind(web.call("POST", "/notify/test", Role.ADMIN, json={"target": "fax"})) == (404, "not_found")
    with web.database.read() as tx:
        rows = tx.db.execute(select(audit).where(audit.c.what == "notify test").order_by(audit.c.seq)).all()
    assert [(row.target, row.outcome) for row in rows] == [(None, "sent"), (None, "failed"), ("mail", "sent")]


def test_who_is_told_and_what_has_not_arrived_without_a_secret(web: Web) -> None:
    with_targets(web)
    house = House(web.database, *LINES.splitlines())
    house.down = {"chat"}
    house.tell(Kind.STOPPED)
    house.pass_time(GRACE)
    with house.clock.write() as tx:
        notices.tell(tx, Kind.NEEDS_PERSON, "client/9", "client 9 did not come back", {"tries": 3}, site="alpine")
    answer = web.call("GET", "/notify/targets", Role.VIEWER)
    assert "topsecret" not in answer.text and answer.json()["faults"] == ["line 3: no"]
    mail, chat = answer.json()["targets"]
    assert (mail["kinds"], mail["only_loud"], mail["waiting"]) == (["stopped"], False, 0)
    assert (chat["kinds"], chat["only_loud"], chat["waiting"], chat["words"]) == (None, True, 1, "it answers 500")
    page = web.call("GET", "/notices", Role.VIEWER, params={"limit": 1}).json()
    [new] = page["items"]
    assert (new["kind"], new["site"], new["content"]) == ("needs_person", "alpine", {"tries": 3})
    assert not new["is_settled"] and new["message"] is None
    page = web.call("GET", "/notices", Role.VIEWER, params={"cursor": page["next"]}).json()
    [old] = page["items"]
    assert page["next"] is None and old["is_settled"] and old["message"]["title"] == "infoscreen: a plan was stopped"
    assert [(each["target"], each["state"]) for each in old["message"]["deliveries"]] == [
        ("chat", "waiting"),
        ("mail", "sent"),
    ]


def test_a_freeze_of_the_calendar_is_listed_holds_and_can_be_ended(web: Web) -> None:
    with web.database.write() as tx:
        until = (tx.now + HOUR).replace(microsecond=0)
        events = [Event(tx.now - HOUR, until, "fair"), Event(tx.now + 2 * HOUR, until + 2 * HOUR, "party")]
        calendars.take(tx, "/srv/freezes.ics", events)
        calendars.cannot_read(tx, "/srv/freezes.ics", "it is no calendar")
        fleet.begin_freeze(tx, "by hand", "ann", until)
    holds = web.call("GET", "/holds").json()
    assert [(each["why"], each["made_by"]) for each in holds["freezes"]] == [("fair", "calendar"), ("by hand", "ann")]
    assert (holds["calendar"]["fault"], holds["calendar"]["events"]) == ("it is no calendar", 2)
    [coming] = web.call("GET", "/freezes", params={"coming": True}).json()
    assert coming["why"] == "party" and coming["begins_at"] is not None
    refused = web.order()
    assert kind(refused) == (409, "held") and refused.json()["rule"] == "freeze"
    for each in [*holds["freezes"], coming]:
        assert web.call("DELETE", f"/freezes/{each['id']}").status_code == 204
    assert web.call("GET", "/freezes").json() == web.call("GET", "/freezes", params={"coming": True}).json() == []
    assert web.order().status_code == 201


def test_until_when_a_command_waits_is_said_in_the_time_of_its_client(web: Web) -> None:
    found = web.app.state.site
    web.app.state.site = replace(found, house=replace(found.house, zone="Asia/Kolkata"))
    first, second, third = web.uuids
    with web.database.write() as tx:
        tx.db.execute(insert(label).values(client_uuid=first, key="tz", value="America/New_York"))
        tx.db.execute(insert(label).values(client_uuid=second, key="tz", value="Mars/Base"))
        tx.db.execute(insert(site).values(name="alpine", zone="Europe/Berlin"))
        until = datetime.fromisoformat("2099-01-10T12:00:00+00:00")
        fleet.begin_freeze(tx, "fair", "ann", until)
        found = zones.zones_of(tx, [*web.uuids, "x"], "Asia/Kolkata")
    assert found == {first: "America/New_York", second: "Europe/Berlin", third: "Europe/Berlin", "x": "Asia/Kolkata"}

    def said(told: Any) -> tuple[str, str, str]:
        return told["opens_at"], told["opens_at_local"], told["zone"]

    refused = web.order(1).json()
    assert said(refused)[1:] == ("2099-01-10T13:00:00+01:00", "Europe/Berlin")
    wait_until = (datetime.now().astimezone() + HOUR).isoformat()
    waits = web.order(0, wait_until=wait_until).json()
    expected = ("2099-01-10T12:00:00Z", "2099-01-10T07:00:00-05:00", "America/New_York")
    assert said(waits["hold"]) == expected
    assert said(web.call("GET", f"/commands/{waits['id']}").json()["hold"]) == expected
    assert said(web.call("GET", f"/commands/{waits['id']}/explain").json()["command"]["hold"]) == expected
    assert said(web.call("GET", "/commands", params={"open": True}).json()["items"][0]["hold"]) == expected
    held = web.preview()["held"]
    assert held[third]["opens_at_local"] == "2099-01-10T13:00:00+01:00"
    assert said(web.call("POST", f"/commands/{waits['id']}/cancel").json()["hold"] or waits["hold"]) == expected


def test_the_test_of_targets_takes_its_time_outside_of_any_transaction(web: Web) -> None:
    found, _ = targets.parse(LINES)

    def deliver(target: Target, post: Post, now: datetime) -> None:
        with web.database.write() as tx:
            assert tx.now >= now

    web.app.state.site = replace(web.app.state.site, targets=found, deliver=deliver)
    told = web.call("POST", "/notify/test", Role.ADMIN, json={}).json()
    assert [each["words"] for each in told] == [None, None]
