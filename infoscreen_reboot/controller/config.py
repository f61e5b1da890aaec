"""Reads the controller's settings from the environment, once, and names every fault in them."""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from infoscreen_reboot.contract.signature import is_key_id
from infoscreen_reboot.controller import brake, grants, policies
from infoscreen_reboot.controller.dispatch import Signs
from infoscreen_reboot.controller.grants import Grants
from infoscreen_reboot.controller.lifecycle import Limits
from infoscreen_reboot.controller.notifying import GRACE
from infoscreen_reboot.controller.power.cycle import Pace
from infoscreen_reboot.controller.recovery import Step as RecoveryStep
from infoscreen_reboot.controller.safety import Budget
from infoscreen_reboot.controller.selection import Selector
from infoscreen_reboot.controller.targets import Target
from infoscreen_reboot.controller.targets import parse as parse_targets
from infoscreen_reboot.controller.windows import Window, zone_named
from infoscreen_reboot.mqtt.messages import BrokerSettings
from infoscreen_reboot.mqtt.settings import Reader
from infoscreen_reboot.mqtt.tls import tls_trouble

T = TypeVar("T")
_STATE = Path("/var/lib/infoscreen-reboot-controller")
_NAMES = (
    *("MQTT_BROKER", "MQTT_PORT", "MQTT_USER", "MQTT_PASSWORD_BROKER"),
    *("MQTT_TLS", "MQTT_TLS_CA", "MQTT_TLS_CERT", "MQTT_TLS_KEY", "MQTT_PROTOCOL"),
    *("DATABASE_URL", "LISTEN", "LISTEN_TLS_CERT", "LISTEN_TLS_KEY", "TRUSTED_PROXIES"),
    "TRUSTED_USER_HEADER",
    *("CONSOLE_URL", "OIDC_ISSUER", "OIDC_CLIENT_ID", "OIDC_CLIENT_SECRET", "OIDC_SCOPES", "OIDC_ROLES"),
    *("ACCEPT_CLIENTS", "COMMAND_SIGNING_KEY", "COMMAND_SIGNING_KEY_ID", "COMMAND_VALID_S"),
    *("DEADLINE_DOWN_S", "DEADLINE_BACK_S", "DEADLINE_LAST_ACK_S", "DEADLINES"),
    *("FLEET_CAP", "BUDGETS", "WINDOWS", "FLEET_ZONE", "FREEZE_CALENDAR", "ROLLOUT_MAX_FAILED"),
    *("RECOVERY", "POWER_OFF_S"),
    *("NOTIFY_FILE", "NOTIFY_GRACE_S", "KEEP_DAYS"),
)
_OUR_PREFIXES = (
    *("MQTT_", "DATABASE_", "LISTEN", "TRUSTED_", "ACCEPT_", "COMMAND_", "DEADLINE", "FLEET_", "BUDGET", "WINDOW"),
    *("ROLLOUT_", "RECOVER", "POWER_", "NOTIFY_", "FREEZE_", "KEEP_", "OIDC_", "CONSOLE_"),
)
_OF_SYSTEMD = "NOTIFY_SOCKET"
# LSB's code for "program is not configured". The unit takes it as skipped, not as failed.
EX_NOT_CONFIGURED = 6
NOT_CONFIGURED = (
    "not configured: set MQTT_BROKER in /etc/infoscreen-reboot-controller/controller.env, then restart this unit"
)
DATABASE_CREDENTIAL, KEY_CREDENTIAL = "database-url", "command-signing-key"
NOTIFY_CREDENTIAL, OIDC_CREDENTIAL = "notify", "oidc-client-secret"
NOTIFY_FILE = Path("/etc/infoscreen-reboot-controller/notify.conf")
_MOST_NOTIFY = 64 << 10
_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}", re.ASCII)
_PORT = re.compile(r"(.+):(\d{1,5})", re.ASCII)
# Where a provider sends people back to, at the console.
OIDC_CALLBACK = "/sign-in/oidc/back"
_LONGEST_URL = 200
_MACHINE_ITSELF = "localhost", "127.0.0.1", "::1"


