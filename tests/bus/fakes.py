"""A private system bus with a polkit, a logind and a systemd that do as a test tells them, and callers."""

from __future__ import annotations

import asyncio
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

sys.modules.setdefault("gi", None)  # type: ignore[arg-type]  # None keeps dbus-next's GLib back end out

from dbus_next.aio.message_bus import MessageBus  # noqa: E402
from dbus_next.constants import MessageFlag, MessageType, NameFlag, RequestNameReply  # noqa: E402
from dbus_next.message import Message  # noqa: E402
from dbus_next.signature import Variant  # noqa: E402

from tools.fuzzing.calls import patient  # noqa: E402

T = TypeVar("T")

LOGIND = "/org/freedesktop/login1", "org.freedesktop.login1.Manager"

FREE_FOR_ALL = """
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow receive_sender="*" eavesdrop="true"/>
    <allow own="*"/>
  </policy>"""


class Loop:
    """An asyncio loop in a thread of its own, so that tests read from top to bottom."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fakes", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float = 120) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    def close(self) -> None:
        self.run(self._cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class PrivateBus:
    """A dbus-daemon of our own. `policy` is XML; `environment` is what services it activates are given."""

    def __init__(
        self,
        directory: Path,
        policy: str = FREE_FOR_ALL,
        services: Path | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.address = f"unix:path={directory / 'bus'}"
        config = directory / "bus.conf"
        activation = f"<servicedir>{services}</servicedir>" if services else ""
        config.write_text(
            '<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"'
            ' "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">\n'
            f"<busconfig><listen>{self.address}</listen><auth>EXTERNAL</auth>{activation}{policy}</busconfig>\n"
        )
        command = ["dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile", "--print-address=1"]
        self._log = (directory / "bus.log").open("w")
        environment = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": self.address, **(environment or {})}
        self._daemon = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, env=environment)
        assert self._daemon.stdout is not None
        self._daemon.stdout.readline()  # it is up once it says its address

    def close(self) -> None:
        self._daemon.terminate()
        self._daemon.wait(10)
        assert self._daemon.stdout is not None
        self._daemon.stdout.close()
        self._log.close()


@dataclass(frozen=True)
class Answer:
    signature: str = ""
    body: tuple[Any, ...] = ()
    unix_fds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Fail:
    error: str
    text: str = "it was told to fail"


class Silence(Enum):
    HANG = "never answers"
    VANISH = "leaves the bus without an answer"


Behaviour = Answer | Fail | Silence


class Fake:
    """A service on the bus. It keeps what it was asked; `answers` by member go before its own answer."""

    name: str

    def __init__(self, loop: Loop, address: str) -> None:
        self._loop = loop
        self._address = address
        self._tasks: set[asyncio.Task[None]] = set()
        self.calls: list[tuple[str, list[Any]]] = []
        self.answers: dict[str, Behaviour] = {}
        self.delay_s = 0.0
        self.before_answer: Callable[[Message], None] = lambda message: None
        self.appear()

    def appear(self) -> None:
        self._loop.run(self._appear())

    def vanish(self) -> None:
        self._loop.run(self._vanish())

    close = vanish

    def emit(self, path: str, interface: str, member: str, signature: str, *body: Any) -> None:
        self.send(Message.new_signal(path, interface, member, signature, list(body)))

    def send(self, message: Message) -> None:
        async def send() -> None:
            await self._bus.send(message)

        self._loop.run(send())

    def asked(self, member: str) -> list[list[Any]]:
        """The arguments of each call of this member so far."""
        return [body for name, body in self.calls if name == member]

    def own_answer(self, message: Message) -> Behaviour:
        """What this service is for; a subclass knows."""
        return Fail("org.freedesktop.DBus.Error.UnknownMethod", f"a fake {self.name} has no {message.member}")

    async def _appear(self) -> None:
        self._bus = await connect(self._address)
        self._bus.add_message_handler(self._on_message)
        reply = await self._bus.request_name(self.name, NameFlag.DO_NOT_QUEUE)
        assert reply is RequestNameReply.PRIMARY_OWNER, f"someone else is {self.name}"

    async def _vanish(self) -> None:
        for task in self._tasks - {asyncio.current_task()}:
            task.cancel()
        await disconnect(self._bus)

    def _on_message(self, message: Message) -> bool:
        if message.message_type is not MessageType.METHOD_CALL:
            return False
        task = asyncio.get_running_loop().create_task(self._answer(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _answer(self, message: Message) -> None:
        # Before the call is on record: who sees it there may say at once how the next one is to be answered.
        told = self.answers.get(message.member)
        self.calls.append((message.member, message.body))
        self.before_answer(message)
        await asyncio.sleep(self.delay_s)
        match told or self.own_answer(message):
            case Answer(signature, body, unix_fds):
                reply = Message.new_method_return(message, signature, list(body), unix_fds=list(unix_fds))
            case Fail(error, text):
                reply = Message.new_error(message, error, text)
            case Silence.VANISH:
                return await self._vanish()
            case _:
                return
        if not message.flags & MessageFlag.NO_REPLY_EXPECTED:
            await self._bus.send(reply)


class FakePolkit(Fake):
    """Denies by default."""

    name = "org.freedesktop.PolicyKit1"

    def __init__(self, loop: Loop, address: str) -> None:
        self._allowed: set[tuple[str, str]] = set()
        super().__init__(loop, address)

    def allow(self, sender: str, *actions: str) -> None:
        self._allowed |= {(sender, action) for action in actions}

    def deny(self, sender: str, *actions: str) -> None:
        self._allowed -= {(sender, action) for action in actions}

    def own_answer(self, message: Message) -> Behaviour:
        (kind, details), action, _, flags, _ = message.body
        yes = kind == "system-bus-name" and flags == 0 and (details["name"].value, action) in self._allowed
        return Answer("(bba{ss})", ([yes, False, {}],))


class FakeLogind(Fake):
    """Agrees to everything and does nothing; `inhibitors` are (what, who, why, mode, uid, pid)."""

    name = "org.freedesktop.login1"

    def __init__(self, loop: Loop, address: str) -> None:
        self.inhibitors: list[tuple[str, str, str, str, int, int]] = []
        super().__init__(loop, address)

    @property
    def orders(self) -> list[str]:
        """What it was told to do with the host."""
        return [member for member, _ in self.calls if member in ("RebootWithFlags", "PowerOffWithFlags")]

    def own_answer(self, message: Message) -> Behaviour:
        match message.member:
            case "ListInhibitors":
                return Answer("a(ssssuu)", ([list(lock) for lock in self.inhibitors],))
            case "RebootWithFlags" | "PowerOffWithFlags" | "SetWallMessage":
                return Answer()
        return super().own_answer(message)


class DelayingLogind(FakeLogind):
    """Gives out delay inhibitors and can tell whether each is still held.

    As the real one it does one operation at a time, announces it before it answers who ordered it, and gives out no
    delay while it is under way. `kind` is what it calls its own operation, None before systemd 255.
    """

    preparing = False
    kind: str | None = None
    delay_max_us = 5_000_000
    announces_after: str | None = None
    # Of an announcement that was begun, what is still to be sent.
    unsaid: Sequence[Message] = ()
    says_half = False
    ends_after: str | None = None

    def __init__(self, loop: Loop, address: str) -> None:
        self.locks: list[int] = []
        super().__init__(loop, address)

    async def _answer(self, message: Message) -> None:
        if message.member == "Inhibit" and "Inhibit" not in self.answers and not self.preparing:
            ours, theirs = os.pipe()
            self.locks.append(ours)
            self.calls.append((message.member, message.body))
            await self._bus.send(Message.new_method_return(message, "h", [0], unix_fds=[theirs]))
            os.close(theirs)
        else:
            await super()._answer(message)
            if self.ends_after is not None and self.ends_after in message.body:
                await self._vanish()

    def own_answer(self, message: Message) -> Behaviour:
        if message.body == [LOGIND[1], "PreparingForShutdown"]:
            answer = Answer("v", (Variant("b", self.preparing),))
            if self.announces_after is not None:
                # Whoever awaits the answer goes on only when all that came with it has been handled.
                kind, self.announces_after = self.announces_after, None
                signals = self._announcement(True, kind)
                said = 1 if self.says_half else len(signals)
                self.unsaid = signals[said:]
                for signal in signals[:said]:
                    self._bus.send(signal)
            return answer
        if message.body == [LOGIND[1], "InhibitDelayMaxUSec"]:
            return Answer("v", (Variant("t", self.delay_max_us),))
        if message.member in ("Inhibit", "RebootWithFlags", "PowerOffWithFlags") and self.preparing:
            return Fail("org.freedesktop.login1.OperationInProgress", "there is one already")
        if message.member in ("RebootWithFlags", "PowerOffWithFlags"):
            for signal in self._announcement(True, self.kind):
                self._bus.send(signal)
        return super().own_answer(message)

    def held(self) -> int:
        """How many delay inhibitors are held: the other end of a pipe hangs up when its lock is let go."""
        poll = select.poll()
        for lock in self.locks:
            poll.register(lock, select.POLLHUP)
        return len(self.locks) - len(poll.poll(0))

    def announce(self, going: bool, kind: str | None = None) -> None:
        self._loop.run(self._announce(going, kind))

    async def _announce(self, going: bool, kind: str | None) -> None:
        """In one turn of the loop: nobody who asks hears of it before it is announced."""
        for signal in self._announcement(going, kind):
            self._bus.send(signal)

    def appear_and_announce_in_one_breath(self, kind: str | None = None, says_half: bool = False) -> None:
        """Answers the first who asks that the host stays up, and announces the contrary right after.

        `says_half`: only the newer of the two signals comes with the answer, and the old one by `say_the_rest`.
        """
        self.says_half = says_half
        self.announces_after = kind
        self.preparing = False
        self.appear()

    def say_the_rest(self) -> None:
        self._loop.run(self._say_the_rest())

    async def _say_the_rest(self) -> None:
        for signal in self.unsaid:
            self._bus.send(signal)

    def _announcement(self, going: bool, kind: str | None) -> list[Message]:
        self.preparing = going
        signals = [Message.new_signal(*LOGIND, "PrepareForShutdown", "b", [going])]
        if kind is not None:
            metadata = [going, {"type": Variant("s", kind)}]
            signals.insert(0, Message.new_signal(*LOGIND, "PrepareForShutdownWithMetadata", "ba{sv}", metadata))
        return signals


class FakeSystemd(Fake):
    """PID 1, which started `since_boot_s` ago."""

    name = "org.freedesktop.systemd1"
    since_boot_s = 3600.0

    def own_answer(self, message: Message) -> Behaviour:
        if message.body == ["org.freedesktop.systemd1.Manager", "UserspaceTimestampMonotonic"]:
            # Signed, unlike systemd's own: the host played here may have started before the machine that runs the test.
            return Answer("v", (Variant("x", int((time.monotonic() - self.since_boot_s) * 1e6)),))
        return super().own_answer(message)


@dataclass(frozen=True)
class Reply:
    error: str  # "" for none
    body: tuple[Any, ...]

    @property
    def text(self) -> str:
        return str(self.body[0]) if self.body else ""


class Caller:
    """A connection to the bus that calls others."""

    def __init__(self, loop: Loop, address: str) -> None:
        self._loop = loop
        self._bus = loop.run(connect(address))
        self.name = str(self._bus.unique_name)

    def call(self, to: str, path: str, interface: Any, member: str, signature: str = "", *body: Any) -> Reply:
        return self._loop.run(self.call_async(to, path, interface, member, signature, *body))

    async def call_async(
        self, to: str, path: str, interface: Any, member: str, signature: str = "", *body: Any
    ) -> Reply:
        message = Message(to, path, interface, member, signature=signature, body=list(body))
        reply = await self._bus.call(message)
        assert reply is not None
        return Reply(reply.error_name or "", tuple(reply.body))

    def together(self, *calls: Coroutine[Any, Any, Reply]) -> list[Reply]:
        async def all_of_them() -> list[Reply]:
            return list(await asyncio.gather(*calls))

        return self._loop.run(all_of_them())

    def send(self, message: Message) -> None:
        async def send() -> None:
            await self._bus.send(message)

        self._loop.run(send())

    def listen(self, to: Callable[[Message], None]) -> None:
        """Hands over what comes unasked, on the loop."""
        self._loop.run(self._listen(to))

    async def _listen(self, to: Callable[[Message], None]) -> None:
        self._bus.add_message_handler(to)

    def has_owner(self, name: str) -> bool:
        bus = "org.freedesktop.DBus"
        return bool(self.call(bus, "/org/freedesktop/DBus", bus, "NameHasOwner", "s", name).body[0])

    def close(self) -> None:
        self._loop.run(disconnect(self._bus))


async def connect(address: str) -> MessageBus:
    return patient(await MessageBus(bus_address=address, negotiate_unix_fd=True).connect())


async def disconnect(bus: MessageBus) -> None:
    if bus.connected:
        bus.disconnect()
    await asyncio.wait({gone := asyncio.ensure_future(bus.wait_for_disconnect())}, timeout=5)
    # dbus-next leaves the exception and both of these to the garbage collector, which would warn.
    gone.exception()
    bus._stream.close()
    bus._sock.close()


def eventually(what: Callable[[], T], timeout_s: float = 120) -> T:
    """The first true answer, asked for again and again: other processes cannot be told the time."""
    end = time.monotonic() + timeout_s
    while not (answer := what()):
        assert time.monotonic() < end, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)
    return answer
