"""The disk with the state is full, read-only or holds rubbish, and stays so: the client is online and says so."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.system.hands import (
    check_one_right_end,
    first_heard,
    kill_agent,
    play,
    reboot_by_hand,
    rebooted,
    refused,
    start,
    status,
    story,
    unit,
    wait_logged,
)
from tests.system.test_alerts import ALERTS, wait_alert, wait_until
from tests.system.test_telemetry import health_of
from tools.lab.container import POWER_CUT
from tools.lab.machine import AGENT, HELPER, Machine
from tools.lab.patience import Patience
from tools.lab.scratch import command

SIZE_MB = 24
STATE = {"/var/lib/infoscreen-reboot": "agent", "/var/lib/infoscreen-reboot-helper": "helper"}
JOURNAL = "journal.sqlite3"
TICK_S = 70  # health comes every half minute, and on a busy machine later
JUNK, AT_ONCE = 12_000, 500


class Disk:
    """An ext4 file system of its own for both state directories; what is done to it lasts until it is undone."""

    def __init__(self, machine: Machine) -> None:
        image = machine.scratch.directory / "disk.ext4"
        with image.open("wb") as file:
            file.truncate(SIZE_MB << 20)
        # Nothing is reserved for root, so that full is full for everyone. Blocks as large as a Pi's: in smaller ones,
        # as a file system of this size would have, SQLite allocates only a part of its shared memory, and Linux 6.18
        # ends a process with SIGBUS that writes to the rest on a full disk.
        command("mkfs.ext4", "-q", "-b", "4096", "-m", "0", image)
        self.path = machine.scratch.directory / "disk"
        self.path.mkdir()
        command("mount", "-o", "loop", image, self.path)
        for inside, name in STATE.items():
            (self.path / name).mkdir()
            machine.nspawn_options.append(f"--bind={self.path / name}:{inside}")

    @property
    def agent(self) -> Path:
        return self.path / "agent"

    def fill(self) -> None:
        """To the last byte, for root too, and also what an agent at work gives back meanwhile."""
        patience = Patience(30)
        with (self.path / "ballast").open("ab", buffering=0) as ballast:
            while os.statvfs(self.path).f_bavail > 0:
                assert not patience.is_over
                for size in (1 << 20, 1024, 1):
                    try:
                        while True:
                            ballast.write(bytes(size))
                    except OSError:
                        pass

    def empty(self) -> None:
        (self.path / "ballast").unlink()

    def remount(self, how: str) -> None:
        command("mount", "-o", f"remount,{how}", self.path)


@pytest.fixture
def disk(parked: Machine) -> Disk:
    return Disk(parked)


@pytest.fixture
def with_state(disk: Disk, parked: Machine) -> Iterator[tuple[Machine, Disk, dict[str, Any]]]:
    """A client that has rebooted once on command, and has all its room; the command."""
    start(parked)
    done = parked.command()
    rebooted(parked, done)
    wait_until(lambda: (disk.agent / "reserve").exists(), "makes its reserve")
    yield parked, disk, done


def heard_again(machine: Machine, sent: dict[str, Any], count: int) -> list[bytes]:
    """Send it again; what was heard of it in all, after the answer to this copy."""
    machine.send(sent)
    wait_until(lambda: len(machine.acks(sent["command_id"])) > count, "is answered again")
    return first_heard(machine, sent)


def restart(machine: Machine) -> None:
    machine.run("systemctl", "restart", AGENT)


def flood(machine: Machine, count: int) -> None:
    """So many commands, each with an id of its own, that are not valid; each was answered when the next come."""
    argv = "nsenter", f"--net=/run/netns/{machine.name}", "mosquitto_pub", "-h", "127.0.0.1", "-q", "1", "-l"
    topic = machine.topic("commands/ack")
    for _ in range(0, count, AT_ONCE):
        lines = "".join(json.dumps(machine.command(force=True)) + "\n" for _ in range(AT_ONCE))
        before = len(machine.broker.on(topic))
        subprocess.run([*argv, "-t", machine.topic("commands")], input=lines.encode(), check=True, timeout=60)
        wait_until(lambda: len(machine.broker.on(topic)) >= before + AT_ONCE, "answers them", 120)  # noqa: B023


def test_a_disk_that_is_full_before_during_and_after_a_reboot(
    with_state: tuple[Machine, Disk, dict[str, Any]],
) -> None:
    machine, disk, first = with_state
    disk.fill()
    health_of(machine, lambda health: health["state"]["disk_full"], timeout_s=TICK_S)
    wait_until(lambda: "the disk is full" in unit(machine, AGENT, "StatusText"), "says so", TICK_S)
    assert "the disk is full" in machine.run("infoscreen-reboot", "status")

    second = machine.command()
    rebooted(machine, second)
    assert check_one_right_end(machine, second) == "completed"
    disk.fill()
    machine.wait_online()
    health = health_of(machine, lambda health: health["boot_id"] == machine.boot_id, timeout_s=TICK_S)
    assert health["state"] == {"writable": True, "disk_full": True, "set_aside": 0}
    report = machine.hear("boot", 60, boot_id=machine.boot_id)
    assert (report.json["cause"], report.json["command_id"]) == ("command", second["command_id"])

    flood(machine, 1_500)
    for sent in (first, second):
        known = first_heard(machine, sent)
        assert heard_again(machine, sent, len(machine.acks(sent["command_id"]))) == known
    assert refused(machine, machine.command(expires_at="2026-01-01T00:00:00Z"))[0] == "invalid_schema"

    # However it ends, it is there again.
    ends: tuple[Callable[[Machine], None], ...] = restart, restart, kill_agent
    for end in ends:
        heard = len(machine.broker.messages)
        end(machine)
        disk.fill()
        machine.wait_online(after=heard)
    machine.power_cut()
    assert machine.wait_down() == POWER_CUT
    disk.fill()
    start(machine)
    assert status(machine)["outbox"] == 0
    history = json.loads(machine.run("infoscreen-reboot", "history", "--limit", "5000", "--json"))
    assert {first["command_id"], second["command_id"]} <= {one["command_id"] for one in history}
    lines = machine.journal(AGENT, this_boot=True)
    assert "Traceback" not in lines and "no command is executed" not in lines
    disk.empty()
    wait_until(lambda: "disk is full" not in unit(machine, AGENT, "StatusText"), "sees the room", TICK_S)


def test_a_disk_that_was_never_writable_leaves_the_client_online_until_it_is(disk: Disk, parked: Machine) -> None:
    machine = parked
    disk.fill()
    start(machine)
    code, message = refused(machine, machine.command())
    assert code == "unsupported_action"
    assert "cannot write down" in message and "free or mend the disk" in message
    health = health_of(machine, lambda health: health["boot_id"] == machine.boot_id, timeout_s=TICK_S)
    assert health["state"] == {"writable": False, "disk_full": True, "set_aside": 0}
    assert health["capabilities"]["actions"] == []
    assert "no command is executed" in machine.run("infoscreen-reboot", "status", check=False)
    heard = len(machine.broker.messages)
    disk.empty()
    machine.wait_online(after=heard)
    rebooted(machine, machine.command())


def test_a_state_that_is_read_only_is_read_and_nothing_is_executed(
    with_state: tuple[Machine, Disk, dict[str, Any]],
) -> None:
    machine, disk, done = with_state
    known = first_heard(machine, done)
    machine.run("systemctl", "stop", AGENT)  # first: its call would cancel the stop of the helper
    machine.run("systemctl", "stop", HELPER)
    disk.remount("ro")
    heard = len(machine.broker.messages)
    machine.run("systemctl", "start", AGENT)
    machine.wait_online(after=heard)
    for boots in range(2):
        assert heard_again(machine, done, len(machine.acks(done["command_id"]))) == known
        assert refused(machine, machine.command())[0] == "unsupported_action"
        if boots == 0:
            reboot_by_hand(machine)
            machine.wait_online()
    heard = len(machine.broker.messages)
    disk.remount("rw")
    for inside in STATE:  # nspawn mounts read-only for the whole boot what was read-only when it started
        machine.run("mount", "-o", "remount,bind,rw", inside)
    machine.run("systemctl", "restart", HELPER, AGENT)
    machine.wait_online(after=heard)
    rebooted(machine, machine.command())


def rubbish(journal: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        journal.with_name(journal.name + suffix).write_bytes(b"This was a journal before the disk broke. " * 1000)


def zeroes(journal: Path) -> None:
    for suffix in ("", "-wal"):
        file = journal.with_name(journal.name + suffix)
        file.write_bytes(bytes(file.stat().st_size))


def torn(journal: Path) -> None:
    content = journal.read_bytes()
    journal.write_bytes(content[:1000] + os.urandom(20_000))
    _without_log(journal)


def of_a_newer_format(journal: Path) -> None:
    with closing(sqlite3.connect(journal)) as db:
        db.execute("PRAGMA user_version = 99")


def with_a_row_of_another_version(journal: Path) -> None:
    with closing(sqlite3.connect(journal)) as db, db:
        db.execute("UPDATE boot SET cause = 'tide'")


def a_directory(journal: Path) -> None:
    _without_log(journal)
    journal.unlink()
    journal.mkdir()


def _without_log(journal: Path) -> None:
    for suffix in ("-wal", "-shm"):
        journal.with_name(journal.name + suffix).unlink(missing_ok=True)


WAYS: tuple[Callable[[Path], None], ...] = (
    rubbish,
    zeroes,
    torn,
    of_a_newer_format,
    with_a_row_of_another_version,
    a_directory,
)


def test_a_state_file_that_cannot_be_used_is_set_aside_and_nothing_is_executed_twice(
    with_state: tuple[Machine, Disk, dict[str, Any]],
) -> None:
    machine, disk, done = with_state
    for number, spoil in enumerate(WAYS, 1):
        machine.run("systemctl", "stop", AGENT)
        spoil(disk.agent / JOURNAL)
        # What else is read at a start.
        mark = disk.agent / "not-running-in"
        mark.unlink()
        mark.mkdir() if spoil is rubbish else mark.write_bytes(b"\xff\x00rubbish")
        machine.path(f"{ALERTS}/player.service.alert").write_bytes(b"run\n\xff rubbish")
        heard = len(machine.broker.messages)
        machine.run("systemctl", "start", AGENT)
        machine.wait_online(after=heard)
        aside = [
            path.name for path in disk.agent.glob(f"{JOURNAL}.unusable-*") if not path.name.endswith(("-wal", "-shm"))
        ]
        assert len(aside) == min(number, 2), (spoil, aside)
        newest = max(aside)
        wait_logged(machine, newest, AGENT)
        if spoil is rubbish:
            alert = wait_alert(machine, AGENT)
            assert alert["result"] == "state-set-aside" and any(newest in line for line in alert["last_log_lines"])
            # The record is gone; the helper's is not.
            boot_id, acks = machine.boot_id, len(machine.acks(done["command_id"]))
            machine.send(done)
            wait_until(lambda: len(machine.acks(done["command_id"])) >= acks + 3, "is answered")  # noqa: B023
            assert story(machine, done)[-1] == "helper_failed"
            time.sleep(1)
            assert machine.boot_id == boot_id and machine.is_running and len(machine.lives) == 2
            rebooted(machine, machine.command())
            wait_until(lambda: (disk.agent / "reserve").exists(), "makes its reserve")
    # Of the last start: with a third store beside the two that are kept, the one before may have found the disk full.
    good = {"writable": True, "disk_full": False, "set_aside": 3}
    health_of(machine, lambda health: health["state"] == good, after=heard, timeout_s=TICK_S)
    assert "set aside" in machine.run("infoscreen-reboot", "status")

    heard = len(machine.broker.messages)
    for path in disk.agent.glob("*.unusable-*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    topic = machine.topic("service_failed")
    machine.broker.wait_for(lambda m: m.topic == topic and not m.payload, TICK_S, after=heard)
    assert machine.broker.retained(topic) is None
    assert "Traceback" not in machine.journal(AGENT)


def test_12000_commands_that_are_refused_make_the_client_forget_nothing(machine: Machine) -> None:
    machine.run("systemctl", "start", "polkit")
    machine.run("systemctl", "kill", "--signal=STOP", "polkit")
    asked, busy = machine.command(), machine.command()
    play(machine, asked, "execution_started")
    assert refused(machine, busy)[0] == "busy"
    machine.wait_ack(asked["command_id"], "failed")
    machine.run("systemctl", "kill", "--signal=CONT", "polkit")
    known = [first_heard(machine, sent) for sent in (asked, busy)]
    flood(machine, JUNK)
    for sent, told in zip((asked, busy), known, strict=True):
        assert heard_again(machine, sent, len(machine.acks(sent["command_id"]))) == told
    assert len(machine.lives) == 1
    rebooted(machine, machine.command())
