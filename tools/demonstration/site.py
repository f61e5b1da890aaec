"""Where the demonstration plays: a controller, its broker, one real client, and twenty whose hosts are pretended."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from tools.demonstration import narrative
from tools.lab import tree
from tools.lab.container import connect
from tools.lab.machine import AGENT, Machine, bare_machine, layers_of_server
from tools.lab.patience import MOST, Patience
from tools.lab.roots import larder, workshop_root
from tools.lab.scratch import LabError

SUITE = "trixie"  # the controller's
SIMULATED = 20
NAME = "entrance"
# How these of the simulated ones behave, and what the operator reads of it.
MANNERS = {
    18: ("--mock", "only says that it reboots (COMMAND_EXECUTOR=mock)"),
    19: ("--slow", "takes five times as long"),
    20: ("--lost", "does not come back"),
}
SETTINGS = "/etc/infoscreen-reboot-controller/controller.env.d/50-demo.env"
UNIT = "infoscreen-reboot-controller.service"
CTL = "infoscreen-rebootctl"
CONFIG = "/root/.config/infoscreen-rebootctl/config"
URL = "http://127.0.0.1:8480"
CLIENTS = "/root/clients.csv"
# What the console is entered with; a token does it, too.
USER, PASSWORD = "demo", "a demonstration"


class Simulated:
    """The real agent many times in one process, in the network of the server."""

    def __init__(self, shop: tree.Workshop, server: Machine, count: int, options: Sequence[str]) -> None:
        inside = shop.nspawn("--as-pid2", f"--network-namespace-path=/run/netns/{server.name}", "--chdir=/build/src")
        words = "/usr/bin/python3", "-B", "-m", "tools.simulated", "--state=/build/state", f"--count={count}"
        told = subprocess.run([*inside, *words, "--list"], capture_output=True, text=True, check=True)
        self.uuids = told.stdout.split()
        with (shop.directory / "simulated.log").open("wb") as log:
            self._process = shop.popen(*inside, *words, *options, output=log)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10 * MOST)


class Site:
    """Everything on it ends with `stack`."""

    def __init__(self, stack: ExitStack, suite: str) -> None:
        self._stack = stack
        self._suite = suite
        self.token = ""

    def steps(self) -> Sequence[tuple[str, Callable[[], None]]]:
        """What has to be done until all are there, in this order, each with its title."""
        return (
            ("building both packages (the first time: and the workshop, a minute)", self.build),
            ("getting what they depend on (the first time: and a plain Debian)", self.fetch),
            ("booting the server: Debian with the controller, and mosquitto", self.start_server),
            (f"{SIMULATED} simulated clients: the real agent, on hosts that are not there", self.start_simulated),
            ("booting a plain Debian; apt-get install of the client; its settings", self.start_client),
            (f"{CTL} import: names for all, and they are accepted", self.take_in),
        )

    def build(self) -> None:
        self.debs = tree.build_all(SUITE)
        self.client_deb = tree.build(self._suite)

    def fetch(self) -> None:
        self._layers = layers_of_server(SUITE, self.debs)
        larder(self._suite, self.client_deb)
        workshop_root(SUITE)

    def start_server(self) -> None:
        """Debian with the controller, and a mosquitto that the clients reach by their cables."""
        self.server = self._stack.enter_context(Machine(SUITE, self.debs[0], layers=self._layers))
        self.server.start_broker_for_others()
        self.server.write(SETTINGS, "MQTT_BROKER=127.0.0.1\nMQTT_TLS=no\n", 0o640)
        self.server.boot()
        self.server.wait_booted()
        self.token = self.server.run("infoscreen-reboot-controller", "admin", USER).split()[-1]
        self.server.write(CONFIG, f"INFOSCREEN_REBOOTCTL_URL={URL}\nINFOSCREEN_REBOOTCTL_TOKEN={self.token}\n", 0o600)

    def open_console(self) -> None:
        """From now on this machine's own port leads to the server's: browsers trust plain HTTP on localhost only."""
        self.server.run("sh", "-c", f"echo '{PASSWORD}' | {CTL} user password {USER}")
        to_server = "nsenter", f"--net=/run/netns/{self.server.name}", "/lib/systemd/systemd-socket-proxyd"
        listen = "systemd-socket-activate", f"--listen={URL.removeprefix('http://')}"
        self.server.scratch.popen(*listen, *to_server, URL.removeprefix("http://"), output=subprocess.DEVNULL)

    def start_simulated(self) -> None:
        """The real agent twenty times in one process, in the network of the broker."""
        manners = [f"{option}={number}" for number, (option, _) in MANNERS.items()]
        self.uuids = self.simulate(SIMULATED, *manners).uuids

    def simulate(self, count: int, *options: str) -> Simulated:
        """Clients 1 to `count`; whoever does it twice has two hosts with one identity."""
        return Simulated(self._stack.enter_context(tree.Workshop(SUITE, tree.sources())), self.server, count, options)

    def start_client(self) -> None:
        self.client = self._stack.enter_context(bare_machine(self._suite, self.client_deb))
        address, _ = connect(self.server, self.client, 0)
        self.client.broker = self.server.broker
        self.client.boot()
        self.client.wait_booted()
        self.client.install(self.client_deb)
        self.client.configure(MQTT_BROKER=address, MQTT_TLS="no", CLIENT_UUID=self.client.uuid)
        self.client.set_clock_synchronised()
        self.client.run("systemctl", "restart", AGENT)
        self.client.wait_online()

    def take_in(self) -> None:
        """All clients get names and are accepted, by the file that an administrator would have; then all are online."""
        rows = [f"{self.client.uuid},{NAME},the real one,accepted,lobby"]
        for number, uuid in enumerate(self.uuids, 1):
            _, note = MANNERS.get(number, ("", ""))
            rows.append(f"{uuid},screen-{number:02},{note},accepted,{'hall' if number <= 10 else 'stairs'}")
        self.server.write(CLIENTS, "\n".join(["uuid,name,note,standing,label:site", *rows, ""]))
        self.ctl("import", CLIENTS)
        patience = Patience(90)
        while not self._all_online():
            if patience.is_over:
                raise LabError(f"not all clients are online:\n{self.ctl('clients')}")
            threading.Event().wait(0.5)

    def _all_online(self) -> bool:
        clients = json.loads(self.ctl("clients", "--json"))
        return sum(bool(client["is_online"]) for client in clients) == SIMULATED + 1

    def ctl(self, *words: str) -> str:
        """What the command line prints."""
        return self.server.run(CTL, *words)

    def show(self, *words: str) -> int:
        """The command line in this terminal, live; its exit code."""
        environment = {name: os.environ[name] for name in ("TERM", "NO_COLOR", "COLUMNS") if name in os.environ}
        environment |= {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/root"}
        return subprocess.run(self.server.outside(CTL, *words), env=environment).returncode

    def story(self) -> narrative.Story:
        return narrative.Story(self.client)
