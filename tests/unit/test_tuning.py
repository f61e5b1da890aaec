"""The shipped timeouts fit together: each may be changed, but not past what the others and the promise allow."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.tuning import (
    BOOT_S,
    BUDGET_S,
    CEILING_S,
    COMMAND_S,
    EMERGENCY,
    FLUSH_FACTOR,
    MANAGER,
    ONLINE,
    REBOOT,
    SESSION,
    STALLED_SYNC_S,
    SYSCTL,
    SYSTEMD,
    TRIES,
    UDEV,
    seconds,
    setting,
    shipped,
)

# Raspberry Pi OS has shipped these.
OTHERS = ("40-rpi-enable-watchdog.conf", "70-rpi-enable-watchdog.conf")


def broken(files: dict[str, str]) -> list[str]:
    """The rules that the files break, by their names in docs/ssd-tuning.md."""
    stop = seconds(files[MANAGER], "DefaultTimeoutStopSec")
    device = seconds(files[MANAGER], "DefaultDeviceTimeoutSec")
    runtime = seconds(files[MANAGER], "RuntimeWatchdogSec")
    watchdog = seconds(files[MANAGER], "RebootWatchdogSec")
    job = seconds(files[REBOOT], "JobTimeoutSec")
    emergency = seconds(files[EMERGENCY], "RuntimeMaxSec")
    scsi = seconds(files[UDEV], "ATTR{device/timeout}")
    panic = seconds(files[SYSCTL], "kernel.panic")
    hung = seconds(files[SYSCTL], "kernel.hung_task_timeout_secs")
    check = seconds(files[SYSCTL], "kernel.hung_task_check_interval_secs")
    rules = {
        "reboot": job + watchdog + BOOT_S <= CEILING_S,
        "flush": FLUSH_FACTOR * scsi + COMMAND_S + BOOT_S <= CEILING_S,
        "sync": watchdog >= STALLED_SYNC_S + 2 * stop,
        "stop": 5 <= stop <= 15 and seconds(files[SESSION], "TimeoutStopSec") == stop,
        "hung": hung >= TRIES * scsi,
        # One check begins to count, the first that comes late enough finds it hung.
        "dead disk": COMMAND_S + check + -(-hung // check) * check + panic + BOOT_S <= CEILING_S and panic > 0,
        "emergency": COMMAND_S + stop + device + emergency + BOOT_S <= CEILING_S,
        "modulo": all(value <= 15 or value % 16 >= 9 for value in (runtime, watchdog)),
        # 15 s are safe for the hardware, but not on a disk that may keep PID 1 waiting.
        "slow disk": runtime >= 30 and scsi >= 7,
        "online": int(setting(files[ONLINE], "NM_ONLINE_TIMEOUT")) < seconds(files[ONLINE], "TimeoutStartSec"),
        "forced": setting(files[REBOOT], "JobTimeoutAction") == "reboot-force"
        and setting(files[EMERGENCY], "FailureAction") == "reboot-force"
        and setting(files[SYSCTL], "kernel.hung_task_panic") == "1",
    }
    return [name for name, is_kept in rules.items() if not is_kept]


def test_the_shipped_values_break_no_rule() -> None:
    assert broken(shipped()) == []
    assert sum(BUDGET_S.values()) == BUDGET_S["shutdown"] + BOOT_S


@pytest.mark.parametrize(
    ("file", "old", "new", "rules"),
    [
        (MANAGER, "DefaultTimeoutStopSec=15s", "DefaultTimeoutStopSec=20s", {"sync", "stop"}),
        (MANAGER, "DefaultTimeoutStopSec=15s", "DefaultTimeoutStopSec=4s", {"stop"}),
        (MANAGER, "DefaultDeviceTimeoutSec=30s", "DefaultDeviceTimeoutSec=90s", {"emergency"}),
        (MANAGER, "RuntimeWatchdogSec=60s", "RuntimeWatchdogSec=15s", {"slow disk"}),
        (MANAGER, "RuntimeWatchdogSec=60s", "RuntimeWatchdogSec=100s", {"modulo"}),
        (MANAGER, "RuntimeWatchdogSec=60s", "RuntimeWatchdogSec=120s", {"modulo"}),
        (MANAGER, "RebootWatchdogSec=60s", "RebootWatchdogSec=45s", {"sync"}),
        (MANAGER, "RebootWatchdogSec=60s", "RebootWatchdogSec=64s", {"modulo"}),
        (MANAGER, "RebootWatchdogSec=60s", "RebootWatchdogSec=75s", {"reboot"}),
        (REBOOT, "JobTimeoutSec=45s", "JobTimeoutSec=60s", {"reboot"}),
        (REBOOT, "JobTimeoutAction=reboot-force", "JobTimeoutAction=reboot", {"forced"}),
        (SESSION, "TimeoutStopSec=15s", "TimeoutStopSec=120s", {"stop"}),
        (EMERGENCY, "RuntimeMaxSec=30s", "RuntimeMaxSec=90s", {"emergency"}),
        (EMERGENCY, "FailureAction=reboot-force", "FailureAction=none", {"forced"}),
        (ONLINE, "NM_ONLINE_TIMEOUT=30", "NM_ONLINE_TIMEOUT=60", {"online"}),
        (UDEV, '{device/timeout}="10"', '{device/timeout}="30"', {"flush", "hung"}),
        (UDEV, '{device/timeout}="10"', '{device/timeout}="14"', {"flush", "hung"}),
        (UDEV, '{device/timeout}="10"', '{device/timeout}="6"', {"slow disk"}),
        (SYSCTL, "kernel.panic = 10", "kernel.panic = 0", {"dead disk"}),
        (SYSCTL, "hung_task_timeout_secs = 60", "hung_task_timeout_secs = 30", {"hung"}),
        (SYSCTL, "hung_task_timeout_secs = 60", "hung_task_timeout_secs = 120", {"dead disk"}),
        (SYSCTL, "hung_task_panic = 1", "hung_task_panic = 0", {"forced"}),
    ],
)
def test_a_bad_value_breaks_its_rules(file: str, old: str, new: str, rules: set[str]) -> None:
    files = shipped()
    assert files[file].count(old) == 1
    files[file] = files[file].replace(old, new)
    assert set(broken(files)) == rules


def test_raspberry_pis_own_watchdog_files_come_first() -> None:
    """systemd merges drop-ins by file name, whichever folder they lie in, and the last one has its way."""
    assert max(*OTHERS, Path(MANAGER).name) == Path(MANAGER).name


def test_a_key_that_a_container_refuses_fails_no_unit() -> None:
    lines = [line for line in shipped()[SYSCTL].splitlines() if line and not line.startswith("#")]
    assert lines
    assert all(line.startswith("-") for line in lines)


def test_every_setting_has_its_reason_in_the_file_and_a_row_in_the_docs() -> None:
    page = (SYSTEMD.parent / "docs/ssd-tuning.md").read_text("utf-8")
    for name, text in shipped().items():
        assert text.startswith("# "), name
        assert "differ:" in text.partition("\n[")[0].replace("\n# ", " "), name
        for setting_name in re.findall(r"^-?([A-Za-z_.]+) ?=", text, re.MULTILINE):
            assert f"`{setting_name}" in page, setting_name
