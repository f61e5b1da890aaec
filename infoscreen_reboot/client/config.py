"""Reads the agent's settings from the environment, once, and names every fault in them."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infoscreen_reboot.client import kernel, lasting
from infoscreen_reboot.contract import wire
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.contract.telemetry import Executor
from infoscreen_reboot.mqtt.messages import BrokerSettings
from infoscreen_reboot.mqtt.settings import Reader

# LSB's code for "program is not configured". The units take it as skipped, not as failed.
EX_NOT_CONFIGURED = 6
NOT_CONFIGURED = "not configured: set MQTT_BROKER in /etc/infoscreen-reboot/agent.env, then restart this unit"
COMMAND_KEYS_DIRECTORY = Path("/etc/infoscreen-reboot/command-keys.d")
POST_BOOT_DIRECTORY = Path("/etc/infoscreen-reboot/post-boot.d")
# The time starts when the helper has finished with a command. A helper that died may have asked logind just before, and
# would have waited 10 s for the answer. Then logind waits 5 s for us, and we may not hear its announcement.
LEAST_EXECUTION_TIMEOUT_S = 15
_MACHINE_ID = Path("/etc/machine-id")
_NAMES = (
    "MQTT_BROKER",
    "MQTT_PORT",
    "MQTT_USER",
    "MQTT_PASSWORD_BROKER",
    "MQTT_TLS",
    "MQTT_TLS_CA",
    "MQTT_TLS_CERT",
    "MQTT_TLS_KEY",
    "MQTT_PROTOCOL",
    "CLIENT_UUID",
    "CLIENT_UUID_FILE",
    "COMMAND_SHUTDOWN_ENABLED",
    "COMMAND_COMPAT_TOPICS",
    "COMMAND_REQUIRE_SYNCED_CLOCK",
    "COMMAND_CLOCK_TIMEOUT_S",
    "COMMAND_EXECUTION_TIMEOUT_S",
    "COMMAND_REQUIRE_SIGNATURE",
    "COMMAND_EXECUTOR",
    "COMMAND_MOCK_REBOOT_IMMEDIATE_COMPLETE",
    "POST_BOOT_UNITS",
    "POST_BOOT_COMMAND",
    "POST_BOOT_TIMEOUT_S",
)
_OUR_PREFIXES = ("MQTT_", "CLIENT_UUID", "COMMAND_", "POST_BOOT_")
# systemd.unit(5): the characters that may be in a name, and the types of unit.
_UNIT = re.compile(
    r"[A-Za-z0-9:_.\\-]+(?:@[A-Za-z0-9:_.\\-]+)?"
    r"\.(?:automount|device|mount|path|scope|service|slice|socket|swap|target|timer)"
)
_LONGEST_NAME = 255  # of a file, and of a unit
_PROGRAM = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


class ConfigError(Exception):
    """The configuration cannot be used; `problems` holds one sentence for each fault."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Settings:
    """The agent's settings. Times are in seconds."""

    broker: BrokerSettings
    client_uuid: str
    offered: frozenset[Action]
    compat_topics: bool
    require_synced_clock: bool
    clock_timeout_s: float
    execution_timeout_s: float
    require_signature: bool
    executor: Executor
    mocks_reboots: bool
    post_boot_units: tuple[str, ...]
    post_boot_command: str | None
    post_boot_timeout_s: float

    @property
    def post_boot_checks(self) -> tuple[str, ...]:
        """The names of what is checked after a boot."""
        command = (self.post_boot_command,) if self.post_boot_command else ()
        return tuple(dict.fromkeys((*self.post_boot_units, *command)))


def is_configured(environment: Mapping[str, str]) -> bool:
    """Whether a broker is set. Without one, a fresh package waits for its settings, and that is no fault."""
    return bool(environment.get("MQTT_BROKER"))


def unknown_names(environment: Mapping[str, str]) -> list[str]:
    """One sentence for each variable that looks like ours and is not: most likely a typing error.

    These are warnings, not errors: an agent that was downgraded must stay reachable with a newer drop-in.
    """
    return [
        f"{name} is not a setting of ours and is ignored" + _did_you_mean(name)
        for name in sorted(environment)
        if name.startswith(_OUR_PREFIXES) and name not in _NAMES
    ]


