"""The console's pages about what was planned: schedules and their nights, and rollouts."""

from __future__ import annotations

import html
import re
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import update

from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.store.database import Database
from infoscreen_reboot.controller.store.tables import client, command, label, schedule
from tests.controller.test_api_rollouts import look, made
from tests.controller.test_api_schedules import begun, create
from tests.controller.test_console import HOSTILE, Visitor
from tests.controller.web import Web

DRAFT: dict[str, Any] = {
    "name": "nightly",
    "selector": "site=alpine",
    "often": "weekly",
    "day": ["MO", "TH"],
    "rule": "",
    "start": "03:00",
    "zone": "Europe/Berlin",
    "window_min": "120",
    "spread_min": "0",
    "back_by_min": "",
}

PLAN: dict[str, Any] = {
    "selector": "site=alpine",
    "stages": "canary 1\r\n",
    "max_failed": "",
    "minimum_sample": "20",
    "settle_min": "1",
    "pause_min": "0",
    "wait_min": "15",
    "labels": "version=7",
    "reason": "new player",
}


@pytest.fixture
def web(sqlite: Database) -> Web:
    """On SQLite only: pages see the API's functions, and those are tried on both."""
    return Web(sqlite)


@pytest.fixture
def operator(web: Web) -> Visitor:
    return Visitor(web).sign_in(Role.OPERATOR)


@pytest.fixture
def viewer(web: Web) -> Visitor:
    return Visitor(web).sign_in(Role.VIEWER)


def plain(page: Any) -> str:
    """The page's text, with one space between words."""
    return " ".join(re.sub(r"<[^>]+>", " ", page.text).split())


def hidden(page: Any, action: str) -> dict[str, Any]:
    """What the form with that action would send."""
    form = page.text.partition(f'action="{action}"')[2].partition("</form>")[0]
    found: dict[str, Any] = {}
    for name, value in re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form):
        found.setdefault(name, []).append(value)
    return found


def ordered(page: Any) -> dict[str, Any]:
    """What the form that makes a rollout would send."""
    form = page.text.partition('action="/rollouts"')[2].partition("</form>")[0]
    long = re.findall(r'<textarea name="(\w+)" hidden>\n([^<]*)</textarea>', form)
    return hidden(page, "/rollouts") | {name: html.unescape(value) for name, value in long}


# --- Schedules


def test_an_empty_list_says_what_fills_it(viewer: Visitor, operator: Visitor) -> None:
    assert "No schedule yet" in plain(viewer.get("/schedules"))
    assert "An operator can make one" in plain(viewer.get("/schedules"))
    assert "/schedules/new" not in viewer.get("/schedules").text
    assert "Make one" in plain(operator.get("/schedules"))
    assert "No night has begun yet" in plain(viewer.get("/schedules"))


def test_the_list_says_each_rule_in_words_and_the_next_night(viewer: Visitor) -> None:
    web = viewer.web
    one = create(web, rule="FREQ=WEEKLY;BYDAY=MO,TH").json()["id"]
    [zone] = web.call("GET", f"/schedules/{one}/preview").json()
    shown = viewer.get("/schedules")
    assert "every Monday and Thursday at 03:00, in Europe/Berlin" in plain(shown)
    assert f'datetime="{zone["nights"][0]["starts_at"]}"' in shown.text
    assert "03:00 in Europe/Berlin" in plain(shown)
    web.call("POST", f"/schedules/{one}/skip", json={"day": zone["nights"][0]["day"]})
    shown = viewer.get("/schedules")
    assert f'datetime="{zone["nights"][0]["starts_at"]}"' not in shown.text
    assert f'datetime="{zone["nights"][1]["starts_at"]}"' in shown.text
    web.call("POST", f"/schedules/{one}/pause")
    shown = viewer.get("/schedules")
    assert "paused by a operator" in plain(shown)
    assert f'datetime="{zone["nights"][1]["starts_at"]}"' not in shown.text


def test_of_clients_in_many_zones_the_first_night_is_shown(viewer: Visitor) -> None:
    web = viewer.web
    with web.database.write() as tx:
        for uuid, zone in zip(web.uuids, ("Asia/Kolkata", "Pacific/Auckland", "America/Lima"), strict=True):
            tx.db.execute(label.insert().values(client_uuid=uuid, key="tz", value=zone))
    one = create(web, zone=None).json()["id"]
    starts = [each["nights"][0]["starts_at"] for each in web.call("GET", f"/schedules/{one}/preview").json()]
    assert len(starts) == 3
    shown = viewer.get("/schedules")
    assert "first of 3 zones" in plain(shown)
    assert [each in shown.text for each in sorted(starts)] == [True, False, False]
    page = plain(viewer.get(f"/schedules/{one}"))
    for zone in ("Asia/Kolkata: 1 client", "Pacific/Auckland: 1 client", "America/Lima: 1 client"):
        assert zone in page


