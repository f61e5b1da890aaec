"""The only door to argon2: what a password has to be, its hash, and whether a typed one is right."""

from __future__ import annotations

import threading
import unicodedata

import argon2

FEWEST, MOST = 12, 256
# Of what is typed. Combined characters become fewer by normalising, which takes long for a text without a bound.
MOST_TYPED = 4 * MOST
# The second of the equivalent settings in OWASP's cheat sheet on storing passwords: 20 ms and 19 MiB each time.
_HASHER = argon2.PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1, type=argon2.Type.ID)
# Of nothing that anybody knows, made with the same settings.
_NOBODYS = "$argon2id$v=19$m=19456,t=2,p=1$Eltwd4xzYiVPsealDsQowA$jrz0yUp3SPpqBVcrAkks2A"
# Whoever signs in needs no token, so many could ask at once: each needs its memory, and a core.
_one_at_a_time = threading.Lock()


def fault_of(password: str, user_name: str) -> str | None:
    """Why this cannot be the password of that user, in words that do not repeat it; None if it can."""
    plain = _normalised(password)
    if plain is None or not FEWEST <= len(plain) <= MOST:
        return f"a password has {FEWEST} to {MOST} characters"
    if any(unicodedata.category(each) in ("Cc", "Cs") for each in plain):
        return "a password has no control characters"
    if plain.casefold() == user_name.casefold():
        return "a password is not the name of its user"
    return None


def hashed(password: str) -> str:
    """Of a password without a fault."""
    with _one_at_a_time:
        return str(_HASHER.hash(_bytes(password)))


def is_right(password_hash: str | None, password: str) -> bool:
    """Takes as long if there is no hash: nobody learns from the time which users there are."""
    with _one_at_a_time:
        try:
            _HASHER.verify(password_hash or _NOBODYS, _bytes(password))
        except argon2.exceptions.VerifyMismatchError:
            return False
    return password_hash is not None


def is_outdated(password_hash: str) -> bool:
    """Whether it was made with other settings: whoever has just typed the password can hash it anew."""
    return bool(_HASHER.check_needs_rehash(password_hash))


def _normalised(password: str) -> str | None:
    """One keyboard writes ä as one character, another as two; None if it is too long to look at."""
    return unicodedata.normalize("NFC", password) if len(password) <= MOST_TYPED else None


def _bytes(password: str) -> bytes:
    # Nobody has an empty password.
    return (_normalised(password) or "").encode("utf-8", "surrogatepass")
