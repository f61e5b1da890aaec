"""How a night ended, client by client: back, back late, not back, left out and why, or only pretended."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any

from infoscreen_reboot.contract import wire
from infoscreen_reboot.contract.ack import AckStatus, ErrorCode
from infoscreen_reboot.controller.inventory import guarded
from infoscreen_reboot.controller.lifecycle import Proof, Record, State, Step

_TOO_LATE = {
    Step.SEND: "it was not sent in time",
    Step.FIRST_ACK: "it did not answer in time",
    Step.START: "it did not begin in time",
    Step.DOWN: "it did not go down in time",
    Step.BACK: "it did not come back in time",
    Step.LAST_ACK: "it came back, and did not say in time that it is done",
}


class Outcome(StrEnum):
    """In the order in which an operator wants to read them."""

    NOT_BACK = "not_back"
    BACK_LATE = "back_late"
    SKIPPED = "skipped"
    MOCK = "mock"
    BACK = "back"


_WORDS = {
    Outcome.NOT_BACK: "not back",
    Outcome.BACK_LATE: "back late",
    Outcome.SKIPPED: "skipped",
    Outcome.MOCK: "only pretended",
    Outcome.BACK: "back",
}


@dataclass(frozen=True, slots=True)
class Member:
    """One client of a night. `record` is of its command; None if it has none, and `skipped` says why."""

    client_uuid: str
    name: str | None = None
    site: str | None = None
    command_id: str | None = None
    record: Record | None = None
    hold_why: str | None = None
    skipped: str | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """What became of it. `back_at` is when it was first heard of after its reboot."""

    client_uuid: str
    name: str | None
    site: str | None
    outcome: Outcome
    why: str | None
    back_at: datetime | None
    command_id: str | None


def is_settled(record: Record) -> bool:
    """Whether nothing that may still come would make a better line of it."""
    if not record.state.is_verdict:
        return False
    return record.sent_at is None or record.state in (State.COMPLETED, State.FAILED) or record.late is not None


def line(member: Member, back_by: datetime) -> Line:
    """As things stand now."""
    outcome, why, back_at = _judged(member, back_by)
    return Line(member.client_uuid, member.name, member.site, outcome, why, back_at, member.command_id)


def _judged(member: Member, back_by: datetime) -> tuple[Outcome, str | None, datetime | None]:
    record = member.record
    if record is None:
        return Outcome.SKIPPED, member.skipped, None
    if record.sent_at is None:
        return Outcome.SKIPPED, _unsent(record, member.hold_why), None
    if record.proof is Proof.MOCK:
        return Outcome.MOCK, "it only pretended to reboot: it is in the same boot as before", None
    if record.state is State.FAILED:
        return _failed(record)
    back_at = _back_at(record)
    if back_at is None:
        return Outcome.NOT_BACK, _missing(record), None
    if back_at > back_by:
        return Outcome.BACK_LATE, "after the time at which all were to be back", back_at
    if record.late is AckStatus.COMPLETED:
        return Outcome.BACK_LATE, f"after its command had {record.state}", back_at
    return Outcome.BACK, None if record.state is State.COMPLETED else "its last answer did not come", back_at


def _unsent(record: Record, hold_why: str | None) -> str:
    match record.state:
        case State.BLOCKED_SAFETY:
            return record.error_message or "a rule refused it"
        case State.CANCELLED:
            return "it was taken back"
        case State.QUEUED if hold_why is None:
            return "its command is not sent yet"
    return hold_why or "its command was not sent in time"


def _failed(record: Record) -> tuple[Outcome, str | None, datetime | None]:
    words = f"{record.error_code}: {record.error_message}" if record.error_message else str(record.error_code)
    if record.error_code == ErrorCode.POST_CHECK_FAILED:
        return Outcome.NOT_BACK, f"it is in another boot, but not well; {words}", record.back_at
    if record.started_at is not None:
        return Outcome.NOT_BACK, f"it did not go down; {words}", None
    return Outcome.SKIPPED, f"it refused; {words}", None


def _back_at(record: Record) -> datetime | None:
    if record.back_at is not None:
        return record.back_at
    if record.state is State.COMPLETED:
        return record.ended_at
    return record.late_at if record.late is AckStatus.COMPLETED else None


def _missing(record: Record) -> str:
    if record.late is not None:
        return f"later it said {record.late}"
    if record.state is State.EXPIRED:
        return "it never answered"
    return _TOO_LATE[record.overdue] if record.overdue is not None else "it is on its way"


def content(lines: Sequence[Line]) -> dict[str, Any]:
    """As it is kept: counts, and the lines, those first that somebody has to look at."""
    order = list(Outcome)
    listed = sorted(lines, key=_by_need)
    counts = {str(outcome): sum(each.outcome is outcome for each in lines) for outcome in order}
    return {"counts": counts, "lines": [_plain(each) for each in listed]}


def _by_need(each: Line) -> tuple[int, str, str, str]:
    return list(Outcome).index(each.outcome), each.site or "", each.name or "", each.client_uuid


def _plain(each: Line) -> dict[str, Any]:
    known = asdict(each)
    known["outcome"] = str(each.outcome)
    known["back_at"] = None if each.back_at is None else wire.format_time(each.back_at)
    return known


def in_words(counts: Mapping[str, int]) -> str:
    """`1 not back, 2 skipped, 37 back`."""
    parts = [f"{counts[outcome]} {words}" for outcome, words in _WORDS.items() if counts.get(outcome)]
    return ", ".join(parts) or "no clients"


def named(kept: Mapping[str, Any], outcome: Outcome) -> list[str]:
    """The names of those with this outcome; a client without a name by its UUID."""
    return [each["name"] or each["client_uuid"] for each in kept["lines"] if each["outcome"] == outcome]


def to_csv(kept: Mapping[str, Any]) -> str:
    """No cell of it is a formula."""
    names = [field.name for field in fields(Line)]
    target = io.StringIO(newline="")
    writer = csv.writer(target)
    writer.writerow(names)
    for each in kept["lines"]:
        writer.writerow([guarded(str(each[name] or "")) for name in names])
    return target.getvalue()
