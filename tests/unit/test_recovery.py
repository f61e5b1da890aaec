"""What the store is opened with, whatever lies there."""

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from infoscreen_reboot.client import disk
from infoscreen_reboot.client.agent import recovery
from infoscreen_reboot.client.agent.lifecycle import Record, State
from infoscreen_reboot.client.agent.monitor import recall_statistics
from infoscreen_reboot.client.agent.store import Letter, Store, StoreBusy, StoreError
from infoscreen_reboot.mqtt.session import Statistics
from tests import world as w
from tests.world import World


def nothing(store: Store) -> None:
    pass


@pytest.fixture
def path(tmp_path: Path) -> Path:
    store = Store(tmp_path / "journal.sqlite3")
    store.commit(Record("known", "boot", b"{}", state=State.COMPLETED))
    store.commit(Record("open", "boot", b"{}", state=State.EXECUTING))
    store.close()
    return tmp_path / "journal.sqlite3"


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(statement)


def test_what_can_be_used_is_used(path: Path) -> None:
    store, unfit = recovery.open_store(path, nothing)
    assert (unfit, store.is_in_memory, disk.set_aside_files(path.parent)) == (None, False, [])
    assert store.find("known") is not None
    store.close()


@pytest.mark.parametrize(
    "statement",
    [
        "PRAGMA user_version = 99",
        "PRAGMA user_version = 1",
        "UPDATE command SET state = 'frobnicated'",
        "UPDATE command SET action = 'dance' WHERE command_id = 'open'",
        "DROP TABLE outbox",
        "ALTER TABLE command DROP COLUMN ack",
    ],
)
def test_what_another_version_has_left_is_set_aside(path: Path, statement: str) -> None:
    change(path, statement)
    store, unfit = recovery.open_store(path, nothing)
    assert (unfit, store.is_in_memory) == (None, False)
    assert store.last_records(9) == []
    [aside] = disk.set_aside_files(path.parent)
    assert aside.name.startswith("journal.sqlite3.unusable-20") and disk.set_aside_at(aside) is not None
    store.close()


def test_what_the_start_cannot_use_is_set_aside(path: Path) -> None:
    store = Store(path)
    store._db.execute(
        "INSERT INTO boot VALUES (1, 'boot', '2026-04-03T12:48:11.204Z', 0, NULL, NULL, 0, 'tide', NULL, 1)"
    )
    store.close()
    store, unfit = recovery.open_store(path, lambda new: print(new.last_boot()))
    assert unfit is None and len(disk.set_aside_files(path.parent)) == 1
    store.close()


def test_a_page_that_is_damaged_is_met_when_it_is_read(path: Path) -> None:
    change(path, "PRAGMA journal_mode = DELETE")
    content = bytearray(path.read_bytes())
    content[4096:] = bytes(len(content) - 4096)
    path.write_bytes(content)
    store, unfit = recovery.open_store(path, nothing)
    assert unfit is None and len(disk.set_aside_files(path.parent)) == 1
    store.close()


def test_of_what_was_set_aside_the_newest_two_stay(path: Path) -> None:
    for number in range(4):
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).write_bytes(b"rubbish %d" % number * 1000)
        store, _ = recovery.open_store(path, nothing)
        store.close()
    kept = disk.set_aside_files(path.parent)
    assert [file.read_bytes()[:9] for file in kept] == [b"rubbish 2", b"rubbish 3"]


def test_a_directory_or_a_dangling_link_in_its_place_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite3"
    path.mkdir()
    store, unfit = recovery.open_store(path, nothing)
    assert unfit is None and len(disk.set_aside_files(tmp_path)) == 1
    store.close()


