"""May we, now? Facts in, answer out."""

from dataclasses import replace
from datetime import timedelta

import pytest

from infoscreen_reboot.client.agent.lifecycle import Failed
from infoscreen_reboot.client.agent.policy import ALLOWED_SKEW, Facts, Hold, Yes, decide
from infoscreen_reboot.contract.ack import ErrorCode
from infoscreen_reboot.contract.command import Action
from tests.world import CLIENT, OTHER_ID, START, a_command

FACTS = Facts(CLIENT, frozenset(Action), retained=False, now=START, clock_is_trusted=True, busy_with=None)


def code(command_changes: dict[str, object], **facts: object) -> ErrorCode | None:
    answer = decide(a_command(**command_changes), replace(FACTS, **facts))  # type: ignore[arg-type]  # names are checked
    if isinstance(answer, Failed):
        assert answer.message
        return answer.code
    return None


def test_a_good_command_may_run_for_as_long_as_it_is_valid() -> None:
    assert decide(a_command(), replace(FACTS, now=START + timedelta(seconds=10))) == Yes(230)


def test_a_retained_command_is_refused_whatever_else_it_is() -> None:
    assert code({"client_uuid": OTHER_ID}, retained=True) is ErrorCode.RETAINED


def test_a_command_for_another_client_is_refused() -> None:
    assert code({"client_uuid": OTHER_ID}) is ErrorCode.WRONG_CLIENT


def test_a_shutdown_that_is_switched_off_is_refused_and_a_reboot_is_not() -> None:
    offered = frozenset({Action.REBOOT_HOST})
    assert code({"action": Action.SHUTDOWN_HOST}, offered=offered) is ErrorCode.UNSUPPORTED_ACTION
    assert code({}, offered=offered) is None


def test_a_client_that_is_not_fit_executes_nothing_and_says_why() -> None:
    answer = decide(a_command(), replace(FACTS, unfit="the state does not outlive the boot; see fleet.md"))
    assert answer == Failed(ErrorCode.UNSUPPORTED_ACTION, "the state does not outlive the boot; see fleet.md")
    assert code({"client_uuid": OTHER_ID}, unfit="the state does not outlive the boot") is ErrorCode.WRONG_CLIENT


@pytest.mark.parametrize(("after_s", "expected"), [(239.9, None), (240, ErrorCode.EXPIRED), (9999, ErrorCode.EXPIRED)])
def test_a_command_expires_at_the_moment_it_names(after_s: float, expected: ErrorCode | None) -> None:
    assert code({}, now=START + timedelta(seconds=after_s)) is expected


def test_a_command_from_the_future_is_refused_beyond_the_allowed_skew() -> None:
    assert code({}, now=START - ALLOWED_SKEW) is None
    assert code({}, now=START - ALLOWED_SKEW - timedelta(milliseconds=1)) is ErrorCode.NOT_YET_VALID


def test_one_command_at_a_time() -> None:
    assert code({}, busy_with=OTHER_ID) is ErrorCode.BUSY


def test_a_dead_command_is_called_expired_rather_than_told_to_wait() -> None:
    assert code({}, busy_with=OTHER_ID, now=START + timedelta(hours=1)) is ErrorCode.EXPIRED


def test_a_clock_that_cannot_be_trusted_judges_nothing() -> None:
    for now in (START, START + timedelta(days=900), START - timedelta(days=9000)):
        assert decide(a_command(), replace(FACTS, clock_is_trusted=False, now=now)) == Hold()


def test_what_needs_no_clock_is_refused_without_one() -> None:
    assert code({"client_uuid": OTHER_ID}, clock_is_trusted=False) is ErrorCode.WRONG_CLIENT
    assert code({}, clock_is_trusted=False, busy_with=OTHER_ID) is ErrorCode.BUSY
