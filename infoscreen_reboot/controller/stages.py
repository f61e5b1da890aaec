"""Deals the clients of a rollout to its stages: a few first, then more, then the rest; each client in just one."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from infoscreen_reboot.controller import selection
from infoscreen_reboot.controller.safety import Amount
from infoscreen_reboot.controller.selection import Selector

# One client, then a twentieth, then a quarter, then the rest.
DEFAULT = ("canary 1", "5 %", "25 %")
MOST = 50
REST = "rest"
_CANARY = "canary"
_AMOUNT = re.compile(r"(\d{1,6}) ?(%?)", re.ASCII)
_LAST = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Stage:
    """As it was written: a number of clients, a percentage of all of them, or those that a selector means."""

    name: str
    of: Amount | Selector


@dataclass(frozen=True, slots=True)
class Dealt:
    """A stage with its clients, in the order in which they are sent the command."""

    name: str
    clients: tuple[str, ...]


def read(texts: Sequence[str]) -> tuple[Stage, ...]:
    """`canary 1`, `10 %`, `25`, `site=alpine`. What they leave is a last stage. Raises ValueError."""
    if len(texts) > MOST:
        raise ValueError(f"a rollout has at most {MOST} stages")
    found = tuple(_stage(" ".join(text.split())) for text in texts)
    late = next((stage.name for stage in found[1:] if stage.name.startswith(f"{_CANARY} ")), None)
    if late is not None:
        raise ValueError(f"{late!r} is not the first stage: a canary comes before all others")
    return found


def _stage(text: str) -> Stage:
    of = text.removeprefix(_CANARY).strip() if text == _CANARY or text.startswith(f"{_CANARY} ") else text
    if text == _CANARY:
        of, text = "1", f"{_CANARY} 1"
    amount = _AMOUNT.fullmatch(of)
    if amount is not None:
        number, is_percent = int(amount[1]), bool(amount[2])
        if number == 0 or (is_percent and number > 100):
            raise ValueError(f"{text!r} is no stage: it takes 1 client or more, and at most 100 %")
        return Stage(text, Amount(number, is_percent))
    try:
        selector = selection.parse(of)
    except selection.SelectorError as error:
        raise ValueError(f"{text[:80]!r} is no stage ({error}); say 10 %, 25 or site=alpine") from None
    if not selector.requirements:
        raise ValueError("a stage without a word means nobody; say 10 %, 25 or site=alpine")
    return Stage(text, selector)


def in_order(rebooted_at: Mapping[str, datetime | None]) -> list[str]:
    """The least recently rebooted first; last those of which it is not known. Of equal ones the smaller UUID."""
    return sorted(rebooted_at, key=lambda uuid: (rebooted_at[uuid] or _LAST, uuid))


def deal(stages: Sequence[Stage], clients: Sequence[str], labels: Mapping[str, Mapping[str, str]]) -> list[Dealt]:
    """`clients` are in their order. A stage for which nobody is left is left out. Raises ValueError for a selector that
    means none of them: it is most likely a typing error."""
    left = list(clients)
    found = []
    for stage in stages:
        taken = _taken(stage, left, len(clients), labels)
        if not taken and isinstance(stage.of, Selector) and not _means_any(stage.of, clients, labels):
            raise ValueError(f"the stage {stage.name!r} means none of these clients")
        if taken:
            found.append(Dealt(stage.name, tuple(taken)))
            gone = set(taken)
            left = [uuid for uuid in left if uuid not in gone]
    if left:
        found.append(Dealt(REST, tuple(left)))
    return found


def _taken(stage: Stage, left: Sequence[str], total: int, labels: Mapping[str, Mapping[str, str]]) -> list[str]:
    match stage.of:
        case Amount():
            return list(left[: stage.of.rounded_up(total)])
        case Selector():
            return [uuid for uuid in left if stage.of.matches(labels.get(uuid, {}))]


def _means_any(selector: Selector, clients: Sequence[str], labels: Mapping[str, Mapping[str, str]]) -> bool:
    return any(selector.matches(labels.get(uuid, {})) for uuid in clients)
