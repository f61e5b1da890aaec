"""The root helper on a private bus: each step that can say no does, and nothing happens twice or unrecorded."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import pwd
import re
import shutil
import tempfile
import time
import uuid
import xml.etree.ElementTree as ET
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from dbus_next.constants import MessageFlag, NameFlag
from dbus_next.message import Message
from dbus_next.signature import SignatureTree, Variant

from helper import infoscreen_reboot_helper as code
from tests.bus.conftest import BOOT_ID, HELPER, REBOOT, ROOT, SHUTDOWN, HelperCaller, HelperProcess, activate
from tests.bus.fakes import (
    FREE_FOR_ALL,
    Answer,
    Fail,
    FakeLogind,
    FakePolkit,
    FakeSystemd,
    Loop,
    PrivateBus,
    Silence,
    eventually,
)
from tests.virtual import VirtualLoop

ID = "5d1f8b4b-7e85-44fb-8f38-3f5d5da5e2e4"
OTHER_ID = "0c2a4d52-6a2c-4f5e-9d0e-6b0c0c1f3a77"
ERROR = "org.infoscreen.RebootHelper1.Error."
STANDARD = "org.freedesktop.DBus.Error."
NAME, PATH, INTERFACE = HELPER
PROPERTIES = "org.freedesktop.DBus.Properties"
APT = ("shutdown:sleep", "Unattended Upgrades", "installing packages", "block", 0, 311)


def new_id() -> str:
    return str(uuid.uuid4())


def entry(ago_s: float, **other: Any) -> dict[str, Any]:
    """A counted reboot in this boot, `ago_s` by every clock."""
    at = datetime.now(UTC) - timedelta(seconds=ago_s)
    monotonic_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ago_s
    mine = {"command_id": new_id(), "action": "reboot_host", "boot_id": BOOT_ID, "at": at.isoformat()}
    return {**mine, "monotonic_s": monotonic_s, "counted": True, **other}


# --- What it does when nothing is in the way


@pytest.mark.parametrize(
    ("member", "order", "wall"),
    [("Reboot", "RebootWithFlags", f"Reboot by remote command {ID}"),
     ("Shutdown", "PowerOffWithFlags", f"Shutdown by remote command {ID}")],
)  # fmt: skip
def test_an_allowed_command_reaches_logind_once_with_the_inhibitor_check_asked_for(
    helper: HelperProcess, agent: HelperCaller, logind: FakeLogind, member: str, order: str, wall: str
) -> None:
    helper.start()
    assert agent.ask(member, ID).error == ""
    assert logind.calls == [("ListInhibitors", []), ("SetWallMessage", [wall, True]), (order, [1])]


def test_the_history_is_on_disk_before_logind_is_called(
    helper: HelperProcess, agent: HelperCaller, logind: FakeLogind
) -> None:
    seen: list[list[dict[str, Any]]] = []

    def look(message: Message) -> None:
        if message.member != "ListInhibitors":
            seen.append(helper.history)

    logind.before_answer = look
    helper.start()
    assert agent.ask("Reboot", ID).error == ""
    assert [[e["command_id"] for e in entries] for entries in seen] == [[ID], [ID]]
    [recorded] = helper.history
    assert (recorded["action"], recorded["boot_id"], recorded["counted"]) == ("reboot_host", BOOT_ID, True)
    assert abs(datetime.fromisoformat(recorded["at"]) - datetime.now(UTC)) < timedelta(seconds=20)


def test_the_log_names_the_command_the_caller_and_the_outcome(helper: HelperProcess, agent: HelperCaller) -> None:
    helper.start()
    agent.ask("Reboot", ID)
    agent.ask("Reboot", ID)
    first, second = helper.log.splitlines()
    assert first.startswith(f"Reboot {ID} by uid ")
    assert first.endswith(": done")
    assert second.endswith(f": AlreadyExecuted: command {ID} was executed before")


def test_a_caller_that_wants_no_reply_is_obeyed_in_silence(
    helper: HelperProcess, agent: HelperCaller, logind: FakeLogind
) -> None:
    helper.start()
    flags = MessageFlag.NO_REPLY_EXPECTED
    agent.send(Message(NAME, PATH, INTERFACE, "Reboot", signature="s", body=[ID], flags=flags))
    eventually(lambda: logind.orders == ["RebootWithFlags"])


# --- The gate


def listed_members() -> list[tuple[str, str, str]]:
    return list(code.MEMBERS)


def good_arguments(member: str) -> list[str]:
    arguments: dict[str, list[str]] = {
        "Reboot": [ID], "Shutdown": [ID], "Preview": ["reboot_host"], "Get": [INTERFACE, "Lockout"],
    }  # fmt: skip
    return arguments[member]


@pytest.mark.parametrize(("interface", "member", "signature"), listed_members())
def test_a_stranger_is_refused_on_every_member_there_is(
    helper: HelperProcess, stranger: HelperCaller, logind: FakeLogind, interface: str, member: str, signature: str
) -> None:
    helper.start()
    reply = stranger.call(NAME, PATH, interface, member, signature, *good_arguments(member))
    assert reply.error == f"{ERROR}NotAuthorized"
    assert logind.calls == []
    assert helper.history == []


@pytest.mark.parametrize(("interface", "member", "signature"), listed_members())
def test_the_agent_is_answered_on_every_member_there_is(
    helper: HelperProcess, agent: HelperCaller, interface: str, member: str, signature: str
) -> None:
    helper.start()
    reply = agent.call(NAME, PATH, interface, member, signature, *good_arguments(member))
    assert reply.error == ""


@pytest.mark.parametrize(
    ("path", "interface", "member", "signature", "body"),
    [
        (PATH, "org.freedesktop.DBus.Peer", "Ping", "", ()),
        (PATH, "org.freedesktop.DBus.Peer", "GetMachineId", "", ()),
        (PATH, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects", "", ()),
        (PATH, "org.freedesktop.DBus.Introspectable", "Introspect", "", ()),
        (PATH, PROPERTIES, "GetAll", "s", (INTERFACE,)),
        (PATH, PROPERTIES, "Set", "ssv", (INTERFACE, "Lockout", Variant("u", 0))),
        (PATH, None, "Reboot", "s", (ID,)),
        ("/", INTERFACE, "Reboot", "s", (ID,)),
        (PATH + "/x", INTERFACE, "Reboot", "s", (ID,)),
        (PATH, INTERFACE + "1", "Reboot", "s", (ID,)),
        (PATH, INTERFACE, "reboot", "s", (ID,)),
        (PATH, INTERFACE, "do_reboot", "s", (ID,)),
        (PATH, INTERFACE, "Lockout", "", ()),
        (PATH, INTERFACE, "Reboot", "", ()),
        (PATH, INTERFACE, "Reboot", "ss", (ID, "now")),
        (PATH, INTERFACE, "Reboot", "u", (1,)),
        (PATH, INTERFACE, "Reboot", "as", ([ID],)),
        (PATH, INTERFACE, "Reboot", "v", (Variant("s", ID),)),
        (PATH, INTERFACE, "Reboot", "ay", (b"\xff" * 4096,)),
        (PATH, INTERFACE, "Preview", "(s)", (["reboot_host"],)),
        ("/", "org.freedesktop.DBus.Introspectable", "Introspect", "", ()),
    ],
)  # fmt: skip
def test_what_is_not_on_the_list_is_refused_even_to_the_agent(
    helper: HelperProcess, agent: HelperCaller, polkit: FakePolkit, logind: FakeLogind,
    path: str, interface: str | None, member: str, signature: str, body: tuple[Any, ...],
) -> None:  # fmt: skip
    helper.start()
    reply = agent.call(NAME, path, interface, member, signature, *body)
    assert reply.error == f"{STANDARD}UnknownMethod"
    assert "Traceback" not in reply.text
    assert polkit.calls == []
    assert logind.calls == []
    assert agent.ask("Reboot", ID).error == "", "it must have survived"


@pytest.mark.parametrize(
    ("interface", "member", "words"),
    [
        (INTERFACE, "Reboot", [""]),
        (INTERFACE, "Reboot", ["../../etc/passwd"]),
        (INTERFACE, "Reboot", [ID + "\n"]),
        (INTERFACE, "Reboot", [ID.replace("-", "")]),
        (INTERFACE, "Reboot", ["{" + ID + "}"]),
        (INTERFACE, "Shutdown", ["x" * 100_000]),
        (INTERFACE, "Shutdown", [ID + "x"]),
        (INTERFACE, "Shutdown", [ID.replace("5", "५")]),
        (INTERFACE, "Preview", ["reboot"]),
        (INTERFACE, "Preview", [""]),
        (PROPERTIES, "Get", [INTERFACE, "History"]),
        (PROPERTIES, "Get", ["org.freedesktop.DBus.Peer", "Lockout"]),
    ],
)  # fmt: skip
def test_an_argument_without_a_meaning_is_refused_before_polkit_is_asked(
    helper: HelperProcess, agent: HelperCaller, polkit: FakePolkit, interface: str, member: str, words: list[str]
) -> None:
    helper.start()
    reply = agent.call(NAME, PATH, interface, member, "s" * len(words), *words)
    assert reply.error == f"{ERROR}InvalidArgument"
    assert len(reply.text) <= 500
    assert polkit.calls == []


def test_polkit_is_asked_about_the_sender_without_interaction(
    helper: HelperProcess, agent: HelperCaller, polkit: FakePolkit
) -> None:
    helper.start()
    agent.ask("Reboot", ID)
    [[(kind, details), action, extra, flags, cancellation]] = polkit.asked("CheckAuthorization")
    assert (kind, {key: value.value for key, value in details.items()}) == ("system-bus-name", {"name": agent.name})
    assert (action, extra, flags, cancellation) == (REBOOT, {}, 0, "")


def test_reboot_and_shutdown_are_separate_permissions(
    helper: HelperProcess, agent: HelperCaller, polkit: FakePolkit, logind: FakeLogind
) -> None:
    polkit.deny(agent.name, SHUTDOWN)
    helper.start()
    refused = agent.ask("Shutdown", ID)
    assert refused.error == f"{ERROR}NotAuthorized"
    assert refused.text == f"polkit does not allow {SHUTDOWN}"
    assert agent.ask("Preview", "shutdown_host").body == (False, "not_authorized", refused.text)
    assert agent.ask("Reboot", ID).error == ""
    assert logind.orders == ["RebootWithFlags"]


@pytest.mark.parametrize(
    "behaviour",
    [
        Silence.HANG,
        Silence.VANISH,
        Fail("org.freedesktop.PolicyKit1.Error.Failed"),
        Fail(f"{STANDARD}NoReply"),
        Answer("(bba{ss})", ([False, True, {}],)),
    ],
)
def test_no_clear_yes_from_polkit_is_a_no(
    helper: HelperProcess, agent: HelperCaller, polkit: FakePolkit, logind: FakeLogind, behaviour: Any
) -> None:
    polkit.answers["CheckAuthorization"] = behaviour
    helper.impatient_with = "CheckAuthorization"
    helper.start()
    reply = agent.ask("Reboot", ID)
    assert reply.error == f"{ERROR}NotAuthorized"
    assert logind.calls == []
    assert helper.history == []


@pytest.mark.parametrize(
    "nonsense", [Answer(), Answer("s", ("yes",)), Answer("b", (True,)), Answer("(uba{ss})", ([1, True, {}],))]
)
def test_an_answer_of_polkit_in_another_shape_is_no_permission(
    helper: HelperProcess, agent: HelperCaller, polkit: FakePolkit, logind: FakeLogind, nonsense: Answer
) -> None:
    polkit.answers["CheckAuthorization"] = nonsense
    helper.start()
    reply = agent.ask("Reboot", ID)
    assert reply.error in (f"{ERROR}NotAuthorized", f"{ERROR}Failed")
    assert "Traceback" not in reply.text
    assert logind.calls == []


def test_without_polkit_on_the_bus_everything_is_refused(
    helper: HelperProcess, agent: HelperCaller, polkit: FakePolkit, logind: FakeLogind
) -> None:
    polkit.vanish()
    helper.start()
    assert agent.ask("Reboot", ID).error == f"{ERROR}NotAuthorized"
    assert agent.ask("Preview", "reboot_host").error == f"{ERROR}NotAuthorized"
    assert logind.calls == []


def test_polkit_may_take_its_time_but_not_more_than_ten_seconds(
    helper: HelperProcess, agent: HelperCaller, polkit: FakePolkit
) -> None:
    polkit.delay_s = 0.7
    helper.start()
    assert agent.ask("Reboot", ID).error == ""
    assert code.ANSWER_TIMEOUT_S <= 10


def test_someone_polkit_makes_wait_does_not_hold_up_the_others(
    helper: HelperProcess, agent: HelperCaller, stranger: HelperCaller, polkit: FakePolkit, logind: FakeLogind
) -> None:
    helper.start()
    polkit.answers["CheckAuthorization"] = Silence.HANG
    stranger.send(Message(NAME, PATH, INTERFACE, "Reboot", signature="s", body=[new_id()]))
    eventually(lambda: polkit.calls)
    del polkit.answers["CheckAuthorization"]
    assert agent.ask("Reboot", ID).error == ""
    assert logind.orders == ["RebootWithFlags"]


def test_more_calls_than_the_bus_takes_at_once_do_not_put_it_off_the_bus(
    helper: HelperProcess, agent: HelperCaller, logind: FakeLogind
) -> None:
    helper.start()
    flags = MessageFlag.NO_REPLY_EXPECTED
    for _ in range(4000):
        agent.send(Message(NAME, PATH, INTERFACE, "Preview", signature="s", body=["x" * 900], flags=flags))
    assert agent.ask("Reboot", ID).error == ""
    assert logind.orders == ["RebootWithFlags"]
    assert helper.process.poll() is None


def test_the_signatures_of_strangers_are_not_kept_for_ever() -> None:
    no_bus: Any = None  # nothing is answered here

    async def receive() -> None:
        receiver = code.Helper(no_bus, BOOT_ID, code.History(Path("/nowhere"), 3, 900))
        for number in range(400):
            digits = f"{number:09b}"
            signature, body = digits.replace("0", "s").replace("1", "u"), [("", 0)[int(digit)] for digit in digits]
            assert not receiver.on_message(Message.new_signal(PATH, INTERFACE, "Boo", signature, body))
        receiver.idle.cancel()

    asyncio.run(receive())
    assert len(SignatureTree._cache) <= 2


def test_more_calls_than_may_wait_are_dropped_and_later_ones_are_answered(
    helper: HelperProcess, agent: HelperCaller, polkit: FakePolkit, logind: FakeLogind
) -> None:
    polkit.delay_s = 0.5
    helper.start({"CALLS_WAITING": 40})
    flags = MessageFlag.NO_REPLY_EXPECTED
    for _ in range(500):
        agent.send(Message(NAME, PATH, INTERFACE, "Preview", signature="s", body=["reboot_host"], flags=flags))
    eventually(lambda: "40 calls wait: what comes now is dropped" in helper.log)
    polkit.delay_s = 0.0
    eventually(lambda: helper.log.count("Preview by uid") >= 40)

    def is_obeyed() -> bool:
        """Whether there is room again, nobody is told."""
        agent.send(Message(NAME, PATH, INTERFACE, "Reboot", signature="s", body=[ID], flags=flags))
        return logind.orders == ["RebootWithFlags"]

    eventually(is_obeyed)


def test_of_calls_that_mean_nothing_no_megabytes_are_kept_until_their_turn() -> None:
    no_bus: Any = None  # nothing is answered here
    calls = [Message(NAME, PATH, INTERFACE, "Reboot", signature="s", body=["x" * 1000]) for _ in range(200)]

    async def receive() -> None:
        receiver = code.Helper(no_bus, BOOT_ID, code.History(Path("/nowhere"), 3, 900))
        for call in calls:
            assert receiver.on_message(call)
        for task in receiver.work:
            task.cancel()

    asyncio.run(receive())
    assert [call.body for call in calls] == [[]] * 200


def test_descriptors_that_come_with_calls_signals_and_answers_are_closed(
    helper: HelperProcess, agent: HelperCaller, stranger: HelperCaller, logind: FakeLogind
) -> None:
    """dbus-broker sends some with its own answers."""
    with Path("/dev/null").open("rb") as nothing:
        given = nothing.fileno()
        logind.answers["ListInhibitors"] = Answer("a(ssssuu)", ([],), (given,))
        helper.start()
        held = Path(f"/proc/{helper.process.pid}/fd")
        assert agent.ask("Preview", "reboot_host").error == ""
        before = len(list(held.iterdir()))
        for _ in range(300):
            call = Message(NAME, PATH, INTERFACE, "Preview", signature="h", body=[0], unix_fds=[given] * 4)
            signal = Message.new_signal(PATH, INTERFACE, "Boo", "h", [0], unix_fds=[given] * 4)
            signal.destination = NAME
            stranger.send(call)
            stranger.send(signal)
            assert agent.ask("Preview", "reboot_host").body != ()
        assert len(list(held.iterdir())) == before
        del logind.answers["ListInhibitors"]
        assert agent.ask("Reboot", ID).error == ""


# --- Once only


def test_a_command_is_executed_once_whatever_its_case_and_action(
    helper: HelperProcess, agent: HelperCaller, logind: FakeLogind
) -> None:
    helper.start()
    assert agent.ask("Reboot", ID.upper()).error == ""
    for member, command_id in (("Reboot", ID), ("Reboot", ID.upper()), ("Shutdown", ID)):
        reply = agent.ask(member, command_id)
        assert (reply.error, reply.text) == (f"{ERROR}AlreadyExecuted", f"command {ID} was executed before")
    assert logind.orders == ["RebootWithFlags"]


def test_a_command_is_known_after_a_restart_of_the_helper(
    helper: HelperProcess, agent: HelperCaller, logind: FakeLogind
) -> None:
    helper.start()
    assert agent.ask("Shutdown", ID).error == ""
    assert helper.stop() == 0
    helper.start()
    assert agent.ask("Shutdown", ID).error == f"{ERROR}AlreadyExecuted"
    assert logind.orders == ["PowerOffWithFlags"]


def test_killed_between_record_and_answer_it_does_not_do_it_again(
    helper: HelperProcess, agent: HelperCaller, logind: FakeLogind
) -> None:
    logind.answers["RebootWithFlags"] = Silence.HANG
    logind.before_answer = lambda message: helper.process.kill() if logind.orders else None
    helper.start()
    assert agent.ask("Reboot", ID).error == f"{STANDARD}NoReply"
    helper.process.wait(10)
    logind.before_answer, logind.answers = lambda message: None, {}
    helper.start()
    assert agent.ask("Reboot", ID).error == f"{ERROR}AlreadyExecuted"
    assert agent.lockout()[0] == 1
    assert logind.orders == ["RebootWithFlags"]


def test_a_refused_command_may_be_asked_again_because_it_was_not_executed(
    helper: HelperProcess, agent: HelperCaller, logind: FakeLogind
) -> None:
    logind.inhibitors = [APT]
    helper.start()
    assert agent.ask("Reboot", ID).error == f"{ERROR}Inhibited"
    logind.inhibitors = []
    assert agent.ask("Reboot", ID).error == ""


def test_of_the_same_command_twice_at_once_one_is_executed(
    helper: HelperProcess, agent: HelperCaller, logind: FakeLogind
) -> None:
    logind.delay_s = 0.1
    helper.start()
    call = (*HELPER, "Reboot", "s", ID)
    replies = agent.together(*(agent.call_async(*call) for _ in range(5)))
    assert sorted(reply.error for reply in replies) == ["", *[f"{ERROR}AlreadyExecuted"] * 4]
    assert logind.orders == ["RebootWithFlags"]


def test_the_last_thousand_commands_and_all_that_count_are_kept(helper: HelperProcess, agent: HelperCaller) -> None:
    counted = [entry(600), entry(590)]
    helper.write_history(entry(5000), *counted, *(entry(60, counted=False) for _ in range(1996)))
    helper.start({"IDS_KEPT": 999})
    assert agent.ask("Reboot", ID).error == ""
    kept = [e["command_id"] for e in helper.history]
    assert kept[:2] == [e["command_id"] for e in counted]
    assert (len(kept), kept[-1]) == (1002, ID), "two that count, 999 that were there, and a new one"


def test_the_history_is_made_anew_where_it_has_grown_to_twice_what_is_kept(
    helper: HelperProcess, agent: HelperCaller
) -> None:
    helper.start({"IDS_KEPT": 3})
    ids = [new_id() for _ in range(7)]
    for number, command_id in enumerate(ids, 1):
        assert agent.ask("Shutdown", command_id).error == ""
        assert [e["command_id"] for e in helper.history] == (ids[:number] if number <= 6 else ids[4:])


# --- The lockout, as a function


def now(wall: str = "2026-04-03T12:00:00Z", monotonic_s: float = 5000, up_s: float = 4000) -> code.Now:
    return code.Now(datetime.fromisoformat(wall).timestamp(), "now", monotonic_s, up_s)


def past(at: str, boot_id: str = "now", monotonic_s: float = 0, counted: bool = True) -> code.Entry:
    return code.Entry(new_id(), "reboot_host", boot_id, at, monotonic_s, counted)


def test_three_reboots_in_fifteen_minutes_lock_until_the_oldest_is_fifteen_minutes_old() -> None:
    entries = [
        past("2026-04-03T11:46:00Z", monotonic_s=4160),
        past("2026-04-03T11:50:00Z", monotonic_s=4400),
        past("2026-04-03T11:59:59Z", monotonic_s=4999),
    ]
    assert code.lockout(entries[:2], now(), 3, 900) == (2, "")
    assert code.lockout(entries, now(), 3, 900) == (3, "2026-04-03T12:01:00Z")
    one_second_early = now("2026-04-03T12:00:59Z", monotonic_s=5059)
    assert code.lockout(entries, one_second_early, 3, 900) == (3, "2026-04-03T12:01:00Z")
    at_the_time = now("2026-04-03T12:01:00Z", monotonic_s=5060)
    assert code.lockout(entries, at_the_time, 3, 900) == (2, "")


def test_what_is_not_counted_does_not_lock() -> None:
    assert code.lockout([past("2026-04-03T12:00:00Z", counted=False)] * 5, now(), 3, 900) == (0, "")


def test_a_fraction_of_a_second_is_rounded_to_when_it_is_really_possible() -> None:
    assert code.lockout([past("2026-04-03T11:59:00.250Z", "earlier")], now(up_s=1), 1, 900) == (
        1, "2026-04-03T12:14:01Z")  # fmt: skip


def test_a_clock_that_was_set_back_does_not_lock_longer_within_one_boot() -> None:
    from_the_future = past("2027-01-01T00:00:00Z", monotonic_s=4200)
    assert code.lockout([from_the_future], now(), 1, 900) == (1, "2026-04-03T12:01:40Z")
    assert code.lockout([from_the_future], now(monotonic_s=5100), 1, 900) == (0, "")


def test_after_a_boot_with_the_clock_set_back_the_time_since_the_boot_counts() -> None:
    from_the_future = past("2027-01-01T00:00:00Z", "earlier", monotonic_s=9999)
    assert code.lockout([from_the_future], now(up_s=20), 1, 900) == (1, "2026-04-03T12:14:40Z")
    assert code.lockout([from_the_future], now(up_s=900), 1, 900) == (0, "")


def test_the_monotonic_clock_of_another_boot_says_nothing() -> None:
    long_ago_by_another_clock = past("2026-04-03T11:59:00Z", "earlier", monotonic_s=1)
    assert code.lockout([long_ago_by_another_clock], now(up_s=30), 1, 900) == (1, "2026-04-03T12:14:00Z")


def test_an_entry_from_an_earlier_boot_ages_by_the_wall_clock_too() -> None:
    assert code.lockout([past("2026-04-03T11:44:00Z", "earlier")], now(up_s=30), 1, 900) == (0, "")


def test_within_one_boot_a_clock_that_was_set_ahead_opens_nothing() -> None:
    entries = [past("2026-04-03T12:00:00Z", monotonic_s=5000 - ago) for ago in (20, 10, 0)]
    an_hour_later = now("2026-04-03T13:00:00Z", monotonic_s=5001)
    assert code.lockout(entries, an_hour_later, 3, 900) == (3, "2026-04-03T13:14:39Z")


def test_no_clock_makes_an_entry_younger_than_new() -> None:
    impossible = past("2030-01-01T00:00:00Z", monotonic_s=99999)
    assert code.lockout([impossible], now(), 1, 900) == (1, "2026-04-03T12:15:00Z")


def test_a_lowered_limit_locks_until_few_enough_are_left() -> None:
    entries = [past(f"2026-04-03T11:5{minute}:00Z", "earlier") for minute in (0, 2, 4)]
    assert code.lockout(entries, now(up_s=10), 2, 900) == (3, "2026-04-03T12:07:00Z")
    assert code.lockout(entries, now(up_s=10), 1, 900) == (3, "2026-04-03T12:09:00Z")


# --- The lockout, on the bus


def test_the_fourth_reboot_is_refused_with_the_time_of_the_next(
    helper: HelperProcess, agent: HelperCaller, logind: FakeLogind
) -> None:
    helper.start()
    for _ in range(3):
        assert agent.ask("Reboot", new_id()).error == ""
    used, limit, window_s, unlocks_at = agent.lockout()
    assert (used, limit, window_s) == (3, 3, 900)
    reply = agent.ask("Reboot", ID)
    assert reply.error == f"{ERROR}Lockout"
    assert reply.text == f"3 reboots in the last 15 minutes; next possible at {unlocks_at}"
    assert datetime.strptime(unlocks_at, "%Y-%m-%dT%H:%M:%SZ")
    assert agent.ask("Preview", "reboot_host").body == (False, "lockout", reply.text)
    assert logind.orders == ["RebootWithFlags"] * 3
    assert ID not in [e["command_id"] for e in helper.history]


def test_a_shutdown_is_neither_counted_nor_blocked(
    helper: HelperProcess, agent: HelperCaller, logind: FakeLogind
) -> None:
    helper.start(LOCKOUT_LIMIT="1")
    assert agent.ask("Shutdown", new_id()).error == ""
    assert agent.lockout() == (0, 1, 900, "")
    assert agent.ask("Reboot", new_id()).error == ""
    assert agent.ask("Preview", "shutdown_host").body == (True, "", "")
    assert agent.ask("Shutdown", new_id()).error == ""
    assert agent.ask("Reboot", new_id()).error == f"{ERROR}Lockout"


def test_the_lockout_opens_when_its_time_has_come(helper: HelperProcess, agent: HelperCaller) -> None:
    helper.start(LOCKOUT_LIMIT="1", LOCKOUT_WINDOW_S="99")
    assert agent.ask("Reboot", new_id()).error == ""
    locked = agent.ask("Reboot", ID)
    assert locked.error == f"{ERROR}Lockout"
    assert locked.text.startswith("1 reboot in the last 99 seconds; next possible at 2")
    # Not from the beginning: on a busy machine one call may take as long as that.
    helper.stop()
    helper.start(LOCKOUT_LIMIT="1", LOCKOUT_WINDOW_S="2")
    eventually(lambda: agent.lockout()[3] == "")
    assert agent.ask("Reboot", ID).error == ""


def test_entries_from_the_future_lock_and_are_released_by_the_kernels_clocks(
    helper: HelperProcess, agent: HelperCaller, systemd: FakeSystemd
) -> None:
    in_a_year = (datetime.now(UTC) + timedelta(days=365)).isoformat()
    boots: list[dict[str, str]] = [{}, {}, {"boot_id": new_id()}]
    helper.write_history(*(entry(10, at=in_a_year, **boot) for boot in boots))
    systemd.since_boot_s = 20
    helper.start()
    locked = agent.lockout()
    assert locked[0] == 3
    unlocks_in_s = (datetime.fromisoformat(locked[3]) - datetime.now(UTC)).total_seconds()
    assert 850 < unlocks_in_s < 885, "the one of an earlier boot is 20 s old, as PID 1 is"
    assert agent.ask("Reboot", ID).error == f"{ERROR}Lockout"
    helper.stop()
    systemd.since_boot_s = 901
    helper.start()
    assert agent.lockout()[0] == 2
    assert agent.ask("Reboot", ID).error == ""


def test_a_clock_that_was_set_ahead_since_does_not_open_the_lockout(
    helper: HelperProcess, agent: HelperCaller, logind: FakeLogind
) -> None:
    an_hour_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    helper.write_history(*(entry(10, at=an_hour_ago) for _ in range(3)))
    helper.start()
    assert agent.ask("Reboot", ID).error == f"{ERROR}Lockout"
    assert logind.orders == []


def test_a_reboot_of_this_host_still_counts_after_it(
    helper: HelperProcess, agent: HelperCaller, systemd: FakeSystemd
) -> None:
    helper.start(LOCKOUT_LIMIT="1")
    assert agent.ask("Reboot", new_id()).error == ""
    helper.stop()
    systemd.since_boot_s = 5
    helper.start(LOCKOUT_LIMIT="1", BOOT_ID="another")
    assert agent.ask("Reboot", ID).error == f"{ERROR}Lockout"
    helper.stop()
    systemd.since_boot_s = 900
    helper.start(LOCKOUT_LIMIT="1", BOOT_ID="another")
    assert agent.ask("Reboot", ID).error == ""


def test_of_two_at_once_with_one_left_exactly_one_reaches_logind(
    helper: HelperProcess, agent: HelperCaller, logind: FakeLogind
) -> None:
    helper.write_history(entry(60), entry(30))
    logind.delay_s = 0.1
    helper.start()
    replies = agent.together(*(agent.call_async(*HELPER, "Reboot", "s", new_id()) for _ in range(2)))
    assert sorted(reply.error for reply in replies) == ["", f"{ERROR}Lockout"]
    assert logind.orders == ["RebootWithFlags"]


@pytest.mark.parametrize("silence", [Silence.HANG, Silence.VANISH, Fail("org.freedesktop.systemd1.Gone")])
def test_without_knowing_when_the_host_came_up_nothing_is_done(
    helper: HelperProcess, systemd: FakeSystemd, silence: Any
) -> None:
    systemd.answers["Get"] = silence
    helper.impatient_with = "Get"
    helper.launch()
    assert helper.process.wait(15) == 1
    assert "cannot go on: org.freedesktop.systemd1" in helper.log


# --- A history that cannot be read


HEADER = b'{"version": 1}\n'


def line(**changes: object) -> bytes:
    return HEADER + json.dumps({**entry(1), **changes}).encode() + b"\n"


BROKEN: list[bytes] = [
    b"",
    b"\x00" * 512,
    b"{",
    b"[]\n",
    HEADER.strip(),
    b'{"version": 2}\n',
    b'{"version": 1}\r\n',
    HEADER + b"\n",
    HEADER + b"7\n",
    HEADER + b"{}\n",
    HEADER + b"[" * 100_000 + b"\n",
    HEADER + b"\x00" * 200 + line()[200:],
    line(at="yesterday"),
    line(at=None),
    line(monotonic_s="long"),
    line(monotonic_s=float("nan")),
    line(monotonic_s=float("-inf")),
    line(command_id=[]),
    line(extra=1),
    line() + b"{" + line(),
]


@pytest.mark.parametrize("content", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_history_is_set_aside_and_locks_once_for_one_window(
    helper: HelperProcess, agent: HelperCaller, logind: FakeLogind, content: bytes
) -> None:
    (helper.state / "history.jsonl").write_bytes(content)
    helper.start()
    first = agent.lockout()
    assert first[0] == 3
    assert 800 < (datetime.fromisoformat(first[3]) - datetime.now(UTC)).total_seconds() <= 901
    assert agent.ask("Reboot", ID).error == f"{ERROR}Lockout"
    assert (helper.state / "history.jsonl.corrupt").read_bytes() == content
    assert "cannot read" in helper.log
    helper.stop()
    helper.start()
    assert agent.lockout() == first, "a restart must not begin the window anew"
    assert logind.orders == []


def test_after_a_broken_history_the_lockout_opens_again(helper: HelperProcess, agent: HelperCaller) -> None:
    (helper.state / "history.jsonl").write_bytes(b"{")
    helper.start()
    assert agent.ask("Reboot", ID).error == f"{ERROR}Lockout"
    helper.stop()
    helper.start(LOCKOUT_WINDOW_S="2")
    eventually(lambda: agent.lockout()[0] == 0)
    assert agent.ask("Reboot", ID).error == ""


def test_of_a_line_whose_writing_the_power_cut_short_nothing_is_left(
    helper: HelperProcess, agent: HelperCaller, logind: FakeLogind
) -> None:
    begun = line(command_id=ID)[:-30]
    (helper.state / "history.jsonl").write_bytes(line() + begun.removeprefix(HEADER))
    helper.start()
    assert agent.lockout()[0] == 1
    assert agent.ask("Reboot", ID).error == "", "it was not flushed, so logind was not asked"
    assert agent.ask("Reboot", OTHER_ID).error == ""
    helper.kill()
    helper.start()
    assert agent.lockout()[0] == 3
    assert [e["command_id"] for e in helper.history][1:] == [ID, OTHER_ID]


def test_an_entry_is_appended_and_a_lost_file_made_anew(helper: HelperProcess, agent: HelperCaller) -> None:
    helper.write_history(entry(10))
    path = helper.state / "history.jsonl"
    helper.start()
    before, inode = path.read_bytes().rstrip(b"\0"), path.stat().st_ino
    assert agent.ask("Reboot", ID).error == ""
    assert path.stat().st_ino == inode
    assert path.read_bytes().startswith(before)
    path.unlink()
    assert agent.ask("Reboot", OTHER_ID).error == ""
    assert len(helper.history) == 3


def test_an_order_needs_no_room_on_the_disk(helper: HelperProcess, agent: HelperCaller, logind: FakeLogind) -> None:
    """It was reserved while there was some: nothing has to be made, and the file grows by no block."""
    helper.start(LOCKOUT_LIMIT="100")
    (helper.state / "history.new").mkdir()
    path = helper.state / "history.jsonl"
    before = path.stat()
    for _ in range(50):
        assert agent.ask("Reboot", new_id()).error == ""
    after = path.stat()
    assert (after.st_size, after.st_blocks, after.st_ino) == (before.st_size, before.st_blocks, before.st_ino)
    assert after.st_blocks * 512 >= after.st_size, "no holes"
    assert len(helper.history) == 50
    helper.kill()
    helper.start(LOCKOUT_LIMIT="100")
    assert agent.lockout()[0] == 50


def test_the_reserve_is_filled_up_again_at_a_start(helper: HelperProcess, agent: HelperCaller) -> None:
    path = helper.state / "history.jsonl"
    helper.write_history(*(entry(60) for _ in range(10)))
    size = path.stat().st_size
    helper.start()
    assert path.stat().st_size >= size + code.RESERVE
    assert agent.lockout()[0] == 10


def test_each_line_lies_in_one_sector(helper: HelperProcess, agent: HelperCaller) -> None:
    helper.write_history(entry(60))
    helper.start(LOCKOUT_LIMIT="100")
    for _ in range(9):
        agent.ask("Reboot", new_id())
    ends = [at for at, byte in enumerate((helper.state / "history.jsonl").read_bytes()) if byte == ord("\n")][1:]
    assert [(end + 1) % code.SLOT for end in ends] == [0] * 10
    assert [end - begin <= code.SLOT for begin, end in pairwise(ends)] == [True] * 9


@pytest.mark.parametrize("content", [b"{ %s", b"\0" * 700 + b'"%s"', line(at="yesterday").replace(b"%", b"") + b"%s\n"])
def test_an_id_that_stands_in_a_broken_history_is_still_executed_no_more(
    helper: HelperProcess, agent: HelperCaller, logind: FakeLogind, content: bytes
) -> None:
    (helper.state / "history.jsonl").write_bytes(content.replace(b"%s", ID.upper().encode()))
    for _ in ("when it was found", "after a restart"):
        helper.start(LOCKOUT_WINDOW_S="1")
        eventually(lambda: agent.lockout()[0] == 0)
        for member in ("Reboot", "Shutdown"):
            assert agent.ask(member, ID).error == f"{ERROR}AlreadyExecuted"
        helper.kill()
    assert logind.orders == []


def test_a_broken_history_on_a_disk_that_takes_nothing_locks_and_is_still_there(
    helper: HelperProcess, agent: HelperCaller, logind: FakeLogind
) -> None:
    (helper.state / "history.new").mkdir()
    (helper.state / "history.jsonl").write_bytes(b"{")
    helper.start()
    assert agent.ask("Reboot", ID).error == f"{ERROR}Lockout"
    assert agent.ask("Shutdown", ID).error == f"{ERROR}Failed"
    assert (helper.state / "history.jsonl").read_bytes() == b"{"
    assert logind.orders == []


# --- What earlier versions have left

FIXTURES = Path(__file__).parents[1] / "upgrades"


@pytest.mark.parametrize("name", ["history.json", "history.jsonl"])
def test_the_record_of_each_earlier_format_still_locks_and_remembers(
    helper: HelperProcess, agent: HelperCaller, logind: FakeLogind, systemd: FakeSystemd, name: str
) -> None:
    shutil.copy(FIXTURES / f"helper-{name}", helper.state / name)
    text = (FIXTURES / f"helper-{name}").read_text()
    known = list(dict.fromkeys(re.findall(r'"command_id": "([-0-9a-f]{36})"', text)))
    systemd.since_boot_s = 20
    assert len(known) == 4, "three reboots and a shutdown"
    for _ in ("taken over", "after a restart"):
        helper.start(BOOT_ID="the boot after it")
        assert agent.lockout()[0] == 3
        assert agent.ask("Reboot", ID).error == f"{ERROR}Lockout"
        for command_id in known:
            assert agent.ask("Shutdown", command_id).error == f"{ERROR}AlreadyExecuted"
        helper.kill()
    assert logind.orders == []


def test_a_record_of_the_earlier_format_that_is_broken_is_set_aside_and_locks(
    helper: HelperProcess, agent: HelperCaller
) -> None:
    (helper.state / "history.json").write_text('{"version": 1, "entries": [7]}')
    helper.start()
    assert agent.lockout()[0] == 3
    assert (helper.state / "history.json.corrupt").exists()
    assert not (helper.state / "history.json").exists()


# --- A state directory that does not outlive the boot


def test_where_the_record_does_not_outlive_a_reboot_nothing_is_executed(
    helper: HelperProcess, agent: HelperCaller, logind: FakeLogind
) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        helper.state = Path(directory)
        helper.lasts = False
        helper.start(STATE_DIRECTORY=directory)
        sentence = f"{directory} does not outlive a reboot: it lies in memory (tmpfs); see fleet.md"
        for member, action in (("Reboot", "reboot_host"), ("Shutdown", "shutdown_host")):
            reply = agent.ask(member, new_id())
            assert (reply.error, reply.text) == (f"{ERROR}Failed", sentence)
            assert agent.ask("Preview", action).body == (False, "helper_failed", sentence)
        assert helper.history == []
    assert logind.orders == []


def test_a_directory_of_which_it_cannot_tell_where_it_lies_counts_as_one_that_does_not_last(tmp_path: Path) -> None:
    assert code.does_not_last(tmp_path / "nothing").startswith(
        f"{tmp_path / 'nothing'} does not outlive a reboot: cannot tell where it lies: "
    )


def test_an_overlay_whose_upper_layer_is_a_disk_lasts(helper: HelperProcess, agent: HelperCaller) -> None:
    """This tree lies on one, in the workshop."""
    with tempfile.TemporaryDirectory(dir=ROOT) as directory:
        assert code.does_not_last(Path(directory)) == ""


def test_after_a_failed_write_the_history_is_made_anew(helper: HelperProcess, agent: HelperCaller) -> None:
    helper.write_history(entry(10))
    path = helper.state / "history.jsonl"
    helper.start(LOCKOUT_LIMIT="5")
    old = path.rename(path.with_suffix(".old"))
    path.mkdir()
    assert agent.ask("Reboot", ID).text == f"cannot write {path}: Is a directory"
    path.rmdir()
    old.rename(path)
    assert agent.ask("Reboot", ID).error == ""
    assert [e["command_id"] for e in helper.history][1:] == [ID]


def test_a_file_that_was_made_anew_and_perhaps_not_kept_is_written_on_where_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its directory could not be flushed. The new file is shorter than the old one: a gap in it would be rubbish."""

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    now = code.Now(time.time(), BOOT_ID, 1000.0, 1000.0)
    history = code.History(tmp_path, 3, 900)
    entries = [code.Entry(new_id(), "reboot_host", "old", now.at(-7200), 1.0, True) for _ in range(code.IDS_KEPT + 200)]
    with history.path.open("wb") as file:
        file.write(code.HEADER)
        code.write(file, *entries)
    monkeypatch.setattr(os, "fsync", fail)
    history.load(now)
    history.commit(code.Entry(ID, "reboot_host", BOOT_ID, now.at(), now.monotonic_s, True), now)
    reader = code.History(tmp_path, 3, 900)
    reader.load(now)
    assert ID in reader.entries and reader.lockout(now)[0] == 1
    assert not history.path.with_suffix(".jsonl.corrupt").exists()


