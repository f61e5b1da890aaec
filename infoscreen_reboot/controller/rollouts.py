"""Rollouts at work: made from a preview, given out stage after stage, counted, stopped, resumed and taken back.

Everything that follows from one look at a rollout is one transaction: what was counted, the state, the commands of the
next stage. So whatever the process is killed between, nothing is made twice and nothing is counted twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.controller import brake, orders, rollout, stages, text
from infoscreen_reboot.controller.brake import Brake, Count, Decision, Sample
from infoscreen_reboot.controller.lifecycle import Cancelled, Limits
from infoscreen_reboot.controller.lifecycle import State as CommandState
from infoscreen_reboot.controller.orders import TAKE_BACK, Caller, House, Kind, Refused, Wish
from infoscreen_reboot.controller.rollout import (
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
)
from infoscreen_reboot.controller.stages import Dealt
from infoscreen_reboot.controller.store import commands, fleet, notices, rollouts, views
from infoscreen_reboot.controller.store.commands import Change
from infoscreen_reboot.controller.store.database import Row, Transaction

VIA = "rollout"
# How often it looks at the clock, and for commands that ended without a word of a client.
_LOOK_EVERY = timedelta(seconds=1)
# Names in a notice; whoever wants all of them reads the rollout.
_MOST_NAMED = 100


@dataclass(frozen=True, slots=True)
class Terms:
    """How a rollout goes. `wait` is how long a client may wait for what holds it, from the beginning of its stage on;
    `labels` is what each client gets when it has completed.
    """

    action: Action
    reason: str | None = None
    someone_is_there: bool = False
    stages: tuple[str, ...] = stages.DEFAULT
    max_failed: str = brake.MAX_FAILED
    minimum: int = brake.MINIMUM
    settle: timedelta = timedelta(minutes=2)
    pause: timedelta = timedelta(minutes=5)
    wait: timedelta = timedelta(hours=1)
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def brake(self) -> Brake:
        return Brake(self.max_failed, self.minimum)

    def wish(self, now: datetime) -> Wish:
        return Wish(self.action, self.reason, now + self.wait, self.someone_is_there)

    def said(self) -> dict[str, Any]:
        return {
            "action": str(self.action),
            "reason": self.reason,
            "someone_is_there": self.someone_is_there,
            "stages": list(self.stages),
            "max_failed": self.max_failed,
            "minimum": self.minimum,
            "seconds": [each.total_seconds() for each in (self.settle, self.pause, self.wait)],
            "labels": dict(sorted(self.labels.items())),
        }


@dataclass(frozen=True, slots=True)
class Preview:
    """What would come of it: who gets the command in which stage, and what holds each of the others."""

    terms: Terms
    shown: orders.Preview
    dealt: tuple[Dealt, ...]

    @property
    def hash(self) -> str:
        """What a caller echoes to say that he has seen just this: the clients, the stages, and how it goes."""
        seen = {
            "preview": self.shown.hash,
            "stages": [[each.name, each.clients] for each in self.dealt],
            "terms": self.terms.said(),
        }
        return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()

    def words(self) -> list[str]:
        """For each stage what the brake will do in it, if all went well before."""
        total = self.shown.count
        found, ran = [], 0
        for each in self.dealt:
            found.append(self.terms.brake.words(Sample(ran, 0, total - ran)))
            ran += len(each.clients)
        return found


# --- Made


def preview(tx: Transaction, caller: Caller, terms: Terms, uuids: Sequence[str], house: House) -> Preview:
    """What would come of it now. Raises Refused, also for stages, a threshold or labels that cannot be read."""
    _check(terms)
    shown = orders.preview(tx, caller, terms.wish(tx.now), uuids, house)
    rebooted_at = rollouts.last_rebooted(tx, shown.eligible)
    labels = views.labels_of(tx, shown.eligible)
    try:
        dealt = stages.deal(stages.read(terms.stages), stages.in_order(rebooted_at), labels)
    except ValueError as error:
        raise Refused(Kind.BAD_TERMS, str(error)) from None
    return Preview(terms, shown, tuple(dealt))


def _check(terms: Terms) -> None:
    try:
        brake.read_threshold(terms.max_failed)
    except ValueError as error:
        raise Refused(Kind.BAD_TERMS, str(error)) from None
    try:
        stages.read(terms.stages)
    except ValueError as error:
        raise Refused(Kind.BAD_TERMS, str(error)) from None
    faults = [text.fault_of_label(key, value) for key, value in terms.labels.items()]
    fault = next((fault for fault in faults if fault is not None), None)
    if fault is not None:
        raise Refused(Kind.BAD_TERMS, fault)


def create(
    tx: Transaction,
    caller: Caller,
    terms: Terms,
    uuids: Sequence[str],
    seen_hash: str,
    typed_count: int | None,
    key: str | None,
    house: House,
) -> tuple[str, bool]:
    """Make the rollout that the preview has shown; returns its id, and whether it is new. It begins in 5 seconds.

    Raises Refused if anything has moved since the preview, or if the count that was typed is another one.
    """
    said = {"clients": sorted(set(uuids)), "hash": seen_hash, **terms.said()}
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    known = rollouts.known(tx, caller.name, key)
    if known is not None:
        if known["request_digest"] != digest:
            raise Refused(Kind.KEY_USED_OTHERWISE, f"{known['id']} was made by another request with this key")
        return str(known["id"]), False
    now = preview(tx, caller, terms, uuids, house)
    if now.hash != seen_hash:
        words = "what the preview has shown is not so any more: look at it again"
        raise Refused(Kind.PREVIEW_CHANGED, words, hash=now.hash)
    count = now.shown.count
    if count == 0:
        raise Refused(Kind.NOTHING_ELIGIBLE, "none of these clients can get the command now")
    if count > 1 and typed_count != count:
        raise Refused(Kind.COUNT_DIFFERS, f"this is about {count} clients: say that number", count=count)
    rollout_id = str(uuid4())
    values = {
        "action": str(terms.action),
        "reason": terms.reason,
        "created_at": tx.now,
        "created_by": caller.name,
        "via": caller.via,
        "address": caller.address,
        "may_shut_down": caller.may_shut_down,
        "someone_is_there": terms.someone_is_there,
        "preview_hash": seen_hash,
        "idempotency_key": key,
        "request_digest": digest,
        "labels": dict(terms.labels),
        "threshold": terms.max_failed,
        "minimum": terms.minimum,
        "settle_s": int(terms.settle.total_seconds()),
        "pause_s": int(terms.pause.total_seconds()),
        "wait_s": int(terms.wait.total_seconds()),
    }
    record = Record(due_at=tx.now + TAKE_BACK, changed_at=tx.now)
    rollouts.create(tx, rollout_id, values, record, now.dealt)
    return rollout_id, True


# --- What a person says


def pause(tx: Transaction, row: Row, by: str, why: str | None, limits: Limits) -> None:
    """No new stage begins, and what was not sent is taken back. Raises Refused."""
    words = f"paused by {by}" + (f": {why}" if why else "")
    _say(tx, row, Asked(tx.now, words, by))
    _take_back(tx, row, words, by, limits)


def resume(tx: Transaction, row: Row, by: str) -> None:
    """It goes on with those of its stage that have no verdict. Raises Refused."""
    _say(tx, row, Resumed(tx.now, by))


def abort(tx: Transaction, row: Row, by: str, limits: Limits) -> int:
    """It ends here. What was not sent is cancelled; returns how many commands that were. Raises Refused."""
    _say(tx, row, Aborted(tx.now, by))
    _tell_end(tx, row, f"was aborted by {by}")
    return len(_cancel(tx, row, f"the rollout was aborted by {by}", by, limits))


def roll_back(tx: Transaction, row: Row, by: str, limits: Limits) -> tuple[int, int, int]:
    """As abort, also of one that is over; and the labels that it has changed are again what they were.

    Returns how many commands were cancelled, and on how many clients the labels were restored, and were left alone
    because somebody has changed them since. Raises Refused.
    """
    was_over = State(row["state"]).is_over
    _say(tx, row, RolledBack(tx.now, by))
    cancelled = len(_cancel(tx, row, f"the rollout was rolled back by {by}", by, limits))
    before = rollouts.take_labels(tx, row["id"])
    present = views.labels_of(tx, list(before))
    restored = 0
    for uuid, labels in before.items():
        ours = {key: value for key, value in labels.items() if present[uuid].get(key) == row["labels"].get(key)}
        if ours:
            fleet.change_client(tx, uuid, {}, ours)
        restored += len(ours) == len(labels)
    if not was_over:
        _tell_end(tx, row, f"was rolled back by {by}")
    return cancelled, restored, len(before) - restored


def allow_recovery(tx: Transaction, row: Row, by: str) -> None:
    """Its clients may be recovered again by the controller itself. Raises Refused."""
    _say(tx, row, RecoveryAllowed(tx.now, by))


_NOT_NOW = {
    Asked: "only a rollout that has begun and goes on can be paused",
    Resumed: "only a rollout that is paused or stopped can be resumed",
    Aborted: "this rollout is over",
    RolledBack: "this rollout was rolled back before",
    RecoveryAllowed: "the recovery of its clients is not switched off",
}


def _say(tx: Transaction, row: Row, fact: rollout.Fact) -> Record:
    before = rollouts.record_of(row)
    after = rollouts.learn(tx, row["id"], before, fact)
    if after == before:
        words = f"this rollout is {before.state}: {_NOT_NOW[type(fact)]}"
        raise Refused(Kind.WRONG_STATE, words, state=str(before.state))
    return after


def _cancel(tx: Transaction, row: Row, why: str, by: str | None, limits: Limits) -> list[str]:
    """The commands that could be taken back."""
    fact = Cancelled(tx.now, by, why)
    changes = commands.learn(tx, [(each, fact) for each in rollouts.unsent(tx, row["id"])], limits)
    return [change.command_id for change in changes if change.after.state is CommandState.CANCELLED]


def _take_back(tx: Transaction, row: Row, why: str, by: str | None, limits: Limits) -> None:
    rollouts.take_back(tx, _cancel(tx, row, why, by, limits))


# --- What time and clients say


class Rollouts:
    """Looks after all rollouts, at each step of the engine."""

    def __init__(self, house: House, limits: Limits) -> None:
        self._house = house
        self._limits = limits
        self._looked_at: datetime | None = None

    def step(self, tx: Transaction, changes: Sequence[Change]) -> None:
        """At once if a command has ended; else once a second."""
        has_ended = any(change.after.state.is_verdict for change in changes)
        # A clock that was put back must not keep it waiting.
        is_early = self._looked_at is not None and timedelta(0) <= tx.now - self._looked_at < _LOOK_EVERY
        if is_early and not has_ended:
            return
        self._looked_at = tx.now
        for row in rollouts.going(tx):
            self._look_after(tx, row)

    def _look_after(self, tx: Transaction, row: Row) -> None:
        record = rollouts.record_of(row)
        has_failed = self._count(tx, row, record)
        if record.state.is_over:
            return
        record = self._brake(tx, row, record, has_failed)
        is_due = record.due_at is not None and record.due_at <= tx.now
        match record.state:
            case State.PLANNED | State.PAUSING if is_due:
                self._begin(tx, row, record)
            case State.RUNNING:
                self._go_on(tx, row, record)
            case State.SETTLING if is_due:
                self._settle(tx, row, record)

    def _count(self, tx: Transaction, row: Row, record: Record) -> bool:
        """Write down the verdicts that are new; returns whether one of them is a failure."""
        by_verdict: dict[tuple[str, Count], list[str]] = {}
        for each in rollouts.ended(tx, row["id"]):
            known = commands.record_of(each.command)
            counted = brake.counts_as(known.state, known.proof)
            by_verdict.setdefault((str(known.state), counted), []).append(each.client_uuid)
        for (verdict, counted), uuids in by_verdict.items():
            rollouts.count(tx, row["id"], uuids, verdict, counted, record.run)
            if counted is Count.RAN and record.state is not State.ROLLED_BACK:
                _set_labels(tx, row, uuids)
        return any(counted is Count.FAILED for _, counted in by_verdict)

    def _brake(self, tx: Transaction, row: Row, record: Record, has_failed: bool) -> Record:
        judged = Brake(row["threshold"], row["minimum"]).judge(rollouts.sample(tx, row["id"], record.counts_from))
        if judged.decision is Decision.STOP:
            after = rollouts.learn(tx, row["id"], record, Tripped(tx.now, judged.why))
        elif judged.decision is Decision.ASK and has_failed:
            after = rollouts.learn(tx, row["id"], record, Asked(tx.now, judged.why))
        else:
            return record
        if after.state is not record.state:
            self._hold(tx, row, after)
        return after

    def _hold(self, tx: Transaction, row: Row, record: Record) -> None:
        """What was not sent is taken back, and a person is asked."""
        why = record.why or ""
        _take_back(tx, row, f"the rollout was {record.state}: {why}", None, self._limits)
        failed = [_named(each) for each in rollouts.members(tx, row["id"], counted=Count.FAILED)]
        verb = "is stopped by its brake" if record.state is State.STOPPED else "is paused and asks"
        content = {"why": why, "state": str(record.state), "failed": failed[:_MOST_NAMED]}
        notices.tell(tx, notices.Kind.STOPPED, _subject(row), f"The {_title(row)} {verb}: {why}", content)

    def _begin(self, tx: Transaction, row: Row, record: Record) -> None:
        if record.stage == 0:
            count = rollouts.sample(tx, row["id"], 1).total
            words = f"The {_title(row)} has begun: {count} clients in {len(rollouts.stages_of(tx, row['id']))} stages"
            notices.tell(tx, notices.Kind.STARTED, _subject(row), words, {"clients": count, "by": row["created_by"]})
        self._give_out(tx, row, rollouts.learn(tx, row["id"], record, Begun(tx.now)))

    def _go_on(self, tx: Transaction, row: Row, record: Record) -> None:
        if rollouts.is_stage_over(tx, row["id"], record.stage):
            until = tx.now + timedelta(seconds=row["settle_s"])
            rollouts.learn(tx, row["id"], record, StageEnded(tx.now, until))
        else:
            self._give_out(tx, row, record)

    def _give_out(self, tx: Transaction, row: Row, record: Record) -> None:
        """A command for each client of the stage that has none: all at its beginning, the rest after a resume."""
        uuids = rollouts.to_give_out(tx, row["id"], record.stage)
        if not uuids:
            return
        caller = Caller(row["created_by"], VIA, row["address"], row["may_shut_down"])
        wait_until = tx.now + timedelta(seconds=row["wait_s"])
        wish = Wish(Action(row["action"]), row["reason"], wait_until, row["someone_is_there"])
        batch_id = orders.order_planned(tx, caller, wish, dict.fromkeys(uuids), self._house)
        unknown = rollouts.give_out(tx, row["id"], record.stage, record.run, batch_id, uuids)
        if unknown:
            blocked = str(CommandState.BLOCKED_SAFETY)
            rollouts.count(tx, row["id"], unknown, blocked, Count.NOT_COUNTED, record.run)

    def _settle(self, tx: Transaction, row: Row, record: Record) -> None:
        wrong = self._gone_wrong(tx, row, record)
        if wrong:
            after = rollouts.learn(tx, row["id"], record, Asked(tx.now, wrong))
            self._hold(tx, row, after)
        elif record.stage < len(rollouts.stages_of(tx, row["id"])):
            until = tx.now + timedelta(seconds=row["pause_s"])
            rollouts.learn(tx, row["id"], record, Settled(tx.now, until))
        else:
            rollouts.learn(tx, row["id"], record, Completed(tx.now))
            _tell_end(tx, row, "has finished")

    def _gone_wrong(self, tx: Transaction, row: Row, record: Record) -> str | None:
        if row["action"] == Action.SHUTDOWN_HOST:  # nobody expects those to be online
            return None
        wrong = rollouts.gone_wrong(tx, row["id"], record.stage, record.counts_from)
        if not wrong:
            return None
        uuid, what = min(wrong.items())
        others = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        return f"a client that had completed {what} now: {uuid}{others}"


def _set_labels(tx: Transaction, row: Row, uuids: Sequence[str]) -> None:
    labels: Mapping[str, str] = row["labels"]
    if not labels:
        return
    present = views.labels_of(tx, uuids)
    before = {uuid: {key: present[uuid].get(key) for key in labels} for uuid in uuids}
    for uuid in uuids:
        fleet.change_client(tx, uuid, {}, labels)
    rollouts.note_labels(tx, row["id"], before)


def _tell_end(tx: Transaction, row: Row, verb: str) -> None:
    everybody = rollouts.members(tx, row["id"])
    missing = [_named(each) for each in everybody if each["counted"] != Count.RAN]
    done = len(everybody) - len(missing)
    words = f"The {_title(row)} {verb}: {done} of {len(everybody)} completed"
    names = [each["name"] or each["client_uuid"] for each in missing]
    content = {"completed": done, "missing": names[:_MOST_NAMED], "not_completed": missing[:_MOST_NAMED]}
    notices.tell(tx, notices.Kind.FINISHED, _subject(row), words, content)


def _named(member: Row) -> dict[str, Any]:
    return {
        "client_uuid": member["client_uuid"],
        "name": member["name"],
        "state": member["state"],
        "why": member["error_message"] or member["error_code"] or member["overdue"],
    }


def _subject(row: Row) -> str:
    return f"rollout/{row['id']}"


def _title(row: Row) -> str:
    reason = f" ({row['reason']})" if row["reason"] else ""
    return f"rollout of {row['action']} by {row['created_by']}{reason}"
