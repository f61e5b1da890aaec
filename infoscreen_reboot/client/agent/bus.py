"""A connection to the system bus; the only import of dbus-next."""

import asyncio
import os
import sys
from collections.abc import Callable
from typing import Any

# ruff: noqa: E402
# dbus-next loads its GLib back end if python3-gi is installed. We run on asyncio and save the 3.7 MB.
sys.modules.setdefault("gi", None)  # type: ignore[arg-type]  # with None here an import fails

from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import MessageFlag, MessageType
from dbus_next.errors import AuthError, DBusError, InvalidAddressError
from dbus_next.message import Message
from dbus_next.signature import SignatureTree

# No service takes longer on a loaded Pi, except the helper: its caller passes a longer time.
REPLY_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 10.0
BUS = "org.freedesktop.DBus"
# D-Bus's own default is /var/run/dbus/system_bus_socket, and /var/run need not be a link to /run.
_SOCKET = "unix:path=/run/dbus/system_bus_socket"
LOST = (DBusError, AuthError, InvalidAddressError, EOFError, OSError)
_SIGNATURES_KEPT = 200

ErrorReply = DBusError
Signal = Message


def address() -> str:
    """Where the system bus is."""
    return os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or _SOCKET


class Bus:
    """One connection. It hands signals on, and refuses method calls: there is nothing to call."""

    def __init__(self, on_signal: Callable[[Signal], None]) -> None:
        self._bus = MessageBus(bus_address=address(), negotiate_unix_fd=True)
        self._on_signal = on_signal

    @property
    def unique_name(self) -> str:
        return str(self._bus.unique_name)

    async def connect(self, *rules: str) -> None:
        """Connect, and ask for the signals that match `rules`. Raises one of LOST or TimeoutError."""
        # Before: whoever calls us at once would be answered by the library, with a traceback in our log.
        self._bus.add_message_handler(self._on_message)
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await self._bus.connect()
        for rule in rules:
            await self.call(BUS, "/org/freedesktop/DBus", BUS, "AddMatch", "s", rule)

    async def lost(self) -> None:
        """Wait until the connection is lost, then raise the reason."""
        await self._bus.wait_for_disconnect()
        raise EOFError("the bus closed the connection")

    async def close(self) -> None:
        if self._bus.connected:
            self._bus.disconnect()
            gone = asyncio.ensure_future(self._bus.wait_for_disconnect())
            await asyncio.wait({gone}, timeout=1)
            _ = gone.cancelled() or gone.exception()
        # dbus-next leaves these to the garbage collector.
        self._bus._stream.close()
        self._bus._sock.close()

    async def call(
        self,
        to: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        *body: Any,
        timeout_s: float | None = None,
    ) -> Message:
        """Return the reply to one method call. It must come within REPLY_TIMEOUT_S, unless another time is given.

        Raises ErrorReply if the reply is an error; TimeoutError, EOFError or OSError if there is no reply.
        """
        call = Message(
            destination=to, path=path, interface=interface, member=member, signature=signature, body=list(body)
        )
        # Not asyncio.wait_for: before Python 3.12 it loses a cancellation that comes together with the answer.
        async with asyncio.timeout(REPLY_TIMEOUT_S if timeout_s is None else timeout_s):
            reply = await self._bus.call(call)
        if reply is None:
            raise EOFError("the bus closed the connection")
        if reply.message_type is MessageType.ERROR:
            raise ErrorReply(reply.error_name, str(reply.body[0]) if reply.body else reply.error_name, reply)
        return reply

    async def get(self, to: str, path: str, interface: str, name: str) -> Message:
        """Return the reply that holds a property's value. Raises the same as `call`."""
        return await self.call(to, path, f"{BUS}.Properties", "Get", "ss", interface, name)

    def _on_message(self, message: Message) -> Message | bool:
        """Match rules keep nobody out: on a bus without a policy anyone may send to our unique name."""
        if len(SignatureTree._cache) > _SIGNATURES_KEPT:
            SignatureTree._cache.clear()  # dbus-next keeps every signature that it has ever met
        match message.message_type:
            case MessageType.METHOD_CALL:
                answer: Message | bool = True
                if not message.flags & MessageFlag.NO_REPLY_EXPECTED:
                    # Without this answer, dbus-next's own methods would answer.
                    answer = Message.new_error(message, f"{BUS}.Error.UnknownMethod", "there is nothing to call here")
            case MessageType.SIGNAL:
                answer = True
                self._on_signal(message)
            case _:
                return False  # a reply, for which a caller waits
        for fd in message.unix_fds:
            os.close(fd)
        return answer