class ConfigError(Exception):
    """The configuration cannot be used; `problems` holds one sentence for each fault."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Listen:
    """Where the API is served: at `host` and `port`, or at the Unix socket `path`; with TLS if it has a certificate.

    `proxies` are the addresses from which X-Forwarded-For is believed. `user_header` is in which a server in front says
    who somebody is; it is believed at a Unix socket only.
    """

    host: str = "127.0.0.1"
    port: int = 8480
    path: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    proxies: tuple[str, ...] = ()
    user_header: str | None = None

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
class Notify:
    """Whom to tell, out of `file`. It has `faults` if some of it cannot be used: the rest is, and clients are rebooted
    whether or not anybody can be told.
    """

    file: Path
    grace: timedelta
    targets: tuple[Target, ...] = ()
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Oidc:
    """An OpenID provider by which people sign in to the console at the address `console`."""

    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    scopes: str
    grants: Grants
    console: str

    @property
    def callback(self) -> str:
        """Where it sends them back to, and nowhere else."""
        return self.console + OIDC_CALLBACK


@dataclass(frozen=True, slots=True)
class Settings:
    """`deadlines` are limits of steps, in seconds, for the clients that a selector means; the last that fits counts.

    In the same way, `recovery` are the steps that are tried for clients that do not come back.
    `fleet_zone` is where clients and sites are that have no zone of their own.
    """

    broker: BrokerSettings
    database_url: str
    listen: Listen
    oidc: Oidc | None
    accepts_all: bool
    signing_key: SigningKey | None
    valid_for: timedelta
    limits: Limits
    deadlines: tuple[tuple[Selector, dict[str, float]], ...]
    fleet_cap: int | None
    budgets: tuple[Budget, ...]
    windows: tuple[tuple[Selector, Window], ...]
    recovery: tuple[tuple[Selector, tuple[RecoveryStep, ...]], ...]
    power_off: timedelta
    keep: timedelta
    fleet_zone: str
    notify: Notify
    freeze_calendar: Path | None
    max_failed: str


def is_configured(environment: Mapping[str, str]) -> bool:
    """Whether a broker is set. Without one, a fresh package waits for its settings, and that is no fault."""
    return bool(environment.get("MQTT_BROKER"))


def unknown_names(environment: Mapping[str, str]) -> list[str]:
    """One sentence for each variable that looks like ours and is not: most likely a typing error."""
    found = []
    for name in sorted(environment):
        if name.startswith(_OUR_PREFIXES) and name not in (*_NAMES, _OF_SYSTEMD):
            close = difflib.get_close_matches(name, _NAMES, n=1)
            advice = f"; did you mean {close[0]}?" if close else ""
            found.append(f"{name} is not a setting of ours and is ignored{advice}")
    return found


def state_directory(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("STATE_DIRECTORY", _STATE))


def backups(environment: Mapping[str, str]) -> Path:
    """Where an SQLite database is copied to before a migration."""
    return state_directory(environment) / "backups"


def load(environment: Mapping[str, str]) -> Settings:
    """Raises ConfigError with all problems at once; no sentence holds a secret."""
    reader = Reader(environment)
    fleet = Limits()
    settings = Settings(
        broker=reader.broker(),
        database_url=_database_url(reader, environment),
        listen=_listen(reader),
        oidc=_oidc(reader, environment),
        accepts_all=_accepts_all(reader),
        signing_key=_signing_key(reader, environment),
        valid_for=_seconds(reader, "COMMAND_VALID_S", timedelta(minutes=4), low=30, high=3600),
        limits=Limits(
            down=_seconds(reader, "DEADLINE_DOWN_S", fleet.down, low=60, high=3600),
            back=_seconds(reader, "DEADLINE_BACK_S", fleet.back, low=60, high=7200),
            last_ack=_seconds(reader, "DEADLINE_LAST_ACK_S", fleet.last_ack, low=60, high=7200),
        ),
        deadlines=_entries(reader, "DEADLINES", policies.deadline),
        fleet_cap=reader.number("FLEET_CAP", default=0, low=1, high=1_000_000) or None,
        budgets=_entries(reader, "BUDGETS", policies.budget),
        windows=_entries(reader, "WINDOWS", policies.window),
        recovery=_entries(reader, "RECOVERY", policies.recovery),
        power_off=_seconds(reader, "POWER_OFF_S", Pace().off_for, low=2, high=60),
        keep=timedelta(days=reader.number("KEEP_DAYS", default=400, low=1, high=36_500)),
        fleet_zone=_zone(reader),
        notify=_notify(reader, environment),
        freeze_calendar=_calendar(reader),
        max_failed=_max_failed(reader),
    )
    if reader.problems:
        raise ConfigError(reader.problems)
    return settings


def database_url(environment: Mapping[str, str]) -> str:
    """All that is needed to switch ports on again, whatever is wrong with the other settings. Raises ConfigError."""
    reader = Reader(environment)
    found = _database_url(reader, environment)
    if reader.problems:
        raise ConfigError(reader.problems)
    return found


def _database_url(reader: Reader, environment: Mapping[str, str]) -> str:
    default = f"sqlite:///{state_directory(environment)}/controller.sqlite3"
    return _secret(reader, environment, "DATABASE_URL", DATABASE_CREDENTIAL) or default


def credentials(environment: Mapping[str, str]) -> Path | None:
    """The folder of systemd's credentials, in which the profiles of SNMP are, too."""
    folder = environment.get("CREDENTIALS_DIRECTORY")
    return Path(folder) if folder else None


