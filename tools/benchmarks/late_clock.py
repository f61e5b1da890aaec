"""How long a client takes to connect after its clock has been set, which is years behind when it boots."""

from __future__ import annotations

import base64
import json
import random
import time
from pathlib import Path

from tests.broker.conftest import Authority
from tests.vm.hands import SLOW_S
from tools.benchmarks.late import BEFORE, NOW, OLD, packed, units
from tools.lab.screen import AGENT
from tools.lab.vm import VirtualMachine

Samples = dict[str, list[float]]
KIND = "the clock is set"
# To start an agent takes seconds on a machine without KVM.
SHORTEST_S, LONGEST_S, LONGEST_QUICK_S = 15.0, 100.0, 40.0
PAIRS, PAIRS_QUICK, ROUNDS = 6, 2, 3
# Longer than the longest pause.
CONNECTS_WITHIN_S = 90
PORT = 8884
LISTENER = f"""\
listener {PORT} 127.0.0.1
allow_anonymous true
certfile {{certificate}}
keyfile {{key}}
"""
CA = "/etc/late/ca.pem"
# As that of a Pi without a clock chip. The broker's certificate is of a later year.
LONG_AGO = "2019-03-01"
CONNECTED = "connected to "
# A line of a shell's command has at most 128 KiB.
PIECE = 60_000


def late_clock(suite: str, deb: Path, quick: bool, before: str | None) -> Samples:
    """Seconds of the machine's time from the clock to the connection; `before` is a commit that is measured as well."""
    sides = (NOW, BEFORE) if before else (NOW,)
    names = {NOW: KIND, BEFORE: f"before: {KIND}"}
    found: Samples = {names[which]: [] for which in sides}
    with VirtualMachine(suite, deb) as machine:
        _furnish(machine, before, sides)
        for _ in range(1 if quick else ROUNDS):
            for which, connected_s in _round(machine, sides, quick):
                found[names[which]].append(connected_s)
    return found


def _furnish(machine: VirtualMachine, before: str | None, sides: tuple[str, ...]) -> None:
    folder = machine.scratch.directory / "authority"
    folder.mkdir()
    authority = Authority(folder)
    identity = authority.issue("broker", f"IP:{machine.BROKER_HOST}")
    listener = LISTENER.format(certificate=identity.certificate, key=identity.key)
    machine.broker.configuration.write_text(machine.broker.configuration.read_text() + listener)
    machine.broker.start()
    machine.boot()
    machine.wait_up()
    machine.write(CA, authority.certificate.read_text())
    for path, text in units(machine.read(f"/usr/lib/systemd/system/{AGENT}"), sides).items():
        machine.write(path, text)
    for which in sides:
        for number in range(PAIRS):
            client = f"CLIENT_UUID=9b8d185{number}-ff34-4864-a726-12de072d0f7{sides.index(which)}\n"
            broker = f"MQTT_BROKER={machine.BROKER_HOST}\nMQTT_PORT={PORT}\nMQTT_TLS_CA={CA}\n"
            machine.write(f"/etc/late/{which}-{number}.env", broker + client)
    if before:
        _send(machine, packed(before, machine.scratch.directory))
    machine.run(f"systemctl stop {AGENT}; systemctl daemon-reload", timeout_s=SLOW_S)


def _send(machine: VirtualMachine, archive: Path) -> None:
    """Unpacks it in OLD."""
    text = base64.b64encode(archive.read_bytes()).decode()
    for start in range(0, len(text), PIECE):
        machine.run(f"printf %s {text[start : start + PIECE]} >>/run/before.b64")
    machine.run(f"mkdir -p {OLD}; base64 -d /run/before.b64 | tar -x -z -C {OLD}", timeout_s=SLOW_S)


def _round(machine: VirtualMachine, sides: tuple[str, ...], quick: bool) -> list[tuple[str, float]]:
    """Pairs of clients start one after the other, and then the clock is set, at the same moment for all of them."""
    longest_s, number_of_pairs = (LONGEST_QUICK_S, PAIRS_QUICK) if quick else (LONGEST_S, PAIRS)
    step_s = (longest_s - SHORTEST_S) / number_of_pairs
    starts_s = [(n + random.random()) * step_s for n in range(number_of_pairs)]
    pairs = [[f"{which}@{n}.service" for which in random.sample(sides, len(sides))] for n in range(number_of_pairs)]
    until = "until awk -v at=$at '{ exit $1 < at }' /proc/uptime; do sleep 0.1; done\n"
    script = f"date -s {LONG_AGO} >/dev/null; began=$(cut -d. -f1 /proc/uptime)\n"
    for start_s, pair in zip(starts_s, pairs, strict=True):
        script += f"at=$((began + {start_s:.0f})); {until}systemctl start --no-block {' '.join(pair)}\n"
    script += f"at=$((began + {longest_s:.0f})); {until}cut -d' ' -f1 /proc/uptime\n"
    script += f"date -s @{time.time():.0f} >/dev/null"
    set_at_s = float(machine.run(script, timeout_s=10 * SLOW_S))
    everybody = [unit for pair in pairs for unit in pair]
    connected_s = _connected_s(machine, everybody, set_at_s)
    machine.run(f"systemctl stop {' '.join(everybody)}", timeout_s=SLOW_S)
    return [(unit.partition("@")[0], connected_s[unit] - set_at_s) for unit in everybody]


def _connected_s(machine: VirtualMachine, units: list[str], after_s: float) -> dict[str, float]:
    """When each has connected for the first time since then, by the time since the boot."""
    of = " ".join(f"-u {unit}" for unit in units)
    ask = f"journalctl -b -q -o json --output-fields=MESSAGE,_SYSTEMD_UNIT {of} --grep '^{CONNECTED}'"
    while True:
        found: dict[str, float] = {}
        for line in machine.run(f"{ask} || true", timeout_s=SLOW_S).splitlines():
            entry = json.loads(line)
            at_s = int(entry["__MONOTONIC_TIMESTAMP"]) / 1e6
            if at_s > after_s:
                found.setdefault(entry["_SYSTEMD_UNIT"], at_s)
        now_s = float(machine.read("/proc/uptime").split()[0])
        if len(found) == len(units):
            return found
        assert now_s < after_s + CONNECTS_WITHIN_S, (found, machine.run(f"journalctl -b {of} | tail -40"))
        machine.run("sleep 5")
