"""Opens SQLite or PostgreSQL and runs transactions; one writer at a time on both, by the database's own clock."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, RowMapping, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from infoscreen_reboot.controller.store.tables import to_moment

# A row as it was read: its columns by their names. Others need no import of SQLAlchemy for it.
Row = RowMapping
# How long a writer waits for another one, in another process too.
BUSY_S = 30
# SQLite's log stays at its largest size; without this, it is 133 MB after an import of 10,000 clients (measured).
_LOG_BYTES = 16 << 20
# PostgreSQL: the lock that every writing transaction takes first. The number means nothing; it is ours.
_WRITER = 0x1F05C2EE
_CONNECTIONS = 10
# PostgreSQL: an instance that was stopped within a transaction (SIGSTOP, a virtual machine that sleeps) would else keep
# the writer's lock from all others until it is continued.
_IDLE_S = 10


class StoreError(Exception):
    """The database cannot be used now. The sentence is for an operator."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """`now` is the database's clock at the beginning: instances that share a database share its clock."""

    db: Connection
    now: datetime

    @property
    def is_sqlite(self) -> bool:
        return self.db.dialect.name == "sqlite"


class Database:
    """`url` as SQLAlchemy reads it: `sqlite:////path/file` or `postgresql+psycopg://…`. Raises StoreError."""

    def __init__(self, url: str | URL) -> None:
        try:
            self.url = _with_driver(make_url(url))
        except ArgumentError as error:
            raise StoreError(f"cannot read the address of the database: {error}") from None
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._writer = threading.Lock()
        self.engine = self._new_engine()

    @property
    def address(self) -> str:
        """For people: without the password."""
        return self.url.render_as_string(hide_password=True)

    @property
    def file(self) -> Path | None:
        """Of SQLite."""
        return Path(self.url.database) if self.is_sqlite and self.url.database else None

    def _new_engine(self) -> Engine:
        if not self.is_sqlite:
            options = f"-c lock_timeout={BUSY_S}s -c idle_in_transaction_session_timeout={_IDLE_S}s"
            connect_args = {"options": options}
            return create_engine(self.url, pool_size=_CONNECTIONS, pool_pre_ping=True, connect_args=connect_args)
        engine = create_engine(
            self.url,
            poolclass=QueuePool,
            pool_size=_CONNECTIONS,
            connect_args={"timeout": BUSY_S, "check_same_thread": False},
        )
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin)
        return engine

    @contextlib.contextmanager
    def write(self) -> Iterator[Transaction]:
        """A transaction that is alone with the database; it is committed at the end, and rolled back on any exception.

        Whoever reads before it writes may not be overtaken in between. SQLite would refuse the write then
        (SQLITE_BUSY_SNAPSHOT), whatever the timeout; in PostgreSQL two callers would both pass a rule.
        """
        with self._writer, _errors(), self.engine.connect() as db:
            if self.is_sqlite:
                db = db.execution_options(writes=True)
            with db.begin():
                if not self.is_sqlite:
                    db.execute(text(f"SELECT pg_advisory_xact_lock({_WRITER})"))
                yield Transaction(db, _now(db))

    @contextlib.contextmanager
    def read(self) -> Iterator[Transaction]:
        """One consistent view."""
        with _errors(), self.engine.connect() as db:
            if not self.is_sqlite:
                db = db.execution_options(isolation_level="REPEATABLE READ")
            with db.begin():
                yield Transaction(db, _now(db))

    def run_alone(self, statement: str, **values: str) -> None:
        """For what SQLite refuses within a transaction. Raises StoreError."""
        with _errors(), self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
            db.execute(text(statement), values)

    def close(self) -> None:
        self.engine.dispose()


def _with_driver(url: URL) -> URL:
    match url.drivername:
        case "postgresql" | "postgres":
            return url.set(drivername="postgresql+psycopg")
        case "sqlite" | "postgresql+psycopg":
            return url
    raise ArgumentError(f"{url.drivername} is neither sqlite nor postgresql")


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver begins no transaction: we do
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")


def _begin(db: Connection) -> None:
    options = db.get_execution_options()
    if options.get("isolation_level") != "AUTOCOMMIT":
        db.exec_driver_sql("BEGIN IMMEDIATE" if options.get("writes") else "BEGIN DEFERRED")


def _now(db: Connection) -> datetime:
    """SQLite has no clock of its own: it runs in this process, so this machine's clock is the database's."""
    if db.dialect.name == "sqlite":
        statement = "SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) * 1000"
    else:
        statement = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)"
    return to_moment(db.execute(text(statement)).scalar_one())


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        raise StoreError(f"the database says: {str(error.orig).strip().splitlines()[0]}") from error
    except SQLAlchemyError as error:
        raise StoreError(f"cannot use the database: {error}") from error
