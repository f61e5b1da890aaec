"""What a person on the machine is told, and what a bad configuration does."""

from __future__ import annotations

import json

from tests.system.hands import drop_in, refused, status, unit
from tests.system.test_alerts import wait_until
from tools.lab.machine import AGENT, Machine

SECRET = "open sesame"


def test_check_config_shows_what_the_agent_will_use(machine: Machine) -> None:
    told = machine.run("infoscreen-reboot", "check-config")
    assert told.strip() == f"ok: client {machine.uuid}, broker 127.0.0.1:1883 over plain TCP"


def test_a_bad_value_stops_the_agent_once_and_is_named_without_a_secret(machine: Machine) -> None:
    machine.configure(MQTT_PORT="mqtt", MQTT_USER="screen", MQTT_PASSWORD_BROKER=SECRET, COMMAND_SHUTDOWN_ENABLE="no")
    told = machine.run("infoscreen-reboot", "check-config", check=False)
    assert "problem: MQTT_PORT is 'mqtt'; allowed is a whole number from 1 to 65535" in told
    assert "warning: COMMAND_SHUTDOWN_ENABLE is not a setting of ours" in told
    machine.run("systemctl", "restart", AGENT, check=False)
    assert unit(machine, AGENT, "ActiveState") == "failed"
    assert (unit(machine, AGENT, "ExecMainStatus"), unit(machine, AGENT, "NRestarts")) == ("78", "0")
    status_text = machine.run("systemctl", "status", "--no-pager", "--full", AGENT, check=False)
    assert "MQTT_PORT is 'mqtt'" in status_text
    assert SECRET not in told + status_text + machine.journal() + machine.run("systemctl", "show", AGENT)


def test_check_config_sees_the_credentials_that_the_unit_loads(machine: Machine) -> None:
    machine.write("/etc/infoscreen-reboot/password", SECRET, 0o600)
    drop_in(machine, AGENT, "LoadCredential=mqtt-password-broker:/etc/infoscreen-reboot/password")
    assert "MQTT has no password without a user" in machine.run("infoscreen-reboot", "check-config", check=False)
    machine.configure(MQTT_USER="screen")
    assert machine.run("infoscreen-reboot", "check-config").startswith("ok: ")
    heard = len(machine.broker.messages)
    machine.run("systemctl", "restart", AGENT)
    machine.wait_online(after=heard)


def test_status_lists_the_last_commands_and_how_they_ended(machine: Machine) -> None:
    command = machine.command(issued_at="2026-01-01T00:00:00Z", expires_at="2026-01-01T00:10:00Z")
    assert refused(machine, command)[0] == "expired"
    wait_until(lambda: "ready for commands" in unit(machine, AGENT, "StatusText"), "says so")
    told = machine.run("infoscreen-reboot", "status")
    assert "connected to 127.0.0.1:1883, ready for commands" in told
    assert "this boot came about by unknown" in told
    assert command["command_id"] in told and "expired" in told
    assert status(machine)["commands"][0]["error_code"] == "expired"


def test_history_tells_who_asked_for_what_and_why_the_newest_first(machine: Machine) -> None:
    old = {"issued_at": "2026-01-01T00:00:00Z", "expires_at": "2026-01-01T00:10:00Z"}
    first = machine.command(**old, requested_by="night shift", reason="picture frozen\x1b[2J")
    second = machine.command("shutdown_host", **old, requested_by=42)
    for command in (first, second):
        assert refused(machine, command)[0] == "expired"
    told = machine.run("infoscreen-reboot", "history")
    assert told.index(second["command_id"]) < told.index(first["command_id"])
    assert "requested by: night shift, reason: picture frozen?[2J" in told
    (known,) = json.loads(machine.run("infoscreen-reboot", "history", "--json", "--limit", "1"))
    assert (known["command_id"], known["action"], known["state"]) == (second["command_id"], "shutdown_host", "failed")
    assert (known["error_code"], known["requested_by"], known["reason"]) == ("expired", 42, None)


def test_bash_completes_what_the_program_knows(machine: Machine) -> None:
    script = """
        . /usr/share/bash-completion/completions/infoscreen-reboot
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        _infoscreen_reboot
        echo "${COMPREPLY[@]}"
    """

    def completed(*words: str) -> str:
        return machine.run("bash", "-c", script, "bash", *words).strip()

    assert completed("infoscreen-reboot", "") == "status history doctor check-config --help --version"
    assert completed("infoscreen-reboot", "do") == "doctor"
    assert completed("infoscreen-reboot", "history", "--l") == "--limit"
    assert completed("infoscreen-reboot", "doctor", "--j") == "--json"
    assert completed("infoscreen-reboot", "check-config", "--j") == ""


def test_without_root_the_command_says_what_to_do(machine: Machine) -> None:
    assert "run it as root" in machine.run("infoscreen-reboot", "status", user="visitor", check=False)
