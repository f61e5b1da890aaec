"""The real API on a real socket, with clients whose commands are moved on as the engine does it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import uvicorn
from sqlalchemy import insert, select, update

from infoscreen_reboot.contract.ack import AckStatus, ErrorCode
from infoscreen_reboot.controller.api.access import Site
from infoscreen_reboot.controller.api.app import create_app
from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.lifecycle import Acked, Fact, Limits, Overdue, Published, Seen, Step
from infoscreen_reboot.controller.orders import House
from infoscreen_reboot.controller.store import commands, people
from infoscreen_reboot.controller.store.database import Database
from infoscreen_reboot.controller.store.tables import client, command, label, outbox
from infoscreen_reboot.controller.web.console import add_pages

OLD_BOOT, NEW_BOOT = str(UUID(int=1, version=4)), str(UUID(int=2, version=4))


def uuid(number: int) -> str:
    return str(UUID(int=number))


class Fleet:
    """Accepted clients that are online, a token for each role, and an operator who may shut down."""

    def __init__(self, database: Database, names: Sequence[str] = ()) -> None:
        self.database = database
        self.site = Site(database, House(), Limits(), self.wake)
        self.app = create_app(self.site)
        add_pages(self.app, self.site)
        self.tokens: dict[Role, str] = {}
        self.address = ""
        self.on_wake: Callable[[], None] | None = None
        self.uuids: dict[str, str] = {}
        with database.write() as tx:
            for role in Role:
                people.add_user(tx, f"an-{role}", role, may_shut_down=role is Role.ADMIN)
                made = people.add_token(tx, f"an-{role}", "test", role, True, None)
                self.tokens[role] = made.secret
        self.add(*names)

    def wake(self) -> None:
        """Called when a request has made something, and before its answer goes out: nobody need wait for anything."""
        if self.on_wake is not None:
            self.on_wake()

    def add(self, *names: str, site: str = "alpine", **columns: object) -> None:
        with self.database.write() as tx:
            for name in names:
                self.uuids[name] = str(columns.get("uuid", uuid(len(self.uuids) + 1)))
                values = {"standing": "accepted", "is_online": True, "heard_at": tx.now, "boot_id": OLD_BOOT}
                values |= {"uuid": self.uuids[name], "name": name} | columns
                tx.db.execute(insert(client).values(**values))
                tx.db.execute(insert(label).values(client_uuid=self.uuids[name], key="site", value=site))

    def change(self, name: str, /, **columns: object) -> None:
        with self.database.write() as tx:
            tx.db.execute(update(client).where(client.c.uuid == self.uuids[name]).values(**columns))

    def commands(self) -> dict[str, str]:
        """The ids of the commands that can be moved on, by the names of their clients."""
        with self.database.read() as tx:
            rows = tx.db.execute(select(command.c.client_uuid, command.c.id)).all()
        by_uuid = {row.client_uuid: row.id for row in rows}
        return {name: by_uuid[each] for name, each in self.uuids.items() if each in by_uuid}

    def learn(self, name: str, *facts: Fact) -> None:
        with self.database.write() as tx:
            commands.learn(tx, [(self.commands()[name], fact) for fact in facts], Limits())

    def send(self) -> None:
        """What lies in the outbox goes out, whenever it is due, and the broker has it."""
        with self.database.write() as tx:
            tx.db.execute(update(outbox).values(send_at=tx.now - timedelta(seconds=1)))
            letters = commands.to_send(tx, 10_000)
            commands.mark_sent(tx, letters, Limits())
            commands.learn(tx, [(letter.command_id, Published(tx.now)) for letter in letters], Limits())

    def start(self, name: str) -> None:
        with self.database.read() as tx:
            now = tx.now
        self.learn(name, Acked(now, AckStatus.ACCEPTED, OLD_BOOT), Acked(now, AckStatus.EXECUTION_STARTED, OLD_BOOT))

    def complete(self, name: str, boot_id: str = NEW_BOOT) -> None:
        """From `published` to the end; with the old boot id it only pretends."""
        self.start(name)
        with self.database.read() as tx:
            now = tx.now
        if boot_id != OLD_BOOT:
            self.learn(name, Seen(now, False, OLD_BOOT), Seen(now, True, boot_id))
        self.learn(name, Acked(now, AckStatus.COMPLETED, boot_id))

    def fail(self, name: str, message: str | None = "polkit denies it") -> None:
        with self.database.read() as tx:
            now = tx.now
        self.learn(name, Acked(now, AckStatus.FAILED, OLD_BOOT, ErrorCode.NOT_AUTHORIZED, message))

    def lose(self, name: str) -> None:
        self.start(name)
        with self.database.read() as tx:
            now = tx.now
        self.learn(name, Seen(now, False, OLD_BOOT), Overdue(now, Step.BACK))

    @contextlib.contextmanager
    def serving(self, path: Path | None = None, tls: tuple[Path, Path] | None = None) -> Iterator[str]:
        """On a port, also with a certificate and its key, or on a socket at `path`."""
        if path is None:
            listener = socket.create_server(("127.0.0.1", 0))
            self.address = f"http{'s' if tls else ''}://127.0.0.1:{listener.getsockname()[1]}"
        else:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(path))
            listener.listen(100)
            self.address = f"unix:{path}"
        cert, key = tls if tls is not None else (None, None)
        config = uvicorn.Config(
            self.app, http="h11", ws="none", log_level="critical", ssl_certfile=cert, ssl_keyfile=key
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield self.address
        finally:
            server.should_exit = self.app.state.is_stopping = True
            thread.join()
            listener.close()
