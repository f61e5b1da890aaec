"""What comes in is stored before it is acknowledged; what goes out is acknowledged, in order."""

from __future__ import annotations

import asyncio
import signal
import statistics
import time

import pytest

from infoscreen_reboot.mqtt.messages import Delivery, Message, NotDelivered, Redeliver
from tests.broker.conftest import PATIENCE_S, Authority, Broker, Run
from tests.broker.inbox import COMMANDS, Client, child, plain, secure


def test_a_process_killed_while_it_stores_a_delivery_gets_it_again_and_one_that_stored_it_does_not(
    broker: Broker, run: Run
) -> None:
    async def story() -> None:
        async with Client(plain(broker)).connected():
            pass  # the broker now keeps a session for it
        broker.publish(COMMANDS, "reboot")
        victim = child(
            plain(broker),
            """
            def on_message(delivery):
                os.kill(os.getpid(), signal.SIGKILL)
            asyncio.run(session(on_message).run())
            """,
        )
        with victim:
            assert await asyncio.to_thread(victim.wait, PATIENCE_S) == -signal.SIGKILL
        second = Client(plain(broker))
        async with second.connected():
            assert await second.received() == b"reboot"
            await second.session.publish(Message("any", b""))  # the PUBACK went out before this
        third = Client(plain(broker))
        async with third.connected():
            broker.publish(COMMANDS, "next")
            assert await third.received() == b"next"

    run(story())


def test_what_could_not_be_stored_is_delivered_again_in_order_with_nothing_lost(broker: Broker, run: Run) -> None:
    async def story() -> None:
        client = Client(plain(broker))
        full_disk = iter([True, True])

        def refuse(delivery: Delivery) -> None:
            if delivery.payload == b"3" and next(full_disk, False):
                raise Redeliver("disk full")

        client.refuse = refuse
        async with client.connected():
            for number in range(1, 7):
                broker.publish(COMMANDS, str(number))
            received = []
            while b"6" not in received:
                received.append(await client.received())
            assert sorted(set(received)) == [b"1", b"2", b"3", b"4", b"5", b"6"]
            assert [number for number in received if number >= b"3"] == [b"3", b"4", b"5", b"6"]
            await client.until(lambda: client.session.statistics.reconnect_count)
            reason = client.session.statistics.last_disconnect_reason
            assert reason == "a delivery could not be stored: disk full"

    run(story())


def test_any_other_error_of_the_receiver_ends_the_session_with_it_and_the_delivery_comes_again(
    broker: Broker, run: Run
) -> None:
    async def story() -> None:
        client = Client(plain(broker))

        def refuse(_: Delivery) -> None:
            raise OSError("a bug, not a network error")

        client.refuse = refuse
        async with client.connected() as task:
            broker.publish(COMMANDS, "reboot")
            with pytest.raises(OSError, match="a bug"):
                await asyncio.wait_for(asyncio.shield(task), PATIENCE_S)
            client.refuse = lambda _: None
        second = Client(plain(broker))
        async with second.connected():
            assert await second.received() == b"reboot"

    # The end of the task is an error for its owner; the block above has seen it already.
    with pytest.raises(OSError, match="a bug"):
        run(story())


def test_what_was_sent_while_we_were_away_is_delivered(broker: Broker, run: Run) -> None:
    async def story() -> None:
        async with Client(plain(broker)).connected():
            pass
        for number in range(50):
            broker.publish(COMMANDS, str(number))
        client = Client(plain(broker))
        async with client.connected():
            assert [await client.received() for _ in range(50)] == [b"%d" % number for number in range(50)]

    run(story())


def test_a_retained_message_is_marked_as_such(broker: Broker, run: Run) -> None:
    async def story() -> None:
        broker.publish(COMMANDS, "old", "--retain")
        client = Client(plain(broker))
        async with client.connected():
            assert await client.inbox.get() == Delivery(COMMANDS, b"old", True)
            # In MQTT 5, also one that was published while we were there.
            broker.publish(COMMANDS, "new", "--retain")
            assert await client.inbox.get() == Delivery(COMMANDS, b"new", True)

    run(story())


