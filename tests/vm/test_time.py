"""The clock is right when the network is, and the client is online when the clock is right.

These tests use the machine of the others and come last: they leave it with another clock and another way to the broker.
"""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.broker.conftest import Authority
from tests.vm.conftest import TLS_PORT
from tests.vm.hands import SLOW_S, diagnosis
from tools.lab.patience import Patience
from tools.lab.screen import AGENT, CLOCK_FLAG, CLOCK_SNIPPET, new_command
from tools.lab.vm import VirtualMachine

# timesyncd has tried in vain by then at once and after about 34 and 98 s, and would by itself try again after 227 s.
NETWORK_COMES_S = 120
PROMISED_S = 15
CONNECTS_WITHIN_S, LONG_PAUSE_S = 5, 20
LONG_AGO, LATER_AND_STILL_WRONG = "2019-03-01", "2019-04-01"
CA = "/etc/infoscreen-reboot/ca.pem"
SNTP = Path(__file__).with_name("sntp.py")
TIMESYNCD = "systemd-timesyncd.service"
CLOCK_UNIT, HOOK = "infoscreen-reboot-clock.service", "/usr/lib/NetworkManager/dispatcher.d/50-infoscreen-reboot"


def uptime_s(machine: VirtualMachine) -> float:
    return float(machine.read("/proc/uptime").split()[0])


def synchronised_at_s(machine: VirtualMachine) -> float:
    """Waits for timesyncd's mark; the uptime then."""
    machine.run(f"until [ -e {CLOCK_FLAG} ]; do sleep 0.2; done", timeout_s=SLOW_S)
    return uptime_s(machine)


def check_that_the_doctor_finds_nothing_wrong(machine: VirtualMachine, clock_took_s: int) -> None:
    found = diagnosis(machine)
    assert [line for lines in found.values() for line in lines if not line.startswith("ok:")] == []
    assert f"ok: synchronised {clock_took_s} s after the network came" in found["clock"][0]
    assert found["watchdog"] == ["ok: /dev/watchdog0 is armed: systemd has 1min for each sign of life"]
    assert len(found["SSD timers"]) == 1 and re.fullmatch("ok: sd[ab] has 10 s", found["SSD timers"][0])
    assert len(found["tuning"]) == 1 and "are in force" in found["tuning"][0]


@pytest.fixture(scope="module")
def machine(machine: VirtualMachine) -> VirtualMachine:
    """Without a network, in which a time server and the broker wait for it."""
    in_network = "nsenter", f"--net=/run/netns/{machine.scratch.name}"
    machine.scratch.popen(*in_network, "/usr/bin/python3", SNTP, "127.0.0.1", output=subprocess.DEVNULL)
    machine.plug_in(False)
    machine.run("while ip route | grep -q .; do sleep 1; done", timeout_s=SLOW_S)
    return machine


