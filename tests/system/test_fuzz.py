"""On the system's own bus: nobody gets through to helper or agent but the agent's account, and that does no harm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.system.hands import HELPER_CALL, check_stays_up, rebooted, recorded, unit
from tools.fuzzing.outcome import resident_mb
from tools.lab.machine import AGENT, HELPER, Machine

CALLS = Path(__file__).parents[2] / "tools/fuzzing/calls.py"
DENIED = "org.freedesktop.DBus.Error.AccessDenied"
MAY_GROW_MB = 16


def storm(machine: Machine, to: str, user: str) -> dict[str, Any]:
    """What came of every call there is, and of a thousand that there are not."""
    machine.write("/usr/local/share/calls.py", CALLS.read_text())
    said = machine.run("python3", "/usr/local/share/calls.py", to, "1000", "20261124", user=user, timeout_s=300)
    report: dict[str, Any] = json.loads(said.splitlines()[-1])
    return report


def bus_name(machine: Machine, pid: str) -> str:
    """As anyone can find it out."""
    rows = machine.run("busctl", "list", "--unique", "--no-legend", "--no-pager", user="visitor").splitlines()
    (name,) = (row.split()[0] for row in rows if row.split()[1] == pid)
    return name


def test_a_stranger_reaches_neither_helper_nor_agent_and_cannot_announce_a_shutdown(machine: Machine) -> None:
    agent = bus_name(machine, unit(machine, AGENT, "MainPID"))
    for to in (HELPER_CALL[0], agent):
        report = storm(machine, to, "visitor")
        assert list(report["answers"]) == [DENIED], report
        assert report["unanswered"] == 0
    logind = "/org/freedesktop/login1", "org.freedesktop.login1.Manager"
    machine.run("busctl", "emit", f"--destination={agent}", *logind, "PrepareForShutdown", "b", "true", user="visitor")
    assert unit(machine, AGENT, "NRestarts") == "0"
    assert "Traceback" not in machine.journal(AGENT, HELPER)
    rebooted(machine, machine.command())


def test_not_even_root_can_call_the_agent(machine: Machine) -> None:
    agent = bus_name(machine, unit(machine, AGENT, "MainPID"))
    introspect = "/", "org.freedesktop.DBus.Introspectable", "Introspect"
    assert "Access denied" in machine.run("busctl", "call", agent, *introspect, check=False)


def test_whatever_the_agents_account_calls_the_helper_stays_as_it_was(machine: Machine) -> None:
    preview = "busctl", "call", *HELPER_CALL, "Preview", "s", "reboot_host"
    machine.run(*preview)
    pid = unit(machine, HELPER, "MainPID")

    def memory_mb() -> float:
        [processes] = machine.scratch.cgroup.rglob(f"{HELPER}/cgroup.procs")
        return resident_mb(int(processes.read_text()))

    storm(machine, HELPER_CALL[0], "infoscreen-reboot")
    before_mb = memory_mb()  # after a first one: what such messages need at their largest is kept, and is no leak
    report = storm(machine, HELPER_CALL[0], "infoscreen-reboot")
    assert report["showing"] == [] and report["unanswered"] == 0, report
    assert DENIED not in report["answers"]
    assert machine.run(*preview).strip() == 'bss true "" ""'
    assert (unit(machine, HELPER, "MainPID"), unit(machine, HELPER, "NRestarts")) == (pid, "0")
    assert memory_mb() - before_mb < MAY_GROW_MB
    assert "Traceback" not in machine.journal(HELPER)
    assert recorded(machine) == []
    check_stays_up(machine, 1)
