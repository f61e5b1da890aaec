"""Checks what a Raspberry Pi's owner may set and a package must not: kernel command line, fstab, EEPROM, config.txt."""

# The values and their reasons are in docs/ssd-tuning.md.

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from infoscreen_reboot.client.doctor.finding import Finding, ok, warning

CHECK = "firmware"
_CMDLINE = "/boot/firmware/cmdline.txt"
_KERNEL = {
    "watchdog.stop_on_reboot=0": "the hardware watchdog stops when the kernel begins to reboot",
    "panic=10": "an initramfs that does not find its disk waits for a keyboard",
}
_EEPROM = {
    "BOOT_ORDER": ("0xf4", re.compile("0xf1?4")),
    "NET_INSTALL_AT_POWER_ON": ("0", re.compile("0")),
    "NET_INSTALL_ENABLED": ("0", re.compile("0")),
    "WAIT_FOR_POWER_BUTTON": ("0", re.compile("0|")),
    "USB_MSD_DISCOVER_TIMEOUT": ("20000", re.compile("20000|")),
    "BOOT_WATCHDOG_TIMEOUT": ("60", re.compile("[5-8][0-9]|90")),
}


@dataclass(frozen=True, slots=True)
class RaspberryPi:
    """`eeprom` is what rpi-eeprom-config prints, empty if there is none."""

    model: str
    kernel_command_line: str
    fstab: str
    eeprom: str
    config_txt: str


def judge(pi: RaspberryPi) -> Iterator[Finding]:
    found = [*_kernel(pi), *_fstab(pi), *_eeprom(pi)]
    yield from found
    if not found:
        yield ok(CHECK, f"{pi.model}: kernel, fstab and EEPROM are set for unattended reboots")
    yield from _power(pi)


def _kernel(pi: RaspberryPi) -> Iterator[Finding]:
    words = pi.kernel_command_line.split()
    for word, otherwise in _KERNEL.items():
        name = word.partition("=")[0]
        if word not in words and (name != "panic" or not any(re.fullmatch("panic=[1-9][0-9]*", w) for w in words)):
            command = f"sed -i '1s/$/ {word}/' {_CMDLINE}"
            yield warning(CHECK, f"the kernel runs without {word}: {otherwise}", f"{command} && reboot")


def _fstab(pi: RaspberryPi) -> Iterator[Finding]:
    for line in pi.fstab.splitlines():
        fields = line.partition("#")[0].split()
        if len(fields) >= 4 and fields[1] == "/boot/firmware" and "nofail" not in fields[3].split(","):
            options = "nofail,x-systemd.device-timeout=15s"
            command = rf"sed -Ei 's#(\s/boot/firmware\s+\S+\s+)(\S+)#\1\2,{options}#' /etc/fstab"
            yield warning(CHECK, "/boot/firmware in /etc/fstab is not nofail: a fault of it stops the boot", command)


def _eeprom(pi: RaspberryPi) -> Iterator[Finding]:
    if "Raspberry Pi 5" not in pi.model or not pi.eeprom:
        return
    found = _values(pi.eeprom)
    wrong = {name: good for name, (good, fits) in _EEPROM.items() if not fits.fullmatch(found.get(name, "").lower())}
    if wrong:
        told = ", ".join(f"{name} is {found.get(name, 'not set')}, better {good}" for name, good in wrong.items())
        names, lines = "|".join(wrong), " ".join(f"{name}={good}" for name, good in wrong.items())
        command = (
            f"(rpi-eeprom-config | grep -vE '^({names})='; printf '%s\\n' {lines}) > /root/eeprom.conf"
            " && rpi-eeprom-config --apply /root/eeprom.conf && reboot"
        )
        yield warning(CHECK, f"EEPROM: {told}", command)


def _power(pi: RaspberryPi) -> Iterator[Finding]:
    """Never a warning: the setting is wrong if the supply cannot deliver 5 A, and needless if it announces 5 A."""
    if "Raspberry Pi 5" not in pi.model or _values(pi.eeprom).get("PSU_MAX_CURRENT") == "5000":
        return
    if _values(pi.config_txt).get("usb_max_current_enable") != "1":
        text = "after a power cut a supply that does not announce 5 A, as many for PoE, leaves a Pi 5 without its disk"
        command = "echo usb_max_current_enable=1 >> /boot/firmware/config.txt"
        yield ok(CHECK, text, f"only if the supply really delivers 5 A: {command}")


def _values(text: str) -> Mapping[str, str]:
    return {match[1]: match[2] for match in re.finditer(r"^(\w+)=(.*?)\s*$", text, re.MULTILINE)}
