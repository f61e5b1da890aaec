"""The migrations: what they make, what is saved first, and what happens when one is killed or meets a newer schema."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import event, insert, text, update

from infoscreen_reboot.controller.store import lease, schema
from infoscreen_reboot.controller.store.database import Database, StoreError
from infoscreen_reboot.controller.store.lease import LeaseLost
from infoscreen_reboot.controller.store.schema import SchemaTooNew
from infoscreen_reboot.controller.store.tables import metadata, migration, user


@pytest.fixture
def empty(database: Database) -> Database:
    metadata.drop_all(database.engine)
    return database


def test_the_migrations_make_the_tables_of_this_version(empty: Database, tmp_path: Path) -> None:
    assert schema.prepare(empty, tmp_path) is None
    with empty.engine.connect() as db:
        context = MigrationContext.configure(db, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    with empty.read() as tx:
        assert schema.check(tx)
    assert schema.prepare(empty, tmp_path) is None
    assert list(tmp_path.glob("schema-*")) == [], "there was nothing to save"


def test_head_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_heads() == [schema.HEAD]
    assert sorted(script.revision for script in scripts.walk_revisions()) == schema.revisions()


def test_an_older_version_refuses_a_newer_schema_and_says_which_version_it_needs(
    empty: Database, tmp_path: Path
) -> None:
    """Pitfall 21."""
    schema.prepare(empty, tmp_path)
    with empty.write() as tx:
        tx.db.execute(text("UPDATE alembic_version SET version_num = '0999'"))
        tx.db.execute(update(migration).values(revision="0999", version="7.5"))
    with pytest.raises(SchemaTooNew, match=r"schema 0999.* install version 7\.5 or newer"):
        schema.prepare(empty, tmp_path)


def test_a_holder_of_the_lease_writes_nothing_after_a_migration(empty: Database, tmp_path: Path) -> None:
    schema.prepare(empty, tmp_path)
    with empty.write() as tx:
        epoch = lease.take(tx, "an older version")
        lease.seize(tx)
    assert epoch is not None
    with pytest.raises(LeaseLost), empty.write() as tx:
        lease.hold(tx, epoch)
    with empty.write() as tx:
        assert lease.take(tx, "a newer version") == epoch + 2


NEWER = """
import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "HEAD"


def upgrade() -> None:
    op.create_table("kept", sa.Column("what", sa.Text()))
"""


def test_an_sqlite_database_is_saved_before_it_is_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(f"sqlite:///{tmp_path / 'controller.sqlite3'}")
    schema.prepare(database, tmp_path / "backups")
    with database.write() as tx:
        tx.db.execute(insert(user).values(name="ann", role="admin", created_at=tx.now))
    migrations = tmp_path / "migrations"
    shutil.copytree(Path(schema.__file__).parent / "migrations", migrations)
    (migrations / "versions" / "9999_newer.py").write_text(NEWER.replace("HEAD", schema.HEAD))
    monkeypatch.setattr(schema, "_MIGRATIONS", migrations)
    before = schema.HEAD
    monkeypatch.setattr(schema, "HEAD", "9999")
    copy = schema.prepare(database, tmp_path / "backups")
    database.close()
    assert copy is not None and copy.stat().st_mode & 0o777 == 0o600
    with sqlite3.connect(copy) as saved:
        assert saved.execute("SELECT name FROM user_account").fetchall() == [("ann",)]
        assert saved.execute("SELECT version_num FROM alembic_version").fetchall() == [(before,)]
        assert saved.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    with sqlite3.connect(tmp_path / "controller.sqlite3") as after:
        assert after.execute("SELECT what FROM kept").fetchall() == []
        assert after.execute("SELECT name FROM user_account").fetchall() == [("ann",)]


def test_a_backup_that_cannot_be_written_is_an_error_in_words(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'controller.sqlite3'}")
    schema.prepare(database, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write the backup"):
        schema.backup(database, tmp_path / "file" / "copy.sqlite3")


@pytest.mark.parametrize("after", [1, 8, 20])
def test_a_migration_that_is_killed_leaves_the_database_as_it_was(empty: Database, tmp_path: Path, after: int) -> None:
    """Pitfall 21: killed between two of its statements."""
    empty.close()
    child = os.fork()
    if child == 0:
        mine = Database(str(empty.engine.url.render_as_string(hide_password=False)))
        left = [after]

        def count(_db: object, _cursor: object, statement: str, *_: object) -> None:
            if statement.lstrip().upper().startswith("CREATE"):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        event.listen(mine.engine, "after_cursor_execute", count)
        schema.prepare(mine, tmp_path)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    with empty.read() as tx:
        assert not schema.check(tx)
    schema.prepare(empty, tmp_path)
    with empty.read() as tx:
        assert schema.check(tx)
