"""A world for the agent: virtual time, a broker, a host with a helper, a disk, and a crash at any chosen point.

The whole service is the real one, put together by `app`: session, outbox, agent, monitor, watchdog, and the host over
the bus, on a real file. Pretended are one connection to the broker (`played_broker`), the system bus with all that is
on it (`played_host`), systemd's part in starting and stopping the agent, and the clocks.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import random
import signal
import sqlite3
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

from infoscreen_reboot.client import kernel
from infoscreen_reboot.client.agent import app, host, recovery, surroundings
from infoscreen_reboot.client.agent.agent import Agent
from infoscreen_reboot.client.agent.boot_report import Boot
from infoscreen_reboot.client.agent.lifecycle import Record
from infoscreen_reboot.client.agent.monitor import open_boot
from infoscreen_reboot.client.agent.ports import Departure, Signatures
from infoscreen_reboot.client.agent.store import Letter, Store, StoreFull, StoreUnusable
from infoscreen_reboot.client.config import Settings
from infoscreen_reboot.contract import ack, command, wire
from infoscreen_reboot.contract.ack import Ack
from infoscreen_reboot.contract.command import Action, Command
from infoscreen_reboot.contract.telemetry import Executor
from infoscreen_reboot.contract.topics import Topics
from infoscreen_reboot.mqtt import session
from infoscreen_reboot.mqtt.messages import BrokerSettings, Delivery, Message
from tests import played_host
from tests.played_broker import PlayedBroker, PlayedConnection
from tests.played_host import Kind, PlayedBus, PlayedHost
from tests.virtual import Crash, VirtualLoop

__all__ = ["Crash", "Kind", "World"]

T = TypeVar("T")

CLIENT = "9b8d1856-ff34-4864-a726-12de072d0f77"
COMMAND_ID = "5d1f8b4b-7e85-44fb-8f38-3f5d5da5e2e4"
OTHER_ID = "0d1f8b4b-7e85-44fb-8f38-3f5d5da5e2e4"
TOPICS = Topics(CLIENT)
# Of what the client says on infoscreen/<client>/….
SCHEMAS = {
    "commands/ack": "ack",
    "command/ack": "ack",
    "status": "status",
    "health": "health",
    "boot": "boot",
    "service_failed": "service_failed",
}
START = datetime(2026, 4, 3, 12, 48, 10, tzinfo=UTC)
BOOTS = [f"{n:08x}-d9cb-469f-a165-70867728950e" for n in range(1, 200)]

# From the kernel's start to the agent's, from the agent's end to its next start (RestartSec=), and how long systemd
# waits for a sign of life (WatchdogSec=).
BOOT_S, RESTART_S, WATCHDOG_S = 2.0, 5.0, 60.0
_KINDS = {Departure.REBOOTING: Kind.REBOOT, Departure.SHUTTING_DOWN: Kind.POWER_OFF}


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run on virtual time: a wait of a minute takes none."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(coroutine)


def a_command(**changes: Any) -> Command:
    fields: dict[str, Any] = {
        "command_id": COMMAND_ID,
        "client_uuid": CLIENT,
        "action": Action.REBOOT_HOST,
        "issued_at": START,
        "expires_at": START + timedelta(minutes=4),
        "requested_by": "operator:17",
        "reason": "player frozen",
    }
    return Command(**(fields | changes))


def payload(**changes: Any) -> bytes:
    return command.encode(a_command(**changes))


def settings(**changes: Any) -> Settings:
    told = Settings(
        broker=BrokerSettings("broker.example", 8883, None, None, None),
        client_uuid=CLIENT,
        offered=frozenset(Action),
        compat_topics=True,
        require_synced_clock=True,
        clock_timeout_s=60,
        execution_timeout_s=60,
        require_signature=False,
        executor=Executor.HELPER,
        mocks_reboots=False,
        post_boot_units=(),
        post_boot_command=None,
        post_boot_timeout_s=150,
    )
    return replace(told, **changes)


@functools.lru_cache(10_000)
def fault_of(tail: str, payload: bytes) -> str:
    """What breaks its schema, or nothing. Most is said word for word in many worlds, and to look takes milliseconds."""
    try:
        wire.check(SCHEMAS[tail], json.loads(payload))
    except (KeyError, ValueError) as error:
        return repr(error)
    return ""


@dataclass(frozen=True)
class End:
    """How a boot ended: in the departure that stood, if any, and whether one run of the agent saw all of that."""

    departure: played_host.Departure | None
    went_through: bool
    was_seen: bool
    # How long the agent had been running without a departure's being taken back.
    quiet_s: float
    # Nobody can tell how it ended where the agent could not write that down.
    could_write: bool


class Breaking(frozenset[Action]):
    """What a client offers, with a bug in it."""

    def __contains__(self, action: object) -> bool:
        raise RuntimeError("a bug")


@dataclass
class World:
    """Everything outside the agent's process; it outlives any number of lives of the agent.

    `points` counts the places where the process can be killed: after each commit, before and after each act.
    """

    path: Path
    settings: Settings = field(default_factory=settings)
    signatures: Signatures | None = None
    clock_synchronised: bool = True
    wall_offset: timedelta = timedelta()
    disk_is_full: bool = False
    could_write: bool = True  # always, in this boot
    crash_at: int | None = None
    crash_cuts_power: bool = False
    # What systemd says of any unit in the boot with that number; "active" for the others.
    unit_states: dict[int, str] = field(default_factory=dict)

    points: int = 0
    boots: int = 0
    lives: int = 0
    # How each boot but the present one ended.
    ends: list[End] = field(default_factory=list)
    # Everything that the broker was told, in order, and the acks and statuses among it.
    heard: list[Message] = field(default_factory=list)
    committed: list[Letter] = field(default_factory=list)
    # Commands of which the agent has told something that it does not know any more, and whether it told of boots so.
    forgotten: set[str] = field(default_factory=set)
    has_forgotten_boots: bool = False
    # What ended the agent though nobody had killed it, and how often systemd did because it gave no sign of life.
    faults: list[BaseException] = field(default_factory=list)
    # What the broker was told that has no schema or breaks its own.
    breaches: list[str] = field(default_factory=list)
    watchdog_kills: int = 0
    host_is_down: bool = False
    process_is_dead: bool = True
    died: asyncio.Event = field(default_factory=asyncio.Event)
    at_crash: Record | None = None
    life: Life | None = None
    _loses_the_unflushed: bool = False
    _dark: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _boot_started_s: float = 0.0
    _life_began_s: float = 0.0
    _fed_at_s: float = 0.0

    def __post_init__(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.broker = PlayedBroker(self._hear)
        # An earlier run had all of them; what this one does not want it has to give back.
        self.broker.subscriptions = {TOPICS.commands, TOPICS.transitional_command}
        self.host = PlayedHost(self)
        self.flushed_frames = 0

    # what tests ask and set most

    @property
    def helper(self) -> str | Exception:
        return self.host.helper

    @helper.setter
    def helper(self, behaviour: str | Exception) -> None:
        self.host.helper = behaviour

    @property
    def helper_calls(self) -> list[tuple[Action, str]]:
        return self.host.helper_calls

    @property
    def queue(self) -> list[Delivery]:
        return self.broker.queue

    @property
    def broker_is_up(self) -> bool:
        return self.broker.is_up

    @broker_is_up.setter
    def broker_is_up(self, is_up: bool) -> None:
        if is_up:
            self.broker.come_back()
        else:
            self.broker.go_away()

    @property
    def received(self) -> list[Letter]:
        """The acks that the broker has."""
        return [Letter(m.topic, m.payload) for m in self.heard if m.topic.endswith("/ack")]

    @property
    def statuses(self) -> list[bytes]:
        return [message.payload for message in self.heard if message.topic == TOPICS.status]

    # where the process can be killed

    def point(self) -> None:
        """The process may be killed here."""
        self.check_alive()
        self.points += 1
        if self.points == self.crash_at:
            self.kill()
            raise Crash

    def check_alive(self) -> None:
        if self.process_is_dead:
            raise Crash

    def kill(self) -> None:
        self.process_is_dead = True
        self.died.set()

    def terminate(self) -> None:
        """SIGTERM, as `systemctl stop` and a shutdown send it."""
        if self.life is not None and not self.process_is_dead:
            self.life.stop()

    # the clocks

    def boot_id(self) -> str:
        return BOOTS[self.boots]

    def boot_clock_s(self) -> float:
        return asyncio.get_running_loop().time() - self._boot_started_s

    def now(self) -> datetime:
        return START + timedelta(seconds=asyncio.get_running_loop().time()) + self.wall_offset

    # the broker

    def _hear(self, message: Message) -> None:
        self.heard.append(message)
        if message.payload:  # else a retained message is taken back
            fault = fault_of(message.topic.split("/", 2)[2], message.payload)
            if fault:
                self.breaches.append(f"{message}: {fault}")

    def send(
        self,
        content: bytes,
        topic: str = TOPICS.commands,
        retain: bool = False,
        properties: Sequence[tuple[str, str]] = (),
    ) -> None:
        """On its way now if the agent is connected; queued until it gives a PUBACK."""
        self.broker.publish(Delivery(topic, content, retain, tuple(properties)))

    def acks(self, command_id: str = COMMAND_ID, tail: str = "/commands/ack") -> list[Ack]:
        heard = [ack.parse(letter.payload) for letter in self.received if letter.topic.endswith(tail)]
        return [answer for answer in heard if answer.command_id == command_id]

    def story(self, command_id: str = COMMAND_ID) -> list[str]:
        """What the controller heard, in order; the code in place of `failed`."""
        return [str(answer.error_code or answer.status) for answer in self.acks(command_id)]

    # the host

    def announce(self, kind: Departure) -> None:
        """logind: PrepareForShutdown(true), of which nothing comes until the test says so."""
        self._announce(kind, self.host.announce)

    def go_down(self, kind: Departure) -> None:
        """Announce it, wait for the agent's delay at most 5 s, stop it, and be down."""
        self._announce(kind, self.host.depart)

    def _announce(self, kind: Departure, how: Callable[[Kind], object]) -> None:
        self.host.announces_types = kind is not Departure.UNKNOWN
        how(_KINDS.get(kind, Kind.REBOOT))

    def take_back(self) -> None:
        """logind: PrepareForShutdown(false)."""
        self.host.take_back()

    def go_dark(self, kind: Kind) -> None:
        if kind is Kind.SOFT_REBOOT:
            self.kill()
            self.host.reset()
        else:
            self.cut_power(in_good_order=True)

    def cut_power(self, in_good_order: bool = False) -> None:
        """The host is down at once; what was written and not flushed is lost, unless it ended in good order."""
        if self.host_is_down:
            return
        departure = self.host.departure
        was_seen = departure is not None and departure.was_told and departure.life == self.lives
        at_work_since_s = max(self._life_began_s, self.host.taken_back_at_s)
        quiet_s = 0.0 if self.process_is_dead else asyncio.get_running_loop().time() - at_work_since_s
        self.ends.append(End(departure, in_good_order, was_seen, quiet_s, self.could_write))
        self.host.lose_power()
        self._loses_the_unflushed = not in_good_order
        if self.broker.line is not None:
            self.broker.line.lose_power()
        self.host_is_down = True
        self._dark.set()
        self.kill()

    def is_online(self) -> bool:
        """As the controller sees it: the status says so, of this boot, and there is a connection."""
        status = self.broker.retained.get(TOPICS.status)
        told = json.loads(status.payload) if status is not None else {}
        return told.get("state") == "online" and told["boot_id"] == self.boot_id() and self.broker.line is not None

    async def play(self, nature: Callable[[], Awaitable[None]], for_s: float = 400) -> None:
        """Let `nature` happen, start the agent whenever it is dead, end `for_s` seconds after nature."""
        random.seed(1)  # the session's pauses are the same in each run, and with them the points
        with self.around_the_service(), self.outside():
            systemd = self.spawn(self.run_systemd())
            end = self.spawn(self._until_quiet(nature, for_s))
            done, _ = await asyncio.wait({systemd, end}, return_when=asyncio.FIRST_COMPLETED)
            await self.tear_down()
        for task in done:
            task.result()
        if self.faults:
            raise BaseExceptionGroup("the agent ended by itself", self.faults)
        assert not self.breaches
        assert not self.watchdog_kills, "systemd had to end an agent that gave no sign of life"

    async def _until_quiet(self, nature: Callable[[], Awaitable[None]], for_s: float) -> None:
        await nature()
        await asyncio.sleep(for_s)

    # systemd, as far as the agent is concerned

    async def run_systemd(self) -> None:
        """Start the agent, and start it again; begin another boot where the host is down."""
        watchdog = self.spawn(self._watch())
        try:
            while True:
                await self._run_process()
                if not self.host_is_down:
                    self._say_not_running()
                    await self._pause(RESTART_S)
                while self.host_is_down or self.host.is_stopping:  # nothing is started in a shutdown
                    if self.host_is_down:
                        self._begin_boot()
                    await self._pause(BOOT_S)
        finally:
            watchdog.cancel()

    async def _pause(self, seconds: float) -> None:
        """As long, or until the host is down."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._dark.wait()

    async def _run_process(self) -> None:
        self.process_is_dead = False
        self.died.clear()
        self._fed_at_s = asyncio.get_running_loop().time()
        self.lives += 1
        self._life_began_s = asyncio.get_running_loop().time()
        self.life = Life(self)
        await self.life.live()
        if self.points == self.crash_at:
            self.crash_at = None
            self.at_crash = self.on_disk()
            if self.crash_cuts_power:
                self.cut_power()

    def _begin_boot(self) -> None:
        """The kernel starts anew."""
        self.boots += 1
        self.host_is_down = self._loses_the_unflushed = False
        self.could_write = True
        self._dark.clear()
        self.host.reset()
        self._boot_started_s = asyncio.get_running_loop().time()

    def _say_not_running(self) -> None:
        """ExecStopPost= of the unit."""
        with contextlib.suppress(OSError):
            self.path.with_name(app.NOT_RUNNING_NAME).write_text(self.boot_id() + "\n")

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            left_s = self._fed_at_s + WATCHDOG_S - loop.time()
            if not self.process_is_dead and left_s < 0:
                self.watchdog_kills += 1
                self.kill()
            await asyncio.sleep(max(left_s, 1.0) + 0.001)

    def _notify(self, words: str) -> None:
        if words in ("READY=1", "WATCHDOG=1"):
            self._fed_at_s = asyncio.get_running_loop().time()

    @contextlib.contextmanager
    def around_the_service(self) -> Iterator[None]:
        """The doors through which the service meets the world open into this one."""

        def connection(*args: Any, **options: Any) -> PlayedConnection:
            return PlayedConnection(self.broker, self, *args, **options)

        with contextlib.ExitStack() as doors:
            for where, name, door in (
                (session, "Connection", connection),
                (host, "Bus", lambda on_signal: PlayedBus(self.host, on_signal)),
                (app, "notify", self._notify),
                (surroundings, "watch", lambda _: contextlib.nullcontext()),
                (app, "_signatures", lambda _: self.signatures),
                (recovery, "Store", lambda path, **options: _Disk(self, path, **options)),
                (kernel, "timesyncd_says_synchronised", lambda: False),
                (time, "monotonic", lambda: asyncio.get_running_loop().time()),
            ):
                doors.enter_context(mock.patch.object(where, name, door))
            yield

    # the disk

    def on_disk(self, command_id: str = COMMAND_ID) -> Record | None:
        """What a new process would find."""
        store = Store(self.path)
        try:
            return store.find(command_id)
        finally:
            store.close()

    def counters(self) -> dict[str, int]:
        store = Store(self.path)
        try:
            return store.counters()
        finally:
            store.close()

    # tasks

    def spawn(
        self, work: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop | None = None
    ) -> asyncio.Task[None]:
        """A task of the world, which goes on when the process is dead."""
        task = (loop or asyncio.get_running_loop()).create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @contextlib.contextmanager
    def outside(self) -> Iterator[None]:
        """For the task that plays the world: it does not die with the process."""
        task: Any = asyncio.current_task()
        self._tasks.add(task)
        try:
            yield
        finally:
            self._tasks.discard(task)

    async def tear_down(self) -> None:
        self.kill()
        current = asyncio.current_task()
        rest = [task for task in asyncio.all_tasks() if task is not current]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        self.host.close_locks()

    def tasks_of_the_process(self) -> list[asyncio.Task[Any]]:
        """Those that die with it."""
        return list(asyncio.all_tasks() - self._tasks - {asyncio.current_task()})


class _Disk(Store):
    """The store, on a disk that may be full, in a process that may be killed after each commit that tells."""

    def __init__(self, world: World, path: Path, **options: Any) -> None:
        self._world = world
        self.answered: set[str] = set()
        super().__init__(path, now_s=lambda: world.now().timestamp(), **options)

    def _try(self, synchronous: str, work: Callable[[sqlite3.Connection], T]) -> T:
        self._world.check_alive()
        if self._world.disk_is_full and not self.is_in_memory:
            self._world.could_write = False
            raise StoreFull("cannot write the store: database or disk is full")
        result = super()._try(synchronous, work)
        if synchronous == "FULL":
            self._world.flushed_frames = frames(self._world.path)
        return result

    def commit(self, record: Record, letters: Sequence[Letter] = ()) -> None:
        super().commit(record, letters)
        self.answered.add(record.command_id)
        if not self.is_in_memory:
            self._world.committed += letters
        self._world.point()

    def owe_again(self, letters: Sequence[Letter]) -> None:
        super().owe_again(letters)
        self._world.point()

    def strike_out(self, letters: Sequence[int]) -> None:
        super().strike_out(letters)
        self._world.point()

    def open_boot(self, boot: Boot) -> None:
        super().open_boot(boot)
        self._world.point()

    def mark_shutdown(self, boot_id: str, at: str, began: bool = True) -> None:
        super().mark_shutdown(boot_id, at, began)
        self._world.point()

    def report_boot(self, boot_id: str, report: Letter) -> None:
        super().report_boot(boot_id, report)
        self._world.point()

    def count(self, name: str) -> int:
        total = super().count(name)
        self._world.point()
        return total

    def make_room(self) -> None:
        """It takes time, of which there is none here."""


def _is_for_want_of_room(error: BaseException) -> bool:
    """Where that ends the agent, it goes on in memory when it is started again."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_for_want_of_room, error.exceptions))
    return isinstance(error, StoreFull)


