"""What the agent needs of the world, and the words in which the world answers."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from enum import Enum
from typing import Protocol

from infoscreen_reboot.contract.ack import ErrorCode
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.mqtt.messages import Message

# How long a request may be under way: 10 s until there is a bus, 25 s until that has started the helper, four questions
# of the helper's own for each of which it waits 10 s, and a margin. Nothing that it does comes later.
HELPER_S = 80.0


class Departure(Enum):
    """What logind announced.

    OTHER is what no command of ours leads to (a restart of user space, a halt), UNKNOWN what logind does not name: it
    does so from systemd 255 on.
    """

    REBOOTING = "rebooting"
    SHUTTING_DOWN = "shutting down"
    OTHER = "other"
    UNKNOWN = "unknown"

    def fits(self, action: Action) -> bool:
        """Whether this may be what comes of `action`."""
        return self is Departure.UNKNOWN or self is _DEPARTURE_OF[action]


_DEPARTURE_OF = {Action.REBOOT_HOST: Departure.REBOOTING, Action.SHUTDOWN_HOST: Departure.SHUTTING_DOWN}


class Refusal(Exception):
    """The host will not go down, and why."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class NoReply(Exception):
    """The helper may or may not have acted; the boot id or the deadline will tell.

    `is_over` says that it does nothing more; else it may still be at work.
    """

    def __init__(self, message: str, is_over: bool = False) -> None:
        super().__init__(message)
        self.is_over = is_over


class Host(Protocol):
    """The machine: `host.SystemHost`."""

    async def request(self, action: Action, command_id: str) -> None:
        """Returns on the helper's yes. Raises Refusal or NoReply."""

    async def clock_is_synchronised(self) -> bool: ...

    async def uptime_s(self) -> float:
        """Seconds since the host's PID 1 started."""

    async def unit_state(self, name: str) -> str | None:
        """`active` or what else the unit is, in systemd's words; None where it cannot be asked."""

    async def active_for_s(self, name: str) -> float:
        """How long the unit has been active without a break; 0 where that is not known."""

    async def is_going_down(self) -> bool:
        """Whether systemd is stopping everything, announced by logind or not."""

    def delay_max_s(self) -> float:
        """How long logind lets others hold up a shutdown that it has announced."""

    def release_delay(self) -> None: ...


class Clock(Protocol):
    """The three times: the boot's name, seconds on its clock, and what the wall says."""

    def boot_id(self) -> str: ...

    def boot_clock_s(self) -> float: ...

    def now(self) -> datetime: ...


class Signatures(Protocol):
    """Who may command: `signing.KeyRing`."""

    def fault(self, topic: str, payload: bytes, properties: Sequence[tuple[str, str]]) -> str | None:
        """Why a message counts as not signed, in a sentence for its sender; None where its signature is good."""


class Post(Protocol):
    """The way to the broker: `mqtt.Session`."""

    def send(self, message: Message) -> asyncio.Future[None]:
        """Out when this returns, and done on the broker's PUBACK. Raises NotDelivered, now or then."""

    async def wait_connected(self) -> None: ...

    async def leave(self, farewell: Message, timeout_s: float) -> None:
        """Say farewell and stay away until `come_back`."""

    def come_back(self) -> None:
        """Connect again, if we have left or are just leaving."""