def test_a_rule_of_a_later_version_hides_no_other_schedule(viewer: Visitor) -> None:
    web = viewer.web
    one = create(web).json()["id"]
    create(web, name="weekly")
    with web.database.write() as tx:
        tx.db.execute(update(schedule).where(schedule.c.id == one).values(rule="FREQ=HOURLY"))
    shown = viewer.get("/schedules")
    assert shown.status_code == 200
    assert "HOURLY" in plain(shown)
    assert "every day at 03:00" in plain(shown)
    assert "It has no nights" in plain(viewer.get(f"/schedules/{one}"))
    assert web.call("GET", f"/schedules/{one}/preview").status_code == 422


def test_the_next_five_nights_in_both_times_and_where_the_clocks_change(viewer: Visitor) -> None:
    web = viewer.web
    one = create(web, start="02:30").json()["id"]
    every_march = {"rule": "FREQ=MONTHLY;INTERVAL=12;BYDAY=-1SU", "anchor": "2026-03-01"}
    with web.database.write() as tx:
        tx.db.execute(update(schedule).values(**every_march))
    shown = viewer.get(f"/schedules/{one}")
    [zone] = web.call("GET", f"/schedules/{one}/preview").json()
    assert len(zone["nights"]) == 5
    for night in zone["nights"]:
        assert night["day"] in shown.text
        assert f'datetime="{night["starts_at"]}"' in shown.text
    assert plain(shown).count("The clocks go forward by 60 min at 02:00.") == 5
    assert shown.text.count("Sun 03:30 in Europe/Berlin") == 5
    assert "Europe/Berlin: 3 clients" in plain(shown)
    assert "The clocks go forward" in plain(viewer.get("/schedules"))


def test_a_night_is_taken_out_and_put_back(operator: Visitor, viewer: Visitor) -> None:
    web = operator.web
    one = create(web).json()["id"]
    [zone] = web.call("GET", f"/schedules/{one}/preview").json()
    day = zone["nights"][1]["day"]
    assert f'aria-label="Leave out the night of {day}"' in operator.get(f"/schedules/{one}").text
    assert "Leave out" not in viewer.get(f"/schedules/{one}").text
    answer = operator.post(f"/schedules/{one}/skip", day=day)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/schedules/{one}")
    assert web.call("GET", f"/schedules/{one}").json()["skips"] == [day]
    assert "left out by a operator" in plain(viewer.get(f"/schedules/{one}"))
    operator.post(f"/schedules/{one}/unskip", day=day)
    assert web.call("GET", f"/schedules/{one}").json()["skips"] == []
    for wrong in ("tomorrow", "2020-01-01", "", "2026-02-30"):
        assert operator.post(f"/schedules/{one}/skip", day=wrong).status_code == 422


def test_it_is_paused_and_resumed(operator: Visitor) -> None:
    web = operator.web
    one = create(web).json()["id"]
    assert operator.post(f"/schedules/{one}/pause").headers["location"] == f"/schedules/{one}"
    assert web.call("GET", f"/schedules/{one}").json()["paused_by"] == "a operator"
    page = operator.get(f"/schedules/{one}")
    assert "Paused by a operator" in plain(page)
    assert "/pause" not in page.text
    operator.post(f"/schedules/{one}/resume")
    assert web.call("GET", f"/schedules/{one}").json()["paused_at"] is None


def test_a_draft_is_shown_before_it_is_made(operator: Visitor) -> None:
    web = operator.web
    page = operator.post("/schedules/new", **DRAFT)
    assert page.status_code == 200
    assert "Make the schedule nightly?" in plain(page)
    assert "every Monday and Thursday at 03:00, in Europe/Berlin" in plain(page)
    assert "Europe/Berlin: 3 clients" in plain(page)
    assert page.text.count("03:00 in Europe/Berlin") == 5
    assert web.call("GET", "/schedules").json() == []
    answer = operator.post("/schedules", **hidden(page, "/schedules"))
    [one] = web.call("GET", "/schedules").json()
    assert (answer.status_code, answer.headers["location"]) == (303, f"/schedules/{one['id']}")
    assert (one["rule"], one["start"], one["zone"]) == ("FREQ=WEEKLY;BYDAY=MO,TH", "03:00", "Europe/Berlin")
    assert (one["window_min"], one["spread_min"], one["back_by_min"]) == (120, 0, 135)


