"""What each command of the program works with."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from datetime import UTC, datetime

from infoscreen_reboot.controller.ctl.connection import Connection
from infoscreen_reboot.controller.ctl.screen import Screen


@dataclass(frozen=True, slots=True)
class Call:
    options: Namespace
    connection: Connection
    screen: Screen

    @property
    def now(self) -> datetime:
        return datetime.now(UTC)
