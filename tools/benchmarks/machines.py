"""What is measured on whole machines: boots, real polkit and logind, memory, idling. Containers with real systemd."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.lab.machine import AGENT, HELPER, Machine, installed_layers
from tools.lab.roots import larder, machine_root, peers
from tools.lab.scratch import Scratch

Samples = dict[str, list[float]]
# What the agent imports from outside of it, as it imports it, and nothing else.
LIBRARIES = """
import sys
sys.modules["gi"] = None
import asyncio, sqlite3
import paho.mqtt.client, jsonschema, systemd.daemon, systemd.journal
from dbus_next.aio.message_bus import MessageBus
import signal
signal.pause()
"""
LNXLINK = "/var/lib/lnxlink/lnxlink.yaml"
CONFIGURE_LNXLINK = f"""
from lnxlink.consts import CONFIGTEMP
open({LNXLINK!r}, "w").write(CONFIGTEMP.replace("192.168.1.1", "127.0.0.1"))
"""
ASK_POLKIT = """
import asyncio, sys, time
from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import BusType
from dbus_next.message import Message
from dbus_next.signature import Variant

POLKIT = "org.freedesktop.PolicyKit1", "/org/freedesktop/PolicyKit1/Authority", "org.freedesktop.PolicyKit1.Authority"

async def main():
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    who = ["system-bus-name", {"name": Variant("s", bus.unique_name)}]
    question = [who, "org.infoscreen.reboothelper1.reboot", {}, 0, ""]
    for _ in range(int(sys.argv[1])):
        at = time.perf_counter()
        await bus.call(Message(*POLKIT, "CheckAuthorization", signature="(sa{sv})sa{ss}us", body=question))
        print((time.perf_counter() - at) * 1e3)
        await asyncio.sleep(0.05)

