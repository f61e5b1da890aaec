"""`/users`, `/tokens`, `/audit`: who may do what, and what everybody did."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query

from infoscreen_reboot.controller import passwords
from infoscreen_reboot.controller.api import models
from infoscreen_reboot.controller.api.access import Admin, Call, Viewer
from infoscreen_reboot.controller.api.commands import Limit
from infoscreen_reboot.controller.api.problems import Problem, documented
from infoscreen_reboot.controller.auth import Identity, Role
from infoscreen_reboot.controller.store import people
from infoscreen_reboot.controller.store.database import Row, Transaction

router = APIRouter(tags=["people"])


@router.get("/users", summary="List the users", responses=documented())
def list_users(call: Admin) -> list[models.User]:
    """All of them, also the disabled ones."""
    with call.read() as tx:
        return [_user(row) for row in people.users(tx)]


@router.post("/users", status_code=201, summary="Add a user", responses=documented("exists", "too_large"))
def add_user(call: Admin, content: models.NewUser) -> models.User:
    """Give him a token next: `POST /tokens` with his name."""
    with call.write() as (tx, _):
        if not people.add_user(tx, content.name, content.role, content.may_shut_down):
            raise Problem("exists", f"there is a user {content.name}")
        call.note(tx, "add user", content.name, "made", content.model_dump(mode="json", exclude={"name"}))
        return _user(_found(tx, content.name))


@router.patch("/users/{name}", summary="Change a user", responses=documented("not_found", "last_admin", "too_large"))
def change_user(call: Admin, name: Annotated[models.UserName, Path()], content: models.UserChange) -> models.User:
    """A disabled user's tokens are of no use, at once. What he has ordered goes on, until somebody cancels it."""
    with call.write() as (tx, _):
        _found(tx, name)
        try:
            people.change_user(tx, name, content.role, content.may_shut_down, content.is_disabled)
        except people.LastAdmin:
            raise Problem("last_admin", f"nobody else is an admin: {name} has to stay one", user=name) from None
        call.note(tx, "change user", name, "changed", content.model_dump(mode="json", exclude_unset=True))
        return _user(_found(tx, name))


@router.put(
    "/users/{name}/password",
    status_code=204,
    response_model=None,
    summary="Set a password",
    responses=documented("not_found", "changed_meanwhile", "too_large"),
)
def set_password(call: Viewer, name: Annotated[models.UserName, Path()], content: models.NewPassword) -> None:
    """Your own, with the `current` one if you have one; an admin sets anybody's. No token is revoked."""
    password = content.password.get_secret_value()
    is_own = name == call.who.name
    with call.read() as tx:
        _check_may_set_password(tx, call.who, name)
        before = people.password_hash_of(tx, name)
    fault = passwords.fault_of(password, name)
    if fault is not None:
        raise Problem("invalid", fault)
    # Outside of a transaction: a hash takes long, and nobody else could write meanwhile.
    if is_own and before is not None:
        current = content.current.get_secret_value() if content.current is not None else ""
        if not passwords.is_right(before, current):
            raise Problem("forbidden", "the current password is another one")
    password_hash = passwords.hashed(password)
    with call.write() as (tx, _):
        now = people.identify_again(tx, call.who.token_id)
        assert now is not None  # `write` has just looked
        _check_may_set_password(tx, now, name)
        if people.password_hash_of(tx, name) != before:
            raise Problem("changed_meanwhile", f"somebody else has just set the password of {name}")
        people.set_password(tx, name, password_hash)
        call.note(tx, "set password", name, "changed")


def _check_may_set_password(tx: Transaction, who: Identity, name: str) -> None:
    """Whoever signs in has all rights of the user: a lesser token is not the way to them."""
    if who.role is not Role.ADMIN and name != who.name:
        raise Problem("forbidden", "only an admin sets the passwords of others")
    row = _found(tx, name)
    if row["subject"] is not None:
        # It would still open the door when the provider does not any more.
        raise Problem("forbidden", f"{name} signs in by the provider, and has no password here")
    is_whole = who.role == row["role"] and who.may_shut_down == row["may_shut_down"] and who.expires_at is None
    if who.role is not Role.ADMIN and row["password_hash"] is None and not is_whole:
        words = "a first password needs a token with all rights of its user, that does not expire; or an admin sets it"
        raise Problem("forbidden", words)


