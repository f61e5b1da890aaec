"""A schedule that is changed: its nights are seen before, and what others have changed meanwhile is not overwritten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from fastapi import APIRouter, Response

from infoscreen_reboot.controller.api import models, schedules
from infoscreen_reboot.controller.api.access import Call
from infoscreen_reboot.controller.api.problems import Problem, checked
from infoscreen_reboot.controller.web import fields, shell
from infoscreen_reboot.controller.web.session import Form, Operator, Sent

router = APIRouter()

_NEXT = 5
# What of it can be changed, and how the form calls it.
_TITLES = {
    "name": "Name",
    "selector": "Clients",
    "rule": "On which days",
    "start": "Begins at",
    "zone": "In the time zone",
    "window_min": "Reboots go out for so many minutes",
    "spread_min": "Spread over so many minutes",
    "back_by_min": "All back by so many minutes",
}


@dataclass(frozen=True, slots=True)
class Edit:
    """What somebody has typed who saw it in `version`, where its fields were as in `before`."""

    version: int
    before: dict[str, str]
    said: dict[str, str]
    days: list[str]

    def wanted(self) -> models.NewSchedule:
        """Raises Problem for what cannot be meant."""
        found = fields.wanted(self.said, self.days)
        if found.back_by_min is None:
            return found.model_copy(update={"back_by_min": found.window_min + schedules.BACK_AFTER_MIN})
        return found

    def change(self) -> models.ScheduleChange:
        """Only what is another now. Raises Problem for what cannot be meant."""
        wanted = self.wanted()
        texts = _texts(wanted)
        changed = {name: getattr(wanted, name) for name in _TITLES if texts[name] != self.before[name]}
        return checked(models.ScheduleChange, version=self.version, **changed)


@dataclass(frozen=True, slots=True)
class Difference:
    """A field that somebody else has changed meanwhile. `typed` None: whoever types had not touched it."""

    title: str
    now: str
    typed: str | None


@router.get("/schedules/{schedule_id:uuid}/change")
def show(call: Operator, schedule_id: UUID) -> Response:
    schedule = schedules.read_schedule(call, schedule_id)
    before = _texts(schedule)
    return _form(call, schedule, Edit(schedule.version, before, *fields.filled(before)))


@router.post("/schedules/{schedule_id:uuid}/change")
def preview(call: Operator, schedule_id: UUID, sent: Sent) -> Response:
    """Changes nothing, so it may be read again."""
    edit = _edit(sent)
    try:
        wanted = edit.wanted()
        forecasts = schedules.preview_change(call, schedule_id, edit.change(), _NEXT)
    except Problem as problem:
        return _again(call, schedule_id, edit, problem)
    return _form(call, schedules.read_schedule(call, schedule_id), edit, wanted=wanted, forecasts=forecasts)


@router.post("/schedules/{schedule_id:uuid}")
def save(call: Operator, schedule_id: UUID, sent: Sent) -> Response:
    edit = _edit(sent)
    try:
        change = edit.change()
        if change.model_fields_set - {"version"}:
            schedules.change_schedule(call, schedule_id, change)
    except Problem as problem:
        return _again(call, schedule_id, edit, problem)
    return shell.see(f"/schedules/{schedule_id}")


def _edit(sent: Form) -> Edit:
    return Edit(
        shell.number({"version": sent.text("version")}, "version", "nothing: open the page again"),
        {name: sent.text(f"was_{name}") for name in _TITLES},
        *fields.said(sent),
    )


def _again(call: Call, schedule_id: UUID, edit: Edit, problem: Problem) -> Response:
    """With all that was typed. Of what somebody else has changed meanwhile both are shown."""
    schedule = schedules.read_schedule(call, schedule_id)
    if problem.kind != "changed_meanwhile":
        return _form(call, schedule, edit, problem)
    now, typed = _texts(schedule), _texts(edit.wanted())
    touched = [name for name in _TITLES if typed[name] != edit.before[name]]
    differences = [
        Difference(title, _words(name, now), _words(name, typed) if name in touched else None)
        for name, title in _TITLES.items()
        if now[name] != edit.before[name]
    ]
    merged = now | {name: typed[name] for name in touched}
    return _form(call, schedule, Edit(schedule.version, now, *fields.filled(merged)), problem, differences)


def _texts(schedule: models.Schedule | models.NewSchedule) -> dict[str, str]:
    values = {name: getattr(schedule, name) for name in _TITLES}
    return {name: "" if value is None else str(value) for name, value in values.items()}


def _words(name: str, texts: Mapping[str, str]) -> str:
    return fields.rule_in_words(texts[name]) if name == "rule" else texts[name]


def _form(
    call: Call,
    schedule: models.Schedule,
    edit: Edit,
    problem: Problem | None = None,
    differences: list[Difference] | None = None,
    wanted: models.NewSchedule | None = None,
    forecasts: list[models.Forecast] | None = None,
) -> Response:
    return shell.page(
        call,
        "schedule-change.html",
        200 if problem is None else shell.again(problem),
        schedule=schedule,
        edit=edit,
        weekdays=fields.WEEKDAYS,
        wanted=wanted,
        rule=fields.rule_in_words(wanted.rule) if wanted else "",
        forecasts=forecasts or [],
        differences=differences or [],
        fault=problem.detail if problem is not None else None,
    )