asyncio.run(main())
"""
PEERS = "/opt/peers"
HEALTH_FOLLOWS_S = 2


@contextmanager
def _machine(suite: str, deb: Path) -> Iterator[Machine]:
    """Booted, its agent online, its lockout out of the way."""
    with Machine(suite, deb, auto_restart=True, layers=[*peers(suite), *installed_layers(suite, deb)]) as machine:
        machine.broker.start()
        machine.configure_for_broker()
        machine.set_clock_synchronised()
        machine.write(f"/etc/systemd/system/{HELPER}.d/lab.conf", "[Service]\nEnvironment=LOCKOUT_LIMIT=100\n")
        machine.boot()
        machine.wait_booted()
        machine.wait_online()
        yield machine


def boots(suite: str, deb: Path, quick: bool) -> Samples:
    """Seconds from the start of PID 1 until `completed` is at the broker, and until `online` is."""
    samples: Samples = {"online": [], "completed": []}
    with _machine(suite, deb) as machine:
        for _ in range(2 if quick else 10):
            heard, number = len(machine.broker.messages), len(machine.lives)
            command = machine.command()
            machine.send(command)
            machine.wait_ack(command["command_id"], "completed")
            machine.wait_booted(number + 1)
            asked = "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"
            told = machine.run("busctl", "get-property", *asked, "UserspaceTimestamp")
            started_at = int(told.split()[1]) / 1e6
            samples["online"].append(machine.wait_online(after=heard).heard_at - started_at)
            end = machine.hear("commands/ack", 10, heard, command_id=command["command_id"], status="completed")
            samples["completed"].append(end.heard_at - started_at)
    return samples


def refusals(suite: str, deb: Path, quick: bool) -> Samples:
    """Milliseconds from a command at the broker to logind's no, which is an inhibitor's, with nothing faked.

    `cold` starts the helper, `warm` finds it there. `polkit` is its answer to one question, asked from outside.
    """
    samples: Samples = {"cold": [], "warm": [], "polkit": [], "helper resident after 31 s": []}
    with _machine(suite, deb) as machine:
        hold = "systemd-inhibit", "--what=shutdown", "--mode=block", "--why=benchmark", "sleep", "infinity"
        machine.run("systemd-run", "--quiet", *hold)
        while "benchmark" not in machine.run("systemd-inhibit", "--list"):
            time.sleep(0.1)
        _refusal(machine)
        for _ in range(1 if quick else 5):
            # A second after a command the health asks the helper for its lockout: the last call is that one.
            time.sleep(HEALTH_FOLLOWS_S + 31)
            samples["helper resident after 31 s"].append(len(processes(machine, HELPER)))
            samples["cold"].append(_refusal(machine))
            for _ in range(5 if quick else 20):
                time.sleep(0.2)
                samples["warm"].append(_refusal(machine))
        told = machine.run("python3", "-I", "-c", ASK_POLKIT, "20" if quick else "200")
        samples["polkit"] = [float(line) for line in told.split()]
        machine.run("systemctl", "stop", "run-*.service", check=False)
    return samples


def _refusal(machine: Machine) -> float:
    command = machine.command()
    machine.send(command)
    end = machine.hear("commands/ack", 30, command_id=command["command_id"], status="failed")
    assert end.json["error_code"] == "inhibited", end.json
    return (end.heard_at - machine.sent_at(command["command_id"])) * 1e3


def idle(suite: str, deb: Path, quick: bool) -> Samples:
    """Of each: memory in MB, milliseconds of CPU a minute, wake-ups a second; all at once on one machine."""
    idle_s = 30 if quick else 240
    with _machine(suite, deb) as machine:
        _start_peers(machine)
        time.sleep(45)
        units = {name: f"{name}.service" for name in ("libraries", "systemctl-mqtt", "lnxlink")} | {"agent": AGENT}
        before = {name: spent(machine, unit) for name, unit in units.items()}
        started_at = time.monotonic()
        time.sleep(idle_s)
        after, seconds = {name: spent(machine, unit) for name, unit in units.items()}, time.monotonic() - started_at
        samples: Samples = {}
        for name, unit in units.items():
            for kind, mb in memory(machine, unit).items():
                samples[f"{name} {kind} MB"] = [mb]
            (cpu_before, wakes_before), (cpu_after, wakes_after) = before[name], after[name]
            samples[f"{name} CPU ms a minute"] = [(cpu_after - cpu_before) / seconds * 60]
            samples[f"{name} wake-ups a second"] = [(wakes_after - wakes_before) / seconds]
        samples["helper processes"] = [len(processes(machine, HELPER))]
        return samples


def _start_peers(machine: Machine) -> None:
    machine.run("mkdir", "-p", str(Path(LNXLINK).parent))
    machine.run("env", f"PYTHONPATH={PEERS}/lnxlink", "python3", "-c", CONFIGURE_LNXLINK)
    run = "systemd-run", "--quiet"
    machine.run(*run, "--unit=libraries", "python3", "-I", "-c", LIBRARIES)
    program = [f"{PEERS}/systemctl-mqtt/bin/systemctl-mqtt", "--mqtt-host=127.0.0.1", "--mqtt-disable-tls"]
    machine.run(*run, "--unit=systemctl-mqtt", f"--setenv=PYTHONPATH={PEERS}/systemctl-mqtt", "python3", *program)
    program = [f"{PEERS}/lnxlink/bin/lnxlink", "--ignore-systemd", "--config", LNXLINK]
    machine.run(*run, "--unit=lnxlink", f"--setenv=PYTHONPATH={PEERS}/lnxlink", "python3", *program)


def _group(machine: Machine, unit: str) -> Path:
    return machine.scratch.cgroup / "payload/system.slice" / unit


def processes(machine: Machine, unit: str) -> list[Path]:
    """Of the unit, as the host sees them."""
    path = _group(machine, unit) / "cgroup.procs"
    return [Path("/proc", pid) for pid in path.read_text().split()] if path.exists() else []


def spent(machine: Machine, unit: str) -> tuple[float, int]:
    """Milliseconds of CPU, of processes that have ended too, and voluntary switches, of those that are there."""
    words = dict(line.split() for line in (_group(machine, unit) / "cpu.stat").read_text().splitlines())
    switches = 0
    for process in processes(machine, unit):
        for task in process.glob("task/*/status"):
            switches += int(re.findall(r"\nvoluntary_ctxt_switches:\s*(\d+)", task.read_text())[0])
    return int(words["usage_usec"]) / 1e3, switches


def memory(machine: Machine, unit: str) -> dict[str, float]:
    found = {"RSS": 0.0, "PSS": 0.0, "USS": 0.0}
    running = processes(machine, unit)
    assert running, f"{unit} does not run: {machine.journal(unit)[-2000:]}"
    for process in running:
        kb = {name: int(size) for name, size in re.findall(r"(\w+): +(\d+) kB", (process / "smaps_rollup").read_text())}
        found["RSS"] += kb["Rss"] / 1024
        found["PSS"] += kb["Pss"] / 1024
        found["USS"] += (kb["Private_Clean"] + kb["Private_Dirty"]) / 1024
    return found


def size(suite: str, deb: Path, _quick: bool) -> Samples:
    """What apt installs on a plain Debian with systemd and D-Bus: packages, and MB on the disk."""
    samples: Samples = {}
    with Scratch(f"size-{suite}", [larder(suite, deb), machine_root(suite)]) as scratch:
        target = scratch.root / "var/tmp/client.deb"
        target.write_bytes(deb.read_bytes())
        for name, option in (("with recommends", "--install-recommends"), ("without", "--no-install-recommends")):
            log = scratch.directory / "log"
            with log.open("wb") as output:
                apt = "apt-get", "-q", "--assume-no", option, "install", "/var/tmp/client.deb"
                scratch.popen(*scratch.nspawn("--as-pid2", "--private-network", *apt), output=output).wait()
            told = log.read_text(errors="replace")
            samples[f"packages {name}"] = [float(re.findall(r"(\d+) newly installed", told)[0])]
            used = re.findall(r"([\d.,]+) ([kMG]?)B of additional|Space needed: ([\d.,]+) ([kMG]?)B", told)
            number, unit = [part for part in used[0] if part]
            samples[f"MB {name}"] = [float(number.replace(",", "")) * {"k": 1e-3, "M": 1, "G": 1e3}[unit]]
    return samples
