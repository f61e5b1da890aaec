"""`/batches`: many commands from one preview; what was shown is what is made, or nothing is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.controller import orders
from infoscreen_reboot.controller.api import files, models, show
from infoscreen_reboot.controller.api.access import Call, Operator, Viewer
from infoscreen_reboot.controller.api.commands import MADE_BEFORE, Cursor, IdempotencyKey, Limit, wish_of
from infoscreen_reboot.controller.api.problems import Problem, documented
from infoscreen_reboot.controller.lifecycle import Cancelled, State
from infoscreen_reboot.controller.orders import Caller
from infoscreen_reboot.controller.store import commands, reconnects, sites, views
from infoscreen_reboot.controller.store.database import Row, Transaction
from infoscreen_reboot.controller.store.zones import zones_of

router = APIRouter(prefix="/batches", tags=["batches"])

# In these a command has not done what it was made for, and may be tried again.
TO_RETRY = (State.FAILED, State.EXPIRED, State.TIMED_OUT, State.BLOCKED_SAFETY)
_OF_MEMBER = [name for name in models.Member.model_fields if name != "command_id"]
_EXAMPLE_CSV = "client_uuid,name,command_id,state,kind,why\r\n"


@router.post(
    "/preview",
    summary="Preview a batch",
    responses=documented("no_such_client", "bad_selector", "bad_wait", "too_large"),
)
def preview_batch(call: Operator, content: models.PreviewRequest) -> models.Preview:
    """What would come of it now: nothing is made. Say either `clients` or `selector`."""
    if (content.clients is None) == (content.selector is None):
        raise Problem("invalid", "say either clients or selector")
    with call.read() as tx:
        if content.selector is not None:
            uuids = orders.select_clients(tx, content.selector)
        else:
            uuids = [str(uuid) for uuid in content.clients or []]
        return previewed(tx, call, wish_of(content, None), uuids)


def previewed(tx: Transaction, call: Call, wish: orders.Wish, uuids: Sequence[str]) -> models.Preview:
    """What would come of it now. Raises orders.Refused."""
    caller = Caller(call.who.name, call.via, call.address, call.who.may_shut_down)
    shown = orders.preview(tx, caller, wish, uuids, call.site.house)
    zones = zones_of(tx, shown.held.keys(), call.site.fleet_zone)
    return models.Preview(
        action=shown.action,
        hash=shown.hash,
        count=shown.count,
        clients=[UUID(uuid) for uuid in sorted(set(uuids))],
        eligible=[UUID(uuid) for uuid in shown.eligible],
        held={uuid: show.hold(answer, zones[uuid]) for uuid, answer in shown.held.items()},
        held_by_rule=dict(Counter(answer.rule for answer in shown.held.values())),
        warnings={uuid: list(words) for uuid, words in shown.warnings.items()},
        dark_sites=sites.left_dark(tx, shown.eligible),
    )


@router.post(
    "",
    status_code=201,
    summary="Create a batch",
    responses=documented(
        *("no_such_client", "preview_changed", "count_differs", "nothing_eligible", "bad_wait", "key_used_otherwise"),
        "too_large",
        well={"model": models.Batch, "description": MADE_BEFORE},
    ),
)
def create_batch(
    call: Operator, response: Response, content: models.NewBatch, idempotency_key: IdempotencyKey = None
) -> models.Batch:
    """Make what the preview has shown. If anything has moved since, the answer is 412 and nothing is made.

    Nothing is sent within the first 5 seconds: until then the batch can be cancelled whole.
    """
    uuids = [str(uuid) for uuid in content.clients]
    wish = wish_of(content, idempotency_key)
    with call.write() as (tx, caller):
        made, is_new = orders.order_many(tx, caller, wish, uuids, content.hash, content.count, call.site.house)
        if is_new:
            call.note(tx, f"batch {content.action}", made, "made", {"clients": len(uuids), "hash": content.hash})
        shown = show.batch(tx, _found(tx, made))
    call.site.wake()
    response.status_code = 201 if is_new else 200
    return shown


@router.get("", summary="List batches", responses=documented())
def list_batches(call: Viewer, limit: Limit = 50, cursor: Cursor = None) -> models.BatchPage:
    """The newest first."""
    with call.read() as tx:
        try:
            rows, following = views.batches_page(tx, limit, cursor)
        except ValueError as error:
            raise Problem("bad_request", str(error)) from None
        return models.BatchPage(items=show.batches(tx, rows), next=following)


@router.get("/{batch_id:uuid}", summary="Read a batch", responses=documented("not_found"))
def read_batch(call: Viewer, batch_id: UUID) -> models.Batch:
    """How many of its commands are in each state; it is over when all have their verdict."""
    with call.read() as tx:
        return show.batch(tx, _found(tx, str(batch_id)))


@router.get(
    "/{batch_id:uuid}/members",
    summary="List the members of a batch",
    response_model=list[models.Member],
    responses=documented(
        "not_found", well={"description": "The members", "content": {files.CSV: {"example": _EXAMPLE_CSV}}}
    ),
)
def list_members(
    call: Viewer,
    batch_id: UUID,
    state: Annotated[State | None, Query(description="Only those whose command is in this state.")] = None,
    kind: Annotated[models.Name | None, Query(description="Only those for which this is the reason.")] = None,
    form: Annotated[str, Query(alias="format", pattern="^(json|csv)$", description="`json` or `csv`.")] = "json",
) -> Response | list[models.Member]:
    """Its clients, with the command of each, and what is in the way of those that have not done it."""
    found = members(call, batch_id, state, kind)
    if form == "csv":
        headers = {"Content-Disposition": f'attachment; filename="batch-{batch_id}.csv"'}
        rows = [each.model_dump(mode="json").values() for each in found]
        return Response(files.table(models.Member.model_fields, rows), media_type=files.CSV, headers=headers)
    return found


def members(call: Call, batch_id: UUID, state: State | None, kind: str | None) -> list[models.Member]:
    """Those in that state, and for that reason. Raises Problem."""
    with call.read() as tx:
        _found(tx, str(batch_id))
        rows = views.members(tx, str(batch_id), str(state) if state else None, kind)
    return [models.Member(command_id=row["id"], **{name: row[name] for name in _OF_MEMBER}) for row in rows]


@router.get("/{batch_id:uuid}/reasons", summary="Count the members by reason", responses=documented("not_found"))
def list_reasons(call: Viewer, batch_id: UUID) -> list[models.BatchReason]:
    """What is in the way, or was: each rule, code or step, and for how many. The most first."""
    with call.read() as tx:
        _found(tx, str(batch_id))
        return [models.BatchReason(**row) for row in views.reasons(tx, str(batch_id))]


@router.get("/{batch_id:uuid}/reconnects", summary="Read who came back how fast", responses=documented("not_found"))
def read_reconnects(call: Viewer, batch_id: UUID) -> models.Reconnects:
    """Of the clients of a batch, in steps of 15 seconds."""
    with call.read() as tx:
        _found(tx, str(batch_id))
        return show.reconnects(reconnects.of_batch(tx, str(batch_id)))


@router.post("/{batch_id:uuid}/cancel", summary="Cancel a batch", responses=documented("not_found"))
def cancel_batch(call: Operator, batch_id: UUID) -> models.Cancelled:
    """Take back what was not given to the broker yet."""
    with call.write() as (tx, caller):
        _found(tx, str(batch_id))
        rows = [row for row in views.members(tx, str(batch_id), None) if row["state"] != State.CANCELLED]
        fact = Cancelled(tx.now, caller.name)
        moved = commands.learn(tx, [(row["id"], fact) for row in rows], call.site.limits)
        call.note(tx, "cancel batch", str(batch_id), f"{len(moved)} cancelled")
    return models.Cancelled(cancelled=len(moved), too_late=len(rows) - len(moved))


@router.post(
    "/{batch_id:uuid}/retry",
    summary="Preview another try for those that did not succeed",
    responses=documented("not_found", "nothing_eligible", "no_such_client", "bad_wait", "too_large"),
)
def retry_batch(call: Operator, batch_id: UUID, content: models.Retry | None = None) -> models.Preview:
    """Of the members whose command failed, expired, timed out or was blocked. Nothing is made.

    Create the batch as after any preview, with the same `wait_until` and `someone_is_there`.
    """
    how = content or models.Retry()
    with call.read() as tx:
        row = _found(tx, str(batch_id))
        wish = orders.Wish(Action(row["action"]), row["reason"], how.wait_until, how.someone_is_there)
        uuids = [each["client_uuid"] for each in views.members(tx, str(batch_id), None) if each["state"] in TO_RETRY]
        if not uuids:
            raise Problem("nothing_eligible", "no member of this batch has failed so far")
        return previewed(tx, call, wish, uuids)


def _found(tx: Transaction, batch_id: str) -> Row:
    row = views.batch_of(tx, batch_id)
    if row is None:
        raise Problem("not_found", f"there is no batch {batch_id}")
    return row
