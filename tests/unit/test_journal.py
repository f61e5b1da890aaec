"""What is on the disk, and what survives."""

import sqlite3
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from infoscreen_reboot.client.agent import store as module
from infoscreen_reboot.client.agent.boot_report import Boot
from infoscreen_reboot.client.agent.lifecycle import Record, State
from infoscreen_reboot.client.agent.store import Journal, JournalBusy, JournalError, JournalUnusable, Letter
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.contract.telemetry import Cause

ACK, SECOND = Letter("acks", b"accepted"), Letter("acks", b"execution_started")


def a_record(command_id: str = "a", state: State = State.ACCEPTED) -> Record:
    return Record(command_id, "boot", b"{}", Action.REBOOT_HOST, state, 1.5, 2.5, "boot", 3.5, True, b"ack")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite3"


def test_a_record_is_found_again_by_the_next_process(path: Path) -> None:
    first = Journal(path)
    first.commit(a_record(), [ACK])
    # Not closed: a process that was killed closes nothing.
    second = Journal(path)
    assert second.find("a") == a_record()
    assert [owed.letter for owed in second.owed(10)] == [ACK]


def test_a_record_is_replaced_and_its_letters_are_added(path: Path) -> None:
    journal = Journal(path)
    journal.commit(a_record(), [ACK])
    journal.commit(replace(a_record(), state=State.EXECUTING), [SECOND])
    assert [record.state for record in journal.last_records(10)] == [State.EXECUTING]
    assert [owed.letter for owed in journal.owed(10)] == [ACK, SECOND]


def test_record_and_letters_are_written_both_or_neither(path: Path) -> None:
    journal = Journal(path)
    unwritable = Letter("acks", None)  # type: ignore[arg-type]  # what the table refuses
    with pytest.raises(JournalError, match="cannot write the journal"):
        journal.commit(a_record(), [ACK, unwritable])
    assert journal.find("a") is None
    assert journal.owed(10) == []
    journal.commit(a_record(), [ACK])


def test_letters_are_owed_in_order_until_they_are_struck_out(path: Path) -> None:
    journal = Journal(path)
    journal.commit(a_record(), [ACK])
    journal.commit(a_record(), [SECOND])
    first, second = journal.owed(10)
    journal.strike_out([first.seq])
    assert journal.owed(10) == [second]
    assert journal.owed_count() == 1


def test_a_letter_that_still_waits_is_not_queued_twice(path: Path) -> None:
    journal = Journal(path)
    journal.commit(a_record(), [ACK])
    journal.owe_again([ACK, SECOND])
    journal.owe_again([ACK, SECOND])
    assert [owed.letter for owed in journal.owed(10)] == [ACK, SECOND]


def test_open_records_are_those_that_have_not_ended(path: Path) -> None:
    journal = Journal(path)
    for state in (State.COMPLETED, State.HELD, State.FAILED, State.EXECUTING):
        journal.commit(a_record(state.value, state))
    assert [record.state for record in journal.open_records()] == [State.HELD, State.EXECUTING]


def ids(journal: Journal) -> list[str]:
    return [record.command_id for record in journal.last_records(100)]


