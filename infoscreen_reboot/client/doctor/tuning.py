"""Says whether systemd uses the values that the package ships and, if not, which file overrides them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from infoscreen_reboot.client.doctor.finding import Finding, ok, warning

CHECK = "tuning"
OUR_FILE = "90-infoscreen-reboot.conf"
_SECTION, _ASSIGNMENT = re.compile(r"\[(\w+)\]\s*"), re.compile(r"(\w+)\s*=\s*(.*?)\s*")
# `systemctl cat` and `systemd-analyze cat-config` mark the beginning of each file with such a line.
_FILE = re.compile(r"# (/\S+)")
# Settings to which other files may add values.
_LISTS = ("Environment", "After", "BindsTo")
_UNITS_S = {"us": 1e-6, "ms": 1e-3, "": 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class Assignment:
    """A line of a configuration file; `file` is empty if the text did not say which."""

    section: str
    key: str
    value: str
    file: str = ""

    @property
    def shown_as(self) -> str:
        """The name that `systemctl show` has for it."""
        return re.sub("Sec$", "USec", self.key)


@dataclass(frozen=True, slots=True)
class Setting:
    """A value that we ship: for which unit ("" for systemd itself), what is in force, and which file set it last."""

    unit: str
    shipped: Assignment
    in_force: str
    last_set_by: str


def assignments(text: str) -> list[Assignment]:
    """The lines that set something, in order; `text` is one configuration file, or several as systemd prints them."""
    found: list[Assignment] = []
    section = file = ""
    for line in text.splitlines():
        if match := _FILE.fullmatch(line):
            file, section = match[1], ""
        elif match := _SECTION.fullmatch(line):
            section = match[1]
        elif match := _ASSIGNMENT.fullmatch(line):
            found.append(Assignment(section, match[1], match[2], file))
    return found


def last_setter(of: Assignment, merged: Sequence[Assignment]) -> str:
    """The file with the last line for the same setting: that line counts."""
    files = [one.file for one in merged if (one.section, one.key) == (of.section, of.key)]
    return files[-1] if files else ""


def judge(settings: Sequence[Setting]) -> Iterator[Finding]:
    if not settings:
        advice = "install the package again: apt-get install --reinstall infoscreen-reboot"
        yield warning(CHECK, f"systemd has none of the package's files {OUR_FILE}", advice)
        return
    strange = [setting for setting in settings if not _is_in_force(setting)]
    for setting in strange:
        what = f"{setting.unit or 'systemd'}: {setting.shipped.key} is {setting.in_force or 'not set'}"
        wanted = f"the package's value is {setting.shipped.value}"
        if setting.last_set_by.endswith(f"/{OUR_FILE}"):
            yield warning(CHECK, f"{what}, {wanted}", "not in force until the next boot, or: systemctl daemon-reload")
        else:
            # An administrator's drop-in wins, and that is right. We report it, so that nobody has to guess.
            by = setting.last_set_by or "a file that is gone"
            advice = "keep it if it is meant and the budget in ssd-tuning.md still adds up, else take it out"
            yield warning(CHECK, f"{what}, overridden by {by}; {wanted}", advice)
    if not strange:
        yield ok(CHECK, f"all {len(settings)} values of the package are in force")


def _is_in_force(setting: Setting) -> bool:
    wanted, found = setting.shipped.value, setting.in_force
    if setting.shipped.key in _LISTS:
        return wanted in found.split()
    return found == wanted or (seconds(found) is not None and seconds(found) == seconds(wanted))


def seconds(text: str) -> float | None:
    """The seconds of a span as systemd.time(7) writes it, such as "1min 30s"; None if the text is no span."""
    parts = re.findall(r"([0-9.]+)\s*([a-z]*)\s*", text)
    if not parts or "".join(re.split(r"\s+", text)) != "".join(number + unit for number, unit in parts):
        return None
    if any(unit not in _UNITS_S for _, unit in parts):
        return None
    return round(sum(float(number) * _UNITS_S[unit] for number, unit in parts), 6)
