"""The engine at a real mosquitto, with clients that are played: a command on its way, and brokers that forget."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, update

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
from infoscreen_reboot.controller.store.tables import command, event
from infoscreen_reboot.mqtt.consumer import Consumer, Lost
from infoscreen_reboot.mqtt.messages import BrokerSettings, Message
from tests.broker.conftest import Broker

STEPS = ("command", "accepted", "execution_started", "farewell", "birth", "completed")


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

    def say(self, reason: PresenceReason) -> None:
        status = Status(reason, self.uuid, self.session_id, self.boot_id, datetime.now(UTC))
        self.link.publish(Message(self.topics.status, telemetry.encode_status(status), retain=True))

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
        self.say(PresenceReason.REBOOTING)
        self.link.close()
        self.boot_id = str(uuid4())


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    folder = tmp_path / "broker"
    folder.mkdir()
    found = Broker(folder)
    found.start()
    yield found
    found.kill()


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
        with self.database.write() as tx:
            request = Request(action, by="ann", via="test")
            commands.create(tx, request, [New(command_id, client, None)], self.orders.valid_for)
            row = tx.db.execute(select(command).where(command.c.id == command_id)).mappings().one()
            expires_at = tx.now + self.orders.valid_for
            commands.release(tx, [letter_for(row, tx.now, expires_at, None)], tx.now, expires_at)
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


@pytest.fixture
def controller(database: Database, broker: Broker) -> Iterator[Controller]:
    found = Controller(database, broker)
    yield found
    found.consumer.end()


@pytest.fixture
def client(broker: Broker) -> Iterator[PlayedClient]:
    found = PlayedClient(broker, str(UUID(int=1)))
    found.come()
    yield found
    found.link.end()


def test_a_reboot_step_by_step(controller: Controller, client: PlayedClient) -> None:
    controller.settle()
    command_id = controller.order(client.uuid)
    controller.until(command_id, "published")
    assert client.hear() == [command_id]
    controller.until(command_id, "accepted")
    client.execute(command_id)
    controller.until(command_id, "execution_started")
    client.go_down()
    controller.until(command_id, "awaiting_reconnect")
    client.come()
    client.answer(command_id, AckStatus.COMPLETED)
    controller.until(command_id, "completed")
    with controller.database.read() as tx:
        row = tx.db.execute(select(command)).mappings().one()
        assert commands.record_of(row).proof == "boot_id"


def reconnected(link: Callable[[], None]) -> None:
    for _ in range(50):
        try:
            return link()
        except Lost:
            continue
    raise AssertionError("cannot connect again")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("forgets", ["the broker", "the broker, and the client was away"])
def test_a_broker_that_forgets_changes_no_verdict(
    controller: Controller, client: PlayedClient, broker: Broker, step: str, forgets: str
) -> None:
    """Right after the client, or the controller, has given something to the broker, all that it holds is lost."""
    controller.settle()
    now = itertools.count()

    def lose(at: str) -> None:
        if at != step:
            return
        broker.restart(forgetful=True) if next(now) == 0 else None
        reconnected(controller.connect)
        if at != "farewell":
            reconnected(client.come)
        controller.settle()

    command_id = controller.order(client.uuid)
    controller.engine.step()
    lose("command")
    new = client.hear(1.0)
    for _ in range(20):
        if new:
            break
        controller.engine.step()
        new = client.hear(0.2)
    assert new == [command_id]
    lose("accepted")
    client.execute(command_id)
    lose("execution_started")
    client.go_down()
    lose("farewell")
    client.come()
    lose("birth")
    client.answer(command_id, AckStatus.COMPLETED)
    lose("completed")
    controller.until(command_id, "completed")
    assert client.executed == [command_id]
    with controller.database.read() as tx:
        verdicts = tx.db.execute(select(event.c.kind).where(event.c.kind == "completed")).all()
        assert len(verdicts) == 1


def test_what_was_marked_and_did_not_go_out_goes_out_at_the_next_start(
    controller: Controller, client: PlayedClient
) -> None:
    controller.settle()
    command_id = controller.order(client.uuid)
    with controller.database.write() as tx:
        commands.mark_sent(tx, commands.to_send(tx, 1), controller.orders.limits)
    assert client.hear() == []
    controller.engine.begin()
    controller.until(command_id, "published")
    assert client.hear() == [command_id]


def test_a_command_that_expired_in_the_queue_is_never_sent(controller: Controller, client: PlayedClient) -> None:
    controller.settle()
    command_id = controller.order(client.uuid)
    with controller.database.write() as tx:
        past = tx.now - timedelta(seconds=1)
        tx.db.execute(update(command).values(expires_at=past, due_at=past))
    controller.until(command_id, "expired")
    assert client.hear() == []


def test_an_ack_for_another_clients_command_moves_nothing(
    controller: Controller, client: PlayedClient, broker: Broker
) -> None:
    other = PlayedClient(broker, str(UUID(int=2)))
    other.come()
    controller.settle()
    command_id = controller.order(client.uuid)
    controller.until(command_id, "published")
    other.answer(command_id, AckStatus.COMPLETED)
    controller.settle()
    assert controller.state(command_id) == "published"
    other.link.end()


def test_rubbish_is_counted_and_acknowledged(controller: Controller, broker: Broker) -> None:
    for topic in ("infoscreen/x/status", f"infoscreen/{UUID(int=3)}/health", f"infoscreen/{UUID(int=3)}/commands/ack"):
        broker.publish(topic, b"\xff{")
    controller.settle()
    assert controller.engine.rubbish.counts.total() == 3
    controller.consumer.close()
    controller.connect()
    controller.settle()
    assert controller.engine.rubbish.counts.total() == 3, "it came again"
