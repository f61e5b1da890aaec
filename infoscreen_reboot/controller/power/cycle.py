"""A power cycle: every state of it, what moves it on, and whether one may begin.

- TABLE lists which fact leads from which state to which. A fact for which there is no row changes nothing: somebody
  else has moved the cycle on.
- `owed` is committed before the port goes off. So whoever comes after a crash knows which ports have to be on again.
  Only the switch's own word that the port is on leads out of `owed` and `off`.
- A cycle keeps a copy of its port. If the inventory is changed meanwhile, the port that went off is the one that goes
  on.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from infoscreen_reboot.controller.power.port import Port, Reading

# A cycle that nobody takes up in this time does not happen any more: nobody would expect it.
TAKEN_WITHIN = timedelta(minutes=2)
# As for reboots: if three did not help, a fourth does not help either.
MOST_CYCLES, CYCLES_WITHIN = 3, timedelta(hours=1)
# In the whole fleet, at the same time.
MOST_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Pace:
    """How long each step takes.

    `off_for`: after some seconds a host's power supply is empty. `grace` is what the switch may take to answer, twice.
    `sent_within`: "off" is sent so soon after it was written down that the port is owed, or not at all. `closed_after`:
    until then "off" may still come from a process that nobody sees, so nobody else believes that the port stays on.
    `delivers_within`: after "on", the switch looks for a device before it delivers power.
    """

    off_for: timedelta = timedelta(seconds=10)
    grace: timedelta = timedelta(seconds=15)
    sent_within: timedelta = timedelta(seconds=3)
    closed_after: timedelta = timedelta(seconds=25)
    delivers_within: timedelta = timedelta(seconds=45)
    looks_every: timedelta = timedelta(seconds=1)
    asks_every: timedelta = timedelta(seconds=2)
    retries_every: timedelta = timedelta(seconds=10)


class State(StrEnum):
    """In their order."""

    REQUESTED = "requested"
    OWED = "owed"
    OFF = "off"
    ON = "on"
    DONE = "done"
    FAILED = "failed"


ENDED = (State.DONE, State.FAILED)
# The port is off, or may be.
MAY_BE_OFF = (State.OWED, State.OFF)


class Step(StrEnum):
    """What can happen to a cycle."""

    OWE = "it is written down that the port has to be on again"
    REFUSE = "a rule refuses it, or the port cannot be read"
    SEE_OFF = "the switch says: off"
    SEE_ON = "the switch says: on"
    SEE_POWER = "the switch says: it delivers power"
    GIVE_UP = "no power is taken in time"


TABLE: dict[tuple[State, Step], State] = {
    (State.REQUESTED, Step.OWE): State.OWED,
    (State.REQUESTED, Step.REFUSE): State.FAILED,
    (State.OWED, Step.SEE_OFF): State.OFF,
    # It was never seen off: a write without effect, or a process that was killed before it.
    (State.OWED, Step.SEE_ON): State.FAILED,
    (State.OFF, Step.SEE_ON): State.ON,
    (State.ON, Step.SEE_POWER): State.DONE,
    (State.ON, Step.GIVE_UP): State.FAILED,
}


def after(state: State, step: Step) -> State | None:
    """None if this step changes nothing in that state."""
    return TABLE.get((state, step))


def before(step: Step) -> tuple[State, ...]:
    """The states that this step leads out of."""
    return tuple(state for state, each in TABLE if each is step)


def is_held_off(state: State, must_be_on_by: datetime | None, now: datetime) -> bool:
    """Whether the port may be off for longer than anybody wanted."""
    return state in MAY_BE_OFF and must_be_on_by is not None and must_be_on_by < now


def may_close(state: State, owed_at: datetime, now: datetime, pace: Pace) -> bool:
    """Whether a port that is on again stays on: nobody can send an "off" for this cycle any more."""
    return state is State.OFF or now >= owed_at + pace.closed_after


@dataclass(frozen=True, slots=True)
class Asked:
    """What decides whether a client's port may be cycled. `cycled_at` are the cycles of the last hour."""

    now: datetime
    port: Port | None
    is_accepted: bool
    is_online: bool
    is_online_anyway: bool
    open_command_id: str | None
    open_cycle_id: int | None
    freeze: str | None
    cycled_at: tuple[datetime, ...] = ()


def refusal(asked: Asked) -> tuple[str, str] | None:
    """Which rule speaks against it, and in which words; None if it may begin."""
    if asked.port is None:
        return "no_port", "no port of this client is in the inventory"
    if not asked.is_accepted:
        return "client_accepted", "nobody has accepted this client"
    if asked.open_cycle_id is not None:
        return "one_cycle", f"power cycle {asked.open_cycle_id} of this client has not ended"
    if asked.open_command_id is not None:
        return "one_open_command", f"command {asked.open_command_id} of this client has not ended: it may be rebooting"
    if asked.freeze is not None:
        return "freeze", f"everything is frozen: {asked.freeze}"
    if asked.is_online and not asked.is_online_anyway:
        return "client_online", "the client is online: a reboot does it less harm than a power cut"
    recent = [at for at in asked.cycled_at if asked.now - at < CYCLES_WITHIN]
    if len(recent) >= MOST_CYCLES:
        return "power_lockout", f"{MOST_CYCLES} power cycles in the last hour did not help: a fourth does not either"
    return None


def fault_before_off(reading: Reading) -> str | None:
    """Why this port must not be switched off, by how it is; None if it may be."""
    if not reading.is_on:
        return "this port is off already, and not by us: somebody wants it so"
    if reading.delivers is False:
        return f"this port delivers no power ({reading.words}): it may be an uplink, or the wrong port"
    return None


def to_begin(requested: Mapping[int, str], busy: Iterable[str], room: int) -> list[int]:
    """Which of the cycles that were asked for (with their devices) may begin: the oldest, one of each device."""
    taken = set(busy)
    found: list[int] = []
    for cycle_id, device in sorted(requested.items()):
        if device not in taken and len(found) < room:
            taken.add(device)
            found.append(cycle_id)
    return found


def diagram() -> str:
    """TABLE as a Mermaid state diagram, for docs/controller.md."""
    lines = ["stateDiagram-v2", "    [*] --> requested"]
    lines += [f"    {state} --> {to}: {step.name.lower().replace('_', ' ')}" for (state, step), to in TABLE.items()]
    lines += [f"    {state} --> [*]" for state in ENDED]
    return "\n".join(lines) + "\n"
