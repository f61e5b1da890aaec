"""What people say of one client: its name, note and labels, and whether it is still there."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter, Response

from infoscreen_reboot.controller.api import clients, models
from infoscreen_reboot.controller.api.access import Call
from infoscreen_reboot.controller.api.problems import Problem, checked
from infoscreen_reboot.controller.web import shell
from infoscreen_reboot.controller.web.session import Admin, Form, Operator, Sent

router = APIRouter()

_MOST = 30_000


@router.get("/c/{uuid:uuid}/change")
def show(call: Operator, uuid: UUID) -> Response:
    client = clients.read_client(call, uuid)
    said = {"name": client.name or "", "note": client.note or "", "labels": _lines(client.labels)}
    return _form(call, client, said, said)


@router.post("/c/{uuid:uuid}/change")
def change(call: Operator, uuid: UUID, sent: Sent) -> Response:
    """Only what was typed: what others have changed meanwhile stays."""
    client = clients.read_client(call, uuid)
    said, before = _said(sent, ""), _said(sent, "was_")
    try:
        changes = _changes(said, before)
        if changes:
            clients.change_client(call, uuid, checked(models.ClientChange, **changes))
    except Problem as problem:
        return _form(call, client, said, before, problem)
    return shell.see(f"/c/{uuid}")


@router.get("/c/{uuid:uuid}/retire")
def confirm_retire(call: Admin, uuid: UUID) -> Response:
    return shell.page(call, "retire.html", client=clients.read_client(call, uuid))


@router.post("/c/{uuid:uuid}/retire")
def retire(call: Admin, uuid: UUID) -> Response:
    clients.set_standing(call, uuid, models.NewStanding(standing="retired"))
    return shell.see(f"/c/{uuid}")


def _form(
    call: Call,
    client: models.FleetClient,
    said: dict[str, str],
    before: dict[str, str],
    problem: Problem | None = None,
) -> Response:
    return shell.page(
        call,
        "change.html",
        200 if problem is None else shell.again(problem),
        client=client,
        said=said,
        before=before,
        fault=problem.detail if problem is not None else None,
    )


def _said(sent: Form, prefix: str) -> dict[str, str]:
    """A browser ends lines in its own way."""
    return {each: sent.text(prefix + each, _MOST).replace("\r\n", "\n") for each in ("name", "note", "labels")}


def _changes(said: dict[str, str], before: dict[str, str]) -> dict[str, object]:
    changes: dict[str, object] = {each: said[each] or None for each in ("name", "note") if said[each] != before[each]}
    wanted, was = labels_in(said["labels"]), labels_in(before["labels"])
    labels: dict[str, str | None] = {key: value for key, value in wanted.items() if was.get(key) != value}
    labels |= {key: None for key in was if key not in wanted}
    return changes | ({"labels": labels} if labels else {})


def _lines(labels: dict[str, str]) -> str:
    return "\n".join(f"{key}={value}" for key, value in sorted(labels.items()))


def labels_in(lines: str) -> dict[str, str]:
    """One a line, as `site=alpine`. Raises Problem for a line that is none."""
    found: dict[str, str] = {}
    for line in filter(None, (each.strip() for each in lines.split("\n"))):
        key, sign, value = (part.strip() for part in line.partition("="))
        if not sign:
            raise Problem("invalid", f"labels: {line[:80]!r} has no “=”: write one label a line, as site=alpine")
        if key in found:
            raise Problem("invalid", f"labels: {key[:64]} is there twice")
        found[key] = value
    return found
