"""The list of clients as a file: read from CSV or Ansible's inventory, compared with what is known, written as CSV."""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from infoscreen_reboot.contract import wire
from infoscreen_reboot.controller import text
from infoscreen_reboot.controller.safety import Standing

MOST_ROWS = 20_000
_COLUMNS = ("uuid", "name", "note", "standing")
_LABEL = "label:"
# What Ansible knows of a host under this name is its UUID; each of its groups becomes a label.
ANSIBLE_UUID = "infoscreen_client_uuid"
ANSIBLE_LABEL = "group/"
_NO_GROUPS = ("all", "ungrouped", "_meta")
# A spreadsheet takes a cell that begins so for a formula: an apostrophe before it is taken off again when it is read.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")


class InventoryError(ValueError):
    """The whole file cannot be read. The sentence is for whoever has sent it."""


class Outcome(StrEnum):
    CREATED = "created"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Entry:
    """What one row says of a client. What stands neither in `columns` nor in `labels` stays as it is; None removes."""

    line: int
    uuid: str
    columns: Mapping[str, str | None] = field(default_factory=dict)
    labels: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Known:
    """A client as it is."""

    standing: Standing
    name: str | None = None
    note: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """What comes of an entry; `why` is for a person, and only where it is refused."""

    line: int
    uuid: str
    name: str | None
    outcome: Outcome
    why: str | None = None


def read_csv(content: bytes) -> list[Entry]:
    """The first line names the columns: `uuid`, and any of `name`, `note`, `standing`, `label:KEY`."""
    return [_entry(line, said) for line, said in read_rows(content, _check_header)]


