"""Machines for the tests: containers with real systemd on which apt installed our package, a broker beside each."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.story import start
from tools import lab
from tools.machine import AGENT, HELPER, Machine, bare_machine

MACHINES = pytest.StashKey[list[Machine]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--suite", choices=lab.SUITES, default="trixie", help="the Debian release of the machines")


@pytest.fixture(scope="session")
def suite(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--suite"))


@pytest.fixture(scope="session")
def deb(suite: str) -> Path:
    """Our package, built for the suite from the work tree."""
    lab.ensure_host()
    return lab.build(suite)


@pytest.fixture
def parked(suite: str, deb: Path, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """Installed and configured, its clock synchronised after each boot, the broker up, the machine off."""
    with Machine(suite, deb) as machine:
        request.node.stash[MACHINES].append(machine)
        machine.configure_for_broker()
        machine.set_clock_synchronised()
        machine.broker.start()
        yield machine


@pytest.fixture
def machine(parked: Machine) -> Machine:
    """The same, booted and its agent online."""
    start(parked)
    return parked


@pytest.fixture
def bare(suite: str, deb: Path, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A plain Debian, booted, on which nothing of ours was ever installed; its broker is not started."""
    with bare_machine(suite, deb) as machine:
        request.node.stash[MACHINES].append(machine)
        machine.boot()
        machine.wait_booted()
        yield machine


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[MACHINES] = []


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """What the machine said belongs to a failed test's report."""
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed:
        for machine in item.stash[MACHINES]:
            boots = "\n".join(map(str, machine.lives))
            report.sections += [
                (f"{machine.name}: boots", boots),
                (f"{machine.name}: end of the journal", machine.journal()[-6000:]),
                (f"{machine.name}: journal of our units", machine.journal(AGENT, HELPER)[-8000:]),
                (f"{machine.name}: messages", "\n".join(map(str, machine.broker.messages[-30:]))),
            ]
