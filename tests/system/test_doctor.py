"""What `infoscreen-reboot doctor` says of a machine on which one thing at a time is wrong, and of a sound one."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.system.conftest import CA
from tests.system.hands import HELPER_CALL, start
from tools.lab.machine import AGENT, HELPER, Machine

RULE = "/usr/share/polkit-1/rules.d/50-infoscreen-reboot.rules"
HISTORY = "/var/lib/infoscreen-reboot-helper/history.jsonl"


def doctor(machine: Machine) -> tuple[int, list[dict[str, Any]]]:
    """Its exit code and its findings."""
    told = machine.run("sh", "-c", "infoscreen-reboot doctor --json; echo $?")
    report, _, code = told.strip().rpartition("\n")
    findings: list[dict[str, Any]] = json.loads(report)["findings"]
    return int(code), findings


def problems(machine: Machine) -> list[tuple[str, str, str]]:
    """Check, text and advice of each problem; the exit code says whether there is one."""
    code, findings = doctor(machine)
    found = [(f["check"], f["text"], f["advice"]) for f in findings if f["verdict"] == "problem"]
    assert code == bool(found), findings
    return found


@contextmanager
def configured(machine: Machine, **variables: str) -> Iterator[None]:
    """As if an administrator had written that; put right afterwards, the agent online again."""
    before = {name: machine.settings.get(name) for name in variables}
    machine.configure(**variables)
    machine.run("systemctl", "restart", AGENT)
    yield
    heard = len(machine.broker.messages)
    machine.configure(**before)
    machine.run("systemctl", "restart", AGENT)
    machine.wait_online(after=heard)


@contextmanager
def no_polkit_rule(machine: Machine) -> Iterator[None]:
    machine.run("mv", RULE, "/root/rule")
    machine.run("systemctl", "restart", "polkit")
    yield
    machine.run("mv", "/root/rule", RULE)
    machine.run("systemctl", "restart", "polkit")


@contextmanager
def masked_helper(machine: Machine) -> Iterator[None]:
    machine.run("systemctl", "mask", "--runtime", "--now", HELPER)
    yield
    machine.run("systemctl", "unmask", "--runtime", HELPER)


@contextmanager
def lockout(machine: Machine) -> Iterator[None]:
    """A history that cannot be read counts as full."""
    machine.write(HISTORY, "rubbish", 0o600)
    machine.run("systemctl", "restart", HELPER)  # a stop would be cancelled by a call of the agent
    yield
    machine.run("rm", HISTORY)
    machine.run("systemctl", "restart", HELPER)


@contextmanager
def inhibitor(machine: Machine) -> Iterator[None]:
    blocker = "systemd-inhibit", "--what=shutdown", "--mode=block", "--who=apt of the operator", "--why=half an upgrade"
    machine.run("systemd-run", "-q", "--unit=blocker", *blocker, "sleep", "infinity")
    machine.run("sh", "-c", "until systemd-inhibit --list | grep -q 'half an upgrade'; do :; done", timeout_s=20)
    yield
    machine.run("systemctl", "stop", "blocker")


@contextmanager
def no_clock(machine: Machine) -> Iterator[None]:
    machine.set_clock_synchronised(now=False)
    yield
    machine.set_clock_synchronised(now=True)


def test_each_of_ten_faults_is_named_with_what_to_do_and_nothing_else(secured: Machine) -> None:
    faults: list[tuple[Callable[[], Any], str, str, str]] = [
        (
            lambda: configured(secured, MQTT_BROKER="broker.invalid"),
            *("name resolution", "broker.invalid has no address", "correct MQTT_BROKER"),
        ),
        (
            lambda: configured(secured, MQTT_PORT="8884"),
            *("TCP", "broker.example:8884 cannot be reached: connection refused", "correct MQTT_BROKER and MQTT_PORT"),
        ),
        (
            lambda: configured(secured, MQTT_TLS_CA=f"{CA}.other"),
            *("TLS", "the broker's certificate is not accepted", "set MQTT_TLS_CA"),
        ),
        (
            lambda: configured(secured, MQTT_PASSWORD_BROKER="slip of the pen"),
            *("login", "the broker refuses the login as screen: not authorised", "correct MQTT_USER and MQTT_PASSWORD"),
        ),
        (
            lambda: configured(secured, MQTT_USER="stranger", MQTT_PASSWORD_BROKER="stranger-opens-sesame"),
            *("publish", f"infoscreen/{secured.uuid}/commands/ack: not authorised", "let it publish on"),
        ),
        (lambda: no_polkit_rule(secured), "polkit", "it does not let the agent reboot", "reinstall"),
        (lambda: masked_helper(secured), "helper", "it cannot be reached", "systemctl unmask"),
        (lambda: lockout(secured), "lockout", "next possible at", "wait until then"),
        (lambda: inhibitor(secured), "inhibitors", "apt of the operator: half an upgrade", "let it finish"),
        (lambda: no_clock(secured), "clock", "not synchronised", "no time daemon runs"),
    ]
    assert problems(secured) == []
    for make, check, text, advice in faults:
        with make():
            (found,) = problems(secured)
            assert found[0] == check
            assert text in found[1] and advice in found[2]
    assert problems(secured) == []


def test_a_certificate_for_another_host_is_named(secured: Machine) -> None:
    secured.configure(MQTT_BROKER="other.example")
    ((check, text, _),) = problems(secured)
    assert check == "TLS" and "certificate is not valid for 'other.example'" in text


def test_the_probe_leaves_the_agent_and_the_controller_alone(secured: Machine) -> None:
    assert problems(secured) == []
    # Deliveries are in order: with this one heard, all that the probe could have sent has been heard.
    secured.broker.publish("lab/marker", b"now")
    secured.broker.wait_for(lambda m: m.topic == "lab/marker")
    assert secured.broker.on(secured.topic("commands/ack")) == []
    assert [m for m in secured.broker.on(secured.topic("health")) if not m.payload] == []
    # It logged in with the agent's will, and the broker has not published it.
    assert findings(secured, "will") == [
        ("ok", f"the broker lets us leave a will on {secured.topic('status')}", ""),
    ]
    assert findings(secured, "protocol") == [("ok", "MQTT 5", "")]
    # One session from first to last: the agent was not thrown out.
    told = {(m.json["session_id"], m.json["state"]) for m in secured.broker.on(secured.topic("status"))}
    assert [state for _, state in told] == ["online"]
    assert secured.run("busctl", "get-property", *HELPER_CALL, "Lockout").strip() == '(uuus) 0 3 900 ""'


def test_a_bad_configuration_and_an_agent_that_is_stopped_or_masked_are_told_apart(machine: Machine) -> None:
    machine.run("systemctl", "stop", AGENT)
    assert [found[:2] for found in problems(machine)] == [("agent", "it is not running: inactive (success)")]
    machine.run("systemctl", "mask", "--runtime", AGENT)
    ((check, text, _),) = problems(machine)
    assert check == "agent" and text.startswith("it is masked")
    machine.run("systemctl", "unmask", "--runtime", AGENT)
    machine.configure(MQTT_PORT="mqtt", MQTT_TLS="perhaps")
    assert [found[0] for found in problems(machine)] == ["configuration", "configuration"]
    told = machine.run("infoscreen-reboot", "doctor", check=False)
    assert "problem  configuration: MQTT_PORT is 'mqtt'" in told
    assert told.strip().endswith("a remote reboot will not work")


def findings(machine: Machine, check: str) -> list[tuple[str, str, str]]:
    """Verdict, text and advice of what it says about that."""
    return [(f["verdict"], f["text"], f["advice"]) for f in doctor(machine)[1] if f["check"] == check]


def test_a_clone_of_the_client_is_named(machine: Machine) -> None:
    assert [verdict for verdict, _, _ in findings(machine, "clones")] == ["ok"]
    # Another host with the same client id, as its cloned card would have it, which is thrown out and comes again.
    clone = "mosquitto_pub", "-h", "127.0.0.1", "-i", f"infoscreen-{machine.uuid}", "-t", "lab/clone", "-n"
    for _ in range(4):
        heard = len(machine.broker.messages)
        subprocess.run(["nsenter", f"--net=/run/netns/{machine.name}", *clone], check=True)
        machine.wait_online(after=heard)
    ((verdict, text, advice),) = findings(machine, "clones")
    # Brokers that say so are told apart from such as mosquitto 2.0.11, which only hangs up.
    told = {
        "problem": "another host has taken this client's session 4 times in the last 10 minutes",
        "warning": "the broker has closed this client's connection 4 times in the last 10 minutes",
    }
    assert text.startswith(told[verdict])
    assert "two hosts" in text and "CLIENT_UUID" in advice


def test_the_time_daemon_that_runs_is_the_one_that_advice_is_about(machine: Machine) -> None:
    machine.set_clock_synchronised(now=False)
    ((verdict, _, advice),) = findings(machine, "clock")
    assert verdict == "problem" and advice.startswith("no time daemon runs here")
    for name, command in (("chrony", "chronyc -n sources"), ("openntpd", "ntpctl -s all")):
        machine.write(f"/etc/systemd/system/{name}.service", "[Service]\nExecStart=/bin/sleep infinity\n")
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "start", name)
        ((_, _, advice),) = findings(machine, "clock")
        assert advice.startswith(f"{name} runs: {command}")
        machine.set_clock_synchronised(now=True)
        assert findings(machine, "clock") == [("ok", f"synchronised; {name} runs", "")]
        machine.set_clock_synchronised(now=False)
        machine.run("systemctl", "stop", name)


def test_an_account_that_is_a_login_the_bus_and_a_disk_that_is_full_are_named(parked: Machine) -> None:
    parked.nspawn_options.append("--tmpfs=/mnt:size=1m")
    start(parked)
    assert findings(parked, "account") == [("ok", "nobody logs in as infoscreen-reboot", "")]
    parked.run("sh", "-c", "usermod --shell /bin/bash infoscreen-reboot; echo infoscreen-reboot:secret | chpasswd")
    ((verdict, text, advice),) = findings(parked, "account")
    assert verdict == "warning"
    assert "its shell is /bin/bash and it has a password" in text
    parked.run("sh", "-c", advice)
    assert [told[0] for told in findings(parked, "account")] == ["ok"]
    assert findings(parked, "bus") == [("ok", "the system bus is dbus", "")]
    assert [told[0] for told in findings(parked, "disk")] == ["ok"]
    # The helper's, which it needs only when it is called.
    helpers = "/var/lib/infoscreen-reboot-helper"
    parked.run("sh", "-c", f"mount --bind /mnt {helpers}; dd if=/dev/zero of={helpers}/ballast bs=4k; true")
    ((verdict, text, advice),) = findings(parked, "disk")
    assert verdict == "problem" and text.startswith(f"it is full: {helpers} has 0 KiB left")
    parked.run("umount", helpers)


def test_a_tuning_value_that_an_administrator_overrides_is_named_with_its_file(machine: Machine) -> None:
    def tuning() -> list[tuple[str, str, str]]:
        return [(f["verdict"], f["text"], f["advice"]) for f in doctor(machine)[1] if f["check"] == "tuning"]

    folder = machine.root / "usr/lib/systemd/system.conf.d"
    folder.mkdir(exist_ok=True)
    (folder / "90-infoscreen-reboot.conf").write_text("[Manager]\nDefaultTimeoutStopSec=17s\n")
    unread = [told for told in tuning() if "DefaultTimeoutStopSec is 1" in told[1]]
    assert [told[0] for told in unread] == ["warning"]
    assert "not in force until the next boot" in unread[0][2]
    machine.run("systemctl", "daemon-reload")
    assert not [told for told in tuning() if "DefaultTimeoutStopSec" in told[1]]
    machine.write("/etc/systemd/system.conf.d/95-site.conf", "[Manager]\nDefaultTimeoutStopSec=20s\n")
    machine.run("systemctl", "daemon-reload")
    (overridden,) = [told for told in tuning() if "DefaultTimeoutStopSec" in told[1]]
    assert overridden[0] == "warning"
    assert "is 20s, overridden by /etc/systemd/system.conf.d/95-site.conf; the package's value is 17s" in overridden[1]
