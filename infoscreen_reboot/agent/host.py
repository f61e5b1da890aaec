"""The host over D-Bus: the helper that may reboot it, logind that announces it, what systemd and timedated know."""

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

# ruff: noqa: E402
# dbus-next loads its GLib back end where python3-gi is installed; we run on asyncio and spare the 3.7 MB.
sys.modules.setdefault("gi", None)  # type: ignore[arg-type]  # None is import's own word for "do not"

from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import BusType, MessageFlag, MessageType
from dbus_next.errors import AuthError, DBusError, InvalidAddressError
from dbus_next.message import Message
from dbus_next.signature import SignatureTree

from infoscreen_reboot.agent import boot
from infoscreen_reboot.agent.ports import Departure, NoReply, Refusal
from infoscreen_reboot.contract.ack import ErrorCode
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.contract.telemetry import Lockout

log = logging.getLogger(__name__)

# Longer than polkit and the helper take together on a loaded Pi; a later answer is settled by the boot id.
REPLY_TIMEOUT_S = 30.0
_CONNECT_TIMEOUT_S = 10.0
_PROPERTY_TIMEOUT_S = 5.0
_RECONNECT_S = 5.0
_SIGNATURES_KEPT = 200
_LOST = (DBusError, AuthError, InvalidAddressError, EOFError, OSError)

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

_BUS = "org.freedesktop.DBus"
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
        self._bus: MessageBus | None = None
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
            except (*_LOST, TimeoutError) as error:
                log.warning("lost the system bus (%s); next attempt in %.0f s", _words(error), _RECONNECT_S)
            finally:
                self._connected.clear()
                self._bus = None
                self.release_delay()
            await asyncio.sleep(_RECONNECT_S)

    async def _serve(self) -> None:
        bus = MessageBus(bus_type=BusType.SYSTEM, negotiate_unix_fd=True)
        self._logind = ""
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                await bus.connect()
            bus.add_message_handler(self._on_message)
            signals = f"type='signal',sender='{_LOGIND}',path='{_LOGIND_PATH}',interface='{_MANAGER}'"
            for rule in (
                f"{signals},member='PrepareForShutdown'",
                f"{signals},member='PrepareForShutdownWithMetadata'",
                f"type='signal',sender='{_BUS}',interface='{_BUS}',member='NameOwnerChanged',arg0='{_LOGIND}'",
            ):
                await _call(bus, _BUS, "/org/freedesktop/DBus", _BUS, "AddMatch", "s", rule)
            preparing = await _ask(bus, _LOGIND, _LOGIND_PATH, _MANAGER, "PreparingForShutdown")
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
                await bus.wait_for_disconnect()
            finally:
                keeper.cancel()
            raise EOFError("the bus closed the connection")
        finally:
            await _close(bus)

    async def request(self, action: Action, command_id: str) -> None:
        """Ask the helper; returns on its yes.

        Raises Refusal with the contract's code when nothing will happen, NoReply when that is not known.
        """
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                await self._connected.wait()
        except TimeoutError:
            raise Refusal(ErrorCode.HELPER_UNAVAILABLE, "there is no connection to the system bus") from None
        assert self._bus is not None
        try:
            await _call(self._bus, _HELPER, _HELPER_PATH, _HELPER, _METHODS[action], "s", command_id)
        except DBusError as error:
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
                reply = await _call(await self._connection(), *manager, "LoadUnit", "s", name)
        except (*_LOST, TimeoutError) as error:
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
                return await _get(await self._connection(), to, path, interface, name)
        except (*_LOST, TimeoutError) as error:
            log.debug("cannot ask %s for %s: %s", to, name, _words(error))
            return None

    async def _connection(self) -> MessageBus:
        await self._connected.wait()
        assert self._bus is not None
        return self._bus

    def release_delay(self) -> None:
        """Our last word is said; the host may go down."""
        if self._delay_fd is not None:
            os.close(self._delay_fd)
            self._delay_fd = None

    async def _keep_delay(self, bus: MessageBus) -> None:
        """Hold a delay inhibitor whenever the host is staying up."""
        what = ("shutdown", "infoscreen-simclient", "tell the controller before the host goes down", "delay")
        while True:
            await self._delay_wanted.wait()
            self._delay_wanted.clear()
            self.release_delay()
            try:
                reply = await _call(bus, _LOGIND, _LOGIND_PATH, _MANAGER, "Inhibit", "ssss", *what)
            except (*_LOST, TimeoutError) as error:
                # Announcements still come, only without time to spare: what is owed is delivered after the boot.
                log.warning("cannot take a shutdown delay: %s", _words(error))
            else:
                self._delay_fd = reply.unix_fds[0]

    def _on_message(self, message: Message) -> Message | bool:
        """Our match rules keep nobody out: where the bus has no policy, anyone may send to our own name on it."""
        if len(SignatureTree._cache) > _SIGNATURES_KEPT:
            SignatureTree._cache.clear()  # dbus-next keeps each that it has ever met
        match message.message_type:
            case MessageType.METHOD_CALL:
                answer: Message | bool = True
                if not message.flags & MessageFlag.NO_REPLY_EXPECTED:
                    # Else dbus-next's own methods would answer.
                    answer = Message.new_error(message, f"{_BUS}.Error.UnknownMethod", "there is nothing to call here")
            case MessageType.SIGNAL:
                answer = True
                if message.sender == _BUS and message.member == "NameOwnerChanged" and message.body[0] == _LOGIND:
                    self._logind = message.body[2]
                elif message.sender == self._logind and message.interface == _MANAGER:
                    self._on_announcement(message.member, message.body)
            case _:
                return False  # what someone waits for
        for fd in message.unix_fds:
            os.close(fd)
        return answer

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


