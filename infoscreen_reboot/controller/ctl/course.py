"""How far several commands are, told by their events. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from infoscreen_reboot.controller.ctl.outcome import Outcome
from infoscreen_reboot.controller.ctl.shapes import Command, Event

# docs/api.md: the states in their order; all verdicts have the same rank.
OPEN = ("queued", "published", "accepted", "execution_started", "awaiting_reconnect")
NOT_BACK = ("failed", "expired", "timed_out")
STOPPED = ("cancelled", "blocked_safety")
STATES = (*OPEN, "completed", *NOT_BACK, *STOPPED)
VERDICTS = ("completed", *NOT_BACK, *STOPPED)


class Line(NamedTuple):
    """One thing that happened."""

    at: str
    name: str
    kind: str
    words: str


@dataclass(slots=True)
class Course:
    """`names` has the name of each client, by its UUID; `clients` the client of each command, by its id."""

    names: Mapping[str, str]
    clients: Mapping[str, str]
    states: dict[str, str] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    last_seq: int = 0
    # Counting all states after each event of a large batch would take longer than the batch.
    ended: set[str] = field(default_factory=set)

    def hear(self, event: Event) -> Line | None:
        """What to tell of it; None if it is of no interest, or was heard before."""
        if event["seq"] <= self.last_seq:
            return None
        self.last_seq = event["seq"]
        command_id = event["command_id"]
        if command_id is None or command_id not in self.clients:
            return None
        words = words_of(event)
        if event["kind"] in STATES:
            self._enter(command_id, event["kind"])
            self.words[command_id] = words
        if not words:
            return None
        return Line(event["at"], self.name(command_id), event["kind"], words)

    def name(self, command_id: str) -> str:
        uuid = self.clients[command_id]
        return self.names.get(uuid, uuid)

    def settle(self, states: Mapping[str, str]) -> None:
        """What the server says now is true, whatever was heard of it."""
        for command_id, state in states.items():
            self._enter(command_id, state)

    def _enter(self, command_id: str, state: str) -> None:
        self.states[command_id] = state
        if state in VERDICTS:
            self.ended.add(command_id)

    @property
    def counts(self) -> Counter[str]:
        known = Counter(list(self.states.values()))  # at once: a picture is drawn in another thread
        known["queued"] += len(self.clients) - len(self.states)
        return known

    @property
    def is_over(self) -> bool:
        return len(self.ended) == len(self.clients)


def words_of(event: Event) -> str:
    """An event in words; empty for what says nothing to an operator."""
    content = event["content"]
    match event["kind"]:
        case "queued":
            return f"queued by {content.get('by')}"
        case "held":
            return f"waits: {content.get('why')}"
        case "blocked_safety":
            return f"refused: {content.get('why')}"
        case "published":
            return "published: the broker has it"
        case "accepted":
            return "accepted by the client"
        case "execution_started":
            return "execution_started"
        case "awaiting_reconnect":
            return "awaiting_reconnect: it is down"
        case "seen":
            return "connected again" if content.get("is_online") else "connection lost"
        case "completed":
            return "completed"
        case "failed":
            return f"failed: {_error(content.get('code'), content.get('message'))}"
        case "expired":
            return "expired: no answer of the client"
        case "timed_out":
            return f"timed_out, waiting for: {content.get('step')}"
        case "cancelled":
            return "cancelled"
        case "late_truth":
            return f"late: the client says {content.get('status')}"
    return ""


def _error(code: object, message: object) -> str:
    return f"{code} ({message})" if message else str(code)


def why(command: Command, words: str | None = None) -> str:
    """The state of a command, and what there is to say about it."""
    state = command["state"]
    if state == "completed" and is_mock(command):
        return "completed, but only pretended (mock)"
    if state == "completed":
        return _proven(command)
    if command["error_code"] is not None and state in ("failed", *STOPPED):
        said = command["error_message"] if state == "blocked_safety" else None
        return f"{state}: {said or _error(command['error_code'], command['error_message'])}"
    if command["hold"] is not None:
        return f"{state}: waits, {command['hold']['why']}"
    return words or state


def _proven(command: Command) -> str:
    match command["evidence"].get("proof"):
        case "boot_id":
            return "completed, in a new boot"
        case "unheard":
            return "completed, says the client"
    return "completed"


def is_mock(command: Command) -> bool:
    """A client that only pretends stays in its boot: it says `completed` and did not reboot."""
    return command["evidence"].get("proof") == "mock"


def did_not_come_back(command: Command) -> bool:
    return command["state"] in NOT_BACK or is_mock(command)


def outcome(commands: list[Command]) -> Outcome:
    if any(did_not_come_back(command) for command in commands):
        return Outcome.NOT_BACK
    if any(command["state"] in STOPPED for command in commands):
        return Outcome.REFUSED
    return Outcome.DONE
