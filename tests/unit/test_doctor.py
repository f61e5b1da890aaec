"""The doctor's judgement: facts in, findings out."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from infoscreen_reboot.client.doctor import firmware, survey, tuning
from infoscreen_reboot.client.doctor.finding import Finding, Verdict, ok, problem
from infoscreen_reboot.client.doctor.firmware import RaspberryPi
from infoscreen_reboot.client.doctor.judgement import (
    Account,
    Consent,
    Facts,
    Losses,
    Preview,
    Probe,
    Room,
    Watchdog,
    diagnose,
)
from infoscreen_reboot.client.doctor.tuning import Assignment, Setting
from infoscreen_reboot.mqtt.messages import CLOSED
from infoscreen_reboot.mqtt.reasons import TAKEN_OVER

STOP = Assignment("Manager", "DefaultTimeoutStopSec", "15s")
OUR_FILE = f"/usr/lib/systemd/system.conf.d/{tuning.OUR_FILE}"
SOUND = Facts(
    probe=Probe([ok(check, "fine") for check in ("configuration", "TCP", "login", "publish")]),
    reboot=Preview(""),
    shutdown=Preview(""),
    consent=Consent(reboot=True, shutdown=True),
    clock_is_synchronised=True,
    time_daemons=["systemd-timesyncd.service"],
    bus="dbus",
    account=Account("infoscreen-reboot", "/usr/sbin/nologin", has_password=False),
    rooms=[Room("/var/lib/infoscreen-reboot", 1 << 30, 100_000, is_full=False, is_read_only=False)],
    losses=Losses(),
    unit={
        "LoadState": "loaded",
        "ActiveState": "active",
        "Result": "success",
        "StatusText": "connected to broker:8883, ready for commands",
        "UnitFileState": "enabled",
        "NeedDaemonReload": "no",
    },
    container="",
    watchdog=Watchdog("/dev/watchdog0", is_software=False, is_armed=True, runtime="1min"),
    disk_timeouts_s={"sda": 10},
    settings=[Setting("", STOP, "15s", OUR_FILE)],
    pi=None,
)
STATE_DISK = SOUND.rooms[0]
REFUSAL = Preview("helper_failed", "in memory")
GOOD_PI = RaspberryPi(
    model="Raspberry Pi 5 Model B Rev 1.0",
    kernel_command_line="console=tty1 rootwait fsck.repair=yes panic=10 watchdog.stop_on_reboot=0",
    fstab="PARTUUID=1-01 /boot/firmware vfat defaults,nofail,x-systemd.device-timeout=15s 0 2\n",
    eeprom="[all]\nBOOT_ORDER=0xf4\nNET_INSTALL_AT_POWER_ON=0\nNET_INSTALL_ENABLED=0\nBOOT_WATCHDOG_TIMEOUT=60\n",
    config_txt="usb_max_current_enable=1\n",
)


def found(facts: Facts, verdict: Verdict) -> list[str]:
    return [finding.check for finding in diagnose(facts) if finding.verdict is verdict]


def only(facts: Facts) -> Finding:
    """The one finding that is not ok; it says what to do."""
    (finding,) = [finding for finding in diagnose(facts) if finding.verdict is not Verdict.OK]
    assert finding.text and finding.advice
    return finding


def unit(**changes: str) -> Facts:
    return replace(SOUND, unit={**SOUND.unit, **changes})


def test_a_sound_machine_has_nothing_but_ok() -> None:
    assert found(SOUND, Verdict.OK) == [finding.check for finding in diagnose(SOUND)]


@pytest.mark.parametrize(
    ("facts", "check", "text"),
    [
        (replace(SOUND, reboot=Preview("lockout", "next at 12"), shutdown=Preview("")), "lockout", "next at 12"),
        (replace(SOUND, clock_is_synchronised=False), "clock", "not synchronised"),
        (replace(SOUND, consent=Consent(False, False)), "polkit", "does not let the agent reboot"),
        (replace(SOUND, consent=Consent(None, None, "timeout", polkit_answers=False)), "polkit", "timeout"),
        (replace(SOUND, reboot=Preview(None, "masked"), shutdown=Preview(None, "masked")), "helper", "masked"),
        (unit(ActiveState="failed", Result="exit-code"), "agent", "it is not running: failed (exit-code)"),
        (unit(UnitFileState="disabled"), "agent", "it is disabled: after a reboot it does not come back"),
        (unit(UnitFileState="disabled", ActiveState="inactive"), "agent", "it is disabled"),
        (replace(SOUND, losses=Losses(taken_over=2)), "clones", "taken this client's session 2 times"),
        (
            replace(SOUND, rooms=[replace(STATE_DISK, free_bytes=4096, free_files=0, is_full=True)]),
            "disk",
            "it is full: /var/lib/infoscreen-reboot has 4 KiB left for 0 more files",
        ),
        (replace(SOUND, rooms=[replace(STATE_DISK, is_read_only=True)]), "disk", "is read-only"),
        (
            replace(
                SOUND, reboot=Preview("helper_failed", "in memory"), shutdown=Preview("helper_failed", "in memory")
            ),
            "helper",
            "it refuses: in memory",
        ),
        (replace(unit(LoadState="not-found", UnitFileState=""), probe=Probe([])), "agent", "it is not-found"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_stands_in_the_way_of_a_reboot_is_a_problem(facts: Facts, check: str, text: str) -> None:
    finding = only(facts)
    assert (finding.check, finding.verdict) == (check, Verdict.PROBLEM)
    assert text in finding.text


@pytest.mark.parametrize(
    ("facts", "check", "text"),
    [
        (
            replace(SOUND, clock_is_synchronised=False, probe=replace(SOUND.probe, needs_clock=False)),
            "clock",
            "COMMAND_REQUIRE_SYNCED_CLOCK is off",
        ),
        (replace(SOUND, consent=Consent(True, False)), "polkit", "but not shut down"),
        (replace(SOUND, consent=Consent(None, None, "not on the bus")), "polkit", "not on the bus"),
        (unit(StatusText="connecting to broker:8883"), "agent", "connecting to broker:8883"),
        (unit(NeedDaemonReload="yes"), "agent", "was changed"),
        (replace(SOUND, probe=replace(SOUND.probe, is_mock=True)), "agent", "its executor is a mock"),
        (replace(SOUND, watchdog=Watchdog("/dev/watchdog0", False, False, "0")), "watchdog", "is not armed"),
        (replace(SOUND, watchdog=Watchdog("/dev/watchdog0", False, True, "0")), "watchdog", "is not armed"),
        (replace(SOUND, watchdog=Watchdog("/dev/watchdog0", True, True, "1min")), "watchdog", "softdog"),
        (replace(SOUND, watchdog=Watchdog("", False, False, "0"), pi=GOOD_PI), "watchdog", "a Raspberry Pi has one"),
        (replace(SOUND, disk_timeouts_s={"sda": 10, "sdb": 30}), "SSD timers", "/sys/block/sdb/device/timeout is 30 s"),
        (replace(SOUND, settings=[]), "tuning", "none of the package's files"),
        (replace(SOUND, losses=Losses(taken_over=1)), "clones", "another host has taken this client's session"),
        (replace(SOUND, losses=Losses(closed=4)), "clones", "closed this client's connection 4 times"),
        (replace(SOUND, rooms=[STATE_DISK, replace(STATE_DISK, free_bytes=1 << 20)]), "disk", "it is nearly full"),
        (replace(SOUND, account=Account("agent", "/bin/bash", False)), "account", "(its shell is /bin/bash)"),
        (replace(SOUND, account=Account("agent", "/bin/false", True)), "account", "(it has a password)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_reboot_can_do_without_is_a_warning(facts: Facts, check: str, text: str) -> None:
    finding = only(facts)
    assert (finding.check, finding.verdict) == (check, Verdict.WARNING)
    assert text in finding.text


@pytest.mark.parametrize(
    ("daemons", "words"),
    [
        (["systemd-timesyncd.service"], "systemd-timesyncd runs: timedatectl timesync-status"),
        (["chrony.service"], "chrony runs: chronyc -n sources"),
        (["openntpd.service"], "openntpd runs: ntpctl -s all"),
        (["ntpsec.service"], "ntpsec runs: ntpq -pn"),
        ([], "no time daemon runs here"),
    ],
)
def test_the_advice_about_the_clock_is_for_the_daemon_that_runs(daemons: list[str], words: str) -> None:
    assert words in only(replace(SOUND, clock_is_synchronised=False, time_daemons=daemons)).advice


def test_the_clock_is_told_with_the_time_that_it_took() -> None:
    (told,) = [finding.text for finding in diagnose(replace(SOUND, clock_took_s=6)) if finding.check == "clock"]
    assert told == "synchronised 6 s after the network came; systemd-timesyncd runs"


def test_a_file_system_without_a_limit_has_room_for_more() -> None:
    limitless = replace(STATE_DISK, free_bytes=None, free_files=None)
    assert found(replace(SOUND, rooms=[limitless]), Verdict.OK) == found(SOUND, Verdict.OK)


def test_a_helper_that_refuses_for_what_the_agent_has_said_is_no_news() -> None:
    probe = replace(SOUND.probe, findings=[*SOUND.probe.findings, problem("state", "in memory", "see fleet.md")])
    assert only(replace(SOUND, probe=probe, reboot=REFUSAL, shutdown=REFUSAL)).check == "state"


def test_lockout_and_inhibitor_are_told_apart_and_together() -> None:
    locked, blocked = Preview("lockout", "next at 12"), Preview("inhibited", "blocked by apt")
    assert found(replace(SOUND, reboot=locked), Verdict.PROBLEM) == ["lockout"]
    assert found(replace(SOUND, reboot=blocked, shutdown=blocked), Verdict.PROBLEM) == ["inhibitors"]
    assert found(replace(SOUND, reboot=locked, shutdown=blocked), Verdict.PROBLEM) == ["lockout", "inhibitors"]


def test_a_bad_configuration_explains_an_agent_that_does_not_run() -> None:
    probe = Probe([problem("configuration", "MQTT_PORT is 'x'", "correct it")])
    down = replace(unit(ActiveState="failed", Result="exit-code"), probe=probe)
    assert found(down, Verdict.PROBLEM) == ["configuration"]


def test_a_broker_that_is_away_explains_an_agent_that_is_not_connected() -> None:
    probe = Probe([ok("configuration", "fine"), problem("TCP", "no answer", "start it")])
    assert only(replace(unit(StatusText="connecting to broker:8883"), probe=probe)).check == "TCP"


def test_a_shutdown_that_is_neither_offered_nor_allowed_is_as_it_should_be() -> None:
    probe = replace(SOUND.probe, offers_shutdown=False)
    assert not found(replace(SOUND, probe=probe, consent=Consent(True, False)), Verdict.WARNING)


def test_a_probe_that_came_to_no_end_is_a_problem_of_the_step_that_it_was_at() -> None:
    finding = only(replace(SOUND, probe=Probe([ok("configuration", "fine")], stopped="it was killed")))
    assert (finding.check, finding.text) == ("name resolution", "cannot tell: it was killed")


@pytest.mark.parametrize(
    ("end", "losses"),
    [
        (TAKEN_OVER, Losses(taken_over=1)),
        (f'{TAKEN_OVER} ("Session; taken (over)")', Losses(taken_over=1)),
        (CLOSED, Losses(closed=1)),
        (f'{CLOSED} ("bye")', Losses(closed=1)),
        (f"{CLOSED} again and again: does another host have the same client UUID?", Losses(closed=1)),
        (f'the broker is shutting down ("{TAKEN_OVER}")', Losses()),
        (f'the broker is shutting down ("x lost: {TAKEN_OVER}")', Losses()),
    ],
)
def test_a_lost_session_is_counted_by_its_reason_whatever_the_broker_adds(end: str, losses: Losses) -> None:
    lines = [
        "connected to broker:8883",
        f"connection to broker:8883 lost: {end}; next attempt in 1 s",
        f"cannot connect to broker:8883: {CLOSED} without an answer; next attempt in 1 s",
    ]
    assert survey.losses_in("\n".join(lines)) == losses
    assert survey.losses_in(f"connection to broker:8883 lost: {end}") == losses


def test_in_a_container_the_hosts_hardware_is_not_judged() -> None:
    facts = replace(SOUND, container="lxc", watchdog=Watchdog("", False, False, "0"), disk_timeouts_s={"sda": 30})
    assert not found(facts, Verdict.WARNING)


MERGED = f"""\
# /etc/systemd/system.conf
#  This file is part of systemd.
[Manager]
#DefaultTimeoutStopSec=90s

