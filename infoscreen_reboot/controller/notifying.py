"""Which notices become which message now: many of one kind are one message, and what is not so any more is not told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from infoscreen_reboot.controller.windows import Window, opens_at

GRACE = timedelta(seconds=60)
# After a message about clients, the next one of its kind waits for so many times the grace period: a site whose power
# fails goes down in pieces.
_CALMER = 10
# How many names and sites a text has. Whoever wants all of them has the list.
_LINES, _SITES, _MISSING = 10, 10, 50
# How many notices a message has as data, for a webhook.
_AS_DATA = 50
_LONGEST_LINE = 500


class Kind(StrEnum):
    """What happened. `BACK` is told only where `NEEDS_PERSON` was."""

    STARTED = "started"
    STOPPED = "stopped"
    FINISHED = "finished"
    MISSED = "missed"
    NEEDS_PERSON = "needs_person"
    BACK = "back"
    UNKNOWN_CLIENT = "unknown_client"
    TWO_HOSTS = "two_hosts"
    PORTS_OFF = "ports_off"

    @property
    def is_urgent(self) -> bool:
        """Whether somebody should look at it now, if people look at the screens."""
        return self in (Kind.STOPPED, Kind.NEEDS_PERSON, Kind.TWO_HOSTS, Kind.PORTS_OFF)

    @property
    def is_of_clients(self) -> bool:
        """Of these there may be hundreds at once."""
        return self in (Kind.NEEDS_PERSON, Kind.BACK, Kind.UNKNOWN_CLIENT, Kind.TWO_HOSTS)


_TITLES = {
    Kind.STARTED: ("a plan has started", "{} plans have started"),
    Kind.STOPPED: ("a plan was stopped", "{} plans were stopped"),
    Kind.FINISHED: ("a plan has finished", "{} plans have finished"),
    Kind.MISSED: ("a plan was missed", "{} plans were missed"),
    Kind.NEEDS_PERSON: ("a client needs a person", "{} clients need a person"),
    Kind.BACK: ("a client is back", "{} clients are back"),
    Kind.UNKNOWN_CLIENT: ("a client that nobody knows", "{} clients that nobody knows"),
    Kind.TWO_HOSTS: ("two hosts use one UUID", "{} UUIDs are used by two hosts"),
    Kind.PORTS_OFF: ("a port is held off", "{} ports are held off"),
}


@dataclass(frozen=True, slots=True)
class Notice:
    """What somebody is to be told. `content` may have a list `missing`: the names of those that did not come back."""

    id: int
    at: datetime
    kind: Kind
    subject: str
    words: str
    content: Mapping[str, Any] = field(default_factory=dict)
    site: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """What goes out. `content` is the same as data; `notice_ids` are the notices that it tells."""

    kind: Kind
    title: str
    body: str
    is_loud: bool
    content: dict[str, Any]
    notice_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Post:
    """A message on its way: as it is stored, with its number."""

    id: int
    made_at: datetime
    kind: str
    title: str
    body: str
    is_loud: bool
    content: dict[str, Any]


class NotSent(Exception):
    """A target has not taken a message. The sentence says why, and holds no address and no secret."""


@dataclass(frozen=True, slots=True)
class Digest:
    """`dropped` are notices that no message will tell."""

    messages: tuple[Message, ...]
    dropped: frozenset[int]


def digest(
    now: datetime,
    pending: Sequence[Notice],
    hours: Mapping[str, Sequence[Window]],
    told: frozenset[str],
    last: Mapping[Kind, datetime],
    grace: timedelta = GRACE,
) -> Digest:
    """`pending` in the order in which they were written.

    `hours` are the opening hours of each site that has some: what is of a closed site waits until it opens. `told` are
    the subjects of which a message has said that they need a person, and none that they are back. `last` is when the
    last message of a kind was made.
    """
    dropped = _dropped(pending, told)
    closed = {site for site, windows in hours.items() if not _is_open(windows, now)}
    ready = [notice for notice in pending if notice.id not in dropped and notice.site not in closed]
    messages = []
    for kind in Kind:
        of_kind = [notice for notice in ready if notice.kind is kind]
        if of_kind and _is_due(kind, of_kind, now, last.get(kind), grace):
            messages.append(_message(kind, of_kind))
    return Digest(tuple(messages), dropped)


def _dropped(pending: Sequence[Notice], told: frozenset[str]) -> frozenset[int]:
    """A client that needs a person is told once, and one that has come back before that was told, not at all."""
    dropped: set[int] = set()
    gone: dict[str, int] = {}
    back: dict[str, int] = {}
    for notice in pending:
        subject = notice.subject
        if notice.kind is Kind.NEEDS_PERSON:
            if subject in back:  # gone again, before its return was told
                dropped |= {notice.id, back.pop(subject)}
            elif subject in told or subject in gone:
                dropped.add(notice.id)
            else:
                gone[subject] = notice.id
        elif notice.kind is Kind.BACK:
            if subject in gone:
                dropped |= {notice.id, gone.pop(subject)}
            elif subject not in told or subject in back:
                dropped.add(notice.id)
            else:
                back[subject] = notice.id
    return frozenset(dropped)


def _is_open(hours: Sequence[Window], now: datetime) -> bool:
    """A site without opening hours is always open."""
    at = opens_at(hours, now)
    return at is None or at <= now


def _is_due(kind: Kind, ready: Sequence[Notice], now: datetime, last: datetime | None, grace: timedelta) -> bool:
    if now < min(notice.at for notice in ready) + grace:
        return False
    return last is None or not kind.is_of_clients or now >= last + _CALMER * grace


def _message(kind: Kind, notices: Sequence[Notice]) -> Message:
    subjects = {notice.subject for notice in notices}
    one, many = _TITLES[kind]
    title = f"infoscreen: {one if len(subjects) == 1 else many.format(len(subjects))}"
    sites = Counter(site for _, site in {(notice.subject, notice.site) for notice in notices} if site is not None)
    content = {
        "count": len(subjects),
        "sites": dict(sites.most_common()),
        "notices": [
            {"at": notice.at, "subject": notice.subject, "words": notice.words, "site": notice.site, **_data(notice)}
            for notice in notices[:_AS_DATA]
        ],
    }
    ids = tuple(notice.id for notice in notices)
    return Message(kind, title, _body(notices, len(subjects), sites), kind.is_urgent, content, ids)


def _data(notice: Notice) -> dict[str, Any]:
    return {"content": dict(notice.content)} if notice.content else {}


def _body(notices: Sequence[Notice], count: int, sites: Counter[str]) -> str:
    if len(notices) == 1:
        return "\n".join([_line(notices[0].words), *_missing(notices[0])])
    lines = []
    if sites and count > 1:
        named = [f"{site} ({number})" for site, number in sites.most_common(_SITES)]
        lines.append(f"Sites: {_listed(named, len(sites))}.")
    for notice in notices[:_LINES]:
        lines += [f"- {_line(notice.words)}", *_missing(notice)]
    if len(notices) > _LINES:
        lines.append(f"And {len(notices) - _LINES} more: infoscreen-rebootctl notify list")
    return "\n".join(lines)


def _missing(notice: Notice) -> list[str]:
    names = notice.content.get("missing")
    if not isinstance(names, list) or not names:
        return []
    return [f"Missing: {_listed([_line(str(name)) for name in names[:_MISSING]], len(names))}."]


def _listed(named: Sequence[str], count: int) -> str:
    more = f", and {count - len(named)} more" if count > len(named) else ""
    return ", ".join(named) + more


def _line(text: str) -> str:
    """What clients and people have written stays on its line, and has an end."""
    plain = " ".join(text.split())
    return plain if len(plain) <= _LONGEST_LINE else f"{plain[: _LONGEST_LINE - 1]}…"
