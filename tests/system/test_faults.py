"""The broker away, the agent killed, the agent hung: the story ends right."""

from __future__ import annotations

import pytest

from tests.system.hands import (
    DONE,
    THROUGH_S,
    check_one_right_end,
    check_stays_up,
    drop_in,
    kill_agent,
    play,
    rebooted,
    start,
    story,
    unit,
    wait_logged,
)
from tests.system.test_alerts import wait_until
from tools.lab.machine import AGENT, HELPER, POWERED_OFF, Machine
from tools.lab.patience import slow

RECONNECT_S = 90  # after a broker outage the agent's back-off is up to 60 s
# The shortest COMMAND_EXECUTION_TIMEOUT_S that the agent allows.
LEAST_EXECUTION_TIMEOUT_S = 15
# An agent that was killed does not know what the helper has answered: it waits for the longest that this can take.
# Beside the execution timeout.
NOT_REBOOTED_S = THROUGH_S + 30
# An agent that is at work must be able to feed it at half of that, on a busy machine as well.
WATCHDOG_S = 6


def freeze(machine: Machine, name: str) -> None:
    """Stop a service's processes in their tracks: it neither answers nor goes away."""
    machine.run("systemctl", "start", name)  # polkit is started only when it is asked for the first time
    machine.run("systemctl", "kill", "--signal=STOP", name)


def thaw(machine: Machine, name: str) -> None:
    machine.run("systemctl", "kill", "--signal=CONT", name)


def test_a_broker_that_is_away_for_a_minute_around_the_reboot_loses_no_ack(machine: Machine) -> None:
    command, machine.auto_restart = machine.command(), True
    freeze(machine, "polkit")  # the helper waits for it: time to take the broker away before the reboot
    machine.run("systemctl", "show", AGENT)
    play(machine, command, "accepted")
    machine.broker.stop()
    thaw(machine, "polkit")
    machine.wait_booted(2)
    check_stays_up(machine, 60)
    assert unit(machine, AGENT, "ActiveState") == "active"
    machine.broker.start()
    machine.wait_ack(command["command_id"], "completed", RECONNECT_S)
    assert story(machine, command) == DONE


def test_a_broker_that_is_away_at_boot_is_no_reason_to_fail_or_to_be_killed(parked: Machine) -> None:
    parked.broker.stop()
    watchdog_s = slow(WATCHDOG_S)
    drop_in(parked, AGENT, f"WatchdogSec={watchdog_s}")
    parked.boot()
    parked.wait_booted()
    assert unit(parked, AGENT, "ActiveState") == "active"
    wait_until(lambda: "cannot connect to 127.0.0.1:1883" in unit(parked, AGENT, "StatusText"), "says so")
    check_stays_up(parked, watchdog_s + 4)
    assert unit(parked, AGENT, "NRestarts") == "0"
    parked.broker.start()
    parked.wait_online(RECONNECT_S)
    wait_until(lambda: "ready for commands" in unit(parked, AGENT, "StatusText"), "says so")
    rebooted(parked, parked.command())


def test_killed_while_idle_the_agent_comes_back_and_works(machine: Machine) -> None:
    heard = len(machine.broker.messages)
    kill_agent(machine)
    machine.wait_online(after=heard)
    rebooted(machine, machine.command())


def test_killed_while_a_command_is_held_the_command_is_held_on(parked: Machine) -> None:
    parked.set_clock_synchronised(now=False, at_boot=False)
    start(parked)
    command = parked.command()
    parked.send(command)
    heard = len(parked.broker.messages)
    kill_agent(parked)
    parked.wait_online(after=heard)
    parked.set_clock_synchronised(now=True, at_boot=True)
    parked.follow_reboot()
    parked.wait_ack(command["command_id"], "completed")
    assert story(parked, command) == DONE


@pytest.mark.parametrize("status", ["accepted", "execution_started"])
def test_killed_on_an_ack_the_story_has_one_right_end(parked: Machine, status: str) -> None:
    timeout_s = slow(LEAST_EXECUTION_TIMEOUT_S)
    parked.configure(COMMAND_EXECUTION_TIMEOUT_S=str(timeout_s))
    parked.auto_restart = True
    start(parked)
    command = parked.command()
    play(parked, command, status)
    kill_agent(parked)
    parked.broker.wait_for(
        lambda m: m.topic == parked.topic("commands/ack") and m.json["status"] in ("completed", "failed"),
        NOT_REBOOTED_S + timeout_s,
    )
    # Whether the helper had been asked by then is chance; the end says which it was.
    assert check_one_right_end(parked, command) == ("completed" if len(parked.lives) == 2 else "not_rebooted")
    parked.wait_booted()
    check_stays_up(parked, 3)
    assert len(parked.lives) <= 2


