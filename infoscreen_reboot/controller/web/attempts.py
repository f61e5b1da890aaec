"""How often somebody may try a password: not so often that guessing leads anywhere."""

from __future__ import annotations

from collections import OrderedDict

MOST = 5
WITHIN_S = 15 * 60.0
# Of so many names the failures are remembered: who makes up names may not fill the memory.
_NAMES = 1000


class Attempts:
    """Failures by user name, in this process. Times are of a clock that nobody sets."""

    def __init__(self) -> None:
        self._failed: OrderedDict[str, list[float]] = OrderedDict()

    def wait_s(self, name: str, now_s: float) -> float:
        """For how long this name has to wait; 0 if it may try."""
        recent = self._recent(name, now_s)
        return recent[-MOST] + WITHIN_S - now_s if len(recent) >= MOST else 0.0

    def fail(self, name: str, now_s: float) -> None:
        self._failed[name] = [*self._recent(name, now_s), now_s][-MOST:]
        self._failed.move_to_end(name)
        while len(self._failed) > _NAMES:
            self._failed.popitem(last=False)

    def forget(self, name: str) -> None:
        self._failed.pop(name, None)

    def _recent(self, name: str, now_s: float) -> list[float]:
        return [at_s for at_s in self._failed.get(name, []) if at_s > now_s - WITHIN_S]
