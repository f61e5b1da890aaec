"""The agent's way to the helper, to logind and to timedated, on a private bus."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from dbus_next.message import Message
from dbus_next.signature import SignatureTree, Variant

from infoscreen_reboot.client import kernel
from infoscreen_reboot.client.agent import bus as connection
from infoscreen_reboot.client.agent import host as module
from infoscreen_reboot.client.agent.host import SystemHost
from infoscreen_reboot.client.agent.ports import Departure, NoReply, Refusal
from infoscreen_reboot.contract.ack import ErrorCode
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.contract.telemetry import Lockout
from tests.bus.fakes import LOGIND, Answer, Behaviour, Caller, DelayingLogind, Fail, Fake, Loop, PrivateBus, Silence
from tests.world import COMMAND_ID


class FakeHelper(Fake):
    """Says yes and does nothing."""

    name = "org.infoscreen.RebootHelper1"

    def own_answer(self, message: Message) -> Behaviour:
        return Answer()


class FakeTimedated(Fake):
    """Knows whether the clock is synchronised, if it likes to tell."""

    name = "org.freedesktop.timedate1"

    def own_answer(self, message: Message) -> Behaviour:
        assert message.body == ["org.freedesktop.timedate1", "NTPSynchronized"]
        return Answer("v", (Variant("b", True),))


class KnowingSystemd(Fake):
    """Says of itself and of its one unit what a test told it."""

    name = "org.freedesktop.systemd1"

    def __init__(self, loop: Loop, address: str, **properties: Variant) -> None:
        self.properties = properties
        super().__init__(loop, address)

    def own_answer(self, message: Message) -> Behaviour:
        if message.member == "LoadUnit":
            return Answer("o", (f"/unit/{message.body[0].partition('.')[0]}",))
        if message.member == "Get" and message.body[1] in self.properties:
            return Answer("v", (self.properties[message.body[1]],))
        return Fail("org.freedesktop.DBus.Error.UnknownProperty")


@pytest.fixture(autouse=True)
def _on_the_private_bus(bus: PrivateBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever answers is in time, however busy the machine is; a test of silence sets the time for it itself."""
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.address)
    for owner, name in (
        (connection, "REPLY_TIMEOUT_S"),
        (module, "HELPER_S"),
        (module, "CONNECT_TIMEOUT_S"),
        (module, "_PROPERTY_TIMEOUT_S"),
    ):
        monkeypatch.setattr(owner, name, 60.0)
    monkeypatch.setattr(module, "_BELIEVED_S", 0.5)
    monkeypatch.setattr(module, "_ASK_AGAIN_S", 0.1)
    monkeypatch.setattr(module, "_RECONNECT_S", 0.1)
    monkeypatch.setattr(kernel, "timesyncd_says_synchronised", lambda: False)


@pytest.fixture
def logind(loop: Loop, bus: PrivateBus) -> Iterator[DelayingLogind]:
    fake = DelayingLogind(loop, bus.address)
    yield fake
    fake.vanish()
    for lock in fake.locks:
        os.close(lock)


@pytest.fixture
def helper(loop: Loop, bus: PrivateBus) -> Iterator[FakeHelper]:
    fake = FakeHelper(loop, bus.address)
    yield fake
    fake.vanish()


class Seen:
    """What the host told the agent."""

    def __init__(self) -> None:
        self.told: list[Departure | str] = []

    def host(self) -> SystemHost:
        return SystemHost(self.told.append, lambda: self.told.append("stay"))

    async def nothing_more(self, host: SystemHost, told: list[Departure | str]) -> None:
        """Time enough for a doubt, then an answer that would come after whatever is on its way."""
        await asyncio.sleep(2 * module._BELIEVED_S)
        await answer(host)
        assert self.told == told


def live(test: Callable[[SystemHost, Seen], Awaitable[None]]) -> None:
    """Run `test` beside a host that is running."""

    async def main() -> None:
        seen = Seen()
        host = seen.host()
        running = asyncio.create_task(host.run())
        try:
            await test(host, seen)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())


async def until(is_so: Callable[[], Any]) -> None:
    """Wait for what another process does; nothing tells us when."""
    async with asyncio.timeout(120):
        while not is_so():
            await asyncio.sleep(0.01)


