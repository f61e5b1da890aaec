"""Gathers, as root, what the doctor and `status` need from systemd, the bus, /proc and /sys; it changes nothing."""

from __future__ import annotations

import json
import os
import pwd
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infoscreen_reboot.client import disk, kernel, lasting
from infoscreen_reboot.client.doctor import tuning
from infoscreen_reboot.client.doctor.finding import Finding, Verdict
from infoscreen_reboot.client.doctor.firmware import RaspberryPi
from infoscreen_reboot.client.doctor.judgement import (
    LOSSES_COUNT_FOR_MIN,
    TIME_DAEMONS,
    Account,
    Consent,
    Facts,
    Losses,
    Preview,
    Probe,
    Room,
    Watchdog,
)
from infoscreen_reboot.client.doctor.tuning import Setting
from infoscreen_reboot.mqtt.messages import CLOSED
from infoscreen_reboot.mqtt.reasons import TAKEN_OVER

UNIT = "infoscreen-simclient.service"
AGENT_PROGRAM = "/usr/libexec/infoscreen-reboot/infoscreen-simclient"
_PROBE = "/usr/libexec/infoscreen-reboot/infoscreen-reboot-probe"
_PROBE_TIMEOUT_S = 60
_SYSTEMD = "org.freedesktop.systemd1"
_HELPER = "org.infoscreen.RebootHelper1", "/org/infoscreen/RebootHelper1", "org.infoscreen.RebootHelper1"
_POLKIT = "org.freedesktop.PolicyKit1", "/org/freedesktop/PolicyKit1/Authority", "org.freedesktop.PolicyKit1.Authority"
_CLOCK = "org.freedesktop.timedate1", "/org/freedesktop/timedate1", "org.freedesktop.timedate1"
_UNIT_FACTS = "LoadState", "ActiveState", "Result", "StatusText", "UnitFileState", "NeedDaemonReload", "MainPID"


class NoAnswer(Exception):
    """A question got no answer. The text is that of the program that we asked."""


def gather() -> Facts:
    """Raises NoAnswer if not even systemd answers."""
    unit = show(UNIT, *_UNIT_FACTS)
    model = _text(Path("/proc/device-tree/model")).rstrip("\0")
    return Facts(
        # systemd does not know the settings of a masked unit.
        probe=_probe() if unit["LoadState"] == "loaded" else Probe([]),
        reboot=_preview("reboot_host"),
        shutdown=_preview("shutdown_host"),
        consent=_consent(int(unit["MainPID"])),
        clock_is_synchronised=kernel.timesyncd_says_synchronised() or _timedated_says_synchronised(),
        clock_took_s=kernel.clock_took_s(),
        time_daemons=[name for name in TIME_DAEMONS if show(name, "ActiveState")["ActiveState"] == "active"],
        bus=show("dbus.service", "Id")["Id"].removesuffix(".service"),
        account=_account(),
        rooms=[_room(directory) for directory in (lasting.STATE, lasting.HELPER_STATE)],
        losses=_losses(),
        unit=unit,
        container=_container(),
        watchdog=_watchdog(),
        disk_timeouts_s=_disk_timeouts_s(),
        settings=_settings(),
        pi=_raspberry_pi(model) if model.startswith("Raspberry Pi") else None,
    )


def show(unit: str, *names: str) -> dict[str, str]:
    """Properties of a unit, or of systemd itself for "". If a property comes more than once, its last line counts."""
    shown = _ask("systemctl", "show", *([unit] if unit else []), *(f"--property={name}" for name in names))
    return dict.fromkeys(names, "") | dict(line.split("=", 1) for line in shown.splitlines())


def as_agent(*program: str) -> list[str]:
    """The command that runs a program as the agent's unit would: its user, environment, credentials, view of files."""
    properties = [f"{name}={_unit_property(name)}" for name in ("User", "ProtectHome", "PrivateTmp")]
    properties += [f"EnvironmentFile={'-' * may_miss}{path}" for path, may_miss in _unit_property("EnvironmentFiles")]
    properties += [f"LoadCredential={name}:{path}" for name, path in _unit_property("LoadCredential")]
    properties += [f"LoadCredentialEncrypted={n}:{path}" for n, path in _unit_property("LoadCredentialEncrypted")]
    words = [f"--setenv={assignment}" for assignment in _unit_property("Environment")]
    properties += [f"RuntimeMaxSec={_PROBE_TIMEOUT_S}", "LimitCORE=0"]
    words += [f"--property={line}" for line in properties]
    return ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", *words, "--", *program]


def _unit_property(name: str) -> Any:
    """A property of the agent's unit, asked over the bus: `systemctl show` of systemd 252 leaves some out."""
    path = "/org/freedesktop/systemd1/unit/infoscreen_2dsimclient_2eservice"
    return _get(_SYSTEMD, path, f"{_SYSTEMD}.Service", name)


def _ask(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sentence = done.stderr.strip().removeprefix("Call failed: ")
        raise NoAnswer(sentence or f"{command[0]} ended with {done.returncode}")
    return done.stdout


def _get(*where: str) -> Any:
    return json.loads(_ask("busctl", "--json=short", "get-property", *where))["data"]


def _call(*call: str) -> list[Any]:
    body: list[Any] = json.loads(_ask("busctl", "--json=short", "call", *call))["data"]
    return body


def _probe() -> Probe:
    done = subprocess.run(as_agent(_PROBE), capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    findings = [Finding(**line | {"verdict": Verdict(line["verdict"])}) for line in lines if "check" in line]
    settings: Mapping[str, bool] = next((line["settings"] for line in lines if "settings" in line), {})
    stopped = ""
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"it did not come to an end within {_PROBE_TIMEOUT_S} s"])[-1]
        stopped = f"the agent's probe ended with {done.returncode}: {last}"
    return Probe(findings, **settings, stopped=stopped)


