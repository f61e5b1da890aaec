"""Statements for many rows at once. One statement for each row would cost five to ten times as much, on both databases.

Rows and ids go to the database as one parameter. A statement with a place for each of 500 ids costs PostgreSQL more to
read than to carry out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ARRAY, ColumnElement, String, Table, any_, column, func, insert, literal, select, text

from infoscreen_reboot.controller.store.database import Transaction


def among(tx: Transaction, which: ColumnElement[Any], values: Iterable[str]) -> ColumnElement[bool]:
    """Whether a column of text has one of these values."""
    if not tx.is_sqlite:
        return which == any_(literal(list(values), ARRAY(String)))
    each = func.json_each(json.dumps(list(values))).table_valued(column("value", String))
    return which.in_(select(each.c.value))


def insert_many(tx: Transaction, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """All rows have the same columns."""
    if tx.is_sqlite:
        tx.db.execute(insert(table), list(rows))
        return
    names = list(rows[0])
    statement = f"INSERT INTO {table.name} ({', '.join(names)}) SELECT * FROM {_recordset(tx, table, names)}"
    tx.db.execute(text(statement), {"rows": json.dumps([_bound(tx, table, row) for row in rows])})


def update_many(
    tx: Transaction, table: Table, values: Sequence[Mapping[str, Any]], guard: str = "TRUE", key: str = "id"
) -> int:
    """Sets all columns named in `values` of the rows with these keys, in one statement; returns how many there were.

    The values are those that the database keeps: times are numbers.
    """
    names = list(values[0])
    if tx.is_sqlite:
        picked = ", ".join(f"json_extract(value, '$[{number}]') AS {name}" for number, name in enumerate(names))
        source = f"(SELECT {picked} FROM json_each(:rows)) AS v"
        rows: list[Any] = [[row[name] for name in names] for row in values]
    else:
        source = _recordset(tx, table, names)
        rows = [dict(row) for row in values]
    changed = ", ".join(f"{name} = v.{name}" for name in names if name != key)
    statement = f"UPDATE {table.name} SET {changed} FROM {source} WHERE {table.name}.{key} = v.{key} AND ({guard})"
    return tx.db.execute(text(statement), {"rows": json.dumps(rows)}).rowcount


def _recordset(tx: Transaction, table: Table, names: Sequence[str]) -> str:
    types = ", ".join(f"{name} {table.c[name].type.compile(tx.db.dialect)}" for name in names)
    return f"jsonb_to_recordset(CAST(:rows AS jsonb)) AS v({types})"


def _bound(tx: Transaction, table: Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """As the database keeps it."""
    found = dict(row)
    for name, value in row.items():
        kind = table.c[name].type
        if hasattr(kind, "process_bind_param"):
            found[name] = kind.process_bind_param(value, tx.db.dialect)
    return found
