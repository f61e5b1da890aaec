"""Rules for nights: what comes of each next, in both times; and a new one, which is looked at before it is made."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from infoscreen_reboot.controller import orders
from infoscreen_reboot.controller.api import models, schedules
from infoscreen_reboot.controller.api.access import Call
from infoscreen_reboot.controller.api.problems import Problem, checked
from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.orders import Refused
from infoscreen_reboot.controller.web import action, fields, shell
from infoscreen_reboot.controller.web.session import Operator, Sent, Viewer

router = APIRouter()

_NEXT = 5
_LAST = 10
_PAGE = 20


@dataclass(frozen=True, slots=True)
class Line:
    """One schedule, and the first of its nights that is not taken out. `fault` says why none can be reckoned."""

    schedule: models.Schedule
    rule: str
    night: models.ComingNight | None
    zone: str
    zones: int
    fault: str | None


@router.get("/schedules")
def show_all(call: Viewer) -> Response:
    return shell.page(
        call,
        "schedules.html",
        lines=[_line(call, each) for each in schedules.list_schedules(call)],
        nights=schedules.list_nights(call, limit=_LAST).items,
        may_change=call.who.role.covers(Role.OPERATOR),
    )


def _line(call: Call, schedule: models.Schedule) -> Line:
    forecasts, fault = _forecasts(call, schedule)
    coming = [(night, each.zone) for each in forecasts for night in each.nights if night.skipped_by is None]
    night, zone = min(coming, key=_start, default=(None, ""))
    return Line(schedule, fields.rule_in_words(schedule.rule), night, zone, len(forecasts), fault)


def _start(coming: tuple[models.ComingNight, str]) -> datetime:
    return coming[0].starts_at


def _forecasts(call: Call, schedule: models.Schedule) -> tuple[list[models.Forecast], str | None]:
    try:
        return schedules.preview_schedule(call, schedule.id, _NEXT), None
    except Problem as problem:
        if problem.kind != "invalid":
            raise
        return [], problem.detail


# --- A new one


@router.get("/schedules/new")
def show_new(call: Operator) -> Response:
    return _form(call, fields.EMPTY, [])


@router.post("/schedules/new")
def preview(call: Operator, sent: Sent) -> Response:
    """Makes nothing, so it may be read again."""
    said, days = fields.said(sent)
    try:
        wanted = fields.wanted(said, days)
        forecasts = schedules.preview_new_schedule(call, wanted, _NEXT)
    except Problem as problem:
        return _form(call, said, days, problem)
    return _form(call, said, days, wanted=wanted, forecasts=forecasts)


@router.post("/schedules")
def make(call: Operator, sent: Sent) -> Response:
    said, days = fields.said(sent)
    try:
        made = schedules.create_schedule(call, fields.wanted(said, days))
    except Problem as problem:
        return _form(call, said, days, problem)
    return shell.see(f"/schedules/{made.id}")


def _form(
    call: Call,
    said: dict[str, str],
    days: list[str],
    problem: Problem | None = None,
    wanted: models.NewSchedule | None = None,
    forecasts: list[models.Forecast] | None = None,
) -> Response:
    return shell.page(
        call,
        "schedule-new.html",
        200 if problem is None else shell.again(problem),
        said=said,
        days=days,
        weekdays=fields.WEEKDAYS,
        wanted=wanted,
        rule=fields.rule_in_words(wanted.rule) if wanted else "",
        forecasts=forecasts or [],
        fault=problem.detail if problem is not None else None,
    )


# --- One


@router.get("/schedules/{schedule_id:uuid}")
def show(call: Viewer, schedule_id: UUID, cursor: Annotated[str | None, Query(max_length=80)] = None) -> Response:
    schedule = schedules.read_schedule(call, schedule_id)
    forecasts, fault = _forecasts(call, schedule)
    return shell.page(
        call,
        "schedule.html",
        schedule=schedule,
        rule=fields.rule_in_words(schedule.rule),
        forecasts=forecasts,
        fault=fault,
        nights=schedules.list_nights_of_schedule(call, schedule_id, _PAGE, cursor),
        may_change=call.who.role.covers(Role.OPERATOR),
    )


@router.post("/schedules/{schedule_id:uuid}/pause")
def pause(call: Operator, schedule_id: UUID) -> Response:
    schedules.pause_schedule(call, schedule_id)
    return _see(schedule_id)


@router.post("/schedules/{schedule_id:uuid}/resume")
def resume(call: Operator, schedule_id: UUID) -> Response:
    schedules.resume_schedule(call, schedule_id)
    return _see(schedule_id)


@router.post("/schedules/{schedule_id:uuid}/skip")
def skip(call: Operator, schedule_id: UUID, sent: Sent) -> Response:
    schedules.skip_night(call, schedule_id, checked(models.Skip, day=sent.text("day", 10)))
    return _see(schedule_id)


@router.post("/schedules/{schedule_id:uuid}/unskip")
def unskip(call: Operator, schedule_id: UUID, sent: Sent) -> Response:
    schedules.unskip_night(call, schedule_id, checked(models.Skip, day=sent.text("day", 10)))
    return _see(schedule_id)


def _see(schedule_id: UUID) -> Response:
    return shell.see(f"/schedules/{schedule_id}")


# --- Now


@router.post("/schedules/{schedule_id:uuid}/run")
def confirm_run(call: Operator, schedule_id: UUID) -> Response:
    """Changes nothing, so it may be read again."""
    return _confirmation(call, schedule_id)


@router.post("/schedules/{schedule_id:uuid}/run/order")
def run(call: Operator, schedule_id: UUID, sent: Sent) -> Response:
    seen = checked(
        models.RunSchedule, clients=sent.uuids("client"), hash=sent.text("hash"), count=action.count_of(sent)
    )
    try:
        night = schedules.run_schedule(call, Response(), schedule_id, seen, action.order_id_of(sent))
    except Refused as error:
        if error.kind not in action.MOVED:
            raise
        return _confirmation(call, schedule_id, str(error))
    return shell.see(f"/nights/{night.id}")


def _confirmation(call: Call, schedule_id: UUID, fault: str | None = None) -> Response:
    schedule = schedules.read_schedule(call, schedule_id)
    shown = schedules.preview_run(call, schedule_id)
    wait_until = shell.clock(call) + min(timedelta(minutes=schedule.window_min), orders.LONGEST_WAIT)
    order_at = f"/schedules/{schedule_id}/run/order"
    return action.confirmation(call, shown, wait_until, fault, order_at=order_at, schedule=schedule)
