"""A host that hangs comes back by itself, and in time."""

from __future__ import annotations

import time

import pytest

from tests.tuning import BOOT_S, CEILING_S, COMMAND_S, MANAGER, REBOOT, SYSCTL, seconds, shipped
from tests.vm.story import SLOW_S, Normal
from tools.vm import Boot, VirtualMachine

# The i6300esb counts seconds of 1.017 (1,024 ticks of 32,768 cycles at 33 MHz), and the host is busy.
LATE_S = 5
STUBBORN = """\
[Service]
ExecStart=/bin/sh -c "trap '' TERM; while :; do sleep 60; done"
TimeoutStopSec=infinity
"""


def check_is_back(
    machine: VirtualMachine,
    fault: str,
    since: float,
    bound_s: float,
    normal: Normal,
    capsys: pytest.CaptureFixture[str],
) -> Boot:
    """The reset came within the fault's own bound, the agent within the promise for a Pi, less its boot, plus ours."""
    number = len(machine.boots)
    boot = machine.wait_reset(number, SLOW_S)
    machine.wait_up(SLOW_S)
    back_at = machine.wait_online(SLOW_S).heard_at
    ceiling_s = CEILING_S - BOOT_S + normal.boot_s
    reset_s, back_s = boot.reset_at - since, back_at - since
    with capsys.disabled():
        print(f"\n{machine.scratch.name}: {fault}")
        print(f"  reset after {reset_s:.1f} s (bound {bound_s:.0f} s), ", end="")
        print(f"online after {back_s:.1f} s (ceiling {CEILING_S} - {BOOT_S} + {normal.boot_s:.1f} = {ceiling_s:.1f} s)")
    assert reset_s <= bound_s
    assert back_s <= ceiling_s
    return boot


def test_a_unit_that_refuses_to_stop_does_not_hold_up_a_commanded_reboot(
    machine: VirtualMachine, normal: Normal, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.write("/etc/systemd/system/stubborn.service", STUBBORN)
    machine.run("systemctl daemon-reload && systemctl start stubborn.service")
    job_s, watchdog_s = seconds(shipped()[REBOOT], "JobTimeoutSec"), seconds(shipped()[MANAGER], "RebootWatchdogSec")
    command = machine.command()
    machine.send(command)
    since = machine.sent_at(command["command_id"])
    boot = check_is_back(machine, "a unit refuses to stop", since, COMMAND_S + job_s + watchdog_s, normal, capsys)
    assert boot.reset_at - since >= job_s, "the unit did not refuse"
    assert machine.wait_ack(command["command_id"], "completed", SLOW_S)["boot_id"] == boot.boot_id


def test_a_panicked_kernel_and_a_stopped_init_come_back_by_themselves(
    machine: VirtualMachine, normal: Normal, capsys: pytest.CaptureFixture[str]
) -> None:
    panic_s, watchdog_s = seconds(shipped()[SYSCTL], "kernel.panic"), seconds(shipped()[MANAGER], "RuntimeWatchdogSec")
    since = time.time()
    machine.start("echo c >/proc/sysrq-trigger")
    boot = check_is_back(machine, "the kernel panics", since, panic_s + LATE_S, normal, capsys)
    assert boot.reset_at - since >= panic_s
    assert not boot.by_watchdog, "the panic did not reboot by itself"

    # The shell lives on: what hangs is PID 1 alone, and with it all that would notice.
    machine.run("echo 1 >/sys/fs/cgroup/init.scope/cgroup.freeze")
    boot = check_is_back(machine, "PID 1 stands still", time.time(), watchdog_s + LATE_S, normal, capsys)
    assert boot.by_watchdog
