"""Runs the server's own program, as root on the server, as its unit would: the same user, settings and credentials."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

PROGRAM = Path("/usr/libexec/infoscreen-reboot-controller/infoscreen-reboot-controller")
_UNIT = "/org/freedesktop/systemd1/unit/infoscreen_2dreboot_2dcontroller_2eservice"
_SYSTEMD = "org.freedesktop.systemd1"


class NotHere(Exception):
    """This is not the server, or not root; the sentence says which."""


def run(*words: str, is_captured: bool = False) -> subprocess.CompletedProcess[str]:
    """Raises NotHere."""
    if not PROGRAM.exists():
        raise NotHere("this works on the server only: the package infoscreen-reboot-controller is not installed here")
    if os.geteuid() != 0:
        raise NotHere("this reads the server's settings: run it as root")
    argv = [*_as_service(), "--", str(PROGRAM), *words]
    return subprocess.run(argv, check=False, text=True, stdout=subprocess.PIPE if is_captured else None)


def _as_service() -> list[str]:
    properties = [f"User={_property('User')}", f"StateDirectory={' '.join(_property('StateDirectory'))}"]
    properties += [f"EnvironmentFile={'-' * may_miss}{path}" for path, may_miss in _property("EnvironmentFiles")]
    properties += [f"LoadCredential={name}:{path}" for name, path in _property("LoadCredential")]
    properties += [f"LoadCredentialEncrypted={name}:{path}" for name, path in _property("LoadCredentialEncrypted")]
    words = [f"--setenv={assignment}" for assignment in _property("Environment")]
    words += [f"--property={line}" for line in ("StateDirectoryMode=0700", "UMask=0077", "LimitCORE=0", *properties)]
    return ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", *words]


def _property(name: str) -> Any:
    """Of the unit with its drop-ins, as systemd has read them."""
    asked = ["busctl", "--json=short", "get-property", _SYSTEMD, _UNIT, f"{_SYSTEMD}.Service", name]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotHere(f"systemd does not tell {name} of the service: {done.stderr.strip()}")
    return json.loads(done.stdout)["data"]
