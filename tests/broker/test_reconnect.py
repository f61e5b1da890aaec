"""A connection that is lost comes back, subscribed, and the retained status tells the truth."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from infoscreen_reboot.mqtt import session
from infoscreen_reboot.mqtt.messages import Delivery, Redeliver
from infoscreen_reboot.mqtt.packets import Kind
from infoscreen_reboot.mqtt.session import Statistics, back_off_s
from infoscreen_reboot.mqtt.terms import Terms
from tests.broker.conftest import AT_ONCE_S, PATIENCE_S, Authority, Broker, Run, Seen
from tests.broker.inbox import COMMANDS, FAREWELL, STATUS, Client, child, plain, secure
from tests.broker.rules import Rule, Silent
from tests.broker.scripted import ScriptedBroker


@pytest.mark.parametrize("forgetful", [False, True], ids=["remembers", "forgets"])
def test_after_a_broker_restart_the_session_is_back_and_subscribed_even_if_the_broker_forgot_it(
    broker: Broker, run: Run, forgetful: bool
) -> None:
    async def story() -> None:
        client, began = Client(plain(broker)), datetime.now(UTC)
        async with client.connected():
            first = client.session.statistics
            assert (first.is_lost, first.reconnect_count) == (False, 0)
            assert (first.last_disconnect_at, first.last_disconnect_reason) == (None, None)
            broker.stop()
            await client.until(lambda: client.session.trouble)
            where = f"127.0.0.1:{broker.port}"
            assert (client.session.trouble or "").startswith(
                f"connection to {where} lost: the broker closed the connection; next attempt in "
            )
            away = client.session.statistics
            assert (away.is_lost, away.last_disconnect_reason) == (True, "the broker closed the connection")
            broker.start()
            broker.restart(forgetful=forgetful)
            async with asyncio.timeout(PATIENCE_S):
                await client.session.wait_connected()
            assert client.session.trouble is None
            broker.publish(COMMANDS, "reboot")
            assert await client.received() == b"reboot"
            last = client.session.statistics
            assert not last.is_lost and last.reconnect_count >= 1
            assert last.last_disconnect_at is not None and began < last.last_disconnect_at < datetime.now(UTC)
            assert client.changes[:2] == [True, False] and client.changes[-1]

    run(story())


def test_a_topic_that_an_earlier_run_had_is_given_back(broker: Broker, run: Run) -> None:
    async def story() -> None:
        async with Client(plain(broker), COMMANDS, "screen/old").connected():
            pass
        client = Client(plain(broker), without=["screen/old"])
        async with client.connected():
            broker.publish("screen/old", "reboot twice")
            broker.publish(COMMANDS, "reboot")
            assert await client.received() == b"reboot"

    run(story())


@pytest.mark.parametrize(("was_lost", "count"), [(True, 3), (False, 2)])
def test_the_count_goes_on_after_a_restart_of_the_process(broker: Broker, run: Run, was_lost: bool, count: int) -> None:
    async def story() -> None:
        before = Statistics(was_lost, 2, datetime.now(UTC), "gone")
        client = Client(plain(broker), statistics=before)
        async with client.connected():
            assert client.session.statistics == replace(before, is_lost=False, reconnect_count=count)

    run(story())


def test_an_orderly_end_is_no_loss(broker: Broker, run: Run) -> None:
    async def story() -> None:
        client = Client(plain(broker))
        async with client.connected():
            await client.session.leave(FAREWELL, PATIENCE_S)
            await client.until(lambda: not client.session.is_connected)
        assert client.session.statistics == Statistics()

    run(story())


def test_each_connection_has_its_own_birth_and_will(broker: Broker, run: Run) -> None:
    async def story() -> None:
        client = Client(plain(broker))
        async with broker.observe(STATUS) as observer, client.connected():
            full_disk = iter([True])

            def refuse(_: Delivery) -> None:
                if next(full_disk, False):
                    raise Redeliver("disk full")

            client.refuse = refuse
            broker.publish(COMMANDS, "reboot")
            seen = [(await observer.next()).payload for _ in range(3)]
            assert seen == [b"online 1", b"lost 1", b"online 2"]

    run(story())


def test_the_retained_status_of_a_killed_process_is_its_will(broker: Broker, run: Run) -> None:
    async def story() -> None:
        async with broker.observe(STATUS) as observer:
            victim = child(plain(broker), "asyncio.run(session(print).run())")
            with victim:
                assert (await observer.next()).payload == b"online child"
                victim.kill()
            assert (await observer.next()).payload == b"lost child"
        async with broker.observe(STATUS) as observer, Client(plain(broker)).connected():
            assert (await observer.next()).payload == b"online 1"
        async with broker.observe(STATUS) as observer:
            (status,) = observer.retained
            assert status == Seen(STATUS, b"lost 1", True)

    run(story())


@pytest.mark.parametrize("kind", ["plain", "tls"])
def test_a_farewell_is_the_last_word_and_no_will_follows(
    tls_broker: Broker, authority: Authority, run: Run, kind: str
) -> None:
    async def story() -> None:
        client = Client(secure(tls_broker, authority) if kind == "tls" else plain(tls_broker))
        async with tls_broker.observe(STATUS, "end") as observer, client.connected():
            await client.session.leave(FAREWELL, PATIENCE_S)
            await client.until(lambda: not client.session.is_connected and len(client.changes) >= 2)
            tls_broker.publish("end", "")
            seen = await observer.until(lambda seen: seen.topic == "end")
            assert [each.payload for each in seen[:-1]] == [b"online 1", b"stopped"]
            assert not client.session.is_connected and client.changes[:2] == [True, False]

    run(story())


def test_a_farewell_that_was_not_acknowledged_leaves_the_last_word_to_the_will(broker: Broker, run: Run) -> None:
    async def story() -> None:
        client = Client(plain(broker))
        async with broker.observe(STATUS) as observer, client.connected():
            with broker.frozen():
                began = time.monotonic()
                await client.session.leave(FAREWELL, timeout_s=0.2)
                await client.until(lambda: not client.session.is_connected)
                assert time.monotonic() - began < AT_ONCE_S
            seen = await observer.until(lambda seen: seen.payload == b"lost 1")
            assert [each.payload for each in seen] == [b"online 1", b"stopped", b"lost 1"]

    run(story())


async def ticks(client: Client, times: int) -> None:
    """Until its timer has run so often."""
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(times):
            last_s = client.session.last_tick()
            while client.session.last_tick() == last_s:
                await asyncio.sleep(0.01)


def test_who_has_left_stays_away_with_its_timer_running_until_it_comes_back_at_once(
    broker: Broker, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not by a short keep-alive, which the broker would want to be kept.
    monkeypatch.setattr(session, "TICK_MAX_S", 0.3)

    async def story() -> None:
        client = Client(plain(broker))
        async with broker.observe(STATUS) as observer, client.connected():
            await client.session.leave(FAREWELL, PATIENCE_S)
            await ticks(client, 3)
            assert client.session.is_away and not client.session.is_connected
            client.session.come_back()
            await asyncio.wait_for(client.session.wait_connected(), AT_ONCE_S)
            seen = [each.payload for each in await observer.until(lambda seen: seen.payload == b"online 2")]
            assert seen == [b"online 1", b"stopped", b"online 2"]
            assert client.session.statistics == Statistics()

    run(story())


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_who_comes_back_while_it_is_leaving_is_online_in_the_end(broker: Broker, run: Run, is_cancelled: bool) -> None:
    async def story() -> None:
        client = Client(plain(broker))
        async with broker.observe(STATUS) as observer, client.connected():
            with broker.frozen():
                leaving = asyncio.create_task(client.session.leave(FAREWELL, timeout_s=0.5))
                await asyncio.sleep(0.1)
                client.session.come_back()
                if is_cancelled:
                    leaving.cancel()
                await asyncio.wait([leaving])
            seen = await observer.until(lambda seen: seen.payload == b"online 2")
            await asyncio.wait_for(client.session.wait_connected(), AT_ONCE_S)
            # The last retained word is what counts, and the old connection's will comes before the new birth.
            assert [each.payload for each in seen[:2]] == [b"online 1", b"stopped"]
            assert not client.session.is_away
            assert client.session.statistics == Statistics()
        async with broker.observe(STATUS) as observer:
            assert [each.payload for each in observer.retained] != [b"stopped"]

    run(story())


def test_a_return_that_is_taken_back_at_once_makes_no_connection(broker: Broker, run: Run) -> None:
    async def story() -> None:
        client = Client(plain(broker))
        async with broker.observe(STATUS, "end") as observer, client.connected() as task:
            await client.session.leave(FAREWELL, PATIENCE_S)
            await client.until(lambda: not client.session.is_connected and len(client.changes) >= 2)
            client.session.come_back()
            await client.session.leave(FAREWELL, PATIENCE_S)
            await asyncio.wait([task], timeout=0.5)
            broker.publish("end", "")
            seen = await observer.until(lambda seen: seen.topic == "end")
            assert [each.payload for each in seen[:-1]] == [b"online 1", b"stopped"]

    run(story())


def test_after_a_take_over_the_new_birth_is_the_last_word(broker: Broker, run: Run) -> None:
    async def story() -> None:
        async with broker.observe(STATUS, "end") as observer:
            with child(plain(broker), "asyncio.run(session(print).run())") as old:
                try:
                    assert (await observer.next()).payload == b"online child"
                    old.send_signal(signal.SIGSTOP)  # it hangs: its connection stays, and it does not come back
                    async with Client(plain(broker)).connected():
                        broker.publish("end", "")
                        seen = [each.payload for each in await observer.until(lambda seen: seen.topic == "end")]
                finally:
                    old.kill()
            # mosquitto keeps the old connection's will to itself when the session is a persistent one.
            assert seen in ([b"online 1", b""], [b"lost child", b"online 1", b""])

    run(story())


def test_leaving_works_at_once_while_the_broker_is_away_and_before_the_start(broker: Broker, run: Run) -> None:
    async def story() -> None:
        broker.kill()
        client = Client(plain(broker))
        async with client.running():
            await client.until(lambda: client.session.trouble)
            await asyncio.wait_for(client.session.leave(FAREWELL, timeout_s=30), AT_ONCE_S)
            await client.until(lambda: client.session.trouble is None)
            assert client.session.is_away
        client = Client(plain(broker))
        await asyncio.wait_for(client.session.leave(FAREWELL, timeout_s=30), AT_ONCE_S)
        async with client.running() as task:
            await asyncio.wait([task], timeout=0.5)
            assert client.session.trouble is None, "it has not tried"

    run(story())


def test_a_session_waiting_for_a_broker_says_so_and_finds_it(broker: Broker, run: Run) -> None:
    async def story() -> None:
        broker.kill()
        client = Client(plain(broker))
        async with client.running():
            await client.until(lambda: client.session.trouble)
            assert (client.session.trouble or "").startswith(
                f"cannot connect to 127.0.0.1:{broker.port}: connection refused; next attempt in 1 s"
            )
            assert client.session.statistics.last_disconnect_at is None
            broker.start()
            async with asyncio.timeout(PATIENCE_S):
                await client.session.wait_connected()
            assert client.session.statistics.reconnect_count == 0

    run(story())


def test_news_of_the_network_ends_a_pause_at_once_and_is_only_waited_for_without_a_connection(
    broker: Broker, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "back_off_s", lambda *_: 3600.0)
    watchers: list[Callable[[], None]] = []

    @contextlib.contextmanager
    def surroundings(on_news: Callable[[], None]) -> Iterator[None]:
        watchers.append(on_news)
        yield
        watchers.remove(on_news)

    async def story() -> None:
        broker.kill()
        client = Client(plain(broker), surroundings=surroundings)
        async with client.running():
            for _ in range(2):
                await client.until(lambda: "next attempt in 3600 s" in (client.session.trouble or ""))
                broker.start()
                (news,) = watchers
                news()
                await asyncio.wait_for(client.session.wait_connected(), AT_ONCE_S)
                assert not watchers
                broker.kill()
        assert not watchers

    run(story())


def test_the_addresses_of_a_broker_take_turns(broker: Broker, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(hangs: socket.socket) -> None:
        good = ("127.0.0.1", broker.port)
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in (hangs.getsockname(), good)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        client = Client(replace(plain(broker), host="broker.example", keep_alive_s=1))
        async with client.running():
            await client.until(lambda: "no answer within 1.5 s" in (client.session.trouble or ""))
            await asyncio.wait_for(client.session.wait_connected(), PATIENCE_S)

    with socket.create_server(("127.0.0.1", 0)) as hangs:
        run(story(hangs))


def test_the_end_of_a_connection_with_tls_is_no_trouble_of_the_handshake(
    tls_broker: Broker, authority: Authority, run: Run
) -> None:
    async def story() -> None:
        client = Client(secure(tls_broker, authority))
        async with client.connected():
            tls_broker.kill()
            await client.until(lambda: client.session.statistics.last_disconnect_at)
            assert client.session.statistics.last_disconnect_reason == "the broker closed the connection"

    run(story())


def test_a_broker_that_stays_silent_is_given_up_after_the_keep_alive(run: Run) -> None:
    async def story() -> None:
        # mosquitto could find the client silent first: this one lives in its process, and is held up with it.
        silence = Rule(Kind.PINGREQ, None, Silent())
        async with ScriptedBroker(Terms(keep_alive_s=1), silence).serving() as broker:
            client = Client(broker.settings)
            async with client.running():
                await client.until(lambda: client.session.statistics.last_disconnect_at)
                assert client.session.statistics.last_disconnect_reason == "the broker did not answer the keep-alive"
                broker.rules.clear()
                async with asyncio.timeout(PATIENCE_S):
                    await client.session.wait_connected()

    run(story())


def test_the_pause_between_attempts_is_spread_and_bounded() -> None:
    assert [back_off_s(failures, 1.0) for failures in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert back_off_s(10**6, 1.0) == 60
    assert [back_off_s(7, chance) for chance in (0.0, 0.25, 0.5)] == [0, 15, 30]
