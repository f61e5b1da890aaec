"""For admins: who may sign in, and what each of them may do."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Response

from infoscreen_reboot.controller import passwords
from infoscreen_reboot.controller.api import models, people
from infoscreen_reboot.controller.api.access import Call
from infoscreen_reboot.controller.api.problems import Problem, checked
from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.web import shell
from infoscreen_reboot.controller.web.account import new_password
from infoscreen_reboot.controller.web.session import Admin, Form, Sent

router = APIRouter()

Name = Annotated[models.UserName, Path()]
# What each may do, in the words of docs/controller.md.
_ROLES = {
    Role.VIEWER: "sees everything, changes nothing",
    Role.OPERATOR: "reboots, cancels, freezes, changes what is said of clients",
    Role.ADMIN: "also accepts clients, and manages users",
}


@router.get("/users")
def show_all(call: Admin) -> Response:
    return _list(call, "", Role.OPERATOR, False)


@router.post("/users")
def add(call: Admin, sent: Sent) -> Response:
    name, role, may_shut_down = sent.text("name"), sent.text("role"), bool(sent.text("may_shut_down"))
    try:
        people.add_user(call, checked(models.NewUser, name=name, role=role, may_shut_down=may_shut_down))
    except Problem as problem:
        return _list(call, name, role, may_shut_down, problem)
    return shell.see(f"/users/{name}")


@router.get("/users/{name}")
def show(call: Admin, name: Name) -> Response:
    return _one(call, name)


@router.post("/users/{name}")
def change(call: Admin, name: Name, sent: Sent) -> Response:
    try:
        people.change_user(call, name, _change(sent))
    except Problem as problem:
        return _one(call, name, problem)
    return shell.see(f"/users/{name}")


@router.post("/users/{name}/password")
def set_password(call: Admin, name: Name, sent: Sent) -> Response:
    try:
        people.set_password(call, name, new_password(sent))
    except Problem as problem:
        return _one(call, name, problem)
    return shell.see(f"/users/{name}")


@router.post("/users/{name}/revoke/{token_id:uuid}")
def revoke(call: Admin, name: Name, token_id: UUID) -> Response:
    people.revoke_token(call, token_id)
    return shell.see(f"/users/{name}")


def _change(sent: Form) -> models.UserChange:
    return checked(
        models.UserChange,
        role=sent.text("role"),
        may_shut_down=bool(sent.text("may_shut_down")),
        is_disabled=bool(sent.text("is_disabled")),
    )


def _list(call: Call, name: str, role: str, may_shut_down: bool, problem: Problem | None = None) -> Response:
    return shell.page(
        call,
        "users.html",
        200 if problem is None else shell.again(problem),
        users=people.list_users(call),
        roles=_ROLES,
        name=name,
        role=role,
        may_shut_down=may_shut_down,
        fault=problem.detail if problem is not None else None,
    )


def _one(call: Call, name: str, problem: Problem | None = None) -> Response:
    found = next((each for each in people.list_users(call) if each.name == name), None)
    if found is None:
        raise Problem("not_found", f"there is no user {name}")
    return shell.page(
        call,
        "user.html",
        200 if problem is None else shell.again(problem),
        user=found,
        tokens=[each for each in people.list_tokens(call) if each.user == name],
        roles=_ROLES,
        fewest=passwords.FEWEST,
        fault=problem.detail if problem is not None else None,
    )
