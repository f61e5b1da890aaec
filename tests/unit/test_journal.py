"""What is on the disk, and what survives."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from infoscreen_reboot.agent import journal as module
from infoscreen_reboot.agent.boots import Boot
from infoscreen_reboot.agent.journal import Journal, JournalError, Letter
from infoscreen_reboot.agent.lifecycle import Record, State
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


def test_only_so_many_ended_records_are_kept_and_open_ones_always(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_RECORDS", 3)
    monkeypatch.setattr(module, "_FORGET_EVERY", 1)
    journal = Journal(path)
    journal.commit(a_record("open", State.EXECUTING))
    for number in range(10):
        journal.commit(a_record(str(number), State.FAILED))
    assert [record.command_id for record in journal.last_records(100)] == ["9", "8", "7", "open"]


def test_counters_count_across_processes(path: Path) -> None:
    assert Journal(path).count("unreadable") == 1
    assert Journal(path).count("unreadable") == 2
    assert Journal(path).counters() == {"unreadable": 2}


def test_rubbish_is_no_journal(path: Path) -> None:
    path.write_bytes(b"rubbish" * 1000)
    with pytest.raises(JournalError, match=str(path)):
        Journal(path)
    assert path.read_bytes() == b"rubbish" * 1000


def test_a_journal_of_another_format_is_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(JournalError, match="format is 99"):
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
    with pytest.raises(JournalError, match="locked"):
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
    journal.make_room()
    size = log.stat().st_size
    assert size > 4_096_000
    assert journal.owed(1) == []
    for number in range(300):
        journal.remember("fact", str(number))
    assert log.stat().st_size == size
    assert (tmp_path / "journal").stat().st_size < 200_000
    journal.close()
    assert Journal(tmp_path / "journal").recall("fact") == "299"
