"""The controller's benchmarks run: small ones, which prove the same and are not to be judged by."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import run

import pytest
from sqlalchemy import insert

from infoscreen_reboot.controller.store.database import Database
from infoscreen_reboot.controller.store.tables import event
from tests.controller.conftest import Server
from tools.benchmarks import report
from tools.benchmarks.controller import figures, ground, hall

Samples = dict[str, list[float]]
INSIDE = "from tools.benchmarks.controller.inside import BENCHMARKS; print(*BENCHMARKS)"
ON_SQLITE: dict[str, Callable[[Path], Samples]] = {
    "controller-sustained": lambda folder: figures.sustained(folder, 300, 0.5),
    "controller-health": lambda folder: figures.health(folder, 20, 0.5, 333),
    "controller-killed": lambda folder: figures.killed(folder, 300, 1, 1),
    "controller-batch": lambda folder: figures.batch(folder, 4, 2, 0.1),
    "controller-service": lambda folder: figures.service(folder, 50, 300, 1, 1),
}


def judged(name: str, samples: Samples) -> list[float]:
    """What the report makes of it."""
    return [bound.measure(samples) for bound in report.BOUNDS if bound.benchmark == name]


@pytest.mark.parametrize("name", ON_SQLITE)
def test_a_benchmark_runs_and_can_be_judged(name: str, tmp_path: Path) -> None:
    assert judged(name, ON_SQLITE[name](tmp_path))


def test_acks_are_drained_on_both_databases(tmp_path: Path, server: Server) -> None:
    found = figures.drained(tmp_path, None, 50, 1) | figures.drained(tmp_path, server, 50, 1)
    assert len(judged("controller-drained", found)) == 2


def test_what_tools_bench_names_is_what_is_there() -> None:
    told = run([sys.executable, "-c", INSIDE], capture_output=True, text=True, check=True)
    assert tuple(told.stdout.split()) == hall.NAMES
    assert {*ON_SQLITE, "controller-drained"} == set(hall.NAMES)


def test_one_client_too_many_at_once_is_seen(tmp_path: Path) -> None:
    with ground.new_database(tmp_path, None) as url:
        database = Database(url)
        with database.write() as tx:
            told = [("sent", "a"), ("sent", "b"), ("completed", "a"), ("sent", "c"), ("failed", "b"), ("expired", "c")]
            rows = [{"at": tx.now, "kind": kind, "command_id": id, "content": {}} for kind, id in told]
            tx.db.execute(insert(event), rows)
        database.close()
        most, took = figures.prove_cap(url, clients=3)
        assert (most, len(took)) == (2, 3)


def test_a_missing_ack_is_seen(tmp_path: Path) -> None:
    with ground.new_database(tmp_path, None) as url:
        fleet = ground.populate(url, 2)
        with pytest.raises(AssertionError, match="0 of 2 commands are completed"):
            figures.prove_all_heard(url, fleet)
