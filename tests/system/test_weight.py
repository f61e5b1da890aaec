"""What the agent costs a machine that nobody sends anything: bounds that a loaded machine does not move."""

from __future__ import annotations

import time

from tools.benchmarks.machines import LIBRARIES, memory, processes, spent
from tools.lab.machine import AGENT, HELPER, Machine
from tools.lab.patience import Patience

HEALTHS, HEALTH_S = 2, 30


def test_an_agent_at_rest_is_little_more_than_its_libraries_and_lets_the_processor_sleep(machine: Machine) -> None:
    machine.run("systemd-run", "--quiet", "--unit=libraries", "python3", "-I", "-c", LIBRARIES)
    # It has asked the helper, which goes by itself 30 s later.
    machine.hear("health", 40)
    patience = Patience(60)
    while processes(machine, HELPER):
        assert not patience.is_over, "the helper does not go"
        time.sleep(1)
    _, before = spent(machine, AGENT)
    time.sleep(HEALTHS * HEALTH_S)
    _, after = spent(machine, AGENT)
    assert (after - before) / (HEALTHS * HEALTH_S) <= 0.5, "wake-ups a second"
    alone, agent = memory(machine, "libraries.service"), memory(machine, AGENT)
    assert agent["RSS"] <= 1.25 * alone["RSS"], (agent, alone)
    assert not processes(machine, HELPER)