def test_a_history_that_cannot_be_written_stops_the_command(
    helper: HelperProcess, agent: HelperCaller, logind: FakeLogind
) -> None:
    (helper.state / "history.new").mkdir()
    helper.start()
    assert "cannot reserve room" in helper.log
    reply = agent.ask("Reboot", ID)
    assert reply.error == f"{ERROR}Failed"
    assert reply.text == f"cannot write {helper.state / 'history.jsonl'}: Is a directory"
    assert logind.orders == []
    assert agent.lockout()[0] == 0
    (helper.state / "history.new").rmdir()
    assert agent.ask("Reboot", ID).error == "", "it was not executed, so its id is not used up"


# --- Inhibitors


def test_a_block_inhibitor_is_refused_naming_who_why_and_pid(
    helper: HelperProcess, agent: HelperCaller, logind: FakeLogind
) -> None:
    logind.inhibitors = [APT, ("shutdown", "backup", "copying", "block", 1000, 42)]
    helper.start()
    sentence = "blocked by Unattended Upgrades: installing packages (pid 311); backup: copying (pid 42)"
    for member in ("Reboot", "Shutdown"):
        reply = agent.ask(member, ID)
        assert (reply.error, reply.text) == (f"{ERROR}Inhibited", sentence)
    assert agent.ask("Preview", "shutdown_host").body == (False, "inhibited", sentence)
    assert logind.orders == []
    assert helper.history == []


