"""A throw-away Debian root: an overlay on cached layers, run by systemd-nspawn, of which nothing is left behind."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from tools.lab.patience import Patience

CACHE = Path(os.environ.get("INFOSCREEN_CACHE", "/var/cache/infoscreen-reboot-dev"))
SCRATCH = CACHE / "scratch"

_numbers = itertools.count(1)


class LabError(Exception):
    """Something the lab needs is not there; the text says what to do."""


def command(*args: str | Path, env: dict[str, str] | None = None) -> str:
    """What the command printed; a failure becomes a LabError that ends in the command's own last words."""
    argv = [str(arg) for arg in args]
    pipe, both, nothing = subprocess.PIPE, subprocess.STDOUT, subprocess.DEVNULL
    done = subprocess.run(argv, env=env, stdin=nothing, stdout=pipe, stderr=both)
    output = done.stdout.decode(errors="replace")
    if done.returncode != 0:
        raise LabError(f"`{' '.join(argv)[:300]}` ended with {done.returncode}:\n{output[-3000:]}")
    return output


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Keeps other processes that ask for the same name waiting."""
    path = CACHE / "locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Scratch:
    """One overlay root, its control group and its lock; whoever dies without close() is cleaned up by the next run."""

    def __init__(self, kind: str, layers: Sequence[Path]) -> None:
        """The uppermost layer comes first."""
        sweep()
        with locked("scratch"):
            self.name = f"{kind}-{os.getpid()}-{next(_numbers)}"
            self.directory = SCRATCH / self.name
            self.root, self.upper = self.directory / "root", self.directory / "upper"
            for path in (self.root, self.upper, self.directory / "work"):
                path.mkdir(parents=True)
            self._lock: IO[str] = (self.directory / "lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._processes: list[subprocess.Popen[bytes]] = []
        self.cgroup = _cgroups() / f"infoscreen-{self.name}"
        self.cgroup.mkdir()
        lower = ":".join(str(layer) for layer in layers)
        options = f"lowerdir={lower},upperdir={self.upper},workdir={self.directory / 'work'}"
        command("mount", "-t", "overlay", "infoscreen-lab", "-o", options, self.root)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        _tear_down(self.name)
        for process in self._processes:
            process.wait()
        self._lock.close()

    def keep_as(self, layer: Path) -> None:
        """Makes what was written here a layer for others. Nothing may be running here any more."""
        command("umount", self.root)
        self.upper.rename(layer)

    def popen(
        self,
        *args: str | Path,
        group: str = "",
        env: dict[str, str] | None = None,
        output: IO[bytes] | int | None = None,
    ) -> subprocess.Popen[bytes]:
        """Starts a command of the host inside this root's control group, so that killing the group ends it too."""
        home = self.cgroup / group
        home.mkdir(exist_ok=True)
        join = 'echo $$ > "$0" && exec "$@"'
        process = subprocess.Popen(
            ["sh", "-c", join, str(home / "cgroup.procs"), *map(str, args)],
            env=os.environ | {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"} | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # A terminal's Ctrl-C is for the one who can clean up: us.
            start_new_session=True,
        )
        self._processes.append(process)
        return process

    def nspawn(self, *options: str | Path) -> list[str]:
        """The start of a systemd-nspawn command line for this root."""
        fixed = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--console=pipe", "-M", self.name]
        return [*fixed, "-D", str(self.root), *map(str, options)]


def _cgroups() -> Path:
    """Where cgroup v2 is mounted: beside v1 on a machine without systemd as PID 1, else alone."""
    for path in (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")):
        if (path / "cgroup.procs").exists():
            return path
    raise LabError("cannot make containers: no cgroup v2 at /sys/fs/cgroup (`mount -t cgroup2 none /sys/fs/cgroup`)")


def sweep() -> None:
    """Cleans up after processes that were killed before they could."""
    with locked("scratch"):
        for path in SCRATCH.glob("*/lock"):
            with suppress(BlockingIOError, FileNotFoundError), path.open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _tear_down(path.parent.name)


def kill_group(cgroup: Path) -> None:
    """Kills everything in the group at once, and waits until it is empty."""
    _kill(cgroup, lambda: "populated 1" in (cgroup / "cgroup.events").read_text())


def kill_members(cgroup: Path) -> None:
    """Kills all that is in the group now, and waits for that: something may have been started there again by then."""
    with _gone_is_fine():
        members = set((cgroup / "cgroup.procs").read_text().split())
        _kill(cgroup, lambda: bool(members & set((cgroup / "cgroup.procs").read_text().split())))


def _kill(cgroup: Path, is_alive: Callable[[], bool]) -> None:
    with _gone_is_fine():
        (cgroup / "cgroup.kill").write_text("1")
        patience = Patience(10)
        while is_alive():
            if patience.is_over:
                raise LabError(f"cannot end what runs in {cgroup}; look at {cgroup}/cgroup.procs")
            time.sleep(0.005)


@contextmanager
def _gone_is_fine() -> Iterator[None]:
    """The group is gone: before its file was opened, or since."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise


def remove_group(cgroup: Path) -> None:
    """Removes a group in which nothing runs any more, with all groups in it."""
    for path, _, _ in os.walk(cgroup, topdown=False):
        Path(path).rmdir()


def unmount_below(directory: Path) -> None:
    """What is mounted there cannot be removed; whoever mounted it may have been killed."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed(mounts):
        if mount.startswith(f"{directory}/"):
            command("umount", mount)


def _tear_down(name: str) -> None:
    directory = SCRATCH / name
    cgroup = _cgroups() / f"infoscreen-{name}"
    kill_group(cgroup)
    remove_group(cgroup)
    if Path("/run/netns", name).exists():
        command("ip", "netns", "del", name)
    unmount_below(directory)
    # nspawn itself removes this only where /run is a tmpfs.
    with suppress(OSError):
        Path("/run/systemd/nspawn/propagate", name).rmdir()
    shutil.rmtree(directory, ignore_errors=True)
