"""Stops a rollout in which too many fail, and says in words what its sample proves and which failure will stop it.

- It stops as soon as more than the threshold of those that ran have failed, or as soon as that can no longer be
  avoided: when more have failed than the threshold allows of all that will have run.
- Of a small sample nobody can say what the true rate is. Until `minimum` have run, any failure pauses and asks.
- A threshold that cannot be read stops: whoever wrote it wanted a brake.
- Only numbers count, so the order in which verdicts come does not matter.
"""

import math
import re
from bisect import bisect_left
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from functools import lru_cache

from infoscreen_reboot.controller.lifecycle import Proof, State

MAX_FAILED = "5 %"
# The smallest sample in which one failure is not more than 5 %.
MINIMUM = 20
_PERCENT = re.compile(r"(\d{1,3}(?:\.\d{1,3})?) ?%", re.ASCII)
# How sure one wants to be that the true rate is not higher.
_DOUBT = 0.05


class Count(StrEnum):
    """What a verdict is for the brake. What did not run proves nothing; a mock did not run."""

    RAN = "ran"
    FAILED = "failed"
    NOT_COUNTED = "not_counted"


class Decision(StrEnum):
    GO_ON = "go_on"
    ASK = "ask"
    STOP = "stop"

    @property
    def severity(self) -> int:
        return list(Decision).index(self)


@dataclass(frozen=True, slots=True)
class Sample:
    """`ran` of which `failed`; `left` have no verdict yet and may still run."""

    ran: int
    failed: int
    left: int = 0

    @property
    def total(self) -> int:
        """All that will have run, if each of those that are left does."""
        return self.ran + self.left

    def after_failures(self, count: int) -> "Sample":
        """If the next ones that end all fail."""
        return Sample(self.ran + count, self.failed + count, max(0, self.left - count))


@dataclass(frozen=True, slots=True)
class Judgement:
    decision: Decision
    why: str


@dataclass(frozen=True, slots=True)
class Foresight:
    """Which failure pauses it, which one stops it if the next ones all fail, and which one whatever else happens. None
    where no failure of those that are left does."""

    asks_at: int | None
    stops_at: int | None
    stops_at_latest: int | None


@dataclass(frozen=True, slots=True)
class Brake:
    """`threshold` is as it was written; at most that part of those that ran may fail."""

    threshold: str = MAX_FAILED
    minimum: int = MINIMUM

    def judge(self, sample: Sample) -> Judgement:
        decision = self._decide(sample)
        if not _is_readable(self.threshold):
            return Judgement(decision, f"the threshold {self.threshold[:80]!r} cannot be read")
        allowed = f"at most {self.threshold} may"
        match decision:
            case Decision.GO_ON:
                why = proven(sample)
            case Decision.ASK:
                why = f"{_failed(sample)}: of fewer than {self.minimum} nobody can tell if {allowed}"
            case Decision.STOP if sample.left and self._is_above(sample.failed, sample.total):
                rest = f"however the other {sample.left} end, it will be more than {self.threshold} of {sample.total}"
                why = f"{_failed(sample)}: {rest}"
            case Decision.STOP:
                why = f"{_failed(sample)}, and {allowed}"
        return Judgement(decision, why)

    def foresee(self, sample: Sample) -> Foresight:
        counts = range(1, sample.left + 1)

        def stops(count: int) -> bool:
            return self._decide(sample.after_failures(count)) is Decision.STOP

        # What has stopped does so for each further failure, too.
        first = bisect_left(counts, True, key=stops)
        asks = bool(counts) and self._decide(sample.after_failures(1)) is Decision.ASK
        latest = sample.failed + 1
        if _is_readable(self.threshold):
            latest = math.floor(read_threshold(self.threshold) * sample.total) + 1
        is_possible = sample.failed < latest <= sample.failed + sample.left
        return Foresight(
            asks_at=sample.failed + 1 if asks else None,
            stops_at=sample.failed + counts[first] if first < len(counts) else None,
            stops_at_latest=latest if is_possible else None,
        )

    def _decide(self, sample: Sample) -> Decision:
        if not _is_readable(self.threshold) or self._is_above(sample.failed, sample.total):
            return Decision.STOP
        if sample.ran < self.minimum:
            return Decision.ASK if sample.failed else Decision.GO_ON
        return Decision.STOP if self._is_above(sample.failed, sample.ran) else Decision.GO_ON

    def _is_above(self, failed: int, of: int) -> bool:
        """Without a rounding: 1 of 20 is not above 5 %."""
        return failed > read_threshold(self.threshold) * of

    def words(self, sample: Sample) -> str:
        """What the sample proves, and which failure will do what, for people."""
        seen = self.foresee(sample)
        parts = []
        if seen.asks_at is not None:
            parts.append(f"failure {seen.asks_at} pauses it and asks")
        elif seen.stops_at == sample.failed + 1:
            parts.append(f"failure {seen.stops_at} stops it")
        elif seen.stops_at is not None:
            parts.append(f"failure {seen.stops_at} stops it if no other client succeeds before")
        if seen.stops_at_latest not in (None, sample.failed + 1):
            parts.append(f"failure {seen.stops_at_latest} of {sample.total} stops it in any case")
        if not parts and sample.left:
            parts.append("no failure can stop it")
        return "; ".join([proven(sample), *parts])


