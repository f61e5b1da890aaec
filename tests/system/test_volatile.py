"""A root that forgets at each boot what was written in it, as Raspberry Pi OS makes it: without the recipe of
docs/fleet.md nothing is executed, with it everything is as on a disk.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.system.hands import (
    DONE,
    check_stays_up,
    first_heard,
    play,
    reboot_by_hand,
    rebooted,
    refused,
    start,
    status,
    story,
    unit,
)
from tests.system.test_doctor import problems
from tools.lab.machine import AGENT, POWERED_OFF, Machine

FLEET = (Path(__file__).parents[2] / "docs/fleet.md").read_text("utf-8")
STATE_UNIT = "infoscreen-state.service"
WHY = "it lies in memory (the upper layer of an overlay)"


def recipe(language: str) -> str:
    section = FLEET.partition("## A root that forgets")[2].partition("\n## ")[0]
    (block,) = re.findall(rf"^```{language}\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return str(block)


@pytest.fixture
def forgetful(parked: Machine) -> Machine:
    """As `overlayroot=tmpfs` leaves it: at each boot an overlay whose upper layer is a new tmpfs."""
    parked.nspawn_options.append("--volatile=overlay")
    return parked


@pytest.fixture
def followed(forgetful: Machine) -> Machine:
    """The same, with a partition at /data that stays, and the recipe followed word for word."""
    data = partition(forgetful)
    data.mkdir()
    forgetful.nspawn_options.append(f"--bind={data}:/data")
    # systemd leaves disks in fstab to the host of a container.
    forgetful.write("/etc/fstab", recipe("fstab"))
    forgetful.write(f"/etc/systemd/system/{STATE_UNIT}", recipe("ini"))
    wants = forgetful.root / "etc/systemd/system/multi-user.target.wants"
    (wants / STATE_UNIT).symlink_to(f"/etc/systemd/system/{STATE_UNIT}")
    return forgetful


def partition(machine: Machine) -> Path:
    return machine.scratch.directory / "data"


def health(machine: Machine) -> dict[str, Any]:
    """The latest of this boot."""
    heard = machine.broker.wait_for(
        lambda m: m.topic == machine.topic("health") and m.json["boot_id"] == machine.boot_id
    )
    content: dict[str, Any] = heard.json
    return content


def reboot_and_wait(machine: Machine) -> None:
    heard = len(machine.broker.messages)
    reboot_by_hand(machine)
    machine.wait_online(after=heard)


def test_on_a_root_that_forgets_nothing_is_executed_over_three_boots_and_everybody_is_told_why(
    forgetful: Machine,
) -> None:
    start(forgetful)
    assert forgetful.run("findmnt", "-no", "FSTYPE", "/").strip() == "overlay"
    command = forgetful.command()
    for boot in (1, 2, 3):
        assert len(forgetful.lives) == boot
        code, message = refused(forgetful, command)
        assert code == "unsupported_action"
        assert WHY in message and 'see "A root that forgets" in fleet.md' in message
        assert health(forgetful)["capabilities"]["actions"] == []
        said = status(forgetful)["unit"]["StatusText"]
        assert "no command is executed: what is written in /var/lib/infoscreen-reboot does not outlive" in said
        assert unit(forgetful, AGENT, "NRestarts") == "0"
        if boot < 3:
            reboot_and_wait(forgetful)
    assert [(check, WHY in text, "fleet.md" in advice) for check, text, advice in problems(forgetful)] == [
        ("state", True, True),
    ]


def test_with_the_recipe_commands_complete_over_a_root_that_forgets_and_the_lockout_holds(followed: Machine) -> None:
    machine = followed
    start(machine)
    assert problems(machine) == []
    first = machine.command()
    rebooted(machine, first)
    assert story(machine, first) == DONE
    known = first_heard(machine, first)
    for _ in range(2):
        rebooted(machine, machine.command())
    assert len(machine.lives) == 4
    fourth = play(machine, machine.command(), "failed")
    assert fourth["error_code"] == "lockout"
    heard = len(machine.broker.messages)
    machine.send(first)
    machine.broker.wait_for(lambda message: message.topic == machine.topic("commands/ack"), after=heard)
    assert first_heard(machine, first) == known
    check_stays_up(machine, 2)


def test_where_the_partition_cannot_be_used_the_client_is_online_and_says_so(followed: Machine) -> None:
    (partition(followed) / "infoscreen-reboot-helper").write_text("a file where a directory should be")
    start(followed)
    assert refused(followed, followed.command())[0] == "unsupported_action"
    alert = followed.broker.wait_for(lambda m: m.topic == followed.topic("service_failed") and bool(m.payload))
    assert alert.json["unit"] == STATE_UNIT
    # With half a recipe it is the same.
    (partition(followed) / "infoscreen-reboot-helper").unlink()
    reboot_and_wait(followed)
    assert problems(followed) == []


def test_a_machine_id_of_this_boot_is_no_name_for_a_client(forgetful: Machine) -> None:
    forgetful.write("/etc/machine-id", "")
    forgetful.configure(CLIENT_UUID=None)
    forgetful.boot()
    forgetful.wait_booted()
    forgetful.run("sh", "-c", f"until systemctl is-failed -q {AGENT}; do sleep 0.1; done", timeout_s=20)
    assert unit(forgetful, AGENT, "ExecMainStatus") == "78"
    words = "this id lasts until the next boot: " + WHY
    assert words in unit(forgetful, AGENT, "StatusText")
    found, of_helper = problems(forgetful)
    assert found[0] == "configuration" and words in found[1] and "set CLIENT_UUID" in found[1]
    assert of_helper[0] == "helper" and of_helper[1].startswith("it refuses: ")


def test_a_machine_id_that_the_image_brought_along_is_a_name(forgetful: Machine) -> None:
    forgetful.configure(CLIENT_UUID=None)
    forgetful.boot()
    forgetful.wait_booted()
    assert "ok: client " in forgetful.run("infoscreen-reboot", "check-config")


def test_in_the_first_boot_of_an_image_the_client_has_its_name_for_good(parked: Machine) -> None:
    parked.write("/etc/machine-id", "uninitialized\n")
    parked.configure(CLIENT_UUID=None)
    parked.boot()
    parked.wait_booted()
    parked.broker.wait_for(lambda m: m.topic.endswith("/status") and m.json["state"] == "online")
    told = parked.run("infoscreen-reboot", "check-config")
    assert parked.stop() == POWERED_OFF
    parked.boot()
    parked.wait_booted()
    assert parked.run("infoscreen-reboot", "check-config") == told


def test_a_machine_id_that_systemd_could_not_write_down_is_none(machine: Machine) -> None:
    machine.configure(CLIENT_UUID=None)
    assert "ok: client " in machine.run("infoscreen-reboot", "check-config")
    # As PID 1 does on a root that it cannot write to.
    machine.run("sh", "-c", "cp /etc/machine-id /run/machine-id && mount --bind /run/machine-id /etc/machine-id")
    told = machine.run("infoscreen-reboot", "check-config", check=False)
    assert "this id lasts until the next boot: it lies in memory (tmpfs)" in told