async def answer(host: SystemHost, action: Action = Action.REBOOT_HOST) -> Refusal | NoReply | None:
    try:
        await host.request(action, COMMAND_ID)
    except (Refusal, NoReply) as no:
        return no
    return None


def test_each_action_is_one_call_of_the_helper_with_the_commands_id(logind: DelayingLogind, helper: FakeHelper) -> None:
    async def test(host: SystemHost, seen: Seen) -> None:
        assert await answer(host) is None
        assert await answer(host, Action.SHUTDOWN_HOST) is None

    live(test)
    assert helper.calls == [("Reboot", [COMMAND_ID]), ("Shutdown", [COMMAND_ID])]
    assert logind.orders == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("org.infoscreen.RebootHelper1.Error.NotAuthorized", ErrorCode.NOT_AUTHORIZED),
        ("org.infoscreen.RebootHelper1.Error.Lockout", ErrorCode.LOCKOUT),
        ("org.infoscreen.RebootHelper1.Error.Inhibited", ErrorCode.INHIBITED),
        ("org.infoscreen.RebootHelper1.Error.AlreadyExecuted", ErrorCode.HELPER_FAILED),
        ("org.infoscreen.RebootHelper1.Error.Failed", ErrorCode.HELPER_FAILED),
        ("org.freedesktop.DBus.Error.UnknownMethod", ErrorCode.HELPER_FAILED),
        ("org.freedesktop.DBus.Error.AccessDenied", ErrorCode.HELPER_UNAVAILABLE),
        ("org.freedesktop.DBus.Error.Spawn.ChildExited", ErrorCode.HELPER_UNAVAILABLE),
        ("org.freedesktop.systemd1.UnitMasked", ErrorCode.HELPER_UNAVAILABLE),
    ],
)
def test_each_error_is_a_refusal_by_its_own_code_in_its_own_words(
    logind: DelayingLogind, helper: FakeHelper, error: str, code: ErrorCode
) -> None:
    helper.answers["Reboot"] = Fail(error, "because of this")

    async def test(host: SystemHost, seen: Seen) -> None:
        no = await answer(host)
        assert isinstance(no, Refusal)
        assert no.code is code
        assert "because of this" in no.message

    live(test)


def test_the_helper_is_given_its_own_time(
    logind: DelayingLogind, helper: FakeHelper, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper.delay_s = 0.6

    async def test(host: SystemHost, seen: Seen) -> None:
        await until(logind.held)
        await host._connection()
        # From here on nobody else is asked.
        monkeypatch.setattr(connection, "REPLY_TIMEOUT_S", 0.3)
        assert await answer(host) is None

    live(test)


def test_a_helper_that_does_not_exist_is_unavailable(logind: DelayingLogind) -> None:
    async def test(host: SystemHost, seen: Seen) -> None:
        no = await answer(host)
        assert isinstance(no, Refusal) and no.code is ErrorCode.HELPER_UNAVAILABLE

    live(test)


@pytest.mark.parametrize(("silence", "is_over"), [(Silence.HANG, False), (Silence.VANISH, True)])
def test_silence_of_the_helper_is_no_refusal(
    logind: DelayingLogind, helper: FakeHelper, monkeypatch: pytest.MonkeyPatch, silence: Silence, is_over: bool
) -> None:
    helper.answers["Reboot"] = silence
    if silence is Silence.HANG:
        monkeypatch.setattr(module, "HELPER_S", 2.0)

    async def test(host: SystemHost, seen: Seen) -> None:
        no = await answer(host)
        assert isinstance(no, NoReply)
        assert no.is_over is is_over, "whether the helper may still be at work"

    live(test)


def test_a_bus_that_dies_with_the_call_on_its_way_is_no_refusal(
    logind: DelayingLogind, helper: FakeHelper, bus: PrivateBus
) -> None:
    helper.answers["Reboot"] = Silence.HANG

    async def test(host: SystemHost, seen: Seen) -> None:
        call = asyncio.create_task(answer(host))
        await until(lambda: helper.calls)
        await asyncio.to_thread(bus.close)
        no = await call
        assert isinstance(no, NoReply) and not no.is_over

    live(test)


@pytest.mark.filterwarnings("ignore:unclosed <socket")  # dbus-next's own, where there is nothing to connect to
def test_without_a_bus_the_helper_is_unavailable(bus: PrivateBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere")
    monkeypatch.setattr(module, "CONNECT_TIMEOUT_S", 3.0)
    monkeypatch.setattr(module, "_PROPERTY_TIMEOUT_S", 1.0)

    async def test(host: SystemHost, seen: Seen) -> None:
        no = await answer(host)
        assert isinstance(no, Refusal) and no.code is ErrorCode.HELPER_UNAVAILABLE
        assert not await host.clock_is_synchronised()

    live(test)
    gc.collect()  # while its warnings are still ignored


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("reboot", Departure.REBOOTING),
        ("kexec", Departure.REBOOTING),
        ("poweroff", Departure.SHUTTING_DOWN),
        ("power-off", Departure.SHUTTING_DOWN),
        ("soft-reboot", Departure.OTHER),
        ("halt", Departure.OTHER),
        ("what systemd 300 knows", Departure.OTHER),
        (None, Departure.UNKNOWN),
    ],
)
def test_the_host_is_delayed_until_the_last_word_is_said(
    logind: DelayingLogind, kind: str | None, told: Departure
) -> None:
    async def test(host: SystemHost, seen: Seen) -> None:
        await until(logind.held)
        assert logind.asked("Inhibit")[0][0] == "shutdown" and logind.asked("Inhibit")[0][3] == "delay"
        await asyncio.to_thread(logind.announce, True, kind)
        await until(lambda: seen.told)
        assert seen.told == [told]
        assert logind.held() == 1
        host.release_delay()
        # What has brought us the lock may let go of its own copy a moment later.
        await until(lambda: logind.held() == 0)

    live(test)


