"""A world for the agent: virtual time, a broker, a host with a helper, and a crash at any chosen point.

Journal, outbox and agent are the real ones, on a real file; only what lies beyond the ports is pretended.
"""

import asyncio
import contextlib
import selectors
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from infoscreen_reboot.agent.agent import Agent
from infoscreen_reboot.agent.boots import Boot
from infoscreen_reboot.agent.config import Settings
from infoscreen_reboot.agent.journal import Journal, JournalError, Letter
from infoscreen_reboot.agent.lifecycle import Record
from infoscreen_reboot.agent.monitor import open_boot
from infoscreen_reboot.agent.outbox import Outbox
from infoscreen_reboot.agent.ports import Departure, Signatures
from infoscreen_reboot.agent.presence import StatusWriter
from infoscreen_reboot.contract import ack, command
from infoscreen_reboot.contract.ack import Ack
from infoscreen_reboot.contract.command import Action, Command
from infoscreen_reboot.contract.telemetry import Executor
from infoscreen_reboot.contract.topics import Topics
from infoscreen_reboot.mqtt import BrokerSettings, Delivery, Message, NotDelivered, Redeliver

CLIENT = "9b8d1856-ff34-4864-a726-12de072d0f77"
COMMAND_ID = "5d1f8b4b-7e85-44fb-8f38-3f5d5da5e2e4"
OTHER_ID = "0d1f8b4b-7e85-44fb-8f38-3f5d5da5e2e4"
TOPICS = Topics(CLIENT)
START = datetime(2026, 4, 3, 12, 48, 10, tzinfo=UTC)
BOOTS = [f"{n:08x}-d9cb-469f-a165-70867728950e" for n in range(1, 20)]


class Crash(BaseException):
    """The process is gone; nothing it still wanted to do happens."""


class _VirtualSelector(selectors.DefaultSelector):
    """Does not wait: lets the loop's clock jump to what it would have waited for."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("everything waits for something that will never come")
        if not ready and timeout is not None:
            self.now += timeout
        return ready


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.virtual = _VirtualSelector()
        super().__init__(self.virtual)

    def time(self) -> float:
        return self.virtual.now


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run on virtual time: a wait of a minute takes none."""
    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        runner.get_loop().set_exception_handler(_report_all_but_crashes)
        runner.run(coroutine)


