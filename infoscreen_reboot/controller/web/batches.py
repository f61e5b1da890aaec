"""What became of many commands: how many are where, each number a link to exactly those clients."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import JSONResponse

from infoscreen_reboot.controller import text
from infoscreen_reboot.controller.api import batches
from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.lifecycle import State, Step
from infoscreen_reboot.controller.web import shell
from infoscreen_reboot.controller.web.session import Operator, Viewer

router = APIRouter()

_PAGE = 30
_State = Annotated[str, Query(pattern=f"^({'|'.join(State)})?$")]
_Kind = Annotated[str, Query(max_length=128, pattern=text.LINE)]


@router.get("/batches")
def show_all(call: Viewer, cursor: Annotated[str | None, Query(max_length=80)] = None) -> Response:
    return shell.page(call, "batches.html", page=batches.list_batches(call, _PAGE, cursor))


@router.get("/batches/{batch_id:uuid}")
def show(call: Viewer, batch_id: UUID, state: _State = "", kind: _Kind = "") -> Response:
    batch = batches.read_batch(call, batch_id)
    members = batches.members(call, batch_id, State(state) if state else None, kind or None)
    may_change = call.who.role.covers(Role.OPERATOR)
    return shell.page(
        call,
        "batch.html",
        batch=batch,
        count=sum(batch.states.values()),
        members=members,
        state=state,
        kind=kind,
        steps=list(Step),
        reasons=batches.list_reasons(call, batch_id),
        reconnects=batches.read_reconnects(call, batch_id),
        can_cancel=may_change and not batch.is_over,
        to_retry=[each.client_uuid for each in members if each.state in batches.TO_RETRY] if may_change else [],
    )


@router.get("/batches/{batch_id:uuid}/members.{form}")
def export(
    call: Viewer,
    batch_id: UUID,
    form: Annotated[str, Path(pattern="^(csv|json)$")],
    state: _State = "",
    kind: _Kind = "",
) -> Response:
    """What is listed, as the API has it: for whoever has a session and no token."""
    found = batches.list_members(call, batch_id, State(state) if state else None, kind or None, form)
    if isinstance(found, Response):
        return found
    headers = {"Content-Disposition": f'attachment; filename="batch-{batch_id}.json"'}
    return JSONResponse([each.model_dump(mode="json") for each in found], headers=headers)


@router.post("/batches/{batch_id:uuid}/cancel")
def cancel(call: Operator, batch_id: UUID) -> Response:
    batches.cancel_batch(call, batch_id)
    return shell.see(f"/batches/{batch_id}")