_PAGE, _WAL_HEADER, _FRAME_HEADER = 4096, 32, 24


def frames(path: Path) -> int:
    """How many pages the write-ahead log holds, as its index says (https://sqlite.org/walformat.html, mxFrame)."""
    try:
        with path.with_name(path.name + "-shm").open("rb") as index:
            index.seek(16)
            return int.from_bytes(index.read(4), "little")
    except FileNotFoundError:
        return 0


def lose_what_was_not_flushed(path: Path, flushed_frames: int) -> None:
    """What a loss of power leaves of the write-ahead log."""
    log = path.with_name(path.name + "-wal")
    lost = frames(path) - flushed_frames
    if log.exists() and lost > 0:
        with log.open("r+b") as file:
            file.seek(_WAL_HEADER + flushed_frames * (_FRAME_HEADER + _PAGE))
            file.write(bytes(lost * (_FRAME_HEADER + _PAGE)))


class _Clock(app.SystemClock):
    """The world's clocks, in one boot."""

    def __init__(self, world: World) -> None:
        super().__init__(world.boot_id())
        self._world = world

    def boot_clock_s(self) -> float:
        return self._world.boot_clock_s()

    def now(self) -> datetime:
        return self._world.now()


class Life:
    """One run of the agent's process in a World, from its start as `app` has it to its end."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.service: app.Service | None = None
        self.store: Store | None = None
        self._stop: Callable[[], None] = lambda: None

    @property
    def agent(self) -> Agent:
        assert self.service is not None
        return self.service._agent

    def stop(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.deliver(signal.SIGTERM)

    async def live(self) -> None:
        """Until it ends, or is killed."""
        try:
            ends = {asyncio.ensure_future(self._serve()), asyncio.ensure_future(self.world.died.wait())}
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            was_killed = self.world.process_is_dead
            for end in done:
                error = asyncio.CancelledError("it cancelled itself") if end.cancelled() else end.exception()
                if error is not None and not was_killed and not _is_for_want_of_room(error):
                    self.world.faults.append(error)
        finally:
            was_killed = self.world.process_is_dead
            self.world.process_is_dead = True
            tasks = sorted(self.world.tasks_of_the_process(), key=asyncio.Task.get_name)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._let_go_of_the_disk(was_killed)

    async def _serve(self) -> None:
        """As `app._serve`, with the settings of the world."""
        world, clock = self.world, _Clock(self.world)
        not_running = world.path.with_name(app.NOT_RUNNING_NAME)
        self.store, unfit = recovery.open_store(world.path, lambda new: open_boot(new, clock, not_running))
        self.service = app.Service(world.settings, self.store, clock, world.path.parent, unfit)
        try:
            await self.service.run()
        except* StoreUnusable as errors:
            app._set_aside(world.path, errors)
            raise

    def _has_handed_over(self) -> bool:
        return self.service is not None and self.service._starts_again

    def _let_go_of_the_disk(self, was_killed: bool) -> None:
        """Who is killed does not close its files, and SQLite finds them as they were."""
        if self.store is None:
            return
        world = self.world
        if isinstance(self.store, _Disk) and self.store.is_in_memory and not self._has_handed_over():
            world.forgotten |= self.store.answered
            world.has_forgotten_boots = True
        folder, name = world.path.parent, world.path.name
        if was_killed and world._loses_the_unflushed:
            lose_what_was_not_flushed(world.path, world.flushed_frames)
        found = {path: path.read_bytes() for path in folder.glob(f"{name}*")} if was_killed else {}
        self.store.close()
        for path in folder.glob(f"{name}*") if was_killed else ():
            if path not in found:
                path.unlink()
        for path, content in found.items():
            path.write_bytes(content)
