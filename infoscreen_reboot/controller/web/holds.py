"""What holds commands now, which ports are not as they should be, and whom a message has not reached."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Path, Response

from infoscreen_reboot.controller.api import fleet, models, power, telling
from infoscreen_reboot.controller.api.access import Call
from infoscreen_reboot.controller.api.problems import Problem, checked
from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.web import shell
from infoscreen_reboot.controller.web.session import Admin, Operator, Sent, Viewer

router = APIRouter()

_OPENINGS = 3
_PORTS = 100
_NOTICES = 100
_RECENT = timedelta(days=3)


@router.get("/holds")
def show(call: Viewer) -> Response:
    return _page(call, "", "")


@router.post("/freezes")
def begin_freeze(call: Operator, sent: Sent) -> Response:
    why, until = sent.text("why"), sent.text("until", 40)
    try:
        fleet.begin_freeze(call, checked(models.NewFreeze, why=why, until=_moment(until, call.site.fleet_zone)))
    except Problem as problem:
        return _page(call, why, until, problem)
    return shell.see("/holds")


@router.post("/freezes/{freeze_id}/end")
def end_freeze(call: Operator, freeze_id: Annotated[int, Path(ge=1, lt=2**63)]) -> Response:
    fleet.end_freeze(call, freeze_id)
    return shell.see("/holds")


@router.post("/notify/test")
def send_test(call: Admin, sent: Sent) -> Response:
    """To one target, or to all: whoever looks after them sees what came of each."""
    wish = checked(models.NotifyTest, target=sent.text("target") or None)
    return shell.page(call, "notify-test.html", sent=telling.send_test(call, wish))


def _moment(text: str, zone: str) -> datetime | None:
    """What a browser's field for a time has, which knows no zone. Raises Problem."""
    if not text:
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M").replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Problem("invalid", "until: write it as 2026-11-26T14:00") from None


def _page(call: Call, why: str, until: str, problem: Problem | None = None) -> Response:
    ports = power.list_ports(call)
    held_off = power.list_cycles(call, held_off=True, limit=_PORTS)
    off = {each.client_uuid for each in held_off.items}
    since = shell.clock(call) - _RECENT
    return shell.page(
        call,
        "holds.html",
        200 if problem is None else shell.again(problem),
        holds=fleet.list_holds(call),
        coming=fleet.list_freezes(call, coming=True),
        windows=fleet.list_windows(call, _OPENINGS),
        held_off=held_off.items,
        ports=[each for each in ports if each.client_uuid not in off][:_PORTS],
        names={each.client_uuid: each.name for each in ports},
        port_count=len(ports),
        notices=[each for each in telling.list_notices(call, _NOTICES).items if each.at >= since],
        told=telling.list_targets(call),
        days=_RECENT.days,
        zone=call.site.fleet_zone,
        may_change=call.who.role.covers(Role.ADMIN),
        may_freeze=call.who.role.covers(Role.OPERATOR),
        why=why,
        until=until,
        fault=problem.detail if problem is not None else None,
    )
