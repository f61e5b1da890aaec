"""What one run of the campaign does, drawn from its seed and nothing else."""

from __future__ import annotations

import random
from dataclasses import dataclass

# What the controller sends, and how often in a hundred.
KINDS = {
    "reboot": 50,
    "shutdown": 8,
    "transitional": 8,
    "twice": 8,
    "conflict": 5,
    "retained": 5,
    "expired": 6,
    "foreign": 5,
    "junk": 5,
}
# The faults, how often each, and what each takes hold of: no run has two that take hold of the same.
WEIGHTS = {
    "power_cut": (14, "power"),
    "agent_killed": (12, "agent"),
    "helper_killed": (8, "helper"),
    "dbus_killed": (3, "bus"),
    "broker_restarted": (6, "broker"),
    "broker_killed": (5, "broker"),
    "broker_forgets": (5, "broker"),
    "link_down": (6, "link"),
    "refused": (5, "link"),
    "stalled": (5, "link"),
    "half_open": (1, "link"),
    "slow": (5, "link"),
    "doubled": (6, "link"),
    "reordered": (5, "link"),
    "puback_lost": (6, "link"),
    "disk_full": (6, "agent"),
    "disk_read_only": (4, "agent"),
    "clock_jumps": (6, "clock"),
    "upgraded": (3, "agent"),
    "full_for_good": (6, "agent"),
    "read_only_for_good": (4, "agent"),
    "state_rubbish": (5, "agent"),
    "junk_flood": (3, "broker"),
    "taken_back": (5, "power"),
}
# These stay until the run has been judged: over reboots too, as their owners have them.
FOR_GOOD = ("full_for_good", "read_only_for_good")
# The faults that are to be there when a command comes.
STATES = ("slow", "doubled", "reordered", "puback_lost", "clock_jumps")
MOMENTS = ("start", "accepted", "execution_started", "completed", "offline", "online")


@dataclass(frozen=True, slots=True)
class Sending:
    """A command; sent so many seconds after the one before, or when that one has ended."""

    kind: str
    after_s: float
    waits_for_end: bool


@dataclass(frozen=True, slots=True)
class Trouble:
    """A fault: so many seconds after a moment it comes, and so many seconds later it is taken away."""

    fault: str
    moment: str
    after_s: float
    for_s: float

    def __str__(self) -> str:
        return f"{self.fault}@{self.moment}+{self.after_s:.2f}"


@dataclass(frozen=True, slots=True)
class Plan:
    seed: int
    sendings: tuple[Sending, ...]
    troubles: tuple[Trouble, ...]

    def __str__(self) -> str:
        return f"{','.join(s.kind for s in self.sendings)} x {', '.join(map(str, self.troubles)) or 'nothing'}"


def draw(seed: int) -> Plan:
    chance = random.Random(seed)
    kinds = chance.choices(list(KINDS), list(KINDS.values()), k=chance.choice([1, 1, 2, 2, 3]))
    sendings = tuple(_sending(chance, kind, number) for number, kind in enumerate(kinds))
    troubles: list[Trouble] = []
    held: set[str] = set()
    for _ in range(chance.choice([1, 1, 2])):
        free = [name for name, (_, holds) in WEIGHTS.items() if holds not in held]
        (name,) = chance.choices(free, [WEIGHTS[name][0] for name in free])
        held.add(WEIGHTS[name][1])
        troubles.append(_trouble(chance, name))
    return Plan(seed, sendings, tuple(troubles))


def _sending(chance: random.Random, kind: str, number: int) -> Sending:
    after_s = chance.choice([0, 0.1, 0.5, 1.5]) * chance.random()
    return Sending(kind, round(after_s, 3), number > 0 and chance.random() < 0.4)


def _trouble(chance: random.Random, name: str) -> Trouble:
    """At random times, but more often around what the client does than in between."""
    if name in STATES:
        moment, after_s, for_s = "start", 0.0, chance.uniform(1, 4)
    else:
        moment = chance.choice(MOMENTS)
        after_s, for_s = chance.choice([0.01, 0.1, 0.5, 2]) * chance.random(), chance.uniform(0.1, 3)
    return Trouble(name, moment, round(after_s, 3), round(for_s, 2))
