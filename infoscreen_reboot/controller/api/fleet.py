"""`/fleet`, `/freezes`, `/windows`, `/holds`, `/whoami`: how everybody stands, what holds everybody, and who one is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Path, Query

from infoscreen_reboot.controller import orders, windows
from infoscreen_reboot.controller.api import models, show
from infoscreen_reboot.controller.api.access import Call, Operator, Viewer
from infoscreen_reboot.controller.api.commands import Limit
from infoscreen_reboot.controller.api.problems import Problem, documented
from infoscreen_reboot.controller.calendar import clock_change
from infoscreen_reboot.controller.condition import MEANINGS, Condition
from infoscreen_reboot.controller.selection import Selector
from infoscreen_reboot.controller.store import batches, calendars, conditions, fleet, people, views
from infoscreen_reboot.controller.store.conditions import Wanted
from infoscreen_reboot.controller.store.database import Row, Transaction
from infoscreen_reboot.controller.windows import Window

router = APIRouter(tags=["fleet"])

_CALENDAR = tuple(models.Calendar.model_fields)
# As many as a batch may have.
MOST_AT_ONCE = 20_000
# Whoever means longer leaves the end open.
LONGEST_FREEZE = timedelta(days=366)


@router.get("/whoami", summary="Who am I?", responses=documented(), tags=["people"])
def whoami(call: Viewer) -> models.Whoami:
    """Your name, and the rights that this token has."""
    who = call.who
    with call.read() as tx:
        row = people.user_of(tx, who.name)
    assert row is not None  # a token has a user, and nobody deletes one
    return models.Whoami(
        name=who.name,
        role=who.role,
        may_shut_down=who.may_shut_down,
        has_password=row["password_hash"] is not None,
        by_provider=row["subject"] is not None,
    )


Text = Annotated[models.Name | None, Query(description="In their name, note, UUID or labels.")]
OfSelector = Annotated[str | None, Query(max_length=1000, description="As in `site=alpine,room!=bar`.")]


@router.get("/fleet", summary="How the clients stand", responses=documented("bad_selector"))
def read_fleet(call: Viewer, selector: OfSelector = None, text: Text = None) -> models.FleetSummary:
    """How many there are of each condition. Those that were rejected or retired are not counted."""
    with call.read() as tx:
        counts = conditions.counts(tx, _wanted(tx, selector, text))
    shown = [models.ConditionCount(condition=each, count=counts[each], meaning=MEANINGS[each]) for each in counts]
    return models.FleetSummary(conditions=shown, count=sum(counts.values()))


@router.get("/fleet/clients", summary="List clients, the sickest first", responses=documented("bad_selector"))
def list_fleet(
    call: Viewer,
    condition: Annotated[Condition | None, Query(description="Only those that stand in this way.")] = None,
    selector: OfSelector = None,
    text: Text = None,
    page: Annotated[int, Query(ge=1, le=100_000, description="From 1 on.")] = 1,
    limit: Limit = 50,
) -> models.ClientPage:
    """In pages, each as things stand when it is asked for. Those that were rejected or retired are not in it."""
    with call.read() as tx:
        wanted = _wanted(tx, selector, text)
        counts = conditions.counts(tx, wanted)
        uuids = [uuid for uuid, _ in conditions.page(tx, wanted, condition, limit, (page - 1) * limit)]
        shown = show.fleet_clients(tx, views.client_rows(tx, uuids), call.site.fleet_zone)
    clients = {str(each.uuid): each for each in shown}
    count = counts[condition] if condition is not None else sum(counts.values())
    pages = max(1, -(-count // limit))
    return models.ClientPage(items=[clients[uuid] for uuid in uuids], count=count, page=page, pages=pages)


def read_some(call: Call, uuids: Sequence[str]) -> list[models.FleetClient]:
    """These clients, in this order; for the console. Who does not exist is left out."""
    with call.read() as tx:
        rows = views.client_rows(tx, uuids)
        found = {str(each.uuid): each for each in show.fleet_clients(tx, rows, call.site.fleet_zone)}
    return [found[uuid] for uuid in uuids if uuid in found]


def matching(call: Call, condition: Condition | None, selector: str | None, text: str | None) -> list[str]:
    """All clients that such a list has, on all of its pages; for the console. Raises Refused."""
    with call.read() as tx:
        found = conditions.page(tx, _wanted(tx, selector, text), condition, MOST_AT_ONCE, 0)
    return [uuid for uuid, _ in found]


def _wanted(tx: Transaction, selector: str | None, text: str | None) -> Wanted:
    return Wanted(text, orders.select_clients(tx, selector) if selector is not None else None)


@router.get("/freezes", summary="List the freezes", responses=documented())
def list_freezes(
    call: Viewer,
    coming: Annotated[bool, Query(description="Those of the calendar that have not begun yet, instead.")] = False,
) -> list[models.Freeze]:
    """Those that hold now: by hand, and of the calendar."""
    with call.read() as tx:
        return [_shown(row) for row in views.freezes(tx, coming)]


@router.post("/freezes", status_code=201, summary="Freeze the fleet", responses=documented("too_large"))
def begin_freeze(call: Operator, content: models.NewFreeze) -> models.Freeze:
    """From now on nothing is sent, until `until`, or until somebody ends it. What was sent goes on."""
    with call.write() as (tx, caller):
        if content.until is not None and not tx.now < content.until <= tx.now + LONGEST_FREEZE:
            raise Problem("invalid", "until: it has to lie ahead, and within a year")
        row = fleet.begin_freeze(tx, content.why, caller.name, content.until)
        call.note(tx, "freeze", str(row["id"]), "made", {"why": content.why})
    return _shown(row)


@router.delete(
    "/freezes/{freeze_id}",
    status_code=204,
    response_model=None,
    summary="End a freeze",
    responses=documented("not_found"),
)
def end_freeze(call: Operator, freeze_id: Annotated[int, Path(ge=1, lt=2**63)]) -> None:
    """What waits for it may go now. Of the calendar's: this event holds nothing any more, also one that is to come."""
    with call.write() as (tx, caller):
        if not fleet.end_freeze(tx, freeze_id, caller.name):
            raise Problem("not_found", f"no freeze {freeze_id} stands")
        call.note(tx, "end freeze", str(freeze_id), "ended")
    call.site.wake()


