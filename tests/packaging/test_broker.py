"""The broker kit's README, done word for word on a machine: mosquitto's own unit and user, and a client at work."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.system.hands import DONE, unit
from tests.system.kit import commands, do, set_up_broker
from tests.system.test_alerts import wait_until
from tools.lab import tree
from tools.lab.machine import Machine
from tools.lab.patience import slow

CLIENT = "9b8d1856-ff34-4864-a726-12de072d0f77"
CONTROLLER = ["-h", "broker.example", "-p", "8883", "--cafile", "/root/kit/ca.crt", "-u", "infoscreen-controller"]
CONTROLLER += ["-P", "infoscreen-controller-secret", "-q", "1"]
ACKS = [*CONTROLLER, "-i", "controller", "-c", "-t", "infoscreen/+/commands/ack"]


def readme(section: str) -> list[str]:
    """The blocks of a section of the project's README."""
    text = (tree.TREE / "README.md").read_text().partition(f"\n## {section}")[2].partition("\n## ")[0]
    return re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def shown(after: str, uuid: str) -> list[str]:
    """The lines of output that the project's README shows there, as that client would see them."""
    block = (tree.TREE / "README.md").read_text().partition(f"{after}\n\n```\n")[2].partition("```")[0]
    assert block.count("\n") == 15
    return block.replace(CLIENT, uuid).splitlines()


def problems(machine: Machine) -> list[str]:
    """What the doctor finds wrong."""
    findings = json.loads(machine.run("infoscreen-reboot", "doctor", "--json", check=False))["findings"]
    return [finding["check"] for finding in findings if finding["verdict"] == "problem"]


def test_the_first_page_leads_from_a_package_to_a_reboot_and_away_again(
    bare_testbed: Machine, deb: Path, tmp_path: Path
) -> None:
    testbed = bare_testbed
    set_up_broker(testbed, tmp_path)
    testbed.set_clock_synchronised()
    shutil.copy(deb, testbed.path("/root/kit"))
    _, install, log_in = readme("Set up a client")
    (said,) = re.findall(r"^ok: client (\S+), broker broker.example:8883 over TLS", do(testbed, install), re.MULTILINE)
    testbed.uuid = said
    testbed.write("/root/kit/password", "a long one\n")
    do(testbed, f"mosquitto_passwd -b /etc/mosquitto/infoscreen.passwd {said} 'a long one'; systemctl reload mosquitto")
    # The last one is the doctor, which fails where it finds a problem. The agent was started a moment before.
    *lines, doctor = log_in.replace("client=…", f"client={said}").splitlines(keepends=True)
    do(testbed, "".join(lines))
    expected = set(shown(after="what to do where something is missing:", uuid=said))
    wait_until(lambda: expected <= set(do(testbed, doctor).splitlines()), "finds all in order")
    testbed.run("mosquitto_sub", *ACKS, "-E")
    (send,) = readme("Send a command by hand")
    do(testbed, send.replace("client=… password=…", f"client={said} password=infoscreen-controller-secret"))
    testbed.wait_booted(2)
    heard = testbed.run("mosquitto_sub", *ACKS, "-C", "3", "-W", str(slow(50)))
    assert [json.loads(ack)["status"] for ack in heard.splitlines()] == DONE
    (purge,) = readme("Take it away")
    do(testbed, purge)
    assert "infoscreen" not in testbed.run("systemctl", "list-units", "--all", "--plain", "--no-legend")


@pytest.mark.parametrize("way", ["login", "certificate"])
def test_a_broker_and_a_client_that_were_set_up_by_the_readme_work(
    testbed: Machine, deb: Path, tmp_path: Path, way: str
) -> None:
    testbed.uuid = CLIENT
    set_up_broker(testbed, tmp_path)
    testbed.write("/root/kit/password", f"{CLIENT}-secret\n")
    warnings = [line for line in testbed.read("/var/log/mosquitto/mosquitto.log").splitlines() if "arning" in line]
    assert warnings == []
    assert testbed.run("ss", "-Hltn", "sport", "=", ":1883") == ""
    assert unit(testbed, "mosquitto", "LimitNOFILE") == "65536"
    limits = testbed.read(f"/proc/{unit(testbed, 'mosquitto', 'MainPID')}/limits")
    # systemd comes as near to it as the host of the container allows.
    (files,) = re.findall(r"^Max open files +(\d+) ", limits, re.MULTILINE)
    assert int(files) > 1024
    testbed.run("mosquitto_sub", *ACKS, "-E")

    testbed.install(deb)
    testbed.set_clock_synchronised()
    testbed.configure(CLIENT_UUID=CLIENT)
    login, certificate = commands("3.")
    do(testbed, login if way == "login" else certificate)
    testbed.run("systemctl", "restart", "infoscreen-simclient")
    assert problems(testbed) == []

    send, watch = readme("Send a command by hand")[0], readme("Watch the clients")[0]
    given = f"client={CLIENT} password=infoscreen-controller-secret"
    do(testbed, send.replace("client=… password=…", given))
    # The broker goes down with the machine, and has what is owed to the controller all the same.
    testbed.wait_booted(2)
    heard = testbed.run("mosquitto_sub", *ACKS, "-C", "3", "-W", str(slow(50)))
    assert [json.loads(ack)["status"] for ack in heard.splitlines()] == DONE
    login = send.splitlines()[1].replace("$password", "infoscreen-controller-secret")
    told = testbed.run("sh", "-c", f"cd /root/kit\n{login}\n{watch.rstrip()} -W {slow(5)}", check=False)
    assert {line.split()[0] for line in told.splitlines()} >= {
        f"infoscreen/{CLIENT}/{leaf}" for leaf in ("status", "boot")
    }
    (thief,) = commands("A client that was stolen")
    for line in thief.splitlines():
        if line.startswith("./"):
            subprocess.run(["sh", "-euc", line], cwd=tmp_path, check=True, capture_output=True)
        else:
            do(testbed, line)
    shutil.copy(tmp_path / "ca.crl", testbed.path("/root/kit"))
    do(testbed, commands("2.")[0].splitlines()[-2])
    testbed.run("systemctl", "restart", "mosquitto")
    assert problems(testbed) == ["login"]
