"""A workshop with the built package and its peers installed, in which benchmarks run as root."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tools.lab import tree
from tools.lab.roots import peers, workshop_root
from tools.lab.scratch import LabError

Samples = dict[str, list[float]]
_MINUTES = 20


class Hall(tree.Workshop):
    """The agent is what dpkg has put there; the disk is the host's, under an overlay."""

    def __init__(self, suite: str, deb: Path) -> None:
        super().__init__(suite, tree.sources(), [*peers(suite), workshop_root(suite)])
        shutil.copy(deb, self.root / "root" / "client.deb")
        self._run("dpkg", "--install", "/root/client.deb")

    def measure(self, name: str, quick: bool) -> Samples:
        result = self.root / "root" / f"{name}.json"
        module = "/usr/bin/python3", "-B", "-m", "tools.benchmarks.inside"
        self._run(*module, name, f"/root/{result.name}", "quick" if quick else "full")
        samples: Samples = json.loads(result.read_text())
        return samples

    def _run(self, *args: str) -> None:
        log = self.directory / "log"
        inside = self.nspawn("--as-pid2", "--private-network", "--chdir=/build/src", "--setenv=LC_ALL=C.UTF-8", *args)
        with log.open("wb") as output:
            status = self.popen(*inside, output=output).wait(_MINUTES * 60)
        if status != 0:
            raise LabError(f"`{' '.join(args)}` ended with {status}:\n{log.read_text(errors='replace')[-4000:]}")
