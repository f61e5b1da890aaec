"""What a busy machine does to the waits of the other tests."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tools.lab import patience
from tools.lab.patience import MOST, Patience


@dataclass
class Machine:
    """Its clock, and for how long something waited for a processor."""

    now_s: float = 1000.0
    stalled_s: float = 500.0

    def passes(self, seconds: float, stalled_s: float = 0.0) -> None:
        self.now_s += seconds
        self.stalled_s += stalled_s

    def patience(self, timeout_s: float) -> Patience:
        return Patience(timeout_s, lambda: self.now_s, lambda: self.stalled_s)


@pytest.fixture(autouse=True)
def a_kernel_that_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "slowness", lambda: 1.0)


def test_on_an_idle_machine_a_wait_is_as_long_as_it_says() -> None:
    machine = Machine()
    wait = machine.patience(10)
    machine.passes(9)
    assert not wait.is_over
    assert wait.left_s == 1
    machine.passes(1)
    assert wait.is_over


def test_while_something_waits_for_a_processor_time_does_not_count() -> None:
    machine = Machine()
    wait = machine.patience(10)
    machine.passes(40, stalled_s=35)
    assert wait.left_s == 5
    machine.passes(5)
    assert wait.is_over


def test_what_hangs_on_a_busy_machine_is_given_up_in_the_end() -> None:
    machine = Machine()
    wait = machine.patience(10)
    machine.passes(10 * MOST, stalled_s=10 * MOST)
    assert wait.is_over
