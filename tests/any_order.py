"""Tries what a state machine of hypothesis can do, in any order."""

from __future__ import annotations

import logging
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

# Where writing costs nothing.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def the_same(machine: type[RuleBasedStateMachine], examples: int, steps: int, **options: Any) -> None:
    """So many sequences of at most so many steps; nothing of what they log is shown."""
    logging.disable(logging.CRITICAL)
    try:
        run_state_machine_as_test(  # type: ignore[no-untyped-call]  # hypothesis has no type for it
            machine,
            settings=settings(
                max_examples=examples,
                deadline=None,
                stateful_step_count=steps,
                suppress_health_check=list(HealthCheck),
                **options,
            ),
        )
    finally:
        logging.disable(logging.NOTSET)


def is_found(machine: type[RuleBasedStateMachine], examples: int, steps: int, words: str) -> None:
    """A fault that was put in fails it with these words, in the same sequences each time."""
    with pytest.raises(AssertionError, match=words):
        the_same(machine, examples, steps, phases=[Phase.generate], derandomize=True, database=None)
