"""Debian's chromium as a person uses it: what they see, and press, and what the browser complains of meanwhile."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tools.lab.patience import Patience

T = TypeVar("T")
AXE = Path("/opt/axe/axe.min.js")
WAIT_S = 10.0
# At first, and at the most: to look is work for three programs.
LOOK_S, LONGEST_LOOK_S = 0.02, 0.25
# For what axe finds in a page; selenium's own 30 s count also while it waits for a processor.
SCRIPT_S = 300
# Of 100. Text is as sharp as it was, and the file is a fifth of a PNG.
WEBP_QUALITY = 80
# The workshop is the sandbox: a user in it may not make another one.
FLAGS = "--headless=new", "--no-sandbox"
# The console does not say what was blocked if a script catches it, as htmx does.
TELL_OF_POLICY = """\
document.addEventListener('securitypolicyviolation', event =>
    console.error(`the page's policy: ${event.effectiveDirective} blocks ${event.blockedURI}`));
"""
REQUESTS = {
    "Network.requestWillBeSent": "request",
    "Network.webSocketCreated": "",
    "Network.webTransportCreated": "",
}
ASK_AXE = "const done = arguments[0]; axe.run().then(found => done(found.violations), fault => done(String(fault)));"
LISTEN_TO_FOCUS = """\
document.querySelectorAll('details').forEach(each => { each.open = true; });
const usable = 'a[href], button, input:not([type=hidden]), select, textarea, summary';
window.usable = [...document.querySelectorAll(usable)].filter(each => !each.disabled && each.checkVisibility());
window.reached = new Set();
document.addEventListener('focusin', event => {
    if (getComputedStyle(event.target).outlineStyle !== 'none') reached.add(event.target);
});
document.body.tabIndex = -1;
document.body.focus();
document.body.removeAttribute('tabindex');
return window.usable.length;
"""
NOT_REACHED = """\
const groups = new Set([...reached].filter(each => each.type === 'radio').map(each => each.name));
return usable.filter(each => !reached.has(each) && !(each.type === 'radio' && groups.has(each.name)))
    .map(each => each.outerHTML);
"""
# The names that the web has for them, where selenium has others.
KEYS = {
    **{"Tab": Keys.TAB, "Enter": Keys.ENTER, "Space": Keys.SPACE, "Escape": Keys.ESCAPE, "Shift": Keys.SHIFT},
    **{"ArrowUp": Keys.ARROW_UP, "ArrowDown": Keys.ARROW_DOWN, "ArrowLeft": Keys.ARROW_LEFT},
    **{"ArrowRight": Keys.ARROW_RIGHT, "Home": Keys.HOME, "End": Keys.END, "Control": Keys.CONTROL},
}


@dataclass(frozen=True, slots=True)
class Size:
    """Of the page, in CSS pixels. A phone is touched, and has more points to the pixel."""

    width: int
    height: int
    is_phone: bool = False


DESKTOP, PHONE, WALL = Size(1280, 800), Size(360, 740, is_phone=True), Size(1920, 1080)


class Complaints(AssertionError):
    """What a page did that no page of ours may do."""


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """One for all tests: its start takes longer than most of them."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
    driver.set_script_timeout(SCRIPT_S)
    try:
        yield driver
    finally:
        driver.quit()


@contextmanager
def visiting(driver: webdriver.Chrome) -> Iterator[Browser]:
    """A person who was never here. Raises Complaints at the end if the pages gave cause for any."""
    browser = Browser(driver)
    browser.forget()
    yield browser
    browser.judge()


