"""The examples for whoever runs many clients, really applied: Ansible over ssh, cloud-init's files, a preset."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.system.hands import DONE, refused, story, unit
from tools.lab import tree
from tools.lab.debian import Bench
from tools.lab.machine import AGENT, Machine
from tools.lab.scratch import LabError

EXAMPLES = tree.TREE / "docs/examples"
PASSWORD = 'p"w\\d $HOME'
ENV_FILE = "/etc/infoscreen-reboot/agent.env.d/50-site.env"
PASSWORD_FILE = "/etc/credstore/mqtt-password-broker"
CREDENTIAL = f"/run/credentials/{AGENT}/mqtt-password-broker"
PRESET = "/etc/systemd/system-preset/50-infoscreen.preset"


class Fleet:
    """One screen and the controller from which Ansible runs the example playbook."""

    def __init__(self, bench: Bench, machine: Machine, deb: Path) -> None:
        self._bench, self._machine = bench, machine
        self.settings: dict[str, Any] = {
            "MQTT_BROKER": "127.0.0.1",
            "MQTT_TLS": False,
            "MQTT_USER": "screens",
            "CLIENT_UUID": machine.uuid,
        }
        self.variables: dict[str, Any] = {"infoscreen_reboot_settings": self.settings}
        self.variables["infoscreen_reboot_deb"] = bench.take(deb)
        self.variables["infoscreen_reboot_password"] = PASSWORD
        (bench.source / "inventory").write_text("[screens]\n127.0.0.1 ansible_user=root\n")

    def play(self, *options: str) -> dict[str, int]:
        """The recap: how many tasks were ok, changed, failed, skipped."""
        (self._bench.source / "variables.json").write_text(json.dumps(self.variables))
        playbook = "docs/examples/ansible/site.yml", "--inventory=inventory", "--extra-vars=@variables.json"
        told = self._bench.run_as_root(
            *("env", "ANSIBLE_HOST_KEY_CHECKING=False", "ansible-playbook", *playbook, *options), machine=self._machine
        )
        (recap,) = re.findall(r"^127\.0\.0\.1 +: (.*)$", told, re.MULTILINE)
        return {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", recap)}


def fleet_of(bench: Bench, machine: Machine, deb: Path) -> Fleet:
    machine.broker.start()
    machine.set_clock_synchronised()
    return Fleet(bench, machine, deb)


@pytest.fixture
def fleet(bench: Bench, testbed: Machine, deb: Path) -> Fleet:
    return fleet_of(bench, testbed, deb)


def main_pid(machine: Machine) -> str:
    return unit(machine, AGENT, "MainPID")


def mode(machine: Machine, path: str) -> str:
    return machine.run("stat", "--format=%U:%G %a", path).strip()


def test_the_role_rolls_out_a_client_that_obeys_and_changes_nothing_twice(
    bench: Bench, bare_testbed: Machine, deb: Path
) -> None:
    testbed, fleet = bare_testbed, fleet_of(bench, bare_testbed, deb)
    assert fleet.play("--check", "--diff")["failed"] == 0
    assert testbed.run("dpkg-query", "-W", "infoscreen-reboot", check=False).startswith("dpkg-query: no packages")
    assert fleet.play()["changed"] > 0
    testbed.wait_online()
    assert mode(testbed, ENV_FILE) == "root:root 640"
    assert mode(testbed, PASSWORD_FILE) == "root:root 600"
    assert testbed.read(CREDENTIAL) == PASSWORD
    agent = main_pid(testbed)
    assert fleet.play("--check")["changed"] == 0
    assert fleet.play()["changed"] == 0
    assert main_pid(testbed) == agent
    command = testbed.command()
    testbed.send(command)
    testbed.wait_ack(command["command_id"], "completed")
    assert story(testbed, command) == DONE
    assert len(testbed.lives) == 2


def test_a_changed_variable_restarts_the_agent_and_loses_no_command(fleet: Fleet, testbed: Machine) -> None:
    testbed.set_clock_synchronised(now=False)
    fleet.play()
    testbed.wait_online()
    held, late, agent = testbed.command(), testbed.command(), main_pid(testbed)
    testbed.send(held)
    assert refused(testbed, late)[0] == "busy"
    heard = len(testbed.broker.messages)
    fleet.settings["COMMAND_EXECUTION_TIMEOUT_S"] = 90
    assert fleet.play()["changed"] == 2
    testbed.wait_online(after=heard)
    assert main_pid(testbed) != agent
    assert testbed.statuses(held["command_id"]) == []
    testbed.set_clock_synchronised()
    testbed.wait_ack(held["command_id"], "completed")

    testbed.wait_booted(2)
    testbed.run("systemctl", "stop", AGENT)
    waiting = testbed.command()
    testbed.send(waiting)
    # So that it does not take the host down while Ansible still has its hands on it.
    testbed.set_clock_synchronised(now=False)
    fleet.settings["COMMAND_EXECUTION_TIMEOUT_S"] = 120
    fleet.play()
    testbed.set_clock_synchronised()
    testbed.wait_ack(waiting["command_id"], "completed")

    assert story(testbed, held) == story(testbed, waiting) == DONE
    heard = len(testbed.broker.messages)
    testbed.send(late)
    testbed.broker.wait_for(lambda message: message.topic == testbed.topic("commands/ack"), after=heard)
    assert story(testbed, late) == ["busy"]


def test_settings_that_are_bad_stop_the_play_and_not_the_agent(fleet: Fleet, testbed: Machine, deb: Path) -> None:
    # From apt this time, and without a password.
    shutil.copy(deb, testbed.root / "repo")
    testbed.run("sh", "-c", "cd /repo && apt-ftparchive packages . > Packages")
    fleet.variables |= {"infoscreen_reboot_deb": "", "infoscreen_reboot_password": ""}
    fleet.variables["infoscreen_reboot_allow_shutdown"] = False
    fleet.play()
    testbed.wait_online()
    agent, settings = main_pid(testbed), testbed.read(ENV_FILE)
    fleet.settings["MQTT_PORT"] = "mqtt"
    with pytest.raises(LabError, match="MQTT_PORT is 'mqtt'; allowed is"):
        fleet.play()
    assert (main_pid(testbed), testbed.read(ENV_FILE)) == (agent, settings)
    # What the role's switch forbids is refused by the agent, and by polkit if the agent were not to be trusted.
    command = testbed.command("shutdown_host")
    testbed.send(command)
    assert testbed.wait_ack(command["command_id"], "failed")["error_code"] == "unsupported_action"
    name = testbed.run("sh", "-c", f"busctl list --no-legend | awk '$2 == {agent} {{ print $1; exit }}'")
    for action, answer in (("reboot", ""), ("shutdown", "Not authorized.\n")):
        check = "pkcheck", "--action-id", f"org.infoscreen.reboothelper1.{action}", "--system-bus-name", name.strip()
        assert testbed.run(*check, check=False) == answer


def test_cloud_init_accepts_the_example_and_its_files_make_a_client(
    bench: Bench, furnished: Machine, deb: Path
) -> None:
    example = "docs/examples/cloud-init/user-data.yaml"
    assert "Valid" in bench.run_as_root("cloud-init", "schema", "--config-file", example)
    to_json = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))"
    content = json.loads(bench.run_as_root("python3", "-c", to_json, example).splitlines()[0])
    assert content["packages"] == ["infoscreen-reboot"]
    furnished.install(deb)
    for file in content["write_files"]:
        assert file["defer"], "the package's directories come first"
        furnished.write(file["path"], file["content"], int(file["permissions"], 8))
        assert mode(furnished, file["path"]) == f"{file['owner']} {int(file['permissions'])}"
    for words in content["runcmd"]:
        furnished.run(*words)
    told = furnished.run("infoscreen-reboot", "check-config")
    assert re.fullmatch(r"ok: client \S+, broker broker\.example:8883 over TLS\n", told)
    assert unit(furnished, AGENT, "ActiveState") == "active"
    assert furnished.read(CREDENTIAL) == "the broker's password\n"


def test_a_preset_keeps_the_agent_off_until_it_is_enabled(furnished: Machine, deb: Path) -> None:
    furnished.write(PRESET, (EXAMPLES / "systemd-preset/50-infoscreen.preset").read_text())
    furnished.install(deb)
    assert furnished.run("systemctl", "is-enabled", AGENT, check=False) == "disabled\n"
    furnished.broker.start()
    furnished.configure_for_broker()
    furnished.run("systemctl", "enable", "--now", AGENT)
    furnished.wait_online()
