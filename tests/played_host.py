"""The machine as seen from its system bus: logind, the helper, systemd and timedated, and the bus that gets lost.

`agent.host.SystemHost` is the real one; what stands in here is `agent.bus.Bus`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from infoscreen_reboot.client.agent.bus import BUS, REPLY_TIMEOUT_S, ErrorReply
from infoscreen_reboot.client.agent.ports import NoReply, Refusal
from infoscreen_reboot.contract.ack import ErrorCode
from infoscreen_reboot.contract.command import Action
from tests.virtual import Crash

LOGIND, HELPER, SYSTEMD = "org.freedesktop.login1", "org.infoscreen.RebootHelper1", "org.freedesktop.systemd1"
MANAGER = f"{LOGIND}.Manager"
_ACTIONS = {"Reboot": Action.REBOOT_HOST, "Shutdown": Action.SHUTDOWN_HOST}
# TimeoutStopSec= of the agent's unit, after which systemd kills it.
STOP_TIMEOUT_S = 10.0


class Kind(Enum):
    """What logind can be asked for, in its own words."""

    REBOOT = "reboot"
    POWER_OFF = "poweroff"
    SOFT_REBOOT = "soft-reboot"
    HALT = "halt"
    KEXEC = "kexec"


@dataclass(frozen=True)
class Value:
    value: Any


@dataclass(frozen=True)
class Reply:
    sender: str
    body: list[Any] = field(default_factory=list)
    unix_fds: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Signal:
    sender: str
    path: str
    interface: str
    member: str
    body: list[Any]


@dataclass
class Departure:
    """One shutdown that logind was asked for; `by` is the command for which the helper asked."""

    kind: Kind
    by: str | None
    boot_id: str
    # The run of the agent that was there at the announcement, and whether it was online and on the bus.
    life: int
    was_online: bool
    was_told: bool
    is_taken_back: bool = False
    went_through: bool = False


class Machine(Protocol):
    """What the played host needs to know of the world around it."""

    clock_synchronised: bool
    unit_states: dict[int, str]
    boots: int
    lives: int
    process_is_dead: bool

    def point(self) -> None: ...
    def check_alive(self) -> None: ...
    def kill(self) -> None: ...
    def terminate(self) -> None: ...
    def is_online(self) -> bool: ...
    def boot_id(self) -> str: ...
    def boot_clock_s(self) -> float: ...
    def go_dark(self, kind: Kind) -> None:
        """The kernel stops, or starts userspace anew."""

    def spawn(self, work: Any) -> asyncio.Task[None]: ...


class PlayedHost:
    """It outlives the agent's processes and the boots; the helper's record does, too."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        # What the helper does: "down" takes the host down, "nothing" says yes and does nothing, "kill" kills the
        # agent before it hears the yes, "silent" takes the host down and its answer is lost, "hang" never answers.
        # An exception is raised: a Refusal, or NoReply.
        self.helper: str | Exception = "down"
        self.helper_takes_s = 0.0
        self.announces_types = True
        self.inhibit_delay_max_s = 5.0
        # Somebody else's delay lock is held so long after the announcement.
        self.others_hold_s = 0.0
        # systemd refuses the job when the delays are over (RefuseManualStart=, a failed dependency).
        self.refuses_the_job = False
        self.is_stopping = False
        self.bus_is_up = True
        self.logind_is_up = True
        self.departures: list[Departure] = []
        self.departure: Departure | None = None
        self.executed: list[tuple[Action, str]] = []
        self.helper_calls: list[tuple[Action, str]] = []
        self.buses: list[PlayedBus] = []
        self.taken_back_at_s = 0.0
        self.unit_looks = 0
        # The helper's, at work whether or not anybody still waits for its answer.
        self.calls: set[asyncio.Task[None]] = set()
        self._logind_number = 1
        self._locks: list[int] = []
        self._flow: asyncio.Task[None] | None = None

    @property
    def logind_name(self) -> str:
        return f":1.{self._logind_number}"

    # logind

    def depart(self, kind: Kind, by: str | None = None) -> Departure:
        """Announce it, wait for the delays, and take the host down, unless it is taken back."""
        departure = self.announce(kind, by)
        self._flow = self.machine.spawn(self._go_through(departure))
        return departure

    def announce(self, kind: Kind, by: str | None = None) -> Departure:
        machine, was_told = self.machine, bool(self.buses) and not self.machine.process_is_dead
        departure = Departure(kind, by, machine.boot_id(), machine.lives, machine.is_online(), was_told)
        self.departures.append(departure)
        self.departure = departure
        if self.announces_types:
            self._signal("PrepareForShutdownWithMetadata", True, {"type": Value(kind.value)})
        self._signal("PrepareForShutdown", True)
        return departure

    def take_back(self) -> None:
        """By logind: the shutdown was cancelled, or its job failed."""
        if self._withdraw():
            if self.announces_types:
                self._signal("PrepareForShutdownWithMetadata", False, {})
            self._signal("PrepareForShutdown", False)

    def replace_logind(self) -> None:
        """A new logind knows nothing of the departure and of the delays, and says nothing of either."""
        self._withdraw()
        self.lose_logind()
        self.find_logind()

    def lose_logind(self) -> None:
        """It ended: the name has no owner."""
        self._withdraw()
        old, self.logind_is_up = self.logind_name, False
        self._tell_owner(old, "")

    def find_logind(self) -> None:
        self._logind_number += 100
        self.logind_is_up = True
        self._tell_owner("", self.logind_name)

    def _tell_owner(self, old: str, new: str) -> None:
        self._emit(Signal(BUS, "/org/freedesktop/DBus", BUS, "NameOwnerChanged", [LOGIND, old, new]))

    def _withdraw(self) -> bool:
        if self.departure is None or self.is_stopping:
            return False
        self.departure.is_taken_back = True
        self.taken_back_at_s = asyncio.get_running_loop().time()
        self.departure = None
        if self._flow is not None:
            self._flow.cancel()
            self._flow = None
        return True

    def lose_bus(self) -> None:
        self.bus_is_up = False
        for bus in list(self.buses):
            bus.lose()

    def find_bus(self) -> None:
        self.bus_is_up = True

    async def _go_through(self, departure: Departure) -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        while (waited_s := loop.time() - began_s) < self.inhibit_delay_max_s:
            if not self._is_delayed() and waited_s >= self.others_hold_s:
                break
            await asyncio.sleep(0.05 if waited_s < 5 else 1)
        if self.refuses_the_job:
            self._flow = None
            self.take_back()
            return
        self.is_stopping = True
        self.machine.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                while not self.machine.process_is_dead:
                    await asyncio.sleep(0.01)
        departure.went_through = True
        self._flow = None
        self.machine.go_dark(departure.kind)

    def _is_delayed(self) -> bool:
        for lock in list(self._locks):
            try:
                is_over = os.read(lock, 1) == b""
            except BlockingIOError:
                continue
            if is_over:
                self._locks.remove(lock)
                os.close(lock)
        return bool(self._locks)

    def inhibit(self) -> int:
        """The descriptor that the caller closes when it has nothing against it any more."""
        ours, theirs = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._locks.append(ours)
        return theirs

    def reset(self) -> None:
        """Everything on the bus is new: after a boot, and after a soft-reboot."""
        for call in list(self.calls):
            call.cancel()
        self.departure, self._flow = None, None
        self.is_stopping = False
        self.bus_is_up = self.logind_is_up = True
        self.unit_looks = 0
        self._logind_number += 1
        self.close_locks()

    def lose_power(self) -> None:
        for call in list(self.calls):
            call.cancel()
        if self._flow is not None:
            self._flow.cancel()
        self._flow = None

    def close_locks(self) -> None:
        while self._locks:
            os.close(self._locks.pop())

    def _signal(self, member: str, *body: Any) -> None:
        self._emit(Signal(self.logind_name, "/org/freedesktop/login1", MANAGER, member, list(body)))

    def _emit(self, message: Signal) -> None:
        for bus in list(self.buses):
            bus.hear(message)

    # the helper

    async def order(self, method: str, command_id: str) -> None:
        """Returns on its yes; raises what the bus would say."""
        call: Any = asyncio.current_task()
        self.calls.add(call)
        try:
            await self._order(_ACTIONS[method], command_id)
        finally:
            self.calls.discard(call)

    async def _order(self, action: Action, command_id: str) -> None:
        self.machine.point()
        self.helper_calls.append((action, command_id))
        behaviour, takes_s = self.helper, self.helper_takes_s
        if takes_s:
            await asyncio.sleep(takes_s)
        if command_id in (executed for _, executed in self.executed):
            raise ErrorReply(f"{HELPER}.Error.AlreadyExecuted", f"command {command_id} was executed before")
        match behaviour:
            case Refusal():
                raise _error(behaviour)
            case NoReply(is_over=True):
                raise ErrorReply("org.freedesktop.DBus.Error.NoReply", str(behaviour))
            case NoReply() | "hang":
                await asyncio.sleep(100)
                raise ErrorReply("org.freedesktop.DBus.Error.NoReply", "it hangs longer than anybody waits")
            case "kill":
                self.machine.kill()
        if not self.logind_is_up:
            raise ErrorReply(f"{HELPER}.Error.Failed", "org.freedesktop.login1 did not answer ListInhibitors")
        # It writes the record before it asks logind.
        self.executed.append((action, command_id))
        if behaviour in ("down", "silent"):
            if self.departure is not None:
                raise ErrorReply(f"{HELPER}.Error.Failed", "There's already a shutdown or sleep operation in progress")
            # logind announces it, and answers after that.
            self.depart(Kind.REBOOT if action is Action.REBOOT_HOST else Kind.POWER_OFF, by=command_id)
        if behaviour == "silent":
            raise ErrorReply("org.freedesktop.DBus.Error.NoReply", "it went away")
        self.machine.point()

    # properties

    def property(self, interface: str, path: str, name: str) -> Any:
        match interface, name:
            case "org.freedesktop.login1.Manager", "PreparingForShutdown":
                return self.departure is not None
            case "org.freedesktop.login1.Manager", "InhibitDelayMaxUSec":
                return int(self.inhibit_delay_max_s * 1e6)
            case "org.infoscreen.RebootHelper1", "Lockout":
                return [0, 3, 900, ""]
            case "org.freedesktop.systemd1.Manager", "UserspaceTimestampMonotonic":
                now_s = asyncio.get_running_loop().time()
                return int((now_s - self.machine.boot_clock_s()) * 1e6)
            case "org.freedesktop.systemd1.Manager", "SystemState":
                return "stopping" if self.is_stopping else "running"
            case "org.freedesktop.systemd1.Manager", "RuntimeWatchdogUSec" | "WatchdogLastPingTimestampMonotonic":
                return 0
            case "org.freedesktop.systemd1.Unit", "LoadState":
                return "loaded"
            case "org.freedesktop.systemd1.Unit", "ActiveState":
                return self.machine.unit_states.get(self.machine.boots, "active")
            case "org.freedesktop.systemd1.Unit", "ActiveEnterTimestampMonotonic":
                return int((asyncio.get_running_loop().time() - 1000) * 1e6)
            case "org.freedesktop.timedate1", "NTPSynchronized":
                return self.machine.clock_synchronised
        raise AssertionError(f"nobody has said what {interface} has as {name} of {path}")


