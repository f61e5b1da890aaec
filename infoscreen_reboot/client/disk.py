"""Looks after the state directory: whether its disk is full, the reserve, and files that were set aside."""

import contextlib
import errno
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

RESERVE_NAME = "reserve"
RESERVE_BYTES = 1 << 20
# More than the reserve: a disk on which only the reserve's room is left still counts as full.
FULL_BELOW_BYTES = 2 << 20
KEPT_ASIDE = 2
_MARK = ".unusable-"
_STAMP = "%Y%m%dT%H%M%S.%fZ"
# SQLite's files beside a database. They are of use only under the database's name.
_COMPANIONS = "-wal", "-shm"


def is_full(directory: Path) -> bool:
    """Whether the file system has so little room that writes will soon fail; False if it cannot be asked."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return False
    has_no_files_left = found.f_files > 0 and found.f_favail == 0
    # A tmpfs without a limit says that it has no blocks at all.
    has_no_room = found.f_blocks > 0 and found.f_bavail * found.f_frsize < FULL_BELOW_BYTES
    return has_no_room or has_no_files_left


def check_room(directory: Path, size: int) -> None:
    """Raises OSError if there is less room than `size` bytes."""
    found = os.statvfs(directory)
    if found.f_blocks > 0 and found.f_bavail * found.f_frsize < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))


class Reserve:
    """A file that only takes up room. It is deleted when a write finds no room, and made again when there is some."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / RESERVE_NAME

    def make(self) -> None:
        """Make the file, unless it is there or would take the last room from others. Raises OSError."""
        if self._path.exists() or is_full(self._path.parent):
            return
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(file, 0, RESERVE_BYTES)
        except OSError:
            self._path.unlink(missing_ok=True)
            raise
        finally:
            os.close(file)

    def give_up(self) -> bool:
        """Delete the file; returns whether there is more room now."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True


def set_aside(path: Path) -> Path:
    """Rename a file that cannot be used, so that a new one can be begun. The new name says so, and when it was.

    The newest few are kept for whoever looks into the fault. Raises OSError.
    """
    aside = path.with_name(f"{path.name}{_MARK}{datetime.now(UTC).strftime(_STAMP)}")
    path.rename(aside)
    for suffix in _COMPANIONS:
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    earlier = [file for file in set_aside_files(path.parent) if file.name.startswith(path.name + _MARK)]
    for old in earlier[:-KEPT_ASIDE]:
        _remove(old)
    return aside


def set_aside_files(directory: Path) -> list[Path]:
    """The files that were set aside and are still there, the oldest first."""
    try:
        found = [directory / name for name in os.listdir(directory) if _MARK in name]
    except OSError:
        return []
    return sorted((file for file in found if not file.name.endswith(_COMPANIONS)), key=_age)


def set_aside_at(file: Path) -> datetime | None:
    """When the file was set aside, as its name says; None if it does not say."""
    try:
        return datetime.strptime(_age(file), _STAMP).replace(tzinfo=UTC)
    except ValueError:
        return None


def _age(file: Path) -> str:
    return file.name.partition(_MARK)[2]


def _remove(file: Path) -> None:
    for path in (file, *(file.with_name(file.name + suffix) for suffix in _COMPANIONS)):
        with contextlib.suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
