"""Storms and stops: too much at once, and the database, the broker or the controller gone for a while."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import select

from infoscreen_reboot.contract.ack import AckStatus
from infoscreen_reboot.controller import engine
from infoscreen_reboot.controller.store import commands
from infoscreen_reboot.controller.store.tables import event
from tests.broker.conftest import Broker
from tests.controller.played import Controller, PlayedClient

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
