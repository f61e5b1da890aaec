"""The list of clients as a file: what is read of it, what would come of it, and that no cell of it is a formula."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infoscreen_reboot.controller import inventory
from infoscreen_reboot.controller.inventory import Entry, InventoryError, Known, Outcome
from infoscreen_reboot.controller.safety import Standing

ONE, TWO, THREE = (f"00000000-0000-0000-0000-00000000000{number}" for number in (1, 2, 3))
KNOWN = {ONE: Known(Standing.ACCEPTED, "Bar", None, {"site": "alpine"}), TWO: Known(Standing.ACCEPTED, "Spa")}


def outcomes(text: str, known: dict[str, Known] = KNOWN) -> list[tuple[int, str, str | None]]:
    rows = inventory.plan(inventory.read_csv(text.encode()), known)
    return [(row.line, str(row.outcome), row.why) for row in rows]


def test_a_column_that_is_there_says_how_it_shall_be_and_no_other() -> None:
    [entry] = inventory.read_csv(f"uuid,name,note,label:site\n{ONE},,,\n".encode())
    assert entry == Entry(2, ONE, {"name": None, "note": None}, {"site": None})
    [entry] = inventory.read_csv(f"uuid\r\n{ONE}\r\n".encode())
    assert (entry.columns, entry.labels) == ({}, {})
    assert outcomes(f"uuid\n{ONE}") == [(2, "unchanged", None)]
    assert outcomes(f"uuid,name,label:site\n{ONE},Bar,alpine\n{TWO},Spa,\n") == [
        (2, "unchanged", None),
        (3, "unchanged", None),
    ]
    assert outcomes(f"uuid,name\n{ONE},Bar 2\n{THREE},New\n") == [(2, "changed", None), (3, "created", None)]


def test_a_file_of_a_spreadsheet_is_read_too() -> None:
    """A byte order mark, semicolons, a cell over two lines; the line is where the row begins."""
    text = f'\ufeffuuid;note\r\n{ONE};"first\r\nsecond"\r\n\r\n{TWO};x\r\n'
    entries = inventory.read_csv(text.encode())
    assert [(entry.line, entry.columns["note"]) for entry in entries] == [(2, "first\nsecond"), (5, "x")]


def test_upper_case_is_the_same_client_and_a_client_is_named_once() -> None:
    """Pitfall 49: duplicate UUIDs, upper-case UUIDs."""
    upper = "9B8D1856-FF34-4864-A726-12DE072D0F77"
    assert inventory.read_csv(f"uuid\n{upper}".encode())[0].uuid == upper.lower()
    twice = outcomes(f"uuid\n{upper}\n{upper.lower()}\n{ONE}\n")
    why = "this UUID is in the file more than once"
    assert twice == [(2, "refused", why), (3, "refused", why), (4, "unchanged", None)]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("bar,,,", "this is no UUID"),
        (f"{ONE},Spa,,", "'Spa' would be the name of 2 clients"),
        (f"{ONE},{TWO},,", "a name may not look like a UUID: it could be taken for another client"),
        (f"{ONE},a\x1b[31mb,,", "a name has no control characters, and no space before or after it"),
        (f"{ONE},Bar,gone,", "'gone' is no standing; known are unknown, accepted, rejected, retired"),
        (f"{ONE},Bar,,a(b", "'a(b' cannot be the value of the label site"),
        (f"{ONE},{'x' * 129},,", "a name has 1 to 128 characters"),
    ],
)
def test_a_row_that_cannot_be_taken_says_why(line: str, why: str) -> None:
    assert outcomes(f"uuid,name,standing,label:site\n{line}\n") == [(2, "refused", why)]


def test_names_may_be_exchanged_and_that_of_a_retired_client_is_free() -> None:
    assert {each[1] for each in outcomes(f"uuid,name\n{ONE},Spa\n{TWO},Bar\n")} == {"changed"}
    retired = {ONE: Known(Standing.RETIRED, "Bar")}
    assert outcomes(f"uuid,name\n{TWO},Bar\n", retired) == [(2, "created", None)]
    assert outcomes(f"uuid,name,standing\n{ONE},Spa,retired\n{TWO},Spa,\n")[1] == (3, "unchanged", None)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "has to name the columns"),
        (b"name\nBar\n", "has to name the columns"),
        (b"uuid,colour\n", "'colour' is no column"),
        (b"uuid,label:a b\n", "'a b' cannot be the key of a label"),
        (b"uuid,uuid\n", "the column uuid is there more than once"),
        (b"uuid,name\nx\n", "line 2 has 1 cells"),
        (b'uuid\n"x', "line 2: unexpected end of data"),
        (b"uuid\n\xff\n", "not UTF-8"),
        (b"uuid\n" + b"x" * 200_000, "line 2: field larger than field limit"),
        (b"uuid\n" + b"x\n" * (inventory.MOST_ROWS + 1), "more than 20000 rows"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_as_a_whole(content: bytes, words: str) -> None:
    with pytest.raises(InventoryError, match=words):
        inventory.read_csv(content)


def test_a_host_of_ansible_has_the_name_and_the_groups_that_it_has_there() -> None:
    listing = {
        "_meta": {"hostvars": {"bar": {inventory.ANSIBLE_UUID: ONE.upper()}, "spa": {}, "nas": {"x": 1}}},
        "all": {"children": ["ungrouped", "hotel"]},
        "hotel": {"children": ["alpine", "hotel"]},
        "alpine": {"hosts": ["bar", "spa"]},
        "city": {"hosts": []},
    }
    [entry] = inventory.read_ansible(listing)
    assert (entry.line, entry.uuid, entry.columns) == (1, ONE, {"name": "bar"})
    assert entry.labels == {"group/hotel": "yes", "group/alpine": "yes", "group/city": None}


@pytest.mark.parametrize(
    "content", [None, [], {}, {"_meta": []}, {"_meta": {"hostvars": {}}}, {"_meta": {"hostvars": {"a": 1}}}]
)
def test_what_is_no_inventory_of_ansible_is_refused(content: Any) -> None:
    with pytest.raises(InventoryError):
        inventory.read_ansible(content)


@given(
    st.text(st.sampled_from("'=+-@ \t\r\nab\",;é"), max_size=8).map(lambda text: text.strip(" ") or None),
    st.text(st.sampled_from("'=+-@ \nab\",;é"), max_size=8).map(lambda text: text or None),
)
def test_no_cell_is_a_formula_and_what_was_exported_is_read_as_it_was(name: str | None, note: str | None) -> None:
    """Pitfall 49: CSV with formulas."""
    text = inventory.write_csv([(ONE, Known(Standing.ACCEPTED, name, note, {"site": "a"}))])
    cells = [cell for row in csv.reader(io.StringIO(text, newline="")) for cell in row]
    assert not any(cell.startswith(tuple("=+-@\t\r")) for cell in cells)
    [entry] = inventory.read_csv(text.encode())
    assert entry.columns == {"name": name, "note": note, "standing": "accepted"} and entry.labels == {"site": "a"}


def test_an_export_that_is_imported_changes_nothing() -> None:
    known = KNOWN | {THREE: Known(Standing.RETIRED, "Spa", "a\nb", {"room": "bar 1", "site": "x"})}
    rows = inventory.plan(inventory.read_csv(inventory.write_csv(known.items()).encode()), known)
    assert [row.outcome for row in rows] == [Outcome.UNCHANGED] * 3
