"""`/schedules` and `/nights`: rules for nights, what comes of them next, and how each night ended."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Response

from infoscreen_reboot.controller import calendar, orders, report, schedules, selection, text, windows
from infoscreen_reboot.controller.api import models
from infoscreen_reboot.controller.api.access import Call, Operator, Viewer
from infoscreen_reboot.controller.api.batches import previewed
from infoscreen_reboot.controller.api.commands import MADE_BEFORE, Cursor, IdempotencyKey, Limit
from infoscreen_reboot.controller.api.problems import Problem, documented
from infoscreen_reboot.controller.calendar import NightState
from infoscreen_reboot.controller.schedules import Forecast
from infoscreen_reboot.controller.store import schedules as store
from infoscreen_reboot.controller.store.database import Row, Transaction

router = APIRouter(tags=["schedules"])

_CSV = "text/csv"
_EXAMPLE_CSV = "client_uuid,name,site,outcome,why,back_at,command_id\r\n"
_SAID = [name for name in models.NewSchedule.model_fields if name != "back_by_min"]
# Of a schedule that does not say by when all are to be back: so long after its window.
BACK_AFTER_MIN = 15
# Skips that are over are of no interest to whoever looks at a schedule.
_OLD = timedelta(days=7)
_MOST_SKIPS = 1000
Count = Annotated[int, Query(ge=1, le=60, description="How many nights of each zone.")]


@router.get("/schedules", summary="List the schedules", responses=documented())
def list_schedules(call: Viewer) -> list[models.Schedule]:
    """Those that were not deleted, the oldest first."""
    with call.read() as tx:
        rows = store.living(tx)
        skips = store.skips(tx, [row["id"] for row in rows])
        return [_schedule(tx, row, skips[row["id"]]) for row in rows]


@router.post(
    "/schedules",
    status_code=201,
    summary="Create a schedule",
    responses=documented("exists", "bad_selector", "too_large"),
)
def create_schedule(call: Operator, content: models.NewSchedule) -> models.Schedule:
    """It begins with the next night that has not begun."""
    with call.write() as (tx, caller):
        values = _values(tx, call, content)
        _check(tx, call, values, None)
        made = store.create(tx, values, caller.name)
        call.note(tx, "create schedule", made, "made", values)
        return _shown(tx, made)


@router.post("/schedules/preview", summary="Preview a new schedule", responses=documented("bad_selector", "too_large"))
def preview_new_schedule(call: Operator, content: models.NewSchedule, nights: Count = 5) -> list[models.Forecast]:
    """Its next nights in each zone that its clients have now. Nothing is made."""
    with call.read() as tx:
        values = _values(tx, call, content)
        _check(tx, call, values, None, is_draft=True)
        return _forecasts(tx, call, values, {}, nights)


@router.get("/schedules/{schedule_id:uuid}", summary="Read a schedule", responses=documented("not_found"))
def read_schedule(call: Viewer, schedule_id: UUID) -> models.Schedule:
    """Its `version` is what a change has to name."""
    with call.read() as tx:
        return _shown(tx, str(schedule_id))


@router.patch(
    "/schedules/{schedule_id:uuid}",
    summary="Change a schedule",
    responses=documented("not_found", "exists", "bad_selector", "changed_meanwhile", "too_large"),
)
def change_schedule(call: Operator, schedule_id: UUID, content: models.ScheduleChange) -> models.Schedule:
    """From the next night on that has not begun. If somebody has changed it since you looked, the answer is 412."""
    with call.write() as (tx, caller):
        row, changed = _changed(tx, call, schedule_id, content)
        store.change(tx, row["id"], changed, caller.name)
        call.note(tx, "change schedule", row["id"], "changed", changed)
        return _shown(tx, row["id"])


@router.post(
    "/schedules/{schedule_id:uuid}/preview",
    summary="Preview a change of a schedule",
    responses=documented("not_found", "exists", "bad_selector", "changed_meanwhile", "too_large"),
)
def preview_change(
    call: Operator, schedule_id: UUID, content: models.ScheduleChange, nights: Count = 5
) -> list[models.Forecast]:
    """Its next nights if it were changed. Nothing is changed."""
    with call.read() as tx:
        row, changed = _changed(tx, call, schedule_id, content)
        return _forecasts(tx, call, {**row, **changed}, store.skips(tx, [row["id"]])[row["id"]], nights)


@router.delete(
    "/schedules/{schedule_id:uuid}",
    status_code=204,
    response_model=None,
    summary="Delete a schedule",
    responses=documented("not_found"),
)
def delete_schedule(call: Operator, schedule_id: UUID) -> None:
    """A night that runs goes on to its end: to stop it, cancel its batch. Its nights and reports stay."""
    with call.write() as (tx, caller):
        row = _living(tx, schedule_id)
        store.remove(tx, row["id"], caller.name)
        call.note(tx, "delete schedule", row["id"], "deleted", {"name": row["name"]})


@router.post("/schedules/{schedule_id:uuid}/pause", summary="Pause a schedule", responses=documented("not_found"))
def pause_schedule(call: Operator, schedule_id: UUID) -> models.Schedule:
    """No night begins until it is resumed. One that runs goes on."""
    with call.write() as (tx, caller):
        row = _living(tx, schedule_id)
        if row["paused_at"] is None:
            store.pause(tx, row["id"], caller.name)
            call.note(tx, "pause schedule", row["id"], "paused")
        return _shown(tx, row["id"])


@router.post("/schedules/{schedule_id:uuid}/resume", summary="Resume a schedule", responses=documented("not_found"))
def resume_schedule(call: Operator, schedule_id: UUID) -> models.Schedule:
    """From the next night on that has not begun."""
    with call.write() as (tx, _):
        row = _living(tx, schedule_id)
        if row["paused_at"] is not None:
            store.pause(tx, row["id"], None)
            call.note(tx, "resume schedule", row["id"], "resumed")
        return _shown(tx, row["id"])


@router.post(
    "/schedules/{schedule_id:uuid}/skip", summary="Take one night out", responses=documented("not_found", "too_large")
)
def skip_night(call: Operator, schedule_id: UUID, content: models.Skip) -> models.Schedule:
    """In every zone in which it has not begun."""
    day = _day(content.day)
    with call.write() as (tx, caller):
        row = _living(tx, schedule_id)
        if day < (tx.now - _OLD).date():
            raise Problem("invalid", f"day: {day} is over")
        if len(store.skips(tx, [row["id"]])[row["id"]]) >= _MOST_SKIPS:
            raise Problem("invalid", f"day: more than {_MOST_SKIPS} nights are taken out; change the rule, or pause it")
        if store.skip(tx, row["id"], day, caller.name):
            call.note(tx, "skip night", row["id"], "skipped", {"day": content.day})
        return _shown(tx, row["id"])


@router.post(
    "/schedules/{schedule_id:uuid}/unskip",
    summary="Put a night back that was taken out",
    responses=documented("not_found", "too_large"),
)
def unskip_night(call: Operator, schedule_id: UUID, content: models.Skip) -> models.Schedule:
    """Where it was to begin before now, it stays out."""
    with call.write() as (tx, _):
        row = _living(tx, schedule_id)
        if store.unskip(tx, row["id"], _day(content.day)):
            call.note(tx, "unskip night", row["id"], "put back", {"day": content.day})
        return _shown(tx, row["id"])


@router.get("/schedules/{schedule_id:uuid}/preview", summary="List the next nights", responses=documented("not_found"))
def preview_schedule(call: Viewer, schedule_id: UUID, nights: Count = 5) -> list[models.Forecast]:
    """In each zone that its clients have now, with those nights marked in which the clocks change."""
    with call.read() as tx:
        row = _living(tx, schedule_id)
        return _forecasts(tx, call, row, store.skips(tx, [row["id"]])[row["id"]], nights)


@router.post(
    "/schedules/{schedule_id:uuid}/run/preview",
    summary="Preview a run of now",
    responses=documented("not_found", "no_such_client"),
)
def preview_run(call: Operator, schedule_id: UUID) -> models.Preview:
    """Whom it would reboot now, and which rule holds each of the others. Nothing is made."""
    with call.read() as tx:
        row = _living(tx, schedule_id)
        return previewed(tx, call, schedules.wish_of(tx, row), orders.select_clients(tx, row["selector"]))


@router.post(
    "/schedules/{schedule_id:uuid}/run",
    status_code=201,
    summary="Run a schedule now",
    responses=documented(
        *("not_found", "no_such_client", "preview_changed", "count_differs", "nothing_eligible", "key_used_otherwise"),
        "too_large",
        well={"model": models.Night, "description": MADE_BEFORE},
    ),
)
def run_schedule(
    call: Operator,
    response: Response,
    schedule_id: UUID,
    content: models.RunSchedule,
    idempotency_key: IdempotencyKey = None,
) -> models.Night:
    """Beside its nights, which come all the same. All at once, as far as budgets let them, and with a report."""
    uuids = [str(uuid) for uuid in content.clients]
    with call.write() as (tx, caller):
        row = _living(tx, schedule_id)
        seen = content.hash, content.count
        night, is_new = schedules.run_now(tx, caller, row, uuids, seen, call.site.house, idempotency_key)
        if is_new:
            call.note(tx, "run schedule", row["id"], "made", {"clients": len(uuids), "hash": content.hash})
    call.site.wake()
    response.status_code = 201 if is_new else 200
    return _night(night)


# --- Nights


@router.get("/schedules/{schedule_id:uuid}/nights", summary="List its nights", responses=documented("not_found"))
def list_nights_of_schedule(
    call: Viewer, schedule_id: UUID, limit: Limit = 50, cursor: Cursor = None
) -> models.NightPage:
    """Those that have begun, or were missed or taken out; the newest first. Also of one that was deleted."""
    with call.read() as tx:
        if store.schedule_of(tx, str(schedule_id)) is None:
            raise Problem("not_found", f"there is no schedule {schedule_id}")
        return _page(tx, str(schedule_id), limit, cursor)


@router.get("/nights", summary="List the nights of all schedules", responses=documented())
def list_nights(
    call: Viewer,
    is_open: Annotated[bool | None, Query(alias="open", description="Only those that run, or do not.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> models.NightPage:
    """The newest first."""
    with call.read() as tx:
        return _page(tx, None, limit, cursor, is_open)


@router.get("/nights/{night_id:uuid}", summary="Read a night", responses=documented("not_found"))
def read_night(call: Viewer, night_id: UUID) -> models.Night:
    """Its batch has the commands."""
    with call.read() as tx:
        return _night(_found(tx, night_id))


@router.get(
    "/nights/{night_id:uuid}/report",
    summary="Read the report of a night",
    response_model=models.Report,
    responses=documented("not_found", well={"description": "The report", "content": {_CSV: {"example": _EXAMPLE_CSV}}}),
)
def read_report(
    call: Viewer,
    night_id: UUID,
    form: Annotated[str, Query(alias="format", pattern="^(json|csv)$", description="`json` or `csv`.")] = "json",
) -> Response | models.Report:
    """Who is back, late, not back, or was left out and why. Of a night that runs: as things stand now."""
    with call.read() as tx:
        row = _found(tx, night_id)
        kept = row["report"]
        if kept is None:
            lines = [report.line(member, row["back_by"]) for member in store.members(tx, row["id"])]
            kept = report.content(lines)
    if form == "csv":
        headers = {"Content-Disposition": f'attachment; filename="night-{night_id}.csv"'}
        return Response(report.to_csv(kept), media_type=_CSV, headers=headers)
    return models.Report(night=_night(row), is_final=row["state"] != NightState.RUNNING, **kept)


def _page(
    tx: Transaction, schedule_id: str | None, limit: int, cursor: str | None, is_running: bool | None = None
) -> models.NightPage:
    try:
        rows, following = store.nights_page(tx, schedule_id, limit, cursor, is_running)
    except ValueError as error:
        raise Problem("bad_request", str(error)) from None
    return models.NightPage(items=[_night(row) for row in rows], next=following)


# --- What is taken and shown


def _values(tx: Transaction, call: Call, content: models.NewSchedule) -> dict[str, Any]:
    values = content.model_dump(mode="json")
    if content.back_by_min is None:
        values["back_by_min"] = content.window_min + BACK_AFTER_MIN
    zone = calendar.known(content.zone or call.site.house.zone)
    return values | {"anchor": tx.now.astimezone(zone).date().isoformat()}


def _check(tx: Transaction, call: Call, values: Mapping[str, Any], own: str | None, *, is_draft: bool = False) -> None:
    """Raises Problem for what cannot be done as it is said."""
    if (name := values["name"]) != name.strip() or not text.is_clean(name, text.LINE):
        raise Problem("invalid", "name: it has no control characters, and no space before or after it")
    try:
        selection.parse(values["selector"])
    except selection.SelectorError as error:
        raise Problem("bad_selector", str(error)) from None
    try:
        plan = schedules.plan_of(values, call.site.limits, tx.now)
    except ValueError as error:
        raise Problem("invalid", f"rule: {error}") from None
    if fault := calendar.fault(plan):
        raise Problem("invalid", fault)
    if values["zone"] is not None:
        try:
            windows.zone_named(values["zone"])
        except ValueError as error:
            raise Problem("invalid", f"zone: {error}") from None
    if not is_draft and store.bearer_of(tx, name, own) is not None:
        raise Problem("exists", f"there is a schedule {name}")


def _changed(
    tx: Transaction, call: Call, schedule_id: UUID, content: models.ScheduleChange
) -> tuple[Row, dict[str, Any]]:
    """The schedule, and what of it is to be another. Raises Problem, also if somebody has changed it since."""
    changed = content.model_dump(exclude_unset=True, exclude={"version"})
    nothing = next((name for name, value in changed.items() if value is None and name != "zone"), None)
    if nothing is not None:
        raise Problem("invalid", f"{nothing}: it cannot be taken away")
    row = _living(tx, schedule_id)
    if row["version"] != content.version:
        detail = f"version {content.version} was changed by {row['changed_by']}: look at it again"
        raise Problem("changed_meanwhile", detail, version=row["version"])
    _check(tx, call, {name: row[name] for name in (*_SAID, "back_by_min", "anchor")} | changed, row["id"])
    return row, changed


def _day(said: str) -> date:
    try:
        return date.fromisoformat(said)
    except ValueError:
        raise Problem("invalid", f"day: {said} is no day of the calendar") from None


def _living(tx: Transaction, schedule_id: UUID) -> Row:
    row = store.schedule_of(tx, str(schedule_id))
    if row is None or row["deleted_at"] is not None:
        raise Problem("not_found", f"there is no schedule {schedule_id}")
    return row


def _found(tx: Transaction, night_id: UUID) -> Row:
    row = store.night_of(tx, str(night_id))
    if row is None:
        raise Problem("not_found", f"there is no night {night_id}")
    return row


def _shown(tx: Transaction, schedule_id: str) -> models.Schedule:
    row = _living(tx, UUID(schedule_id))
    return _schedule(tx, row, store.skips(tx, [schedule_id])[schedule_id])


def _schedule(tx: Transaction, row: Row, skips: Mapping[date, str]) -> models.Schedule:
    known = {name: row[name] for name in models.Schedule.model_fields if name != "skips"}
    since = (tx.now - _OLD).date()
    return models.Schedule(**known, skips=[day.isoformat() for day in skips if day >= since])


def _night(row: Row) -> models.Night:
    known = {name: row[name] for name in models.Night.model_fields if name != "schedule"}
    return models.Night(**known, schedule=row["name"])


def _forecasts(
    tx: Transaction, call: Call, row: Row | Mapping[str, Any], skips: Mapping[date, str], count: int
) -> list[models.Forecast]:
    try:
        found = schedules.forecast(tx, row, skips, call.site.house, call.site.limits, count)
    except ValueError as error:
        # A later version may have written what this one cannot read.
        raise Problem("invalid", f"rule: {error}") from None
    return [_forecast(each) for each in found]


def _forecast(found: Forecast) -> models.Forecast:
    zone = calendar.known(found.zone)
    nights = [
        models.ComingNight(
            day=night.day.isoformat(),
            starts_at=night.starts_at,
            starts_local=night.starts_at.astimezone(zone).isoformat(),
            ends_at=night.ends_at,
            back_by=night.back_by,
            clocks=clocks,
            skipped_by=by,
        )
        for night, clocks, by in found.nights
    ]
    return models.Forecast(zone=found.zone, clients=found.clients, fault=found.fault, nights=nights)
