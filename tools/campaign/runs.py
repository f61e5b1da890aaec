"""The fault campaign: random commands crossed with random faults on real machines, and what came of it as a table."""

from __future__ import annotations

import argparse
import logging
import queue
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tools.campaign.ground import Ground
from tools.campaign.mischief import has_netem
from tools.campaign.plan import WEIGHTS, Plan, draw
from tools.campaign.trial import Result, Trial
from tools.lab import tree
from tools.lab.machine import AGENT
from tools.lab.scratch import CACHE, LabError, sweep

# In turn and side by side: most of a run is waiting.
MACHINES = 4
# Of a run that takes longer it is told what it waited for last.
LONG_S = 10
# And the logs are kept, as those of one that broke a guarantee.
KEPT_FROM_S = 35
KEPT = CACHE / "faults"
SEEDS = 1_000_000


@dataclass(slots=True)
class Campaign:
    """Runs from `seed` on, one seed each, until there were `runs` or `minutes` are over."""

    suite: str
    seed: int
    runs: int
    minutes: float
    tell: Callable[[str], None] = print
    results: list[Result] = field(default_factory=list)

    def play(self) -> list[Result]:
        deb, other = tree.build(self.suite), tree.build(self.suite, "+1")
        seeds: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(self.runs):
            seeds.put(self.seed + number)
        deadline = time.monotonic() + self.minutes * 60
        lock, is_stopped = threading.Lock(), threading.Event()

        def work() -> None:
            player = Player(self.suite, lambda: Ground(self.suite, deb, other))
            try:
                while time.monotonic() < deadline and not is_stopped.is_set():
                    result = player.play(draw(seeds.get_nowait()))
                    with lock:
                        self.results.append(result)
                        self.tell(line(len(self.results), result))
            except queue.Empty:
                pass
            finally:
                player.close()

        with ThreadPoolExecutor(MACHINES) as pool:
            workers = [pool.submit(work) for _ in range(min(MACHINES, self.runs))]
            try:
                for worker in workers:
                    worker.result()
            finally:
                is_stopped.set()
        return self.results

    @property
    def broken(self) -> list[Result]:
        return [result for result in self.results if result.broken]

    def again(self, result: Result) -> str:
        return f"tools/faults --suite {self.suite} --seed {result.plan.seed} --runs 1"


class Player:
    """Plays runs one after the other on one machine, and on a new one after a run that went wrong."""

    def __init__(self, suite: str, make: Callable[[], Ground]) -> None:
        self._suite = suite
        self._make = make
        self._ground: Ground | None = None
        self._lives = self._connects = 0
        self._earlier: set[str] = set()
        self._forgotten: set[str] = set()

    def play(self, plan: Plan) -> Result:
        started, since = time.monotonic(), time.time()
        try:
            ground = self._prepare(plan)
            since = time.time()
            result = Trial(ground, plan, self._earlier, self._forgotten).play()
            if result.evidence is not None:
                self._earlier |= {order.command_id for order in result.evidence.orders}
                self._forgotten |= self._earlier if result.evidence.client_forgot else set()
        except (LabError, OSError) as error:
            result = Result(plan, [], 0, [f"the run could not be played: {error}"], time.monotonic() - started)
        if self._ground is not None and (result.broken or result.seconds > KEPT_FROM_S):
            keep(result, self._ground, since, KEPT / f"{self._suite}-{plan.seed}")
        if result.broken:
            self.close()
        else:
            for sending in plan.sendings:
                if sending.kind == "retained":
                    ground.send(b"", retain=True)
        return result

    def _prepare(self, plan: Plan) -> Ground:
        if self._ground is None:
            self._ground = ground = self._make()
            ground.boot()
            ground.wait_booted()
            ground.wait_online()
            self._lives, self._connects = 1, ground.witness.connects
        ground = self._ground
        is_other_clock = ground.can_jump(any(trouble.fault == "clock_jumps" for trouble in plan.troubles))
        # Else the back-off of the runs before would add up.
        if is_other_clock or ground.witness.connects - self._connects > len(ground.lives) - self._lives:
            heard = len(ground.broker.messages)
            ground.run("systemctl", "restart", AGENT)
            ground.wait_online(after=heard)
        self._lives, self._connects = len(ground.lives), ground.witness.connects
        return ground

    def close(self) -> None:
        if self._ground is not None:
            self._ground.close()
            self._ground = None


