"""Acks, statuses, PUBACKs, timers, people in any order, late, doubled: hypothesis chooses, the verdict is the same.

Two machines: one over what decides (lifecycle and presence), one over the store with the real engine in it. What must
come out is computed by `expected`, which knows the course of the client and not our table. Order matters in two places:

- A deadline that passed, or a person who took the command back, before the client's last word was heard gives the
  verdict. The last word is then late truth.
- A client that was installed anew answers for a command that it does not know. If that is heard before its
  `execution_started`, nobody can tell it from a refusal.

Statuses of one client come in the order in which it said them, as MQTT promises for one sender and one topic; again, as
often as one likes. The will is the broker's word: it may come at any later time.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from sqlalchemy import delete, false, insert, select, text, true, update

from infoscreen_reboot.contract import ack, telemetry
from infoscreen_reboot.contract import command as commands_on_the_wire
from infoscreen_reboot.contract.ack import Ack, AckStatus, ErrorCode
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.contract.telemetry import PresenceReason, Status
from infoscreen_reboot.contract.topics import Topics
from infoscreen_reboot.controller import ingest, lifecycle, orders, presence
from infoscreen_reboot.controller.engine import Engine, Orders
from infoscreen_reboot.controller.lifecycle import (
    TABLE,
    VERDICT_RANK,
    Acked,
    Blocked,
    Cancelled,
    Fact,
    Limits,
    Overdue,
    Proof,
    Published,
    Record,
    Seen,
    Sent,
    State,
    Step,
    deadline,
)
from infoscreen_reboot.controller.orders import Caller, House, Wish
from infoscreen_reboot.controller.presence import Presence
from infoscreen_reboot.controller.store import bulk, clients, commands, lease
from infoscreen_reboot.controller.store.database import Database, StoreError, Transaction
from infoscreen_reboot.controller.store.tables import client, command, event, freeze, metadata, outbox
from infoscreen_reboot.mqtt.consumer import Lost, Puback, Received, Terms
from infoscreen_reboot.mqtt.messages import Delivery, Message
from tests.any_order import MEMORY, is_found, the_same
from tests.controller.conftest import Server

NOW = datetime(2026, 4, 3, 12, 0, tzinfo=UTC)
LIMITS = Limits()
CLIENT = str(UUID(int=1))


def boot(number: int) -> str:
    return str(UUID(int=200 + number))


def session(number: int) -> str:
    return str(UUID(int=300 + number))


# --- What clients do


@dataclass(frozen=True)
class Word:
    """An ack in the boot of this number, counted from the one in which the command was received."""

    status: AckStatus
    in_boot: int = 0
    code: ErrorCode | None = None
    is_forgetful: bool = False


@dataclass(frozen=True)
class Leaves:
    """With a word, or with its connection lost; comes back in the next boot or in the same one."""

    reason: PresenceReason
    comes_in_next_boot: bool = True


ACCEPTED, STARTED = Word(AckStatus.ACCEPTED), Word(AckStatus.EXECUTION_STARTED)
COMPLETED = Word(AckStatus.COMPLETED, 1)
REBOOTS, IS_LOST = Leaves(PresenceReason.REBOOTING), Leaves(PresenceReason.CONNECTION_LOST)


def fails(code: ErrorCode, in_boot: int = 0) -> Word:
    return Word(AckStatus.FAILED, in_boot, code)


FORGETFUL = Word(AckStatus.FAILED, 1, ErrorCode.EXPIRED, is_forgetful=True)
Course = tuple[Word | Leaves, ...]
OF_A_REBOOT: dict[str, Course] = {
    "rebooted": (ACCEPTED, STARTED, REBOOTS, COMPLETED),
    "rebooted without a farewell": (ACCEPTED, STARTED, IS_LOST, COMPLETED),
    "lost its connection first": (ACCEPTED, STARTED, replace(IS_LOST, comes_in_next_boot=False), REBOOTS, COMPLETED),
    "a mock": (ACCEPTED, STARTED, Word(AckStatus.COMPLETED, 0)),
    "refused": (fails(ErrorCode.INVALID_SIGNATURE),),
    "expired before its start": (ACCEPTED, fails(ErrorCode.EXPIRED)),
    "inhibited": (ACCEPTED, STARTED, fails(ErrorCode.INHIBITED)),
    "not rebooted": (ACCEPTED, STARTED, fails(ErrorCode.NOT_REBOOTED)),
    "came back without its player": (ACCEPTED, STARTED, REBOOTS, fails(ErrorCode.POST_CHECK_FAILED, 1)),
    "installed anew": (ACCEPTED, STARTED, REBOOTS, FORGETFUL),
    "installed anew without a farewell": (ACCEPTED, STARTED, IS_LOST, FORGETFUL),
    "never came back": (ACCEPTED, STARTED, REBOOTS),
    "went silent": (ACCEPTED,),
}
OF_A_SHUTDOWN: dict[str, Course] = {
    "shut down": (ACCEPTED, STARTED, Word(AckStatus.COMPLETED, 0), Leaves(PresenceReason.SHUTTING_DOWN)),
    "lost its power": (ACCEPTED, STARTED, IS_LOST, COMPLETED),
    "was refused": (ACCEPTED, STARTED, fails(ErrorCode.NOT_AUTHORIZED)),
}


def last_word(course: Course) -> Word | None:
    return next(
        (one for one in course if isinstance(one, Word) and one.status.is_terminal and not one.is_forgetful), None
    )


@dataclass(frozen=True)
class Heard:
    """A client's word as we heard it, or None where the verdict was given by something else."""

    word: Word | None


