"""May this command go out now? Each rule is a function from facts to an answer; all routes to an action ask all rules.

- An answer is "yes", a warning, or a hold: why the command may not go now, and when that ends, if it is known.
- A hold that ends by itself can be waited for, if the caller says until when. The others are refusals.
- Every answer has the inputs it was given for, so that `explain` can show them for a command that was sent, refused or
  waits.
- The rules are asked twice: in the transaction that makes the command, and again in the one that gives a waiting
  command to the broker.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.contract.telemetry import Executor
from infoscreen_reboot.controller.windows import Window, opens_at

# docs/contract.md, "Operational defaults": the safety lockout.
LOCKOUT_REBOOTS, LOCKOUT_WINDOW = 3, timedelta(minutes=15)


class Standing(StrEnum):
    """What the fleet's owner has said about a client."""

    UNKNOWN = "unknown"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class Amount:
    """A number of clients, or a percentage of a group."""

    value: int
    is_percent: bool = False

    def __str__(self) -> str:
        return f"{self.value} %" if self.is_percent else str(self.value)

    def rounded_down(self, of: int) -> int:
        return of * self.value // 100 if self.is_percent else self.value

    def rounded_up(self, of: int) -> int:
        return math.ceil(of * self.value / 100) if self.is_percent else self.value


@dataclass(frozen=True, slots=True)
class Budget:
    """How many clients with the same values of the labels `group_by` may be unavailable at once.

    A percentage in `max_unavailable` is rounded down, but allows one at least; in `min_available` it is rounded up.
    """

    group_by: tuple[str, ...]
    max_unavailable: Amount | None = None
    min_available: Amount | None = None

    def may_be_unavailable(self, size: int) -> int:
        """Of a group of `size` clients."""
        allowed = size
        if self.max_unavailable is not None:
            least = 1 if self.max_unavailable.is_percent else 0
            allowed = min(allowed, max(least, self.max_unavailable.rounded_down(size)))
        if self.min_available is not None:
            allowed = min(allowed, size - self.min_available.rounded_up(size))
        return max(0, allowed)


@dataclass(frozen=True, slots=True)
class Group:
    """The clients that share a budget with this one, itself included.

    `unavailable` are those that are down, or have a command on its way; `others_unavailable` leaves this client out.
    """

    name: str
    budget: Budget
    size: int
    others_unavailable: int


@dataclass(frozen=True, slots=True)
class Freeze:
    """Nothing is sent until somebody ends it, or until `until`."""

    why: str
    by: str
    until: datetime | None


