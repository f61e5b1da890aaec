"""The one confirmation, whatever page it is asked from; and the order that follows it.

What is confirmed is a preview of the API: the clients by their ids, and a hash of what would become of each. If
anything has moved by the time of the order, nothing is made, and the confirmation is shown anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from fastapi import APIRouter, Response

from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.controller.api import batches, fleet, models
from infoscreen_reboot.controller.api.access import Call
from infoscreen_reboot.controller.api.problems import Problem, checked
from infoscreen_reboot.controller.condition import Condition
from infoscreen_reboot.controller.orders import Kind, Refused
from infoscreen_reboot.controller.web import shell
from infoscreen_reboot.controller.web.session import Form, Operator, Sent

router = APIRouter()

# What may be chosen for whom a rule holds: for how many minutes he waits. 0: he is left out.
WAITS = (0, 15, 60, 240, 720)
# After these an order is confirmed anew, by what is so now.
MOVED = (Kind.PREVIEW_CHANGED, Kind.COUNT_DIFFERS, Kind.NOTHING_ELIGIBLE)


@dataclass(frozen=True, slots=True)
class Meant:
    """Whom a preview means, by their ids; how many of those who would get it are where, and what time it is there."""

    clients: dict[str, models.FleetClient]
    places: list[tuple[str, int]]
    clocks: list[str]


def meant(call: Call, uuids: Sequence[UUID], eligible: Sequence[UUID]) -> Meant:
    clients = {str(client.uuid): client for client in fleet.read_some(call, [str(uuid) for uuid in uuids])}
    going = [clients[str(uuid)] for uuid in eligible]
    now = shell.clock(call)
    places = Counter(client.labels.get("site", "no site") for client in going)
    return Meant(clients, sorted(places.items()), sorted({shell.there(now, client.zone) for client in going}))


@router.post("/confirm")
def confirm(call: Operator, sent: Sent) -> Response:
    """Changes nothing, so it may be read again."""
    everybody = sent.text("all")
    action = _action(everybody or sent.text("action"))
    uuids = _matching(call, sent) if everybody else sent.uuids("client")
    if not uuids:
        raise Problem("nothing_eligible", "no client is selected: go back and choose at least one")
    return _confirmation(call, sent, action, uuids)


@router.post("/order")
def order(call: Operator, sent: Sent) -> Response:
    action, uuids = _action(sent.text("action")), sent.uuids("client")
    wish = checked(
        models.NewBatch,
        action=action,
        reason=sent.text("reason") or None,
        wait_until=_moment(sent.text("wait_until")),
        someone_is_there=bool(sent.text("someone_is_there")),
        clients=uuids,
        hash=sent.text("hash"),
        count=count_of(sent),
    )
    try:
        made = batches.create_batch(call, Response(), wish, order_id_of(sent))
    except Refused as error:
        if error.kind not in MOVED:
            raise
        return _confirmation(call, sent, action, uuids, str(error))
    return shell.see(f"/c/{uuids[0]}" if len(uuids) == 1 else f"/batches/{made.id}")


def _confirmation(call: Call, sent: Form, action: Action, uuids: list[UUID], fault: str | None = None) -> Response:
    minutes = next((each for each in WAITS if str(each) == sent.text("wait")), 0)
    wait_until = shell.clock(call) + timedelta(minutes=minutes) if minutes else None
    is_there = bool(sent.text("someone_is_there"))
    wish = checked(
        models.PreviewRequest, action=action, clients=uuids, wait_until=wait_until, someone_is_there=is_there
    )
    return confirmation(
        call,
        batches.preview_batch(call, wish),
        wait_until,
        fault,
        minutes=minutes,
        is_there=is_there,
        reason=sent.text("reason"),
    )


def confirmation(
    call: Call,
    preview: models.Preview,
    wait_until: datetime | None,
    fault: str | None,
    *,
    order_at: str = "/order",
    schedule: models.Schedule | None = None,
    minutes: int = 0,
    is_there: bool = False,
    reason: str = "",
) -> Response:
    """What is asked before anything goes out. The order is sent to `order_at`; a schedule says itself who waits."""
    return shell.page(
        call,
        "confirm.html",
        200 if fault is None else 412,
        preview=preview,
        meant=meant(call, preview.clients, preview.eligible),
        action=preview.action,
        waits=WAITS,
        minutes=minutes,
        wait_until=wait_until,
        is_there=is_there,
        waiting={str(uuid) for uuid in preview.eligible if str(uuid) in preview.held},
        order_id=str(uuid4()),
        order_at=order_at,
        schedule=schedule,
        reason=reason,
        fault=fault,
    )


def _action(name: str) -> Action:
    if name not in list(Action):
        raise Problem("invalid", f"{name[:40]!r} is nothing that can be ordered")
    return Action(name)


def order_id_of(sent: Form) -> str:
    """Made with the page: the same page sent twice makes nothing more."""
    found = sent.uuids("order_id")
    if len(found) != 1:
        raise Problem("invalid", "order_id: the page has lost it; open it again")
    return str(found[0])


def count_of(sent: Form) -> int | None:
    """The number that was typed; None if it is none."""
    count = sent.text("count", 6)
    return int(count) if count.isascii() and count.isdigit() else None


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        raise Problem("invalid", "wait_until: this is no time") from None


def _matching(call: Call, sent: Form) -> list[UUID]:
    """All that a search means, now; the confirmation shows how many they are."""
    name = sent.text("condition")
    condition = Condition(name) if name in list(Condition) else None
    found = fleet.matching(call, condition, sent.text("selector") or None, sent.text("text") or None)
    return [UUID(uuid) for uuid in found]
