"""A database of each kind: the same tests run on both. And a broker, with who speaks there."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import inspect, text

from infoscreen_reboot.controller.store.database import Database
from infoscreen_reboot.controller.store.tables import metadata
from tests import profiles  # noqa: F401  # it registers and chooses how long hypothesis tries
from tests.broker.conftest import Broker
from tests.controller.desk import NAMES, Desk
from tests.controller.played import Controller, PlayedClient, emptied, without_waits
from tests.controller.played_fleet import Fleet
from tests.controller.web import Web

POSTGRESQL = Path("/usr/lib/postgresql/17/bin")


class Server:
    """A PostgreSQL of our own, that listens on a socket in its folder only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        options = "--auth=trust", "--username=controller", "--no-sync", "--locale=C.UTF-8"
        subprocess.run([POSTGRESQL / "initdb", "-D", self.data, *options], check=True, capture_output=True)
        lines = "listen_addresses = ''", f"unix_socket_directories = '{folder}'", "max_connections = 50", "fsync = off"
        with (self.data / "postgresql.conf").open("a") as file:
            file.write("\n".join(lines) + "\n")

    @property
    def url(self) -> str:
        return f"postgresql:///postgres?host={self.folder}&user=controller"

    def bare(self) -> Database:
        """Without a table."""
        found = Database(self.url)
        with found.engine.begin() as db:
            db.execute(text("DROP SCHEMA public CASCADE"))
            db.execute(text("CREATE SCHEMA public"))
        return found

    def empty(self) -> Database:
        """With our tables, and nothing in them. They are made only where there are others: that takes longer."""
        found = Database(self.url)
        with found.engine.begin() as db:
            if set(inspect(db).get_table_names()) == set(metadata.tables):
                db.execute(text(emptied()))
                return found
        found.close()
        found = self.bare()
        metadata.create_all(found.engine)
        return found

    def start(self) -> None:
        log = self.folder / "log"
        subprocess.run(
            [POSTGRESQL / "pg_ctl", "-D", self.data, "-l", log, "-w", "start"], check=True, capture_output=True
        )

    def stop(self) -> None:
        subprocess.run(
            [POSTGRESQL / "pg_ctl", "-D", self.data, "-m", "immediate", "stop"], check=False, capture_output=True
        )


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    # The path of a socket has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    found = Server(folder)
    found.start()
    yield found
    found.stop()
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def empty_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with our tables, to be copied: to make them takes longer."""
    file = tmp_path_factory.mktemp("empty") / "controller.sqlite3"
    made = Database(f"sqlite:///{file}")
    metadata.create_all(made.engine)
    made.close()
    return file


@pytest.fixture
def sqlite(empty_sqlite: Path, tmp_path: Path) -> Iterator[Database]:
    found = Database(f"sqlite:///{shutil.copy(empty_sqlite, tmp_path)}")
    yield found
    found.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite")
        return
    found: Database = request.getfixturevalue("server").empty()
    yield found
    found.close()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    folder = tmp_path / "broker"
    folder.mkdir()
    found = Broker(folder)
    found.start()
    yield found
    found.kill()


@pytest.fixture
def controller(database: Database, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Controller]:
    without_waits(monkeypatch)
    found = Controller(database, broker)
    yield found
    found.consumer.end()


@pytest.fixture
def client(broker: Broker) -> Iterator[PlayedClient]:
    found = PlayedClient(broker, str(UUID(int=1)))
    found.come()
    yield found
    found.link.end()


@pytest.fixture
def web(database: Database) -> Web:
    return Web(database)


@pytest.fixture
def desk(
    sqlite: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Desk]:
    """On SQLite only: a command line sees HTTP, and the API is tried on both."""
    fleet = Fleet(sqlite, NAMES)
    home = tmp_path / "home"
    home.mkdir()
    with Path(os.devnull).open() as nothing, fleet.serving():
        monkeypatch.setattr("sys.stdin", nothing)
        yield Desk(fleet, home, capsys, monkeypatch)
