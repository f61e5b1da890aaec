"""The console in a real browser: what an operator, a technician and somebody without a mouse do with it."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.remote.webelement import WebElement
from sqlalchemy import update

from infoscreen_reboot.controller import orders
from infoscreen_reboot.controller.api import models
from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.lifecycle import Limits
from infoscreen_reboot.controller.orders import House
from infoscreen_reboot.controller.rollouts import Rollouts
from infoscreen_reboot.controller.schedules import Schedules
from infoscreen_reboot.controller.store import lease, tables
from infoscreen_reboot.controller.store.tables import client, command, rollout, schedule, token
from infoscreen_reboot.controller.web import live
from tests.controller.nginx import nginx
from tests.controller.played_fleet import NEW_BOOT, OLD_BOOT, Fleet
from tests.controller.test_console import HOSTILE
from tests.web.browser import DESKTOP, PHONE, WALL, Browser, Size, axe, codes_in, out_of_reach

Visit = Callable[..., Browser]
# Of the fleet's page: it asks when its stream opens, once more for the numbers, and then only if something happens.
HAS_ASKED = "return performance.getEntriesByType('resource').filter(each => each.name.includes('/rows')).length >= 2"
# A page whose script begins after the first change.
LATE = """
window.BroadcastChannel = class extends BroadcastChannel {
  set onmessage(hear) {
    let isHere = false;
    super.onmessage = (event) => {
      if (isHere) hear(event);
      else isHere = event.data.kind === "changed";
    };
  }
};
"""
SLEEP_AN_HOUR = """
const real = Date.now;
Date.now = () => real() + 3600000;
document.dispatchEvent(new Event('visibilitychange'));
return document.getElementById('fresh').textContent;
"""
# Where the page begins below its head, at each step of how fresh it says to be.
TOPS = """
window.tops = {};
addEventListener("DOMContentLoaded", () => {
  const line = document.getElementById("fresh");
  const note = () => { tops[line.dataset.state] = document.getElementById("main").getBoundingClientRect().top; };
  note();
  new MutationObserver(note).observe(line, { attributes: true });
});
"""


@pytest.fixture
def signed_in(browser: Browser, fleet: Fleet) -> Visit:
    """As somebody of a role, at a page."""

    def visit(path: str = "/", role: Role = Role.OPERATOR) -> Browser:
        browser.open(f"{fleet.address}{path}")
        browser.click("summary", "I have a token")
        browser.see('input[name="token"]').send_keys(fleet.tokens[role])
        browser.click("button", "with the token")
        browser.see(".fresh")
        return browser

    return visit


def state_of(browser: Browser, name: str) -> str:
    return str(browser.see("tbody tr", name).find_element("css selector", ".state").text)


def box_of(browser: Browser, name: str) -> WebElement:
    return browser.see("tbody tr", name).find_element("css selector", "input")


def tick(browser: Browser, name: str) -> None:
    browser.click_on(lambda: box_of(browser, name))


def names(browser: Browser) -> list[str]:
    return [row.text.split()[0] for row in browser.all("tbody tr")]


def number(browser: Browser, condition: str) -> str:
    return str(browser.see(f"#numbers .is-{condition} b").text)


def fleet_numbers(fleet: Fleet) -> models.FleetSummary:
    with api(fleet, Role.VIEWER) as http:
        return models.FleetSummary.model_validate_json(http.get("/fleet").text)


def api(fleet: Fleet, role: Role = Role.OPERATOR) -> httpx.Client:
    headers = {"Authorization": f"Bearer {fleet.tokens[role]}"}
    return httpx.Client(base_url=f"{fleet.address}/api/v1", headers=headers, timeout=60)


def test_an_operators_morning(signed_in: Visit, fleet: Fleet, pictures: Path) -> None:
    fleet.change("lobby", is_online=False)
    browser = signed_in("/?condition=offline")
    assert "condition=offline" in browser.driver.current_url, "signing in leads where one wanted to go"
    assert names(browser) == ["lobby"]
    browser.click("#numbers a", "all")
    browser.see("tbody tr", "bar-left")
    assert names(browser)[0] == "lobby", "the sick first"
    tick(browser, "bar-left")
    browser.see("[data-chosen]", "1 selected.")
    browser.click("button", "Reboot…")
    browser.see("h1", "Reboot 1 client?")
    browser.see('input[name="reason"]').send_keys("player frozen")
    browser.click("button", "Reboot 1 client")
    browser.see("h1", "bar-left")
    browser.see(".command summary", "queued")
    address = browser.driver.current_url

    browser.driver.execute_script("window.isTheSamePage = true")
    fleet.send()
    browser.see(".steps .done", "Sent")
    fleet.start("bar-left")
    browser.see(".steps .waited", "Back")
    fleet.complete("bar-left")
    browser.see(".steps .done", "Playing")
    assert f"a new boot {NEW_BOOT[:8]}" in browser.text
    assert f"boot {OLD_BOOT[:8]}" in browser.text
    assert browser.driver.execute_script("return window.isTheSamePage") is True
    assert browser.driver.current_url == address
    browser.picture(pictures / "client.png")


def test_the_fleet_is_live_and_nothing_moves(signed_in: Visit, fleet: Fleet, pictures: Path) -> None:
    browser = signed_in()
    browser.see(".fresh[data-state='deaf']", "Broker away: no news")
    assert number(browser, "healthy") == "3"
    tick(browser, "lobby")
    order = names(browser)
    made = fleet_order(fleet, "lobby")
    fleet.send()
    browser.see("tbody tr .state", "rebooting")
    assert state_of(browser, "lobby") == "rebooting"
    browser.wait(lambda: number(browser, "rebooting") == "1", "number of the rebooting")
    assert names(browser) == order, "no row has moved"
    assert box_of(browser, "lobby").is_selected()
    browser.click("button", "1 changed, put in order")
    browser.see("tbody tr:first-child", "lobby")
    browser.see("[data-chosen]", "Nothing is selected.")
    assert not box_of(browser, "lobby").is_selected(), "what is selected goes with the page"
    browser.picture(pictures / "fleet.png")
    assert made


def fleet_order(fleet: Fleet, name: str) -> str:
    with api(fleet) as http:
        answer = http.post("/commands", json={"action": "reboot_host", "client_uuid": fleet.uuids[name]})
    assert answer.status_code == 201
    return str(answer.json()["id"])


def test_a_technicians_phone_in_front_of_a_dark_screen(signed_in: Visit, fleet: Fleet, pictures: Path) -> None:
    browser = signed_in(f"/c/{fleet.uuids['lobby']}")
    browser.look(PHONE, is_dark=True)
    browser.click("button.wide", "Reboot…")
    browser.click("button", "Reboot 1 client")
    browser.see(".command summary", "queued")
    fleet.send()
    browser.see(".big", "rebooting")
    fleet.complete("lobby")
    browser.see(".steps .done", "Playing")
    browser.see(".big", "healthy")
    browser.picture(pictures / "phone.png")


def test_what_somebody_has_opened_stays_open_while_the_rest_goes_on(signed_in: Visit, fleet: Fleet) -> None:
    """Pitfall 10."""
    fleet_order(fleet, "lobby")
    fleet.send()
    fleet.complete("lobby")
    fleet_order(fleet, "lobby")
    browser = signed_in(f"/c/{fleet.uuids['lobby']}")
    browser.click(".command:nth-of-type(2) summary", "completed")
    browser.see(".command:nth-of-type(2) .steps", "Playing")
    fleet.send()
    browser.see(".command:first-of-type .done", "Sent")
    assert browser.all(".command:nth-of-type(2) .steps", "Playing"), "it has closed"
    assert "completed Reboot by an-operator" in browser.focus


def test_a_bulk_of_37_of_which_one_moves_away(signed_in: Visit, fleet: Fleet) -> None:
    fleet.add(*(f"gate-{number:02}" for number in range(37)), site="harbour")
    browser = signed_in("/?selector=site%3Dharbour")
    browser.click("[data-all]")
    browser.see("[data-chosen]", "37 selected.")
    browser.click("button", "Reboot…")
    browser.see('[data-count="37"]').send_keys("37")
    fleet.change("gate-07", is_online=False)
    browser.expect("412")
    browser.click("button", "Reboot 37 clients")
    browser.see(".fault", "Nothing was sent")
    assert fleet.commands() == {}
    browser.see('[data-count="36"]').send_keys("36")
    browser.click("button", "Reboot 36 clients")
    browser.see("h1", "Reboot of 36")
    fleet.send()
    for name in list(fleet.commands())[:5]:
        fleet.complete(name)
    browser.see("#numbers .of-completed", "5")
    browser.click("#numbers a", "completed")
    browser.wait(lambda: len(browser.all("#members tbody tr")) == 5, "list of the five")


def test_a_rollout_that_its_brake_stops_says_so_at_once(signed_in: Visit, fleet: Fleet) -> None:
    terms = {"action": "reboot_host", "stages": ["canary 1"], "settle_s": 0, "pause_s": 0}
    with api(fleet) as http:
        shown = http.post("/rollouts/preview", json=terms | {"selector": "site=alpine"}).json()
        seen = {name: shown[name] for name in ("clients", "hash", "count")}
        made = http.post("/rollouts", json=terms | seen).json()["id"]
    browser = signed_in(f"/rollouts/{made}")
    browser.see(".big", "planned")
    step_rollouts(fleet)
    browser.see(".big", "running")
    [canary] = fleet.commands()
    fleet.send()
    fleet.fail(canary)
    step_rollouts(fleet)
    browser.see(".big", "stopped")
    browser.see("#failed", canary)
    browser.click("#act a", "Resume…")
    browser.see(".note", "you accept what has failed")


def step_rollouts(fleet: Fleet) -> None:
    """As the engine does it, when it is time."""
    with fleet.database.write() as tx:
        tx.db.execute(update(rollout).where(rollout.c.due_at.is_not(None)).values(due_at=tx.now))
        Rollouts(House(), Limits()).step(tx, [])


def test_a_schedule_is_made_and_its_nights_are_seen_before(signed_in: Visit, fleet: Fleet) -> None:
    browser = signed_in("/schedules/new")
    for name, value in (("name", "nightly"), ("selector", "site=alpine"), ("zone", "Europe/Berlin")):
        browser.see(f'input[name="{name}"]').send_keys(value)
    browser.press("Enter")
    browser.see("h3", "Europe/Berlin")
    assert len(browser.all("tbody tr")) == 5
    browser.click("button", "Make")
    browser.see("h1", "nightly")
    browser.see("dd", "every day at 03:30")
    address = browser.driver.current_url
    browser.live_in("Europe/Berlin")
    browser.open(address)
    browser.see("td:nth-child(2) time", "03:30:00")
    browser.see_no(".there")
    browser.live_in("UTC")
    browser.open(address)
    browser.see(".there", "03:30 in Europe/Berlin")
    browser.see_no("td:nth-child(2) time", "03:30:00")


def test_an_unknown_client_is_accepted_with_a_name(signed_in: Visit, fleet: Fleet) -> None:
    fleet.add("new-one", standing="unknown")
    with fleet.database.write() as tx:
        tx.db.execute(update(client).where(client.c.name == "new-one").values(name=None))
    browser = signed_in("/unknown", Role.ADMIN)
    browser.see('tbody input[name="name"]').send_keys("Gate 4")
    browser.press("Enter")
    browser.see_no("tbody", fleet.uuids["new-one"])
    browser.click("nav a", "Fleet")
    browser.see("tbody tr", "Gate 4")


def test_labels_fill_sheets_and_each_code_leads_a_phone_to_its_client(
    signed_in: Visit, fleet: Fleet, pictures: Path
) -> None:
    fleet.add(*(f"gate-{number:02}" for number in range(25)), site="harbour")
    browser = signed_in("/?selector=site%3Dharbour")
    browser.look(is_dark=True)
    browser.click("a", "QR labels to print")
    browser.see("h1", "QR labels for 25 clients")
    found = codes_in(browser.picture(pictures / "labels-dark.png"))
    wanted = [uuid for name, uuid in fleet.uuids.items() if name.startswith("gate-")]
    assert found == {f"{fleet.address}/c/{uuid}" for uuid in wanted}
    sheets = re.findall(rb"/MediaBox \[0 0 (\d+)\S* (\d+)", browser.printed())
    assert sheets == [(b"594", b"841")] * 2, "two of A4"


def test_numbers_that_were_counted_just_before_a_change_are_soon_right(
    signed_in: Visit, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are counted once a second at most, however many pages ask."""
    fleet_order(fleet, "lobby")
    fleet.send()
    browser = signed_in()
    browser.wait(lambda: number(browser, "rebooting") == "1", "number of the rebooting")
    browser.wait(lambda: browser.driver.execute_script(HAS_ASKED), "page that has asked")
    count = fleet.app.state.numbers.of
    before = [fleet_numbers(fleet)]

    def of(*asked: Any) -> models.FleetSummary:
        """To the first question after the change, what another page was told before it."""
        found: models.FleetSummary = count(*asked)
        return before.pop() if before and found != before[0] else found

    monkeypatch.setattr(fleet.app.state.numbers, "of", of)
    fleet.fail("lobby")
    browser.wait(lambda: not before, "first question after the change")
    browser.wait(lambda: number(browser, "rebooting") == "0", "number after the change")


