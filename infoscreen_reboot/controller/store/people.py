"""Users, their tokens, and what everybody did."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import ColumnElement, RowMapping, and_, insert, or_, select, update

from infoscreen_reboot.controller import auth
from infoscreen_reboot.controller.auth import Identity, Role
from infoscreen_reboot.controller.store.database import Transaction
from infoscreen_reboot.controller.store.tables import audit, token, user

# A token's use is written down once in so long: each request would be a write otherwise.
_USED_EVERY = timedelta(minutes=5)
_LONGEST_NAME = 64


class LastAdmin(Exception):
    """Nobody would be left who can make another admin."""


@dataclass(frozen=True, slots=True)
class NewToken:
    """`secret` is shown once, and stored nowhere."""

    token_id: str
    secret: str


def add_user(tx: Transaction, name: str, role: Role, may_shut_down: bool) -> bool:
    """Returns False if there is a user of that name."""
    if tx.db.execute(select(user.c.name).where(user.c.name == name)).one_or_none() is not None:
        return False
    values = {"name": name, "role": str(role), "may_shut_down": may_shut_down, "created_at": tx.now}
    tx.db.execute(insert(user).values(**values))
    return True


def add_provided(tx: Transaction, subject: str, name: str, role: Role) -> str:
    """Make a user for somebody whom a provider knows, and return his name here.

    It is never one that somebody has: then a number goes behind it.
    """
    taken = {each.casefold() for each in tx.db.execute(select(user.c.name)).scalars()}
    endings = ("" if number == 1 else f" {number}" for number in itertools.count(1))
    names = (name[: _LONGEST_NAME - len(ending)] + ending for ending in endings)
    free = next(each for each in names if each.casefold() not in taken)
    values = {"name": free, "role": str(role), "may_shut_down": False, "created_at": tx.now, "subject": subject}
    tx.db.execute(insert(user).values(**values))
    return free


def provided(tx: Transaction, subject: str) -> RowMapping | None:
    """The user whom a provider knows by that."""
    return tx.db.execute(select(user).where(user.c.subject == subject)).mappings().one_or_none()


def set_role(tx: Transaction, name: str, role: Role) -> None:
    """As a provider says, also of the last admin: whoever has the server can make another."""
    tx.db.execute(update(user).where(user.c.name == name).values(role=str(role)))


def make_admin(tx: Transaction, name: str) -> None:
    """A user with all rights, new or not."""
    rights = {"role": str(Role.ADMIN), "may_shut_down": True, "disabled_at": None}
    if tx.db.execute(update(user).where(user.c.name == name).values(**rights)).rowcount == 0:
        tx.db.execute(insert(user).values(name=name, created_at=tx.now, **rights))


def add_token(
    tx: Transaction, user_name: str, name: str, role: Role, may_shut_down: bool, expires_at: datetime | None
) -> NewToken:
    made = NewToken(str(uuid4()), auth.new_token())
    values = {
        "id": made.token_id,
        "name": name,
        "user_name": user_name,
        "role": str(role),
        "may_shut_down": may_shut_down,
        "digest": auth.digest(made.secret),
        "created_at": tx.now,
        "expires_at": expires_at,
    }
    tx.db.execute(insert(token).values(**values))
    return made


def revoke(tx: Transaction, token_id: str) -> bool:
    standing = and_(token.c.id == token_id, token.c.revoked_at.is_(None))
    return tx.db.execute(update(token).where(standing).values(revoked_at=tx.now)).rowcount == 1


def revoke_all(tx: Transaction, user_name: str) -> None:
    """All sessions and tokens of a user."""
    standing = and_(token.c.user_name == user_name, token.c.revoked_at.is_(None))
    tx.db.execute(update(token).where(standing).values(revoked_at=tx.now))


def identify(tx: Transaction, secret: str) -> Identity | None:
    """Whose token this is, with the lesser of the token's and the user's rights; None if it is of no use (any more)."""
    return _identity(tx, token.c.digest == auth.digest(secret))


def identify_again(tx: Transaction, token_id: str) -> Identity | None:
    """The same of a token that was seen before: its rights may be others by now."""
    return _identity(tx, token.c.id == token_id)


def _identity(tx: Transaction, which: ColumnElement[bool]) -> Identity | None:
    valid = and_(
        which,
        token.c.revoked_at.is_(None),
        or_(token.c.expires_at.is_(None), token.c.expires_at > tx.now),
        user.c.disabled_at.is_(None),
    )
    of_token = token.c.id, token.c.role, token.c.may_shut_down, token.c.expires_at, token.c.used_at
    of_user = user.c.name, user.c.role.label("user_role"), user.c.may_shut_down.label("user_may")
    query = select(*of_token, *of_user).join(user, user.c.name == token.c.user_name)
    row = tx.db.execute(query.where(valid)).one_or_none()
    if row is None:
        return None
    role = min(Role(row.role), Role(row.user_role), key=list(Role).index)
    return Identity(row.name, role, row.may_shut_down and row.user_may, row.id, row.expires_at, row.used_at)


def is_use_due(used_at: datetime | None, now: datetime) -> bool:
    return used_at is None or used_at < now - _USED_EVERY


def note_use(tx: Transaction, token_id: str) -> None:
    """When a token was last used, within some minutes."""
    old = or_(token.c.used_at.is_(None), token.c.used_at < tx.now - _USED_EVERY)
    tx.db.execute(update(token).where(token.c.id == token_id, old).values(used_at=tx.now))


def users(tx: Transaction) -> list[RowMapping]:
    return list(tx.db.execute(select(user).order_by(user.c.name)).mappings())


def user_of(tx: Transaction, name: str) -> RowMapping | None:
    return tx.db.execute(select(user).where(user.c.name == name)).mappings().one_or_none()


def change_user(
    tx: Transaction, name: str, role: Role | None, may_shut_down: bool | None, is_disabled: bool | None
) -> None:
    """What is None stays. Raises LastAdmin, and then nothing is changed."""
    row = tx.db.execute(select(user).where(user.c.name == name)).mappings().one()
    disabled_at = row["disabled_at"]
    if is_disabled is not None:
        disabled_at = (disabled_at or tx.now) if is_disabled else None
    changed = {
        "role": str(role or row["role"]),
        "may_shut_down": row["may_shut_down"] if may_shut_down is None else may_shut_down,
        "disabled_at": disabled_at,
    }
    stays_admin = changed["role"] == Role.ADMIN and disabled_at is None
    others = and_(user.c.role == Role.ADMIN, user.c.disabled_at.is_(None), user.c.name != name)
    if not stays_admin and tx.db.execute(select(user.c.name).where(others).limit(1)).one_or_none() is None:
        raise LastAdmin
    tx.db.execute(update(user).where(user.c.name == name).values(**changed))


def password_hash_of(tx: Transaction, name: str) -> str | None:
    """None if there is no such user, or he has no password."""
    return tx.db.execute(select(user.c.password_hash).where(user.c.name == name)).scalar_one_or_none()


def set_password(tx: Transaction, name: str, password_hash: str | None) -> None:
    """None takes it away."""
    tx.db.execute(update(user).where(user.c.name == name).values(password_hash=password_hash))


def tokens(tx: Transaction, user_name: str | None = None) -> list[RowMapping]:
    """Those that were not revoked, of one user or of all."""
    standing: ColumnElement[bool] = token.c.revoked_at.is_(None)
    if user_name is not None:
        standing = and_(standing, token.c.user_name == user_name)
    return list(tx.db.execute(select(token).where(standing).order_by(token.c.created_at, token.c.id)).mappings())


def token_of(tx: Transaction, token_id: str) -> RowMapping | None:
    return tx.db.execute(select(token).where(token.c.id == token_id)).mappings().one_or_none()


def audit_page(tx: Transaction, limit: int, before: int | None) -> tuple[list[RowMapping], int | None]:
    """The newest first, from before that number on; and before which the next page begins."""
    query = select(audit).order_by(audit.c.seq.desc()).limit(limit + 1)
    if before is not None:
        query = query.where(audit.c.seq < before)
    rows = list(tx.db.execute(query).mappings())
    return rows[:limit], rows[limit - 1]["seq"] if len(rows) > limit else None


def note(
    tx: Transaction,
    who: str,
    via: str,
    address: str | None,
    what: str,
    target: str | None,
    outcome: str,
    content: Mapping[str, Any] | None = None,
) -> None:
    """One line of the audit: also for what was refused."""
    values = {
        "at": tx.now,
        "who": who,
        "via": via,
        "address": address,
        "what": what,
        "target": target,
        "outcome": outcome,
        "content": dict(content) if content else None,
    }
    tx.db.execute(insert(audit).values(**values))