def test_a_directory_that_cannot_be_written_leaves_it_in_memory_and_says_why(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "journal.sqlite3"
    begun: list[Store] = []
    store, unfit = recovery.open_store(path, begun.append)
    assert store.is_in_memory and begun == [store]
    assert unfit is not None and str(path) in unfit
    assert not recovery.hand_over(store, path)
    store.commit(Record("refused", "boot", b"{}", state=State.FAILED), [Letter("topic", b"ack")])
    path.parent.mkdir()
    assert recovery.hand_over(store, path)
    store.close()
    on_disk = Store(path)
    assert on_disk.find("refused") is not None
    assert [owed.letter for owed in on_disk.owed(9)] == [Letter("topic", b"ack")]
    on_disk.close()


def test_what_comes_after_it_was_handed_over_is_not_taken_in(path: Path) -> None:
    """The process goes on for some seconds, and the next one would execute what this one has refused."""
    memory = Store(path, in_memory=True)
    assert recovery.hand_over(memory, path)
    with pytest.raises(StoreError, match="handed over"):
        memory.commit(Record("late", "boot", b"{}", state=State.FAILED))
    with pytest.raises(StoreError, match="handed over"):
        memory.report_boot("boot", Letter("boot", b"late"))
    memory.close()


def test_what_is_handed_over_leaves_what_the_file_knows_as_it_is(path: Path) -> None:
    memory = Store(path, in_memory=True)
    memory.commit(Record("known", "boot", b"{}", state=State.COMPLETED, came_by_transitional=True))
    assert recovery.hand_over(memory, path)
    memory.close()
    on_disk = Store(path)
    assert on_disk.find("known") == Record("known", "boot", b"{}", state=State.COMPLETED)
    assert [record.command_id for record in on_disk.open_records()] == ["open"]
    on_disk.close()


def test_a_command_that_was_refused_on_a_full_disk_is_not_executed_when_it_comes_again(tmp_path: Path) -> None:
    world = World(tmp_path / "journal.sqlite3")

    async def nature() -> None:
        await asyncio.sleep(10)
        world.disk_is_full = True
        world.kill()
        await asyncio.sleep(60)
        world.send(w.payload())
        await asyncio.sleep(20)
        world.disk_is_full = False
        await asyncio.sleep(100)
        world.send(w.payload())

    w.run(world.play(nature))
    assert set(world.story()) == {"unsupported_action"}
    assert len({letter.payload for letter in world.received if letter.topic.endswith("/ack")}) == 1
    assert len(world.story()) == 2
    assert world.helper_calls == []


def test_a_boot_that_was_reported_on_a_full_disk_is_not_reported_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path / "journal.sqlite3")

    async def nature() -> None:
        await asyncio.sleep(10)
        world.disk_is_full = True
        world.cut_power()
        await asyncio.sleep(60)
        world.disk_is_full = False

    w.run(world.play(nature))
    reports = {message.payload for message in world.heard if message.topic == w.TOPICS.boot}
    assert sorted(json.loads(report)["boot_id"] for report in reports) == w.BOOTS[:2]
    store = Store(tmp_path / "journal.sqlite3")
    assert (boot := store.last_boot()) is not None and (boot.boot_id, boot.is_reported) == (w.BOOTS[1], True)
    store.close()
    assert "the watchdog is not fed" not in caplog.text


def test_a_file_that_another_holds_is_waited_for(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusy):
            recovery.open_store(path, nothing)
    assert disk.set_aside_files(path.parent) == []


@pytest.mark.parametrize("rubbish", ["", "tide", "{}", "[]", '{"is_lost": 1, "last_disconnect_at": "noon"}'])
def test_a_fact_that_cannot_be_read_is_begun_anew(tmp_path: Path, rubbish: str) -> None:
    store = Store(tmp_path / "store")
    store.remember("broker", rubbish)
    assert recall_statistics(store) == Statistics()
    store.close()


def test_a_disk_is_full_when_less_is_left_than_the_next_writes_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not disk.is_full(tmp_path)
    assert not disk.is_full(tmp_path / "missing")
    monkeypatch.setattr(disk, "FULL_BELOW_BYTES", 1 << 60)
    assert disk.is_full(tmp_path)
    disk.Reserve(tmp_path).make()
    assert not (tmp_path / "reserve").exists()


def test_what_sqlite_keeps_beside_a_file_goes_with_it(tmp_path: Path) -> None:
    for number in range(3):
        for suffix in ("", "-wal", "-shm"):
            (tmp_path / f"file{suffix}").write_text(f"{number}{suffix}")
        disk.set_aside(tmp_path / "file")
    kept = disk.set_aside_files(tmp_path)
    assert [file.read_text() for file in kept] == ["1", "2"]
    assert [file.with_name(file.name + "-wal").read_text() for file in kept] == ["1-wal", "2-wal"]
    assert len(list(tmp_path.iterdir())) == 6
