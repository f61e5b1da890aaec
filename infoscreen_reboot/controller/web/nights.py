"""The morning report: who is not back, and why, before those who are; on one page that can be printed."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter, Response

from infoscreen_reboot.controller.api import models, schedules
from infoscreen_reboot.controller.report import Outcome
from infoscreen_reboot.controller.web import shell
from infoscreen_reboot.controller.web.session import Viewer

router = APIRouter()

_MEANINGS = {
    Outcome.NOT_BACK: "somebody has to look at these",
    Outcome.BACK_LATE: "they are back, but were not in time",
    Outcome.SKIPPED: "they were not rebooted",
    Outcome.MOCK: "they only pretended to reboot",
    Outcome.BACK: "they rebooted and were back in time",
}


@router.get("/nights/{night_id:uuid}")
def show(call: Viewer, night_id: UUID) -> Response:
    report = schedules.read_report(call, night_id, "json")
    assert isinstance(report, models.Report)
    return shell.page(
        call,
        "night.html",
        report=report,
        night=report.night,
        count=len(report.lines),
        parts=[
            (outcome, meaning, [line for line in report.lines if line.outcome is outcome])
            for outcome, meaning in _MEANINGS.items()
        ],
    )


@router.get("/nights/{night_id:uuid}/report.csv")
def show_csv(call: Viewer, night_id: UUID) -> Response:
    """The API's own, for whoever has a session and no token."""
    report = schedules.read_report(call, night_id, "csv")
    assert isinstance(report, Response)
    return report
