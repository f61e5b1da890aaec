"""How often the agent waits for the disk, counted by strace: once for a command's record with its ack."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.broker.conftest import Broker, Run
from tests.world import BOOTS, CLIENT, COMMAND_ID, OTHER_ID, TOPICS

_FLUSH = re.compile(r"\b(fsync|fdatasync|sync_file_range|msync|sync|syncfs)\(")
AGENT = "import sys; from infoscreen_reboot.client.agent.app import main; sys.exit(main())"


class Traced:
    """The whole agent, its executor a mock, with each of its flushes on file."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        self._trace = folder / "trace"
        strace = "strace", "-f", "-qq", "-e", "trace=fsync,fdatasync,sync_file_range,msync,sync,syncfs"
        settings = {
            "MQTT_BROKER": broker.host,
            "MQTT_PORT": str(broker.port),
            "MQTT_TLS": "no",
            "CLIENT_UUID": CLIENT,
            "COMMAND_EXECUTOR": "mock",
            "COMMAND_MOCK_REBOOT_IMMEDIATE_COMPLETE": "yes",
            "COMMAND_REQUIRE_SYNCED_CLOCK": "no",
            "STATE_DIRECTORY": str(folder),
            "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={folder}/nobody-listens",
        }
        self._process = subprocess.Popen(
            [*strace, "-o", str(self._trace), sys.executable, "-c", AGENT, f"--boot-id={BOOTS[0]}"],
            cwd=Path(__file__).parents[2],
            env={"PATH": os.environ["PATH"], **settings},
            start_new_session=True,
        )

    def flushes(self) -> int:
        return len(_FLUSH.findall(self._trace.read_text())) if self._trace.exists() else 0

    def settled(self) -> int:
        """The flushes so far, once there have been no more for a while."""
        known, since = self.flushes(), time.monotonic()
        while time.monotonic() - since < 1:
            time.sleep(0.05)
            if (now := self.flushes()) != known:
                known, since = now, time.monotonic()
        return known

    def end(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)


@contextmanager
def traced(broker: Broker, folder: Path) -> Iterator[Traced]:
    agent = Traced(broker, folder)
    try:
        yield agent
    finally:
        agent.end()


def command(command_id: str, age: timedelta = timedelta()) -> bytes:
    issued_at = datetime.now(UTC) - age
    members = {
        "schema_version": "1.0",
        "command_id": command_id,
        "client_uuid": CLIENT,
        "action": "reboot_host",
        "issued_at": issued_at.isoformat(timespec="seconds"),
        "expires_at": (issued_at + timedelta(minutes=5)).isoformat(timespec="seconds"),
    }
    return json.dumps(members).encode()


@pytest.fixture
def agent(broker: Broker) -> Iterator[Traced]:
    # Not in /tmp, which may lie in memory: there the agent executes nothing.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder, traced(broker, Path(folder)) as agent:
        yield agent


def test_each_step_of_a_command_flushes_once_with_its_ack_and_a_repeat_flushes_nothing(
    broker: Broker, agent: Traced, run: Run
) -> None:
    async def test() -> None:
        # The boot report is the last that is written unasked; without a bus to ask it takes some seconds.
        async with broker.observe(TOPICS.boot) as boot:
            if not boot.retained:
                await boot.next()
        async with broker.observe(TOPICS.commands_ack) as acks:

            async def flushed(payload: bytes, *statuses: str) -> int:
                before = agent.settled()
                broker.publish(TOPICS.commands, payload)
                for expected in statuses:
                    ack: dict[str, Any] = json.loads((await acks.next()).payload)
                    assert ack["status"] == expected, ack
                return agent.settled() - before

            once = command(COMMAND_ID)
            assert await flushed(once, "accepted", "execution_started", "completed") == 3
            assert await flushed(once, "completed") == 0
            assert await flushed(command(COMMAND_ID, timedelta(seconds=1)), "completed") == 0, "a conflict"
            assert await flushed(command(OTHER_ID, timedelta(hours=1)), "failed") == 1

    run(test())