def test_a_shutdown_taken_back_is_told_and_the_next_is_delayed_again(logind: DelayingLogind) -> None:
    async def test(host: SystemHost, seen: Seen) -> None:
        await until(logind.held)
        await asyncio.to_thread(logind.announce, True, "poweroff")
        await until(lambda: seen.told)
        host.release_delay()
        await until(lambda: logind.held() == 0)
        await asyncio.to_thread(logind.announce, False)
        await until(logind.held)
        assert seen.told == [Departure.SHUTTING_DOWN, "stay"]
        await asyncio.to_thread(logind.announce, True)
        await until(lambda: len(seen.told) == 3)
        assert seen.told[2] is Departure.UNKNOWN

    live(test)


@pytest.mark.parametrize("is_going", [False, True])
def test_a_logind_that_was_replaced_is_asked_what_has_become_of_the_shutdown(
    logind: DelayingLogind, monkeypatch: pytest.MonkeyPatch, is_going: bool
) -> None:
    if is_going:
        # The next one may be late; its word, and not the time, ends the doubt.
        monkeypatch.setattr(module, "_BELIEVED_S", 60.0)

    async def test(host: SystemHost, seen: Seen) -> None:
        await until(logind.held)
        await asyncio.to_thread(logind.announce, True, "reboot")
        await until(lambda: seen.told)
        host.release_delay()
        await until(lambda: logind.held() == 0)
        await asyncio.to_thread(logind.vanish)
        await until(lambda: host._doubt)
        logind.preparing = is_going
        await asyncio.to_thread(logind.appear)
        if is_going:
            await until(lambda: host._doubt is None)
            assert seen.told == [Departure.REBOOTING]
        else:
            await until(logind.held)
            await seen.nothing_more(host, [Departure.REBOOTING, "stay"])

    live(test)


def test_the_next_loginds_own_announcement_is_another_departure(logind: DelayingLogind) -> None:
    async def test(host: SystemHost, seen: Seen) -> None:
        await until(logind.held)
        await asyncio.to_thread(logind.announce, True, "poweroff")
        await until(lambda: seen.told)
        await asyncio.to_thread(logind.vanish)
        logind.answers["Get"] = Silence.HANG  # it has no time to tell about the last one's
        await asyncio.to_thread(logind.appear)
        await asyncio.to_thread(logind.announce, True, "reboot")
        await until(lambda: len(seen.told) == 3)
        assert seen.told == [Departure.SHUTTING_DOWN, "stay", Departure.REBOOTING]

    live(test)