def keep(result: Result, ground: Ground, since: float, directory: Path) -> None:
    """Everything that can be read afterwards of a run that broke a guarantee."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "journal.txt").write_text(ground.journal(since_s=since - 1))
    (directory / "broker.log").write_text(ground.broker.log()[-200_000:])
    passed = [p for p in ground.witness.passed if p.at >= since - 1]
    told = [f"{p.at:.3f} {'up  ' if p.from_client else 'down'} {'PUBACK ' * p.is_puback}{p}" for p in passed]
    heard = [str(message) for message in ground.broker.messages if message.heard_at >= since - 1]
    lives = [str(life) for life in ground.lives]
    text = "\n".join([str(result.plan), *result.broken, "", *lives, "", *told, "", *heard, "", str(result.evidence)])
    (directory / "run.txt").write_text(text + "\n")


def line(number: int, result: Result) -> str:
    verdict = "  BROKEN: " + "; ".join(result.broken) if result.broken else ""
    ends = ", ".join(result.ends)
    waited = f" (until: {'; '.join(result.waited_for)})" if result.seconds > LONG_S and result.waited_for else ""
    return f"{number:4}  seed {result.plan.seed:<7} {result.plan} -> {ends}  {result.seconds:.1f} s{waited}{verdict}"


def table(results: list[Result]) -> str:
    """By fault; a run with two faults counts for both."""
    lines = [f"{'fault':<17}{'runs':>5}{'executions':>12}{'broken':>8}  ends"]
    for name in WEIGHTS:
        mine = [result for result in results if any(trouble.fault == name for trouble in result.plan.troubles)]
        lines.append(_row(name, mine))
    return "\n".join([*lines, _row("all runs", results)])


def _row(name: str, results: list[Result]) -> str:
    ends = Counter(end for result in results for end in result.ends)
    words = ", ".join(f"{end} {number}" for end, number in ends.most_common())
    wrong = sum(bool(result.broken) for result in results)
    return f"{name:<17}{len(results):>5}{sum(r.executions for r in results):>12}{wrong:>8}  {words}"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tools/faults",
        description="Crosses random commands with random faults on real machines; ends with a table, and with 1 if "
        "any guarantee was broken.",
    )
    parser.add_argument("--suite", choices=tree.SUITES, default="trixie", help="the release (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=50, help="how many runs at most (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=60, help="start no run after that time (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="of the first run, the next one has the next number (default: chance)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    seed = random.randrange(SEEDS) if options.seed is None else options.seed
    print(f"{options.suite}, {options.runs} runs from seed {seed} on", flush=True)
    campaign = Campaign(options.suite, seed, options.runs, options.minutes, lambda text: print(text, flush=True))
    started = time.monotonic()
    try:
        tree.ensure_host()
        print(f"a slow link is made by {'tc netem' if has_netem() else 'the witness: this kernel has no netem'}")
        campaign.play()
    except LabError as error:
        print(f"tools/faults: {error}", file=sys.stderr)
        return 2
    finally:
        sweep()
    print(f"\n{table(campaign.results)}\n\n{len(campaign.results)} runs in {time.monotonic() - started:.0f} s")
    for result in campaign.broken:
        print(f"BROKEN: {'; '.join(result.broken)}\n  again: {campaign.again(result)}")
        print(f"  logs: {KEPT / f'{campaign.suite}-{result.plan.seed}'}")
    if not campaign.results:
        print("no run was played")
    return 1 if campaign.broken or not campaign.results else 0


if __name__ == "__main__":
    sys.exit(main())
