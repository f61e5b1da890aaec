"""Who is online: births, wills and farewells, late, doubled and in any order."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest

from infoscreen_reboot.contract.telemetry import PresenceReason, Status
from infoscreen_reboot.controller.presence import KEPT_SESSIONS, Presence, hear

NOW = datetime(2026, 4, 3, 12, 0, tzinfo=UTC)
CLIENT = "9b8d1856-ff34-4864-a726-12de072d0f77"


def status(reason: str, session: str, boot: str = "b1", at_s: float = 0) -> Status:
    return Status(PresenceReason(reason), CLIENT, session, boot, NOW + timedelta(seconds=at_s))


def after(*statuses: Status) -> Presence:
    presence = Presence()
    for each in statuses:
        presence = hear(presence, each, NOW)
    return presence


# A will is written when its session begins, so it has the time of its birth or a little less.
BORN, WILL = status("connected", "s1", at_s=1), status("connection_lost", "s1", at_s=1)
NEXT = status("connected", "s2", "b2", at_s=60)
FAREWELL = status("rebooting", "s1", at_s=30)


def test_a_birth_and_its_will() -> None:
    assert after(BORN).is_online
    lost = after(BORN, WILL)
    assert (lost.is_online, lost.reason, lost.boot_id) == (False, PresenceReason.CONNECTION_LOST, "b1")


def test_a_will_that_comes_after_the_next_birth_says_nothing() -> None:
    assert after(BORN, NEXT, WILL) == after(BORN, NEXT)
    assert after(BORN, FAREWELL, NEXT, WILL).is_online


def test_a_session_that_has_ended_never_comes_back() -> None:
    for again in (BORN, WILL, FAREWELL):
        assert after(BORN, FAREWELL, again) == after(BORN, FAREWELL)
        assert after(BORN, NEXT, again) == after(BORN, NEXT)


def test_the_will_before_its_birth() -> None:
    assert not after(WILL, BORN).is_online
    assert after(WILL, NEXT).is_online


def test_two_births_without_a_will_between() -> None:
    presence = after(BORN, NEXT)
    assert (presence.session_id, presence.boot_id, presence.ended) == ("s2", "b2", ("s1",))


def test_a_retained_status_that_comes_again_changes_nothing() -> None:
    once = after(BORN)
    assert hear(once, BORN, NOW + timedelta(hours=1)) == once


def test_the_will_of_a_session_whose_birth_was_lost() -> None:
    """A broker that forgets: the client was online anew, and is gone again."""
    newer = status("connection_lost", "s3", "b1", at_s=99)
    assert not after(BORN, newer).is_online
    older = status("connection_lost", "s0", "b1", at_s=0)
    assert after(BORN, older).is_online


def test_a_late_birth_of_the_same_boot_is_told_by_the_clients_clock() -> None:
    again = status("connected", "s9", "b1", at_s=20)
    for order in itertools.permutations((BORN, WILL, again)):
        presence = after(*order)
        assert (presence.is_online, presence.session_id) == (True, "s9"), order


@pytest.mark.parametrize("order", list(itertools.permutations((BORN, FAREWELL, WILL))))
def test_however_a_session_ends_and_in_whatever_order_we_hear_of_it_it_is_over(order: tuple[Status, ...]) -> None:
    presence = after(*order)
    assert not presence.is_online and "s1" in presence.ended


def test_what_is_remembered_is_bounded() -> None:
    presence = after(*(status("connected", f"s{number}", at_s=number) for number in range(50)))
    assert (len(presence.ended), presence.session_id) == (KEPT_SESSIONS, "s49")
