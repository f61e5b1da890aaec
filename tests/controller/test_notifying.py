"""Which notices become which message, and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infoscreen_reboot.controller import notifying, policies
from infoscreen_reboot.controller.notifying import GRACE, Digest, Kind, Notice

# A Friday.
NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
OLD = NOW - GRACE
HOURS = {"alpine": policies.opening_hours("mon-fri 08:00 12h", "Europe/Berlin")}


def notice(number: int, kind: Kind = Kind.NEEDS_PERSON, at: datetime = OLD, site: str | None = None) -> Notice:
    return Notice(number, at, kind, f"client/{number}", f"client {number} did not come back", {}, site)


def told(
    pending: Sequence[Notice], now: datetime = NOW, *before: str, last: Mapping[Kind, datetime] | None = None
) -> Digest:
    return notifying.digest(now, pending, HOURS, frozenset(before), last or {})


def test_400_failures_are_one_message_with_their_number_their_sites_and_the_first_names() -> None:
    pending = [notice(number, site="alpine" if number % 4 else "harbour") for number in range(400)]
    [message] = told(pending).messages
    assert message.title == "infoscreen: 400 clients need a person"
    assert message.is_loud and message.notice_ids == tuple(range(400))
    lines = message.body.splitlines()
    assert lines[:2] == ["Sites: alpine (300), harbour (100).", "- client 0 did not come back"]
    assert lines[-1] == "And 390 more: infoscreen-rebootctl notify list" and len(lines) == 12
    assert (message.content["count"], len(message.content["notices"])) == (400, 50)


def test_a_notice_waits_for_others_of_its_kind_and_kinds_do_not_mix() -> None:
    early, late = notice(1, at=NOW), notice(2, at=NOW + timedelta(seconds=50))
    other = notice(3, Kind.TWO_HOSTS, at=NOW + timedelta(seconds=30))
    pending = [early, other, late]
    assert not told(pending, NOW + GRACE - timedelta(seconds=1)).messages
    [message] = told(pending, NOW + GRACE).messages
    assert (message.kind, message.notice_ids) == (Kind.NEEDS_PERSON, (1, 2))


def test_a_power_failure_that_goes_on_is_a_message_in_ten_minutes_and_a_brake_is_told_each_time() -> None:
    last = {kind: NOW - timedelta(minutes=3) for kind in Kind}
    assert not told([notice(1)], last=last).messages
    assert told([notice(1)], NOW + timedelta(minutes=7), last=last).messages
    assert told([notice(1, Kind.STOPPED)], last=last).messages


def test_a_plan_that_has_finished_names_who_is_missing() -> None:
    words, names = "rollout spring has finished: 58 of 60 are back", ["bar-left", "lobby\nX"]
    done = Notice(1, OLD, Kind.FINISHED, "rollout/1", words, {"missing": names})
    [message] = told([done]).messages
    assert message.title == "infoscreen: a plan has finished" and not message.is_loud
    assert message.body == f"{words}\nMissing: bar-left, lobby X."
    many = Notice(1, OLD, Kind.FINISHED, "rollout/1", "done", {"missing": [f"c{n}" for n in range(60)]})
    assert told([many]).messages[0].body.endswith("c49, and 10 more.")


@pytest.mark.parametrize(
    ("now", "is_told"),
    [
        ("2026-11-27T06:59:59+00:00", False),
        ("2026-11-27T07:00:00+00:00", True),
        ("2026-11-27T18:59:00+00:00", True),
        ("2026-11-27T19:00:00+00:00", False),
        ("2026-11-28T12:00:00+00:00", False),
        ("2026-11-30T07:00:00+00:00", True),
    ],
)
def test_what_is_of_a_closed_site_waits_until_it_opens(now: str, is_told: bool) -> None:
    """Monday to Friday from 08:00 in Berlin; a site without hours, and what is of no site, is told at once."""
    yesterday = NOW - timedelta(days=1)
    pending = [notice(1, at=yesterday, site="alpine"), notice(2, at=yesterday, site="harbour"), notice(3, at=yesterday)]
    [message] = told(pending, datetime.fromisoformat(now)).messages
    assert message.notice_ids == ((1, 2, 3) if is_told else (2, 3))


GONE, BACK = Kind.NEEDS_PERSON, Kind.BACK


@pytest.mark.parametrize(
    ("kinds", "was_told", "messages", "dropped"),
    [
        ([GONE], False, [GONE], 0),
        ([GONE, GONE], False, [GONE], 1),
        ([GONE, BACK], False, [], 2),
        ([GONE, BACK, GONE], False, [GONE], 2),
        ([BACK], False, [], 1),
        ([BACK], True, [BACK], 0),
        ([BACK, BACK], True, [BACK], 1),
        ([GONE], True, [], 1),
        ([BACK, GONE], True, [], 2),
        ([BACK, GONE, BACK], True, [BACK], 2),
    ],
)
def test_back_is_told_only_where_gone_was(
    kinds: list[Kind], was_told: bool, messages: list[Kind], dropped: int
) -> None:
    pending = [Notice(number, OLD, kind, "client/1", "words") for number, kind in enumerate(kinds)]
    made = told(pending, NOW, *(["client/1"] if was_told else []))
    assert [message.kind for message in made.messages] == messages
    assert len(made.dropped) == dropped


kinds = st.sampled_from([Kind.NEEDS_PERSON, Kind.BACK, Kind.STOPPED, Kind.UNKNOWN_CLIENT])
happened = st.tuples(kinds, st.integers(1, 4), st.sampled_from([None, "alpine", "harbour"]), st.integers(0, 3 * 86400))


@settings(deadline=None)
@given(st.lists(happened, max_size=30))
def test_whatever_happens_each_notice_is_settled_once_and_gone_and_back_are_told_in_turn(
    said: list[tuple[Kind, int, str | None, int]],
) -> None:
    """Every six hours, for eight days; a subject keeps its site."""
    numbers = count()
    ordered = sorted(said, key=lambda each: each[3])
    sites = {subject: site for _, subject, site, _ in ordered}
    every = [
        Notice(next(numbers), NOW + timedelta(seconds=after), kind, f"client/{subject}", "words", {}, sites[subject])
        for kind, subject, _, after in ordered
    ]
    settled: list[int] = []
    stands: set[str] = set()
    last: dict[Kind, datetime] = {}
    for step in range(4 * 8):
        now = NOW + timedelta(hours=6 * step)
        pending = [each for each in every if each.id not in settled and each.at <= now]
        made = notifying.digest(now, pending, HOURS, frozenset(stands), last)
        settled += made.dropped
        for message in made.messages:
            last[message.kind] = now
            settled += message.notice_ids
            for each in (every[number] for number in message.notice_ids):
                if each.kind is Kind.NEEDS_PERSON:
                    assert each.subject not in stands
                    stands.add(each.subject)
                elif each.kind is Kind.BACK:
                    stands.remove(each.subject)
    assert sorted(settled) == [each.id for each in every]