@pytest.mark.parametrize(
    "lock",
    [
        ("shutdown", "infoscreen-simclient", "last words", "delay", 990, 99),
        ("shutdown", "desktop", "unsaved work", "block-weak", 1000, 99),
        ("sleep:idle", "player", "playing", "block", 1000, 99),
        ("handle-shutdown-key", "player", "no such thing yet", "block", 1000, 99),
        ("handle-power-key", "player", "a screen has no button", "block", 1000, 99),
    ],
)
def test_other_inhibitors_do_not_block(
    helper: HelperProcess, agent: HelperCaller, logind: FakeLogind, lock: tuple[str, str, str, str, int, int]
) -> None:
    logind.inhibitors = [lock]
    helper.start()
    assert agent.ask("Reboot", ID).error == ""


def test_an_inhibitors_words_become_one_short_line(
    helper: HelperProcess, agent: HelperCaller, logind: FakeLogind
) -> None:
    logind.inhibitors = [("shutdown", "a\nb\x1b[2J", "y" * 10_000, "block", 0, 1)]
    helper.start()
    reply = agent.ask("Reboot", ID)
    assert reply.text.startswith("blocked by a b [2J: yyy")
    assert len(reply.text) == 500


@pytest.mark.parametrize("behaviour", [Silence.HANG, Silence.VANISH, Fail("org.freedesktop.login1.Odd"), Answer()])
def test_without_the_list_of_inhibitors_nothing_is_done(
    helper: HelperProcess, agent: HelperCaller, logind: FakeLogind, behaviour: Any
) -> None:
    logind.answers["ListInhibitors"] = behaviour
    helper.impatient_with = "ListInhibitors"
    helper.start()
    assert agent.ask("Reboot", ID).error == f"{ERROR}Failed"
    assert logind.orders == []
    assert helper.history == []


