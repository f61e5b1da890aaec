"""Plays what goes wrong in a fleet, and compares each verdict of the controller with the one that has to come."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from tools.demonstration.site import Site
from tools.drills import drills, histogram
from tools.drills.drills import Ground, Result
from tools.lab import tree
from tools.lab.scratch import LabError


def play(suite: str) -> tuple[list[Result], list[float], int]:
    """All drills; for how long each client of the fleet was away, and how many did not come back in time."""
    with ExitStack() as stack:
        site = Site(stack, suite)
        for title, work in site.steps():
            print(title, flush=True)
            work()
        ground = Ground(site)
        print("playing what only waits, side by side", flush=True)
        with ThreadPoolExecutor() as side_by_side:
            simulated = [side_by_side.submit(drill, ground) for drill in drills.OF_SIMULATED]
            fleet = side_by_side.submit(drills.fleet, ground)
            results = [_said(drill(ground)) for drill in drills.REFUSED_BY_THE_CLIENT]
            results += [_said(future.result()) for future in simulated]
            times, lost = fleet.result()
        print("playing one after the other what takes something away", flush=True)
        results += [_said(drill(ground)) for drill in drills.REBOOTS_OF_THE_CLIENT]
        return results, times, lost


def _said(result: Result) -> Result:
    print(f"  {result.drill}: {result.got} after {result.took_s:.0f} s", flush=True)
    return result


def table(results: Sequence[Result]) -> list[str]:
    """In Markdown."""
    lines = ["| drill | what goes wrong | verdict | after | away |", "|---|---|---|---|---|"]
    for result in results:
        verdict = result.got if result.is_good else f"**{result.got}**, and not {result.expected}"
        away = "none" if result.away_s is None else f"{result.away_s:.0f} s"
        lines.append(f"| {result.drill} | {result.done} | {verdict} | {result.took_s:.0f} s | {away} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tools/drill",
        description="Boots a server with the controller, one real client, and twenty simulated ones; plays faults on "
        "them, and compares each verdict with the one that has to come. It takes some ten minutes. The exit code is 1 "
        "if a verdict is another one.",
    )
    parser.add_argument(
        "--suite", choices=tree.SUITES, default="trixie", help="the client's Debian (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        tree.ensure_host()
        results, times, lost = play(options.suite)
    except LabError as error:
        print(f"\ntools/drill: {error}")
        return 1
    print("\n" + "\n".join(table(results)))
    print(f"\nA whole fleet at once, for how long each client was away ({lost} did not come back in time):\n")
    print("\n".join(histogram.draw(times)))
    print(f"\n  {histogram.summary(times)}")
    if options.json is not None:
        figures = {"drills": [asdict(result) for result in results], "away_s": sorted(times), "lost": lost}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if all(result.is_good for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
