"""Switches whatever an executable of the administrator can switch: a question as JSON, an answer as an exit code."""

from __future__ import annotations

import json
import stat
from pathlib import Path

from infoscreen_reboot.controller.power import program
from infoscreen_reboot.controller.power.port import Port, PowerError, Reading
from infoscreen_reboot.controller.power.program import TookTooLong

FOLDER = Path("/etc/infoscreen-reboot-controller/power.d")
LIMIT_S = 20.0
# What the exit code of `read` says.
_READINGS = {
    0: Reading(True, True, "it delivers power"),
    10: Reading(True, False, "nothing takes its power"),
    11: Reading(True, None, "nothing tells whether it delivers power"),
    12: Reading(False, False, "it is switched off"),
}


class Hook:
    """`owner` is the only user who may be able to change a hook."""

    def __init__(self, folder: Path = FOLDER, owner: int = 0, limit_s: float = LIMIT_S) -> None:
        self._folder = folder
        self._owner = owner
        self._limit_s = limit_s

    def check(self, port: Port) -> None:
        """Whether there is a hook that may be started. Raises PowerError."""
        self._check(self._folder / (port.profile or ""), port)

    def read(self, port: Port) -> Reading:
        """Raises PowerError."""
        code = self._run(port, "read")
        if code not in _READINGS:
            raise PowerError(f"cannot read {port}: the hook {port.profile} ended with {code}")
        return _READINGS[code]

    def switch(self, port: Port, is_on: bool) -> None:
        """Raises PowerError."""
        does = "on" if is_on else "off"
        code = self._run(port, does)
        if code != 0:
            raise PowerError(f"cannot switch {port} {does}: the hook {port.profile} ended with {code}")

    def _run(self, port: Port, does: str) -> int:
        """What it prints is not kept: it may hold a secret."""
        file = self._folder / (port.profile or "")
        self._check(file, port)
        question = {"do": does, "switch": port.switch, "address": port.address, "port": port.port}
        try:
            return program.run([file], {}, json.dumps(question).encode(), self._limit_s)[0]
        except TookTooLong:
            words = f"the hook {port.profile} did not end in {self._limit_s:g} s"
            raise PowerError(f"cannot use {port}: {words}") from None
        except OSError as error:
            raise PowerError(f"cannot use {port}: cannot start the hook: {error.strerror}") from None

    def _check(self, file: Path, port: Port) -> None:
        """Whoever can write it can do what the controller may do."""
        try:
            found = [each.lstat() for each in (self._folder, file)]
        except OSError:
            raise PowerError(f"cannot use {port}: there is no hook {file}") from None
        if not stat.S_ISREG(found[1].st_mode):
            raise PowerError(f"cannot use {port}: the hook {file} is no plain file")
        for each, status in zip((self._folder, file), found, strict=True):
            if status.st_uid != self._owner or status.st_mode & 0o022:
                raise PowerError(f"cannot use {port}: {each} has to belong to root, and nobody else may write it")
