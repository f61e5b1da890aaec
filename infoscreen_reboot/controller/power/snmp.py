"""Switches a PoE port by SNMP: RFC 3621, with the commands of net-snmp and their settings in a file."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from infoscreen_reboot.controller.power import port as ports
from infoscreen_reboot.controller.power import program
from infoscreen_reboot.controller.power.port import Port, PowerError, Reading
from infoscreen_reboot.controller.power.program import TookTooLong

# In front of the name of a profile: so are the credentials of the controller's unit called.
PREFIX = "infoscreen-controller.snmp."
# pethPsePortAdminEnable and pethPsePortDetectionStatus. By number: then no MIB needs to be there.
_ADMIN_ENABLE, _DETECTION_STATUS = "1.3.6.1.2.1.105.1.1.1.3", "1.3.6.1.2.1.105.1.1.1.6"
_TRUE, _FALSE = "1", "2"
_DELIVERING = "3"
_STATUSES = {
    "1": "it is switched off",
    "2": "it looks for a device and finds none",
    _DELIVERING: "it delivers power",
    "4": "it has a fault",
    "5": "it is in a test",
    "6": "it has another fault",
}
_WAIT_S, _RETRIES = 1, 2
_LIMIT_S = 8.0
_OPTIONS = "-Oqvne", "-t", str(_WAIT_S), "-r", str(_RETRIES)
# What net-snmp prints is never passed on: it may quote the file with the secrets.
_WORDS = (
    (r"Timeout", "no answer from the switch: it cannot be reached, or the privacy key is wrong"),
    (r"Authentication failure|authenticationFailure", "the switch does not take the authentication key"),
    (r"Unknown user name", "the switch does not know this user"),
    (r"authorizationError|noAccess", "this user may not do that on the switch"),
    (r"notWritable|noSuchName|noCreation", "the switch has no such port, or this user may not switch it"),
    (r"Unknown host|not known|No address", "there is no host of that name"),
    (r"passphrase|securityName|security name|Unknown token|USM", "the SNMP profile has a fault: see snmp.conf(5)"),
)


class Snmp:
    """`profiles` is the folder of the profiles, `programs` that of the commands of net-snmp."""

    def __init__(self, profiles: Path | None, programs: Path = Path("/usr/bin")) -> None:
        self._profiles = profiles
        self._programs = programs

    def check(self, port: Port) -> None:
        """Whether the port could be read and switched, without asking the switch. Raises PowerError."""
        self._profile(port)
        for command in ("snmpget", "snmpset"):
            if not (self._programs / command).exists():
                raise PowerError(f"cannot use {port}: {command} is not there; apt-get install snmp")

    def read(self, port: Port) -> Reading:
        """Raises PowerError."""
        columns = f"{_ADMIN_ENABLE}.{port.index}", f"{_DETECTION_STATUS}.{port.index}"
        enabled, status = self._run(port, "snmpget", *columns)
        if enabled not in (_TRUE, _FALSE):
            raise PowerError(f"cannot read {port}: the switch has no such port, or shows it to nobody")
        words = _STATUSES.get(status, "the switch does not say whether it delivers power")
        return Reading(enabled == _TRUE, status == _DELIVERING, words)

    def switch(self, port: Port, is_on: bool) -> None:
        """Raises PowerError. That the switch takes the value does not say that it has an effect: read it."""
        self._run(port, "snmpset", f"{_ADMIN_ENABLE}.{port.index}", "i", _TRUE if is_on else _FALSE)

    def _run(self, port: Port, command: str, *words: str) -> tuple[str, str]:
        """The first two lines of the answer."""
        file = self._profile(port)
        does = "read" if command == "snmpget" else "switch"
        argv: list[str | Path] = [self._programs / command, *_OPTIONS, ports.target(port.address or ""), *words]
        try:
            with tempfile.TemporaryDirectory(prefix="snmp-") as name:
                Path(name, "snmp.conf").symlink_to(file)
                # In SNMP_PERSISTENT_DIR it keeps the keys that it has made of the passphrases.
                environment = {"MIBS": "", "SNMPCONFPATH": name, "SNMP_PERSISTENT_DIR": name, "HOME": name}
                code, out, err = program.run(argv, environment, b"", _LIMIT_S)
        except TookTooLong:
            raise PowerError(f"cannot {does} {port}: {command} did not end in {_LIMIT_S:g} s") from None
        except OSError as error:
            if not (self._programs / command).exists():
                raise PowerError(f"cannot {does} {port}: {command} is not there; apt-get install snmp") from None
            raise PowerError(f"cannot {does} {port}: cannot start {command}: {error.strerror}") from None
        if code != 0:
            raise PowerError(f"cannot {does} {port}: {_why(code, err, command)}")
        lines = [*out.splitlines(), "", ""]
        return lines[0].strip(), lines[1].strip()

    def _profile(self, port: Port) -> Path:
        if self._profiles is None or port.profile is None:
            raise PowerError(f"cannot use {port}: no SNMP profile was given to the controller")
        file = self._profiles / f"{PREFIX}{port.profile}"
        try:
            mode = file.stat().st_mode
        except OSError:
            wanted = f"/etc/credstore/{PREFIX}{port.profile}"
            raise PowerError(f"cannot use {port}: no SNMP profile {port.profile}; it is {wanted}") from None
        if mode & 0o027:
            raise PowerError(f"cannot use {port}: others can read or change the SNMP profile {port.profile}")
        return file.resolve()


def _why(code: int, err: str, command: str) -> str:
    words = next((words for pattern, words in _WORDS if re.search(pattern, err)), None)
    return words or f"{command} ended with {code}"