@dataclass(frozen=True, slots=True)
class Reported:
    """What speaks for or against a reboot in the client's last health, and how old that is."""

    at: datetime
    actions: frozenset[Action]
    executor: Executor
    is_clock_synchronized: bool
    requires_signature: bool
    lockout_used: int | None
    lockout_limit: int | None
    unlocks_at: datetime | None
    is_disk_full: bool
    agent_version: str
    has_watchdog: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the rules ask for. `started` are the times at which commands of ours rebooted this client.

    `not_before` is when a plan, which sends its commands one after the other, has put this one.
    """

    now: datetime
    action: Action
    standing: Standing
    is_online: bool
    heard_at: datetime | None
    has_two_hosts: bool = False
    open_command_id: str | None = None
    started: tuple[datetime, ...] = ()
    health: Reported | None = None
    groups: tuple[Group, ...] = ()
    fleet_cap: int | None = None
    others_open: int = 0
    not_before: datetime | None = None
    windows: tuple[Window, ...] = ()
    freezes: tuple[Freeze, ...] = ()
    may_shut_down: bool = True
    can_be_woken: bool = False
    someone_is_there: bool = False
    has_signing_key: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """`hold` is why not, in a sentence for an operator; None is yes. A `warning` does not hold anything up."""

    rule: str
    inputs: dict[str, object]
    hold: str | None = None
    opens_at: datetime | None = None
    can_wait: bool = False
    warning: str | None = None

    @property
    def is_yes(self) -> bool:
        return self.hold is None


def client_is_accepted(facts: Facts) -> Answer:
    hold = {
        Standing.UNKNOWN: "this client was never accepted",
        Standing.REJECTED: "this client was rejected",
        Standing.RETIRED: "this client is retired",
    }.get(facts.standing)
    return Answer("client_accepted", {"standing": str(facts.standing)}, hold)


def one_host(facts: Facts) -> Answer:
    hold = "two hosts use this client's UUID; give one of them another machine id" if facts.has_two_hosts else None
    return Answer("one_host", {"two_hosts": facts.has_two_hosts}, hold)


def turn(facts: Facts) -> Answer:
    inputs: dict[str, object] = {"not_before": facts.not_before}
    if facts.not_before is None or facts.not_before <= facts.now:
        return Answer("turn", inputs)
    return Answer("turn", inputs, "its turn in the plan has not come", facts.not_before, can_wait=True)


def one_open_command(facts: Facts) -> Answer:
    hold = f"command {facts.open_command_id} of this client has not ended" if facts.open_command_id else None
    return Answer("one_open_command", {"open_command_id": facts.open_command_id}, hold, can_wait=True)


def lockout(facts: Facts) -> Answer:
    """Three reboots in 15 minutes did not help: a fourth will not either. A shutdown is neither counted nor held."""
    recent = sorted(at for at in facts.started if at > facts.now - LOCKOUT_WINDOW)
    inputs: dict[str, object] = {"reboots": len(recent), "limit": LOCKOUT_REBOOTS, "window_s": 900}
    if facts.action is not Action.REBOOT_HOST or len(recent) < LOCKOUT_REBOOTS:
        return Answer("lockout", inputs)
    ends_at = recent[-LOCKOUT_REBOOTS] + LOCKOUT_WINDOW
    hold = f"{len(recent)} reboots of this client in the last 15 minutes"
    return Answer("lockout", inputs, hold, ends_at, can_wait=True)


def lockout_of_client(facts: Facts) -> Answer:
    """The client counts by itself, also what others ordered. Its count is as old as its last health."""
    health = facts.health
    inputs: dict[str, object] = {
        "used": health.lockout_used if health else None,
        "limit": health.lockout_limit if health else None,
        "unlocks_at": health.unlocks_at if health else None,
        "reported_at": health.at if health else None,
    }
    is_full = (
        health is not None
        and health.lockout_used is not None
        and health.lockout_limit is not None
        and health.lockout_used >= health.lockout_limit
    )
    if health is None or not is_full or facts.action is not Action.REBOOT_HOST:
        return Answer("lockout_of_client", inputs)
    if health.unlocks_at is not None and health.unlocks_at <= facts.now:
        return Answer("lockout_of_client", inputs)
    hold = f"the client says that it was rebooted {health.lockout_used} times"
    return Answer("lockout_of_client", inputs, hold, health.unlocks_at, can_wait=True)


def freeze(facts: Facts) -> Answer:
    return frozen(facts.freezes, facts.now)


def frozen(freezes: Sequence[Freeze], now: datetime) -> Answer:
    standing = [one for one in freezes if one.until is None or one.until > now]
    inputs: dict[str, object] = {"freezes": [f"{one.why} ({one.by})" for one in standing]}
    if not standing:
        return Answer("freeze", inputs)
    ends = [one.until for one in standing]
    known = [end for end in ends if end is not None]
    last = max(known) if len(known) == len(ends) else None
    hold = f"frozen by {standing[0].by}: {standing[0].why}"
    return Answer("freeze", inputs, hold, last, can_wait=True)


def window(facts: Facts) -> Answer:
    """A client with windows is rebooted in one of them; a client without, at any time."""
    inputs: dict[str, object] = {"windows": [str(one) for one in facts.windows]}
    if not facts.windows:
        return Answer("window", inputs)
    at = opens_at(facts.windows, facts.now)
    if at is not None and at <= facts.now:
        return Answer("window", inputs)
    return Answer("window", inputs, "outside of this client's maintenance windows", at, can_wait=True)


def budget(facts: Facts) -> Answer:
    """Clients that are down already count. One that is down itself takes nothing away from its group."""
    counts = [f"{one.name}: {one.others_unavailable} of {one.size} besides this client" for one in facts.groups]
    inputs: dict[str, object] = {"unavailable": counts}
    for group in facts.groups:
        allowed = group.budget.may_be_unavailable(group.size)
        if facts.is_online and group.others_unavailable + 1 > allowed:
            hold = f"{group.name}: {group.others_unavailable} of {group.size} are unavailable, and {allowed} may be"
            return Answer("budget", inputs, hold, can_wait=True)
    return Answer("budget", inputs)


def fleet_cap(facts: Facts) -> Answer:
    inputs: dict[str, object] = {"on_their_way": facts.others_open, "cap": facts.fleet_cap}
    if facts.fleet_cap is None or facts.others_open < facts.fleet_cap:
        return Answer("fleet_cap", inputs)
    hold = f"{facts.others_open} commands are on their way, and {facts.fleet_cap} may be"
    return Answer("fleet_cap", inputs, hold, can_wait=True)


def online(facts: Facts) -> Answer:
    inputs: dict[str, object] = {"online": facts.is_online, "heard_at": facts.heard_at}
    if facts.is_online:
        return Answer("online", inputs)
    hold = "this client was never heard" if facts.heard_at is None else "this client is offline"
    return Answer("online", inputs, hold, can_wait=True)


def right_to_shut_down(facts: Facts) -> Answer:
    is_refused = facts.action is Action.SHUTDOWN_HOST and not facts.may_shut_down
    hold = "whoever asks for it has no right to shut down" if is_refused else None
    return Answer("right_to_shut_down", {"may_shut_down": facts.may_shut_down}, hold)


def can_be_woken(facts: Facts) -> Answer:
    inputs: dict[str, object] = {"can_be_woken": facts.can_be_woken, "someone_is_there": facts.someone_is_there}
    if facts.action is not Action.SHUTDOWN_HOST or facts.can_be_woken or facts.someone_is_there:
        return Answer("can_be_woken", inputs)
    hold = "nothing can switch this client on again: say that someone will be there"
    return Answer("can_be_woken", inputs, hold)


def capability(facts: Facts) -> Answer:
    offered = sorted(facts.health.actions) if facts.health else None
    inputs: dict[str, object] = {"actions": offered}
    if facts.health is None or facts.action in facts.health.actions:
        return Answer("capability", inputs)
    return Answer("capability", inputs, f"this client does not offer {facts.action}")


def signature(facts: Facts) -> Answer:
    is_required = facts.health is not None and facts.health.requires_signature
    hold = None
    if is_required and not facts.has_signing_key:
        hold = "this client takes signed commands only, and this controller has no key to sign with"
    return Answer("signature", {"required": is_required, "key": facts.has_signing_key}, hold)


def executor(facts: Facts) -> Answer:
    is_mock = facts.health is not None and facts.health.executor is Executor.MOCK
    warning = "this client only pretends to reboot (COMMAND_EXECUTOR=mock)" if is_mock else None
    return Answer("executor", {"mock": is_mock}, warning=warning)


def clock(facts: Facts) -> Answer:
    is_wrong = facts.health is not None and not facts.health.is_clock_synchronized
    warning = "this client's clock is not synchronised: it will wait 60 s for it, then refuse" if is_wrong else None
    return Answer("clock", {"synchronized": not is_wrong if facts.health else None}, warning=warning)


def disk(facts: Facts) -> Answer:
    is_full = facts.health is not None and facts.health.is_disk_full
    warning = "this client's disk is full" if is_full else None
    return Answer("disk", {"full": is_full if facts.health else None}, warning=warning)


# In the order in which an operator wants to hear of them: the first hold is the one that is told.
RULES: tuple[Callable[[Facts], Answer], ...] = (
    client_is_accepted,
    one_host,
    right_to_shut_down,
    capability,
    signature,
    can_be_woken,
    turn,
    lockout,
    lockout_of_client,
    freeze,
    window,
    one_open_command,
    online,
    budget,
    fleet_cap,
    executor,
    clock,
    disk,
)


def ask(facts: Facts) -> tuple[Answer, ...]:
    """What every rule says; the command may go if each says yes."""
    return tuple(rule(facts) for rule in RULES)


def ask_in_turn(all_facts: Sequence[Facts]) -> list[tuple[Answer, ...]]:
    """What every rule says to each of several commands, as if those before it that may go had gone."""
    taken: Counter[str] = Counter()
    sent = 0
    found = []
    for facts in all_facts:
        groups = tuple(
            replace(group, others_unavailable=group.others_unavailable + taken[group.name]) for group in facts.groups
        )
        answers = ask(replace(facts, groups=groups, others_open=facts.others_open + sent))
        found.append(answers)
        if first_hold(answers) is None:
            sent += 1
            taken.update(group.name for group in groups if facts.is_online)
    return found


def first_hold(answers: tuple[Answer, ...]) -> Answer | None:
    """The one to tell: what cannot be waited for comes first."""
    holds = [answer for answer in answers if not answer.is_yes]
    return next((hold for hold in holds if not hold.can_wait), holds[0] if holds else None)
