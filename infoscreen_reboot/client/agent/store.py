"""Keeps commands, boots and owed messages in one SQLite file; a record and its messages are one transaction."""

# A full disk stops nothing here: `make_room` has taken all the room while there was some. After that SQLite overwrites
# its log and the free pages of the database.

import contextlib
import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from infoscreen_reboot.client import disk
from infoscreen_reboot.client.agent.boot_report import Boot
from infoscreen_reboot.client.agent.lifecycle import Record, State
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.contract.telemetry import Cause

log = logging.getLogger(__name__)
T = TypeVar("T")

# In the state directory. The name has stayed the same since the first version.
STORE_NAME = "journal.sqlite3"
# So many commands that have ended and expired are kept for `history`. A command that has not expired is always kept.
KEPT_RECORDS = 1_000
# So many are kept of the refusals that the same message would get again at any time.
KEPT_REFUSALS = 100
KEPT_BOOTS = 100
_KEPT_IN_NEED = 50
# When so many messages wait for the broker, no new command is taken in. Only those taken in before add more.
OWED_BOUND = 1_000
_FORGET_EVERY = 100
# How many are forgotten in one transaction, which has to fit into the log.
_FORGET_AT_ONCE = 200
_FORGET_AGAIN_AFTER_S = 10.0
# 24 MB have room for the database, its log and the reserve, for all that once more, and for the helper's history.
_PAGE_BYTES = 4_096
_MOST_PAGES = 1_024
_PAGES_MADE = 1_000
# Kept for the open command and its messages: when only these pages are left, no new command is taken in.
_PAGES_FOR_THE_OPEN = 128
# We look for room every so many commits. So many commands, even of the largest size, take less than those pages.
_LOOK_EVERY = 16
# SQLite begins the log again when it holds so many pages. The last transaction before that may make it longer.
_LOG_PAGES = 750
_LOG_BYTES = 4_200_000
# Each entry changes the format before it into the next one. user_version in the file says which format it has.
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
    """
ALTER TABLE command ADD COLUMN keep_until_s REAL;
UPDATE command SET keep_until_s = CASE
    WHEN coalesce(json_extract(CAST(ack AS TEXT), '$.error_code'), '')
        IN ('invalid_schema', 'invalid_signature', 'wrong_client', 'expired') THEN NULL
    WHEN json_valid(CAST(command AS TEXT))
        THEN unixepoch(json_extract(CAST(command AS TEXT), '$.expires_at')) + 1
    END;
""",
)
_COLUMNS = tuple(Record.__dataclass_fields__)
_UPSERT = (
    f"INSERT INTO command ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) "
    f"ON CONFLICT (command_id) DO UPDATE SET {', '.join(f'{c} = excluded.{c}' for c in _COLUMNS[1:])}"
)
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM command"
_BOOT_COLUMNS = tuple(Boot.__dataclass_fields__)
_ENDED = "state IN ('completed', 'failed')"
_REMEMBER = "INSERT INTO fact VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value"
_BOOT_REPORT = "boot report"
_DAMAGED = sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT


class StoreError(Exception):
    """The store cannot be read or written; the sentence says which file and why."""


class StoreFull(StoreError):
    """There is no room, although all that is kept for this case was given up."""


class StoreBusy(StoreError):
    """Another process holds the file."""


class StoreUnusable(StoreError):
    """The file is not a store, is damaged, or has a newer format: waiting does not help."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A message and its topic; neither changes any more."""

    topic: str
    payload: bytes
    retain: bool = False


@dataclass(frozen=True, slots=True)
class Owed:
    """A letter that the broker has not acknowledged yet; `seq` gives the order."""

    seq: int
    letter: Letter


