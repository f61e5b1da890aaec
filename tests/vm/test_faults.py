"""A host that hangs comes back by itself, and in time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.tuning import BOOT_S, CEILING_S, COMMAND_S, MANAGER, REBOOT, SYSCTL, seconds, shipped
from tests.vm.hands import SLOW_S, Normal
from tools.lab.vm import Boot, VirtualMachine

STUBBORN = """\
[Service]
ExecStart=/bin/sh -c "trap '' TERM; while :; do sleep 60; done"
TimeoutStopSec=infinity
"""
JOB_S = seconds(shipped()[REBOOT], "JobTimeoutSec")
REBOOT_WATCHDOG_S = seconds(shipped()[MANAGER], "RebootWatchdogSec")
RUNTIME_WATCHDOG_S = seconds(shipped()[MANAGER], "RuntimeWatchdogSec")
PANIC_S = seconds(shipped()[SYSCTL], "kernel.panic")
HUNG_S = seconds(shipped()[SYSCTL], "kernel.hung_task_timeout_secs")
CHECK_S = seconds(shipped()[SYSCTL], "kernel.hung_task_check_interval_secs")

# For how long the kernel waits after a panic here, instead of PANIC_S: it counts loops meanwhile, and ten such seconds
# are eighty of work for an emulated processor. test_tuning.py looks at the shipped value in force.
SHORT_PANIC_S = 2
LONGEST_BOOT = 2
# The clock chip tells whole seconds.
TICK_S = 1

Judge = Callable[..., None]


@pytest.fixture
def is_back_in_time(machine: VirtualMachine, normal: Normal, capsys: pytest.CaptureFixture[str]) -> Judge:
    """Holds a reset to its fault's own bound and to what the promise leaves a Pi before its boot.

    All is in the machine's time, which a busy host does not move. The boot itself is as slow as an emulated processor,
    and says of a Pi only this: a fault must not make it much longer than a boot after which nothing was wrong.
    """

    def judge(fault: str, since: float, boot: Boot, bound_s: int, spared_s: int = 0) -> None:
        """`spared_s`: how much longer a panic takes with the shipped settings."""
        bound_s += COMMAND_S
        back = machine.wait_back(SLOW_S)
        reset_s = boot.reset_at - since + (0 if boot.by_watchdog else spared_s)
        with capsys.disabled():
            by = "the watchdog" if boot.by_watchdog else "the kernel"
            print(f"\n{machine.scratch.name}: {fault}")
            print(f"  reset by {by:<20}{reset_s:>5.0f} s   bound {bound_s:>4} s and {CEILING_S - BOOT_S} s")
            print(f"  back on MQTT after{'':<11}{back.boot_s:>5.0f} s   without a fault {normal.boot_s:.0f} s", end="")
        assert reset_s <= min(bound_s, CEILING_S - BOOT_S)
        assert back.boot_s <= LONGEST_BOOT * normal.boot_s

    return judge


def test_a_unit_that_refuses_to_stop_does_not_hold_up_a_commanded_reboot(
    machine: VirtualMachine, is_back_in_time: Judge
) -> None:
    machine.write("/etc/systemd/system/stubborn.service", STUBBORN)
    machine.run("systemctl daemon-reload && systemctl start stubborn.service")
    command = machine.command()
    before, since = len(machine.boots), machine.now_s()
    machine.send(command)
    boot = machine.wait_reset(before, SLOW_S)
    is_back_in_time("a unit refuses to stop", since, boot, JOB_S + REBOOT_WATCHDOG_S)
    assert boot.reset_at - since >= JOB_S - TICK_S, "the unit did not refuse"
    assert machine.wait_ack(command["command_id"], "completed", SLOW_S)["boot_id"] == boot.boot_id


def test_a_panic_a_stopped_init_and_a_stuck_disk_end_by_themselves(
    machine: VirtualMachine, is_back_in_time: Judge
) -> None:
    shorten_panic(machine)
    before, since = len(machine.boots), machine.now_s()
    machine.start("echo c >/proc/sysrq-trigger")
    boot = machine.wait_reset(before, SLOW_S)
    is_back_in_time("the kernel panics", since, boot, RUNTIME_WATCHDOG_S, PANIC_S - SHORT_PANIC_S)
    assert boot.reset_at - since >= SHORT_PANIC_S - TICK_S
    assert not boot.by_watchdog, "the panic did not reboot by itself"

    # The shell lives on: what hangs is PID 1 alone, and with it all that would notice.
    machine.run("echo 1 >/sys/fs/cgroup/init.scope/cgroup.freeze")
    before, since = len(machine.boots), machine.now_s()
    boot = machine.wait_reset(before, SLOW_S)
    is_back_in_time("PID 1 stands still", since, boot, RUNTIME_WATCHDOG_S)
    assert boot.by_watchdog

    # PID 1 goes on pinging the watchdog as long as it needs no disk: only the kernel sees that a write never ends. If
    # PID 1 comes to write something itself, it stands still, and the watchdog is the first to see it.
    shorten_panic(machine)
    before, since = len(machine.boots), machine.now_s()
    machine.start("fsfreeze --freeze / && echo late >/root/late")
    boot = machine.wait_reset(before, SLOW_S)
    # One check begins to count, and another finds that it was long enough.
    bound_s = HUNG_S + 2 * CHECK_S + PANIC_S
    is_back_in_time("no write to the system disk ends", since, boot, bound_s, PANIC_S - SHORT_PANIC_S)
    assert boot.by_watchdog or boot.reset_at - since >= HUNG_S + SHORT_PANIC_S - TICK_S


def shorten_panic(machine: VirtualMachine) -> None:
    """In this boot; that the kernel keeps to the number it is given is what the test shows."""
    assert machine.read("/proc/sys/kernel/panic").strip() == str(PANIC_S)
    machine.run(f"sysctl --quiet kernel.panic={SHORT_PANIC_S}")
