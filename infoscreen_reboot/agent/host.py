"""The host over D-Bus: the helper that may reboot it, logind that announces it, what systemd and timedated know."""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from infoscreen_reboot.agent import boot
from infoscreen_reboot.agent.bus import BUS, CONNECT_TIMEOUT_S, LOST, Bus, ErrorReply, Signal
from infoscreen_reboot.agent.ports import Departure, NoReply, Refusal
from infoscreen_reboot.contract.ack import ErrorCode
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.contract.telemetry import Lockout

log = logging.getLogger(__name__)

_PROPERTY_TIMEOUT_S = 5.0
_RECONNECT_S = 5.0
# logind.conf(5): the default of InhibitDelayMaxSec=.
_DELAY_MAX_S = 5.0

_HELPER = "org.infoscreen.RebootHelper1"
_HELPER_PATH = "/org/infoscreen/RebootHelper1"
_METHODS = {Action.REBOOT_HOST: "Reboot", Action.SHUTDOWN_HOST: "Shutdown"}
_HELPER_CODES = {
    f"{_HELPER}.Error.NotAuthorized": ErrorCode.NOT_AUTHORIZED,
    f"{_HELPER}.Error.Lockout": ErrorCode.LOCKOUT,
    f"{_HELPER}.Error.Inhibited": ErrorCode.INHIBITED,
}
# Said by the bus or by systemd, when the helper has not seen the call.
_NOT_REACHED = (
    "org.freedesktop.DBus.Error.ServiceUnknown",
    "org.freedesktop.DBus.Error.NameHasNoOwner",
    "org.freedesktop.DBus.Error.AccessDenied",
    "org.freedesktop.DBus.Error.TimedOut",
    "org.freedesktop.DBus.Error.Spawn.",
    "org.freedesktop.systemd1.",
)
# Said when the helper may have seen the call and then went away.
_NO_REPLY = ("org.freedesktop.DBus.Error.NoReply", "org.freedesktop.DBus.Error.Timeout")

_LOGIND = "org.freedesktop.login1"
_LOGIND_PATH = "/org/freedesktop/login1"
_MANAGER = "org.freedesktop.login1.Manager"
_SYSTEMD = "org.freedesktop.systemd1"
_SYSTEMD_PATH = "/org/freedesktop/systemd1"
_SYSTEMD_MANAGER = "org.freedesktop.systemd1.Manager"
_UNIT = "org.freedesktop.systemd1.Unit"
_TIMEDATED = "org.freedesktop.timedate1"
_DEPARTURES = {"reboot": Departure.REBOOTING, "power-off": Departure.SHUTTING_DOWN}