def _error(refusal: Refusal) -> ErrorReply:
    """As the helper, or the bus in its place, would say it."""
    own = {
        ErrorCode.NOT_AUTHORIZED: "NotAuthorized",
        ErrorCode.LOCKOUT: "Lockout",
        ErrorCode.INHIBITED: "Inhibited",
        ErrorCode.HELPER_FAILED: "Failed",
    }
    if refusal.code in own:
        return ErrorReply(f"{HELPER}.Error.{own[refusal.code]}", refusal.message)
    assert refusal.code is ErrorCode.HELPER_UNAVAILABLE, f"the helper cannot say {refusal.code}"
    return ErrorReply("org.freedesktop.DBus.Error.ServiceUnknown", refusal.message)


class PlayedBus:
    """One connection of the agent, as `agent.bus.Bus`."""

    def __init__(self, host: PlayedHost, on_signal: Callable[[Any], None]) -> None:
        self._host = host
        self._on_signal = on_signal
        self._lost = asyncio.Event()
        self.unique_name = ":1.5"

    async def connect(self, *rules: str) -> None:
        self._host.machine.check_alive()
        await asyncio.sleep(0.001)
        if not self._host.bus_is_up:
            raise OSError("no such file or directory")
        self._host.buses.append(self)

    async def lost(self) -> None:
        await self._lost.wait()
        raise EOFError("the bus closed the connection")

    async def close(self) -> None:
        self._leave()

    async def get(self, to: str, path: str, interface: str, name: str) -> Reply:
        await self._reach(to)
        if interface == "org.freedesktop.systemd1.Unit" and name == "LoadState":
            self._host.unit_looks += 1
            if self._host.unit_looks <= 3:  # the same each second after that
                self._host.machine.point()
        return Reply(self._sender(to), [Value(self._host.property(interface, path, name))])

    async def call(
        self,
        to: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        *body: Any,
        timeout_s: float | None = None,
    ) -> Reply:
        await self._reach(to)
        match interface, member:
            case "org.infoscreen.RebootHelper1", "Reboot" | "Shutdown":
                await self._answered(self._host.order(member, body[0]), timeout_s or REPLY_TIMEOUT_S)
                return Reply(":1.7")
            case "org.freedesktop.login1.Manager", "Inhibit":
                return Reply(self._sender(to), [0], [self._host.inhibit()])
            case "org.freedesktop.systemd1.Manager", "LoadUnit":
                return Reply(self._sender(to), [f"/org/freedesktop/systemd1/unit/{body[0]}"])
            case "org.freedesktop.DBus", "GetNameOwner":
                return Reply(BUS, [self._sender(body[0])])
        raise AssertionError(f"nobody has said what {interface}.{member} does")

    async def _answered(self, work: Any, timeout_s: float) -> None:
        """The work goes on, whether or not the caller waits for its answer or is there for it."""
        task = self._host.machine.spawn(work)
        lost = asyncio.ensure_future(self._lost.wait())
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.wait({task, lost}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            lost.cancel()
            task.add_done_callback(_look_away)
        if not task.done() or task.cancelled():
            raise EOFError("the bus closed the connection")
        task.result()

    async def _reach(self, to: str) -> None:
        """The way there and back takes a turn of the loop."""
        self._host.machine.check_alive()
        await asyncio.sleep(0)
        if self not in self._host.buses:
            raise EOFError("the bus closed the connection")
        if to == LOGIND and not self._host.logind_is_up:
            raise ErrorReply("org.freedesktop.DBus.Error.NameHasNoOwner", "logind is away")

    def _sender(self, to: str) -> str:
        return self._host.logind_name if to == LOGIND else ":1.3"

    def hear(self, message: Signal) -> None:
        """As it comes: what the bus delivered before is done, and the answer to a call comes after it."""
        if not self._host.machine.process_is_dead:
            with contextlib.suppress(Crash):
                self._on_signal(message)

    def lose(self) -> None:
        self._leave()

    def _leave(self) -> None:
        if self in self._host.buses:
            self._host.buses.remove(self)
        self._lost.set()


def _look_away(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()