@lru_cache(maxsize=64)
def read_threshold(text: str) -> Fraction:
    """`5 %`, `2.5%`. A bare number is refused, because it may mean a count. Raises ValueError."""
    found = _PERCENT.fullmatch(text.strip())
    if found is None or Fraction(found[1]) >= 100:
        raise ValueError(f"{text[:80]!r} is no threshold; allowed is a percentage below 100, as in 5 %")
    return Fraction(found[1]) / 100


def _is_readable(threshold: str) -> bool:
    try:
        read_threshold(threshold)
    except ValueError:
        return False
    return True


def counts_as(state: State, proof: Proof | None) -> Count:
    """Of a verdict, and what proves it."""
    if state in (State.FAILED, State.TIMED_OUT):
        return Count.FAILED
    if state is State.COMPLETED and proof is not Proof.MOCK:
        return Count.RAN
    return Count.NOT_COUNTED


def upper_bound(failed: int, ran: int) -> float:
    """The highest true rate, from 0 to 1, with which so few failures are still to be expected once in twenty times.

    Clopper and Pearson, one-sided, 95 %. Of 0 failures it is 1 - 0.05 ** (1 / ran).
    """
    if failed >= ran:
        return 1.0
    low, high = failed / ran, 1.0
    for _ in range(30):
        rate = (low + high) / 2
        low, high = (rate, high) if _at_most(failed, ran, rate) > _DOUBT else (low, rate)
    return high


def proven(sample: Sample) -> str:
    """What the sample says of the true rate: `0 of 10 failed: the true rate may still be 26 %`."""
    if sample.ran == 0:
        return "none has run so far"
    return f"{_failed(sample)}: the true rate may still be {_percent(upper_bound(sample.failed, sample.ran))}"


def _failed(sample: Sample) -> str:
    rate = f" ({_percent(sample.failed / sample.ran)})" if sample.failed else ""
    return f"{sample.failed} of {sample.ran} failed{rate}"


def _at_most(failed: int, ran: int, rate: float) -> float:
    """The probability of at most so many failures at that rate."""
    if rate in (0.0, 1.0):
        return 1.0 - rate
    # In logarithms: the first terms of a large sample are smaller than a float can be.
    term = ran * math.log1p(-rate)
    odds = math.log(rate) - math.log1p(-rate)
    total = math.exp(term)
    for count in range(1, failed + 1):
        term += math.log((ran - count + 1) / count) + odds
        total += math.exp(term)
    return total


def _percent(share: float) -> str:
    number = 100 * share
    return f"{number:.0f} %" if number >= 10 else f"{number:.1f} %".replace(".0 %", " %")
