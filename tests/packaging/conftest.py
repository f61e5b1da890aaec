"""Debian's own tools and a fleet's tools on a bench, and machines that they reach."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.conftest import (
    MACHINES,
    deb,
    furnished,
    pytest_addoption,
    pytest_runtest_makereport,
    pytest_runtest_setup,
    suite,
)
from tools.lab import tree
from tools.lab.debian import Bench
from tools.lab.machine import Machine, furnished_layers_of_testbed
from tools.lab.roots import layers_of_testbed

__all__ = ["deb", "furnished", "pytest_addoption", "pytest_runtest_makereport", "pytest_runtest_setup", "suite"]


@pytest.fixture
def bench(suite: str) -> Iterator[Bench]:
    with Bench(suite) as bench:
        yield bench


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The controller is built for one suite only. None leaves it to --ignore."""
    is_once = collection_path.name == "test_controller.py"
    return True if is_once and config.getoption("--suite") != tree.CONTROLLER_SUITE else None


@pytest.fixture(scope="session")
def debs(suite: str, deb: Path) -> list[Path]:
    """All our packages of that suite."""
    return tree.build_all(suite)


@contextmanager
def on_the_bench(
    suite: str, deb: Path, layers: Sequence[Path], bench: Bench, request: pytest.FixtureRequest
) -> Iterator[Machine]:
    with Machine(suite, deb, auto_restart=True, layers=layers) as machine:
        request.node.stash[MACHINES].append(machine)
        bench.let_in(machine)
        machine.boot()
        machine.wait_booted()
        yield machine


@pytest.fixture
def bare_testbed(
    suite: str, deb: Path, debs: list[Path], bench: Bench, request: pytest.FixtureRequest
) -> Iterator[Machine]:
    """A booted plain Debian, which the bench may log in to; it comes back from reboots by itself."""
    with on_the_bench(suite, deb, layers_of_testbed(suite, *debs), bench, request) as machine:
        yield machine


@pytest.fixture
def testbed(suite: str, deb: Path, debs: list[Path], bench: Bench, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """The same, with what the client's package wants from Debian and nothing of ours."""
    with on_the_bench(suite, deb, furnished_layers_of_testbed(suite, deb, debs), bench, request) as machine:
        yield machine