@router.get("/tokens", summary="List tokens", responses=documented())
def list_tokens(call: Viewer) -> list[models.Token]:
    """Your own; an admin sees all. Those that were revoked are left out."""
    with call.read() as tx:
        of = None if call.who.role is Role.ADMIN else call.who.name
        return [_token(row) for row in people.tokens(tx, of)]


@router.post("/tokens", status_code=201, summary="Make a token", responses=documented("not_found", "too_large"))
def make_token(call: Viewer, content: models.NewToken) -> models.MadeToken:
    """For yourself; an admin may make one for anybody. `token` is shown in this answer only."""
    if content.password is not None:
        _check_password(call, content.password.get_secret_value())
    with call.write() as (tx, caller):
        rights = _rights(tx, call, content.user or caller.name)
        role = content.role or rights.role
        if not rights.role.covers(role) or (content.may_shut_down and not rights.may_shut_down):
            raise Problem("forbidden", "a token has no more rights than its user, nor than the token that makes it")
        is_free = content.password is not None and rights.name == caller.name
        expires_at = _expires_at(tx.now, content.expires_in_days, None if is_free else rights.expires_at)
        made = people.add_token(tx, rights.name, content.name, role, content.may_shut_down, expires_at)
        about = {"user": rights.name, "role": str(role), "may_shut_down": content.may_shut_down}
        call.note(tx, "make token", made.token_id, "made", about)
        row = people.token_of(tx, made.token_id)
        assert row is not None
        return models.MadeToken(token=made.secret, **_token(row).model_dump())


def _check_password(call: Call, password: str) -> None:
    """Outside of a transaction that writes: it takes long."""
    with call.read() as tx:
        password_hash = people.password_hash_of(tx, call.who.name)
    if not passwords.is_right(password_hash, password):
        raise Problem("forbidden", "your password is another one")


def _rights(tx: Transaction, call: Call, user: str) -> Identity:
    """The most that a new token of this user may do."""
    now = people.identify_again(tx, call.who.token_id)
    assert now is not None  # `write` has just looked
    if user == now.name:
        return now
    if now.role is not Role.ADMIN:
        raise Problem("forbidden", "only an admin makes tokens for others")
    row = _found(tx, user)
    return Identity(user, Role(row["role"]), row["may_shut_down"], "")


def _expires_at(now: datetime, days: int | None, most: datetime | None) -> datetime | None:
    wanted = None if days is None else now + timedelta(days=days)
    ends = [end for end in (wanted, most) if end is not None]
    return min(ends) if ends else None


@router.delete(
    "/tokens/{token_id:uuid}",
    status_code=204,
    response_model=None,
    summary="Revoke a token",
    responses=documented("not_found"),
)
def revoke_token(call: Viewer, token_id: UUID) -> None:
    """Your own, or as an admin anybody's. Whoever reads events with it is cut off."""
    with call.write() as (tx, caller):
        row = people.token_of(tx, str(token_id))
        is_ours = row is not None and (call.who.role is Role.ADMIN or row["user_name"] == caller.name)
        if not is_ours or not people.revoke(tx, str(token_id)):
            raise Problem("not_found", f"there is no token {token_id}")
        call.note(tx, "revoke token", str(token_id), "revoked")


@router.get("/audit", summary="Read the audit", responses=documented())
def read_audit(
    call: Admin,
    limit: Limit = 50,
    cursor: Annotated[int | None, Query(ge=1, lt=2**63, description="`next` of the page before.")] = None,
) -> models.AuditPage:
    """What everybody did, and what was refused; the newest first."""
    with call.read() as tx:
        rows, following = people.audit_page(tx, limit, cursor)
    return models.AuditPage(items=[models.AuditLine(**row) for row in rows], next=following)


def _found(tx: Transaction, name: str) -> Row:
    row = people.user_of(tx, name)
    if row is None:
        raise Problem("not_found", f"there is no user {name}")
    return row


def _user(row: Row) -> models.User:
    return models.User(
        name=row["name"],
        role=row["role"],
        may_shut_down=row["may_shut_down"],
        is_disabled=row["disabled_at"] is not None,
        has_password=row["password_hash"] is not None,
        by_provider=row["subject"] is not None,
        created_at=row["created_at"],
    )


def _token(row: Row) -> models.Token:
    names = [name for name in models.Token.model_fields if name != "user"]
    return models.Token(user=row["user_name"], **{name: row[name] for name in names})