async def _close(bus: MessageBus) -> None:
    if bus.connected:
        bus.disconnect()
        gone = asyncio.ensure_future(bus.wait_for_disconnect())
        await asyncio.wait({gone}, timeout=1)
        _ = gone.cancelled() or gone.exception()
    # dbus-next leaves these to the garbage collector.
    bus._stream.close()
    bus._sock.close()


async def _call(
    bus: MessageBus, to: str, path: str, interface: str, member: str, signature: str, *body: Any
) -> Message:
    """The reply to one method call. Raises DBusError for an error reply, else TimeoutError, EOFError or OSError."""
    call = Message(destination=to, path=path, interface=interface, member=member, signature=signature, body=list(body))
    # Not asyncio.wait_for: until Python 3.12 it loses a cancellation that comes together with the answer.
    async with asyncio.timeout(REPLY_TIMEOUT_S):
        reply = await bus.call(call)
    if reply is None:
        raise EOFError("the bus closed the connection")
    if reply.message_type is MessageType.ERROR:
        raise DBusError(reply.error_name, str(reply.body[0]) if reply.body else reply.error_name, reply)
    return reply


async def _ask(bus: MessageBus, to: str, path: str, interface: str, name: str) -> Message:
    return await _call(bus, to, path, "org.freedesktop.DBus.Properties", "Get", "ss", interface, name)


async def _get(bus: MessageBus, to: str, path: str, interface: str, name: str) -> Any:
    return (await _ask(bus, to, path, interface, name)).body[0].value


def _verdict(error: DBusError) -> Refusal | NoReply:
    """What an error reply says about the host: it stays up, and why, or nothing."""
    name = str(error.type)
    if name.startswith(_NO_REPLY):
        return NoReply(f"no answer from the helper: {error.text}")
    if name.startswith(_NOT_REACHED):
        return Refusal(ErrorCode.HELPER_UNAVAILABLE, f"the helper cannot be reached: {error.text}")
    return Refusal(_HELPER_CODES.get(name, ErrorCode.HELPER_FAILED), error.text or name)


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
