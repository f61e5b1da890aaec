"""A browser, and the real API on a real socket for it, with clients that are played."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver

from infoscreen_reboot.controller.store.database import Database
from tests.controller.conftest import empty_sqlite, sqlite
from tests.controller.desk import NAMES
from tests.controller.played_fleet import Fleet
from tests.web.browser import Browser, chromium, visiting

__all__ = ["empty_sqlite", "sqlite"]
TOP = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def driver() -> Iterator[webdriver.Chrome]:
    with chromium() as found:
        yield found


@pytest.fixture
def browser(driver: webdriver.Chrome, request: pytest.FixtureRequest) -> Iterator[Browser]:
    """It knows nothing of the tests before, and what it complains of fails this one."""
    # It has left when its server goes: a page that asks just then would complain.
    if "fleet" in request.fixturenames:
        request.getfixturevalue("fleet")
    with visiting(driver) as found:
        yield found


@pytest.fixture
def fleet(sqlite: Database) -> Iterator[Fleet]:
    """It is served at `fleet.address`."""
    found = Fleet(sqlite, NAMES)
    with found.serving():
        yield found


@pytest.fixture
def pictures() -> Path:
    """What lies there when the tests are over, the lab keeps beside its logs."""
    return TOP.parent / "pictures"
