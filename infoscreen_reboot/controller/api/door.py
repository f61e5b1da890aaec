"""What every request and every answer passes: a request has a bound, and no answer is kept by a cache."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# 20,000 UUIDs as JSON are 780 kB.
MOST_BYTES = 1 << 20
MOST_BYTES_OF_FILE = 5_000_000
_FILES = ("/clients/import", "/power/ports/import")


class Door:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = MOST_BYTES_OF_FILE if scope["path"].endswith(_FILES) else MOST_BYTES
        length = dict(scope["headers"]).get(b"content-length", b"")
        taken = 0

        async def bounded() -> Message:
            """What says how long it is need not be read; what does not is counted."""
            nonlocal taken
            if length.isdigit() and int(length) > most:
                raise _too_large(most)
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > most:
                raise _too_large(most)
            return message

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Cache-Control", "no-store")
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        has_body = scope["method"] in ("POST", "PUT", "PATCH")
        await self._app(scope, bounded if has_body else receive, marked)


def _too_large(most: int) -> HTTPException:
    # FastAPI hands on this one class of errors while it reads a request.
    return HTTPException(413, f"a request may have {most} bytes here")
