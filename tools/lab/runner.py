"""Runs every test where it belongs, counts what ran in each folder, and ends with one line of totals."""

from __future__ import annotations

import argparse
import logging
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NoReturn

from tools.lab import tree
from tools.lab.roots import layers_of_brokers, layers_of_browser
from tools.lab.scratch import CACHE, LabError, sweep

# In a workshop, too, but beside the others: it takes as many minutes as all of theirs.
CONTROLLER = "tests/controller"
# In a workshop that has a browser, too.
WEB = "tests/web"
IN_WORKSHOP = ("tests/unit", "tests/crash", "tests/bus", "tests/broker", "tests/fuzz", CONTROLLER, WEB)
WORKSHOP = "workshop"
PACKAGING = "tests/packaging"
# In a workshop of its own, which has them all.
BROKERS = "tests/many_brokers"
LAYERS = {BROKERS: layers_of_brokers, WEB: layers_of_browser}
SYSTEM = "tests/system"
ON_MACHINES = (SYSTEM, PACKAGING, "tests/vm")
# What takes longest begins first.
PLACES = ("tests/vm", SYSTEM, WORKSHOP, PACKAGING, CONTROLLER, BROKERS, WEB)
# The linters are of one suite, and so is the judgement of what they lint. The controller runs on trixie only.
ONCE = "trixie"
OF_ONE_SUITE = ("tests/*.py", CONTROLLER, WEB)
PYTEST = ("/usr/bin/python3", "-B", "-m", "pytest", "-p", "no:cacheprovider", "--color=no", "--durations=8")
# A job hangs when no test of it has ended for so long; a busy machine may take it all the time that it wants.
SILENCE_S = 30 * 60
# Less than CI waits for all of them together.
TIMEOUT_S = 75 * 60
LOOK_S = 1.0
# Two more than CI has processors: the tests in tests/system wait for most of their time.
JOBS_AT_ONCE = 4
# These are two jobs each, so that none is still at work when all others are over.
HALVED = (SYSTEM, CONTROLLER)
# Where tests leave pictures in a workshop; afterwards they lie beside the logs.
PICTURES = "build/pictures"
# Of this checkout: another one on the same machine may run its tests at the same time.
LOGS = CACHE / "logs" / str(tree.TREE).strip("/").replace("/", "-")
# nspawn says so where /run is not a tmpfs, and it means nothing.
NOISE = "Attempted to remove disk file system under"


