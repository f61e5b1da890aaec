"""The broker's password is read by who needs it, and shows nowhere else, whatever goes wrong."""

from __future__ import annotations

import pytest

from tests.system.hands import drop_in, refused, unit
from tests.system.test_alerts import GIVES_UP_SOON, notifier_of, wait_alert, wait_state
from tools.lab.machine import AGENT, Machine
from tools.lab.screen import SETTINGS

RIGHT, WRONG = "screen-opens-sesame", "a-slip-of-the-pen"
STORE = "/etc/credstore/mqtt-password-broker"
MQTT = "/usr/share/infoscreen-reboot/infoscreen_reboot/mqtt/session.py"
VISIT = "/usr/share/infoscreen-reboot/infoscreen_reboot/client/doctor/visit.py"
PATTERNS = "/root/patterns"
COMMANDS = "status", "status --json", "history", "history --json", "doctor", "doctor --json", "check-config"
# What systemd and the bus say of units, and what stands in the journal.
ASKING = r"""
systemctl show
systemctl show '*'
systemctl status --full --no-pager '*'
for unit in $(busctl tree --list org.freedesktop.systemd1 | grep -E '/unit/(infoscreen|run)_2d'); do
    busctl introspect --full org.freedesktop.systemd1 "$unit"
done
journalctl --no-pager --output=verbose
ps axww
"""
# What an ordinary user may try with processes besides.
PRYING = r"""
ps axwwe
cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\0' '\n'
"""


def give(machine: Machine, way: str, password: str) -> None:
    """To the agent, by one of the ways that its manual has."""
    if way == "settings":
        machine.configure(MQTT_PASSWORD_BROKER=password)
    else:
        machine.configure(MQTT_PASSWORD_BROKER=None)
        machine.write(STORE, f"{password}\n", 0o600)
        machine.run("chmod", "700", "/etc/credstore")


def look_around(machine: Machine) -> str:
    """All that root and a person without rights are told, and all that the broker was."""
    told = [
        machine.run("sh", "-c", ASKING, check=False, timeout_s=120),
        machine.run("sh", "-c", ASKING + PRYING, user="visitor", check=False, timeout_s=120),
    ]
    told += [f"{message.topic} {message.payload.decode(errors='replace')}" for message in machine.broker.messages]
    return "\n".join([*told, machine.broker.log()])


def places(machine: Machine) -> set[str]:
    """The files in which a secret stands, the mounted credentials left out: those the next test looks at."""
    where = "/etc", "/home", "/run", "/tmp", "/var"
    found = machine.run("grep", "-rslaFf", PATTERNS, *where, check=False, timeout_s=120)
    return {path for path in found.split() if not path.startswith("/run/credentials/")}


def check_nothing_shows(text: str) -> None:
    for secret in (RIGHT, WRONG):
        assert secret not in text, text[max(0, text.index(secret) - 300) : text.index(secret) + 100]


def own_words(machine: Machine) -> str:
    told = [machine.run("infoscreen-reboot", *words.split(), check=False) for words in COMMANDS]
    return "\n".join([*told, machine.run("infoscreen-reboot", "status", user="visitor", check=False)])


@pytest.mark.parametrize("way", ["settings", "credential"])
def test_the_password_shows_nowhere_through_success_refusal_bad_settings_and_a_crash(
    secured: Machine, way: str
) -> None:
    machine = secured
    machine.write(PATTERNS, f"{RIGHT}\n{WRONG}\n", 0o600)
    drop_in(machine, AGENT, *GIVES_UP_SOON)

    give(machine, way, RIGHT)
    heard = len(machine.broker.messages)
    machine.run("systemctl", "restart", AGENT)
    machine.wait_online(after=heard)
    old = {"issued_at": "2026-01-01T00:00:00Z", "expires_at": "2026-01-01T00:10:00Z"}
    assert refused(machine, machine.command(**old))[0] == "expired"
    told = own_words(machine)
    assert "ready for commands" in told and "the broker lets us in as screen" in told
    check_nothing_shows(told + look_around(machine))

    give(machine, way, WRONG)
    machine.run("systemctl", "restart", AGENT)
    told = own_words(machine)
    assert "the broker refuses the login as screen: not authorised" in told
    check_nothing_shows(told + look_around(machine))

    give(machine, way, RIGHT)
    machine.configure(COMMAND_CLOCK_TIMEOUT_S="never")
    machine.run("systemctl", "restart", AGENT, check=False)
    wait_alert(machine, AGENT)
    machine.configure(COMMAND_CLOCK_TIMEOUT_S=None)
    check_nothing_shows(own_words(machine) + look_around(machine))

    # A bug where the settings are at hand, and one who writes all of them into the exception.
    code, line = machine.read(MQTT), "        presence = self._presence()\n"
    assert code.count(line) == 1
    machine.write(MQTT, code.replace(line, f"{line}        raise RuntimeError(self._settings, vars(self))\n"))
    machine.run("systemctl", "reset-failed", AGENT, notifier_of(AGENT), check=False)
    machine.run("systemctl", "restart", AGENT, check=False)
    wait_state(machine, AGENT, "failed")
    alert = machine.broker.wait_for(lambda m: b"RuntimeError" in m.payload, 60)
    assert any("Traceback" in text or "BrokerSettings" in text for text in alert.json["last_log_lines"])
    check_nothing_shows(own_words(machine) + look_around(machine))

    assert places(machine) == {SETTINGS if way == "settings" else STORE}


