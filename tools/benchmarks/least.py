"""The least that a reboot costs which is written down before it is said, said before it is done, and asked of another.

The product's own way to MQTT and D-Bus with nothing between: a command is inserted and acked twice, then a helper asks
polkit and logind at once, appends a line and calls. No command is looked at and no refusal thought of. Two programs:
`least.py agent PORT TOPIC DATABASE` and `least.py helper FILE`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
from typing import Any

sys.path.insert(0, "/usr/share/infoscreen-reboot")

from infoscreen_reboot.client.agent import host
from infoscreen_reboot.client.agent.ports import Refusal
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.mqtt.connection import Connection
from infoscreen_reboot.mqtt.messages import BrokerSettings, Delivery, Message

NAME = host._HELPER = "org.infoscreen.Least"  # beside the real helper
LINE = b"x" * 230 + b"\n"


async def agent(port: str, topic: str, path: str) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE step (seq INTEGER PRIMARY KEY, payload BLOB NOT NULL)")
    bus = host.SystemHost(lambda _: None, lambda: None)

    def say(status: bytes, payload: bytes) -> None:
        db.execute("INSERT INTO step (payload) VALUES (?)", [payload])
        connection.send(Message(f"{topic}/ack", b'"status":"%s" %s' % (status, payload)))

    async def ask(payload: bytes) -> None:
        try:
            await bus.request(Action.REBOOT_HOST, json.loads(payload)["command_id"])
        except Refusal:
            say(b"failed", payload)

    def on_message(delivery: Delivery) -> None:
        say(b"accepted", delivery.payload)
        say(b"execution_started", delivery.payload)
        work.append(asyncio.create_task(ask(delivery.payload)))

    work: list[asyncio.Task[None]] = [asyncio.create_task(bus.run())]
    connection = Connection(BrokerSettings("127.0.0.1", int(port), None, None, None), "least", None, on_message)
    await connection.open()
    await connection.subscribe(topic)
    while True:
        await asyncio.sleep(5)
        connection.tick()


async def helper(path: str) -> None:
    from dbus_next.aio.message_bus import MessageBus
    from dbus_next.constants import BusType, MessageType
    from dbus_next.message import Message as Call
    from dbus_next.signature import Variant

    fdo = "org.freedesktop"
    logind = f"{fdo}.login1", "/org/freedesktop/login1", f"{fdo}.login1.Manager"
    polkit = f"{fdo}.PolicyKit1", "/org/freedesktop/PolicyKit1/Authority", f"{fdo}.PolicyKit1.Authority"
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    async def reboot(call: Any) -> None:
        about = [["system-bus-name", {"name": Variant("s", call.sender)}], NAME, {}, 0, ""]
        await asyncio.gather(
            bus.call(Call(*polkit, "CheckAuthorization", signature="(sa{sv})sa{ss}us", body=about)),
            bus.call(Call(*logind, "ListInhibitors")),
        )
        os.write(file, LINE)
        os.fdatasync(file)
        reply = await bus.call(Call(*logind, "RebootWithFlags", signature="t", body=[1]))
        assert reply is not None
        await bus.send(Call.new_error(call, f"{NAME}.Error.Failed", str(reply.error_name)))

    def on_message(message: Any) -> bool:
        if message.message_type is MessageType.METHOD_CALL:
            work.append(asyncio.create_task(reboot(message)))
            return True
        return False

    work: list[asyncio.Task[None]] = []
    bus.add_message_handler(on_message)
    await bus.request_name(NAME)
    await bus.wait_for_disconnect()


if __name__ == "__main__":
    name, *rest = sys.argv[1:]
    asyncio.run(agent(*rest) if name == "agent" else helper(*rest))
