"""The table of a command's states: what moves it on, in any order, and what comes too late."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infoscreen_reboot.contract.ack import AckStatus, ErrorCode
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.controller.lifecycle import (
    OPEN,
    VERDICTS,
    Acked,
    Blocked,
    Cancelled,
    Fact,
    Limits,
    Overdue,
    Proof,
    Published,
    Record,
    Seen,
    Sent,
    State,
    Step,
    deadline,
    diagram,
    learn,
)

NOW = datetime(2026, 4, 3, 12, 48, 10, tzinfo=UTC)
EXPIRES = NOW + timedelta(minutes=4)
OLD, NEW = "0f8fad5b-d9cb-469f-a165-70867728950e", "7d444840-9dc0-11d1-b245-5ffdce74fad2"
LIMITS = Limits()
TREE = Path(__file__).parents[2]


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def a_record(action: Action = Action.REBOOT_HOST) -> Record:
    return Record(action, EXPIRES)


def ack(status: str, boot_id: str = OLD, code: ErrorCode | None = None, seconds: float = 0) -> Acked:
    return Acked(at(seconds), AckStatus(status), boot_id, code, "why" if code else None)


def told(record: Record, *facts: Fact) -> Record:
    for fact in facts:
        record = learn(record, fact)
    return record


SENT, PUBLISHED = Sent(at(1)), Published(at(2))
ACCEPTED, STARTED = ack("accepted", seconds=3), ack("execution_started", seconds=4)
DOWN, BACK = Seen(at(8), False, OLD), Seen(at(50), True, NEW)
COMPLETED = ack("completed", NEW, seconds=60)
COURSE = (SENT, PUBLISHED, ACCEPTED, STARTED, DOWN, BACK, COMPLETED)


def test_a_reboot_goes_from_queued_to_completed() -> None:
    record, states = a_record(), []
    for fact in COURSE:
        record = learn(record, fact)
        states.append(record.state)
    assert states == [
        State.QUEUED,
        State.PUBLISHED,
        State.ACCEPTED,
        State.EXECUTION_STARTED,
        State.AWAITING_RECONNECT,
        State.AWAITING_RECONNECT,
        State.COMPLETED,
    ]
    assert record.proof is Proof.BOOT_ID
    assert (record.down_at, record.back_at, record.back_boot_id) == (DOWN.at, BACK.at, NEW)


@given(st.permutations(COURSE), st.lists(st.sampled_from(COURSE), max_size=8))
def test_whatever_the_order_and_however_often_the_end_and_its_proof_are_the_same(
    order: list[Fact], again: list[Fact]
) -> None:
    record = a_record()
    ranks = []
    for fact in [*order, *again]:
        record = learn(record, fact)
        ranks.append(record.state.rank)
    assert ranks == sorted(ranks)
    assert (record.state, record.proof, record.late) == (State.COMPLETED, Proof.BOOT_ID, None)
    assert (record.started_boot_id, record.ended_boot_id) == (OLD, NEW)


@given(st.lists(st.sampled_from(COURSE[:-1]), min_size=1, max_size=12))
def test_completed_alone_is_enough_and_what_is_missing_is_said(heard: list[Fact]) -> None:
    record = told(a_record(), *heard, COMPLETED)
    assert record.state is State.COMPLETED
    assert record.proof is (Proof.BOOT_ID if STARTED in heard else Proof.UNHEARD)


def test_a_mock_is_shown_as_one_even_if_its_start_comes_after_its_end() -> None:
    mocked = ack("completed", OLD)
    for order in itertools.permutations((ACCEPTED, STARTED, mocked)):
        assert told(a_record(), *order).proof is Proof.MOCK


def test_a_shutdown_needs_no_other_boot() -> None:
    record = told(a_record(Action.SHUTDOWN_HOST), SENT, PUBLISHED, ACCEPTED, STARTED, ack("completed", OLD))
    assert (record.state, record.proof) == (State.COMPLETED, None)


@pytest.mark.parametrize("verdict", [COMPLETED, ack("failed", OLD, ErrorCode.INHIBITED), Overdue(at(9), Step.DOWN)])
def test_a_verdict_is_given_once(verdict: Fact) -> None:
    record = told(a_record(), SENT, PUBLISHED, ACCEPTED, STARTED, verdict)
    assert record.state.is_verdict
    later: list[Fact] = [
        *COURSE,
        ack("failed", OLD, ErrorCode.INHIBITED),
        Overdue(at(99), Step.BACK),
        Cancelled(at(99)),
        Blocked(at(99), "freeze", "x"),
    ]
    for fact in later:
        after = learn(record, fact)
        assert (after.state, after.ended_at, after.ended_boot_id) == (
            record.state,
            record.ended_at,
            record.ended_boot_id,
        )
        assert (after.error_code, after.overdue) == (record.error_code, record.overdue)


def test_what_comes_after_a_verdict_and_says_something_else_is_late_truth() -> None:
    record = told(a_record(), SENT, PUBLISHED, ACCEPTED, STARTED, DOWN, Overdue(at(200), Step.BACK))
    assert record.state is State.TIMED_OUT
    late = learn(record, replace(COMPLETED, at=at(86400)))
    assert (late.state, late.late, late.late_at) == (State.TIMED_OUT, AckStatus.COMPLETED, at(86400))
    assert learn(late, replace(COMPLETED, at=at(86500))) == late, "the same word again is no news"


def test_the_same_verdict_again_is_no_late_truth() -> None:
    record = told(a_record(), *COURSE)
    assert learn(record, replace(COMPLETED, at=at(900))).late is None


@pytest.mark.parametrize("code", [ErrorCode.EXPIRED, ErrorCode.HELPER_FAILED, ErrorCode.INVALID_SIGNATURE])
def test_a_client_that_was_installed_anew_says_nothing_about_what_it_once_executed(code: ErrorCode) -> None:
    record = told(a_record(), SENT, PUBLISHED, ACCEPTED, STARTED, DOWN, BACK)
    assert learn(record, ack("failed", NEW, code)) == record
    overdue = learn(record, Overdue(at(300), Step.LAST_ACK))
    assert learn(overdue, ack("failed", NEW, code)).late is None


def test_what_a_client_that_remembers_says_of_another_boot_counts() -> None:
    record = told(a_record(), SENT, PUBLISHED, ACCEPTED, STARTED, DOWN, BACK)
    assert learn(record, ack("failed", NEW, ErrorCode.POST_CHECK_FAILED)).state is State.FAILED


def test_expired_in_the_boot_of_its_start_is_the_clients_own_word() -> None:
    record = told(a_record(), SENT, PUBLISHED, ACCEPTED, STARTED, ack("failed", OLD, ErrorCode.EXPIRED))
    assert (record.state, record.error_code) == (State.FAILED, "expired")


def test_a_verdict_from_another_boot_shows_that_the_client_is_back_when_its_presence_comes_after_it() -> None:
    record = told(a_record(), SENT, PUBLISHED, ACCEPTED, STARTED, DOWN, COMPLETED, BACK)
    assert (record.back_at, record.back_boot_id, record.down_at) == (at(60), NEW, at(8))
    assert told(a_record(), STARTED, COMPLETED).down_at == at(60)
    mock = told(a_record(), STARTED, ack("completed", OLD))
    assert (mock.down_at, mock.back_at) == (None, None)


def test_an_ack_may_overtake_the_commit_of_its_own_publish() -> None:
    record = told(a_record(), SENT, ACCEPTED)
    assert (record.state, record.published_at) == (State.ACCEPTED, None)
    record = learn(record, PUBLISHED)
    assert (record.state, record.published_at) == (State.ACCEPTED, PUBLISHED.at)


def test_only_what_was_not_given_to_the_broker_can_be_taken_back_or_blocked() -> None:
    for fact, state in ((Cancelled(at(1)), State.CANCELLED), (Blocked(at(1), "freeze", "x"), State.BLOCKED_SAFETY)):
        assert learn(a_record(), fact).state is state
        assert learn(told(a_record(), SENT), fact).state is State.QUEUED
        for facts in (COURSE[:2], COURSE[:3], COURSE[:4], COURSE[:5], COURSE):
            before = told(a_record(), *facts)
            assert learn(before, fact) == before


def test_a_lost_connection_alone_is_no_reboot() -> None:
    started = told(a_record(), SENT, PUBLISHED, ACCEPTED, STARTED)
    lost = learn(started, DOWN)
    assert deadline(lost, LIMITS) == (Step.BACK, DOWN.at + LIMITS.back)
    again = learn(lost, Seen(at(10), True, OLD))
    assert again.state is State.AWAITING_RECONNECT, "a rank never falls"
    assert deadline(again, LIMITS) == deadline(started, LIMITS), "but it has to go down as before"


def test_a_client_that_is_back_before_we_heard_that_it_went_was_down() -> None:
    record = told(a_record(), SENT, PUBLISHED, ACCEPTED, STARTED, BACK)
    assert (record.state, record.down_at, record.back_at) == (State.AWAITING_RECONNECT, BACK.at, BACK.at)


@pytest.mark.parametrize(
    ("facts", "step", "due"),
    [
        ((), Step.SEND, EXPIRES),
        ((SENT,), Step.FIRST_ACK, EXPIRES + timedelta(seconds=60)),
        (COURSE[:2], Step.FIRST_ACK, EXPIRES + timedelta(seconds=60)),
        (COURSE[:3], Step.START, EXPIRES + timedelta(seconds=10)),
        (COURSE[:4], Step.DOWN, at(4 + 75)),
        (COURSE[:5], Step.BACK, at(8 + 150)),
        # Until it expires nobody may ask for an ack that was lost.
        (COURSE[:6], Step.LAST_ACK, EXPIRES + timedelta(seconds=60)),
        ((*COURSE[:5], Seen(EXPIRES, True, NEW)), Step.LAST_ACK, EXPIRES + timedelta(seconds=180)),
    ],
)
def test_each_step_has_its_deadline(facts: tuple[Fact, ...], step: Step, due: datetime) -> None:
    assert deadline(told(a_record(), *facts), LIMITS) == (step, due)


def test_nobody_waits_for_a_host_that_was_shut_down() -> None:
    record = told(a_record(Action.SHUTDOWN_HOST), *COURSE[:5])
    assert deadline(record, LIMITS) == (Step.LAST_ACK, at(8 + 180))


@pytest.mark.parametrize("state", VERDICTS)
def test_a_verdict_waits_for_nothing(state: State) -> None:
    assert deadline(replace(a_record(), state=state), LIMITS) is None


def test_a_command_of_which_nobody_heard_expires_and_another_is_timed_out() -> None:
    for heard in range(7):
        record = told(a_record(), *COURSE[:heard])
        waits_for = deadline(record, LIMITS)
        assert waits_for is not None
        over = learn(record, Overdue(waits_for[1], waits_for[0]))
        assert over.state is (State.TIMED_OUT if record.is_heard_of else State.EXPIRED)
        assert over.overdue is waits_for[0]


def test_the_ranks_are_in_the_order_of_the_states() -> None:
    assert [state.rank for state in OPEN] == list(range(len(OPEN)))
    assert {state.rank for state in VERDICTS} == {len(OPEN)}
    assert {*OPEN, *VERDICTS} == {*State}


def test_the_picture_in_the_documents_is_drawn_from_the_table() -> None:
    assert diagram() in (TREE / "docs/controller.md").read_text("utf-8")