def test_after_an_hour_of_sleep_the_page_is_old_at_once(signed_in: Visit) -> None:
    """Pitfall 14: nothing ran meanwhile, and the clock has gone on."""
    browser = signed_in()
    browser.see(".fresh[data-state='deaf']")
    said = browser.driver.execute_script(SLEEP_AN_HOUR)
    assert said.startswith("Not live for 60 min.")
    browser.see(".fresh[data-state='deaf']")


def test_a_page_says_since_when_the_broker_is_away(signed_in: Visit, fleet: Fleet) -> None:
    with fleet.database.write() as tx:
        lease.take(tx, "test")
        long_ago = tx.now - timedelta(days=400)
    browser = signed_in()
    line = browser.see(".fresh[data-state='deaf']", "Broker away since ")
    # A date, if midnight has just passed.
    assert re.fullmatch(r"Broker away since (\d\d:\d\d|\d{4}-\d\d-\d\d): no news", line.text)
    assert re.match(r"The controller does not hear the broker since \d{4}-", line.get_attribute("title") or "")
    with fleet.database.write() as tx:
        tx.db.execute(update(tables.lease).values(deaf_since=long_ago))
    browser.see(".fresh[data-state='deaf']", f"Broker away since {long_ago:%Y-}")


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.ADMIN])
def test_a_page_stands_still_when_it_comes_and_when_it_is_old(signed_in: Visit, fleet: Fleet, role: Role) -> None:
    """Else a finger that is on its way comes down beside its button."""
    with fleet.database.write() as tx:
        lease.take(tx, "test")
        # A date is longer than a time of day.
        tx.db.execute(update(tables.lease).values(deaf_since=tx.now - timedelta(days=3)))
    browser = signed_in(role=role)
    browser.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": TOPS})
    for width in (360, 390, 430, 480, 600, 768, 1024, 1280, 1920):
        browser.look(Size(width, 800, is_phone=width < 500))
        browser.driver.refresh()
        browser.see(".fresh[data-state='deaf']", "Broker away since ")
        browser.driver.execute_script(SLEEP_AN_HOUR)
        tops = browser.driver.execute_async_script("requestAnimationFrame(() => arguments[0](window.tops))")
        assert set(tops) == {"waiting", "deaf", "old"} and len(set(tops.values())) == 1, (width, tops)