def test_ended_records_are_kept_until_they_expire_and_then_by_number(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT_RECORDS", 3)
    monkeypatch.setattr(module, "_FORGET_EVERY", 1)
    now_s = 100.0
    journal = Journal(path, now_s=lambda: now_s)
    journal.commit(replace(a_record("open", State.EXECUTING), keep_until_s=1.0))
    for number in range(6):
        journal.commit(replace(a_record(str(number), State.FAILED), keep_until_s=200.0 + number))
    assert ids(journal) == ["5", "4", "3", "2", "1", "0", "open"]
    now_s = 204.0  # 5 has not expired
    journal.commit(replace(a_record("6", State.COMPLETED), keep_until_s=300.0))
    assert ids(journal) == ["6", "5", "4", "3", "2", "open"]


def test_refusals_for_all_time_push_out_each_other_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT_RECORDS", 2)
    monkeypatch.setattr(module, "KEPT_REFUSALS", 2)
    monkeypatch.setattr(module, "_FORGET_EVERY", 1)
    journal = Journal(path, now_s=lambda: 1000.0)
    for name in ("expired a", "expired b"):
        journal.commit(replace(a_record(name, State.FAILED), keep_until_s=1.0))
    journal.commit(replace(a_record("busy", State.FAILED), keep_until_s=2000.0))
    for number in range(10):
        journal.commit(a_record(str(number), State.FAILED))
    assert ids(journal) == ["9", "8", "busy", "expired b", "expired a"]


def test_a_database_that_is_full_forgets_what_it_may_and_then_takes_in_no_more(path: Path) -> None:
    now_s = 0.0
    journal = Journal(path, now_s=lambda: now_s)
    number = 0
    while journal.why_no_more() is None:
        number += 1
        big = replace(a_record(str(number), State.FAILED), command=bytes(4096), keep_until_s=float(number))
        journal.commit(big)
        assert number < 2000
    assert "no room for another command" in (journal.why_no_more() or "")
    assert journal.find("1") is not None
    journal.commit(replace(a_record("open", State.ACCEPTED), keep_until_s=1e9), [ACK] * 50)  # what is taken in has room
    now_s = number - 10.0
    journal._forget_after_s = 0.0
    assert journal.why_no_more() is None
    assert journal.find("1") is None and journal.find(str(number)) is not None
    assert len(ids(journal)) > 50  # the newest are kept, expired or not
    journal.close()


def test_too_many_letters_that_wait_are_a_reason_to_take_in_no_more(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OWED_BOUND", 3)
    journal = Journal(path)
    journal.commit(a_record(), [ACK, SECOND])
    assert journal.why_no_more() is None
    journal.commit(a_record(), [ACK])
    assert "3 messages wait" in (journal.why_no_more() or "")
    journal.strike_out([1])
    assert journal.why_no_more() is None


def test_what_is_only_noted_ends_nothing_and_is_said_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal, other = Journal(path), sqlite3.connect(path, isolation_level=None)
    journal.open_boot(a_boot())
    journal._db.execute("PRAGMA busy_timeout = 0")
    other.execute("BEGIN IMMEDIATE")
    journal.see_boot("boot-1", "2026-04-03T12:49:11.204Z")
    journal.remember("fact", "1")
    assert journal.count("unreadable") == 1
    assert journal.count("unreadable") == 2
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    with pytest.raises(JournalBusy):
        journal.mark_shutdown("boot-1", "2026-04-03T12:49:11.204Z")
    other.execute("ROLLBACK")
    assert journal.count("unreadable") == 3
    assert Journal(path).counters() == {"unreadable": 3}


def test_the_log_and_the_shared_memory_outlive_a_close_and_a_reader(path: Path) -> None:
    journal = Journal(path)
    journal.commit(a_record(), [ACK])
    journal.close()
    companions = [path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-shm")]
    inodes = [companion.stat().st_ino for companion in companions]
    for _ in range(2):
        reader = Journal(path, read_only=True)
        assert reader.find("a") == a_record()
        reader.close()
    again = Journal(path)
    assert [owed.letter for owed in again.owed(10)] == [ACK]
    again.close()
    assert [companion.stat().st_ino for companion in companions] == inodes


def test_a_write_that_finds_no_room_takes_the_reserve_and_then_what_may_be_forgotten(path: Path) -> None:
    journal = Journal(path, now_s=lambda: 1000.0)
    assert not journal.has_room(), "a new client takes it at once"
    journal.make_room()
    assert journal.has_room()
    reserve = path.with_name("reserve")
    assert reserve.stat().st_size == 1 << 20 and reserve.stat().st_blocks * 512 >= 1 << 20
    journal._db.execute("DELETE FROM command")
    for number in range(200):
        journal.commit(replace(a_record(str(number), State.FAILED), command=bytes(2000), keep_until_s=1.0))
    # SQLite's own limit, in place of the disk's.
    used = journal._pages("page_count") - journal._pages("freelist_count")
    journal._db.execute("VACUUM")
    journal._db.execute(f"PRAGMA max_page_count = {used}")
    for number in range(200, 300):
        journal.commit(replace(a_record(str(number), State.FAILED), command=bytes(2000), keep_until_s=1.0))
    assert not reserve.exists()
    assert journal.find("0") is None and journal.find("299") is not None
    journal.close()


def test_a_journal_in_memory_knows_what_can_be_read_and_takes_nothing_up(path: Path) -> None:
    on_disk = Journal(path)
    on_disk.commit(a_record("done", State.COMPLETED), [ACK])
    on_disk.commit(a_record("open", State.EXECUTING))
    on_disk.close()
    journal = Journal(path, in_memory=True)
    assert journal.find("done") == a_record("done", State.COMPLETED)
    assert [owed.letter for owed in journal.owed(10)] == [ACK]
    assert journal.open_records() == []
    journal.commit(a_record("new", State.FAILED))
    journal.make_room()
    journal.check_writable()
    journal.close()
    found = Journal(path)
    assert found.find("new") is None and [record.command_id for record in found.open_records()] == ["open"]


def test_a_journal_in_memory_needs_no_file(path: Path) -> None:
    for content in (None, b"rubbish" * 1000):
        if content is not None:
            path.write_bytes(content)
        journal = Journal(path, in_memory=True)
        journal.commit(a_record("new", State.FAILED), [ACK])
        assert journal.find("new") is not None


def test_counters_count_across_processes(path: Path) -> None:
    assert Journal(path).count("unreadable") == 1
    assert Journal(path).count("unreadable") == 2
    assert Journal(path).counters() == {"unreadable": 2}


def test_rubbish_is_no_journal(path: Path) -> None:
    path.write_bytes(b"rubbish" * 1000)
    with pytest.raises(JournalUnusable, match=str(path)):
        Journal(path)
    assert path.read_bytes() == b"rubbish" * 1000


def test_a_journal_of_another_format_is_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(JournalUnusable, match="format is 99"):
        Journal(path)


def test_a_reader_sees_all_and_can_change_nothing(path: Path) -> None:
    writer = Journal(path)
    writer.commit(a_record(), [ACK])
    reader = Journal(path, read_only=True)
    assert reader.find("a") == a_record()
    with pytest.raises(JournalError):
        reader.commit(a_record("b"))


def test_a_journal_that_another_holds_is_not_writable(path: Path) -> None:
    journal, other = Journal(path), sqlite3.connect(path, isolation_level=None)
    journal.check_writable()
    other.execute("BEGIN IMMEDIATE")
    journal._db.execute("PRAGMA busy_timeout = 0")
    with pytest.raises(JournalBusy, match="locked"):
        journal.check_writable()


def test_a_journal_of_the_first_format_is_carried_over(path: Path) -> None:
    old = sqlite3.connect(path)
    old.executescript(f"BEGIN; {module._FORMATS[0]} PRAGMA user_version = 1; COMMIT;")
    old.execute("INSERT INTO outbox (topic, payload) VALUES ('acks', x'61')")
    old.execute(
        "INSERT INTO command (command_id, content_digest, received_boot_id, command, state, came_by_transitional) "
        "VALUES ('old', 'digest', 'boot', x'7b7d', 'held', 0)"
    )
    old.commit()
    old.close()
    journal = Journal(path)
    assert [owed.letter for owed in journal.owed(10)] == [Letter("acks", b"a")]
    assert journal.open_records() == [Record("old", "boot", b"{}", state=State.HELD)]
    assert journal.last_boot() is None
    journal.commit(a_record(), [ACK])


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
    kept = {record.command_id: record.keep_until_s for record in Journal(path).last_records(9)}
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
    journal = Journal(path)
    journal.open_boot(a_boot())
    journal.see_boot("boot-1", "2026-04-03T12:49:11.204Z")
    journal.mark_shutdown("boot-1", "2026-04-03T12:50:11.204Z")
    with pytest.raises(JournalError):
        journal.report_boot("boot-1", Letter("boot", None))  # type: ignore[arg-type]  # what the table refuses
    assert journal.last_boot() == replace(a_boot(), shutdown_began=True, last_seen_at="2026-04-03T12:50:11.204Z")
    journal.report_boot("boot-1", Letter("boot", b"{}", retain=True))
    found = Journal(path).last_boot()
    assert found is not None and found.is_reported and found.shutdown_began
    assert [owed.letter for owed in journal.owed(10)] == [Letter("boot", b"{}", retain=True)]
    journal.mark_shutdown("boot-1", "2026-04-03T12:50:11.204Z", began=False)
    assert journal.last_boot() == replace(found, shutdown_began=False)


def test_boots_are_kept_within_bounds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_BOOTS", 2)
    journal = Journal(path)
    for number in range(4):
        journal.open_boot(a_boot(str(number)))
    rows = sqlite3.connect(path).execute("SELECT boot_id FROM boot ORDER BY seq").fetchall()
    assert rows == [("2",), ("3",)]


def test_only_an_execution_that_was_not_refused_belongs_to_its_boot(path: Path) -> None:
    journal = Journal(path)
    journal.commit(a_record("a", State.COMPLETED))
    journal.commit(a_record("b", State.FAILED))
    assert (journal.executed_in("boot"), journal.executed_in("another")) == ("a", None)
    last = journal.last_executed()
    assert last is not None and last.command_id == "b"


def test_a_fact_is_recalled_by_the_next_process(path: Path) -> None:
    journal = Journal(path)
    assert journal.recall("broker") is None
    journal.remember("broker", "1")
    journal.remember("broker", "2")
    assert Journal(path).recall("broker") == "2"


def test_with_room_made_the_log_grows_no_more_and_nothing_is_owed(tmp_path: Path) -> None:
    journal, log = Journal(tmp_path / "journal"), tmp_path / "journal-wal"
    journal.commit(a_record(), [ACK])
    journal.make_room()
    sizes = log.stat().st_size, (tmp_path / "journal").stat().st_size
    assert sizes[0] > 4_096_000 and sizes[1] == 4_096_000
    assert [owed.letter for owed in journal.owed(10)] == [ACK]
    for number in range(3000):
        journal.remember("fact", str(number))
    for number in range(150):
        journal.commit(replace(a_record(str(number), State.FAILED), command=bytes(4000)))
    journal.make_room()
    assert (log.stat().st_size, (tmp_path / "journal").stat().st_size) == sizes
    journal.close()
    assert Journal(tmp_path / "journal").recall("fact") == "2999"