def test_a_shutdown_of_which_nobody_knows_any_more_is_off(loop: Loop, bus: PrivateBus, logind: DelayingLogind) -> None:
    systemd = KnowingSystemd(loop, bus.address, SystemState=Variant("s", "stopping"))

    async def test(host: SystemHost, seen: Seen) -> None:
        await until(logind.held)
        await asyncio.to_thread(logind.announce, True, "reboot")
        await until(lambda: seen.told)
        await asyncio.to_thread(logind.vanish)
        # A host that is going down loses its logind, too: then systemd is at it.
        await seen.nothing_more(host, [Departure.REBOOTING])
        systemd.properties["SystemState"] = Variant("s", "running")
        await until(lambda: seen.told[-1] == "stay")

    live(test)
    systemd.vanish()


def test_the_last_answer_of_a_logind_that_is_gone_is_not_believed(logind: DelayingLogind) -> None:
    async def test(host: SystemHost, seen: Seen) -> None:
        await until(logind.held)
        # Asked because of the announcement it says "preparing", and that is the last that is heard of it.
        logind.ends_after = "PreparingForShutdown"
        await asyncio.to_thread(logind.announce, True, "reboot")
        await until(lambda: seen.told == [Departure.REBOOTING, "stay"])

    live(test)


@pytest.mark.filterwarnings("ignore:unclosed <socket")  # dbus-next's own, where there is nothing to connect to
@pytest.mark.parametrize("comes_back", [False, True])
def test_a_bus_that_goes_in_the_middle_of_a_shutdown_does_not_make_it_last_for_ever(
    tmp_path: Path, bus: PrivateBus, logind: DelayingLogind, monkeypatch: pytest.MonkeyPatch, comes_back: bool
) -> None:
    buses = [bus]
    monkeypatch.setattr(module, "_PROPERTY_TIMEOUT_S", 1.0)

    async def test(host: SystemHost, seen: Seen) -> None:
        await until(logind.held)
        await asyncio.to_thread(logind.announce, True, "reboot")
        await until(lambda: seen.told)
        await asyncio.to_thread(bus.close)
        if comes_back:
            logind.preparing = False
            await asyncio.to_thread(logind.vanish)  # else its old connection is left to the garbage collector
            buses.append(await asyncio.to_thread(PrivateBus, tmp_path))
            await asyncio.to_thread(logind.appear)
            await until(lambda: logind.held() == 1)
        await until(lambda: seen.told[-1] == "stay")  # with or without a bus
        assert seen.told == [Departure.REBOOTING, "stay"]

    live(test)
    gc.collect()  # while its warnings are still ignored
    for each in buses[1:]:
        logind.vanish()
        each.close()


def test_an_announcement_is_newer_than_the_answer_that_came_just_before_it(logind: DelayingLogind) -> None:
    async def test(host: SystemHost, seen: Seen) -> None:
        await until(logind.held)
        await asyncio.to_thread(logind.vanish)
        await asyncio.to_thread(logind.appear_and_announce_in_one_breath, "reboot")
        await until(lambda: seen.told)
        await seen.nothing_more(host, [Departure.REBOOTING])

    live(test)


def test_a_kind_that_came_with_an_answer_is_not_forgotten_for_it(logind: DelayingLogind) -> None:
    async def test(host: SystemHost, seen: Seen) -> None:
        await until(logind.held)
        await asyncio.to_thread(logind.vanish)
        await asyncio.to_thread(logind.appear_and_announce_in_one_breath, "reboot", says_half=True)
        await until(lambda: logind.unsaid)
        await answer(host)  # by now the host has gone on from the answer that it was given
        await asyncio.to_thread(logind.say_the_rest)
        await until(lambda: seen.told)
        await seen.nothing_more(host, [Departure.REBOOTING])

    live(test)


def test_how_long_others_may_delay_is_loginds_word_of_this_moment(logind: DelayingLogind) -> None:
    async def test(host: SystemHost, seen: Seen) -> None:
        await until(logind.held)
        assert host.delay_max_s() == 5
        logind.delay_max_us = 180_000_000
        await asyncio.to_thread(logind.announce, True)
        await until(lambda: host.delay_max_s() == 180)

    live(test)


def test_a_lock_that_is_none_ends_nothing(
    logind: DelayingLogind, helper: FakeHelper, caplog: pytest.LogCaptureFixture
) -> None:
    logind.answers["Inhibit"] = Answer("u", (7,))

    async def test(host: SystemHost, seen: Seen) -> None:
        await until(lambda: "holds no lock" in caplog.text)
        del logind.answers["Inhibit"]
        await asyncio.to_thread(logind.announce, True, "reboot")
        await asyncio.to_thread(logind.announce, False)
        await until(logind.held)
        assert await answer(host) is None

    live(test)