def test_killed_while_the_helper_is_thinking_it_is_not_asked_again(parked: Machine) -> None:
    timeout_s = slow(LEAST_EXECUTION_TIMEOUT_S)
    parked.configure(COMMAND_EXECUTION_TIMEOUT_S=str(timeout_s))
    start(parked)
    freeze(parked, "polkit")
    command = parked.command()
    play(parked, command, "execution_started")
    kill_agent(parked)
    # polkit answers nobody for as long as the helper waits for it, so the helper must have said no.
    assert parked.wait_ack(command["command_id"], "failed", NOT_REBOOTED_S + timeout_s)["error_code"] == "not_rebooted"
    assert check_one_right_end(parked, command) == "not_rebooted"
    assert len(parked.lives) == 1
    thaw(parked, "polkit")
    rebooted(parked, parked.command())


def test_a_helper_that_is_killed_while_it_starts_is_started_again_and_does_what_it_was_asked(parked: Machine) -> None:
    kill_once = "test -e $$STATE_DIRECTORY/killed || { touch $$STATE_DIRECTORY/killed; kill -KILL $$$$; }"
    drop_in(parked, HELPER, f"ExecStartPre=/bin/sh -c '{kill_once}'")
    start(parked)
    # The first to ask is the health, the second is this; the bus has one wait for both.
    rebooted(parked, parked.command())
    assert "code=killed, status=9/KILL" in parked.journal(HELPER)


def test_after_a_death_of_the_system_bus_the_client_can_still_be_rebooted(machine: Machine) -> None:
    machine.kill("dbus.service")
    # The agent is back on the bus after 2 s, and asks for logind.
    is_there = "busctl --quiet status org.freedesktop.login1 >/dev/null 2>&1"
    machine.run("sh", "-c", f"until {is_there}; do sleep 0.2; done", timeout_s=40)
    rebooted(machine, machine.command())


def test_killed_as_the_host_goes_down_the_reboot_is_still_proved(machine: Machine) -> None:
    command, machine.auto_restart = machine.command(), True
    machine.send(command)
    machine.broker.wait_for(lambda m: m.topic == machine.topic("status") and m.json["reason"] == "rebooting")
    kill_agent(machine)
    machine.wait_ack(command["command_id"], "completed")
    assert check_one_right_end(machine, command) == "completed"
    assert len(machine.lives) == 2


def test_a_frozen_polkit_is_a_refusal_and_no_reboot(machine: Machine) -> None:
    freeze(machine, "polkit")
    command = machine.command()
    assert play(machine, command, "failed")["error_code"] == "not_authorized"
    thaw(machine, "polkit")
    rebooted(machine, machine.command())


def test_an_agent_that_hangs_is_restarted_by_the_watchdog(parked: Machine) -> None:
    watchdog_s = slow(WATCHDOG_S)
    drop_in(parked, AGENT, f"WatchdogSec={watchdog_s}", "TimeoutStopSec=2")
    start(parked)
    heard = len(parked.broker.messages)
    freeze(parked, AGENT)
    parked.wait_online(watchdog_s + 60, after=heard)
    wait_logged(parked, "Watchdog timeout", AGENT)
    assert unit(parked, AGENT, "NRestarts") == "1"
    rebooted(parked, parked.command())


def test_an_agent_that_cannot_write_its_journal_is_not_called_alive(parked: Machine) -> None:
    watchdog_s = slow(WATCHDOG_S)
    drop_in(parked, AGENT, f"WatchdogSec={watchdog_s}", "TimeoutStopSec=2")
    start(parked)
    hold = (
        "import signal, sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute('BEGIN IMMEDIATE'); signal.pause()"
    )
    journal = "/var/lib/infoscreen-reboot/journal.sqlite3"
    parked.run("systemd-run", "-q", "--unit=holder", "python3", "-c", hold, journal)
    parked.hear("status", watchdog_s + 60, state="offline")
    heard = len(parked.broker.messages)
    parked.run("systemctl", "stop", "holder")
    parked.wait_online(after=heard)
    rebooted(parked, parked.command())
    # The watchdog was not fed any more, or the agent ended because it had something to write down just then. By now
    # journald has put it into its files.
    assert "cannot write the store" in parked.journal(AGENT)


def test_an_orderly_stop_says_goodbye_and_a_start_is_at_work_again(machine: Machine) -> None:
    machine.run("systemctl", "stop", AGENT)
    gone = machine.broker.wait_for(lambda m: m.topic == machine.topic("status") and m.json["state"] == "offline")
    assert gone.json["reason"] == "stopped"
    heard = len(machine.broker.messages)
    machine.run("systemctl", "start", AGENT)
    machine.wait_online(after=heard)
    assert unit(machine, AGENT, "Result") == "success"
    rebooted(machine, machine.command())


def test_a_local_poweroff_is_no_failure_of_the_agent(machine: Machine) -> None:
    assert machine.stop() == POWERED_OFF
    assert "Traceback" not in machine.journal(AGENT)
    assert "Failed with result" not in machine.journal(AGENT)
