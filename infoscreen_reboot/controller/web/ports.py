"""For admins: which port of a switch feeds which client, and whether it can be read."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from infoscreen_reboot.controller.api import clients, models, power
from infoscreen_reboot.controller.api.access import Call
from infoscreen_reboot.controller.api.problems import Problem, checked
from infoscreen_reboot.controller.power.port import Backend
from infoscreen_reboot.controller.web import shell
from infoscreen_reboot.controller.web.session import Admin, Form, Sent

router = APIRouter()

# A search finds the others.
_MOST = 200
_FIELDS = tuple(models.NewPowerPort.model_fields)
# What each does, in the words of docs/controller.md.
_BACKENDS = {
    Backend.SNMP: "a switch, by SNMP",
    Backend.HOOK: "a program of the administrator",
    Backend.DRY_RUN: "nothing: it only pretends",
}


@router.get("/ports")
def show_all(call: Admin, text: Annotated[str, Query(max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")] = "") -> Response:
    """All, or those that have that text in their client's name or UUID, or in their switch or port."""
    wanted = text.casefold()
    ports = power.list_ports(call)
    found = [each for each in ports if wanted in _words(each)]
    return shell.page(
        call,
        "ports.html",
        ports=found[:_MOST],
        count=len(found),
        text=text,
        held_off={each.client_uuid for each in power.list_cycles(call, held_off=True, limit=_MOST).items},
    )


@router.get("/c/{uuid:uuid}/port")
def show(call: Admin, uuid: UUID) -> Response:
    return _form(call, uuid)


@router.post("/c/{uuid:uuid}/port")
def put(call: Admin, uuid: UUID, sent: Sent) -> Response:
    said = _said(sent)
    try:
        power.put_port(call, uuid, checked(models.NewPowerPort, **{name: said[name] or None for name in _FIELDS}))
    except Problem as problem:
        return _form(call, uuid, said, problem)
    return shell.see(f"/c/{uuid}/port")


@router.post("/c/{uuid:uuid}/port/test")
def test(call: Admin, uuid: UUID) -> Response:
    """Changes nothing, so it may be read again."""
    return _form(call, uuid, tested=power.test_port(call, uuid))


@router.post("/c/{uuid:uuid}/port/remove")
def remove(call: Admin, uuid: UUID) -> Response:
    power.delete_port(call, uuid)
    return shell.see("/ports")


def _form(
    call: Call,
    uuid: UUID,
    said: dict[str, str] | None = None,
    problem: Problem | None = None,
    tested: models.PowerTest | None = None,
) -> Response:
    client = clients.read_client(call, uuid)
    known = next((each for each in power.list_ports(call) if each.client_uuid == uuid), None)
    empty = dict.fromkeys(_FIELDS, "") | {"backend": str(Backend.SNMP)}
    before = empty if known is None else {name: str(getattr(known, name) or "") for name in _FIELDS}
    return shell.page(
        call,
        "port.html",
        200 if problem is None else shell.again(problem),
        client=client,
        known=known,
        said=said or before,
        backends=_BACKENDS,
        tested=tested,
        fault=problem.detail if problem is not None else None,
    )


def _said(sent: Form) -> dict[str, str]:
    return {name: sent.text(name) for name in _FIELDS}


def _words(port: models.PowerPort) -> str:
    return f"{port.name or ''} {port.client_uuid} {port.switch} {port.address or ''} {port.port}".casefold()
