"""Calls for a service on D-Bus: every member walked, then whatever the bus lets through, and who judges the answers.

This file alone also runs on a machine: `calls.py BUS_NAME COUNT SEED` as whoever calls it on the system bus.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import socket
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

sys.modules.setdefault("gi", None)  # type: ignore[arg-type]  # None keeps dbus-next's GLib back end out

from dbus_next.aio.message_bus import MessageBus  # noqa: E402
from dbus_next.constants import BusType, MessageFlag, MessageType  # noqa: E402
from dbus_next.message import Message  # noqa: E402
from dbus_next.signature import Variant  # noqa: E402

HELPER, PATH = "org.infoscreen.RebootHelper1", "/org/infoscreen/RebootHelper1"
FDO = "org.freedesktop.DBus"
INTERFACES: tuple[Any, ...] = (
    HELPER, f"{FDO}.Properties", f"{FDO}.Peer", f"{FDO}.Introspectable", f"{FDO}.ObjectManager", FDO,
    "org.freedesktop.login1.Manager", "a.b", None,
)  # fmt: skip
MEMBERS = ("Reboot", "Shutdown", "Preview", "Get", "Set", "GetAll", "Ping", "GetMachineId", "Introspect",
           "GetManagedObjects", "Lockout", "PrepareForShutdown", "NameOwnerChanged", "x")  # fmt: skip
PATHS = (PATH, "/", f"{PATH}/x", "/org/freedesktop/login1", "/" + "x" * 3000)
STRANGE = ("", " ", "\n", "\x01", "%s%n{0}", "$(reboot)", "; reboot", "../../etc/passwd", "\u202e\U0001f600\uffff",
           "reboot", "reboot_host", HELPER, "Lockout", "5d1f8b4b-7e85-44fb-8f38-3f5d5da5e2e",
           "{5d1f8b4b-7e85-44fb-8f38-3f5d5da5e2e4}", "5d1f8b4b-7e85-44fb-8f38-3f5d5da5e2e4\n")  # fmt: skip
SHAPES: tuple[tuple[str, list[Any]], ...] = (
    ("", []), ("s", [""]), ("s", ["reboot_host"]), ("ss", [HELPER, "Lockout"]), ("ss", [HELPER, "x"]), ("u", [1]),
    ("as", [["x"]]), ("v", [Variant("s", "x")]), ("ssv", [HELPER, "Lockout", Variant("u", 0)]), ("(s)", [["x"]]),
)  # fmt: skip
BASIC: dict[str, tuple[Any, ...]] = {
    "y": (0, 255), "b": (True, False), "n": (-(2**15), 7), "q": (0, 2**16 - 1), "i": (-(2**31), 1),
    "u": (0, 2**32 - 1), "x": (-(2**63), 1), "t": (0, 2**64 - 1), "d": (float("nan"), float("inf"), -0.0, 1e308),
    "o": PATHS, "g": ("", "s", "a{sv}", "a" * 30 + "s", "(" * 30 + "s" + ")" * 30),
}  # fmt: skip
ANSWER_S = 60


class Patient:
    """A socket whose full buffer is a reason to wait; dbus-next's writer gives the connection up instead."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def send(self, data: memoryview) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0


def patient(bus: MessageBus) -> MessageBus:
    bus._writer.sock = Patient(bus._sock)
    return bus


