"""The ladder of clients that do not come back, on machines: a switch by SNMP, a watchdog, a lockout, and a person."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.controller import played_switch
from tests.controller.played_switch import PROFILE
from tests.system.conftest import MACHINES
from tests.system.server import Server
from tools.lab import tree
from tools.lab.container import connect
from tools.lab.machine import REBOOTED, Machine, layers_of_server
from tools.lab.patience import slow

# Each of them goes down at a reboot, and stays off. What is there for it:
SWITCHED = "switched"  # a port, which is off and on again in the end
WATCHED = "watched"  # a port, and a watchdog that resets it before
LOCKED = "locked"  # a port; but this is its third reboot within minutes
ALONE = "alone"  # nothing
PORTS = {SWITCHED: "1.1", WATCHED: "1.2", LOCKED: "1.3"}
SUITES = {SWITCHED: "trixie", WATCHED: "trixie", LOCKED: "bookworm", ALONE: "bookworm"}
COOLDOWN = timedelta(seconds=60)
FOLDER, ADDRESS = "/var/lib/switch", "127.0.0.1:1161"
CREDENTIAL = "/etc/credstore/infoscreen-controller.snmp.lab"
# A container has no watchdog: its agent is told that it has one.
HOST = "usr/share/infoscreen-reboot/infoscreen_reboot/client/agent/host.py"
NO_WATCHDOG = "        if kernel.watchdog_is_software():\n            return False\n"


class Switch:
    """It runs on the server. A client is fed by its port: without power it stops, and with power it boots."""

    def __init__(self, server: Machine, fed: dict[str, Machine]) -> None:
        self._server = server
        self._fed = fed
        # What was switched, in its order.
        self.done: list[tuple[str, bool]] = []
        server.path(FOLDER).mkdir()
        shutil.copy(played_switch.__file__, server.path(FOLDER))
        made = {port: {"is_on": True, "device": True} for port in fed}
        server.write(f"{FOLDER}/ports.json", json.dumps({"ports": made, "is_stubborn": False}))
        program = f"/usr/bin/python3 {FOLDER}/played_switch.py {FOLDER}/ports.json"
        server.write(f"{FOLDER}/snmpd.conf", played_switch.configuration(ADDRESS, program))
        words = "/usr/sbin/snmpd", "-f", "-Lo", "-C", "-c", f"{FOLDER}/snmpd.conf"
        places = "--setenv=MIBS=", f"--setenv=SNMP_PERSISTENT_DIR={FOLDER}/agent"
        server.run("systemd-run", "-q", "--unit=switch", *places, *words)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._feed, name="switch")

    def __enter__(self) -> Switch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _feed(self) -> None:
        had_power = dict.fromkeys(self._fed, True)
        while not self._is_over.wait(0.1):
            ports = json.loads(self._server.read(f"{FOLDER}/ports.json"))["ports"]
            for port, client in self._fed.items():
                has_power = ports[port]["is_on"]
                if has_power == had_power[port]:
                    continue
                had_power[port] = has_power
                self.done.append((port, has_power))
                if has_power:
                    client.boot()
                elif client.is_running:
                    client.power_cut()


class Place:
    """The server, its switch and the clients, all online and accepted."""

    def __init__(self, stack: ExitStack, request: pytest.FixtureRequest) -> None:
        debs = tree.build_all("trixie")
        machine = stack.enter_context(Machine("trixie", debs[0], layers=layers_of_server("trixie", debs)))
        self.clients = {name: stack.enter_context(Machine(s, tree.build(s))) for name, s in SUITES.items()}
        request.node.stash[MACHINES] += [machine, *self.clients.values()]
        machine.start_broker_for_others()
        machine.boot()
        machine.wait_booted()
        machine.write(CREDENTIAL, PROFILE, 0o600)
        self.switch = stack.enter_context(Switch(machine, {port: self.clients[name] for name, port in PORTS.items()}))
        self.server = Server(machine)
        # Once: a machine that is busy now may have nothing to do later.
        self.back_s = slow(60)
        self.server.configure(
            MQTT_BROKER="127.0.0.1",
            MQTT_TLS="no",
            ACCEPT_CLIENTS="auto",
            DEADLINE_BACK_S=str(self.back_s),
            POWER_OFF_S="2",
            RECOVERY="watchdog,power",
        )
        self.server.log_in()
        for number, (name, client) in enumerate(self.clients.items()):
            client.broker = machine.broker
            address, _ = connect(machine, client, number)
            client.configure(MQTT_BROKER=address, MQTT_TLS="no", CLIENT_UUID=client.uuid)
            client.set_clock_synchronised()
            if name == WATCHED:
                module = client.root / HOST
                text = module.read_text()
                assert NO_WATCHDOG in text
                module.write_text(text.replace(NO_WATCHDOG, "        return True\n"))
            client.boot()
        for name, client in self.clients.items():
            client.wait_booted()
            self.server.wait_online(client.uuid)
            self.server.call("PATCH", f"/clients/{client.uuid}", {"name": name})
        for name, port in PORTS.items():
            content = {"switch": "rack", "address": ADDRESS, "port": port, "profile": "lab"}
            uuid = self.clients[name].uuid
            self.server.call("PUT", f"/power/ports/{uuid}", content)
            read = self.server.call("POST", f"/power/ports/{uuid}/test")
            assert (read["is_on"], read["delivers"], read["fault"]) == (True, True, None), read

    def reboot(self, name: str) -> str:
        content = {"client_uuid": self.clients[name].uuid, "action": "reboot_host"}
        return str(self.server.call("POST", "/commands", content)["id"])

    def wait_recovery(self, name: str, *states: str) -> dict[str, Any]:
        """The newest of that client, once it is in one of these states."""

        def is_so(page: Any) -> bool:
            return bool(page["items"]) and page["items"][0]["state"] in states

        path = f"/recoveries?client={self.clients[name].uuid}"
        found: dict[str, Any] = self.server.wait_for(path, is_so, self.back_s + 120)["items"][0]
        return found


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    tree.ensure_host()
    with ExitStack() as stack:
        yield Place(stack, request)


def of_time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def steps(recovery: dict[str, Any]) -> Sequence[tuple[str, str | None]]:
    return [(tried["step"], tried["outcome"]) for tried in recovery["tried"]]


def test_a_client_that_does_not_come_back_is_brought_back_or_ends_with_a_person(place: Place) -> None:
    server, clients = place.server, place.clients
    for _ in range(2):
        made = place.reboot(LOCKED)
        clients[LOCKED].follow_reboot()
        server.wait_for(f"/commands/{made}", lambda command: command["state"] == "completed")
    made_of = {name: place.reboot(name) for name in clients}
    old = {name: client.boot_id for name, client in clients.items()}
    for client in clients.values():
        assert client.wait_down() == REBOOTED

    # Its watchdog has reset it: nothing else is done.
    waiting = place.wait_recovery(WATCHED, "waiting_for_watchdog")
    assert of_time(waiting["tried"][0]["at"]) - of_time(waiting["began_at"]) >= COOLDOWN
    clients[WATCHED].boot()
    assert steps(place.wait_recovery(WATCHED, "back")) == [("watchdog", "the client came back")]

    # Once off, once on; and it was over as soon as the client was there, which has taken less than it may take.
    over = place.wait_recovery(SWITCHED, "back")
    assert [step for step, _ in steps(over)] == ["watchdog", "power"]
    assert steps(over)[0][1] == "left out: the client has reported none"
    assert steps(over)[1][1] == "the client came back"
    assert of_time(over["tried"][1]["at"]) - of_time(over["began_at"]) >= COOLDOWN
    assert clients[SWITCHED].boot_id != old[SWITCHED]
    [cycle] = server.call("GET", "/power/cycles")["items"]
    assert (cycle["client_uuid"], cycle["state"]) == (clients[SWITCHED].uuid, "done")

    # Power would have been the next step.
    locked = place.wait_recovery(LOCKED, "needs_person")
    assert "reboots do not help: 3 reboots" in locked["ticket"], locked
    assert clients[LOCKED].uuid in locked["ticket"]
    alone = place.wait_recovery(ALONE, "needs_person")
    assert [step for step, _ in steps(alone)] == ["watchdog", "power"], alone
    assert alone["words"] == "nothing has brought the client back"
    assert not clients[LOCKED].is_running and not clients[ALONE].is_running

    # What somebody who goes there does.
    for name in (LOCKED, ALONE):
        clients[name].boot()
        assert place.wait_recovery(name, "back")["ended_at"] is not None
    for name, command_id in made_of.items():
        # It is back with its first word, and what became of the command is its next one.
        told = server.wait_for(f"/commands/{command_id}", lambda command: command["late"] is not None)
        assert (told["state"], told["late"]) == ("timed_out", "completed"), (name, told)
    assert place.switch.done == [(PORTS[SWITCHED], False), (PORTS[SWITCHED], True)]
    assert PROFILE.split()[-1] not in server.machine.journal()
