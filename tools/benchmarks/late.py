"""How long a client takes to connect after its network has come, which it has not when it boots."""

from __future__ import annotations

import functools
import random
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools.lab import tree
from tools.lab.machine import AGENT, Machine
from tools.lab.scratch import command

Samples = dict[str, list[float]]
# How the network comes, and whether the settings name the broker by its name.
ROUTE, CARRIER, CARRIER_BY_NAME = "address and route come", "carrier comes", "carrier comes, broker by name"
KINDS = ROUTE, CARRIER, CARRIER_BY_NAME
COMES_AFTER_S = 5.0, 100.0
STARTS_EVERY_S = 1.0
# Longer than the longest pause, and an attempt with a name look-up before it.
CONNECTS_WITHIN_S = 150
SERVER, NAME = "10.10.0.1", "broker.example"
PORT = 1884
LISTENER = f"listener {PORT} {SERVER}\nallow_anonymous true\n"
NOW, BEFORE = "now", "before"
OLD, LAUNCHER = "/opt/before", "debian/launchers/infoscreen-simclient"
# Instances of the agent's own unit.
INSTANCE = """\
[Unit]
OnFailure=
[Service]
EnvironmentFile=
EnvironmentFile=/etc/late/{which}-%i.env
StateDirectory=
StateDirectory=late/{which}-%i
RuntimeDirectory=
RuntimeDirectory=late/{which}-%i
"""
# Each pair is in a network of its own.
OWN_NETWORK = "NetworkNamespacePath=/run/netns/%i\n"
OTHER_PROGRAM = f"ExecStart=\nExecStart=/usr/bin/python3 -I {OLD}/{LAUNCHER} --boot-id=%b\n"
CABLE = """\
ip netns add {n}
ip link add wire{n} type veth peer name card netns {n}
ip addr add 10.11.{n}.1/24 dev wire{n}
ip -n {n} link set lo up
ip -n {n} link set card up
"""
PLUG = "ip link set wire{n} up\n"
ADDRESS = "ip -n {n} addr add 10.11.{n}.2/24 dev card\nip -n {n} route add default via 10.11.{n}.1\n"


@dataclass(slots=True)
class Screen:
    """Two clients in one network, the one of now and the one of before, which start at the same moment."""

    number: int
    kind: str
    comes_after_s: float
    uuids: dict[str, str]
    came_at: float = 0.0

    @property
    def first(self) -> str:
        """What of its network is there from the start."""
        return CABLE.format(n=self.number) + (PLUG if self.kind == ROUTE else ADDRESS).format(n=self.number)

    @property
    def last(self) -> str:
        return (ADDRESS if self.kind == ROUTE else PLUG).format(n=self.number)

    def settings(self, which: str) -> str:
        host = NAME if self.kind == CARRIER_BY_NAME else SERVER
        return f"MQTT_BROKER={host}\nMQTT_PORT={PORT}\nMQTT_TLS=no\nCLIENT_UUID={self.uuids[which]}\n"


def late(suite: str, deb: Path, quick: bool, before: str | None) -> Samples:
    """Seconds from the network to `online` at the broker; `before` is a commit that is measured beside the package."""
    each = 2 if quick else 20
    sides = (NOW, BEFORE) if before else (NOW,)
    with Machine(suite, deb) as machine:
        _furnish(machine, before, sides)
        screens = _screens(each, COMES_AFTER_S[1] / 5 if quick else COMES_AFTER_S[1])
        _cable(machine, screens, sides)
        _play(machine, screens, sides)
        return {
            kind if which == NOW else f"before: {kind}": [
                _online(machine, screen, which) - screen.came_at for screen in screens if screen.kind == kind
            ]
            for which in sides
            for kind in KINDS
        }


def _screens(each: int, longest_s: float) -> list[Screen]:
    """The times are spread evenly over the whole stretch, and by chance within each part of it."""
    shortest_s = COMES_AFTER_S[0]
    step_s = (longest_s - shortest_s) / each
    wanted = [(kind, shortest_s + (n + random.random()) * step_s) for kind in KINDS for n in range(each)]
    random.shuffle(wanted)
    return [Screen(number, kind, after_s, _uuids(number)) for number, (kind, after_s) in enumerate(wanted, 1)]


