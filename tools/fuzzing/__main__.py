"""Fuzzes contract, helper and agent in the workshop of each suite, and ends with a table of what came of it."""

from __future__ import annotations

import argparse
import json
import logging
import random
import shutil
import sys
from pathlib import Path
from typing import Any

from tools.lab import tree
from tools.lab.runner import LOGS
from tools.lab.scratch import LabError

COLUMNS = ("suite", "what", "how many", "seconds", "crashes", "tracebacks", "executions", "memory, MB (may grow)")


def fuzz(suite: str, into: Path, options: list[str]) -> list[dict[str, Any]]:
    """What each stretch came to; an empty list where not even the first was over."""
    shutil.rmtree(into, ignore_errors=True)
    with tree.Workshop(suite, tree.sources()) as shop:
        inside = "/usr/bin/python3", "-B", "-m", "tools.fuzzing.inside", "--into=/build/fuzz"
        status = shop.start(*inside, *options).wait()
        if (shop.root / "build/fuzz").exists():
            shutil.copytree(shop.root / "build/fuzz", into, ignore=shutil.ignore_patterns("bus", "corpus", "*.sock"))
    report = into / "outcomes.jsonl"
    outcomes = [json.loads(line) for line in report.read_text().splitlines()] if report.exists() else []
    if status != 0:
        outcomes.append({"what": "the fuzzing itself", "faults": [f"ended with {status}, see above and {into}"]})
    return outcomes


def row(suite: str, outcome: dict[str, Any]) -> tuple[str, ...]:
    memory = (
        f"{outcome.get('before_mb', 0):.1f} -> {outcome.get('after_mb', 0):.1f} ({outcome.get('may_grow_mb', 0):g})"
    )
    numbers = (f"{outcome.get(name, 0):,.0f}" for name in ("done", "seconds", "crashes", "tracebacks", "executions"))
    return suite, outcome["what"], *numbers, memory


def table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools/fuzz", description=__doc__)
    parser.add_argument("--suite", action="append", choices=tree.SUITES, help="only this release (may be repeated)")
    parser.add_argument("--payloads", type=int, default=1_000_000, help="for parse (default: %(default)s; 0 for none)")
    parser.add_argument("--calls", type=int, default=100_000, help="on D-Bus, of the helper (default: %(default)s)")
    parser.add_argument("--messages", type=int, default=50_000, help="over MQTT, to the agent (default: %(default)s)")
    parser.add_argument("--packets", type=int, default=200_000, help="of a broker that lies (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="to do the same once more (default: another each time)")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(1, 2**31)
    print(f"seed {seed}", flush=True)
    counts = ("payloads", "calls", "messages", "packets")
    options = [f"--seed={seed}", *(f"--{name}={getattr(given, name)}" for name in counts)]
    rows: list[tuple[str, ...]] = [COLUMNS]
    notes, faults = list[str](), list[str]()
    try:
        tree.ensure_host()
        for suite in given.suite or tree.SUITES:
            print(f"=== {suite}", flush=True)
            for outcome in fuzz(suite, LOGS / f"fuzz-{suite}-{seed}", options):
                rows.append(row(suite, outcome))
                notes += [f"{suite}, {outcome['what']}: {outcome['note']}"] if outcome.get("note") else []
                faults += [f"BAD {suite}, {outcome['what']}: {fault}" for fault in outcome["faults"]]
    except LabError as error:
        sys.exit(f"tools/fuzz: {error}")
    print("\n" + "\n".join([table(rows), "", *notes, "", *faults]))
    print(f"seed {seed}: " + ("nothing bad" if not faults and len(rows) > 1 else f"{len(faults)} things are bad"))
    return 1 if faults or len(rows) == 1 else 0


if __name__ == "__main__":
    sys.exit(main())
