"""The table of states: what is legal, what each transition says, and that nothing else is possible."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from infoscreen_reboot.client.agent.lifecycle import (
    TABLE,
    Accepted,
    AgentStarted,
    ChecksPassed,
    Event,
    ExecutionStarted,
    Failed,
    GoingDown,
    Held,
    IllegalEvent,
    Mocked,
    Record,
    State,
    diagram,
    step,
)
from infoscreen_reboot.contract.ack import AckStatus, ErrorCode
from infoscreen_reboot.contract.command import Action

BEFORE, AFTER = "boot-before", "boot-after"
EVENTS: tuple[Event, ...] = (
    Held(60),
    Accepted(240),
    ExecutionStarted(BEFORE, 62),
    Failed(ErrorCode.EXPIRED, "too late"),
    GoingDown(),
    AgentStarted(AFTER),
    ChecksPassed(),
    Mocked(),
)


def a_record(state: State, action: Action = Action.REBOOT_HOST) -> Record:
    return Record("id", BEFORE, b"{}", action=action, state=state, started_boot_id=BEFORE)


@pytest.mark.parametrize(("state", "event"), product(State, EVENTS))
def test_an_event_that_the_table_does_not_list_raises(state: State, event: Event) -> None:
    if not any(row.state is state and isinstance(event, row.event) for row in TABLE):
        with pytest.raises(IllegalEvent):
            step(a_record(state), event)


def test_nothing_leads_out_of_an_end_and_nothing_back_from_execution() -> None:
    for row in TABLE:
        assert not row.state.is_terminal
        assert row.state is not State.EXECUTING or row.to.is_terminal or row.to is State.CHECKING
        assert row.state is not State.CHECKING or row.to.is_terminal or row.to is State.CHECKING


def test_only_a_new_boot_id_counts_as_a_reboot() -> None:
    executing = a_record(State.EXECUTING)
    assert step(executing, AgentStarted(BEFORE)) == (executing, None)
    after, reply = step(executing, AgentStarted(AFTER))
    assert (after.state, reply) == (State.CHECKING, None)
    assert step(after, AgentStarted("boot-after-that")) == (after, None)
    after, reply = step(after, ChecksPassed())
    assert after.state is State.COMPLETED
    assert reply is not None and reply.status is AckStatus.COMPLETED and reply.code is None


def test_a_shutdown_is_over_with_the_next_boot_whatever_runs_in_it() -> None:
    after, reply = step(a_record(State.EXECUTING, Action.SHUTDOWN_HOST), AgentStarted(AFTER))
    assert after.state is State.COMPLETED
    assert reply is not None and reply.status is AckStatus.COMPLETED


def test_only_a_reboot_is_mocked_and_no_boot_is_put_down_to_it() -> None:
    after, reply = step(a_record(State.EXECUTING), Mocked())
    assert (after.state, after.started_boot_id) == (State.COMPLETED, None)
    assert reply is not None and reply.status is AckStatus.COMPLETED
    shutdown = a_record(State.EXECUTING, Action.SHUTDOWN_HOST)
    assert step(shutdown, Mocked()) == (shutdown, None)


@pytest.mark.parametrize("state", [State.HELD, State.ACCEPTED])
def test_what_had_not_begun_before_the_host_went_down_is_interrupted(state: State) -> None:
    record = a_record(state)
    assert step(record, AgentStarted(BEFORE)) == (record, None)
    after, reply = step(record, AgentStarted(AFTER))
    assert after.state is State.FAILED
    assert reply is not None and reply.code is ErrorCode.INTERRUPTED and reply.message


def test_a_shutdown_completes_as_the_host_goes_down_and_a_reboot_does_not() -> None:
    assert step(a_record(State.EXECUTING, Action.SHUTDOWN_HOST), GoingDown())[0].state is State.COMPLETED
    reboot = a_record(State.EXECUTING)
    assert step(reboot, GoingDown()) == (reboot, None)


def test_execution_remembers_boot_and_deadline() -> None:
    after, reply = step(a_record(State.ACCEPTED), ExecutionStarted(AFTER, 62.5))
    assert (after.started_boot_id, after.down_by_s) == (AFTER, 62.5)
    assert reply is not None and reply.status is AckStatus.EXECUTION_STARTED


def test_a_held_command_says_nothing_yet() -> None:
    after, reply = step(a_record(State.NEW), Held(60))
    assert (after.state, after.decide_by_s, reply) == (State.HELD, 60, None)


def test_a_reply_names_an_error_if_it_failed_and_only_then() -> None:
    """What the schema of acks asks for, and no type does."""
    told = set()
    for row, event in product(TABLE, EVENTS):
        if not isinstance(event, row.event):
            continue
        fitting = Failed(row.codes[0], "why") if isinstance(event, Failed) else event
        for action in Action:
            _, reply = step(a_record(row.state, action), fitting)
            if reply is not None:
                has_failed = reply.status is AckStatus.FAILED
                assert (reply.code is not None, bool(reply.message)) == (has_failed, has_failed)
                told.add(reply.status)
    assert told == set(AckStatus)


def test_a_command_can_fail_only_as_its_state_allows() -> None:
    for row in (row for row in TABLE if row.event is Failed):
        for code in ErrorCode:
            event = Failed(code, "why")
            if code in row.codes:
                assert step(a_record(row.state), event)[0].state is State.FAILED
            else:
                with pytest.raises(IllegalEvent):
                    step(a_record(row.state), event)


def test_every_code_has_a_row() -> None:
    assert {code for row in TABLE for code in row.codes} == set(ErrorCode)


def test_a_step_changes_no_record_in_place() -> None:
    record = a_record(State.ACCEPTED)
    same = replace(record)
    step(record, ExecutionStarted(BEFORE, 62))
    assert record == same


def test_the_picture_in_the_docs_is_drawn_from_the_table() -> None:
    page = Path(__file__).parents[2].joinpath("docs", "architecture.md").read_text("utf-8")
    assert diagram() in page
