"""What a client's statuses say about its connection, whatever the order in which they come.

A broker may publish the will of an old session after the birth of the next one, and retained statuses come again at
each subscription. `session_id` tells them apart: a session that has ended never comes back.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from infoscreen_reboot.contract.telemetry import PresenceReason, Status

KEPT_SESSIONS = 8
# A boot id is never used twice. If one comes back so often after another one was heard, there are two hosts.
RETURNS_OF_TWO_HOSTS = 2


@dataclass(frozen=True, slots=True)
class Presence:
    """`at` is when we heard it; `told_at` is the client's own time. `ended` are the last sessions that are over."""

    is_online: bool = False
    reason: PresenceReason | None = None
    session_id: str | None = None
    boot_id: str | None = None
    at: datetime | None = None
    told_at: datetime | None = None
    ended: tuple[str, ...] = ()


def hear(presence: Presence, status: Status, at: datetime) -> Presence:
    """The presence after `status`; the same one if the status is old."""
    if status.session_id in presence.ended:
        return presence
    if status.reason.state == "online":
        return _born(presence, status, at)
    return _gone(presence, status, at)


def _born(presence: Presence, status: Status, at: datetime) -> Presence:
    if status.session_id == presence.session_id:
        return presence  # retained, or sent twice
    if _is_older(presence, status):
        return replace(presence, ended=_with(presence.ended, status.session_id))
    ended = presence.ended if presence.session_id is None else _with(presence.ended, presence.session_id)
    return _told(status, at, is_online=True, ended=ended)


def _gone(presence: Presence, status: Status, at: datetime) -> Presence:
    ended = _with(presence.ended, status.session_id)
    if status.session_id != presence.session_id and presence.is_online and not _is_newer(presence, status):
        return replace(presence, ended=ended)  # the late will of an old session, whose birth we never heard
    if status.session_id != presence.session_id and presence.session_id is not None:
        ended = _with(ended, presence.session_id)
    return _told(status, at, is_online=False, ended=ended)


def _is_older(presence: Presence, status: Status) -> bool:
    """Within one boot a client's clock tells; it may step at most forward, when it is synchronised."""
    is_same_boot = status.boot_id == presence.boot_id
    return is_same_boot and presence.told_at is not None and status.timestamp < presence.told_at


def _is_newer(presence: Presence, status: Status) -> bool:
    """A will is written when its session begins: one that is later than the birth we know is of a later session."""
    return presence.told_at is not None and status.timestamp > presence.told_at


def _told(status: Status, at: datetime, is_online: bool, ended: tuple[str, ...]) -> Presence:
    return Presence(is_online, status.reason, status.session_id, status.boot_id, at, status.timestamp, ended)


def _with(ended: tuple[str, ...], session_id: str) -> tuple[str, ...]:
    return (session_id, *(known for known in ended if known != session_id))[:KEPT_SESSIONS]
