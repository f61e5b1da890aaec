"""Whether what is written in a directory is still there after a reboot.

It is not where the file system lies in memory: a tmpfs, or an overlay whose upper layer is one, as Raspberry Pi OS
makes it. Such a client would forget each command, and execute it again when it is sent again.
"""

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
# ioctl_fiemap(2), about a whole file and with room for no answer: whether there could be one is enough.
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
    """proc_pid_mountinfo(5): any number of optional fields stands before the lone hyphen."""
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split()[:1] == [mount_id]:
            kind, source = rest.split(" ")[:2]
            return Mount(kind, _ESCAPED.sub(lambda match: chr(int(match[1], 8)), source), fields.split()[2])
    return None


def is_layered(mount: Mount | None) -> bool:
    """Whether another file system, which this line does not tell, holds what is written."""
    return mount is not None and mount.kind in _LAYERED


def fault(mount: Mount | None, refused: int | None) -> str | None:
    """Why what is written there is gone after a reboot, or may be; None where it stays.

    `refused` is for layers: the error with which the kernel did not say on which blocks a file there lies.
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
    """Why the agent must not execute anything, and what to do; None where its records outlive a reboot.

    The helper judges its own directory. Here it is looked at as far as the agent can, so that a command is refused
    before it is accepted.
    """
    own = _mount(state)
    own_fault = fault(own, _refusal(state) if is_layered(own) else None)
    if own_fault is not None:
        return _sentence(state, own_fault)
    theirs = _mount(helper_state)
    # Where they lie on two overlays, only who may write in the other could ask.
    their_fault = None if is_layered(theirs) else fault(theirs, None)
    return _sentence(helper_state, their_fault) if their_fault is not None else None


def machine_id_fault(path: Path) -> str | None:
    """Why the machine has another id after each boot; None where it keeps the one it has. Raises OSError.

    systemd binds an id of this boot over the file where it cannot write it, and fills in an empty file on a root that
    forgets. One that the image brought along lies in memory there, too: systemd opens it to write, which copies it up.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        mount = _mount_of(descriptor)
        why = fault(mount, _ask_for_blocks(descriptor) if is_layered(mount) else None)
        state = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    # A file that was only copied has the time of its last change, and came about here at another one. In doubt it
    # lasts: a client of that name is there and says what is wrong, and one without a name is not there at all.
    is_of_this_boot = state.st_mtime_ns == state.st_ctime_ns
    is_told = is_given(path.read_text("ascii"), Path("/proc/cmdline").read_text(errors="replace"))
    if why is None or not is_of_this_boot or is_told:
        return None
    return f"this id lasts until the next boot: {why}"


def is_given(machine_id: str, kernel_command_line: str) -> bool:
    """Whether this id is not made up at each boot but told to the kernel, or made of what the firmware knows."""
    told = re.findall(r"(?<!\S)systemd\.machine_id=(\S+)", kernel_command_line)
    return bool(told) and told[-1].replace("-", "").lower() in (machine_id.strip(), "firmware")


def _sentence(directory: Path, why: str) -> str:
    return f"what is written in {directory} does not outlive a reboot: {why}; {RECIPE}"


def _mount(directory: Path) -> Mount | None:
    """Of the directory, or of the one in which it will be made. O_PATH needs no right to read it."""
    try:
        descriptor = os.open(directory if directory.exists() else directory.parent, os.O_PATH)
    except OSError:
        return None
    try:
        return _mount_of(descriptor)
    finally:
        os.close(descriptor)


def _mount_of(descriptor: int) -> Mount | None:
    """By the kernel's own number of the mount: paths mean something else in a sandbox, and behind a symlink."""
    own = Path("/proc/self")
    fields = dict(line.split(":", 1) for line in (own / f"fdinfo/{descriptor}").read_text().splitlines())
    return find_mount((own / "mountinfo").read_text(errors="surrogateescape"), fields["mnt_id"].strip())


def _refusal(directory: Path) -> int | None:
    """The file stays: on a full disk there may be no room for a new one."""
    # For writing, or it may be one of a lower layer, which lies on a disk and tells nothing about the upper one.
    try:
        descriptor = os.open(directory / _PROBE, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        return error.errno
    try:
        return _ask_for_blocks(descriptor)
    finally:
        os.close(descriptor)


def _ask_for_blocks(descriptor: int) -> int | None:
    """An overlay passes the question on to the layer that holds the file; a tmpfs knows no blocks."""
    try:
        fcntl.ioctl(descriptor, _FIEMAP, _WHOLE_FILE)
    except OSError as error:
        return error.errno
    return None
