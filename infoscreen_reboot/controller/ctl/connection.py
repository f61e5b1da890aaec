"""Speaks HTTP with the controller: asks, repeats what can be repeated, and reads the stream of events."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from infoscreen_reboot import __version__
from infoscreen_reboot.controller.ctl.outcome import Failure, Outcome, Refused, Unreachable
from infoscreen_reboot.controller.ctl.settings import Settings
from infoscreen_reboot.controller.ctl.shapes import Event

if TYPE_CHECKING:
    import httpx

PREFIX = "/api/v1"
# After each failure of a request that may be repeated: so long until the next try.
REPEAT_AFTER_S = (0.5, 1.0, 2.0, 4.0)
_CONNECT_S = 5.0
# To make a batch of 20,000 takes some seconds.
_ANSWER_S = 60.0
# The server sends a comment after 15 s without an event.
_STREAM_S = 45.0
_GATEWAY_FAULTS = (502, 503, 504)
# The server stops, or some events are gone: whoever watches reads the state again in any case.
_ABOUT_THE_STREAM = ("bye", "reset")


class Connection:
    """One controller, with one token. httpx is imported with the first request: `--help` must not wait for it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._client: httpx.Client | None = None

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def get(self, path: str, **params: Any) -> Any:
        given = {name: value for name, value in params.items() if value is not None}
        return self._once("GET", PREFIX + path, params=given)

    def pages(self, path: str, most: int | None = None, **params: Any) -> list[Any]:
        """The items of a list that comes in pages; at most `most` of them."""
        found: list[Any] = []
        cursor: str | None = None
        while most is None or len(found) < most:
            limit = 200 if most is None else min(200, most - len(found))
            page = self.get(path, limit=limit, cursor=cursor, **params)
            found += page["items"]
            cursor = page["next"]
            if cursor is None:
                break
        return found

    def send(self, method: str, path: str, document: Any = None, **options: Any) -> Any:
        """A change that is not repeated: if its answer is lost, it may have happened."""
        if document is not None:
            options["json"] = document
        return self._once(method, PREFIX + path, **options)

    def create(self, path: str, content: Mapping[str, Any], key: str | None = None) -> Any:
        """A change that the server recognises when it comes again, by an id in `content` or by `key`.

        So it is repeated until an answer comes. Raises Unreachable if none does.
        """
        headers = {} if key is None else {"Idempotency-Key": key}
        for wait_s in REPEAT_AFTER_S:
            try:
                return self._once("POST", PREFIX + path, json=content, headers=headers)
            except Unreachable:
                time.sleep(wait_s)
            except Refused as refused:
                if refused.status not in _GATEWAY_FAULTS:
                    raise
                time.sleep(wait_s)
        return self._once("POST", PREFIX + path, json=content, headers=headers)

    def raw(self, path: str) -> httpx.Response:
        """Whatever comes, for the doctor. Raises Unreachable."""
        return self._request("GET", path)

    def text(self, path: str) -> str:
        response = self._request("GET", PREFIX + path)
        if not response.is_success:
            raise _refusal(response)
        return response.text

    def events(self, which: Mapping[str, str], after: int) -> Iterator[Event | None]:
        """Each event after `after`, as it happens; None when nothing has happened for some time.

        Ends when the server ends it. Raises Unreachable when the connection is lost.
        """
        import httpx

        params = dict(which)
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        timeout = httpx.Timeout(_STREAM_S, connect=_CONNECT_S)
        try:
            with self._http().stream(
                "GET", PREFIX + "/events", params=params, headers=headers, timeout=timeout
            ) as response:
                if not response.is_success:
                    response.read()
                    raise _refusal(response)
                yield from _events(response.iter_lines())
        except httpx.TransportError as error:
            raise self._unreachable(error) from None

    def _once(self, method: str, path: str, **options: Any) -> Any:
        response = self._request(method, path, **options)
        if not response.is_success:
            raise _refusal(response)
        if response.status_code == 204:
            return None
        try:
            return response.json()
        except ValueError:
            raise Unreachable(
                f"{self.settings.url} answers, but not as a controller does", "is this the right address?"
            ) from None

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        import httpx

        try:
            return self._http().request(method, path, **options)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> Unreachable:
        words = str(error) or type(error).__name__
        return Unreachable(f"cannot reach {self.settings.url}: {words}", "run: infoscreen-rebootctl doctor")

    def _http(self) -> httpx.Client:
        if self._client is None:
            self._client = _open(self.settings)
        return self._client


def _open(settings: Settings) -> httpx.Client:
    import httpx

    headers = {"X-Requested-Via": "cli", "User-Agent": f"infoscreen-rebootctl/{__version__}"}
    if settings.token is not None:
        if not settings.token.isascii() or not settings.token.isprintable():
            raise Failure(Outcome.USAGE, "the token has characters that no token has", "copy it again")
        headers["Authorization"] = f"Bearer {settings.token}"
    timeout = httpx.Timeout(_ANSWER_S, connect=_CONNECT_S)
    if settings.url.startswith("unix:"):
        transport = httpx.HTTPTransport(uds=settings.url.removeprefix("unix:"))
        # trust_env is off: a proxy of the environment would be asked in place of the socket.
        return httpx.Client(
            transport=transport, base_url="http://localhost", headers=headers, timeout=timeout, trust_env=False
        )
    return httpx.Client(base_url=settings.url, headers=headers, timeout=timeout, verify=_trust(settings))


def _trust(settings: Settings) -> ssl.SSLContext:
    """The system's certificates, or those of `--ca`. Without TLS there is nothing to load."""
    if not settings.url.startswith("https:"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context = ssl.create_default_context(cafile=settings.ca)
    except OSError as error:
        raise Failure(Outcome.USAGE, f"cannot use the certificates in {settings.ca}: {error}") from None
    # Python 3.13 refuses an authority without a key usage extension, as `openssl req` makes it by default.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _refusal(response: httpx.Response) -> Failure:
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {"detail": f"the answer to {response.request.method} {response.request.url.path} was"}
        problem["detail"] += f" {response.status_code} {response.reason_phrase}"
    return Refused(response.status_code, problem)


def _events(lines: Iterator[str]) -> Iterator[Event | None]:
    kind, data = "", ""
    for line in lines:
        if line == ":":
            yield None
        elif line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            data = line.removeprefix("data: ")
        elif line == "" and data:
            if kind == "unauthorized":
                raise Refused(401, {"kind": "not_authenticated", "detail": "the token is not valid any more"})
            if kind not in _ABOUT_THE_STREAM:
                event: Event = json.loads(data)
                yield event
            kind, data = "", ""
