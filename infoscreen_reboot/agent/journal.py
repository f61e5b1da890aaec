"""What was promised and what is owed, on disk: one SQLite file, one transaction for a record and its messages."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from infoscreen_reboot.agent.boots import Boot
from infoscreen_reboot.agent.lifecycle import Record, State
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.contract.telemetry import Cause

KEPT_RECORDS = 10_000
KEPT_BOOTS = 100
_FORGET_EVERY = 100
# SQLite begins the log anew when it holds 1,000 pages of 4,096 bytes.
_ROOM_BYTES = 4_200_000
# What makes each format of the one before it; the file says in user_version which it has.
_FORMATS = (
    """
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
""",
    """
ALTER TABLE outbox ADD COLUMN retain INTEGER NOT NULL DEFAULT 0;
CREATE TABLE boot (
    seq INTEGER PRIMARY KEY,
    boot_id TEXT NOT NULL UNIQUE,
    last_seen_at TEXT NOT NULL,
    shutdown_began INTEGER NOT NULL,
    previous_boot_id TEXT,
    previous_last_seen_at TEXT,
    clean_shutdown INTEGER NOT NULL,
    cause TEXT NOT NULL,
    command_id TEXT,
    is_reported INTEGER NOT NULL
) STRICT;
CREATE TABLE fact (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
""",
    """
ALTER TABLE command DROP COLUMN content_digest;
ALTER TABLE outbox RENAME TO old_outbox;
CREATE TABLE outbox (
    seq INTEGER PRIMARY KEY, topic TEXT NOT NULL, payload BLOB NOT NULL, retain INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO outbox SELECT * FROM old_outbox;
DROP TABLE old_outbox;
""",
)
_COLUMNS = tuple(Record.__dataclass_fields__)
_UPSERT = (
    f"INSERT INTO command ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) "
    f"ON CONFLICT (command_id) DO UPDATE SET {', '.join(f'{c} = excluded.{c}' for c in _COLUMNS[1:])}"
)
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM command"
_BOOT_COLUMNS = tuple(Boot.__dataclass_fields__)


class JournalError(Exception):
    """The journal cannot be read or written; the sentence says which file and why."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A message and the topic it goes to, both final."""

    topic: str
    payload: bytes
    retain: bool = False


@dataclass(frozen=True, slots=True)
class Owed:
    """A letter that the broker has not acknowledged yet; `seq` gives the order."""

    seq: int
    letter: Letter


class Journal:
    """Open from construction to `close`. Every method raises JournalError and then has changed nothing."""

    def __init__(self, path: Path, read_only: bool = False) -> None:
        self._path = path
        self._synchronous = ""
        self._commits = 0
        mode = "ro" if read_only else "rwc"
        try:
            # No one else writes here, so a lock that lasts is a fault; waiting for it holds up the loop.
            address = f"file:{quote(str(path))}?mode={mode}"
            self._db = sqlite3.connect(address, uri=True, isolation_level=None, timeout=1)
            if not read_only:
                self._db.execute("PRAGMA journal_mode = WAL")
                self._prepare()
        except sqlite3.Error as error:
            raise JournalError(f"cannot open the journal {path}: {error}") from error

    def _prepare(self) -> None:
        (found,) = self._db.execute("PRAGMA user_version").fetchone()
        if found > len(_FORMATS):
            raise JournalError(f"cannot use the journal {self._path}: its format is {found}, not {len(_FORMATS)}")
        for number, changes in enumerate(_FORMATS[found:], found + 1):
            self._db.executescript(f"BEGIN IMMEDIATE; {changes} PRAGMA user_version = {number}; COMMIT;")

    def close(self) -> None:
        self._db.close()

    def commit(self, record: Record, letters: Sequence[Letter] = ()) -> None:
        """Record and letters, both or neither, on the disk when this returns."""
        with self._transaction("FULL") as db:
            db.execute(_UPSERT, [getattr(record, column) for column in _COLUMNS])
            self._owe(letters)
            if self._commits % _FORGET_EVERY == 0:
                # The bound is on disk space: an id this old is refused as expired anyway.
                db.execute(
                    "DELETE FROM command WHERE state IN ('completed', 'failed') "
                    "AND seq <= (SELECT max(seq) FROM command) - ?",
                    [KEPT_RECORDS],
                )
            self._commits += 1

    def owe_again(self, letters: Sequence[Letter]) -> None:
        """Queue letters that were committed before, unless they still wait; nothing is lost if power fails here."""
        with self._transaction("NORMAL") as db:
            waiting = {_letter(*row) for row in db.execute("SELECT topic, payload, retain FROM outbox")}
            self._owe([letter for letter in letters if letter not in waiting])

    def _owe(self, letters: Sequence[Letter]) -> None:
        self._db.executemany(
            "INSERT INTO outbox (topic, payload, retain) VALUES (?, ?, ?)",
            [(x.topic, x.payload, x.retain) for x in letters],
        )

    def owed(self, limit: int, after: int = 0) -> list[Owed]:
        """The oldest letters that are owed, in order, of those that come after one."""
        query = "SELECT seq, topic, payload, retain FROM outbox WHERE seq > ? ORDER BY seq LIMIT ?"
        rows = self._rows(query, [after, limit])
        return [Owed(seq, _letter(*letter)) for seq, *letter in rows]

    def strike_out(self, letters: Sequence[int]) -> None:
        """The broker has them. Not flushed: if power fails now, they are sent once more, byte for byte."""
        with self._transaction("NORMAL") as db:
            db.executemany("DELETE FROM outbox WHERE seq = ?", [[seq] for seq in letters])

    def owed_count(self) -> int:
        return int(self._rows("SELECT count(*) FROM outbox")[0][0])

    def find(self, command_id: str) -> Record | None:
        found = self._records("WHERE command_id = ?", [command_id])
        return found[0] if found else None

    def open_records(self) -> list[Record]:
        """Records that are not terminal, oldest first."""
        return self._records("WHERE state NOT IN ('completed', 'failed') ORDER BY seq")

    def open_id(self) -> str | None:
        """The id of the oldest record that is not terminal."""
        rows = self._rows(
            "SELECT command_id FROM command WHERE state NOT IN ('completed', 'failed') ORDER BY seq LIMIT 1"
        )
        return rows[0][0] if rows else None

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

    def executed_in(self, boot_id: str) -> str | None:
        """The id of the command whose execution started in that boot, unless it was refused there."""
        rows = self._rows(
            "SELECT command_id FROM command WHERE started_boot_id = ? AND state != 'failed' ORDER BY seq DESC",
            [boot_id],
        )
        return rows[0][0] if rows else None

    def last_executed(self) -> Record | None:
        """The newest command whose execution was started."""
        found = self._records("WHERE down_by_s IS NOT NULL ORDER BY seq DESC LIMIT 1")
        return found[0] if found else None

    def last_boot(self) -> Boot | None:
        rows = self._rows(f"SELECT {', '.join(_BOOT_COLUMNS)} FROM boot ORDER BY seq DESC LIMIT 1")
        return _boot(rows[0]) if rows else None

    def open_boot(self, boot: Boot) -> None:
        """A boot of which the journal knows nothing yet."""
        values = [getattr(boot, column) for column in _BOOT_COLUMNS]
        with self._transaction("FULL") as db:
            db.execute(f"INSERT INTO boot ({', '.join(_BOOT_COLUMNS)}) VALUES ({', '.join('?' * len(values))})", values)
            db.execute("DELETE FROM boot WHERE seq <= (SELECT max(seq) FROM boot) - ?", [KEPT_BOOTS])

    def see_boot(self, boot_id: str, at: str) -> None:
        """The host is up at that moment. Not flushed: after a loss of power an older moment may be found."""
        with self._transaction("NORMAL") as db:
            db.execute("UPDATE boot SET last_seen_at = ? WHERE boot_id = ?", [at, boot_id])

    def mark_shutdown(self, boot_id: str, at: str, began: bool = True) -> None:
        """An orderly shutdown of the host has begun, or was taken back."""
        with self._transaction("FULL") as db:
            db.execute("UPDATE boot SET shutdown_began = ?, last_seen_at = ? WHERE boot_id = ?", [began, at, boot_id])

    def report_boot(self, boot_id: str, report: Letter) -> None:
        """The report is owed from now on, and counts as made."""
        with self._transaction("FULL") as db:
            db.execute("UPDATE boot SET is_reported = 1 WHERE boot_id = ?", [boot_id])
            self._owe([report])

    def remember(self, name: str, value: str) -> None:
        """A fact that is to be known after a restart of the agent; not flushed."""
        with self._transaction("NORMAL") as db:
            db.execute("INSERT INTO fact VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", [name, value])

    def recall(self, name: str) -> str | None:
        rows = self._rows("SELECT value FROM fact WHERE name = ?", [name])
        return rows[0][0] if rows else None

    def make_room(self) -> None:
        """Let the write-ahead log have its full size now, so that no commit has to wait for it to grow.

        A flush of what only overwrites does not wait for the file system's own journal, which all others wait for, too.
        What is rolled back was written to the file all the same, because it did not fit in the cache.
        """
        self._rows("PRAGMA cache_size = 10")
        try:
            with self._transaction("NORMAL") as db:
                db.execute("INSERT INTO outbox (topic, payload) VALUES ('', zeroblob(?))", [_ROOM_BYTES])
                db.execute("ROLLBACK")
                db.execute("BEGIN")  # for the commit that follows, of nothing
        finally:
            self._rows("PRAGMA cache_size = -2000")

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
            if synchronous != self._synchronous:
                self._db.execute(f"PRAGMA synchronous = {synchronous}")
                self._synchronous = synchronous
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise JournalError(f"cannot write the journal {self._path}: {error}") from error


def _letter(topic: str, payload: bytes, retain: int) -> Letter:
    return Letter(topic, payload, bool(retain))


def _boot(row: Sequence[Any]) -> Boot:
    values = dict(zip(_BOOT_COLUMNS, row, strict=True))
    flags = {name: bool(values[name]) for name in ("shutdown_began", "clean_shutdown", "is_reported")}
    return Boot(**values | flags | {"cause": Cause(values["cause"])})


def _record(row: Sequence[Any]) -> Record:
    values = dict(zip(_COLUMNS, row, strict=True))
    values["state"] = State(values["state"])
    values["action"] = Action(values["action"]) if values["action"] is not None else None
    values["came_by_transitional"] = bool(values["came_by_transitional"])
    return Record(**values)
