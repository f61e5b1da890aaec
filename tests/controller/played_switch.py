"""A switch with PoE: net-snmp's own agent, with the table of RFC 3621 by a script that keeps its ports in a file.

Run as a program it is that script: the pass_persist protocol of snmpd.conf(5). What was switched survives SIGKILL, as
in a real switch.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TABLE = ".1.3.6.1.2.1.105.1.1.1"
ADMIN_ENABLE, DETECTION_STATUS = f"{TABLE}.3", f"{TABLE}.6"
USER, AUTH, PRIV = "poe", "auth-secret-of-the-switch", "priv-secret-of-the-switch"
PROFILE = f"defVersion 3\ndefSecurityName {USER}\ndefSecurityLevel authPriv\ndefAuthType SHA\ndefPrivType AES\n"
PROFILE += f"defAuthPassphrase {AUTH}\ndefPrivPassphrase {PRIV}\n"
ON, OFF = 1, 2
DELIVERING, SEARCHING, DISABLED = 3, 2, 1


class Switch:
    """`ports` are those that feed a device; `uplinks` are on, and nothing takes their power."""

    def __init__(self, folder: Path, ports: int = 3, uplinks: int = 1) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700)
        self.state = folder / "ports.json"
        self.program = Path("/usr/sbin/snmpd")
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        made = {f"1.{number}": {"is_on": True, "device": number <= ports} for number in range(1, ports + uplinks + 1)}
        _keep(self.state, {"ports": made, "is_stubborn": False})
        program = f"{sys.executable} {Path(__file__)}"
        (folder / "snmpd.conf").write_text(configuration(self.address, f"{program} {self.state}"))

    def start(self) -> None:
        environment = {"SNMP_PERSISTENT_DIR": str(self.folder / "agent"), "PATH": os.environ["PATH"], "MIBS": ""}
        self._process = subprocess.Popen(
            [self.program, "-f", "-Lo", "-C", "-c", self.folder / "snmpd.conf"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        probe = "snmpget", "-v3", "-u", "nobody", "-l", "noAuthNoPriv", "-t", "0.2", "-r", "0", self.address, TABLE
        ends_s = time.monotonic() + 30
        # It does not know this user, and says so: it is there.
        while b"Unknown user" not in subprocess.run(probe, env=environment, capture_output=True, check=False).stderr:
            assert self._process.poll() is None and time.monotonic() < ends_s, "snmpd does not start"
        # It starts its script with the first question, and answers nobody until that is there.
        keys = "-u", USER, "-l", "authPriv", "-a", "SHA", "-A", AUTH, "-x", "AES", "-X", PRIV
        first = "snmpget", "-v3", *keys, "-t", "1", "-r", "60", self.address, f"{ADMIN_ENABLE}.1.1"
        subprocess.run(first, env=environment, check=True, capture_output=True)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def is_on(self, index: str) -> bool:
        return bool(json.loads(self.state.read_text())["ports"][index]["is_on"])

    def set(self, index: str, **what: Any) -> None:
        content = json.loads(self.state.read_text())
        content["ports"][index] |= what
        _keep(self.state, content)

    def be_stubborn(self, is_stubborn: bool) -> None:
        """It takes every value, and does nothing."""
        content = json.loads(self.state.read_text())
        _keep(self.state, content | {"is_stubborn": is_stubborn})


def configuration(address: str, program: str) -> str:
    """For snmpd; `program` is the command line of the script."""
    lines = [
        f"agentaddress udp:{address}",
        f"createUser {USER} SHA {AUTH} AES {PRIV}",
        f"view r included {ADMIN_ENABLE}",
        f"view r included {DETECTION_STATUS}",
        f"view w included {ADMIN_ENABLE}",
        f"group g usm {USER}",
        'access g "" usm priv exact r w none',
        f"pass_persist {TABLE} {program}",
    ]
    return "\n".join(lines) + "\n"


def write_profile(folder: Path, name: str = "lab", content: str = PROFILE) -> Path:
    """A credential as systemd gives it to the service; returns its folder."""
    folder.mkdir(mode=0o700, exist_ok=True)
    file = folder / f"infoscreen-controller.snmp.{name}"
    file.touch(0o600)
    file.write_text(content)
    return folder


def _keep(file: Path, content: Any) -> None:
    new = file.with_suffix(f".{os.getpid()}")
    with new.open("w") as target:
        json.dump(content, target)
    new.rename(file)


# --- What snmpd asks


def _columns(content: Any) -> dict[tuple[int, ...], int]:
    found: dict[tuple[int, ...], int] = {}
    for index, each in content["ports"].items():
        place = tuple(map(int, index.split(".")))
        status = DISABLED if not each["is_on"] else DELIVERING if each["device"] else SEARCHING
        found[(3, *place)] = ON if each["is_on"] else OFF
        found[(6, *place)] = status
    return found


def _place(oid: str) -> tuple[int, ...]:
    return tuple(int(part) for part in oid.removeprefix(TABLE).split(".") if part)


def _answer(file: Path, asked: str, oid: str, value: str) -> str:
    content = json.loads(file.read_text())
    columns, place = _columns(content), _place(oid)
    if asked == "set":
        if place not in columns or place[0] != 3:
            return "not-writable"
        kind, _, number = value.partition(" ")
        if kind != "integer":
            return "wrong-type"
        if number not in (str(ON), str(OFF)):
            return "wrong-value"
        if not content["is_stubborn"]:
            content["ports"][f"{place[1]}.{place[2]}"]["is_on"] = number == str(ON)
            _keep(file, content)
        return "DONE"
    if asked == "getnext":
        place = min((each for each in columns if each > place), default=())
    if place not in columns:
        return "NONE"
    return f"{TABLE}.{'.'.join(map(str, place))}\ninteger\n{columns[place]}"


def _serve(file: Path) -> None:
    for line in sys.stdin:
        match line.strip():
            case "PING":
                print("PONG", flush=True)
            case "get" | "getnext" | "set" as asked:
                oid = sys.stdin.readline().strip()
                value = sys.stdin.readline().strip() if asked == "set" else ""
                print(_answer(file, asked, oid, value), flush=True)
            # Behind a value there is an empty line.


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
