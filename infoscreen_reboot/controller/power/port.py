"""The port that feeds a client: what an inventory says of it, and what is wrong with that."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv6Address
from typing import Any

from infoscreen_reboot.contract import wire
from infoscreen_reboot.controller import text
from infoscreen_reboot.controller.inventory import (
    ANSIBLE_UUID,
    InventoryError,
    Outcome,
    Row,
    ansible_hosts,
    check_size,
    read_rows,
)

COLUMNS = ("client", "switch", "address", "port", "profile", "backend")
_NEEDED = ("client", "switch", "port")
ANSIBLE = "infoscreen_power_"
# Of SNMP.
_USUAL_PORT = 161
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", re.ASCII)
_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:]+))(?::(\d{1,5}))?", re.ASCII)
_GROUP_AND_INDEX = re.compile(r"(?:(\d{1,9})\.)?(\d{1,9})", re.ASCII)
# Also the name of a file: no slash, and no dot in front.
FILE_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?", re.ASCII)
_OUTLET = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._:/-]{0,62}[A-Za-z0-9])?", re.ASCII)


class Backend(StrEnum):
    """What switches it: SNMP, an executable of the administrator, or nothing, to try things out."""

    SNMP = "snmp"
    HOOK = "hook"
    DRY_RUN = "dry-run"


class PowerError(Exception):
    """A port cannot be read or switched. The sentence is for an operator, and holds no secret."""


@dataclass(frozen=True, slots=True)
class Port:
    """`port` is an index as in `7` or `1.7` (group and index of RFC 3621), or what a hook knows it by.

    `profile` names the settings of SNMP, or the hook. `address` is that of the switch: `10.0.0.2`, `[::1]:1161`.
    """

    switch: str
    port: str
    address: str | None = None
    profile: str | None = None
    backend: Backend = Backend.SNMP

    @property
    def device(self) -> str:
        """What is switched one port at a time: one switch, whatever two lists call it."""
        return (self.address or self.switch).lower()

    @property
    def index(self) -> str:
        """`1.7` of RFC 3621; a port without a group is in the first."""
        found = _GROUP_AND_INDEX.fullmatch(self.port)
        if found is None:
            raise ValueError(f"{self.port!r} is no port of RFC 3621")
        return f"{int(found[1] or 1)}.{int(found[2])}"

    @property
    def place(self) -> str:
        """Where it is, the same for one port whatever way it is written."""
        return f"{self.device} {self.index if self.backend is Backend.SNMP else self.port}"

    def __str__(self) -> str:
        return f"port {self.port} of {self.switch}"


@dataclass(frozen=True, slots=True)
class Reading:
    """How a port is. `delivers` is None if nothing can tell whether something at the other end takes power."""

    is_on: bool
    delivers: bool | None
    words: str


@dataclass(frozen=True, slots=True)
class Entry:
    """What one row says; `client` is a UUID or a name."""

    line: int
    client: str
    port: Port | None
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """Clients by their UUID, each with its name, and the ports that are known, by UUID."""

    names: Mapping[str, str | None]
    ports: Mapping[str, Port]


def target(address: str) -> str:
    """As net-snmp wants it: `udp:core:161`, `udp6:[::1]:161`. Raises ValueError."""
    found = _ADDRESS.fullmatch(address)
    number = int(found[3] or _USUAL_PORT) if found else 0
    if found is None or not 0 < number < 65536:
        raise ValueError("an address is as in 10.0.0.2, switch.example, 10.0.0.2:1161 or [2001:db8::2]")
    if found[1] is not None:
        return f"udp6:[{IPv6Address(found[1])}]:{number}"
    if not _HOST.fullmatch(found[2]):
        raise ValueError(f"{found[2][:64]!r} is no host")
    return f"udp:{found[2]}:{number}"


def fault(port: Port) -> str | None:
    """Why this cannot be a port; None if it can."""
    if (
        not 0 < len(port.switch) <= 128
        or port.switch != port.switch.strip()
        or not text.is_clean(port.switch, text.LINE)
    ):
        return "switch: a name has 1 to 128 characters, none of them a control character"
    if port.address is not None:
        try:
            target(port.address)
        except ValueError as error:
            return f"address: {error}"
    if port.backend is Backend.SNMP and port.address is None:
        return "address: SNMP needs the address of the switch"
    if port.backend is Backend.SNMP and not _GROUP_AND_INDEX.fullmatch(port.port):
        return "port: an index as in 7, or group and index as in 1.7"
    if not _OUTLET.fullmatch(port.port):
        return "port: 1 to 64 letters, digits, blanks and . _ : / -"
    if port.backend is not Backend.DRY_RUN and port.profile is None:
        what = "of the SNMP settings" if port.backend is Backend.SNMP else "of the hook"
        return f"profile: the name {what} is missing"
    if port.profile is not None and not FILE_NAME.fullmatch(port.profile):
        return "profile: 1 to 64 letters, digits and . _ -"
    return None


def read_csv(content: bytes) -> list[Entry]:
    """Columns `client`, `switch`, `port`, and any of `address`, `profile`, `backend`. Raises InventoryError."""
    return [_entry(line, said) for line, said in read_rows(content, _check_header)]


def _check_header(header: Sequence[str]) -> None:
    unknown = [name for name in header if name not in COLUMNS]
    if unknown:
        raise InventoryError(f"{unknown[0][:64]!r} is no column; known are {', '.join(COLUMNS)}")
    for name in COLUMNS:
        if header.count(name) > 1:
            raise InventoryError(f"the column {name} is there more than once")
        if name in _NEEDED and name not in header:
            raise InventoryError(f"the first line has to name the columns, and one of them is {name}")


def read_ansible(content: Any) -> list[Entry]:
    """What `ansible-inventory --list` prints: hosts with the variables `infoscreen_power_switch` and so on.

    The client is `infoscreen_client_uuid`. A host without a switch is left out. Raises InventoryError.
    """
    entries: list[Entry] = []
    for number, (host, variables) in enumerate(ansible_hosts(content).items(), 1):
        if not isinstance(variables, dict) or f"{ANSIBLE}switch" not in variables:
            continue
        said = {name: _word(variables.get(f"{ANSIBLE}{name}")) for name in COLUMNS[1:]}
        entries.append(_entry(number, {"client": _word(variables.get(ANSIBLE_UUID, host)), **said}))
        check_size(entries)
    if not entries:
        raise InventoryError(f"no host has the variable {ANSIBLE}switch")
    return entries


def _word(value: Any) -> str:
    """YAML makes a number of `port: 7`; `1.10` it makes 1.1, so that one has to be in quotes."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if isinstance(value, str) else str(value) if is_number else ""


