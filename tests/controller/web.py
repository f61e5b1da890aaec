"""The API as a caller has it: the app, a token for each role, three clients, and a real server that can stream."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn
from fastapi.testclient import TestClient

from infoscreen_reboot.controller.api.access import Site
from infoscreen_reboot.controller.api.app import PREFIX, create_app
from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.lifecycle import Limits
from infoscreen_reboot.controller.oidc import Provider
from infoscreen_reboot.controller.orders import House
from infoscreen_reboot.controller.store import people
from infoscreen_reboot.controller.store.database import Database
from infoscreen_reboot.controller.web.console import add_pages
from tests.controller.test_orders import site as some_clients


class Web:
    """The app, a token for each role, and three clients that are online."""

    def __init__(self, database: Database, first: Web | None = None, provider: Provider | None = None) -> None:
        self.database = database
        self.woken = 0
        site = Site(database, House(), Limits(), self.wake, lambda: {"health": 3}, provider=provider)
        self.app = create_app(site)
        add_pages(self.app, site)
        self.client = TestClient(self.app, raise_server_exceptions=False)
        self.uuids: list[str] = first.uuids if first else []
        self.tokens: dict[Role, people.NewToken] = first.tokens if first else {}
        if first is None:
            self._fill()

    def _fill(self) -> None:
        with self.database.write() as tx:
            self.uuids = some_clients(tx, 3)
            for role in Role:
                people.add_user(tx, f"a {role}", role, may_shut_down=False)
                self.tokens[role] = people.add_token(tx, f"a {role}", "test", role, False, None)

    @contextlib.contextmanager
    def again(self) -> Iterator[Web]:
        """Another instance on the same database, with connections of its own; or the same one after a restart."""
        database = Database(self.database.engine.url.render_as_string(hide_password=False))
        yield Web(database, self)
        database.close()

    def wake(self) -> None:
        self.woken += 1

    def call(self, method: str, path: str, role: Role | None = Role.OPERATOR, **options: Any) -> Any:
        headers = dict(options.pop("headers", {}))
        if role is not None:
            headers["Authorization"] = f"Bearer {self.tokens[role].secret}"
        address = path if path == "/metrics" else PREFIX + path
        return self.client.request(method, address, headers=headers, **options)

    def order(self, number: int = 0, **more: Any) -> Any:
        content = {"action": "reboot_host", "client_uuid": self.uuids[number], **more}
        return self.call("POST", "/commands", json=content)

    def preview(self, **more: Any) -> Any:
        content = {"action": "reboot_host", "selector": "site=alpine", **more}
        return self.call("POST", "/batches/preview", json=content).json()


def kind(response: Any) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json", response.text
    return response.status_code, response.json()["kind"]


@contextlib.contextmanager
def serving(web: Web) -> Iterator[str]:
    """A real server: the test client gives a stream only when it has ended."""
    # asyncio sets TCP_NODELAY only where the protocol is named: each answer would take 40 ms without.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(100)
    server = uvicorn.Server(uvicorn.Config(web.app, http="h11", ws="none", log_level="critical"))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}{PREFIX}"
    finally:
        server.should_exit = web.app.state.is_stopping = True
        thread.join()