class SystemHost:
    """The real host. `on_departure` and `on_stay` are called on the loop as logind announces and takes back."""

    def __init__(self, on_departure: Callable[[Departure], None], on_stay: Callable[[], None]) -> None:
        self._on_departure = on_departure
        self._on_stay = on_stay
        self._bus: Bus | None = None
        self._connected = asyncio.Event()
        self._delay_fd: int | None = None
        self._delay_wanted = asyncio.Event()
        self._announced = Departure.UNKNOWN
        self._logind = ""  # its unique name on the bus
        self._started_s: float | None = None

    async def run(self) -> None:
        """Keep a connection to the system bus, and with it logind's announcements and our delay."""
        while True:
            try:
                await self._serve()
            except (*LOST, TimeoutError) as error:
                log.warning("lost the system bus (%s); next attempt in %.0f s", _words(error), _RECONNECT_S)
            finally:
                self._connected.clear()
                self._bus = None
                self.release_delay()
            await asyncio.sleep(_RECONNECT_S)

    async def _serve(self) -> None:
        bus = Bus(self._on_signal)
        self._logind = ""
        signals = f"type='signal',sender='{_LOGIND}',path='{_LOGIND_PATH}',interface='{_MANAGER}'"
        try:
            await bus.connect(
                f"{signals},member='PrepareForShutdown'",
                f"{signals},member='PrepareForShutdownWithMetadata'",
                f"type='signal',sender='{BUS}',interface='{BUS}',member='NameOwnerChanged',arg0='{_LOGIND}'",
            )
            preparing = await bus.get(_LOGIND, _LOGIND_PATH, _MANAGER, "PreparingForShutdown")
            self._logind = self._logind or str(preparing.sender)
            if preparing.body[0].value:
                # Announced while we were not listening: a restart in the middle of a shutdown.
                self._on_departure(Departure.UNKNOWN)
            else:
                self._delay_wanted.set()
            self._bus = bus
            self._connected.set()
            keeper = asyncio.create_task(self._keep_delay(bus), name="shutdown delay")
            try:
                await bus.lost()
            finally:
                keeper.cancel()
        finally:
            await bus.close()

    async def request(self, action: Action, command_id: str) -> None:
        """Ask the helper; returns on its yes.

        Raises Refusal with the contract's code when nothing will happen, NoReply when that is not known.
        """
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._connected.wait()
        except TimeoutError:
            raise Refusal(ErrorCode.HELPER_UNAVAILABLE, "there is no connection to the system bus") from None
        assert self._bus is not None
        try:
            await self._bus.call(_HELPER, _HELPER_PATH, _HELPER, _METHODS[action], "s", command_id)
        except ErrorReply as error:
            raise _verdict(error) from error
        except (EOFError, OSError, TimeoutError) as error:
            raise NoReply(f"no answer from the helper: {_words(error)}") from error

    async def clock_is_synchronised(self) -> bool:
        """timesyncd's mark, else timedated's word, which is the kernel's own whichever NTP daemon keeps the clock."""
        if boot.timesyncd_says_synchronised():
            return True
        return bool(await self._property(_TIMEDATED, "/org/freedesktop/timedate1", _TIMEDATED, "NTPSynchronized"))

    async def lockout(self) -> Lockout | None:
        """What the helper's record says, for which it has to be started; None where it cannot be asked."""
        match await self._property(_HELPER, _HELPER_PATH, _HELPER, "Lockout"):
            case [int(used), int(limit), int(window_s), str(unlocks_at)]:
                return Lockout(used, limit, window_s, datetime.fromisoformat(unlocks_at) if unlocks_at else None)
        return None

    async def uptime_s(self) -> float:
        """Since PID 1 started; without systemd's word the kernel's, which in a container is the host's."""
        if self._started_s is None:
            started_us = await self._of_systemd("UserspaceTimestampMonotonic")
            if started_us is None:
                return boot.boot_clock_s()
            self._started_s = started_us / 1e6
        return time.monotonic() - self._started_s

    async def unit_state(self, name: str) -> str | None:
        """`active` or what else systemd says of the unit; `not found` where there is none of that name."""
        loaded, state = await self._of_unit(name, "LoadState"), await self._of_unit(name, "ActiveState")
        known = state if loaded == "loaded" else loaded
        return str(known).replace("-", " ") if known else None

    async def active_for_s(self, name: str) -> float:
        since_us = await self._of_unit(name, "ActiveEnterTimestampMonotonic")
        return time.monotonic() - since_us / 1e6 if since_us else 0.0

    async def _of_unit(self, name: str, what: str) -> Any:
        """None where it cannot be had."""
        try:
            async with asyncio.timeout(_PROPERTY_TIMEOUT_S):
                manager = _SYSTEMD, _SYSTEMD_PATH, _SYSTEMD_MANAGER
                reply = await (await self._connection()).call(*manager, "LoadUnit", "s", name)
        except (*LOST, TimeoutError) as error:
            log.debug("cannot ask systemd for %s: %s", name, _words(error))
            return None
        return await self._property(_SYSTEMD, reply.body[0], _UNIT, what)

    async def is_going_down(self) -> bool:
        return bool(await self._of_systemd("SystemState") == "stopping")

    async def watchdog_is_armed(self) -> bool:
        """Whether PID 1 has fed a hardware watchdog within the time after which that would reset the host."""
        if boot.watchdog_is_software():
            return False
        timeout_us = await self._of_systemd("RuntimeWatchdogUSec")
        fed_at_us = await self._of_systemd("WatchdogLastPingTimestampMonotonic")
        if not timeout_us or not fed_at_us:
            return False
        return bool(0 <= time.monotonic() * 1e6 - fed_at_us < timeout_us)

    async def _of_systemd(self, name: str) -> Any:
        return await self._property(_SYSTEMD, _SYSTEMD_PATH, _SYSTEMD_MANAGER, name)

    async def _property(self, to: str, path: str, interface: str, name: str) -> Any:
        """None where it cannot be had."""
        try:
            async with asyncio.timeout(_PROPERTY_TIMEOUT_S):
                return (await (await self._connection()).get(to, path, interface, name)).body[0].value
        except (*LOST, TimeoutError) as error:
            log.debug("cannot ask %s for %s: %s", to, name, _words(error))
            return None

    async def _connection(self) -> Bus:
        await self._connected.wait()
        assert self._bus is not None
        return self._bus

    def delay_max_s(self) -> float:
        return _DELAY_MAX_S

    def release_delay(self) -> None:
        """Our last word is said; the host may go down."""
        if self._delay_fd is not None:
            os.close(self._delay_fd)
            self._delay_fd = None

    async def _keep_delay(self, bus: Bus) -> None:
        """Hold a delay inhibitor whenever the host is staying up."""
        what = ("shutdown", "infoscreen-simclient", "tell the controller before the host goes down", "delay")
        while True:
            await self._delay_wanted.wait()
            self._delay_wanted.clear()
            self.release_delay()
            try:
                reply = await bus.call(_LOGIND, _LOGIND_PATH, _MANAGER, "Inhibit", "ssss", *what)
            except (*LOST, TimeoutError) as error:
                # Announcements still come, only without time to spare: what is owed is delivered after the boot.
                log.warning("cannot take a shutdown delay: %s", _words(error))
            else:
                self._delay_fd = reply.unix_fds[0]

    def _on_signal(self, signal: Signal) -> None:
        if signal.sender == BUS and signal.member == "NameOwnerChanged" and signal.body[0] == _LOGIND:
            self._logind = signal.body[2]
        elif signal.sender == self._logind and signal.interface == _MANAGER:
            self._on_announcement(str(signal.member), signal.body)

    def _on_announcement(self, member: str, body: list[Any]) -> None:
        match member, body:
            # Where logind knows the newer signal it sends it first (systemd 255), so the old one is the cue.
            case "PrepareForShutdownWithMetadata", [True, dict() as metadata]:
                kind = metadata["type"].value if "type" in metadata else ""
                self._announced = _DEPARTURES.get(kind, Departure.UNKNOWN)
            case "PrepareForShutdown", [True]:
                self._on_departure(self._announced)
            case "PrepareForShutdown", [False]:
                self._announced = Departure.UNKNOWN
                self._delay_wanted.set()
                self._on_stay()


def _verdict(error: ErrorReply) -> Refusal | NoReply:
    """What an error reply says about the host: it stays up, and why, or nothing."""
    name = str(error.type)
    if name.startswith(_NO_REPLY):
        return NoReply(f"no answer from the helper: {error.text}")
    if name.startswith(_NOT_REACHED):
        return Refusal(ErrorCode.HELPER_UNAVAILABLE, f"the helper cannot be reached: {error.text}")
    return Refusal(_HELPER_CODES.get(name, ErrorCode.HELPER_FAILED), error.text or name)


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
