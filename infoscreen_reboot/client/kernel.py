"""Asks the kernel and the system: which boot this is, how long it has lasted, whether the clock is right."""

import hashlib
import hmac
import time
import uuid
from pathlib import Path

# Made once for this project, as machine-id(5) asks: the machine id itself must not leave the machine.
_APPLICATION_ID = uuid.UUID("6e1a2d3c-93c5-4f0e-8f1b-6f2f6f7d2a71")
_WATCHDOG_IDENTITY = Path("/sys/class/watchdog/watchdog0/identity")


def boot_id() -> str:
    """The kernel's random id of this boot, in lower-case canonical form."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def boot_clock_s() -> float:
    """Seconds since the kernel started, time in suspend included; no one can set this clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def timesyncd_says_synchronised() -> bool:
    """systemd-timesyncd's mark that it has set the clock in this boot (systemd-timesyncd.service(8))."""
    return Path("/run/systemd/timesync/synchronized").exists()


def clock_took_s() -> int | None:
    """Seconds from the network to the right clock in this boot, if infoscreen-reboot-clock.service measured them."""
    try:
        return int(Path("/run/infoscreen-reboot-clock/took-s").read_text("ascii"))
    except (OSError, ValueError):  # the clock was right from the start, or another daemon keeps it
        return None


def watchdog_is_software() -> bool:
    """Whether systemd's watchdog is softdog, which hangs together with the kernel that it should watch."""
    try:
        return _WATCHDOG_IDENTITY.read_text("ascii", "replace").strip() == "Software Watchdog"
    except OSError:  # there is no watchdog, or the kernel has no CONFIG_WATCHDOG_SYSFS
        return False


def client_uuid_of_machine(machine_id: str) -> str:
    """A UUID of this machine for this application, as `systemd-id128 machine-id --app-specific=` derives it."""
    digest = hmac.new(uuid.UUID(machine_id).bytes, _APPLICATION_ID.bytes, hashlib.sha256).digest()[:16]
    return str(uuid.UUID(bytes=digest, version=4))
