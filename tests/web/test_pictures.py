"""The pictures of the docs: what people see in the morning. HACKING.md says how they get into `docs/images`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.store.database import Database
from tests.controller.played_fleet import Fleet
from tests.web import story
from tests.web.browser import PHONE, Browser, Size
from tests.web.test_console import Visit, signed_in

__all__ = ["signed_in"]
LAPTOP, OFFICE = Size(1200, 760), Size(1280, 400)
# A page of the docs has several.
MOST_BYTES = 100_000


@pytest.fixture
def fleet(sqlite: Database) -> Iterator[Fleet]:
    """Only those of the story."""
    found = Fleet(sqlite)
    with found.serving():
        yield found


def test_the_pictures_of_the_docs(signed_in: Visit, fleet: Fleet, pictures: Path) -> None:
    told = story.told(fleet)
    browser = signed_in(role=Role.OPERATOR)
    browser.see(".fresh[data-state='live']")

    def show(name: str, path: str, size: Size = LAPTOP, is_dark: bool = False) -> None:
        browser.look(size, is_dark)
        browser.open(fleet.address + path)
        browser.see(".fresh[data-state='live']")
        keep(browser, pictures, name)

    show("fleet", "/")
    show("fleet-dark", "/", is_dark=True)
    show("client", told.well, PHONE, is_dark=True)
    show("night", told.night)
    show("wall", "/?wall=1", OFFICE, is_dark=True)
    browser.look(LAPTOP)
    browser.open(f"{fleet.address}/?selector=site%3Dcity-museum")
    browser.click("[data-all]")
    browser.click("button", "Reboot…")
    browser.see("h1", "Reboot 5 clients?")
    keep(browser, pictures, "confirm")


def keep(browser: Browser, pictures: Path, name: str) -> None:
    file = browser.picture(pictures / "docs" / f"{name}.webp", whole=False)
    assert file.stat().st_size < MOST_BYTES, name
