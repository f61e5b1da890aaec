"""The shipped settings are in force on a real kernel with a USB disk, and a reboot goes by them."""

from __future__ import annotations

import pytest

from tests.tuning import BASELINE_S, BOOT_S, BUDGET_S
from tests.vm.hands import Normal

IN_FORCE = {
    "DefaultTimeoutStopUSec": "15s",
    "DefaultDeviceTimeoutUSec": "30s",
    "RuntimeWatchdogUSec": "1min",
    "RebootWatchdogUSec": "1min",
    "reboot.JobTimeoutUSec": "45s",
    "reboot.JobTimeoutAction": "reboot-force",
    "session.TimeoutStopUSec": "15s",
    "emergency.RuntimeMaxUSec": "30s",
    "emergency.FailureAction": "reboot-force",
    "online.Environment": "NM_ONLINE_TIMEOUT=30",
    "online.TimeoutStartUSec": "40s",
    "usb.device/timeout": "10",
    "usb.queue/io_timeout": "10000",
    "other.device/timeout": "30",
    "other.queue/io_timeout": "30000",
    "watchdog.state": "active",
    "watchdog.timeout": "60",
    "kernel.panic": "10",
    "kernel.hung_task_timeout_secs": "60",
    "kernel.hung_task_check_interval_secs": "15",
    "kernel.hung_task_panic": "1",
    "system": "running",
}


def test_every_setting_is_in_force_and_only_the_usb_disk_is_touched(normal: Normal) -> None:
    assert normal.shipped == IN_FORCE


def test_ours_win_over_raspberry_pis_and_an_administrators_over_ours(normal: Normal) -> None:
    administrators = {
        "DefaultDeviceTimeoutUSec": "20s",
        "reboot.JobTimeoutUSec": "40s",
        "usb.device/timeout": "12",
        "usb.queue/io_timeout": "12000",
        # The kernel's own again, but the one value that the file of the same name has.
        "kernel.panic": "20",
        "kernel.hung_task_timeout_secs": "120",
        "kernel.hung_task_check_interval_secs": "0",
        "kernel.hung_task_panic": "0",
    }
    assert normal.overridden == IN_FORCE | administrators


def test_the_doctor_sees_who_overrode_what_we_ship(normal: Normal) -> None:
    """What it says of a machine on which nothing is wrong: see test_time.py."""
    assert [line.split("; ")[0] for line in normal.diagnosis_overridden["tuning"]] == [
        "warning: systemd: DefaultDeviceTimeoutSec is 20s, overridden by /etc/systemd/system.conf.d/95-site.conf",
        "warning: reboot.target: JobTimeoutSec is 40s, overridden by /etc/systemd/system/reboot.target.d/95-site.conf",
    ]


def test_a_fed_hardware_watchdog_is_tier_2(normal: Normal) -> None:
    assert (normal.capabilities["hardware_watchdog"], normal.capabilities["recovery_tier"]) == (True, 2)
    assert normal.cause == "command"


def test_a_commanded_reboot_completes_with_a_new_boot_id(
    normal: Normal, suite: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {
        "command to reset": (normal.shutdown_s, BUDGET_S["shutdown"]),
        "reset to kernel": (normal.firmware_s, BUDGET_S["firmware"]),
        "kernel and initramfs": (normal.kernel_s, BUDGET_S["kernel"]),
        "systemd to MQTT": (normal.boot_s - normal.firmware_s - normal.kernel_s, BUDGET_S["userspace"]),
        "reset to MQTT (B)": (normal.boot_s, BOOT_S),
        "command to MQTT": (normal.shutdown_s + normal.boot_s, BASELINE_S),
    }
    with capsys.disabled():
        print(f"\n{suite}: a commanded reboot{'':<18}{'here':>9}{'budget of a Pi':>18}")
        for name, (measured, budget) in rows.items():
            print(f"  {name:<36}{measured:>9.1f} s{budget:>14} s")
    assert list(dict.fromkeys(normal.statuses)) == ["accepted", "execution_started", "completed"]
    first, second = normal.boot_ids
    assert first != second == normal.completed_in