# --- logind's answer


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (f"{STANDARD}AccessDenied", "Inhibited"),
        ("org.freedesktop.login1.BlockedByInhibitorLock", "Inhibited"),
        ("org.freedesktop.login1.OperationInProgress", "Failed"),
        (f"{STANDARD}InvalidArgs", "Failed"),
    ],
)
def test_logind_says_no_the_reboot_is_not_counted_but_its_id_is_used_up(
    helper: HelperProcess, agent: HelperCaller, logind: FakeLogind, error: str, ours: str
) -> None:
    logind.answers["RebootWithFlags"] = Fail(error, "Something is in the way")
    helper.start()
    reply = agent.ask("Reboot", ID)
    assert reply.error == f"{ERROR}{ours}"
    assert reply.text == "org.freedesktop.login1 answered: Something is in the way"
    assert agent.lockout()[0] == 0
    assert [(e["command_id"], e["counted"]) for e in helper.history] == [(ID, False)]
    assert logind.asked("SetWallMessage")[-1] == ["", True], "nobody else's reboot is to be announced as ours"
    assert agent.ask("Reboot", ID).error == f"{ERROR}AlreadyExecuted"
    assert logind.orders == ["RebootWithFlags"]


@pytest.mark.parametrize("silence", [Silence.HANG, Silence.VANISH, Fail(f"{STANDARD}NoReply")])
def test_logind_says_nothing_the_outcome_is_unknown_and_the_reboot_counts(
    helper: HelperProcess, agent: HelperCaller, logind: FakeLogind, silence: Any
) -> None:
    logind.answers["RebootWithFlags"] = silence
    helper.impatient_with = "RebootWithFlags"
    helper.start()
    assert agent.ask("Reboot", ID).error == f"{STANDARD}NoReply"
    assert agent.lockout()[0] == 1
    assert [(e["command_id"], e["counted"]) for e in helper.history] == [(ID, True)]


