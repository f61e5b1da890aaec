"""What the agent says unasked: the cause of a boot, the health, and when the helper is woken for it."""

import json
import uuid
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from infoscreen_reboot.client import disk
from infoscreen_reboot.client.agent import boot_report
from infoscreen_reboot.client.agent.boot_report import Boot
from infoscreen_reboot.client.agent.health import About, Facts, LockoutAge, health, should_ask_helper
from infoscreen_reboot.client.agent.lifecycle import Record, State
from infoscreen_reboot.client.agent.monitor import open_boot, recall_statistics
from infoscreen_reboot.client.agent.store import Store
from infoscreen_reboot.contract import ack, telemetry, wire
from infoscreen_reboot.contract.ack import Ack, AckStatus
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.contract.telemetry import BrokerConnection, Cause, Executor, LastCommand, Lockout, StateDirectory
from infoscreen_reboot.mqtt.session import Statistics
from tests.world import BOOTS, CLIENT, COMMAND_ID, OTHER_ID, START

SEEN = "2026-04-03T12:48:11.204Z"


def a_boot(shutdown_began: bool) -> Boot:
    return Boot(BOOTS[0], SEEN, shutdown_began, None, None, False, Cause.UNKNOWN, None, True)


@pytest.mark.parametrize(
    ("began", "executed", "was_down", "cause"),
    [
        (True, COMMAND_ID, False, Cause.COMMAND),
        (True, None, False, Cause.LOCAL),
        (True, None, True, Cause.LOCAL),
        (False, None, False, Cause.POWER_LOSS),
        (False, None, True, Cause.UNKNOWN),
        (False, COMMAND_ID, False, Cause.UNKNOWN),
    ],
)
def test_the_cause_is_what_was_written_down(began: bool, executed: str | None, was_down: bool, cause: Cause) -> None:
    boot = boot_report.follow(a_boot(began), BOOTS[1], START, executed, was_down)
    assert (boot.cause, boot.clean_shutdown, boot.previous_boot_id) == (cause, began, BOOTS[0])
    assert boot.command_id == (COMMAND_ID if cause is Cause.COMMAND else None)
    report = boot_report.report(boot, CLIENT, START, START)
    assert report.previous_boot_last_seen_at == datetime.fromisoformat(SEEN)
    wire.check("boot", json.loads(telemetry.encode_boot_report(report)))


def test_of_a_first_boot_nothing_is_known() -> None:
    boot = boot_report.follow(None, BOOTS[0], START, None, False)
    assert (boot.cause, boot.clean_shutdown, boot.previous_boot_id) == (Cause.UNKNOWN, False, None)
    report = boot_report.report(boot, CLIENT, START, START)
    wire.check("boot", json.loads(telemetry.encode_boot_report(report)))


class FixedClock:
    def __init__(self, boot_id: str) -> None:
        self._boot_id = boot_id

    def boot_id(self) -> str:
        return self._boot_id

    def boot_clock_s(self) -> float:
        return 0.0

    def now(self) -> datetime:
        return START


def test_an_agent_that_was_not_there_at_the_end_is_no_loss_of_power(tmp_path: Path) -> None:
    store, mark = Store(tmp_path / "store"), tmp_path / "not-running-in"

    def start(number: int) -> Cause:
        open_boot(store, FixedClock(BOOTS[number]), mark)
        found = store.last_boot()
        assert found is not None and not mark.exists()
        return found.cause

    assert start(0) is Cause.UNKNOWN
    mark.write_text(uuid.UUID(BOOTS[0]).hex + "\n")  # as systemd writes %b
    assert start(0) is Cause.UNKNOWN  # the same boot: restarted in it
    assert start(1) is Cause.POWER_LOSS
    mark.write_text(uuid.UUID(BOOTS[1]).hex + "\n")
    assert start(2) is Cause.UNKNOWN
    for says_nothing in ("rubbish", ""):  # nor can it on a full disk
        mark.write_text(says_nothing)
        assert start(3 if says_nothing else 4) is Cause.UNKNOWN
    assert start(5) is Cause.POWER_LOSS
    mark.mkdir()
    assert start(6) is Cause.UNKNOWN
    [aside] = disk.set_aside_files(tmp_path)
    assert aside.name.startswith("not-running-in.unusable-") and aside.is_dir()
    assert start(7) is Cause.POWER_LOSS
    store.close()


