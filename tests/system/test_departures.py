"""A host that is told to go down and does not, or not as announced: on real logind, with the fault left in place."""

from __future__ import annotations

import json

import pytest

from tests.system.hands import (
    DONE,
    THROUGH_S,
    check_one_right_end,
    check_stays_up,
    drop_in,
    play,
    rebooted,
    start,
    story,
    unit,
    wait_helper_started,
)
from tests.system.test_faults import freeze, thaw
from tests.system.test_telemetry import boot_report
from tools.lab.machine import AGENT, HELPER, POWERED_OFF, Machine
from tools.lab.mosquitto import Message
from tools.lab.patience import Patience

ONLINE_AGAIN_S = 10.0
TIMEOUT_S = 15
HOLDER = "lab-holder"


def refuse_reboots(machine: Machine) -> None:
    """systemd does not start the target when logind asks for it, which is after every last word."""
    machine.write("/etc/systemd/system/reboot.target.d/lab.conf", "[Unit]\nRefuseManualStart=yes\n")


def allow_reboots(machine: Machine) -> None:
    machine.path("/etc/systemd/system/reboot.target.d/lab.conf").unlink()
    machine.run("systemctl", "daemon-reload")


def delay_up_to(machine: Machine, max_s: int) -> None:
    machine.write("/etc/systemd/logind.conf.d/lab.conf", f"[Login]\nInhibitDelayMaxSec={max_s}\n")


def hold_up(machine: Machine, for_s: str) -> None:
    """Someone else holds up shutdowns, and uses that."""
    inhibit = "systemd-inhibit", "--what=shutdown", "--mode=delay", "--who=lab", "--why=slow"
    machine.run("systemd-run", "-q", f"--unit={HOLDER}", *inhibit, "sleep", for_s)
    machine.run("sh", "-c", "until systemd-inhibit --list | grep -q lab; do sleep 0.05; done")


def wait_for_delay(machine: Machine) -> None:
    """logind asks polkit before it gives out the lock: without it nothing holds up what is refused at once."""
    ask = "busctl call org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager ListInhibitors"
    machine.run("sh", "-c", f"until {ask} | grep -q infoscreen-simclient; do sleep 0.1; done")


def start_with_delay(machine: Machine) -> None:
    start(machine)
    wait_for_delay(machine)


def status_heard(machine: Machine, state: str, after: int) -> Message:
    return machine.hear("status", 60, after, state=state)


def check_online_again(machine: Machine, since: float, after: int) -> None:
    """By itself: nobody had to kill it."""
    patience = Patience(ONLINE_AGAIN_S)
    online = machine.wait_online(after=after)
    assert online.heard_at - since < patience.stretched_s, f"online again after {online.heard_at - since:.1f} s"
    assert unit(machine, AGENT, "NRestarts") == "0"
    status = f"systemctl show {AGENT} --property=StatusText"
    machine.run("sh", "-c", f"until {status} | grep -q 'ready for commands'; do sleep 0.1; done", timeout_s=60)
    print(f"{machine.suite}: online again after {online.heard_at - since:.2f} s")


def check_power_loss_is_told_as_one(machine: Machine) -> None:
    """The mark of a shutdown that did not come must be gone."""
    machine.power_cut()
    start(machine)
    report = boot_report(machine)
    assert (report["cause"], report["clean_shutdown"], report["command_id"]) == ("power_loss", False, None)


def test_a_reboot_that_systemd_refuses_leaves_the_client_at_work(parked: Machine) -> None:
    refuse_reboots(parked)
    start_with_delay(parked)
    heard = len(parked.broker.messages)
    parked.run("systemctl", "reboot", check=False)
    gone = status_heard(parked, "offline", heard)
    check_online_again(parked, gone.heard_at, heard)
    allow_reboots(parked)
    command = parked.command()
    rebooted(parked, command)
    parked.wait_online()
    assert boot_report(parked)["command_id"] == command["command_id"]


def test_a_commanded_reboot_that_systemd_refuses_is_told_and_the_client_stays_at_work(parked: Machine) -> None:
    parked.configure(COMMAND_EXECUTION_TIMEOUT_S=str(TIMEOUT_S))
    refuse_reboots(parked)
    start_with_delay(parked)
    heard = len(parked.broker.messages)
    command = parked.command()
    parked.send(command)
    gone = status_heard(parked, "offline", heard)
    assert gone.json["reason"] == "rebooting"
    check_online_again(parked, gone.heard_at, heard)
    assert parked.wait_ack(command["command_id"], "failed")["error_code"] == "execution_timeout"
    assert check_one_right_end(parked, command) == "execution_timeout"
    check_power_loss_is_told_as_one(parked)


@pytest.mark.parametrize("victim", ["systemd-logind.service", "dbus.service"])
def test_a_shutdown_that_was_forgotten_by_whoever_announced_it_leaves_the_client_at_work(
    parked: Machine, victim: str
) -> None:
    delay_up_to(parked, 180)
    start_with_delay(parked)
    hold_up(parked, "infinity")
    heard = len(parked.broker.messages)
    parked.run("systemctl", "reboot", check=False)
    gone = status_heard(parked, "offline", heard)
    parked.kill(victim)
    check_online_again(parked, gone.heard_at, heard)
    check_stays_up(parked, 1)
    parked.run("systemctl", "stop", HOLDER)
    parked.run("sh", "-c", "until busctl --quiet status org.freedesktop.login1; do sleep 0.2; done")
    rebooted(parked, parked.command())
    parked.wait_online()
    check_power_loss_is_told_as_one(parked)