def test_without_logind_it_failed_and_was_not_counted(
    helper: HelperProcess, agent: HelperCaller, logind: FakeLogind
) -> None:
    logind.vanish()
    helper.start()
    reply = agent.ask("Reboot", ID)
    assert reply.error == f"{ERROR}Failed"
    assert agent.lockout()[0] == 0


@pytest.mark.parametrize("behaviour", [Silence.HANG, Fail(f"{STANDARD}AccessDenied")])
def test_a_wall_message_that_cannot_be_set_stops_nothing(
    helper: HelperProcess, agent: HelperCaller, logind: FakeLogind, behaviour: Any
) -> None:
    logind.answers["SetWallMessage"] = behaviour
    helper.start()
    assert agent.ask("Reboot", ID).error == ""
    assert logind.orders == ["RebootWithFlags"]


# --- Preview


def test_preview_changes_nothing(helper: HelperProcess, agent: HelperCaller, logind: FakeLogind) -> None:
    helper.start()
    for action in ("reboot_host", "shutdown_host"):
        assert agent.ask("Preview", action).body == (True, "", "")
    assert [member for member, _ in logind.calls] == ["ListInhibitors"] * 2
    assert helper.history == []


def test_preview_tells_that_logind_is_away(helper: HelperProcess, agent: HelperCaller, logind: FakeLogind) -> None:
    logind.vanish()
    helper.start()
    allowed, reason_code, reason = agent.ask("Preview", "reboot_host").body
    assert (allowed, reason_code) == (False, "helper_failed")
    assert "org.freedesktop.login1" in reason