@dataclass(frozen=True)
class End:
    """All that may not depend on the order."""

    state: State
    error_code: str | None
    proof: Proof | None
    late: AckStatus | None


def end_of(record: Record) -> End:
    code = record.error_code if record.state is State.FAILED else None
    return End(record.state, code, record.proof, record.late)


def expected(action: Action, heard: Sequence[Heard], by: State | None) -> End | None:
    """How a command ends of which this was heard; None if it has not ended.

    `by` is the verdict that a clock or a person has given, at the place in `heard` that has no word.
    """
    words = [each.word for each in heard]
    started = next((word for word in words if word is not None and word.status is AckStatus.EXECUTION_STARTED), None)
    state, said_by, late, is_started = None, None, None, False
    for word in words:
        if word is None:
            state = by if state is None else state
        elif word.status is AckStatus.EXECUTION_STARTED:
            is_started = True
        elif word.status.is_terminal and not (word.is_forgetful and is_started):
            if state is None:
                state, said_by = State(word.status.value), word
            elif state.value != word.status.value:
                late = word.status
    if state is None:
        return None
    proof = None
    if state is State.COMPLETED and action is Action.REBOOT_HOST:
        assert said_by is not None
        is_mock = started is not None and said_by.in_boot == started.in_boot
        proof = Proof.UNHEARD if started is None else Proof.MOCK if is_mock else Proof.BOOT_ID
    code = str(said_by.code) if said_by is not None and said_by.code is not None else None
    return End(state, code, proof, late)


# --- What decides