class Storm:
    """What was sent to one service, and what came back."""

    def __init__(self, to: str, seed: int, may_order: bool = False) -> None:
        """With `may_order` some calls are right orders: their ids are in `ordered`, those answered yes in `obeyed`."""
        self.to, self.random, self.may_order = to, random.Random(seed), may_order
        self.sent = 0
        self.answers = Counter[str]()
        self.unanswered = 0
        self.showing: list[str] = []
        self.ordered: set[str] = set()
        self.obeyed: set[str] = set()

    def walk(self) -> Iterator[Message]:
        """Every member of every interface on every path, with arguments of each shape but for a right order."""
        for path, interface, member, (signature, body) in itertools.product(PATHS, INTERFACES, MEMBERS, SHAPES):
            yield Message(self.to, path, interface, member, signature=signature, body=list(body))

    def any(self, count: int) -> Iterator[Message]:
        for _ in range(count):
            yield self.one()

    def one(self) -> Message:
        draw = self.random
        chance = draw.random()
        if self.may_order and chance < 0.001:
            return self._order()
        flags = draw.choice([MessageFlag.NONE] * 6 + [MessageFlag(n) for n in (1, 4, 5)])
        if chance < 0.1:
            return self._no_call(flags)
        if chance < 0.5:  # all but the arguments is right
            interface, member, signature = draw.choice(
                [(HELPER, "Reboot", "s"), (HELPER, "Shutdown", "s"), (HELPER, "Preview", "s"),
                 (f"{FDO}.Properties", "Get", "ss")]
            )  # fmt: skip
            body: list[Any] = [self._text(huge=True) for _ in signature]
            return Message(self.to, PATH, interface, member, flags=flags, signature=signature, body=body)
        path, interface = draw.choice([PATH, PATH, *PATHS]), draw.choice([HELPER, HELPER, *INTERFACES])
        signature, body = self._body()
        member = draw.choice([*MEMBERS, "".join(draw.choices("aZ_9", k=draw.randrange(1, 200))).lstrip("9") or "_"])
        return Message(self.to, path, interface, member, flags=flags, signature=signature, body=body)

    def _order(self) -> Message:
        command_id = str(uuid.UUID(int=self.random.getrandbits(128), version=4))
        self.ordered.add(command_id)
        member = self.random.choice(["Reboot", "Shutdown"])
        return Message(self.to, PATH, HELPER, member, signature="s", body=[command_id])

    def _no_call(self, flags: MessageFlag) -> Message:
        """A signal, or an answer to what nobody asked: its number is none that a young process has used."""
        signature, body = self._body()
        number = self.random.randrange(2**31, 2**32)
        match self.random.randrange(3):
            case 0:
                message = Message.new_signal(PATH, HELPER, "Boo", signature, body)
                message.destination = self.to
                return message
            case 1:
                what: dict[str, Any] = {"message_type": MessageType.METHOD_RETURN}
            case _:
                what = {"message_type": MessageType.ERROR, "error_name": f"{FDO}.Error.Boo"}
        return Message(self.to, flags=flags, reply_serial=number, signature=signature, body=body, **what)

    def _text(self, huge: bool) -> str:
        draw = self.random
        chance = draw.random()
        if chance < 0.6:
            return draw.choice(STRANGE)
        if chance < 0.9:
            return "".join(chr(draw.randrange(1, 0xD800)) for _ in range(draw.randrange(40)))
        if not huge or chance < 0.999:
            return draw.choice("x\u20ac\n") * draw.randrange(20_000 if huge else 200)
        return "x" * draw.choice([10**6, 10**6, 8 * 10**6])

    def _body(self) -> tuple[str, list[Any]]:
        parts = [self._value(0) for _ in range(self.random.choice([0, 1, 1, 1, 2, 3, 20]))]
        return "".join(signature for signature, _ in parts), [value for _, value in parts]

    def _value(self, depth: int) -> tuple[str, Any]:
        draw = self.random
        kind = draw.randrange(12 if depth < 4 else 7)
        if kind < 3:
            return "s", self._text(huge=depth == 0)
        if kind < 7:
            code = draw.choice(list(BASIC))
            return code, draw.choice(BASIC[code])
        if kind == 7:
            return "ay", bytes(draw.choice([0, 1, 100, 100_000 if depth == 0 else 7]))
        signature, value = self._value(depth + 1)
        if kind == 8:
            return "v", Variant(signature, value)
        if kind == 9:
            return f"({signature}{signature})", [value, value]
        if kind == 10:
            return f"a{{s{signature}}}", dict.fromkeys(["", "x"], value)
        several = [value] * draw.choice([0, 1, 3])
        return f"a{signature}", bytes(several) if signature == "y" else several

    async def blow(self, bus: MessageBus, calls: int) -> None:
        """Until so many calls were made in all; what is no call is not counted."""
        while self.sent < calls:
            await self.send(bus, self.any(calls - self.sent))

    async def send(self, bus: MessageBus, messages: Iterator[Message]) -> None:
        """In bursts of fewer than the 128 calls for which the bus keeps one connection's answers open."""
        while burst := list(itertools.islice(messages, self.random.choice([1, 20, 20, 20, 50, 100]))):
            await asyncio.gather(*(self._send(bus, message) for message in burst))
            if self.random.random() < 0.01:
                for message in itertools.islice(messages, 1000):
                    if not self.is_order(message):
                        message.flags |= MessageFlag.NO_REPLY_EXPECTED
                    await self._send(bus, message)

    async def _send(self, bus: MessageBus, message: Message) -> None:
        is_call = message.message_type is MessageType.METHOD_CALL
        self.sent += is_call
        if not is_call or message.flags & MessageFlag.NO_REPLY_EXPECTED:
            await bus.send(message)
            return
        try:
            reply = await asyncio.wait_for(bus.call(message), ANSWER_S)
        except TimeoutError:
            self.unanswered += 1
        else:
            assert reply is not None
            self.judge(message, reply)

    def is_order(self, message: Message) -> bool:
        return message.signature == "s" and message.body[0] in self.ordered

    def judge(self, message: Message, reply: Message) -> None:
        self.answers[reply.error_name or "yes"] += 1
        if not reply.error_name and self.is_order(message):
            self.obeyed.add(message.body[0])
        if reveals(reply.body):
            self.showing.append(str(reply.body)[:1000])


def reveals(value: object) -> bool:
    """Whether some text in it, however deep, shows the inside of a program."""
    match value:
        case str():
            return "Traceback" in value or 'File "' in value
        case dict():
            return reveals([*value.keys(), *value.values()])
        case list() | tuple():
            return any(map(reveals, value))
        case Variant():
            return reveals(value.value)
    return False


async def main(to: str, count: int, seed: int) -> None:
    """Prints what came of it as JSON. Gives no right order: whoever calls may be allowed to."""
    bus = patient(await MessageBus(bus_type=BusType.SYSTEM).connect())
    storm = Storm(to, seed)
    await storm.send(bus, storm.walk())
    await storm.blow(bus, storm.sent + count)
    report = {"sent": storm.sent, "answers": storm.answers, "unanswered": storm.unanswered, "showing": storm.showing}
    print(json.dumps(report))
    bus.disconnect()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
