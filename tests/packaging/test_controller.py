"""The controller's package on a machine: its first start, its settings, its upgrade beside a client, its end."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.system.conftest import MACHINES
from tests.system.hands import unit
from tests.system.server import PASSWORD, SETTINGS, UNIT, Server
from tools.lab import tree
from tools.lab.debian import Bench
from tools.lab.machine import AGENT, Machine, layers_of_server

STATE = "/var/lib/infoscreen-reboot-controller"
SOCKET = "/run/infoscreen-reboot-controller/api.sock"
# Whoever can connect to the socket is asked for a token, and that is enough to know here.
KNOCK = f"import socket; socket.socket(socket.AF_UNIX).connect({SOCKET!r})"


@pytest.fixture
def server(suite: str, debs: Sequence[Path], request: pytest.FixtureRequest) -> Iterator[Server]:
    """All our packages were installed, and nothing is configured; Debian's mosquitto is, which is for this machine."""
    with Machine(suite, debs[0], layers=layers_of_server(suite, debs)) as machine:
        request.node.stash[MACHINES].append(machine)
        machine.boot()
        machine.wait_booted()
        yield Server(machine)


def mode(machine: Machine, path: str) -> str:
    return machine.run("stat", "--format=%U:%G %a", path).strip()


def test_a_controller_and_a_client_on_one_machine_are_upgraded_apart(server: Server) -> None:
    machine = server.machine
    machine.run("sh", "-c", f"while systemctl is-active -q {UNIT}; do sleep 0.1; done")
    assert unit(machine, UNIT, "ActiveState") == "inactive"
    assert machine.run("systemctl", "is-enabled", UNIT) == "enabled\n"
    assert "not configured: set MQTT_BROKER in" in machine.run("systemctl", "status", UNIT, check=False)

    # Each has a password of its own.
    machine.write("/etc/credstore/mqtt-password-broker", "the client's\n", 0o600)
    machine.write(PASSWORD, "the controller's\n", 0o600)
    machine.configure_for_broker()
    machine.configure(MQTT_USER="screen")
    machine.run("systemctl", "restart", AGENT)
    server.configure(MQTT_BROKER="127.0.0.1", MQTT_TLS="no", MQTT_USER="controller", ACCEPT_CLIENTS="auto")
    assert machine.read(f"/run/credentials/{AGENT}/mqtt-password-broker") == "the client's\n"
    assert machine.read(f"/run/credentials/{UNIT}/mqtt-password-broker") == "the controller's\n"
    assert server.do("check-config") == "ok: http://127.0.0.1:8480, broker 127.0.0.1:1883 over plain TCP\n"
    server.log_in()
    server.wait_online(machine.uuid)
    assert mode(machine, STATE) == "infoscreen-controller:infoscreen-controller 700"
    findings = json.loads(server.do("doctor", "--json", check=False))["findings"]
    # Nobody keeps the clock in a container.
    assert {finding["check"] for finding in findings if finding["verdict"] != "ok"} <= {"clock"}, findings
    assert len(findings) == 11
    kept = f"{STATE}/backups/today.sqlite3"
    assert server.do("backup", kept).strip() == kept
    assert mode(machine, kept) == "infoscreen-controller:infoscreen-controller 600"

    agent, controller = unit(machine, AGENT, "MainPID"), server.pid
    machine.install(tree.build_controller("+1"))
    assert (unit(machine, AGENT, "MainPID"), server.pid != controller) == (agent, True)
    assert server.call("GET", "/whoami")["name"] == "ann"
    controller = server.pid
    machine.install(tree.build(machine.suite, "+1"))
    assert (unit(machine, AGENT, "MainPID") != agent, server.pid) == (True, controller)
    server.wait_online(machine.uuid)

    machine.run("systemctl", "kill", "--signal=KILL", UNIT)
    machine.run("sh", "-c", f"until [ $(systemctl show -P NRestarts {UNIT}) = 1 ]; do sleep 0.1; done")
    machine.run("sh", "-c", f"until systemctl is-active -q {UNIT}; do sleep 0.1; done")
    assert server.call("GET", "/whoami")["name"] == "ann"

    machine.apt("purge", "infoscreen-reboot-controller")
    for path in (STATE, "/etc/infoscreen-reboot-controller", "/run/infoscreen-reboot-controller"):
        assert not machine.path(path).exists(), path
    assert unit(machine, AGENT, "ActiveState") == "active"
    assert machine.run("infoscreen-reboot", "check-config").startswith("ok: ")