def test_a_logind_that_does_not_answer_is_no_lack_of_a_bus(
    loop: Loop, bus: PrivateBus, logind: DelayingLogind, helper: FakeHelper, monkeypatch: pytest.MonkeyPatch
) -> None:
    timedated = FakeTimedated(loop, bus.address)
    logind.answers["Get"] = Silence.HANG
    monkeypatch.setattr(module, "_PROPERTY_TIMEOUT_S", 1.0)

    async def test(host: SystemHost, seen: Seen) -> None:
        async with asyncio.timeout(120):
            while not await host.clock_is_synchronised():
                pass  # timedated may be late as well
        assert await answer(host) is None
        del logind.answers["Get"]
        await until(logind.held)

    live(test)
    timedated.vanish()


@pytest.mark.filterwarnings("ignore:unclosed <socket")  # dbus-next's own, where there is nothing to connect to
def test_a_bus_that_is_away_is_complained_of_once_and_by_its_path(
    bus: PrivateBus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere")
    caplog.set_level("DEBUG")

    async def test(host: SystemHost, seen: Seen) -> None:
        await until(lambda: caplog.text.count("/nowhere") >= 3)
        warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert len(warnings) == 1 and "cannot use the system bus at unix:path=/nowhere" in warnings[0]
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.address)
        await until(lambda: f"the system bus at {bus.address} is there" in caplog.text)

    live(test)
    gc.collect()  # while its warnings are still ignored


def test_the_bus_does_not_rest_on_var_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DBUS_SYSTEM_BUS_ADDRESS")
    assert connection.address() == "unix:path=/run/dbus/system_bus_socket"


def test_a_shutdown_announced_before_we_listened_is_known(logind: DelayingLogind) -> None:
    logind.preparing = True

    async def test(host: SystemHost, seen: Seen) -> None:
        await until(lambda: seen.told)
        assert seen.told == [Departure.UNKNOWN]
        assert logind.held() == 0

    live(test)


def test_without_the_right_to_delay_announcements_and_helper_still_work(
    logind: DelayingLogind, helper: FakeHelper
) -> None:
    logind.answers["Inhibit"] = Fail("org.freedesktop.DBus.Error.AccessDenied")

    async def test(host: SystemHost, seen: Seen) -> None:
        assert await answer(host) is None
        await until(lambda: logind.asked("Inhibit"))
        await asyncio.to_thread(logind.announce, True, "reboot")
        await until(lambda: seen.told)

    live(test)


def test_a_delay_that_was_refused_is_asked_for_again(logind: DelayingLogind, caplog: pytest.LogCaptureFixture) -> None:
    logind.answers["Inhibit"] = Fail("org.freedesktop.DBus.Error.AccessDenied", "polkit does not answer")

    async def test(host: SystemHost, seen: Seen) -> None:
        await until(lambda: len(logind.asked("Inhibit")) >= 3)
        del logind.answers["Inhibit"]
        await until(logind.held)

    live(test)
    assert caplog.text.count("cannot take a shutdown delay: polkit does not answer") == 1


@pytest.mark.parametrize("to_us_alone", [False, True], ids=["broadcast", "unicast"])
def test_only_logind_can_announce_a_shutdown(logind: DelayingLogind, helper: FakeHelper, to_us_alone: bool) -> None:
    false = Message.new_signal(*LOGIND, "PrepareForShutdown", "b", [True])

    async def test(host: SystemHost, seen: Seen) -> None:
        await until(logind.held)
        if to_us_alone:
            false.destination = (await host._connection()).unique_name
        await asyncio.to_thread(helper.send, false)
        # The bus keeps the order: this answer comes after the false announcement would have.
        assert await answer(host) is None
        assert seen.told == []

    live(test)


