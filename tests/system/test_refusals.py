"""What is not executed: the code the controller gets, and that nothing else happens."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from tests.system.hands import (
    DONE,
    RECORD,
    check_stays_up,
    drop_in,
    play,
    rebooted,
    recorded,
    refused,
    start,
    status,
    story,
    unit,
    wait_helper_started,
)
from tools.lab.machine import AGENT, HELPER, Machine, timestamp
from tools.lab.patience import slow

WINDOW_S, SOON_S = 900, 8


def test_what_breaks_the_contract_is_refused_by_code_or_counted_and_the_agent_stays_up(machine: Machine) -> None:
    now = datetime.now(UTC)
    old = {"issued_at": timestamp(now - timedelta(minutes=10)), "expires_at": timestamp(now - timedelta(minutes=6))}
    new = {"issued_at": timestamp(now + timedelta(minutes=5)), "expires_at": timestamp(now + timedelta(minutes=9))}
    expected = [
        (machine.command(**old), "expired"),
        (machine.command(**new), "not_yet_valid"),
        (machine.command() | {"client_uuid": str(uuid4())}, "wrong_client"),
        (machine.command("format_disk"), "invalid_schema"),
        (machine.command(force=True), "invalid_schema"),
        (machine.command(schema_version="2.0"), "invalid_schema"),
        (machine.command(expires_at=...), "invalid_schema"),
    ]
    for command, code in expected:
        assert refused(machine, command)[0] == code
        assert story(machine, command) == [code]
    good = machine.broker.on(machine.topic("commands"))[-1].payload
    acks = len(machine.acks())
    for junk in (b"{broken", b"\xff\xfe", b"x" * 100 * 1024, good[:-1] + b', "action": "reboot_host"}', b"[]"):
        machine.send(junk)
    # Deliveries are in order: this answer means that all of them were taken.
    assert refused(machine, machine.command(force=True))[0] == "invalid_schema"
    assert len(machine.acks()) == acks + 1
    assert status(machine)["unreadable"] == 5
    assert unit(machine, AGENT, "NRestarts") == "0"
    assert "Traceback" not in machine.journal(AGENT)


def test_a_retained_command_is_never_executed(parked: Machine) -> None:
    command = parked.command()
    parked.send(command, retain=True)
    parked.boot()
    parked.wait_booted()
    assert parked.wait_ack(command["command_id"], "failed")["error_code"] == "retained"
    check_stays_up(parked, 2)


def test_a_shutdown_that_is_switched_off_is_refused_and_a_reboot_works(parked: Machine) -> None:
    parked.configure(COMMAND_SHUTDOWN_ENABLED="no")
    start(parked)
    assert refused(parked, parked.command("shutdown_host"))[0] == "unsupported_action"
    rebooted(parked, parked.command())


def test_without_a_synchronised_clock_a_command_is_held_and_refused_in_the_end(parked: Machine) -> None:
    parked.set_clock_synchronised(now=False, at_boot=False)
    # Within that the other command has to be refused.
    timeout_s = slow(8)
    parked.configure(COMMAND_CLOCK_TIMEOUT_S=str(timeout_s))
    start(parked)
    command = parked.command()
    parked.send(command)
    assert refused(parked, parked.command())[0] == "busy"
    assert not parked.acks(command["command_id"])
    assert parked.wait_ack(command["command_id"], "failed", timeout_s + 60)["error_code"] == "clock_unsynchronized"
    assert story(parked, command) == ["clock_unsynchronized"]


def test_a_clock_that_is_synchronised_in_time_lets_the_held_command_run(parked: Machine) -> None:
    parked.set_clock_synchronised(now=False, at_boot=False)
    start(parked)
    command = parked.command()
    parked.send(command)
    check_stays_up(parked, 3)
    assert not parked.acks(command["command_id"])
    parked.set_clock_synchronised(now=True, at_boot=False)
    parked.follow_reboot()
    parked.wait_ack(command["command_id"], "completed")
    assert story(parked, command) == DONE


def test_a_site_without_a_time_source_can_do_without(parked: Machine) -> None:
    parked.set_clock_synchronised(now=False, at_boot=False)
    parked.configure(COMMAND_REQUIRE_SYNCED_CLOCK="no")
    start(parked)
    rebooted(parked, parked.command())


def test_without_timesyncd_the_word_of_timedated_counts(parked: Machine) -> None:
    parked.set_clock_synchronised(now=False, at_boot=False)
    timeout_s = slow(6)
    parked.configure(COMMAND_CLOCK_TIMEOUT_S=str(timeout_s))
    (parked.root / "etc/systemd/system/systemd-timedated.service").unlink()
    start(parked)
    # A container has its host's clock, so either answer may be the right one here.
    bus = "org.freedesktop.timedate1", "/org/freedesktop/timedate1", "org.freedesktop.timedate1", "NTPSynchronized"
    if parked.run("busctl", "get-property", *bus).strip() == "b true":
        rebooted(parked, parked.command())
    else:
        assert refused(parked, parked.command(), timeout_s + 60)[0] == "clock_unsynchronized"


def test_a_block_inhibitor_is_respected_and_named_and_gone_when_it_is_released(machine: Machine) -> None:
    blocker = "systemd-inhibit", "--what=shutdown", "--mode=block", "--who=apt of the operator", "--why=half an upgrade"
    machine.run("systemd-run", "-q", "--unit=blocker", *blocker, "sleep", "infinity")
    machine.run("sh", "-c", "until systemd-inhibit --list | grep -q 'half an upgrade'; do :; done", timeout_s=20)
    code, message = refused(machine, machine.command())
    assert code == "inhibited"
    assert "apt of the operator" in message and "half an upgrade" in message
    machine.run("systemctl", "stop", "blocker")
    # logind finds out that it is gone after all that it is asked just then.
    machine.run("sh", "-c", "while systemd-inhibit --list | grep -q 'half an upgrade'; do :; done", timeout_s=20)
    rebooted(machine, machine.command())


def test_without_the_helper_there_is_no_other_way(machine: Machine) -> None:
    wait_helper_started(machine)
    machine.run("systemctl", "mask", "--runtime", "--now", HELPER)
    code, message = refused(machine, machine.command())
    assert code == "helper_unavailable"
    assert "masked" in message
    machine.run("systemctl", "unmask", "--runtime", HELPER)
    rebooted(machine, machine.command())


def test_where_an_administrators_rule_denies_shutdown_it_is_not_authorized_and_reboot_works(parked: Machine) -> None:
    parked.write(
        "/etc/polkit-1/rules.d/10-no-shutdown.rules",
        'polkit.addRule(function(action, subject) { if (action.id == "org.infoscreen.reboothelper1.shutdown")'
        " return polkit.Result.NO; });\n",
    )
    start(parked)
    assert refused(parked, parked.command("shutdown_host"))[0] == "not_authorized"
    rebooted(parked, parked.command())


def test_a_fourth_reboot_in_the_window_is_locked_out_and_released_in_time(parked: Machine) -> None:
    start(parked)
    reboot_three_times(parked)
    code, message = refused(parked, parked.command())
    assert code == "lockout"
    assert "3 reboots in the last" in message and "next possible at" in message
    wait_unlocked(parked, message)
    rebooted(parked, parked.command())


def test_a_lockout_recorded_in_the_future_holds_and_is_released_all_the_same(parked: Machine) -> None:
    """As after a clock that was set back: the recorded times lie a day ahead of it."""
    start(parked)
    reboot_three_times(parked)
    parked.stop()
    shift_history(parked, timedelta(days=1))
    start(parked)
    code, message = refused(parked, parked.command())
    assert code == "lockout"
    wait_unlocked(parked, message)
    rebooted(parked, parked.command())


def test_a_shutdown_is_neither_counted_nor_blocked_by_the_lockout(parked: Machine) -> None:
    start(parked)
    reboot_three_times(parked)
    assert refused(parked, parked.command())[0] == "lockout"
    play(parked, parked.command("shutdown_host"), "completed")
    assert parked.wait_down() == 0


def reboot_three_times(machine: Machine) -> None:
    for _ in range(3):
        rebooted(machine, machine.command())
        machine.wait_online()


def wait_unlocked(machine: Machine, message: str) -> None:
    """With a window that ends some seconds from now. Until here it was so long that no machine is too slow for it."""
    locked_until = datetime.fromisoformat(message.rpartition(" ")[2])
    left_s = (locked_until - datetime.now(UTC)).total_seconds()
    drop_in(machine, HELPER, f"Environment=LOCKOUT_WINDOW_S={WINDOW_S - round(left_s) + SOON_S}")
    machine.run("systemctl", "restart", HELPER)
    check_stays_up(machine, SOON_S + 1)


def shift_history(machine: Machine, by: timedelta) -> None:
    """Move the wall-clock times in the helper's record, as if the clock had been set back by `by` since."""
    entries = recorded(machine)
    for entry in entries:
        entry["at"] = (datetime.fromisoformat(entry["at"]) + by).isoformat().replace("+00:00", "Z")
    machine.write(RECORD, "".join(f"{json.dumps(line)}\n" for line in ({"version": 1}, *entries)), 0o600)
