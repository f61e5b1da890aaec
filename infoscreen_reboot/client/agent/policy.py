"""Decides whether a command may be executed, here and now."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from infoscreen_reboot.client.agent.lifecycle import Failed
from infoscreen_reboot.contract import wire
from infoscreen_reboot.contract.ack import ErrorCode
from infoscreen_reboot.contract.command import Action, Command

ALLOWED_SKEW = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the answer depends on.

    `busy_with` is the id of a command that is not yet terminal. `unfit` says why this client executes nothing at
    all, and what to do about it; None if it executes commands.
    """

    client_uuid: str
    offered: frozenset[Action]
    retained: bool
    now: datetime
    clock_is_trusted: bool
    busy_with: str | None
    unfit: str | None = None


@dataclass(frozen=True, slots=True)
class Yes:
    """Execution may start within `valid_for_s` seconds from now."""

    valid_for_s: float


@dataclass(frozen=True, slots=True)
class Hold:
    """Validity cannot be judged before the clock is synchronised."""


def decide(command: Command, facts: Facts) -> Yes | Hold | Failed:
    """If there are several faults, the answer names one that lasts: waiting or sending again would not cure it."""
    if facts.retained:
        return Failed(ErrorCode.RETAINED, "the message was retained; a retained command is never executed")
    if command.client_uuid != facts.client_uuid:
        return Failed(ErrorCode.WRONG_CLIENT, f"this client is {facts.client_uuid}")
    if facts.unfit is not None:
        return Failed(ErrorCode.UNSUPPORTED_ACTION, facts.unfit)
    if command.action not in facts.offered:
        return Failed(ErrorCode.UNSUPPORTED_ACTION, f"{command.action} is switched off on this client")
    if facts.clock_is_trusted:
        if facts.now >= command.expires_at:
            return Failed(
                ErrorCode.EXPIRED,
                f"expired at {wire.format_time(command.expires_at)}; it is {wire.format_time(facts.now)} here",
            )
        if command.issued_at - facts.now > ALLOWED_SKEW:
            return Failed(
                ErrorCode.NOT_YET_VALID,
                f"issued at {wire.format_time(command.issued_at)}; it is {wire.format_time(facts.now)} here",
            )
    if facts.busy_with is not None:
        return Failed(ErrorCode.BUSY, f"command {facts.busy_with} is not finished yet")
    if not facts.clock_is_trusted:
        return Hold()
    return Yes((command.expires_at - facts.now).total_seconds())