@dataclass(slots=True)
class Job:
    """One pytest run for one suite: in its workshop, or on the host which drives machines of that suite."""

    suite: str
    targets: list[str]
    options: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    is_stopped: bool = False
    is_over: threading.Event = field(default_factory=threading.Event)
    problem: str = ""
    ran: Counter[str] = field(default_factory=Counter)
    failed: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def drives_machines(self) -> bool:
        return self.targets[0].startswith(ON_MACHINES)

    def run(self) -> None:
        """Never raises: what goes wrong is the job's problem."""
        report = self.log.with_suffix(".xml")
        report.unlink(missing_ok=True)
        try:
            with self.log.open("wb") as output:
                status = self._on_host(report, output) if self.drives_machines else self._in_workshop(report, output)
            if status not in (0, 1):
                self.problem = f"pytest ended with {status}"
            self._count(ElementTree.parse(report))
        except FileNotFoundError:
            self.problem = self.problem or "pytest made no report"
        except (LabError, ElementTree.ParseError) as error:
            self.problem = str(error)
        self.is_over.set()

    def _in_workshop(self, report: Path, output: IO[bytes]) -> int:
        layers = LAYERS.get(_folder(self.targets[0]))
        with tree.Workshop(self.suite, tree.sources(), layers(self.suite) if layers else ()) as shop:
            argv = *PYTEST, "--junitxml=/build/report.xml", *self.options, *self.targets
            status = self._wait(shop.start(*argv, output=output))
            shutil.copy(shop.root / "build/report.xml", report)
            if (shop.root / PICTURES).is_dir():
                shutil.copytree(shop.root / PICTURES, LOGS / Path(PICTURES).name, dirs_exist_ok=True)
        return status

    def _on_host(self, report: Path, output: IO[bytes]) -> int:
        argv = [*PYTEST, f"--junitxml={report}", f"--suite={self.suite}", *self.options, *self.targets]
        both, nothing = subprocess.STDOUT, subprocess.DEVNULL
        return self._wait(subprocess.Popen(argv, cwd=tree.TREE, stdin=nothing, stdout=output, stderr=both))

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        self.process = process
        if self.is_stopped:
            process.kill()
        began = told_at = time.monotonic()
        told = 0
        while True:
            try:
                return process.wait(LOOK_S)
            except subprocess.TimeoutExpired:
                now = time.monotonic()
            size = self.log.stat().st_size
            if size != told:
                told = size
                told_at = now
            if now > told_at + SILENCE_S:
                self._give_up(f"no test ended for {SILENCE_S // 60} minutes")
            if now > began + TIMEOUT_S:
                self._give_up(f"it was not over after {TIMEOUT_S // 60} minutes")

    def _give_up(self, why: str) -> NoReturn:
        self.stop()
        raise LabError(f"stopped, because {why}; what hangs is the last line of the output")

    def stop(self) -> None:
        self.is_stopped = True
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _count(self, report: ElementTree.ElementTree) -> None:
        for case in report.iter("testcase"):
            place, name = case.get("classname"), case.get("name") or ""
            # A file that could not be collected is reported as a test without a place.
            file, test = (_file(place), name) if place else (_file(name), "")
            self.ran[_folder(file)] += 1
            for kind in ("failure", "error", "skipped"):
                if case.find(kind) is not None:
                    self.failed[file, test] = "skipped" if kind == "skipped" else "failed"
        for folder in {_folder(target) for target in self.targets} - set(self.ran):
            self.problem = self.problem or f"no test ran in {folder}"


def _file(dotted: str) -> str:
    """The file of a test by the name that pytest reports, with or without a class at its end."""
    path = Path(*dotted.split("."))
    found = (parent.with_suffix(".py") for parent in (path, *path.parents) if parent.name)
    return str(next((file for file in found if (tree.TREE / file).is_file()), path))


def _folder(path: str) -> str:
    """`tests/unit` of everything in it; what lies beside the folders is all of one kind."""
    folders = *IN_WORKSHOP, *ON_MACHINES, BROKERS
    return next((folder for folder in folders if path.startswith(folder)), "tests/*.py")


def _place(target: str) -> str:
    """What drives machines runs for itself: each such folder has fixtures of its own."""
    folder = _folder(target)
    return folder if folder in (*ON_MACHINES, CONTROLLER, BROKERS, WEB) else WORKSHOP


def plan(suites: Sequence[str], fast: bool, arguments: Sequence[str]) -> list[Job]:
    """Arguments under tests/ choose what to run, all others are pytest's."""
    chosen = [argument for argument in arguments if argument.startswith("tests/")]
    options = [argument for argument in arguments if argument not in chosen]
    chosen = [target for target in chosen if target != "tests/"]
    everything = sorted(str(path.relative_to(tree.TREE)) for path in tree.TREE.glob("tests/test_*.py"))
    everything += [*IN_WORKSHOP, *([] if fast else (*ON_MACHINES, BROKERS))]
    LOGS.mkdir(parents=True, exist_ok=True)
    jobs = []
    for place in PLACES:
        for suite in suites:
            targets = [target for target in chosen or everything if _place(target) == place]
            if suite != ONCE and (ONCE in suites or not chosen):
                targets = [target for target in targets if _folder(target) not in OF_ONE_SUITE]
            for name, left_out in _parts(targets) if targets else ():
                log = LOGS / f"{Path(place).name}{name}-{suite}.log"
                jobs.append(Job(suite, targets, [*options, *left_out], log))
    return jobs


