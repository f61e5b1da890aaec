"""The ladder for a client that does not come back: what follows what, and that it always ends with the client or a
person."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infoscreen_reboot.controller import policies
from infoscreen_reboot.controller.recovery import (
    AT_WORK,
    COOLDOWN,
    OPEN,
    ORDER,
    OVER,
    AskedAgain,
    Back,
    Due,
    Fact,
    Locked,
    PowerDone,
    Record,
    Skipped,
    State,
    Step,
    Stopped,
    Subject,
    begin,
    deadline,
    diagram,
    learn,
    ticket,
)

NOW = datetime(2026, 11, 27, 2, 0, tzinfo=UTC)
BOOT = timedelta(seconds=150)
TREE = Path(__file__).parents[2]


def walked(record: Record, *, is_on_again: bool = True) -> list[Record]:
    """What becomes of it when only time passes, and the switch answers after 20 s."""
    found = [record]
    while (due := deadline(record)) is not None:
        if record.state is State.POWER:
            record = learn(record, PowerDone(record.since + timedelta(seconds=20), is_on_again, "port 7"))
        else:
            record = learn(record, Due(due, 1 if record.next_step is Step.POWER else None))
        found.append(record)
    return found


@pytest.mark.parametrize(
    ("steps", "has_watchdog", "course"),
    [
        (ORDER, True, "cooling asking waiting_for_watchdog cycling_power waiting_for_client needs_person"),
        (ORDER, False, "cooling asking cycling_power waiting_for_client needs_person"),
        ((Step.ASK, Step.WATCHDOG), True, "cooling asking waiting_for_watchdog needs_person"),
        ((Step.ASK, Step.WATCHDOG), False, "cooling asking needs_person"),
        ((Step.POWER,), True, "cooling cycling_power waiting_for_client needs_person"),
        ((), True, "cooling needs_person"),
    ],
)
def test_the_steps_that_a_site_allows_come_one_after_the_other_and_then_a_person(
    steps: tuple[Step, ...], has_watchdog: bool, course: str
) -> None:
    records = walked(begin(NOW, steps, has_watchdog, BOOT, NOW))
    assert " ".join(record.state for record in records) == course
    tried = [one.step for one in records[-1].tried if one.outcome is not None]
    assert sorted(tried, key=ORDER.index) == list(steps), "each step has its outcome, also one that was left out"


@pytest.mark.parametrize("steps", [steps for count in range(4) for steps in itertools.combinations(ORDER, count)])
@pytest.mark.parametrize("has_watchdog", [True, False])
def test_a_minute_passes_before_each_step(steps: tuple[Step, ...], has_watchdog: bool) -> None:
    records = walked(begin(NOW, steps, has_watchdog, BOOT, NOW))
    begun = [NOW, *(one.since for one in records if one.state in (State.ASKING, State.WATCHDOG, State.POWER))]
    assert all(later - earlier >= COOLDOWN for earlier, later in itertools.pairwise(begun))


def test_a_power_cycle_that_fails_calls_a_person_at_once() -> None:
    last = walked(begin(NOW, ORDER, False, BOOT, NOW), is_on_again=False)[-1]
    assert last.state is State.NEEDS_PERSON
    assert last.words == "cannot switch its power off and on: port 7"


def test_a_switch_that_never_answers_does_not_keep_a_person_away() -> None:
    record = learn(begin(NOW, (Step.POWER,), False, BOOT, NOW), Due(NOW + COOLDOWN, 1))
    due = deadline(record)
    assert due is not None
    assert learn(record, Due(due)).state is State.NEEDS_PERSON


def test_a_step_that_can_do_nothing_is_left_out_with_its_reason() -> None:
    record = learn(begin(NOW, (Step.POWER,), False, BOOT, NOW), Skipped(NOW, "no port is known"))
    assert (record.state, record.left) == (State.COOLING, ())
    assert learn(record, Due(NOW + COOLDOWN)).tried[0].outcome == "left out: no port is known"


def test_nobody_is_asked_while_a_client_without_records_would_execute_the_command() -> None:
    expires_at = NOW + timedelta(seconds=100)
    assert deadline(begin(NOW, ORDER, False, BOOT, expires_at)) == expires_at
    an_hour = begin(NOW, ORDER, False, BOOT, NOW + timedelta(hours=1))
    assert an_hour.next_step is Step.POWER
    assert an_hour.tried[0].outcome == "left out: the command can still be executed"


def test_a_power_step_without_a_power_cycle_is_an_error() -> None:
    with pytest.raises(ValueError, match="no power cycle"):
        learn(begin(NOW, (Step.POWER,), False, BOOT, NOW), Due(NOW + COOLDOWN))


FACTS: list[Fact] = [
    Due(NOW, 1),
    Skipped(NOW, "why"),
    AskedAgain(NOW),
    PowerDone(NOW, True, "port 7"),
    PowerDone(NOW, False, "port 7"),
    Locked(NOW, "3 reboots in 15 minutes"),
    Back(NOW, "it is online"),
    Stopped(NOW, "ann", "I am there"),
]


@given(st.sampled_from([(), *((step,) for step in ORDER), ORDER]), st.booleans(), st.lists(st.sampled_from(FACTS)))
def test_whatever_happens_a_ladder_that_is_over_stays_so_and_an_open_one_ends_with_the_client(
    steps: tuple[Step, ...], has_watchdog: bool, facts: list[Fact]
) -> None:
    record = begin(NOW, steps, has_watchdog, BOOT, NOW)
    for fact in facts:
        before, record = record, learn(record, fact)
        if before.state in OVER:
            assert record == before
        assert (record.ended_at is not None) == (record.state in OVER)
        assert (deadline(record) is not None) == (record.state in AT_WORK)
        assert before.state is not State.NEEDS_PERSON or record.state in (State.NEEDS_PERSON, *OVER)
    assert (learn(record, Back(NOW, "it is online")).state is State.BACK) == (record.state in (*OPEN, State.BACK))
    assert walked(record)[-1].state in (State.NEEDS_PERSON, *OVER)


def test_three_reboots_that_did_not_help_are_a_diagnosis() -> None:
    record = learn(begin(NOW, ORDER, True, BOOT, NOW), Locked(NOW, "3 reboots of this client in the last 15 minutes"))
    assert record.state is State.NEEDS_PERSON
    assert record.words == "reboots do not help: 3 reboots of this client in the last 15 minutes"


def test_the_ticket_says_who_where_and_what_was_tried() -> None:
    record = walked(begin(NOW, ORDER, False, BOOT, NOW))[-1]
    subject = Subject(
        client_uuid="9b8d1856-ff34-4864-a726-12de072d0f77",
        name="Bar left",
        note="behind the panel",
        labels={"site": "alpine", "room": "bar"},
        heard_at=NOW - timedelta(minutes=5),
        boot_id=None,
        command_id="0d9a1a86-6ff0-4b0e-8f40-3b2d8f1d7c11",
        ordered_at=NOW - timedelta(minutes=6),
        ordered_by="ann",
        reason=None,
    )
    assert ticket(record, subject).splitlines() == [
        "Bar left does not come back and needs a person.",
        "Diagnosis: nothing has brought the client back.",
        "Client: 9b8d1856-ff34-4864-a726-12de072d0f77",
        "Labels: room=bar, site=alpine",
        "Note: behind the panel",
        "Reboot: ordered by ann at 2026-11-27 01:54:00 UTC, command 0d9a1a86-6ff0-4b0e-8f40-3b2d8f1d7c11",
        "Last heard: 2026-11-27 01:55:00 UTC, boot unknown",
        "Tried:",
        "- 2026-11-27 02:01:00 UTC ask the client again: no answer",
        "- 2026-11-27 02:00:00 UTC wait for its hardware watchdog: left out: the client has reported none",
        "- 2026-11-27 02:02:00 UTC switch its power off and on: done; the client did not come",
        "To do: check power and network cable, see what the screen shows, and switch it off and on. The controller"
        " notices by itself when it is back.",
    ]
    assert "Tried: nothing\n" in ticket(replace(record, tried=()), replace(subject, name=None))
    assert " 01:54:00 UTC (new playlist), command" in ticket(record, replace(subject, reason="new playlist"))


@pytest.mark.parametrize(
    ("entry", "labels", "steps"),
    [
        ("ask,watchdog,power", {}, ORDER),
        ("site=alpine ask", {"site": "alpine"}, (Step.ASK,)),
        ("site=alpine person", {"site": "alpine"}, ()),
        ("power", {}, (Step.POWER,)),
    ],
)
def test_what_a_site_allows(entry: str, labels: dict[str, str], steps: tuple[Step, ...]) -> None:
    selector, found = policies.recovery(entry)
    assert selector.matches(labels) and found == steps


@pytest.mark.parametrize("entry", ["power,ask", "ask,ask", "", "ask, power", "site=alpine", "site=< ask", "ask,person"])
def test_what_is_no_ladder_is_refused(entry: str) -> None:
    with pytest.raises(ValueError):
        policies.recovery(entry)


def test_the_picture_in_the_documents_is_drawn_from_the_table() -> None:
    assert diagram() in (TREE / "docs/controller.md").read_text("utf-8")
