"""Users, their tokens, and what everybody did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import RowMapping, and_, insert, or_, select, update

from infoscreen_reboot.controller import auth
from infoscreen_reboot.controller.auth import Identity, Role
from infoscreen_reboot.controller.store.database import Transaction
from infoscreen_reboot.controller.store.tables import audit, token, user

# A token's use is written down once in so long: each request would be a write otherwise.
_USED_EVERY = timedelta(minutes=5)


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


def identify(tx: Transaction, secret: str) -> Identity | None:
    """Whose token this is, with the lesser of the token's and the user's rights; None if it is of no use (any more)."""
    valid = and_(
        token.c.digest == auth.digest(secret),
        token.c.revoked_at.is_(None),
        or_(token.c.expires_at.is_(None), token.c.expires_at > tx.now),
        user.c.disabled_at.is_(None),
    )
    columns = token.c.id, token.c.role, token.c.may_shut_down, user.c.name, user.c.role.label("user_role")
    query = select(*columns, user.c.may_shut_down.label("user_may")).join(user, user.c.name == token.c.user_name)
    row = tx.db.execute(query.where(valid)).one_or_none()
    if row is None:
        return None
    role = min(Role(row.role), Role(row.user_role), key=list(Role).index)
    return Identity(row.name, role, row.may_shut_down and row.user_may, row.id)


def note_use(tx: Transaction, token_id: str) -> None:
    """When a token was last used, within some minutes."""
    old = or_(token.c.used_at.is_(None), token.c.used_at < tx.now - _USED_EVERY)
    tx.db.execute(update(token).where(token.c.id == token_id, old).values(used_at=tx.now))


def users(tx: Transaction) -> list[RowMapping]:
    return list(tx.db.execute(select(user).order_by(user.c.name)).mappings())


def tokens(tx: Transaction) -> list[RowMapping]:
    return list(tx.db.execute(select(token).order_by(token.c.created_at)).mappings())


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
