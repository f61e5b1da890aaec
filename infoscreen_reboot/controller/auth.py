"""Who may do what: roles, rights and tokens. Pure, but for chance."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Role(StrEnum):
    """Each has all rights of those before it."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    def covers(self, other: Role) -> bool:
        order = list(Role)
        return order.index(self) >= order.index(other)


# So that a leaked one is recognised, by people and by scanners.
_PREFIX = "irc_"
_TOKEN_BYTES = 32


def new_token() -> str:
    """256 random bits: nobody guesses it, so a plain digest of it may be stored."""
    return _PREFIX + secrets.token_urlsafe(_TOKEN_BYTES)


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is calling, by which token, and with which rights. Shutting down is a right of its own."""

    name: str
    role: Role
    may_shut_down: bool
    token_id: str
    expires_at: datetime | None = None
    used_at: datetime | None = None
