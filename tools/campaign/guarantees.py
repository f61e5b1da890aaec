"""What the client promises, held against what was seen from outside: evidence in, broken guarantees out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

ORDER = ("accepted", "execution_started", "completed", "failed")
TERMINAL = ("completed", "failed")


@dataclass(frozen=True, slots=True)
class Order:
    """A command as the controller sent it, and how it may end: as `completed` or with which error codes.

    `may_run` tells whether there is any right way for it to be executed.
    """

    command_id: str
    action: str
    ends: frozenset[str]
    may_run: bool = True


@dataclass(frozen=True, slots=True)
class Ack:
    """What an ack says, and its bytes."""

    command_id: str
    status: str
    end: str
    boot_id: str
    payload: bytes

    @classmethod
    def of(cls, payload: bytes) -> Ack:
        content = json.loads(payload)
        end = content["error_code"] or content["status"]
        return cls(content["command_id"], content["status"], end, content["boot_id"], payload)


@dataclass(frozen=True, slots=True)
class Kept:
    """What the client itself says of a command (`infoscreen-reboot history`)."""

    command_id: str
    state: str
    end: str
    was_started: bool


@dataclass(frozen=True, slots=True)
class Life:
    """A boot; how it ended, or None if it has not."""

    boot_id: str
    end: str | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """One run, seen from outside."""

    orders: Sequence[Order] = ()
    # Commands of the runs before on this machine: a broker that was killed may bring them, and they are answered again.
    earlier: frozenset[str] = frozenset()
    # Those among them that the client may have forgotten since: it asks the helper, who has not.
    forgotten: frozenset[str] = frozenset()
    # By the witness between client and broker, in order.
    said: Sequence[Ack] = ()
    # Ack bytes whose PUBACK went to the client.
    taken: frozenset[bytes] = frozenset()
    # Commands that went to the client without the retain flag, and those whose PUBACK came back from it.
    arrived_live: frozenset[str] = frozenset()
    received: frozenset[str] = frozenset()
    # By the controller's own listener, in order.
    heard: Sequence[Ack] = ()
    # How often the helper was asked to execute a command, said yes to it, and has it in its record.
    asked: Counter[str] = field(default_factory=Counter)
    executed: Counter[str] = field(default_factory=Counter)
    recorded: Counter[str] = field(default_factory=Counter)
    lives: Sequence[Life] = ()
    kept: Sequence[Kept] = ()
    # The broker lost what it had acknowledged.
    broker_forgot: bool = False
    # The client's own record was destroyed or is out of its reach. The helper's is not: what is done twice is broken
    # all the same.
    client_forgot: bool = False
    # More was sent than the client keeps: it may forget a refusal that is for all time, and what it refuses for want of
    # room is said once and not owed.
    was_flooded: bool = False
    # In words, what is not as it should be when all faults are gone.
    ailments: Sequence[str] = ()

    def end_of(self, command_id: str) -> str:
        """How the command ended by all that was said and heard: the first if there were several."""
        ends = [ack.end for ack in (*self.said, *self.heard) if ack.command_id == command_id and ack.status in TERMINAL]
        return ends[0] if ends else ""


def broken(evidence: Evidence) -> list[str]:
    """One sentence for each guarantee that was broken."""
    orders = {order.command_id: order for order in evidence.orders}
    faults = [f"at the end {ailment}" for ailment in evidence.ailments]
    faults += _executions(evidence, orders)
    faults += _boots(evidence, orders)
    for order in orders.values():
        faults += (f"{order.action} {order.command_id}: {fault}" for fault in _story(evidence, order))
    strangers = {ack.command_id for ack in (*evidence.said, *evidence.heard)} - set(orders) - evidence.earlier
    return faults + [f"an ack for {stranger}, which nobody sent" for stranger in sorted(strangers)]


def _executions(evidence: Evidence, orders: dict[str, Order]) -> Iterator[str]:
    for what, counts in (
        ("handed to the helper", evidence.asked),
        ("executed by the helper", evidence.executed),
        ("recorded by the helper", evidence.recorded),
    ):
        for command_id, times in counts.items():
            if counts is evidence.asked and command_id in evidence.forgotten:
                continue
            if times > 1:
                yield f"{command_id} was {what} {times} times"
            if command_id not in orders or not orders[command_id].may_run:
                yield f"{command_id} was {what}, which no valid command asked for"
            elif command_id not in evidence.arrived_live:
                yield f"{command_id} was {what}, but never came to the client without the retain flag"


def _boots(evidence: Evidence, orders: dict[str, Order]) -> Iterator[str]:
    """Each orderly end of a boot has a command of its own that the helper has in its record."""
    for end, action in (("rebooted", "reboot_host"), ("powered off", "shutdown_host")):
        happened = sum(life.end == end for life in evidence.lives)
        wanted = sum(command_id in orders and orders[command_id].action == action for command_id in evidence.recorded)
        if happened > wanted:
            yield f"the machine {end} {happened} times for {wanted} executed commands"


def _story(evidence: Evidence, order: Order) -> Iterator[str]:
    said = _firsts(evidence.said, order.command_id)
    heard = _firsts(evidence.heard, order.command_id)
    contents = {ack.payload: ack for ack in (*said, *heard)}.values()
    if evidence.client_forgot:
        yield from _proof(evidence, order, list(contents))
        return
    for status, number in Counter(ack.status for ack in contents).items():
        if number > 1:
            yield f"{number} different acks say {status}"
    for who, acks in (("said", said), ("heard", heard)):
        statuses = [ack.status for ack in acks]
        if statuses != sorted(statuses, key=ORDER.index):
            yield f"{who} in the order {', '.join(statuses)}"
    ends = {ack.end for ack in contents if ack.status in TERMINAL}
    if len(ends) > 1:
        yield f"it ended as {' and as '.join(sorted(ends))}"
    yield from _losses(evidence, order, said, heard)
    for end in ends:
        if end not in order.ends:
            yield f"it ended as {end}; allowed are {', '.join(sorted(order.ends))}"
    yield from _proof(evidence, order, list(contents))


def _need_not_be_kept(kept: Kept | None, ends: set[str]) -> bool:
    if kept is None:
        return bool(ends & {"invalid_schema", "wrong_client", "expired", "internal_error"})
    return kept.end == "internal_error"


def _losses(evidence: Evidence, order: Order, said: list[Ack], heard: list[Ack]) -> Iterator[str]:
    """Nothing that is owed is missing, and nothing the broker has not lost itself."""
    kept = next((kept for kept in evidence.kept if kept.command_id == order.command_id), None)
    known = {ack.status for ack in (*said, *heard)}
    if evidence.was_flooded and _need_not_be_kept(kept, {ack.end for ack in (*said, *heard)}):
        return
    if order.command_id in evidence.received and not known & set(TERMINAL):
        yield "the broker was told that it arrived, and no ack ever ended it"
    if kept is None:
        if order.command_id in evidence.received:
            yield "the broker was told that it arrived, and the client does not know it"
        elif not evidence.broker_forgot:
            yield "it never arrived, and the broker had not lost it"
        return
    if kept.state not in TERMINAL:
        yield f"the client still has it as {kept.state}"
    elif known & set(TERMINAL) and kept.end not in {ack.end for ack in (*said, *heard)}:
        yield f"the client has it as {kept.end}, which it never said"
    owed = {kept.state} & set(ORDER)
    owed |= {"accepted", "execution_started"} if kept.was_started or kept.end == "completed" else set()
    for status in sorted(owed, key=ORDER.index):
        if status not in {ack.status for ack in heard}:
            taken = any(ack.status == status and ack.payload in evidence.taken for ack in said)
            if not taken:
                yield f"the ack {status} is lost: the broker never acknowledged it, and nobody heard it"
            elif not evidence.broker_forgot:
                yield f"the ack {status} was taken by the broker, and nobody heard it"


def _proof(evidence: Evidence, order: Order, contents: list[Ack]) -> Iterator[str]:
    by_status = {ack.status: ack for ack in contents}
    boots = [life.boot_id for life in evidence.lives]
    for ack in contents:
        if ack.boot_id not in boots and "" not in boots:
            yield f"the ack {ack.status} names boot {ack.boot_id}, which never was"
    started, completed = by_status.get("execution_started"), by_status.get("completed")
    if completed and not started:
        yield "completed without having been started"
    if completed and started and order.action == "reboot_host" and completed.boot_id == started.boot_id:
        yield f"completed in boot {started.boot_id}, in which it was started: there was no reboot"


def _firsts(acks: Iterable[Ack], command_id: str) -> list[Ack]:
    """Each content once, in the order of its first coming."""
    firsts: dict[bytes, Ack] = {}
    for ack in acks:
        if ack.command_id == command_id:
            firsts.setdefault(ack.payload, ack)
    return list(firsts.values())