def _uuids(number: int) -> dict[str, str]:
    first = {NOW: "9b8d", BEFORE: "9b8e"}
    return {which: f"{first[which]}{number:04}-ff34-4864-a726-12de072d0f77" for which in first}


def _furnish(machine: Machine, before: str | None, sides: tuple[str, ...]) -> None:
    """The machine boots with a broker, a name server, and units that start when they are told to."""
    command("ip", "-n", machine.name, "addr", "add", f"{SERVER}/32", "dev", "lo")
    machine.broker.configuration.write_text(machine.broker.configuration.read_text() + LISTENER)
    machine.broker.start()
    names = "nsenter", f"--net=/run/netns/{machine.name}", "/usr/bin/python3", Path(__file__).with_name("names.py")
    machine.scratch.popen(*names, SERVER, NAME, output=subprocess.DEVNULL)
    machine.set_clock_synchronised()
    unit = machine.read(f"/usr/lib/systemd/system/{AGENT}")
    for path, text in units(unit, sides, OWN_NETWORK).items():
        machine.write(path, text)
    if before:
        machine.path(OLD).mkdir(parents=True)
        command("tar", "-x", "-f", packed(before, machine.scratch.directory), "-C", machine.path(OLD))
    machine.boot()
    machine.wait_booted()
    machine.write("/etc/resolv.conf", f"nameserver {SERVER}\n")


def units(agents: str, sides: tuple[str, ...], more: str = "") -> dict[str, str]:
    """The files of a template unit for each side, made from the agent's own unit; `more` goes into each [Service]."""
    found = {}
    for which in sides:
        found[f"/etc/systemd/system/{which}@.service"] = agents
        program = OTHER_PROGRAM if which == BEFORE else ""
        found[f"/etc/systemd/system/{which}@.service.d/late.conf"] = INSTANCE.format(which=which) + more + program
    return found


def packed(commit: str, directory: Path) -> Path:
    """A tar archive of the agent of that commit, for OLD. Its launcher looks there for its modules."""
    git = "git", "-c", f"safe.directory={tree.TREE}", "-C", tree.TREE
    parts = [f"infoscreen_reboot/{name}" for name in ("__init__.py", "client", "contract", "mqtt", "signing.py")]
    archive, place = directory / "before.tar.gz", directory / "before"
    command(*git, "archive", "-o", directory / "before.tar", commit, LAUNCHER, *parts)
    place.mkdir()
    command("tar", "-x", "-f", directory / "before.tar", "-C", place)
    launcher = place / LAUNCHER
    launcher.write_text(launcher.read_text().replace("/usr/share/infoscreen-reboot", OLD))
    command("tar", "-c", "-z", "-f", archive, "-C", place, ".")
    return archive


def _cable(machine: Machine, screens: list[Screen], sides: tuple[str, ...]) -> None:
    for screen in screens:
        for which in sides:
            machine.write(f"/etc/late/{which}-{screen.number}.env", screen.settings(which))
    machine.run("sh", "-ec", "".join(screen.first for screen in screens))


def _play(machine: Machine, screens: list[Screen], sides: tuple[str, ...]) -> None:
    """Starts each pair, and has its network come when it is time."""
    steps: list[tuple[float, Callable[[], None]]] = []
    for screen in screens:
        starts_s = STARTS_EVERY_S * screen.number
        steps.append((starts_s, functools.partial(_start, machine, screen, sides)))
        steps.append((starts_s + screen.comes_after_s, functools.partial(_come, machine, screen)))
    began = time.monotonic()
    for at_s, step in sorted(steps, key=lambda one: one[0]):
        time.sleep(max(0.0, began + at_s - time.monotonic()))
        step()


def _start(machine: Machine, screen: Screen, sides: tuple[str, ...]) -> None:
    # In an order that changes: they start one after the other.
    pair = [f"{which}@{screen.number}.service" for which in random.sample(sides, len(sides))]
    machine.run("systemctl", "start", "--no-block", *pair)


def _come(machine: Machine, screen: Screen) -> None:
    screen.came_at = time.time()
    machine.run("sh", "-ec", screen.last)


def _online(machine: Machine, screen: Screen, which: str) -> float:
    topic = f"infoscreen/{screen.uuids[which]}/status"
    heard = machine.broker.wait_for(lambda message: message.topic == topic, CONNECTS_WITHIN_S)
    assert heard.json["state"] == "online", heard
    return heard.heard_at