def test_a_command_is_judged_as_soon_as_a_late_network_is_there(suite: str, machine: VirtualMachine) -> None:
    # From here on nobody plays timesyncd.
    machine.run(f"rm {CLOCK_SNIPPET} {CLOCK_FLAG}; systemctl unmask systemd-timedated.service")
    machine.run(f"systemctl restart {TIMESYNCD} {AGENT}")
    heard = len(machine.broker.messages)
    machine.run(f"sleep {NETWORK_COMES_S}", timeout_s=SLOW_S)
    assert machine.run(f"systemctl is-active {TIMESYNCD}; systemctl is-active NetworkManager") == ("active\nactive\n")
    assert machine.run(f"ip route; test -e {CLOCK_FLAG} || echo not yet") == "not yet\n"

    network_came_s = uptime_s(machine)
    machine.plug_in()
    took_s = synchronised_at_s(machine) - network_came_s
    print(f"{suite}: the clock was right {took_s:.0f} s after the network came")
    assert took_s <= PROMISED_S
    machine.wait_online(SLOW_S, after=heard)
    since_s = uptime_s(machine)
    late = new_command(machine.uuid, issued_at="2026-04-03T12:48:10Z", expires_at="2026-04-03T12:52:10Z")
    machine.send(late)
    # Held, if the clock were not trusted.
    assert machine.wait_ack(late["command_id"], "failed", SLOW_S)["error_code"] == "expired"
    assert uptime_s(machine) - since_s <= PROMISED_S

    told = machine.run("until grep -s . /run/infoscreen-reboot-clock/took-s; do sleep 0.2; done", timeout_s=SLOW_S)
    assert int(told) <= PROMISED_S
    assert "has set the clock" in machine.run(f"journalctl -b -u {CLOCK_UNIT}")
    check_that_the_doctor_finds_nothing_wrong(machine, int(told))

    # A link that flaps restarts timesyncd once, and not so often that systemd would have enough of it. Or not at
    # all: it asks of its own accord now and then, and says each time that it is synchronised.
    before = int(machine.run(f"journalctl -b -u {TIMESYNCD} | grep -c Started"))
    machine.run(f"rm {CLOCK_FLAG}; for i in $(seq 12); do {HOOK} card up; {HOOK} lo up; {HOOK} card down; done")
    synchronised_at_s(machine)
    machine.run(f"while systemctl --quiet is-active {CLOCK_UNIT}; do sleep 0.2; done", timeout_s=SLOW_S)
    assert int(machine.run(f"journalctl -b -u {TIMESYNCD} | grep -c Started")) in (before, before + 1)

    # Another daemon's clock is its own: nothing is restarted or started.
    machine.run(f"systemctl stop {TIMESYNCD}; rm {CLOCK_FLAG}; {HOOK} card up")
    machine.run(f"while systemctl --quiet is-active {CLOCK_UNIT}; do sleep 0.2; done", timeout_s=SLOW_S)
    assert machine.run(f"systemctl is-active {TIMESYNCD}", check=False) == "inactive\n"
    assert machine.run("systemctl is-failed --quiet '*clock*' || echo none") == "none\n"


def wait_pause(machine: VirtualMachine, at_least_s: int = 0) -> None:
    """Waits until the agent will try again only so much later."""
    while True:
        words = machine.run(f"systemctl show --value -p StatusText {AGENT}")
        assert "connected to" not in words
        pause = re.search(r"certificate is not yet valid.*; next attempt in (\d+) s", words)
        if pause and int(pause[1]) >= at_least_s:
            return
        machine.run("sleep 3")


def test_a_broker_whose_certificate_was_not_yet_valid_is_connected_to_when_the_clock_is_set(
    suite: str, machine: VirtualMachine, authority: Authority
) -> None:
    machine.plug_in()
    machine.write(CA, authority.certificate.read_text())
    machine.configure(MQTT_PORT=str(TLS_PORT), MQTT_TLS="yes", MQTT_TLS_CA=CA)
    before = len(machine.broker.messages)
    back = f"date -s {LONG_AGO}"
    machine.run(f"systemctl stop {AGENT} {TIMESYNCD}; {back}; systemctl start {AGENT}", timeout_s=SLOW_S)
    wait_pause(machine)

    # Who listens has to hear each time that it is set, and not only the first.
    machine.run(f"date -s {LATER_AND_STILL_WRONG}")
    # If it tries earlier than this pause ends, it has another reason.
    wait_pause(machine, LONG_PAUSE_S)
    patience = Patience(CONNECTS_WITHIN_S)
    set_at_s = float(machine.run(f"cut -d' ' -f1 /proc/uptime; date -s @{time.time():.0f} >/dev/null"))
    machine.wait_online(SLOW_S, after=before)
    # It is online by the broker's word a moment before it says so itself.
    is_connected = f"systemctl show --value -p StatusText {AGENT} | grep -q 'connected to'"
    machine.run(f"until {is_connected}; do sleep 0.2; done", timeout_s=SLOW_S)
    found = machine.run(f"journalctl -b -u {AGENT} -o short-monotonic --grep '^connected to' | tail -1")
    took_s = float(found.split("]")[0].strip("[ ")) - set_at_s
    print(f"{suite}: connected {took_s:.1f} s after the clock was set")
    # The machine has its own time, but the broker that it talks to has the host's.
    assert 0 < took_s <= patience.stretched_s