def test_statistics_are_recalled_as_they_were(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert recall_statistics(store) == Statistics()
    told = (
        '{"is_lost": true, "reconnect_count": 2, "last_disconnect_at": "2026-04-03T12:48:10.000Z",'
        ' "last_disconnect_reason": "gone"}'
    )
    store.remember("broker", told)
    assert recall_statistics(store) == Statistics(True, 2, START, "gone")
    store.remember("broker", told.replace("}", ', "speaks_3_1_1": true}'))
    assert recall_statistics(store) == Statistics(True, 2, START, "gone", speaks_3_1_1=True)
    store.close()


ABOUT = About(CLIENT, BOOTS[0], "1.0.0", Executor.MOCK, frozenset(Action), False, ("a.service",))


def facts(record: Record | None = None, armed: bool = False) -> Facts:
    return Facts(
        now=START,
        uptime_s=4711.9,
        broker=BrokerConnection(True, 2, START, "gone"),
        open_records=[record] if record is not None and not record.state.is_terminal else [],
        last=record,
        outbox=1,
        counters={"conflicts": 3},
        lockout=None,
        clock_is_synchronised=True,
        watchdog_is_armed=armed,
        state=StateDirectory(writable=True, disk_full=False, set_aside=0),
    )


@pytest.mark.parametrize(("armed", "tier"), [(True, 2), (False, 1)])
def test_tier_2_is_said_only_of_a_host_with_an_armed_watchdog(armed: bool, tier: int) -> None:
    told = health(ABOUT, facts(armed=armed))
    assert (told.capabilities.hardware_watchdog, told.capabilities.recovery_tier) == (armed, tier)
    wire.check("health", json.loads(telemetry.encode_health(told)))


def test_health_tells_what_is_open_what_was_last_and_what_was_counted() -> None:
    answer = Ack(COMMAND_ID, CLIENT, AckStatus.ACCEPTED, START, BOOTS[0])
    record = Record(COMMAND_ID, BOOTS[0], b"", state=State.ACCEPTED, ack=ack.encode(answer))
    told = health(ABOUT, facts(record))
    assert told.commands.in_progress == COMMAND_ID
    assert told.commands.last == LastCommand(COMMAND_ID, AckStatus.ACCEPTED, START)
    assert (told.commands.outbox, told.commands.conflicts, told.commands.unreadable) == (1, 3, 0)
    assert (told.uptime_s, told.executor) == (4711, Executor.MOCK)
    assert told.capabilities.post_boot_checks == ("a.service",)
    wire.check("health", json.loads(telemetry.encode_health(told)))


def test_bad_signatures_are_told_only_where_signatures_are_required() -> None:
    for requires, told in ((True, 2), (False, None)):
        about = replace(ABOUT, requires_signature=requires)
        sent = json.loads(telemetry.encode_health(health(about, replace(facts(), counters={"bad_signatures": 2}))))
        assert sent["commands"].get("bad_signatures") == told


NONE_USED, ONE_USED = Lockout(0, 3, 900, None), Lockout(1, 3, 900, None)
LOCKED = Lockout(3, 3, 900, START + timedelta(seconds=20))
DONE = (COMMAND_ID, "completed")


@pytest.mark.parametrize(
    ("known", "after_s", "execution", "asks"),
    [
        (None, 0, None, True),
        (LockoutAge(NONE_USED, 0, None), 1e6, None, False),
        (LockoutAge(NONE_USED, 0, None), 1, DONE, True),
        (LockoutAge(ONE_USED, 0, DONE), 299, DONE, False),
        (LockoutAge(ONE_USED, 0, DONE), 300, DONE, True),
        (LockoutAge(LOCKED, 0, DONE), 19, DONE, False),
        (LockoutAge(LOCKED, 0, DONE), 20, DONE, True),
        (LockoutAge(None, 0, DONE), 1e6, DONE, False),
        (LockoutAge(NONE_USED, 0, DONE), 1, (OTHER_ID, "executing"), False),
        (None, 0, (OTHER_ID, "executing"), False),
        (LockoutAge(None, 0, DONE), 1, (OTHER_ID, "failed"), True),
    ],
)
def test_the_helper_is_woken_only_when_its_answer_may_have_changed(
    known: LockoutAge | None, after_s: float, execution: tuple[str, str] | None, asks: bool
) -> None:
    assert should_ask_helper(known, after_s, START + timedelta(seconds=after_s), execution) is asks
