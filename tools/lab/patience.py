"""Waits that a busy machine does not end too early: while something waits for a processor, time does not count."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

PRESSURE = Path("/proc/pressure/cpu")
# However busy the machine is, a wait ends after so many times its own time: what hangs may be busy all the while.
MOST = 10.0
# What probe_s() was on the machine on which the times in the tests were found right, with nothing else to do.
PROBE_S = 0.15
PROBE = "/usr/bin/python3", "-I", "-c", "import asyncio, json, sqlite3, ssl, xml.etree.ElementTree"
_LOOK_S = 1.0
_probing = threading.Lock()


def stalled_s() -> float:
    """For how long there was something on this machine that had work and no processor (Linux, accounting/psi)."""
    match = re.search(r"some .*total=(\d+)", PRESSURE.read_text()) if PRESSURE.exists() else None
    return int(match[1]) / 1e6 if match else 0.0


class Patience:
    """A deadline that comes later by what the processors were wanted elsewhere, and never later than MOST times."""

    def __init__(
        self, timeout_s: float, now_s: Callable[[], float] = time.monotonic, stalled_s: Callable[[], float] = stalled_s
    ) -> None:
        # Where the kernel does not say how long somebody waited, a guess must do.
        self.timeout_s = timeout_s if PRESSURE.exists() else timeout_s * slowness()
        self._now_s = now_s
        self._all_stalled_s = stalled_s
        self._began_s = now_s()
        self._stalled_before_s = stalled_s()

    @property
    def left_s(self) -> float:
        """What is left of it if from now on nothing has to wait for a processor; 0 where it is at its end."""
        return max(0.0, min(self.timeout_s, self.stretched_s - (self._now_s() - self._began_s)))

    @property
    def stretched_s(self) -> float:
        """How long it is by now: a bound for what has taken its time meanwhile."""
        stalled_s = self._all_stalled_s() - self._stalled_before_s
        return min(self.timeout_s + stalled_s, self.timeout_s * MOST)

    @property
    def look_s(self) -> float:
        """For how long to wait before looking at the clock again."""
        return min(self.left_s, _LOOK_S)

    @property
    def is_over(self) -> bool:
        return self.left_s == 0

    def wait_for(self, turn: threading.Condition, is_so: Callable[[], bool]) -> bool:
        """As Condition.wait_for(), which must be held; whether it is so."""
        while not turn.wait_for(is_so, self.look_s):
            if self.is_over:
                return is_so()
        return True

    def communicate(self, process: subprocess.Popen[bytes]) -> bytes:
        """What it prints until it ends. Raises subprocess.TimeoutExpired; the process is still there then."""
        while True:
            try:
                return process.communicate(timeout=self.look_s)[0]
            except subprocess.TimeoutExpired:
                if self.is_over:
                    raise


def slow(seconds: float) -> int:
    """A time to give to what is tested, in whole seconds: longer by as much as this machine is slow just now."""
    return round(seconds * slowness())


def slowness() -> float:
    """How many times longer than on an idle machine a start of Python on every core takes; from 1 to MOST."""
    # One probe for all who ask at once: several would measure each other.
    with _probing:
        return _slowness(int(time.monotonic() / 10))


@functools.lru_cache(maxsize=1)
def _slowness(now: int) -> float:
    return min(MOST, max(1.0, probe_s() / PROBE_S))


def probe_s(times: int = 4) -> float:
    """The mean of so many: a single one may find a gap."""
    began = time.monotonic()
    for _ in range(times):
        for process in [subprocess.Popen(PROBE) for _ in range(os.cpu_count() or 1)]:
            process.wait()
    return (time.monotonic() - began) / times
