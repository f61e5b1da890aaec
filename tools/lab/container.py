"""A container with real systemd that is switched on, rebooted, switched off and cut from power."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tools.lab.notify import Readiness
from tools.lab.patience import Patience
from tools.lab.scratch import LabError, Scratch, command, kill_group, kill_members, remove_group

REBOOTED, POWERED_OFF, POWER_CUT = 133, 0, 1


@dataclass(slots=True)
class Life:
    """One boot: times in seconds of the wall clock, None while that is still to come."""

    started_at: float
    boot_id: str = ""
    booted_at: float | None = None
    ended_at: float | None = None
    exit_code: int | None = None


class Container:
    """Off at first, its only network its loopback; with auto_restart it comes back from a reboot by itself.

    connect() lays a cable between two of them.
    """

    def __init__(self, suite: str, layers: Sequence[Path], auto_restart: bool = False) -> None:
        self.suite = suite
        self.auto_restart = auto_restart
        self.lives: list[Life] = []
        # More for nspawn's command line, from the next boot on.
        self.nspawn_options: list[str] = []
        self.scratch = Scratch(suite, layers)
        self.name, self.root = self.scratch.name, self.scratch.root
        self._turn = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._leader = 0
        self._failure: LabError | None = None
        try:
            command("ip", "netns", "add", self.name)
            command("ip", "-n", self.name, "link", "set", "lo", "up")
            self.write("/etc/machine-id", uuid.uuid4().hex + "\n", 0o444)
            self.write("/etc/hostname", self.name + "\n")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leaves nothing: no process, mount, network or file."""
        self.auto_restart = False
        self.scratch.close()
        for thread in self._threads:
            thread.join()

    # Power.

    def boot(self) -> None:
        """Switches it on; wait_booted() tells when it is up."""
        with self._turn:
            if self.is_running:
                raise LabError(f"{self.name} is running already")
            life = Life(time.time())
            self.lives.append(life)
        thread = threading.Thread(target=self._live, args=(life, len(self.lives)), name=f"{self.name}-life")
        self._threads.append(thread)
        thread.start()

    def _live(self, life: Life, number: int) -> None:
        argv = self.scratch.nspawn(
            *("--boot", "--notify-ready=yes", "--resolv-conf=off", "--capability=CAP_NET_ADMIN"),
            f"--network-namespace-path=/run/netns/{self.name}",
            *self.nspawn_options,
        )
        code = -1
        try:
            with Readiness(self.scratch.directory / f"ready-{number}") as ready:
                with self.console.open("ab") as output:
                    process = self.scratch.popen(*argv, env=ready.env, output=output)
                if leader := ready.wait_for("X_NSPAWN_LEADER_PID", process, 30):
                    self._leader = int(leader)
                    # Without it the power was cut meanwhile.
                    with suppress(FileNotFoundError, ProcessLookupError):
                        life.boot_id = self.read("/proc/sys/kernel/random/boot_id").strip()
                if ready.wait_for("READY", process, 120):
                    with self._turn:
                        life.booted_at = time.time()
                        self._turn.notify_all()
            # The socket is closed by now: one that nobody reads fills up, and then PID 1 waits for it.
            code = process.wait()
        except (LabError, OSError) as error:
            self._failure = LabError(f"{self.name} did not boot: {error}")
        with self._turn:
            life.ended_at, life.exit_code = time.time(), code
            self._leader = 0
            # Under the lock: nobody sees it off meanwhile, and switches it on, too.
            if self.auto_restart and code == REBOOTED:
                self.boot()
            self._turn.notify_all()

    @property
    def console(self) -> Path:
        return self.scratch.directory / "console.log"

    @property
    def is_running(self) -> bool:
        return bool(self.lives) and self.lives[-1].exit_code is None

    @property
    def boot_id(self) -> str:
        """Of the present or last boot."""
        return self.lives[-1].boot_id

    def _wait(self, number: int | None, is_so: Callable[[Life], bool], what: str, timeout_s: float) -> Life:
        number = number or len(self.lives)

        def over() -> bool:
            return self._failure is not None or (len(self.lives) >= number and is_so(self.lives[number - 1]))

        with self._turn:
            in_time = Patience(timeout_s).wait_for(self._turn, over)
        if self._failure is not None:
            raise self._failure
        if not in_time:
            raise LabError(f"boot {number} of {self.name} {what} within {timeout_s:g} s: {self.lives}")
        return self.lives[number - 1]

    def wait_booted(self, number: int | None = None, timeout_s: float = 60) -> str:
        """Waits until systemd has finished that boot, counted from 1 (the present one if not said); its id."""
        return self._wait(number, lambda life: life.booted_at is not None, "did not finish", timeout_s).boot_id

    def wait_down(self, number: int | None = None, timeout_s: float = 60) -> int:
        """Waits until that boot has ended: REBOOTED, POWERED_OFF or POWER_CUT."""
        life = self._wait(number, lambda life: life.exit_code is not None, "did not end", timeout_s)
        assert life.exit_code is not None
        return life.exit_code

    def stays_up(self, for_s: float) -> bool:
        """Watches the present boot for just so long; whether it has not ended."""
        life = self.lives[-1]
        with self._turn:
            return not self._turn.wait_for(lambda: life.exit_code is not None, for_s)

    def follow_reboot(self, timeout_s: float = 60) -> str:
        """Waits for a reboot of the present boot and until the next has finished; the new boot id."""
        number = len(self.lives)
        code = self.wait_down(number, timeout_s)
        if code != REBOOTED:
            raise LabError(f"{self.name} did not reboot: it ended with {code}")
        if not self.auto_restart:
            self.boot()
        return self.wait_booted(number + 1, timeout_s)

    def power_cut(self) -> None:
        """Everything on it stops at once, as without power, and it stays off."""
        payload = self.scratch.cgroup / "payload"
        comes_back, self.auto_restart = self.auto_restart, False
        patience = Patience(60)
        with self._turn:
            # More than once: it may be on its way up, and what is to be killed not be there yet.
            while self.is_running:
                if patience.is_over:
                    raise LabError(f"cannot cut the power of {self.name}: {self.lives}")
                kill_group(payload)
                self._turn.wait_for(lambda: not self.is_running, 0.05)
        # Else the next boot finds the groups of this one, and a newer kernel kills what systemd 257 starts in them.
        remove_group(payload)
        self.auto_restart = comes_back

    def kill(self, unit: str) -> None:
        """SIGKILL to a service, at once: not by way of systemctl, which takes longer than what is to be hit."""
        kill_members(self.scratch.cgroup / "payload/system.slice" / unit)

    def stop(self, timeout_s: float = 60) -> int:
        """An orderly power-off."""
        if self.is_running:
            os.kill(self._leader, signal.SIGRTMIN + 4)
        return self.wait_down(timeout_s=timeout_s)

    # Inside.

    def outside(self, *args: str) -> list[str]:
        """The command line that runs a command on the machine from outside."""
        if not self._leader:
            raise LabError(f"cannot run {args}: {self.name} is off")
        return ["nsenter", "-t", str(self._leader), "-a", *args]

    def run(self, *args: str, user: str | None = None, check: bool = True, timeout_s: float = 60) -> str:
        """What a command printed, both streams. It must be over before the machine goes down, or that would hang.

        As another `user` it runs as a service of its own, as a login of that user would, not as a child of root's.
        """
        service = ["systemd-run", "-q", "--wait", "--pipe", "--collect", "-p", f"User={user}", "--"]
        argv = self.outside(*(service if user else []), *args)
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        with subprocess.Popen(
            argv,
            env={"PATH": path, "LANG": "C.UTF-8", "HOME": "/root"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process:
            try:
                output = Patience(timeout_s).communicate(process).decode(errors="replace")
            except BaseException as error:
                os.killpg(process.pid, signal.SIGKILL)
                if isinstance(error, subprocess.TimeoutExpired):
                    raise LabError(f"`{' '.join(args)}` did not end within {timeout_s:g} s on {self.name}") from error
                raise
        if check and process.returncode != 0:
            raise LabError(f"`{' '.join(args)}` ended with {process.returncode} on {self.name}:\n{output[-3000:]}")
        return output

    def path(self, inside: str) -> Path:
        """A file of the machine as the host sees it; with the machine's /run and /tmp only while it runs."""
        base = Path("/proc", str(self._leader), "root") if self._leader else self.root
        return base / inside.lstrip("/")

    def read(self, inside: str) -> str:
        return self.path(inside).read_text(errors="replace")

    def write(self, inside: str, text: str, mode: int = 0o644) -> None:
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def journal(self, *units: str, this_boot: bool = False, since_s: float = 0) -> str:
        """The journal of every boot so far, also while the machine is off; `since_s` is of the wall clock."""
        where = self.root / "var/log/journal" / (self.root / "etc/machine-id").read_text().strip()
        chosen = [f"--unit={unit}" for unit in units]
        chosen += [f"--boot={self.boot_id.replace('-', '')}"] if this_boot else []
        chosen += [f"--since=@{since_s:.6f}"] if since_s else []
        argv = ["journalctl", "-D", str(where), "--no-pager", "-q", "-o", "short-precise", *chosen]
        return subprocess.run(argv, text=True, errors="replace", capture_output=True).stdout


def connect(one: Container, other: Container, number: int) -> tuple[str, str]:
    """Lays a cable between two machines, which outlives their reboots; the address of each. `number` is the cable's."""
    addresses = f"10.77.{number}.1", f"10.77.{number}.2"
    cable = f"cable{number}"
    command("ip", "link", "add", cable, "netns", one.name, "type", "veth", "peer", "name", cable, "netns", other.name)
    for machine, address in zip((one, other), addresses, strict=True):
        command("ip", "-n", machine.name, "address", "add", f"{address}/24", "dev", cable)
        command("ip", "-n", machine.name, "link", "set", cable, "up")
    return addresses
