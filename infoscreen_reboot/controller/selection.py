"""Which clients are meant: names, UUIDs and label selectors, and the hash that freezes a preview.

A selector is read as Kubernetes and flightctl read theirs: `site=alpine,room!=bar,model in (pi5,pi4),cold,!spare`. All
parts must hold.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

_KEY = r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,62}[A-Za-z0-9])?"
# `/` and `+` are for zones, as in `tz=America/New_York`.
_VALUE = r"[A-Za-z0-9](?:[A-Za-z0-9._/+ -]{0,254}[A-Za-z0-9])?"
_EQUALS = re.compile(rf"({_KEY})\s*(=|==|!=)\s*({_VALUE})")
_IN = re.compile(rf"({_KEY})\s+(in|notin)\s+\(([^()]*)\)")
_EXISTS = re.compile(rf"(!?)\s*({_KEY})")
KEY, VALUE = re.compile(_KEY), re.compile(_VALUE)


class SelectorError(ValueError):
    """A selector cannot be read; the text says which part of it."""


class Operator(StrEnum):
    IN = "in"
    NOT_IN = "notin"
    EXISTS = "exists"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One part of a selector. A client without the label keeps NOT_IN, as in Kubernetes."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def holds(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        match self.operator:
            case Operator.IN:
                return value in self.values
            case Operator.NOT_IN:
                return value not in self.values
            case Operator.EXISTS:
                return value is not None
            case Operator.MISSING:
                return value is None

    def __str__(self) -> str:
        match self.operator, self.values:
            case Operator.EXISTS, _:
                return self.key
            case Operator.MISSING, _:
                return f"!{self.key}"
            case Operator.IN, (value,):
                return f"{self.key}={value}"
            case Operator.NOT_IN, (value,):
                return f"{self.key}!={value}"
        return f"{self.key} {self.operator} ({','.join(self.values)})"


@dataclass(frozen=True, slots=True)
class Selector:
    """An empty one means every client."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(requirement.holds(labels) for requirement in self.requirements)

    def __str__(self) -> str:
        """As parse() reads it."""
        return ",".join(map(str, self.requirements))


def parse(text: str) -> Selector:
    """Raises SelectorError."""
    return Selector(tuple(_requirement(part) for part in _parts(text)))


def _parts(text: str) -> list[str]:
    """Split at the commas that are in no brackets."""
    parts = [part.strip() for part in re.split(r",(?![^(]*\))", text)]
    if parts == [""]:
        return []
    if "" in parts:
        raise SelectorError(f"{text!r} has a comma with nothing before or after it")
    return parts


def _requirement(part: str) -> Requirement:
    if found := _EQUALS.fullmatch(part):
        operator = Operator.NOT_IN if found[2] == "!=" else Operator.IN
        return Requirement(found[1], operator, (found[3],))
    if found := _IN.fullmatch(part):
        values = tuple(value.strip() for value in found[3].split(","))
        wrong = next((value for value in values if not VALUE.fullmatch(value)), None)
        if wrong is not None:
            raise SelectorError(f"{wrong!r} in {part!r} is no value of a label")
        return Requirement(found[1], Operator(found[2]), values)
    if found := _EXISTS.fullmatch(part):
        return Requirement(found[2], Operator.MISSING if found[1] else Operator.EXISTS)
    raise SelectorError(f"{part!r} is no part of a selector; say key=value, key!=value, key in (a,b), key or !key")


def preview_hash(action: str, eligible: Sequence[str], held: Mapping[str, str]) -> str:
    """What a caller echoes to say that he has seen just this: the clients, and those that are held, by which rule.

    It is of no other moment: if one client more or less is eligible, or another rule holds one, the hash is another.
    """
    seen = {"action": action, "eligible": sorted(eligible), "held": dict(sorted(held.items()))}
    return hashlib.sha256(json.dumps(seen, separators=(",", ":")).encode()).hexdigest()
