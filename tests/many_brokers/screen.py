"""A screen with the whole agent on it, as a process of its own: SIGKILL is a power cut, the next start another boot."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Self

from tests.played_host import Kind
from tools.simulated import agents
from tools.simulated.agents import FleetLoop, SimulatedClient
from tools.simulated.manner import Manner

# How long it is away when it reboots.
REBOOT_S = 0.3
GOES_DOWN = "the host goes down"
log = logging.getLogger("screen")


class Screen:
    """`settings` are those of agent.env; it stands still when its log has `stands_still_at`, if that is given."""

    def __init__(
        self,
        folder: Path,
        uuid: str,
        settings: dict[str, str],
        *,
        stands_still_at: str = "",
        reboot_s: float = REBOOT_S,
    ) -> None:
        self.uuid = uuid
        self._manner = [stands_still_at, str(reboot_s)]
        self._folder = folder
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut_power()

    def start(self) -> None:
        settings = [f"{name}={value}" for name, value in self._settings.items()]
        argv = [sys.executable, "-B", "-m", __name__, str(self._folder / "state"), self.uuid, *self._manner, *settings]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(argv, env=os.environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def cut_power(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def wait_still(self) -> None:
        assert self._process is not None
        _, status = os.waitpid(self._process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), f"it has ended: {status}"

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def peer(self, port: int) -> str:
        """The address of the broker that it is connected to."""
        assert self._process is not None
        mine = set()
        for file in Path(f"/proc/{self._process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # it has been closed meanwhile
                mine.add(str(file.readlink()))
        for line in Path(f"/proc/{self._process.pid}/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            address, _, at = fields[2].partition(":")
            if f"socket:[{fields[9]}]" in mine and int(at, 16) == port:
                return socket.inet_ntoa(bytes.fromhex(address)[::-1])
        raise AssertionError("it is not connected")

    def times_down(self) -> int:
        """How often its host went down by a command, or by anybody else, but for power cuts."""
        return self.words().count(GOES_DOWN)

    @property
    def _log(self) -> Path:
        return self._folder / "log"

    def times_unanswered(self) -> int:
        """How often a broker that was there said nothing, or hung up."""
        return len(re.findall("no answer within|without an answer", self.words()))

    def protocol(self) -> str:
        """The version of MQTT in which it is connected."""
        versions: list[str] = re.findall(r"connected to \S+ in MQTT (\S+)$", self.words(), re.MULTILINE)
        return versions[-1]

    def words(self) -> str:
        return self._log.read_text(errors="replace")


class Host(SimulatedClient):
    def go_dark(self, kind: Kind) -> None:
        log.info(GOES_DOWN)
        super().go_dark(kind)


class Still(logging.Handler):
    """Whoever logs that line goes no further."""

    def __init__(self, word: str) -> None:
        super().__init__()
        self._word = word

    def emit(self, record: logging.LogRecord) -> None:
        if self._word and self._word in record.getMessage():
            os.kill(os.getpid(), signal.SIGSTOP)


def main() -> None:
    state, uuid, stands_still_at, reboot_s, *settings = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger().addHandler(Still(stands_still_at))
    manner = Manner(reboot_s=(float(reboot_s), float(reboot_s)))
    named = dict(setting.split("=", 1) for setting in settings)
    with asyncio.Runner(loop_factory=FleetLoop) as runner:
        runner.run(agents.run([Host(Path(state), uuid, 0, manner, **named)]))


if __name__ == "__main__":
    main()
