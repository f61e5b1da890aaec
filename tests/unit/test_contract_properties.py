"""Whatever a message says is read back the same, and whatever is done to a command is refused by its field."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.strategies import DataObject, SearchStrategy

from infoscreen_reboot.contract import ack, command, signature, telemetry, wire
from infoscreen_reboot.contract.ack import Ack, AckStatus, ErrorCode
from infoscreen_reboot.contract.command import Action, Command
from infoscreen_reboot.contract.signature import SignatureError
from infoscreen_reboot.contract.telemetry import (
    BootReport,
    BrokerConnection,
    Capabilities,
    Cause,
    Commands,
    Executor,
    FailureAlert,
    Health,
    LastCommand,
    Lockout,
    PresenceReason,
    StateDirectory,
    Status,
)
from infoscreen_reboot.contract.wire import ContractError
from tests.world import a_command

UUIDS = st.uuids().map(str)
ISSUED_AT = datetime(2026, 4, 3, tzinfo=UTC)
EARLY = st.timedeltas(timedelta(days=-9000), timedelta(0))
LATE = st.timedeltas(timedelta(days=1, milliseconds=1), timedelta(days=9000))
COUNTS = st.integers(0, 2**63)
# Longer than may be sent.
LONG = st.text(min_size=1).map(lambda text: text * 600)
LINES = st.builds(lambda lines, times: tuple(lines * times), st.lists(st.text() | LONG), st.sampled_from([1, 21]))
# The wire has milliseconds.
MOMENTS = st.datetimes(timezones=st.just(UTC)).map(lambda at: at.replace(microsecond=at.microsecond // 1000 * 1000))
COMMANDS = st.builds(
    lambda at, valid_ms, **members: Command(issued_at=at, expires_at=at + timedelta(milliseconds=valid_ms), **members),
    at=st.datetimes(max_value=datetime(9999, 12, 30), timezones=st.just(UTC)).map(lambda at: at.replace(microsecond=0)),
    valid_ms=st.integers(1, 24 * 3_600_000),
    command_id=UUIDS,
    client_uuid=UUIDS,
    action=st.sampled_from(Action),
    requested_by=st.none() | st.integers(-(10**30), 10**30) | st.text(min_size=1, max_size=128),
    reason=st.none() | st.text(max_size=500),
)
FAILURES = st.builds(
    Ack, UUIDS, UUIDS, st.just(AckStatus.FAILED), MOMENTS, UUIDS, st.sampled_from(ErrorCode),
    st.text(min_size=1, max_size=1000),
)  # fmt: skip
ACKS = FAILURES | st.builds(Ack, UUIDS, UUIDS, st.sampled_from([s for s in AckStatus if s != "failed"]), MOMENTS, UUIDS)
STATUSES = st.builds(Status, st.sampled_from(PresenceReason), UUIDS, UUIDS, UUIDS, MOMENTS)
HEALTHS = st.builds(
    Health,
    client_uuid=UUIDS, timestamp=MOMENTS, boot_id=UUIDS, uptime_s=COUNTS,
    agent_version=st.text(min_size=1, max_size=64), executor=st.sampled_from(Executor),
    broker_connection=st.builds(
        BrokerConnection, st.booleans(), COUNTS, st.none() | MOMENTS, st.none() | st.text() | LONG
    ),
    commands=st.builds(
        Commands, st.none() | UUIDS,
        st.none() | st.builds(LastCommand, UUIDS, st.sampled_from(AckStatus), MOMENTS), COUNTS, COUNTS, COUNTS,
        st.none() | COUNTS,
    ),
    lockout=st.none() | st.builds(Lockout, COUNTS, st.integers(1), st.integers(1), st.none() | MOMENTS),
    clock_synchronized=st.booleans(),
    capabilities=st.builds(
        lambda actions, armed, checks: Capabilities(tuple(actions), armed, tuple(checks), 2 if armed else 1),
        st.sets(st.sampled_from(Action)), st.booleans(), st.sets(st.text(min_size=1, max_size=256)),
    ),
    state=st.builds(StateDirectory, st.booleans(), st.booleans(), COUNTS),
)  # fmt: skip
BOOT_REPORTS = st.builds(
    lambda cause, id_, **rest: BootReport(cause=cause, command_id=id_ if cause == "command" else None, **rest),
    cause=st.sampled_from(Cause), id_=UUIDS, client_uuid=UUIDS, boot_id=UUIDS, previous_boot_id=st.none() | UUIDS,
    clean_shutdown=st.booleans(), boot_started_at=MOMENTS, reported_at=MOMENTS,
    previous_boot_last_seen_at=st.none() | MOMENTS,
)  # fmt: skip
ALERTS = st.builds(
    FailureAlert, UUIDS, st.text(min_size=1, max_size=256), st.text(min_size=1, max_size=64),
    st.none() | st.integers() | st.text(), COUNTS, UUIDS, MOMENTS, LINES,
)  # fmt: skip
# All that is ever sent: of each schema the values, and what makes bytes of them.
SENT: dict[str, tuple[SearchStrategy[Any], Callable[[Any], bytes]]] = {
    "command": (COMMANDS, command.encode),
    "ack": (ACKS, ack.encode),
    "status": (STATUSES, telemetry.encode_status),
    "health": (HEALTHS, telemetry.encode_health),
    "boot": (BOOT_REPORTS, telemetry.encode_boot_report),
    "service_failed": (ALERTS, telemetry.encode_failure_alert),
}
JSON: SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@pytest.mark.parametrize("name", SENT)
@given(data=st.data())
def test_whatever_is_sent_keeps_its_schema(name: str, data: DataObject) -> None:
    """Nothing that we encode is judged at run time."""
    values, encode = SENT[name]
    wire.check(name, json.loads(encode(data.draw(values))))


def test_each_schema_is_of_something_that_is_sent() -> None:
    schemas = Path(wire.__file__).with_name("schemas").iterdir()
    assert set(SENT) == {file.name.removesuffix(".schema.json") for file in schemas}


@given(COMMANDS)
@example(replace(a_command(), requested_by="\x01" * 128, reason="\x01" * 500))  # the longest there is
def test_a_command_is_read_back_the_same(sent: Command) -> None:
    assert command.parse(command.encode(sent)) == sent


@given(COMMANDS, EARLY | LATE)
def test_times_that_would_be_refused_are_not_sent(sent: Command, valid_for: timedelta) -> None:
    with pytest.raises(ContractError):
        command.encode(replace(sent, issued_at=ISSUED_AT, expires_at=ISSUED_AT + valid_for))


@given(ACKS)
@example(
    Ack(
        a_command().command_id,
        a_command().client_uuid,
        AckStatus.FAILED,
        a_command().issued_at,
        a_command().client_uuid,
        ErrorCode.BUSY,
        "\x01" * 1000,
    )
)
def test_an_ack_is_read_back_the_same(sent: Ack) -> None:  # fmt: skip
    assert ack.parse(ack.encode(sent)) == sent


def times(of: datetime | None) -> str | None:
    return None if of is None else wire.format_time(of)


@given(STATUSES)
def test_a_status_says_what_it_was_given(status: Status) -> None:
    assert json.loads(telemetry.encode_status(status)) == {
        "state": status.reason.state, "reason": status.reason, "client_uuid": status.client_uuid,
        "session_id": status.session_id, "boot_id": status.boot_id, "timestamp": times(status.timestamp),
    }  # fmt: skip


@given(HEALTHS)
def test_health_says_what_it_was_given(health: Health) -> None:
    said = json.loads(telemetry.encode_health(health))
    reason, last = health.broker_connection.last_disconnect_reason, health.commands.last
    assert said["broker_connection"]["last_disconnect_reason"] == (reason and reason[:500])
    assert said["broker_connection"]["last_disconnect_at"] == times(health.broker_connection.last_disconnect_at)
    assert said["commands"]["in_progress"] == health.commands.in_progress
    assert (said["commands"]["last"] or {}).get("timestamp") == times(last.timestamp if last else None)
    assert said["uptime_s"] == health.uptime_s
    assert tuple(said["capabilities"]["post_boot_checks"]) == health.capabilities.post_boot_checks


@given(BOOT_REPORTS)
def test_a_boot_report_says_what_it_was_given(report: BootReport) -> None:
    said = json.loads(telemetry.encode_boot_report(report))
    assert (said["cause"], said["command_id"]) == (report.cause, report.command_id)
    assert said["previous_boot_last_seen_at"] == times(report.previous_boot_last_seen_at)


@given(ALERTS)
def test_an_alert_says_what_it_was_given(alert: FailureAlert) -> None:
    said = json.loads(telemetry.encode_failure_alert(alert))
    assert said["last_log_lines"] == [line[:500] for line in alert.last_log_lines[-20:]]
    assert (said["exit_status"], said["unit"]) == (alert.exit_status, alert.unit)


# --- What may be done to a command: each way gives a payload, and the field by which it must be refused


Content = dict[str, Any]
PAYLOAD = ""
MEMBERS = tuple(wire.schema("command")["properties"])
REQUIRED = tuple(wire.schema("command")["required"])
NO_TEXT = JSON.filter(lambda value: not isinstance(value, str))
NO_ZONE = st.sampled_from(["", "z", " Z", "+01:00", "-00:00", "+0000", "Z\n", "ZZ", "+00:00Z"])
NO_MOMENT = st.sampled_from(
    ["2026-02-29T00:00:00Z", "2026-13-01T00:00:00Z", "2026-00-01T00:00:00Z", "2026-01-01T24:00:00Z",
     "2026-01-01T00:60:00Z", "2026-01-01T00:00:60Z", "0000-01-01T00:00:00Z"]
)  # fmt: skip


def dumps(content: Content) -> bytes:
    return json.dumps(content).encode()


def drop(content: Content, draw: Any) -> tuple[bytes, str]:
    field = draw(st.sampled_from(REQUIRED))
    return dumps({name: value for name, value in content.items() if name != field}), field


def add(content: Content, draw: Any) -> tuple[bytes, str]:
    name = draw(st.text(max_size=60).filter(lambda name: name not in MEMBERS))
    return dumps({**content, name: draw(JSON)}), ascii(name)[1:-1][:64] or "''"


def retype(content: Content, draw: Any) -> tuple[bytes, str]:
    field = draw(st.sampled_from(MEMBERS))
    wrong = NO_TEXT
    if field in ("requested_by", "reason"):
        wrong = wrong.filter(lambda value: value is not None)
    if field == "requested_by":  # in a JSON Schema 1.0 is an integer, too
        wrong = wrong.filter(lambda value: isinstance(value, bool) or not isinstance(value, int | float))
    return dumps({**content, field: draw(wrong)}), field


def relength(content: Content, draw: Any) -> tuple[bytes, str]:
    field, size = draw(st.sampled_from([("requested_by", 0), ("requested_by", 129), ("reason", 501), ("reason", 2000)]))
    return dumps({**content, "reason": None, field: "x" * size}), field


def reword(content: Content, draw: Any) -> tuple[bytes, str]:
    field = draw(st.sampled_from(["schema_version", "action"]))
    allowed = ("1.0", "reboot_host", "shutdown_host")
    return dumps({**content, field: draw(st.text().filter(lambda text: text not in allowed))}), field


def break_uuid(content: Content, draw: Any) -> tuple[bytes, str]:
    field = draw(st.sampled_from(["command_id", "client_uuid"]))
    good, at = content[field], draw(st.integers(0, 35))
    before, after = good[:at], good[at + 1 :]
    bad = (
        before + after,
        f"{before}g{after}",
        f"{before}٣{after}",
        f"{{{good}}}",
        f"{good}\n",
        good.replace("-", ""),
        "",
    )
    return dumps({**content, field: draw(st.sampled_from(bad))}), field


def break_time(content: Content, draw: Any) -> tuple[bytes, str]:
    field = draw(st.sampled_from(["issued_at", "expires_at"]))
    zoneless = content[field].removesuffix("Z")
    bad = NO_MOMENT | NO_ZONE.map(lambda zone: zoneless + zone) | st.text().filter(lambda text: "T" not in text)
    return dumps({**content, field: draw(bad | st.just(zoneless + "0" * 9 + "Z"))}), field


def misorder(content: Content, draw: Any) -> tuple[bytes, str]:
    issued_at = datetime.fromisoformat(content["issued_at"])
    return dumps({**content, "expires_at": wire.format_time(issued_at + draw(LATE | EARLY))}), "expires_at"


def double(content: Content, draw: Any) -> tuple[bytes, str]:
    member = json.dumps(draw(st.sampled_from(MEMBERS))).encode()
    return dumps(content)[:-1] + b", " + member + b": " + json.dumps(draw(JSON)).encode() + b"}", PAYLOAD


def no_number(content: Content, draw: Any) -> tuple[bytes, str]:
    word = draw(st.sampled_from([b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"1" * 400 + b".0"]))
    return dumps({**content, "requested_by": "@"}).replace(b'"@"', word), PAYLOAD


def no_utf_8(content: Content, draw: Any) -> tuple[bytes, str]:
    payload = wire.encode(content)
    at = draw(st.integers(0, len(payload)))
    return payload[:at] + b"\xff" + payload[at:], PAYLOAD


def no_unicode(content: Content, draw: Any) -> tuple[bytes, str]:
    return dumps({**content, "reason": draw(st.characters(min_codepoint=0xD800, max_codepoint=0xDFFF))}), PAYLOAD


def too_long(content: Content, draw: Any) -> tuple[bytes, str]:
    payload = dumps(content)
    return payload + b" " * (4097 - len(payload) + draw(st.integers(0, 100_000))), PAYLOAD


def cut(content: Content, draw: Any) -> tuple[bytes, str]:
    payload = dumps(content)
    return payload[: draw(st.integers(0, len(payload) - 1))], PAYLOAD


def append(content: Content, draw: Any) -> tuple[bytes, str]:
    return dumps(content) + draw(st.sampled_from([b"x", b"{}", b",", b"\0", dumps(content)])), PAYLOAD


def no_object(content: Content, draw: Any) -> tuple[bytes, str]:
    return dumps(draw(st.just([content]) | JSON.filter(lambda value: not isinstance(value, dict)))), PAYLOAD


@pytest.mark.parametrize(
    "mutate",
    [drop, add, retype, relength, reword, break_uuid, break_time, misorder, double, no_number, no_utf_8, no_unicode,
     too_long, cut, append, no_object],
)  # fmt: skip
@given(sent=COMMANDS, data=st.data())
def test_every_mutation_is_refused_with_a_code_and_a_field(
    mutate: Callable[[Content, Any], tuple[bytes, str]], sent: Command, data: DataObject
) -> None:
    # Nothing in the command is too much for the room that a mutation needs.
    small = replace(sent, reason="player", requested_by="operator:17", issued_at=ISSUED_AT)
    small = replace(small, expires_at=ISSUED_AT + timedelta(hours=1))
    payload, field = mutate(json.loads(command.encode(small)), data.draw)
    with pytest.raises(ContractError) as refused:
        command.parse(payload)
    assert refused.value.field == field
    if field == PAYLOAD:
        assert refused.value.rule.startswith("payload ")
    # The code: with an id it is invalid_schema, without it is counted as unreadable.
    assert refused.value.command_id == (None if field in (PAYLOAD, "command_id") else sent.command_id)


@given(st.binary(max_size=5000) | JSON.map(json.dumps).map(str.encode))
def test_the_answer_is_a_command_or_a_refusal_whatever_the_bytes(payload: bytes) -> None:
    with pytest.raises(ContractError):
        command.parse(payload)


WORDS = st.sampled_from([signature.KEY_ID_PROPERTY, signature.SIGNATURE_PROPERTY]) | st.text()


@given(st.lists(st.tuples(WORDS, st.text() | st.binary(min_size=64, max_size=64).map(b64encode).map(bytes.decode))))
def test_a_signature_is_read_or_refused_whatever_the_properties(properties: list[tuple[str, str]]) -> None:
    try:
        read = signature.read(properties)
    except SignatureError as refusal:
        assert str(refusal)
    else:
        assert set(signature.properties(read)) <= set(properties)
        assert len(read.value) == signature.SIGNATURE_BYTES and "/" not in read.key_id