@pytest.mark.parametrize(
    ("more", "rule"),
    [
        ({"often": "daily", "rule": "FREQ=MONTHLY;BYMONTHDAY=1"}, "FREQ=DAILY"),
        ({"often": "rule", "rule": "FREQ=MONTHLY;BYMONTHDAY=1"}, "FREQ=MONTHLY;BYMONTHDAY=1"),
        ({"day": ["SU", "MO", "<b>"]}, "FREQ=WEEKLY;BYDAY=MO,SU"),
    ],
)
def test_what_is_chosen_becomes_the_rule(operator: Visitor, more: dict[str, Any], rule: str) -> None:
    assert operator.post("/schedules", **(DRAFT | more)).status_code == 303
    [one] = operator.web.call("GET", "/schedules").json()
    assert one["rule"] == rule


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        ({"day": []}, 422, "no weekday is chosen"),
        ({"often": "rule", "rule": "FREQ=HOURLY"}, 422, "HOURLY"),
        ({"zone": "Mars/Base"}, 422, "Mars/Base"),
        ({"selector": "site=<"}, 400, "site="),
        ({"window_min": "two"}, 422, "window_min: write how many minutes"),
        ({"window_min": "²"}, 422, "window_min"),
        ({"spread_min": "120"}, 422, "spread_min"),
        ({"start": "3 o'clock"}, 422, "start"),
        ({"name": ""}, 422, "name"),
    ],
)
def test_a_fault_is_said_and_what_was_typed_stays(
    operator: Visitor, more: dict[str, Any], status: int, said: str
) -> None:
    for path in ("/schedules/new", "/schedules"):
        page = operator.post(path, **(DRAFT | {"back_by_min": "141"} | more))
        assert page.status_code == status
        assert "Nothing was made:" in plain(page)
        assert said in plain(page)
        assert 'value="141"' in page.text
    assert operator.web.call("GET", "/schedules").json() == []


def test_a_second_one_of_that_name_is_refused_with_its_form(operator: Visitor) -> None:
    create(operator.web)
    page = operator.post("/schedules", **DRAFT)
    assert page.status_code == 409
    assert "there is a schedule nightly" in plain(page)
    assert len(operator.web.call("GET", "/schedules").json()) == 1


def edited(page: Any, one: str) -> dict[str, Any]:
    """What the form of a schedule that is changed would send."""
    form = page.text.partition(f'action="/schedules/{one}/change"')[2].partition("</form>")[0]
    found = dict(re.findall(r'<input (?:type="hidden" )?name="(\w+)"[^>]* value="([^"]*)"', form))
    found |= dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form))
    found |= dict(re.findall(r'<input type="radio" name="(often)" value="(\w+)" checked>', form))
    found["day"] = re.findall(r'name="day" value="(\w+)" checked', form)
    return {name: html.unescape(value) if isinstance(value, str) else value for name, value in found.items()}


def test_a_schedule_is_changed_after_its_nights_were_seen(operator: Visitor, viewer: Visitor) -> None:
    web = operator.web
    one = create(web, rule="FREQ=WEEKLY;BYDAY=MO,TH").json()["id"]
    address = f"/schedules/{one}"
    assert "Change…" in operator.get(address).text and "Change…" not in viewer.get(address).text
    typed = edited(operator.get(f"{address}/change"), one)
    assert (typed["name"], typed["often"], typed["day"], typed["version"]) == ("nightly", "weekly", ["MO", "TH"], "1")
    page = operator.post(f"{address}/change", **(typed | {"start": "04:15", "day": ["MO", "FR"]}))
    assert "Change the schedule nightly?" in plain(page)
    assert "every Monday and Friday at 04:15" in plain(page)
    assert page.text.count("04:15 in Europe/Berlin") == 5
    assert web.call("GET", address).json()["version"] == 1, "nothing is changed yet"
    answer = operator.post(address, **hidden(page, address))
    assert (answer.status_code, answer.headers["location"]) == (303, address)
    now = web.call("GET", address).json()
    assert (now["version"], now["start"], now["rule"]) == (2, "04:15", "FREQ=WEEKLY;BYDAY=MO,FR")
    assert (now["zone"], now["window_min"], now["back_by_min"]) == ("Europe/Berlin", 120, 135)
    again = operator.post(address, **edited(operator.get(f"{address}/change"), one))
    assert again.status_code == 303
    assert web.call("GET", address).json()["version"] == 2, "nothing was changed"


