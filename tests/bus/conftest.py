"""Fixtures: a private bus with fakes on it, and the real helper as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bus.fakes import Caller, FakeLogind, FakePolkit, FakeSystemd, Loop, PrivateBus, Reply, eventually

ROOT = Path(__file__).parents[2]
HELPER = ("org.infoscreen.RebootHelper1", "/org/infoscreen/RebootHelper1", "org.infoscreen.RebootHelper1")
BOOT_ID = "0f8fad5bd9cb469fa16570867728950e"
REBOOT, SHUTDOWN = "org.infoscreen.reboothelper1.reboot", "org.infoscreen.reboothelper1.shutdown"

# Constants of the helper that a test makes smaller are set before its main(): there is no option for that.
HURRIED = """
import json, sys
sys.path.insert(0, sys.argv[1])
from helper import infoscreen_reboot_helper as helper
for name, value in json.loads(sys.argv[2]).items():
    assert hasattr(helper, name), name
    setattr(helper, name, value)
ask, patience_s = helper.Helper.ask, helper.ANSWER_TIMEOUT_S

def ask_with_patience(self, whom, member, takes, body):
    helper.ANSWER_TIMEOUT_S = 0.5 if member == sys.argv[3] else patience_s
    return ask(self, whom, member, takes, body)

helper.Helper.ask = ask_with_patience
helper.main()
"""


# A test's files may lie in a tmpfs.
LASTING: dict[str, Any] = {"IN_MEMORY": []}


def activate(services: Path, constants: dict[str, float]) -> None:
    """Write into `services` what lets a PrivateBus start the helper by itself."""
    script = services / "activated.py"
    script.write_text(f"import sys\nsys.argv[1:] = {[str(ROOT), json.dumps(LASTING | constants), '']!r}\n{HURRIED}")
    lines = ["[D-BUS Service]", f"Name={HELPER[0]}", f"Exec={sys.executable} {script}", ""]
    (services / f"{HELPER[0]}.service").write_text("\n".join(lines))


class HelperProcess:
    """The helper as it is installed, but on the private bus and with its state in a directory of the test."""

    def __init__(self, address: str, state: Path, watcher: Caller) -> None:
        self.state = state
        self.lasts = True
        # What is asked so is soon given up: whatever else is asked may be answered late, on a busy machine.
        self.impatient_with = ""
        self.environment = {
            "DBUS_SYSTEM_BUS_ADDRESS": address,
            "STATE_DIRECTORY": str(state),
            "BOOT_ID": BOOT_ID,
        }
        self._watcher = watcher
        self._log = state.parent / "helper.log"
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self, constants: dict[str, float] | None = None, **environment: str) -> None:
        told = (LASTING if self.lasts else {}) | (constants or {})
        command = [sys.executable, "-c", HURRIED, str(ROOT), json.dumps(told), self.impatient_with]
        inherited = {name: value for name, value in os.environ.items() if name != "JOURNAL_STREAM"}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stderr=log, env={**inherited, **self.environment, **environment})

    def start(self, constants: dict[str, float] | None = None, **environment: str) -> None:
        self.launch(constants, **environment)
        eventually(lambda: self._watcher.has_owner(HELPER[0]) or self.process.poll() is not None)
        assert self.process.poll() is None, self.log

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the helper was not started"
        return self._process

    @property
    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    @property
    def history(self) -> list[dict[str, Any]]:
        header, *lines = (self.state / "history.jsonl").read_bytes().rstrip(b"\0").splitlines()
        assert json.loads(header) == {"version": 1}
        entries = map(json.loads, lines)
        return list({entry["command_id"]: entry for entry in entries}.values())

    def write_history(self, *entries: dict[str, Any]) -> None:
        lines = ({"version": 1}, *entries)
        (self.state / "history.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))

    def stop(self) -> int:
        """Its exit status after an orderly SIGTERM."""
        self.process.terminate()
        return self.process.wait(15)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()


class HelperCaller(Caller):
    """Someone who wants something from the helper."""

    def ask(self, member: str, *words: str) -> Reply:
        return self.call(*HELPER, member, "s" * len(words), *words)

    def lockout(self) -> tuple[int, int, int, str]:
        reply = self.call(*HELPER[:2], "org.freedesktop.DBus.Properties", "Get", "ss", HELPER[2], "Lockout")
        assert not reply.error, reply
        used, limit, window_s, unlocks_at = reply.body[0].value
        return used, limit, window_s, unlocks_at


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[PrivateBus]:
    bus = PrivateBus(tmp_path)
    yield bus
    bus.close()


@pytest.fixture
def polkit(loop: Loop, bus: PrivateBus) -> Iterator[FakePolkit]:
    fake = FakePolkit(loop, bus.address)
    yield fake
    fake.close()


@pytest.fixture
def logind(loop: Loop, bus: PrivateBus) -> Iterator[FakeLogind]:
    fake = FakeLogind(loop, bus.address)
    yield fake
    fake.close()


@pytest.fixture
def systemd(loop: Loop, bus: PrivateBus) -> Iterator[FakeSystemd]:
    fake = FakeSystemd(loop, bus.address)
    yield fake
    fake.close()


@pytest.fixture
def stranger(loop: Loop, bus: PrivateBus) -> Iterator[HelperCaller]:
    """Someone polkit has never heard of."""
    caller = HelperCaller(loop, bus.address)
    yield caller
    caller.close()


@pytest.fixture
def agent(loop: Loop, bus: PrivateBus, polkit: FakePolkit) -> Iterator[HelperCaller]:
    """Someone whom polkit lets do both."""
    caller = HelperCaller(loop, bus.address)
    polkit.allow(caller.name, REBOOT, SHUTDOWN)
    yield caller
    caller.close()


@pytest.fixture
def helper(
    tmp_path: Path,
    bus: PrivateBus,
    polkit: FakePolkit,
    logind: FakeLogind,
    systemd: FakeSystemd,
    stranger: HelperCaller,
) -> Iterator[HelperProcess]:
    """Not started yet, so that a test can prepare its history."""
    state = tmp_path / "state"
    state.mkdir()
    process = HelperProcess(bus.address, state, watcher=stranger)
    yield process
    process.close()
