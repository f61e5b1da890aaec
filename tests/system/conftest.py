"""Machines for the tests: containers with real systemd on which apt installed our package, a broker beside each."""

from __future__ import annotations

import subprocess
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.broker.conftest import Authority
from tests.system.hands import start
from tools.lab import tree
from tools.lab.machine import AGENT, HELPER, Machine, bare_machine, furnished_layers

ONCE = "test_console.py", "test_controller.py", "test_dist_upgrade.py", "test_ladder.py"
MACHINES = pytest.StashKey[list[Machine]]()
TLS_PORT = 8883
CA = "/etc/infoscreen-reboot/ca.pem"
# Beside the lab's own listener: one as a fleet has it.
LISTENER = """\
listener {port} 127.0.0.1
allow_anonymous false
password_file {folder}/users
acl_file {folder}/rights
certfile {certificate}
keyfile {key}
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--suite", choices=tree.SUITES, default="trixie", help="the Debian release of the machines")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The way from one suite to the other is gone once, and the controller is of one suite."""
    is_once = collection_path.name in (
        "test_console.py",
        "test_controller.py",
        "test_dist_upgrade.py",
        "test_ladder.py",
    )
    # None, and not False: what is told by --ignore would not be asked for any more.
    return True if is_once and config.getoption("--suite") != "trixie" else None


@pytest.fixture(scope="session")
def suite(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--suite"))


@pytest.fixture(scope="session")
def deb(suite: str) -> Path:
    """Our package, built for the suite from the work tree."""
    tree.ensure_host()
    return tree.build(suite)


@contextmanager
def prepared(suite: str, deb: Path) -> Iterator[Machine]:
    with Machine(suite, deb) as machine:
        machine.configure_for_broker()
        machine.set_clock_synchronised()
        machine.broker.start()
        yield machine


@pytest.fixture
def parked(suite: str, deb: Path, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """Installed and configured, its clock synchronised after each boot, the broker up, the machine off."""
    with prepared(suite, deb) as machine:
        request.node.stash[MACHINES].append(machine)
        yield machine


@pytest.fixture
def machine(parked: Machine) -> Machine:
    """The same, booted and its agent online."""
    start(parked)
    return parked


@pytest.fixture
def secured(parked: Machine, tmp_path: Path) -> Machine:
    """A machine whose broker wants TLS, a password and rights; `stranger` may log in and no more."""
    parked.broker.stop()
    authority = Authority(tmp_path)
    identity = authority.issue("broker", "DNS:broker.example,IP:127.0.0.1")
    for user in ("screen", "stranger"):
        new = [] if user == "stranger" else ["-c"]
        subprocess.run(["mosquitto_passwd", "-b", *new, tmp_path / "users", user, f"{user}-opens-sesame"], check=True)
    (tmp_path / "rights").write_text(f"user screen\ntopic readwrite infoscreen/{parked.uuid}/#\n")
    listener = LISTENER.format(port=TLS_PORT, folder=tmp_path, certificate=identity.certificate, key=identity.key)
    configuration = parked.broker.configuration
    configuration.write_text(f"per_listener_settings true\n{configuration.read_text()}{listener}")
    parked.broker.start()
    parked.write("/etc/hosts", "127.0.0.1 broker.example other.example\n")
    parked.write(CA, authority.certificate.read_text())
    other = tmp_path / "other"
    other.mkdir()
    parked.write(f"{CA}.other", Authority(other).certificate.read_text())
    parked.configure(
        MQTT_TLS="yes",
        MQTT_BROKER="broker.example",
        MQTT_TLS_CA=CA,
        MQTT_USER="screen",
        MQTT_PASSWORD_BROKER="screen-opens-sesame",
    )
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


@pytest.fixture
def furnished(suite: str, deb: Path, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """The same with all that our package wants from Debian."""
    with Machine(suite, deb, layers=furnished_layers(suite, deb)) as machine:
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