@router.get("/windows", summary="List the maintenance windows", responses=documented())
def list_windows(
    call: Viewer,
    openings: Annotated[int, Query(ge=1, le=60, description="How many of the next openings of each.")] = 5,
) -> list[models.Window]:
    """Those of the server's settings. A client that matches none of them may be sent commands at any time."""
    with call.read() as tx:
        everybody = batches.selected_labels(tx, Selector()).values()
    return [
        _window(window, selector, sum(map(selector.matches, everybody)), tx.now, openings)
        for selector, window in call.site.house.policy.windows
    ]


def _window(window: Window, selector: Selector, clients: int, now: datetime, count: int) -> models.Window:
    zone = ZoneInfo(window.zone)
    coming = windows.next_openings(window, now, count)
    return models.Window(
        selector=str(selector),
        days=[windows.DAYS[day] for day in sorted(window.days)],
        start=f"{window.start:%H:%M}",
        duration_h=window.duration / timedelta(hours=1),
        zone=window.zone,
        clients=clients,
        is_open=coming[0][0] <= now,
        openings=[
            models.Opening(
                opens_at=opens,
                closes_at=closes,
                opens_local=opens.astimezone(zone).isoformat(),
                clocks=clock_change(opens, closes, zone),
            )
            for opens, closes in coming
        ],
    )


@router.get("/holds", summary="What holds commands now", responses=documented())
def list_holds(call: Viewer) -> models.Holds:
    """The freezes that stand, and how many commands wait for each rule."""
    with call.read() as tx:
        freezes, waiting, calendar = views.freezes(tx), views.waiting(tx), calendars.state(tx)
    return models.Holds(
        freezes=[_shown(row) for row in freezes],
        calendar=None if calendar is None else models.Calendar(**{name: calendar[name] for name in _CALENDAR}),
        waiting=[models.Waiting(**row) for row in waiting],
    )


def _shown(row: Row) -> models.Freeze:
    return models.Freeze(**{name: row[name] for name in models.Freeze.model_fields})
