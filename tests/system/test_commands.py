"""A command over MQTT, and what becomes of machine and acks."""

from __future__ import annotations

import json

import pytest

from tests.system.hands import DONE, check_one_right_end, check_stays_up, first_heard, play, status, story
from tools.lab.machine import POWER_CUT, POWERED_OFF, REBOOTED, Machine
from tools.lab.mosquitto import Message


def test_a_reboot_goes_down_comes_back_and_is_proved_by_the_new_boot_id(
    machine: Machine, suite: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command, before = machine.command(), machine.boot_id
    machine.auto_restart = True
    machine.send(command)
    assert machine.wait_down(1) == REBOOTED
    sent_at = machine.broker.on(machine.topic("commands"))[-1].heard_at
    after = machine.wait_booted(2)
    completed = machine.wait_ack(command["command_id"], "completed")
    completed_at = machine.acks(command["command_id"])[-1].heard_at
    assert after != before
    assert story(machine, command) == DONE
    # Once each: what the broker's receipt did not reach before the host was down is sent again after it.
    assert [json.loads(ack)["boot_id"] for ack in first_heard(machine, command)] == [before, before, after]
    assert completed["boot_id"] == after
    down_at, up_at = machine.lives[0].ended_at, machine.lives[1].started_at
    assert down_at is not None
    with capsys.disabled():
        print(f"\n{suite}: publish to down {down_at - sent_at:.2f} s, boot to completed {completed_at - up_at:.2f} s")


def test_a_shutdown_completes_as_its_last_word(machine: Machine) -> None:
    command = machine.command("shutdown_host")
    play(machine, command, "completed")
    assert machine.wait_down() == POWERED_OFF
    assert story(machine, command) == DONE
    last = json.loads(machine.broker.retained(machine.topic("status")) or b"{}")
    assert (last["state"], last["reason"]) == ("offline", "shutting_down")
    machine.boot()
    machine.wait_booted()
    machine.wait_online()
    check_stays_up(machine, 3)
    assert story(machine, command) == DONE
    assert [known["state"] for known in status(machine)["commands"]] == ["completed"]


def test_after_a_power_cut_in_execution_there_is_one_end_and_no_second_reboot(machine: Machine) -> None:
    command = machine.command()
    play(machine, command, "execution_started")
    machine.power_cut()
    assert machine.lives[0].exit_code in (POWER_CUT, REBOOTED)
    machine.boot()
    machine.wait_booted()
    machine.wait_ack(command["command_id"], "completed")
    check_stays_up(machine, 5)
    assert check_one_right_end(machine, command) == "completed"


def test_the_same_command_again_and_by_the_other_topic_is_one_reboot_with_the_same_acks(machine: Machine) -> None:
    command = machine.command()
    machine.auto_restart = True
    machine.send(command)
    machine.send(command)
    machine.send(command, "command")
    machine.wait_ack(command["command_id"], "completed")
    known = first_heard(machine, command)
    ended = machine.broker.messages.index(machine.acks(command["command_id"])[-1])
    # An ack for which the broker's receipt has not come yet answers the same command, too: it is not sent once more.
    machine.broker.wait_for(lambda message: is_all_delivered(machine, message), 60, after=ended)
    heard = len(machine.broker.messages)
    machine.send(command, "command")
    machine.broker.wait_for(lambda message: message.topic == machine.topic("commands/ack"), after=heard)
    machine.broker.wait_for(lambda message: message.topic == machine.topic("command/ack"), after=heard)
    assert story(machine, command) == DONE
    assert first_heard(machine, command) == known
    assert {ack.payload for ack in machine.acks(tail="command/ack")} <= set(known)
    check_stays_up(machine, 2)
    assert len(machine.lives) == 2


def is_all_delivered(machine: Machine, message: Message) -> bool:
    """Whether this is a health of the present boot with nothing left in the outbox."""
    is_health = message.topic == machine.topic("health") and message.json["boot_id"] == machine.boot_id
    return is_health and message.json["commands"]["outbox"] == 0


def test_a_command_by_the_transitional_topic_is_answered_on_both(machine: Machine) -> None:
    command = machine.command()
    machine.auto_restart = True
    machine.send(command, "command")
    machine.wait_ack(command["command_id"], "completed")
    machine.broker.wait_for(lambda m: m.topic == machine.topic("command/ack") and m.json["status"] == "completed")
    tails = "commands/ack", "command/ack"
    by_both = [list(dict.fromkeys(ack.payload for ack in machine.acks(tail=tail))) for tail in tails]
    assert by_both[0] == by_both[1]
    assert story(machine, command) == DONE