def test_an_ordinary_user_reads_neither_the_agents_environment_nor_where_the_password_lies(secured: Machine) -> None:
    pid = unit(secured, AGENT, "MainPID")
    assert RIGHT in secured.read(f"/proc/{pid}/environ")
    for file in (f"/proc/{pid}/environ", SETTINGS):
        assert secured.run("cat", file, user="visitor", check=False).endswith("Permission denied\n"), file
    # Not even where a file of the settings is open by itself.
    secured.run("chmod", "644", SETTINGS)
    assert secured.run("cat", SETTINGS, user="visitor", check=False).endswith("Permission denied\n")

    give(secured, "credential", RIGHT)
    secured.run("systemctl", "restart", AGENT)
    pid = unit(secured, AGENT, "MainPID")
    assert RIGHT not in secured.read(f"/proc/{pid}/environ")
    credential = f"/run/credentials/{AGENT}/mqtt-password-broker"
    assert secured.run("cat", credential) == f"{RIGHT}\n"
    for file in (f"/proc/{pid}/environ", STORE, credential):
        assert secured.run("cat", file, user="visitor", check=False).endswith("Permission denied\n"), file


def asking(machine: Machine) -> str:
    """The process of a doctor's probe that waits for a broker which never answers."""
    # It would give up after 5 s, and on a busy machine not all has been looked at by then.
    code, line = machine.read(VISIT), "PATIENCE_S = 5.0\n"
    assert code.count(line) == 1
    machine.write(VISIT, code.replace(line, "PATIENCE_S = 55.0\n"))
    silence = "import socket, time; server = socket.create_server(('127.0.0.1', 8884)); time.sleep(300)"
    machine.run("systemd-run", "-q", "--unit=silence", "python3", "-c", silence)
    machine.run("sh", "-c", "until grep -q ':22B4 ' /proc/net/tcp; do sleep 0.1; done", timeout_s=20)
    machine.configure(MQTT_PORT="8884")
    machine.run("systemd-run", "-q", "--unit=asking", "infoscreen-reboot", "doctor")
    return machine.run(
        "sh", "-c", "until pgrep -u infoscreen-reboot -f reboot-prob[e]; do :; done", timeout_s=20
    ).strip()


def core_limit(machine: Machine, pid: str) -> list[str]:
    (line,) = (line for line in machine.read(f"/proc/{pid}/limits").splitlines() if line.startswith("Max core"))
    return line.split()[4:6]


def test_while_the_doctor_asks_a_broker_neither_its_process_nor_its_unit_shows_the_password(secured: Machine) -> None:
    pid = asking(secured)
    told = secured.run("sh", "-c", PRYING + ASKING, user="visitor", check=False, timeout_s=120)
    assert "infoscreen-reboot-probe" in told and "Id=run-" in told
    check_nothing_shows(told)
    # It knows the password, or this would be no test.
    assert RIGHT in secured.read(f"/proc/{pid}/environ")


def test_none_that_knows_the_password_leaves_its_memory_behind_when_it_dies(secured: Machine) -> None:
    assert core_limit(secured, asking(secured)) == ["0", "0"]
    assert core_limit(secured, unit(secured, AGENT, "MainPID")) == ["0", "0"]
    assert unit(secured, notifier_of("player.service"), "LimitCORE") == "0"


def test_a_slip_in_the_settings_that_systemd_writes_down_does_not_get_into_the_alert(secured: Machine) -> None:
    """PID 1 logs a line that it cannot use, with what stands in it; the alert shows others the unit's log."""
    slip = f"export MQTT_PASSWORD_BROKER={RIGHT}\nCOMMAND_CLOCK_TIMEOUT_S=never\n"
    secured.write("/etc/infoscreen-reboot/agent.env.d/60-slip.env", slip, 0o640)
    secured.run("systemctl", "restart", AGENT, check=False)
    alert = wait_alert(secured, AGENT)
    assert any(
        "invalid environment assignment 'export MQTT_PASSWORD_BROKER=(left out)" in line
        for line in alert["last_log_lines"]
    )
    check_nothing_shows(str(alert))
