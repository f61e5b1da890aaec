"""`/recoveries`: what is done about clients that did not come back from their reboot."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query

from infoscreen_reboot.controller import recoveries, recovery
from infoscreen_reboot.controller.api import models
from infoscreen_reboot.controller.api.access import Operator, Viewer
from infoscreen_reboot.controller.api.commands import Limit
from infoscreen_reboot.controller.api.problems import Problem, documented
from infoscreen_reboot.controller.store import recoveries as stored
from infoscreen_reboot.controller.store.database import Row, Transaction

router = APIRouter(prefix="/recoveries", tags=["recoveries"])

Number = Annotated[int, Path(ge=1, lt=2**63)]


@router.get("", summary="List recoveries", responses=documented())
def list_recoveries(
    call: Viewer,
    client: Annotated[UUID | None, Query(description="Only those of this client.")] = None,
    is_open: Annotated[bool | None, Query(alias="open", description="Only those that are open, or over.")] = None,
    limit: Limit = 50,
    cursor: Annotated[int | None, Query(ge=1, lt=2**63, description="`next` of the page before.")] = None,
) -> models.RecoveryPage:
    """The newest first. One that needs a person is open until its client is back, or somebody stops it."""
    with call.read() as tx:
        rows, following = stored.page(tx, limit, cursor, is_open, str(client) if client else None)
    return models.RecoveryPage(items=[_shown(row) for row in rows], next=following)


@router.get("/{recovery_id}", summary="Read a recovery", responses=documented("not_found"))
def read_recovery(call: Viewer, recovery_id: Number) -> models.Recovery:
    """What was tried so far, what comes next, and the text for a ticket if it needs a person."""
    with call.read() as tx:
        return _shown(_found(tx, recovery_id))


@router.post(
    "/{recovery_id}/stop", summary="Stop a recovery", responses=documented("not_found", "too_late", "too_large")
)
def stop_recovery(call: Operator, recovery_id: Number, content: models.RecoveryStop) -> models.Recovery:
    """Nothing more is tried, and nobody is called: somebody is there. A power cycle under way goes on to its end."""
    with call.write() as (tx, caller):
        before = _found(tx, recovery_id)
        is_stopped = recoveries.stop(tx, recovery_id, caller.name, content.why)
        call.note(tx, "stop recovery", str(recovery_id), "stopped" if is_stopped else "too_late", {"why": content.why})
        after = _found(tx, recovery_id)
    if not is_stopped:
        raise Problem("too_late", f"this recovery is over: {before['words']}", state=before["state"])
    return _shown(after)


def _found(tx: Transaction, number: int) -> Row:
    row = stored.one(tx, number)
    if row is None:
        raise Problem("not_found", f"there is no recovery {number}")
    return row


def _shown(row: Row) -> models.Recovery:
    record = stored.record_of(row)
    return models.Recovery(
        id=row["id"],
        client_uuid=row["client_uuid"],
        command_id=row["command_id"],
        state=record.state,
        is_open=not record.state.is_over,
        words=record.words,
        began_at=record.began_at,
        due_at=row["due_at"],
        ended_at=record.ended_at,
        tried=[models.Tried(step=one.step, at=one.at, outcome=one.outcome) for one in recovery.in_order(record.tried)],
        next_steps=list(record.left) if not record.state.is_over else [],
        ticket=row["ticket"],
    )
