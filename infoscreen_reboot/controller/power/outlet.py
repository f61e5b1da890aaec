"""Reads and switches a port by the backend that its inventory line names."""

from __future__ import annotations

import logging
import threading
from typing import Protocol

from infoscreen_reboot.controller.power.hook import Hook
from infoscreen_reboot.controller.power.port import Backend, Port, PowerError, Reading
from infoscreen_reboot.controller.power.snmp import Snmp

log = logging.getLogger(__name__)


class Outlet(Protocol):
    """What every backend can do, each within a bounded time. Both raise PowerError."""

    def read(self, port: Port) -> Reading:
        """Changes nothing."""

    def switch(self, port: Port, is_on: bool) -> None:
        """What came of it is only known when the port is read."""


class DryRun:
    """Switches nothing, and says so in the log. Each port begins on."""

    def __init__(self) -> None:
        self._off: set[str] = set()
        self._lock = threading.Lock()

    def read(self, port: Port) -> Reading:
        with self._lock:
            is_on = port.place not in self._off
        return Reading(is_on, is_on, "it only pretends")

    def switch(self, port: Port, is_on: bool) -> None:
        log.info("dry run: %s would be switched %s", port, "on" if is_on else "off")
        with self._lock:
            (self._off.discard if is_on else self._off.add)(port.place)


class Outlets:
    """All backends behind one."""

    def __init__(self, snmp: Outlet | None = None, hook: Outlet | None = None) -> None:
        self._backends: dict[Backend, Outlet] = {
            Backend.SNMP: snmp or Snmp(None),
            Backend.HOOK: hook or Hook(),
            Backend.DRY_RUN: DryRun(),
        }

    def read(self, port: Port) -> Reading:
        return self._backends[port.backend].read(port)

    def switch(self, port: Port, is_on: bool) -> None:
        self._backends[port.backend].switch(port, is_on)


def switch_on(outlet: Outlet, port: Port) -> Reading:
    """The port is on afterwards, by its own word. Raises PowerError if it is not."""
    outlet.switch(port, True)
    reading = outlet.read(port)
    if not reading.is_on:
        raise PowerError(f"{port} stays off: it takes the value, without effect")
    return reading
