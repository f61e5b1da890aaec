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

# For how many days a token may be made here, and in which words.
LASTS = {"1": "in a day", "30": "in 30 days", "90": "in 90 days", "365": "in a year", "": "when I revoke it"}


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


@router.post("/me/tokens")
def make_token(call: Viewer, sent: Sent) -> Response:
    """Shown in this answer, and never again: so it leads to no other page."""
    days, password = sent.text("days", 4), sent.typed("password")
    try:
        wish = checked(
            models.NewToken,
            name=sent.text("name"),
            role=sent.text("role"),
            expires_in_days=int(days) if days.isascii() and days.isdigit() else None,
            password=password or None,
        )
        made = people.make_token(call, wish)
    except Problem as problem:
        return _page(call, token_problem=problem)
    return _page(call, made=made)


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


def _page(
    call: Call,
    problem: Problem | None = None,
    token_problem: Problem | None = None,
    made: models.MadeToken | None = None,
) -> Response:
    """`problem` is of the password, `token_problem` of a token."""
    me, wrong = fleet.whoami(call), problem or token_problem
    status = 200 if made is None else 201
    return shell.page(
        call,
        "me.html",
        status if wrong is None else shell.again(wrong),
        me=me,
        tokens=[each for each in people.list_tokens(call) if each.user == call.who.name],
        # As the API has it: a session ends, so it cannot set a first password.
        can_set=not me.by_provider and (me.has_password or me.role is Role.ADMIN),
        fewest=passwords.FEWEST,
        fault=problem.detail if problem is not None else None,
        token_fault=token_problem.detail if token_problem is not None else None,
        made=made,
        roles=[each for each in Role if me.role.covers(each)],
        lasts=LASTS,
        ends_at=call.who.expires_at,
    )
