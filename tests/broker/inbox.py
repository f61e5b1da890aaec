"""A session under test: what it gets lands in an inbox, and what it says can be awaited."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import subprocess
import sys
import textwrap
from asyncio.trsock import TransportSocket
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from infoscreen_reboot.mqtt.messages import BrokerSettings, Delivery, Message
from infoscreen_reboot.mqtt.session import Presence, Session, Statistics
from infoscreen_reboot.mqtt.tls import TlsSettings
from tests.broker.conftest import PATIENCE_S, Authority, Broker

STATUS = "screen/status"
COMMANDS = "screen/commands"
FAREWELL = Message(STATUS, b"stopped", retain=True)


class Client:
    """A session whose deliveries land in `inbox`, unless `refuse` takes them."""

    def __init__(
        self,
        settings: BrokerSettings,
        *topics: str,
        without: Sequence[str] = (),
        client_id: str = "screen",
        statistics: Statistics | None = None,
        **options: Any,
    ) -> None:
        """`options` are more of the session's own."""
        self.inbox: asyncio.Queue[Delivery] = asyncio.Queue()
        self.refuse: Callable[[Delivery], None] = lambda _: None
        self.changes: list[bool] = []
        self._changed = asyncio.Event()
        self._number = itertools.count(1)
        self.session = Session(
            settings,
            client_id=client_id,
            subscriptions=topics or (COMMANDS,),
            unsubscriptions=without,
            statistics=statistics,
            presence=self._presence,
            on_message=self._on_message,
            on_change=self._on_change,
            **options,
        )

    async def until(self, is_it: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not is_it():
                self._changed.clear()
                await self._changed.wait()

    async def received(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return (await self.inbox.get()).payload

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        """Ends as a power cut does: without farewell."""
        task = asyncio.create_task(self.session.run(), name="session")
        try:
            yield task
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[asyncio.Task[None]]:
        async with self.running() as task:
            async with asyncio.timeout(PATIENCE_S):
                await self.session.wait_connected()
            yield task

    def _presence(self) -> Presence:
        number = next(self._number)
        return Presence(
            will=Message(STATUS, b"lost %d" % number, retain=True),
            birth=Message(STATUS, b"online %d" % number, retain=True),
        )

    def _on_message(self, delivery: Delivery) -> None:
        self.refuse(delivery)
        self.inbox.put_nowait(delivery)

    def _on_change(self) -> None:
        self.changes.append(self.session.is_connected)
        self._changed.set()


def plain(broker: Broker) -> BrokerSettings:
    return BrokerSettings(broker.host, broker.port, None, None, None)


def secure(broker: Broker, authority: Authority) -> BrokerSettings:
    tls = TlsSettings(ca_file=authority.certificate, cert_file=None, key_file=None)
    return BrokerSettings(broker.host, broker.tls_port, None, None, tls)


def at(server: socket.socket | TransportSocket) -> BrokerSettings:
    host, port = server.getsockname()
    return BrokerSettings(host, port, None, None, None)


async def trouble_of(settings: BrokerSettings) -> str:
    client = Client(settings)
    async with client.running():
        await client.until(lambda: client.session.trouble)
        assert not client.session.is_connected
    return client.session.trouble or ""


def child(settings: BrokerSettings, body: str) -> subprocess.Popen[str]:
    """A process of its own with a session; it says what it does on its standard output."""
    program = f"""
        import asyncio, os, signal, socket, sys, time
        from infoscreen_reboot.mqtt.messages import BrokerSettings, Message
        from infoscreen_reboot.mqtt.session import Presence, Session
        settings = BrokerSettings({settings.host!r}, {settings.port}, None, None, None)
        presence = Presence(Message("{STATUS}", b"lost child"), Message("{STATUS}", b"online child"))
        def session(on_message):
            return Session(settings, client_id="screen", subscriptions=["{COMMANDS}"],
                           presence=lambda: presence, on_message=on_message)
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program) + textwrap.dedent(body)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
