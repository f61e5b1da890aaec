"""The hints by which open pages are live: soon, few, and over when the session or the server is."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import delete

from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.controller import orders
from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.store import people
from infoscreen_reboot.controller.store.database import Database
from infoscreen_reboot.controller.store.tables import event
from infoscreen_reboot.controller.web import live
from infoscreen_reboot.controller.web.live import Changes
from infoscreen_reboot.controller.web.session import COOKIE
from tests.controller.played_fleet import Fleet
from tests.controller.web import Web, serving
from tools.lab.patience import Patience

Hint = tuple[str, dict[str, Any]]


@pytest.fixture
def web(sqlite: Database) -> Web:
    return Web(sqlite)


@contextlib.contextmanager
def hints(web: Web, address: str, role: Role = Role.VIEWER) -> Iterator[Iterator[Hint]]:
    """Of a browser with a session; any token is one."""
    root = address.removesuffix("/api/v1")
    headers = {"Cookie": f"{COOKIE}={web.tokens[role].secret}"}
    with httpx.stream("GET", f"{root}/live", headers=headers, timeout=30) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert (answer.headers["x-accel-buffering"], answer.headers["cache-control"]) == ("no", "no-store")
        yield read(answer.iter_lines())


def read(lines: Iterator[str]) -> Iterator[Hint]:
    kind = ""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield kind, json.loads(value)


def test_who_has_changed_is_told_soon_and_once(web: Web) -> None:
    with serving(web) as address, hints(web, address) as told:
        assert next(told) == ("beat", {"broker": False, "since": None})
        # A reading of the database is shared for half a second, and each stream looks that often.
        soon = Patience(10 * live.LOOK_S)
        for number in (0, 2):
            web.order(number)
        heard: set[str] = set()
        while len(heard) < 2:
            kind, content = next(told)
            if kind == "changed":
                assert not heard & set(content["clients"])
                heard |= set(content["clients"])
        assert heard == {web.uuids[0], web.uuids[2]}
        assert not soon.is_over


def test_a_page_is_told_what_happens_once_its_stream_is_open(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """However late the server gets to finding out from where on that is."""
    find_out, has_happened = Changes.upto, threading.Event()

    def find_out_late(changes: Changes) -> int:
        has_happened.wait(1)
        return find_out(changes)

    monkeypatch.setattr(live, "BEAT_S", live.LOOK_S)
    monkeypatch.setattr(Changes, "upto", find_out_late)
    with serving(web) as address, hints(web, address) as told:
        web.order(0)
        has_happened.set()
        assert ("changed", {"clients": [web.uuids[0]]}) in [next(told) for _ in range(6)]


def test_a_revoked_session_ends_the_stream(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "BEAT_S", 0.5)
    with serving(web) as address, hints(web, address) as told:
        next(told)
        with web.database.write() as tx:
            people.revoke(tx, web.tokens[Role.VIEWER].token_id)
        assert list(told)[-1] == ("ended", {})


def test_fifty_streams_hold_up_no_stop(web: Web) -> None:
    """Pitfall 13."""
    with serving(web) as address, contextlib.ExitStack() as stack:
        streams = [stack.enter_context(hints(web, address)) for _ in range(50)]
        for told in streams:
            assert next(told)[0] == "beat"
        ends: list[Hint] = []

        def follow(told: Iterator[Hint]) -> None:
            ends.append(list(told)[-1])

        followers = [threading.Thread(target=follow, args=[told]) for told in streams]
        for follower in followers:
            follower.start()
        soon = Patience(5)
        web.app.state.is_stopping = True
        for follower in followers:
            follower.join()
        assert not soon.is_over
        assert ends == [("bye", {})] * 50


def test_however_much_happens_a_page_hears_of_it_twice_a_second_and_one_reading_serves_all(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pitfall 15, in time that is passed in."""
    fleet = Fleet(sqlite, [f"screen-{number}" for number in range(5)])
    now_s = 100.0
    read_before = count_readings(sqlite, monkeypatch)
    changes = Changes(fleet.app.state.site, lambda: now_s)
    begun = changes.upto()
    for name in fleet.uuids:
        order(fleet, name)
    assert [changes.since(begun) for _ in range(20)] == [(begun, [])] * 20, "nobody looks again so soon"
    now_s += live.LOOK_S
    upto, clients = changes.since(begun)
    assert upto > begun
    assert clients == sorted(fleet.uuids.values())
    assert [changes.since(begun) for _ in range(20)] == [(upto, clients)] * 20
    assert changes.since(upto) == (upto, [])
    assert read_before() == 2, "one for the beginning, and one for all that came"


def test_of_too_many_and_of_what_is_long_ago_all_is_said_to_have_changed(
    sqlite: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(sqlite, ["a", "b", "c"])
    now_s = 100.0
    monkeypatch.setattr(live, "MOST", 2)
    changes = Changes(fleet.app.state.site, lambda: now_s)
    begun = changes.upto()
    for name in fleet.uuids:
        order(fleet, name)
    now_s += live.LOOK_S
    upto, clients = changes.since(begun)
    assert clients is None
    assert changes.since(begun - 1)[1] is None
    assert changes.since(upto) == (upto, [])


def test_after_an_older_copy_of_the_database_all_is_said_to_have_changed(sqlite: Database) -> None:
    fleet = Fleet(sqlite, ["a", "b"])
    now_s = 100.0
    changes = Changes(fleet.app.state.site, lambda: now_s)
    begun = changes.upto()
    order(fleet, "a")
    now_s += live.LOOK_S
    upto, _ = changes.since(begun)
    with sqlite.write() as tx:
        tx.db.execute(delete(event).where(event.c.seq > begun))
    now_s += live.LOOK_S
    assert changes.since(upto) == (begun, None)
    assert changes.since(begun) == (begun, [])


def order(fleet: Fleet, name: str) -> None:
    with fleet.database.write() as tx:
        caller = orders.Caller("ann", "api")
        orders.order(tx, caller, orders.Wish(Action.REBOOT_HOST), fleet.uuids[name], str(uuid4()), orders.House())


def count_readings(database: Database, monkeypatch: pytest.MonkeyPatch) -> Any:
    count = 0
    read = database.read

    def counted() -> Any:
        nonlocal count
        count += 1
        return read()

    monkeypatch.setattr(database, "read", counted)
    return lambda: count
