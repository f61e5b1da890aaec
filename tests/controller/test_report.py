"""The report of a night: each client in its place, with a reason, and nothing in it that a spreadsheet would run."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta

import pytest

from infoscreen_reboot.contract.ack import AckStatus, ErrorCode
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.controller import report
from infoscreen_reboot.controller.lifecycle import (
    Acked,
    Blocked,
    Cancelled,
    Fact,
    Overdue,
    Record,
    Seen,
    Sent,
    Step,
    learn,
)
from infoscreen_reboot.controller.report import Member, Outcome

NOW = datetime(2026, 11, 27, 3, tzinfo=UTC)
BACK_BY = NOW + timedelta(hours=1)
OLD, NEW = "old", "new"


def after(minutes: float) -> datetime:
    return NOW + timedelta(minutes=minutes)


def record(*facts: Fact) -> Record:
    found = Record(Action.REBOOT_HOST, after(4))
    for fact in facts:
        found = learn(found, fact)
    return found


def ack(minutes: float, status: AckStatus, boot_id: str, code: ErrorCode | None = None) -> Acked:
    return Acked(after(minutes), status, boot_id, code, "said so" if code else None)


def no(minutes: float, boot_id: str, code: ErrorCode) -> Acked:
    return ack(minutes, AckStatus.FAILED, boot_id, code)


ACCEPTED = (Sent(NOW), ack(0, AckStatus.ACCEPTED, OLD))
STARTED = (*ACCEPTED, ack(0, AckStatus.EXECUTION_STARTED, OLD))
GONE = (*STARTED, Seen(after(0.1), False, OLD))


def back(minutes: float) -> Seen:
    return Seen(after(minutes), True, NEW)


def done(minutes: float, boot_id: str = NEW) -> Acked:
    return ack(minutes, AckStatus.COMPLETED, boot_id)


# What happened to the command, what held it, where it stands then, why, and whether nothing better may come.
CASES: list[tuple[tuple[Fact, ...], str | None, Outcome, str | None, bool]] = [
    ((*GONE, back(1), done(2)), None, Outcome.BACK, None, True),
    ((*GONE, back(61), done(62)), None, Outcome.BACK_LATE, "after the time", True),
    ((*GONE, Overdue(after(3), Step.BACK), done(9)), None, Outcome.BACK_LATE, "timed_out", True),
    ((*GONE, Overdue(after(3), Step.BACK)), None, Outcome.NOT_BACK, "it did not come back in time", False),
    ((*GONE, back(1), Overdue(after(5), Step.LAST_ACK)), None, Outcome.BACK, "last answer", False),
    ((Sent(NOW), Overdue(after(5), Step.FIRST_ACK)), None, Outcome.NOT_BACK, "never answered", False),
    ((*STARTED, done(1, OLD)), None, Outcome.MOCK, "pretended", True),
    ((*ACCEPTED, no(0, OLD, ErrorCode.LOCKOUT)), None, Outcome.SKIPPED, "lockout: said so", True),
    ((*STARTED, no(0, OLD, ErrorCode.EXECUTION_TIMEOUT)), None, Outcome.NOT_BACK, "did not go down", True),
    ((*GONE, no(2, NEW, ErrorCode.POST_CHECK_FAILED)), None, Outcome.NOT_BACK, "not well", True),
    ((Blocked(NOW, "one_host", "two hosts"),), None, Outcome.SKIPPED, "two hosts", True),
    ((Cancelled(NOW, "ann"),), None, Outcome.SKIPPED, "taken back", True),
    ((Overdue(after(5), Step.SEND),), "this client is offline", Outcome.SKIPPED, "this client is offline", True),
    (GONE, None, Outcome.NOT_BACK, "on its way", False),
    ((Overdue(after(5), Step.SEND),), None, Outcome.SKIPPED, "was not sent in time", True),
    ((), None, Outcome.SKIPPED, "is not sent yet", False),
    ((), "the window is closed", Outcome.SKIPPED, "the window is closed", False),
]


@pytest.mark.parametrize(("facts", "hold", "outcome", "why", "is_settled"), CASES)
def test_where_each_client_stands(
    facts: tuple[Fact, ...], hold: str | None, outcome: Outcome, why: str | None, is_settled: bool
) -> None:
    known = record(*facts)
    found = report.line(Member("u", "bar", "alpine", "c", known, hold), BACK_BY)
    assert found.outcome is outcome
    assert found.why is None if why is None else why in (found.why or "")
    assert report.is_settled(known) is is_settled


def test_what_has_to_be_looked_at_comes_first_and_the_counts_are_those_of_the_lines() -> None:
    members = [Member(f"u{n}", None, "alpine", "c", record(*case[0]), case[1]) for n, case in enumerate(CASES)]
    members.append(Member("z", "lobby", skipped="in schedule weekly"))
    kept = report.content([report.line(each, BACK_BY) for each in members])
    order = [each["outcome"] for each in kept["lines"]]
    assert order == sorted(order, key=[str(one) for one in Outcome].index)
    assert kept["counts"] == {str(one): order.count(str(one)) for one in Outcome}
    assert sum(kept["counts"].values()) == len(members)
    assert report.in_words(kept["counts"]) == "5 not back, 2 back late, 8 skipped, 1 only pretended, 2 back"
    assert report.in_words({}) == "no clients"
    assert report.named(kept, Outcome.BACK_LATE) == ["u1", "u2"]


def test_no_cell_is_a_formula() -> None:
    evil = Member("u", "=cmd|' /C calc'!A0", "+site", "c", record(*GONE), None)
    kept = report.content([report.line(evil, BACK_BY)])
    [header, row] = list(csv.reader(io.StringIO(report.to_csv(kept))))
    assert header[:4] == ["client_uuid", "name", "site", "outcome"]
    assert row[1] == "'=cmd|' /C calc'!A0" and row[2] == "'+site"
