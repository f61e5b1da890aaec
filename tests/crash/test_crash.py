"""The agent is killed after every commit and before and after every act, on every path through the lifecycle table.

The paths are read from TABLE. Each is played once undisturbed, which counts the points at which the process can be
killed, and then once for each point: killed there, and started again in the same boot and in a new one.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest

from infoscreen_reboot.client.agent.lifecycle import (
    TABLE,
    Accepted,
    AgentStarted,
    ChecksPassed,
    Event,
    ExecutionStarted,
    GoingDown,
    Held,
    Mocked,
    State,
)
from infoscreen_reboot.client.agent.ports import Departure, NoReply, Refusal
from infoscreen_reboot.client.config import Settings
from infoscreen_reboot.contract import ack
from infoscreen_reboot.contract.ack import AckStatus, ErrorCode
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.contract.telemetry import Executor
from tests import world as w
from tests.world import OTHER_ID, World

Move = tuple[State, type[Event], State, ErrorCode | None]


def paths(state: State = State.NEW) -> Iterator[tuple[Move, ...]]:
    """Every way through TABLE from NEW to an end, a `Failed` once for each code it may carry."""
    if state.is_terminal:
        yield ()
    for row in (row for row in TABLE if row.state is state and row.to is not state):
        for code in row.codes or (None,):
            for rest in paths(row.to):
                yield ((state, row.event, row.to, code), *rest)


@dataclass
class Play:
    """What has to happen in the world for the agent to take one path."""

    payload: bytes = field(default_factory=w.payload)
    retain: bool = False
    first: bytes | None = None
    departure: bool = False
    departs_while_it_speaks: bool = False
    stays_after_s: float | None = None
    dies_after_s: float | None = None
    synchronised_after_s: float | None = None
    wall_jump: timedelta = timedelta()
    settings_after_restart: Settings | None = None


def stage(path: tuple[Move, ...], world: World) -> Play:
    """Set up `world` and return what to do in it. A move that no arm knows fails the test."""
    play = Play()
    world.clock_synchronised = True
    for move in path:
        match move:
            case (State.NEW, t, _, None) if t is Held:
                world.clock_synchronised = False
            case (State.NEW, t, _, None) if t is Accepted:
                pass
            case (State.NEW, _, _, code):
                _stage_refusal(code, play, world)
            case (State.HELD, t, _, None) if t is Accepted:
                play.synchronised_after_s = 5
            case (State.HELD, t, _, _) if t is AgentStarted:
                play.dies_after_s = 5
            case (State.HELD, _, _, ErrorCode.CLOCK_UNSYNCHRONIZED):
                pass
            case (State.HELD, _, _, ErrorCode.EXPIRED):
                play.synchronised_after_s, play.wall_jump = 5, timedelta(minutes=10)
            case (State.HELD, _, _, ErrorCode.NOT_YET_VALID):
                play.synchronised_after_s, play.wall_jump = 5, timedelta(minutes=-10)
            case (State.HELD, _, _, ErrorCode.UNSUPPORTED_ACTION):
                play.payload = w.payload(action=Action.SHUTDOWN_HOST)
                play.synchronised_after_s = 5
                play.settings_after_restart = replace(world.settings, offered=frozenset({Action.REBOOT_HOST}))
            case (State.HELD, _, _, ErrorCode.WRONG_CLIENT):
                play.synchronised_after_s = 5
                play.settings_after_restart = replace(world.settings, client_uuid=OTHER_ID)
            case (State.ACCEPTED, t, _, None) if t is ExecutionStarted:
                pass
            case (State.ACCEPTED, t, _, _) if t is AgentStarted:
                play.departure, play.dies_after_s = True, 10
            case (State.ACCEPTED, _, _, ErrorCode.EXPIRED):
                play.departure, play.stays_after_s = True, 300
            case (State.EXECUTING, _, _, ErrorCode.EXPIRED):
                play.departs_while_it_speaks, play.stays_after_s = True, 300
            case (State.EXECUTING, t, _, None) if t is GoingDown:
                play.payload = w.payload(action=Action.SHUTDOWN_HOST)
            case (State.EXECUTING, t, _, None) if t is Mocked:
                world.settings = replace(world.settings, executor=Executor.MOCK, mocks_reboots=True)
            case (State.EXECUTING, t, State.COMPLETED, None) if t is AgentStarted:
                # The host goes down without a word: power fails while the helper thinks.
                play.payload = w.payload(action=Action.SHUTDOWN_HOST)
                world.helper, play.dies_after_s = NoReply("no answer"), 10
            case (State.EXECUTING, t, State.CHECKING, None) if t is AgentStarted:
                world.settings = replace(world.settings, post_boot_units=("player.service",))
            case (State.CHECKING, t, _, None) if t is ChecksPassed:
                pass
            case (State.CHECKING, _, _, ErrorCode.POST_CHECK_FAILED):
                world.unit_states = dict.fromkeys(range(1, len(w.BOOTS)), "failed")
            case (State.EXECUTING, _, _, ErrorCode.EXECUTION_TIMEOUT):
                world.helper = NoReply("no answer")
            case (State.EXECUTING, _, _, ErrorCode.NOT_REBOOTED):
                world.helper = "kill"
            case (State.EXECUTING, _, _, ErrorCode() as code):
                world.helper = Refusal(code, f"the helper says {code}")
            case _:
                raise AssertionError(f"no one has said how {move} comes about")
    return play


class _NobodyIsTrusted:
    def fault(self, topic: str, payload: bytes, properties: Sequence[tuple[str, str]]) -> str | None:
        return "the command is not signed"


def _stage_refusal(code: ErrorCode | None, play: Play, world: World) -> None:
    match code:
        case ErrorCode.INVALID_SCHEMA:
            play.payload = play.payload.replace(b"reboot_host", b"paint_host")
        case ErrorCode.INVALID_SIGNATURE:
            world.signatures = _NobodyIsTrusted()
        case ErrorCode.RETAINED:
            play.retain = True
        case ErrorCode.WRONG_CLIENT:
            play.payload = w.payload(client_uuid=OTHER_ID)
        case ErrorCode.UNSUPPORTED_ACTION:
            world.settings = replace(world.settings, offered=frozenset({Action.REBOOT_HOST}))
            play.payload = w.payload(action=Action.SHUTDOWN_HOST)
        case ErrorCode.EXPIRED:
            world.wall_offset = timedelta(minutes=5)
        case ErrorCode.NOT_YET_VALID:
            world.wall_offset = timedelta(minutes=-5)
        case ErrorCode.BUSY:
            world.helper, play.first = "nothing", w.payload(command_id=OTHER_ID)
        case ErrorCode.INTERNAL_ERROR:
            world.settings = replace(world.settings, offered=w.Breaking(Action))
        case _:
            raise AssertionError(f"no one has said how {code} comes about")


async def perform(play: Play, world: World) -> None:
    """Everything that happens to the agent from outside, whether it is alive or not."""
    await asyncio.sleep(1)
    if play.departure:
        world.announce(Departure.UNKNOWN)
    if play.first is not None:
        world.send(play.first)
    # In the same moment: a departing agent takes commands in until it has left.
    world.send(play.payload, retain=play.retain)
    if play.departs_while_it_speaks:
        await asyncio.sleep(0.0007)
        # Between `ExecutionStarted` and the helper: the agent waits for the broker to have heard of it.
        world.broker_is_up = False
        await asyncio.sleep(1)
        world.announce(Departure.UNKNOWN)
        world.broker_is_up = True
    if play.synchronised_after_s is not None:
        await asyncio.sleep(play.synchronised_after_s)
        if play.settings_after_restart is not None:
            world.settings = play.settings_after_restart
            world.kill()
        world.wall_offset += play.wall_jump
        world.clock_synchronised = True
    if play.stays_after_s is not None:
        await asyncio.sleep(play.stays_after_s)
        world.take_back()
    if play.dies_after_s is not None:
        await asyncio.sleep(play.dies_after_s)
        world.cut_power()


def played(path: tuple[Move, ...], world: World) -> tuple[State, ErrorCode | None]:
    """Play `path` in `world` to its end: the state and the code with which it ended."""
    play = stage(path, world)
    w.run(world.play(lambda: perform(play, world)))
    record = world.on_disk()
    assert record is not None and record.ack is not None
    return record.state, ack.parse(record.ack).error_code


def name(path: tuple[Move, ...]) -> str:
    return "-".join(f"{event.__name__}({code})" if code else event.__name__ for _, event, _, code in path)


def end_of(path: tuple[Move, ...]) -> tuple[State, ErrorCode | None]:
    *_, (_, _, end, code) = path
    return end, code


def rightful_ends(path: tuple[Move, ...], world: World) -> set[tuple[State, ErrorCode | None]] | None:
    """How the story must end, seen from what was on disk at the crash; None where it may begin anew."""
    found, rebooted = world.at_crash, world.boots > 0
    match found.state if found is not None else None:
        case None:
            # Where the host was going down already, the broker keeps the command for the next boot.
            was_departing = end_of(path)[1] is ErrorCode.INTERRUPTED
            return None if world.crash_cuts_power or was_departing else {end_of(path)}
        case State.HELD | State.ACCEPTED if world.crash_cuts_power:
            return {(State.FAILED, ErrorCode.INTERRUPTED)}
        case State.HELD | State.ACCEPTED:
            return {end_of(path)}
        case State.EXECUTING if rebooted:
            # A command may have been killed in a boot in which nothing is amiss yet.
            return {(State.COMPLETED, None), end_of(path)}
        case State.CHECKING:
            return {end_of(path)}
        case State.EXECUTING:
            return {(State.FAILED, ErrorCode.NOT_REBOOTED)}
    assert found is not None and found.ack is not None
    return {(found.state, ack.parse(found.ack).error_code)}


def check_guarantees(world: World) -> None:
    handed_over = [command_id for _, command_id in world.helper_calls]
    assert len(handed_over) == len(set(handed_over)), "a command was handed to the helper twice"
    contents = {status: {a for a in world.acks() if a.status is status} for status in AckStatus}
    assert all(len(acks) <= 1 for acks in contents.values()), "two acks of one status differ"
    assert len(contents[AckStatus.COMPLETED] | contents[AckStatus.FAILED]) == 1, "not exactly one terminal content"
    first_heard = list(dict.fromkeys(a.status for a in world.acks()))
    assert first_heard == sorted(first_heard, key=list(AckStatus).index), "acks out of order"
    assert set(world.committed) <= set(world.received), "an ack was lost"
    assert not world.queue, "a delivery was left without PUBACK"


PATHS = list(paths())


@pytest.mark.parametrize("path", PATHS, ids=name)
def test_killed_at_any_point_the_story_ends_right(path: tuple[Move, ...], tmp_path: Path) -> None:
    undisturbed = World(tmp_path / "undisturbed" / "journal.sqlite3")
    assert played(path, undisturbed) == end_of(path)
    check_guarantees(undisturbed)
    points = undisturbed.points
    assert points >= 4
    for point in range(1, points + 1):
        for power_cut in (False, True):
            file = tmp_path / f"{point}-{power_cut}" / "journal.sqlite3"
            world = World(file, crash_at=point, crash_cuts_power=power_cut)
            end = played(path, world)
            assert world.crash_at is None, "the crash did not happen"
            check_guarantees(world)
            allowed = rightful_ends(path, world)
            assert allowed is None or end in allowed, f"killed at {point} of {points}, power cut: {power_cut}"


def test_the_paths_take_every_row_of_the_table() -> None:
    taken = {(state, event, to) for path in PATHS for state, event, to, _ in path}
    assert taken == {(row.state, row.event, row.to) for row in TABLE if row.to is not row.state}