# --- No traceback


def test_what_nobody_thought_of_is_answered_by_its_class_alone(
    helper: HelperProcess, agent: HelperCaller, logind: FakeLogind
) -> None:
    helper.start()
    logind.answers["ListInhibitors"] = Answer("as", (["no"],))
    reply = agent.ask("Reboot", ID)
    assert (reply.error, reply.text) == (f"{ERROR}Failed", "internal error: IndexError")
    assert "Traceback" in helper.log, "the log is where it belongs"
    assert logind.orders == []


# --- Start and end


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name in ("LOCKOUT_LIMIT", "LOCKOUT_WINDOW_S")
     for value in ("", "0", "-1", "three", "1.5", "1e3", " 3", "99999999", "9" * 5000)],
)  # fmt: skip
def test_a_bad_limit_is_refused_with_a_sentence(helper: HelperProcess, name: str, value: str) -> None:
    helper.launch(None, **{name: value})
    assert helper.process.wait(10) == 78, "EX_CONFIG: its unit does not try again"
    [line] = helper.log.splitlines()
    assert line.startswith(f"cannot start: {name} is '{value}', but must be a whole number from 1 to ")


@pytest.mark.parametrize("stream", ["1:2", "", "x"])
def test_it_logs_to_stderr_where_that_is_not_the_journal(helper: HelperProcess, stream: str) -> None:
    """As a child of a service whose own stderr was the journal."""
    helper.launch(JOURNAL_STREAM=stream, LOCKOUT_LIMIT="none")
    assert helper.process.wait(10) == 78
    assert "cannot start: LOCKOUT_LIMIT is 'none'" in helper.log


