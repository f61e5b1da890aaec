"""What became of many commands: how many are where, each number a link to exactly those clients."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from infoscreen_reboot.controller.api import batches
from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.lifecycle import State
from infoscreen_reboot.controller.web import shell
from infoscreen_reboot.controller.web.session import Operator, Viewer

router = APIRouter()

_PAGE = 30


@router.get("/batches")
def show_all(call: Viewer, cursor: Annotated[str | None, Query(max_length=80)] = None) -> Response:
    return shell.page(call, "batches.html", page=batches.list_batches(call, _PAGE, cursor))


@router.get("/batches/{batch_id:uuid}")
def show(
    call: Viewer, batch_id: UUID, state: Annotated[str, Query(pattern=f"^({'|'.join(State)})?$")] = ""
) -> Response:
    batch = batches.read_batch(call, batch_id)
    chosen = State(state) if state else None
    return shell.page(
        call,
        "batch.html",
        batch=batch,
        count=sum(batch.states.values()),
        members=batches.list_members(call, batch_id, chosen),
        state=chosen,
        reconnects=batches.read_reconnects(call, batch_id),
        can_cancel=call.who.role.covers(Role.OPERATOR) and not batch.is_over,
        can_retry=call.who.role.covers(Role.OPERATOR) and any(each in batch.states for each in batches.TO_RETRY),
        to_retry=[m.client_uuid for m in batches.list_members(call, batch_id, None) if m.state in batches.TO_RETRY],
    )


@router.post("/batches/{batch_id:uuid}/cancel")
def cancel(call: Operator, batch_id: UUID) -> Response:
    batches.cancel_batch(call, batch_id)
    return shell.see(f"/batches/{batch_id}")
