"""Clients that did not come back, on the command line: what an operator sees at night, and how one takes over."""

from __future__ import annotations

from infoscreen_reboot.controller import recovery
from infoscreen_reboot.controller.lifecycle import Limits
from infoscreen_reboot.controller.recovery import Due, Fact, Locked
from infoscreen_reboot.controller.store import recoveries
from tests.controller.desk import Desk


def lose(desk: Desk, name: str, *, needs_person: bool = False) -> str:
    """Its client has been asked again, or a person is needed; returns the number of the recovery."""
    desk("reboot", name, "--yes", "1", "--no-watch")
    uuid, command_id = desk.fleet.uuids[name], desk.fleet.commands()[name]
    with desk.fleet.database.write() as tx:
        record = recovery.begin(tx.now, recovery.DEFAULT, False, Limits().back, tx.now)
        number = recoveries.begin(tx, uuid, command_id, record, None)
        row = recoveries.one(tx, number)
        assert row is not None
        fact: Fact = Locked(tx.now, "3 reboots of this client") if needs_person else Due(tx.now)
        after = recovery.learn(record, fact)
        ticket = recovery.ticket(after, recoveries.subject(tx, uuid, command_id)) if needs_person else None
        recoveries.write(tx, row, after, ticket)
    desk.fleet.change(name, is_online=False)
    return str(number)


def test_who_is_not_back_is_listed_with_what_is_done(desk: Desk) -> None:
    assert "No recovery is open" in desk("recovery").out
    lose(desk, "lobby")
    lose(desk, "bar-left", needs_person=True)
    listed = desk("recovery").out.splitlines()
    assert ["bar-left" in listed[1], "needs_person" in listed[1], "reboots do not help" in listed[1]] == [True] * 3
    assert "ask the client again; next: call a person" in listed[2]
    assert len(desk("recovery", "list", "--client", "lobby").out.splitlines()) == 2
    assert [each["state"] for each in desk("recovery", "--limit", "1", "--json").json] == ["needs_person"]


def test_one_is_shown_with_its_steps_and_the_text_for_a_ticket(desk: Desk) -> None:
    asked = desk("recovery", "show", lose(desk, "lobby")).out
    for words in ("lobby", "asking", "under way", "left out: the client has reported none", "goes on"):
        assert words in asked
    assert "For a ticket" not in asked
    lost = desk("recovery", "show", lose(desk, "bar-left", needs_person=True)).out
    assert "bar-left does not come back and needs a person." in lost.splitlines()
    assert desk("recovery", "show", "99").code == 2
    assert desk("recovery", "show", "1", "--json").json["state"] == "asking"


def test_somebody_who_is_there_takes_over(desk: Desk) -> None:
    number = lose(desk, "lobby")
    assert desk("recovery", "stop", number, "I am there").out.startswith(f"Recovery {number} is stopped")
    assert desk("recovery", "stop", number, "I am there").code == 4
    assert "No recovery is open" in desk("recovery").out
    assert "stopped by an-operator: I am there" in desk("recovery", "--all").out


def test_status_and_clients_tell_of_them(desk: Desk) -> None:
    assert desk("status").out.count("none") >= 2
    number = lose(desk, "lobby", needs_person=True)
    lose(desk, "bar-left")
    status = desk("status").out
    assert "2 clients, 1 of them need a person" in status
    assert "Not back from a reboot" in status
    assert set(desk("status", "--json").json["recoveries"].values()) == {"needs_person", "asking"}
    assert f"recovery {number}: needs_person" in desk("clients").out
    assert f"{number}, needs_person" in desk("clients", "show", "lobby").out