def signer_of(settings: Settings) -> Signs | None:
    """None if commands are not signed. Raises ConfigError."""
    key = settings.signing_key
    if key is None:
        return None
    from infoscreen_reboot.signing import Signer  # loaded only where commands are signed

    try:
        return Signer(key.key_id, key.file)
    except (OSError, ValueError) as error:
        raise ConfigError([f"COMMAND_SIGNING_KEY: {error}"]) from None


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
    directory = credentials(environment)
    file = directory / name if directory else None
    return file if file is not None and file.exists() else None


def _listen(reader: Reader) -> Listen:
    cert, key = reader.file("LISTEN_TLS_CERT"), reader.file("LISTEN_TLS_KEY")
    if (cert is None) != (key is None):
        reader.problems.append("LISTEN_TLS_CERT and LISTEN_TLS_KEY go together; one of them is not set")
    elif cert is not None and key is not None and not reader.problems:
        try:
            # A password, because OpenSSL would ask for one on the terminal.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
        except ssl.SSLError as error:
            reader.problems.append(f"LISTEN_TLS_CERT: cannot use {cert} with the key in {key}: {tls_trouble(error)}")
    proxies = tuple(part.strip() for part in (reader.text("TRUSTED_PROXIES") or "").split(",") if part.strip())
    for proxy in proxies:
        try:
            ip_network(proxy)
        except ValueError:
            reader.problems.append(f"TRUSTED_PROXIES has {proxy[:80]!r}; allowed are addresses and networks")
    text = reader.text("LISTEN")
    header = _user_header(reader, text)
    if text is None:
        return Listen(tls_cert=cert, tls_key=key, proxies=proxies)
    if text.startswith("unix:/"):
        if cert is not None:
            reader.problems.append("LISTEN is a Unix socket; it takes no certificate")
        return Listen(path=Path(text.removeprefix("unix:")), proxies=proxies, user_header=header)
    found = _PORT.fullmatch(text)
    if found is None or not 0 < int(found[2]) < 65536:
        reader.problems.append(f"LISTEN is {text[:80]!r}; allowed is as in 127.0.0.1:8480 or unix:/run/x.sock")
        return Listen()
    return Listen(found[1].strip("[]"), int(found[2]), None, cert, key, proxies)


def _user_header(reader: Reader, listen: str | None) -> str | None:
    """Whoever reaches the socket can call himself anybody: so it has to lie where not everybody gets."""
    header = reader.text("TRUSTED_USER_HEADER")
    if header is None:
        return None
    if not _HEADER.fullmatch(header):
        reader.problems.append(f"TRUSTED_USER_HEADER is {header[:80]!r}; allowed is as in X-Forwarded-User")
    if listen is None or not listen.startswith("unix:/"):
        reader.problems.append(
            "TRUSTED_USER_HEADER is believed at a Unix socket only; set LISTEN, as in unix:/run/x/api.sock"
        )
        return None
    folder = Path(listen.removeprefix("unix:")).parent
    if folder.exists() and folder.stat().st_mode & 0o001:
        reader.problems.append(f"TRUSTED_USER_HEADER is set, but everybody may enter {folder}; chmod o-rwx {folder}")
    return header


def is_private(url: str) -> bool:
    """Whether nobody can listen on the way to it: by TLS, or on this machine."""
    try:
        parts = urlsplit(url)
        is_local = parts.hostname in _MACHINE_ITSELF
        return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and is_local))
    except ValueError:
        return False


def _oidc(reader: Reader, environment: Mapping[str, str]) -> Oidc | None:
    issuer, client_id = reader.text("OIDC_ISSUER"), reader.text("OIDC_CLIENT_ID")
    secret = _secret(reader, environment, "OIDC_CLIENT_SECRET", OIDC_CREDENTIAL)
    console, roles = reader.text("CONSOLE_URL"), reader.text("OIDC_ROLES")
    if issuer is None:
        return None
    needed = {
        "OIDC_CLIENT_ID": client_id,
        "OIDC_CLIENT_SECRET": secret,
        "OIDC_ROLES": roles,
        "CONSOLE_URL": console,
    }
    missing = [name for name, value in needed.items() if not value]
    if missing:
        reader.problems.append(f"OIDC_ISSUER is set, and needs {', '.join(missing)}")
    for name, url in (("OIDC_ISSUER", issuer), ("CONSOLE_URL", console)):
        if url is not None and (len(url) > _LONGEST_URL or not is_private(url)):
            reader.problems.append(f"{name} is {url[:80]!r}; allowed is as in https://screens.example")
    scopes = reader.text("OIDC_SCOPES") or "openid profile email"
    if "openid" not in scopes.split():
        reader.problems.append(f"OIDC_SCOPES is {scopes[:80]!r}; openid has to be among them")
    if importlib.util.find_spec("authlib") is None:
        reader.problems.append("OIDC_ISSUER is set, and needs authlib: apt install python3-authlib")
    try:
        found = grants.parse(roles or "")
    except ValueError as error:
        if roles:
            reader.problems.append(f"OIDC_ROLES is {roles[:80]!r}; {error}")
        return None
    return Oidc(issuer, client_id or "", secret or "", scopes, found, (console or "").rstrip("/"))


