"""The brake's arithmetic, how clients are dealt to stages, and the table of a rollout's states."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infoscreen_reboot.controller import lifecycle, rollout, stages
from infoscreen_reboot.controller.brake import (
    Brake,
    Count,
    Decision,
    Foresight,
    Sample,
    counts_as,
    proven,
    read_threshold,
    upper_bound,
)
from infoscreen_reboot.controller.lifecycle import Proof
from infoscreen_reboot.controller.rollout import (
    ASKING,
    MOVING,
    OVER,
    Aborted,
    Asked,
    Begun,
    Completed,
    Record,
    RecoveryAllowed,
    Resumed,
    RolledBack,
    Settled,
    StageEnded,
    State,
    Tripped,
    diagram,
    learn,
)

NOW = datetime(2026, 11, 27, 22, tzinfo=UTC)
TREE = Path(__file__).parents[2]
GO, ASK, STOP = Decision.GO_ON, Decision.ASK, Decision.STOP
ENOUGH = 1000

# The same examples each time, and no time limit: the machine may be busy.
EACH = settings(deadline=None, derandomize=True, database=None)

# --- The brake


@pytest.mark.parametrize(
    ("failed", "ran", "left", "threshold", "decision", "words"),
    [
        (0, 5, ENOUGH, "5 %", GO, "0 of 5 failed: the true rate may still be 45 %"),
        (0, 10, ENOUGH, "5 %", GO, "0 of 10 failed: the true rate may still be 26 %"),
        (1, 10, ENOUGH, "5 %", ASK, "1 of 10 failed (10 %): of fewer than 20 nobody can tell if at most 5 % may"),
        (1, 10, 0, "5 %", STOP, "1 of 10 failed (10 %), and at most 5 % may"),
        (1, 10, 9, "5 %", STOP, "1 of 10 failed (10 %): however the other 9 end, it will be more than 5 % of 19"),
        (1, 10, 10, "5 %", ASK, "nobody can tell"),
        (1, 20, ENOUGH, "5 %", GO, "1 of 20 failed (5 %): the true rate may still be 22 %"),
        (1, 20, 0, "5 %", GO, "1 of 20"),
        (2, 20, ENOUGH, "5 %", STOP, "2 of 20 failed (10 %), and at most 5 % may"),
        (3, 59, ENOUGH, "5 %", STOP, "3 of 59 failed (5.1 %), and at most 5 % may"),
        (3, 60, ENOUGH, "5 %", GO, "3 of 60"),
        (6, 100, ENOUGH, "5 %", STOP, "6 of 100"),
        (5, 100, ENOUGH, "5%", GO, "5 of 100"),
        (11, 150, 50, "10 %", GO, "11 of 150"),
        (16, 150, 0, "10 %", STOP, "16 of 150"),
        (0, 0, 0, "5 %", GO, "none has run so far"),
        (0, 30, ENOUGH, "0 %", GO, "0 of 30"),
        (1, 30, ENOUGH, "0 %", STOP, "1 of 30"),
        *((0, 0, 9, rubbish, STOP, "cannot be read") for rubbish in ("", "five", "5", "5 percent", "-5 %", "100 %")),
        *((0, 99, 9, rubbish, STOP, "cannot be read") for rubbish in ("nan %", "\u0665 %", "5 % 5 %", "1e1 %", "\n")),
    ],
)
def test_the_arithmetic_of_the_brake(
    failed: int, ran: int, left: int, threshold: str, decision: Decision, words: str
) -> None:
    judged = Brake(threshold).judge(Sample(ran, failed, left))
    assert judged.decision is decision and words in judged.why


THRESHOLDS = ("0 %", "1 %", "2.5 %", "5 %", "33 %", "99.9 %", "rubbish")
SAMPLES = st.builds(Sample, st.integers(0, 300), st.integers(0, 300), st.integers(0, 300)).filter(
    lambda sample: sample.failed <= sample.ran
)
BRAKES = st.builds(Brake, st.sampled_from(THRESHOLDS), st.integers(0, 40))


@EACH
@given(BRAKES, SAMPLES, st.integers(0, 50))
def test_more_failures_are_never_judged_milder(brake: Brake, sample: Sample, more: int) -> None:
    severity = brake.judge(sample).decision.severity
    other = replace(sample, failed=min(sample.ran, sample.failed + more))
    assert brake.judge(other).decision.severity >= severity
    if brake.judge(sample).decision is STOP and sample.left:
        assert brake.judge(sample.after_failures(min(more, sample.left))).decision is STOP


@EACH
@given(BRAKES, SAMPLES)
def test_a_failure_in_the_place_of_a_success_is_never_judged_milder(brake: Brake, sample: Sample) -> None:
    if sample.left == 0:
        return
    well = replace(sample, ran=sample.ran + 1, left=sample.left - 1)
    ill = sample.after_failures(1)
    assert brake.judge(ill).decision.severity >= brake.judge(well).decision.severity


@EACH
@given(BRAKES, st.lists(st.sampled_from(Count), max_size=60), st.randoms())
def test_the_order_of_the_verdicts_does_not_matter(brake: Brake, verdicts: list[Count], chance: object) -> None:
    def sample_of(counted: list[Count]) -> Sample:
        failed = counted.count(Count.FAILED)
        return Sample(failed + counted.count(Count.RAN), failed, 0)

    mixed = list(verdicts)
    chance.shuffle(mixed)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
    assert brake.judge(sample_of(mixed)) == brake.judge(sample_of(verdicts))


@EACH
@given(BRAKES, SAMPLES)
def test_the_failure_that_is_named_is_the_first_one_that_stops(brake: Brake, sample: Sample) -> None:
    sample = replace(sample, left=min(sample.left, 12))
    seen = brake.foresee(sample)
    for count in range(1, sample.left + 1):
        decision = brake.judge(sample.after_failures(count)).decision
        assert (decision is STOP) == (seen.stops_at is not None and sample.failed + count >= seen.stops_at)
    if seen.stops_at_latest is not None:
        # However many have succeeded before.
        well = sample.left - (seen.stops_at_latest - sample.failed)
        last = Sample(sample.ran + well, sample.failed, sample.left - well)
        assert brake.judge(last.after_failures(seen.stops_at_latest - sample.failed)).decision is STOP


def test_a_plan_names_its_failures() -> None:
    brake = Brake("5 %")
    assert brake.foresee(Sample(0, 0, 200)) == Foresight(asks_at=1, stops_at=11, stops_at_latest=11)
    assert brake.foresee(Sample(60, 0, 140)) == Foresight(None, stops_at=4, stops_at_latest=11)
    assert brake.foresee(Sample(0, 0, 10)) == Foresight(None, stops_at=1, stops_at_latest=1)
    assert brake.foresee(Sample(200, 0, 0)) == Foresight(None, None, None)
    for sample, words in (
        (
            Sample(0, 0, 200),
            "none has run so far; failure 1 pauses it and asks; failure 11 of 200 stops it in any case",
        ),
        (
            Sample(60, 0, 140),
            "failure 4 stops it if no other client succeeds before; failure 11 of 200 stops it in any",
        ),
        (Sample(0, 0, 10), "none has run so far; failure 1 stops it"),
        (Sample(100, 0, 1), "0 of 100 failed: the true rate may still be 3 %; no failure can stop it"),
    ):
        assert words in brake.words(sample)
    assert "1 stops it" in Brake("rubbish").words(Sample(0, 0, 3))


@EACH
@given(st.integers(1, 3000))
def test_without_a_failure_the_bound_is_that_of_the_textbook(ran: int) -> None:
    assert upper_bound(0, ran) == pytest.approx(1 - 0.05 ** (1 / ran), rel=1e-6)


# From the tables of Clopper and Pearson, one-sided, 95 %.
@pytest.mark.parametrize(("failed", "ran", "bound"), [(1, 10, 0.3942), (2, 20, 0.2826), (5, 100, 0.1023), (3, 3, 1.0)])
def test_the_bound_after_failures(failed: int, ran: int, bound: float) -> None:
    assert upper_bound(failed, ran) == pytest.approx(bound, abs=5e-4)


def test_a_large_sample_proves_a_small_rate() -> None:
    bounds = [upper_bound(failed, 20_000) for failed in (0, 10, 100, 1000)]
    assert bounds == sorted(bounds) and bounds[0] < 0.0002 and bounds[-1] == pytest.approx(0.0526, abs=1e-3)
    assert proven(Sample(20_000, 0)) == "0 of 20000 failed: the true rate may still be 0 %"


def test_what_did_not_run_is_not_counted() -> None:
    counted = {state: counts_as(state, None) for state in lifecycle.VERDICTS}
    assert {state for state, count in counted.items() if count is Count.FAILED} == {"failed", "timed_out"}
    assert {state for state, count in counted.items() if count is Count.RAN} == {"completed"}
    assert counts_as(lifecycle.State.COMPLETED, Proof.MOCK) is Count.NOT_COUNTED
    assert counts_as(lifecycle.State.COMPLETED, Proof.BOOT_ID) is Count.RAN


@pytest.mark.parametrize(
    ("text", "share"), [("5 %", 0.05), ("5%", 0.05), (" 2.5 % ", 0.025), ("0%", 0), ("99.9 %", 0.999)]
)
def test_a_threshold_is_a_percentage(text: str, share: float) -> None:
    assert float(read_threshold(text)) == share


# --- Stages


def test_each_client_is_in_just_one_stage_and_the_rest_comes_last() -> None:
    clients = [f"c{number:02}" for number in range(40)]
    labels = {uuid: {"site": "alpine" if number >= 30 else "city"} for number, uuid in enumerate(clients)}
    dealt = stages.deal(stages.read(["canary 1", "10 %", "site=alpine", "5"]), clients, labels)
    assert [(stage.name, len(stage.clients)) for stage in dealt] == [
        ("canary 1", 1),
        ("10 %", 4),
        ("site=alpine", 10),
        ("5", 5),
        ("rest", 20),
    ]
    assert dealt[0].clients == ("c00",) and dealt[2].clients == tuple(clients[30:])
    assert sorted(uuid for stage in dealt for uuid in stage.clients) == clients


@EACH
@given(
    st.lists(st.sampled_from(["1", "canary 3", "10 %", "100 %", "7", "site=a", "!site", "site in (a,b)"]), max_size=6),
    st.lists(st.sampled_from(["a", "b", ""]), max_size=30),
)
def test_however_it_is_written_everybody_is_dealt_once_and_in_order(texts: list[str], sites: list[str]) -> None:
    clients = [f"c{number:02}" for number in range(len(sites))]
    labels = {uuid: {"site": site} if site else {} for uuid, site in zip(clients, sites, strict=True)}
    try:
        dealt = stages.deal(stages.read(texts), clients, labels)
    except ValueError:
        return
    assert sorted(uuid for stage in dealt for uuid in stage.clients) == clients
    for stage in dealt:
        assert stage.clients and list(stage.clients) == sorted(stage.clients)


def test_an_empty_percentage_takes_one_and_nobody_gets_an_empty_stage() -> None:
    dealt = stages.deal(stages.read(["1 %", "5", "10 %"]), ["a", "b"], {})
    assert [(stage.name, stage.clients) for stage in dealt] == [("1 %", ("a",)), ("5", ("b",))]
    assert stages.deal(stages.read(stages.DEFAULT), ["a"], {}) == [stages.Dealt("canary 1", ("a",))]


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["0"], "1 client or more"),
        (["101 %"], "at most 100 %"),
        (["site=<"], "no stage"),
        ([""], "means nobody"),
        (["-5"], "no stage"),
        (["10 %", "canary 1"], "is not the first stage"),
        (["1"] * 51, "at most 50"),
        (["site=alpin"], "means none of these clients"),
    ],
)
def test_a_stage_that_cannot_be_meant_is_refused(texts: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        stages.deal(stages.read(texts), ["a"], {"a": {"site": "alpine"}})


def test_the_least_recently_rebooted_comes_first() -> None:
    days = {"b": 1, "a": 1, "c": 30, "z": 400, "d": 0}
    rebooted_at: dict[str, datetime | None] = {uuid: NOW - timedelta(days=ago) for uuid, ago in days.items()}
    assert stages.in_order(rebooted_at | {"unknown": None}) == ["z", "c", "a", "b", "d", "unknown"]


# --- The states


def told(*facts: rollout.Fact) -> Record:
    record = Record()
    for fact in facts:
        record = learn(record, fact)
    return record


LATER = NOW + timedelta(minutes=5)
BEGUN, ENDED, SETTLED = Begun(NOW), StageEnded(NOW, LATER), Settled(NOW, LATER)
ASKED, HELD, TRIPPED = Asked(NOW, "1 of 3"), Asked(NOW, "lunch", "ann"), Tripped(NOW, "2 of 20")
RESUMED, ABORTED, BACK = Resumed(NOW, "ann"), Aborted(NOW, "ann"), RolledBack(NOW, "ann")
ALLOWED = RecoveryAllowed(NOW, "ann")
FACTS = (BEGUN, ENDED, SETTLED, Completed(NOW), ASKED, HELD, TRIPPED, RESUMED, ABORTED, BACK, ALLOWED)


def test_a_rollout_goes_stage_after_stage_to_its_end() -> None:
    course = (BEGUN, ENDED, SETTLED, BEGUN, ENDED, Completed(NOW))
    states = [told(*course[:count]).state for count in range(len(course) + 1)]
    assert states == ["planned", "running", "settling", "pausing", "running", "settling", "finished"]
    end = told(*course)
    assert (end.stage, end.run, end.ended_at) == (2, 1, NOW)
    assert (told(BEGUN, ENDED).due_at, told(BEGUN, ENDED, SETTLED).due_at, end.due_at) == (LATER, LATER, None)


@EACH
@given(st.lists(st.sampled_from(FACTS), max_size=25))
def test_only_a_person_leads_out_of_paused_and_stopped_and_nothing_out_of_an_end(facts: list[rollout.Fact]) -> None:
    records = [told(*facts[:count]) for count in range(len(facts) + 1)]
    for (before, after), fact in zip(pairwise(records), facts, strict=True):
        if before.state in ASKING and after.state in MOVING:
            assert isinstance(fact, Resumed)
        if before.state in OVER:
            assert after.state in (before.state, State.ROLLED_BACK)
        if before.recovery_off and not after.recovery_off:
            assert isinstance(fact, Resumed | RecoveryAllowed)
        assert after.stage >= before.stage and after.run >= before.run and after.counts_from >= before.counts_from


def test_after_the_brake_it_counts_anew_and_after_a_person_it_goes_on_counting() -> None:
    for facts, counts_from in (((BEGUN, ASKED), 2), ((BEGUN, TRIPPED), 2), ((BEGUN, HELD), 1)):
        record = told(*facts, RESUMED)
        assert (record.state, record.run, record.counts_from, record.why) == (State.RUNNING, 2, counts_from, None)


def test_recovery_stays_off_after_the_brake_until_a_person_says_so() -> None:
    assert told(BEGUN, TRIPPED).recovery_off and not told(BEGUN, ASKED).recovery_off
    assert told(BEGUN, TRIPPED, ABORTED).recovery_off and told(BEGUN, TRIPPED, BACK).recovery_off
    assert not told(BEGUN, TRIPPED, RESUMED).recovery_off
    assert not told(BEGUN, TRIPPED, ALLOWED).recovery_off and told(BEGUN, TRIPPED, ALLOWED).state is State.STOPPED


def test_the_picture_in_the_documents_is_drawn_from_the_table() -> None:
    assert diagram() in (TREE / "docs/controller.md").read_text("utf-8")