def _entry(line: int, said: Mapping[str, str]) -> Entry:
    words = {name: said.get(name, "").strip() for name in COLUMNS}
    client, backend = words["client"], words["backend"] or Backend.SNMP
    if wire.is_uuid(client.lower()):
        client = client.lower()
    if backend not in list(Backend):
        return Entry(line, client, None, f"backend: {backend[:32]!r} is none; known are {', '.join(Backend)}")
    port = Port(words["switch"], words["port"], words["address"] or None, words["profile"] or None, Backend(backend))
    return Entry(line, client, port, fault(port))


def plan(entries: Sequence[Entry], known: Known) -> list[Row]:
    """What would come of each entry. If one is refused, none may be applied."""
    by_name: dict[str, list[str]] = {}
    for uuid, name in known.names.items():
        by_name.setdefault(name or "", []).append(uuid)
    uuids = [_uuids(entry.client, known.names, by_name) for entry in entries]
    named = [found[0] for found in uuids if len(found) == 1]
    feeds = _feeds(zip(entries, uuids, strict=True), known.ports)
    rows = []
    for entry, found in zip(entries, uuids, strict=True):
        why = entry.fault
        if why is None and len(found) != 1:
            why = "there is no such client" if not found else f"{len(found)} clients have this name"
        if why is None and named.count(found[0]) > 1:
            why = "this client is in the file more than once"
        if why is None and entry.port is not None and len(feeds[entry.port.place]) > 1:
            why = f"{entry.port} would feed {len(feeds[entry.port.place])} clients"
        uuid = found[0] if len(found) == 1 else entry.client
        outcome = Outcome.REFUSED if why is not None else _outcome(entry.port, known.ports.get(uuid))
        rows.append(Row(entry.line, uuid[:64], known.names.get(uuid), outcome, why))
    return rows


def _uuids(client: str, names: Mapping[str, str | None], by_name: Mapping[str, list[str]]) -> list[str]:
    if client in names:
        return [client]
    return by_name.get(client, []) if client else []


def _feeds(found: Iterable[tuple[Entry, list[str]]], before: Mapping[str, Port]) -> dict[str, set[str]]:
    """Whom each place would feed afterwards."""
    ports = dict(before)
    for entry, uuids in found:
        if len(uuids) == 1 and entry.port is not None and entry.fault is None:
            ports[uuids[0]] = entry.port
    feeds: dict[str, set[str]] = {}
    for uuid, port in ports.items():
        feeds.setdefault(port.place, set()).add(uuid)
    return feeds


def _outcome(port: Port | None, before: Port | None) -> Outcome:
    if before is None:
        return Outcome.CREATED
    return Outcome.UNCHANGED if port == before else Outcome.CHANGED
