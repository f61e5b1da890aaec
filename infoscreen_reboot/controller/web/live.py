"""What has changed, as a hint: whose page is open reads again what it shows. One reading of the database serves all.

The stream is no source of truth: it names the clients that something happened to, at most twice a second however much
happens, and says every few seconds that it lives and whether the broker is heard.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from infoscreen_reboot.controller.api.access import Site
from infoscreen_reboot.controller.store import figures, people, views
from infoscreen_reboot.controller.store.database import StoreError
from infoscreen_reboot.controller.web.session import Viewer

router = APIRouter()

LOOK_S = 0.5
# A page that hears nothing for more than twice as long says that what it shows is old.
BEAT_S = 5.0
# Of more clients than that a page is told that everything may have changed.
MOST = 500
_KEPT = 240
_HEADERS = {"X-Accel-Buffering": "no", "Cache-Control": "no-store"}


class Changes:
    """The clients that something happened to, in the order in which it was seen; for all streams together."""

    def __init__(self, site: Site, now_s: Callable[[], float] = time.monotonic) -> None:
        self._site = site
        self._now_s = now_s
        self._lock = threading.Lock()
        self._looked_at_s = float("-inf")
        # Up to which event, and to whom; None: to more than MOST.
        self._seen: deque[tuple[int, frozenset[str] | None]] = deque(maxlen=_KEPT)

    def upto(self) -> int:
        """The number of the last event."""
        self._look()
        return self._seen[-1][0]

    def since(self, seq: int) -> tuple[int, list[str] | None]:
        """The number of the last event, and to whom something happened after `seq`; None: perhaps to all."""
        self._look()
        seen = list(self._seen)
        # Longer ago than is kept; or an older copy of the database was restored.
        if not seen[0][0] <= seq <= seen[-1][0]:
            return seen[-1][0], None
        later = [clients for upto, clients in seen if upto > seq]
        known = [clients for clients in later if clients is not None]
        found = frozenset[str]().union(*known)
        is_too_much = len(known) < len(later) or len(found) > MOST
        return seen[-1][0], None if is_too_much else sorted(found)

    def _look(self) -> None:
        with self._lock:
            if self._now_s() < self._looked_at_s + LOOK_S:
                return
            with self._site.database.read() as tx:
                upto = views.revision(tx)
                if self._seen and upto < self._seen[-1][0]:
                    self._seen.clear()
                if not self._seen:
                    self._seen.append((upto, None))
                elif upto != self._seen[-1][0]:
                    clients = views.clients_between(tx, self._seen[-1][0], upto, MOST)
                    self._seen.append((upto, clients))
            self._looked_at_s = self._now_s()


@router.get("/live")
async def follow(request: Request, call: Viewer) -> StreamingResponse:
    """One stream for each browser: its pages share it."""
    # Before the page hears that the stream is open: then it reads all that it shows, and is told what happens after.
    seq = await run_in_threadpool(request.app.state.changes.upto)
    return StreamingResponse(
        _stream(request, call.site, call.who.token_id, seq), media_type="text/event-stream", headers=_HEADERS
    )


async def _stream(request: Request, site: Site, token_id: str, seq: int) -> AsyncIterator[str]:
    changes: Changes = request.app.state.changes
    yield "retry: 1000\n\n"
    try:
        silent_s = BEAT_S
        while not request.app.state.is_stopping and not await request.is_disconnected():
            if silent_s >= BEAT_S:
                is_valid, beat = await run_in_threadpool(_beat, site, token_id)
                if not is_valid:
                    yield _event("ended", {})
                    return
                yield _event("beat", beat)
                silent_s = 0.0
            upto, clients = await run_in_threadpool(changes.since, seq)
            if upto != seq:
                yield _event("changed", {"clients": clients})
                seq = upto
            await asyncio.sleep(LOOK_S)
            silent_s += LOOK_S
    except StoreError:
        pass
    yield _event("bye", {})


def _event(kind: str, content: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(content)}\n\n"


def _beat(site: Site, token_id: str) -> tuple[bool, dict[str, Any]]:
    """Whether the session still stands, and whether the broker is heard, or since when it is not."""
    with site.database.read() as tx:
        is_heard, since = figures.broker(tx)
        beat = {"broker": is_heard, "since": None if since is None else since.isoformat()}
        return people.identify_again(tx, token_id) is not None, beat
