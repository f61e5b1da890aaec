"""apt puts the package on a plain Debian, upgrades it at work, and takes it away again without a trace."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from tests.system.hands import DONE, reboot_by_hand, story, unit
from tests.system.test_alerts import wait_state
from tools.lab import tree
from tools.lab.machine import AGENT, HELPER, Machine
from tools.lab.scratch import command

OURS = (AGENT, HELPER)
# What apt, dpkg, the journal and systemd write down about any package, and caches.
BOOKKEEPING = (
    "etc/ld.so.cache",
    "var/backups",
    "var/cache",
    "var/lib/apt",
    "var/lib/dpkg",
    "var/lib/systemd",
    "var/log",
    "var/tmp",
)
ACCOUNTS = {f"etc/{name}{backup}" for name in ("passwd", "group", "shadow", "gshadow") for backup in ("", "-")}


def state_of(machine: Machine, name: str) -> str:
    return machine.run("systemctl", "is-active", name, check=False).strip()


def start_agent(machine: Machine) -> None:
    """What an administrator does after the first install."""
    machine.broker.start()
    machine.set_clock_synchronised()
    machine.configure_for_broker()
    machine.run("systemctl", "restart", AGENT)
    machine.wait_online()


def files(root: Path) -> dict[str, str]:
    """Each path of a machine's disk with all that can be told of it but its times."""
    found = {}
    for directory, directories, names in os.walk(root):
        inside = os.path.relpath(directory, root)
        directories[:] = [name for name in directories if os.path.normpath(f"{inside}/{name}") not in BOOKKEEPING]
        for name in (*directories, *names):
            path = Path(directory, name)
            state = path.lstat()
            words = [stat.filemode(state.st_mode), str(state.st_uid), str(state.st_gid)]
            if stat.S_ISREG(state.st_mode):
                words.append(hashlib.sha256(path.read_bytes()).hexdigest())
            elif stat.S_ISLNK(state.st_mode):
                words.append(str(path.readlink()))
            found[os.path.normpath(f"{inside}/{name}")] = " ".join(words)
    return {path: words for path, words in found.items() if path not in BOOKKEEPING}


def test_an_install_without_configuration_is_skipped_and_says_what_is_missing(furnished: Machine, deb: Path) -> None:
    before = furnished.run("systemctl", "is-system-running", check=False)
    furnished.install(deb)
    for _ in ("after the install", "after the next boot"):
        # It says itself that it is not configured, and has ended a moment later.
        wait_state(furnished, AGENT, "inactive")
        assert unit(furnished, AGENT, "ExecMainStatus") == "6"
        assert furnished.run("systemctl", "is-enabled", AGENT).strip() == "enabled"
        assert "MQTT_BROKER" in furnished.run("systemctl", "status", AGENT, check=False)
        assert furnished.run("systemctl", "is-system-running", check=False) == before
        reboot_by_hand(furnished)


def test_a_client_obeys_right_after_its_first_install(bare: Machine, deb: Path) -> None:
    bare.install(deb)
    start_agent(bare)
    order, bare.auto_restart = bare.command(), True
    bare.send(order)
    acks, ends = bare.topic("commands/ack"), ("completed", "failed")
    end = bare.broker.wait_for(lambda message: message.topic == acks and message.json["status"] in ends)
    assert story(bare, order) == DONE, end.json
    assert bare.wait_booted(2) == end.json["boot_id"]


def test_an_upgrade_restarts_the_agent_at_work_and_forgets_nothing(machine: Machine, suite: str) -> None:
    known = machine.command(expires_at="2026-01-01T00:10:00Z", issued_at="2026-01-01T00:00:00Z")
    machine.send(known)
    machine.wait_ack(known["command_id"], "failed")
    heard, boot_id = len(machine.broker.messages), machine.boot_id
    old_agent = machine.run("systemctl", "show", "-P", "MainPID", AGENT)

    newer = tree.build(suite, "+1")
    machine.install(newer)
    machine.wait_online(after=heard)

    version = command("dpkg-deb", "-f", newer, "Version").strip()
    assert machine.run("dpkg-query", "-W", "-f", "${Version}", "infoscreen-reboot") == version
    assert machine.run("systemctl", "show", "-P", "MainPID", AGENT) != old_agent
    assert (machine.boot_id, machine.is_running) == (boot_id, True)
    machine.send(known)
    ack = machine.broker.wait_for(lambda message: message.topic == machine.topic("commands/ack"), after=heard)
    assert [ack.payload] == list({ack.payload for ack in machine.acks(known["command_id"])})
    order = machine.command()
    machine.send(order)
    machine.follow_reboot()
    machine.wait_ack(order["command_id"], "completed")


def test_an_upgrade_restarts_a_helper_that_runs(machine: Machine, suite: str) -> None:
    machine.run("systemctl", "start", HELPER)
    old_helper = machine.run("systemctl", "show", "-P", "MainPID", HELPER)
    machine.install(tree.build(suite, "+1"))
    assert machine.run("systemctl", "show", "-P", "MainPID", HELPER) != old_helper
    assert state_of(machine, HELPER) != "failed"


def test_removed_it_runs_no_more_and_keeps_configuration_and_state(machine: Machine) -> None:
    settings, uid = machine.settings, machine.run("id", "-u", "infoscreen-reboot").strip()
    machine.run("systemctl", "start", HELPER)
    machine.apt("remove", "infoscreen-reboot")
    for name in OURS:
        assert machine.run("systemctl", "show", "-P", "ActiveState", name).strip() == "inactive"
        assert machine.run("systemctl", "show", "-P", "LoadState", name).strip() in ("not-found", "masked")
    assert not machine.run("ps", "-u", uid, "-o", "pid=", check=False).strip()
    assert machine.broker.on(machine.topic("status"))[-1].json["reason"] == "stopped"
    assert machine.path("/var/lib/infoscreen-reboot/journal.sqlite3").exists()
    assert machine.path("/etc/infoscreen-reboot/agent.env").exists()
    assert all(name in machine.read("/etc/infoscreen-reboot/agent.env.d/50-test.env") for name in settings)
    assert machine.run("systemctl", "--failed", "--plain", "--no-legend") == ""


def test_purged_it_leaves_nothing_but_its_user(furnished: Machine, deb: Path) -> None:
    furnished.set_clock_synchronised()
    before = files(furnished.root)
    passwd, group = furnished.read("/etc/passwd"), furnished.read("/etc/group")

    furnished.install(deb)
    start_agent(furnished)
    order = furnished.command(expires_at="2026-01-01T00:10:00Z", issued_at="2026-01-01T00:00:00Z")
    furnished.send(order)
    furnished.wait_ack(order["command_id"], "failed")
    furnished.run("infoscreen-reboot", "status", check=False)
    furnished.run("systemctl", "start", HELPER)
    furnished.apt("purge", "infoscreen-reboot")

    after = files(furnished.root)
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert changed <= ACCOUNTS
    for name, old in (("passwd", passwd), ("group", group)):
        added = set(furnished.read(f"/etc/{name}").splitlines()) - set(old.splitlines())
        assert [line.split(":")[0] for line in added] == ["infoscreen-reboot"]
    leftovers = furnished.run(
        "find", "/var/lib/systemd", "/run", "/var/lib/dpkg/info", "-xdev", "-name", "*infoscreen*"
    )
    assert leftovers == ""
