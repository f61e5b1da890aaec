"""Whatever happens to a client, in any order: hypothesis chooses, and the promises hold after each step and at the end.

A failing run ends with the smallest sequence that hypothesis found, as a program. The same 2,000 sequences each time;
for many and new ones: `tools/test --suite trixie tests/crash/test_any_order.py --hypothesis-profile=many`.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import uuid
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from infoscreen_reboot.client.agent import agent, host
from infoscreen_reboot.client.agent.agent import Agent
from infoscreen_reboot.client.agent.lifecycle import AgentStarted, GoingDown
from infoscreen_reboot.client.agent.ports import Departure, NoReply, Refusal
from infoscreen_reboot.client.agent.store import Store
from infoscreen_reboot.contract.ack import ErrorCode
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.mqtt.session import Session
from tests import world as w
from tests.any_order import MEMORY, is_found, the_same
from tests.played_host import Kind
from tests.virtual import VirtualLoop
from tests.world import CLIENT, OTHER_ID, TOPICS, World

STEPS = 14
ORDER = ["accepted", "execution_started", "completed", "failed"]
TERMINAL = ("completed", "failed")
# What a client that was online needs at most to be so again, when a shutdown was taken back.
BACK_S = 10.0
# More than the longest that any command may take: the helper, somebody's delay, the deadline, a held clock.
SETTLED_S = 700.0
HELPERS: list[str | Exception] = [
    "down",
    "down",
    "silent",
    "hang",
    NoReply("it is gone", is_over=True),
    Refusal(ErrorCode.INHIBITED, "dpkg is running"),
    Refusal(ErrorCode.HELPER_UNAVAILABLE, "it does not start"),
]


# How long it is quiet after something happened.
THEN_S = st.sampled_from([0.0, 0.001, 1.0, 4.0, 40.0])


_RUBBISH = {"": b"", "rubbish": b"rubbish" * 1000, "zeroes": bytes(8192)}


class AnyOrder(RuleBasedStateMachine):
    """One client in its world. `execution_timeout_s` is the deadline that it was given."""

    execution_timeout_s = 60.0
    helper_takes_s = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY))
        self.loop = VirtualLoop()
        self.world = World(
            self.folder / "journal.sqlite3", settings=w.settings(execution_timeout_s=self.execution_timeout_s)
        )
        self.world.host.helper_takes_s = self.helper_takes_s
        self.doors = ExitStack()
        self.doors.enter_context(self.world.around_the_service())
        self.said = 0
        self.acks: dict[str, list[dict[str, Any]]] = {}
        self.reports: dict[str, dict[str, Any]] = {}
        self.ids: list[str] = []
        self.contents: dict[str, bytes] = {}
        self.is_broken = False
        self.go(self._start())

    async def _start(self) -> None:
        self.world.spawn(self.world.run_systemd())
        await asyncio.sleep(1)

    def go(self, work: Coroutine[Any, Any, None]) -> None:
        self.loop.run_until_complete(self.world.spawn(work, self.loop))

    # what happens

    @rule(seconds=st.sampled_from([0.0003, 0.0008, 0.01, 1.0, 2.5, 4.0, 8.0, 20.0, 40.0, 70.0, 130.0]))
    def time_passes(self, seconds: float) -> None:
        self.go(asyncio.sleep(seconds))

    @rule(
        action=st.sampled_from(Action),
        valid_s=st.sampled_from([240] * 6 + [5, -60]),
        retain=st.sampled_from([False] * 7 + [True]),
        topic=st.sampled_from([TOPICS.commands, TOPICS.commands, TOPICS.transitional_command]),
        client=st.sampled_from([CLIENT] * 7 + [OTHER_ID]),
        then_s=THEN_S,
    )
    def a_command_is_sent(
        self, action: Action, valid_s: int, retain: bool, topic: str, client: str, then_s: float
    ) -> None:
        command_id = str(uuid.UUID(int=len(self.ids) + 1))
        issued_at = w.START + timedelta(seconds=self.loop.time() - max(0, -2 * valid_s))
        content = w.payload(
            command_id=command_id,
            action=action,
            client_uuid=client,
            issued_at=issued_at,
            expires_at=issued_at + timedelta(seconds=abs(valid_s)),
        )
        self.ids.append(command_id)
        self.contents[command_id] = content
        self.send(content, topic, retain)
        self.go(asyncio.sleep(then_s))

    @precondition(lambda self: self.ids)
    @rule(
        number=st.integers(0, 20),
        other_content=st.booleans(),
        topic=st.sampled_from([TOPICS.commands, TOPICS.transitional_command]),
    )
    def a_command_is_sent_again(self, number: int, other_content: bool, topic: str) -> None:
        content = self.contents[self.ids[number % len(self.ids)]]
        if other_content:
            content = content.replace(b"player frozen", b"player melted")
        self.send(content, topic)

    @rule(junk=st.sampled_from([b"", b"\xff", b"{}", b'{"command_id": 1}', b"x" * 5000]))
    def junk_is_sent(self, junk: bytes) -> None:
        self.send(junk)

    def send(self, content: bytes, topic: str = TOPICS.commands, retain: bool = False) -> None:
        self.go(self._send(content, topic, retain))

    async def _send(self, content: bytes, topic: str, retain: bool) -> None:
        self.world.send(content, topic, retain)

    @rule(helper=st.sampled_from(HELPERS), takes_s=st.sampled_from([0.0, 0.0, 8.0, 28.0, 36.0]))
    def the_helper_will(self, helper: str | Exception, takes_s: float) -> None:
        self.world.host.helper, self.world.host.helper_takes_s = helper, takes_s

    @rule(what=st.sampled_from(["away", "back", "cut", "freezes", "thaws", "withholds", "gives"]))
    def the_broker(self, what: str) -> None:
        self.go(self._the_broker(what))

    async def _the_broker(self, what: str) -> None:
        broker = self.world.broker
        match what:
            case "away":
                broker.go_away()
            case "back":
                broker.come_back()
            case "cut":
                broker.cut()
            case "freezes":
                broker.freeze()
            case "thaws":
                broker.thaw()
            case "withholds":
                broker.withholds_pubacks = True
            case "gives":
                # What it withheld came never, so the connection is of no more use.
                broker.withholds_pubacks = False
                broker.cut()

    @rule()
    def the_agent_is_killed(self) -> None:
        self.go(self._kill())

    async def _kill(self) -> None:
        self.world.kill()

    @rule(points=st.integers(1, 8), with_the_power=st.booleans())
    def the_agent_will_be_killed(self, points: int, with_the_power: bool) -> None:
        self.world.crash_at = self.world.points + points
        self.world.crash_cuts_power = with_the_power

    @rule()
    def the_agent_is_restarted(self) -> None:
        self.go(self._terminate())

    async def _terminate(self) -> None:
        self.world.terminate()

    @rule()
    def the_power_fails(self) -> None:
        self.go(self._cut_power())

    async def _cut_power(self) -> None:
        self.world.cut_power()

    @rule(content=st.sampled_from(["", "rubbish", "zeroes"]))
    def the_store_becomes_rubbish(self, content: str) -> None:
        """While the agent is not running; what it knew of commands and boots is gone."""
        self.go(self._spoil(_RUBBISH[content]))

    async def _spoil(self, content: bytes) -> None:
        world = self.world
        world.kill()
        await asyncio.sleep(0.1)
        if not world.process_is_dead:
            return  # it has just been started again
        for path in world.path.parent.glob(f"{world.path.name}*"):
            path.unlink()
        world.path.write_bytes(content)
        world.forgotten.update(self.ids)
        world.has_forgotten_boots = True
        world.committed.clear()

    @rule(is_full=st.booleans())
    def the_disk(self, is_full: bool) -> None:
        """To the last byte, and what was kept for this case is used up: nothing more can be written."""
        self.world.disk_is_full = is_full

    @rule(
        kind=st.sampled_from(Kind),
        typed=st.booleans(),
        hold_s=st.sampled_from([0.0, 0.0, 100.0]),
        refused=st.sampled_from([False, False, True]),
        then_s=THEN_S,
    )
    def somebody_takes_the_host_down(
        self, kind: Kind, typed: bool, hold_s: float, refused: bool, then_s: float
    ) -> None:
        host = self.world.host
        if host.departure is None and not host.is_stopping and not self.world.host_is_down and host.logind_is_up:
            # A systemd that knows the soft reboot tells its kind, too.
            host.announces_types = typed or kind is Kind.SOFT_REBOOT
            host.others_hold_s, host.refuses_the_job = hold_s, refused
            host.inhibit_delay_max_s = max(5.0, 1.5 * hold_s)
            self.go(self._depart(kind))
            self.go(asyncio.sleep(then_s))

    async def _depart(self, kind: Kind) -> None:
        self.world.host.depart(kind)

    @rule(hold_s=st.sampled_from([0.0, 3.0, 100.0]), refused=st.booleans(), typed=st.booleans())
    def the_next_shutdown_will(self, hold_s: float, refused: bool, typed: bool) -> None:
        """Whoever asks for it, the helper perhaps."""
        host = self.world.host
        if host.departure is None:
            host.others_hold_s, host.refuses_the_job, host.announces_types = hold_s, refused, typed
            host.inhibit_delay_max_s = max(5.0, 1.5 * hold_s)

    @precondition(lambda self: self.world.host.departure is not None and not self.world.host.is_stopping)
    @rule(how=st.sampled_from(["by logind", "by a new logind", "logind ends", "with the bus"]))
    def a_shutdown_is_taken_back(self, how: str) -> None:
        departure = self.world.host.departure
        assert departure is not None
        could_be_online = self.nothing_is_amiss() and departure.was_online
        self.go(self._take_back(how))
        is_the_last = departure is self.world.host.departures[-1] and departure.life == self.world.lives
        if could_be_online and self.nothing_is_amiss() and is_the_last:
            self.check_it_is_back(how)

    def check_it_is_back(self, how: str) -> None:
        self.is_broken = not self.world.is_online()
        assert not self.is_broken, f"not back {BACK_S:.0f} s after a shutdown was taken back {how}"

    async def _take_back(self, how: str) -> None:
        host = self.world.host
        match how:
            case "by logind":
                host.take_back()
            case "by a new logind":
                host.replace_logind()
            case "logind ends":
                host.lose_logind()
                await asyncio.sleep(0.5)
                host.find_logind()
            case "with the bus":
                host.lose_bus()
                host.lose_logind()
                await asyncio.sleep(0.5)
                host.find_bus()
                host.find_logind()
        await asyncio.sleep(BACK_S)

    @rule(what=st.sampled_from(["bus", "logind"]), for_s=st.sampled_from([0.1, 3.0, 20.0]))
    def is_lost(self, what: str, for_s: float) -> None:
        self.go(self._is_lost(what, for_s))

    async def _is_lost(self, what: str, for_s: float) -> None:
        host = self.world.host
        if what == "bus":
            host.lose_bus()
        else:
            host.lose_logind()
        await asyncio.sleep(for_s)
        host.find_bus()
        if not host.logind_is_up:
            host.find_logind()

    @rule(synchronised=st.booleans(), offset_s=st.sampled_from([0, 3600, -3600, -40_000_000]))
    def the_clock(self, synchronised: bool, offset_s: int) -> None:
        self.world.clock_synchronised = synchronised
        self.world.wall_offset = timedelta(seconds=0 if synchronised else offset_s)

    # what must hold

    def nothing_is_amiss(self) -> bool:
        world, broker = self.world, self.world.broker
        broker_is_well = broker.is_up and not broker.is_frozen and not broker.withholds_pubacks
        host_is_well = world.host.bus_is_up and not world.disk_is_full
        return broker_is_well and host_is_well and not world.process_is_dead and world.crash_at is None

    @invariant()
    def promises_are_kept(self) -> None:
        try:
            self._check_promises()
        except AssertionError:
            self.is_broken = True
            raise

    def _check_promises(self) -> None:
        world = self.world
        assert not world.faults, f"the agent ended by itself: {world.faults}"
        assert not world.breaches
        assert not world.watchdog_kills, "systemd had to end an agent that gave no sign of life"
        executed = [command_id for _, command_id in world.host.executed]
        assert len(executed) == len(set(executed)), "the helper executed a command twice"
        handed_over = [command_id for _, command_id in world.helper_calls if command_id not in self.world.forgotten]
        assert len(handed_over) == len(set(handed_over)), "a command was handed to the helper twice"
        for message in world.heard[self.said :]:
            if message.topic == TOPICS.commands_ack:
                self.on_ack(json.loads(message.payload))
            elif message.topic == TOPICS.boot:
                self.on_boot_report(json.loads(message.payload))
        self.said = len(world.heard)

    def on_ack(self, ack: dict[str, Any]) -> None:
        acks = self.acks.setdefault(ack["command_id"], [])
        if ack in acks or ack["command_id"] in self.world.forgotten:
            return
        acks.append(ack)
        statuses = [known["status"] for known in acks]
        assert statuses == sorted(set(statuses), key=ORDER.index), f"heard {statuses} of {ack['command_id']}"
        assert len([status for status in statuses if status in TERMINAL]) <= 1, f"it ended twice: {statuses}"
        started = next((known for known in acks if known["status"] == "execution_started"), None)
        if ack["status"] == "completed" and started is not None and ack["boot_id"] == started["boot_id"]:
            fitting = [
                departure
                for departure in self.world.host.departures
                if departure.boot_id == ack["boot_id"] and departure.kind is Kind.POWER_OFF
            ]
            assert fitting, f"completed in the boot in which it was started, and nothing took the host down: {ack}"
            assert json.loads(self.contents[ack["command_id"]])["action"] == "shutdown_host"

    def on_boot_report(self, report: dict[str, Any]) -> None:
        known = self.reports.setdefault(report["boot_id"], report)
        assert report == known or self.world.has_forgotten_boots, "two different reports of one boot"
        if report["previous_boot_id"] is None:
            return
        end = self.world.ends[w.BOOTS.index(report["previous_boot_id"])]
        if not end.could_write:
            return
        if end.departure is None and end.quiet_s > BACK_S:
            assert not report["clean_shutdown"], f"the power failed, and it is called clean: {report}"
        if end.departure is not None and not end.went_through:
            return  # the power failed in the middle of a shutdown: who can tell
        if end.departure is not None and end.was_seen and end.departure.by not in (None, *self.world.forgotten):
            told = report["cause"], report["command_id"]
            assert told == ("command", end.departure.by), f"{end.departure.by} did it, and the report says {told}"
        if report["cause"] == "command" and (end.departure is None or end.departure.by is None):
            # Where its execution had begun, nobody can tell what came of it.
            if report["command_id"] in self.world.forgotten:
                return
            statuses = [ack["status"] for ack in self.acks.get(report["command_id"], [])]
            assert "execution_started" in statuses, f"{report['command_id']} did it, which was never begun: {statuses}"

    def teardown(self) -> None:
        try:
            if self.world.host.machine is not None and not self.is_broken:
                self.go(self._heal())
                self.promises_are_kept()
                self.check_the_end()
        finally:
            self.go(self.world.tear_down())
            self.doors.close()
            self.loop.close()
            shutil.rmtree(self.folder)

    async def _heal(self) -> None:
        world, host, broker = self.world, self.world.host, self.world.broker
        world.crash_at = None
        world.disk_is_full = False
        world.clock_synchronised, world.wall_offset = True, timedelta()
        broker.come_back()
        broker.thaw()
        broker.withholds_pubacks = False
        broker.cut()
        host.find_bus()
        if not host.logind_is_up:
            host.find_logind()
        until_s = self.loop.time() + SETTLED_S
        while self.loop.time() < until_s:
            await asyncio.sleep(35)
            if self.is_settled():
                return

    def is_settled(self) -> bool:
        """Nothing more is to come."""
        host, life = self.world.host, self.world.life
        if host.departure is not None or host.calls or self.world.queue or not self.world.is_online():
            return False
        assert life is not None and life.store is not None
        return not (life.store.is_in_memory or life.store.open_records() or life.store.owed_count())

    def check_the_end(self) -> None:
        world = self.world
        assert world.is_online(), "all is well, and the client is not online"
        assert not world.queue, "a delivery was left without PUBACK"
        store = Store(world.path)
        try:
            assert store.owed_count() == 0, "the client owes something"
            assert not store.open_records(), f"open for ever: {store.open_records()}"
        finally:
            store.close()
        assert set(world.committed) <= set(world.received), "an ack was lost"
        for command_id, acks in self.acks.items():
            if command_id in self.world.forgotten:
                continue
            last = acks[-1]
            assert last["status"] in TERMINAL, f"{command_id} never ended: {acks}"
            if last["status"] == "failed" and len(acks) > 1 and acks[-2]["status"] == "execution_started":
                for departure in world.host.departures:
                    did_it = departure.by == command_id and departure.went_through
                    assert not did_it or departure.boot_id != last["boot_id"], f"said {last}, and then did it"


def test_whatever_happens_in_any_order_the_promises_hold() -> None:
    the_same(AnyOrder, 10 * settings().max_examples, STEPS)


def test_a_letter_whose_puback_came_on_a_full_disk_is_not_owed_for_ever() -> None:
    """Found by the machine: nothing is sent after this refusal, so nothing else strikes it out."""
    state = AnyOrder()
    state.a_command_is_sent(Action.REBOOT_HOST, -60, False, TOPICS.commands, CLIENT, 0.001)
    state.the_disk(is_full=True)
    state.time_passes(seconds=1.0)
    state.teardown()


class Undisturbed(AnyOrder):
    """Only commands, shutdowns and the power: what the mended faults need, found in fewer examples."""

    the_broker = None  # type: ignore[assignment]  # so hypothesis is told that there is no such rule
    junk_is_sent = None  # type: ignore[assignment]
    a_command_is_sent_again = None  # type: ignore[assignment]
    the_agent_will_be_killed = None  # type: ignore[assignment]
    the_store_becomes_rubbish = None  # type: ignore[assignment]
    the_disk = None  # type: ignore[assignment]
    the_clock = None  # type: ignore[assignment]


class InTheSameBoot(Undisturbed):
    """Only shutdowns, ends of the agent, and the power; each has the time to take its effect."""

    @rule(kind=st.sampled_from(Kind), typed=st.booleans(), hold_s=st.sampled_from([0.0, 100.0]))
    def somebody_takes_the_host_down(self, kind: Kind, typed: bool, hold_s: float) -> None:
        super().somebody_takes_the_host_down(kind, typed, hold_s, False, 20.0)

    @rule()
    def the_power_fails(self) -> None:
        self.go(asyncio.sleep(20.0))
        super().the_power_fails()
        self.go(asyncio.sleep(20.0))

    time_passes = None  # type: ignore[assignment]
    a_command_is_sent = None  # type: ignore[assignment]
    the_helper_will = None  # type: ignore[assignment]
    the_next_shutdown_will = None  # type: ignore[assignment]
    is_lost = None  # type: ignore[assignment]


class WithASlowHelper(Undisturbed):
    """polkit takes long, say; and the deadline is as short as it once could be."""

    execution_timeout_s = 10.0
    helper_takes_s = 36.0
    the_helper_will = None  # type: ignore[assignment]


class BesideASlowHelper(WithASlowHelper):
    """Only commands to shut down, and others who take the host down while the helper thinks."""

    @rule()
    def a_command_is_sent(self) -> None:
        super().a_command_is_sent(Action.SHUTDOWN_HOST, 240, False, TOPICS.commands, CLIENT, 1.0)

    the_agent_is_killed = None  # type: ignore[assignment]
    the_agent_is_restarted = None  # type: ignore[assignment]
    the_power_fails = None  # type: ignore[assignment]
    is_lost = None  # type: ignore[assignment]


class OnAFullDisk(AnyOrder):
    """Only right commands, the disk, and restarts of the agent; each has the time to take its effect."""

    @rule()
    def a_command_is_sent(self) -> None:
        """One that a client on a healthy disk executes."""
        super().a_command_is_sent(Action.REBOOT_HOST, 240, False, TOPICS.commands, CLIENT, 1.0)

    @rule(is_full=st.booleans())
    def the_disk(self, is_full: bool) -> None:
        super().the_disk(is_full)
        self.go(asyncio.sleep(40.0))

    @rule()
    def the_agent_is_restarted(self) -> None:
        super().the_agent_is_restarted()
        self.go(asyncio.sleep(40.0))

    time_passes = None  # type: ignore[assignment]
    the_agent_is_killed = None  # type: ignore[assignment]
    the_broker = None  # type: ignore[assignment]
    junk_is_sent = None  # type: ignore[assignment]
    the_helper_will = None  # type: ignore[assignment]
    the_agent_will_be_killed = None  # type: ignore[assignment]
    the_power_fails = None  # type: ignore[assignment]
    the_store_becomes_rubbish = None  # type: ignore[assignment]
    somebody_takes_the_host_down = None  # type: ignore[assignment]
    the_next_shutdown_will = None  # type: ignore[assignment]
    a_shutdown_is_taken_back = None  # type: ignore[assignment]
    is_lost = None  # type: ignore[assignment]
    the_clock = None  # type: ignore[assignment]


def _never_comes_back(patch: pytest.MonkeyPatch) -> None:
    """F6: after a shutdown that was taken back nobody connects again."""
    patch.setattr(Session, "come_back", lambda self: None)


def _gives_the_helper_no_time(patch: pytest.MonkeyPatch) -> None:
    """F8: the deadline runs while the helper may still be at work."""
    patch.setattr(agent, "HELPER_S", 0.0)
    patch.setattr(host, "HELPER_S", 30.0)


def _leaves_the_mark(patch: pytest.MonkeyPatch) -> None:
    """H-E: to be here again in the same boot does not take back the mark that it was ending."""

    def wake(self: Agent) -> None:
        for record in self._store.open_records():
            self._ledger.apply(record, AgentStarted(self._boot_id))

    patch.setattr(Agent, "wake", wake)


def _takes_any_departure_for_its_own(patch: pytest.MonkeyPatch) -> None:
    """H-F: whatever logind announces completes a shutdown for which the helper was asked."""
    on_departure = Agent.on_departure

    def complete(self: Agent, announced: Departure) -> None:
        on_departure(self, announced)
        for record in self._store.open_records():
            if record.command_id == self._asked_command_id and record.action is Action.SHUTDOWN_HOST:
                self._ledger.advance(record, GoingDown())

    patch.setattr(Agent, "on_departure", complete)


def _forgets_what_it_refused(patch: pytest.MonkeyPatch) -> None:
    """F1: what was refused while the disk was full is executed when it comes again."""
    patch.setattr(Store, "last_records", lambda self, limit: [])


@pytest.mark.parametrize(
    ("put_back", "machine", "words"),
    [
        (_never_comes_back, Undisturbed, "not back 10 s after|is not online"),
        (_gives_the_helper_no_time, WithASlowHelper, "did it"),
        (_leaves_the_mark, InTheSameBoot, "the power failed, and it is called clean"),
        (_takes_any_departure_for_its_own, BesideASlowHelper, "nothing took the host down|did it"),
        (_forgets_what_it_refused, OnAFullDisk, "heard .'failed', '(accepted|failed)'"),
    ],
)
def test_a_fault_that_was_mended_is_found_when_it_is_put_back(
    put_back: Callable[[pytest.MonkeyPatch], None],
    machine: type[AnyOrder],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put_back(monkeypatch)
    is_found(machine, 5000, STEPS, words)
