"""Signing in by a real OpenID provider, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select

from infoscreen_reboot.controller import grants
from infoscreen_reboot.controller.config import Oidc
from infoscreen_reboot.controller.oidc import Provider
from infoscreen_reboot.controller.store.database import Database
from infoscreen_reboot.controller.store.tables import audit
from tests.controller.desk import NAMES
from tests.controller.played_fleet import Fleet
from tests.web.browser import PHONE, Browser, axe
from tests.web.glewlwyd import CLIENT, PASSWORD, SECRET, Glewlwyd


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Glewlwyd]:
    with Glewlwyd(tmp_path).running() as found:
        yield found


@pytest.fixture
def fleet(sqlite: Database, provider: Glewlwyd) -> Iterator[Fleet]:
    found = Fleet(sqlite, NAMES)
    with found.serving():
        roles = grants.parse("groups: signage-admins=admin, signage=operator")
        settings = Oidc(provider.issuer, CLIENT, SECRET, "openid", roles, found.address)
        found.app.state.site = replace(found.site, provider=Provider(settings))
        provider.set_up(settings.callback)
        yield found


def test_people_sign_in_by_a_provider_with_the_role_that_it_gives(
    browser: Browser, fleet: Fleet, provider: Glewlwyd, sqlite: Database, pictures: Path
) -> None:
    provider.add_user("ann", "staff")
    browser.open(f"{provider.issuer}/jwks")  # so that its pages may be visited; what they complain of is their affair
    browser.expect("translations.json.* 404")
    browser.expect("profile_list.* 401")
    browser.open(f"{fleet.address}/batches")
    browser.see("a", "Sign in with 127.0.0.1")
    assert axe(browser) == []
    browser.picture(pictures / "sign-in-by-provider.png")
    browser.click("a", "Sign in with")
    browser.see("#username").send_keys("ann")
    browser.see("#password").send_keys(PASSWORD)
    browser.press("Enter")
    browser.click("button", "Continue")
    browser.expect("sign-in/oidc/back.* 401")
    browser.see("[role=alert]", "gives you no role here")
    assert axe(browser) == []
    browser.look(PHONE, is_dark=True)
    browser.picture(pictures / "no-role-phone-dark.png")
    browser.look()

    provider.put_into("ann", "signage", "staff")
    browser.click("a", "Sign in with")
    browser.click("button", "Continue")
    browser.see("h1", "Batches")
    browser.see(".me a", "ann operator")
    browser.click(".me a")
    browser.see('input[name="name"]').send_keys("metrics")
    browser.click("button", "Make it")
    browser.see("[role=status]", "Copy it now")
    assert axe(browser) == []
    browser.picture(pictures / "me-light.png")
    browser.look(PHONE, is_dark=True)
    browser.open(f"{fleet.address}/me")
    assert axe(browser) == []
    browser.picture(pictures / "me-phone-dark.png")
    browser.look()
    browser.click("button", "Sign out")
    browser.see("h1", "Sign in")
    browser.open(f"{fleet.address}/batches")
    browser.see("h1", "Sign in")
    with sqlite.read() as tx:
        lines = tx.db.execute(select(audit.c.who, audit.c.via, audit.c.what, audit.c.outcome).order_by(audit.c.seq))
        assert [tuple(line) for line in lines] == [
            ("ann", "oidc", "sign in", "refused"),
            ("ann", "oidc", "add user", "made"),
            ("ann", "oidc", "sign in", "done"),
            ("ann", "console", "make token", "made"),
            ("ann", "console", "sign out", "done"),
        ]