class Pure(RuleBasedStateMachine):
    """One command; all that is ever said about it lies ready, and comes when the machine says so."""

    @initialize(
        course=st.sampled_from(
            [(Action.REBOOT_HOST, course) for course in OF_A_REBOOT.values()]
            + [(Action.SHUTDOWN_HOST, course) for course in OF_A_SHUTDOWN.values()]
        ),
        clock_s=st.lists(st.sampled_from([0, 0, 3600, -3600]), min_size=3, max_size=3),
    )
    def begin(self, course: tuple[Action, Course], clock_s: list[int]) -> None:
        action, self.course = course
        self.now = NOW
        self.record = Record(action, NOW + timedelta(minutes=4))
        self.presence = Presence()
        self.heard: list[Heard] = []
        self.by: State | None = None
        self.words = [one for one in self.course if isinstance(one, Word)]
        self.statuses, self.wills = _said_of_itself(self.course, clock_s)
        self.told = 0
        self.waits_for_all = False
        self.hear(self.statuses[0])
        self.told = 1

    def learn(self, fact: Fact) -> None:
        before = self.record
        self.record = lifecycle.learn(before, fact)
        after = self.record
        assert after.state.rank >= before.state.rank, "a rank fell"
        if before.state.is_verdict:
            assert (after.state, after.ended_at, after.ended_boot_id) == (
                before.state,
                before.ended_at,
                before.ended_boot_id,
            ), "a verdict changed"
            assert (after.error_code, after.overdue) == (before.error_code, before.overdue)
            assert before.late is None or after.late is not None, "late truth was lost"
        elif after.state.is_verdict and not isinstance(fact, Acked):
            self.by = after.state
            self.heard.append(Heard(None))
        assert (deadline(after, LIMITS) is None) == after.state.is_verdict, "it waits for nothing, or for ever"

    @rule()
    def it_is_sent(self) -> None:
        if not self.record.state.is_verdict:
            self.learn(Sent(self.now))

    @precondition(lambda self: self.record.sent_at is not None)
    @rule()
    def its_puback_comes(self) -> None:
        self.learn(Published(self.now))

    @precondition(lambda self: self.record.sent_at is not None)
    @rule(number=st.integers(0, 4))
    def an_ack_comes(self, number: int) -> None:
        self.hear_word(self.words[number % len(self.words)])

    def hear_word(self, word: Word) -> None:
        self.heard.append(Heard(word))
        self.learn(Acked(self.now, word.status, boot(word.in_boot), word.code, "why" if word.code else None))
        self.see()

    @precondition(lambda self: self.record.sent_at is not None)
    @rule(is_new=st.booleans(), number=st.integers(0, 9))
    def a_status_comes(self, is_new: bool, number: int) -> None:
        if is_new and self.told < len(self.statuses):
            self.told += 1
            self.hear(self.statuses[self.told - 1])
        else:
            self.hear(self.statuses[number % self.told])

    @precondition(lambda self: self.record.sent_at is not None)
    @rule(number=st.integers(0, 3))
    def a_will_comes(self, number: int) -> None:
        left = [will for at, will in self.wills if at < self.told]
        if left:
            self.hear(left[number % len(left)])

    def hear(self, status: Status) -> None:
        self.presence = presence.hear(self.presence, status, self.now)
        self.see()

    def see(self) -> None:
        if self.record.sent_at is not None and self.presence.boot_id is not None:
            self.learn(Seen(self.now, self.presence.is_online, self.presence.boot_id))

    @rule(seconds=st.sampled_from([0, 1, 30, 100, 300]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule()
    def the_clock_is_looked_at(self) -> None:
        waits_for = deadline(self.record, LIMITS)
        if waits_for is not None and waits_for[1] <= self.now:
            self.learn(Overdue(self.now, waits_for[0]))
            is_heard_of = any(each.word is not None and each.word.status in _PROGRESS for each in self.heard)
            assert self.by is (State.TIMED_OUT if is_heard_of else State.EXPIRED)

    @rule(is_cancelled=st.booleans())
    def somebody_takes_it_back(self, is_cancelled: bool) -> None:
        was_sent, before = self.record.sent_at is not None, self.record
        self.learn(Cancelled(self.now) if is_cancelled else Blocked(self.now, "freeze", "x"))
        assert not was_sent or self.record == before, "what was sent was taken back"

    def teardown(self) -> None:
        if not hasattr(self, "course") or self.record.sent_at is None:
            return
        self.time_passes(1)
        for word in self.words:
            self.hear_word(word)
        for status in self.statuses[self.told :]:
            self.hear(status)
        for _, will in self.wills:
            self.hear(will)
        last = self.statuses[-1]
        assert self.presence.is_online == (
            last.reason is PresenceReason.CONNECTED
        ), "a late will, or an old birth, counted"
        assert self.presence.session_id == last.session_id
        end = expected(self.record.action, self.heard, self.by)
        assert (end is None) == (not self.record.state.is_verdict), f"{self.record.state} instead of {end}"
        assert end is None or end == end_of(self.record)
        if self.record.state is State.COMPLETED:
            assert self.record.ended_boot_id is not None and self.record.started_boot_id == boot(0)


_PROGRESS = (AckStatus.ACCEPTED, AckStatus.EXECUTION_STARTED)


def _said_of_itself(course: Course, clock_s: Sequence[int]) -> tuple[list[Status], list[tuple[int, Status]]]:
    """Births and farewells in their order, and wills, each with the number of the birth after which it may come.

    `clock_s` is how wrong the clock is in each boot.
    """
    number, in_boot, seconds = 0, 0, 0

    def status(reason: PresenceReason) -> Status:
        at = NOW + timedelta(seconds=seconds + clock_s[in_boot % len(clock_s)])
        return Status(reason, CLIENT, session(number), boot(in_boot), at)

    said = [status(PresenceReason.CONNECTED)]
    wills = [(0, status(PresenceReason.CONNECTION_LOST))]
    for one in course:
        seconds += 10
        if isinstance(one, Leaves):
            if one.reason is not PresenceReason.CONNECTION_LOST:
                said.append(status(one.reason))
            number, in_boot = number + 1, in_boot + one.comes_in_next_boot
            said.append(status(PresenceReason.CONNECTED))
            wills.append((len(said) - 1, status(PresenceReason.CONNECTION_LOST)))
    return said, wills[:-1]  # the last session goes on


def test_what_decides_ends_in_the_same_verdict_whatever_the_order() -> None:
    the_same(Pure, 5 * settings().max_examples, 20)


# --- The store, with the engine in it


class Timed(Database):
    """The database's clock is the test's; a transaction can be made to fail at its end."""

    now = NOW
    fails = False

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        with super().write() as tx:
            self.now += timedelta(milliseconds=1)
            yield replace(tx, now=self.now)
            if self.fails:
                raise StoreError("the disk is full")

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        with super().read() as tx:
            yield replace(tx, now=self.now)


class PlayedConsumer:
    """The engine's side of a broker: what comes is what the machine has put there."""

    terms = Terms(has_session=True)

    def __init__(self, publish: Callable[[Message, int], None]) -> None:
        self.received: list[Received] = []
        self.pubacks: list[Puback] = []
        self.acknowledged: list[Received] = []
        self._publish = publish
        self._last_id = 0

    def receive(self, most: int, idle_s: float) -> tuple[list[Received], list[Puback]]:
        return self.received, self.pubacks

    def acknowledge(self, received: Sequence[Received]) -> None:
        self.acknowledged += received

    def publish(self, message: Message, properties: Sequence[tuple[str, str]] = ()) -> int:
        self._last_id += 1
        self._publish(message, self._last_id)
        return self._last_id


@dataclass
class Told:
    """What one client has said of itself, in order, and what of it may come by now."""

    statuses: list[Status] = field(default_factory=list)
    wills: list[tuple[int, Status]] = field(default_factory=list)
    heard: int = 0


@dataclass
class Story:
    """One command: what its client says of it, what was heard, and how it stood when the machine last looked."""

    client: int
    action: Action
    course: list[Word | Leaves] = field(default_factory=list)
    first_boot: int = 0
    said: list[tuple[Word, bytes]] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)
    by: State | None = None
    seen: dict[str, Any] = field(default_factory=dict)


HOUSE = House()
ANN = Caller("ann", "test", may_shut_down=True)
CLIENTS = [str(UUID(int=number)) for number in (1, 2)]


class InTheStore(RuleBasedStateMachine):
    """Two clients, and all their commands, in a database."""

    def __init__(self) -> None:
        super().__init__()
        self.database = self.empty_database()
        self.database.now, self.database.fails = NOW, False
        self.stories: dict[str, Story] = {}
        self.letters: list[tuple[str, bytes]] = []
        self.awaited: list[int] = []
        self.told = [Told() for _ in CLIENTS]
        self.boots, self.sessions = [10, 50], 0
        self.busy: list[str | None] = [None, None]
        self.known: list[set[str]] = [set(), set()]
        self.behind: dict[str, Any] = {}
        self.killed_at = 0
        with self.database.write() as tx:
            epoch = lease.take(tx, "test")
        assert epoch is not None
        self.epoch = epoch
        self.connect()
        for number in range(len(CLIENTS)):
            self.comes(number)
            self.step(self.next_status(number))

    def empty_database(self) -> Timed:
        """Always the same one: what it knows of our statements is most of the work."""
        return _emptied_sqlite()

    # what the engine does

    def connect(self) -> None:
        """As after each start and each loss of the connection."""
        self.awaited = []
        self.consumer = PlayedConsumer(self.publish)
        orders_of_engine = Orders(accepts_all=True)
        consumer: Any = self.consumer
        self.engine = Engine(self.database, consumer, orders_of_engine, self.epoch, None)
        self.engine.begin()

    def step(self, received: Sequence[tuple[str, bytes, Word | None, str]], pubacks: Sequence[int] = ()) -> None:
        """One step with these messages: topic, payload, and if it is an ack, the word and the command it is of."""
        self.consumer.received = [
            Received(Delivery(topic, payload, False), number, 1)
            for number, (topic, payload, _, _) in enumerate(received)
        ]
        self.consumer.pubacks = [Puback(number, 0) for number in pubacks]
        self.consumer.acknowledged = []
        is_committed = True
        try:
            self.engine.step()
        except StoreError:
            is_committed = False
            assert not self.consumer.acknowledged, "acknowledged, and not stored"
            self.database.fails = False
            self.connect()
        except Lost:
            self.connect()
        if is_committed:
            for _, _, word, command_id in received:
                if word is not None:
                    self.stories[command_id].heard.append(Heard(word))
        self.awaited = [number for number in self.awaited if number not in pubacks]

    def publish(self, message: Message, packet_id: int) -> None:
        """Called by the engine for each message that goes to the broker."""
        if self.killed_at:
            self.killed_at -= 1
            if self.killed_at == 0:
                raise Lost("killed")
        sent = commands_on_the_wire.parse(message.payload)
        with self.database.read() as tx:
            row = tx.db.execute(select(command).where(command.c.id == sent.command_id)).mappings().one()
            boot_id = commands_boot(tx, row["client_uuid"])
            is_frozen = tx.db.execute(select(freeze).where(freeze.c.ended_at.is_(None))).first() is not None
        assert row["rank"] < VERDICT_RANK, "sent after its end"
        before = [
            payload for _, payload in self.letters if commands_on_the_wire.parse(payload).command_id == sent.command_id
        ]
        if before:
            assert message.payload == before[0], "other bytes for the same command"
        if not row["published_at"] and not before:
            assert row["sent_at"] <= sent.expires_at, "sent for the first time after it expired"
            assert not is_frozen or row["asks"], "sent for the first time in a freeze"
        elif self.database.now <= sent.expires_at:
            assert row["accepted_at"] is None and row["started_at"] is None, "asked though it was heard of"
            assert row["sent_boot_id"] == boot_id, "asked in another boot, before it expired"
        self.letters.append((row["client_uuid"], message.payload))
        self.awaited.append(packet_id)

    # what people do

    @rule(
        client=st.integers(0, 1),
        action=st.sampled_from([Action.REBOOT_HOST] * 3 + [Action.SHUTDOWN_HOST]),
        waits=st.booleans(),
        is_sent_at_once=st.booleans(),
    )
    def a_command_is_ordered(self, client: int, action: Action, waits: bool, is_sent_at_once: bool) -> None:
        with self.database.write() as tx:
            wait_until = tx.now + timedelta(minutes=30) if waits else None
            wish = Wish(action, wait_until=wait_until, someone_is_there=True)
            command_id, _ = orders.order(tx, ANN, wish, CLIENTS[client], None, HOUSE)
        self.stories[command_id] = Story(client, action)
        if is_sent_at_once:
            self.step(())

    @precondition(lambda self: self.stories)
    @rule(number=st.integers(0, 9))
    def a_command_is_cancelled(self, number: int) -> None:
        command_id = list(self.stories)[number % len(self.stories)]
        with self.database.write() as tx:
            commands.learn(tx, [(command_id, Cancelled(tx.now))], LIMITS)

    @rule(is_on=st.booleans())
    def a_freeze(self, is_on: bool) -> None:
        with self.database.write() as tx:
            if is_on:
                tx.db.execute(insert(freeze).values(why="fair", made_by="ann", made_at=tx.now))
            else:
                tx.db.execute(update(freeze).values(ended_at=tx.now))

    # what clients do

    def comes(self, client: int) -> None:
        self.sessions += 1
        told = self.told[client]
        told.wills.append((len(told.statuses), self.status(client, PresenceReason.CONNECTION_LOST)))
        told.statuses.append(self.status(client, PresenceReason.CONNECTED))

    def status(self, client: int, reason: PresenceReason) -> Status:
        return Status(reason, CLIENTS[client], session(self.sessions), boot(self.boots[client]), self.database.now)

    @precondition(lambda self: self.letters)
    @rule(
        number=st.integers(0, 9),
        kind=st.sampled_from([*OF_A_REBOOT, *OF_A_SHUTDOWN]),
        more=st.sampled_from([0, 0, 1, 4]),
    )
    def a_client_takes_a_command(self, number: int, kind: str, more: int) -> None:
        """And goes on with it. One that it knows gets its present ack."""
        _, payload = self.letters[-1 - number % len(self.letters)]
        content = commands_on_the_wire.parse(payload)
        story = self.stories[content.command_id]
        client = story.client
        if content.command_id in self.known[client]:
            return
        self.known[client].add(content.command_id)
        story.first_boot = self.boots[client]
        courses = OF_A_REBOOT if content.action is Action.REBOOT_HOST else OF_A_SHUTDOWN
        story.course = list(courses.get(kind, next(iter(courses.values()))))
        if self.database.now > content.expires_at:
            story.course = [fails(ErrorCode.EXPIRED)]
        elif self.busy[client] is not None:
            story.course = [fails(ErrorCode.BUSY)]
        else:
            self.busy[client] = content.command_id
        for _ in range(1 + min(more, len(story.course) - 1)):
            self.goes_on(content.command_id)

    def goes_on(self, command_id: str) -> None:
        story = self.stories[command_id]
        one = story.course.pop(0)
        client = story.client
        if isinstance(one, Word):
            code, told_at = one.code, self.database.now
            said = Ack(
                command_id,
                CLIENTS[client],
                one.status,
                told_at,
                boot(story.first_boot + one.in_boot),
                code,
                "why" if code else None,
            )
            story.said.append((one, ack.encode(said)))
        else:
            if one.reason is not PresenceReason.CONNECTION_LOST:
                self.told[client].statuses.append(self.status(client, one.reason))
            self.boots[client] += one.comes_in_next_boot
            self.comes(client)
        if not story.course and self.busy[client] == command_id:
            self.busy[client] = None

    @precondition(lambda self: any(self.busy))
    @rule(client=st.integers(0, 1), steps=st.integers(1, 4))
    def a_client_goes_on(self, client: int, steps: int) -> None:
        for _ in range(steps):
            command_id = self.busy[client]
            if command_id is not None:
                self.goes_on(command_id)

    @rule(client=st.integers(0, 1))
    def a_client_connects_anew(self, client: int) -> None:
        self.comes(client)

    @rule(client=st.integers(0, 1))
    def a_host_is_rebooted_by_hand(self, client: int) -> None:
        """While no command of ours is under way there."""
        if self.busy[client] is None:
            self.boots[client] += 1
            self.comes(client)

    # what comes, and when

    def next_status(self, client: int) -> list[tuple[str, bytes, Word | None, str]]:
        told = self.told[client]
        if told.heard == len(told.statuses):
            return []
        told.heard += 1
        return [self.of_status(told.statuses[told.heard - 1])]

    def of_status(self, status: Status) -> tuple[str, bytes, Word | None, str]:
        return Topics(status.client_uuid).status, telemetry.encode_status(status), None, ""

    def acks(self) -> list[tuple[str, bytes, Word | None, str]]:
        return [
            (Topics(CLIENTS[story.client]).commands_ack, payload, word, command_id)
            for command_id, story in self.stories.items()
            for word, payload in story.said
        ]

    @rule(
        picks=st.lists(st.tuples(st.sampled_from("aaasswor"), st.integers(0, 20)), max_size=5),
        pubacks=st.integers(0, 3),
        fails=st.sampled_from([False] * 7 + [True]),
        killed_at=st.sampled_from([0] * 7 + [1, 2]),
    )
    def the_engine_takes_a_step(self, picks: list[tuple[str, int]], pubacks: int, fails: bool, killed_at: int) -> None:
        received: list[tuple[str, bytes, Word | None, str]] = []
        heard_before = [told.heard for told in self.told]
        for what, number in picks:
            told = self.told[number % 2]
            acks, wills = self.acks(), [will for at, will in told.wills[:-1] if at < told.heard]
            if what == "a" and acks:
                received.append(acks[number % len(acks)])
            elif what == "s":
                received += self.next_status(number % 2)
            elif what == "o" and told.heard:
                received.append(self.of_status(told.statuses[max(0, told.heard - 1 - number % 4)]))
            elif what == "w" and wills:
                received.append(self.of_status(wills[-1 - number % min(3, len(wills))]))
            elif what == "r" and acks:  # another client's word on a command that is not its own
                topic, payload, _, command_id = acks[number % len(acks)]
                other = CLIENTS[1 - self.stories[command_id].client]
                content = json.loads(payload) | {"client_uuid": other, "status": "completed"}
                content |= {"error_code": None, "error_message": None}
                received.append((Topics(other).commands_ack, json.dumps(content).encode(), None, ""))
        self.database.fails, self.killed_at = fails, killed_at
        if fails:
            for told, before in zip(self.told, heard_before, strict=True):
                told.heard = before  # they come again
        self.step(received, self.awaited[:pubacks])
        self.database.fails, self.killed_at = False, 0

    @rule()
    def the_engine_starts_anew(self) -> None:
        self.connect()

    @rule()
    def no_broker_is_heard(self) -> None:
        self.engine.rest()
        self.connect()

    @rule(seconds=st.sampled_from([1, 10, 61, 61, 200, 400, 4000]))
    def time_passes(self, seconds: int) -> None:
        self.database.now += timedelta(seconds=seconds)
        with self.database.write() as tx:
            tx.db.execute(text(f"UPDATE lease SET ends_at = ends_at + {seconds * 1_000_000}"))

    @rule()
    def somebody_reads(self) -> None:
        with self.database.read() as tx:
            self.behind = {row["id"]: row for row in tx.db.execute(select(command)).mappings()}

    @precondition(lambda self: self.behind)
    @rule(number=st.integers(0, 9), state=st.sampled_from([State.ACCEPTED, State.COMPLETED, State.TIMED_OUT]))
    def and_writes_what_is_old(self, number: int, state: State) -> None:
        """Another process that has read a row, slept, and does not know that it has ended."""
        with self.database.write() as tx:
            command_id = list(self.behind)[number % len(self.behind)]
            now = tx.db.execute(select(command.c.rank).where(command.c.id == command_id)).scalar_one()
            if now == VERDICT_RANK and self.behind[command_id]["rank"] < VERDICT_RANK:
                old = commands.record_of(self.behind[command_id])
                if self.stories[command_id].seen["state"] != state:
                    new = replace(old, state=state, started_at=tx.now, error_code="behind")
                    commands.write(tx, [(old, new, self.behind[command_id])], LIMITS)

    # what must hold

    @invariant()
    def promises_are_kept(self) -> None:
        with self.database.read() as tx:
            rows = {row["id"]: dict(row) for row in tx.db.execute(select(command)).mappings()}
            in_outbox = set(tx.db.execute(select(outbox.c.command_id)).scalars())
            told: dict[str, list[Any]] = {command_id: [] for command_id in rows}
            for each in tx.db.execute(select(event).where(event.c.command_id.is_not(None)).order_by(event.c.seq)):
                told[each.command_id].append(each)
        for command_id, row in rows.items():
            story = self.stories[command_id]
            before = story.seen
            if before:
                assert row["rank"] >= before["rank"], "a rank fell"
                assert before["late"] is None or row["late"] is not None, "late truth was lost"
            if before and before["rank"] == VERDICT_RANK:
                for name in ("state", "ended_at", "ended_boot_id", "error_code", "overdue"):
                    assert row[name] == before[name], f"a verdict changed: {name} from {before[name]} to {row[name]}"
            is_ended = row["rank"] == VERDICT_RANK
            assert not (is_ended and command_id in in_outbox), "it has ended, and lies in the outbox"
            assert (row["due_at"] is None) == is_ended, "it waits for nothing, or for ever"
            self.compare(row, told[command_id])
            has_ended_now = is_ended and not (before and before["rank"] == VERDICT_RANK)
            if has_ended_now and not self.was_ended_by_an_ack(told[command_id]):
                story.by = State(row["state"])
                story.heard.append(Heard(None))
            story.seen = row
        for uuid in CLIENTS:
            going = [
                row
                for row in rows.values()
                if row["client_uuid"] == uuid
                and row["rank"] < VERDICT_RANK
                and (row["sent_at"] is not None or row["hold_rule"] is None)
            ]
            assert len(going) <= 1, "two commands of one client are under way"

    def was_ended_by_an_ack(self, told: Sequence[Any]) -> bool:
        verdict = next(each for each in told if each.kind in {*lifecycle.VERDICTS})
        return bool(verdict.content.get("fact") == "acked")

    def compare(self, row: dict[str, Any], told: Sequence[Any]) -> None:
        """What the events tell is what the row says."""
        verdicts = [each.kind for each in told if each.kind in {*lifecycle.VERDICTS}]
        is_ended = row["rank"] == VERDICT_RANK
        assert verdicts == ([row["state"]] if is_ended else []), f"{row['state']}, and its events tell {verdicts}"
        states: list[str] = []
        for each in told:
            is_overtaken = each.kind == "published" and states[-1] != "queued"
            if each.kind in {*State} and each.kind not in verdicts and not is_overtaken:
                states.append(each.kind)
        assert states == sorted(states, key=lambda state: State(state).rank), f"its events tell {states}"
        if not is_ended:
            assert states[-1] == row["state"], f"{row['state']}, and its events tell {states}"
        late = [each.content["status"] for each in told if each.kind == "late_truth"]
        assert late[-1:] == ([row["late"]] if row["late"] else [])
        record = commands.record_of(row)
        if record.state is not State.BLOCKED_SAFETY:
            replayed = Record(record.action, record.expires_at)
            for each in told:
                if (fact := fact_of(each)) is not None:
                    replayed = lifecycle.learn(replayed, fact)
            assert replayed == record, "its events tell another story"

    def teardown(self) -> None:
        try:
            self.check_the_end()
        finally:
            self.database.close()

    def check_the_end(self) -> None:
        """All that was ever said has come at last."""
        for number in range(len(CLIENTS)):
            while received := self.next_status(number):
                self.step(received)
                self.promises_are_kept()
        for message in self.acks():
            self.step([message])
            self.promises_are_kept()
        for told in self.told:
            for _, will in told.wills[:-1]:
                self.step([self.of_status(will)])
        self.promises_are_kept()
        self.speak()
        with self.database.read() as tx:
            for uuid, told in zip(CLIENTS, self.told, strict=True):
                row = tx.db.execute(text(f"SELECT session_id, is_online FROM client WHERE uuid = '{uuid}'")).one()
                last = told.statuses[-1]
                assert (row.session_id, bool(row.is_online)) == (last.session_id, last.reason.state == "online")
        for command_id, story in self.stories.items():
            end = expected(story.action, story.heard, story.by)
            is_ended = story.seen["rank"] == VERDICT_RANK
            assert (end is not None) == is_ended, f"{command_id} is {story.seen['state']} instead of {end}"
            assert end is None or end == end_of(commands.record_of(story.seen)), story

    def speak(self) -> None:
        """Who is there says so: for hours nobody may have heard it."""
        for uuid, told in zip(CLIENTS, self.told, strict=True):
            if told.statuses[-1].reason.state == "online":
                said = Ack(str(UUID(int=99)), uuid, AckStatus.ACCEPTED, self.database.now, told.statuses[-1].boot_id)
                self.step([(Topics(uuid).commands_ack, ack.encode(said), None, "")])


def fact_of(told: Any) -> Fact | None:
    """What an event tells, as the fact that it was; None if it is of another kind."""
    content = dict(told.content)
    match content.pop("fact", None):
        case "sent":
            return Sent(told.at)
        case "published":
            return Published(told.at, **content)
        case "seen":
            return Seen(told.at, **content)
        case "overdue":
            return Overdue(told.at, Step(content["step"]))
        case "cancelled":
            return Cancelled(told.at, **content)
        case "acked":
            code = ErrorCode(content["code"]) if "code" in content else None
            status = AckStatus(content["status"])
            return Acked(told.at, status, content["boot_id"], code, content.get("message"))
    return None


def commands_boot(tx: Transaction, uuid: str) -> str | None:
    return tx.db.execute(select(client.c.boot_id).where(client.c.uuid == uuid)).scalar_one_or_none()


@cache
def _sqlite() -> tuple[Timed, Path]:
    """A database, and the file as it was when it was empty."""
    folder = Path(tempfile.mkdtemp(dir=MEMORY))
    database = Timed(f"sqlite:///{folder}/controller.sqlite3")
    metadata.create_all(database.engine)
    database.close()
    return database, Path(shutil.copy(folder / "controller.sqlite3", folder / "empty.sqlite3"))


def _emptied_sqlite() -> Timed:
    database, empty = _sqlite()
    database.close()
    for file in empty.parent.glob("controller.sqlite3*"):
        file.unlink()
    shutil.copy(empty, empty.parent / "controller.sqlite3")
    return database


def test_the_store_ends_in_the_same_verdict_whatever_the_order() -> None:
    the_same(InTheStore, settings().max_examples, 30)


def test_so_it_does_in_postgresql(server: Server) -> None:
    database = Timed(server.url)

    class InPostgresql(InTheStore):
        def empty_database(self) -> Timed:
            server.empty().close()
            return database

    the_same(InPostgresql, settings().max_examples // 5, 30)


# --- It finds what is wrong


class Undisturbed(InTheStore):
    """Nobody is killed, and nothing fails: so some faults are found in fewer examples."""

    the_engine_starts_anew = None  # type: ignore[assignment]  # so hypothesis is told that there is no such rule
    no_broker_is_heard = None  # type: ignore[assignment]
    somebody_reads = None  # type: ignore[assignment]
    and_writes_what_is_old = None  # type: ignore[assignment]
    a_client_connects_anew = None  # type: ignore[assignment]
    a_command_is_cancelled = None  # type: ignore[assignment]


class WithoutClients(Undisturbed):
    """They say nothing but that they are there."""

    a_client_takes_a_command = None  # type: ignore[assignment]
    a_client_goes_on = None  # type: ignore[assignment]
    a_host_is_rebooted_by_hand = None  # type: ignore[assignment]

    @rule()
    def time_passes(self) -> None:
        """The rules are asked again once a second."""
        super().time_passes(1)


class TwoThatWait(WithoutClients):
    @rule()
    def a_command_is_ordered(self) -> None:
        super().a_command_is_ordered(0, Action.REBOOT_HOST, True, False)


class Frozen(WithoutClients):
    @rule()
    def a_command_is_ordered(self) -> None:
        super().a_command_is_ordered(0, Action.REBOOT_HOST, False, False)

    @precondition(lambda self: self.stories)
    @rule()
    def a_freeze(self) -> None:
        super().a_freeze(True)


class Behind(InTheStore):
    """What a person ends is written by one who has not heard of it."""

    a_client_takes_a_command = None  # type: ignore[assignment]
    a_client_goes_on = None  # type: ignore[assignment]
    the_engine_starts_anew = None  # type: ignore[assignment]
    no_broker_is_heard = None  # type: ignore[assignment]
    a_client_connects_anew = None  # type: ignore[assignment]
    a_host_is_rebooted_by_hand = None  # type: ignore[assignment]
    a_freeze = None  # type: ignore[assignment]
    time_passes = None  # type: ignore[assignment]


class AskedAgain(Undisturbed):
    the_engine_starts_anew = InTheStore.the_engine_starts_anew
    a_freeze = None  # type: ignore[assignment]
    a_client_goes_on = None  # type: ignore[assignment]
    time_passes = None  # type: ignore[assignment]


class Strangers(Undisturbed):
    a_freeze = None  # type: ignore[assignment]
    a_host_is_rebooted_by_hand = None  # type: ignore[assignment]
    time_passes = None  # type: ignore[assignment]


def _without_its_guard(patch: pytest.MonkeyPatch) -> None:
    update_many = bulk.update_many
    patch.setattr(commands, "update_many", lambda tx, table, values, guard: update_many(tx, table, values, "1 = 1"))


def _takes_a_stranger_for_a_witness(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lifecycle, "_has_forgotten", lambda record, fact: False)


def _lets_late_truth_overwrite(patch: pytest.MonkeyPatch) -> None:
    late = [
        lifecycle.Row(state, Acked, State.COMPLETED, lifecycle._completed) for state in (State.TIMED_OUT, State.EXPIRED)
    ]
    patch.setattr(lifecycle, "TABLE", (*TABLE, *late))


def _forgets_late_truth(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lifecycle, "_is_late_truth", lambda record, fact: False)


def _forgets_which_sessions_have_ended(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(presence, "_with", lambda ended, session_id: ())


def _acknowledges_before_it_commits(patch: pytest.MonkeyPatch) -> None:
    step = Engine.step

    def too_early(self: Engine) -> None:
        consumer: Any = self._consumer
        consumer.acknowledge(consumer.received)
        step(self)

    patch.setattr(Engine, "step", too_early)


def _leaves_what_has_ended_in_the_outbox(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(commands, "delete", lambda table: delete(table).where(false()))


def _asks_whoever_it_is(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(commands, "_may_go_again", lambda tx: true())


def _believes_anybody_about_a_command(patch: pytest.MonkeyPatch) -> None:
    hear = clients.hear

    def believe(tx: Transaction, heard: Sequence[ingest.Heard], accepts_all: bool) -> clients.Batch:
        batch = hear(tx, heard, accepts_all)
        rows = commands.by_id(tx, {said.command_id for _, said in batch.acks})
        batch.acks = [(rows[said.command_id]["client_uuid"], said) for _, said in batch.acks if said.command_id in rows]
        return batch

    patch.setattr(clients, "hear", believe)


def _sends_in_a_freeze(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Engine, "_hold_back", lambda self, tx: None)


def _gives_out_all_that_waits(patch: pytest.MonkeyPatch) -> None:
    def waiting(tx: Transaction, most: int, after: object = None) -> list[Any]:
        return list(tx.db.execute(select(command).where(commands._waits(command)).limit(most)).mappings())

    patch.setattr(commands, "waiting", waiting)


@pytest.mark.parametrize(
    ("fault", "machine", "words"),
    [
        (_takes_a_stranger_for_a_witness, Pure, "instead of|End"),
        (_lets_late_truth_overwrite, Pure, "a verdict changed"),
        (_forgets_late_truth, Pure, "End"),
        (_forgets_which_sessions_have_ended, Pure, "a late will, or an old birth, counted"),
        (_without_its_guard, Behind, "a rank fell|a verdict changed|lies in the outbox|its events tell|End"),
        (_acknowledges_before_it_commits, InTheStore, "acknowledged, and not stored"),
        (_leaves_what_has_ended_in_the_outbox, Undisturbed, "lies in the outbox"),
        (_asks_whoever_it_is, AskedAgain, "asked though it was heard of|asked in another boot"),
        (_believes_anybody_about_a_command, Strangers, "instead of|End"),
        (_sends_in_a_freeze, Frozen, "in a freeze"),
        (_gives_out_all_that_waits, TwoThatWait, "two commands of one client"),
    ],
)
def test_a_fault_that_is_put_in_is_found(
    fault: Callable[[pytest.MonkeyPatch], None],
    machine: type[RuleBasedStateMachine],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fault(monkeypatch)
    is_found(machine, 2000, 30, words)
