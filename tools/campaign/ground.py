"""Where a campaign is played: a machine to which everything can be done, and that is put right again."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from tools.campaign.witness import PORT, Witness
from tools.lab.machine import AGENT, HELPER, Machine, installed_layers
from tools.lab.patience import Patience, slow
from tools.lab.roots import layer_of_faketime
from tools.lab.scratch import LabError, command

STATE = {"/var/lib/infoscreen-reboot": "agent", "/var/lib/infoscreen-reboot-helper": "helper"}
CLOCK_FILE, FAKE_CLOCK = "/etc/lab-clock", "/etc/infoscreen-reboot/agent.env.d/90-clock.env"
LOCKOUT_WINDOW_S = 8
DISK_BYTES = 24 << 20
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
        # Not a tmpfs: a client whose state does not outlive the boot executes nothing.
        image = self.scratch.directory / "disk.img"
        with image.open("wb") as file:
            file.truncate(DISK_BYTES)
        # Blocks as large as a Pi's: see tests/system/test_disk.py.
        command("mkfs.ext4", "-q", "-b", "4096", "-m", "0", image)
        command("mount", "-o", "loop", image, self.disk)
        for inside, name in STATE.items():
            (self.disk / name).mkdir()
            self.nspawn_options.append(f"--bind={self.disk / name}:{inside}")
        self.debs = [f"/var/tmp/{deb.name}" for deb in debs]
        for deb in debs:
            shutil.copy(deb, self.root / "var/tmp")
        self.owes_dpkg = self.owes_mount = self.owes_restart = False
        self.configure_for_broker()
        # The shortest that it allows: many stories end by this deadline.
        self.configure(MQTT_PORT=str(PORT), COMMAND_EXECUTION_TIMEOUT_S=str(slow(15)))
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
        """What takes a person: to finish a dpkg run that was cut off, to mount a disk as it should be and say so."""
        if self.owes_dpkg:
            unit = f"{self.name}-repair"
            wait = (
                f"while systemctl is-active -q {UPGRADE}; do sleep 0.1; done; dpkg -i {self.debs[0]}; echo $? > {DONE}"
            )
            done = self.root / DONE[1:]
            done.unlink(missing_ok=True)
            # Not by run(): nobody of ours may be in there for that long.
            self.run("systemd-run", "-q", "--no-block", "--collect", f"--unit={unit}", "sh", "-c", wait)
            patience = Patience(60)
            while not done.exists() or not done.read_text():
                if patience.is_over or not self.is_running:
                    raise LabError(f"cannot finish the upgrade of {self.name}")
                time.sleep(0.05)
            self.owes_dpkg = done.read_text() != "0\n"
        if self.owes_mount:
            # nspawn mounts read-only for the whole boot what was read-only when it started.
            for inside in STATE:
                self.run("mount", "-o", "remount,bind,rw", inside)
            self.owes_mount = False
        if self.owes_restart:
            # What was started on a read-only disk executes nothing until then, and says so. A start of the helper that
            # is cut off would leave the bus, and all who call, waiting for 25 s: so it first comes to its end. Not a
            # stop: one is cancelled where the agent calls the helper meanwhile. A restart takes such a start in.
            self.run("systemctl", "start", HELPER, check=False)
            self.run("systemctl", "restart", HELPER, AGENT)
            self.owes_restart = False
