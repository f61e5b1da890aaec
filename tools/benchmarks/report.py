"""From raw figures to tables, and to a word on each bound."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Samples = dict[str, list[float]]
Benchmarks = dict[str, Samples]
# The delayed acknowledgement of TCP, which Nagle's algorithm waits for.
STALL_MS = (38.0, 48.0)


@dataclass(frozen=True, slots=True)
class Bound:
    """`measure` gives what is to be at most (or at least) `limit`."""

    benchmark: str
    what: str
    limit: float
    measure: Callable[[Samples], float]
    at_least: bool = False

    def is_kept(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit


def _ratio(name: str, to: str, of: Callable[[list[float]], float] = statistics.median) -> Callable[[Samples], float]:
    return lambda samples: of(samples[name]) / of(samples[to])


def _one(name: str) -> Callable[[Samples], float]:
    return lambda samples: statistics.median(samples[name])


def _stalls(samples: Samples) -> float:
    """Per cent of the agent's answers that took as long as a stall, beyond the echo's, which has none."""

    def share(name: str) -> float:
        return 100 * sum(STALL_MS[0] <= ms <= STALL_MS[1] for ms in samples[name]) / len(samples[name])

    return max(share(name) for name in ("accepted", "refused", "duplicate")) - share("insert")


def _percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _p99(name: str) -> Callable[[Samples], float]:
    return lambda samples: _percentile(samples[name], 0.99)


def _p95_of_now(samples: Samples) -> float:
    """Of all that were measured, without those of another commit."""
    return _percentile([s for name, values in samples.items() if not name.startswith("before") for s in values], 0.95)


BOUNDS = (
    Bound("accepted", "publish → accepted, p50, to an echo with one insert", 1.75, _ratio("accepted", "insert")),
    Bound("accepted", "publish → refused, p50, to the same", 1.5, _ratio("refused", "insert")),
    Bound("accepted", "stalls of 40 ms, % beyond the echo's", 1.0, _stalls),
    Bound("throughput", "answered a second, to an echo with one insert", 0.5, _ratio("agent", "insert"), at_least=True),
    Bound("logind", "publish → logind called, p50, to the least", 1.5, _ratio("agent", "least")),
    Bound("start", "start → subscribed, p50, to systemctl-mqtt", 1.0, _ratio("agent", "systemctl-mqtt")),
    Bound(
        "refusals",
        "processes of the helper 31 s after a call",
        0,
        lambda samples: max(samples["helper resident after 31 s"]),
    ),
    Bound("idle", "RSS to the same libraries alone", 1.25, _ratio("agent RSS MB", "libraries RSS MB")),
    Bound("idle", "PSS to the same libraries alone", 1.25, _ratio("agent PSS MB", "libraries PSS MB")),
    Bound("idle", "PSS to lnxlink", 1.0, _ratio("agent PSS MB", "lnxlink PSS MB")),
    Bound("idle", "CPU, ms a minute", 10, _one("agent CPU ms a minute")),
    Bound("idle", "wake-ups a second", 0.5, _one("agent wake-ups a second")),
    Bound("idle", "processes of the helper", 0, _one("helper processes")),
    Bound("late", "the network comes → connected, p95, s", 5, _p95_of_now),
    Bound("late-clock", "the clock is set → connected, p95, s", 5, _p95_of_now),
    *(
        Bound(
            "controller-drained",
            f"acks committed a second, {database}, to a bare subscriber",
            0.7,
            _ratio(f"{database} engine", f"{database} bare"),
            at_least=True,
        )
        for database in ("SQLite", "PostgreSQL")
    ),
    Bound("controller-sustained", "3,000 acks/s: said → committed, p99, ms", 100, _p99("lag ms")),
    Bound("controller-health", "health of 10,000 clients, % of a core", 15, _one("the fleet's CPU %")),
    Bound("controller-health", "… to 100 clients', a message", 1.5, _one("the fleet's us to the smallest's")),
    Bound("controller-killed", "4 x SIGKILL at 4,000 acks/s: acks missing", 0, _one("missing")),
    Bound("controller-batch", "1,000 reboots, 50 at once, to the least", 1.3, _one("to the least")),
    Bound("controller-service", "start → serves, s", 3, _one("serves after s")),
    Bound("controller-service", "read at 1,000 acks/s, p99, ms", 50, _p99("read ms")),
    Bound("controller-service", "memory with 10,000 clients, MB", 130, _one("MB")),
)


def keep(path: Path, found: dict[str, Any]) -> None:
    """Writes the raw figures; a benchmark that was not run this time stays as it was."""
    older: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    about = {name: value for name, value in found.items() if name != "benchmarks"}
    benchmarks = older.get("benchmarks", {})
    for name, samples in found["benchmarks"].items():
        benchmarks[name] = {"about": about, "samples": samples}
    path.write_text(json.dumps({"benchmarks": dict(sorted(benchmarks.items()))}, separators=(",", ":")) + "\n")


def kept(path: Path) -> dict[str, Any]:
    """What was kept there, as it was found; the circumstances are those of the benchmark that was run last."""
    benchmarks = json.loads(path.read_text())["benchmarks"]
    about: dict[str, Any] = max((entry["about"] for entry in benchmarks.values()), key=lambda about: str(about["at"]))
    return about | {"benchmarks": {name: entry["samples"] for name, entry in benchmarks.items()}}


def show(found: dict[str, Any]) -> bool:
    """Prints what was measured, and whether each bound on it is kept; whether all are."""
    benchmarks: Benchmarks = found["benchmarks"]
    print(f"\n{found['suite']}, {found['machine']}, load {found['load_before']:.1f}, {found['at']}\n")
    print("| benchmark | | n | p50 | p95 | p99 | least | most |\n|---|---|---:|---:|---:|---:|---:|---:|")
    for benchmark, samples in benchmarks.items():
        for name, values in samples.items():
            high = (_percentile(values, share) for share in (0.95, 0.99))
            figures = (statistics.median(values), *high, min(values), max(values))
            print(f"| {benchmark} | {name} | {len(values)} | " + " | ".join(f"{x:.4g}" for x in figures) + " |")
    print("\n| bound | limit | measured | |\n|---|---:|---:|---|")
    all_kept = True
    for bound in BOUNDS:
        if bound.benchmark in benchmarks:
            value = bound.measure(benchmarks[bound.benchmark])
            is_kept = bound.is_kept(value)
            all_kept = all_kept and is_kept
            sign = "≥" if bound.at_least else "≤"
            print(f"| {bound.what} | {sign} {bound.limit:g} | {value:.2f} | {'kept' if is_kept else 'BROKEN'} |")
    return all_kept
