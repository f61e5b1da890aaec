"""Looks after clients that did not come back from their reboot: asks, waits, switches their power, calls a person.

It works in the engine's transaction: a recovery begins in the one in which its command times out, and a power cycle in
the one that says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.controller import lifecycle, recovery, safety
from infoscreen_reboot.controller.engine import HEARING_AGAIN
from infoscreen_reboot.controller.lifecycle import Limits
from infoscreen_reboot.controller.recovery import (
    Allowed,
    AskedAgain,
    Back,
    Due,
    Fact,
    Held,
    Locked,
    PowerDone,
    Skipped,
    State,
    Step,
    Stopped,
)
from infoscreen_reboot.controller.safety import LOCKOUT_WINDOW, Facts, Standing
from infoscreen_reboot.controller.selection import Selector
from infoscreen_reboot.controller.store import commands, facts, lease, notices, recoveries, views
from infoscreen_reboot.controller.store.commands import Change
from infoscreen_reboot.controller.store.database import Row, Transaction
from infoscreen_reboot.controller.store.facts import Policy

log = logging.getLogger(__name__)

# So many in one step of the engine; the others in the next ones.
BATCH = 100
# What speaks against a further reboot, and what forbids to touch a client now.
_LOCKOUTS = safety.lockout, safety.lockout_of_client
_FORBID = safety.one_host, safety.freeze


class Power(Protocol):
    """Switches the power of clients off and on, where it is known how. All in the transaction it is given."""

    def request(self, tx: Transaction, client_uuid: str, by: str, why: str) -> int | None:
        """Begin a power cycle; returns its number, or None if this client has no port that may be switched."""

    def outcome(self, tx: Transaction, cycle_id: int) -> tuple[str, str] | None:
        """`done` or `failed`, and words about it; None while it is under way."""


class NoPower:
    """Where nothing is known of any switch."""

    def request(self, tx: Transaction, client_uuid: str, by: str, why: str) -> int | None:
        return None

    def outcome(self, tx: Transaction, cycle_id: int) -> tuple[str, str] | None:
        return None


def never_off(tx: Transaction, client_uuid: str) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Recoveries:
    """`ladders` are the steps that the settings allow, by selector; the last that fits counts.

    `is_off` says whether a plan keeps recovery away from a client, as a rollout that was stopped.
    """

    ladders: tuple[tuple[Selector, tuple[Step, ...]], ...] = ()
    limits: Limits = field(default_factory=Limits)
    power: Power = field(default_factory=NoPower)
    is_off: Callable[[Transaction, str], bool] = never_off

    def step(self, tx: Transaction, changes: Sequence[Change]) -> None:
        """As `engine.Plan`."""
        lost = [change for change in changes if _is_lost(change)]
        if lost:
            self._begin(tx, lost)
        answers = {change.client_uuid: str(change.after.late) for change in changes if _is_late_truth(change)}
        listening_since = _listening_since(tx)
        hears = listening_since is not None and tx.now >= listening_since + HEARING_AGAIN
        for row in recoveries.to_look_at(tx, answers, hears, BATCH):
            self._look_at(tx, row, answers.get(row["client_uuid"]), listening_since if hears else None)

    def _begin(self, tx: Transaction, lost: Sequence[Change]) -> None:
        uuids = [change.client_uuid for change in lost]
        ordered = recoveries.commands_of(tx, [change.command_id for change in lost])
        labels, known = views.labels_of(tx, uuids), _facts(tx, uuids)
        has_one = set(recoveries.open_of(tx, uuids))
        for change in lost:
            uuid = change.client_uuid
            of_client = known.get(uuid)
            if uuid in has_one or of_client is None or of_client.standing is not Standing.ACCEPTED:
                continue
            has_one.add(uuid)
            record = recovery.begin(
                tx.now,
                self._allowed(labels[uuid]),
                of_client.health is not None and of_client.health.has_watchdog,
                commands.limits_of(ordered[change.command_id]["limits"], self.limits).back,
                change.after.expires_at,
            )
            number = recoveries.begin(tx, uuid, change.command_id, record, change.letter)
            log.info("recovery %d of %s: %s", number, uuid, record.words)
            if (fact := self._spoken_against(tx, of_client, uuid, record.state)) is not None:
                row = recoveries.one(tx, number)
                assert row is not None
                _move(tx, row, [fact])

    def _allowed(self, labels: dict[str, str]) -> tuple[Step, ...]:
        allowed = recovery.DEFAULT
        for selector, steps in self.ladders:
            if selector.matches(labels):
                allowed = steps
        return allowed

    def _look_at(self, tx: Transaction, row: Row, answer: str | None, heard_since: datetime | None) -> None:
        """`heard_since` is since when all of its words would have been heard; None if that is not so now."""
        state = State(row["state"])
        if row["is_online"]:
            _move(tx, row, [Back(tx.now, f"the client is online again, in boot {row['boot_now']}")])
        elif answer is not None:
            _move(tx, row, [Back(tx.now, f"the client has answered: {answer}")])
        elif row["standing"] != Standing.ACCEPTED:
            _move(tx, row, [Stopped(tx.now, "the controller", f"the client is {row['standing']}")])
        elif state is State.HELD_BACK:
            if not self.is_off(tx, row["client_uuid"]):
                _move(tx, row, [Allowed(tx.now)])
        elif state is State.POWER and (done := self.power.outcome(tx, row["cycle_id"])) is not None:
            _move(tx, row, [PowerDone(tx.now, done[0] == "done", done[1])])
        elif heard_since is not None and row["due_at"] is not None and row["due_at"] <= tx.now:
            _move(tx, row, self._of_time(tx, row, heard_since))

    def _of_time(self, tx: Transaction, row: Row, heard_since: datetime) -> list[Fact]:
        """What follows from it that the time of a state is over."""
        record = recoveries.record_of(row)
        if record.state is State.ASKING and heard_since > record.since:
            return [AskedAgain(tx.now)]
        uuid = row["client_uuid"]
        of_client = _facts(tx, [uuid])[uuid]
        if (fact := self._spoken_against(tx, of_client, uuid, record.state)) is not None:
            return [fact]
        if record.next_step is not Step.POWER:
            return [Due(tx.now)]
        forbids = next((hold for rule in _FORBID if (hold := rule(of_client).hold) is not None), None)
        if forbids is not None:
            return [Skipped(tx.now, forbids), Due(tx.now)]
        cycle_id = self.power.request(tx, uuid, "recovery", f"command {row['command_id']}: it did not come back")
        if cycle_id is None:
            return [Skipped(tx.now, "no port of its own that may be switched is in the inventory"), Due(tx.now)]
        return [Due(tx.now, cycle_id)]

    def _spoken_against(self, tx: Transaction, of_client: Facts, uuid: str, state: State) -> Fact | None:
        """Why nothing more is tried now. A power cycle counts as a reboot."""
        if state is not State.POWER and self.is_off(tx, uuid):
            return Held(tx.now, "a rollout was stopped, and keeps recovery away from its clients until it is allowed")
        started = (*of_client.started, *recoveries.cycled(tx, uuid, tx.now - LOCKOUT_WINDOW))
        asked = replace(of_client, started=started)
        hold = next((hold for rule in _LOCKOUTS if (hold := rule(asked).hold) is not None), None)
        return Locked(tx.now, hold) if hold is not None else None


def stop(tx: Transaction, number: int, by: str, why: str) -> bool:
    """Somebody takes over, or is there. False if it is over, or there is none of that number."""
    row = recoveries.one(tx, number)
    if row is None or row["ended_at"] is not None:
        return False
    _move(tx, row, [Stopped(tx.now, by, why)])
    return True


def _is_lost(change: Change) -> bool:
    return change.has_timed_out and change.after.overdue is lifecycle.Step.BACK


def _is_late_truth(change: Change) -> bool:
    return change.after.late is not None and change.after.late is not change.before.late


def _listening_since(tx: Transaction) -> datetime | None:
    held = lease.standing(tx)
    since: datetime | None = held["listening_since"] if held is not None else None
    return since


def _facts(tx: Transaction, uuids: Sequence[str]) -> dict[str, Facts]:
    """Budgets and windows are left out: a client that is down takes nothing away from anybody."""
    return facts.gather(tx, uuids, Action.REBOOT_HOST, Policy(), may_shut_down=False, someone_is_there=False)


def _move(tx: Transaction, row: Row, told: Sequence[Fact]) -> None:
    """Apply facts to it, and do what follows: ask, and tell people."""
    before = after = recoveries.record_of(row)
    for fact in told:
        after = recovery.learn(after, fact)
    if after == before:
        return
    subject = recoveries.subject(tx, row["client_uuid"], row["command_id"])
    ticket = recovery.ticket(after, subject) if after.state is State.NEEDS_PERSON else None
    recoveries.write(tx, row, after, ticket)
    if after.state is State.ASKING:
        recoveries.ask(tx, row)
    content = {"recovery": row["id"], "client_uuid": row["client_uuid"], "command_id": row["command_id"]}
    about, site = f"client/{row['client_uuid']}", subject.labels.get("site")
    if ticket is not None:
        words = f"{subject.title} needs a person: {after.words}"
        notices.tell(tx, notices.Kind.NEEDS_PERSON, about, words, content | {"ticket": ticket}, site)
    elif after.state is State.BACK and before.state is State.NEEDS_PERSON:
        minutes = max(1, round((tx.now - after.began_at).total_seconds() / 60))
        words = f"{subject.title} is back, {minutes} min after its recovery began: {after.words}"
        notices.tell(tx, notices.Kind.BACK, about, words, content, site)
    log.info("recovery %d of %s: %s -> %s: %s", row["id"], row["client_uuid"], before.state, after.state, after.words)
