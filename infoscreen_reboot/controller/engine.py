"""Speaks with the broker, for whoever holds the lease: hears clients, gives commands out, and looks at the clock.

One thread does all of it, one step after the other: take what has come, write it down together with what follows from
it, commit, and only then acknowledge it and send what the same commit marked as sent. Whatever it is killed between,
what was not committed comes again from the broker, and what was marked and did not go out goes out at the next start.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Protocol

from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.contract.topics import from_client
from infoscreen_reboot.controller import dispatch, ingest
from infoscreen_reboot.controller.dispatch import Signs
from infoscreen_reboot.controller.ingest import Heard
from infoscreen_reboot.controller.lifecycle import (
    Acked,
    Fact,
    Limits,
    Overdue,
    Published,
    Record,
    Seen,
    State,
    deadline,
)
from infoscreen_reboot.controller.presence import Presence
from infoscreen_reboot.controller.safety import Facts, ask_in_turn, first_hold, frozen
from infoscreen_reboot.controller.store import clients, commands, facts, lease
from infoscreen_reboot.controller.store.commands import Change, Letter, Open
from infoscreen_reboot.controller.store.database import Database, Row, Transaction
from infoscreen_reboot.controller.store.facts import Policy
from infoscreen_reboot.mqtt.consumer import Consumer, Puback, Received
from infoscreen_reboot.mqtt.messages import Message

log = logging.getLogger(__name__)

BATCH = 500
# How long it waits for something to come before it looks at the clock.
TICK_S = 0.5
# For so long after it could not hear the broker, no step that waits for a client is over: what clients said meanwhile
# comes in many batches.
HEARING_AGAIN = timedelta(seconds=60)
# How many commands may be at the broker without its PUBACK, if the broker does not allow fewer.
IN_FLIGHT = 200
_RELEASE_EVERY = timedelta(seconds=1)
EXECUTED = (State.EXECUTION_STARTED, State.AWAITING_RECONNECT)
# It reads all open commands. What it looks for is a minute old.
_ASK_EVERY = timedelta(seconds=1)
_RUBBISH_EVERY_S = 60.0
# A client says how it is every 30 s (docs/contract.md, "Health"). Whoever has said nothing for so long while we heard
# the broker is not there, whatever it said last: a broker that has forgotten its connection tells nobody of its end.
SILENT, _MISS_EVERY = timedelta(minutes=3), timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Orders:
    """What the settings say about the engine's work."""

    limits: Limits = field(default_factory=Limits)
    policy: Policy = field(default_factory=Policy)
    valid_for: timedelta = timedelta(minutes=4)
    accepts_all: bool = False
    plans: tuple[Plan, ...] = ()


class Plan(Protocol):
    """What makes commands by itself and looks after them, as a schedule does."""

    def step(self, tx: Transaction, changes: Sequence[Change]) -> None:
        """At each step of the engine, in its transaction: `changes` are the commands that this step has moved on."""


@dataclass(slots=True)
class Rubbish:
    """Counts what nobody can use and who was turned away, and logs each once a minute at most.

    By the end of the topic, and not by reason: a reason may name what the sender has chosen, and there is no end of
    those.
    """

    counts: Counter[str] = field(default_factory=Counter)
    turned_away: int = 0
    _logged_at_s: dict[str, float] = field(default_factory=dict)

    def count(self, rubbish: ingest.Rubbish) -> None:
        named = from_client(rubbish.topic)
        self.counts["another topic" if named is None else str(named[1].value)] += 1
        if self._may_log("rubbish"):
            log.warning("ignored a message on %r: %s; %d so far", rubbish.topic, rubbish.why, self.counts.total())

    def turn_away(self, clients: int) -> None:
        self.turned_away += clients
        if clients and self._may_log("turned away"):
            log.warning(
                "%d messages so far of clients that there is no room to list: accept or reject some of those "
                "that are unknown",
                self.turned_away,
            )

    def _may_log(self, what: str) -> bool:
        now_s = time.monotonic()
        if now_s < self._logged_at_s.get(what, float("-inf")) + _RUBBISH_EVERY_S:
            return False
        self._logged_at_s[what] = now_s
        return True


