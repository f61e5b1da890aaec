"""`/commands`: made, read, explained, cancelled."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any
from uuid import UUID
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Header, Query, Response

from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.controller import orders, safety
from infoscreen_reboot.controller.api import models, show
from infoscreen_reboot.controller.api.access import Call, Operator, Viewer
from infoscreen_reboot.controller.api.problems import Problem, documented
from infoscreen_reboot.controller.lifecycle import Cancelled, State
from infoscreen_reboot.controller.store import commands, facts, views
from infoscreen_reboot.controller.store.database import Row, Transaction
from infoscreen_reboot.controller.store.zones import zones_of

router = APIRouter(prefix="/commands", tags=["commands"])

IdempotencyKey = Annotated[
    models.Key | None,
    Header(description="Made by you: the same request of yours with the same key makes nothing more."),
]
Limit = Annotated[int, Query(ge=1, le=views.PAGE, description="How many at most.")]
Cursor = Annotated[str | None, Query(max_length=80, description="`next` of the page before.")]
MADE_BEFORE = "An earlier request of yours with the same id or key has made it."


def wish_of(content: models.Wish, key: str | None) -> orders.Wish:
    return orders.Wish(content.action, content.reason, content.wait_until, content.someone_is_there, key)


@router.post(
    "",
    status_code=201,
    summary="Order a reboot or a shutdown",
    responses=documented(
        *("no_such_client", "bad_wait", "held", "key_used_otherwise", "too_large"),
        well={"model": models.Command, "description": MADE_BEFORE},
    ),
)
def create_command(
    call: Operator, response: Response, content: models.NewCommand, idempotency_key: IdempotencyKey = None
) -> models.Command:
    """Make one command for one client.

    If a rule holds it and you do not wait, the answer is 409 `held`, with the rule and when it opens; its `command_id`
    names the record of that refusal. If another command of this client is open, `open_command_id` names it.
    """
    command_id = str(content.command_id) if content.command_id else None
    wish = wish_of(content, idempotency_key)
    with call.write() as (tx, caller):
        made, is_new = orders.order(tx, caller, wish, str(content.client_uuid), command_id, call.site.house)
        row = found(tx, made)
        is_held = row["state"] == State.BLOCKED_SAFETY
        zones = zones_of(tx, [row["client_uuid"]], call.site.fleet_zone)
        held = _hold(tx, row, zones[row["client_uuid"]]) if is_held else {}
        if is_new:
            call.note(tx, f"command {content.action}", made, "held" if is_held else "made")
    call.site.wake()
    if is_held:
        raise Problem("held", row["hold_why"], **held)
    response.status_code = 201 if is_new else 200
    return show.command(row, call.site.limits, zones)


def _hold(tx: Transaction, row: Row, zone: str) -> dict[str, Any]:
    """What a refusal says for programs."""
    opens_at = row["hold_opens_at"]
    said = {
        "command_id": row["id"],
        "rule": row["hold_rule"],
        "opens_at": opens_at.isoformat() if opens_at else None,
        "opens_at_local": opens_at.astimezone(ZoneInfo(zone)).isoformat() if opens_at else None,
        "zone": zone,
        "inputs": views.hold_inputs(tx, row["id"]),
    }
    if row["hold_rule"] == "one_open_command":
        said["open_command_id"] = said["inputs"].get("open_command_id")
    return said


@router.get("", summary="List commands", responses=documented())
def list_commands(
    call: Viewer,
    client: Annotated[UUID | None, Query(description="Only those of this client.")] = None,
    batch: Annotated[UUID | None, Query(description="Only those of this batch.")] = None,
    state: Annotated[State | None, Query(description="Only those in this state.")] = None,
    is_open: Annotated[
        bool | None, Query(alias="open", description="Only those without a verdict, or with one.")
    ] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> models.Page:
    """The newest first."""
    of_state = str(state) if state else None
    with call.read() as tx:
        try:
            rows, following = views.commands_page(tx, limit, cursor, _text(client), _text(batch), of_state, is_open)
        except ValueError as error:
            raise Problem("bad_request", str(error)) from None
        zones = zones_of(tx, {row["client_uuid"] for row in rows if row["hold_rule"]}, call.site.fleet_zone)
    return models.Page(items=[show.command(row, call.site.limits, zones) for row in rows], next=following)


@router.get("/{command_id:uuid}", summary="Read a command", responses=documented("not_found"))
def read_command(call: Viewer, command_id: UUID) -> models.Command:
    """Where it is, for what it waits, and what proves that."""
    with call.read() as tx:
        return _shown(tx, call, found(tx, str(command_id)))


@router.get("/{command_id:uuid}/events", summary="Read what happened to a command", responses=documented("not_found"))
def list_command_events(call: Viewer, command_id: UUID) -> list[models.Event]:
    """The oldest first."""
    with call.read() as tx:
        found(tx, str(command_id))
        return [show.event(row) for row in views.events_after(tx, 0, 1000, command_id=str(command_id))]


@router.get("/{command_id:uuid}/explain", summary="Explain a command", responses=documented("not_found"))
def explain_command(call: Viewer, command_id: UUID) -> models.Explanation:
    """Why it was sent, was refused or waits: every rule, asked again now as if this command was not there."""
    with call.read() as tx:
        row = found(tx, str(command_id))
        asked = facts.gather(
            tx,
            [row["client_uuid"]],
            Action(row["action"]),
            call.site.house.policy,
            may_shut_down=True,
            someone_is_there=row["someone_is_there"],
            without=[row["id"]],
        )
        answers: tuple[safety.Answer, ...] = ()
        if asked:
            answers = safety.ask(replace(asked[row["client_uuid"]], not_before=row["not_before"]))
        told = views.events_after(tx, 0, 1000, command_id=str(command_id))
        shown = _shown(tx, call, row)
    return models.Explanation(
        command=shown,
        rules=[show.rule(answer) for answer in answers],
        events=[show.event(each) for each in told],
    )


@router.post("/{command_id:uuid}/cancel", summary="Cancel a command", responses=documented("not_found", "too_late"))
def cancel_command(call: Operator, command_id: UUID) -> models.Command:
    """Take back a command that was not given to the broker. Later nobody can: 409 `too_late`."""
    with call.write() as (tx, caller):
        found(tx, str(command_id))
        fact = Cancelled(tx.now, caller.name)
        moved = commands.learn(tx, [(str(command_id), fact)], call.site.limits)
        row = found(tx, str(command_id))
        is_cancelled = row["state"] == State.CANCELLED
        if moved or not is_cancelled:
            call.note(tx, "cancel", str(command_id), "cancelled" if is_cancelled else "too_late")
        shown = _shown(tx, call, row)
    if not is_cancelled:
        raise Problem("too_late", f"this command is {row['state']}", state=row["state"])
    return shown


def _shown(tx: Transaction, call: Call, row: Row) -> models.Command:
    return show.command(row, call.site.limits, zones_of(tx, [row["client_uuid"]], call.site.fleet_zone))


def found(tx: Transaction, command_id: str) -> Row:
    row = views.command_of(tx, command_id)
    if row is None:
        raise Problem("not_found", f"there is no command {command_id}")
    return row


def _text(value: UUID | None) -> str | None:
    return None if value is None else str(value)
