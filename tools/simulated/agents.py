"""The real agent on a host that is only pretended: each has its own store, boots and connection; all share a process.

What is pretended is the system bus with logind, the helper and systemd on it (`tests/played_host.py`). The connection
to the broker is real, and so is the time.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from infoscreen_reboot.client import config
from infoscreen_reboot.client.agent import app, host, recovery
from infoscreen_reboot.client.agent.monitor import open_boot
from infoscreen_reboot.client.agent.store import STORE_NAME
from tests.played_host import Kind, PlayedBus, PlayedHost
from tests.virtual import Crash
from tools.simulated.manner import Manner

# From an agent's end to its next start, where only the agent ended (RestartSec=).
_RESTART_S = 5.0
_current: contextvars.ContextVar[SimulatedClient] = contextvars.ContextVar("the client whose agent runs")


class FleetLoop(asyncio.SelectorEventLoop):
    """Each agent thinks that the process is its own: what it wants to hear as SIGTERM, its host tells it alone."""

    # typeshed ties the callback to its arguments, which says nothing here.
    def add_signal_handler(  # type: ignore[override]
        self, sig: int, callback: Callable[..., object], *args: Any
    ) -> None:
        _current.get().on_stop = lambda: callback(*args)


class SimulatedClient:
    """One machine with the agent on it; it is the `Machine` of its played host."""

    def __init__(self, state: Path, client_uuid: str, port: int, manner: Manner, **settings: str) -> None:
        """`settings` are further ones of the agent, by their names."""
        self.uuid = client_uuid
        self.manner = manner
        self.state = state
        self.clock_synchronised = True
        self.unit_states: dict[int, str] = {}
        self.boots = self.lives = 0
        self.process_is_dead = True
        self.on_stop: Callable[[], object] = lambda: None
        # What `systemctl status` would show of its agent, and who is told of each change.
        self.status = ""
        self.on_status: Callable[[], object] = lambda: None
        self.alerts = state / "alerts"
        self.host = PlayedHost(self)
        self._boot_id = str(uuid.uuid4())
        self._booted_s = time.monotonic()
        self._dark = asyncio.Event()
        self._kind = Kind.REBOOT
        self._work: set[asyncio.Task[None]] = set()
        state.mkdir(parents=True, exist_ok=True)
        environment = {
            "MQTT_BROKER": "127.0.0.1",
            "MQTT_PORT": str(port),
            "MQTT_TLS": "no",
            "CLIENT_UUID": client_uuid,
        }
        if manner.mocks:
            environment |= {"COMMAND_EXECUTOR": "mock", "COMMAND_MOCK_REBOOT_IMMEDIATE_COMPLETE": "yes"}
        self._settings = config.load(environment | settings)

    async def run(self) -> None:
        """Boot after boot, until it does not come back or is cancelled."""
        _current.set(self)
        try:
            while True:
                await self._live()
                if not self.host.is_stopping:
                    await asyncio.sleep(_RESTART_S)
                    continue
                await self._dark.wait()
                if self._kind is Kind.POWER_OFF or not self.manner.comes_back:
                    return
                await asyncio.sleep(self.manner.away_s())
                self._boot()
        finally:
            self.host.lose_power()
            self.host.close_locks()

    async def _live(self) -> None:
        """One run of the agent's process, as `app` has it."""
        clock = _Clock(self)
        not_running = self.state / app.NOT_RUNNING_NAME
        store, unfit = recovery.open_store(self.state / STORE_NAME, lambda new: open_boot(new, clock, not_running))
        self.process_is_dead = False
        self.lives += 1
        try:
            # The alerts of the machine on which this runs are not those of our client.
            with mock.patch.dict(os.environ, RUNTIME_DIRECTORY=str(self.alerts)):
                service = app.Service(self._settings, store, clock, self.state, unfit)
            await service.run()
        finally:
            self.process_is_dead = True
            store.close()

    def hear(self, notice: str) -> None:
        """As systemd hears its agent, sd_notify(3)."""
        for line in notice.splitlines():
            if line.startswith("STATUS="):
                self.status = line.removeprefix("STATUS=")
                self.on_status()

    def _boot(self) -> None:
        self.boots += 1
        self._boot_id = str(uuid.uuid4())
        self._booted_s = time.monotonic()
        self._dark.clear()
        self.host.reset()

    # --- What the played host asks of the machine around it

    def point(self) -> None:
        pass

    def check_alive(self) -> None:
        if self.process_is_dead:
            raise Crash

    def kill(self) -> None:
        self.terminate()

    def terminate(self) -> None:
        if not self.process_is_dead:
            self.on_stop()

    def is_online(self) -> bool:
        return not self.process_is_dead

    def boot_id(self) -> str:
        return self._boot_id

    def boot_clock_s(self) -> float:
        return time.monotonic() - self._booted_s

    def go_dark(self, kind: Kind) -> None:
        self._kind = kind
        self._dark.set()

    def spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        return task


class _Clock(app.SystemClock):
    def __init__(self, client: SimulatedClient) -> None:
        super().__init__(client.boot_id())
        self._client = client

    def boot_clock_s(self) -> float:
        return self._client.boot_clock_s()


async def run(clients: Sequence[SimulatedClient]) -> None:
    """All of them, on a FleetLoop. As long as this runs, this process knows only played hosts."""
    ours = mock.patch.object(host, "Bus", lambda on_signal: PlayedBus(_current.get().host, on_signal))
    # systemd, which may have started this process, does not hear of our clients.
    unheard = mock.patch.object(app, "notify", lambda notice: _current.get().hear(notice))
    with ours, unheard:
        async with asyncio.TaskGroup() as tasks:
            for client in clients:
                tasks.create_task(client.run(), name=client.uuid)