def test_what_strangers_send_to_the_agents_own_name_leaves_nothing_behind(
    logind: DelayingLogind, helper: FakeHelper
) -> None:
    async def test(host: SystemHost, seen: Seen) -> None:
        await until(logind.held)
        assert await answer(host) is None
        name, open_files = (await host._connection()).unique_name, len(os.listdir("/proc/self/fd"))
        for number in range(2 * connection._SIGNATURES_KEPT):
            digits = f"{number:09b}"
            signature, body = digits.replace("0", "s").replace("1", "u"), [("", 0)[int(digit)] for digit in digits]
            signal = Message.new_signal(*LOGIND, "PrepareForShutdown", "hh" + signature, [0, 1, *body], [0, 1])
            signal.destination = name
            await asyncio.to_thread(helper.send, signal)
        assert await answer(host) is None
        assert len(os.listdir("/proc/self/fd")) == open_files
        assert len(SignatureTree._cache) <= connection._SIGNATURES_KEPT + 1
        assert seen.told == []

    live(test)


def test_nothing_can_be_called_there(loop: Loop, bus: PrivateBus, logind: DelayingLogind) -> None:
    stranger = Caller(loop, bus.address)

    async def test(host: SystemHost, seen: Seen) -> None:
        await until(logind.held)
        name = (await host._connection()).unique_name
        for interface, member in (("Peer", "Ping"), ("Introspectable", "Introspect"), ("Properties", "Get")):
            whole = f"org.freedesktop.DBus.{interface}"
            reply = await asyncio.to_thread(stranger.call, name, "/", whole, member)
            assert (reply.error, reply.text) == (
                "org.freedesktop.DBus.Error.UnknownMethod", "there is nothing to call here",
            )  # fmt: skip

    live(test)
    stranger.close()


def test_a_logind_that_was_restarted_is_believed(logind: DelayingLogind) -> None:
    async def test(host: SystemHost, seen: Seen) -> None:
        await until(logind.held)
        await asyncio.to_thread(logind.vanish)
        await asyncio.to_thread(logind.appear)
        await asyncio.to_thread(logind.announce, True, "reboot")
        await until(lambda: seen.told)
        assert seen.told == [Departure.REBOOTING]

    live(test)


@pytest.mark.parametrize("turns", range(5))
def test_a_cancellation_that_comes_together_with_the_answer_is_not_lost(turns: int) -> None:
    class Answering:
        def __init__(self) -> None:
            self.answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

        async def call(self, _: Message) -> Message:
            return await self.answer

    async def main() -> None:
        bus = connection.Bus(lambda _: None)
        answering: Any = Answering()
        await bus.close()
        bus._bus = answering
        task = asyncio.create_task(bus.call("a.b", "/", "a.b", "Get"))
        await asyncio.sleep(0.01)
        answering.answer.set_result(Message.new_method_return(Message("a.b", "/", "a.b", "Get", serial=1)))
        for _ in range(turns):
            await asyncio.sleep(0)
        if task.cancel():
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())


def test_timedateds_word_on_the_clock_is_taken_and_its_silence_is_a_no(
    loop: Loop, bus: PrivateBus, logind: DelayingLogind, monkeypatch: pytest.MonkeyPatch
) -> None:
    timedated = FakeTimedated(loop, bus.address)

    async def test(host: SystemHost, seen: Seen) -> None:
        await until(logind.held)
        assert await host.clock_is_synchronised()
        timedated.answers["Get"] = Answer("v", (Variant("b", False),))
        assert not await host.clock_is_synchronised()
        timedated.answers["Get"] = Silence.HANG
        monkeypatch.setattr(module, "_PROPERTY_TIMEOUT_S", 1.0)
        assert not await host.clock_is_synchronised()

    live(test)
    timedated.vanish()


@pytest.mark.parametrize(
    ("load_state", "active_state", "told"),
    [
        ("loaded", "active", "active"),
        ("loaded", "failed", "failed"),
        ("not-found", "inactive", "not found"),
        ("masked", "inactive", "masked"),
    ],
)
def test_a_units_state_is_systemds_word(
    loop: Loop, bus: PrivateBus, logind: DelayingLogind, load_state: str, active_state: str, told: str
) -> None:
    states = {"LoadState": Variant("s", load_state), "ActiveState": Variant("s", active_state)}
    systemd = KnowingSystemd(loop, bus.address, **states)

    async def test(host: SystemHost, seen: Seen) -> None:
        assert await host.unit_state("player.service") == told

    live(test)
    systemd.vanish()


