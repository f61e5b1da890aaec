"""The shipped timeouts as the tests read them, and what they are promised to add up to."""

from __future__ import annotations

import re
from pathlib import Path

SYSTEMD = Path(__file__).parents[1] / "systemd"
MANAGER = "system.conf.d/90-infoscreen-reboot.conf"
REBOOT = "system/reboot.target.d/90-infoscreen-reboot.conf"
SESSION = "system/user@.service.d/90-infoscreen-reboot.conf"
EMERGENCY = "system/emergency.service.d/90-infoscreen-reboot.conf"
ONLINE = "system/NetworkManager-wait-online.service.d/90-infoscreen-reboot.conf"
UDEV = "udev/rules.d/65-infoscreen-reboot.rules"
SYSCTL = "sysctl.d/60-infoscreen-reboot.conf"
FILES = (MANAGER, REBOOT, SESSION, EMERGENCY, ONLINE, UDEV, SYSCTL)

# The promise: a commanded reboot is over within that, whichever single thing hangs.
CEILING_S = 150
# And within that if nothing hangs.
BASELINE_S = 90
# From reset to MQTT, where nothing hangs.
BOOT_S = 40
# Where nothing hangs, on a Pi 5 with a USB SSD: the last three are BOOT_S.
BUDGET_S = {"shutdown": 10, "firmware": 12, "kernel": 8, "userspace": 20}
# From the command until systemd stops units, or from a fault until it is felt.
COMMAND_S = 5
# systemd-shutdown gives up a sync that makes no progress after that (systemd 252 and 257: 3 times 10 s).
STALLED_SYNC_S = 30
# The kernel's last flush of a disk: up to four tries with twice the command timeout (6.12; three on 6.1).
FLUSH_FACTOR = 2 * 4
# A disk command is tried once and retried five times.
TRIES = 6


def shipped() -> dict[str, str]:
    return {name: (SYSTEMD / name).read_text("utf-8") for name in FILES}


def setting(text: str, name: str) -> str:
    """The one value that a file gives a setting, whatever its syntax; comments do not count."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    pattern = rf'(?:^|[\s,=-]){re.escape(name)} ?= ?"?([^\s",]+)'
    values = [match[1] for line in lines for match in re.finditer(pattern, line)]
    assert len(values) == 1, f"{name} is set {len(values)} times"
    return values[0]


def seconds(text: str, name: str) -> int:
    return int(setting(text, name).removesuffix("s"))
