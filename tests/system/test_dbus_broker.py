"""dbus-broker in the place of dbus-daemon: it hands out descriptors that nobody asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.system.conftest import MACHINES
from tests.system.hands import DONE, HELPER_CALL, check_stays_up, play, rebooted, refused, start, story
from tests.system.test_access import AGENT_USER, call
from tools.lab.machine import HELPER, POWERED_OFF, Machine, installed_layers
from tools.lab.roots import layer_of_dbus_broker


@pytest.fixture
def machine(suite: str, deb: Path, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """Its system bus is dbus-broker, its agent online."""
    with Machine(suite, deb, layers=[layer_of_dbus_broker(suite), *installed_layers(suite, deb)]) as machine:
        request.node.stash[MACHINES].append(machine)
        machine.configure_for_broker()
        machine.set_clock_synchronised()
        machine.broker.start()
        start(machine)
        assert "dbus-broker" in machine.run("systemctl", "show", "dbus.service", "-P", "ExecStart")
        yield machine


def test_commands_work_and_strangers_are_refused(machine: Machine, suite: str) -> None:
    rebooted(machine, first := machine.command())
    assert story(machine, first) == DONE
    machine.wait_online()
    for user in ("nobody", "visitor"):
        for member in (("Reboot", str(uuid4())), ("Preview", "reboot_host")):
            answer = call(machine, member[0], "s", member[1], user=user)
            assert "denied" in answer.lower() or "not permitted" in answer.lower() or "polkit" in answer, answer
    answer = call(machine, "Preview", "s", "reboot_host", user=AGENT_USER)
    # As on dbus-daemon: polkit 122 does not tell its rules the unit.
    assert answer.startswith("bss true") if suite == "bookworm" else "polkit does not allow" in answer
    check_stays_up(machine, 1)

    held = f"/proc/{machine.run('systemctl', 'show', '-P', 'MainPID', HELPER).strip()}/fd"
    before = machine.run("ls", held).split()
    for _ in range(20):
        machine.run("busctl", "call", *HELPER_CALL, "Preview", "s", "reboot_host")
    assert machine.run("ls", held).split() == before, "each answer about a caller may bring a descriptor"

    for _ in range(2):
        rebooted(machine, machine.command())
        machine.wait_online()
    assert refused(machine, machine.command())[0] == "lockout"
    play(machine, machine.command("shutdown_host"), "completed")
    assert machine.wait_down() == POWERED_OFF
