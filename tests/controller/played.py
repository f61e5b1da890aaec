"""Clients that are played at a real mosquitto, and an engine that takes its steps when a test says so."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import select, text

from infoscreen_reboot.contract import ack, telemetry
from infoscreen_reboot.contract import command as commands_on_the_wire
from infoscreen_reboot.contract.ack import Ack, AckStatus, ErrorCode
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.contract.telemetry import PresenceReason, Status
from infoscreen_reboot.contract.topics import Topics
from infoscreen_reboot.controller import engine as engines
from infoscreen_reboot.controller import ingest
from infoscreen_reboot.controller.engine import Engine, Orders, letter_for
from infoscreen_reboot.controller.store import commands, lease
from infoscreen_reboot.controller.store.commands import New, Request
from infoscreen_reboot.controller.store.database import Database
from infoscreen_reboot.controller.store.tables import Moment, command, metadata, outbox
from infoscreen_reboot.mqtt.consumer import Consumer, Lost, Puback, Received
from infoscreen_reboot.mqtt.messages import BrokerSettings, Message
from tests.broker.conftest import Broker
from tools.lab.patience import Patience

PATIENCE_S = 30.0
# For how long there is nothing to hear before somebody looks again.
TICK_S = 0.05
# Who is played says nothing while a test waits for something else, and the broker keeps the connection all the same.
KEEP_ALIVE_S = 600


class Marked(Consumer):
    """A connection that can tell when what was said before has passed the broker: its own mark comes back behind it."""

    def __init__(self, broker: Broker, client_id: str, topics: Sequence[str]) -> None:
        self._mark = f"mark/{client_id}"
        self._came_back: set[bytes] = set()
        super().__init__(settings_of(broker), client_id, [*topics, self._mark])

    def receive(self, most: int, idle_s: float) -> tuple[list[Received], list[Puback]]:
        received, pubacks = super().receive(most, idle_s)
        marks = [each for each in received if each.delivery.topic == self._mark]
        self._came_back |= {each.delivery.payload for each in marks}
        self.acknowledge(marks)
        return [each for each in received if each not in marks], pubacks

    def pass_through(self, take: Callable[[], object]) -> None:
        """Takes what comes until all is there that the broker had for this connection just now."""
        mark = uuid4().bytes
        self.publish(Message(self._mark, mark))
        patience = Patience(PATIENCE_S)
        while mark not in self._came_back:
            assert not patience.is_over, "the broker gives nothing back"
            take()


@dataclass
class PlayedClient:
    """Answers as the contract says, one step each time it is told to. It knows every command for ever."""

    broker: Broker
    uuid: str
    boot_id: str = field(default_factory=lambda: str(uuid4()))
    executed: list[str] = field(default_factory=list)
    acks: dict[str, bytes] = field(default_factory=dict)
    _untaken: list[Received] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.topics = Topics(self.uuid)
        self.link = Marked(self.broker, f"infoscreen-{self.uuid}", [self.topics.commands])

    def come(self, *, owes: bool = True) -> None:
        """`owes`: the broker has acknowledged none of what it said so far."""
        self._untaken.clear()  # it comes again
        self.link.open()
        self.session_id = str(uuid4())
        self.say(PresenceReason.CONNECTED)
        for last in self.acks.values() if owes else ():
            self.give(Message(self.topics.commands_ack, last))

    def say(self, reason: PresenceReason) -> None:
        status = Status(reason, self.uuid, self.session_id, self.boot_id, datetime.now(UTC))
        self.give(Message(self.topics.status, telemetry.encode_status(status), retain=True))

    def answer(self, command_id: str, status: AckStatus, code: ErrorCode | None = None) -> None:
        said = Ack(command_id, self.uuid, status, datetime.now(UTC), self.boot_id, code, "why" if code else None)
        self.acks[command_id] = ack.encode(said)
        self.give(Message(self.topics.commands_ack, self.acks[command_id]))

    def receive(self) -> list[Received]:
        """All that the broker has for it; what is not acknowledged comes again at its next connection."""
        self.link.pass_through(self._take)
        received, self._untaken = self._untaken, []
        return received

    def hear(self) -> list[str]:
        """Takes what has come; returns the commands that it did not know. A known one gets its present ack."""
        received = self.receive()
        new = []
        for each in received:
            command_id = commands_on_the_wire.parse(each.delivery.payload).command_id
            if command_id in self.acks:
                self.give(Message(self.topics.commands_ack, self.acks[command_id]))
            else:
                self.answer(command_id, AckStatus.ACCEPTED)
                new.append(command_id)
        self.link.acknowledge(received)
        return new

    def wait(self) -> list[str]:
        """As hear(), when something new has come."""
        patience = Patience(PATIENCE_S)
        while not (new := self.hear()):
            assert not patience.is_over, "no command came"
            time.sleep(TICK_S)
        return new

    def execute(self, command_id: str) -> None:
        assert command_id not in self.executed
        self.executed.append(command_id)
        self.answer(command_id, AckStatus.EXECUTION_STARTED)

    def go_down(self) -> None:
        self.say(PresenceReason.REBOOTING)
        self.lose_power()

    def lose_power(self) -> None:
        self.link.close()
        self.boot_id = str(uuid4())

    def give(self, message: Message) -> None:
        """The broker has it when this returns."""
        self.link.publish(message)
        self.link.pass_through(self._take)

    def _take(self) -> None:
        self._untaken += self.link.receive(10, TICK_S)[0]


class Controller:
    """An engine that takes its steps when a test says so."""

    def __init__(self, database: Database, broker: Broker, orders: Orders | None = None) -> None:
        self.database = database
        self.orders = orders or Orders(accepts_all=True)
        self.consumer = Marked(broker, "infoscreen-controller", ingest.TOPICS)
        with database.write() as tx:
            epoch = lease.take(tx, "test")
        assert epoch is not None
        self.engine = Engine(database, self.consumer, self.orders, epoch, None)
        self.connect()

    def connect(self) -> None:
        self.consumer.open()
        self.engine.begin()

    def order(self, client: str, action: Action = Action.REBOOT_HOST) -> str:
        command_id = str(uuid4())
        ordered(self.database, command_id, client, action)
        self.consumer.wake()
        return command_id

    def state(self, command_id: str) -> str:
        with self.database.read() as tx:
            return str(tx.db.execute(select(command.c.state).where(command.c.id == command_id)).scalar_one())

    def until(self, command_id: str, state: str) -> None:
        patience = Patience(PATIENCE_S)
        while self.state(command_id) != state:
            assert not patience.is_over, f"{command_id} is {self.state(command_id)}, not {state}"
            self.engine.step()

    def settle(self) -> None:
        """All that was said is stored, what follows from it is sent, and how the broker answered that is stored."""
        for _ in range(2):
            self.consumer.pass_through(self.engine.step)

    def age(self, by: timedelta) -> None:
        aged(self.database, by)


def settings_of(broker: Broker) -> BrokerSettings:
    return BrokerSettings(broker.host, broker.port, None, None, None, KEEP_ALIVE_S)


def without_waits(patch: pytest.MonkeyPatch) -> None:
    """Each step of an engine looks at everything, and at once."""
    patch.setattr(engines, "TICK_S", TICK_S)
    patch.setattr(engines, "_ASK_EVERY", timedelta(0))
    patch.setattr(engines, "_RELEASE_EVERY", timedelta(0))


def ordered(database: Database, command_id: str, client: str, action: Action) -> None:
    """A command that may go at once, without asking the rules."""
    valid_for = Orders().valid_for
    with database.write() as tx:
        commands.create(tx, Request(action, by="ann", via="test"), [New(command_id, client, None)], valid_for)
        row = tx.db.execute(select(command).where(command.c.id == command_id)).mappings().one()
        expires_at = tx.now + valid_for
        commands.release(tx, [letter_for(row, tx.now, expires_at, None)], tx.now, expires_at)


def emptied() -> str:
    """The statement that empties a PostgreSQL; faster than to make its tables anew."""
    names = ", ".join(f'"{table.name}"' for table in metadata.sorted_tables)
    return f"TRUNCATE {names} RESTART IDENTITY CASCADE"


def aged(database: Database, by: timedelta) -> None:
    """Time passes for all commands."""
    microseconds = by // timedelta(microseconds=1)
    with database.write() as tx:
        for table in (command, outbox):
            names = [column.name for column in table.c if isinstance(column.type, Moment)]
            changed = ", ".join(f"{name} = {name} - {microseconds}" for name in names)
            tx.db.execute(text(f"UPDATE {table.name} SET {changed}"))


def reconnected(link: Callable[[], None]) -> None:
    for _ in range(50):
        try:
            return link()
        except Lost:
            continue
    raise AssertionError("cannot connect again")


def forked(work: Callable[[], None]) -> int:
    """The id of a process that does this; it ends with 0, or with 3 if it fails."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(3)
    return pid