class Browser:
    """What a person does with it. All waits are for what the page shows."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self._expected: list[str] = []
        self._hosts: set[str] = set()
        self._size, self._is_dark = DESKTOP, False

    def forget(self) -> None:
        """No cookie, no storage, no cache, no page to go back to, and nothing in the logs.

        It still knows which links were visited: a page's style should make no difference of it.
        """
        self.driver.switch_to.window(self.driver.window_handles[0])
        self._tell("Network.clearBrowserCache")
        self._tell("Storage.clearDataForOrigin", origin="*", storageTypes="all")
        before = self.driver.window_handles
        self.new_tab()
        fresh = self.driver.current_window_handle
        for handle in before:
            self.driver.switch_to.window(handle)
            self.driver.close()
        self.driver.switch_to.window(fresh)
        self._complaints()

    def new_tab(self) -> None:
        """Another one beside those that are open; it is the one that is used from now on."""
        self.driver.switch_to.new_window("tab")
        self._tell("Page.addScriptToEvaluateOnNewDocument", source=TELL_OF_POLICY)
        self.look(self._size, is_dark=self._is_dark)

    def look(self, size: Size = DESKTOP, is_dark: bool = False) -> None:
        """On which screen, and whether its system is dark."""
        self._size, self._is_dark = size, is_dark
        screen = {"width": size.width, "height": size.height, "mobile": size.is_phone}
        self._tell("Emulation.setDeviceMetricsOverride", **screen, deviceScaleFactor=2 if size.is_phone else 1)
        self._tell("Emulation.setTouchEmulationEnabled", enabled=size.is_phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self._tell("Emulation.setEmulatedMedia", features=[scheme])

    def live_in(self, zone: str) -> None:
        """By which clock the person lives, from the next page on."""
        self._tell("Emulation.setTimezoneOverride", timezoneId=zone)

    def open(self, url: str) -> None:
        """Its host is one that this test's pages may ask."""
        self._hosts.add(urlsplit(url).netloc)
        self.driver.get(url)

    @property
    def text(self) -> str:
        """Of the whole page, as it can be read."""
        return str(self.driver.find_element(By.TAG_NAME, "body").text)

    def all(self, selector: str, text: str = "") -> list[WebElement]:
        """What can be seen, has that text in it, and is found by a CSS selector."""
        found = self.driver.find_elements(By.CSS_SELECTOR, selector)
        return [element for element in found if element.is_displayed() and text in element.text]

    def wait(self, is_so: Callable[[], T], what: str, timeout_s: float = WAIT_S) -> T:
        """Until it is so. What is patched away while it is looked at, is not so yet."""
        patience = Patience(timeout_s)
        look_s = LOOK_S
        while True:
            try:
                if found := is_so():
                    return found
            except WebDriverException as error:
                if not _is_of_a_page_before(error):
                    raise
            if patience.is_over:
                raise AssertionError(f"no {what}; {self.driver.current_url} says:\n{self.text}")
            time.sleep(look_s)
            look_s = min(2 * look_s, LONGEST_LOOK_S)

    def see(self, selector: str, text: str = "", timeout_s: float = WAIT_S) -> WebElement:
        """Waits for the first such thing that can be seen."""

        def found() -> list[WebElement]:
            return self.all(selector, text)

        return self.wait(found, f"{selector} with {text!r}" if text else selector, timeout_s)[0]

    def see_no(self, selector: str, text: str = "", timeout_s: float = WAIT_S) -> None:
        """Waits until no such thing can be seen."""

        def is_gone() -> bool:
            return not self.all(selector, text)

        self.wait(is_gone, f"end of {selector} with {text!r}", timeout_s)

    def click(self, selector: str, text: str = "") -> None:
        self.click_on(lambda: self.see(selector, text))

    def click_on(self, find: Callable[[], WebElement]) -> None:
        """What is patched away meanwhile is found anew."""

        def is_clicked() -> bool:
            find().click()
            return True

        self.wait(is_clicked, "page that can be clicked on")

    def press(self, *keys: str) -> None:
        """Each as the web names it, or `Shift+Tab`, or a text to type; they go where the focus is."""
        for key in keys:
            held = key.split("+") if len(key) > 1 and key.split("+")[0] in KEYS else [key]
            chain = ActionChains(self.driver, duration=0)
            for modifier in held[:-1]:
                chain.key_down(KEYS[modifier])
            chain.send_keys(KEYS.get(held[-1], held[-1]))
            for modifier in reversed(held[:-1]):
                chain.key_up(KEYS[modifier])
            chain.perform()

    def write(self, text: str) -> None:
        """All at once where the focus is, as from the clipboard: a search that begins by itself is for all of it."""
        self._tell("Input.insertText", text=text)

    @property
    def focus(self) -> str:
        """In a screen reader's words: `link "Sign in"`. "the page" where nothing has it."""
        element = self.driver.switch_to.active_element
        if element.tag_name in ("body", "html"):
            return "the page"
        return f'{element.aria_role} "{element.accessible_name}"'

    def picture(self, file: Path, whole: bool = True) -> Path:
        """Of the page down to its end, also where that is below the screen's; or of the screen. `.png` or `.webp`."""
        options: dict[str, Any] = {"format": file.suffix[1:], "captureBeyondViewport": True}
        if options["format"] == "webp":
            options["quality"] = WEBP_QUALITY
        page = self._tell("Page.getLayoutMetrics")["cssContentSize"]
        height = max(page["height"], self._size.height) if whole else self._size.height
        clip = {"x": 0, "y": 0, "width": self._size.width, "height": height, "scale": 1}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode(self._tell("Page.captureScreenshot", **options, clip=clip)["data"]))
        return file

    def printed(self) -> bytes:
        """The page on paper, of the size that its style wants, as a PDF."""
        return base64.b64decode(self._tell("Page.printToPDF", preferCSSPageSize=True)["data"])

    def expect(self, pattern: str) -> None:
        """One complaint or more that this test wants to hear, such as the 401 of a wrong password."""
        self._expected.append(pattern)

    def judge(self) -> None:
        """Raises Complaints: of what was not expected, and of what was expected and did not come."""
        heard = self._complaints()
        bad = [words for words in heard if not any(re.search(pattern, words) for pattern in self._expected)]
        missing = [pattern for pattern in self._expected if not any(re.search(pattern, words) for words in heard)]
        if bad or missing:
            raise Complaints("\n".join([*bad, *(f"expected, but did not come: {pattern}" for pattern in missing)]))

    def _complaints(self) -> list[str]:
        """What the logs have had since the last look into them."""
        console = [
            f"{entry['level'].lower()} on the console: {entry['message']}"
            for entry in self.driver.get_log("browser")
            if entry["level"] in ("SEVERE", "WARNING")
        ]
        asked = [_asked(json.loads(entry["message"])["message"]) for entry in self.driver.get_log("performance")]
        return console + [f"asks another host: {url}" for url in asked if self._is_foreign(url)]

    def _is_foreign(self, url: str) -> bool:
        """What has no host, such as `data:`, is in the page itself."""
        host = urlsplit(url).netloc
        return bool(host) and host not in self._hosts

    def _tell(self, command: str, **values: object) -> Any:
        return self.driver.execute_cdp_cmd(command, values)


