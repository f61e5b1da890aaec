"""The browser itself: that it shows what a person sees, and that what no page of ours may do fails a test."""

from __future__ import annotations

import contextlib
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import pytest
from selenium import webdriver

from tests.controller.desk import NAMES
from tests.controller.played_fleet import Fleet
from tests.web.browser import (
    DESKTOP,
    PHONE,
    WALL,
    Browser,
    Complaints,
    Size,
    axe,
    out_of_reach,
    visiting,
    without_glyph,
)

STRICT = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; form-action 'self'"
GOOD = """\
<main><h1>Screens</h1>
<p><a href="/other">All of them</a></p>
<form><label>Search <input name="q"></label> <button>Find</button></form>
<button type="button">Ask</button>
<p id="later">three are expected</p></main>
<script src="/later.js"></script>"""
LATER = """\
document.cookie = 'visited=1';
localStorage.setItem('visited', 1);
document.addEventListener('keydown', event => {
    if (event.key === '/') { event.preventDefault(); document.querySelector('input').focus(); }
});
document.querySelector('button[type=button]').addEventListener('click', () => {
    setTimeout(() => { document.getElementById('later').textContent = 'three are online'; }, 200);
});
"""
STYLE = """\
.long { height: 3000px }
body { background: white; color: black }
@media (prefers-color-scheme: dark) { body { background: black } }
"""
MISSED = "<main><h1>Screens</h1><input name='q'></main>"
CAUGHT = "try { eval('1') } catch { document.title = 'caught' }"
PAGES = {
    "/good": GOOD,
    "/long": "<main class='long'><h1>Screens</h1></main>",
    "/other": "<main><h1>Others</h1></main>",
    "/inline": "<main><h1>Screens</h1></main><script>document.title = 'run'</script>",
    "/eval": "<main><h1>Screens</h1></main><script src='/caught.js'></script>",
    "/error": "<main><h1>Screens</h1></main><script src='/error.js'></script>",
    "/missed": MISSED,
}
FILES = {"/later.js": LATER, "/style.css": STYLE, "/caught.js": CAUGHT, "/error.js": "nothing.here()"}


