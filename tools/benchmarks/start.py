"""From the start of a process to its subscription, and what it imports on the way."""

from __future__ import annotations

import os
import random
import re
import subprocess
import time
from pathlib import Path

from tools.benchmarks.stage import AGENT, COMMANDS, PYTHON, Stage

Samples = dict[str, list[float]]
_LINE = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \| (\s*)(\S+)")


def subscribed(stage: Stage, rounds: int) -> Samples:
    """Milliseconds until the broker grants the subscription to commands, and how many of them on the processor.

    The latter come in tens, so only their mean says something; it does so on a busy machine, too.
    """
    names = "agent", "systemctl-mqtt"
    samples: Samples = {kind: [] for name in names for kind in (name, f"{name} CPU")}
    for number in range(-1, rounds):
        for name in random.sample(names, len(names)):
            started_at = time.perf_counter()
            if name == "agent":
                process, topic = stage.agent("start", COMMAND_EXECUTOR="helper"), COMMANDS
            else:
                process, topic = stage.systemctl_mqtt("peer"), "peer/poweroff"
            at = stage.await_subscription(topic)
            ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
            if number >= 0:
                samples[f"{name} CPU"].append(sum(map(int, ticks)) * 1e3 / os.sysconf("SC_CLK_TCK"))
                samples[name].append((at - started_at) * 1e3)
            time.sleep(0.3)
            stage.end(process)
    return samples


def imports() -> dict[str, float]:
    """Milliseconds of each package that the agent's start imports, with all that it alone imports; best of five."""
    best: dict[str, float] = {}
    for _ in range(5):
        argv = [PYTHON, "-I", "-X", "importtime", AGENT, "--help"]
        told = subprocess.run(argv, capture_output=True, text=True, check=True).stderr
        spent: dict[str, float] = {}
        for own_us, _, _, module in _LINE.findall(told):
            package = module.partition(".")[0]
            spent[package] = spent.get(package, 0) + int(own_us) / 1e3
            spent["all"] = spent.get("all", 0) + int(own_us) / 1e3
        best = {name: min(ms, best.get(name, ms)) for name, ms in spent.items()}
    return dict(sorted(best.items(), key=lambda item: -item[1])[:25])
