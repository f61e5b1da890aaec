"""systemd starts our units again whatever ended them, and skips them only where they are not configured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.system.hands import drop_in, unit, wait_helper_started
from tests.system.test_alerts import (
    ALERTS,
    GIVES_UP_SOON,
    PLAYER,
    PLAYER_UNIT,
    check_taken_back,
    notifier_of,
    told,
    wait_alert,
    wait_state,
    wait_until,
)
from tools.benchmarks.machines import memory
from tools.lab.machine import AGENT, HELPER, Machine

STATE = "/var/lib/infoscreen-reboot"
NOTIFIER = "infoscreen-notify-failure@.service"
PROGRAM = "/usr/share/infoscreen-reboot/infoscreen_reboot/client/agent/app.py"


@dataclass(frozen=True)
class Fault:
    """What keeps the agent from being started: made and mended by shell commands; its exit status as systemd has it."""

    make: str
    mend: str
    exit_status: int
    is_told: bool = True


def no_such_path(unit_name: str) -> Fault:
    """A sandbox that cannot be made."""
    folder = f"/etc/systemd/system/{unit_name}.d"
    lines = r"[Service]\nBindPaths=/srv/not-there\n"
    make = f"mkdir -p {folder}; printf '{lines}' > {folder}/fault.conf; systemctl daemon-reload"
    return Fault(make, f"rm {folder}/fault.conf; systemctl daemon-reload", 226)


def elsewhere(target: str) -> Fault:
    """The state directory is a link to something else."""
    make = f"mv {STATE} {STATE}.away; ln -s {target} {STATE}"
    return Fault(make, f"rm {STATE}; mv {STATE}.away {STATE}", 238)


FAULTS = {
    "the state directory is a link to a file": elsewhere("/etc/hostname"),
    "the state directory is a link to nothing": elsewhere("/srv/not-there"),
    "the sandbox cannot be made": no_such_path(AGENT),
    # The notifier is of the same user, so nobody can tell of it.
    "the user is gone": Fault(
        "cp /etc/passwd /etc/passwd.away; sed -i /^infoscreen-reboot:/d /etc/passwd",
        "mv /etc/passwd.away /etc/passwd",
        217,
        is_told=False,
    ),
    "a broken program": Fault(f"mv {PROGRAM} {PROGRAM}.away", f"mv {PROGRAM}.away {PROGRAM}", 1),
}


def shell(machine: Machine, script: str) -> None:
    machine.run("sh", "-ec", script)


def failed_units(machine: Machine) -> list[str]:
    listing = machine.run("systemctl", "--failed", "--plain", "--no-legend")
    return [line.split()[0] for line in listing.splitlines()]


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_of_the_set_up_is_tried_again_told_of_and_never_taken_for_not_configured(
    machine: Machine, fault: Fault
) -> None:
    machine.run("systemctl", "stop", AGENT)
    heard = len(machine.broker.messages)
    drop_in(machine, AGENT, "RestartSec=1s")
    shell(machine, fault.make)
    machine.run("systemctl", "start", AGENT, check=False)
    wait_until(lambda: int(unit(machine, AGENT, "NRestarts")) >= 2, "is tried again")
    shell(machine, fault.mend)
    machine.wait_online(after=heard)  # by itself

    drop_in(machine, AGENT, *GIVES_UP_SOON)
    shell(machine, fault.make)
    machine.run("systemctl", "restart", AGENT, check=False)
    wait_state(machine, AGENT, "failed")
    assert unit(machine, AGENT, "ExecMainStatus") == str(fault.exit_status)
    assert AGENT in failed_units(machine)
    if fault.is_told:
        alert = wait_alert(machine, AGENT)
        assert (alert["result"], alert["exit_status"], alert["restarts"]) == ("exit-code", fault.exit_status, 3)

    shell(machine, fault.mend)
    heard = len(machine.broker.messages)
    machine.run("systemctl", "reset-failed", AGENT)
    machine.run("systemctl", "start", AGENT)
    machine.wait_online(after=heard)
    if fault.is_told:
        check_taken_back(machine, heard)


NOTIFIERS_FAULTS = {
    "its directory is a link to nothing": Fault(
        f"systemctl stop {AGENT}; rm -rf {ALERTS}; ln -s /srv/not-there {ALERTS}", f"rm {ALERTS}", 233
    ),
    "the sandbox cannot be made": no_such_path(NOTIFIER),
}


@pytest.mark.parametrize("fault", NOTIFIERS_FAULTS.values(), ids=NOTIFIERS_FAULTS)
def test_an_alert_is_owed_until_the_notifier_can_be_set_up(machine: Machine, fault: Fault) -> None:
    drop_in(machine, NOTIFIER, "RestartSec=1s")
    machine.write("/etc/systemd/system/player-wall@.service", PLAYER_UNIT)
    machine.run("systemctl", "daemon-reload")
    shell(machine, fault.make)
    machine.run("systemctl", "start", PLAYER, check=False)
    wait_state(machine, PLAYER, "failed")
    wait_until(lambda: int(unit(machine, notifier_of(PLAYER), "NRestarts")) >= 2, "is tried again")
    # 0 for a moment in each try.
    ends = str(fault.exit_status)
    wait_until(lambda: unit(machine, notifier_of(PLAYER), "ExecMainStatus") == ends, f"ends with {ends}")
    shell(machine, fault.mend)
    wait_alert(machine, PLAYER)


def test_a_helper_that_cannot_be_set_up_is_told_of(machine: Machine) -> None:
    state = f"{STATE}-helper"
    wait_helper_started(machine)
    shell(machine, f"systemctl stop {HELPER}; rm -rf {state}; ln -s /srv/not-there {state}")
    machine.run("systemctl", "start", HELPER, check=False)
    alert = wait_alert(machine, HELPER, 90)
    assert (alert["result"], alert["exit_status"]) == ("exit-code", 238)
    assert HELPER in failed_units(machine)
    heard = len(machine.broker.messages)
    shell(machine, f"rm {state}; systemctl reset-failed {HELPER}; systemctl start {HELPER}")
    check_taken_back(machine, heard)


def test_a_stray_sigterm_does_not_leave_the_client_without_its_agent(machine: Machine) -> None:
    heard = len(machine.broker.messages)
    machine.run("systemctl", "kill", "--kill-who=main", "--signal=TERM", AGENT)
    machine.wait_online(after=heard)
    assert (unit(machine, AGENT, "NRestarts"), unit(machine, AGENT, "Result")) == ("1", "success")
    assert told(machine) == []


def test_systemd_has_the_bounds_and_they_are_far_from_what_is_needed(machine: Machine) -> None:
    machine.run("systemctl", "start", HELPER)
    for name in (AGENT, HELPER):
        limit, tasks = int(unit(machine, name, "MemoryMax")), int(unit(machine, name, "TasksMax"))
        threads = machine.run("ls", f"/proc/{unit(machine, name, 'MainPID')}/task").split()
        assert 4 * memory(machine, name)["RSS"] * 2**20 <= limit, name
        assert 4 * len(threads) <= tasks, name
    assert unit(machine, notifier_of(AGENT), "MemoryMax") == str(128 * 2**20)
    assert unit(machine, notifier_of(AGENT), "TasksMax") == "16"


def states(machine: Machine) -> tuple[str, str]:
    return unit(machine, AGENT, "ActiveState"), unit(machine, AGENT, "SubState")


def set_aside(machine: Machine) -> None:
    machine.run("systemctl", "stop", AGENT)


def let_be_wrong(machine: Machine) -> None:
    machine.configure(MQTT_PORT="mqtt")
    machine.run("systemctl", "restart", AGENT, check=False)
    wait_until(lambda: states(machine) == ("failed", "failed"), "fails")


def take_settings_away(machine: Machine) -> None:
    machine.configure(MQTT_BROKER=None)
    machine.run("systemctl", "restart", AGENT)
    wait_until(lambda: states(machine) == ("inactive", "dead"), "is skipped")


ENDS = {
    "it was stopped": (set_aside, ("inactive", "dead")),
    "a setting is wrong": (let_be_wrong, ("failed", "failed")),
    "it is not configured": (take_settings_away, ("inactive", "dead")),
}


@pytest.mark.parametrize(("end", "state"), ENDS.values(), ids=ENDS)
def test_what_ends_for_a_reason_is_not_started_again(
    machine: Machine, end: Callable[[Machine], None], state: tuple[str, str]
) -> None:
    drop_in(machine, AGENT, "RestartSec=0")
    before = unit(machine, AGENT, "NRestarts")
    end(machine)
    # PID 1 decides on a restart when it takes note of the end, and goes on to "auto-restart" or to these.
    assert states(machine) == state
    assert unit(machine, AGENT, "NRestarts") == before == "0"
