"""What the tests on machines have in common: what a story may be, and a few hands on the machine."""

from __future__ import annotations

import json
import time
from typing import Any

from tools.lab.machine import AGENT, HELPER, Machine
from tools.lab.patience import Patience

ORDER = ["accepted", "execution_started", "completed", "failed"]
DONE = ["accepted", "execution_started", "completed"]
# DELIVERY_S and HELPER_S of the agent: without an answer of the helper the deadline runs only then.
THROUGH_S = 82
RECORD = "/var/lib/infoscreen-reboot-helper/history.jsonl"
STOPS_SLOWLY = """\
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
ExecStop=/bin/sleep {for_s}
[Install]
WantedBy=multi-user.target
"""
HELPER_CALL = "org.infoscreen.RebootHelper1", "/org/infoscreen/RebootHelper1", "org.infoscreen.RebootHelper1"


def story(machine: Machine, command: dict[str, Any]) -> list[str]:
    """What the controller heard of a command, each ack once; the code in place of `failed`."""
    contents = [json.loads(content) for content in first_heard(machine, command)]
    return [content["error_code"] or content["status"] for content in contents]


def first_heard(machine: Machine, command: dict[str, Any]) -> list[bytes]:
    """The contents heard, each once, in the order of their first coming."""
    return list(dict.fromkeys(ack.payload for ack in machine.acks(command["command_id"])))


def check_one_right_end(machine: Machine, command: dict[str, Any]) -> str:
    """Legal order, one content for each status, exactly one terminal one; the code or `completed`."""
    contents = [json.loads(content) for content in first_heard(machine, command)]
    statuses = [content["status"] for content in contents]
    assert statuses == sorted(set(statuses), key=ORDER.index), statuses
    ends = [c["error_code"] or c["status"] for c in contents if c["status"] in ("completed", "failed")]
    assert len(ends) == 1, contents
    return str(ends[0])


def play(machine: Machine, command: dict[str, Any], status: str, timeout_s: float = 60) -> dict[str, Any]:
    """Send it and wait for an ack of that status: the answer to this copy, and not to an earlier one."""
    heard = len(machine.broker.messages)
    machine.send(command)
    answer = machine.hear("commands/ack", timeout_s, heard, command_id=command["command_id"], status=status)
    ack: dict[str, Any] = answer.json
    return ack


def refused(machine: Machine, command: dict[str, Any], timeout_s: float = 60) -> tuple[str, str]:
    """Send it; the code and the message of its failure. The machine must have stayed up."""
    boot_id = machine.boot_id
    ack = play(machine, command, "failed", timeout_s)
    check_stays_up(machine, 1)
    assert machine.boot_id == boot_id
    return ack["error_code"], ack["error_message"]


def start(machine: Machine) -> None:
    """Switch it on and wait until its agent is online."""
    machine.boot()
    machine.wait_booted()
    machine.wait_online()


def rebooted(machine: Machine, command: dict[str, Any]) -> None:
    """Send it; the machine must reboot and say so."""
    machine.send(command)
    machine.follow_reboot()
    machine.wait_ack(command["command_id"], "completed")


def check_stays_up(machine: Machine, for_s: float) -> None:
    assert machine.stays_up(for_s), machine.lives


def wait_helper_started(machine: Machine) -> None:
    """Health asks it when the agent starts. To stop it before it is up makes the bus, and all who call, wait for it."""
    machine.run("sh", "-c", f"until systemctl is-active -q {HELPER}; do sleep 0.1; done")


def wait_logged(machine: Machine, words: str, *units: str) -> None:
    """journald puts into its files a little later what somebody has said."""
    patience = Patience(30)
    while words not in (lines := machine.journal(*units)):
        assert not patience.is_over, lines[-3000:]
        time.sleep(0.2)


def reboot_by_hand(machine: Machine) -> None:
    """Until it is up again. systemctl itself may be ended by what it has asked for."""
    machine.run("systemctl", "reboot", check=False)
    machine.follow_reboot()


def stop_slowly(machine: Machine, for_s: int) -> None:
    """From now on it goes down so much later: else a container is back before anybody has seen that it was away."""
    machine.write("/etc/systemd/system/stops-slowly.service", STOPS_SLOWLY.format(for_s=for_s))
    machine.run("systemctl", "enable", "--now", "stops-slowly")


def recorded(machine: Machine) -> list[dict[str, Any]]:
    """The lines of the helper's record; behind them lies the room that it has reserved."""
    header, *lines = map(json.loads, machine.read(RECORD).rstrip("\0").splitlines())
    assert header == {"version": 1}
    return lines


def status(machine: Machine) -> dict[str, Any]:
    """`infoscreen-reboot status --json`."""
    report: dict[str, Any] = json.loads(machine.run("infoscreen-reboot", "status", "--json"))
    return report


def unit(machine: Machine, name: str, prop: str) -> str:
    return machine.run("systemctl", "show", name, "--value", f"--property={prop}").strip()


def kill_agent(machine: Machine) -> None:
    machine.kill(AGENT)


def drop_in(machine: Machine, name: str, *lines: str) -> None:
    machine.drop_in(name, *lines)
