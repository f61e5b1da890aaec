"""Runs benchmarks, says how each stands to its bound, and keeps the raw figures."""

from __future__ import annotations

import argparse
import logging
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.benchmarks import late, late_clock, machines, report
from tools.benchmarks.controller import hall as controllers
from tools.benchmarks.hall import Hall
from tools.lab import tree
from tools.lab.scratch import LabError, command, sweep

Samples = dict[str, list[float]]
IN_HALL = ("accepted", "throughput", "drain", "logind", "start", "imports")
ON_MACHINES: dict[str, Callable[[str, Path, bool], Samples]] = {
    "boots": machines.boots,
    "refusals": machines.refusals,
    "idle": machines.idle,
    "size": machines.size,
}
# These can have another commit's agent beside the package.
WITH_BEFORE: dict[str, Callable[[str, Path, bool, str | None], Samples]] = {
    "late": late.late,
    "late-clock": late_clock.late_clock,
}
RAW = tree.TREE / "docs" / "benchmarks"


def _circumstances(suite: str, quick: bool) -> dict[str, Any]:
    cpu = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return {
        "suite": suite,
        "quick": quick,
        "commit": command(
            "git", "-c", f"safe.directory={tree.TREE}", "-C", tree.TREE, "describe", "--always", "--dirty"
        ).strip(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": f"{len(cpu)} x {cpu[0] if cpu else platform.machine()}, Linux {platform.release()}",
        "load_before": os.getloadavg()[0],
    }


def _measure(suite: str, names: list[str], quick: bool, before: str | None) -> dict[str, Samples]:
    found: dict[str, Samples] = {}
    of_controller = [name for name in names if name in controllers.NAMES and suite == controllers.SUITE]
    if of_controller:
        print(f"{suite}: {', '.join(of_controller)}", flush=True)
        found = controllers.measure(of_controller, quick)
    if set(names) <= set(controllers.NAMES):
        return found
    deb = tree.build(suite)
    inside = [name for name in names if name in IN_HALL]
    if inside:
        with Hall(suite, deb) as hall:
            for name in inside:
                print(f"{suite}: {name}", flush=True)
                found[name] = hall.measure(name, quick)
    for name in names:
        if name in ON_MACHINES:
            print(f"{suite}: {name}", flush=True)
            found[name] = ON_MACHINES[name](suite, deb, quick)
        if name in WITH_BEFORE:
            print(f"{suite}: {name}", flush=True)
            found[name] = WITH_BEFORE[name](suite, deb, quick, before)
    return found


def main() -> int:
    names = [*IN_HALL, *ON_MACHINES, *WITH_BEFORE, *controllers.NAMES]
    parser = argparse.ArgumentParser(prog="tools/bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"only these, of {', '.join(names)}; controller")
    parser.add_argument("--suite", action="append", choices=tree.SUITES, help="only this Debian release")
    parser.add_argument("--quick", action="store_true", help="few rounds: to try it, not to judge by it")
    parser.add_argument(
        "--before", metavar="commit", help=f"measure that commit's agent, too ({', '.join(WITH_BEFORE)} only)"
    )
    parser.add_argument("--show", action="store_true", help="measure nothing, print what is kept")
    parser.add_argument("--into", type=Path, default=RAW, help="where the raw figures go (default: docs/benchmarks)")
    options = parser.parse_args()
    if "controller" in options.names:
        options.names = [name for name in options.names if name != "controller"] + list(controllers.NAMES)
    if unknown := set(options.names) - set(names):
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}")
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    kept = True
    try:
        if options.show:
            kept_files = [options.into / f"{suite}.json" for suite in options.suite or tree.SUITES]
            return 0 if all([report.show(report.kept(path)) for path in kept_files if path.exists()]) else 1
        tree.ensure_host()
        for suite in options.suite or tree.SUITES:
            found = _circumstances(suite, options.quick)
            found["benchmarks"] = _measure(suite, options.names or names, options.quick, options.before)
            options.into.mkdir(parents=True, exist_ok=True)
            report.keep(options.into / f"{suite}.json", found)
            kept = report.show(found) and kept
    except LabError as error:
        sys.exit(f"tools/bench: {error}")
    finally:
        sweep()
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
