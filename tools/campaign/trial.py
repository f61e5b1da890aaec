"""One run of the campaign: a plan played on a machine, everything healed, and what was seen meanwhile."""

from __future__ import annotations

import json
import math
import random
import re
import sqlite3
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tools.campaign.ground import Ground
from tools.campaign.guarantees import TERMINAL, Ack, Evidence, Kept, Life, Order, broken
from tools.campaign.mischief import FAULTS, FLOOD, flood_line
from tools.campaign.plan import FOR_GOOD, MOMENTS, Plan, Sending, Trouble
from tools.campaign.witness import Passed
from tools.lab.machine import HELPER, POWERED_OFF, REBOOTED
from tools.lab.mosquitto import Message
from tools.lab.patience import Patience, slow
from tools.lab.scratch import LabError
from tools.lab.screen import timestamp

# How long a moment is waited for that may never come.
MOMENT_S = 4.0
# After all is healed: the agent's back-off is up to a minute, its keep-alive finds a dead link in 40 s, and one that
# was killed with the helper asked waits for the longest that this may take and for the deadline, together 97 s.
HEALTHY_S = 180.0
# What is still under way when the agent is at rest: the listener's reconnect, TCP's own back-off after a cut.
UNDER_WAY_S, FORGOTTEN_S, KEEP_ALIVE_S = 12.0, 2.5, 60.0
# An upgrade that was cut off may have left no agent at all.
UNREPAIRED_S = 8.0
HELPER_LINE = re.compile(r"infoscreen-reboot-helper\[\d+\]: (?:Reboot|Shutdown) ([0-9a-f-]{36}) by [^:]*: (.*)")
ENDS = {REBOOTED: "rebooted", POWERED_OFF: "powered off"}
ALWAYS = {"completed", "busy", "lockout"}
# What a fault may make of a valid command.
EXCUSES = {
    "power_cut": {"interrupted"},
    "agent_killed": {"not_rebooted", "interrupted"},
    "disk_full": {"not_rebooted", "interrupted", "helper_failed", "helper_unavailable", "execution_timeout"},
    "disk_read_only": {
        "not_rebooted",
        "interrupted",
        "helper_failed",
        "helper_unavailable",
        "execution_timeout",
        "unsupported_action",
    },
    "upgraded": {"not_rebooted", "interrupted", "helper_failed", "helper_unavailable", "execution_timeout"},
    "helper_killed": {"execution_timeout"},
    "dbus_killed": {"execution_timeout", "helper_unavailable", "helper_failed", "not_authorized", "interrupted"},
    "clock_jumps": {"expired", "not_yet_valid"},
    "full_for_good": {"not_rebooted", "interrupted", "helper_failed", "helper_unavailable", "execution_timeout"},
    "read_only_for_good": {"not_rebooted", "interrupted", "helper_failed", "helper_unavailable", "unsupported_action"},
    "state_rubbish": {"not_rebooted", "interrupted", "helper_failed"},
    "junk_flood": {"internal_error"},
    # A reboot that the helper asked for in that moment is taken back too.
    "taken_back": {"execution_timeout", "helper_failed"},
}
# What these take from the agent nobody gives it back: it knows less of the commands than it has said.
FORGETFUL = ("state_rubbish", "disk_read_only", "read_only_for_good")


@dataclass(slots=True)
class Result:
    """How a run went; `broken` is empty where every guarantee was kept."""

    plan: Plan
    ends: list[str]
    executions: int
    broken: list[str]
    seconds: float
    evidence: Evidence | None = None
    waited_for: list[str] = field(default_factory=list)


