"""Reads the controller's settings from the environment, once, and names every fault in them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import time, timedelta
from ipaddress import ip_network
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from infoscreen_reboot.contract.signature import is_key_id
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
    *("DATABASE_URL", "LISTEN", "LISTEN_TLS_CERT", "LISTEN_TLS_KEY", "TRUSTED_PROXIES"),
    *("ACCEPT_CLIENTS", "COMMAND_SIGNING_KEY", "COMMAND_SIGNING_KEY_ID", "COMMAND_VALID_S"),
    *("DEADLINE_DOWN_S", "DEADLINE_BACK_S", "DEADLINE_LAST_ACK_S", "DEADLINES"),
    *("FLEET_CAP", "BUDGETS", "WINDOWS", "KEEP_DAYS"),
)
_OUR_PREFIXES = (
    *("MQTT_", "DATABASE_", "LISTEN", "TRUSTED_", "ACCEPT_", "COMMAND_", "DEADLINE", "FLEET_", "BUDGET", "WINDOW"),
    "KEEP_",
)
# LSB's code for "program is not configured". The unit takes it as skipped, not as failed.
EX_NOT_CONFIGURED = 6
NOT_CONFIGURED = (
    "not configured: set MQTT_BROKER in /etc/infoscreen-reboot-controller/controller.env, then restart this unit"
)
DATABASE_CREDENTIAL, KEY_CREDENTIAL = "database-url", "command-signing-key"
_AMOUNT = re.compile(r"(\d{1,6})(%?)", re.ASCII)
_BUDGET = re.compile(r"(\S+)\s+((?:max_unavailable|min_available)=\S+(?:\s+(?:max_unavailable|min_available)=\S+)?)")
_WINDOW = re.compile(r"(?:(\S+)\s+)?([a-z,-]+)\s+(\d{2}):(\d{2})\s+(\d{1,3})h\s+(\S+)", re.ASCII)
_DEADLINE = re.compile(r"(\S+)((?:\s+[a-z_]+=\d{1,5})+)", re.ASCII)
_LIMITS = {"down": (60, 3600), "back": (60, 7200), "last_ack": (60, 7200)}
_PORT = re.compile(r"(.+):(\d{1,5})", re.ASCII)
_LONGEST_WINDOW_H = 168


class ConfigError(Exception):
    """The configuration cannot be used; `problems` holds one sentence for each fault."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Listen:
    """Where the API is served: at `host` and `port`, or at the Unix socket `path`; with TLS if it has a certificate.

    `proxies` are the addresses from which X-Forwarded-For is believed.
    """

    host: str = "127.0.0.1"
    port: int = 8480
    path: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    proxies: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        scheme = "https" if self.tls_cert is not None else "http"
        return f"{scheme}://{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The private key, and the id by which the clients know its public half."""

    key_id: str
    file: Path


@dataclass(frozen=True, slots=True)
class Settings:
    """`deadlines` are limits of steps, in seconds, for the clients that a selector means; the last that fits counts."""

    broker: BrokerSettings
    database_url: str
    listen: Listen
    accepts_all: bool
    signing_key: SigningKey | None
    valid_for: timedelta
    limits: Limits
    deadlines: tuple[tuple[Selector, dict[str, float]], ...]
    fleet_cap: int | None
    budgets: tuple[Budget, ...]
    windows: tuple[tuple[Selector, Window], ...]
    keep: timedelta


def is_configured(environment: Mapping[str, str]) -> bool:
    """Whether a broker is set. Without one, a fresh package waits for its settings, and that is no fault."""
    return bool(environment.get("MQTT_BROKER"))


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
        database_url=_secret(reader, environment, "DATABASE_URL", DATABASE_CREDENTIAL)
        or f"sqlite:///{state_directory}/controller.sqlite3",
        listen=_listen(reader),
        accepts_all=_accepts_all(reader),
        signing_key=_signing_key(reader, environment),
        valid_for=_seconds(reader, "COMMAND_VALID_S", timedelta(minutes=4), low=30, high=3600),
        limits=Limits(
            down=_seconds(reader, "DEADLINE_DOWN_S", fleet.down, low=60, high=3600),
            back=_seconds(reader, "DEADLINE_BACK_S", fleet.back, low=60, high=7200),
            last_ack=_seconds(reader, "DEADLINE_LAST_ACK_S", fleet.last_ack, low=60, high=7200),
        ),
        deadlines=_deadlines(reader),
        fleet_cap=reader.number("FLEET_CAP", default=0, low=1, high=1_000_000) or None,
        budgets=_budgets(reader),
        windows=_windows(reader),
        keep=timedelta(days=reader.number("KEEP_DAYS", default=400, low=1, high=36_500)),
    )
    if reader.problems:
        raise ConfigError(reader.problems)
    return settings