class Store:
    """Open from construction to `close`. If a method raises StoreError, it has changed nothing.

    If `see_boot`, `remember` or `count` cannot write, they raise only StoreUnusable: no promise depends on what they
    write. With `in_memory` nothing is written to the file. What can be read is known, but no open command goes on.
    """

    def __init__(
        self, path: Path, read_only: bool = False, in_memory: bool = False, now_s: Callable[[], float] = time.time
    ) -> None:
        self._path = path
        self.is_in_memory = in_memory
        self._is_handed_over = False
        self._now_s = now_s
        self._reserve = disk.Reserve(path.parent)
        self._synchronous = ""
        self._commits = 0
        self._not_counted: Counter[str] = Counter()
        self._is_noting = True
        self._has_made_room = False
        self._was_crowded = False
        self._forget_after_s = 0.0
        self._keeper: sqlite3.Connection | None = None
        if in_memory:
            self._db = self._copied()
            return
        try:
            self._db = _connect(path, "ro" if read_only else "rwc")
        except sqlite3.Error as error:
            raise self._fault("open", error) from error
        if read_only:
            return
        try:
            self._set_up()
            # The last connection that is closed deletes the log and the shared memory, and a full disk has no room to
            # make them again. A read-only connection cannot delete them, so `close` closes this one last.
            self._keeper = _connect(path, "ro")
            self._keeper.execute("SELECT count(*) FROM sqlite_master").fetchall()
        except sqlite3.Error as error:
            self.close()
            raise self._fault("open", error, is_start=True) from error
        except StoreError:
            self.close()
            raise

    def _copied(self) -> sqlite3.Connection:
        db = sqlite3.connect(":memory:", isolation_level=None)
        try:
            with contextlib.closing(_connect(self._path, "ro")) as source:
                source.backup(db)
            self._db = db
            self._prepare()
            self.examine()
        except (sqlite3.Error, StoreError) as error:
            log.warning("cannot read the store %s (%s): nothing is known of earlier commands", self._path, error)
            db.close()
            self._db = db = sqlite3.connect(":memory:", isolation_level=None)
            self._prepare()
        return db

    def _set_up(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        # So SQLite needs no room in /tmp, and does not overwrite a page with zeros when it becomes free.
        self._db.execute("PRAGMA temp_store = MEMORY")
        self._db.execute("PRAGMA secure_delete = OFF")
        self._db.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        # An older agent may have let the file grow larger: then it keeps its size.
        self._db.execute(f"PRAGMA max_page_count = {_MOST_PAGES}")
        self._prepare()

    def _prepare(self) -> None:
        (found,) = self._db.execute("PRAGMA user_version").fetchone()
        if found > len(_FORMATS):
            raise StoreUnusable(f"cannot use the store {self._path}: its format is {found}, not {len(_FORMATS)}")
        for number, changes in enumerate(_FORMATS[found:], found + 1):
            self._db.executescript(f"BEGIN IMMEDIATE; {changes} PRAGMA user_version = {number}; COMMIT;")

    def examine(self) -> None:
        """Read what a start needs. Raises StoreUnusable if this agent cannot understand it."""
        try:
            self._records("WHERE state NOT IN ('completed', 'failed')")
            self.last_boot()
            self.last_records(1)
            self.owed(1)
            self.counters()
            self.recall("")
        except StoreUnusable:
            raise
        except StoreError as error:
            cause = error.__cause__
            if isinstance(cause, sqlite3.Error) and _code(cause) == sqlite3.SQLITE_ERROR:
                raise StoreUnusable(str(error)) from cause  # a table or a column is missing
            raise

    def take_no_more(self) -> None:
        """All that it holds is in the file now. What came later would be known to nobody, so each write fails."""
        self._is_handed_over = True

    def close(self) -> None:
        """Close the database. Its log and its shared memory stay on the disk."""
        self._db.close()
        if self._keeper is not None:
            self._keeper.close()

    def commit(self, record: Record, letters: Sequence[Letter] = ()) -> None:
        """Write record and letters, both or neither. They are on the disk when this returns."""

        def work(db: sqlite3.Connection) -> None:
            db.execute(_UPSERT, [getattr(record, column) for column in _COLUMNS])
            self._owe(letters)
            if self._commits % _FORGET_EVERY == 0:
                self._forget(db, KEPT_RECORDS)

        self._write("FULL", work)
        self._commits += 1

    def _forget(self, db: sqlite3.Connection, kept: int) -> int:
        """Delete some commands that need not be known any more; returns how many.

        A refusal that is for all time has no `keep_until_s`, and such refusals are counted apart: a sender of rubbish
        must not push out commands that could be executed if they came again.
        """
        expired = db.execute(_forget_the_oldest("keep_until_s <= ?1"), [self._now_s(), kept]).rowcount
        return expired + db.execute(_forget_the_oldest("?1 IS keep_until_s"), [None, min(kept, KEPT_REFUSALS)]).rowcount

    def owe_again(self, letters: Sequence[Letter]) -> None:
        """Queue letters once more, unless they still wait. Not flushed: what they say was committed before."""

        def work(db: sqlite3.Connection) -> None:
            waiting = self._waiting()
            self._owe([letter for letter in letters if letter not in waiting])

        self._write("NORMAL", work)

    def owes_any(self, letters: Sequence[Letter]) -> bool:
        """Whether any of the letters still waits for the broker."""
        return not self._waiting().isdisjoint(letters)

    def _waiting(self) -> set[Letter]:
        return {_letter(*row) for row in self._rows("SELECT topic, payload, retain FROM outbox")}

    def _owe(self, letters: Sequence[Letter]) -> None:
        self._db.executemany(
            "INSERT INTO outbox (topic, payload, retain) VALUES (?, ?, ?)",
            [(x.topic, x.payload, x.retain) for x in letters],
        )

    def why_no_new_command(self) -> str | None:
        """Why no new command can be taken in, in a sentence; None if one can be. Raises StoreError."""
        owed = self.owed_count()
        if owed >= OWED_BOUND:
            return f"{owed} messages wait for the broker's acknowledgement; until it comes no command is taken in"
        if self._was_crowded or self._commits % _LOOK_EVERY == 0:
            self._was_crowded = self._is_crowded() and not self._has_forgotten()
        if self._was_crowded:
            return "this client has no room for another command until those that it knows have expired"
        return None

    def _is_crowded(self) -> bool:
        if self.is_in_memory:
            return self._pages("page_count") - self._pages("freelist_count") > _MOST_PAGES - _PAGES_FOR_THE_OPEN
        left = self._pages("max_page_count") - self._pages("page_count") + self._pages("freelist_count")
        return left < _PAGES_FOR_THE_OPEN

    def _pages(self, what: str) -> int:
        return int(self._rows(f"PRAGMA {what}")[0][0])

    def _has_forgotten(self) -> bool:
        """Forget what may be forgotten, at most every few seconds; returns whether there is room now."""
        if time.monotonic() < self._forget_after_s:
            return False
        while self._is_crowded():
            if not self._write("NORMAL", lambda db: self._forget(db, _KEPT_IN_NEED)):
                self._forget_after_s = time.monotonic() + _FORGET_AGAIN_AFTER_S
                return False
        return True

    def owed(self, limit: int, besides: Collection[int] = (), not_on: Sequence[str] = ()) -> list[Owed]:
        """The oldest owed letters, in order, `besides` those with these numbers and `not_on` these topics."""
        where = f"WHERE topic NOT IN ({', '.join('?' * len(not_on))})" if not_on else ""
        query = f"SELECT seq, topic, payload, retain FROM outbox {where} ORDER BY seq LIMIT ?"
        rows = self._rows(query, [*not_on, limit + len(besides)])
        return [Owed(seq, _letter(*letter)) for seq, *letter in rows if seq not in besides][:limit]

    def strike_out(self, letters: Sequence[int]) -> None:
        """Delete letters that the broker has. Not flushed: if power fails now, the same bytes are sent once more."""
        rows = [[seq] for seq in letters]
        self._write("NORMAL", lambda db: db.executemany("DELETE FROM outbox WHERE seq = ?", rows))

    def forget_owed(self, topic: str) -> int:
        """Owe nothing on this topic any more; returns how many letters that were."""
        return self._write("NORMAL", lambda db: db.execute("DELETE FROM outbox WHERE topic = ?", [topic]).rowcount)

    def owed_count(self) -> int:
        return int(self._rows("SELECT count(*) FROM outbox")[0][0])

    def find(self, command_id: str) -> Record | None:
        found = self._records("WHERE command_id = ?", [command_id])
        return found[0] if found else None

    def open_records(self) -> list[Record]:
        """Records that are not terminal, oldest first."""
        if self.is_in_memory:
            return []  # they end, and their acks are sent, when the file can be written again
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
        """Count one more of `name`; returns the total of this store. What cannot be written is added later."""
        self._not_counted[name] += 1
        adding = list(self._not_counted.items())
        add = "INSERT INTO counter VALUES (?, ?) ON CONFLICT DO UPDATE SET value = value + excluded.value"
        if self._note(lambda db: db.executemany(add, adding)):
            self._not_counted.clear()
        return self.counters()[name]

    def counters(self) -> dict[str, int]:
        return dict(Counter(dict(self._rows("SELECT name, value FROM counter"))) + self._not_counted)

    def executed_in(self, boot_id: str) -> str | None:
        """The id of the command whose execution started in that boot, unless it has failed."""
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
        return self._parse_row(_boot, rows[0]) if rows else None

    def open_boot(self, boot: Boot) -> None:
        """Write down a boot that the store does not know yet, or of which it knows less."""
        values = [getattr(boot, column) for column in _BOOT_COLUMNS]

        def work(db: sqlite3.Connection) -> None:
            places = ", ".join("?" * len(values))
            db.execute(f"INSERT OR REPLACE INTO boot ({', '.join(_BOOT_COLUMNS)}) VALUES ({places})", values)
            db.execute("DELETE FROM boot WHERE seq <= (SELECT max(seq) FROM boot) - ?", [KEPT_BOOTS])

        self._write("FULL", work)

    def see_boot(self, boot_id: str, at: str) -> None:
        """Note that the host is up at that time. Not flushed: after a loss of power an older time may be found."""
        self._note(lambda db: db.execute("UPDATE boot SET last_seen_at = ? WHERE boot_id = ?", [at, boot_id]))

    def mark_shutdown(self, boot_id: str, at: str, began: bool = True) -> None:
        """Write down that an orderly shutdown of the host has begun, or that it was taken back."""
        mark = "UPDATE boot SET shutdown_began = ?, last_seen_at = ? WHERE boot_id = ?"
        self._write("FULL", lambda db: db.execute(mark, [began, at, boot_id]))

    def report_boot(self, boot_id: str, report: Letter) -> None:
        """From now on the report is owed, and the boot counts as reported."""

        def work(db: sqlite3.Connection) -> None:
            db.execute("UPDATE boot SET is_reported = 1 WHERE boot_id = ?", [boot_id])
            self._owe([report])
            db.execute(_REMEMBER, [_BOOT_REPORT, report.payload.decode()])

        self._write("FULL", work)

    def last_boot_report(self) -> bytes | None:
        """The newest report that was owed, delivered or not; None if an older version of the agent wrote it."""
        text = self.recall(_BOOT_REPORT)
        return text.encode() if text is not None else None

    def remember(self, name: str, value: str) -> None:
        """Store a fact for later runs of the agent; not flushed."""
        self._note(lambda db: db.execute(_REMEMBER, [name, value]))

    def recall(self, name: str) -> str | None:
        rows = self._rows("SELECT value FROM fact WHERE name = ?", [name])
        return rows[0][0] if rows else None

    def has_room(self) -> bool:
        """Whether an earlier run has taken the room already. Raises StoreError."""
        return self.is_in_memory or self._pages("page_count") >= _PAGES_MADE

    def make_room(self) -> None:
        """Take all the room that will ever be needed, while there is some. Raises StoreError.

        The log gets its full size, and the database its free pages. A reserve is made, and given up before any write
        fails. This also makes flushes faster: if a write only overwrites, its flush need not wait until the file system
        has committed its metadata.
        """
        if self.is_in_memory:
            return
        self._has_made_room = True
        while self._write("NORMAL", lambda db: self._forget(db, KEPT_RECORDS)):
            pass
        self._take_room()

    def _take_room(self) -> None:
        try:
            self._lengthen_log()
            self._enlarge_database()
            self._reserve.make()
        except OSError as error:
            raise StoreFull(f"cannot make room for the store {self._path}: {error}") from error

    def _lengthen_log(self) -> None:
        """Append zeros to the log: SQLite ignores what follows the frames that it has written."""
        path = self._path.with_name(f"{self._path.name}-wal")
        missing = _LOG_BYTES - path.stat().st_size
        if missing > 0:
            disk.check_room(path.parent, missing)
            with path.open("ab", buffering=0) as file:
                file.write(bytes(missing))

    def _enlarge_database(self) -> None:
        """Make a table and drop it again: its pages stay in the file and are free."""
        drop = "DROP TABLE IF EXISTS room"
        self._write("NORMAL", lambda db: db.execute(drop))  # it is still there if the power failed in between
        missing = _PAGES_MADE - self._pages("page_count")
        if missing > 0:
            # If the room ended half-way, the half would be in the log, and SQLite could not begin the log again.
            disk.check_room(self._path.parent, missing * _PAGE_BYTES)
            self._rows("PRAGMA cache_size = 10")
            try:
                self._write("NORMAL", lambda db: _take(db, missing))
                self._rows("PRAGMA wal_checkpoint(PASSIVE)")
                self._write("NORMAL", lambda db: db.execute(drop))
            finally:
                self._rows("PRAGMA cache_size = -2000")

    def is_short_of_room(self) -> bool:
        """Whether the disk is full. If it is not, the room that was given up is taken again."""
        if disk.is_full(self._path.parent):
            return True
        if self._has_made_room:
            try:
                self._take_room()
            except StoreError:
                return True
        return False

    def check_writable(self) -> None:
        """Write a small transaction to the log on the disk, not flushed. Raises StoreError if that fails."""
        self._write("NORMAL", lambda db: db.execute(_REMEMBER, ["checked", str(self._now_s())]))

    def _records(self, where: str, values: Sequence[Any] = ()) -> list[Record]:
        return [self._parse_row(_record, row) for row in self._rows(f"{_SELECT} {where}", values)]

    def _parse_row(self, read: Callable[[Sequence[Any]], T], row: Sequence[Any]) -> T:
        try:
            return read(row)
        except (ValueError, TypeError) as error:
            raise StoreUnusable(f"cannot read a row of the store {self._path}: {error}") from error

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise self._fault("read", error) from error

    def _note(self, work: Callable[[sqlite3.Connection], object]) -> bool:
        """Write what no promise depends on; returns whether that worked. A failure is logged once and ends nothing."""
        try:
            self._write("NORMAL", work)
        except StoreUnusable:
            raise
        except StoreError as error:
            if self._is_noting:
                log.error("%s; until that is mended, counters and times may be old after a restart", error)
            self._is_noting = False
            return False
        self._is_noting = True
        return True

    def _write(self, synchronous: str, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work` in one transaction. If there is no room, give up what is kept for this case, and try again."""
        while True:
            try:
                return self._try(synchronous, work)
            except StoreFull as error:
                if not self._make_way(error):
                    raise

    def _make_way(self, error: StoreFull) -> bool:
        if self.is_in_memory:
            return False
        if self._reserve.give_up():
            log.warning("%s; the reserve is given up", error)
            return True
        try:
            forgotten = self._try("NORMAL", lambda db: self._forget(db, _KEPT_IN_NEED))
        except StoreError:
            return False
        return forgotten > 0

    def _try(self, synchronous: str, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._is_handed_over:
            raise StoreError("the state in memory was handed over to the disk; it takes nothing more")
        try:
            if synchronous != self._synchronous:
                self._db.execute(f"PRAGMA synchronous = {synchronous}")
                self._synchronous = synchronous
            self._db.execute("BEGIN IMMEDIATE")
            try:
                result = work(self._db)
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise self._fault("write", error) from error
        return result

    def _fault(self, verb: str, error: sqlite3.Error, is_start: bool = False) -> StoreError:
        sentence = f"cannot {verb} the store {self._path}: {error}"
        code = _code(error)
        if code in _DAMAGED or (is_start and code == sqlite3.SQLITE_ERROR):
            return StoreUnusable(sentence)
        if code == sqlite3.SQLITE_FULL:
            return StoreFull(sentence)
        # For the shared memory, or for a new file, SQLite does not say that the disk is full.
        if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and disk.is_full(self._path.parent):
            return StoreFull(sentence)
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return StoreBusy(sentence)
        return StoreError(sentence)


def _forget_the_oldest(condition: str) -> str:
    """SQL that deletes ended commands for which the condition holds, but keeps the newest ?2 of them."""
    such = f"SELECT seq FROM command WHERE {_ENDED} AND {condition}"
    newest_to_go = f"{such} ORDER BY seq DESC LIMIT 1 OFFSET ?2"
    return f"DELETE FROM command WHERE seq IN ({such} AND seq <= ({newest_to_go}) ORDER BY seq LIMIT {_FORGET_AT_ONCE})"


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    # Nobody else writes here, so a lock that lasts is a fault. To wait longer for it would hold up the loop.
    return sqlite3.connect(f"file:{quote(str(path))}?mode={mode}", uri=True, isolation_level=None, timeout=1)


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 if the error comes from Python's module itself."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _take(db: sqlite3.Connection, pages: int) -> None:
    db.execute("CREATE TABLE room (content BLOB)")
    db.execute("INSERT INTO room VALUES (zeroblob(?))", [pages * _PAGE_BYTES])


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