class Trial:
    """Played once, on a machine that is at rest."""

    def __init__(self, ground: Ground, plan: Plan, earlier: Iterable[str] = (), forgotten: Iterable[str] = ()) -> None:
        """`earlier` are the ids of commands that this machine knows from runs before, or knew: `forgotten`."""
        self.earlier, self.forgotten = frozenset(earlier), frozenset(forgotten)
        self.ground = ground
        self.plan = plan
        self.since = time.time()
        self.orders: list[Order] = []
        self.said: list[Passed] = []
        self.problems: list[str] = []
        self.waited_for: list[str] = []
        self.faults = frozenset(trouble.fault for trouble in plan.troubles)
        self.for_good: list[Iterator[None]] = []
        self.moments = {name: threading.Event() for name in MOMENTS}
        self.first_life = len(ground.lives) - 1
        self.recorded_before = self._recorded()
        self.heard_before = len(ground.broker.messages)

    def play(self) -> Result:
        started = time.monotonic()
        self.ground.witness.on_passed = self._on_passed
        threads = [threading.Thread(target=self._make, args=(trouble,)) for trouble in self.plan.troubles]
        for thread in threads:
            thread.start()
        self.moments["start"].set()
        time.sleep(0.1)
        for sending in self.plan.sendings:
            self._send(sending)
        for thread in threads:
            thread.join()
        state = self._settle()
        ailing = [f"with the fault in place {ailment}" for ailment in self._ailments(state)] if self.for_good else []
        if self.for_good:
            self._heal()
            state = self._settle()
        evidence = self._evidence(state)
        self.ground.witness.on_passed = lambda _: None
        found = [f"the run could not be played: {problem}" for problem in self.problems]
        found += ailing + broken(evidence)
        ends = [evidence.end_of(order.command_id) or "never arrived" for order in self.orders]
        seconds = time.monotonic() - started
        return Result(self.plan, ends, evidence.recorded.total(), found, seconds, evidence, self.waited_for)

    # What happens.

    def _make(self, trouble: Trouble) -> None:
        """In a thread of its own: a fault comes, stays and goes."""
        self.moments[trouble.moment].wait(MOMENT_S)
        time.sleep(trouble.after_s)
        try:
            course = FAULTS[trouble.fault](self.ground, random.Random(self.plan.seed))
            next(course)
            if trouble.fault in FOR_GOOD:
                self.for_good.append(course)
                return
            time.sleep(trouble.for_s)
            next(course, None)
        except (LabError, OSError) as error:
            self.problems.append(f"{trouble.fault}: {error}")

    def _heal(self) -> None:
        """What a person does at last: make room, mount the disk as it should be, start the agent anew."""
        for course in self.for_good:
            next(course, None)
        self.for_good.clear()
        self.ground.owes_restart = True
        self.ground.repair()

    def _on_passed(self, passed: Passed) -> None:
        """On the witness's thread, before the packet goes on."""
        self.said.append(passed)
        if passed.is_puback or not passed.from_client or not passed.payload:
            return
        if passed.topic == self.ground.topic("commands/ack"):
            status = json.loads(passed.payload)["status"]
            self.moments["completed" if status in TERMINAL else status].set()
        elif passed.topic == self.ground.topic("status"):
            self.moments[json.loads(passed.payload)["state"]].set()

    def _send(self, sending: Sending) -> None:
        deadline = time.monotonic() + 8
        while sending.waits_for_end and time.monotonic() < deadline and not self._is_over(self.orders[-1:]):
            time.sleep(0.02)
        time.sleep(sending.after_s)
        for payload, tail, retain in self._messages(sending.kind):
            self._publish(payload, tail, retain)

    def _publish(self, payload: bytes, tail: str, retain: bool) -> None:
        """A controller tries again when its broker is away."""
        patience = Patience(30)
        while True:
            try:
                return self.ground.send(payload, tail, retain)
            except LabError as error:
                if patience.is_over:
                    self.problems.append(str(error))
                    return
            time.sleep(0.1)

    def _messages(self, kind: str) -> Iterator[tuple[bytes, str, bool]]:
        ground, tail = self.ground, "command" if kind == "transitional" else "commands"
        now = datetime.now(UTC)
        command = ground.command("shutdown_host" if kind == "shutdown" else "reboot_host")
        ends = {"expired": {"expired"}, "foreign": {"wrong_client"}, "junk": {"invalid_schema"}}.get(kind)
        match kind:
            case "expired":
                past = timedelta(minutes=10)
                command |= {"issued_at": timestamp(now - past), "expires_at": timestamp(now - past / 2)}
            case "foreign":
                command |= {"client_uuid": str(uuid.uuid4())}
            case "junk":
                command |= {"force": True}
        if "clock_jumps" in self.faults and kind == "expired":
            ends = {"expired", "not_yet_valid"}
        order = Order(command["command_id"], command["action"], frozenset(ends or self._ends(kind)), ends is None)
        self.orders.append(order)
        payload = json.dumps(command).encode()
        if kind == "junk":
            yield payload[:-1], tail, False
        yield payload, tail, kind == "retained"
        if kind == "twice":
            yield payload, "command", False
        if kind == "conflict":
            yield json.dumps(command | {"reason": "another"}).encode(), tail, False

    def _ends(self, kind: str) -> set[str]:
        ends = ALWAYS | {"retained"} if kind == "retained" else set(ALWAYS)
        # A shutdown is completed before the host is down, and what comes in between is interrupted by it.
        ends |= {"interrupted"} if any(sending.kind == "shutdown" for sending in self.plan.sendings) else set()
        return ends.union(*(EXCUSES.get(fault, set()) for fault in self.faults))

    # What is seen.

    def _heard(self) -> list[Message]:
        return self.ground.broker.messages[self.heard_before :]

    def _acks_heard(self) -> list[Ack]:
        tails = self.ground.topic("commands/ack"), self.ground.topic("command/ack")
        return [Ack.of(message.payload) for message in self._heard() if message.topic in tails]

    def _is_over(self, orders: list[Order]) -> bool:
        ended = {ack.command_id for ack in self._acks_heard() if ack.status in TERMINAL}
        return all(order.command_id in ended for order in orders)

    def _settle(self) -> dict[str, Any]:
        """Until machine and agent are at rest, and nothing more can come; what the client says of itself then."""
        state: dict[str, Any] = {}
        patience_s = slow(
            KEEP_ALIVE_S if "half_open" in self.faults else FORGOTTEN_S if self._broker_forgot() else UNDER_WAY_S
        )
        started, at_rest_since = time.monotonic(), math.inf
        patience = Patience(HEALTHY_S)
        while not patience.is_over:
            now = time.monotonic()
            with suppress(LabError, OSError, ValueError, sqlite3.Error):
                if not self.ground.is_running:
                    self.ground.boot()
                self.ground.wait_booted()
                at_rest_since = min(at_rest_since, now) if self._is_at_rest() else math.inf
                is_over = at_rest_since < now - (0 if self._is_over(self.orders) else patience_s)
                if is_over or now > started + UNREPAIRED_S:
                    self.ground.repair()
                # Nobody may be inside while the machine goes down: so it is asked when it has no reason to any more.
                if is_over:
                    state = json.loads(self.ground.run("infoscreen-reboot", "status", "--json"))
                    if not (ailments := self._ailments(state)):
                        return state
                    self.waited_for = ailments
            time.sleep(0.1)
        return state

    def _is_at_rest(self) -> bool:
        """As far as can be seen without a process in the machine."""
        if not self._is_online() or self.ground.witness.is_forsaken:
            return False
        if self._cannot_write:
            return True
        with closing(sqlite3.connect(f"file:{self.ground.disk}/agent/journal.sqlite3?mode=ro", uri=True)) as journal:
            count = "SELECT (SELECT count(*) FROM outbox) + count(*) FROM command"
            (left,) = journal.execute(f"{count} WHERE state NOT IN ('completed', 'failed')").fetchone()
        return bool(left == 0)

    @property
    def _cannot_write(self) -> bool:
        """The agent has no store on disk now, and what is on the disk waits."""
        return bool(self.for_good) and "read_only_for_good" in self.faults

    def _is_online(self) -> bool:
        """By the last status that the controller heard."""
        told = [message.json for message in self.ground.broker.on(self.ground.topic("status")) if message.payload]
        return (told[-1]["state"], told[-1]["boot_id"]) == ("online", self.ground.boot_id)

    def _broker_forgot(self) -> bool:
        return bool(self.faults & {"broker_killed", "broker_forgets"})

    def _ailments(self, state: dict[str, Any]) -> list[str]:
        ground = self.ground
        if not ground.is_running or not state:
            return ["the machine or its `infoscreen-reboot status` did not come back"]
        found = []
        unit = state["unit"]
        is_ready = "ready for commands" in unit["StatusText"] or self._cannot_write
        if unit["ActiveState"] != "active" or not is_ready:
            found.append(f"the agent is {unit['ActiveState']}, and says: {unit['StatusText']}")
        if not self._cannot_write:
            if state["outbox"]:
                found.append(f"{state['outbox']} messages wait in the outbox")
            found += (f"{c['command_id']} is {c['state']}" for c in state["commands"] if c["state"] not in TERMINAL)
        if not self._is_online():
            found.append("the last status heard is not online in this boot")
        if "infoscreen-simclient" not in ground.run("systemd-inhibit", "--list", "--no-pager"):
            found.append("the client holds no shutdown delay: it, or logind, is not on the system bus")
        # By the witness: at QoS 0 it is lost when it comes before the listener is back.
        told = (p.payload for p in ground.witness.passed if p.topic == ground.topic("health"))
        if not any(ground.boot_id.encode() in payload for payload in told):
            found.append("no health came from this boot")
        return found

    def _recorded(self) -> Counter[str]:
        path = self.ground.disk / "helper/history.jsonl"
        content = path.read_text() if path.exists() else ""
        # What follows the last line is room that was reserved, or a line that was never flushed.
        lines = content[: content.rfind("\n") + 1].splitlines()[1:]
        entries = {entry["command_id"]: entry for entry in map(json.loads, lines)}
        return Counter(entry["command_id"] for entry in entries.values())

    def _known(self, state: dict[str, Any]) -> list[dict[str, Any]]:
        """The last commands; after a flood those before it, too."""
        if "junk_flood" not in self.faults:
            return list(state.get("commands", []))
        told = self.ground.run("infoscreen-reboot", "history", "--json", "--limit", str(2 * FLOOD))
        known: list[dict[str, Any]] = json.loads(told)
        return known

    def _evidence(self, state: dict[str, Any]) -> Evidence:
        ground = self.ground
        commands = ground.topic("commands"), ground.topic("command")
        acks = ground.topic("commands/ack"), ground.topic("command/ack")
        said = list(self.said)
        lines = HELPER_LINE.findall(ground.journal(HELPER, since_s=self.since))
        records = [record for record in self._known(state) if self._is_ours(record["command_id"])]
        return Evidence(
            orders=tuple(self.orders),
            earlier=self.earlier | {json.loads(flood_line(number))["command_id"] for number in range(FLOOD)},
            forgotten=self.forgotten,
            said=[Ack.of(p.payload) for p in said if p.topic in acks and p.from_client and not p.is_puback],
            taken=frozenset(p.payload for p in said if p.topic in acks and not p.from_client and p.is_puback),
            arrived_live=_ids(
                p for p in said if p.topic in commands and not (p.from_client or p.is_puback or p.retain)
            ),
            received=_ids(p for p in said if p.topic in commands and p.from_client and p.is_puback),
            heard=self._acks_heard(),
            asked=Counter(command_id for command_id, _ in lines),
            executed=Counter(command_id for command_id, outcome in lines if outcome == "done" or "NoReply" in outcome),
            recorded=self._recorded() - self.recorded_before,
            lives=[
                Life(life.boot_id, None if life.exit_code is None else ENDS.get(life.exit_code, "power cut"))
                for life in ground.lives[self.first_life :]
            ],
            kept=[
                Kept(r["command_id"], r["state"], r["error_code"] or r["state"], r["started_boot_id"] is not None)
                for r in records
            ],
            broker_forgot=self._broker_forgot(),
            client_forgot=bool(self.faults & set(FORGETFUL)),
            was_flooded="junk_flood" in self.faults,
            ailments=self._ailments(state),
        )

    def _is_ours(self, command_id: str) -> bool:
        return any(order.command_id == command_id for order in self.orders)


def _ids(messages: Iterator[Passed]) -> frozenset[str]:
    """Of the commands among them that have an id that can be read."""
    found = set()
    for message in messages:
        with suppress(ValueError, KeyError, TypeError):
            found.add(json.loads(message.payload)["command_id"])
    return frozenset(found)
