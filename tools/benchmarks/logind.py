"""From a command's publish to the call that takes the host down, as logind sees it."""

from __future__ import annotations

import random
import time

from tools.benchmarks.driver import Driver, driving
from tools.benchmarks.stage import ACKS, COMMANDS, Stage, command

Samples = dict[str, list[float]]


def called(stage: Stage, rounds: int) -> Samples:
    """Milliseconds; the helper is resident, as it is for 30 s after each call. Polkit and logind are fakes."""
    topics = {"agent": COMMANDS, "least": "least", "systemctl-mqtt": "peer/poweroff"}
    stage.helper()
    stage.agent(COMMAND_EXECUTOR="helper")
    stage.await_subscription(COMMANDS)
    stage.least("least")
    stage.await_subscription("least")
    stage.systemctl_mqtt("peer")
    stage.await_subscription("peer/suspend")
    samples: Samples = {name: [] for name in topics}
    with driving(stage.port, ACKS, "least/ack") as driver:
        time.sleep(2)
        for number in range(-3, rounds):
            for name in random.sample(sorted(topics), len(topics)):
                command_id, payload = command()
                at = driver.publish(topics[name], payload)
                called_at = stage.logind.ordered.get(timeout=10)
                if number >= 0:
                    samples[name].append((called_at - at) * 1e3)
                if name != "systemctl-mqtt":
                    _await_failure(driver, command_id.encode())
                time.sleep(0.1)
    return samples


def _await_failure(driver: Driver, command_id: bytes) -> None:
    driver.await_one(lambda heard: command_id in heard.payload and b'"status":"failed"' in heard.payload)
