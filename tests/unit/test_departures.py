"""Whose departure it is, how long it may take, and what becomes of a command when it does not come."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from infoscreen_reboot.client.agent.agent import FAREWELL_S, LAST_WORDS_S
from infoscreen_reboot.client.agent.boot_report import Boot
from infoscreen_reboot.client.agent.ports import HELPER_S, Refusal
from infoscreen_reboot.client.agent.store import Store
from infoscreen_reboot.contract.ack import ErrorCode
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.contract.telemetry import Cause
from tests import played_host
from tests import world as w
from tests.played_host import Kind, PlayedHost
from tests.world import COMMAND_ID, World

DONE = ["accepted", "execution_started", "completed"]
Helper = Callable[[World], Awaitable[None]]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "journal.sqlite3")


@pytest.fixture
def helper(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[[Helper], None]:
    """Makes the helper do something that takes its time."""

    def set_helper(does: Helper) -> None:
        async def order(host: PlayedHost, action: Action, command_id: str) -> None:
            host.helper_calls.append((action, command_id))
            try:
                await does(world)
            except Refusal as refusal:
                raise played_host._error(refusal) from refusal

        monkeypatch.setattr(PlayedHost, "_order", order)

    return set_helper


def play(world: World, nature: Callable[[], Awaitable[None]], for_s: float = 400) -> None:
    w.run(world.play(nature, for_s))


def now_s() -> float:
    return asyncio.get_running_loop().time()


def announce(world: World, kind: Kind | None) -> None:
    """By logind, which before systemd 255 does not say of what kind."""
    world.host.announces_types = kind is not None
    world.host.announce(kind or Kind.REBOOT)


def farewells(world: World) -> list[str]:
    told = [status.decode().split('"reason":"')[1].split('"')[0] for status in world.statuses]
    return [reason for reason in told if reason not in ("connected", "connection_lost")]


def last_boot(world: World) -> Boot:
    store = Store(world.path, read_only=True)
    found = store.last_boot()
    store.close()
    assert found is not None
    return found


def told_after_s(world: World) -> float:
    """Between `execution_started` and the end."""
    _, started, ended = world.acks()
    return (ended.timestamp - started.timestamp).total_seconds()


# Whose departure it is.


@pytest.mark.parametrize("kind", [Kind.POWER_OFF, None])
def test_the_yes_that_follows_the_announcement_makes_it_the_commands(
    world: World, helper: Callable[[Helper], None], kind: Kind | None
) -> None:
    async def slow_yes(world: World) -> None:
        world.host.announces_types = kind is not None
        world.host.depart(kind or Kind.POWER_OFF)
        await asyncio.sleep(2)
        assert world.story() == DONE[:2], "nobody has said yes yet"

    async def nature() -> None:
        world.send(w.payload(action=Action.SHUTDOWN_HOST))

    helper(slow_yes)
    play(world, nature)
    assert world.story() == DONE
    assert {a.boot_id for a in world.acks()} == {w.BOOTS[0]}, "before it was down"
    assert farewells(world) == ["shutting_down"]


@pytest.mark.parametrize("kind", [*Kind, None])
def test_someone_elses_departure_completes_nothing_while_the_helper_thinks(
    world: World, helper: Callable[[Helper], None], kind: Kind | None
) -> None:
    async def no_after_10_s(world: World) -> None:
        await asyncio.sleep(10)
        raise Refusal(ErrorCode.NOT_AUTHORIZED, "polkit did not answer")

    async def nature() -> None:
        world.send(w.payload(action=Action.SHUTDOWN_HOST))
        await asyncio.sleep(2)
        announce(world, kind)
        await asyncio.sleep(6)
        world.take_back()

    helper(no_after_10_s)
    play(world, nature)
    assert world.story() == ["accepted", "execution_started", "not_authorized"]


@pytest.mark.parametrize("kind", [Kind.SOFT_REBOOT, Kind.REBOOT, Kind.KEXEC, Kind.HALT])
def test_a_departure_of_another_kind_is_not_the_commands_even_after_a_yes(
    world: World, helper: Callable[[Helper], None], kind: Kind | None
) -> None:
    async def yes(world: World) -> None:
        announce(world, kind)

    async def nature() -> None:
        world.send(w.payload(action=Action.SHUTDOWN_HOST))
        await asyncio.sleep(5)
        world.go_dark(Kind.SOFT_REBOOT)  # the same boot

    helper(yes)
    play(world, nature)
    assert world.story() == ["accepted", "execution_started", "not_rebooted"]


def test_a_departure_that_was_over_before_the_yes_or_came_after_it_is_not_the_commands(
    world: World, helper: Callable[[Helper], None]
) -> None:
    async def yes_to_what_is_over(world: World) -> None:
        announce(world, None)
        world.take_back()

    async def nature() -> None:
        world.send(w.payload(action=Action.SHUTDOWN_HOST))
        await asyncio.sleep(5)
        announce(world, None)
        await asyncio.sleep(5)
        world.take_back()

    helper(yes_to_what_is_over)
    play(world, nature)
    assert world.story() == ["accepted", "execution_started", "execution_timeout"]


def test_a_helper_that_does_not_answer_holds_the_host_up_no_longer_than_logind_waits(
    world: World, helper: Callable[[Helper], None]
) -> None:
    async def hang(world: World) -> None:
        await asyncio.sleep(60)

    async def nature() -> None:
        world.send(w.payload(action=Action.SHUTDOWN_HOST))
        await asyncio.sleep(5)
        began_s = now_s()
        announce(world, None)
        while world.host._is_delayed():
            await asyncio.sleep(0.05)
        assert now_s() - began_s < LAST_WORDS_S + FAREWELL_S + 0.1
        assert farewells(world) == ["stopped"]
        world.cut_power()

    helper(hang)
    play(world, nature)
    # By the boot id: the host was down, whoever did it.
    assert [a.boot_id for a in world.acks()] == [w.BOOTS[0], w.BOOTS[0], w.BOOTS[1]]


# How long it may take.


def test_while_logind_prepares_the_deadline_waits_and_the_boot_is_the_commands(world: World) -> None:
    world.host.inhibit_delay_max_s = 180
    world.helper = "nothing"

    async def nature() -> None:
        world.send(w.payload())
        await asyncio.sleep(1)
        announce(world, None)
        await asyncio.sleep(115)  # of someone else, who may
        assert world.story() == DONE[:2]
        world.cut_power()
        await asyncio.sleep(60)

    play(world, nature)
    assert world.story() == DONE
    boot = last_boot(world)
    assert (boot.cause, boot.command_id, boot.clean_shutdown) == (Cause.COMMAND, COMMAND_ID, True)


def test_it_waits_no_longer_than_logind_may(world: World) -> None:
    world.host.inhibit_delay_max_s = 180
    world.helper = "nothing"

    async def nature() -> None:
        world.send(w.payload())
        await asyncio.sleep(1)
        announce(world, None)
        await asyncio.sleep(250)
        world.take_back()

    play(world, nature)
    assert world.story() == ["accepted", "execution_started", "execution_timeout"]
    assert 240 <= told_after_s(world) < 242


def test_the_wait_ends_with_the_departure(world: World) -> None:
    world.host.inhibit_delay_max_s = 180
    world.helper = "nothing"

    async def nature() -> None:
        world.send(w.payload())
        await asyncio.sleep(1)
        announce(world, None)
        await asyncio.sleep(99)
        world.take_back()

    play(world, nature)
    assert world.story() == ["accepted", "execution_started", "execution_timeout"]
    assert 99 <= told_after_s(world) < 101


def test_the_deadline_does_not_run_while_the_helper_may_still_act(
    world: World, helper: Callable[[Helper], None]
) -> None:
    world.settings = w.settings(execution_timeout_s=15)

    async def late_yes(world: World) -> None:
        await asyncio.sleep(HELPER_S - 1)
        announce(world, None)

    async def nature() -> None:
        world.send(w.payload())
        await asyncio.sleep(HELPER_S + 3)
        world.cut_power()

    helper(late_yes)
    play(world, nature)
    assert world.story() == DONE


@pytest.mark.parametrize("agent_dies", [False, True])
def test_a_helper_of_which_nobody_hears_any_more_may_still_act(
    world: World, helper: Callable[[Helper], None], agent_dies: bool
) -> None:
    world.settings = w.settings(execution_timeout_s=15)

    async def at_work_for_long(world: World) -> None:
        if agent_dies:
            world.kill()
        else:
            world.host.lose_bus()
            world.host.find_bus()
        await asyncio.sleep(HELPER_S - 1)
        assert world.story() == DONE[:2]
        world.host.depart(Kind.REBOOT)

    async def nature() -> None:
        world.send(w.payload())

    helper(at_work_for_long)
    play(world, nature)
    assert world.story() == DONE
    assert len(world.helper_calls) == 1


def test_a_command_that_expired_while_someone_elses_shutdown_was_on_is_not_begun(world: World) -> None:
    async def nature() -> None:
        world.broker.withholds_pubacks = True  # its `execution_started` is waited for
        world.send(w.payload())
        await asyncio.sleep(1)
        announce(world, None)
        world.broker.withholds_pubacks = False
        await asyncio.sleep(300)
        world.take_back()

    play(world, nature)
    assert list(dict.fromkeys(world.story())) == ["accepted", "execution_started", "expired"]
    assert not world.helper_calls


# What is taken back.


def test_what_is_taken_back_in_the_middle_of_the_last_words_leaves_the_session_as_it_was(world: World) -> None:
    async def nature() -> None:
        await asyncio.sleep(1)
        world.broker.withholds_pubacks = True
        world.send(w.payload(command_id=w.OTHER_ID, client_uuid=w.OTHER_ID))
        await asyncio.sleep(0.5)  # something is owed, and the last words wait for it
        announce(world, Kind.REBOOT)
        await asyncio.sleep(1)
        world.take_back()
        await asyncio.sleep(5)
        assert world.is_online() and farewells(world) == []
        assert world.host._is_delayed(), "it is of use for the next time"
        world.broker.withholds_pubacks = False
        world.broker.cut()
        await asyncio.sleep(5)
        world.send(w.payload())

    play(world, nature)
    assert world.story() == DONE


def test_the_next_announcement_gets_last_words_of_its_own(world: World) -> None:
    async def nature() -> None:
        await asyncio.sleep(1)
        for _ in range(2):
            announce(world, Kind.REBOOT)
            await asyncio.sleep(6)
            assert not world.host._is_delayed()
            world.take_back()
            await asyncio.sleep(5)
            assert world.is_online() and world.host._is_delayed()
        announce(world, Kind.REBOOT)
        world.take_back()
        announce(world, Kind.POWER_OFF)
        await asyncio.sleep(6)
        world.take_back()
        await asyncio.sleep(5)
        world.send(w.payload())

    play(world, nature)
    assert farewells(world)[:3] == ["rebooting", "rebooting", "shutting_down"]
    assert world.story() == DONE


def test_a_start_in_the_same_boot_takes_the_mark_of_a_shutdown_back(world: World) -> None:
    async def nature() -> None:
        await asyncio.sleep(1)
        announce(world, Kind.SOFT_REBOOT)
        await asyncio.sleep(1)
        assert last_boot(world).shutdown_began
        world.go_dark(Kind.SOFT_REBOOT)
        await asyncio.sleep(10)
        assert not last_boot(world).shutdown_began
        world.cut_power()
        await asyncio.sleep(30)

    play(world, nature)
    boot = last_boot(world)
    assert (boot.cause, boot.clean_shutdown) == (Cause.POWER_LOSS, False)


def test_a_start_in_the_middle_of_a_shutdown_leaves_the_mark(world: World) -> None:
    async def nature() -> None:
        await asyncio.sleep(1)
        announce(world, Kind.REBOOT)
        await asyncio.sleep(1)
        world.kill()
        await asyncio.sleep(10)
        world.cut_power()
        await asyncio.sleep(30)

    play(world, nature)
    assert last_boot(world).cause is Cause.LOCAL
