"""A bookworm client is upgraded to trixie by apt, and obeys before, after, and after the reboot that finishes it."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.system.conftest import MACHINES
from tests.system.hands import DONE, first_heard, rebooted, refused, story, unit
from tests.system.test_access import call
from tests.system.test_alerts import wait_until
from tools.lab import tree
from tools.lab.machine import AGENT, Machine
from tools.lab.roots import layers_of_upgrade

UNIT = "the-upgrade.service"
OVER = "/run/upgrade-ended-with"
APT = (
    "env DEBIAN_FRONTEND=noninteractive apt-get -qy -o Dpkg::Options::=--force-confold"
    " -o Dpkg::Options::=--force-unsafe-io dist-upgrade /var/tmp/{deb}"
)
# apt lets go of its lock some time before that can be seen from here; this one is held on.
LOCK = "systemd-inhibit --what=shutdown --mode=block --who=the-test --why=to-be-sure"


@pytest.fixture
def bookworm(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A client at work, which has all of trixie in apt's cache."""
    tree.ensure_host()
    deb = tree.build("bookworm")
    with Machine("bookworm", deb, layers=layers_of_upgrade(deb)) as machine:
        request.node.stash[MACHINES].append(machine)
        machine.broker.start()
        machine.set_clock_synchronised()
        machine.boot()
        machine.wait_booted()
        machine.install(deb)
        machine.configure_for_broker()
        machine.run("systemctl", "restart", AGENT)
        machine.wait_online()
        yield machine


def test_a_client_obeys_before_amid_and_after_a_dist_upgrade(bookworm: Machine) -> None:
    machine, deb = bookworm, tree.build("trixie")
    first = machine.command()
    rebooted(machine, first)
    machine.wait_online()
    said, count = first_heard(machine, first), len(machine.acks(first["command_id"]))
    boot_id, old_bus = machine.boot_id, unit(machine, "dbus.service", "MainPID")

    shutil.copy(deb, machine.root / "var/tmp" / deb.name)
    script = f"{APT.format(deb=deb.name)}; echo $? > {OVER}; exec sleep infinity"
    machine.run("systemd-run", "-q", f"--unit={UNIT}", *LOCK.split(), "sh", "-c", script)
    amid(machine)
    assert machine.read(OVER) == "0\n", machine.journal(UNIT)[-3000:]
    machine.run("systemctl", "stop", UNIT)
    # logind finds out that it is gone after all that it is asked just then.
    machine.run("sh", "-c", "while systemd-inhibit --list | grep -q the-test; do :; done", timeout_s=20)
    assert machine.read("/etc/debian_version").startswith("13")

    # systemd 257 and polkit 126 at once; bookworm's dbus-daemon until the reboot.
    assert (machine.boot_id, machine.is_running) == (boot_id, True)
    assert unit(machine, "dbus.service", "MainPID") == old_bus
    machine.send(first)
    wait_until(lambda: len(machine.acks(first["command_id"])) > count, "is answered again")
    assert first_heard(machine, first) == said
    assert call(machine, "Preview", "s", "reboot_host").strip() == 'bss true "" ""'
    finishing = machine.command()
    rebooted(machine, finishing)
    assert story(machine, finishing) == DONE
    machine.wait_online()

    rebooted(machine, machine.command())
    machine.wait_online()
    assert refused(machine, machine.command())[0] == "lockout", "the first reboot counts, of before the upgrade"


def amid(machine: Machine) -> None:
    """While dpkg works each command is answered; apt holds a block inhibitor, so none is executed.

    A reboot between unpacking and configuring may leave a host that does not boot. For some seconds there is no Python
    that could start the helper, and for some no polkit. What was asked when the upgrade restarted the agent is settled
    by the boot id, and that takes so long that the upgrade may be over by then: one more is asked after it.
    """
    ends, is_over = [], False
    while not is_over:
        is_over = machine.path(OVER).exists()
        heard = len(machine.broker.messages)
        nonsense, order = machine.command("format_disk"), machine.command()
        machine.send(nonsense)
        assert machine.wait_ack(nonsense["command_id"], "failed", 60)["error_code"] == "invalid_schema"
        machine.send(order)
        ends.append(machine.wait_ack(order["command_id"], "failed", 120))
        machine.hear("health", 60, after=heard)
    codes = [end["error_code"] for end in ends]
    assert set(codes) <= {"inhibited", "helper_unavailable", "not_authorized", "not_rebooted"}, Counter(codes)
    assert codes[-1] == "inhibited", "polkit of trixie has not said yes"
    assert any("APT is installing or removing packages" in end["error_message"] for end in ends), ends
    print(f"amid the upgrade: {dict(Counter(codes))}")
