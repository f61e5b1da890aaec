"""`/notices`, `/notify`: what people were told, whom, and whether it has arrived."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from infoscreen_reboot.controller import sending
from infoscreen_reboot.controller.api import models
from infoscreen_reboot.controller.api.access import Admin, Viewer
from infoscreen_reboot.controller.api.commands import Limit
from infoscreen_reboot.controller.api.problems import Problem, documented
from infoscreen_reboot.controller.notifying import Kind
from infoscreen_reboot.controller.store import deliveries, notices
from infoscreen_reboot.controller.store.database import Row

router = APIRouter(tags=["notices"])


@router.get("/notices", summary="List the notices", responses=documented())
def list_notices(
    call: Viewer,
    limit: Limit = 50,
    cursor: Annotated[int | None, Query(ge=1, lt=2**63, description="`next` of the page before.")] = None,
) -> models.NoticePage:
    """What happened that people are told of, the newest first, and what became of the message that tells it."""
    with call.read() as tx:
        rows = notices.page(tx, limit, cursor)
        found = rows[:limit]
        messages = notices.messages(tx, {row["message_id"] for row in found if row["message_id"] is not None})
        sent = deliveries.of_messages(tx, messages.keys())
    items = [_notice(row, messages.get(row["message_id"]), sent.get(row["message_id"], [])) for row in found]
    return models.NoticePage(items=items, next=found[-1]["id"] if len(rows) > limit else None)


def _notice(row: Row, message: Row | None, sent: list[Row]) -> models.Notice:
    told = None
    if message is not None:
        told = models.Message(
            id=message["id"],
            made_at=message["made_at"],
            title=message["title"],
            is_loud=message["is_loud"],
            deliveries=[
                models.Delivery(**{name: each[name] for name in models.Delivery.model_fields}) for each in sent
            ],
        )
    return models.Notice(
        id=row["id"],
        at=row["at"],
        kind=Kind(row["kind"]),
        subject=row["subject"],
        words=row["words"],
        site=row["site"],
        content=row["content"],
        is_settled=row["settled_at"] is not None,
        message=told,
    )


@router.get("/notify/targets", summary="List who is told", responses=documented())
def list_targets(call: Viewer) -> models.Targets:
    """As the file of targets of this instance says, without its secrets; and what they have not taken."""
    with call.read() as tx:
        undelivered = {row["target"]: row for row in deliveries.undelivered(tx)}
    found = []
    for target in call.site.targets:
        row = undelivered.get(target.name)
        found.append(
            models.Target(
                name=target.name,
                address=target.shown,
                kinds=None if target.kinds is None else sorted(target.kinds),
                only_loud=target.only_loud,
                waiting=row["waiting"] if row else 0,
                failed=row["failed"] if row else 0,
                words=row["words"] if row else None,
            )
        )
    return models.Targets(targets=found, faults=list(call.site.notify_faults))


@router.post("/notify/test", summary="Send a test message", responses=documented("not_found", "too_large"))
def send_test(call: Admin, content: models.NotifyTest) -> list[models.TestSent]:
    """To one target, or to all. The answer says of each one what came of it; it takes up to 20 seconds."""
    targets = [each for each in call.site.targets if content.target in (None, each.name)]
    if content.target is not None and not targets:
        raise Problem("not_found", f"there is no target {content.target}")
    with call.read() as tx:
        now = tx.now
    tried = sending.test(targets, now, call.site.deliver)  # outside of a transaction: it takes its time
    with call.write() as (tx, _):
        outcome = "sent" if all(each.words is None for each in tried) else "failed"
        said = {each.target.name: each.words or "sent" for each in tried}
        call.note(tx, "notify test", content.target, outcome, said)
    return [
        models.TestSent(
            target=each.target.name, address=each.target.shown, is_sent=each.words is None, words=each.words
        )
        for each in tried
    ]
