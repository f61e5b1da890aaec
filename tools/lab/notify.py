"""The receiving end of systemd's readiness protocol, so that nobody has to poll or sleep."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from tools.lab.patience import Patience
from tools.lab.scratch import LabError


class Readiness:
    """A socket to hand to one process as NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self.path.unlink(missing_ok=True)

    @property
    def env(self) -> dict[str, str]:
        return {"NOTIFY_SOCKET": str(self.path)}

    def wait_for(self, word: str, process: subprocess.Popen[bytes], timeout_s: float) -> str | None:
        """What follows `word=` in a message; None if the process ended first. Raises LabError when time is up."""
        patience = Patience(timeout_s)
        self._socket.settimeout(0.2)
        while not patience.is_over:
            try:
                lines = self._socket.recv(8192).decode().splitlines()
            except TimeoutError:
                if process.poll() is not None:
                    return None
                continue
            for line in lines:
                if line.startswith(word + "="):
                    return line.partition("=")[2]
        raise LabError(f"no {word} from `{process.args!r}` within {timeout_s:g} s")