def test_seven_tabs_leave_the_eighth_its_connections(signed_in: Visit, fleet: Fleet) -> None:
    """Pitfall 12: a browser has six connections to a host."""
    browser = signed_in()
    for _ in range(7):
        browser.new_tab()
        browser.open(f"{fleet.address}/c/{fleet.uuids['lobby']}")
        browser.see(".big", "healthy")
    fleet_order(fleet, "lobby")
    browser.see(".command summary", "queued")


def test_through_nginx_with_nothing_but_its_defaults(browser: Browser, fleet: Fleet, tmp_path: Path) -> None:
    """Pitfall 11: it buffers, speaks HTTP/1.0 to us, and gives us a host that is not the one of the page."""
    with nginx(tmp_path, f"location / {{ proxy_pass {fleet.address}; }}") as address:
        browser.open(f"{address}/c/{fleet.uuids['lobby']}")
        browser.click("summary", "I have a token")
        browser.see('input[name="token"]').send_keys(fleet.tokens[Role.OPERATOR])
        browser.click("button", "with the token")
        browser.see(".fresh[data-state='deaf']")
        assert browser.driver.current_url == f"{address}/c/{fleet.uuids['lobby']}"
        browser.click("button.wide", "Reboot…")
        browser.click("button", "Reboot 1 client")
        browser.see(".command summary", "queued")
        fleet.send()
        browser.see(".steps .done", "Sent")
        fleet.complete("lobby")
        browser.see(".steps .done", "Playing")
        browser.driver.get("about:blank")  # its stream would be cut off