def read_rows(content: bytes, check_header: Callable[[Sequence[str]], None]) -> list[tuple[int, dict[str, str]]]:
    """The line in which each row begins, and its cells by the names in the first line. Raises InventoryError."""
    try:
        whole = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InventoryError("the file is not UTF-8") from None
    first = whole.partition("\n")[0]
    # Spreadsheets in many countries separate with semicolons.
    delimiter = ";" if ";" in first and "," not in first else ","
    reader = csv.reader(io.StringIO(whole, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        check_header(header)
        rows: list[tuple[int, dict[str, str]]] = []
        begins_at = reader.line_num + 1
        for cells in reader:
            if cells:
                rows.append((begins_at, _by_name(begins_at, header, cells)))
            begins_at = reader.line_num + 1
            check_size(rows)
    except csv.Error as error:
        raise InventoryError(f"line {reader.line_num}: {error}") from None
    return rows


def _by_name(line: int, header: Sequence[str], cells: Sequence[str]) -> dict[str, str]:
    if len(cells) != len(header):
        raise InventoryError(f"line {line} has {len(cells)} cells, and the first line {len(header)}")
    return {name: _unguarded(cell) for name, cell in zip(header, cells, strict=True)}


def _check_header(header: Sequence[str]) -> None:
    if "uuid" not in header:
        raise InventoryError("the first line has to name the columns, and one of them is uuid")
    for name, count in Counter(header).items():
        key = name.removeprefix(_LABEL) if name.startswith(_LABEL) else None
        fault = text.fault_of_label(key, None) if key is not None else None
        if fault is not None:
            raise InventoryError(fault)
        if key is None and name not in _COLUMNS:
            raise InventoryError(f"{name[:64]!r} is no column; known are {', '.join(_COLUMNS)} and {_LABEL}KEY")
        if count > 1:
            raise InventoryError(f"the column {name} is there more than once")


def _entry(line: int, said: Mapping[str, str]) -> Entry:
    columns = {name: said[name] or None for name in _COLUMNS[1:] if name in said}
    if columns.get("standing", "") is None:
        del columns["standing"]
    if columns.get("note"):
        columns["note"] = str(columns["note"]).replace("\r\n", "\n")
    labels = {name.removeprefix(_LABEL): cell or None for name, cell in said.items() if name.startswith(_LABEL)}
    return Entry(line, said["uuid"].strip().lower(), columns, labels)


def read_ansible(content: Any) -> list[Entry]:
    """What `ansible-inventory --list` prints: a client's name is that of its host, each of its groups is a label."""
    hosts = ansible_hosts(content)
    groups = {name: _hosts_of(content, name) for name in content if name not in _NO_GROUPS}
    entries: list[Entry] = []
    for number, (host, variables) in enumerate(hosts.items(), 1):
        uuid = variables.get(ANSIBLE_UUID) if isinstance(variables, dict) else None
        if uuid is None:
            continue
        labels = {f"{ANSIBLE_LABEL}{name}": "yes" if host in of else None for name, of in groups.items()}
        entries.append(Entry(number, str(uuid).lower(), {"name": host}, labels))
        check_size(entries)
    if not entries:
        raise InventoryError(f"no host has the variable {ANSIBLE_UUID}")
    return entries


def ansible_hosts(content: Any) -> Mapping[str, Any]:
    """The variables of each host, by its name. Raises InventoryError."""
    meta = content.get("_meta") if isinstance(content, dict) else None
    hosts = meta.get("hostvars") if isinstance(meta, dict) else None
    if not isinstance(hosts, dict):
        raise InventoryError("this is not what `ansible-inventory --list` prints: there is no _meta.hostvars")
    return hosts


def _hosts_of(content: Mapping[str, Any], name: str) -> set[str]:
    """The hosts of a group and of the groups in it. Each is looked at once: a group may name itself."""
    found: set[str] = set()
    seen: set[str] = set()
    todo = [name]
    while todo:
        group = todo.pop()
        if group in seen:
            continue
        seen.add(group)
        members = content.get(group)
        if not isinstance(members, dict):
            continue
        found |= {host for host in _names(members, "hosts")}
        todo += _names(members, "children")
    return found


def _names(group: Mapping[str, Any], kind: str) -> list[str]:
    listed = group.get(kind, [])
    return [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []


def check_size(entries: Sequence[object]) -> None:
    """Raises InventoryError."""
    if len(entries) > MOST_ROWS:
        raise InventoryError(f"there are more than {MOST_ROWS} rows")


def plan(entries: Sequence[Entry], known: Mapping[str, Known]) -> list[Row]:
    """What would come of each entry. If one is refused, none may be applied."""
    times = Counter(entry.uuid for entry in entries)
    bearers = _bearers(entries, known)
    rows = []
    for entry in entries:
        before = known.get(entry.uuid)
        name = entry.columns.get("name", before.name if before else None)
        why = _fault(entry)
        if why is None and times[entry.uuid] > 1:
            why = "this UUID is in the file more than once"
        if why is None and name is not None and entry.uuid in bearers.get(name, ()) and len(bearers[name]) > 1:
            why = f"{name!r} would be the name of {len(bearers[name])} clients"
        outcome = Outcome.REFUSED if why is not None else _outcome(entry, before)
        rows.append(Row(entry.line, entry.uuid[:64], name, outcome, why))
    return rows


def _bearers(entries: Sequence[Entry], known: Mapping[str, Known]) -> dict[str, set[str]]:
    """Who would have each name afterwards; a retired client has none that another one may not have."""
    names = {uuid: (client.name, client.standing) for uuid, client in known.items()}
    for entry in entries:
        name, standing = names.get(entry.uuid, (None, Standing.ACCEPTED))
        names[entry.uuid] = entry.columns.get("name", name), _standing(entry) or standing
    found: dict[str, set[str]] = {}
    for uuid, (name, standing) in names.items():
        if name is not None and standing is not Standing.RETIRED:
            found.setdefault(name, set()).add(uuid)
    return found


def _standing(entry: Entry) -> Standing | None:
    said = entry.columns.get("standing")
    return Standing(said) if said in list(Standing) else None


def _fault(entry: Entry) -> str | None:
    if not wire.is_uuid(entry.uuid):
        return "this is no UUID"
    name, note, standing = entry.columns.get("name"), entry.columns.get("note"), entry.columns.get("standing")
    if standing is not None and standing not in list(Standing):
        return f"{standing[:32]!r} is no standing; known are {', '.join(Standing)}"
    faults = [text.fault_of_name(name) if name is not None else None]
    faults.append(text.fault_of_note(note) if note is not None else None)
    faults += [text.fault_of_label(key, value) for key, value in entry.labels.items()]
    return next((fault for fault in faults if fault is not None), None)


def _outcome(entry: Entry, before: Known | None) -> Outcome:
    if before is None:
        return Outcome.CREATED
    is_same = all(getattr(before, name) == value for name, value in entry.columns.items())
    is_same = is_same and all(before.labels.get(key) == value for key, value in entry.labels.items())
    return Outcome.UNCHANGED if is_same else Outcome.CHANGED


def write_csv(clients: Iterable[tuple[str, Known]]) -> str:
    """What `read_csv` reads: no cell of it is a formula."""
    listed = list(clients)
    keys = sorted({key for _, client in listed for key in client.labels})
    target = io.StringIO(newline="")
    writer = csv.writer(target)
    writer.writerow([*_COLUMNS, *(f"{_LABEL}{key}" for key in keys)])
    for uuid, client in listed:
        cells = [uuid, client.name, client.note, str(client.standing), *(client.labels.get(key) for key in keys)]
        writer.writerow([guarded(cell or "") for cell in cells])
    return target.getvalue()


def guarded(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if _FORMULA.match(cell) else cell


def _unguarded(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
