"""The real host, over D-Bus: asks the helper, follows logind's announcements, reads what systemd and timedated know."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from infoscreen_reboot.client import kernel
from infoscreen_reboot.client.agent.bus import BUS, CONNECT_TIMEOUT_S, LOST, Bus, ErrorReply, Signal, address
from infoscreen_reboot.client.agent.ports import HELPER_S, Departure, NoReply, Refusal
from infoscreen_reboot.contract.ack import ErrorCode
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.contract.telemetry import Lockout

log = logging.getLogger(__name__)

_PROPERTY_TIMEOUT_S = 5.0
# A shutdown may have been taken back while the bus was away. Until we know that, we do not connect to the broker again.
_RECONNECT_S = 2.0
_ASK_AGAIN_S = 10.0
# How long we believe the announcement of a logind that is gone. A new logind is there sooner.
_BELIEVED_S = 3.0
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
# Errors from the bus or from systemd: the helper has not seen the call.
_NOT_REACHED = (
    "org.freedesktop.DBus.Error.ServiceUnknown",
    "org.freedesktop.DBus.Error.NameHasNoOwner",
    "org.freedesktop.DBus.Error.AccessDenied",
    "org.freedesktop.DBus.Error.TimedOut",
    "org.freedesktop.DBus.Error.Spawn.",
    "org.freedesktop.systemd1.",
)
# Errors that leave open whether the call was carried out.
_NO_REPLY = ("org.freedesktop.DBus.Error.NoReply", "org.freedesktop.DBus.Error.Timeout")

_LOGIND = "org.freedesktop.login1"
_LOGIND_PATH = "/org/freedesktop/login1"
_MANAGER = "org.freedesktop.login1.Manager"
_SYSTEMD = "org.freedesktop.systemd1"
_SYSTEMD_PATH = "/org/freedesktop/systemd1"
_SYSTEMD_MANAGER = "org.freedesktop.systemd1.Manager"
_UNIT = "org.freedesktop.systemd1.Unit"
_TIMEDATED = "org.freedesktop.timedate1"
# logind's words. Its manual says "power-off", but it sends "poweroff" (systemd 257). A halt is missing here because the
# helper never orders one: it orders a power-off.
_DEPARTURES = {
    "reboot": Departure.REBOOTING,
    "kexec": Departure.REBOOTING,
    "poweroff": Departure.SHUTTING_DOWN,
    "power-off": Departure.SHUTTING_DOWN,
}


class SystemHost:
    """The real host. When logind announces that the host goes down, `on_departure` is called on the loop.

    When logind takes that back, `on_stay` is called. A departure also counts as taken back if the logind that announced
    it is gone, and the new logind knows of none (or, if there is no new one, systemd).
    """

    def __init__(self, on_departure: Callable[[Departure], None], on_stay: Callable[[], None]) -> None:
        self._on_departure = on_departure
        self._on_stay = on_stay
        self._bus: Bus | None = None
        self._connected = asyncio.Event()
        self._delay_fd: int | None = None
        self._delay_wanted = asyncio.Event()
        self._delay_max_s = _DELAY_MAX_S
        self._announced = Departure.UNKNOWN
        self._logind = ""  # its unique name on the bus
        self._logind_is_new = asyncio.Event()
        # Counts logind's announcements, and how often logind went or came. An older answer of logind is out of date.
        self._logind_news = 0
        # The unique name of the logind whose departure we have reported and not taken back; None if there is none.
        # "" if we learned of the departure by asking, or before the bus was away.
        self._announcer: str | None = None
        self._doubt: asyncio.Task[None] | None = None
        self._trouble: str | None = None
        self._started_s: float | None = None

    async def run(self) -> None:
        """Keep a connection to the system bus; on it follow logind's announcements and hold our delay."""
        while True:
            try:
                await self._serve()
            except (*LOST, TimeoutError) as error:
                self._complain(f"cannot use the system bus at {address()}: {_words(error)}")
            finally:
                self._connected.clear()
                self._bus = None
                self.release_delay()
            self._doubt_departure()
            await asyncio.sleep(_RECONNECT_S)

    def _complain(self, trouble: str) -> None:
        """Warn once: a bus that is away for days would fill the journal with the same line."""
        log.log(logging.DEBUG if trouble == self._trouble else logging.WARNING, "%s", trouble)
        self._trouble = trouble

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
            if self._trouble is not None:
                log.info("the system bus at %s is there", address())
                self._trouble = None
            if self._announcer is not None:
                self._announcer = ""  # the unique names may have changed
            parts = [
                asyncio.create_task(bus.lost(), name="system bus"),
                asyncio.create_task(self._follow_logind(bus), name="logind"),
                asyncio.create_task(self._keep_delay(bus), name="shutdown delay"),
            ]
            try:
                done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for part in parts:
                    part.cancel()
                await asyncio.gather(*parts, return_exceptions=True)
            for part in done:
                part.result()
        finally:
            await bus.close()

    async def _follow_logind(self, bus: Bus) -> None:
        """Ask logind whether the host is going down: at first, and whenever a new logind has started."""
        while True:
            self._logind_is_new.clear()
            again_after_s = None
            try:
                async with asyncio.timeout(_PROPERTY_TIMEOUT_S):
                    await self._ask_logind(bus)
            except (ErrorReply, TimeoutError) as error:
                log.debug("cannot ask logind: %s", _words(error))
                again_after_s = _ASK_AGAIN_S
            # Not earlier: the agent must know whether the host is going down before it can ask the helper.
            self._bus = bus
            self._connected.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(again_after_s):
                    await self._logind_is_new.wait()

    async def _ask_logind(self, bus: Bus) -> None:
        news = self._logind_news
        preparing = await bus.get(_LOGIND, _LOGIND_PATH, _MANAGER, "PreparingForShutdown")
        if news != self._logind_news:
            pass  # an announcement that came meanwhile is newer
        elif not preparing.body[0].value:
            self._tell_stay()
            self._delay_wanted.set()
        elif self._announcer is None:
            # logind announced it when we were not listening: the agent was restarted in the middle of a shutdown.
            self._tell_departure(Departure.UNKNOWN, "")
        else:
            self._stop_doubting()
        if news == self._logind_news:
            self._logind = str(preparing.sender)
        delay_max_us = await bus.get(_LOGIND, _LOGIND_PATH, _MANAGER, "InhibitDelayMaxUSec")
        self._delay_max_s = delay_max_us.body[0].value / 1e6

    def _tell_departure(self, kind: Departure, announcer: str) -> None:
        self._stop_doubting()
        if self._announcer not in (None, announcer):
            self._on_stay()  # the departure of the earlier logind is void; this is a new one
        self._announcer = announcer
        self._on_departure(kind)

    def _tell_stay(self) -> None:
        self._stop_doubting()
        self._announced = Departure.UNKNOWN
        if self._announcer is not None:
            self._announcer = None
            self._on_stay()

    def _doubt_departure(self) -> None:
        """The logind that announced a departure is gone, or the bus is: the departure may be void."""
        if self._announcer is not None and self._doubt is None:
            self._doubt = asyncio.create_task(self._disbelieve(), name="doubt")

    def _stop_doubting(self) -> None:
        if self._doubt is not None and self._doubt is not asyncio.current_task():
            self._doubt.cancel()
        self._doubt = None

    async def _disbelieve(self) -> None:
        """No logind confirms the departure: take it back, unless systemd is already stopping everything."""
        await asyncio.sleep(_BELIEVED_S)
        while await self.is_going_down():
            await asyncio.sleep(_BELIEVED_S)
        log.warning("nobody knows of the announced shutdown any more; going on")
        self._tell_stay()
        self._delay_wanted.set()

    async def request(self, action: Action, command_id: str) -> None:
        """Ask the helper; returns when it says yes.

        Raises Refusal with the contract's code if nothing will happen, NoReply if that is not known.
        """
        until_s = asyncio.get_running_loop().time() + HELPER_S
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._connected.wait()
        except TimeoutError:
            raise Refusal(ErrorCode.HELPER_UNAVAILABLE, "there is no connection to the system bus") from None
        assert self._bus is not None
        order = _HELPER, _HELPER_PATH, _HELPER, _METHODS[action]
        left_s = until_s - asyncio.get_running_loop().time()
        try:
            await self._bus.call(*order, "s", command_id, timeout_s=left_s)
        except ErrorReply as error:
            raise _verdict(error) from error
        except (EOFError, OSError, TimeoutError) as error:
            raise NoReply(f"no answer from the helper: {_words(error)}") from error

    async def clock_is_synchronised(self) -> bool:
        """Look for timesyncd's mark, else ask timedated: it reports the kernel's state, so any NTP daemon will do."""
        if kernel.timesyncd_says_synchronised():
            return True
        return bool(await self._property(_TIMEDATED, "/org/freedesktop/timedate1", _TIMEDATED, "NTPSynchronized"))

    async def lockout(self) -> Lockout | None:
        """What the helper's history says; asking starts the helper. None if it cannot be asked."""
        match await self._property(_HELPER, _HELPER_PATH, _HELPER, "Lockout"):
            case [int(used), int(limit), int(window_s), str(unlocks_at)]:
                return Lockout(used, limit, window_s, datetime.fromisoformat(unlocks_at) if unlocks_at else None)
        return None

    async def uptime_s(self) -> float:
        """Seconds since PID 1 started.

        If systemd does not answer: since the kernel started, which in a container is the kernel of its host.
        """
        if self._started_s is None:
            started_us = await self._of_systemd("UserspaceTimestampMonotonic")
            if started_us is None:
                return kernel.boot_clock_s()
            self._started_s = started_us / 1e6
        return time.monotonic() - self._started_s

    async def unit_state(self, name: str) -> str | None:
        """`active` or what else systemd says of the unit; `not found` if there is no unit of that name."""
        loaded, state = await self._of_unit(name, "LoadState"), await self._of_unit(name, "ActiveState")
        known = state if loaded == "loaded" else loaded
        return str(known).replace("-", " ") if known else None

    async def active_for_s(self, name: str) -> float:
        since_us = await self._of_unit(name, "ActiveEnterTimestampMonotonic")
        return time.monotonic() - since_us / 1e6 if since_us else 0.0

    async def _of_unit(self, name: str, what: str) -> Any:
        """A property of a unit; None if systemd does not answer."""
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
        """Whether PID 1 feeds a hardware watchdog: its last ping is younger than the watchdog's timeout."""
        if kernel.watchdog_is_software():
            return False
        timeout_us = await self._of_systemd("RuntimeWatchdogUSec")
        fed_at_us = await self._of_systemd("WatchdogLastPingTimestampMonotonic")
        if not timeout_us or not fed_at_us:
            return False
        return bool(0 <= time.monotonic() * 1e6 - fed_at_us < timeout_us)

    async def _of_systemd(self, name: str) -> Any:
        return await self._property(_SYSTEMD, _SYSTEMD_PATH, _SYSTEMD_MANAGER, name)

    async def _property(self, to: str, path: str, interface: str, name: str) -> Any:
        """A property of a service; None if the service does not answer."""
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
        return self._delay_max_s

    def release_delay(self) -> None:
        """Let the host go down: our last words are said."""
        if self._delay_fd is not None:
            os.close(self._delay_fd)
            self._delay_fd = None

    async def _keep_delay(self, bus: Bus) -> None:
        """Hold a delay inhibitor whenever the host is staying up."""
        again_after_s = None
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(again_after_s):
                    await self._delay_wanted.wait()
            self._delay_wanted.clear()
            fault = await self._take_delay(bus)
            if fault is not None and again_after_s is None:
                # Announcements still come, but logind does not wait for us: what is owed is delivered after the boot.
                log.warning("cannot take a shutdown delay: %s", fault)
            # logind asks polkit for it, which may be away for a while. While the host goes down, logind gives none.
            again_after_s = _ASK_AGAIN_S if fault is not None and self._announcer is None else None

    async def _take_delay(self, bus: Bus) -> str | None:
        """Take a delay inhibitor from logind; returns why there is none, or None if we hold it."""
        what = ("shutdown", "infoscreen-simclient", "tell the controller before the host goes down", "delay")
        try:
            reply = await bus.call(_LOGIND, _LOGIND_PATH, _MANAGER, "Inhibit", "ssss", *what)
        except (ErrorReply, TimeoutError) as error:
            return _words(error)
        if not reply.unix_fds:
            return "logind's answer holds no lock"
        self.release_delay()
        self._delay_fd = reply.unix_fds[0]
        for fd in reply.unix_fds[1:]:
            os.close(fd)
        return None

    def _on_signal(self, signal: Signal) -> None:
        if signal.sender == BUS and signal.member == "NameOwnerChanged" and signal.body[0] == _LOGIND:
            self._logind = signal.body[2]
            self._logind_news += 1
            self._announced = Departure.UNKNOWN
            self._doubt_departure()
            if self._logind:
                self._logind_is_new.set()
        elif signal.sender == self._logind and signal.interface == _MANAGER:
            self._on_announcement(str(signal.member), signal.body)

    def _on_announcement(self, member: str, body: list[Any]) -> None:
        match member, body:
            # From systemd 255 on logind sends the newer signal first. We act on the old one, which all versions send.
            case "PrepareForShutdownWithMetadata", [True, dict() as metadata]:
                # News, too: an answer that came with it was given before, and must not take it back.
                self._logind_news += 1
                kind = metadata["type"].value if "type" in metadata else ""
                self._announced = _DEPARTURES.get(kind, Departure.OTHER)
            case "PrepareForShutdown", [True]:
                self._logind_news += 1
                kind, self._announced = self._announced, Departure.UNKNOWN
                self._tell_departure(kind, self._logind)
                # InhibitDelayMaxSec= may have changed since we asked: ask again.
                self._logind_is_new.set()
            case "PrepareForShutdown", [False]:
                self._logind_news += 1
                self._tell_stay()
                self._delay_wanted.set()


def _verdict(error: ErrorReply) -> Refusal | NoReply:
    """What an error reply means: the host stays up (Refusal), or nobody knows (NoReply)."""
    name = str(error.type)
    if name.startswith(_NO_REPLY):
        # The helper says this if logind gave it no answer, the bus if the helper is gone. Either way the helper does
        # nothing more.
        return NoReply(f"no answer from the helper: {error.text}", is_over=True)
    if name.startswith(_NOT_REACHED):
        return Refusal(ErrorCode.HELPER_UNAVAILABLE, f"the helper cannot be reached: {error.text}")
    return Refusal(_HELPER_CODES.get(name, ErrorCode.HELPER_FAILED), error.text or name)


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