@pytest.mark.parametrize("kind", ["plain", "tls"])
def test_a_lot_of_junk_does_not_break_the_session(
    tls_broker: Broker, authority: Authority, run: Run, kind: str
) -> None:
    async def story() -> None:
        client = Client(secure(tls_broker, authority) if kind == "tls" else plain(tls_broker))
        junk = bytes(range(256)) * 400
        async with client.connected(), tls_broker.observe("large") as observer:
            tls_broker.publish(COMMANDS, junk)
            tls_broker.publish(COMMANDS, "after")
            assert await client.received() == junk
            assert await client.received() == b"after"
            await client.session.publish(Message("large", 10 * junk))
            assert (await observer.next()).payload == 10 * junk
            assert client.session.statistics.reconnect_count == 0

    run(story())


def test_a_publish_ends_with_the_brokers_acknowledgement_and_not_before(broker: Broker, run: Run) -> None:
    async def story() -> None:
        client = Client(plain(broker))
        async with client.connected():
            with broker.frozen():
                publish = asyncio.create_task(client.session.publish(Message("ack", b"accepted")))
                await asyncio.wait([publish], timeout=0.2)
                assert not publish.done()
            async with asyncio.timeout(PATIENCE_S):
                await publish

    run(story())


def test_a_publish_is_not_delivered_when_the_broker_dies_or_is_away(broker: Broker, run: Run) -> None:
    async def story() -> None:
        client = Client(plain(broker))
        with pytest.raises(NotDelivered):
            await client.session.publish(Message("ack", b"too early"))
        async with client.connected():
            with broker.frozen():
                publish = asyncio.create_task(client.session.publish(Message("ack", b"accepted")))
                await asyncio.wait([publish], timeout=0.1)
                broker.kill()
            with pytest.raises(NotDelivered, match="closed the connection"):
                await asyncio.wait_for(publish, PATIENCE_S)
            assert not client.session.is_connected
            with pytest.raises(NotDelivered, match="not connected"):
                await client.session.publish(Message("ack", b"too late"))
            with pytest.raises(NotDelivered, match="not connected"):
                await client.session.publish(Message("health", b"", qos=0))

    run(story())


def test_many_publishes_at_once_keep_their_order(broker: Broker, run: Run) -> None:
    async def story() -> None:
        client = Client(plain(broker))
        async with client.connected(), broker.observe("ack") as observer, asyncio.TaskGroup() as tasks:
            for number in range(1000):
                tasks.create_task(client.session.publish(Message("ack", b"%d" % number)))
            assert [(await observer.next()).payload for _ in range(1000)] == [b"%d" % n for n in range(1000)]

    run(story())


def test_a_publish_of_quality_0_ends_when_it_is_written(broker: Broker, run: Run) -> None:
    async def story() -> None:
        client = Client(plain(broker))
        async with client.connected(), broker.observe("health") as observer:
            async with asyncio.timeout(PATIENCE_S):
                await client.session.publish(Message("health", b"fine", qos=0))
            assert (await observer.next()).payload == b"fine"

    run(story())


def test_one_who_gives_up_on_a_publish_disturbs_no_other(broker: Broker, run: Run) -> None:
    async def story() -> None:
        client = Client(plain(broker))
        async with client.connected(), broker.observe("ack") as observer:
            with broker.frozen(), pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await client.session.publish(Message("ack", b"1"))
            await client.session.publish(Message("ack", b"2"))
            assert [(await observer.next()).payload for _ in range(2)] == [b"1", b"2"]

    run(story())


def test_an_answer_to_a_delivery_takes_milliseconds(broker: Broker, run: Run) -> None:
    async def story() -> None:
        controller = Client(plain(broker), "ack", client_id="controller")
        screen = Client(plain(broker))

        async def answer() -> None:
            while True:
                await screen.session.publish(Message("ack", await screen.received()))

        took_ms = []
        async with screen.connected(), controller.connected():
            answering = asyncio.create_task(answer())
            for _ in range(100):
                began = time.perf_counter()
                await controller.session.publish(Message(COMMANDS, b"reboot"))
                await controller.received()
                took_ms.append(1000 * (time.perf_counter() - began))
            answering.cancel()
            await asyncio.wait([answering])
        # On a busy machine most wait for a processor; without TCP_NODELAY even the quickest takes 44 ms.
        assert statistics.quantiles(took_ms, n=10)[0] < 10, "TCP_NODELAY makes the difference between 1 ms and 44 ms"

    run(story())
