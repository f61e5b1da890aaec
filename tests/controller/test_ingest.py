"""What clients publish is read as it was sent, or counted as rubbish; nothing that anybody sends raises."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from datetime import UTC
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from infoscreen_reboot.contract import ack, telemetry, wire
from infoscreen_reboot.contract.ack import Ack
from infoscreen_reboot.contract.telemetry import BootReport, Cause, FailureAlert, Health, PresenceReason, Status
from infoscreen_reboot.contract.topics import Leaf, Topics, from_client
from infoscreen_reboot.controller import ingest
from infoscreen_reboot.controller.ingest import Cleared, Heard, Rubbish
from tests.unit.test_schemas import NAMES, plain, spoilt

CLIENT = "9b8d1856-ff34-4864-a726-12de072d0f77"
OTHER = "00000000-0000-0000-0000-000000000001"
TOPICS = Topics(CLIENT)
UUIDS = st.uuids().map(str)
# The wire has milliseconds.
MOMENTS = st.datetimes(timezones=st.just(UTC)).map(lambda at: at.replace(microsecond=at.microsecond // 1000 * 1000))


@pytest.mark.parametrize("name", NAMES)
def test_the_fast_judge_says_what_jsonschema_says_but_for_members_that_nobody_knows(name: str) -> None:
    schema, chance = wire.schema(name), random.Random(name)
    judge, tolerant = Draft202012Validator(schema), Draft202012Validator(ingest.tolerant(schema))
    passed = refused = 0
    for _ in range(300):
        content = plain(schema, schema, chance)
        while not judge.is_valid(content):  # a condition may not be met
            content = plain(schema, schema, chance)
        for _ in range(6):
            # Python's `$` matches before a last newline, ECMAScript's does not. Whoever reads a time refuses it.
            if "\\n" in json.dumps(content):
                break
            try:
                ingest.check(name, content)
                is_taken = True
            except wire.ContractError:
                is_taken = False
            assert is_taken == tolerant.is_valid(content), content
            passed, refused = passed + is_taken, refused + (not is_taken)
            content = spoilt(content, chance)
    assert passed >= 300 and refused > 300, "neither may be rare"


LINES = st.lists(st.text(max_size=500), max_size=20).map(tuple)
SAID: dict[Leaf, st.SearchStrategy[Any]] = {
    Leaf.STATUS: st.builds(Status, client_uuid=st.just(CLIENT), session_id=UUIDS, boot_id=UUIDS, timestamp=MOMENTS),
    Leaf.BOOT: st.builds(
        BootReport,
        client_uuid=st.just(CLIENT),
        boot_id=UUIDS,
        previous_boot_id=st.none() | UUIDS,
        command_id=st.none() | UUIDS,
        boot_started_at=MOMENTS,
        reported_at=MOMENTS,
        previous_boot_last_seen_at=st.none() | MOMENTS,
    ).filter(lambda report: (report.cause is Cause.COMMAND) == (report.command_id is not None)),
    Leaf.SERVICE_FAILED: st.builds(
        FailureAlert,
        client_uuid=st.just(CLIENT),
        unit=st.text(min_size=1, max_size=256),
        result=st.text(min_size=1, max_size=64),
        exit_status=st.none() | st.integers(0, 255),
        restarts=st.integers(0, 1000),
        boot_id=UUIDS,
        timestamp=MOMENTS,
        last_log_lines=LINES,
    ),
}
ENCODERS = {
    Leaf.STATUS: telemetry.encode_status,
    Leaf.BOOT: telemetry.encode_boot_report,
    Leaf.SERVICE_FAILED: telemetry.encode_failure_alert,
}


@pytest.mark.parametrize("leaf", list(SAID))
@given(data=st.data())
def test_what_a_client_says_is_read_as_it_was_said(leaf: Leaf, data: st.DataObject) -> None:
    said = data.draw(SAID[leaf])
    payload = ENCODERS[leaf](said)  # type: ignore[operator]  # each takes what its leaf carries
    assert ingest.read(f"infoscreen/{CLIENT}/{leaf}", payload, False) == Heard(CLIENT, said, False)


@given(st.binary(max_size=300), st.sampled_from(Leaf))
def test_nothing_that_anybody_sends_raises(payload: bytes, leaf: Leaf) -> None:
    heard = ingest.read(f"infoscreen/{CLIENT}/{leaf}", payload, False)
    assert isinstance(heard, Rubbish) or (leaf is Leaf.SERVICE_FAILED and not payload)


HEALTH = {
    "schema_version": "1.0", "client_uuid": CLIENT, "timestamp": "2026-04-03T12:48:10Z", "boot_id": OTHER,
    "uptime_s": 1, "agent_version": "1.0.0", "executor": "helper",
    "broker_connection": {"broker_reachable": True, "reconnect_count": 0, "last_disconnect_at": None,
                          "last_disconnect_reason": None},
    "commands": {"in_progress": None, "last": None, "outbox": 0, "unreadable": 0, "conflicts": 0},
    "lockout": None, "clock_synchronized": True,
    "capabilities": {"actions": ["reboot_host"], "hardware_watchdog": False, "post_boot_checks": [],
                     "recovery_tier": 1},
}  # fmt: skip


def test_health_of_an_older_client_has_no_state_and_all_is_well() -> None:
    heard = ingest.read(TOPICS.health, json.dumps(HEALTH).encode(), False)
    assert isinstance(heard, Heard) and isinstance(heard.said, Health)
    assert heard.said.state.writable and not heard.said.state.disk_full
    assert telemetry.parse_health(telemetry.encode_health(heard.said)) == heard.said


def _with_more(content: Any) -> Any:
    """As a newer client may say it: another member in each object."""
    match content:
        case dict():
            return {name: _with_more(part) for name, part in content.items()} | {"nested": {"is": ["new"]}}
        case list():
            return [_with_more(part) for part in content]
    return content


def test_a_newer_client_that_says_more_is_heard() -> None:
    moment = wire.parse_time("2026-04-03T12:48:10Z", "t")
    last = {"command_id": OTHER, "status": "completed", "timestamp": "2026-04-03T12:48:10Z"}
    health = HEALTH | {
        "state": {"writable": True, "disk_full": False, "set_aside": 0},
        "lockout": {"used": 1, "limit": 3, "window_s": 900, "unlocks_at": None},
    }
    health["commands"] = dict(HEALTH["commands"], last=last)  # type: ignore[call-overload]  # the example is a plain dict
    said: dict[Leaf, bytes] = {
        Leaf.HEALTH: json.dumps(health).encode(),
        Leaf.ACK: ack.encode(Ack(OTHER, CLIENT, ack.AckStatus.ACCEPTED, moment, OTHER)),
        Leaf.STATUS: telemetry.encode_status(Status(PresenceReason.CONNECTED, CLIENT, OTHER, OTHER, moment)),
        Leaf.BOOT: telemetry.encode_boot_report(
            BootReport(CLIENT, OTHER, None, Cause.UNKNOWN, None, False, moment, moment, None)
        ),
        Leaf.SERVICE_FAILED: telemetry.encode_failure_alert(
            FailureAlert(CLIENT, "player.service", "exit-code", 1, 5, OTHER, moment, ("x",))
        ),
    }
    for leaf, payload in said.items():
        topic = f"infoscreen/{CLIENT}/{leaf}"
        more = json.dumps(_with_more(json.loads(payload))).encode()
        heard = ingest.read(topic, more, False)
        assert isinstance(heard, Heard), heard
        assert heard == ingest.read(topic, payload, False)


@pytest.mark.parametrize(
    ("topic", "payload", "why"),
    [
        ("infoscreen/x/status", b"{}", "no client"),
        (f"infoscreen/{CLIENT.upper()}/status", b"{}", "no client"),
        (f"infoscreen/{CLIENT}/commands", b"{}", "no client"),
        ("", b"{}", "no client"),
        (TOPICS.health, json.dumps(HEALTH | {"client_uuid": OTHER}).encode(), "another client"),
        (TOPICS.health, b"", "empty"),
        (TOPICS.health, b"x" * 200_000, "200000 bytes"),
        (TOPICS.health, b"{}", "breaks the rule"),
        (TOPICS.commands_ack, b'{"command_id": 1}', "command_id"),
        (TOPICS.health, json.dumps(HEALTH | {"uptime_s": "\x1b[2J"}).encode(), "uptime_s"),
    ],
)
def test_rubbish_is_told_by_its_topic_and_its_fault(topic: str, payload: bytes, why: str) -> None:
    found = ingest.read(topic, payload, False)
    assert isinstance(found, Rubbish) and why in found.why
    assert found.why.isprintable() and len(found.why) <= 300


def test_an_empty_alert_takes_it_back() -> None:
    assert ingest.read(TOPICS.service_failed, b"", True) == Heard(CLIENT, Cleared(CLIENT), True)


def test_each_leaf_is_subscribed_by_itself() -> None:
    assert len(ingest.TOPICS) == 6 and all("#" not in topic for topic in ingest.TOPICS)
    for leaf in Leaf:
        assert from_client(leaf.filter.replace("+", CLIENT)) == (CLIENT, leaf)


def test_an_ack_comes_by_both_topics() -> None:
    said = Ack(OTHER, CLIENT, ack.AckStatus.ACCEPTED, wire.parse_time("2026-04-03T12:48:10Z", "t"), OTHER)
    for topic in (TOPICS.commands_ack, TOPICS.transitional_ack):
        assert ingest.read(topic, ack.encode(said), False) == Heard(CLIENT, said, False)
    other = ack.encode(replace(said, client_uuid=OTHER))
    assert isinstance(ingest.read(TOPICS.commands_ack, other, False), Rubbish)