def _parts(targets: list[str]) -> list[tuple[str, list[str]]]:
    """For each job its name's ending, and the options by which it leaves out what the other one does.

    Not the names of what it does: files that are named are never left to a folder's conftest.
    """
    if targets[0] not in HALVED:
        return [("", [])]
    ignored = sorted(f"--ignore={path.relative_to(tree.TREE)}" for path in tree.TREE.glob(f"{targets[0]}/test_*.py"))
    return [("", ignored[1::2]), ("-2", ignored[::2])]


def show(job: Job) -> None:
    """Prints a job's output as it comes, or at once if it came while another's was shown."""
    where = "on machines" if job.drives_machines else "in its workshop"
    print(f"\n=== {job.log.stem}, {where}: {' '.join(job.targets)}", flush=True)
    offset = 0
    while True:
        is_over = job.is_over.wait(0.2)
        if job.log.exists():
            with job.log.open("rb") as log:
                log.seek(offset)
                text = log.read()
            whole = text if is_over else text[: text.rfind(b"\n") + 1]
            offset += len(whole)
            lines = whole.decode(errors="replace").splitlines(keepends=True)
            sys.stdout.write("".join(line for line in lines if NOISE not in line))
            sys.stdout.flush()
        if is_over:
            break
    if job.problem:
        print(f"\n{job.suite}: {job.problem}", flush=True)


def summarise(jobs: Sequence[Job], seconds: float) -> int:
    """Prints what ran where, what to do about failures, and the totals; the exit status."""
    suites = list(dict.fromkeys(job.suite for job in jobs))
    folders = list(dict.fromkeys(folder for job in jobs for folder in job.ran))
    print(f"\n{'tests that ran':<20}" + "".join(f"{suite:>10}" for suite in suites))
    for folder in folders:
        counts = [sum(job.ran[folder] for job in jobs if job.suite == suite) for suite in suites]
        print(f"{folder:<20}" + "".join(f"{count or '-':>10}" for count in counts))
    print(f"in {seconds:.0f} s; full output in {LOGS}\n")
    for job in jobs:
        for (file, test), outcome in job.failed.items():
            only = f" -k {shlex.quote(test.partition('[')[0])}" if test else ""
            print(f"{outcome.upper()} {job.suite} {file}{test and '::'}{test}")
            print(f"  again: tools/test --suite {job.suite} {file}{only}")
        if job.problem:
            print(f"PROBLEM {job.suite} {' '.join(job.targets)}: {job.problem.splitlines()[0]}")
    ran, failed = sum(job.ran.total() for job in jobs), sum(len(job.failed) for job in jobs)
    if any(outcome == "skipped" for job in jobs for outcome in job.failed.values()):
        print("A skipped test counts as a failed one: nothing is proved by it.")
    problems = sum(bool(job.problem) for job in jobs)
    print(f"{ran - failed} passed, {failed + problems} failed")
    return 1 if failed or problems or not ran else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tools/test",
        description="Installs what the tests need and runs all of them; downloads are cached.",
        epilog="Arguments under tests/ choose what runs, all others go to pytest: tools/test tests/unit -k words",
    )
    parser.add_argument("--fast", action="store_true", help="leave out what boots machines, and other brokers")
    parser.add_argument(
        "--packaging", action="store_true", help="only Debian's own tests, the fleet's tools and other brokers"
    )
    parser.add_argument(
        "--suite", action="append", choices=tree.SUITES, help="only this Debian release (may be repeated)"
    )
    options, arguments = parser.parse_known_args()
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    started = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        tree.ensure_host()
        arguments += [PACKAGING, BROKERS] if options.packaging else []
        jobs = plan(options.suite or tree.SUITES, options.fast, arguments)
    except LabError as error:
        print(f"tools/test: {error}", file=sys.stderr)
        return 2
    with ThreadPoolExecutor(JOBS_AT_ONCE) as pool:
        try:
            for job in jobs:
                pool.submit(job.run)
            for job in jobs:
                show(job)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for job in jobs:
                job.stop()
            print("\ntools/test: stopped", file=sys.stderr)
            return 130
        finally:
            sweep()
    return summarise(jobs, time.monotonic() - started)


if __name__ == "__main__":
    sys.exit(main())
