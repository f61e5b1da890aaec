"""What a command does to a machine, as a list of events in plain words, made from what really travelled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tools.lab.container import POWERED_OFF, REBOOTED, Life
from tools.lab.machine import Machine
from tools.lab.mosquitto import Message

MEANING = {
    "accepted": "on disk, before the broker was told that it arrived",
    "execution_started": "on disk with the id of this boot; now the root helper is asked",
    "connected": "ready for commands",
    "rebooting": "the agent's last word",
    "shutting_down": "the agent's last word",
    "stopped": "the agent was stopped",
    "connection_lost": "the broker's word: the agent went away in silence",
}
ENDS = {REBOOTED: "systemd asked for a reboot (exit code 133)", POWERED_OFF: "powered off (exit code 0)"}


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the story; `is_good` is None where it is neither good nor bad."""

    at: float
    who: str
    what: str
    why: str
    is_good: bool | None = None


class Story:
    """What came about on machine and broker, in the order of time, each thing once."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._messages = 0
        self._told: set[tuple[int, str]] = set()

    def news(self) -> list[Event]:
        messages = self.machine.broker.messages
        events = [event for message in messages[self._messages :] if (event := self._of_message(message))]
        self._messages = len(messages)
        for number, life in enumerate(list(self.machine.lives)):
            events += self._of_life(number, life)
        return sorted(events, key=lambda event: event.at)

    def _of_message(self, message: Message) -> Event | None:
        tail = message.topic.removeprefix(self.machine.topic(""))
        at = message.heard_at
        try:
            body = message.json
            match tail:
                case "commands" | "command":
                    return Event(at, "you", str(body["action"]), f"command {body['command_id']}")
                case "commands/ack":
                    return self._of_ack(at, body)
                case "status":
                    why = MEANING.get(body["reason"], "")
                    return Event(at, "agent", f"{body['state']} ({body['reason']})", why)
                case "boot":
                    return Event(at, "agent", "boot report", f"this boot came about by: {body['cause']}")
        except (ValueError, KeyError, TypeError):
            if tail in ("commands", "command"):
                return Event(at, "you", "no command", f"{len(message.payload)} bytes that nobody can read")
        return None

    def _of_ack(self, at: float, ack: dict[str, str]) -> Event:
        status = ack["status"]
        if status == "failed":
            return Event(at, "agent", "failed", f"{ack['error_code']}: {ack['error_message']}", is_good=False)
        if status == "completed":
            return Event(at, "agent", "completed", f"said in boot {ack['boot_id'][:8]}", is_good=True)
        return Event(at, "agent", status, MEANING[status])

    def _of_life(self, number: int, life: Life) -> Iterator[Event]:
        ended = "" if life.exit_code is None else ENDS.get(life.exit_code, f"ended with {life.exit_code}")
        before = self.machine.lives[number - 1].exit_code if number else None
        power = "by the firmware, as after every reboot" if before == REBOOTED else "switched on by someone on the spot"
        moments = (
            (life.started_at, "starts", power),
            (life.booted_at, "is up", f"boot id {life.boot_id[:8]}, the kernel's random id of this boot"),
            (life.ended_at, "is down", ended),
        )
        for at, what, why in moments:
            if at is not None and (number, what) not in self._told:
                self._told.add((number, what))
                yield Event(at, "machine", what, why)
