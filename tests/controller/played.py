"""Clients that are played at a real mosquitto, and an engine that takes its steps when a test says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from sqlalchemy import select, text

from infoscreen_reboot.contract import ack, telemetry
from infoscreen_reboot.contract import command as commands_on_the_wire
from infoscreen_reboot.contract.ack import Ack, AckStatus, ErrorCode
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.contract.telemetry import PresenceReason, Status
from infoscreen_reboot.contract.topics import Topics
from infoscreen_reboot.controller import ingest
from infoscreen_reboot.controller.engine import Engine, Orders, letter_for
from infoscreen_reboot.controller.store import commands, lease
from infoscreen_reboot.controller.store.commands import New, Request
from infoscreen_reboot.controller.store.database import Database
from infoscreen_reboot.controller.store.tables import Moment, command, outbox
from infoscreen_reboot.mqtt.consumer import Consumer, Lost
from infoscreen_reboot.mqtt.messages import BrokerSettings, Message
from tests.broker.conftest import Broker


@dataclass
class PlayedClient:
    """Answers as the contract says, one step each time it is told to. It knows every command for ever."""

    broker: Broker
    uuid: str
    boot_id: str = field(default_factory=lambda: str(uuid4()))
    executed: list[str] = field(default_factory=list)
    acks: dict[str, bytes] = field(default_factory=dict)
    started_in: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settings = BrokerSettings(self.broker.host, self.broker.port, None, None, None)
        self.topics = Topics(self.uuid)
        self.link = Consumer(settings, f"infoscreen-{self.uuid}", [self.topics.commands])

    def come(self) -> None:
        self.link.open()
        self.session_id = str(uuid4())
        self.say(PresenceReason.CONNECTED)
        for last in self.acks.values():  # what it owes; the broker may have forgotten it
            self.link.publish(Message(self.topics.commands_ack, last))

    def say(self, reason: PresenceReason) -> int:
        status = Status(reason, self.uuid, self.session_id, self.boot_id, datetime.now(UTC))
        return self.link.publish(Message(self.topics.status, telemetry.encode_status(status), retain=True))

    def answer(self, command_id: str, status: AckStatus, code: ErrorCode | None = None) -> None:
        said = Ack(command_id, self.uuid, status, datetime.now(UTC), self.boot_id, code, "why" if code else None)
        self.acks[command_id] = ack.encode(said)
        self.link.publish(Message(self.topics.commands_ack, self.acks[command_id]))

    def hear(self, idle_s: float = 0.2) -> list[str]:
        """Takes what has come; returns the commands that it did not know. A known one gets its present ack."""
        received, _ = self.link.receive(10, idle_s)
        new = []
        for each in received:
            command_id = commands_on_the_wire.parse(each.delivery.payload).command_id
            if command_id in self.acks:
                self.link.publish(Message(self.topics.commands_ack, self.acks[command_id]))
            else:
                self.answer(command_id, AckStatus.ACCEPTED)
                new.append(command_id)
        self.link.acknowledge(received)
        return new

    def execute(self, command_id: str) -> None:
        assert command_id not in self.executed
        self.executed.append(command_id)
        self.answer(command_id, AckStatus.EXECUTION_STARTED)

    def go_down(self) -> None:
        farewell = self.say(PresenceReason.REBOOTING)
        # A socket that is closed with something unread in it takes what was sent with it.
        while farewell not in [puback.packet_id for puback in self.link.receive(10, 0.2)[1]]:
            pass
        self.link.close()
        self.boot_id = str(uuid4())


class Controller:
    """An engine that takes its steps when a test says so."""

    def __init__(self, database: Database, broker: Broker, orders: Orders | None = None) -> None:
        self.database = database
        self.orders = orders or Orders(accepts_all=True)
        settings = BrokerSettings(broker.host, broker.port, None, None, None)
        self.consumer = Consumer(settings, "infoscreen-controller", ingest.TOPICS)
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
        for _ in range(60):
            if self.state(command_id) == state:
                return
            self.engine.step()
        raise AssertionError(f"{command_id} is {self.state(command_id)}, not {state}")

    def settle(self) -> None:
        for _ in range(3):
            self.engine.step()

    def age(self, by: timedelta) -> None:
        aged(self.database, by)


def ordered(database: Database, command_id: str, client: str, action: Action) -> None:
    """A command that may go at once, without asking the rules."""
    valid_for = Orders().valid_for
    with database.write() as tx:
        commands.create(tx, Request(action, by="ann", via="test"), [New(command_id, client, None)], valid_for)
        row = tx.db.execute(select(command).where(command.c.id == command_id)).mappings().one()
        expires_at = tx.now + valid_for
        commands.release(tx, [letter_for(row, tx.now, expires_at, None)], tx.now, expires_at)


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
