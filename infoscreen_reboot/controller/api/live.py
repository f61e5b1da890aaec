"""`/events`: what happens, as it happens (Server-Sent Events), and again from any point on."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from infoscreen_reboot.controller.api import models, show
from infoscreen_reboot.controller.api.access import Site, Viewer
from infoscreen_reboot.controller.api.problems import documented
from infoscreen_reboot.controller.store import people, views
from infoscreen_reboot.controller.store.database import StoreError

router = APIRouter(tags=["events"])

# The revision is looked up so often: what is written by another instance is seen, too.
LOOK_S = 0.5
# A proxy closes a stream on which nothing comes.
COMMENT_S = 15.0
# A token is looked at so often while nothing happens.
TOKEN_S = 5.0
_MOST = 500
_TYPE = "text/event-stream"
_HEADERS = {"X-Accel-Buffering": "no"}
_EXAMPLE = 'id: 4711\nevent: completed\ndata: {"seq": 4711, "at": "2026-11-26T14:00:52Z", "kind": "completed", …}\n\n'


class Pulse:
    """The number of the last event, asked for once for all streams: hundreds of them wait for it."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._lock = threading.Lock()
        self._asked_at_s = float("-inf")
        self._revision = 0

    def revision(self) -> int:
        with self._lock:
            if time.monotonic() > self._asked_at_s + LOOK_S / 2:
                with self._site.database.read() as tx:
                    self._revision = views.revision(tx)
                self._asked_at_s = time.monotonic()
            return self._revision


@dataclass(frozen=True, slots=True)
class Look:
    """What is new. `reset` is where the stream goes on if events are gone that it has not given."""

    events: list[models.Event]
    upto: int
    is_token_valid: bool = True
    reset: int | None = None


@router.get(
    "/events",
    summary="Follow what happens",
    response_class=StreamingResponse,
    responses=documented(well={"description": "A stream of events", "content": {_TYPE: {"example": _EXAMPLE}}}),
)
async def follow_events(
    request: Request,
    call: Viewer,
    command: Annotated[UUID | None, Query(description="Only those of this command.")] = None,
    client: Annotated[UUID | None, Query(description="Only those of this client.")] = None,
    batch: Annotated[UUID | None, Query(description="Only those of this batch.")] = None,
    after: Annotated[int | None, Query(ge=0, lt=2**63, description="From the event after this one on.")] = None,
    last_event_id: Annotated[int | None, Header(ge=0, lt=2**63, description="Goes before `after`.")] = None,
) -> StreamingResponse:
    """From now on, or from `Last-Event-ID` or `after` on: what came in between is given first.

    Each event has its number as `id`, its kind as `event`, and the whole as JSON in `data`. Three kinds are about the
    stream itself: `reset` says that events in between are gone (they were too old, or an older copy of the database
    was restored): read again what you show; `unauthorized` that the token is of no use any more; `bye` that the server
    stops: connect again. A comment comes at least every 15 seconds.
    """
    which = {"command_id": command, "client_uuid": client, "batch_id": batch}
    chosen = {name: str(value) for name, value in which.items() if value is not None}
    start = last_event_id if last_event_id is not None else after
    stream = _stream(request, call.site, start, chosen, call.who.token_id)
    return StreamingResponse(stream, media_type=_TYPE, headers=_HEADERS)


async def _stream(
    request: Request, site: Site, start: int | None, chosen: Mapping[str, str], token_id: str
) -> AsyncIterator[str]:
    seq = await run_in_threadpool(_revision, site) if start is None else start
    yield f"retry: 1000\n: from {seq}\n\n"
    quiet_s = unchecked_s = 0.0
    while not await request.is_disconnected():
        if request.app.state.is_stopping:
            yield _about("bye")
            return
        try:
            revision = await run_in_threadpool(request.app.state.pulse.revision)
            if revision == seq and unchecked_s < TOKEN_S:
                look = Look([], seq)
            else:
                look = await run_in_threadpool(_look, site, seq, chosen, token_id)
                unchecked_s = 0.0
        except StoreError:
            # Whoever connects again is told 503, and begins where this has ended.
            yield _about("bye")
            return
        if not look.is_token_valid:
            yield _about("unauthorized")
            return
        if look.reset is not None:
            yield f"id: {look.reset}\n" + _about("reset", {"from": look.reset})
        for event in look.events:
            yield f"id: {event.seq}\nevent: {event.kind}\ndata: {event.model_dump_json()}\n\n"
        seq = look.upto
        quiet_s = 0.0 if look.events else quiet_s + LOOK_S
        unchecked_s += LOOK_S
        if quiet_s >= COMMENT_S:
            yield ":\n\n"
            quiet_s = 0.0
        if len(look.events) < _MOST:
            await asyncio.sleep(LOOK_S)


def _about(kind: str, content: Mapping[str, Any] | None = None) -> str:
    return f"event: {kind}\ndata: {json.dumps(content or {})}\n\n"


def _revision(site: Site) -> int:
    with site.database.read() as tx:
        return views.revision(tx)


def _look(site: Site, seq: int, chosen: Mapping[str, str], token_id: str) -> Look:
    """The events after `seq`, in one view of the database."""
    with site.database.read() as tx:
        if people.identify_again(tx, token_id) is None:
            return Look([], seq, is_token_valid=False)
        revision = views.revision(tx)
        if revision == seq:
            return Look([], seq)
        gone_upto = max(views.first_event(tx) - 1, 0)
        reset = None
        if seq > revision or 0 < seq < gone_upto:
            reset = seq = revision if seq > revision else gone_upto
        rows = views.events_after(tx, seq, _MOST, **chosen)
    upto = rows[-1]["seq"] if len(rows) == _MOST else max(seq, revision)
    return Look([show.event(row) for row in rows], upto, reset=reset)
