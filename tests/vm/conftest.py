"""Virtual machines for the tests: Debian's own kernel on a USB disk, with a hardware watchdog and our package."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.broker.conftest import Authority
from tests.system.conftest import deb, pytest_addoption, suite
from tests.vm.hands import SLOW_S, Normal, facts, normal_reboot, take_back
from tools.lab.vm import VirtualMachine

__all__ = ["deb", "pytest_addoption", "suite"]

STARTED: list[VirtualMachine] = []
TLS_PORT = 8884
LISTENER = f"listener {TLS_PORT} 127.0.0.1\nallow_anonymous true\ncertfile {{certificate}}\nkeyfile {{key}}\n"


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@contextmanager
def online(suite: str, deb: Path, authority: Authority) -> Iterator[VirtualMachine]:
    """Booted, and its agent online, on a disk as it was installed and configured; the broker speaks TLS, too."""
    with VirtualMachine(suite, deb) as machine:
        STARTED[:] = [machine]
        identity = authority.issue("broker", f"IP:{machine.BROKER_HOST}")
        with machine.broker.configuration.open("a") as file:
            file.write(LISTENER.format(certificate=identity.certificate, key=identity.key))
        machine.broker.start()
        machine.boot()
        machine.wait_back(SLOW_S)
        yield machine


@pytest.fixture(scope="session")
def rebooted(suite: str, deb: Path, authority: Authority) -> Iterator[tuple[VirtualMachine, Normal]]:
    """A machine after a commanded reboot, with what overrides the shipped settings still on it."""
    with online(suite, deb, authority) as machine:
        yield machine, normal_reboot(machine)


@pytest.fixture(scope="session")
def normal(rebooted: tuple[VirtualMachine, Normal]) -> Normal:
    """What a client's settings are, before and after a commanded reboot that nothing hinders, and how long it took."""
    return rebooted[1]


@pytest.fixture(scope="session")
def machine(rebooted: tuple[VirtualMachine, Normal]) -> VirtualMachine:
    """The same machine, with its settings as the installation left them."""
    machine, normal = rebooted
    take_back(machine)
    assert facts(machine) == normal.shipped
    return machine


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, None]:
    """What the machine said belongs to a failed test's report."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for machine in STARTED:
            report.sections += [
                (f"{machine.scratch.name}: boots", "\n".join(map(str, machine.boots))),
                (f"{machine.scratch.name}: messages", "\n".join(map(str, machine.broker.messages[-30:]))),
                (f"{machine.scratch.name}: end of the console", machine.console()[-6000:]),
            ]
