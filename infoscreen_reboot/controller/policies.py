"""Reads what a site writes in its settings about budgets, windows, deadlines and recovery, one entry at a time."""

import re
from datetime import time, timedelta

from infoscreen_reboot.controller import selection
from infoscreen_reboot.controller.recovery import ORDER, Step
from infoscreen_reboot.controller.safety import Amount, Budget
from infoscreen_reboot.controller.selection import Selector
from infoscreen_reboot.controller.windows import DAYS, Window, zone_named

_AMOUNT = re.compile(r"(\d{1,6})(%?)", re.ASCII)
_BUDGET = re.compile(r"(\S+)\s+((?:max_unavailable|min_available)=\S+(?:\s+(?:max_unavailable|min_available)=\S+)?)")
_WINDOW = re.compile(r"(?:(\S+)\s+)?([a-z,-]+)\s+(\d{2}):(\d{2})\s+(\d{1,3})h\s+(\S+)", re.ASCII)
_HOURS = re.compile(r"([a-z,-]+)\s+(\d{2}):(\d{2})\s+(\d{1,3})h", re.ASCII)
_DEADLINE = re.compile(r"(\S+)((?:\s+[a-z_]+=\d{1,5})+)", re.ASCII)
# In seconds. The least are what the client itself promises (docs/contract.md, "Operational defaults").
_LIMITS = {"down": (60, 3600), "back": (60, 7200), "last_ack": (60, 7200)}
_RECOVERY = re.compile(r"(?:(\S+)\s+)?(\S+)", re.ASCII)
_LONGEST_WINDOW_H = 168


def budget(entry: str) -> Budget:
    """`site max_unavailable=1`, or `site,room min_available=50%`. Raises ValueError."""
    found = _BUDGET.fullmatch(entry)
    amounts: dict[str, Amount] = {}
    for part in found[2].split() if found else ():
        name, _, text = part.partition("=")
        amount = _AMOUNT.fullmatch(text)
        if amount is not None and not (amount[2] and int(amount[1]) > 100):
            amounts[name] = Amount(int(amount[1]), bool(amount[2]))
    keys = tuple(found[1].split(",")) if found else ()
    if found is None or len(amounts) != len(found[2].split()) or not all(map(selection.KEY.fullmatch, keys)):
        raise ValueError("allowed is as in `site max_unavailable=1` or `site,room min_available=50%`")
    return Budget(keys, amounts.get("max_unavailable"), amounts.get("min_available"))


def window(entry: str) -> tuple[Selector, Window]:
    """`site=alpine mon-fri 22:00 6h Europe/Berlin`; without a selector it is for all. Raises ValueError."""
    found = _WINDOW.fullmatch(entry)
    if found is None:
        raise ValueError("allowed is as in `site=alpine mon-fri 22:00 6h Europe/Berlin`")
    if not 0 < int(found[5]) <= _LONGEST_WINDOW_H:
        raise ValueError(f"a window is open for 1 to {_LONGEST_WINDOW_H} h")
    zone_named(found[6])
    start, duration = time(int(found[3]), int(found[4])), timedelta(hours=int(found[5]))
    return selection.parse(found[1] or ""), Window(_days(found[2]), start, duration, found[6])


def opening_hours(text: str, zone: str = "UTC") -> tuple[Window, ...]:
    """`mon-fri 08:00 12h; sat 09:00 6h`: when people look at the screens of a site. Raises ValueError."""
    found = []
    for entry in filter(None, map(str.strip, text.split(";"))):
        if not _HOURS.fullmatch(entry):
            raise ValueError("allowed is as in `mon-fri 08:00 12h; sat 09:00 6h`")
        found.append(window(f"{entry} {zone}")[1])
    return tuple(found)


def deadline(entry: str) -> tuple[Selector, dict[str, float]]:
    """`site=alpine back=300 last_ack=300`: other limits of steps, in seconds. Raises ValueError."""
    found = _DEADLINE.fullmatch(entry)
    if found is None:
        raise ValueError("allowed is as in `site=alpine back=300 last_ack=300`")
    limits: dict[str, float] = {}
    for part in found[2].split():
        name, _, text = part.partition("=")
        if name not in _LIMITS:
            raise ValueError(f"{name} is no step; allowed are {', '.join(_LIMITS)}")
        low, high = _LIMITS[name]
        if not low <= int(text) <= high:
            raise ValueError(f"{name} takes {low} to {high} s")
        limits[name] = int(text)
    return selection.parse(found[1]), limits


def recovery(entry: str) -> tuple[Selector, tuple[Step, ...]]:
    """`site=alpine ask,watchdog,power`, or `person` for no step at all; without a selector it is for all.

    Raises ValueError.
    """
    found = _RECOVERY.fullmatch(entry)
    names = found[2].split(",") if found else []
    known = [step for step in ORDER if step in names]
    if found is None or (names != ["person"] and names != known):
        raise ValueError("allowed is as in `site=alpine ask,watchdog,power`, in this order, or `site=alpine person`")
    return selection.parse(found[1] or ""), tuple(known)


def _days(text: str) -> frozenset[int]:
    days: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first not in DAYS or (last or first) not in DAYS:
            raise ValueError(f"{part!r} is no day; allowed are {', '.join(DAYS)} and ranges as mon-fri")
        begin, end = DAYS.index(first), DAYS.index(last or first)
        days |= {day % 7 for day in range(begin, end + 1 if end >= begin else end + 8)}
    return frozenset(days)
