"""Payloads: what is read, what is refused, and in which words."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from infoscreen_reboot.contract import ack, command, telemetry, wire
from infoscreen_reboot.contract.ack import Ack, AckStatus, ErrorCode
from infoscreen_reboot.contract.command import Action
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
from infoscreen_reboot.contract.topics import Topics
from infoscreen_reboot.contract.wire import ContractError
from tests.world import CLIENT, COMMAND_ID, a_command

EXAMPLE: dict[str, Any] = {
    "schema_version": "1.0",
    "command_id": COMMAND_ID,
    "client_uuid": CLIENT,
    "action": "reboot_host",
    "issued_at": "2026-04-03T12:48:10Z",
    "expires_at": "2026-04-03T12:52:10Z",
    "requested_by": "operator:17",
    "reason": "player frozen",
}


def example(**changes: Any) -> bytes:
    return json.dumps({k: v for k, v in (EXAMPLE | changes).items() if v is not ...}).encode()


def test_the_example_of_the_contract_is_read() -> None:
    assert command.parse(example()) == a_command()


def test_what_is_encoded_is_read_back_the_same() -> None:
    for change in (
        {},
        {"requested_by": None, "reason": None},
        {"requested_by": 17},
        {"action": Action.SHUTDOWN_HOST},
    ):
        assert command.parse(command.encode(a_command(**change))) == a_command(**change)


def test_requested_by_and_reason_may_be_left_out() -> None:
    read = command.parse(example(requested_by=..., reason=...))
    assert (read.requested_by, read.reason) == (None, None)


def test_uuids_are_read_in_either_case_and_kept_in_lower_case() -> None:
    read = command.parse(example(command_id=COMMAND_ID.upper(), client_uuid=CLIENT.upper()))
    assert (read.command_id, read.client_uuid) == (COMMAND_ID, CLIENT)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"schema_version": "1.1"}, "schema_version"),
        ({"schema_version": ...}, "schema_version"),
        ({"client_uuid": "not-a-uuid"}, "client_uuid"),
        ({"client_uuid": CLIENT + "\n"}, "client_uuid"),
        ({"client_uuid": ...}, "client_uuid"),
        ({"action": "format_disk"}, "action"),
        ({"action": "REBOOT_HOST"}, "action"),
        ({"action": None}, "action"),
        ({"issued_at": "2026-04-03 12:48:10Z"}, "issued_at"),
        ({"issued_at": "2026-04-03T12:48:10"}, "issued_at"),
        ({"issued_at": "2026-04-03T12:48:10+02:00"}, "issued_at"),
        ({"issued_at": "2026-02-30T12:48:10Z"}, "issued_at"),
        ({"issued_at": "2026-04-03T12:48:10Z\n"}, "issued_at"),
        ({"issued_at": "٢٠٢٦-04-03T12:48:10Z"}, "issued_at"),
        ({"issued_at": 1775220490}, "issued_at"),
        ({"expires_at": "2026-04-03T12:48:10Z"}, "expires_at"),
        ({"expires_at": "2026-04-03T12:48:09Z"}, "expires_at"),
        ({"expires_at": "2026-04-04T12:48:10.001Z"}, "expires_at"),
        ({"requested_by": ""}, "requested_by"),
        ({"requested_by": "x" * 129}, "requested_by"),
        ({"requested_by": 1.5}, "requested_by"),
        ({"requested_by": True}, "requested_by"),
        ({"reason": "x" * 501}, "reason"),
        ({"reason": ["x"]}, "reason"),
        ({"force": True}, "force"),
        ({"two\nlines": 1}, r"two\nlines"),
    ],
)
def test_a_broken_rule_is_named_with_its_field_and_the_id_is_kept(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ContractError) as refused:
        command.parse(example(**changes))
    assert refused.value.field == field
    assert refused.value.command_id == COMMAND_ID
    assert refused.value.rule


@pytest.mark.parametrize(
    "time",
    [
        "2026-04-03T12:48:10Z",
        "2026-04-03T12:48:10.000Z",
        "2026-04-03T12:48:10+00:00",
        "2026-04-03T12:48:10.0Z",
    ],
)
def test_every_form_of_a_utc_time_is_read(time: str) -> None:
    assert command.parse(example(issued_at=time)) == a_command()


def test_nanoseconds_are_read_to_the_microsecond() -> None:
    moment = wire.parse_time("2026-04-03T12:48:10.123456789Z", "issued_at")
    assert moment == datetime(2026, 4, 3, 12, 48, 10, 123456, UTC)


def test_a_validity_of_exactly_24_hours_is_allowed() -> None:
    assert command.parse(example(expires_at="2026-04-04T12:48:10Z")).expires_at - a_command().issued_at == timedelta(
        days=1
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b"\xef\xbb\xbf" + example(),
        example() + b"x",
        example() + example(),
        example(command_id=...),
        example(command_id="not-a-uuid"),
        example(command_id=17),
        example(command_id=COMMAND_ID + "\n"),
        example()[:-1] + b', "action": "reboot_host"}',
        example()[:-1] + b', "x": {"a": 1, "a": 2}}',
        example()[:-1] + b', "x": NaN}',
        example()[:-1] + b', "x": -Infinity}',
        example()[:-1] + b', "x": 1e999}',
        example(reason=...)[:-1] + b', "reason": "\\ud800"}',
        b"[" * 4000,
        example(reason="x" * 4096),
        b"x" * 1024 * 1024,
    ],
)
def test_where_no_id_can_be_read_there_is_none(content: bytes) -> None:
    with pytest.raises(ContractError) as refused:
        command.parse(content)
    assert refused.value.command_id is None


@pytest.mark.parametrize("read", [command.parse, lambda payload: command.say_the_same(payload, payload.strip(b" "))])
def test_no_depth_of_nesting_is_more_than_a_refusal(read: Callable[[bytes], object]) -> None:
    for depth in range(50, 2000, 5):
        nested = b"[" * depth + b"]" * depth
        with contextlib.suppress(ContractError):
            read(b' {"command_id": "%s", "reason": %s}' % (COMMAND_ID.encode(), nested))


def test_4096_bytes_are_read_and_4097_are_not() -> None:
    padding = 4096 - len(example())
    assert command.parse(example() + b" " * padding) == a_command()
    with pytest.raises(ContractError, match="4097 bytes"):
        command.parse(example() + b" " * (padding + 1))


def test_payloads_say_the_same_whatever_their_form() -> None:
    reordered = json.dumps(dict(reversed(EXAMPLE.items())), indent=2).encode()
    assert command.say_the_same(reordered, example())
    assert not command.say_the_same(example(reason="another"), example())
    assert not command.say_the_same(example(requested_by=1), example(requested_by=True))


def an_ack(status: AckStatus, code: ErrorCode | None = None, message: str | None = None) -> Ack:
    time = datetime(2026, 4, 3, 12, 48, 11, 204000, UTC)
    return Ack(COMMAND_ID, CLIENT, status, time, "0f8fad5b-d9cb-469f-a165-70867728950e", code, message)


def test_the_example_ack_of_the_contract_is_what_is_sent() -> None:
    lockout = "3 reboots in the last 15 minutes; next possible at 2026-04-03T13:01:44Z"
    sent = json.loads(ack.encode(an_ack(AckStatus.FAILED, ErrorCode.LOCKOUT, lockout)))
    assert sent == {
        "schema_version": "1.0",
        "command_id": COMMAND_ID,
        "client_uuid": CLIENT,
        "status": "failed",
        "error_code": "lockout",
        "error_message": lockout,
        "timestamp": "2026-04-03T12:48:11.204Z",
        "boot_id": "0f8fad5b-d9cb-469f-a165-70867728950e",
    }


@pytest.mark.parametrize("status", AckStatus)
def test_an_ack_is_read_back_the_same(status: AckStatus) -> None:
    sent = an_ack(status, ErrorCode.BUSY, "wait") if status is AckStatus.FAILED else an_ack(status)
    assert ack.parse(ack.encode(sent)) == sent


@pytest.mark.parametrize(
    "wrong",
    [
        an_ack(AckStatus.FAILED),
        an_ack(AckStatus.FAILED, ErrorCode.BUSY),
        an_ack(AckStatus.FAILED, ErrorCode.BUSY, ""),
        an_ack(AckStatus.COMPLETED, ErrorCode.BUSY, "wait"),
        an_ack(AckStatus.ACCEPTED, None, "well"),
    ],
)
def test_an_error_stands_in_a_failed_ack_and_nowhere_else(wrong: Ack) -> None:
    with pytest.raises(ContractError, match="error_"):
        ack.parse(ack.encode(wrong))


def test_a_long_error_message_is_cut_and_still_an_ack() -> None:
    sent = ack.encode(an_ack(AckStatus.FAILED, ErrorCode.HELPER_FAILED, "ä" * 5000))
    assert ack.parse(sent).error_message == "ä" * 1000


def test_only_connected_is_online() -> None:
    for reason in PresenceReason:
        status = Status(reason, CLIENT, COMMAND_ID, COMMAND_ID, datetime(2026, 4, 3, tzinfo=UTC))
        expected = "online" if reason == "connected" else "offline"
        assert json.loads(telemetry.encode_status(status))["state"] == expected


def test_schemas_and_enums_use_the_same_words() -> None:
    def words(schema: str, field: str) -> set[str]:
        return {word for word in wire.schema(schema)["properties"][field]["enum"] if word is not None}

    assert words("command", "action") == set(Action)
    assert words("ack", "status") == set(AckStatus)
    assert words("ack", "error_code") == set(ErrorCode)
    assert words("status", "reason") == set(PresenceReason)


def test_the_topics_are_those_of_the_contract() -> None:
    topics = Topics(CLIENT)
    assert topics.commands == f"infoscreen/{CLIENT}/commands"
    assert topics.commands_ack == f"infoscreen/{CLIENT}/commands/ack"
    assert topics.transitional_command == f"infoscreen/{CLIENT}/command"
    assert topics.transitional_ack == f"infoscreen/{CLIENT}/command/ack"
    assert topics.status == f"infoscreen/{CLIENT}/status"
    assert topics.health == f"infoscreen/{CLIENT}/health"
    assert topics.boot == f"infoscreen/{CLIENT}/boot"
    assert topics.service_failed == f"infoscreen/{CLIENT}/service_failed"


NOW = datetime(2026, 4, 3, 12, 48, 11, 204_000, tzinfo=UTC)
HEALTH = Health(
    client_uuid=CLIENT,
    timestamp=NOW,
    boot_id=COMMAND_ID,
    uptime_s=4711,
    agent_version="1.0.0",
    executor=Executor.HELPER,
    broker_connection=BrokerConnection(True, 2, NOW, "the broker closed the connection"),
    commands=Commands(None, LastCommand(COMMAND_ID, AckStatus.COMPLETED, NOW), 0, 0, 0),
    lockout=Lockout(1, 3, 900, None),
    clock_synchronized=True,
    capabilities=Capabilities(tuple(Action), True, ("player.service",), 2),
    state=StateDirectory(writable=True, disk_full=False, set_aside=0),
)
REPORT = BootReport(CLIENT, COMMAND_ID, CLIENT, Cause.COMMAND, COMMAND_ID, True, NOW, NOW, NOW)
ALERT = FailureAlert(CLIENT, "player.service", "exit-code", 1, 5, COMMAND_ID, NOW, ("cannot go on",))


def test_health_is_written_as_the_contract_shows_it() -> None:
    text = (Path(__file__).parents[2] / "docs/contract.md").read_text("utf-8")
    shown = text.partition("## Health")[2].partition("```json")[2].partition("```")[0]
    written = json.loads(telemetry.encode_health(HEALTH))

    def shape(value: object) -> object:
        return {name: shape(part) for name, part in value.items()} if isinstance(value, dict) else None

    assert shape(written) == shape(json.loads(shown))
    assert written["timestamp"] == "2026-04-03T12:48:11.204Z"


def test_a_long_reason_is_cut_and_not_refused() -> None:
    wordy = replace(HEALTH, broker_connection=replace(HEALTH.broker_connection, last_disconnect_reason="x" * 501))
    assert json.loads(telemetry.encode_health(wordy))["broker_connection"]["last_disconnect_reason"] == "x" * 500


def test_a_tier_without_its_watchdog_breaks_the_schema() -> None:
    liar = replace(HEALTH, capabilities=replace(HEALTH.capabilities, hardware_watchdog=False))
    with pytest.raises(ContractError, match="recovery_tier"):
        wire.check("health", json.loads(telemetry.encode_health(liar)))


@pytest.mark.parametrize("cause", Cause)
def test_a_boot_report_names_a_command_only_where_one_was_the_cause(cause: Cause) -> None:
    command_id, wrong = (COMMAND_ID, None) if cause is Cause.COMMAND else (None, COMMAND_ID)
    report = replace(REPORT, cause=cause, command_id=command_id)
    wire.check("boot", json.loads(telemetry.encode_boot_report(report)))
    with pytest.raises(ContractError, match="command_id"):
        wire.check("boot", json.loads(telemetry.encode_boot_report(replace(report, command_id=wrong))))


def test_an_alert_keeps_the_last_lines_and_the_beginning_of_a_long_one() -> None:
    alert = replace(ALERT, last_log_lines=("first", *["x" * 600] * 20))
    written = json.loads(telemetry.encode_failure_alert(alert))
    assert written["last_log_lines"] == ["x" * 500] * 20
    assert (written["event"], written["exit_status"]) == ("service_failed", 1)
    assert json.loads(telemetry.encode_failure_alert(replace(ALERT, exit_status="KILL")))["exit_status"] == "KILL"