def _is_of_a_page_before(error: WebDriverException) -> bool:
    """chromedriver has two ways to say that what was found is not in the page any more."""
    return isinstance(error, StaleElementReferenceException) or "does not belong to the document" in str(error)


def _asked(message: dict[str, Any]) -> str:
    """The address that this message says was asked, if it says so at all."""
    if message["method"] not in REQUESTS:
        return ""
    inside = REQUESTS[message["method"]]
    values = message["params"][inside] if inside else message["params"]
    return str(values["url"])


def out_of_reach(browser: Browser) -> list[str]:
    """What can be used on the page as it is now, and is not reached by the Tab key; or the focus does not show there.

    What is folded is unfolded before. Of a group of choices one is enough: the arrow keys lead to the others.
    """
    count = browser.driver.execute_script(LISTEN_TO_FOCUS)
    # A field for a time has a place for each of its parts.
    browser.press(*["Tab"] * (count + 20))
    return [str(each) for each in browser.driver.execute_script(NOT_REACHED)]


def axe(browser: Browser) -> list[str]:
    """What keeps somebody from reading or using the page as it is now, in a sentence for each element."""
    if not browser.driver.execute_script("return 'axe' in window"):
        browser.driver.execute_script(AXE.read_text("utf-8"))
    found = browser.driver.execute_async_script(ASK_AXE)
    if isinstance(found, str):
        raise WebDriverException(f"cannot judge the page with axe: {found}")
    return [f"{each['id']}: {node['html']}: {each['help']}" for each in found for node in each["nodes"]]


def codes_in(picture: Path) -> set[str]:
    """What a phone would read in it."""
    argv = ["zbarimg", "--quiet", "--raw", str(picture)]
    return set(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines())


def without_glyph(text: str) -> set[str]:
    """The characters for which the workshop has no font: a picture has an empty box there."""
    return {each for each in set(text) if each.isprintable() and not _fonts_with(each)}


def _fonts_with(character: str) -> str:
    argv = ["fc-list", f":charset={ord(character):x}", "family"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout
