"""What was promised and what is owed, on disk: one SQLite file, one transaction for a record and its messages.

Nothing here needs more room on the disk than `make_room` has taken while there was some: SQLite overwrites its log and
the free pages of the database. So a full disk stops nobody.
"""

import contextlib
import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from infoscreen_reboot.agent import disk
from infoscreen_reboot.agent.boots import Boot
from infoscreen_reboot.agent.lifecycle import Record, State
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.contract.telemetry import Cause

log = logging.getLogger(__name__)
T = TypeVar("T")

# Of the commands that have ended and expired, so many are kept for `history`; the others are kept until they expire.
KEPT_RECORDS = 1_000
# Of the refusals that the same message would get again at any time, so many.
KEPT_REFUSALS = 100
KEPT_BOOTS = 100
_KEPT_IN_NEED = 50
# More messages than this wait for the broker only if they belong to a command that was taken in before.
OWED_BOUND = 1_000
_FORGET_EVERY = 100
# In one transaction, which has to fit into the log.
_FORGET_AT_ONCE = 200
_FORGET_AGAIN_AFTER_S = 10.0
# On 24 MB there is room for the database, its log and the reserve, for all that once more, and for the helper's record.
_PAGE_BYTES = 4_096
_MOST_PAGES = 1_024
_PAGES_MADE = 1_000
# What the open command and what is told of it may still take when no new command is taken in any more.
_PAGES_FOR_THE_OPEN = 128
# So many commands take less than that, the largest that there are.
_LOOK_EVERY = 16
# SQLite begins the log anew when it holds so many pages; what the last transaction before that needs comes on top.
_LOG_PAGES = 750
_LOG_BYTES = 4_200_000
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
_DAMAGED = sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT


class JournalError(Exception):
    """The journal cannot be read or written; the sentence says which file and why."""


class JournalFull(JournalError):
    """There is no room, though all that is kept for this case was given up."""


class JournalBusy(JournalError):
    """Another process holds the file."""


