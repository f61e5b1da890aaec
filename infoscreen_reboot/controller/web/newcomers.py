"""Clients that nobody has accepted, and those that were rejected or retired: one by one, or many with their count."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter, Response

from infoscreen_reboot.controller.api import clients, fleet, models
from infoscreen_reboot.controller.api.access import Call
from infoscreen_reboot.controller.api.problems import Problem, checked
from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.safety import Standing
from infoscreen_reboot.controller.web import shell
from infoscreen_reboot.controller.web.session import Admin, Form, Sent, Viewer

router = APIRouter()

# Of each standing. A fleet that has just found its broker may be new as a whole.
_MOST = 200


@router.get("/unknown")
def show(call: Viewer) -> Response:
    found = {each: clients.list_clients(call, standing=each) for each in Standing if each is not Standing.ACCEPTED}
    return shell.page(
        call,
        "unknown.html",
        found={standing: some[:_MOST] for standing, some in found.items()},
        counts={standing: len(some) for standing, some in found.items()},
        may_decide=call.who.role.covers(Role.ADMIN),
    )


@router.post("/standing/confirm")
def confirm(call: Admin, sent: Sent) -> Response:
    """Changes nothing, so it may be read again."""
    uuids = _all(call, sent.text("all")) if sent.text("all") else sent.uuids("client")
    if not uuids:
        raise Problem("invalid", "no client is selected: go back and choose at least one")
    return _confirmation(call, _given(sent), uuids)


@router.post("/standing")
def give(call: Admin, sent: Sent) -> Response:
    standing, uuids = _given(sent), sent.uuids("client")
    if sent.text("count", 6) != str(len(uuids)):
        return _confirmation(call, standing, uuids, f"this is about {len(uuids)} clients: type that number")
    clients.set_standings(call, checked(models.NewStandings, standing=standing, clients=uuids))
    return shell.see("/unknown")


@router.post("/c/{uuid:uuid}/accept")
def accept(call: Admin, uuid: UUID, sent: Sent) -> Response:
    """With a name, if one was typed: that first, so that nothing without its name gets commands."""
    if sent.text("name"):
        clients.change_client(call, uuid, checked(models.ClientChange, name=sent.text("name")))
    clients.set_standing(call, uuid, models.NewStanding(standing="accepted"))
    return shell.see("/unknown" if sent.text("next") else f"/c/{uuid}")


@router.post("/c/{uuid:uuid}/reject")
def reject(call: Admin, uuid: UUID, sent: Sent) -> Response:
    clients.set_standing(call, uuid, models.NewStanding(standing="rejected"))
    return shell.see("/unknown" if sent.text("next") else f"/c/{uuid}")


def _confirmation(call: Call, standing: str, uuids: list[UUID], fault: str | None = None) -> Response:
    return shell.page(
        call,
        "standing.html",
        200 if fault is None else 412,
        standing=standing,
        clients=fleet.read_some(call, [str(uuid) for uuid in uuids[:_MOST]]),
        uuids=uuids,
        fault=fault,
    )


def _given(sent: Form) -> str:
    return checked(models.NewStanding, standing=sent.text("standing")).standing


def _all(call: Call, name: str) -> list[UUID]:
    """Of one standing, now; the confirmation shows how many they are."""
    if name not in list(Standing):
        raise Problem("invalid", f"{name[:40]!r} is no standing")
    return [each.uuid for each in clients.list_clients(call, standing=Standing(name))]
