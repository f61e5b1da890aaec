"""The engine at a real mosquitto, with clients that are played: a command on its way, and brokers that forget."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import select, update

from infoscreen_reboot.contract.ack import AckStatus
from infoscreen_reboot.controller import engine, ingest
from infoscreen_reboot.controller.store import commands
from infoscreen_reboot.controller.store.tables import client as clients
from infoscreen_reboot.controller.store.tables import command, event
from tests.broker.conftest import Broker
from tests.controller.played import Controller, PlayedClient, reconnected

STEPS = ("command", "accepted", "execution_started", "farewell", "birth", "completed")


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


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("forgets", ["the broker", "the broker, and the client was away"])
def test_a_broker_that_forgets_changes_no_verdict(
    controller: Controller, client: PlayedClient, broker: Broker, step: str, forgets: str
) -> None:
    """Pitfall 22: right after the client, or the controller, has given something to it, all that it holds is lost."""
    controller.settle()
    now = itertools.count()

    def lose(at: str) -> None:
        if at != step:
            return
        broker.restart(forgetful=True) if next(now) == 0 else None
        reconnected(controller.connect)
        if forgets == "the broker, and the client was away":
            controller.settle()
            controller.age(timedelta(seconds=61))  # it may be asked again
        if at != "farewell":
            reconnected(client.come)
        controller.settle()

    command_id = controller.order(client.uuid)
    controller.engine.step()
    lose("command")
    new = client.hear()
    for _ in range(20):
        if new:
            break
        controller.engine.step()
        new = client.hear()
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


def test_a_host_that_went_down_while_the_broker_forgot_it_may_take_as_long_as_any_other(
    controller: Controller, client: PlayedClient, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody tells that it is gone: its farewell is lost, and its will."""
    monkeypatch.setattr(engine, "HEARING_AGAIN", timedelta(0))
    controller.settle()
    command_id = controller.order(client.uuid)
    controller.until(command_id, "published")
    client.hear()
    client.execute(command_id)
    controller.until(command_id, "execution_started")
    client.lose_power()
    broker.restart(forgetful=True)
    reconnected(controller.connect)
    controller.age(timedelta(seconds=140))
    controller.settle()
    assert controller.state(command_id) == "awaiting_reconnect"
    client.come()
    client.answer(command_id, AckStatus.COMPLETED)
    controller.until(command_id, "completed")


def test_an_ack_that_a_broker_has_lost_is_asked_for_before_the_verdict(
    controller: Controller, client: PlayedClient, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker had it, and told the client so, while we were not subscribed there. The client was back at once."""
    monkeypatch.setattr(engine, "HEARING_AGAIN", timedelta(0))
    controller.settle()
    command_id = controller.order(client.uuid)
    controller.until(command_id, "published")
    client.hear()
    client.execute(command_id)
    controller.until(command_id, "execution_started")
    client.lose_power()
    broker.restart(forgetful=True)
    reconnected(lambda: client.come(owes=False))
    client.answer(command_id, AckStatus.COMPLETED)
    reconnected(controller.connect)
    controller.settle()
    assert controller.state(command_id) == "awaiting_reconnect"
    controller.age(timedelta(seconds=185))
    controller.settle()
    assert client.hear() == [], "before it expires it is not sent again"
    assert controller.state(command_id) == "awaiting_reconnect"
    controller.age(timedelta(seconds=60))
    controller.settle()
    assert client.hear() == [], "it knows the command, and answers"
    controller.until(command_id, "completed")
    assert client.executed == [command_id]


def test_a_client_that_a_broker_has_forgotten_and_that_says_nothing_is_offline_after_three_minutes(
    controller: Controller, client: PlayedClient, broker: Broker
) -> None:
    controller.settle()
    broker.restart(forgetful=True)
    reconnected(controller.connect)

    def presence(minutes: int) -> tuple[bool, str, list[str]]:
        """After so long without a word."""
        with controller.database.write() as tx:
            controller.engine._miss(replace(tx, now=tx.now + timedelta(minutes=minutes)))
            row = tx.db.execute(select(clients.c.is_online, clients.c.presence_reason)).one()
            kinds = tx.db.execute(select(event.c.kind).where(event.c.kind.like("client_o%")).order_by(event.c.seq))
            return row.is_online, row.presence_reason, list(kinds.scalars())

    online, offline = "client_online", "client_offline"
    assert presence(2) == (True, "connected", [online])
    assert presence(4) == (False, "silent", [online, offline])
    # It was there all the time, and its session has not ended.
    client.link.open()
    client.answer(str(UUID(int=7)), AckStatus.ACCEPTED)
    controller.settle()
    assert presence(0) == (True, "connected", [online, offline, online])


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


def test_what_is_counted_has_no_end_that_a_sender_chooses() -> None:
    counted = engine.Rubbish()
    for number in range(1000):
        counted.count(ingest.Rubbish(f"infoscreen/{UUID(int=number)}/health", f"member{number}: is not a member"))
        counted.count(ingest.Rubbish(f"infoscreen/{number}", "no client publishes on such a topic"))
    assert counted.counts == {"health": 1000, "another topic": 1000}


def test_rubbish_is_counted_and_acknowledged(controller: Controller, broker: Broker) -> None:
    for topic in ("infoscreen/x/status", f"infoscreen/{UUID(int=3)}/health", f"infoscreen/{UUID(int=3)}/commands/ack"):
        broker.publish(topic, b"\xff{")
    controller.settle()
    assert controller.engine.rubbish.counts.total() == 3
    controller.consumer.close()
    controller.connect()
    controller.settle()
    assert controller.engine.rubbish.counts.total() == 3, "it came again"
