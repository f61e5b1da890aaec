"""Who one is: one's own password, and one's own sessions and tokens."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter, Response

from infoscreen_reboot.controller import passwords
from infoscreen_reboot.controller.api import fleet, models, people
from infoscreen_reboot.controller.api.access import Call
from infoscreen_reboot.controller.api.problems import Problem, checked
from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.web import shell
from infoscreen_reboot.controller.web.session import Form, Sent, Viewer

router = APIRouter()


@router.get("/me")
def show(call: Viewer) -> Response:
    return _page(call)


@router.post("/me/password")
def set_password(call: Viewer, sent: Sent) -> Response:
    try:
        people.set_password(call, call.who.name, new_password(sent, sent.typed("current")))
    except Problem as problem:
        return _page(call, problem)
    return shell.see("/me")


@router.post("/me/revoke/{token_id:uuid}")
def revoke(call: Viewer, token_id: UUID) -> Response:
    """This session's own, too: then it leads to where one signs in."""
    people.revoke_token(call, token_id)
    return shell.see("/me")


def new_password(sent: Form, current: str = "") -> models.NewPassword:
    """Raises Problem if it was not typed the same twice."""
    if sent.typed("password") != sent.typed("again"):
        raise Problem("invalid", "the new password was not typed the same twice")
    return checked(models.NewPassword, password=sent.typed("password"), current=current or None)


def _page(call: Call, problem: Problem | None = None) -> Response:
    me = fleet.whoami(call)
    return shell.page(
        call,
        "me.html",
        200 if problem is None else shell.again(problem),
        me=me,
        tokens=[each for each in people.list_tokens(call) if each.user == call.who.name],
        # As the API has it: a session ends, so it cannot set a first password.
        can_set=not me.by_provider and (me.has_password or me.role is Role.ADMIN),
        fewest=passwords.FEWEST,
        fault=problem.detail if problem is not None else None,
    )
