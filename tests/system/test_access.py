"""Who may ask the helper, and that it is there only when it is asked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.system.conftest import MACHINES, prepared
from tests.system.hands import HELPER_CALL, check_stays_up, recorded, start, unit
from tools.lab.machine import HELPER, Machine
from tools.lab.patience import Patience

AGENT_USER = "infoscreen-reboot"
LOGIND = "org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager"


@pytest.fixture(scope="module")
def with_mock(suite: str, deb: Path) -> Iterator[Machine]:
    with prepared(suite, deb) as machine:
        machine.configure(COMMAND_EXECUTOR="mock")
        start(machine)
        yield machine


@pytest.fixture
def undisturbed(with_mock: Machine, request: pytest.FixtureRequest) -> Machine:
    """Its agent is a mock, which has no use for the helper: the real one asks it for the lockout when it starts.

    One for all: who is refused changes nothing.
    """
    request.node.stash[MACHINES].append(with_mock)
    return with_mock


@pytest.fixture(scope="module")
def started(suite: str, deb: Path) -> Iterator[Machine]:
    with prepared(suite, deb) as machine:
        start(machine)
        yield machine


@pytest.fixture
def at_work(started: Machine, request: pytest.FixtureRequest) -> Machine:
    """One for all who only ask."""
    request.node.stash[MACHINES].append(started)
    return started


def call(machine: Machine, member: str, *arguments: str, user: str | None = None) -> str:
    return machine.run("busctl", "call", *HELPER_CALL, member, *arguments, user=user, check=False)


@pytest.mark.parametrize("user", ["nobody", "visitor"])
@pytest.mark.parametrize(
    "member", [("Reboot", "s", str(uuid4())), ("Shutdown", "s", str(uuid4())), ("Preview", "s", "reboot_host")]
)
def test_a_stranger_is_refused_by_the_bus_and_does_not_even_start_the_helper(
    undisturbed: Machine, user: str, member: tuple[str, ...]
) -> None:
    assert "Access denied" in call(undisturbed, *member, user=user)
    assert unit(undisturbed, HELPER, "ActiveState") == "inactive"
    check_stays_up(undisturbed, 1)


def test_the_agents_user_outside_the_agents_unit_is_refused_where_polkit_knows_units(
    at_work: Machine, suite: str
) -> None:
    answer = call(at_work, "Preview", "s", "reboot_host", user=AGENT_USER)
    if suite == "bookworm":  # polkit 122 does not tell its rules the unit: there the account is the border
        assert answer.startswith("bss true")
    else:
        assert "polkit does not allow" in answer
        assert "polkit does not allow" in call(at_work, "Reboot", "s", str(uuid4()), user=AGENT_USER)
        check_stays_up(at_work, 1)


# A connection that outlives the process which made it; a child goes on with it.
ORPHAN = """
import os, socket, sys, time
sys.modules["gi"] = None
from dbus_next.message import Message
bus, helper = "org.freedesktop.DBus", "org.infoscreen.RebootHelper1"
read, write = os.pipe()
if os.fork() == 0:
    line = socket.socket(socket.AF_UNIX)
    line.connect("/run/dbus/system_bus_socket")
    line.sendall(b"\\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\\r\\n")
    line.recv(1000)
    line.sendall(b"BEGIN\\r\\n")
    parent = os.getpid()
    if os.fork() == 0:
        while os.getppid() == parent:
            time.sleep(0.01)
        line.sendall(Message(bus, "/org/freedesktop/DBus", bus, "Hello", serial=1)._marshall())
        path = "/org/infoscreen/RebootHelper1"
        question = Message(helper, path, helper, "Preview", signature="s", body=["reboot_host"], serial=2)
        line.sendall(question._marshall())
        heard = b""
        while b"polkit" not in heard and b"has ended" not in heard and not heard.endswith(bytes(8)):
            heard += line.recv(65536)
        os.write(write, heard)
    os._exit(0)
os.close(write)
os.wait()
print(os.read(read, 65536))
"""


def test_a_connection_whose_maker_has_ended_is_not_taken_for_one_whose_unit_cannot_be_told(
    at_work: Machine, suite: str
) -> None:
    at_work.write("/var/tmp/orphan.py", ORPHAN)
    answer = at_work.run("python3", "/var/tmp/orphan.py", user=AGENT_USER)
    # Whether it is gone or not quite yet. bookworm's bus still names the process, and polkit 122 goes by the account.
    is_refused = "the process that made this connection has ended" in answer or "polkit does not allow" in answer
    assert is_refused == (suite == "trixie"), answer


@pytest.mark.parametrize("method", ["Reboot", "PowerOff"])
def test_the_agents_user_gets_nothing_from_logind_directly(at_work: Machine, method: str) -> None:
    answer = at_work.run("busctl", "call", *LOGIND, method, "b", "false", user=AGENT_USER, check=False)
    assert "authentication required" in answer or "Access denied" in answer or "Permission denied" in answer
    check_stays_up(at_work, 1)


def test_the_helper_is_not_running_before_a_call_and_gone_40_s_after(undisturbed: Machine) -> None:
    assert unit(undisturbed, HELPER, "ActiveState") == "inactive"
    assert call(undisturbed, "Preview", "s", "reboot_host").strip() == 'bss true "" ""'
    assert unit(undisturbed, HELPER, "ActiveState") == "active"
    patience = Patience(40)
    while unit(undisturbed, HELPER, "ActiveState") != "inactive":
        assert not patience.is_over, "the helper is still there"
        time.sleep(0.5)
    assert unit(undisturbed, HELPER, "Result") == "success"


def test_a_preview_changes_nothing(at_work: Machine) -> None:
    for action in ("reboot_host", "shutdown_host"):
        assert call(at_work, "Preview", "s", action).strip() == 'bss true "" ""'
    lockout = at_work.run("busctl", "get-property", *HELPER_CALL, "Lockout")
    assert lockout.strip() == '(uuus) 0 3 900 ""'
    assert recorded(at_work) == []
    check_stays_up(at_work, 1)


def test_agent_and_helper_state_is_closed_to_others(at_work: Machine) -> None:
    call(at_work, "Preview", "s", "reboot_host")
    for directory in (
        "/var/lib/infoscreen-reboot",
        "/var/lib/infoscreen-reboot-helper",
        "/etc/infoscreen-reboot/agent.env",
    ):
        assert "Permission denied" in at_work.run("cat", f"{directory}/.", user="visitor", check=False) or (
            "Permission denied" in at_work.run("cat", directory, user="visitor", check=False)
        )


def test_both_sandboxes_are_as_tight_as_promised(at_work: Machine) -> None:
    call(at_work, "Preview", "s", "reboot_host")
    for name, limit in (("infoscreen-simclient.service", 1.2), (HELPER, 0.6)):
        verdict = at_work.run("systemd-analyze", "security", "--no-pager", name).strip().splitlines()[-1]
        score = float(verdict.partition(": ")[2].split()[0])
        assert score <= limit, verdict
