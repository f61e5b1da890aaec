"""What was promised and what is owed, on disk: one SQLite file, one transaction for a record and its messages."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from infoscreen_reboot.agent.lifecycle import Record, State
from infoscreen_reboot.contract.command import Action

KEPT_RECORDS = 10_000
_FORMAT = 1
_TABLES = """
CREATE TABLE command (
    seq INTEGER PRIMARY KEY,
    command_id TEXT NOT NULL UNIQUE,
    content_digest TEXT NOT NULL,
    received_boot_id TEXT NOT NULL,
    command BLOB NOT NULL,
    action TEXT,
    state TEXT NOT NULL,
    decide_by_s REAL,
    expires_at_s REAL,
    started_boot_id TEXT,
    down_by_s REAL,
    came_by_transitional INTEGER NOT NULL,
    ack BLOB
) STRICT;
CREATE INDEX open_command ON command (seq) WHERE state NOT IN ('completed', 'failed');
CREATE TABLE outbox (seq INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, payload BLOB NOT NULL) STRICT;
CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
"""
_COLUMNS = tuple(Record.__dataclass_fields__)
_UPSERT = (
    f"INSERT INTO command ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) "
    f"ON CONFLICT (command_id) DO UPDATE SET {', '.join(f'{c} = excluded.{c}' for c in _COLUMNS[1:])}"
)
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM command"


class JournalError(Exception):
    """The journal cannot be read or written; the sentence says which file and why."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A message and the topic it goes to, both final."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Owed:
    """A letter that the broker has not acknowledged yet; `seq` gives the order."""

    seq: int
    letter: Letter


class Journal:
    """Open from construction to `close`. Every method raises JournalError and then has changed nothing."""

    def __init__(self, path: Path, read_only: bool = False) -> None:
        self._path = path
        mode = "ro" if read_only else "rwc"
        try:
            # No one else writes here, so a lock that lasts is a fault; waiting for it holds up the loop.
            address = f"file:{quote(str(path))}?mode={mode}"
            self._db = sqlite3.connect(address, uri=True, isolation_level=None, timeout=1)
            if not read_only:
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                self._prepare()
        except sqlite3.Error as error:
            raise JournalError(f"cannot open the journal {path}: {error}") from error

    def _prepare(self) -> None:
        (found,) = self._db.execute("PRAGMA user_version").fetchone()
        if found == 0:
            self._db.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {_FORMAT}; COMMIT;")
        elif found != _FORMAT:
            raise JournalError(f"cannot use the journal {self._path}: its format is {found}, not {_FORMAT}")

    def close(self) -> None:
        self._db.close()

    def commit(self, record: Record, letters: Sequence[Letter] = ()) -> None:
        """Record and letters, both or neither, on the disk when this returns."""
        with self._transaction("FULL") as db:
            db.execute(_UPSERT, [getattr(record, column) for column in _COLUMNS])
            self._owe(letters)
            # The bound is on disk space: an id this old is refused as expired anyway.
            db.execute(
                "DELETE FROM command WHERE state IN ('completed', 'failed') "
                "AND seq <= (SELECT max(seq) FROM command) - ?",
                [KEPT_RECORDS],
            )

    def owe_again(self, letters: Sequence[Letter]) -> None:
        """Queue letters that were committed before, unless they still wait; nothing is lost if power fails here."""
        with self._transaction("NORMAL") as db:
            waiting = {Letter(*row) for row in db.execute("SELECT topic, payload FROM outbox")}
            self._owe([letter for letter in letters if letter not in waiting])

    def _owe(self, letters: Sequence[Letter]) -> None:
        self._db.executemany(
            "INSERT INTO outbox (topic, payload) VALUES (?, ?)", [(x.topic, x.payload) for x in letters]
        )

    def owed(self, limit: int) -> list[Owed]:
        """The oldest letters that are owed, in order."""
        rows = self._rows("SELECT seq, topic, payload FROM outbox ORDER BY seq LIMIT ?", [limit])
        return [Owed(seq, Letter(topic, payload)) for seq, topic, payload in rows]

    def strike_out(self, seq: int) -> None:
        """The broker has it. Not flushed: if power fails now, the letter is sent once more, byte for byte."""
        with self._transaction("NORMAL") as db:
            db.execute("DELETE FROM outbox WHERE seq = ?", [seq])

    def owed_count(self) -> int:
        return int(self._rows("SELECT count(*) FROM outbox")[0][0])

    def find(self, command_id: str) -> Record | None:
        found = self._records("WHERE command_id = ?", [command_id])
        return found[0] if found else None

    def open_records(self) -> list[Record]:
        """Records that are not terminal, oldest first."""
        return self._records("WHERE state NOT IN ('completed', 'failed') ORDER BY seq")

    def last_records(self, limit: int) -> list[Record]:
        """The newest records, newest first."""
        return self._records("ORDER BY seq DESC LIMIT ?", [limit])

    def count(self, name: str) -> int:
        """One more of `name`, since the journal was made; the new total."""
        with self._transaction("NORMAL") as db:
            row = db.execute(
                "INSERT INTO counter VALUES (?, 1) ON CONFLICT DO UPDATE SET value = value + 1 RETURNING value",
                [name],
            ).fetchone()
        return int(row[0])

    def counters(self) -> dict[str, int]:
        return dict(self._rows("SELECT name, value FROM counter"))

    def check_writable(self) -> None:
        """Raises JournalError unless a transaction can be begun; writes nothing."""
        with self._transaction("NORMAL"):
            pass

    def _records(self, where: str, values: Sequence[Any] = ()) -> list[Record]:
        return [_record(row) for row in self._rows(f"{_SELECT} {where}", values)]

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise JournalError(f"cannot read the journal {self._path}: {error}") from error

    @contextmanager
    def _transaction(self, synchronous: str) -> Iterator[sqlite3.Connection]:
        try:
            self._db.execute(f"PRAGMA synchronous = {synchronous}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise JournalError(f"cannot write the journal {self._path}: {error}") from error


def _record(row: Sequence[Any]) -> Record:
    values = dict(zip(_COLUMNS, row, strict=True))
    values["state"] = State(values["state"])
    values["action"] = Action(values["action"]) if values["action"] is not None else None
    values["came_by_transitional"] = bool(values["came_by_transitional"])
    return Record(**values)