def test_what_somebody_else_has_changed_meanwhile_is_shown_and_nothing_is_lost(operator: Visitor) -> None:
    web = operator.web
    one = create(web, spread_min=30).json()["id"]
    address = f"/schedules/{one}"
    typed = edited(operator.get(f"{address}/change"), one) | {"start": "04:15", "name": "late"}
    theirs = {"version": 1, "start": "05:00", "window_min": 90}
    assert web.call("PATCH", address, Role.ADMIN, json=theirs).status_code == 200
    for path in (f"{address}/change", address):
        page = operator.post(path, **typed)
        assert page.status_code == 412
        text = plain(page)
        assert "Nothing was changed: a admin has changed it since you opened it" in text
        assert "Begins at 05:00 04:15" in text, "both are shown"
        assert "Reboots go out for so many minutes 90 not touched" in text
        assert "Spread over so many minutes 30" not in text, "nobody has changed that"
    merged = edited(page, one)
    assert (merged["start"], merged["name"], merged["window_min"], merged["version"]) == ("04:15", "late", "90", "2")
    assert operator.post(address, **merged).status_code == 303
    now = web.call("GET", address).json()
    assert (now["start"], now["name"], now["window_min"], now["version"]) == ("04:15", "late", 90, 3)


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        ({"often": "rule", "rule": "FREQ=HOURLY"}, 422, "HOURLY"),
        ({"start": "3 o'clock"}, 422, "start"),
        ({"name": "weekly"}, 409, "there is a schedule weekly"),
        ({"version": "x"}, 422, "open the page again"),
    ],
)
def test_a_change_that_cannot_be_meant_keeps_what_was_typed(
    operator: Visitor, more: dict[str, Any], status: int, said: str
) -> None:
    create(operator.web, name="weekly")
    one = create(operator.web).json()["id"]
    typed = edited(operator.get(f"/schedules/{one}/change"), one) | {"zone": "Europe/Vienna"} | more
    page = operator.post(f"/schedules/{one}", **typed)
    assert page.status_code == status
    assert said in html.unescape(plain(page))
    assert "version" in more or 'value="Europe/Vienna"' in page.text
    assert operator.web.call("GET", f"/schedules/{one}").json()["version"] == 1


def test_an_empty_end_is_so_long_after_the_window_as_in_a_new_one(operator: Visitor) -> None:
    one = create(operator.web).json()["id"]
    typed = edited(operator.get(f"/schedules/{one}/change"), one) | {"window_min": "180", "back_by_min": ""}
    assert operator.post(f"/schedules/{one}", **typed).status_code == 303
    assert operator.web.call("GET", f"/schedules/{one}").json()["back_by_min"] == 195


def test_it_runs_now_through_the_same_confirmation(operator: Visitor, viewer: Visitor) -> None:
    web = operator.web
    one = create(web).json()["id"]
    assert "Run it now" not in viewer.get(f"/schedules/{one}").text
    page = operator.post(f"/schedules/{one}/run")
    assert "Reboot 3 clients?" in plain(page)
    assert "The schedule nightly runs now" in plain(page)
    assert "Reason" not in page.text, "it is the schedule's"
    form = hidden(page, f"/schedules/{one}/run/order")
    short = operator.post(f"/schedules/{one}/run/order", **form, count="2")
    assert short.status_code == 412
    assert "Nothing was sent" in plain(short)
    answers = [operator.post(f"/schedules/{one}/run/order", **form, count="3") for _ in range(2)]
    [night] = web.call("GET", "/nights").json()["items"]
    assert [each.headers["location"] for each in answers] == [f"/nights/{night['id']}"] * 2
    assert len(web.call("GET", "/commands").json()["items"]) == 3
    assert "run by a person" in plain(operator.get(f"/nights/{night['id']}"))
    assert "run by a person" in plain(operator.get("/schedules"))


def test_what_moves_before_a_run_makes_nothing(operator: Visitor) -> None:
    web = operator.web
    one = create(web).json()["id"]
    form = hidden(operator.post(f"/schedules/{one}/run"), f"/schedules/{one}/run/order")
    web.call("POST", f"/clients/{web.uuids[0]}/standing", Role.ADMIN, json={"standing": "retired"})
    page = operator.post(f"/schedules/{one}/run/order", **form, count="3")
    assert page.status_code == 412
    assert "Reboot 2 clients?" in plain(page)
    assert web.call("GET", "/nights").json()["items"] == []


def test_an_order_without_what_was_shown_is_refused_in_words(operator: Visitor) -> None:
    one = create(operator.web).json()["id"]
    for path in (f"/schedules/{one}/run/order", "/order"):
        answer = operator.post(path, action="reboot_host", client=operator.web.uuids, hash="x", count="3")
        assert answer.status_code == 422, path


def test_the_time_of_the_screens_is_not_said_twice_where_it_is_utc(viewer: Visitor) -> None:
    """Without the script times are in UTC."""
    web = viewer.web
    one = create(web, zone="UTC").json()["id"]
    assert viewer.get(f"/schedules/{one}").text.count('data-zone="UTC" hidden>') == 15
    web.call("PATCH", f"/schedules/{one}", json={"version": 1, "zone": "Europe/Berlin"})
    page = viewer.get(f"/schedules/{one}").text
    assert page.count('data-zone="Europe/Berlin">') == 15
    assert "hidden>" not in page


# --- Nights


