"""The interfaces through which the agent uses host, clock, keys and broker, and the answers that it gets from them."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from enum import Enum
from typing import Protocol

from infoscreen_reboot.contract.ack import ErrorCode
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.mqtt.messages import Message

# How long a request may take: 10 s until there is a bus, 25 s until the bus has started the helper, four questions of
# the helper with 10 s for each answer, and a margin. After that the helper does nothing more.
HELPER_S = 80.0


class Departure(Enum):
    """How the host goes down, as logind announced it.

    OTHER: no command of ours leads to it (a restart of user space, a halt). UNKNOWN: logind did not name it; only from
    systemd 255 on it does.
    """

    REBOOTING = "rebooting"
    SHUTTING_DOWN = "shutting down"
    OTHER = "other"
    UNKNOWN = "unknown"

    def fits(self, action: Action) -> bool:
        """Whether `action` may be the cause of this departure."""
        return self is Departure.UNKNOWN or self is _DEPARTURE_OF[action]


_DEPARTURE_OF = {Action.REBOOT_HOST: Departure.REBOOTING, Action.SHUTDOWN_HOST: Departure.SHUTTING_DOWN}


class Refusal(Exception):
    """The host will not go down; `code` and `message` say why."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class NoReply(Exception):
    """The helper may or may not have acted; the boot id or the deadline will tell.

    `is_over` says that the helper does nothing more; without it the helper may still be at work.
    """

    def __init__(self, message: str, is_over: bool = False) -> None:
        super().__init__(message)
        self.is_over = is_over


class Host(Protocol):
    """The machine; `host.SystemHost` is the real one."""

    async def request(self, action: Action, command_id: str) -> None:
        """Returns when the helper says yes. Raises Refusal or NoReply."""

    async def clock_is_synchronised(self) -> bool: ...

    async def uptime_s(self) -> float:
        """Seconds since the host's PID 1 started."""

    async def unit_state(self, name: str) -> str | None:
        """`active` or what else the unit is, in systemd's words; None if systemd cannot be asked."""

    async def active_for_s(self, name: str) -> float:
        """How long the unit has been active without a break; 0 if that is not known."""

    async def is_going_down(self) -> bool:
        """Whether systemd is stopping everything, even if logind has not announced it."""

    def delay_max_s(self) -> float:
        """How long logind lets other programs delay a shutdown that it has announced."""

    def release_delay(self) -> None: ...


class Clock(Protocol):
    """Three answers to "when": the id of this boot, seconds on its clock, and wall-clock time."""

    def boot_id(self) -> str: ...

    def boot_clock_s(self) -> float: ...

    def now(self) -> datetime: ...


class Signatures(Protocol):
    """Checks who may send commands; `signing.KeyRing` is the real one."""

    def fault(self, topic: str, payload: bytes, properties: Sequence[tuple[str, str]]) -> str | None:
        """Why a message counts as not signed, in a sentence for its sender; None if its signature is good."""


class Post(Protocol):
    """The way to the broker; `mqtt.session.Session` is the real one."""

    @property
    def is_connected(self) -> bool: ...

    @property
    def has_room(self) -> bool:
        """Whether one more message may be under way now."""

    def topics_set_aside(self) -> Sequence[str]:
        """The topics on which the broker takes nothing just now."""

    def next_try_s(self) -> float | None:
        """In how many seconds one of these may be tried again; None if there are none."""

    def send(self, message: Message) -> asyncio.Future[bool]:
        """The message is out when this returns; the future is done on PUBACK.

        Its result is whether there was a PUBACK: a broker that knows QoS 0 only sends none. Either may raise
        NotDelivered; if it is Refused, the topic is set aside and the connection goes on.
        """

    async def wait_connected(self) -> None: ...

    async def leave(self, farewell: Message, timeout_s: float) -> None:
        """Say farewell and stay away until `come_back`."""

    def come_back(self) -> None:
        """Connect again, if we have left or are just leaving."""