class Handler(BaseHTTPRequestHandler):
    """Remembers what it was asked for: the browser need not ask again for the files."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.asked.append(path)
        if path in FILES:
            kind = "text/css" if path.endswith("css") else "text/javascript"
            self._answer(200, kind, FILES[path])
        elif path == "/foreign":
            # The policy lets it: so nothing but the request tells of it.
            self._answer(200, "text/html", page("<img src='http://elsewhere.example/a.png' alt='one'>"), "img-src *")
        elif path in PAGES:
            self._answer(200, "text/html", page(PAGES[path]), STRICT)
        else:
            self._answer(404, "text/html", page("<main><h1>Not here</h1></main>"), STRICT)

    def _answer(self, status: int, kind: str, content: str, policy: str = "") -> None:
        body = content.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        if policy:
            self.send_header("Content-Security-Policy", policy)
        else:
            self.send_header("Cache-Control", "max-age=3600")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def page(body: str) -> str:
    head = "<title>Pages</title><link rel='icon' href='data:,'><link rel='stylesheet' href='/style.css'>"
    head += "<meta name='viewport' content='width=device-width, initial-scale=1'>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{body}</body></html>"


@pytest.fixture(scope="module")
def pages() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def complaining(driver: webdriver.Chrome, words: str) -> Iterator[Browser]:
    """A visit that ends with a complaint, and what it says."""
    with pytest.raises(Complaints, match=words), visiting(driver) as browser:
        yield browser


def test_what_comes_later_is_seen_and_a_good_page_gives_no_cause_for_complaints(browser: Browser, pages: str) -> None:
    browser.open(f"{pages}/good")
    browser.click("button", "Ask")
    browser.see_no("#later", "expected")
    assert browser.all("#later", "three are online")
    browser.driver.refresh()
    browser.click("button", "Ask")
    browser.see("#later", "three are online")
    assert axe(browser) == []
    browser.click("a", "All of them")
    browser.see("h1", "Others")


def test_what_never_comes_is_told_with_what_the_page_says_instead(browser: Browser, pages: str) -> None:
    browser.open(f"{pages}/other")
    with pytest.raises(AssertionError, match=r"no h1 with 'Screens'; http.*/other says:\nOthers"):
        browser.see("h1", "Screens", timeout_s=0.1)


def test_what_the_tab_key_does_not_reach_is_told(browser: Browser, pages: str) -> None:
    browser.open(f"{pages}/good")
    assert out_of_reach(browser) == []
    spoil = "document.querySelector('a').tabIndex = -1; document.querySelector('button').style.outline = 'none'"
    browser.driver.execute_script(spoil)
    assert [html.partition(" ")[0] for html in out_of_reach(browser)] == ["<a", "<button"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/inline", "script-src-elem blocks inline"),
        ("/eval", "script-src blocks eval"),
        ("/error", "nothing is not defined"),
        ("/foreign", "asks another host: http://elsewhere.example/a.png"),
        ("/nowhere", "404"),
    ],
)
def test_what_no_page_may_do_is_complained_of(driver: webdriver.Chrome, pages: str, path: str, words: str) -> None:
    with complaining(driver, words) as browser:
        browser.open(pages + path)
        browser.see("body")


def test_what_a_test_expects_is_no_complaint_and_must_come(driver: webdriver.Chrome, pages: str) -> None:
    with visiting(driver) as browser:
        browser.expect("nowhere.*404")
        browser.open(f"{pages}/nowhere")
    with complaining(driver, "expected, but did not come: nowhere") as browser:
        browser.expect("nowhere")
        browser.open(f"{pages}/other")


def test_axe_names_the_rule_and_the_element(browser: Browser, pages: str) -> None:
    browser.open(f"{pages}/missed")
    assert axe(browser) == ['label: <input name="q">: Form elements must have labels']


def test_keys_go_where_the_focus_is_and_it_is_told_in_words(browser: Browser, pages: str) -> None:
    browser.open(f"{pages}/good")
    assert browser.focus == "the page"
    seen = []
    for key in ("Tab", "Tab", "Tab", "Shift+Tab", "Shift+Tab"):
        browser.press(key)
        seen.append(browser.focus)
    assert seen == ['link "All of them"', 'textbox "Search"', 'button "Find"', 'textbox "Search"', 'link "All of them"']
    browser.press("/", "bar", "Enter")
    browser.wait(lambda: browser.driver.current_url.endswith("?q=bar"), "search")


def test_nothing_is_left_of_a_visit(driver: webdriver.Chrome, pages: str) -> None:
    Handler.asked.clear()
    for number in (1, 2):
        with visiting(driver) as browser:
            browser.open(f"{pages}/other")
            kept = browser.driver.execute_script("return [document.cookie, localStorage.length, history.length]")
            assert kept == ["", 0, 2], "the first is an empty page"
            assert Handler.asked.count("/style.css") == number
            browser.open(f"{pages}/good")
            assert browser.driver.execute_script("return document.cookie") == "visited=1"
            assert Handler.asked.count("/style.css") == number, "a file is kept during a visit"
            browser.new_tab()
            assert len(browser.driver.window_handles) == 2


def test_what_a_failed_test_leaves_is_no_complaint_of_the_next_one(driver: webdriver.Chrome, pages: str) -> None:
    with contextlib.suppress(ZeroDivisionError), visiting(driver) as browser:
        browser.open(f"{pages}/error")
        raise ZeroDivisionError
    with visiting(driver) as browser:
        browser.open(f"{pages}/good")


@pytest.mark.parametrize(("size", "scale"), [(DESKTOP, 1), (PHONE, 2), (WALL, 1)])
def test_a_picture_is_of_the_page_on_that_screen(
    browser: Browser, pages: str, pictures: Path, size: Size, scale: int
) -> None:
    browser.look(size, is_dark=True)
    browser.open(f"{pages}/good")
    assert browser.driver.execute_script("return [innerWidth, innerHeight]") == [size.width, size.height]
    colour = "return getComputedStyle(document.body).backgroundColor"
    assert browser.driver.execute_script(colour) == "rgb(0, 0, 0)"
    shown = browser.picture(pictures / f"browser-{size.width}.png").read_bytes()
    assert struct.unpack(">II", shown[16:24]) == (size.width * scale, size.height * scale)
    browser.look(size)
    assert browser.driver.execute_script(colour) == "rgb(255, 255, 255)"
    assert browser.driver.execute_script("return navigator.maxTouchPoints > 0") is size.is_phone


def test_a_picture_goes_down_to_the_end_of_a_page(browser: Browser, pages: str, tmp_path: Path) -> None:
    browser.open(f"{pages}/long")
    shown = browser.picture(tmp_path / "long.png").read_bytes()
    assert struct.unpack(">I", shown[20:24])[0] > 3000


def test_the_font_has_the_signs_of_states_and_no_chinese() -> None:
    assert without_glyph("Grüße, 3 ● ○ ▲ ▼ ✓ ✗ ⚠ ↑ ↓ → … ■ □ ◐") == set()
    assert without_glyph("a 字") == {"字"}


def test_the_real_api_is_there(browser: Browser, fleet: Fleet) -> None:
    # It has no page, and so no sign of its own that a tab could show.
    browser.expect(r"401|favicon\.ico.*404")
    browser.open(f"{fleet.address}/api/v1/clients")
    browser.see("body", "not_authenticated")
    assert sorted(fleet.uuids) == sorted(NAMES)
