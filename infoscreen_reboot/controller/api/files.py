"""Lists that come or go as a file: CSV, or what `ansible-inventory --list` prints."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from infoscreen_reboot.controller.api.problems import Problem
from infoscreen_reboot.controller.inventory import InventoryError, guarded

CSV = "text/csv"
T = TypeVar("T")


async def entries(request: Request, read_csv: Callable[[bytes], T], read_ansible: Callable[[Any], T]) -> T:
    """What the file of this request says. Raises Problem."""
    content = await request.body()
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    try:
        return await run_in_threadpool(_read, kind, content, read_csv, read_ansible)
    except InventoryError as error:
        raise Problem("invalid", str(error)) from None


def _read(kind: str, content: bytes, read_csv: Callable[[bytes], T], read_ansible: Callable[[Any], T]) -> T:
    if kind == CSV:
        return read_csv(content)
    if kind != "application/json":
        raise Problem("bad_request", f"send {CSV}, or application/json as `ansible-inventory --list` prints it")
    try:
        return read_ansible(json.loads(content))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InventoryError):
            raise
        raise Problem("bad_request", "this is no JSON") from None


def table(names: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """As CSV; no cell of it is a formula."""
    target = io.StringIO(newline="")
    writer = csv.writer(target)
    writer.writerow(names)
    for row in rows:
        writer.writerow([guarded("" if cell is None else str(cell)) for cell in row])
    return target.getvalue()


def documented(csv: str, ansible: Any) -> dict[str, Any]:
    """For OpenAPI: the body, which FastAPI cannot see."""
    content = {
        CSV: {"schema": {"type": "string"}, "example": csv},
        "application/json": {"schema": {"type": "object"}, "example": ansible},
    }
    return {"requestBody": {"required": True, "content": content}}