def test_what_strangers_write_is_text_on_every_page(signed_in: Visit, fleet: Fleet) -> None:
    """Pitfall 50. What would run, or would be asked from elsewhere, the browser complains of."""
    fleet.change("lobby", name=HOSTILE, note=HOSTILE)
    fleet_order(fleet, "lobby")
    fleet.send()
    fleet.fail("lobby", HOSTILE)
    browser = signed_in(role=Role.ADMIN)
    uuid, shown = fleet.uuids["lobby"], "<img src=x onerror=alert(1)>"
    for path in ("/", f"/c/{uuid}", f"/c/{uuid}/retire", "/?wall=1", "/unknown", "/audit", f"/?text={quote(shown)}"):
        browser.open(fleet.address + path)
        browser.see("main")
        assert not browser.driver.find_elements("css selector", "main img"), path
        assert shown in browser.text or path in ("/unknown", "/audit", "/?wall=1", f"/?text={quote(shown)}"), path
    browser.open(f"{fleet.address}/c/{uuid}")
    isolated = "return [...document.querySelectorAll('main *')].filter(each => each.childElementCount === 0"
    isolated += " && each.textContent.includes('\u202e')).map(each => getComputedStyle(each).unicodeBidi)"
    assert set(browser.driver.execute_script(isolated)) <= {"isolate", "plaintext"}, "it turns what stands after it"