def test_how_long_a_unit_is_active_is_systemds_word(loop: Loop, bus: PrivateBus, logind: DelayingLogind) -> None:
    since_us = int((time.monotonic() - 20) * 1e6)
    systemd = KnowingSystemd(loop, bus.address, ActiveEnterTimestampMonotonic=Variant("x", since_us))

    async def test(host: SystemHost, seen: Seen) -> None:
        told_s = await host.active_for_s("player.service")
        assert 20 <= told_s <= time.monotonic() - since_us / 1e6
        systemd.properties["ActiveEnterTimestampMonotonic"] = Variant("x", 0)
        assert await host.active_for_s("player.service") == 0

    live(test)
    systemd.vanish()


def test_where_systemd_is_silent_nothing_is_made_up(logind: DelayingLogind) -> None:
    async def test(host: SystemHost, seen: Seen) -> None:
        assert await host.unit_state("player.service") is None
        assert await host.active_for_s("player.service") == 0
        assert not await host.is_going_down()
        assert not await host.watchdog_is_armed()
        assert await host.lockout() is None
        before_s = kernel.boot_clock_s()
        assert before_s <= await host.uptime_s() <= kernel.boot_clock_s()

    live(test)


def test_uptime_counts_from_the_start_of_pid_1(loop: Loop, bus: PrivateBus, logind: DelayingLogind) -> None:
    started_us = int((time.monotonic() - 20) * 1e6)
    systemd = KnowingSystemd(loop, bus.address, UserspaceTimestampMonotonic=Variant("x", started_us))

    async def test(host: SystemHost, seen: Seen) -> None:
        assert 20 <= await host.uptime_s() <= time.monotonic() - started_us / 1e6
        systemd.answers["Get"] = Silence.HANG  # asked once: it cannot change
        assert 20 <= await host.uptime_s() <= time.monotonic() - started_us / 1e6

    live(test)
    systemd.vanish()


@pytest.mark.parametrize(
    ("timeout_us", "fed_ago_s", "is_software", "armed"),
    [
        (60_000_000, 30.0, False, True),
        (60_000_000, 61.0, False, False),
        (60_000_000, 30.0, True, False),
        (60_000_000, None, False, False),
        (0, 30.0, False, False),
        (2**64 - 1, None, False, False),
    ],
)
def test_a_watchdog_counts_while_it_is_fed_and_made_of_hardware(
    loop: Loop,
    bus: PrivateBus,
    logind: DelayingLogind,
    monkeypatch: pytest.MonkeyPatch,
    timeout_us: int,
    fed_ago_s: float | None,
    is_software: bool,
    armed: bool,
) -> None:
    monkeypatch.setattr(kernel, "watchdog_is_software", lambda: is_software)
    fed_at_us = 2**64 - 1 if fed_ago_s is None else int((time.monotonic() - fed_ago_s) * 1e6)
    systemd = KnowingSystemd(
        loop,
        bus.address,
        RuntimeWatchdogUSec=Variant("t", timeout_us),
        WatchdogLastPingTimestampMonotonic=Variant("t" if fed_at_us >= 0 else "x", fed_at_us),
    )

    async def test(host: SystemHost, seen: Seen) -> None:
        assert await host.watchdog_is_armed() is armed

    live(test)
    systemd.vanish()


@pytest.mark.parametrize(("state", "going"), [("stopping", True), ("running", False), ("degraded", False)])
def test_a_host_that_is_stopping_is_going_down(
    loop: Loop, bus: PrivateBus, logind: DelayingLogind, state: str, going: bool
) -> None:
    systemd = KnowingSystemd(loop, bus.address, SystemState=Variant("s", state))

    async def test(host: SystemHost, seen: Seen) -> None:
        assert await host.is_going_down() is going

    live(test)
    systemd.vanish()


def test_the_lockout_is_read_from_the_helper(logind: DelayingLogind, helper: FakeHelper) -> None:
    until_text = "2026-04-03T13:01:44Z"
    helper.answers["Get"] = Answer("v", (Variant("(uuus)", [3, 3, 900, until_text]),))

    async def test(host: SystemHost, seen: Seen) -> None:
        assert await host.lockout() == Lockout(3, 3, 900, datetime(2026, 4, 3, 13, 1, 44, tzinfo=UTC))
        helper.answers["Get"] = Answer("v", (Variant("(uuus)", [0, 3, 900, ""]),))
        assert await host.lockout() == Lockout(0, 3, 900, None)

    live(test)