def test_the_report_begins_with_who_is_not_back(viewer: Visitor) -> None:
    web = viewer.web
    night = begun(web)
    with web.database.write() as tx:
        tx.db.execute(update(client).where(client.c.uuid == web.uuids[0]).values(name="Bar left"))
        gone = command.c.client_uuid == web.uuids[0]
        values = {"sent_at": tx.now, "state": "timed_out", "rank": 5, "overdue": "client back on MQTT"}
        tx.db.execute(update(command).where(gone).values(**values))
    page = viewer.get(f"/nights/{night['id']}")
    text = plain(page)
    assert "This night runs" in text
    assert "1 not back 0 back late 2 skipped 0 mock 0 back" in text
    assert "its command is not sent yet" in text and "not sent in time" not in text
    assert (
        text.index("1 not back Somebody")
        < text.index("Bar left")
        < text.index("2 skipped They were not rebooted so far.")
        < text.index("two hosts")
    )
    assert "it did not come back in time" in text
    assert f'href="/batches/{night["batch_id"]}"' in page.text
    assert f'href="/schedules/{night["schedule_id"]}"' in page.text
    assert f"/nights/{night['id']}" in viewer.get(f"/schedules/{night['schedule_id']}").text
    assert f"/nights/{night['id']}" in viewer.get("/schedules").text


def test_a_report_in_which_nobody_is_missing_says_so(viewer: Visitor) -> None:
    night = begun(viewer.web)
    assert "Nobody is missing." in plain(viewer.get(f"/nights/{night['id']}"))


def test_the_report_as_csv_is_that_of_the_api(viewer: Visitor) -> None:
    night = begun(viewer.web)
    answer = viewer.get(f"/nights/{night['id']}/report.csv")
    assert answer.headers["content-type"].startswith("text/csv")
    assert f"night-{night['id']}.csv" in answer.headers["content-disposition"]
    assert answer.text == viewer.web.call("GET", f"/nights/{night['id']}/report?format=csv").text
    assert "'=cmd()" in answer.text
    assert viewer.get(f"/nights/{uuid4()}/report.csv").status_code == 404


def test_a_zone_that_the_system_does_not_have_breaks_no_page(viewer: Visitor) -> None:
    web = viewer.web
    with web.database.write() as tx:
        tx.db.execute(label.insert().values(client_uuid=web.uuids[0], key="tz", value="Mars/Base"))
    one = create(web, zone=None).json()["id"]
    assert "There are no nights here" in plain(viewer.get(f"/schedules/{one}"))
    assert viewer.get("/schedules").status_code == 200


# --- Rollouts


def test_no_rollout_yet_says_how_to_make_one(viewer: Visitor, operator: Visitor) -> None:
    assert "An operator can make one." in plain(viewer.get("/rollouts"))
    assert "/rollouts/new" not in viewer.get("/rollouts").text
    assert '<a href="/rollouts/new">Make one</a>' in operator.get("/rollouts").text


def test_a_rollout_is_seen_before_it_is_made_and_made_once(operator: Visitor) -> None:
    web = operator.web
    waits, never, _ = web.uuids
    with web.database.write() as tx:
        tx.db.execute(update(client).where(client.c.uuid == waits).values(is_online=False, name="Bar left"))
        tx.db.execute(update(client).where(client.c.uuid == never).values(two_hosts_at=tx.now, name="Lobby"))
    page = operator.post("/rollouts/new", **PLAN)
    text = plain(page)
    assert "Reboot 2 clients in 2 stages?" in text
    assert "Each screen goes dark" in text
    assert "1. canary 1 1:" in text and "2. rest 1:" in text
    assert "none has run so far; failure 1 stops it" in text
    assert "stops it when more than 5 % of those that ran have failed" in text
    assert "2 held by a rule" in text
    assert "Bar left waits:" in text and "Lobby is left out:" in text
    assert web.call("GET", "/rollouts").json()["items"] == [], "nothing is made yet"
    form = ordered(page)
    short = operator.post("/rollouts", **form, count="3")
    assert short.status_code == 412
    assert "Nothing was made: this is about 2 clients" in plain(short)
    answers = [operator.post("/rollouts", **form, count="2") for _ in range(2)]
    [one] = web.call("GET", "/rollouts").json()["items"]
    assert [each.headers["location"] for each in answers] == [f"/rollouts/{one['id']}"] * 2
    assert (one["settle_s"], one["pause_s"], one["wait_s"]) == (60, 0, 900)
    assert (one["labels"], one["reason"], one["minimum_sample"]) == ({"version": "7"}, "new player", 20)
    assert [stage["name"] for stage in one["stages"]] == ["canary 1", "rest"]