def _report_all_but_crashes(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if not isinstance(context.get("exception"), Crash):
        loop.default_exception_handler(context)


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
    broker_is_up: bool = True
    # What the helper does: "down" takes the host down, "nothing" says yes and does nothing, "kill" kills the
    # agent before it hears the yes; an exception is raised.
    helper: str | Exception = "down"
    judging_breaks: bool = False
    disk_is_full: bool = False
    crash_at: int | None = None
    crash_cuts_power: bool = False
    # What systemd says of any unit in the boot with that number; "active" for the others.
    unit_states: dict[int, str] = field(default_factory=dict)
    is_stopping: bool = False

    points: int = 0
    boots: int = 0
    helper_calls: list[tuple[Action, str]] = field(default_factory=list)
    queue: list[Delivery] = field(default_factory=list)
    received: list[Letter] = field(default_factory=list)
    statuses: list[bytes] = field(default_factory=list)
    committed: list[Letter] = field(default_factory=list)
    departing: bool = False
    delay_released: bool = False
    host_is_down: bool = False
    process_is_dead: bool = False
    died: asyncio.Event = field(default_factory=asyncio.Event)
    at_crash: Record | None = None
    life: "Life | None" = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _boot_started_s: float = 0.0

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

    # the clock

    def boot_id(self) -> str:
        return BOOTS[self.boots]

    def boot_clock_s(self) -> float:
        return asyncio.get_running_loop().time() - self._boot_started_s

    def now(self) -> datetime:
        if self.judging_breaks and self.queue:
            self.judging_breaks = False
            raise RuntimeError("a bug")
        return START + timedelta(seconds=asyncio.get_running_loop().time()) + self.wall_offset

    # the broker

    def send(
        self,
        content: bytes,
        topic: str = TOPICS.commands,
        retain: bool = False,
        properties: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Delivered now if the agent is connected; queued until it gives a PUBACK."""
        self.queue.append(Delivery(topic, content, retain, tuple(properties)))
        if self.life is not None and not self.process_is_dead:
            with contextlib.suppress(Crash):
                self.life.take_delivery()

    def acks(self, command_id: str = COMMAND_ID, tail: str = "/commands/ack") -> list[Ack]:
        heard = [ack.parse(letter.payload) for letter in self.received if letter.topic.endswith(tail)]
        return [answer for answer in heard if answer.command_id == command_id]

    def story(self, command_id: str = COMMAND_ID) -> list[str]:
        """What the controller heard, in order; the code in place of `failed`."""
        return [str(answer.error_code or answer.status) for answer in self.acks(command_id)]

    # the host

    def announce(self, kind: Departure) -> None:
        """logind: PrepareForShutdown(true)."""
        self.departing, self.delay_released = True, False
        self._tell(lambda agent: agent.on_departure(kind))

    def take_back(self) -> None:
        """logind: PrepareForShutdown(false)."""
        self.departing = False
        self._tell(lambda agent: agent.on_stay())

    def _tell(self, say: Callable[[Agent], None]) -> None:
        if self.life is not None and not self.process_is_dead:
            with contextlib.suppress(Crash):
                say(self.life.agent)

    def go_down(self, kind: Departure) -> None:
        """Announce it, wait for the agent's delay at most 5 s, and be down."""
        self.announce(kind)
        task = asyncio.ensure_future(self._go_down())
        self._tasks.add(task)

    async def _go_down(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                while not (self.delay_released or self.process_is_dead):
                    await asyncio.sleep(0.05)
        self.host_is_down = True
        self.kill()

    async def play(self, nature: Callable[[], Awaitable[None]], for_s: float = 400) -> None:
        """Let `nature` happen, start the agent whenever it is dead, end `for_s` seconds after nature."""

        async def until_quiet() -> None:
            await nature()
            await asyncio.sleep(for_s)

        end = asyncio.ensure_future(until_quiet())
        self._tasks.add(end)
        while not end.done():
            self.process_is_dead = False
            self.died.clear()
            self.life = Life(self)
            await self.life.live(end)
            if self.process_is_dead and self.points == self.crash_at:
                self.crash_at = None
                self.at_crash = self.on_disk()
                self.host_is_down |= self.crash_cuts_power
            if self.host_is_down:
                self.reboot()
        end.result()

    def on_disk(self, command_id: str = COMMAND_ID) -> Record | None:
        """What a new process would find."""
        journal = Journal(self.path)
        try:
            return journal.find(command_id)
        finally:
            journal.close()

    def counters(self) -> dict[str, int]:
        journal = Journal(self.path)
        try:
            return journal.counters()
        finally:
            journal.close()

    def reboot(self) -> None:
        """The kernel starts anew."""
        self.boots += 1
        self.departing = self.host_is_down = False
        self._boot_started_s = asyncio.get_running_loop().time()

    def stop_life(self) -> Sequence[asyncio.Task[Any]]:
        """The tasks that die with the process."""
        return list(asyncio.all_tasks() - self._tasks - {asyncio.current_task()})


class _CrashingJournal(Journal):
    def __init__(self, path: Path, world: World) -> None:
        super().__init__(path)
        self._world = world

    def commit(self, record: Record, letters: Sequence[Letter] = ()) -> None:
        self._world.check_alive()
        if self._world.disk_is_full:
            raise JournalError("cannot write the journal: database or disk is full")
        super().commit(record, letters)
        self._world.committed += letters
        self._world.point()

    def owe_again(self, letters: Sequence[Letter]) -> None:
        self._world.check_alive()
        super().owe_again(letters)
        self._world.point()

    def strike_out(self, letters: Sequence[int]) -> None:
        self._world.check_alive()
        super().strike_out(letters)
        self._world.point()

    def open_boot(self, boot: Boot) -> None:
        self._world.check_alive()
        super().open_boot(boot)
        self._world.point()

    def mark_shutdown(self, boot_id: str, at: str, began: bool = True) -> None:
        self._world.check_alive()
        super().mark_shutdown(boot_id, at, began)
        self._world.point()

    def count(self, name: str) -> int:
        self._world.check_alive()
        total = super().count(name)
        self._world.point()
        return total


class Life:
    """One run of the agent's process in a World; it is the agent's way to the broker and to the host."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.left = False
        self._line = asyncio.Lock()  # a TCP connection: first in, first out
        self.journal = _CrashingJournal(world.path, world)
        self.outbox = Outbox(self.journal, self)
        status = StatusWriter(CLIENT, world)
        self.agent = Agent(
            world.settings, self.journal, self.outbox, self, self, world, status.write, signatures=world.signatures
        )

    async def live(self, end: asyncio.Task[None]) -> None:
        """Until the process is dead, or `end` comes."""
        parts: list[asyncio.Future[Any]] = []
        try:
            open_boot(self.journal, self.world, self.world.path.with_name("not-running-in"))
            self.agent.wake()
            if self.world.departing:
                self.agent.on_departure(Departure.UNKNOWN)
            work = (self.outbox.run(), self.agent.run(), self._take_deliveries(), self.world.died.wait())
            parts = [asyncio.ensure_future(part) for part in work]
            done, _ = await asyncio.wait([*parts, end], return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
        except Crash:
            pass
        finally:
            tasks = self.world.stop_life()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.journal.close()

    def take_delivery(self) -> None:
        """The broker delivers until it has a PUBACK."""
        if self.world.queue and self.world.broker_is_up and not self.left:
            with contextlib.suppress(Redeliver):
                self.agent.on_message(self.world.queue[0])
                self.world.point()
                self.world.queue.pop(0)

    async def _take_deliveries(self) -> None:
        while True:
            self.take_delivery()
            await asyncio.sleep(0.25)

    def send(self, message: Message) -> asyncio.Future[None]:
        return asyncio.ensure_future(self._deliver(message))

    async def _deliver(self, message: Message) -> None:
        self.world.point()
        async with self._line:
            await asyncio.sleep(0.001)
        if not self.world.broker_is_up or self.left:
            raise NotDelivered("the broker is away")
        self.world.check_alive()
        self.world.received.append(Letter(message.topic, message.payload))
        self.world.point()

    async def wait_connected(self) -> None:
        while not self.world.broker_is_up or self.left:
            await asyncio.sleep(1)

    async def leave(self, farewell: Message, timeout_s: float) -> None:
        self.world.point()
        if self.world.broker_is_up:
            self.world.statuses.append(farewell.payload)
        self.left = True
        self.world.point()

    def come_back(self) -> None:
        self.left = False

    async def request(self, action: Action, command_id: str) -> None:
        self.world.point()
        self.world.helper_calls.append((action, command_id))
        match self.world.helper:
            case Exception() as refusal:
                raise refusal
            case "down":
                self.world.go_down(Departure.UNKNOWN)
            case "kill":
                self.world.kill()
        self.world.point()

    async def clock_is_synchronised(self) -> bool:
        return self.world.clock_synchronised

    async def uptime_s(self) -> float:
        return self.world.boot_clock_s()

    async def unit_state(self, name: str) -> str | None:
        self.world.point()
        return self.world.unit_states.get(self.world.boots, "active")

    async def active_for_s(self, name: str) -> float:
        return 1000.0

    async def is_going_down(self) -> bool:
        return self.world.is_stopping

    def delay_max_s(self) -> float:
        return 5.0

    def release_delay(self) -> None:
        self.world.point()
        self.world.delay_released = True
