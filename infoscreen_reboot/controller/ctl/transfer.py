"""`import` and `export`: the clients as CSV, or as `ansible-inventory --list` prints them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from infoscreen_reboot.controller.ctl.call import Call
from infoscreen_reboot.controller.ctl.outcome import Failure, Outcome, Refused
from infoscreen_reboot.controller.ctl.screen import plural, usage

_OUTCOMES = ("created", "changed", "unchanged", "refused")


def import_clients(call: Call) -> Outcome:
    return import_file(call, "/clients/import")


def import_file(call: Call, path: str) -> Outcome:
    """Nothing is changed if one row is refused."""
    content = _content(call.options.file)
    kind = "application/json" if content.lstrip()[:1] in (b"{", b"[") else "text/csv"
    dry_run = "true" if call.options.dry_run else "false"
    try:
        answer = call.connection.send(
            "POST",
            path,
            params={"dry_run": dry_run},
            headers={"Content-Type": kind},
            content=content,
        )
    except Refused as refused:
        if "rows" not in refused.problem:
            raise
        if not call.screen.is_json:
            _show(call, refused.problem["rows"])
        refused.outcome = Outcome.REFUSED
        refused.advice = "Nothing was changed."
        raise
    if call.screen.is_json:
        call.screen.document(answer)
        return Outcome.DONE
    _show(call, answer["rows"])
    call.screen.say("Nothing was changed: this was a dry run." if call.options.dry_run else "Done.")
    return Outcome.DONE


def _content(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise usage(f"cannot read {name}: {error.strerror}") from None


def _show(call: Call, rows: list[dict[str, Any]]) -> None:
    """Each row that changes something or is refused, and how many there are of each kind."""
    told = [
        (row["line"], row["name"] or row["uuid"] or "", row["outcome"], row["why"] or "")
        for row in rows
        if row["outcome"] != "unchanged"
    ]
    if told:
        call.screen.table(("#line", "client", "outcome", "why"), told)
    counts = {name: sum(row["outcome"] == name for row in rows) for name in _OUTCOMES}
    words = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    call.screen.say(f"{plural(len(rows), 'row')}: {words}." if rows else "No rows.")


def export_clients(call: Call) -> Outcome:
    text = call.connection.text("/clients/export")
    if call.screen.is_json:
        call.screen.document({"csv": text})
        return Outcome.DONE
    name = call.options.file
    if name == "-":
        call.screen.raw(text)
        return Outcome.DONE
    try:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:
        raise Failure(Outcome.USAGE, f"cannot write {name}: {error.strerror}") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(text.encode())
    return Outcome.DONE
