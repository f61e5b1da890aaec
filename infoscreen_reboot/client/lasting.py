"""Tells whether what is written in a directory is still there after a reboot."""

# It is not there if the file system is in memory: a tmpfs, or an overlay whose upper layer is a tmpfs, as Raspberry Pi
# OS makes it. Such a client would forget each command, and would execute it again if it were sent again.

from __future__ import annotations

import errno
import fcntl
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path

STATE, HELPER_STATE = Path("/var/lib/infoscreen-reboot"), Path("/var/lib/infoscreen-reboot-helper")
RECIPE = 'see "A root that forgets" in fleet.md'
_IN_MEMORY = ("tmpfs", "ramfs", "rootfs", "devtmpfs")
_LAYERED = ("overlay", "aufs")
_DISK_IN_MEMORY = re.compile(r"/dev/z?ram[0-9]+")
_ESCAPED = re.compile(r"\\([0-7]{3})")
# ioctl_fiemap(2) for a whole file, with no room for the answer: it is enough to know whether there could be one.
_FIEMAP = 0xC020660B
_WHOLE_FILE = struct.pack("=QQIIII", 0, 2**64 - 1, 0, 0, 0, 0)
_PROBE = "lasting-probe"


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of /proc/self/mountinfo: the type of the file system, what is mounted, and its device number."""

    kind: str
    source: str
    device: str


def find_mount(mountinfo: str, mount_id: str) -> Mount | None:
    """The mount with that id. Before the single hyphen are any number of optional fields (proc_pid_mountinfo(5))."""
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split()[:1] == [mount_id]:
            kind, source = rest.split(" ")[:2]
            return Mount(kind, _ESCAPED.sub(lambda match: chr(int(match[1], 8)), source), fields.split()[2])
    return None


def is_layered(mount: Mount | None) -> bool:
    """Whether another file system holds what is written. The line of this mount does not say which."""
    return mount is not None and mount.kind in _LAYERED


def fault(mount: Mount | None, refused: int | None) -> str | None:
    """Why what is written there is gone after a reboot, or may be; None if it stays.

    `refused` counts only for layers. It is the error if the kernel cannot say on which blocks a file there lies.
    """
    if mount is None:
        return "cannot tell on which file system it lies"
    if mount.kind in _IN_MEMORY:
        return f"it lies in memory ({mount.kind})"
    if _DISK_IN_MEMORY.fullmatch(mount.source):
        return f"it lies in memory ({mount.source})"
    if not is_layered(mount) or refused is None:
        return None
    if refused == errno.EOPNOTSUPP:
        return f"it lies in memory (the upper layer of an {mount.kind})"
    return f"cannot tell whether the upper layer of its {mount.kind} lies in memory: {os.strerror(refused)}"


def unfit_because(state: Path, helper_state: Path = HELPER_STATE) -> str | None:
    """Why the agent must not execute anything, and what to do; None if its records outlive a reboot.

    The helper judges its own directory. The agent looks at that directory, too, as far as it can, so that a command is
    refused before it is accepted.
    """
    own = _mount(state)
    own_fault = fault(own, _refusal(state) if is_layered(own) else None)
    if own_fault is not None:
        return _sentence(state, own_fault)
    theirs = _mount(helper_state)
    # On an overlay the agent cannot tell: only a process that may write in the helper's directory could ask.
    their_fault = None if is_layered(theirs) else fault(theirs, None)
    return _sentence(helper_state, their_fault) if their_fault is not None else None


def machine_id_fault(path: Path) -> str | None:
    """Why the machine has another id after each boot; None if it keeps the one it has. Raises OSError.

    If systemd cannot write the file, it mounts an id for this boot over it. On a root that forgets, it fills in an
    empty file. There an id from the image is in memory, too: systemd opens the file for writing, which copies it up.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        mount = _mount_of(descriptor)
        why = fault(mount, _ask_for_blocks(descriptor) if is_layered(mount) else None)
        state = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    # A file that was only copied up keeps its mtime, but gets a new ctime. In doubt we say that the id lasts: a client
    # with a name is there and can say what is wrong, and one without a name is not there at all.
    is_of_this_boot = state.st_mtime_ns == state.st_ctime_ns
    is_told = is_given(path.read_text("ascii"), Path("/proc/cmdline").read_text(errors="replace"))
    if why is None or not is_of_this_boot or is_told:
        return None
    return f"this id lasts until the next boot: {why}"


def is_given(machine_id: str, kernel_command_line: str) -> bool:
    """Whether the kernel's command line sets this id, or has it made from the firmware's: then it stays the same."""
    told = re.findall(r"(?<!\S)systemd\.machine_id=(\S+)", kernel_command_line)
    return bool(told) and told[-1].replace("-", "").lower() in (machine_id.strip(), "firmware")


def _sentence(directory: Path, why: str) -> str:
    return f"what is written in {directory} does not outlive a reboot: {why}; {RECIPE}"


def _mount(directory: Path) -> Mount | None:
    """The mount of the directory, or of the one in which it will be made. O_PATH needs no right to read it."""
    try:
        descriptor = os.open(directory if directory.exists() else directory.parent, os.O_PATH)
    except OSError:
        return None
    try:
        return _mount_of(descriptor)
    finally:
        os.close(descriptor)


def _mount_of(descriptor: int) -> Mount | None:
    """Found by the kernel's own number of the mount: a path means something else in a sandbox or behind a symlink."""
    own = Path("/proc/self")
    fields = dict(line.split(":", 1) for line in (own / f"fdinfo/{descriptor}").read_text().splitlines())
    return find_mount((own / "mountinfo").read_text(errors="surrogateescape"), fields["mnt_id"].strip())


def _refusal(directory: Path) -> int | None:
    """Ask about a file of our own. It stays there: on a full disk there may be no room for a new one."""
    # Opened for writing: otherwise it may be a file of a lower layer on a disk, which says nothing about the upper one.
    try:
        descriptor = os.open(directory / _PROBE, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        return error.errno
    try:
        return _ask_for_blocks(descriptor)
    finally:
        os.close(descriptor)


def _ask_for_blocks(descriptor: int) -> int | None:
    """The error, if there is one. An overlay asks the layer that holds the file; a tmpfs knows no blocks."""
    try:
        fcntl.ioctl(descriptor, _FIEMAP, _WHOLE_FILE)
    except OSError as error:
        return error.errno
    return None