def _seconds(reader: Reader, name: str, default: timedelta, low: int, high: int) -> timedelta:
    return timedelta(seconds=reader.number(name, default=int(default.total_seconds()), low=low, high=high))


def _secret(reader: Reader, environment: Mapping[str, str], name: str, credential: str) -> str | None:
    """A variable, or the systemd credential in its place."""
    file = _credential(environment, credential)
    if file is None:
        return reader.text(name)
    if reader.text(name) is not None:
        reader.problems.append(f"{name} and the credential {credential} are both set; keep one")
    try:
        return file.read_text("utf-8").strip()
    except (OSError, UnicodeError) as error:
        reader.problems.append(f"the credential {credential} cannot be read: {type(error).__name__}")
        return None


def _credential(environment: Mapping[str, str], name: str) -> Path | None:
    directory = environment.get("CREDENTIALS_DIRECTORY")
    file = Path(directory, name) if directory else None
    return file if file is not None and file.exists() else None


def _listen(reader: Reader) -> Listen:
    cert, key = reader.file("LISTEN_TLS_CERT"), reader.file("LISTEN_TLS_KEY")
    if (cert is None) != (key is None):
        reader.problems.append("LISTEN_TLS_CERT and LISTEN_TLS_KEY go together; one of them is not set")
    proxies = tuple(part.strip() for part in (reader.text("TRUSTED_PROXIES") or "").split(",") if part.strip())
    for proxy in proxies:
        try:
            ip_network(proxy)
        except ValueError:
            reader.problems.append(f"TRUSTED_PROXIES has {proxy[:80]!r}; allowed are addresses and networks")
    text = reader.text("LISTEN")
    if text is None:
        return Listen(tls_cert=cert, tls_key=key, proxies=proxies)
    if text.startswith("unix:/"):
        if cert is not None:
            reader.problems.append("LISTEN is a Unix socket; it takes no certificate")
        return Listen(path=Path(text.removeprefix("unix:")), proxies=proxies)
    found = _PORT.fullmatch(text)
    if found is None or not 0 < int(found[2]) < 65536:
        reader.problems.append(f"LISTEN is {text[:80]!r}; allowed is as in 127.0.0.1:8480 or unix:/run/x.sock")
        return Listen()
    return Listen(found[1].strip("[]"), int(found[2]), None, cert, key, proxies)


def _signing_key(reader: Reader, environment: Mapping[str, str]) -> SigningKey | None:
    """Its id is the file's name, as on the clients (`command-keys.d/<key id>.pem`), unless it is set."""
    credential = _credential(environment, KEY_CREDENTIAL)
    file, key_id = reader.file("COMMAND_SIGNING_KEY"), reader.text("COMMAND_SIGNING_KEY_ID")
    if credential is not None and file is not None:
        reader.problems.append(f"COMMAND_SIGNING_KEY and the credential {KEY_CREDENTIAL} are both set; keep one")
    if credential is not None and key_id is None:
        reader.problems.append(f"COMMAND_SIGNING_KEY_ID is not set; the credential {KEY_CREDENTIAL} needs it")
    found = credential or file
    if found is None:
        return None
    key_id = key_id or found.stem
    if not is_key_id(key_id):
        reader.problems.append(f"{key_id[:80]!r} is no id of a key; set COMMAND_SIGNING_KEY_ID")
    return SigningKey(key_id, found)


def _deadlines(reader: Reader) -> tuple[tuple[Selector, dict[str, float]], ...]:
    """`site=alpine back=300 last_ack=300; model=pi4 back=240`."""
    found = []
    for entry in _entries(reader, "DEADLINES"):
        try:
            found.append(_deadline(entry))
        except (SelectorError, ValueError) as error:
            reader.problems.append(f"DEADLINES has {entry[:80]!r}; {error}")
    return tuple(found)


def _deadline(entry: str) -> tuple[Selector, dict[str, float]]:
    read = _DEADLINE.fullmatch(entry)
    if read is None:
        raise ValueError("allowed is as in `site=alpine back=300 last_ack=300`")
    limits = {name: int(text) for name, _, text in (part.partition("=") for part in read[2].split())}
    for name, value in limits.items():
        if name not in _LIMITS:
            raise ValueError(f"{name} is no step; allowed are {', '.join(_LIMITS)}")
        low, high = _LIMITS[name]
        if not low <= value <= high:
            raise ValueError(f"{name} takes {low} to {high} s")
    return selection.parse(read[1]), dict(limits)


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