def test_what_moves_before_a_rollout_makes_nothing(operator: Visitor) -> None:
    web = operator.web
    form = ordered(operator.post("/rollouts/new", **PLAN))
    web.call("POST", f"/clients/{web.uuids[0]}/standing", Role.ADMIN, json={"standing": "retired"})
    page = operator.post("/rollouts", **form, count="3")
    assert page.status_code == 412
    assert "Reboot 2 clients in 2 stages?" in plain(page)
    assert web.call("GET", "/rollouts").json()["items"] == []


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        ({"stages": "site=nowhere"}, 422, "means none of these clients"),
        ({"stages": "1\r\ncanary 1"}, 422, "is not the first stage"),
        ({"max_failed": "5"}, 422, "is no threshold"),
        ({"selector": "site=<"}, 400, "site="),
        ({"selector": "site=nowhere"}, 422, "no accepted client fits"),
        ({"settle_min": "soon"}, 422, "settle_min: write how many minutes"),
        ({"wait_min": "0"}, 422, "wait_s"),
        ({"minimum_sample": ""}, 422, "minimum_sample: write how many"),
        ({"labels": "version"}, 422, "has no “=”"),
        ({"labels": "a b=x"}, 422, "cannot be the key of a label"),
    ],
)
def test_a_rollout_that_cannot_be_meant_keeps_what_was_typed(
    operator: Visitor, more: dict[str, Any], status: int, said: str
) -> None:
    page = operator.post("/rollouts/new", **(PLAN | {"reason": "typed once"} | more))
    assert page.status_code == status
    assert "Nothing was made:" in plain(page)
    assert said in html.unescape(plain(page))
    assert 'value="typed once"' in page.text


def test_a_rollout_shows_its_stages_and_what_the_sample_proves(viewer: Visitor) -> None:
    web = viewer.web
    one = made(web)
    look(web)
    told = web.call("GET", f"/rollouts/{one}").json()
    listed, page = plain(viewer.get("/rollouts")), viewer.get(f"/rollouts/{one}")
    assert "running Reboot of 3 a operator 1 of 2" in listed
    assert told["brake"]["words"] in listed
    text = plain(page)
    assert told["brake"]["words"][1:] in text
    assert "1. canary 1" in text and "2. rest" in text
    assert "0 of 1 have a verdict queued 1" in text
    assert "0 of 2 have a verdict waiting 2" in text
    [batch] = told["stages"][0]["batches"]
    assert f'href="/batches/{batch}"' in page.text
    assert page.text.count('aria-current="step"') == 1
    for word in ("Pause", "Abort", "Resume"):
        assert f">{word}" not in page.text, "a viewer only looks"


def test_a_rollout_is_paused_resumed_and_aborted_in_two_steps(operator: Visitor) -> None:
    web = operator.web
    one = made(web)
    look(web)
    address = f"/rollouts/{one}"
    assert operator.post(f"{address}/pause", why="lunch").headers["location"] == address
    page = plain(operator.get(address))
    assert "Paused by a operator: lunch" in page
    assert "nothing more goes out until a person resumes it" in page.lower()
    step = operator.get(f"{address}/resume")
    assert "It goes on where it was: 3 clients have no command yet" in plain(step)
    assert "Paused by a operator: lunch" in plain(step)
    assert web.call("GET", f"/rollouts/{one}").json()["state"] == "paused", "looking resumes nothing"
    assert operator.post(f"{address}/resume").headers["location"] == address
    assert web.call("GET", f"/rollouts/{one}").json()["state"] == "running"
    assert "It cannot be resumed now: it is running" in plain(operator.get(f"{address}/resume"))
    step = operator.get(f"{address}/abort")
    assert "It ends here, and cannot be resumed" in plain(step)
    assert web.call("GET", f"/rollouts/{one}").json()["state"] == "running", "looking ends nothing"
    assert operator.post(f"{address}/abort").headers["location"] == address
    assert web.call("GET", f"/rollouts/{one}").json()["state"] == "aborted"
    assert "It is over already" in plain(operator.get(f"{address}/abort"))
    refused = operator.post(f"{address}/resume")
    assert refused.status_code == 409
    assert "Abort…" not in operator.get(address).text


def test_what_the_brake_has_stopped_names_who_failed(operator: Visitor) -> None:
    web = operator.web
    one = made(web)
    look(web)
    with web.database.write() as tx:
        tx.db.execute(update(client).values(name="Bar left").where(client.c.uuid == web.uuids[0]))
        tx.db.execute(update(command).values(state="failed", rank=5))
    look(web)
    [failed] = web.call("GET", f"/rollouts/{one}/members?counted=failed").json()
    page = operator.get(f"/rollouts/{one}")
    text = plain(page)
    assert "1 of 1 failed (100 %)" in text
    assert "1 failed Client" in text
    assert f'href="/c/{failed["client_uuid"]}"' in page.text
    assert "the controller recovers none of its clients by itself" in text
    assert "Allow recovery again" in text
    assert "you accept what has failed" in plain(operator.get(f"/rollouts/{one}/resume"))
    assert "may recover its clients by itself again" in plain(operator.get(f"/rollouts/{one}/recovery"))
    operator.post(f"/rollouts/{one}/recovery")
    page = operator.get(f"/rollouts/{one}")
    assert "recovers none of its clients" not in page.text
    assert "Allow recovery again" not in page.text
    assert "is not switched off" in plain(operator.get(f"/rollouts/{one}/recovery"))


