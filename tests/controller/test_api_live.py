"""The stream of events: nothing lost and nothing twice, and it ends with the token, the server or the database."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from sqlalchemy import delete

from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.store import people, views
from infoscreen_reboot.controller.store.tables import event
from tests.controller.web import Web, kind, serving
from tools.lab.patience import Patience


@dataclass(frozen=True, slots=True)
class Given:
    """One event as it stands in the stream."""

    kind: str
    id: int | None
    content: dict[str, Any]


@contextlib.contextmanager
def stream(web: Web, address: str, last: int | None = None, query: str = "") -> Iterator[Iterator[Given]]:
    headers = {"Authorization": f"Bearer {web.tokens[Role.VIEWER].secret}"}
    if last is not None:
        headers["Last-Event-ID"] = str(last)
    with httpx.stream("GET", f"{address}/events{query}", headers=headers, timeout=30) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert (answer.headers["x-accel-buffering"], answer.headers["cache-control"]) == ("no", "no-store")
        yield read(answer.iter_lines())


def read(lines: Iterator[str]) -> Iterator[Given]:
    said: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        said[name] = value
        if line == "":
            if "data" in said:
                number = int(said["id"]) if "id" in said else None
                yield Given(said["event"], number, json.loads(said["data"]))
            said = {}


def revoke(web: Web) -> None:
    with web.database.write() as tx:
        people.revoke(tx, web.tokens[Role.VIEWER].token_id)


def test_the_stream_begins_where_it_is_told_to_and_ends_with_the_token(web: Web) -> None:
    """Pitfall 48: a token that was revoked ends the stream, and a new one cannot be opened with it."""
    for number in range(3):
        web.order(number)
    with serving(web) as address:
        with stream(web, address, last=1) as events:
            seen = [next(events), next(events)]
            revoke(web)
            rest = list(events)
        headers = {"Authorization": f"Bearer {web.tokens[Role.VIEWER].secret}"}
        answer = httpx.get(f"{address}/events", headers=headers, timeout=30)
        assert kind(answer) == (401, "not_authenticated")
    assert [(each.kind, each.id, each.content["seq"]) for each in seen] == [("queued", 2, 2), ("queued", 3, 3)]
    assert [each.kind for each in rest] == ["unauthorized"]


def test_whoever_comes_again_misses_nothing_and_hears_nothing_twice(web: Web) -> None:
    """Pitfall 13: cut off after each second event, while others are written."""
    web.call("POST", "/freezes", json={"why": "each order is two events: queued, and blocked"})

    def write() -> None:
        for number in range(30):
            web.order(number % 3)

    numbers: list[int] = []
    writer = threading.Thread(target=write)
    with serving(web) as address:
        writer.start()
        while len(numbers) < 60:
            last = numbers[-1] if numbers else 0
            with stream(web, address, last=last) as events:
                numbers += [next(events).content["seq"], next(events).content["seq"]]
        writer.join()
    with web.database.read() as tx:
        assert numbers == list(range(1, views.revision(tx) + 1))


def test_a_stop_ends_all_streams_at_once_and_says_so(web: Web) -> None:
    """Pitfall 13: fifty open streams do not hold up a restart."""
    with serving(web) as address, contextlib.ExitStack() as stack:
        streams = [stack.enter_context(stream(web, address)) for _ in range(50)]
        soon = Patience(10)
        web.app.state.is_stopping = True
        assert [[each.kind for each in events] for events in streams] == [["bye"]] * 50
        assert not soon.is_over, "not by a timeout"


def test_only_what_it_is_about_is_given(web: Web) -> None:
    ids = [web.order(number).json()["id"] for number in range(3)]
    with serving(web) as address:
        for query in (f"?command={ids[1]}&after=0", f"?client={web.uuids[1]}&after=0"):
            with stream(web, address, query=query) as events:
                assert next(events).content["command_id"] == ids[1]
    answer = web.call("GET", "/events", Role.VIEWER, headers={"Last-Event-ID": "x"})
    assert kind(answer) == (422, "invalid")


@pytest.mark.parametrize(("last", "goes_on"), [(1, 3), (99, 5)])
def test_whoever_comes_too_late_is_told_that_events_are_gone(web: Web, last: int, goes_on: int) -> None:
    """They were older than the retention, or an older copy of the database was restored."""
    for number in range(3):
        web.order(number)
    for _ in range(2):
        web.order(0)
    with web.database.write() as tx:
        tx.db.execute(delete(event).where((event.c.seq <= 3) | (event.c.seq > 5)))
    with serving(web) as address, stream(web, address, last=last) as events:
        first = next(events)
        assert (first.kind, first.id, first.content) == ("reset", goes_on, {"from": goes_on})
        if goes_on == 3:
            assert [next(events).id, next(events).id] == [4, 5]


def test_a_database_that_goes_away_ends_the_stream(web: Web) -> None:
    with serving(web) as address, stream(web, address, last=0) as events:
        web.order()
        assert next(events).kind == "queued"
        with web.database.write() as tx:
            tx.db.exec_driver_sql("ALTER TABLE event RENAME TO gone")
        assert [each.kind for each in events] == ["bye"]
