"""How a simulated client behaves."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field

from infoscreen_reboot.client import kernel


@dataclass(frozen=True, slots=True)
class Manner:
    """`reboot_s` is for how long it is away, at least and at most; `mocks` is COMMAND_EXECUTOR=mock."""

    reboot_s: tuple[float, float] = (20.0, 40.0)
    comes_back: bool = True
    mocks: bool = False
    # What it draws its times from: the same each time it is run.
    chance: random.Random = field(default_factory=lambda: random.Random(1))

    def away_s(self) -> float:
        return self.chance.uniform(*self.reboot_s)


def client_uuid(number: int) -> str:
    """As a client derives it from its machine id."""
    machine_id = hashlib.md5(f"simulated client {number}".encode(), usedforsecurity=False).hexdigest()
    return kernel.client_uuid_of_machine(machine_id)