def _signing_key(reader: Reader, environment: Mapping[str, str]) -> SigningKey | None:
    """Its id is the file's name, as on the clients (`command-keys.d/<key id>.pem`), unless it is set."""
    credential = _credential(environment, KEY_CREDENTIAL)
    file, key_id = reader.file("COMMAND_SIGNING_KEY"), reader.text("COMMAND_SIGNING_KEY_ID")
    if (credential or file) and reader.text("MQTT_PROTOCOL") == "3.1.1":
        reader.problems.append("a signing key is set, but MQTT_PROTOCOL is 3.1.1, in which no signature can be sent")
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


def _calendar(reader: Reader) -> Path | None:
    """That it cannot be read now is no fault of the settings: the last good one counts then."""
    text = reader.text("FREEZE_CALENDAR")
    if text is not None and not text.startswith("/"):
        reader.problems.append(f"FREEZE_CALENDAR is {text[:80]!r}; allowed is the path of a file, from / on")
    return None if text is None else Path(text)


def _notify(reader: Reader, environment: Mapping[str, str]) -> Notify:
    grace = _seconds(reader, "NOTIFY_GRACE_S", GRACE, low=5, high=3600)
    text, credential = reader.text("NOTIFY_FILE"), _credential(environment, NOTIFY_CREDENTIAL)
    if text is not None and credential is not None:
        reader.problems.append(f"NOTIFY_FILE and the credential {NOTIFY_CREDENTIAL} are both set; keep one")
    file = credential or (NOTIFY_FILE if text is None else Path(text))
    try:
        with file.open("rb") as opened:
            status = os.fstat(opened.fileno())
            content = opened.read(_MOST_NOTIFY).decode("utf-8")
    except FileNotFoundError:
        # The default file need not be there, also where somebody has written its name down.
        return Notify(file, grace, faults=() if file == NOTIFY_FILE else (f"there is no {file}",))
    except OSError as error:
        advice = "give it the group infoscreen-controller and the mode 640"
        return Notify(file, grace, faults=(f"{file} cannot be read: {error.strerror}; {advice}",))
    except UnicodeDecodeError:
        return Notify(file, grace, faults=(f"{file} is no text in UTF-8",))
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
        return Notify(
            file, grace, faults=(f"{file} is not used: others than root may write it; chmod 640, chown root",)
        )
    targets, faults = parse_targets(content)
    found = [f"{file}: {fault}" for fault in faults]
    if status.st_mode & 0o004:
        found.append(f"{file} holds secrets, and everybody may read it; chmod 640")
    return Notify(file, grace, targets, tuple(found))


def _accepts_all(reader: Reader) -> bool:
    text = reader.text("ACCEPT_CLIENTS") or "ask"
    if text not in ("ask", "auto"):
        reader.problems.append(f"ACCEPT_CLIENTS is {text!r}; allowed are ask and auto")
    return text == "auto"


def _zone(reader: Reader) -> str:
    name = reader.text("FLEET_ZONE") or "UTC"
    try:
        return zone_named(name).key
    except ValueError as error:
        reader.problems.append(f"FLEET_ZONE: {error}; allowed is as in Europe/Berlin")
        return "UTC"


def _max_failed(reader: Reader) -> str:
    text = reader.text("ROLLOUT_MAX_FAILED") or brake.MAX_FAILED
    try:
        brake.read_threshold(text)
    except ValueError as error:
        reader.problems.append(f"ROLLOUT_MAX_FAILED: {error}")
    return text.strip()


def _entries(reader: Reader, name: str, read: Callable[[str], T]) -> tuple[T, ...]:
    found = []
    for entry in (reader.text(name) or "").split(";"):
        if text := entry.strip():
            try:
                found.append(read(text))
            except ValueError as error:
                reader.problems.append(f"{name} has {text[:80]!r}; {error}")
    return tuple(found)
