"""One client, for whoever stands in front of it with a phone: one big state, one button, and what proves it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from fastapi import APIRouter, Response

from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.controller.api import clients, commands, models, recoveries
from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.condition import LATE_AFTER, LOST_AFTER, MEANINGS
from infoscreen_reboot.controller.lifecycle import State
from infoscreen_reboot.controller.safety import Standing
from infoscreen_reboot.controller.web import shell
from infoscreen_reboot.controller.web.session import Operator, Viewer

router = APIRouter()

_COMMANDS = 6
_BOOTS = 10


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a command, as people follow it. `at` None: not yet, or never."""

    name: str
    at: datetime | None
    proof: str
    is_waited_for: bool
    since: datetime | None


@router.get("/c/{uuid:uuid}")
def show(call: Viewer, uuid: UUID) -> Response:
    client = clients.read_client(call, uuid)
    recent = commands.list_commands(call, client=uuid, limit=_COMMANDS).items
    recovery = recoveries.read_recovery(call, client.recovery_id) if client.recovery_id else None
    open_command = next((each for each in recent if each.is_open), None)
    return shell.page(
        call,
        "client.html",
        client=client,
        meaning=MEANINGS[client.condition] if client.condition else f"it is {client.standing}",
        commands=recent,
        stages={each.id: stages(each) for each in recent},
        explanation=commands.explain_command(call, open_command.id) if open_command else None,
        recovery=recovery,
        boots=clients.list_boots(call, uuid)[:_BOOTS],
        alerts=clients.list_alerts(call, uuid),
        health=clients.read_health(call, uuid),
        amber_s=int(LATE_AFTER.total_seconds()),
        red_s=int(LOST_AFTER.total_seconds()),
        can_order=call.who.role.covers(Role.OPERATOR) and client.standing is Standing.ACCEPTED and open_command is None,
        may_shut_down=call.who.may_shut_down,
        may_change=call.who.role.covers(Role.OPERATOR),
        may_decide=call.who.role.covers(Role.ADMIN),
    )


@router.post("/c/{uuid:uuid}/cancel/{command_id:uuid}")
def cancel(call: Operator, uuid: UUID, command_id: UUID) -> Response:
    commands.cancel_command(call, command_id)
    return shell.see(f"/c/{uuid}")


def stages(command: models.Command) -> list[Stage]:
    """Sent, accepted, rebooting, back, playing: each with its time, and what proves it."""
    said = command.evidence
    is_reboot = command.action is Action.REBOOT_HOST
    went_at = said.down_at or said.started_at
    steps = [
        ("Sent", said.published_at or said.sent_at, "the broker has it" if said.published_at else ""),
        ("Accepted", said.accepted_at, "its ack"),
        (
            "Rebooting" if is_reboot else "Shutting down",
            went_at,
            _boot("boot", said.started_boot_id),
        ),
    ]
    if is_reboot:
        steps.append(("Back", said.back_at, _boot("a new boot", said.back_boot_id)))
    is_done = command.state is State.COMPLETED
    steps.append(("Playing" if is_reboot else "Off", said.ended_at if is_done else None, _proof(command)))
    found, since, is_waited_for = [], command.created_at, command.is_open
    for name, at, proof in steps:
        found.append(Stage(name, at, proof if at else "", is_waited_for and at is None, since))
        is_waited_for = is_waited_for and at is not None
        since = at or since
    return found


def _boot(words: str, boot_id: str | None) -> str:
    return f"{words} {boot_id[:8]}" if boot_id else ""


def _proof(command: models.Command) -> str:
    match command.evidence.proof:
        case "mock":
            return "a mock: nothing was executed"
        case "boot_id":
            return "its ack, from another boot than before"
    return "its ack"
