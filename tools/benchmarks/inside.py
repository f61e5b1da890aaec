"""Runs one benchmark in a workshop and writes what it found: `inside.py NAME FILE QUICK`."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tools.benchmarks import commands, logind, start
from tools.benchmarks.stage import Stage

Samples = dict[str, list[float]]
BENCHMARKS: dict[str, Callable[[Stage, bool], Samples]] = {
    "accepted": lambda stage, quick: commands.accepted(stage, 40 if quick else 300),
    "throughput": lambda stage, quick: commands.throughput(stage, 500 if quick else 1000, 3 if quick else 15),
    "drain": lambda stage, quick: commands.drain(stage, 1000 if quick else 5000, 1 if quick else 3),
    "logind": lambda stage, quick: logind.called(stage, 30 if quick else 200),
    "start": lambda stage, quick: start.subscribed(stage, 8 if quick else 40),
    "imports": lambda stage, quick: {name: [ms] for name, ms in start.imports().items()},
}


def main(name: str, target: str, quick: str) -> None:
    # On the disk, not in a tmpfs.
    with tempfile.TemporaryDirectory(dir="/var/lib") as directory, Stage(Path(directory)) as stage:
        found = BENCHMARKS[name](stage, quick == "quick")
    Path(target).write_text(json.dumps({name: [round(x, 3) for x in samples] for name, samples in found.items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
