"""Ten thousand clients of which a thousand change in each second, and twenty pages that show them.

A machine that is busy with other tests makes single figures worse, and none better: the best of several is judged.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from sqlalchemy import insert

from infoscreen_reboot.controller.store.bulk import update_many
from infoscreen_reboot.controller.store.database import Database
from infoscreen_reboot.controller.store.tables import boot, client, event, health, label
from infoscreen_reboot.controller.web import fleet as pages_of_fleet
from infoscreen_reboot.controller.web.session import COOKIE
from tests.web.browser import Browser

CLIENTS, CHANGES_A_S, PAGES = 10_000, 1_000, 20
FIRST_PAGE_S, LONG_TASK_MS, UPDATES_A_S, SHARE_OF_A_CORE = 0.2, 50, 2, 0.3
WINDOW_S, WINDOWS = 4.0, 8
SCRIPT = Path(pages_of_fleet.__file__).parent / "static/console.js"
# From now on, how long each task of the page took that held it up for more than 50 ms.
WATCH = (
    "window.long = []; new PerformanceObserver(found => found.getEntries().forEach(each => long.push(each.duration)))"
)
WATCH += ".observe({type: 'longtask'})"
ASKED = "return performance.getEntriesByType('resource').filter(each => each.name.includes('/rows')).length"
SAID = {
    "agent_version": "1.0",
    "clock_synchronized": True,
    "executor": "helper",
    "lockout": {"used": 0, "limit": 3, "unlocks_at": None},
    "capabilities": {"recovery_tier": 1},
    "state": {"disk_full": False},
}


@dataclass
class Crowd:
    """It is served at `address` by another process."""

    database: Database
    address: str
    token: str
    pid: int
    is_over: threading.Event = field(default_factory=threading.Event)
    changes: int = 0

    @property
    def cpu_s(self) -> float:
        """What the server has used of a processor so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def churn(self) -> None:
        """A thousand of them come and go in each second."""
        chance = random.Random(1)
        online = dict.fromkeys((str(UUID(int=number)) for number in range(CLIENTS)), True)
        began = time.monotonic()
        while not self.is_over.wait(max(0.0, self.changes / CHANGES_A_S - (time.monotonic() - began))):
            some = chance.sample(sorted(online), CHANGES_A_S // 4)
            with self.database.write() as tx:
                for uuid in some:
                    online[uuid] = not online[uuid]
                update_many(tx, client, [{"uuid": each, "is_online": online[each]} for each in some], key="uuid")
                kinds = {each: "client_online" if online[each] else "client_offline" for each in some}
                tx.db.execute(
                    insert(event),
                    [{"at": tx.now, "kind": kinds[each], "client_uuid": each, "content": {}} for each in some],
                )
            self.changes += len(some)


@pytest.fixture
def crowd(sqlite: Database) -> Iterator[Crowd]:
    uuids = [str(UUID(int=number)) for number in range(CLIENTS)]
    with sqlite.write() as tx:
        known = {"standing": "accepted", "is_online": True, "heard_at": tx.now, "presence_at": tx.now}
        of_client = [{"uuid": uuid, "name": f"screen {number}", **known} for number, uuid in enumerate(uuids)]
        tx.db.execute(insert(client), of_client)
        sites = [{"client_uuid": uuid, "key": "site", "value": f"s{number % 400}"} for number, uuid in enumerate(uuids)]
        tx.db.execute(insert(label), sites)
        said = json.dumps(SAID)
        tx.db.execute(insert(health), [{"client_uuid": uuid, "heard_at": tx.now, "content": said} for uuid in uuids])
        times = {"first_heard_at": tx.now - timedelta(hours=9), "heard_at": tx.now, "returns": 0}
        report = {"cause": "command", "clean_shutdown": True}
        booted = [{"client_uuid": uuid, "boot_id": uuid, "report": report, **times} for uuid in uuids]
        tx.db.execute(insert(boot), booted)
    argv = [sys.executable, "-B", "-m", "tests.web.crowd", str(sqlite.file)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address, token, *_ = process.stdout.readline().split()
        found = Crowd(sqlite, address, token, process.pid)
        try:
            yield found
        finally:
            found.is_over.set()
            process.kill()


class Page:
    """What console.js does on a page of the fleet, with its own pace."""

    PACE_S = int(re.findall(r"ASK_EVERY_MS = (\d+)", SCRIPT.read_text("utf-8"))[0]) / 1000

    def __init__(self, crowd: Crowd, number: int) -> None:
        self.hints = self.questions = 0
        self.lasted_s = 0.0
        self._crowd = crowd
        headers = {"Cookie": f"{COOKIE}={crowd.token}"}
        self._web = httpx.Client(base_url=crowd.address, headers=headers, timeout=60)
        html = self._web.get("/", params={"page": number}).text
        self._shown = set(re.findall(r'data-uuid="([^"]+)"', html))
        assert len(self._shown) == pages_of_fleet.PAGE
        self._thread = threading.Thread(target=self._live)
        self._thread.start()

    def _live(self) -> None:
        waiting: set[str] = set()
        began, asked_at = time.monotonic(), float("-inf")
        with self._web.stream("GET", "/live") as answer:
            lines = answer.iter_lines()
            for line in lines:
                if self._crowd.is_over.is_set():
                    break
                if line != "event: changed":
                    continue
                self.hints += 1
                clients = json.loads(next(lines).removeprefix("data: "))["clients"]
                waiting |= self._shown if clients is None else self._shown & set(clients)
                if waiting and time.monotonic() > asked_at + self.PACE_S:
                    self._web.get("/rows", params={"uuid": sorted(waiting)}).raise_for_status()
                    self.questions += 1
                    waiting, asked_at = set(), time.monotonic()
        self.lasted_s = time.monotonic() - began

    def close(self) -> None:
        self._thread.join()
        self._web.close()


def has_asked(browser: Browser, before: int) -> bool:
    return int(browser.driver.execute_script(ASKED)) > before


def test_twenty_pages_of_ten_thousand_clients_are_live_and_cost_little(crowd: Crowd, browser: Browser) -> None:
    """Pitfall 15."""
    browser.open(f"{crowd.address}/sign-in")
    browser.click("summary", "I have a token")
    browser.see('input[name="token"]').send_keys(crowd.token)
    browser.click("button", "with the token")
    browser.see("#numbers .is-healthy b", "10000")
    headers = {"Cookie": f"{COOKIE}={crowd.token}"}
    # Of a processor: on a machine that does nothing else it takes no longer.
    before_s, times = crowd.cpu_s, 8
    for _ in range(times):
        httpx.get(crowd.address, headers=headers, timeout=60).raise_for_status()
    page_s = (crowd.cpu_s - before_s) / times

    churning = threading.Thread(target=crowd.churn)
    churning.start()
    pages = [Page(crowd, number * 7) for number in range(1, PAGES)]
    browser.driver.execute_script(WATCH)
    shares, long_tasks, hints, changes = [], [], [], []
    for _ in range(WINDOWS):
        before = crowd.cpu_s, sum(page.hints for page in pages), crowd.changes, time.monotonic()
        asked = browser.driver.execute_script(f"long.length = 0; {ASKED}")
        time.sleep(WINDOW_S)
        lasted_s = time.monotonic() - before[3]
        shares.append((crowd.cpu_s - before[0]) / lasted_s)
        hints.append((sum(page.hints for page in pages) - before[1]) / lasted_s / len(pages))
        changes.append((crowd.changes - before[2]) / lasted_s)
        long_tasks.append(max(browser.driver.execute_script("return long"), default=0))
        browser.wait(partial(has_asked, browser, asked), "question of the page")
        if min(shares) <= SHARE_OF_A_CORE and min(long_tasks) <= LONG_TASK_MS:
            break
    browser.wait(lambda: all(page.questions for page in pages), "question of each page")
    crowd.is_over.set()
    churning.join()
    for page in pages:
        page.close()
    print(f"\na page {page_s:.3f} s; of a core {shares}; hints {hints}; long tasks {long_tasks}; {changes}")
    assert page_s < FIRST_PAGE_S
    # Since it was opened, for what waits unread in one window is read in the next; the first comes at once.
    assert all(page.hints <= UPDATES_A_S * page.lasted_s + 1 for page in pages)
    assert min(hints) > 0
    assert min(long_tasks) <= LONG_TASK_MS
    assert min(shares) <= SHARE_OF_A_CORE
