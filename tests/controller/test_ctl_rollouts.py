"""Rollouts by the command line: what it shows and asks, what it makes, and how it ends."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from sqlalchemy import select, update

from infoscreen_reboot.controller.lifecycle import Limits
from infoscreen_reboot.controller.orders import House
from infoscreen_reboot.controller.rollouts import Rollouts
from infoscreen_reboot.controller.store.tables import command, rollout
from tests.controller.desk import Desk
from tests.controller.played_fleet import OLD_BOOT

QUICK = ("--stage", "canary 1", "--settle", "0s", "--pause", "0s")
EVERYBODY = ("-l", "site=alpine")


def look(desk: Desk) -> None:
    """As the engine does it, when what the rollout waits for is over."""
    with desk.fleet.database.write() as tx:
        tx.db.execute(update(rollout).where(rollout.c.due_at.is_not(None)).values(due_at=tx.now))
        Rollouts(House(), Limits()).step(tx, [])


def goes_on(desk: Desk, patch: pytest.MonkeyPatch, play: Any) -> None:
    """Each time the program waits for a second, the controller takes a step and the clients play."""

    def wait(seconds: float) -> None:
        look(desk)
        play()

    patch.setattr("infoscreen_reboot.controller.ctl.progress.time.sleep", wait)


def plays(desk: Desk, *failing: str) -> Any:
    """What was made is sent, and ends."""

    def play() -> None:
        desk.fleet.send()
        with desk.fleet.database.read() as tx:
            opened = set(tx.db.execute(select(command.c.client_uuid).where(command.c.rank < 5)).scalars())
        for name, uuid in desk.fleet.uuids.items():
            if uuid in opened and name in failing:
                desk.fleet.fail(name)
            elif uuid in opened:
                desk.fleet.complete(name)

    return play


def started(desk: Desk, *more: str) -> str:
    done = desk("rollout", "start", *EVERYBODY, *QUICK, "--yes", "3", "--no-watch", "--json", *more)
    assert done.code == 0, done.err
    return str(done.json["rollout"]["id"])


def test_the_preview_shows_stages_and_brake_and_makes_nothing(desk: Desk) -> None:
    done = desk("rollout", "preview", *EVERYBODY, "--stage", "canary 1", "--max-failed", "50 %")
    assert done.code == 0
    assert "1  canary 1  none has run so far; failure 1 pauses it and asks; failure 2 of 3 stops it in any" in done.out
    assert "2  rest" in done.out and desk.count(rollout) == 0


def test_it_is_followed_to_its_end(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on(desk, monkeypatch, plays(desk))
    done = desk("rollout", "start", *EVERYBODY, *QUICK, "--yes", "3", "--set", "version=7")
    assert done.code == 0, done.err
    for words in ("planned", "running, stage 1 of 2 (canary 1)", "running, stage 2 of 2 (rest)", "finished"):
        assert words in done.out
    assert done.out.rstrip().endswith("It is finished: 3 of 3 completed.")
    assert desk("clients", "list", "-l", "version=7", "--names").out.split() == ["bar-left", "bar-right", "lobby"]


def test_what_the_brake_stops_ends_with_4_and_says_what_to_do(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on(desk, monkeypatch, plays(desk, "bar-left"))
    done = desk("rollout", "start", *EVERYBODY, *QUICK, "--yes", "3")
    assert done.code == 4
    assert "Why: 1 of 1 failed (100 %): however the other 2 end, it will be more than 5 % of 3" in done.out
    assert "rollout resume" in done.out and done.out.endswith("Did not come back:\nbar-left\n")
    [one] = desk("rollout", "list", "--json").json
    assert (one["state"], one["states"]) == ("stopped", {"failed": 1, "waiting": 2})
    assert re.search(r"rollout \w{8} +stage 1 of 2 +stopped +1 of 1 failed", desk("status").out)
    assert "off for its clients" in desk("rollout", "show", one["id"]).out
    assert desk("rollout", "recovery", one["id"]).code == 0
    assert desk("rollout", "resume", one["id"][:8]).code == 0
    again = desk("rollout", "watch", one["id"], "--json")
    lines = [json.loads(line) for line in again.out.splitlines()]
    assert (again.code, lines[-1]["kind"], lines[-1]["exit_code"]) == (3, "ended", 3)
    assert lines[-1]["did_not_come_back"] == [desk.fleet.uuids["bar-left"]]


def test_one_that_only_pretends_did_not_come_back(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def play() -> None:
        desk.fleet.send()
        if "lobby" in desk.fleet.commands():
            desk.fleet.complete("lobby", OLD_BOOT)

    goes_on(desk, monkeypatch, play)
    done = desk("rollout", "start", "lobby", *QUICK, "--yes", "1")
    assert done.code == 3 and done.out.endswith("Did not come back:\nlobby\n")


def test_a_person_pauses_shows_aborts_and_rolls_back(desk: Desk) -> None:
    made = started(desk)
    assert desk("rollout", "pause", made).code == 4, "it has not begun"
    look(desk)
    assert "Paused." in desk("rollout", "pause", made, "--reason", "lunch").out
    shown = desk("rollout", "show", made, "--stage", "1").out
    assert "paused by an-operator: lunch" in shown and "bar-left" in shown and "lobby" not in shown
    assert desk("rollout", "watch", made).code == 4
    assert desk("rollout", "abort", made).code == 0 and desk("rollout", "abort", made).code == 4
    done = desk("rollout", "rollback", made)
    assert done.code == 0 and "Labels restored: 0 clients." in done.out
    assert "rolled_back  1 of 2" in desk("rollout").out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((*EVERYBODY, "--stage", "site=nowhere"), "means none of these clients"),
        ((*EVERYBODY, "--max-failed", "5"), "is no threshold"),
        ((), "say either clients or -l SELECTOR"),
        (("-l", " "), "an empty selector means all clients"),
        ((*EVERYBODY, "--settle", "soon"), "is no duration"),
        ((*EVERYBODY, "--set", "version"), "is no label"),
        (("lobbi",), "did you mean lobby?"),
    ],
)
def test_what_cannot_be_meant_ends_with_2(desk: Desk, argv: tuple[str, ...], words: str) -> None:
    done = desk("rollout", "preview", *argv)
    assert done.code == 2 and words in done.err
    assert desk.count(rollout) == 0


def test_without_the_number_nothing_is_made(desk: Desk) -> None:
    assert desk("rollout", "start", *EVERYBODY).code == 2
    assert desk("rollout", "start", *EVERYBODY, "--yes", "2").code == 4
    assert (desk.count(rollout), desk.count()) == (0, 0)


def test_on_a_terminal_the_stages_are_drawn(desk: Desk) -> None:
    made = started(desk)
    for _ in range(9):
        look(desk)
        plays(desk)()
    done = desk.terminal("rollout", "watch", made)
    assert done.code == 0 and "3 of 3" in done.out and "rest: 2 completed" in done.out
