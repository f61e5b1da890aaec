"""What an operator sees of a client through all that happens to it: heard by mosquitto_sub, held to the schemas."""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import Any

from infoscreen_reboot.contract import wire
from tests.system.hands import HELPER_CALL, kill_agent, reboot_by_hand, rebooted, refused, start, unit
from tools.lab.machine import AGENT, HELPER, POWERED_OFF, Machine
from tools.lab.mosquitto import Message
from tools.lab.patience import Patience

SCHEMAS = {"status": "status", "health": "health", "boot": "boot"}
RECONNECT_S = 90


def check_all_telemetry(machine: Machine) -> None:
    """Everything that was ever heard keeps its schema, its QoS and its retain flag."""
    seen = set()
    for message in machine.broker.messages:
        tail = message.topic.removeprefix(machine.topic(""))
        if tail in SCHEMAS:
            wire.check(SCHEMAS[tail], message.json)
            assert message.json["client_uuid"] == machine.uuid
            assert (message.qos, message.retain) == ((0, False) if tail == "health" else (1, True)), message
            seen.add(tail)
    assert seen == set(SCHEMAS)


def health_of(machine: Machine, is_it: Any = lambda health: True, after: int = 0, timeout_s: float = 40) -> Any:
    def matches(message: Message) -> bool:
        return message.topic == machine.topic("health") and bool(is_it(message.json))

    return machine.broker.wait_for(matches, timeout_s, after).json


def boot_report(machine: Machine) -> Any:
    """The one report of the present boot, retained."""
    topic, boot_id = machine.topic("boot"), machine.boot_id
    report = machine.broker.wait_for(lambda m: m.topic == topic and m.json["boot_id"] == boot_id).json
    assert wire.decode(machine.broker.retained(topic) or b"", 8192) == report
    return report


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_each_end_of_a_boot_is_told_from_the_others(machine: Machine) -> None:
    first = boot_report(machine)
    assert (first["cause"], first["previous_boot_id"], first["clean_shutdown"]) == ("unknown", None, False)

    def next_boot(cause: str, clean: bool, command_id: str | None = None) -> None:
        before = machine.lives[-2].boot_id
        machine.wait_online()
        report = boot_report(machine)
        assert (report["cause"], report["clean_shutdown"]) == (cause, clean), report
        assert (report["previous_boot_id"], report["command_id"]) == (before, command_id)
        life, last = machine.lives[-1], machine.lives[-2]
        assert last.booted_at and last.ended_at and life.started_at < moment(report["boot_started_at"]) + 1
        assert moment(report["boot_started_at"]) <= moment(report["reported_at"]) <= time.time()
        assert last.started_at < moment(report["previous_boot_last_seen_at"]) <= last.ended_at

    command = machine.command()
    rebooted(machine, command)
    next_boot("command", True, command["command_id"])

    reboot_by_hand(machine)
    next_boot("local", True)

    # By PID 1's own signal: nobody asks logind, and nobody is told.
    machine.stop()
    machine.boot()
    machine.wait_booted()
    next_boot("local", True)

    machine.power_cut()
    machine.boot()
    machine.wait_booted()
    next_boot("power_loss", False)

    command = machine.command("shutdown_host")
    machine.send(command)
    assert machine.wait_down() == POWERED_OFF
    start(machine)
    next_boot("command", True, command["command_id"])

    machine.run("systemctl", "stop", AGENT)
    machine.power_cut()
    start(machine)
    next_boot("unknown", False)

    heard = len(machine.broker.messages)
    kill_agent(machine)
    machine.wait_online(after=heard)
    machine.power_cut()
    start(machine)
    next_boot("power_loss", False)
    # Whoever is killed before it has struck a report out sends the same bytes once more.
    reports = list(dict.fromkeys(message.payload for message in machine.broker.on(machine.topic("boot"))))
    assert [json.loads(report)["boot_id"] for report in reports] == [life.boot_id for life in machine.lives]
    assert health_of(machine, lambda health: health["boot_id"] == machine.boot_id, timeout_s=5)
    check_all_telemetry(machine)


