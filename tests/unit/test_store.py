"""What is on the disk, and what survives."""

import sqlite3
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from infoscreen_reboot.client.agent import store as module
from infoscreen_reboot.client.agent.boot_report import Boot
from infoscreen_reboot.client.agent.lifecycle import Record, State
from infoscreen_reboot.client.agent.store import Letter, Store, StoreBusy, StoreError, StoreUnusable
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.contract.telemetry import Cause

ACK, SECOND = Letter("acks", b"accepted"), Letter("acks", b"execution_started")


def a_record(command_id: str = "a", state: State = State.ACCEPTED) -> Record:
    return Record(command_id, "boot", b"{}", Action.REBOOT_HOST, state, 1.5, 2.5, "boot", 3.5, True, b"ack")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite3"


def test_a_record_is_found_again_by_the_next_process(path: Path) -> None:
    first = Store(path)
    first.commit(a_record(), [ACK])
    # Not closed: a process that was killed closes nothing.
    second = Store(path)
    assert second.find("a") == a_record()
    assert [owed.letter for owed in second.owed(10)] == [ACK]


def test_a_record_is_replaced_and_its_letters_are_added(path: Path) -> None:
    store = Store(path)
    store.commit(a_record(), [ACK])
    store.commit(replace(a_record(), state=State.EXECUTING), [SECOND])
    assert [record.state for record in store.last_records(10)] == [State.EXECUTING]
    assert [owed.letter for owed in store.owed(10)] == [ACK, SECOND]


def test_record_and_letters_are_written_both_or_neither(path: Path) -> None:
    store = Store(path)
    unwritable = Letter("acks", None)  # type: ignore[arg-type]  # what the table refuses
    with pytest.raises(StoreError, match="cannot write the store"):
        store.commit(a_record(), [ACK, unwritable])
    assert store.find("a") is None
    assert store.owed(10) == []
    store.commit(a_record(), [ACK])


def test_letters_are_owed_in_order_until_they_are_struck_out(path: Path) -> None:
    store = Store(path)
    store.commit(a_record(), [ACK])
    store.commit(a_record(), [SECOND])
    first, second = store.owed(10)
    store.strike_out([first.seq])
    assert store.owed(10) == [second]
    assert store.owed_count() == 1


def test_a_letter_that_still_waits_is_not_queued_twice(path: Path) -> None:
    store = Store(path)
    store.commit(a_record(), [ACK])
    store.owe_again([ACK, SECOND])
    store.owe_again([ACK, SECOND])
    assert [owed.letter for owed in store.owed(10)] == [ACK, SECOND]


def test_open_records_are_those_that_have_not_ended(path: Path) -> None:
    store = Store(path)
    for state in (State.COMPLETED, State.HELD, State.FAILED, State.EXECUTING):
        store.commit(a_record(state.value, state))
    assert [record.state for record in store.open_records()] == [State.HELD, State.EXECUTING]


def ids(store: Store) -> list[str]:
    return [record.command_id for record in store.last_records(100)]


