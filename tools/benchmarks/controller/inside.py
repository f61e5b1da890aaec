"""Runs the controller's benchmarks in a workshop and writes what they found: `inside.py FILE QUICK NAME…`."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tools.benchmarks.controller import figures
from tools.benchmarks.controller.ground import PostgreSQL

Samples = dict[str, list[float]]


def drained(folder: Path, quick: bool) -> Samples:
    clients, rounds = (1000, 1) if quick else (10_000, 3)
    found = figures.drained(folder, None, clients, rounds)
    server = PostgreSQL()
    try:
        return found | figures.drained(folder, server, clients, rounds)
    finally:
        server.close()


# By what `tools/bench` calls each.
BENCHMARKS: dict[str, Callable[[Path, bool], Samples]] = {
    "controller-drained": drained,
    "controller-sustained": lambda folder, quick: figures.sustained(folder, 3000, 2 if quick else 20),
    "controller-health": lambda folder, quick: (
        figures.health(folder, 100, 2, 333) if quick else figures.health(folder, 10_000, 60, 333)
    ),
    "controller-killed": lambda folder, quick: (
        figures.killed(folder, 1000, 3, 1) if quick else figures.killed(folder, 4000, 20, 4)
    ),
    "controller-batch": lambda folder, quick: (
        figures.batch(folder, 20, 5, 0.5) if quick else figures.batch(folder, 1000, 50, 10)
    ),
    "controller-service": lambda folder, quick: (
        figures.service(folder, 500, 1000, 2, 1) if quick else figures.service(folder, 10_000, 1000, 20, 5)
    ),
}


def main(target: str, quick: str, *names: str) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    found: dict[str, Samples] = {}
    for name in names or BENCHMARKS:
        # On the disk, not in a tmpfs.
        with tempfile.TemporaryDirectory(dir=Path(target).parent) as directory:
            samples = BENCHMARKS[name](Path(directory), quick == "quick")
        found[name] = {name: [round(value, 3) for value in values] for name, values in samples.items()}
        print(name, {name: round(sum(values) / len(values), 2) for name, values in found[name].items()}, flush=True)
    Path(target).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