# {OUR_FILE}
# Because of the disk.
[Manager]
DefaultTimeoutStopSec=15s

# /etc/systemd/system.conf.d/95-site.conf
[Manager]
RuntimeWatchdogSec = 30s
[Other]
DefaultTimeoutStopSec=1s
"""


def test_the_last_file_that_sets_a_value_is_the_one_that_counts() -> None:
    merged = tuning.assignments(MERGED)
    assert tuning.last_setter(STOP, merged) == OUR_FILE
    watchdog = Assignment("Manager", "RuntimeWatchdogSec", "60s")
    assert tuning.last_setter(watchdog, merged) == "/etc/systemd/system.conf.d/95-site.conf"
    assert watchdog.shown_as == "RuntimeWatchdogUSec"
    assert tuning.last_setter(Assignment("Manager", "Else", "1"), merged) == ""


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (
            Setting("", STOP, "1min 30s", OUR_FILE),
            "systemd: DefaultTimeoutStopSec is 1min 30s, the package's value is 15s",
        ),
        (Setting("", STOP, "20s", "/etc/x.conf"), "is 20s, overridden by /etc/x.conf; the package's value is 15s"),
        (
            Setting("reboot.target", Assignment("Unit", "JobTimeoutAction", "reboot-force"), "none", "/etc/y.conf"),
            "reboot.target: JobTimeoutAction is none, overridden by /etc/y.conf",
        ),
    ],
)
def test_a_value_that_is_not_in_force_is_named_with_the_reason(setting: Setting, words: str) -> None:
    (finding,) = tuning.judge([setting])
    assert finding.verdict is Verdict.WARNING and words in finding.text
    assert ("not in force until the next boot" in finding.advice) == (setting.last_set_by == OUR_FILE)


def test_values_are_compared_by_what_they_mean() -> None:
    environment = Assignment("Service", "Environment", "NM_ONLINE_TIMEOUT=30")
    same = [
        Setting("", Assignment("Manager", "RuntimeWatchdogSec", "60s"), "1min", OUR_FILE),
        Setting("", Assignment("Manager", "RuntimeWatchdogSec", "90"), "1min 30s", OUR_FILE),
        Setting("x.service", environment, "A=1 NM_ONLINE_TIMEOUT=30", OUR_FILE),
        Setting("y.service", Assignment("Unit", "After", "dbus.service"), "dbus.service basic.target", OUR_FILE),
    ]
    assert [finding.verdict for finding in tuning.judge(same)] == [Verdict.OK]
    assert tuning.seconds("infinity") is None and tuning.seconds("5 parsecs") is None and tuning.seconds("") is None
    assert tuning.seconds("2h 1min 500ms") == 7260.5


def test_a_pi_that_is_set_up_for_it_gets_no_advice() -> None:
    assert [finding.advice for finding in firmware.judge(GOOD_PI)] == [""]


@pytest.mark.parametrize(
    ("pi", "text", "command"),
    [
        (
            replace(GOOD_PI, kernel_command_line="panic=5"),
            "watchdog.stop_on_reboot=0",
            "sed -i '1s/$/ watchdog.stop_on_reboot=0/' /boot/firmware/cmdline.txt",
        ),
        (
            replace(GOOD_PI, kernel_command_line="watchdog.stop_on_reboot=0 panic=0"),
            "panic=10",
            "sed -i '1s/$/ panic=10/' /boot/firmware/cmdline.txt",
        ),
        (replace(GOOD_PI, fstab="UUID=1 /boot/firmware vfat defaults 0 2"), "not nofail", "/etc/fstab"),
        (
            replace(GOOD_PI, eeprom="BOOT_ORDER=0xf461\n"),
            "BOOT_ORDER is 0xf461, better 0xf4",
            "rpi-eeprom-config --apply",
        ),
        (
            replace(GOOD_PI, eeprom=GOOD_PI.eeprom + "WAIT_FOR_POWER_BUTTON=1\n"),
            "WAIT_FOR_POWER_BUTTON is 1",
            "--apply",
        ),
    ],
)
def test_each_setting_that_only_the_owner_may_change_comes_with_its_command(
    pi: RaspberryPi, text: str, command: str
) -> None:
    (finding,) = firmware.judge(pi)
    assert finding.verdict is Verdict.WARNING
    assert text in finding.text and command in finding.advice


def test_the_power_supply_is_advice_and_no_warning() -> None:
    *_, finding = firmware.judge(replace(GOOD_PI, config_txt=""))
    assert finding.verdict is Verdict.OK and "usb_max_current_enable=1" in finding.advice


def test_each_command_that_is_advised_cures_what_it_is_advised_for(tmp_path: Path) -> None:
    fake = tmp_path / "rpi-eeprom-config"
    fake.write_text(f'#!/bin/sh\ntest "$1" != --apply || exec cp "$2" {tmp_path}/eeprom\ncat {tmp_path}/eeprom\n')
    fake.chmod(0o755)
    sick = RaspberryPi(
        model=GOOD_PI.model,
        kernel_command_line="console=tty1 rootwait",
        fstab="PARTUUID=1-01  /boot/firmware  vfat  defaults  0  2\nPARTUUID=1-02  /  ext4  defaults,noatime  0  1\n",
        eeprom="[all]\nBOOT_UART=1\nBOOT_ORDER=0xf461\nWAIT_FOR_POWER_BUTTON=1\nBOOT_WATCHDOG_TIMEOUT=10\n",
        config_txt="",
    )
    places = {"/boot/firmware/cmdline.txt": "cmdline", "/etc/fstab": "fstab", "/root/eeprom.conf": "new"}
    for name, text in (("cmdline", sick.kernel_command_line + "\n"), ("fstab", sick.fstab), ("eeprom", sick.eeprom)):
        (tmp_path / name).write_text(text)
    advised = [finding for finding in firmware.judge(sick) if finding.verdict is Verdict.WARNING]
    assert len(advised) == 4
    for finding in advised:
        command = finding.advice.removesuffix(" && reboot")
        for place, name in places.items():
            command = command.replace(place, str(tmp_path / name))
        subprocess.run(["sh", "-c", command], check=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    command_line, fstab, eeprom = ((tmp_path / name).read_text() for name in ("cmdline", "fstab", "eeprom"))
    cured = replace(sick, kernel_command_line=command_line, fstab=fstab, eeprom=eeprom)
    assert [finding.verdict for finding in firmware.judge(cured)] == [Verdict.OK, Verdict.OK]
    assert (
        command_line.count("\n") == 1
        and "BOOT_UART=1" in eeprom
        and fstab.splitlines()[1] == sick.fstab.splitlines()[1]
    )