def test_a_socket_is_for_its_group_and_a_bad_value_stops_the_start(server: Server) -> None:
    machine = server.machine
    server.configure(MQTT_BROKER="127.0.0.1", MQTT_TLS="no", LISTEN=f"unix:{SOCKET}")
    machine.run("usermod", "--append", "--groups", "infoscreen-controller", "www-data")
    machine.run("python3", "-c", KNOCK, user="www-data")
    assert "Permission denied" in machine.run("python3", "-c", KNOCK, user="visitor", check=False)
    assert machine.run("infoscreen-reboot-controller", "doctor", user="visitor", check=False).endswith("as root\n")

    machine.write(SETTINGS, "MQTT_BROKER=127.0.0.1\nMQTT_TLS=no\nFLEET_CAP=many\n")
    machine.run("systemctl", "restart", UNIT, check=False)
    assert unit(machine, UNIT, "ExecMainStatus") == "78"
    assert unit(machine, UNIT, "NRestarts") == "0"
    assert "FLEET_CAP is 'many'" in machine.run("systemctl", "status", UNIT, check=False)


WATCHING = tree.TREE / "docs/examples/prometheus"


def test_the_rules_for_prometheus_speak_when_something_is_wrong_and_only_then(bench: Bench) -> None:
    """By Prometheus' own tool, which also reads what the dashboard asks for."""
    told = bench.run_as_root("promtool", "test", "rules", "tests/packaging/rules_test.yml")
    assert "SUCCESS" in told and "FAILED" not in told, told
    panels = json.loads((WATCHING / "dashboard.json").read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    rules = [{"record": f"asked:{number}", "expr": expression} for number, expression in enumerate(asked)]
    (bench.source / "asked.json").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(asked)} rules found" in bench.run_as_root("promtool", "check", "rules", "asked.json")


POWER = "infoscreen-reboot-controller-power.service"
HOOKS = "/etc/infoscreen-reboot-controller/power.d"
# A power strip whose only outlet is a file. While there is a file `dead`, it does not answer.
STRIP = f"""#!/bin/sh
question=$(cat)
[ ! -e {STATE}/dead ] || exit 1
case $question in
*'"do": "read"'*) [ "$(cat {STATE}/outlet)" != off ] || exit 12 ;;
*'"do": "off"'*) echo off > {STATE}/outlet ;;
*) echo on > {STATE}/outlet ;;
esac
"""
CLIENT = "9b8d1856-ff34-4864-a726-12de072d0f77"
OUTLET = {"switch": "rack", "port": "outlet 1", "profile": "strip", "backend": "hook"}


def switch_off(server: Server) -> None:
    """A power cycle has switched the outlet off, for a minute."""
    wish = {"client_uuid": CLIENT, "reason": "a test"}
    made = server.call("POST", "/power/cycles", wish)
    server.wait_for(f"/power/cycles/{made['id']}", _is_off)
    assert server.machine.read(f"{STATE}/outlet") == "off\n"


def _is_off(cycle: dict[str, str]) -> bool:
    return cycle["state"] == "off"


def wait_on(server: Server) -> None:
    server.machine.run("sh", "-c", f"until [ $(cat {STATE}/outlet) = on ]; do sleep 0.1; done", timeout_s=30)


def test_a_port_that_is_off_when_the_controller_ends_is_switched_on_again(server: Server) -> None:
    """By the controller when it is stopped, by its next start, and by the unit of its own."""
    machine = server.machine
    machine.write(f"{HOOKS}/strip", STRIP, 0o755)
    server.configure(MQTT_BROKER="127.0.0.1", MQTT_TLS="no", POWER_OFF_S="60")
    machine.write(f"{STATE}/outlet", "on\n", 0o666)
    machine.write("/root/clients.csv", f"uuid,name\n{CLIENT},bar\n")
    server.log_in()
    server.ctl("import", "/root/clients.csv")
    server.call("PUT", f"/power/ports/{CLIENT}", OUTLET)
    assert server.call("POST", f"/power/ports/{CLIENT}/test")["fault"] is None

    switch_off(server)
    machine.run("systemctl", "stop", UNIT)
    wait_on(server)
    machine.run("systemctl", "start", UNIT)

    # Killed, and not started again: the unit asks until the strip answers.
    machine.drop_in(UNIT, "Restart=no")
    server.wait_for("/power/cycles?limit=1", lambda page: page["items"][0]["ended_at"] is not None)
    switch_off(server)
    machine.write(f"{STATE}/dead", "", 0o666)
    machine.run("systemctl", "kill", "--signal=KILL", UNIT)
    machine.run("sh", "-c", f"until [ $(systemctl show -P NRestarts {POWER}) -gt 0 ]; do sleep 0.1; done", timeout_s=60)
    assert unit(machine, UNIT, "ActiveState") == "failed"
    assert machine.read(f"{STATE}/outlet") == "off\n"
    machine.path(f"{STATE}/dead").unlink()
    wait_on(server)
    machine.run("sh", "-c", f"until [ $(systemctl show -P ActiveState {POWER}) = inactive ]; do sleep 0.1; done")
    assert machine.run("infoscreen-reboot-controller", "power-restore") == ""
