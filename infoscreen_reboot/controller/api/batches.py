"""`/batches`: many commands from one preview; what was shown is what is made, or nothing is."""

from __future__ import annotations

from collections import Counter
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Request, Response

from infoscreen_reboot.controller import orders
from infoscreen_reboot.controller.api import access, models, show
from infoscreen_reboot.controller.api.access import operator, viewer
from infoscreen_reboot.controller.api.commands import wish_of
from infoscreen_reboot.controller.api.problems import Problem, documented
from infoscreen_reboot.controller.auth import Identity
from infoscreen_reboot.controller.lifecycle import Cancelled, State
from infoscreen_reboot.controller.store import commands, people, views
from infoscreen_reboot.controller.store.database import Row, Transaction

router = APIRouter(prefix="/batches", tags=["batches"])


@router.post("/preview", responses=documented("no_such_client", "bad_selector"))
def preview(
    request: Request, content: models.PreviewRequest, who: Annotated[Identity, Depends(operator)]
) -> models.Preview:
    """What would come of it now: nothing is made. Say either `clients` or `selector`."""
    site, caller = access.site(request), access.caller(request, who)
    if (content.clients is None) == (content.selector is None):
        raise Problem("invalid", "say either clients or selector")
    with site.database.read() as tx:
        if content.selector is not None:
            uuids = orders.select_clients(tx, content.selector)
        else:
            uuids = [str(uuid) for uuid in content.clients or []]
        shown = orders.preview(tx, caller, wish_of(content, None), uuids, site.house)
    return models.Preview(
        action=shown.action,
        hash=shown.hash,
        count=shown.count,
        clients=[UUID(uuid) for uuid in uuids],
        held={uuid: show.hold(answer) for uuid, answer in shown.held.items()},
        held_by_rule=dict(Counter(answer.rule for answer in shown.held.values())),
        warnings={uuid: list(words) for uuid, words in shown.warnings.items()},
    )


@router.post(
    "",
    status_code=201,
    responses=documented("no_such_client", "preview_changed", "nothing_eligible", "key_used_otherwise"),
)
def create(
    request: Request,
    response: Response,
    content: models.NewBatch,
    who: Annotated[Identity, Depends(operator)],
    idempotency_key: Annotated[models.Key | None, Header()] = None,
) -> models.Batch:
    """Make what the preview has shown. If anything has moved since, the answer is 412 and nothing is made.

    Nothing is sent within the first 5 seconds: until then the batch can be cancelled whole.
    """
    site, caller = access.site(request), access.caller(request, who)
    uuids = [str(uuid) for uuid in content.clients]
    wish = wish_of(content, idempotency_key)
    with site.database.write() as tx:
        made, is_new = orders.order_many(tx, caller, wish, uuids, content.hash, content.count, site.house)
        about = {"clients": len(uuids), "hash": content.hash}
        people.note(tx, who.name, caller.via, caller.address, f"batch {content.action}", made, "made", about)
        shown = show.batch(tx, _found(tx, made))
    site.wake()
    response.status_code = 201 if is_new else 200
    return shown


@router.get("/{batch_id}", responses=documented("not_found"))
def read(request: Request, batch_id: UUID, who: Annotated[Identity, Depends(viewer)]) -> models.Batch:
    with access.site(request).database.read() as tx:
        return show.batch(tx, _found(tx, str(batch_id)))


@router.get("/{batch_id}/members", responses=documented("not_found"))
def members(
    request: Request, batch_id: UUID, who: Annotated[Identity, Depends(viewer)], state: State | None = None
) -> list[models.Member]:
    """Its clients, with the command of each."""
    with access.site(request).database.read() as tx:
        _found(tx, str(batch_id))
        rows = views.members(tx, str(batch_id), str(state) if state else None)
    return [
        models.Member(client_uuid=row["client_uuid"], name=row["name"], command_id=row["id"], state=row["state"])
        for row in rows
    ]


@router.post("/{batch_id}/cancel", responses=documented("not_found"))
def cancel(request: Request, batch_id: UUID, who: Annotated[Identity, Depends(operator)]) -> models.Cancelled:
    """Take back what was not given to the broker yet."""
    site, caller = access.site(request), access.caller(request, who)
    with site.database.write() as tx:
        _found(tx, str(batch_id))
        rows = views.members(tx, str(batch_id), None)
        moved = commands.learn(tx, [(row["id"], Cancelled(tx.now)) for row in rows], site.limits)
        people.note(tx, who.name, caller.via, caller.address, "cancel batch", str(batch_id), f"{len(moved)} cancelled")
    return models.Cancelled(cancelled=len(moved), too_late=len(rows) - len(moved))


def _found(tx: Transaction, batch_id: str) -> Row:
    row = views.batch_of(tx, batch_id)
    if row is None:
        raise Problem("not_found", f"there is no batch {batch_id}")
    return row
