"""Schedules, reports and sites on the command line, against the real API."""

from __future__ import annotations

import csv
import io
import re
from datetime import timedelta

from sqlalchemy import update

from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.lifecycle import Limits
from infoscreen_reboot.controller.orders import House
from infoscreen_reboot.controller.schedules import Schedules
from infoscreen_reboot.controller.store.tables import batch, client, schedule, schedule_night, site
from tests.controller.desk import Desk, all_complete

ADD = ("schedule", "add", "nightly", "-l", "site=alpine", "--start", "03:30", "--zone", "Europe/Berlin")


def test_a_schedule_is_shown_before_it_is_made_then_made_changed_and_deleted(desk: Desk) -> None:
    tried = desk(*ADD, "--dry-run")
    assert tried.code == 0 and "Europe/Berlin, 3 clients" in tried.out and "03:30 +0" in tried.out
    assert desk.count(schedule) == 0
    made = desk(*ADD, "--window", "2h", "--spread", "1h", "--back-by", "2h30m", "--rule", "FREQ=WEEKLY;BYDAY=SU")
    assert made.code == 0 and "Schedule nightly is made." in made.out
    listed = desk("schedule").out
    assert "FREQ=WEEKLY;BYDAY=SU" in listed and "03:30 Europe/Berlin" in listed
    assert desk("schedule", "edit", "nightly", "--start", "04:00", "--zone", "own", "--rename", "weekly").code == 0
    shown = desk("schedule", "show", "weekly", "--json").json
    assert (shown["schedule"]["start"], shown["schedule"]["zone"], shown["schedule"]["version"]) == ("04:00", None, 2)
    assert (shown["schedule"]["window_min"], shown["schedule"]["back_by_min"]) == (120, 150)
    words = desk("schedule", "show", "weekly").out
    assert "04:00 in the zone of each client" in words and "2 h, spread over 1 h" in words
    assert desk("schedule", "delete", shown["schedule"]["id"][:8]).code == 0
    assert desk("schedule").out == "No schedules.\n"


def test_what_is_wrong_ends_with_2_and_says_what(desk: Desk) -> None:
    desk(*ADD)
    for argv, words in (
        (("schedule", "show", "nihgtly"), "there are: nightly"),
        (("schedule", "edit", "nightly"), "say what shall be another way"),
        (("schedule", "add", "x", "--start", "03:00"), "say either -l SELECTOR or --all"),
        (("schedule", "add", "x", "--start", "03:00", "-l", " "), "for all clients: --all"),
        (("schedule", "add", "x", "--start", "25:00", "--all"), "start"),
        (("schedule", "add", "x", "--start", "03:00", "--all", "--rule", "FREQ=YEARLY"), "YEARLY"),
        (("schedule", "add", "x", "--start", "03:00", "--all", "--window", "soon"), "90m, 2h or 2h30m"),
        (("schedule", "skip", "nightly", "tomorrow"), "2026-12-24"),
        (("report", "12345678"), "no new night"),
        (("site", "set", "alpine"), "--opening-hours"),
    ):
        done = desk(*argv)
        assert done.code == 2 and words in done.err, argv
    assert desk("schedule", "pause", "nightly", role=Role.VIEWER).code == 5


def test_nights_are_left_out_and_taken_in_again(desk: Desk) -> None:
    desk(*ADD)
    day = desk("schedule", "preview", "nightly", "--nights", "2", "--json").json[0]["nights"][1]["day"]
    assert desk("schedule", "skip", "nightly", day).out == f"Schedule nightly leaves out the night of {day}.\n"
    assert f"{day}" in desk("schedule", "preview", "nightly").out
    assert "skipped by an-operator" in desk("schedule", "preview", "nightly").out
    assert desk("schedule", "unskip", "nightly", day, "--json").json["skips"] == []
    assert "is paused" in desk("schedule", "pause", "nightly").out
    assert "paused by an-operator" in desk("schedule").out
    assert "goes on" in desk("schedule", "resume", "nightly").out


def test_a_run_of_now_is_shown_and_counted_before_it_is_made(desk: Desk) -> None:
    desk(*ADD)
    refused = desk("schedule", "run", "nightly")
    assert refused.code == 2 and "--yes 3" in refused.err and desk.count(batch) == 0
    desk.fleet.on_wake = all_complete(desk)
    done = desk("schedule", "run", "nightly", "--yes", "3")
    assert done.code == 0 and "Its report: infoscreen-rebootctl report" in done.out
    assert desk.count(batch) == 1
    listed = desk("report", "--schedule", "nightly", "--json").json
    assert [night["zone"] for night in listed] == ["run"]


def test_the_report_of_a_night_names_who_is_missing_and_ends_with_3(desk: Desk) -> None:
    with desk.fleet.database.write() as tx:
        tx.db.execute(update(client).where(client.c.name == "bar-left").values(name="=cmd()"))
    desk(*ADD, "--back-by", "2h")
    with desk.fleet.database.write() as tx:
        soon = tx.now - timedelta(minutes=1)
        # In Berlin, its days may begin tomorrow.
        values = {"zone": "UTC", "start": f"{soon:%H:%M}", "anchor": f"{soon:%Y-%m-%d}"}
        times = {"changed_at": soon - timedelta(days=1), "looked_at": soon - timedelta(minutes=1)}
        tx.db.execute(update(schedule).values(**values, **times))
        Schedules(House(), Limits()).step(tx, [])
    assert re.search("schedule nightly +UTC +running +all back by ", desk("status").out)
    desk.fleet.send()
    desk.fleet.complete("bar-right")
    desk.fleet.lose("lobby")
    desk.fleet.fail("bar-left")
    with desk.fleet.database.write() as tx:
        tx.db.execute(update(schedule_night).values(back_by=tx.now))
        Schedules(House(), Limits()).step(tx, [])
    assert "schedule nightly" not in desk("status").out
    listed = desk("report")
    assert listed.code == 0 and "1 not back, 1 skipped, 1 back" in listed.out
    [night] = desk("report", "--json").json
    told = desk("report", night["id"][:8])
    assert told.code == 3
    assert "lobby" in told.out and "it did not come back in time" in told.out and "it refused" in told.out
    assert desk("report", night["id"], "--json").json["exit_code"] == 3
    rows = list(csv.DictReader(io.StringIO(desk("report", night["id"], "--csv").out)))
    assert {row["name"]: row["outcome"] for row in rows} == {
        "lobby": "not_back",
        "'=cmd()": "skipped",
        "bar-right": "back",
    }


def test_sites(desk: Desk) -> None:
    assert desk("site").out == "Nothing is known of any site.\n"
    assert desk("site", "set", "alpine", "--zone", "Europe/Vienna", "--opening-hours", "mon-fri 08:00 12h").code == 0
    assert "new" not in desk("site", "set", "alpine", "--note", "key at the desk").out
    assert "Europe/Vienna" in desk("site").out and "key at the desk" in desk("site").out
    assert desk("site", "set", "alpine", "--zone", "").code == 0
    [shown] = desk("site", "list", "--json").json
    assert (shown["zone"], shown["opening_hours"]) == (None, "mon-fri 08:00 12h")
    assert desk("site", "set", "alpine", "--zone", "Mars/Base").code == 2
    assert desk("site", "delete", "alpine").code == 0 and desk.count(site) == 0