def test_it_is_rolled_back_in_two_steps_also_when_it_is_over(operator: Visitor) -> None:
    web = operator.web
    one = made(web, stages=[])
    look(web)
    with web.database.write() as tx:
        tx.db.execute(update(command).values(state="completed", rank=5, ended_boot_id="x"))
    look(web, 3)
    address = f"/rollouts/{one}"
    assert web.call("GET", f"/rollouts/{one}").json()["state"] == "finished"
    assert "Roll back…" in operator.get(address).text
    step = plain(operator.get(f"{address}/rollback"))
    assert "It sets version=7 on each client that completes: 3 so far." in step
    assert "A reboot cannot be taken back." in step
    assert "It ends here" not in step, "it has ended"
    assert operator.post(f"{address}/rollback").headers["location"] == address
    assert web.call("GET", f"/rollouts/{one}").json()["state"] == "rolled_back"
    assert [each["labels"].get("version") for each in web.call("GET", "/clients").json()] == [None] * 3
    assert "Roll back…" not in operator.get(address).text
    assert "It is over already: rolled back." in plain(operator.get(f"{address}/rollback"))


def test_without_labels_there_is_nothing_to_roll_back(operator: Visitor) -> None:
    one = made(operator.web, labels={})
    assert "Roll back…" not in operator.get(f"/rollouts/{one}").text
    assert "there is nothing to take back" in plain(operator.get(f"/rollouts/{one}/rollback"))


def test_a_rollout_before_its_first_stage_can_be_aborted_and_not_paused(operator: Visitor) -> None:
    page = operator.get(f"/rollouts/{made(operator.web)}").text
    assert "Abort…" in page
    assert "/pause" not in page


