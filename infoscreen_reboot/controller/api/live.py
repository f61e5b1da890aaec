"""`/events`: what happens, as it happens (Server-Sent Events), and again from any point on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from infoscreen_reboot.controller.api import access, models, show
from infoscreen_reboot.controller.api.access import Site, viewer
from infoscreen_reboot.controller.api.problems import documented
from infoscreen_reboot.controller.auth import Identity
from infoscreen_reboot.controller.store import people, views

router = APIRouter(tags=["events"])

# The revision is looked up so often: what is written by another instance is seen, too.
LOOK_S = 0.5
# A proxy closes a stream on which nothing comes.
COMMENT_S = 15.0
_MOST = 500
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@router.get("/events", response_class=StreamingResponse, responses=documented())
async def events(
    request: Request,
    who: Annotated[Identity, Depends(viewer)],
    command: UUID | None = None,
    client: UUID | None = None,
    batch: UUID | None = None,
    after: Annotated[int | None, Query(ge=0, lt=2**63, description="From the event after this one on.")] = None,
    last_event_id: Annotated[str | None, Header(max_length=20)] = None,
) -> StreamingResponse:
    """A stream of events from now on, or from `Last-Event-ID` (or `after`) on. It ends when the token is revoked."""
    site = access.site(request)
    start = after
    if last_event_id is not None and last_event_id.isascii() and last_event_id.isdigit():
        start = int(last_event_id)
    which = {"command_id": command, "client_uuid": client, "batch_id": batch}
    chosen = {name: str(value) for name, value in which.items() if value is not None}
    token = request.headers["Authorization"].partition(" ")[2]
    stream = _stream(request, site, start, chosen, token)
    return StreamingResponse(stream, media_type="text/event-stream", headers=HEADERS)


async def _stream(
    request: Request, site: Site, start: int | None, chosen: dict[str, str], token: str
) -> AsyncIterator[str]:
    seq = await run_in_threadpool(_revision, site) if start is None else start
    yield f": from {seq}\n\n"
    quiet_s = 0.0
    while not await request.is_disconnected() and not request.app.state.is_stopping:
        found, last = await run_in_threadpool(_look, site, seq, chosen, token)
        if found is None:
            yield "event: unauthorized\ndata: {}\n\n"
            return
        for event in found:
            yield f"id: {event.seq}\nevent: {event.kind}\ndata: {event.model_dump_json()}\n\n"
        seq, quiet_s = last, 0.0 if found else quiet_s + LOOK_S
        if quiet_s >= COMMENT_S:
            yield ":\n\n"
            quiet_s = 0.0
        if len(found) < _MOST:
            await asyncio.sleep(LOOK_S)


def _revision(site: Site) -> int:
    with site.database.read() as tx:
        return views.revision(tx)


def _look(site: Site, seq: int, chosen: dict[str, str], token: str) -> tuple[list[models.Event] | None, int]:
    """The events after `seq`, and up to which one that is; None if the token is of no use any more."""
    with site.database.read() as tx:
        if people.identify(tx, token) is None:
            return None, seq
        rows = views.events_after(tx, seq, _MOST, **chosen)
        last = rows[-1]["seq"] if len(rows) == _MOST else max(seq, views.revision(tx))
    return [show.event(row) for row in rows], last
