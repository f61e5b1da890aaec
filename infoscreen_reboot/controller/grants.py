"""What an OpenID provider says of somebody, as a role and a name here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infoscreen_reboot.controller import text
from infoscreen_reboot.controller.auth import Role

_ALLOWED = "allowed is as in `groups: signage-admins=admin, signage=operator, *=viewer`"
_EVERYBODY = "*"
# In this order: the first that can be a name of a user here.
_NAMES = "preferred_username", "email"


@dataclass(frozen=True, slots=True)
class Grants:
    """Which role goes with which value of one claim; `*` means everybody who can sign in at the provider."""

    claim: str
    roles: tuple[tuple[str, Role], ...]

    def role_of(self, claims: Mapping[str, Any]) -> Role | None:
        """The highest that fits; None is nobody here."""
        found = _value(claims, self.claim)
        values = found if isinstance(found, list) else [found]
        fitting = [role for value, role in self.roles if value == _EVERYBODY or value in values]
        return max(fitting, key=list(Role).index) if fitting else None


def parse(entry: str) -> Grants:
    """`groups: signage-admins=admin, signage=operator, *=viewer`. Raises ValueError."""
    claim, colon, rest = entry.partition(": ")
    roles = []
    for each in rest.split(","):
        value, _, role = each.strip().rpartition("=")
        if not value or role not in list(Role):
            raise ValueError(_ALLOWED)
        roles.append((value, Role(role)))
    if not colon or not claim:
        raise ValueError(_ALLOWED)
    return Grants(claim, tuple(roles))


def name_in(claims: Mapping[str, Any]) -> str | None:
    """None if the provider says none that can be one here."""
    found = (claims.get(name) for name in _NAMES)
    return next((each for each in found if isinstance(each, str) and text.is_clean(each, text.USER_NAME)), None)


def _value(claims: Mapping[str, Any], claim: str) -> Any:
    """Keycloak has its roles in a claim of a claim, `realm_access.roles`; others have dots in a name."""
    if claim in claims:
        return claims[claim]
    first, dot, rest = claim.partition(".")
    inner = claims.get(first)
    return _value(inner, rest) if dot and isinstance(inner, Mapping) else None