def test_older_rollouts_are_on_other_pages(viewer: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    web = viewer.web
    ones = []
    for _ in range(2):
        ones.append(made(web))
        web.call("POST", f"/rollouts/{ones[-1]}/abort")
    monkeypatch.setattr("infoscreen_reboot.controller.web.rollouts._PAGE", 1)
    first = viewer.get("/rollouts").text
    assert ones[1] in first and ones[0] not in first
    [following] = re.findall(r'rel="next" href="([^"]+)"', first)
    assert ones[0] in viewer.get(following).text
    assert viewer.get("/rollouts?cursor=x").status_code == 400


def test_who_came_back_how_fast_stands_on_the_pages_in_words_too(viewer: Visitor) -> None:
    web = viewer.web
    one = made(web, stages=[])
    look(web)
    [batch] = web.call("GET", f"/rollouts/{one}").json()["stages"][0]["batches"]
    pages = f"/rollouts/{one}", f"/batches/{batch}"
    assert ["Back on MQTT after" in viewer.get(page).text for page in pages] == [False, False]
    with web.database.write() as tx:
        back = {"started_at": tx.now, "back_at": tx.now + timedelta(seconds=100), "state": "completed", "rank": 5}
        lost = back | {"back_at": None, "state": "timed_out", "overdue": "client back on MQTT"}
        for uuid, values in zip(web.uuids, (back, back, lost), strict=True):
            tx.db.execute(update(command).where(command.c.client_uuid == uuid).values(**values))
    for page in pages:
        text = plain(viewer.get(page))
        assert "0 of 3 were back within 90 s, 2 within 150 s, 0 later; 1 never came back." in text
        assert "90 to 105 s 2" in text and "not back 1" in text


# --- Batches


def mixed(web: Web) -> str:
    """A batch in which one is held, one has failed, and one has not come back."""
    seen = web.preview()
    content = {"action": "reboot_host", "clients": seen["clients"], "hash": seen["hash"], "count": 3}
    made: str = web.call("POST", "/batches", json=content).json()["id"]
    ends: list[dict[str, Any]] = [
        {"hold_rule": "freeze", "hold_why": "all stands still: =1+1"},
        {"state": "failed", "rank": 5, "error_code": "not_authorized", "error_message": "=cmd|' /C calc'!A0"},
        {"state": "timed_out", "rank": 5, "overdue": "client back on MQTT"},
    ]
    with web.database.write() as tx:
        for uuid, values in zip(web.uuids, ends, strict=True):
            if values.get("rank"):
                values |= {"sent_at": tx.now, "hold_rule": "freeze"}
            tx.db.execute(update(command).where(command.c.client_uuid == uuid).values(**values))
        tx.db.execute(update(client).where(client.c.uuid == web.uuids[1]).values(name="@SUM(A1)"))
    return made


def test_a_batch_is_counted_by_reason_and_each_count_leads_to_exactly_those(operator: Visitor) -> None:
    web = operator.web
    batch = mixed(web)
    page = operator.get(f"/batches/{batch}")
    text = plain(page)
    assert "freeze 1 queued all stands still" in text
    assert "not authorized 1 failed =cmd" in html.unescape(text)
    assert "too late: client back on MQTT 1 timed out" in text
    links = [html.unescape(each) for each in re.findall(r'href="(/batches/[^"]+kind=[^"]+)" aria-label', page.text)]
    assert len(links) == 3
    wanted = (("freeze", "queued", 0), ("not_authorized", "failed", 1), ("client%20back%20on%20MQTT", "timed_out", 2))
    for kind, state, number in wanted:
        link = f"/batches/{batch}?state={state}&kind={kind}"
        assert link in links
        shown = operator.get(link)
        rows = shown.text.partition('id="members"')[2]
        assert re.findall(r'href="/c/([^"]+)"', rows) == [web.uuids[number]]
        assert f"1 client, {state.replace('_', ' ')}: " in plain(shown)
        retried = hidden(shown, "/confirm").get("client", [])
        assert retried == ([] if number == 0 else [web.uuids[number]]), "these, and no others"
    assert sorted(hidden(page, "/confirm")["client"]) == web.uuids[1:]
    assert operator.get(f"/batches/{batch}?kind=%00").status_code == 422


def test_what_is_listed_of_a_batch_can_be_taken_away_and_no_cell_is_a_formula(viewer: Visitor) -> None:
    web = viewer.web
    batch = mixed(web)
    everything = viewer.get(f"/batches/{batch}")
    assert f'href="/batches/{batch}/members.csv"' in everything.text
    shown = viewer.get(f"/batches/{batch}?state=failed&kind=not_authorized").text
    links = [html.unescape(each) for each in re.findall(r'href="(/batches/[^"]+/members[^"]+)"', shown)]
    table, document = (viewer.get(link) for link in links)
    assert table.headers["content-type"].startswith("text/csv")
    assert f"batch-{batch}.csv" in table.headers["content-disposition"]
    [head, line] = table.text.splitlines()
    assert head == "client_uuid,name,command_id,state,kind,why"
    assert line.startswith(f"{web.uuids[1]},'@SUM(A1),")
    assert line.endswith(",failed,not_authorized,'=cmd|' /C calc'!A0")
    assert document.headers["content-disposition"] == f'attachment; filename="batch-{batch}.json"'
    api = f"/batches/{batch}/members?state=failed&kind=not_authorized"
    assert document.json() == web.call("GET", api).json()
    assert web.call("GET", f"{api}&format=csv").text == table.text
    assert [each["name"] for each in document.json()] == ["@SUM(A1)"]
    assert len(viewer.get(f"/batches/{batch}/members.json").json()) == 3
    assert viewer.get(f"/batches/{batch}/members.xml").status_code == 422
    assert viewer.get(f"/batches/{uuid4()}/members.csv").status_code == 404


# --- All of them


def test_what_people_write_into_plans_is_shown_as_text(operator: Visitor) -> None:
    web = operator.web
    bold = "<b>why</b>"
    night = begun(web)
    bad = create(web, name=bold).json()["id"]
    with web.database.write() as tx:
        tx.db.execute(update(client).values(name=HOSTILE))
        tx.db.execute(update(schedule).where(schedule.c.name == "nightly").values(name="<i>mine"))
        tx.db.execute(update(command).values(state="cancelled", rank=5))
        tx.db.execute(update(client).values(two_hosts_at=None))
    one = made(web, reason=bold)
    look(web)
    operator.post(f"/rollouts/{one}/pause", why=bold)
    pages = ["/schedules", f"/schedules/{night['schedule_id']}", f"/nights/{night['id']}", "/rollouts"]
    pages += [f"/rollouts/{one}", *(f"/rollouts/{one}/{what}" for what in ("abort", "rollback", "resume"))]
    texts = [operator.get(path).text for path in pages]
    texts.append(operator.post("/schedules/new", **(DRAFT | {"name": bold, "selector": f"site={bold}"})).text)
    texts.append(operator.post("/schedules/new", **(DRAFT | {"name": bold})).text)
    texts.append(operator.get(f"/schedules/{bad}/change").text)
    texts.append(operator.post("/rollouts/new", **(PLAN | {"reason": bold})).text)
    texts.append(operator.post("/rollouts/new", **(PLAN | {"stages": bold})).text)
    for path, text in zip([*pages, "fault", "draft", "change", "plan", "fault of a plan"], texts, strict=True):
        assert "<img" not in text, path
        assert "<b>why" not in text, path
        assert "<i>mine" not in text, path
        assert "&lt;" in text, path


def test_a_page_of_something_that_does_not_exist_says_so(operator: Visitor) -> None:
    for path in ("schedules", "nights", "rollouts", "batches"):
        assert operator.get(f"/{path}/{uuid4()}").status_code == 404
