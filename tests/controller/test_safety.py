"""Each rule as a table: facts, and whether the command may go, waits, or is refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.contract.telemetry import Executor
from infoscreen_reboot.controller import safety
from infoscreen_reboot.controller.safety import Amount, Answer, Budget, Facts, Freeze, Group, Reported, Standing
from infoscreen_reboot.controller.windows import Window, next_openings, opens_at

NOW = datetime(2026, 4, 3, 12, 0, tzinfo=UTC)  # a Friday
ALWAYS = Facts(NOW, Action.REBOOT_HOST, Standing.ACCEPTED, True, NOW)
SHUTDOWN = replace(ALWAYS, action=Action.SHUTDOWN_HOST)
HEALTH = Reported(
    at=NOW,
    actions=frozenset(Action),
    executor=Executor.HELPER,
    is_clock_synchronized=True,
    requires_signature=False,
    lockout_used=0,
    lockout_limit=3,
    unlocks_at=None,
    is_disk_full=False,
    agent_version="1.0.0",
)
YES, WAIT, NO, WARNING = "yes", "wait", "no", "warning"


def ago(*minutes: float) -> tuple[datetime, ...]:
    return tuple(NOW - timedelta(minutes=each) for each in minutes)


def outcome(answer: Answer) -> str:
    if answer.hold is None:
        return WARNING if answer.warning else YES
    return WAIT if answer.can_wait else NO


def healthy(**changes: Any) -> Facts:
    return replace(ALWAYS, health=replace(HEALTH, **changes))


def in_group(budget: Budget, size: int, others: int, **changes: Any) -> Facts:
    return replace(ALWAYS, groups=(Group("site=a", budget, size, others),), **changes)


ONE = Budget(("site",), max_unavailable=Amount(1))
HALF = Budget(("site",), max_unavailable=Amount(50, True))
LAST = Budget(("site",), min_available=Amount(1))
NIGHT = Window(frozenset({4}), NOW.replace(hour=22).time(), timedelta(hours=4), "UTC")

TABLE: list[tuple[Any, Facts, str, datetime | None]] = [
    (safety.client_is_accepted, ALWAYS, YES, None),
    (safety.client_is_accepted, replace(ALWAYS, standing=Standing.UNKNOWN), NO, None),
    (safety.client_is_accepted, replace(ALWAYS, standing=Standing.REJECTED), NO, None),
    (safety.client_is_accepted, replace(ALWAYS, standing=Standing.RETIRED), NO, None),
    (safety.one_host, ALWAYS, YES, None),
    (safety.one_host, replace(ALWAYS, has_two_hosts=True), NO, None),
    (safety.one_open_command, ALWAYS, YES, None),
    (safety.one_open_command, replace(ALWAYS, open_command_id="x"), WAIT, None),
    (safety.turn, ALWAYS, YES, None),
    (safety.turn, replace(ALWAYS, not_before=NOW), YES, None),
    (safety.turn, replace(ALWAYS, not_before=NOW + timedelta(minutes=9)), WAIT, NOW + timedelta(minutes=9)),
    (safety.lockout, replace(ALWAYS, started=ago(1, 2)), YES, None),
    (safety.lockout, replace(ALWAYS, started=ago(1, 2, 14)), WAIT, NOW + timedelta(minutes=1)),
    (safety.lockout, replace(ALWAYS, started=ago(1, 2, 15)), YES, None),
    (safety.lockout, replace(ALWAYS, started=ago(1, 2, 3, 14)), WAIT, NOW + timedelta(minutes=12)),
    (safety.lockout, replace(SHUTDOWN, started=ago(1, 2, 3)), YES, None),
    (safety.lockout_of_client, ALWAYS, YES, None),
    (safety.lockout_of_client, healthy(lockout_used=2), YES, None),
    (safety.lockout_of_client, healthy(lockout_used=None, lockout_limit=None), YES, None),
    (safety.lockout_of_client, healthy(lockout_used=3), WAIT, None),
    (
        safety.lockout_of_client,
        healthy(lockout_used=3, unlocks_at=NOW + timedelta(minutes=5)),
        WAIT,
        NOW + timedelta(minutes=5),
    ),
    (safety.lockout_of_client, healthy(lockout_used=3, unlocks_at=NOW), YES, None),
    (safety.freeze, ALWAYS, YES, None),
    (safety.freeze, replace(ALWAYS, freezes=(Freeze("fair", "ann", None),)), WAIT, None),
    (
        safety.freeze,
        replace(ALWAYS, freezes=(Freeze("a", "b", NOW + timedelta(1)), Freeze("c", "d", NOW + timedelta(2)))),
        WAIT,
        NOW + timedelta(2),
    ),
    (safety.freeze, replace(ALWAYS, freezes=(Freeze("a", "b", NOW), Freeze("c", "d", None))), WAIT, None),
    (safety.freeze, replace(ALWAYS, freezes=(Freeze("a", "b", NOW),)), YES, None),
    (safety.window, ALWAYS, YES, None),
    (safety.window, replace(ALWAYS, windows=(NIGHT,)), WAIT, NOW.replace(hour=22)),
    (safety.window, replace(ALWAYS, windows=(NIGHT,), now=NOW.replace(hour=23)), YES, None),
    (safety.online, ALWAYS, YES, None),
    (safety.online, replace(ALWAYS, is_online=False), WAIT, None),
    (safety.online, replace(ALWAYS, is_online=False, heard_at=None), WAIT, None),
    (safety.budget, ALWAYS, YES, None),
    (safety.budget, in_group(ONE, 5, 0), YES, None),
    (safety.budget, in_group(ONE, 5, 1), WAIT, None),
    (safety.budget, in_group(ONE, 5, 1, is_online=False), YES, None),
    (safety.budget, in_group(HALF, 5, 1), YES, None),
    (safety.budget, in_group(HALF, 5, 2), WAIT, None),
    (safety.budget, in_group(HALF, 1, 0), YES, None),
    (safety.budget, in_group(LAST, 2, 0), YES, None),
    (safety.budget, in_group(LAST, 2, 1), WAIT, None),
    (safety.budget, in_group(LAST, 1, 0), WAIT, None),
    (safety.fleet_cap, replace(ALWAYS, fleet_cap=50, others_open=49), YES, None),
    (safety.fleet_cap, replace(ALWAYS, fleet_cap=50, others_open=50), WAIT, None),
    (safety.right_to_shut_down, replace(ALWAYS, may_shut_down=False), YES, None),
    (safety.right_to_shut_down, replace(SHUTDOWN, may_shut_down=False), NO, None),
    (safety.right_to_shut_down, SHUTDOWN, YES, None),
    (safety.can_be_woken, ALWAYS, YES, None),
    (safety.can_be_woken, SHUTDOWN, NO, None),
    (safety.can_be_woken, replace(SHUTDOWN, can_be_woken=True), YES, None),
    (safety.can_be_woken, replace(SHUTDOWN, someone_is_there=True), YES, None),
    (safety.capability, ALWAYS, YES, None),
    (safety.capability, healthy(), YES, None),
    (safety.capability, healthy(actions=frozenset()), NO, None),
    (safety.signature, healthy(), YES, None),
    (safety.signature, healthy(requires_signature=True), NO, None),
    (safety.signature, replace(healthy(requires_signature=True), has_signing_key=True), YES, None),
    (safety.executor, healthy(), YES, None),
    (safety.executor, healthy(executor=Executor.MOCK), WARNING, None),
    (safety.clock, healthy(), YES, None),
    (safety.clock, healthy(is_clock_synchronized=False), WARNING, None),
    (safety.disk, healthy(), YES, None),
    (safety.disk, healthy(is_disk_full=True), WARNING, None),
]


@pytest.mark.parametrize(("rule", "facts", "expected", "opens"), TABLE)
def test_a_rule_and_its_facts(rule: Any, facts: Facts, expected: str, opens: datetime | None) -> None:
    answer = rule(facts)
    assert (outcome(answer), answer.opens_at) == (expected, opens)
    assert answer.inputs, "explain has to show what it was asked about"


def test_every_rule_has_a_yes_and_something_else_in_the_table() -> None:
    for rule in safety.RULES:
        outcomes = {expected for asked, _, expected, _ in TABLE if asked is rule}
        assert YES in outcomes and len(outcomes) > 1, rule


def test_each_answer_has_a_name_of_its_own() -> None:
    answers = safety.ask(ALWAYS)
    assert len({answer.rule for answer in answers}) == len(safety.RULES)
    assert safety.first_hold(answers) is None


def test_what_cannot_be_waited_for_is_told_first() -> None:
    facts = replace(ALWAYS, open_command_id="x", is_online=False, standing=Standing.RETIRED, freezes=())
    hold = safety.first_hold(safety.ask(facts))
    assert hold is not None and hold.rule == "client_accepted"


def test_of_several_each_is_asked_as_if_those_before_it_had_gone() -> None:
    def of(group: str, size: int, others: int, **changes: Any) -> Facts:
        budget = Budget(("site",), max_unavailable=Amount(2))
        return replace(ALWAYS, groups=(Group(group, budget, size, others),), fleet_cap=5, **changes)

    asked = [of("a", 9, 1), of("a", 9, 1), of("b", 9, 0), of("b", 9, 0, is_online=False), of("b", 9, 0), of("c", 9, 0)]
    holds = [safety.first_hold(answers) for answers in safety.ask_in_turn([*asked, of("d", 9, 0), of("e", 9, 0)])]
    assert [hold.rule if hold else None for hold in holds] == [
        *(None, "budget", None, "online", None, None),
        *(None, "fleet_cap"),
    ]


def window(days: str, start: str, hours: float, zone: str) -> Window:
    hour, minute = map(int, start.split(":"))
    numbers = frozenset("mon tue wed thu fri sat sun".split().index(day) for day in days.split())
    return Window(numbers, NOW.replace(hour=hour, minute=minute).time(), timedelta(hours=hours), zone)


@pytest.mark.parametrize(
    ("one", "now", "opens"),
    [
        # Over midnight, on its last weekday.
        (window("fri", "22:00", 6, "Europe/Berlin"), "2026-04-04T01:30+02:00", "2026-04-03T22:00+02:00"),
        (window("fri", "22:00", 6, "Europe/Berlin"), "2026-04-04T04:00+02:00", "2026-04-10T22:00+02:00"),
        # Longer than a day.
        (window("fri", "22:00", 56, "Europe/Berlin"), "2026-04-05T23:00+02:00", "2026-04-03T22:00+02:00"),
        # 02:30 does not exist in the night in which summer begins, and comes twice in the night in which it ends.
        (window("sun", "02:30", 1, "Europe/Berlin"), "2026-03-29T00:00+01:00", "2026-03-29T03:30+02:00"),
        (window("sun", "02:30", 1, "Europe/Berlin"), "2026-10-25T00:00+02:00", "2026-10-25T02:30+02:00"),
        # Four hours of real time, not six o'clock.
        (window("sun", "01:00", 4, "Europe/Berlin"), "2026-10-25T03:59+01:00", "2026-10-25T01:00+02:00"),
        (window("sun", "01:00", 4, "Europe/Berlin"), "2026-10-25T04:00+01:00", "2026-11-01T01:00+01:00"),
        # Half an hour of summer time.
        (window("sun", "02:15", 1, "Australia/Lord_Howe"), "2026-10-04T00:00+10:30", "2026-10-04T02:45+11:00"),
        (window("sun", "01:45", 1, "Australia/Lord_Howe"), "2026-04-05T00:00+11:00", "2026-04-05T01:45+11:00"),
        (window("sun", "02:30", 1, "America/New_York"), "2026-03-08T00:00-05:00", "2026-03-08T03:30-04:00"),
        (window("sun", "01:30", 1, "America/New_York"), "2026-11-01T00:00-04:00", "2026-11-01T01:30-04:00"),
        (window("sun", "04:00", 1, "America/New_York"), "2026-03-08T00:00-05:00", "2026-03-08T04:00-04:00"),
        # The hour before midnight is left out.
        (window("sat", "22:30", 1, "America/Nuuk"), "2026-03-28T12:00-02:00", "2026-03-28T23:30-01:00"),
        (window("sun", "02:30", 1, "Asia/Tokyo"), "2026-03-29T00:00+09:00", "2026-03-29T02:30+09:00"),
    ],
)
def test_when_a_window_opens(one: Window, now: str, opens: str) -> None:
    """Pitfalls 36 and 37."""
    assert opens_at([one], datetime.fromisoformat(now)) == datetime.fromisoformat(opens)


def test_the_next_openings_begin_with_the_one_that_is_open_and_each_is_as_long_as_was_said() -> None:
    one = window("fri sun", "22:30", 4, "Europe/Berlin")
    found = next_openings(one, datetime.fromisoformat("2026-10-24T01:00+02:00"), 4)
    assert [f"{start.astimezone(ZoneInfo(one.zone)):%a %d %H:%M %z}" for start, _ in found] == [
        "Fri 23 22:30 +0200",
        "Sun 25 22:30 +0100",
        "Fri 30 22:30 +0100",
        "Sun 01 22:30 +0100",
    ]
    assert {end - start for start, end in found} == {timedelta(hours=4)}


def test_of_two_windows_the_one_that_is_open_counts() -> None:
    both = window("fri", "22:00", 1, "UTC"), window("fri", "11:30", 1, "UTC")
    assert opens_at(both, NOW) == NOW - timedelta(minutes=30)
    assert opens_at([], NOW) is None
