"""From a command's publish to the call that takes the host down, as logind sees it."""

from __future__ import annotations

import random
import time

from tools.benchmarks.driver import Driver, driving
from tools.benchmarks.stage import ACKS, COMMANDS, Stage, command

Samples = dict[str, list[float]]


def called(stage: Stage, rounds: int) -> Samples:
    """Milliseconds; the helper is resident, as it is for 30 s after each call. Polkit and logind are fakes."""
    stage.helper()
    stage.agent(COMMAND_EXECUTOR="helper")
    stage.await_subscription(COMMANDS)
    stage.systemctl_mqtt("peer")
    stage.await_subscription("peer/suspend")
    samples: Samples = {"agent": [], "systemctl-mqtt": []}
    with driving(stage.port, ACKS) as driver:
        time.sleep(2)
        for number in range(-3, rounds):
            for name in random.sample(sorted(samples), len(samples)):
                command_id, payload = command()
                at = driver.publish(COMMANDS if name == "agent" else "peer/poweroff", payload)
                called_at = stage.logind.ordered.get(timeout=10)
                if number >= 0:
                    samples[name].append((called_at - at) * 1e3)
                if name == "agent":
                    _await_failure(driver, command_id.encode())
                time.sleep(0.1)
    return samples


def _await_failure(driver: Driver, command_id: bytes) -> None:
    end = driver.await_one(lambda heard: command_id in heard.payload and b'"status":"failed"' in heard.payload)
    assert b"helper_failed" in end.payload, end