def test_the_bus_is_asked_for_in_run_unless_another_address_is_set(helper: HelperProcess) -> None:
    """D-Bus's own default is in /var/run, which may be a folder of its own."""
    helper.launch(DBUS_SYSTEM_BUS_ADDRESS="")
    assert helper.process.wait(10) == 1
    assert helper.log.startswith("cannot go on: there is no bus at unix:path=/run/dbus/system_bus_socket: ")


@pytest.mark.parametrize("missing", ["STATE_DIRECTORY", "BOOT_ID"])
def test_without_what_its_unit_gives_it_it_does_not_start(helper: HelperProcess, missing: str) -> None:
    helper.launch(None, **{missing: ""})
    assert helper.process.wait(10) == 78
    [line] = helper.log.splitlines()
    assert line.startswith("cannot start: infoscreen-reboot-helper.service sets STATE_DIRECTORY and BOOT_ID")


def test_a_second_helper_does_not_start(helper: HelperProcess, agent: HelperCaller) -> None:
    helper.start()
    first = helper.process
    helper.launch()
    assert helper.process.wait(10) == 1
    assert "someone else owns org.infoscreen.RebootHelper1" in helper.log
    assert agent.ask("Reboot", ID).error == ""
    first.terminate()
    assert first.wait(10) == 0


def test_without_a_bus_it_ends_with_a_sentence(helper: HelperProcess, tmp_path: Path) -> None:
    helper.launch(DBUS_SYSTEM_BUS_ADDRESS=f"unix:path={tmp_path / 'nothing'}")
    assert helper.process.wait(10) == 1
    assert helper.log.startswith(f"cannot go on: there is no bus at unix:path={tmp_path / 'nothing'}: ")
    assert "Traceback" not in helper.log


