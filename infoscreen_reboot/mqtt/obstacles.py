"""What the broker does not take just now, why, and when it is tried again, so that all the rest goes on; pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 300.0


_MESSAGES_ON = "messages on "


def messages_on(topic: str) -> str:
    return _MESSAGES_ON + topic


def subscription_to(topic: str) -> str:
    return f"the subscription to {topic}"


@dataclass(slots=True)
class _Obstacle:
    why: str
    pause_s: float
    until_s: float
    ends_connections: bool


class Obstacles:
    """Named by what is not taken, in words: `messages_on(…)` or `subscription_to(…)`. Times are of any clock."""

    def __init__(self) -> None:
        self._known: dict[str, _Obstacle] = {}

    def put(self, what: str, why: str, now_s: float, *, ends_connections: bool = False) -> bool:
        """It was not taken, for this reason: set it aside, for longer each time. Returns whether that is news.

        `ends_connections`: to try it costs a connection.
        """
        known = self._known.get(what)
        pause_s = FIRST_PAUSE_S if known is None else min(2 * known.pause_s, LONGEST_PAUSE_S)
        self._known[what] = _Obstacle(why, pause_s, now_s + pause_s, ends_connections)
        return known is None or known.why != why

    def begin_anew(self, now_s: float) -> None:
        """There is a new connection: try all again, but for what ends connections."""
        for known in self._known.values():
            if not known.ends_connections:
                known.until_s = min(known.until_s, now_s)

    def remove(self, what: str) -> bool:
        """It was taken. Returns whether that is news."""
        return self._known.pop(what, None) is not None

    def is_set_aside(self, what: str, now_s: float) -> bool:
        known = self._known.get(what)
        return known is not None and now_s < known.until_s

    def topics_set_aside(self, now_s: float) -> list[str]:
        """Those of the messages that are set aside."""
        aside = [what for what, known in self._known.items() if now_s < known.until_s]
        return [what.removeprefix(_MESSAGES_ON) for what in aside if what.startswith(_MESSAGES_ON)]

    def is_due(self, what: str, now_s: float) -> bool:
        """Whether it was set aside, and may be tried again now."""
        known = self._known.get(what)
        return known is not None and now_s >= known.until_s

    def next_try_s(self, now_s: float) -> float | None:
        """How long until something that is set aside may be tried again; None if nothing is."""
        return min((each.until_s - now_s for each in self._known.values() if each.until_s > now_s), default=None)

    def sentences(self) -> Iterator[str]:
        for what, known in self._known.items():
            yield f"the broker refuses {what}: {known.why}"

    def __bool__(self) -> bool:
        return bool(self._known)
