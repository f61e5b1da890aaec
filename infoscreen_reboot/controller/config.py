"""Reads the controller's settings from the environment, once, and names every fault in them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from infoscreen_reboot.controller import selection
from infoscreen_reboot.controller.lifecycle import Limits
from infoscreen_reboot.controller.safety import Amount, Budget
from infoscreen_reboot.controller.selection import Selector, SelectorError
from infoscreen_reboot.controller.windows import DAYS, Window
from infoscreen_reboot.mqtt.messages import BrokerSettings
from infoscreen_reboot.mqtt.settings import Reader

_NAMES = (
    *("MQTT_BROKER", "MQTT_PORT", "MQTT_USER", "MQTT_PASSWORD_BROKER"),
    *("MQTT_TLS", "MQTT_TLS_CA", "MQTT_TLS_CERT", "MQTT_TLS_KEY"),
    *("DATABASE_URL", "LISTEN", "ACCEPT_CLIENTS", "COMMAND_SIGNING_KEY", "COMMAND_VALID_S"),
    *("DEADLINE_DOWN_S", "DEADLINE_BACK_S", "DEADLINE_LAST_ACK_S"),
    *("FLEET_CAP", "BUDGETS", "WINDOWS"),
)
_OUR_PREFIXES = ("MQTT_", "DATABASE_", "COMMAND_", "DEADLINE_", "FLEET_", "BUDGET", "WINDOW", "ACCEPT_", "LISTEN")
_AMOUNT = re.compile(r"(\d{1,6})(%?)", re.ASCII)
_BUDGET = re.compile(r"(\S+)\s+((?:max_unavailable|min_available)=\S+(?:\s+(?:max_unavailable|min_available)=\S+)?)")
_WINDOW = re.compile(r"(?:(\S+)\s+)?([a-z,-]+)\s+(\d{2}):(\d{2})\s+(\d{1,3})h\s+(\S+)", re.ASCII)
_LONGEST_WINDOW_H = 168


class ConfigError(Exception):
    """The configuration cannot be used; `problems` holds one sentence for each fault."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Settings:
    broker: BrokerSettings
    database_url: str
    listen: str
    accepts_all: bool
    signing_key: Path | None
    valid_for: timedelta
    limits: Limits
    fleet_cap: int | None
    budgets: tuple[Budget, ...]
    windows: tuple[tuple[Selector, Window], ...]


def unknown_names(environment: Mapping[str, str]) -> list[str]:
    """One sentence for each variable that looks like ours and is not: most likely a typing error."""
    found = []
    for name in sorted(environment):
        if name.startswith(_OUR_PREFIXES) and name not in _NAMES:
            close = difflib.get_close_matches(name, _NAMES, n=1)
            advice = f"; did you mean {close[0]}?" if close else ""
            found.append(f"{name} is not a setting of ours and is ignored{advice}")
    return found


def load(environment: Mapping[str, str], state_directory: Path) -> Settings:
    """Raises ConfigError with all problems at once; no sentence holds a secret."""
    reader = Reader(environment)
    fleet = Limits()
    settings = Settings(
        broker=reader.broker(),
        database_url=reader.text("DATABASE_URL") or f"sqlite:///{state_directory}/controller.sqlite3",
        listen=reader.text("LISTEN") or "127.0.0.1:8480",
        accepts_all=_accepts_all(reader),
        signing_key=reader.file("COMMAND_SIGNING_KEY"),
        valid_for=_seconds(reader, "COMMAND_VALID_S", timedelta(minutes=4), low=30, high=3600),
        limits=Limits(
            down=_seconds(reader, "DEADLINE_DOWN_S", fleet.down, low=60, high=3600),
            back=_seconds(reader, "DEADLINE_BACK_S", fleet.back, low=60, high=7200),
            last_ack=_seconds(reader, "DEADLINE_LAST_ACK_S", fleet.last_ack, low=60, high=7200),
        ),
        fleet_cap=reader.number("FLEET_CAP", default=0, low=1, high=1_000_000) or None,
        budgets=_budgets(reader),
        windows=_windows(reader),
    )
    if reader.problems:
        raise ConfigError(reader.problems)
    return settings


def _seconds(reader: Reader, name: str, default: timedelta, low: int, high: int) -> timedelta:
    return timedelta(seconds=reader.number(name, default=int(default.total_seconds()), low=low, high=high))


def _accepts_all(reader: Reader) -> bool:
    text = reader.text("ACCEPT_CLIENTS") or "ask"
    if text not in ("ask", "auto"):
        reader.problems.append(f"ACCEPT_CLIENTS is {text!r}; allowed are ask and auto")
    return text == "auto"


def _entries(reader: Reader, name: str) -> list[str]:
    return [entry.strip() for entry in (reader.text(name) or "").split(";") if entry.strip()]


def _budgets(reader: Reader) -> tuple[Budget, ...]:
    """`site max_unavailable=1; site,room min_available=50%`."""
    return tuple(budget for entry in _entries(reader, "BUDGETS") if (budget := _budget(reader, entry)) is not None)


def _budget(reader: Reader, entry: str) -> Budget | None:
    found = _BUDGET.fullmatch(entry)
    amounts: dict[str, Amount] = {}
    for part in found[2].split() if found else ():
        name, _, text = part.partition("=")
        amount = _AMOUNT.fullmatch(text)
        if amount is not None and not (amount[2] and int(amount[1]) > 100):
            amounts[name] = Amount(int(amount[1]), bool(amount[2]))
    keys = tuple(found[1].split(",")) if found else ()
    if found is None or len(amounts) != len(found[2].split()) or not all(map(selection.KEY.fullmatch, keys)):
        reader.problems.append(
            f"BUDGETS has {entry[:80]!r}; allowed is as in `site max_unavailable=1` or `site,room min_available=50%`"
        )
        return None
    return Budget(keys, amounts.get("max_unavailable"), amounts.get("min_available"))


def _windows(reader: Reader) -> tuple[tuple[Selector, Window], ...]:
    """`site=alpine mon-fri 22:00 6h Europe/Berlin; sat,sun 01:00 4h UTC`; without a selector it is for all."""
    return tuple(window for entry in _entries(reader, "WINDOWS") if (window := _window(reader, entry)) is not None)


def _window(reader: Reader, entry: str) -> tuple[Selector, Window] | None:
    try:
        found = _WINDOW.fullmatch(entry)
        if found is None:
            raise ValueError("allowed is as in `site=alpine mon-fri 22:00 6h Europe/Berlin`")
        if not 0 < int(found[5]) <= _LONGEST_WINDOW_H:
            raise ValueError(f"a window is open for 1 to {_LONGEST_WINDOW_H} h")
        ZoneInfo(found[6])
        start, duration = time(int(found[3]), int(found[4])), timedelta(hours=int(found[5]))
        return selection.parse(found[1] or ""), Window(_days(found[2]), start, duration, found[6])
    except (SelectorError, ZoneInfoNotFoundError, ValueError) as error:
        reader.problems.append(f"WINDOWS has {entry[:80]!r}; {error}")
        return None


def _days(text: str) -> frozenset[int]:
    days: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first not in DAYS or (last or first) not in DAYS:
            raise ValueError(f"{part!r} is no day; allowed are {', '.join(DAYS)} and ranges as mon-fri")
        begin, end = DAYS.index(first), DAYS.index(last or first)
        days |= {day % 7 for day in range(begin, end + 1 if end >= begin else end + 8)}
    return frozenset(days)
