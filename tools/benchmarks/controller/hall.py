"""A workshop in which the controller is measured, with Debian's own packages of all that it stands on."""

from __future__ import annotations

import json

from tools.lab import tree
from tools.lab.scratch import LabError

Samples = dict[str, list[float]]
# The controller runs there only.
SUITE = "trixie"
# As `tools/bench` calls them; `controller` is all of them.
NAMES = tuple(f"controller-{name}" for name in ("drained", "sustained", "health", "killed", "batch", "service"))
_MINUTES = 30


def measure(names: list[str], quick: bool) -> dict[str, Samples]:
    """Not as root: PostgreSQL would not run. The disk is the host's, under an overlay."""
    with tree.Workshop(SUITE, tree.sources()) as shop:
        log = shop.directory / "log"
        target = "/build/found.json"
        module = "/usr/bin/python3", "-B", "-m", "tools.benchmarks.controller.inside"
        with log.open("wb") as output:
            process = shop.start(*module, target, "quick" if quick else "full", *names, output=output)
            status = process.wait(_MINUTES * 60)
        if status != 0:
            raise LabError(
                f"the controller's benchmarks ended with {status}:\n{log.read_text(errors='replace')[-4000:]}"
            )
        found: dict[str, Samples] = json.loads((shop.root / target.lstrip("/")).read_text())
        return found
