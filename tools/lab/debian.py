"""Where Debian's tools judge the package, and where a fleet's tools reach a machine by ssh."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tools.lab import tree
from tools.lab.machine import Machine
from tools.lab.patience import MOST
from tools.lab.roots import layers_of_bench
from tools.lab.scratch import LabError

SSH_KEY = "/root/.ssh/id_ed25519"


class Bench(tree.Workshop):
    """The tools of one suite, with the tree in /build/src."""

    def __init__(self, suite: str) -> None:
        super().__init__(suite, tree.sources(), layers_of_bench(suite))
        self._runs = 0

    def take(self, file: Path) -> str:
        """Puts a file of the host there; its name inside."""
        shutil.copy(file, self.root / "root")
        return f"/root/{file.name}"

    def run_as_root(
        self, *args: str, machine: Machine | None = None, options: Sequence[str] = (), timeout_s: float = 600
    ) -> str:
        """What a command printed, both streams, run in the machine's network; raises LabError if it failed."""
        network = "--private-network" if machine is None else f"--network-namespace-path=/run/netns/{machine.name}"
        self._runs += 1
        log = self.directory / f"log-{self._runs}"
        inside = self.nspawn("--as-pid2", "--chdir=/build/src", "--setenv=LC_ALL=C.UTF-8", network, *options, *args)
        with log.open("wb") as output:
            process = self.popen(*inside, output=output)
            try:
                end = f"ended with {process.wait(timeout_s * MOST)}"
            except subprocess.TimeoutExpired:
                end = f"did not end within {timeout_s:g} s"
        text = log.read_text(errors="replace")
        if process.returncode != 0:
            raise LabError(f"`{' '.join(args)}` {end} on the bench:\n{text[-8000:]}")
        return text

    def let_in(self, machine: Machine) -> None:
        """From now on root of the bench may log in to the machine as root."""
        key = self.root / SSH_KEY.lstrip("/")
        if not key.exists():
            self.run_as_root("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", SSH_KEY)
        machine.write("/root/.ssh/authorized_keys", key.with_suffix(".pub").read_text(), 0o600)
