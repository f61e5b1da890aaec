"""systemd gives up on a unit, and the controller hears of it, whatever state the agent is in."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infoscreen_reboot.contract import wire
from tests.system.hands import drop_in, kill_agent, unit
from tools.lab.machine import AGENT, Machine
from tools.lab.mosquitto import Message
from tools.lab.patience import Patience

TROUBLE = "cannot start: no screen today"
ALERTS = "/run/infoscreen-reboot-alerts"
BROKEN = f"/etc/systemd/system/{AGENT}.d/broken.conf"
BREAKS = f"[Service]\nExecStart=\nExecStart=/bin/sh -c 'echo {TROUBLE}; exit 1'\n"
GIVES_UP_SOON = "RestartSec=200ms", "[Unit]", "StartLimitBurst=3"
TICK_S = 40  # the agent looks every half minute
RECONNECT_S = 90  # the notifier's back-off is up to 60 s
# The second dash is escaped: what is the unit's name must not become a path on the way.
PLAYER = r"player-wall@left\x2d1.service"
MOUNT = "srv-pictures.mount"
ALERT_US = "[Unit]\nOnFailure=infoscreen-notify-failure@%n.service\n"
PLAYER_UNIT = f"""\
{ALERT_US}StartLimitIntervalSec=900
StartLimitBurst=3
[Service]
ExecStart=/bin/sh -c 'echo "no picture on %I"; kill -KILL $$$$'
Restart=on-failure
RestartSec=200ms
"""


def notifier_of(failed: str) -> str:
    return f"infoscreen-notify-failure@{failed}.service"


def wait_until(is_so: Callable[[], bool], what: str, timeout_s: float = 30) -> None:
    patience = Patience(timeout_s)
    while not is_so():
        assert not patience.is_over, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.2)


def wait_state(machine: Machine, name: str, state: str) -> None:
    wait_until(lambda: unit(machine, name, "ActiveState") == state, f"{name} {state}")


def wait_alert(machine: Machine, failed: str, timeout_s: float = 30) -> dict[str, Any]:
    """The alert for that unit, valid and retained."""
    topic = machine.topic("service_failed")
    heard = machine.broker.wait_for(
        lambda m: m.topic == topic and m.payload != b"" and m.json["unit"] == failed, timeout_s
    )
    assert heard.qos == 1
    assert machine.broker.retained(topic) == heard.payload
    content: dict[str, Any] = heard.json
    wire.check("service_failed", content)
    assert (content["client_uuid"], content["boot_id"]) == (machine.uuid, machine.boot_id)
    return content


def told(machine: Machine) -> list[Message]:
    """The alerts that were sent, without the empty messages that take one back."""
    return [message for message in machine.broker.on(machine.topic("service_failed")) if message.payload]


def check_taken_back(machine: Machine, after: int) -> None:
    """The agent says so; nothing stands any more, on the broker or on file."""
    topic = machine.topic("service_failed")
    machine.broker.wait_for(lambda m: m.topic == topic and not m.payload, TICK_S, after=after)
    assert machine.broker.retained(topic) is None
    wait_until(lambda: machine.run("ls", ALERTS) == "", "forgets the alert")


def repair(machine: Machine) -> None:
    """What an operator does about an agent that does not start; the alert must go with it."""
    heard = len(machine.broker.messages)
    machine.path(BROKEN).unlink()
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "reset-failed", AGENT)
    machine.run("systemctl", "start", AGENT)
    machine.wait_online(after=heard)
    check_taken_back(machine, heard)


def break_agent(machine: Machine) -> None:
    machine.write(BROKEN, BREAKS)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", AGENT, check=False)


def test_an_agent_that_does_not_start_is_given_up_and_told_of(machine: Machine) -> None:
    drop_in(machine, AGENT, *GIVES_UP_SOON)
    break_agent(machine)
    alert = wait_alert(machine, AGENT)
    assert (alert["result"], alert["exit_status"], alert["restarts"]) == ("exit-code", 1, 3)
    assert any(TROUBLE in line for line in alert["last_log_lines"]), alert
    assert len(told(machine)) == 1
    wait_state(machine, notifier_of(AGENT), "inactive")
    assert unit(machine, notifier_of(AGENT), "Result") == "success"
    assert "sent the alert for" in machine.run("systemctl", "status", notifier_of(AGENT), check=False)
    assert machine.run("stat", "-c", "%U %a", ALERTS).split() == ["infoscreen-reboot", "700"]
    assert machine.run("ls", ALERTS).split() == [f"{AGENT}.alert"]
    repair(machine)


def test_an_alert_waits_for_a_broker_that_is_away_and_holds_up_nothing(parked: Machine) -> None:
    drop_in(parked, AGENT, *GIVES_UP_SOON)
    parked.write(BROKEN, BREAKS)
    parked.broker.stop()
    parked.boot()
    parked.wait_booted()  # which the notifier would prevent if it were a job
    wait_state(parked, AGENT, "failed")
    wait_until(lambda: "127.0.0.1:1883" in unit(parked, notifier_of(AGENT), "StatusText"), "says that it waits")
    status = unit(parked, notifier_of(AGENT), "StatusText")
    assert status.startswith(f"cannot send the alert for {AGENT}") and "next attempt in" in status
    assert parked.run("ls", ALERTS).split() == [f"{AGENT}.alert"]
    parked.run("systemctl", "kill", "--signal=KILL", notifier_of(AGENT))  # the alert is on file
    drop_in(parked, "infoscreen-notify-failure@.service", "RestartSec=1")
    kept = parked.path(f"{ALERTS}/{AGENT}.alert").read_bytes()
    parked.broker.start()
    alert = wait_alert(parked, AGENT, RECONNECT_S)
    assert any(TROUBLE in line for line in alert["last_log_lines"]), alert
    assert kept.endswith(told(parked)[0].payload)
    wait_state(parked, notifier_of(AGENT), "inactive")
    assert "Traceback" not in parked.journal(notifier_of(AGENT))
    repair(parked)


def test_a_bad_setting_that_is_not_the_brokers_is_told_of(machine: Machine) -> None:
    machine.configure(COMMAND_CLOCK_TIMEOUT_S="never")
    machine.run("systemctl", "restart", AGENT, check=False)
    alert = wait_alert(machine, AGENT)
    assert (alert["result"], alert["exit_status"], alert["restarts"]) == ("exit-code", 78, 0)
    assert any("COMMAND_CLOCK_TIMEOUT_S" in line for line in alert["last_log_lines"]), alert


def test_a_bad_setting_of_the_brokers_is_named_in_the_notifiers_status(machine: Machine) -> None:
    machine.configure(MQTT_PORT="mqtt")
    machine.run("systemctl", "restart", AGENT, check=False)
    wait_state(machine, notifier_of(AGENT), "failed")
    status = machine.run("systemctl", "status", notifier_of(AGENT), check=False)
    assert "MQTT_PORT" in status and "Traceback" not in status
    assert unit(machine, notifier_of(AGENT), "NRestarts") == "0"


def test_any_unit_of_the_fleet_can_be_told_of(machine: Machine) -> None:
    machine.write("/etc/systemd/system/player-wall@.service", PLAYER_UNIT)
    machine.write(f"/etc/systemd/system/{MOUNT}", f"{ALERT_US}[Mount]\nWhat=/dev/none\nWhere=/srv/pictures\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", PLAYER, check=False)
    alert = wait_alert(machine, PLAYER)
    assert (alert["result"], alert["exit_status"], alert["restarts"]) == ("signal", "KILL", 3)
    assert "no picture on left-1" in alert["last_log_lines"]
    machine.run("systemctl", "start", MOUNT, check=False)
    alert = wait_alert(machine, MOUNT)
    assert (alert["result"], alert["exit_status"], alert["restarts"]) == ("exit-code", None, 0)
    # Each once: an agent that looks just then says the one that stands once more.
    alerts = dict.fromkeys(message.payload for message in told(machine))
    assert [json.loads(payload)["unit"] for payload in alerts] == [PLAYER, MOUNT]
    assert sorted(machine.run("ls", "-N", ALERTS).split()) == sorted([f"{PLAYER}.alert", f"{MOUNT}.alert"])

    # An agent that starts takes back what is over, and only that.
    machine.run("systemctl", "reset-failed", PLAYER)
    machine.run("systemctl", "restart", AGENT)
    wait_until(lambda: machine.run("ls", "-N", ALERTS).split() == [f"{MOUNT}.alert"], "forgets the one that is over")
    assert wait_alert(machine, MOUNT) == alert
    heard = len(machine.broker.messages)
    machine.run("systemctl", "reset-failed", MOUNT)
    check_taken_back(machine, heard)


def test_a_restart_that_helps_is_not_told_of(machine: Machine) -> None:
    heard = len(machine.broker.messages)
    kill_agent(machine)
    machine.wait_online(after=heard)
    # systemd 257 starts the notifier all the same; it is gone once it has seen the agent stay up.
    wait_state(machine, notifier_of(AGENT), "inactive")
    assert told(machine) == []
    assert unit(machine, notifier_of(AGENT), "Result") == "success"


def test_both_units_take_the_password_from_the_credential_store(machine: Machine) -> None:
    machine.write("/etc/credstore/mqtt-password-broker", "in the store\n", 0o600)
    machine.configure(MQTT_USER="screen", MQTT_PASSWORD_BROKER="in the settings")
    assert "keep one" in machine.run("infoscreen-reboot", "check-config", check=False)
    machine.run("systemctl", "restart", AGENT, check=False)
    wait_state(machine, notifier_of(AGENT), "failed")
    for name in (AGENT, notifier_of(AGENT)):
        assert "keep one" in unit(machine, name, "StatusText"), name
    machine.configure(MQTT_PASSWORD_BROKER=None)
    assert machine.run("infoscreen-reboot", "check-config").startswith("ok")


def test_an_unconfigured_notifier_is_skipped(furnished: Machine, deb: Path) -> None:
    furnished.install(deb)
    furnished.write("/etc/systemd/system/player-wall@.service", PLAYER_UNIT)
    furnished.run("systemctl", "daemon-reload")
    furnished.run("systemctl", "start", PLAYER, check=False)
    wait_state(furnished, PLAYER, "failed")
    wait_until(lambda: "not configured" in furnished.journal(notifier_of(PLAYER)), "says what is missing")
    wait_state(furnished, notifier_of(PLAYER), "inactive")
    assert furnished.run("systemctl", "--failed", "--plain", "--no-legend").split()[0] == PLAYER
    assert len(furnished.run("systemctl", "--failed", "--plain", "--no-legend").splitlines()) == 1


@pytest.mark.parametrize("action", ["remove", "purge"])
def test_an_alert_that_waits_does_not_outlive_the_package(machine: Machine, action: str) -> None:
    uid = machine.run("id", "-u", "infoscreen-reboot").strip()
    drop_in(machine, AGENT, *GIVES_UP_SOON)
    machine.broker.stop()
    break_agent(machine)
    wait_until(lambda: unit(machine, notifier_of(AGENT), "StatusText") != "", "waits")
    machine.apt(action, "infoscreen-reboot")
    assert not machine.run("ps", "-u", uid, "-o", "pid=", check=False).strip()
    assert machine.path(ALERTS).exists() == (action == "remove")