def test_ended_records_are_kept_until_they_expire_and_then_by_number(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT_RECORDS", 3)
    monkeypatch.setattr(module, "_FORGET_EVERY", 1)
    now_s = 100.0
    store = Store(path, now_s=lambda: now_s)
    store.commit(replace(a_record("open", State.EXECUTING), keep_until_s=1.0))
    for number in range(6):
        store.commit(replace(a_record(str(number), State.FAILED), keep_until_s=200.0 + number))
    assert ids(store) == ["5", "4", "3", "2", "1", "0", "open"]
    now_s = 204.0  # 5 has not expired
    store.commit(replace(a_record("6", State.COMPLETED), keep_until_s=300.0))
    assert ids(store) == ["6", "5", "4", "3", "2", "open"]


def test_refusals_for_all_time_push_out_each_other_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT_RECORDS", 2)
    monkeypatch.setattr(module, "KEPT_REFUSALS", 2)
    monkeypatch.setattr(module, "_FORGET_EVERY", 1)
    store = Store(path, now_s=lambda: 1000.0)
    for name in ("expired a", "expired b"):
        store.commit(replace(a_record(name, State.FAILED), keep_until_s=1.0))
    store.commit(replace(a_record("busy", State.FAILED), keep_until_s=2000.0))
    for number in range(10):
        store.commit(a_record(str(number), State.FAILED))
    assert ids(store) == ["9", "8", "busy", "expired b", "expired a"]


def test_a_database_that_is_full_forgets_what_it_may_and_then_takes_in_no_more(path: Path) -> None:
    now_s = 0.0
    store = Store(path, now_s=lambda: now_s)
    number = 0
    while store.why_no_new_command() is None:
        number += 1
        big = replace(a_record(str(number), State.FAILED), command=bytes(4096), keep_until_s=float(number))
        store.commit(big)
        assert number < 2000
    assert "no room for another command" in (store.why_no_new_command() or "")
    assert store.find("1") is not None
    store.commit(replace(a_record("open", State.ACCEPTED), keep_until_s=1e9), [ACK] * 50)  # what is taken in has room
    now_s = number - 10.0
    store._forget_after_s = 0.0
    assert store.why_no_new_command() is None
    assert store.find("1") is None and store.find(str(number)) is not None
    assert len(ids(store)) > 50  # the newest are kept, expired or not
    store.close()


def test_too_many_letters_that_wait_are_a_reason_to_take_in_no_more(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OWED_BOUND", 3)
    store = Store(path)
    store.commit(a_record(), [ACK, SECOND])
    assert store.why_no_new_command() is None
    store.commit(a_record(), [ACK])
    assert "3 messages wait" in (store.why_no_new_command() or "")
    store.strike_out([1])
    assert store.why_no_new_command() is None


def test_what_is_only_noted_ends_nothing_and_is_said_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, other = Store(path), sqlite3.connect(path, isolation_level=None)
    store.open_boot(a_boot())
    store._db.execute("PRAGMA busy_timeout = 0")
    other.execute("BEGIN IMMEDIATE")
    store.see_boot("boot-1", "2026-04-03T12:49:11.204Z")
    store.remember("fact", "1")
    assert store.count("unreadable") == 1
    assert store.count("unreadable") == 2
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    with pytest.raises(StoreBusy):
        store.mark_shutdown("boot-1", "2026-04-03T12:49:11.204Z")
    other.execute("ROLLBACK")
    assert store.count("unreadable") == 3
    assert Store(path).counters() == {"unreadable": 3}


def test_the_log_and_the_shared_memory_outlive_a_close_and_a_reader(path: Path) -> None:
    store = Store(path)
    store.commit(a_record(), [ACK])
    store.close()
    companions = [path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-shm")]
    inodes = [companion.stat().st_ino for companion in companions]
    for _ in range(2):
        reader = Store(path, read_only=True)
        assert reader.find("a") == a_record()
        reader.close()
    again = Store(path)
    assert [owed.letter for owed in again.owed(10)] == [ACK]
    again.close()
    assert [companion.stat().st_ino for companion in companions] == inodes


def test_a_write_that_finds_no_room_takes_the_reserve_and_then_what_may_be_forgotten(path: Path) -> None:
    store = Store(path, now_s=lambda: 1000.0)
    assert not store.has_room(), "a new client takes it at once"
    store.make_room()
    assert store.has_room()
    reserve = path.with_name("reserve")
    assert reserve.stat().st_size == 1 << 20 and reserve.stat().st_blocks * 512 >= 1 << 20
    store._db.execute("DELETE FROM command")
    for number in range(200):
        store.commit(replace(a_record(str(number), State.FAILED), command=bytes(2000), keep_until_s=1.0))
    # SQLite's own limit, in place of the disk's.
    used = store._pages("page_count") - store._pages("freelist_count")
    store._db.execute("VACUUM")
    store._db.execute(f"PRAGMA max_page_count = {used}")
    for number in range(200, 300):
        store.commit(replace(a_record(str(number), State.FAILED), command=bytes(2000), keep_until_s=1.0))
    assert not reserve.exists()
    assert store.find("0") is None and store.find("299") is not None
    store.close()


def test_a_store_in_memory_knows_what_can_be_read_and_takes_nothing_up(path: Path) -> None:
    on_disk = Store(path)
    on_disk.commit(a_record("done", State.COMPLETED), [ACK])
    on_disk.commit(a_record("open", State.EXECUTING))
    on_disk.close()
    store = Store(path, in_memory=True)
    assert store.find("done") == a_record("done", State.COMPLETED)
    assert [owed.letter for owed in store.owed(10)] == [ACK]
    assert store.open_records() == []
    store.commit(a_record("new", State.FAILED))
    store.make_room()
    store.check_writable()
    store.close()
    found = Store(path)
    assert found.find("new") is None and [record.command_id for record in found.open_records()] == ["open"]


def test_a_store_in_memory_needs_no_file(path: Path) -> None:
    for content in (None, b"rubbish" * 1000):
        if content is not None:
            path.write_bytes(content)
        store = Store(path, in_memory=True)
        store.commit(a_record("new", State.FAILED), [ACK])
        assert store.find("new") is not None


def test_counters_count_across_processes(path: Path) -> None:
    assert Store(path).count("unreadable") == 1
    assert Store(path).count("unreadable") == 2
    assert Store(path).counters() == {"unreadable": 2}


def test_rubbish_is_no_store(path: Path) -> None:
    path.write_bytes(b"rubbish" * 1000)
    with pytest.raises(StoreUnusable, match=str(path)):
        Store(path)
    assert path.read_bytes() == b"rubbish" * 1000


def test_a_store_of_another_format_is_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreUnusable, match="format is 99"):
        Store(path)


def test_a_reader_sees_all_and_can_change_nothing(path: Path) -> None:
    writer = Store(path)
    writer.commit(a_record(), [ACK])
    reader = Store(path, read_only=True)
    assert reader.find("a") == a_record()
    with pytest.raises(StoreError):
        reader.commit(a_record("b"))


def test_a_store_that_another_holds_is_not_writable(path: Path) -> None:
    store, other = Store(path), sqlite3.connect(path, isolation_level=None)
    store.check_writable()
    other.execute("BEGIN IMMEDIATE")
    store._db.execute("PRAGMA busy_timeout = 0")
    with pytest.raises(StoreBusy, match="locked"):
        store.check_writable()


def test_a_store_of_the_first_format_is_carried_over(path: Path) -> None:
    old = sqlite3.connect(path)
    old.executescript(f"BEGIN; {module._FORMATS[0]} PRAGMA user_version = 1; COMMIT;")
    old.execute("INSERT INTO outbox (topic, payload) VALUES ('acks', x'61')")
    old.execute(
        "INSERT INTO command (command_id, content_digest, received_boot_id, command, state, came_by_transitional) "
        "VALUES ('old', 'digest', 'boot', x'7b7d', 'held', 0)"
    )
    old.commit()
    old.close()
    store = Store(path)
    assert [owed.letter for owed in store.owed(10)] == [Letter("acks", b"a")]
    assert store.open_records() == [Record("old", "boot", b"{}", state=State.HELD)]
    assert store.last_boot() is None
    store.commit(a_record(), [ACK])


def test_records_of_an_older_format_are_kept_until_they_expire(path: Path) -> None:
    old = sqlite3.connect(path)
    old.executescript(f"BEGIN; {''.join(module._FORMATS[:3])} PRAGMA user_version = 3; COMMIT;")
    valid = b'{"expires_at": "2026-04-03T12:52:10.5Z"}'
    rows = [
        ("done", valid, "completed", b'{"error_code": null}'),
        ("busy", valid, "failed", b'{"error_code": "busy"}'),
        ("foreign", valid, "failed", b'{"error_code": "wrong_client"}'),
        ("rubbish", b"\xff{", "failed", b'{"error_code": "invalid_schema"}'),
        ("held", valid, "held", None),
    ]
    old.executemany(
        "INSERT INTO command (command_id, received_boot_id, command, state, came_by_transitional, ack) "
        "VALUES (?, 'boot', ?, ?, 0, ?)",
        rows,
    )
    old.commit()
    old.close()
    expires_at_s = datetime(2026, 4, 3, 12, 52, 10, tzinfo=UTC).timestamp() + 1
    kept = {record.command_id: record.keep_until_s for record in Store(path).last_records(9)}
    assert kept == {
        "done": expires_at_s,
        "busy": expires_at_s,
        "held": expires_at_s,
        "foreign": None,
        "rubbish": None,
    }


def a_boot(boot_id: str = "boot-1") -> Boot:
    return Boot(boot_id, "2026-04-03T12:48:11.204Z", False, None, None, False, Cause.UNKNOWN, None, False)


def test_a_boot_is_marked_reported_and_its_report_owed_in_one(path: Path) -> None:
    store = Store(path)
    store.open_boot(a_boot())
    store.see_boot("boot-1", "2026-04-03T12:49:11.204Z")
    store.mark_shutdown("boot-1", "2026-04-03T12:50:11.204Z")
    with pytest.raises(StoreError):
        store.report_boot("boot-1", Letter("boot", None))  # type: ignore[arg-type]  # what the table refuses
    assert store.last_boot() == replace(a_boot(), shutdown_began=True, last_seen_at="2026-04-03T12:50:11.204Z")
    store.report_boot("boot-1", Letter("boot", b"{}", retain=True))
    found = Store(path).last_boot()
    assert found is not None and found.is_reported and found.shutdown_began
    assert [owed.letter for owed in store.owed(10)] == [Letter("boot", b"{}", retain=True)]
    store.mark_shutdown("boot-1", "2026-04-03T12:50:11.204Z", began=False)
    assert store.last_boot() == replace(found, shutdown_began=False)


def test_boots_are_kept_within_bounds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_BOOTS", 2)
    store = Store(path)
    for number in range(4):
        store.open_boot(a_boot(str(number)))
    rows = sqlite3.connect(path).execute("SELECT boot_id FROM boot ORDER BY seq").fetchall()
    assert rows == [("2",), ("3",)]


def test_only_an_execution_that_was_not_refused_belongs_to_its_boot(path: Path) -> None:
    store = Store(path)
    store.commit(a_record("a", State.COMPLETED))
    store.commit(a_record("b", State.FAILED))
    assert (store.executed_in("boot"), store.executed_in("another")) == ("a", None)
    last = store.last_executed()
    assert last is not None and last.command_id == "b"


def test_a_fact_is_recalled_by_the_next_process(path: Path) -> None:
    store = Store(path)
    assert store.recall("broker") is None
    store.remember("broker", "1")
    store.remember("broker", "2")
    assert Store(path).recall("broker") == "2"


def test_with_room_made_the_log_grows_no_more_and_nothing_is_owed(tmp_path: Path) -> None:
    store, log = Store(tmp_path / "store"), tmp_path / "store-wal"
    store.commit(a_record(), [ACK])
    store.make_room()
    sizes = log.stat().st_size, (tmp_path / "store").stat().st_size
    assert sizes[0] > 4_096_000 and sizes[1] == 4_096_000
    assert [owed.letter for owed in store.owed(10)] == [ACK]
    for number in range(3000):
        store.remember("fact", str(number))
    for number in range(150):
        store.commit(replace(a_record(str(number), State.FAILED), command=bytes(4000)))
    store.make_room()
    assert (log.stat().st_size, (tmp_path / "store").stat().st_size) == sizes
    store.close()
    assert Store(tmp_path / "store").recall("fact") == "2999"