def _did_you_mean(name: str) -> str:
    close = difflib.get_close_matches(name, _NAMES, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def load(environment: Mapping[str, str], keys: Path = COMMAND_KEYS_DIRECTORY) -> Settings:
    """Read the settings; `keys` is the folder of the keys that may sign commands.

    Raises ConfigError with all problems at once; no sentence holds a secret.
    """
    reader = _Reader(environment)
    settings = Settings(
        broker=reader.broker(),
        client_uuid=reader.client_uuid(),
        offered=frozenset(Action) if reader.flag("COMMAND_SHUTDOWN_ENABLED") else frozenset({Action.REBOOT_HOST}),
        compat_topics=reader.flag("COMMAND_COMPAT_TOPICS"),
        require_synced_clock=reader.flag("COMMAND_REQUIRE_SYNCED_CLOCK"),
        clock_timeout_s=reader.number("COMMAND_CLOCK_TIMEOUT_S", default=60, low=1, high=60),
        execution_timeout_s=reader.number(
            "COMMAND_EXECUTION_TIMEOUT_S", default=60, low=LEAST_EXECUTION_TIMEOUT_S, high=600
        ),
        require_signature=reader.requires_signature(keys),
        executor=reader.executor(),
        mocks_reboots=reader.mocks_reboots(),
        post_boot_units=reader.units("POST_BOOT_UNITS"),
        post_boot_command=reader.program("POST_BOOT_COMMAND"),
        post_boot_timeout_s=reader.number("POST_BOOT_TIMEOUT_S", default=150, low=10, high=600),
    )
    if reader.problems:
        raise ConfigError(reader.problems)
    return settings


def load_address(environment: Mapping[str, str]) -> tuple[BrokerSettings, str]:
    """The broker and the client's UUID, whatever the other settings are. Raises ConfigError with all problems."""
    reader = _Reader(environment)
    address = reader.broker(), reader.client_uuid()
    if reader.problems:
        raise ConfigError(reader.problems)
    return address


class _Reader(Reader):
    """Reads what only a client has."""

    def client_uuid(self) -> str:
        text, path = self.text("CLIENT_UUID"), self.text("CLIENT_UUID_FILE")
        if text is not None and path is not None:
            self.problems.append("CLIENT_UUID and CLIENT_UUID_FILE are both set; keep one")
        name = "CLIENT_UUID"
        try:
            if text is None and path is not None:
                name = f"CLIENT_UUID_FILE ({path})"
                text = Path(path).read_text("utf-8").strip()
            elif text is None:
                name = str(_MACHINE_ID)
                text = kernel.client_uuid_of_machine(_MACHINE_ID.read_text("ascii").strip())
                if why := lasting.machine_id_fault(_MACHINE_ID):
                    self.problems.append(f"{name}: {why}; set CLIENT_UUID, or this client has another name each time")
        except (OSError, ValueError) as error:
            self.problems.append(f"{name} gives no client UUID: {error}")
            return ""
        if not wire.is_uuid(text):
            self.problems.append(f"{name} is {text[:64]!r}; allowed is a UUID as 9b8d1856-ff34-4864-a726-12de072d0f77")
        return text.lower()

    def requires_signature(self, keys: Path) -> bool:
        name = "COMMAND_REQUIRE_SIGNATURE"
        required = self.flag(name, default=False)
        if required and self.text("MQTT_PROTOCOL") == "3.1.1":
            self.problems.append(f"{name} is on, but MQTT_PROTOCOL is 3.1.1, in which no signature can be sent")
        if required:
            try:
                from infoscreen_reboot.signing import KeyRing  # loaded only where signatures are required
            except ImportError:
                self.problems.append(f"{name} is on, but python3-cryptography is not there; install that package")
            else:
                self.problems += [f"{name} is on, but {fault}" for fault in KeyRing(keys).faults()]
        return required

    def executor(self) -> Executor:
        text = self.text("COMMAND_EXECUTOR") or Executor.HELPER
        if text not in tuple(Executor):
            self.problems.append(f"COMMAND_EXECUTOR is {text!r}; allowed are {' and '.join(Executor)}")
            return Executor.HELPER
        return Executor(text)

    def mocks_reboots(self) -> bool:
        name = "COMMAND_MOCK_REBOOT_IMMEDIATE_COMPLETE"
        wanted = self.flag(name, default=False)
        if wanted and self.text("COMMAND_EXECUTOR") != Executor.MOCK:
            self.problems.append(
                f"{name} is on, but COMMAND_EXECUTOR is not mock: this agent would call a reboot done that never was; "
                "switch it off, or set COMMAND_EXECUTOR=mock on a canary that shall never go down"
            )
        return wanted

    def units(self, name: str) -> tuple[str, ...]:
        units = tuple(dict.fromkeys((self.text(name) or "").split()))
        self.problems += [
            f"{name} holds {unit[:64]!r}; allowed are names of systemd units as player.service, separated by spaces"
            for unit in units
            if not _UNIT.fullmatch(unit) or len(unit) > _LONGEST_NAME
        ]
        return units

    def program(self, name: str) -> str | None:
        text = self.text(name)
        if text is not None and (not _PROGRAM.fullmatch(text) or len(text) > _LONGEST_NAME):
            self.problems.append(f"{name} is {text[:64]!r}; allowed is the name of a file in {POST_BOOT_DIRECTORY}")
        return text