class JournalUnusable(JournalError):
    """What the file holds is not a journal, is damaged, or is of a newer format: it does not get better by waiting."""


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
    """Open from construction to `close`. Every method raises JournalError and then has changed nothing.

    What is only noted (`see_boot`, `remember`, `count`) raises only JournalUnusable: no promise rests on it.
    With `in_memory` nothing is written to the file; what can be read of it is known, but no open command is taken up.
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
            # The last connection that is closed deletes the log and the shared memory, which cannot be made again on a
            # full disk. One that may only read cannot delete, so `close` closes such a one last.
            self._keeper = _connect(path, "ro")
            self._keeper.execute("SELECT count(*) FROM sqlite_master").fetchall()
        except sqlite3.Error as error:
            self.close()
            raise self._fault("open", error, is_start=True) from error
        except JournalError:
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
        except (sqlite3.Error, JournalError) as error:
            log.warning("cannot read the journal %s (%s): nothing is known of earlier commands", self._path, error)
            db.close()
            self._db = db = sqlite3.connect(":memory:", isolation_level=None)
            self._prepare()
        return db

    def _set_up(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        # No room in /tmp is needed, and no page is written only because it is free.
        self._db.execute("PRAGMA temp_store = MEMORY")
        self._db.execute("PRAGMA secure_delete = OFF")
        self._db.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        # An older agent let it grow larger: then it keeps its size.
        self._db.execute(f"PRAGMA max_page_count = {_MOST_PAGES}")
        self._prepare()

    def _prepare(self) -> None:
        (found,) = self._db.execute("PRAGMA user_version").fetchone()
        if found > len(_FORMATS):
            raise JournalUnusable(f"cannot use the journal {self._path}: its format is {found}, not {len(_FORMATS)}")
        for number, changes in enumerate(_FORMATS[found:], found + 1):
            self._db.executescript(f"BEGIN IMMEDIATE; {changes} PRAGMA user_version = {number}; COMMIT;")

    def examine(self) -> None:
        """Read what a start needs. Raises JournalUnusable where this agent cannot make sense of it."""
        try:
            self._records("WHERE state NOT IN ('completed', 'failed')")
            self.last_boot()
            self.last_records(1)
            self.owed(1)
            self.counters()
            self.recall("")
        except JournalUnusable:
            raise
        except JournalError as error:
            cause = error.__cause__
            if isinstance(cause, sqlite3.Error) and _code(cause) == sqlite3.SQLITE_ERROR:
                raise JournalUnusable(str(error)) from cause  # a table or a column is missing
            raise

    def take_no_more(self) -> None:
        """All that it holds is in the file now. What came later would be known to nobody, so each write fails."""
        self._is_handed_over = True

    def close(self) -> None:
        """The log and the shared memory stay."""
        self._db.close()
        if self._keeper is not None:
            self._keeper.close()

    def commit(self, record: Record, letters: Sequence[Letter] = ()) -> None:
        """Record and letters, both or neither, on the disk when this returns."""

        def work(db: sqlite3.Connection) -> None:
            db.execute(_UPSERT, [getattr(record, column) for column in _COLUMNS])
            self._owe(letters)
            if self._commits % _FORGET_EVERY == 0:
                self._forget(db, KEPT_RECORDS)

        self._write("FULL", work)
        self._commits += 1

    def _forget(self, db: sqlite3.Connection, kept: int) -> int:
        """Some of what need not be known any more; how many.

        A refusal that is for all time has no `keep_until_s`: whoever may send rubbish must not push out by it what
        could be executed if it came again.
        """
        expired = db.execute(_forget_the_oldest("keep_until_s <= ?1"), [self._now_s(), kept]).rowcount
        return expired + db.execute(_forget_the_oldest("?1 IS keep_until_s"), [None, min(kept, KEPT_REFUSALS)]).rowcount

    def owe_again(self, letters: Sequence[Letter]) -> None:
        """Queue letters that were committed before, unless they still wait; nothing is lost if power fails here."""

        def work(db: sqlite3.Connection) -> None:
            waiting = self._waiting()
            self._owe([letter for letter in letters if letter not in waiting])

        self._write("NORMAL", work)

    def owes_any(self, letters: Sequence[Letter]) -> bool:
        """Whether any of them still waits for the broker."""
        return not self._waiting().isdisjoint(letters)

    def _waiting(self) -> set[Letter]:
        return {_letter(*row) for row in self._rows("SELECT topic, payload, retain FROM outbox")}

    def _owe(self, letters: Sequence[Letter]) -> None:
        self._db.executemany(
            "INSERT INTO outbox (topic, payload, retain) VALUES (?, ?, ?)",
            [(x.topic, x.payload, x.retain) for x in letters],
        )

    def why_no_more(self) -> str | None:
        """Why no new command can be taken in, in a sentence; None where one can be. Raises JournalError."""
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
        """Forget what may be forgotten, at most every few seconds; whether there is room now."""
        if time.monotonic() < self._forget_after_s:
            return False
        while self._is_crowded():
            if not self._write("NORMAL", lambda db: self._forget(db, _KEPT_IN_NEED)):
                self._forget_after_s = time.monotonic() + _FORGET_AGAIN_AFTER_S
                return False
        return True

    def owed(self, limit: int, after: int = 0) -> list[Owed]:
        """The oldest letters that are owed, in order, of those that come after one."""
        query = "SELECT seq, topic, payload, retain FROM outbox WHERE seq > ? ORDER BY seq LIMIT ?"
        rows = self._rows(query, [after, limit])
        return [Owed(seq, _letter(*letter)) for seq, *letter in rows]

    def strike_out(self, letters: Sequence[int]) -> None:
        """The broker has them. Not flushed: if power fails now, they are sent once more, byte for byte."""
        rows = [[seq] for seq in letters]
        self._write("NORMAL", lambda db: db.executemany("DELETE FROM outbox WHERE seq = ?", rows))

    def owed_count(self) -> int:
        return int(self._rows("SELECT count(*) FROM outbox")[0][0])

    def find(self, command_id: str) -> Record | None:
        found = self._records("WHERE command_id = ?", [command_id])
        return found[0] if found else None

    def open_records(self) -> list[Record]:
        """Records that are not terminal, oldest first."""
        if self.is_in_memory:
            return []  # what became of them is written down, and told, when the file can be written again
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
        """One more of `name`, since the journal was made; the new total. What cannot be written is added later."""
        self._not_counted[name] += 1
        adding = list(self._not_counted.items())
        add = "INSERT INTO counter VALUES (?, ?) ON CONFLICT DO UPDATE SET value = value + excluded.value"
        if self._note(lambda db: db.executemany(add, adding)):
            self._not_counted.clear()
        return self.counters()[name]

    def counters(self) -> dict[str, int]:
        return dict(Counter(dict(self._rows("SELECT name, value FROM counter"))) + self._not_counted)

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
        return self._sense(_boot, rows[0]) if rows else None

    def open_boot(self, boot: Boot) -> None:
        """A boot of which the journal knows nothing yet, or less."""
        values = [getattr(boot, column) for column in _BOOT_COLUMNS]

        def work(db: sqlite3.Connection) -> None:
            places = ", ".join("?" * len(values))
            db.execute(f"INSERT OR REPLACE INTO boot ({', '.join(_BOOT_COLUMNS)}) VALUES ({places})", values)
            db.execute("DELETE FROM boot WHERE seq <= (SELECT max(seq) FROM boot) - ?", [KEPT_BOOTS])

        self._write("FULL", work)

    def see_boot(self, boot_id: str, at: str) -> None:
        """The host is up at that moment. Not flushed: after a loss of power an older moment may be found."""
        self._note(lambda db: db.execute("UPDATE boot SET last_seen_at = ? WHERE boot_id = ?", [at, boot_id]))

    def mark_shutdown(self, boot_id: str, at: str, began: bool = True) -> None:
        """An orderly shutdown of the host has begun, or was taken back."""
        mark = "UPDATE boot SET shutdown_began = ?, last_seen_at = ? WHERE boot_id = ?"
        self._write("FULL", lambda db: db.execute(mark, [began, at, boot_id]))

    def report_boot(self, boot_id: str, report: Letter) -> None:
        """The report is owed from now on, and counts as made."""

        def work(db: sqlite3.Connection) -> None:
            db.execute("UPDATE boot SET is_reported = 1 WHERE boot_id = ?", [boot_id])
            self._owe([report])

        self._write("FULL", work)

    def remember(self, name: str, value: str) -> None:
        """A fact that is to be known after a restart of the agent; not flushed."""
        self._note(lambda db: db.execute(_REMEMBER, [name, value]))

    def recall(self, name: str) -> str | None:
        rows = self._rows("SELECT value FROM fact WHERE name = ?", [name])
        return rows[0][0] if rows else None

    def has_room(self) -> bool:
        """Whether an earlier run has taken the room already. Raises JournalError."""
        return self.is_in_memory or self._pages("page_count") >= _PAGES_MADE

    def make_room(self) -> None:
        """Take now, while there is some, all the room that will ever be needed.

        The log gets its full size, the database its free pages, and a reserve is made that is given up before any write
        fails. Besides, a flush of what only overwrites does not wait for the file system's own journal, for which all
        others wait, too. Raises JournalError.
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
            raise JournalFull(f"cannot make room for the journal {self._path}: {error}") from error

    def _lengthen_log(self) -> None:
        """SQLite takes no notice of what stands behind the frames that it has written."""
        path = self._path.with_name(f"{self._path.name}-wal")
        missing = _LOG_BYTES - path.stat().st_size
        if missing > 0:
            disk.check_room(path.parent, missing)
            with path.open("ab", buffering=0) as file:
                file.write(bytes(missing))

    def _enlarge_database(self) -> None:
        """By a table that is dropped again: its pages stay in the file and are free."""
        drop = "DROP TABLE IF EXISTS room"
        self._write("NORMAL", lambda db: db.execute(drop))  # where the power failed in between
        missing = _PAGES_MADE - self._pages("page_count")
        if missing > 0:
            # Half done, it would be in the log, which then could not begin anew.
            disk.check_room(self._path.parent, missing * _PAGE_BYTES)
            self._rows("PRAGMA cache_size = 10")
            try:
                self._write("NORMAL", lambda db: _take(db, missing))
                self._rows("PRAGMA wal_checkpoint(PASSIVE)")
                self._write("NORMAL", lambda db: db.execute(drop))
            finally:
                self._rows("PRAGMA cache_size = -2000")

    def is_short_of_room(self) -> bool:
        """Whether the disk is full; if not, what room was given up is taken again."""
        if disk.is_full(self._path.parent):
            return True
        if self._has_made_room:
            try:
                self._take_room()
            except JournalError:
                return True
        return False

    def check_writable(self) -> None:
        """Raises JournalError unless a transaction reaches the log on the disk; it is not flushed."""
        self._write("NORMAL", lambda db: db.execute(_REMEMBER, ["checked", str(self._now_s())]))

    def _records(self, where: str, values: Sequence[Any] = ()) -> list[Record]:
        return [self._sense(_record, row) for row in self._rows(f"{_SELECT} {where}", values)]

    def _sense(self, read: Callable[[Sequence[Any]], T], row: Sequence[Any]) -> T:
        try:
            return read(row)
        except (ValueError, TypeError) as error:
            raise JournalUnusable(f"cannot read a row of the journal {self._path}: {error}") from error

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise self._fault("read", error) from error

    def _note(self, work: Callable[[sqlite3.Connection], object]) -> bool:
        """Write what no promise rests on; whether it was written. A failure is logged once, and ends nothing."""
        try:
            self._write("NORMAL", work)
        except JournalUnusable:
            raise
        except JournalError as error:
            if self._is_noting:
                log.error("%s; until that is mended, counters and times may be old after a restart", error)
            self._is_noting = False
            return False
        self._is_noting = True
        return True

    def _write(self, synchronous: str, work: Callable[[sqlite3.Connection], T]) -> T:
        """`work` in one transaction; before it fails for want of room, what is kept for this case is given up."""
        while True:
            try:
                return self._try(synchronous, work)
            except JournalFull as error:
                if not self._make_way(error):
                    raise

    def _make_way(self, error: JournalFull) -> bool:
        if self.is_in_memory:
            return False
        if self._reserve.give_up():
            log.warning("%s; the reserve is given up", error)
            return True
        try:
            forgotten = self._try("NORMAL", lambda db: self._forget(db, _KEPT_IN_NEED))
        except JournalError:
            return False
        return forgotten > 0

    def _try(self, synchronous: str, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._is_handed_over:
            raise JournalError("the state in memory was handed over to the disk; it takes nothing more")
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

    def _fault(self, verb: str, error: sqlite3.Error, is_start: bool = False) -> JournalError:
        sentence = f"cannot {verb} the journal {self._path}: {error}"
        code = _code(error)
        if code in _DAMAGED or (is_start and code == sqlite3.SQLITE_ERROR):
            return JournalUnusable(sentence)
        if code == sqlite3.SQLITE_FULL:
            return JournalFull(sentence)
        # The shared memory, or a file that is to be made: SQLite does not say that it is for want of room.
        if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and disk.is_full(self._path.parent):
            return JournalFull(sentence)
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return JournalBusy(sentence)
        return JournalError(sentence)


def _forget_the_oldest(condition: str) -> str:
    """Of the ended commands for which the condition holds, all but the newest ?2."""
    such = f"SELECT seq FROM command WHERE {_ENDED} AND {condition}"
    newest_to_go = f"{such} ORDER BY seq DESC LIMIT 1 OFFSET ?2"
    return f"DELETE FROM command WHERE seq IN ({such} AND seq <= ({newest_to_go}) ORDER BY seq LIMIT {_FORGET_AT_ONCE})"


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    # No one else writes here, so a lock that lasts is a fault; waiting for it holds up the loop.
    return sqlite3.connect(f"file:{quote(str(path))}?mode={mode}", uri=True, isolation_level=None, timeout=1)


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 where the module itself complains."""
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