def test_a_bus_that_goes_away_ends_it_with_a_sentence(helper: HelperProcess, bus: PrivateBus) -> None:
    helper.start()
    bus.close()
    assert helper.process.wait(10) == 1
    assert helper.log == "cannot go on: the system bus is gone\n"


def test_idle_it_goes_away_without_a_trace(helper: HelperProcess, agent: HelperCaller) -> None:
    # On a busy machine it may be gone before anyone has asked it.
    helper.launch({"IDLE_S": 0.3})
    assert helper.process.wait(60) == 0
    assert helper.log == ""
    assert not agent.has_owner(NAME)
    assert code.IDLE_S == 30


def test_a_call_in_work_is_not_idleness(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a time of its own: whoever is asked is silent, and all that takes time is to wait for that."""
    monkeypatch.setattr(code, "IDLE_S", code.ANSWER_TIMEOUT_S / 2)
    told: list[tuple[float, str | None]] = []

    class SilentBus:
        async def call(self, question: Message) -> None:
            await asyncio.Event().wait()

        async def send(self, reply: Message) -> None:
            told.append((loop.time(), reply.error_name))

    async def receive() -> float:
        silent: Any = SilentBus()
        receiver = code.Helper(silent, BOOT_ID, code.History(Path("/nowhere"), 3, 900))
        call = Message(NAME, PATH, INTERFACE, "Reboot", signature="s", body=[ID], sender=":1.1", serial=1)
        assert receiver.on_message(call)
        await receiver.stopping.wait()
        return loop.time()

    with closing(VirtualLoop()) as loop:
        ended_at_s = loop.run_until_complete(receive())
    [(told_at_s, error)] = told
    assert error == f"{ERROR}NotAuthorized"
    assert told_at_s == pytest.approx(code.ANSWER_TIMEOUT_S, abs=0.01)
    assert ended_at_s == pytest.approx(1.5 * code.ANSWER_TIMEOUT_S, abs=0.01)


def test_sigterm_ends_it_in_order_after_the_call_in_work(
    helper: HelperProcess, agent: HelperCaller, polkit: FakePolkit, logind: FakeLogind
) -> None:
    polkit.delay_s = 0.5
    polkit.before_answer = lambda message: helper.process.terminate()
    helper.start()
    assert agent.ask("Reboot", ID).error == ""
    assert helper.process.wait(10) == 0
    assert logind.orders == ["RebootWithFlags"]


def test_no_call_is_lost_between_one_helper_and_the_next(
    loop: Loop, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("activated")
    activate(directory, {"IDLE_S": 0.001})
    environment = {"STATE_DIRECTORY": str(tmp_path), "BOOT_ID": BOOT_ID}
    with ExitStack() as stack:
        bus = stack.enter_context(closing(PrivateBus(directory, services=directory, environment=environment)))
        polkit = stack.enter_context(closing(FakePolkit(loop, bus.address)))
        for fake in (FakeLogind, FakeSystemd):
            stack.enter_context(closing(fake(loop, bus.address)))
        agent = stack.enter_context(closing(HelperCaller(loop, bus.address)))
        polkit.allow(agent.name, REBOOT)
        answers = [agent.ask("Preview", "reboot_host").body for _ in range(25)]
        assert answers == [(True, "", "")] * 25
        eventually(lambda: not agent.has_owner(NAME))


# --- The files around it


def policy_for(owner: str, caller: str) -> str:
    """Our D-Bus policy with other users in the place of root and of the agent's, after a bus where all is allowed."""
    ours = (ROOT / f"dbus/system.d/{NAME}.conf").read_text()
    ours = ours[ours.index("<busconfig>") + len("<busconfig>") : ours.index("</busconfig>")]
    ours = ours.replace('user="root"', f'user="{owner}"').replace('user="infoscreen-reboot"', f'user="{caller}"')
    return FREE_FOR_ALL + ours


@pytest.mark.parametrize(
    ("owner", "caller", "may_own", "may_call"),
    [("me", "bin", True, True), ("bin", "me", False, True), ("bin", "bin", False, False)],
)
def test_only_root_may_be_the_helper_and_only_root_and_the_agent_may_even_start_it(
    loop: Loop, tmp_path: Path, owner: str, caller: str, may_own: bool, may_call: bool
) -> None:
    me = pwd.getpwuid(os.getuid()).pw_name
    (tmp_path / f"{NAME}.service").write_text(f"[D-BUS Service]\nName={NAME}\nExec=/bin/false\n")
    policy = policy_for(*(me if user == "me" else user for user in (owner, caller)))
    with (
        closing(PrivateBus(tmp_path, policy, services=tmp_path)) as bus,
        closing(HelperCaller(loop, bus.address)) as someone,
    ):
        called = someone.ask("Reboot", ID)
        signal = Message.new_signal(PATH, INTERFACE, "Boo")
        signal.destination = NAME
        someone.send(signal)
        dbus = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
        request = someone.call(*dbus, "RequestName", "su", NAME, NameFlag.DO_NOT_QUEUE)
    assert request.error == ("" if may_own else f"{STANDARD}AccessDenied")
    assert called.error == f"{STANDARD}{'Spawn.ChildExited' if may_call else 'AccessDenied'}"
    assert (tmp_path / "bus.log").read_text().count("Activating service") == (1 if may_call else 0)


def test_no_signal_reaches_the_agent_but_loginds_and_the_buss_own(loop: Loop, tmp_path: Path) -> None:
    me = pwd.getpwuid(os.getuid()).pw_name
    heard: list[str] = []
    with (
        closing(PrivateBus(tmp_path, policy_for("bin", me))) as bus,
        closing(FakeLogind(loop, bus.address)) as logind,
        closing(HelperCaller(loop, bus.address)) as stranger,
        closing(HelperCaller(loop, bus.address)) as agent,
    ):
        agent.listen(lambda message: heard.append(message.member) if message.interface != NAME else None)
        for sender, member in ((stranger, "Forged"), (logind, "Announced")):
            signal = Message.new_signal("/org/freedesktop/login1", "org.freedesktop.login1.Manager", member)
            signal.destination = agent.name
            sender.send(signal)
        eventually(lambda: "Announced" in heard)
    assert "Forged" not in heard


def test_polkit_knows_both_permissions_and_grants_neither_by_default() -> None:
    policy = ET.parse(ROOT / "polkit/actions/org.infoscreen.reboothelper1.policy")
    defaults = {
        action.attrib["id"]: [element.text for element in action.findall("defaults/*")]
        for action in policy.getroot().findall("action")
    }
    assert defaults == {REBOOT: ["no"] * 3, SHUTDOWN: ["no"] * 3}


def test_bus_and_systemd_agree_on_who_the_helper_is() -> None:
    unit = (ROOT / "systemd/system/infoscreen-reboot-helper.service").read_text().splitlines()
    activation = (ROOT / f"dbus/system-services/{NAME}.service").read_text().splitlines()
    assert {"Type=dbus", f"BusName={NAME}", "Environment=BOOT_ID=%b"} <= set(unit)
    assert {f"Name={NAME}", "User=root", "SystemdService=infoscreen-reboot-helper.service"} <= set(activation)
    assert "[Install]" not in unit, "it is started by a call, never by a boot"
