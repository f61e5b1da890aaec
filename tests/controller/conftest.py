"""A database of each kind; the same tests run on both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from infoscreen_reboot.controller.store.database import Database
from infoscreen_reboot.controller.store.tables import metadata


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    found = Database(f"sqlite:///{tmp_path / 'controller.sqlite3'}")
    metadata.create_all(found.engine)
    yield found
    found.close()