def test_a_broker_restart_is_counted_once_with_its_time_and_outlives_the_agent(machine: Machine) -> None:
    calm = health_of(machine)["broker_connection"]
    assert calm == {
        "broker_reachable": True,
        "reconnect_count": 0,
        "last_disconnect_at": None,
        "last_disconnect_reason": None,
    }
    stopped_at, patience = time.time(), Patience(15)
    machine.broker.stop()
    machine.broker.start()
    after = health_of(machine, lambda h: h["broker_connection"]["reconnect_count"], timeout_s=RECONNECT_S)
    connection = after["broker_connection"]
    assert connection["reconnect_count"] == 1
    assert stopped_at - 1 < moment(connection["last_disconnect_at"]) < stopped_at + patience.stretched_s
    assert connection["last_disconnect_reason"] == "the broker closed the connection"
    for restart in (lambda: machine.run("systemctl", "restart", AGENT), lambda: kill_agent(machine)):
        heard = len(machine.broker.messages)
        restart()
        machine.wait_online(after=heard)
        assert health_of(machine, after=heard)["broker_connection"] == connection
    reasons = [message.json["reason"] for message in machine.broker.on(machine.topic("status"))]
    assert reasons[-4:] == ["stopped", "connected", "connection_lost", "connected"]
    check_all_telemetry(machine)


def test_health_comes_every_half_minute_and_on_change(machine: Machine) -> None:
    first = health_of(machine)
    assert (first["executor"], first["clock_synchronized"]) == ("helper", True)
    assert first["lockout"] == {"used": 0, "limit": 3, "window_s": 900, "unlocks_at": None}
    assert first["capabilities"] == {
        "actions": ["reboot_host", "shutdown_host"],
        "hardware_watchdog": False,
        "post_boot_checks": [],
        "recovery_tier": 1,
    }
    age_s = time.time() - machine.lives[-1].started_at
    assert first["uptime_s"] <= age_s + 1, "of the machine, not of what it runs on"
    old = machine.command(issued_at="2026-01-01T00:00:00Z", expires_at="2026-01-01T00:10:00Z")
    heard = len(machine.broker.messages)
    assert refused(machine, old)[0] == "expired"
    last = health_of(machine, lambda h: h["commands"]["last"], after=heard, timeout_s=5)["commands"]
    assert (last["last"]["command_id"], last["last"]["status"]) == (old["command_id"], "failed")
    assert last["in_progress"] is None
    # The broker's receipt for the ack may come after that.
    health_of(machine, lambda h: h["commands"]["last"] and h["commands"]["outbox"] == 0, after=heard)
    heard, patience = len(machine.broker.messages), Patience(40)
    before = machine.hear("health", 40, after=heard)
    after = machine.broker.wait_for(
        lambda m: m.topic == machine.topic("health") and m.heard_at > before.heard_at, 40, after=heard
    )
    # By the agent's own clock: on its way to us each of them may be late.
    assert 29 < after.json["uptime_s"] - before.json["uptime_s"] < patience.stretched_s
    # Asked once at the start, and not again for as long as nothing was executed.
    assert unit(machine, HELPER, "ActiveState") == "inactive"
    asked = machine.journal(HELPER, this_boot=True).count("Get by uid")
    assert asked == 1
    rebooted(machine, machine.command())
    machine.wait_online()
    used = health_of(machine, lambda h: h["boot_id"] == machine.boot_id and h["lockout"])
    assert used["lockout"]["used"] == 1


def test_where_the_helper_cannot_be_asked_the_lockout_is_not_known(parked: Machine) -> None:
    (parked.root / "etc/systemd/system" / HELPER).symlink_to("/dev/null")
    start(parked)
    assert health_of(parked)["lockout"] is None
    assert "masked" in parked.run("busctl", "get-property", *HELPER_CALL, "Lockout", check=False)
