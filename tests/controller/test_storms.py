"""Storms and stops: too much at once, and the database, the broker or the controller gone for a while."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import resource
import secrets
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, insert, select, text, update

from infoscreen_reboot.contract import ack, telemetry
from infoscreen_reboot.contract.ack import Ack, AckStatus, ErrorCode
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.contract.telemetry import PresenceReason, Status
from infoscreen_reboot.contract.topics import Topics
from infoscreen_reboot.controller import engine, ingest, orders
from infoscreen_reboot.controller.engine import Engine, Orders, letter_for
from infoscreen_reboot.controller.lifecycle import Limits, State
from infoscreen_reboot.controller.orders import Caller, House, Wish
from infoscreen_reboot.controller.safety import Standing
from infoscreen_reboot.controller.store import clients, commands, facts, fleet, lease
from infoscreen_reboot.controller.store import database as databases
from infoscreen_reboot.controller.store.commands import New, Request
from infoscreen_reboot.controller.store.database import Database, StoreError, Transaction
from infoscreen_reboot.controller.store.facts import Policy
from infoscreen_reboot.controller.store.lease import LeaseLost
from infoscreen_reboot.controller.store.tables import client as client_table
from infoscreen_reboot.controller.store.tables import command, event, metadata
from infoscreen_reboot.mqtt.consumer import Consumer, Lost, Puback, Received
from infoscreen_reboot.mqtt.messages import Message
from tests.broker.conftest import Broker
from tests.controller.conftest import Server
from tests.controller.played import (
    TICK_S,
    Controller,
    Marked,
    PlayedClient,
    aged,
    forked,
    ordered,
    settings_of,
    without_waits,
)
from tests.controller.test_ingest import HEALTH
from tools.lab.patience import Patience

# Longer than any step of a command may take.
AN_HOUR = timedelta(hours=1)


def uuid(number: int) -> str:
    return str(UUID(int=number))


def kinds(controller: Controller, command_id: str) -> list[str]:
    with controller.database.read() as tx:
        query = select(event.c.kind).where(event.c.command_id == command_id).order_by(event.c.seq)
        return list(tx.db.execute(query).scalars())


def test_while_no_broker_is_heard_only_what_was_never_sent_expires(
    controller: Controller, client: PlayedClient, broker: Broker
) -> None:
    other = PlayedClient(broker, uuid(2))
    other.come()
    controller.settle()
    sent = controller.order(client.uuid)
    controller.until(sent, "published")
    controller.consumer.close()
    unsent = controller.order(other.uuid)
    controller.engine.rest()
    assert (controller.state(sent), controller.state(unsent)) == ("published", "queued")
    controller.age(AN_HOUR)
    controller.engine.rest()
    assert (controller.state(sent), controller.state(unsent)) == ("published", "expired")
    other.link.end()


def test_acks_that_waited_for_the_controller_come_in_many_batches_and_no_step_is_overdue(
    controller: Controller, client: PlayedClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pitfall 23: the controller was away for an hour; `accepted` may be in one batch and `completed` in another."""
    controller.settle()
    command_id = controller.order(client.uuid)
    controller.until(command_id, "published")
    controller.consumer.close()
    assert client.hear() == [command_id]
    client.execute(command_id)
    client.go_down()
    client.come()
    client.answer(command_id, AckStatus.COMPLETED)
    controller.age(AN_HOUR)
    monkeypatch.setattr(engine, "BATCH", 1)
    controller.connect()
    controller.until(command_id, "completed")
    assert "timed_out" not in kinds(controller, command_id)


