"""What is asked of a virtual machine, and what happened to it, as values."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tools.lab.vm import VirtualMachine

# A booting guest without KVM; where the host is busy the wait is longer by itself.
SLOW_S = 300

# Raspberry Pi OS has shipped these; a package's own folder is where it has them.
RASPBERRY_PI = {
    "/usr/lib/systemd/system.conf.d/40-rpi-enable-watchdog.conf": "RuntimeWatchdogSec=1m\nRebootWatchdogSec=2m\n",
    "/usr/lib/systemd/system.conf.d/70-rpi-enable-watchdog.conf": "RuntimeWatchdogSec=16\nRebootWatchdogSec=1m\n",
}
# By a later name, and by the same name.
ADMINISTRATOR = {
    "/etc/systemd/system.conf.d/95-site.conf": "DefaultDeviceTimeoutSec=20s\n",
    "/etc/systemd/system/reboot.target.d/95-site.conf": "[Unit]\nJobTimeoutSec=40s\n",
    "/etc/sysctl.d/60-infoscreen-reboot.conf": "kernel.panic = 20\n",
    "/etc/udev/rules.d/65-infoscreen-reboot.rules": (
        'ACTION!="remove", SUBSYSTEM=="block", ENV{DEVTYPE}=="disk", SUBSYSTEMS=="usb", ATTR{device/timeout}="12"\n'
    ),
}
# Each line that this prints is a name, an equals sign and a value.
QUESTIONS = """\
show() { systemctl show "$@" | sed "s/^/$prefix/"; }
prefix= show -p DefaultTimeoutStopUSec -p DefaultDeviceTimeoutUSec -p RuntimeWatchdogUSec -p RebootWatchdogUSec
prefix=reboot. show reboot.target -p JobTimeoutUSec -p JobTimeoutAction
prefix=session. show user@1000.service -p TimeoutStopUSec
prefix=emergency. show emergency.service -p RuntimeMaxUSec -p FailureAction
prefix=online. show NetworkManager-wait-online.service -p Environment -p TimeoutStartUSec
for disk in /sys/block/sd*; do
    case $(realpath $disk) in */usb*) kind=usb ;; *) kind=other ;; esac
    for name in device/timeout queue/io_timeout; do echo $kind.$name=$(cat $disk/$name); done
done
for name in state timeout; do echo watchdog.$name=$(cat /sys/class/watchdog/watchdog0/$name); done
for name in panic hung_task_timeout_secs hung_task_check_interval_secs hung_task_panic; do
    echo kernel.$name=$(cat /proc/sys/kernel/$name)
done
echo system=$(systemctl is-system-running --wait)
"""


def facts(machine: VirtualMachine) -> dict[str, str]:
    """What is in force."""
    lines = machine.run(QUESTIONS, timeout_s=SLOW_S).splitlines()
    return dict(line.split("=", 1) for line in lines)


def diagnosis(machine: VirtualMachine) -> dict[str, list[str]]:
    """What the doctor says of each thing: its verdict and its words."""
    report = json.loads(machine.run("infoscreen-reboot doctor --json", check=False, timeout_s=SLOW_S))
    told: dict[str, list[str]] = {}
    for finding in report["findings"]:
        told.setdefault(finding["check"], []).append(f"{finding['verdict']}: {finding['text']}")
    return told


@dataclass(frozen=True, slots=True)
class Normal:
    """A commanded reboot that nothing hinders; times in seconds of the machine."""

    shipped: dict[str, str]
    overridden: dict[str, str]
    diagnosis_overridden: dict[str, list[str]]
    capabilities: dict[str, object]
    cause: str
    statuses: list[str]
    boot_ids: list[str]
    completed_in: str
    shutdown_s: float
    firmware_s: float
    kernel_s: float
    boot_s: float


def take_back(machine: VirtualMachine) -> None:
    """What normal_reboot() wrote is gone, and what was shipped is in force again."""
    paths = " ".join(RASPBERRY_PI | ADMINISTRATOR)
    again = "systemctl daemon-reexec && sysctl --quiet --system && udevadm control --reload"
    again += " && udevadm trigger --settle --subsystem-match=block"
    machine.run(f"rm {paths} && {again}", timeout_s=SLOW_S)


def normal_reboot(machine: VirtualMachine) -> Normal:
    shipped = facts(machine)
    for path, text in (RASPBERRY_PI | ADMINISTRATOR).items():
        manager = "[Manager]\n" if "/system.conf.d/" in path else ""
        machine.write(path, manager + text)
    command = machine.command()
    sent_at = machine.now_s()
    machine.send(command)
    reset_at = machine.wait_reset(1, SLOW_S).reset_at
    back = machine.wait_back(SLOW_S)
    completed = machine.wait_ack(command["command_id"], "completed", SLOW_S)
    uptime_s, now = float(machine.read("/proc/uptime").split()[0]), machine.now_s()
    userspace_us = machine.run("systemctl show --value -p UserspaceTimestampMonotonic")
    health, report = (machine.hear(tail, SLOW_S, boot_id=machine.boot_id).json for tail in ("health", "boot"))
    return Normal(
        shipped,
        facts(machine),
        diagnosis(machine),
        health["capabilities"],
        report["cause"],
        machine.statuses(command["command_id"]),
        [boot.boot_id for boot in machine.boots],
        completed["boot_id"],
        shutdown_s=reset_at - sent_at,
        firmware_s=now - uptime_s - reset_at,
        kernel_s=int(userspace_us) / 1e6,
        boot_s=back.boot_s,
    )