def test_an_agent_that_starts_again_in_the_same_boot_takes_the_mark_of_a_shutdown_back(parked: Machine) -> None:
    delay_up_to(parked, 180)
    start_with_delay(parked)
    hold_up(parked, "infinity")
    heard = len(parked.broker.messages)
    parked.run("systemctl", "reboot", check=False)
    status_heard(parked, "offline", heard)
    parked.run("systemctl", "stop", AGENT)
    parked.kill("systemd-logind.service")
    parked.run("sh", "-c", "until busctl --quiet status org.freedesktop.login1; do sleep 0.2; done")
    parked.run("systemctl", "start", AGENT)
    parked.wait_online(after=heard)
    check_power_loss_is_told_as_one(parked)


def test_a_helper_that_answers_late_makes_no_lie_of_the_deadline(parked: Machine) -> None:
    parked.configure(COMMAND_EXECUTION_TIMEOUT_S=str(TIMEOUT_S))
    start_with_delay(parked)
    # It has to be gone to be started slowly.
    wait_helper_started(parked)
    parked.run("systemctl", "stop", HELPER)
    # The bus waits 25 s for it, and on a busy machine its Python takes some of them.
    drop_in(parked, HELPER, "ExecStartPre=/bin/sleep 14")
    freeze(parked, "polkit")
    freeze(parked, "systemd-logind")
    command = parked.command()
    play(parked, command, "execution_started")
    # The helper waits 10 s for each of the two; to thaw them takes time as well.
    parked.run("sh", "-c", f"until systemctl is-active -q {HELPER}; do sleep 0.1; done; sleep 4", timeout_s=60)
    thaw(parked, "polkit")
    parked.run("sleep", "4")
    parked.auto_restart = True
    parked.run("systemd-run", "-q", "--no-block", "systemctl", "kill", "--signal=CONT", "systemd-logind")
    parked.wait_down(1)
    parked.wait_ack(command["command_id"], "completed")
    assert story(parked, command) == DONE
    assert parked.lives[0].ended_at is not None
    assert parked.lives[0].ended_at - parked.sent_at(command["command_id"]) > TIMEOUT_S + 5, "the helper was quick"


@pytest.mark.parametrize("holds_up_s", [40])
def test_a_reboot_that_others_hold_up_for_longer_than_our_deadline_completes(parked: Machine, holds_up_s: int) -> None:
    parked.configure(COMMAND_EXECUTION_TIMEOUT_S=str(TIMEOUT_S))
    delay_up_to(parked, 180)
    start_with_delay(parked)
    hold_up(parked, str(holds_up_s))
    command = parked.command()
    parked.send(command)
    parked.follow_reboot(timeout_s=120)
    assert parked.lives[0].ended_at is not None
    held_up_s = parked.lives[0].ended_at - parked.sent_at(command["command_id"])
    assert held_up_s > 2 * TIMEOUT_S, "nobody has held it up"
    parked.wait_ack(command["command_id"], "completed")
    assert story(parked, command) == DONE
    report = boot_report(parked)
    assert (report["cause"], report["command_id"]) == ("command", command["command_id"])


def test_a_shutdown_that_others_hold_up_completes_as_its_last_word(parked: Machine) -> None:
    delay_up_to(parked, 180)
    start_with_delay(parked)
    hold_up(parked, "8")
    command = parked.command("shutdown_host")
    play(parked, command, "completed")
    assert parked.wait_down() == POWERED_OFF
    assert story(parked, command) == DONE
    last = json.loads(parked.broker.retained(parked.topic("status")) or b"{}")
    assert (last["state"], last["reason"]) == ("offline", "shutting_down")


@pytest.mark.parametrize(("order", "reason"), [("reboot", "rebooting"), ("poweroff", "shutting_down")])
def test_a_departure_is_called_what_logind_calls_it(machine: Machine, suite: str, order: str, reason: str) -> None:
    wait_for_delay(machine)
    heard = len(machine.broker.messages)
    machine.run("systemctl", order, check=False)  # the host may go down before it has ended
    gone = status_heard(machine, "offline", heard)
    assert gone.json["reason"] == ("stopped" if suite == "bookworm" else reason)
    machine.wait_down()


def test_someone_elses_reboot_does_not_complete_a_shutdown_for_which_the_helper_has_not_said_yes(
    parked: Machine,
) -> None:
    refuse_reboots(parked)
    start_with_delay(parked)
    freeze(parked, "polkit")
    command = parked.command("shutdown_host")
    play(parked, command, "execution_started")
    heard = len(parked.broker.messages)
    parked.run("systemctl", "reboot", check=False)
    gone = status_heard(parked, "offline", heard)
    check_online_again(parked, gone.heard_at, heard)
    assert parked.wait_ack(command["command_id"], "failed")["error_code"] == "not_authorized"
    assert check_one_right_end(parked, command) == "not_authorized"
    thaw(parked, "polkit")
    check_power_loss_is_told_as_one(parked)


def test_a_restart_of_user_space_is_no_end_of_a_boot_and_completes_no_shutdown(parked: Machine, suite: str) -> None:
    """systemd 252 knows no soft-reboot: there it is refused, and the client must not have noticed."""
    parked.configure(COMMAND_EXECUTION_TIMEOUT_S=str(TIMEOUT_S))
    start_with_delay(parked)
    freeze(parked, "polkit")
    command = parked.command("shutdown_host")
    play(parked, command, "execution_started")
    heard = len(parked.broker.messages)
    parked.run("systemctl", "soft-reboot", check=False)
    if suite == "bookworm":
        end = "not_authorized"
    else:
        status_heard(parked, "offline", heard)
        parked.wait_online(after=heard)
        end = "not_rebooted"
    parked.wait_ack(command["command_id"], "failed", THROUGH_S + TIMEOUT_S + 30)
    assert check_one_right_end(parked, command) == end
    assert len(parked.lives) == 1
    check_power_loss_is_told_as_one(parked)