def test_a_double_click_orders_once(signed_in: Visit, fleet: Fleet) -> None:
    """Pitfall 1."""
    browser = signed_in(f"/c/{fleet.uuids['lobby']}")
    browser.click("button.wide", "Reboot…")
    button = browser.see("button", "Reboot 1 client")
    ActionChains(browser.driver, duration=0).double_click(button).perform()
    browser.see(".command summary", "queued")
    with api(fleet, Role.VIEWER) as http:
        assert len(http.get("/commands").json()["items"]) == 1


def test_the_second_of_two_operators_is_led_to_what_the_first_one_has_ordered(signed_in: Visit, fleet: Fleet) -> None:
    """Pitfall 7."""
    browser = signed_in(f"/c/{fleet.uuids['lobby']}")
    browser.click("button.wide", "Reboot…")
    browser.see("h1", "Reboot 1 client?")
    fleet_order(fleet, "lobby")
    browser.expect("412|409")
    browser.click("button", "Reboot 1 client")
    browser.see(".fault", "Nothing was sent")
    browser.see(".held", "lobby is left out")
    assert len(fleet.commands()) == 1


def test_a_search_after_the_session_has_ended_leads_to_the_way_in(
    signed_in: Visit, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pitfall 5: no way in within the table."""
    # Else the stream may be the first to find out, and the page goes before it is searched.
    monkeypatch.setattr(live, "BEAT_S", 3600.0)
    browser = signed_in()
    browser.wait(lambda: browser.driver.execute_script(HAS_ASKED), "page that has asked")
    with fleet.database.write() as tx:
        tx.db.execute(update(token).where(token.c.name == "session of the console").values(revoked_at=tx.now))
    browser.expect("401")
    browser.press("/", "lobby")
    browser.see("h1", "Sign in")
    assert not browser.all("nav")


def test_a_time_is_that_of_whoever_reads_and_that_of_the_screen(signed_in: Visit, fleet: Fleet) -> None:
    """Pitfall 41."""
    nightly = {"name": "nightly", "selector": "site=alpine", "rule": "FREQ=DAILY", "start": "03:00"}
    nightly |= {"zone": "Asia/Kolkata"}
    with api(fleet) as http:
        made = http.post("/schedules", json=nightly).json()["id"]
    browser = signed_in(f"/schedules/{made}")
    browser.driver.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": "Pacific/Honolulu"})
    browser.driver.refresh()
    night = browser.see("tbody tr").text
    assert "03:00" in night, "there"
    assert "11:30:00" in night, night
    browser.driver.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": ""})


def test_a_search_takes_the_selection_away(signed_in: Visit, fleet: Fleet) -> None:
    browser = signed_in()
    tick(browser, "bar-left")
    browser.press("/")
    assert browser.focus.startswith("searchbox"), browser.focus
    browser.write("lobby")
    browser.see_no("tbody tr", "bar-left")
    browser.see("[data-chosen]", "Nothing is selected.")
    assert browser.driver.current_url.endswith("?text=lobby&selector=")
    assert number(browser, "healthy") == "1"
    browser.driver.back()
    browser.see("tbody tr", "bar-left")
    assert not box_of(browser, "bar-left").is_selected()


def test_a_search_that_is_typed_is_kept_and_is_one_link_from_then_on(
    signed_in: Visit, fleet: Fleet, pictures: Path
) -> None:
    browser = signed_in(role=Role.VIEWER)
    browser.press("/")
    browser.write("bar")
    browser.see_no("tbody tr", "lobby")
    browser.click("summary", "Keep this search…")
    browser.see('.views input[name="name"]').send_keys("The bars")
    browser.press("Enter")
    browser.see('.views a[aria-current="true"]', "The bars")
    browser.click("a", "Clear")
    browser.see(".views a", "The bars")
    browser.see_no('.views a[aria-current="true"]')
    browser.click("summary", "Remove a view…")
    assert axe(browser) == []
    browser.picture(pictures / "views.png")
    browser.click(".views a", "The bars")
    browser.see_no("tbody tr", "lobby")
    assert browser.driver.current_url.endswith("/?text=bar")


def test_a_bulk_by_keyboard_alone(signed_in: Visit, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "TAKE_BACK", timedelta(hours=1))  # the way to the button may take long
    browser = signed_in()
    browser.press("ArrowDown", "Space", "ArrowDown", "Space")
    browser.see("[data-chosen]", "2 selected.")
    tab_to(browser, 'button "Reboot…"', "Shift+Tab")
    browser.press("Enter")
    browser.see("h1", "Reboot 2 clients?")
    assert not browser.see("button", "Reboot 2 clients").is_enabled()
    tab_to(browser, 'textbox "Type how many: 2"')
    browser.press("2", "Tab")
    assert browser.focus == 'button "Reboot 2 clients"'
    browser.press("Enter")
    browser.see("h1", "Reboot of 2")
    browser.see("button", "Take it all back")
    tab_to(browser, 'button "Take it all back"')
    browser.press("Enter")
    browser.see("#numbers", "2\ncancelled")
    browser.see("#about", "It is over.")


def tab_to(browser: Browser, wanted: str, key: str = "Tab") -> None:
    """Raises AssertionError if it cannot be reached."""
    seen = []
    for _ in range(30):
        if browser.focus == wanted:
            return
        seen.append(browser.focus)
        browser.press(key)
    raise AssertionError(f"{wanted} is not reached: {seen}")


def test_what_moved_since_the_confirmation_is_not_ordered(signed_in: Visit, fleet: Fleet) -> None:
    browser = signed_in()
    browser.click("[data-all]")
    browser.see("[data-chosen]", "3 selected.")
    browser.click("button", "Reboot…")
    browser.see('[data-count="3"]').send_keys("3")
    fleet.change("lobby", is_online=False)
    browser.expect("412")
    browser.click("button", "Reboot 3 clients")
    browser.see(".fault", "Nothing was sent")
    browser.see("h1", "Reboot 2 clients?")
    assert "lobby is left out: " in browser.text
    assert fleet.commands() == {}


def test_back_and_reload_after_an_order_order_nothing_more(signed_in: Visit, fleet: Fleet) -> None:
    browser = signed_in()
    tick(browser, "lobby")
    browser.click("button", "Reboot…")
    browser.click("button", "Reboot 1 client")
    browser.see(".command summary", "queued")
    browser.driver.refresh()
    browser.see(".command summary", "queued")
    browser.driver.back()
    browser.driver.back()
    browser.see("[data-chosen]", "Nothing is selected.")
    assert len(fleet.commands()) == 1


@pytest.mark.parametrize(("age_s", "colour"), [(95, "is-amber"), (155, "is-red")])
def test_a_client_that_stays_away_is_amber_then_red(signed_in: Visit, fleet: Fleet, age_s: int, colour: str) -> None:
    browser = signed_in()
    fleet_order(fleet, "lobby")
    fleet.send()
    fleet.start("lobby")
    with fleet.database.write() as tx:
        went_at = tx.now - timedelta(seconds=age_s)
        tx.db.execute(update(command).values(started_at=went_at, down_at=went_at))
    browser.open(f"{fleet.address}/c/{fleet.uuids['lobby']}")
    browser.see(f".steps .{colour}", "Back")


def test_two_tabs_share_one_stream_and_both_are_live(signed_in: Visit, fleet: Fleet) -> None:
    browser = signed_in()
    browser.new_tab()
    browser.open(f"{fleet.address}/c/{fleet.uuids['lobby']}")
    fleet_order(fleet, "lobby")
    browser.see(".command summary", "queued")
    first, second = browser.driver.window_handles
    browser.driver.switch_to.window(first)
    fleet.send()
    browser.see("tbody tr .state", "rebooting")
    asked = [
        browser.driver.execute_script(
            "return performance.getEntriesByType('resource').filter(each => each.name.endsWith('/live')).length"
        )
    ]
    browser.driver.switch_to.window(second)
    asked.append(
        browser.driver.execute_script(
            "return performance.getEntriesByType('resource').filter(each => each.name.endsWith('/live')).length"
        )
    )
    assert asked[1] == 0, "the second page reads no stream of its own"


def test_what_was_told_while_a_second_tab_was_on_its_way_is_shown_there(signed_in: Visit, fleet: Fleet) -> None:
    browser = signed_in()
    browser.see(".fresh[data-state='deaf']")
    browser.new_tab()
    browser.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": LATE})
    browser.open(f"{fleet.address}/c/{fleet.uuids['lobby']}")
    fleet_order(fleet, "lobby")
    browser.see(".command summary", "queued")


def test_a_session_that_is_revoked_ends_the_page(signed_in: Visit, fleet: Fleet) -> None:
    browser = signed_in()
    # Else it is the page that is refused, and complains.
    browser.see(".fresh[data-state='deaf']")
    browser.wait(lambda: browser.driver.execute_script(HAS_ASKED), "page that has asked")
    with api(fleet, Role.ADMIN) as http:
        for each in http.get("/tokens").json():
            if each["name"] == "session of the console":
                http.delete(f"/tokens/{each['id']}")
    browser.see("h1", "Sign in", timeout_s=20)


def test_a_page_whose_server_is_gone_says_that_it_is_old(browser: Browser, fleet: Fleet, signed_in: Visit) -> None:
    signed_in()
    browser.see(".fresh[data-state='deaf']")
    fleet.app.state.is_stopping = True
    browser.see(".fresh[data-state='old']", "Not live", timeout_s=30)
    fleet.app.state.is_stopping = False
    browser.see(".fresh[data-state='deaf']", timeout_s=30)


def test_signing_out_and_a_wrong_password(signed_in: Visit, fleet: Fleet) -> None:
    browser = signed_in()
    browser.click("button", "Sign out")
    browser.see("h1", "Sign in")
    browser.open(f"{fleet.address}/batches")
    browser.see("h1", "Sign in")
    browser.expect("401")
    browser.see('input[name="name"]').send_keys("an-operator")
    browser.see('input[name="password"]').send_keys("guessed")
    browser.click("button", "Sign in")
    browser.see(".fault", "do not fit together")


def planned(fleet: Fleet) -> dict[str, str]:
    """Pages of a schedule, of its night that runs, and of a rollout."""
    fleet.add("gate-1", "gate-2", site="harbour")
    fleet.add("pier-1", "pier-2", site="pier")
    with api(fleet) as http:
        nightly = {"name": "nightly", "selector": "site=harbour", "rule": "FREQ=DAILY", "start": "03:00"}
        made = http.post("/schedules", json=nightly).json()["id"]
        terms = {"action": "reboot_host", "stages": ["canary 1"], "labels": {"version": "7"}}
        shown = http.post("/rollouts/preview", json=terms | {"selector": "site=pier"}).json()
        seen = {name: shown[name] for name in ("clients", "hash", "count")}
        moved = http.post("/rollouts", json=terms | seen).json()["id"]
        with fleet.database.write() as tx:
            start, seen_at = f"{tx.now - timedelta(minutes=1):%H:%M}", tx.now - timedelta(minutes=2)
            tx.db.execute(update(schedule).values(start=start, changed_at=seen_at, looked_at=seen_at))
            tx.db.execute(update(rollout).values(due_at=tx.now))
            Schedules(House(), Limits()).step(tx, [])
            Rollouts(House(), Limits()).step(tx, [])
        [night] = http.get("/nights").json()["items"]
        http.post(f"/rollouts/{moved}/pause", json={"why": "lunch"})
    pages = {"schedules": "/schedules", "schedule": f"/schedules/{made}", "schedule-new": "/schedules/new"}
    pages |= {"night": f"/nights/{night['id']}", "rollouts": "/rollouts", "rollout": f"/rollouts/{moved}"}
    pages["batch"] = f"/batches/{night['batch_id']}"
    pages |= {"rollout-new": "/rollouts/new", "schedule-change": f"/schedules/{made}/change"}
    return pages | {f"rollout-{what}": f"/rollouts/{moved}/{what}" for what in ("abort", "rollback")}


@pytest.mark.parametrize(
    ("look", "size", "is_dark"),
    [("light", DESKTOP, False), ("dark", DESKTOP, True), ("phone", PHONE, False), ("wall", WALL, True)],
)
def test_every_page_can_be_read_by_everybody(
    signed_in: Visit, fleet: Fleet, pictures: Path, look: str, size: Size, is_dark: bool
) -> None:
    fleet.change("bar-right", is_online=False)
    fleet.change("bar-left", note="<b>wet</b> floor")
    fleet.add("new-one", standing="unknown")
    for name in ("lobby", "bar-left"):
        fleet_order(fleet, name)
    fleet.send()
    fleet.complete("bar-left")
    fleet.start("lobby")
    browser = signed_in(role=Role.ADMIN)
    browser.look(size, is_dark)
    uuids = fleet.uuids
    pages = {"fleet": "/", "none": "/?text=nobody"}
    pages |= {"on-the-wall": "/?wall=1", "batches": "/batches", "missing": "/nowhere"}
    pages |= {name: f"/c/{uuids[name]}" for name in ("lobby", "bar-left", "new-one")}
    pages |= {each: f"/c/{uuids['lobby']}/{each}" for each in ("change", "retire")}
    pages |= {each: f"/{each}" for each in ("labels", "unknown", "holds", "audit", "me", "users")}
    pages |= {"user": "/users/an-operator", "ports": "/ports", "port": f"/c/{uuids['lobby']}/port"}
    pages |= planned(fleet)
    if look == "wall":
        pages = {"on-the-wall": "/?wall=1", "missing": "/nowhere"}
    browser.expect("404")
    for name, path in pages.items():
        browser.open(fleet.address + path)
        browser.see("main")
        assert axe(browser) == [], path
        width = browser.driver.execute_script("return document.documentElement.scrollWidth")
        assert width <= size.width, f"{path} is {width} px wide"
        browser.picture(pictures / f"{name}-{look}.png")
        if look == "light":
            assert out_of_reach(browser) == [], path
    browser.open(fleet.address + "/schedules/new")
    browser.see('input[name="name"]').send_keys("weekly")
    browser.click("button", "Show its next nights")
    browser.see("h1", "Make the schedule weekly?")
    assert axe(browser) == []
    browser.picture(pictures / f"schedule-draft-{look}.png")
    browser.open(fleet.address + "/rollouts/new")
    browser.click("button", "Show its stages")
    browser.see("h1", "in 4 stages?")
    assert axe(browser) == []
    browser.picture(pictures / f"rollout-draft-{look}.png")
    browser.open(fleet.address + "/")
    tick(browser, "bar-left")
    browser.click("button", "Reboot…")
    browser.see("h1", "Reboot 1 client?")
    assert axe(browser) == []
    browser.picture(pictures / f"confirm-{look}.png")
    browser.click("button", "Sign out")
    browser.see("h1", "Sign in")
    assert axe(browser) == []
    assert re.search("Name", browser.text)
