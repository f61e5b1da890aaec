"""Makes commands for whoever asks: one, or many from a preview. Rules, commands, events and outbox in one transaction.

All faces (API, CLI, console, schedules) come through here, so no way round a rule is shorter than another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import uuid4

from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.controller import selection
from infoscreen_reboot.controller.dispatch import Signs
from infoscreen_reboot.controller.engine import letter_for
from infoscreen_reboot.controller.safety import Answer, Facts, ask, ask_in_turn, first_hold
from infoscreen_reboot.controller.selection import Selector
from infoscreen_reboot.controller.store import batches, commands, facts, views
from infoscreen_reboot.controller.store.commands import New, Request
from infoscreen_reboot.controller.store.database import Row, Transaction
from infoscreen_reboot.controller.store.facts import Policy

# In which many commands can be taken back whole before the first goes out.
TAKE_BACK = timedelta(seconds=5)
# A wait has an end: nothing may land hours later by surprise.
LONGEST_WAIT = timedelta(hours=24)


class Kind(StrEnum):
    """Why a request is refused: the `kind` of the answer."""

    NO_SUCH_CLIENT = "no_such_client"
    BAD_SELECTOR = "bad_selector"
    BAD_WAIT = "bad_wait"
    KEY_USED_OTHERWISE = "key_used_otherwise"
    PREVIEW_CHANGED = "preview_changed"
    COUNT_DIFFERS = "count_differs"
    NOTHING_ELIGIBLE = "nothing_eligible"
    BAD_TERMS = "bad_terms"
    WRONG_STATE = "wrong_state"


class Refused(Exception):
    """A request that makes nothing. The sentence is for whoever asked; `details` are for programs."""

    def __init__(self, kind: Kind, sentence: str, **details: Any) -> None:
        super().__init__(sentence)
        self.kind = kind
        self.details = details


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, by which way, from which address."""

    name: str
    via: str
    address: str | None = None
    may_shut_down: bool = False


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for. `wait_until` is for holds that end by themselves, as an offline client's."""

    action: Action
    reason: str | None = None
    wait_until: datetime | None = None
    someone_is_there: bool = False
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class House:
    """The site's settings that commands are made by. `zone` is that of clients that have none, nor a site with one."""

    policy: Policy = field(default_factory=Policy)
    valid_for: timedelta = timedelta(minutes=4)
    signer: Signs | None = None
    deadlines: tuple[tuple[Selector, Mapping[str, float]], ...] = ()
    zone: str = "UTC"

    def limits_for(self, labels: Mapping[str, str]) -> dict[str, float]:
        """The limits of steps that the client's labels set, in seconds; the last entry that fits counts."""
        found: dict[str, float] = {}
        for selector, limits in self.deadlines:
            if selector.matches(labels):
                found |= limits
        return found


@dataclass(frozen=True, slots=True)
class Preview:
    """What would come of it: the clients that would get the command, and what holds each of the others."""

    action: Action
    eligible: tuple[str, ...]
    held: Mapping[str, Answer]
    warnings: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        rules = {uuid: answer.rule for uuid, answer in self.held.items()}
        return selection.preview_hash(str(self.action), self.eligible, rules)

    @property
    def count(self) -> int:
        return len(self.eligible)


def order(
    tx: Transaction, caller: Caller, wish: Wish, client_uuid: str, command_id: str | None, house: House
) -> tuple[str, bool]:
    """Make one command; returns its id, and whether it is new. Raises Refused.

    A command that a rule refuses is made, too, as `blocked_safety`: an answer that can be read again later.
    """
    digest = _digest({"client": client_uuid, **_said(wish)})
    known = batches.command_known(tx, caller.name, wish.idempotency_key, command_id)
    if known is not None:
        return _the_same(known, digest), False
    _check_wait(tx, wish)
    found = _facts(tx, caller, wish, [client_uuid], house)
    if client_uuid not in found:
        raise Refused(Kind.NO_SUCH_CLIENT, f"there is no client {client_uuid}", clients=[client_uuid])
    limits = _limits(tx, [client_uuid], house)
    new = New(command_id or str(uuid4()), client_uuid, first_hold(ask(found[client_uuid])), limits.get(client_uuid))
    request = _request(caller, wish, digest)
    commands.create(tx, request, [new], house.valid_for)
    if new.answer is None:
        _release(tx, [new.command_id], tx.now, house)
    return new.command_id, True


def preview(tx: Transaction, caller: Caller, wish: Wish, uuids: Sequence[str], house: House) -> Preview:
    """What would come of it now. Raises Refused if one of the clients does not exist: the whole is refused then."""
    _check_wait(tx, wish)
    uuids = sorted(set(uuids))
    found = _facts(tx, caller, wish, uuids, house)
    missing = [uuid for uuid in uuids if uuid not in found]
    if missing:
        raise Refused(Kind.NO_SUCH_CLIENT, f"{len(missing)} of these clients do not exist", clients=missing)
    eligible, held, warnings = list[str](), dict[str, Answer](), dict[str, Sequence[str]]()
    for uuid, answers in zip(uuids, ask_in_turn([found[uuid] for uuid in uuids]), strict=True):
        hold = first_hold(answers)
        if hold is None or (wish.wait_until is not None and hold.can_wait):
            eligible.append(uuid)
        if hold is not None:
            held[uuid] = hold
        if words := [answer.warning for answer in answers if answer.warning is not None]:
            warnings[uuid] = words
    return Preview(wish.action, tuple(eligible), held, warnings)


