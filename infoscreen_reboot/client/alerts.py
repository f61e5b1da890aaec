"""Keeps the alerts that stand: one file for each unit that systemd gave up on."""

# The files are in /run: a broken or full disk does not touch them, and they end with the boot, as a unit's failed state
# does.

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infoscreen_reboot.contract import telemetry

AGENT_UNIT = "infoscreen-simclient.service"
_SUFFIX = ".alert"
# A file with another name must not be sent, nor may systemd be asked about it over D-Bus.
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]{1,256}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Alert:
    """`run` is systemd's id of the run of `unit` that failed; `payload` is what was or will be sent, byte for byte."""

    unit: str
    run: str
    payload: bytes


class Alerts:
    """The notifier writes alerts, the agent removes them; neither needs the other to be running."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Alerts":
        """The alerts in the directory that RuntimeDirectory= of the units names."""
        return cls(Path(environment.get("RUNTIME_DIRECTORY", "/run/infoscreen-reboot-alerts")))

    def write(self, alert: Alert) -> None:
        """Write the alert in place of an older one of the same unit. Raises OSError."""
        path = self._path(alert.unit)
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            draft.write_bytes(alert.run.encode() + b"\n" + alert.payload)
            draft.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            raise

    def read(self, unit: str) -> Alert | None:
        """None if there is no file for the unit, or if it holds no alert."""
        try:
            run, _, payload = self._path(unit).read_bytes().partition(b"\n")
        except OSError:
            return None
        return Alert(unit, run.decode(errors="replace"), payload) if telemetry.is_failure_alert(payload) else None

    def standing(self) -> list[Alert]:
        """All alerts, sorted by the names of their units."""
        units = sorted(path.name.removesuffix(_SUFFIX) for path in self._directory.glob(f"*{_SUFFIX}"))
        return [alert for unit in units if _UNIT.fullmatch(unit) and (alert := self.read(unit)) is not None]

    def forget(self, unit: str) -> None:
        """Remove the alert of a unit that is not failed any more. Raises OSError."""
        self._path(unit).unlink(missing_ok=True)

    def _path(self, unit: str) -> Path:
        # A unit's name has neither a slash nor a character that would need escaping.
        return self._directory / (unit + _SUFFIX)