def _preview(action: str) -> Preview:
    try:
        may, code, text = _call(*_HELPER, "Preview", "s", action)
    except NoAnswer as error:
        return Preview(None, str(error))
    return Preview("" if may else code, text)


def _consent(pid: int) -> Consent:
    """Ask polkit what the helper would ask, about the agent's own connection to the bus. polkit answers root."""
    try:
        connections = json.loads(_ask("busctl", "--json=short", "list", "--unique"))
        names = [one["name"] for one in connections if pid and one["pid"] == pid]
        if not names:
            return Consent(None, None, "the agent is not on the system bus")
        reboot, shutdown = (
            _call(
                *(*_POLKIT, "CheckAuthorization", "(sa{sv})sa{ss}us", "system-bus-name", "1", "name", "s", names[0]),
                *(f"org.infoscreen.reboothelper1.{action}", "0", "0", ""),
            )[0][0]
            for action in ("reboot", "shutdown")
        )
    except NoAnswer as error:
        return Consent(None, None, f"it does not answer: {error}", polkit_answers=False)
    return Consent(reboot, shutdown)


def _timedated_says_synchronised() -> bool:
    try:
        return bool(_get(*_CLOCK, "NTPSynchronized"))
    except NoAnswer:
        return False


def _account() -> Account | None:
    try:
        entry = pwd.getpwnam(str(_unit_property("User")))
    except KeyError:
        return None
    lines = (line.split(":") for line in _text(Path("/etc/shadow")).splitlines())
    hashed = next((fields[1] for fields in lines if fields[0] == entry.pw_name), "!")
    return Account(entry.pw_name, entry.pw_shell, has_password=not hashed.startswith(("!", "*")))


def _room(directory: Path) -> Room:
    """What is left for the directory, or for the one in which it will be made."""
    place = directory if directory.exists() else directory.parent
    told = os.statvfs(place)
    return Room(
        str(directory),
        free_bytes=told.f_bavail * told.f_frsize if told.f_blocks else None,
        free_files=told.f_favail if told.f_files else None,
        is_full=disk.is_full(place),
        is_read_only=bool(told.f_flag & os.ST_RDONLY),
    )


def _losses() -> Losses:
    """Counted in the agent's lines in the journal: each lost connection has a line there."""
    options = f"--unit={UNIT}", "--boot", f"--since=-{LOSSES_COUNT_FOR_MIN}min", "--output=cat", "--no-pager", "--quiet"
    done = subprocess.run(["journalctl", *options], capture_output=True, text=True, errors="replace", check=False)
    return losses_in(done.stdout)


def losses_in(journal: str) -> Losses:
    """The reason begins with our words; more may follow, as what the broker itself says about it."""
    ends = [line.partition(" lost: ")[2] for line in journal.splitlines()]
    return Losses(
        taken_over=sum(end.startswith(TAKEN_OVER) for end in ends),
        closed=sum(end.startswith(CLOSED) for end in ends),
    )


def _container() -> str:
    done = subprocess.run(["systemd-detect-virt", "--container"], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _watchdog() -> Watchdog:
    device = "/dev/watchdog0" if Path("/dev/watchdog0").exists() else ""
    told = show("", "RuntimeWatchdogUSec", "WatchdogLastPingTimestampMonotonic")
    is_fed = told["WatchdogLastPingTimestampMonotonic"] not in ("", "0")
    return Watchdog(device, kernel.watchdog_is_software(), is_fed, told["RuntimeWatchdogUSec"])


def _disk_timeouts_s() -> dict[str, int]:
    timeouts = sorted(Path("/sys/block").glob("sd*/device/timeout"))
    return {p.parts[3]: int(_text(p)) for p in timeouts if re.search("/usb[0-9]+/", str(p.parent.resolve()))}


def _settings() -> list[Setting]:
    folder = Path("/usr/lib/systemd")
    ours = [("", folder / "system.conf.d" / tuning.OUR_FILE)]
    ours += [(p.parent.name.removesuffix(".d"), p) for p in sorted(folder.glob(f"system/*.d/{tuning.OUR_FILE}"))]
    return [setting for unit, path in ours if path.exists() for setting in _settings_of(unit, path)]


def _settings_of(unit: str, path: Path) -> list[Setting]:
    shipped = tuning.assignments(_text(path))
    # systemd cannot be asked about a template; any instance of it is as good as another.
    asked = unit.replace("@.", "@1000.")
    values = show(asked, "LoadState", *(one.shown_as for one in shipped))
    if asked and values["LoadState"] == "not-found":
        return []
    cat = ("systemctl", "cat", asked) if asked else ("systemd-analyze", "cat-config", "systemd/system.conf")
    merged = tuning.assignments(_ask(*cat))
    return [Setting(unit, one, values[one.shown_as], tuning.last_setter(one, merged)) for one in shipped]


def _raspberry_pi(model: str) -> RaspberryPi:
    boot_files = Path("/boot/firmware")
    try:
        eeprom = _ask("rpi-eeprom-config")
    except (NoAnswer, OSError):
        eeprom = ""
    fstab, config_txt = _text(Path("/etc/fstab")), _text(boot_files / "config.txt")
    return RaspberryPi(model, _text(Path("/proc/cmdline")), fstab, eeprom, config_txt)


def _text(path: Path) -> str:
    """A file's contents; "" if it cannot be read."""
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return ""