def test_what_nobody_answers_is_overdue_a_while_after_the_broker_is_heard_again(
    controller: Controller, client: PlayedClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller.settle()
    command_id = controller.order(client.uuid)
    controller.until(command_id, "published")
    client.link.close()
    controller.age(AN_HOUR)
    controller.consumer.close()
    controller.connect()
    controller.settle()
    assert controller.state(command_id) == "published", "its ack may be under way"
    monkeypatch.setattr(engine, "HEARING_AGAIN", timedelta(0))
    controller.consumer.close()
    controller.connect()
    controller.until(command_id, "expired")


def test_what_expired_in_the_queue_is_never_sent_however_many_there_are(
    controller: Controller, client: PlayedClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pitfall 34: their verdicts take more than one step."""
    controller.settle()
    monkeypatch.setattr(engine, "BATCH", 2)
    ids = [controller.order(client.uuid) for _ in range(5)]
    controller.age(AN_HOUR)
    controller.engine.step()
    assert sorted(map(controller.state, ids)) == ["expired"] * 2 + ["queued"] * 3
    with controller.database.read() as tx:
        assert commands.to_send(tx, 10) == []
    for command_id in ids:
        controller.until(command_id, "expired")
    assert client.hear() == []


# --- Too much at once


class Voices:
    """One connection that speaks for many clients."""

    def __init__(self, broker: Broker) -> None:
        self.link = Marked(broker, "the-fleet", [])
        self.link.open()

    def say(self, topic: str, payload: bytes, retain: bool = False) -> None:
        self.link.publish(Message(topic, payload, retain=retain))

    def birth(self, number: int, session: int = 1, boot: int = 1) -> None:
        said = Status(
            PresenceReason.CONNECTED, uuid(number), uuid(10**6 + session), uuid(10**7 + boot), datetime.now(UTC)
        )
        self.say(Topics(uuid(number)).status, telemetry.encode_status(said))

    def ack(self, number: int, status: AckStatus, boot: int = 1) -> None:
        said = Ack(uuid(100_000 + number), uuid(number), status, datetime.now(UTC), uuid(10**7 + boot))
        self.say(Topics(uuid(number)).commands_ack, ack.encode(said))

    def settle(self) -> None:
        """Until the broker has all of it."""
        self.link.pass_through(lambda: self.link.receive(500, TICK_S))


@pytest.fixture
def voices(broker: Broker) -> Iterator[Voices]:
    found = Voices(broker)
    yield found
    found.link.end()


def many_open_commands(database: Database, count: int, *, sent: bool) -> None:
    """Command 100,000 + n for client n."""
    with database.write() as tx:
        numbers = range(1, count + 1)
        tx.db.execute(insert(client_table), [{"uuid": uuid(number), "standing": "accepted"} for number in numbers])
        request = Request(Action.REBOOT_HOST, by="ann", via="test")
        new = [New(uuid(100_000 + number), uuid(number), None) for number in numbers]
        commands.create(tx, request, new, timedelta(hours=1))
        rows = tx.db.execute(select(command)).mappings().all()
        letters = [letter_for(row, tx.now, tx.now + timedelta(hours=1), None) for row in rows]
        commands.release(tx, letters, tx.now, tx.now + timedelta(hours=1))
        if sent:
            commands.mark_sent(tx, letters, Limits())


def commands_in(database: Database) -> Counter[str]:
    """How many there are in each state."""
    with database.read() as tx:
        return Counter(tx.db.execute(select(command.c.state)).scalars())


class Counting(Consumer):
    """Counts what is at the broker without its PUBACK."""

    in_flight = 0
    most_in_flight = 0

    def publish(self, message: Message, properties: Sequence[tuple[str, str]] = ()) -> int:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        return super().publish(message, properties)

    def receive(self, most: int, idle_s: float) -> tuple[list[Received], list[Puback]]:
        received, pubacks = super().receive(most, idle_s)
        self.in_flight -= len(pubacks)
        return received, pubacks


def test_thousands_of_births_make_no_storm_of_commands(
    database: Database, broker: Broker, voices: Voices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pitfall 35: the broker was restarted, and all clients of a batch come back at once."""
    monkeypatch.setattr(engine, "IN_FLIGHT", 50)
    without_waits(monkeypatch)
    many_open_commands(database, 2000, sent=True)
    with database.write() as tx:
        tx.db.execute(update(command).values(state="published", rank=1, published_at=tx.now))
    aged(database, timedelta(minutes=2))
    controller = Controller(database, broker)
    controller.consumer.end()
    counting = Counting(settings_of(broker), "infoscreen-controller", ingest.TOPICS)
    controller.engine = Engine(database, counting, Orders(), 1, None)
    counting.open()
    controller.engine.begin()
    for number in range(1, 2001):
        voices.birth(number)
    voices.settle()
    for _ in range(600):
        controller.engine.step()
        with database.read() as tx:
            asks = Counter(tx.db.execute(select(command.c.asks)).scalars())
            waiting = len(commands.to_send(tx, 1))
        if asks == {1: 2000} and not waiting and not counting.in_flight:
            break
    assert asks == {1: 2000}, "each is asked, and asked once"
    assert 0 < counting.most_in_flight <= 50
    counting.end()


def test_no_more_is_under_way_than_the_broker_allows(tmp_path: Path) -> None:
    """MQTT 5, 3.3.4: whoever sends more than its Receive Maximum may be thrown out, again and again."""
    broker = Broker(tmp_path, "max_inflight_messages 5")
    broker.start()
    database = Database(f"sqlite:///{tmp_path}/controller.sqlite3")
    metadata.create_all(database.engine)
    with database.write() as tx:
        epoch = lease.take(tx, "test")
    assert epoch is not None
    many_open_commands(database, 30, sent=False)
    counting = Counting(settings_of(broker), "infoscreen-controller", ingest.TOPICS)
    leader = Engine(database, counting, Orders(), epoch, None)
    counting.open()
    leader.begin()
    patience = Patience(30)
    while commands_in(database) != {"published": 30}:
        assert not patience.is_over, commands_in(database)
        leader.step()
    assert counting.most_in_flight == 5
    counting.end()
    database.close()
    broker.kill()


def test_a_thousand_strangers_a_second_fill_neither_the_table_nor_the_log(
    controller: Controller, voices: Voices, caplog: pytest.LogCaptureFixture, database: Database
) -> None:
    """Pitfall 30."""
    controller.engine = Engine(database, controller.consumer, Orders(accepts_all=False), 1, None)
    for number in range(1, 3001):
        voices.birth(number)
    voices.settle()
    with caplog.at_level(logging.WARNING):
        for _ in range(400):
            controller.engine.step()
            if controller.engine.rubbish.turned_away >= 3000 - clients.MOST_UNKNOWN:
                break
    with database.read() as tx:
        standing = Counter(tx.db.execute(select(client_table.c.standing)).scalars())
        told = tx.db.execute(select(func.count()).select_from(event)).scalar_one()
    assert standing == {Standing.UNKNOWN: clients.MOST_UNKNOWN}
    assert told <= 2 * clients.MOST_UNKNOWN
    assert len([record for record in caplog.records if "no room" in record.message]) == 1
    with database.write() as tx:
        orders_for_one = orders.order(tx, Caller("ann", "test"), Wish(Action.REBOOT_HOST), uuid(1), None, House())
        row = tx.db.execute(select(command).where(command.c.id == orders_for_one[0])).mappings().one()
    assert (row["state"], row["error_code"]) == ("blocked_safety", "client_accepted")


def test_a_health_of_128_kib_and_another_clients_topic_are_rubbish_and_no_more(
    controller: Controller, client: PlayedClient, broker: Broker
) -> None:
    """Pitfall 30."""
    controller.settle()
    broker.publish(client.topics.health, b"x" * (128 * 1024))
    broker.publish(Topics(uuid(2)).health, json.dumps(HEALTH | {"client_uuid": client.uuid}).encode())
    broker.publish(f"infoscreen/{client.uuid}/nothing", b"{}")
    controller.settle()
    assert controller.engine.rubbish.counts.total() >= 1
    command_id = controller.order(client.uuid)
    controller.until(command_id, "published")
    with controller.database.read() as tx:
        assert list(tx.db.execute(select(client_table.c.uuid)).scalars()) == [client.uuid]


# --- The database is gone for a while


def goes_on(controller: Controller, is_done: Callable[[Counter[str]], bool], patience_s: float = 60.0) -> Counter[str]:
    """As the service does: whatever is lost is taken up again. Returns what went wrong on the way, as `is_done` is told
    it.
    """
    faults: Counter[str] = Counter()
    patience = Patience(patience_s)
    while not patience.is_over:
        try:
            if is_done(faults):
                return faults
            controller.engine.step()
        except (Lost, LeaseLost, StoreError) as error:
            faults[type(error).__name__] += 1
            controller.consumer.close()
            time.sleep(0.05)
            try:
                with controller.database.write() as tx:
                    tx.db.execute(text("UPDATE lease SET ends_at = 0"))
                    epoch = lease.take(tx, "test")
                assert epoch is not None
                controller.engine = Engine(controller.database, controller.consumer, controller.orders, epoch, None)
                controller.connect()
            except (Lost, LeaseLost, StoreError) as again:
                faults[type(again).__name__] += 1
    raise AssertionError(f"not done after {patience_s:g} s: {faults}")


def all_stored(database: Database, count: int) -> Callable[[object], bool]:
    return lambda _: commands_in(database)["completed"] == count


def all_acks(voices: Voices, numbers: Sequence[int]) -> None:
    for status in (AckStatus.ACCEPTED, AckStatus.EXECUTION_STARTED, AckStatus.COMPLETED):
        for number in numbers:
            voices.ack(number, status, boot=2 if status is AckStatus.COMPLETED else 1)


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """The kernel refuses each write beyond the first bytes of a file, as it does without room; no root is needed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_on_a_full_disk_nothing_is_acknowledged_and_nothing_is_lost_after(
    tmp_path: Path, broker: Broker, voices: Voices
) -> None:
    """Pitfall 17: the disk stays full while the engine goes on, and has room again only later."""
    database = Database(f"sqlite:///{tmp_path}/controller.sqlite3")
    metadata.create_all(database.engine)
    many_open_commands(database, 300, sent=True)
    controller = Controller(database, broker)
    with full_disk():
        all_acks(voices, range(1, 301))
        until = time.monotonic() + 2
        goes_on(controller, lambda faults: time.monotonic() > until and faults["StoreError"] > 2)
        assert commands_in(database) == {"queued": 300}, "the disk was never full"
    goes_on(controller, all_stored(database, 300))
    with database.read() as tx:
        kinds_told = Counter(tx.db.execute(select(event.c.kind).where(event.c.command_id.is_not(None))).scalars())
    assert [kinds_told[kind] for kind in ("accepted", "execution_started", "completed")] == [300] * 3
    controller.consumer.end()
    database.close()


# Nothing in it counts minutes; tried with 120 by hand (2026-11-26).
AWAY_S = 2.0
only_postgresql = pytest.mark.parametrize("database", ["postgresql"], indirect=True)


@only_postgresql
def test_a_postgresql_that_is_away_under_load_loses_nothing(
    database: Database, server: Server, broker: Broker, voices: Voices
) -> None:
    """Pitfall 18: stopped without a word, and started again."""
    many_open_commands(database, 1000, sent=True)
    controller = Controller(database, broker)
    all_acks(voices, range(1, 501))
    controller.engine.step()
    server.stop()
    until = time.monotonic() + AWAY_S
    rest = iter(range(501, 1001))

    def time_is_over_and_acks_go_on(faults: Counter[str]) -> bool:
        is_over = time.monotonic() > until and faults["StoreError"] > 2
        all_acks(voices, list(rest) if is_over else list(itertools.islice(rest, 5)))
        voices.link.receive(500, 0)
        return is_over

    goes_on(controller, time_is_over_and_acks_go_on, AWAY_S + 60)
    server.start()
    goes_on(controller, all_stored(database, 1000))
    controller.consumer.end()


@only_postgresql
def test_a_leader_whose_connections_are_taken_away_goes_on(
    database: Database, broker: Broker, voices: Voices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pitfall 19: pg_terminate_backend."""
    many_open_commands(database, 500, sent=True)
    controller = Controller(database, broker)
    all_acks(voices, range(1, 501))
    other = Database(database.engine.url.render_as_string(hide_password=False))
    ours = "pid <> pg_backend_pid() AND usename = 'controller'"
    terminate = text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {ours}")
    taken_away = iter(range(3))
    hear = controller.engine._hear

    def and_is_cut(*arguments: Any) -> None:
        if next(taken_away, None) is not None:
            with other.read() as tx:
                tx.db.execute(terminate)
        hear(*arguments)

    monkeypatch.setattr(controller.engine, "_hear", and_is_cut)
    faults = goes_on(controller, all_stored(database, 500))
    assert faults["StoreError"] >= 1
    other.close()
    controller.consumer.end()


# --- The leader sleeps


class StopsBeforeItSends(Consumer):
    """A leader that is stopped between the commit and the publish."""

    def publish(self, message: Message, properties: Sequence[tuple[str, str]] = ()) -> int:
        os.kill(os.getpid(), signal.SIGSTOP)
        return super().publish(message, properties)


class StopsInItsTransaction(Database):
    """A leader that is stopped while it holds the writer's lock."""

    @contextlib.contextmanager
    def write(self) -> Iterator[Transaction]:
        with super().write() as tx:
            yield tx
            if tx.db.execute(select(command.c.id).where(command.c.sent_at.is_not(None))).first() is not None:
                # That PostgreSQL waits for it at all is ours; so short a time would end one that is only slow.
                limit = tx.db.execute(text("SHOW idle_in_transaction_session_timeout")).scalar_one()
                assert limit == f"{databases._IDLE_S}s"
                tx.db.execute(text("SET LOCAL idle_in_transaction_session_timeout = '1s'"))
                os.kill(os.getpid(), signal.SIGSTOP)


LOST: dict[type[Exception], int] = {LeaseLost: 10, StoreError: 11}


def lead(url: str, broker: Broker, consumers: type[Consumer], stores: type[Database]) -> None:
    """In a process of its own; it ends with what it has lost."""
    os.closerange(3, 1024)
    database = stores(url)
    consumer = consumers(settings_of(broker), "infoscreen-controller", ingest.TOPICS)
    with database.write() as tx:
        epoch = lease.take(tx, "the first")
    assert epoch is not None
    leader = Engine(database, consumer, Orders(accepts_all=True), epoch, None)
    consumer.open()
    leader.begin()
    while True:
        try:
            leader.step()
        except Lost:  # the successor has its session; it may not connect again before it holds the lease
            try:
                leader.rest()
            except LeaseLost:
                os._exit(LOST[LeaseLost])
        except (LeaseLost, StoreError) as error:
            os._exit(LOST[type(error)])


def sleeps(
    database: Database,
    broker: Broker,
    client: PlayedClient,
    patch: pytest.MonkeyPatch,
    consumers: type[Consumer] = Consumer,
    stores: type[Database] = Database,
) -> int:
    """A leader is stopped for twice its lease and then continued; returns what it has lost then."""
    patch.setattr(lease, "TTL", timedelta(seconds=1))
    without_waits(patch)
    command_id = str(uuid4())
    ordered(database, command_id, client.uuid, Action.REBOOT_HOST)
    url = database.engine.url.render_as_string(hide_password=False)
    database.close()
    pid = forked(lambda: lead(url, broker, consumers, stores))
    _, status = os.waitpid(pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), "it ended"
    time.sleep(2 * lease.TTL.total_seconds())
    successor = Controller(database, broker)
    successor.until(command_id, "published")
    assert client.hear() == [command_id]
    os.kill(pid, signal.SIGCONT)
    _, status = os.waitpid(pid, 0)
    successor.until(command_id, "accepted")
    assert client.receive() == [], "sent a second time"
    assert kinds(successor, command_id) == ["queued", "sent", "published", "accepted"]
    successor.consumer.end()
    return os.WEXITSTATUS(status)


def test_a_leader_that_slept_for_twice_its_lease_sends_nothing_a_second_time(
    database: Database, broker: Broker, client: PlayedClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pitfall 19: stopped after its commit and before its publish."""
    assert sleeps(database, broker, client, monkeypatch, consumers=StopsBeforeItSends) == LOST[LeaseLost]


@only_postgresql
def test_a_leader_that_sleeps_in_its_transaction_keeps_nobody_waiting(
    database: Database, broker: Broker, client: PlayedClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pitfall 19: PostgreSQL ends its session, and with it the writer's lock."""
    assert sleeps(database, broker, client, monkeypatch, stores=StopsInItsTransaction) == LOST[StoreError]


# --- What is true, whatever comes


def test_retained_statuses_after_an_outage_are_no_news(controller: Controller, client: PlayedClient) -> None:
    """Pitfall 23."""
    controller.settle()
    with controller.database.read() as tx:
        before = list(tx.db.execute(select(event.c.kind)).scalars())
        heard_at = tx.db.execute(select(client_table.c.heard_at)).scalar_one()
    controller.consumer.close()
    controller.connect()
    controller.settle()
    with controller.database.read() as tx:
        assert list(tx.db.execute(select(event.c.kind)).scalars()) == before == ["client_listed", "client_online"]
        assert tx.db.execute(select(client_table.c.heard_at)).scalar_one() == heard_at


def test_the_will_of_an_old_session_moves_nothing(controller: Controller, client: PlayedClient, voices: Voices) -> None:
    """Pitfall 24."""
    old = Status(PresenceReason.CONNECTION_LOST, client.uuid, client.session_id, client.boot_id, datetime.now(UTC))
    client.link.close()
    client.come()
    controller.settle()
    command_id = controller.order(client.uuid)
    controller.until(command_id, "published")
    assert client.hear() == [command_id]
    client.execute(command_id)
    controller.until(command_id, "execution_started")
    voices.say(client.topics.status, telemetry.encode_status(old))
    voices.settle()
    controller.settle()
    assert controller.state(command_id) == "execution_started"
    with controller.database.read() as tx:
        assert tx.db.execute(select(client_table.c.is_online)).scalar_one()


def test_what_was_heard_of_a_connection_before_a_command_was_sent_is_no_news_of_it(
    controller: Controller, client: PlayedClient
) -> None:
    """Pitfall 26: where no retained status comes, the boot that we know may be an older one."""
    controller.settle()
    client.boot_id = str(uuid4())  # and the birth of that boot never reached us
    command_id = controller.order(client.uuid)
    controller.until(command_id, "published")
    assert client.hear() == [command_id]
    client.execute(command_id)
    controller.until(command_id, "execution_started")
    controller.settle()
    with controller.database.read() as tx:
        record = commands.record_of(tx.db.execute(select(command)).mappings().one())
    assert (record.state, record.down_at, record.back_at) == (State.EXECUTION_STARTED, None, None)
    client.go_down()
    controller.until(command_id, "awaiting_reconnect")


def test_the_same_bytes_do_not_go_out_again_to_a_client_in_another_boot(
    controller: Controller, client: PlayedClient
) -> None:
    """SERVER_TEAM_ACTIONS.md: if it has lost its records, it would go down again. A question after the end is safe."""
    controller.settle()
    command_id = controller.order(client.uuid)
    controller.until(command_id, "published")
    received = client.receive()
    assert len(received) == 1
    client.link.acknowledge(received)
    client.go_down()
    client.come()
    with controller.database.write() as tx:
        tx.db.execute(update(command).values(state="queued", rank=0, published_at=None))
    controller.consumer.close()
    controller.connect()
    controller.settle()
    assert client.hear() == []
    aged(controller.database, timedelta(minutes=4, seconds=30))
    controller.settle()
    assert client.hear() == [command_id]


def test_two_hosts_with_one_uuid_get_no_command_and_are_told_once(
    controller: Controller, client: PlayedClient, broker: Broker
) -> None:
    """Pitfall 29: they throw each other out, again and again."""
    boots = [client.boot_id, str(uuid4())]
    for number in range(6):
        client.boot_id = boots[number % 2]
        client.link.close()
        client.come()
        controller.settle()
    with controller.database.write() as tx:
        told = Counter(tx.db.execute(select(event.c.kind)).scalars())
        made, _ = orders.order(tx, Caller("ann", "test"), Wish(Action.REBOOT_HOST), client.uuid, None, House())
        row = tx.db.execute(select(command).where(command.c.id == made)).mappings().one()
    assert told["two_hosts"] == 1
    assert (row["state"], row["error_code"]) == ("blocked_safety", "one_host")


def test_busy_for_the_second_changes_nothing_of_the_first(controller: Controller, client: PlayedClient) -> None:
    """Pitfall 31: somebody else's server has ordered, too; and a `completed` that comes days after `timed_out`."""
    controller.settle()
    first = controller.order(client.uuid)
    controller.until(first, "published")
    assert client.hear() == [first]
    client.execute(first)
    second = str(uuid4())
    ordered(controller.database, second, client.uuid, Action.REBOOT_HOST)
    controller.until(first, "execution_started")
    client.answer(second, AckStatus.FAILED, ErrorCode.BUSY)
    controller.until(second, "failed")
    assert controller.state(first) == "execution_started"
    aged(controller.database, timedelta(days=3))
    controller.engine._hears_all_from = datetime(2000, 1, 1, tzinfo=UTC)
    controller.until(first, "timed_out")
    client.boot_id = str(uuid4())
    client.answer(first, AckStatus.COMPLETED)
    controller.settle()
    assert controller.state(first) == "timed_out"
    assert kinds(controller, first)[-2:] == ["timed_out", "late_truth"]
    with controller.database.read() as tx:
        row = tx.db.execute(select(command).where(command.c.id == first)).mappings().one()
    assert (row["late"], row["overdue"]) == ("completed", "host going down")


def test_a_mock_counts_as_no_reboot(controller: Controller, client: PlayedClient) -> None:
    """Pitfall 32."""
    controller.settle()
    for _ in range(4):
        command_id = controller.order(client.uuid)
        controller.until(command_id, "published")
        assert client.hear() == [command_id]
        client.execute(command_id)
        client.answer(command_id, AckStatus.COMPLETED)
        controller.until(command_id, "completed")
    with controller.database.read() as tx:
        rows = [commands.record_of(row) for row in tx.db.execute(select(command)).mappings()]
        gathered = facts.gather(
            tx, [client.uuid], Action.REBOOT_HOST, Policy(), may_shut_down=False, someone_is_there=False
        )
    assert {row.proof for row in rows} == {"mock"} and gathered[client.uuid].started == ()


def test_a_client_that_was_installed_anew_does_not_end_what_it_does_not_know(
    controller: Controller, client: PlayedClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pitfall 33."""
    controller.settle()
    command_id = controller.order(client.uuid)
    controller.until(command_id, "published")
    assert client.hear() == [command_id]
    client.execute(command_id)
    controller.until(command_id, "execution_started")
    client.go_down()
    client.acks.clear()
    client.come()
    client.answer(command_id, AckStatus.FAILED, ErrorCode.EXPIRED)
    controller.settle()
    assert controller.state(command_id) == "awaiting_reconnect"
    aged(controller.database, AN_HOUR)
    controller.engine._hears_all_from = datetime(2000, 1, 1, tzinfo=UTC)
    controller.until(command_id, "timed_out")
    client.answer(command_id, AckStatus.FAILED, ErrorCode.EXPIRED)
    controller.settle()
    with controller.database.read() as tx:
        assert tx.db.execute(select(command.c.late)).scalar_one() is None


class Chance:
    """A signature that is another one each time: so the same one twice was kept, and not made anew."""

    def properties(self, topic: str, payload: bytes) -> tuple[tuple[str, str], ...]:
        return (("signature-key-id", "ours"), ("signature", secrets.token_hex(32)))


def test_a_question_has_the_same_bytes_and_the_same_signature(controller: Controller, client: PlayedClient) -> None:
    """Pitfall 34."""
    controller.settle()
    with controller.database.write() as tx:
        house = House(signer=Chance())
        command_id, _ = orders.order(tx, Caller("ann", "test"), Wish(Action.REBOOT_HOST), client.uuid, None, house)
    controller.until(command_id, "published")
    first = client.receive()
    aged(controller.database, timedelta(seconds=61))
    controller.settle()
    again = client.receive()
    assert len(first) == len(again) == 1
    assert first[0].delivery == again[0].delivery
    assert dict(first[0].delivery.properties)["signature-key-id"] == "ours"


def test_an_ack_that_overtakes_the_puback_of_its_command(controller: Controller, client: PlayedClient) -> None:
    """Pitfall 9: it moves on, `published` is filled in later, and nothing is sent again."""
    controller.settle()
    late: list[Puback] = []
    receive = controller.consumer.receive

    def without_pubacks(most: int, idle_s: float) -> tuple[list[Received], list[Puback]]:
        received, pubacks = receive(most, idle_s)
        late.extend(pubacks)
        return received, []

    controller.consumer.receive = without_pubacks  # type: ignore[method-assign]
    command_id = controller.order(client.uuid)
    controller.engine.step()
    assert client.wait() == [command_id]
    controller.until(command_id, "accepted")
    controller.settle()
    with controller.database.read() as tx:
        assert tx.db.execute(select(command.c.published_at)).scalar_one() is None
    controller.consumer.receive = lambda most, idle_s: ([], late)  # type: ignore[method-assign]
    controller.engine.step()
    controller.consumer.receive = receive  # type: ignore[method-assign]
    with controller.database.read() as tx:
        row = tx.db.execute(select(command)).mappings().one()
    assert row["published_at"] is not None and row["state"] == "accepted"
    assert client.receive() == [], "sent again"


def test_what_is_retained_of_a_retired_client_makes_nobody_of_it(
    controller: Controller, client: PlayedClient, broker: Broker
) -> None:
    """Pitfall 25: and an empty retained status is no status."""
    controller.settle()
    with controller.database.write() as tx:
        fleet.set_standing(tx, [client.uuid], Standing.RETIRED, "ann", Limits())
    controller.consumer.close()
    controller.connect()
    controller.settle()
    client.link.close()
    client.come()
    controller.settle()
    with controller.database.write() as tx:
        assert tx.db.execute(select(client_table.c.standing)).scalar_one() == Standing.RETIRED
        made, _ = orders.order(tx, Caller("ann", "test"), Wish(Action.REBOOT_HOST), client.uuid, None, House())
        row = tx.db.execute(select(command).where(command.c.id == made)).mappings().one()
    assert (row["state"], row["error_code"]) == ("blocked_safety", "client_accepted")
    broker.publish(client.topics.status, b"", "--retain")
    controller.settle()
    assert controller.engine.rubbish.counts.total() == 1


def test_where_nobody_listens_the_broker_says_so_and_the_next_birth_gets_the_command(
    controller: Controller, broker: Broker
) -> None:
    """Pitfall 27: the broker has lost the session of a client that was away."""
    late = PlayedClient(broker, uuid(9))
    command_id = controller.order(late.uuid)
    controller.until(command_id, "published")
    with controller.database.read() as tx:
        told = tx.db.execute(select(event.c.content).where(event.c.kind == "published")).scalar_one()
    assert told == {"fact": "published", "reason": 16}
    late.come()
    controller.settle()
    assert late.hear() == [command_id]
    late.link.end()


def test_a_command_that_the_broker_refuses_stays_in_the_outbox(controller: Controller, client: PlayedClient) -> None:
    """Pitfall 28: a queue that is gone answers 0x83; the same bytes go out again later."""
    controller.settle()
    receive = controller.consumer.receive

    def refused(most: int, idle_s: float) -> tuple[list[Received], list[Puback]]:
        received, pubacks = receive(most, idle_s)
        return [], [replace(puback, reason=0x83) for puback in pubacks]

    controller.consumer.receive = refused  # type: ignore[method-assign]
    command_id = controller.order(client.uuid)
    controller.settle()
    assert controller.state(command_id) == "queued"
    controller.consumer.receive = receive  # type: ignore[method-assign]
    aged(controller.database, timedelta(seconds=61))
    controller.until(command_id, "published")
    assert client.hear() == [command_id]