class Engine:
    """One holder of the lease, in the epoch in which it got it."""

    def __init__(
        self,
        database: Database,
        consumer: Consumer,
        orders: Orders,
        epoch: int,
        signer: Signs | None,
        rubbish: Rubbish | None = None,
    ) -> None:
        self._database = database
        self._consumer = consumer
        self._orders = orders
        self._epoch = epoch
        self._signer = signer
        self._awaited: dict[int, str] = {}
        self._hears_all_from: datetime | None = None
        self._misses_from: datetime | None = None
        self._released_at: datetime | None = None
        self._released_to: tuple[datetime, str] | None = None
        self._asks_at: datetime | None = None
        self.rubbish = rubbish or Rubbish()

    def begin(self) -> None:
        """Once for each connection. What was given to a broker that may have forgotten it goes out again."""
        self._awaited.clear()
        with self._database.write() as tx:
            lease.hold(tx, self._epoch)
            lease.listen(tx, self._epoch, is_heard=True)
            self._hears_all_from = tx.now + HEARING_AGAIN
            self._misses_from = tx.now + SILENT
            commands.send_again(tx, commands.in_flight(tx), tx.now)
            if not self._consumer.terms.has_session:
                self._assume_gone(tx)

    def _assume_gone(self, tx: Transaction) -> None:
        """A broker that has forgotten us has forgotten the clients, too, and tells nobody which connections are over.

        Whoever was about to go down may have gone. If it has not, it says so itself (`execution_timeout`).
        """
        told: list[tuple[str, Fact]] = []
        for each in commands.going_down(tx):
            if each.record.started_boot_id is not None:
                told.append((each.command_id, Seen(tx.now, False, each.record.started_boot_id)))
        commands.learn(tx, told, self._orders.limits)

    def rest(self) -> None:
        """While the broker is not heard: keep the lease, and end what was never sent and has expired.

        Raises LeaseLost or StoreError. Commands that were sent wait: their clients may have answered.
        """
        with self._database.write() as tx:
            lease.hold(tx, self._epoch)
            self._hears_all_from = self._misses_from = None
            self._end_overdue(tx)

    def step(self) -> None:
        """Raises Lost, LeaseLost or StoreError; nothing of what came is acknowledged then."""
        received, pubacks = self._consumer.receive(BATCH, TICK_S)
        heard = self._read(received)
        with self._database.write() as tx:
            lease.hold(tx, self._epoch)
            changes = [*self._hear(tx, heard, pubacks), *self._miss(tx), *self._end_overdue(tx)]
            for plan in self._orders.plans:
                plan.step(tx, changes)
            self._ask_again(tx)
            self._hold_back(tx)
            self._release(tx)
            room = min(IN_FLIGHT, self._consumer.terms.receive_maximum) - len(self._awaited)
            letters = commands.to_send(tx, room)
            if letters:
                commands.mark_sent(tx, letters, self._orders.limits)
        self._consumer.acknowledge(received)
        for letter in letters:
            packet_id = self._consumer.publish(Message(letter.topic, letter.payload), letter.properties)
            self._awaited[packet_id] = letter.command_id

    def _read(self, received: Sequence[Received]) -> list[Heard]:
        found = []
        for each in received:
            heard = ingest.read(each.delivery.topic, each.delivery.payload, each.delivery.retain)
            if isinstance(heard, ingest.Rubbish):
                self.rubbish.count(heard)
            else:
                found.append(heard)
        return found

    def _hear(self, tx: Transaction, heard: Sequence[Heard], pubacks: Sequence[Puback]) -> list[Change]:
        batch = clients.hear(tx, heard, self._orders.accepts_all)
        self.rubbish.turn_away(batch.turned_away)
        told: list[tuple[str, Fact]] = []
        for puback in pubacks:
            command_id = self._awaited.pop(puback.packet_id, None)
            if command_id is not None and not puback.is_refusal:
                told.append((command_id, Published(tx.now, puback.reason or None)))
        rows = commands.by_id(tx, {command_id for command_id, _ in told} | {ack.command_id for _, ack in batch.acks})
        for client_uuid, ack in batch.acks:
            row = rows.get(ack.command_id)
            if row is not None and row["client_uuid"] == client_uuid:
                fact = Acked(tx.now, ack.status, ack.boot_id, ack.error_code, ack.error_message)
                told.append((ack.command_id, fact))
        changes = commands.learn(tx, told, self._orders.limits, rows)
        # What is known of a client's connection tells of its command only from `execution_started` on.
        concerned = batch.seen.keys() | {change.client_uuid for change in changes if change.after.state in EXECUTED}
        if concerned:
            changes += self._see(tx, concerned, batch.born)
        return changes

    def _miss(self, tx: Transaction) -> list[Change]:
        """Clients that were online and are silent."""
        if self._misses_from is None or tx.now < self._misses_from:
            return []
        self._misses_from = tx.now + _MISS_EVERY
        silent = clients.fall_silent(tx, tx.now - SILENT)
        return self._see(tx, silent, set()) if silent else []

    def _see(self, tx: Transaction, concerned: set[str], born: set[str]) -> list[Change]:
        """How things stand with these clients, for their open commands; who has just come is asked."""
        presences = clients.presences(tx, concerned)
        opened = commands.open_of(tx, concerned)
        told: list[tuple[str, Fact]] = []
        for each in opened:
            presence = presences[each.client_uuid]
            if presence.boot_id is not None and _tells_of(presence, each.record):
                told.append((each.command_id, Seen(tx.now, presence.is_online, presence.boot_id)))
        changes = commands.learn(tx, told, self._orders.limits)
        self._ask(tx, [each for each in opened if each.client_uuid in born], presences)
        return changes

    def _ask(self, tx: Transaction, opened: Sequence[Open], presences: dict[str, Presence]) -> None:
        asked = [
            each.command_id
            for each in opened
            if dispatch.may_ask(each.record, tx.now, each.asked_at, each.boot_id, presences[each.client_uuid].boot_id)
        ]
        if asked:
            commands.send_again(tx, asked, tx.now)

    def _end_overdue(self, tx: Transaction) -> list[Change]:
        is_unheard = self._hears_all_from is None or tx.now < self._hears_all_from
        told: list[tuple[str, Fact]] = []
        for row in commands.due(tx, BATCH, only_unsent=is_unheard):
            limits = commands.limits_of(row["limits"], self._orders.limits)
            waits_for = deadline(commands.record_of(row), limits)
            if waits_for is not None:
                told.append((row["id"], Overdue(tx.now, waits_for[0])))
        return commands.learn(tx, told, self._orders.limits)

    def _ask_again(self, tx: Transaction) -> None:
        if self._asks_at is not None and tx.now < self._asks_at:
            return
        self._asks_at = tx.now + _ASK_EVERY
        late = commands.unanswered(tx, tx.now - dispatch.ASK_AGAIN, BATCH)
        if late:
            self._ask(tx, late, clients.presences(tx, {each.client_uuid for each in late}))

    def _hold_back(self, tx: Transaction) -> None:
        """A freeze holds what is not sent, and also what got its yes before the freeze began."""
        answer = frozen(facts.freezes(tx), tx.now)
        if not answer.is_yes:
            commands.hold_back(tx, answer)

    def _release(self, tx: Transaction) -> None:
        """Ask the rules again for each client's oldest command that waits; in turn, if there are more than a batch."""
        if self._released_at is not None and tx.now < self._released_at + _RELEASE_EVERY:
            return
        self._released_at = tx.now
        waiting = commands.waiting(tx, BATCH, self._released_to)
        is_all = len(waiting) < BATCH
        self._released_to = None if is_all else (waiting[-1]["created_at"], waiting[-1]["id"])
        known = self._facts_of(tx, waiting)
        asked = [row for row in waiting if row["id"] in known]
        for row, answers in zip(asked, ask_in_turn([known[row["id"]] for row in asked]), strict=True):
            hold = first_hold(answers)
            if hold is None:
                self._give_out(tx, row)
            elif hold.rule != row["hold_rule"]:
                commands.hold(tx, row["id"], hold)

    def _facts_of(self, tx: Transaction, waiting: Sequence[Row]) -> dict[str, Facts]:
        """By the command's id. Gathered once for all that ask for the same: one by one takes seconds for a fleet."""
        alike: dict[tuple[str, bool], list[Row]] = {}
        for row in waiting:
            alike.setdefault((row["action"], row["someone_is_there"]), []).append(row)
        ids = [row["id"] for row in waiting]
        found: dict[str, Facts] = {}
        for (action, someone_is_there), rows in alike.items():
            of_clients = facts.gather(
                tx,
                [row["client_uuid"] for row in rows],
                Action(action),
                self._orders.policy,
                may_shut_down=True,  # it was asked when the command was made
                someone_is_there=someone_is_there,
                without=ids,
            )
            for row in rows:
                if row["client_uuid"] in of_clients:
                    found[row["id"]] = replace(of_clients[row["client_uuid"]], not_before=row["not_before"])
        return found

    def _give_out(self, tx: Transaction, row: Row) -> None:
        expires_at = min(tx.now + self._orders.valid_for, row["wait_until"] or row["expires_at"])
        commands.release(tx, [letter_for(row, tx.now, expires_at, self._signer)], tx.now, expires_at)


def _tells_of(presence: Presence, record: Record) -> bool:
    """What was heard before the bytes went out tells nothing of what came of them: the client may have been in another
    boot then."""
    return presence.at is not None and record.sent_at is not None and presence.at > record.sent_at


def letter_for(row: Row, issued_at: datetime, expires_at: datetime, signer: Signs | None) -> Letter:
    """The bytes of a command that goes out now."""
    command_id, client_uuid = row["id"], row["client_uuid"]
    times = issued_at, expires_at
    topic, payload = dispatch.compose(
        command_id, client_uuid, Action(row["action"]), times, row["created_by"], row["reason"]
    )
    properties = () if signer is None else tuple(signer.properties(topic, payload))
    return Letter(command_id, client_uuid, topic, payload, properties)
