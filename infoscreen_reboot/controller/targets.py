"""Whom to tell: reads the file of targets, one a line. No sentence about it holds an address or a secret."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from infoscreen_reboot.controller.notifying import Kind

MOST = 20
SHORTEST_SECRET = 16
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?", re.ASCII)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*", re.ASCII)
_FORMS = "`NAME URL` or `NAME webhook URL secret=…`"
# In the addresses of many services a token stands where the host stands in others. In these it is a host.
_HAS_HOST = frozenset(
    {"http", "https", "mailto", "mailtos", "json", "jsons", "xml", "xmls", "form", "forms"}
    | {"gotify", "gotifys", "mmost", "mmosts", "rocket", "rockets"}
)


@dataclass(frozen=True, slots=True)
class Target:
    """`secrets` are those of a webhook: the first one signs, and the next ones, too, while a receiver changes over.

    `kinds` is what it wants to hear, None: everything. `is_internal`: a webhook may be in our own network.
    """

    name: str
    address: str = field(repr=False)
    is_webhook: bool = False
    secrets: tuple[str, ...] = field(default=(), repr=False)
    kinds: frozenset[Kind] | None = None
    only_loud: bool = False
    is_internal: bool = False

    def takes(self, kind: Kind, is_loud: bool) -> bool:
        return (self.kinds is None or kind in self.kinds) and (is_loud or not self.only_loud)

    @property
    def shown(self) -> str:
        """For people: the kind of address, and its host where that is one."""
        parts = urlsplit(self.address)
        has_host = (
            parts.scheme in _HAS_HOST
            or (parts.scheme in ("ntfy", "ntfys") and parts.path not in ("", "/"))
            or (parts.scheme in ("matrix", "matrixs") and parts.password is not None)
        )
        scheme = f"webhook {parts.scheme}" if self.is_webhook else parts.scheme
        return f"{scheme}://{parts.hostname}" if has_host else f"{scheme}://…"


def parse(text: str) -> tuple[tuple[Target, ...], tuple[str, ...]]:
    """The targets, and a sentence for each line that is none."""
    found: dict[str, Target] = {}
    faults = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            target = _target(words)
            if target.name in found:
                raise ValueError(f"there are two targets with the name {target.name}")
            if len(found) == MOST:
                raise ValueError(f"there may be {MOST} targets")
            found[target.name] = target
        except ValueError as error:
            faults.append(f"line {number}: {error}")
    return tuple(found.values()), tuple(faults)


def _target(words: Sequence[str]) -> Target:
    """Raises ValueError."""
    name, *rest = words
    if not _NAME.fullmatch(name) or not rest:
        raise ValueError(f"allowed is {_FORMS}; a NAME has letters, digits and . _ -")
    is_webhook = rest[0] == "webhook"
    if is_webhook:
        del rest[0]
    text = rest.pop(0) if rest else ""
    address = _address(text, is_webhook)
    secrets: list[str] = []
    kinds: frozenset[Kind] | None = None
    flags: set[str] = set()
    for word in rest:
        key, equals, value = word.partition("=")
        if key == "kinds" and equals:
            kinds = _kinds(value)
        elif key == "secret" and equals and is_webhook:
            if len(value) < SHORTEST_SECRET:
                raise ValueError(f"a secret has {SHORTEST_SECRET} characters or more")
            secrets.append(value)
        elif word == "loud" or (word == "internal" and is_webhook):
            flags.add(word)
        else:
            allowed = "secret=…, internal, kinds=… and loud" if is_webhook else "kinds=… and loud"
            raise ValueError(f"one of the words after the address is no option; allowed are {allowed}")
    if is_webhook and not secrets:
        raise ValueError("a webhook needs a secret=… with which its messages are signed")
    if is_webhook and address.scheme == "http" and "internal" not in flags:
        raise ValueError("a webhook needs https, or the word `internal` if it is in your own network")
    return Target(name, text, is_webhook, tuple(secrets), kinds, "loud" in flags, "internal" in flags)


def _address(text: str, is_webhook: bool) -> SplitResult:
    """Raises ValueError; urlsplit's own sentences may hold a part of the address."""
    try:
        parts = urlsplit(text)
        port, host = parts.port, parts.hostname
    except ValueError:
        raise ValueError("the address cannot be read") from None
    if not _SCHEME.fullmatch(parts.scheme) or "://" not in text:
        raise ValueError(f"the address has no scheme; allowed is {_FORMS}")
    if is_webhook and (parts.scheme not in ("http", "https") or not host or port == 0 or not text.isascii()):
        raise ValueError("the address of a webhook is as in https://host/path")
    if is_webhook and (parts.username is not None or parts.password is not None):
        raise ValueError("the address of a webhook has no user and no password: its messages are signed")
    return parts


def _kinds(text: str) -> frozenset[Kind]:
    try:
        return frozenset(Kind(word) for word in text.split(","))
    except ValueError:
        raise ValueError(f"kinds= takes {', '.join(Kind)}, with commas between") from None
