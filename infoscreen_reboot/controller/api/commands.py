"""`/commands`: made, read, explained, cancelled."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Request, Response

from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.controller import orders, safety
from infoscreen_reboot.controller.api import access, models, show
from infoscreen_reboot.controller.api.access import operator, viewer
from infoscreen_reboot.controller.api.problems import Problem, documented
from infoscreen_reboot.controller.auth import Identity
from infoscreen_reboot.controller.lifecycle import Cancelled, State
from infoscreen_reboot.controller.store import commands, facts, people, views
from infoscreen_reboot.controller.store.database import Row, Transaction

router = APIRouter(prefix="/commands", tags=["commands"])


def wish_of(content: models.Wish, key: str | None) -> orders.Wish:
    return orders.Wish(content.action, content.reason, content.wait_until, content.someone_is_there, key)


@router.post("", status_code=201, responses=documented("no_such_client", "bad_wait", "held"))
def create(
    request: Request,
    response: Response,
    content: models.NewCommand,
    who: Annotated[Identity, Depends(operator)],
    idempotency_key: Annotated[models.Key | None, Header()] = None,
) -> models.Command:
    """Make one command. 201: made; 200: an earlier request of yours with the same id or key has made it.

    If a rule holds it and you do not wait, the answer is 409 `held`, with the rule and when it opens; its `command_id`
    names the record of that refusal.
    """
    site, caller = access.site(request), access.caller(request, who)
    command_id = str(content.command_id) if content.command_id else None
    with site.database.write() as tx:
        made, is_new = orders.order(
            tx, caller, wish_of(content, idempotency_key), str(content.client_uuid), command_id, site.house
        )
        row = found(tx, made)
        outcome = "made" if row["state"] != State.BLOCKED_SAFETY else "held"
        people.note(tx, who.name, caller.via, caller.address, f"command {content.action}", made, outcome)
    site.wake()
    if row["state"] == State.BLOCKED_SAFETY:
        opens_at = row["hold_opens_at"]
        hold = {"rule": row["hold_rule"], "opens_at": opens_at.isoformat() if opens_at else None}
        raise Problem("held", row["hold_why"], command_id=made, **hold)
    response.status_code = 201 if is_new else 200
    return show.command(row, site.limits)


@router.get("", responses=documented())
def index(
    request: Request,
    who: Annotated[Identity, Depends(viewer)],
    client: UUID | None = None,
    batch: UUID | None = None,
    state: State | None = None,
    is_open: Annotated[bool | None, Query(alias="open")] = None,
    limit: Annotated[int, Query(ge=1, le=views.PAGE)] = 50,
    cursor: Annotated[str | None, Query(max_length=80)] = None,
) -> models.Page:
    """The newest first."""
    site = access.site(request)
    with site.database.read() as tx:
        try:
            rows, following = views.commands_page(
                tx, limit, cursor, _text(client), _text(batch), str(state) if state else None, is_open
            )
        except ValueError as error:
            raise Problem("bad_request", str(error)) from None
    return models.Page(items=[show.command(row, site.limits) for row in rows], next=following)


@router.get("/{command_id}", responses=documented("not_found"))
def read(request: Request, command_id: UUID, who: Annotated[Identity, Depends(viewer)]) -> models.Command:
    site = access.site(request)
    with site.database.read() as tx:
        return show.command(found(tx, str(command_id)), site.limits)


@router.get("/{command_id}/events", responses=documented("not_found"))
def events(request: Request, command_id: UUID, who: Annotated[Identity, Depends(viewer)]) -> list[models.Event]:
    """What happened to it, the oldest first."""
    with access.site(request).database.read() as tx:
        found(tx, str(command_id))
        return [show.event(row) for row in views.events_after(tx, 0, 1000, command_id=str(command_id))]


@router.get("/{command_id}/explain", responses=documented("not_found"))
def explain(request: Request, command_id: UUID, who: Annotated[Identity, Depends(viewer)]) -> models.Explanation:
    """Why it was sent, was refused or waits: every rule, asked again now as if this command was not there."""
    site = access.site(request)
    with site.database.read() as tx:
        row = found(tx, str(command_id))
        asked = facts.gather(
            tx,
            [row["client_uuid"]],
            Action(row["action"]),
            site.house.policy,
            may_shut_down=True,
            someone_is_there=row["someone_is_there"],
            without=[row["id"]],
        )
        answers = safety.ask(asked[row["client_uuid"]]) if asked else ()
        told = views.events_after(tx, 0, 1000, command_id=str(command_id))
    return models.Explanation(
        command=show.command(row, site.limits),
        rules=[show.rule(answer) for answer in answers],
        events=[show.event(each) for each in told],
    )


@router.post("/{command_id}/cancel", responses=documented("not_found", "too_late"))
def cancel(request: Request, command_id: UUID, who: Annotated[Identity, Depends(operator)]) -> models.Command:
    """Take back a command that was not given to the broker. Later nobody can: 409 `too_late`."""
    site, caller = access.site(request), access.caller(request, who)
    with site.database.write() as tx:
        found(tx, str(command_id))
        moved = commands.learn(tx, [(str(command_id), Cancelled(tx.now))], site.limits)
        row = found(tx, str(command_id))
        outcome = "cancelled" if moved else "too_late"
        people.note(tx, who.name, caller.via, caller.address, "cancel", str(command_id), outcome)
    if not moved and row["state"] != State.CANCELLED:
        raise Problem("too_late", f"this command is {row['state']}", state=row["state"])
    return show.command(row, site.limits)


def found(tx: Transaction, command_id: str) -> Row:
    row = views.command_of(tx, command_id)
    if row is None:
        raise Problem("not_found", f"there is no command {command_id}")
    return row


def _text(value: UUID | None) -> str | None:
    return None if value is None else str(value)
