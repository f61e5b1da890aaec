"""The faults of a campaign: how each is done to a machine, and how it is taken away again."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from tools.machine import AGENT, HELPER, Machine, installed_layers
from tools.roots import layer_of_faketime
from tools.scratch import LabError, command
from tools.witness import PORT, Witness

STATE = {"/var/lib/infoscreen-reboot": "agent", "/var/lib/infoscreen-reboot-helper": "helper"}
CLOCK_FILE, FAKE_CLOCK = "/etc/lab-clock", "/etc/infoscreen-reboot/agent.env.d/90-clock.env"
LOCKOUT_WINDOW_S = 8
UPGRADE, DONE = "lab-upgrade.service", "/var/tmp/lab-upgraded"


class Ground(Machine):
    """A machine whose state lies on a small disk of its own, whose agent's clock can be moved, and whose way to the
    broker leads past a witness. It comes back from reboots by itself."""

    def __init__(self, suite: str, deb: Path, other_deb: Path) -> None:
        layers = installed_layers(suite, deb)
        super().__init__(suite, deb, True, layers=[*layers[:-1], layer_of_faketime(suite), layers[-1]])
        try:
            self._prepare(deb, other_deb)
        except BaseException:
            self.close()
            raise

    def _prepare(self, *debs: Path) -> None:
        self.disk = self.scratch.directory / "disk"
        self.disk.mkdir()
        command("mount", "-t", "tmpfs", "-o", "size=8m,mode=755", "lab-state", self.disk)
        for inside, name in STATE.items():
            (self.disk / name).mkdir()
            self.nspawn_options.append(f"--bind={self.disk / name}:{inside}")
        self.debs = [f"/var/tmp/{deb.name}" for deb in debs]
        for deb in debs:
            shutil.copy(deb, self.root / "var/tmp")
        self.owes_dpkg = self.owes_mount = False
        self.configure_for_broker()
        # The shortest that it allows: many stories end by this deadline.
        self.configure(MQTT_PORT=str(PORT), COMMAND_EXECUTION_TIMEOUT_S="10")
        self.set_clock_synchronised()
        self.set_clock("+0")
        self.drop_in(AGENT, "RestartSec=1")
        self.drop_in(HELPER, f"Environment=LOCKOUT_WINDOW_S={LOCKOUT_WINDOW_S}")
        self.broker.start()
        self.witness = Witness(self.name)

    def close(self) -> None:
        if hasattr(self, "witness"):
            self.witness.close()
        super().close()

    def can_jump(self, can: bool) -> bool:
        """Whether the agent sees a clock that can be moved, from its next start on; True if this is a change.

        Not always, for that costs it seconds of processor time when the machine is busy.
        """
        if can == (self.root / FAKE_CLOCK[1:]).exists():
            return False
        if can:
            library = next((self.root / "usr/lib").glob("*/faketime/libfaketimeMT.so.1")).relative_to(self.root)
            words = f"LD_PRELOAD=/{library} FAKETIME_TIMESTAMP_FILE={CLOCK_FILE} FAKETIME_NO_CACHE=1"
            self.write(FAKE_CLOCK, "\n".join([*words.split(), "FAKETIME_DONT_FAKE_MONOTONIC=1", ""]))
        else:
            self.path(FAKE_CLOCK).unlink()
        return True

    def set_clock(self, offset: str) -> None:
        """The wall clock as the agent sees it, seconds from the right one; the other clocks go on as they are."""
        new = self.root / f"{CLOCK_FILE[1:]}.new"
        new.write_text(offset)
        new.rename(self.root / CLOCK_FILE[1:])

    def remount(self, how: str) -> None:
        command("mount", "-o", f"remount,{how}", self.disk)

    def repair(self) -> None:
        """What takes a person: to finish a dpkg run that was cut off, to mount a disk as it should be."""
        if self.owes_dpkg:
            unit = f"{self.name}-repair"
            wait = (
                f"while systemctl is-active -q {UPGRADE}; do sleep 0.1; done; dpkg -i {self.debs[0]}; echo $? > {DONE}"
            )
            done = self.root / DONE[1:]
            done.unlink(missing_ok=True)
            # Not by run(): nobody of ours may be in there for that long.
            self.run("systemd-run", "-q", "--no-block", "--collect", f"--unit={unit}", "sh", "-c", wait)
            deadline = time.monotonic() + 60
            while not done.exists() or not done.read_text():
                if time.monotonic() > deadline or not self.is_running:
                    raise LabError(f"cannot finish the upgrade of {self.name}")
                time.sleep(0.05)
            self.owes_dpkg = done.read_text() != "0\n"
        if self.owes_mount:
            # nspawn mounts read-only for the whole boot what was read-only when it started.
            for inside in STATE:
                self.run("mount", "-o", "remount,bind,rw", inside)
            self.owes_mount = False


Fault = Callable[[Ground, random.Random], "Iterator[None]"]
FAULTS: dict[str, Fault] = {}


def fault(function: Fault) -> Fault:
    """What comes before its `yield` does it, what comes after takes it away."""
    FAULTS[function.__name__] = function
    return function


@fault
def power_cut(ground: Ground, chance: random.Random) -> Iterator[None]:
    ground.power_cut()
    yield
    ground.boot()


@fault
def agent_killed(ground: Ground, chance: random.Random) -> Iterator[None]:
    ground.kill(AGENT)
    yield


@fault
def helper_killed(ground: Ground, chance: random.Random) -> Iterator[None]:
    """It lives only while it is asked, so it is waited for."""
    events = ground.scratch.cgroup / "payload/system.slice" / HELPER / "cgroup.events"
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        with suppress(OSError):
            if "populated 1" in events.read_text():
                time.sleep(chance.random() * 0.4)
                ground.kill(HELPER)
                break
        time.sleep(0.002)
    yield


@fault
def dbus_killed(ground: Ground, chance: random.Random) -> Iterator[None]:
    ground.kill("dbus.service")
    yield


@fault
def broker_restarted(ground: Ground, chance: random.Random) -> Iterator[None]:
    ground.broker.stop()
    yield
    ground.broker.start()


@fault
def broker_killed(ground: Ground, chance: random.Random) -> Iterator[None]:
    ground.broker.kill()
    yield
    ground.broker.start()


@fault
def broker_forgets(ground: Ground, chance: random.Random) -> Iterator[None]:
    ground.broker.kill(forget=True)
    yield
    ground.broker.start()


@fault
def link_down(ground: Ground, chance: random.Random) -> Iterator[None]:
    command("ip", "-n", ground.name, "link", "set", "lo", "down")
    yield
    command("ip", "-n", ground.name, "link", "set", "lo", "up")


@fault
def refused(ground: Ground, chance: random.Random) -> Iterator[None]:
    ground.witness.set(refuses=True)
    yield
    ground.witness.set(refuses=False)


@fault
def stalled(ground: Ground, chance: random.Random) -> Iterator[None]:
    ground.witness.set(stalls=True)
    yield
    ground.witness.set(stalls=False)


@fault
def half_open(ground: Ground, chance: random.Random) -> Iterator[None]:
    """Only the keep-alive tells the agent that its connection is dead."""
    ground.witness.forsake()
    yield


@fault
def slow(ground: Ground, chance: random.Random) -> Iterator[None]:
    """By the kernel where it can; else the witness lets through a few bytes at a time."""
    has_netem = netem(ground, "add", "delay", "60ms", "30ms")
    ground.witness.set(is_slow=not has_netem)
    yield
    if has_netem:
        netem(ground, "del")
    ground.witness.set(is_slow=False)


def has_netem() -> bool:
    """Whether the kernel can make a link slow."""
    name = f"netem-{os.getpid()}"
    command("ip", "netns", "add", name)
    try:
        command("tc", "-n", name, "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms")
    except LabError:
        return False
    finally:
        command("ip", "netns", "del", name)
    return True


def netem(ground: Ground, verb: str, *what: str) -> bool:
    argv = ["tc", "-n", ground.name, "qdisc", verb, "dev", "lo", "root", "netem", *what]
    return subprocess.run(argv, capture_output=True).returncode == 0


@fault
def doubled(ground: Ground, chance: random.Random) -> Iterator[None]:
    ground.witness.set(doubles=True)
    yield
    ground.witness.set(doubles=False)


@fault
def reordered(ground: Ground, chance: random.Random) -> Iterator[None]:
    ground.witness.set(reorders=True)
    yield
    ground.witness.set(reorders=False)


@fault
def puback_lost(ground: Ground, chance: random.Random) -> Iterator[None]:
    ground.witness.set(loses_puback_of_client=chance.random() < 0.5)
    yield
    ground.witness.set(loses_puback_of_client=None)


@fault
def disk_full(ground: Ground, chance: random.Random) -> Iterator[None]:
    ballast = ground.disk / "ballast"
    with suppress(OSError) as _, ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise LabError(f"cannot fill {ground.disk}: {error}") from error
    yield
    ballast.unlink()


@fault
def disk_read_only(ground: Ground, chance: random.Random) -> Iterator[None]:
    """The kernel does not take from a process what it has open for writing: so the agent goes first."""
    for _ in range(20):
        ground.kill(AGENT)
        with suppress(LabError):
            ground.remount("ro")
            break
    lives = len(ground.lives)
    yield
    ground.remount("rw")
    ground.owes_mount = len(ground.lives) > lives or not ground.is_running


@fault
def clock_jumps(ground: Ground, chance: random.Random) -> Iterator[None]:
    ground.set_clock(chance.choice(["-86400", "-3600", "-20", "+20", "+3600", "+86400"]))
    yield
    ground.set_clock("+0")


@fault
def upgraded(ground: Ground, chance: random.Random) -> Iterator[None]:
    """Left to systemd, so that nothing of ours is in the way when the machine goes down."""
    ground.owes_dpkg = True
    ground.debs.reverse()
    with suppress(LabError):  # it may be down at this moment
        start = "systemd-run", "-q", "--no-block", "--collect", f"--unit={UPGRADE}"
        ground.run(*start, "dpkg", "-i", ground.debs[0])
    yield
