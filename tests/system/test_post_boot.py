"""A reboot is completed only when the screen is back, and a canary's mock never goes down."""

from __future__ import annotations

import json

import pytest

from tests.system.hands import DONE, check_stays_up, play, refused, start, story, unit, wait_logged
from tools.lab.machine import AGENT, Machine
from tools.lab.patience import Patience

PLAYER = "/etc/systemd/system/player.service"
PROGRAM = "/etc/infoscreen-reboot/post-boot.d/screen-is-lit"


def install_player(machine: Machine, *lines: str, timeout_s: int = 20) -> None:
    """A unit that is started at boot and must be active after it."""
    text = "\n".join(
        ["[Unit]", "After=multi-user.target", "[Service]", *lines, "[Install]", "WantedBy=default.target", ""]
    )
    machine.write(PLAYER, text)
    wants = machine.root / "etc/systemd/system/multi-user.target.wants/player.service"
    wants.parent.mkdir(parents=True, exist_ok=True)
    wants.symlink_to(PLAYER)
    machine.configure(POST_BOOT_UNITS="player.service", POST_BOOT_TIMEOUT_S=str(timeout_s))
    machine.auto_restart = True


def seconds_after_boot(machine: Machine, command_id: str) -> float:
    return machine.acks(command_id)[-1].heard_at - machine.lives[-1].started_at


def test_a_unit_that_comes_late_but_in_time_completes_the_reboot_then(parked: Machine) -> None:
    install_player(parked, "Type=oneshot", "RemainAfterExit=yes", "ExecStart=/bin/sleep 8", timeout_s=60)
    start(parked)
    command = parked.command()
    play(parked, command, "completed")
    assert story(parked, command) == DONE
    took_s = seconds_after_boot(parked, command["command_id"])
    assert 13 < took_s < 50, "8 s to start, 5 s to show that it stays; not at its deadline of 60 s"
    assert unit(parked, "player.service", "ActiveState") == "active"


def test_a_unit_that_crashes_again_and_again_is_no_screen(parked: Machine) -> None:
    # It is seen to be active for 5 s if it ends so much later than it should.
    often = "Restart=always", "RestartSec=100ms", "[Unit]", "StartLimitIntervalSec=0"
    install_player(parked, "ExecStart=/bin/sleep 1", *often)
    start(parked)
    ack = play(parked, parked.command(), "failed")
    assert ack["error_code"] == "post_check_failed"
    assert "20 s after the boot these are missing: player.service" in ack["error_message"]


def test_a_unit_that_fails_fails_the_reboot_at_the_deadline(parked: Machine) -> None:
    install_player(parked, "ExecStart=/bin/false")
    start(parked)
    command = parked.command()
    patience = Patience(35)
    ack = play(parked, command, "failed")
    assert ack["error_code"] == "post_check_failed"
    assert ack["error_message"] == "20 s after the boot these are missing: player.service is failed"
    assert ack["boot_id"] == parked.boot_id
    assert 19 < seconds_after_boot(parked, command["command_id"]) < patience.stretched_s
    assert len(parked.lives) == 2


def test_a_command_must_succeed_in_the_agents_sandbox_too(parked: Machine) -> None:
    install_player(parked, "ExecStart=/bin/sleep infinity")
    lit = "/etc/lit"
    parked.write(PROGRAM, f'#!/bin/sh\necho "who: $(id -un), lit: $(cat {lit})"\ntest "$(cat {lit})" = yes\n', 0o755)
    parked.write(lit, "yes")
    parked.configure(POST_BOOT_COMMAND="screen-is-lit")
    start(parked)
    command = parked.command()
    play(parked, command, "completed")
    wait_logged(parked, "who: infoscreen-reboot, lit: yes", AGENT)
    parked.wait_booted(2)
    parked.write(lit, "no")
    command = parked.command()
    ack = play(parked, command, "failed")
    assert ack["error_code"] == "post_check_failed"
    assert f"{PROGRAM} ended with 1" in ack["error_message"]


def test_a_mock_acks_a_whole_reboot_and_stays_up(parked: Machine) -> None:
    parked.configure(COMMAND_EXECUTOR="mock", COMMAND_MOCK_REBOOT_IMMEDIATE_COMPLETE="yes")
    start(parked)
    command = parked.command()
    ack = play(parked, command, "completed")
    assert story(parked, command) == DONE
    assert ack["boot_id"] == parked.boot_id
    check_stays_up(parked, 2)
    wait_logged(parked, "MOCKED", AGENT)
    assert "executor: mock" in unit(parked, AGENT, "StatusText")
    health = parked.broker.wait_for(lambda m: m.topic == parked.topic("health")).json
    assert (health["executor"], health["lockout"]) == ("mock", None)
    code, message = refused(parked, parked.command("shutdown_host"))
    assert (code, message) == ("helper_unavailable", "COMMAND_EXECUTOR is mock: this client executes nothing")


@pytest.mark.parametrize("executor", [None, "helper"])
def test_the_real_executor_refuses_to_start_with_mocked_completion(parked: Machine, executor: str | None) -> None:
    parked.configure(COMMAND_EXECUTOR=executor, COMMAND_MOCK_REBOOT_IMMEDIATE_COMPLETE="yes")
    parked.boot()
    parked.wait_booted()
    assert unit(parked, AGENT, "ActiveState") == "failed"
    assert (unit(parked, AGENT, "ExecMainStatus"), unit(parked, AGENT, "NRestarts")) == ("78", "0")
    assert "would call a reboot done that never was" in parked.run("systemctl", "status", AGENT, check=False)
    assert json.loads(parked.broker.retained(parked.topic("status")) or b"null") is None