def order_many(
    tx: Transaction,
    caller: Caller,
    wish: Wish,
    uuids: Sequence[str],
    seen_hash: str,
    typed_count: int | None,
    house: House,
) -> tuple[str, bool]:
    """Make one command for each client that the preview has shown as eligible; returns the batch's id, and whether it
    is new.

    Raises Refused if anything has moved since the preview, or if the count that was typed is another one: nothing is
    made then.
    """
    digest = _digest({"clients": sorted(set(uuids)), "hash": seen_hash, **_said(wish)})
    known = batches.known(tx, caller.name, wish.idempotency_key)
    if known is not None:
        return _the_same(known, digest), False
    now = preview(tx, caller, wish, uuids, house)
    if now.hash != seen_hash:
        raise Refused(
            Kind.PREVIEW_CHANGED, "what the preview has shown is not so any more: look at it again", hash=now.hash
        )
    if not now.eligible:
        raise Refused(Kind.NOTHING_ELIGIBLE, "none of these clients can get the command now")
    if now.count > 1 and typed_count != now.count:
        raise Refused(Kind.COUNT_DIFFERS, f"this is about {now.count} clients: say that number", count=now.count)
    batch_id = str(uuid4())
    send_at = tx.now + TAKE_BACK if now.count > 1 else tx.now
    request = _request(caller, wish, None, batch_id)
    batches.create(tx, batch_id, request, seen_hash, wish.idempotency_key, digest, send_at)
    limits = _limits(tx, now.eligible, house)
    new = [New(str(uuid4()), uuid, now.held.get(uuid), limits.get(uuid)) for uuid in now.eligible]
    commands.create(tx, request, new, house.valid_for)
    batches.add_members(tx, batch_id, new)
    _release(tx, [each.command_id for each in new if each.answer is None], send_at, house)
    return batch_id, True


def order_planned(
    tx: Transaction,
    caller: Caller,
    wish: Wish,
    turns: Mapping[str, datetime | None],
    house: House,
) -> str:
    """Make one command for each of these clients, to go out at its turn (None: as soon as it may); returns the batch's
    id.

    Nobody looks at a preview: whom a rule refuses has a command, too, as `blocked_safety`, so that the plan can tell
    whom it has left out, and why. `wish.wait_until` is when the plan ends; whoever makes plans keeps their key unique.
    Raises Refused.
    """
    _check_wait(tx, wish)
    found = _facts(tx, caller, wish, list(turns), house)
    uuids = sorted(found, key=lambda uuid: (turns[uuid] or tx.now, uuid))
    asked = ask_in_turn([replace(found[uuid], not_before=turns[uuid]) for uuid in uuids])
    batch_id = str(uuid4())
    send_at = tx.now + TAKE_BACK if len(uuids) > 1 else tx.now
    request = _request(caller, wish, None, batch_id)
    batches.create(tx, batch_id, request, None, wish.idempotency_key, None, send_at)
    if not uuids:
        return batch_id
    limits = _limits(tx, uuids, house)
    new = [
        New(str(uuid4()), uuid, first_hold(answers), limits.get(uuid), turns[uuid])
        for uuid, answers in zip(uuids, asked, strict=True)
    ]
    commands.create(tx, request, new, house.valid_for)
    batches.add_members(tx, batch_id, new)
    _release(tx, [each.command_id for each in new if each.answer is None], send_at, house)
    return batch_id


def select_clients(tx: Transaction, selector: str) -> list[str]:
    """The accepted clients that a selector means. Raises Refused."""
    try:
        wanted = selection.parse(selector)
    except selection.SelectorError as error:
        raise Refused(Kind.BAD_SELECTOR, str(error)) from None
    return batches.selected(tx, wanted)


def _facts(tx: Transaction, caller: Caller, wish: Wish, uuids: Sequence[str], house: House) -> dict[str, Facts]:
    return facts.gather(
        tx,
        uuids,
        wish.action,
        house.policy,
        may_shut_down=caller.may_shut_down,
        someone_is_there=wish.someone_is_there,
    )


def _limits(tx: Transaction, uuids: Sequence[str], house: House) -> dict[str, dict[str, float]]:
    if not house.deadlines:
        return {}
    return {uuid: house.limits_for(labels) for uuid, labels in views.labels_of(tx, uuids).items()}


def _request(caller: Caller, wish: Wish, digest: str | None, batch_id: str | None = None) -> Request:
    return Request(
        action=wish.action,
        by=caller.name,
        via=caller.via,
        reason=wish.reason,
        address=caller.address,
        batch_id=batch_id,
        idempotency_key=None if batch_id else wish.idempotency_key,
        request_digest=digest,
        someone_is_there=wish.someone_is_there,
        wait_until=wish.wait_until,
    )


def _release(tx: Transaction, command_ids: Sequence[str], send_at: datetime, house: House) -> None:
    if not command_ids:
        return
    rows = batches.commands_by_id(tx, command_ids)
    expires_at = send_at + house.valid_for
    letters = [letter_for(row, send_at, expires_at, house.signer) for row in rows]
    commands.release(tx, letters, send_at, expires_at)


def _the_same(known: Row, digest: str) -> str:
    if known["request_digest"] != digest:
        raise Refused(Kind.KEY_USED_OTHERWISE, f"{known['id']} was made by another request with this id or key")
    return str(known["id"])


def _check_wait(tx: Transaction, wish: Wish) -> None:
    if wish.wait_until is not None and not tx.now < wish.wait_until <= tx.now + LONGEST_WAIT:
        raise Refused(Kind.BAD_WAIT, "a wait ends within the next 24 hours")


def _said(wish: Wish) -> dict[str, Any]:
    wait_until = None if wish.wait_until is None else wish.wait_until.isoformat()
    return {
        "action": str(wish.action),
        "reason": wish.reason,
        "wait_until": wait_until,
        "someone_is_there": wish.someone_is_there,
    }


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
