"""Brings the database to the schema of this version, whole or not at all, and refuses one of a newer version.

Migrations are Alembic's, in the folder `migrations`; a new one is a file there and a new HEAD here.
"""

from __future__ import annotations

import logging
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from sqlalchemy import URL, Connection, insert, inspect, select, text

from infoscreen_reboot import __version__
from infoscreen_reboot.controller.store import lease
from infoscreen_reboot.controller.store.database import Database, StoreError, Transaction
from infoscreen_reboot.controller.store.tables import migration

log = logging.getLogger(__name__)

HEAD = "0010"
_MIGRATIONS = Path(__file__).parent / "migrations"


class SchemaTooNew(Exception):
    """The database was made by a newer version; the sentence says which one it needs."""


def check(tx: Transaction) -> bool:
    """Whether the schema is that of this version; False if it is older, or not there. Raises SchemaTooNew."""
    found = _revision(tx.db)
    if found is not None and found not in revisions():
        needed = tx.db.execute(select(migration.c.version).where(migration.c.revision == found)).scalar_one_or_none()
        raise SchemaTooNew(
            f"the database has schema {found}, and version {__version__} knows up to {HEAD}: "
            f"install version {needed or 'unknown'} or newer, or restore the backup from before that upgrade"
        )
    return found == HEAD


def prepare(database: Database, backups: Path) -> Path | None:
    """Migrate if there is something to migrate. An SQLite database is copied into `backups` first; returns the copy.

    Raises SchemaTooNew or StoreError; the database is then as it was.
    """
    with database.read() as tx:
        if check(tx):
            return None
        found = _revision(tx.db)
    copy = None
    if database.is_sqlite and found is not None:
        copy = backups / f"schema-{found}-before-{__version__}.sqlite3"
        backup(database, copy)
    # Every writer takes the same lock, on this machine or another one: so only one process migrates, and alone.
    with database.write() as tx:
        if check(tx):
            return copy  # another one was faster
        if found is not None:
            lease.seize(tx)
        _upgrade(tx.db)
        tx.db.execute(insert(migration).values(revision=HEAD, version=__version__, at=tx.now))
    if not database.is_sqlite:
        # Without statistics, an update of 500 commands reads the whole table (measured 2026-11-25).
        with database.write() as tx:
            tx.db.execute(text("ANALYZE"))
    log.info("the database has schema %s now; before it was %s", HEAD, found or "empty")
    return copy


def prepare_apart(database: Database, backups: Path) -> None:
    """As `prepare`, but what has to be migrated is migrated by a child: what Alembic took goes with it.

    Nothing may have started a thread yet. Raises what `prepare` raises.
    """
    with database.read() as tx:
        if check(tx):
            return
    database.close()
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as child:
        child.submit(_prepare, database.url, backups).result()


def _prepare(url: URL, backups: Path) -> None:
    prepare(Database(url), backups)


def revisions() -> list[str]:
    return sorted(file.name.partition("_")[0] for file in (_MIGRATIONS / "versions").glob("*.py"))


def backup(database: Database, file: Path) -> None:
    """A copy of an SQLite database as it stands, while others go on writing. Raises StoreError."""
    try:
        file.parent.mkdir(mode=0o700, exist_ok=True)
        file.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot write the backup {file}: {error.strerror}") from None
    database.run_alone("VACUUM INTO :file", file=str(file))
    file.chmod(0o600)


def _revision(db: Connection) -> str | None:
    if not inspect(db).has_table("alembic_version"):
        return None
    found = db.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    return None if found is None else str(found)


def _upgrade(db: Connection) -> None:
    # Alembic takes a second and 48 MB (measured 2026-11-25); almost no start needs it.
    from alembic import command
    from alembic.config import Config
    from alembic.util.exc import CommandError

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = db
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise StoreError(f"cannot migrate the database: {error}") from error
