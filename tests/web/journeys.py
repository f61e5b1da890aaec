"""What an operator and a technician do with the console of a real server, whose clients really reboot.

tests/system/test_console.py starts all that, and then these in a browser on the server; they wait for what pages show.
The inventory has `entrance`, a client in a container, `gate-01` to `gate-37`, which are the real agent on hosts that
are not there, and `cellar`, which was never heard.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import httpx
import pytest

from tests.web.browser import PHONE, Browser
from tools.lab.patience import slow

URL, NAME, PASSWORD, TOKEN = (os.environ[f"CONSOLE_{each}"] for each in ("URL", "NAME", "PASSWORD", "TOKEN"))
ENTRANCE = os.environ["CONSOLE_CLIENT"]
# Down, up, its checks, and on a busy machine.
REBOOT_S = slow(120)


@pytest.fixture
def api() -> Iterator[httpx.Client]:
    """What others do meanwhile."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=f"{URL}/api/v1", headers=headers, timeout=30) as found:
        yield found


@pytest.fixture
def signed_in(browser: Browser) -> Browser:
    """Live, and the broker is heard."""
    browser.open(URL)
    sign_in(browser, PASSWORD)
    browser.see(".fresh[data-state='live']", timeout_s=30)
    return browser


def sign_in(browser: Browser, password: str) -> None:
    browser.see('input[name="name"]').clear()
    browser.see('input[name="name"]').send_keys(NAME)
    browser.see('input[name="password"]').send_keys(password)
    browser.click("button", "Sign in")


def number(browser: Browser, condition: str) -> int:
    shown = browser.all(f"#numbers .is-{condition} b")
    return int(shown[0].text) if shown else 0


def names(browser: Browser) -> list[str]:
    return [row.text.split()[0] for row in browser.all("tbody tr")]


def test_signing_in_and_out(browser: Browser) -> None:
    browser.open(f"{URL}/batches")
    browser.expect("401")
    sign_in(browser, f"not {PASSWORD}")
    browser.see(".fault", "do not fit together")
    sign_in(browser, PASSWORD)
    browser.see("h1", "Batches")
    browser.click("button", "Sign out")
    browser.see("h1", "Sign in")
    browser.driver.back()
    browser.driver.refresh()
    browser.see("h1", "Sign in")


def test_an_unknown_client_is_accepted(signed_in: Browser) -> None:
    browser = signed_in
    browser.click("nav a", "Unknown")
    browser.see("tbody tr", ENTRANCE).find_element("css selector", 'input[name="name"]').send_keys("entrance")
    browser.press("Enter")
    browser.see_no("tbody", ENTRANCE)
    browser.click("nav a", "Fleet")
    browser.wait(lambda: "healthy" in browser.see("tbody tr", "entrance").text, "healthy entrance")


def test_an_operators_morning(signed_in: Browser) -> None:
    """The sick are found; one client is rebooted, and comes back before one's eyes."""
    browser = signed_in
    assert browser.all("tbody tr")[0].text.startswith("cellar"), "the sick first"
    browser.wait(lambda: (number(browser, "offline"), number(browser, "healthy")) == (1, 38), "38 of 39 healthy")
    browser.click("#numbers .is-offline")
    browser.wait(lambda: names(browser) == ["cellar"], "list of the offline")
    browser.click("#numbers a", "all")
    browser.click_on(lambda: browser.see("tbody tr", "entrance").find_element("css selector", "input"))
    browser.click("button", "Reboot…")
    browser.see('input[name="reason"]').send_keys("player frozen")
    browser.click("button", "Reboot 1 client")
    browser.see("h1", "entrance")
    browser.driver.execute_script("window.isTheSamePage = true")
    browser.see(".steps .done", "Accepted")
    browser.see(".big", "rebooting")
    browser.see(".steps .done", "Playing", timeout_s=REBOOT_S)
    browser.see(".big", "healthy", timeout_s=30)
    assert "a new boot" in browser.text
    assert browser.driver.execute_script("return window.isTheSamePage") is True


def test_a_technicians_phone(signed_in: Browser) -> None:
    browser = signed_in
    browser.look(PHONE, is_dark=True)
    browser.open(f"{URL}/c/{ENTRANCE}")
    browser.click("button.wide", "Reboot…")
    browser.click("button", "Reboot 1 client")
    browser.see(".steps .done", "Playing", timeout_s=REBOOT_S)
    browser.see(".big", "healthy", timeout_s=30)
    assert browser.driver.execute_script("return document.documentElement.scrollWidth") <= PHONE.width


def test_a_bulk_of_37_of_which_one_moves_away(signed_in: Browser, api: httpx.Client) -> None:
    """From the preview on, 36 are meant: they reboot, and their page follows them to the end."""
    browser, before = signed_in, api.get("/batches").json()
    browser.open(f"{URL}/?selector=site%3Dgates")
    browser.click("[data-all]")
    browser.see("[data-chosen]", "37 selected.")
    browser.click("button", "Reboot…")
    browser.see('[data-count="37"]').send_keys("37")
    [moved] = [each["uuid"] for each in api.get("/clients").json() if each["name"] == "gate-07"]
    api.post(f"/clients/{moved}/standing", json={"standing": "retired"}).raise_for_status()
    browser.expect("412")
    browser.click("button", "Reboot 37 clients")
    browser.see(".fault", "Nothing was sent")
    assert api.get("/batches").json() == before
    browser.see('[data-count="36"]').send_keys("36")
    browser.click("button", "Reboot 36 clients")
    browser.see("h1", "Reboot of 36")
    browser.see("#numbers .of-completed", "36", timeout_s=REBOOT_S)
    browser.see("main", "It is over.")


def test_a_rollout_that_its_brake_stops(signed_in: Browser, api: httpx.Client) -> None:
    """By now the machine's owner forbids its reboot."""
    terms = {"action": "reboot_host", "stages": ["role=canary", "10"], "settle_s": 0, "pause_s": 0, "minimum_sample": 1}
    shown = api.post("/rollouts/preview", json=terms | {"selector": "site in (gates, entrance)"}).json()
    seen = {name: shown[name] for name in ("clients", "hash", "count")}
    made = api.post("/rollouts", json=terms | seen)
    assert made.status_code == 201, made.text
    browser = signed_in
    browser.open(f"{URL}/rollouts/{made.json()['id']}")
    browser.see(".big", "stopped", timeout_s=60)
    browser.see("#failed", "entrance")
    browser.see("#act", "Resume…")
    browser.click("#failed a", "entrance")
    browser.see(".command", "not authorized")


def test_a_schedule_is_made_and_its_nights_are_seen_before(signed_in: Browser) -> None:
    browser = signed_in
    browser.open(f"{URL}/schedules/new")
    for name, value in (("name", "nightly"), ("selector", "site=gates"), ("zone", "Europe/Berlin")):
        browser.see(f'input[name="{name}"]').send_keys(value)
    browser.press("Enter")
    browser.see("h3", "Europe/Berlin")
    assert len(browser.all("tbody tr")) == 5
    browser.click("button", "Make")
    browser.see("h1", "nightly")
