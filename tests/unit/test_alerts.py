"""The failure notifier: what it says, when it says it, and what an alert on file is good for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from infoscreen_reboot.client import config
from infoscreen_reboot.client.alerts import Alert, Alerts
from infoscreen_reboot.client.config import ConfigError
from infoscreen_reboot.client.notifier.notify_failure import Notifier, Outcome, ask, read_outcome
from infoscreen_reboot.contract import telemetry, wire
from infoscreen_reboot.contract.telemetry import FailureAlert
from infoscreen_reboot.contract.topics import Topics
from infoscreen_reboot.mqtt.messages import Message, NotDelivered
from tests.world import CLIENT

BOOT = "0f8fad5b-d9cb-469f-a165-70867728950e"
SECRET = "open sesame"
UNIT = r"player-wall@left\x2d1.service"
FAILED = {
    "ActiveState": "failed",
    "Result": "exit-code",
    "ExecMainCode": "1",
    "ExecMainStatus": "3",
    "NRestarts": "5",
    "InvocationID": "run 1",
}


class Systemd:
    """Answers systemctl and journalctl; each look at the unit takes the next of `story`, the last one for ever."""

    def __init__(self, *story: dict[str, str]) -> None:
        self.story = list(story)
        self.log = "first line\nlast line\n"
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, *command: str) -> str:
        self.asked.append(command)
        if command[0] == "journalctl":
            return self.log
        look = self.story.pop(0) if len(self.story) > 1 else self.story[0]
        return "".join(f"{name}={value}\n" for name, value in look.items())


class Desk:
    """A notifier with all it needs; `answers` are what its attempts to send end with, None for the broker's yes."""

    def __init__(self, systemd: Systemd, directory: Path, *answers: str | None) -> None:
        self.alerts = Alerts(directory)
        self.sent: list[Message] = []
        self.slept_s = 0.0
        self._answers = list(answers)
        self.notifier = Notifier(UNIT, CLIENT, BOOT, self.alerts, systemd, self._send, SECRET, self._sleep)
        self.on_send: Callable[[], object] = lambda: None

    async def _send(self, message: Message) -> None:
        self.on_send()
        if self._answers and (refusal := self._answers.pop(0)) is not None:
            raise NotDelivered(refusal)
        self.sent.append(message)

    async def _sleep(self, delay_s: float) -> None:
        self.slept_s += delay_s

    def run(self) -> list[dict[str, Any]]:
        """What was sent, in the words of the contract."""
        asyncio.run(self.notifier.run())
        contents = [json.loads(message.payload) for message in self.sent]
        for content in contents:
            wire.check("service_failed", content)
        return contents


@pytest.fixture(autouse=True)
def nothing_given_along(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # Nor a systemd that wants to hear of us: the tests may run in a service themselves.
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    for name in ("UNIT", "SERVICE_RESULT", "EXIT_CODE", "EXIT_STATUS", "INVOCATION_ID"):
        monkeypatch.delenv(f"MONITOR_{name}", raising=False)
    yield


def test_an_alert_says_what_systemd_knows_and_the_last_words_of_the_unit(tmp_path: Path) -> None:
    systemd = Systemd(FAILED)
    desk = Desk(systemd, tmp_path)
    (alert,) = desk.run()
    assert (alert["unit"], alert["client_uuid"], alert["boot_id"]) == (UNIT, CLIENT, BOOT)
    assert (alert["result"], alert["exit_status"], alert["restarts"]) == ("exit-code", 3, 5)
    assert alert["last_log_lines"] == ["first line", "last line"]
    (message,) = desk.sent
    assert (message.topic, message.qos, message.retain) == (Topics(CLIENT).service_failed, 1, True)
    assert all(UNIT in word for command in systemd.asked for word in command if "player" in word)


def test_what_the_log_has_of_a_password_is_left_out(tmp_path: Path) -> None:
    systemd = Systemd(FAILED)
    told = "player: cannot log in with open sesame, bad password"
    slip = "u.service: Ignoring invalid environment assignment 'export MQTT_PASSWORD_BROKER=other=secret': /etc/50.env"
    umlaut = "/etc/50.env:2: invalid UTF-8 value for key MQTT_PASSWORD_BROKER: 'caf?', ignoring."
    systemd.log = f"{told}\n{slip}\n{umlaut}\n"
    (alert,) = Desk(systemd, tmp_path).run()
    assert alert["last_log_lines"] == [
        "player: cannot log in with (left out), bad password",
        "u.service: Ignoring invalid environment assignment 'export MQTT_PASSWORD_BROKER=(left out)",
        "/etc/50.env:2: invalid UTF-8 value for key MQTT_PASSWORD_BROKER: (left out)",
    ]


def test_it_is_on_file_before_it_is_sent_and_stays_there(tmp_path: Path) -> None:
    desk = Desk(Systemd(FAILED), tmp_path)
    seen = []
    desk.on_send = lambda: seen.extend(desk.alerts.standing())
    desk.run()
    assert seen == desk.alerts.standing() == [Alert(UNIT, "run 1", desk.sent[0].payload)]


def test_a_broker_that_is_away_gets_the_same_bytes_later(tmp_path: Path) -> None:
    systemd = Systemd(FAILED)
    desk = Desk(systemd, tmp_path, "nobody there", "nobody there", None)
    assert len(desk.run()) == 1
    assert desk.slept_s > 0
    assert [command[0] for command in systemd.asked].count("journalctl") == 1


def test_a_notifier_that_was_started_again_sends_what_the_first_had_made(tmp_path: Path) -> None:
    first = Desk(Systemd(FAILED), tmp_path)
    first.run()
    second = Desk(Systemd(FAILED), tmp_path)
    second.run()
    assert second.sent == first.sent


def test_a_new_failure_is_a_new_alert_and_takes_the_place_of_the_old(tmp_path: Path) -> None:
    Desk(Systemd(FAILED), tmp_path).run()
    desk = Desk(Systemd(FAILED | {"InvocationID": "run 2", "ExecMainStatus": "4"}), tmp_path)
    (alert,) = desk.run()
    assert alert["exit_status"] == 4
    assert [standing.run for standing in desk.alerts.standing()] == ["run 2"]


def test_a_unit_that_fails_again_while_its_alert_is_on_the_way_is_told_of_again(tmp_path: Path) -> None:
    again = FAILED | {"InvocationID": "run 2", "NRestarts": "0"}
    assert [alert["restarts"] for alert in Desk(Systemd(FAILED, again), tmp_path).run()] == [5, 0]


def test_a_restart_is_no_failure_and_what_it_comes_to_is_waited_for(tmp_path: Path) -> None:
    restarting = FAILED | {"ActiveState": "activating"}
    running = FAILED | {"ActiveState": "active"}
    down = FAILED | {"ActiveState": "inactive"}
    story = [restarting, running, restarting, down, *[restarting] * 20, running, FAILED]
    assert len(Desk(Systemd(*story), tmp_path).run()) == 1


@pytest.mark.parametrize("state", ["active", "inactive"])
def test_a_unit_that_came_up_or_was_reset_is_not_told_of(tmp_path: Path, state: str) -> None:
    desk = Desk(Systemd(FAILED | {"ActiveState": "activating"}, FAILED | {"ActiveState": state}), tmp_path)
    assert desk.run() == []
    assert desk.slept_s >= 10


def test_a_unit_that_came_up_while_the_broker_was_away_is_not_told_of(tmp_path: Path) -> None:
    desk = Desk(Systemd(FAILED, FAILED | {"ActiveState": "active"}), tmp_path, "nobody there")
    assert desk.run() == []


def test_what_the_agent_cleared_too_early_is_on_file_again(tmp_path: Path) -> None:
    desk = Desk(Systemd(FAILED, FAILED | {"ActiveState": "active"}), tmp_path)
    desk.on_send = lambda: desk.alerts.forget(UNIT)
    desk.run()
    assert [alert.unit for alert in desk.alerts.standing()] == [UNIT]


def test_without_a_place_to_keep_it_the_alert_is_sent_all_the_same(tmp_path: Path) -> None:
    desk = Desk(Systemd(FAILED), tmp_path / "missing", "nobody there", None)
    assert len(desk.run()) == 1


def test_without_an_answer_of_systemd_or_the_journal_the_alert_says_what_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systemd = Systemd({})
    systemd.log = ""
    (alert,) = Desk(systemd, tmp_path).run()
    assert (alert["result"], alert["exit_status"], alert["restarts"]) == ("unknown", None, 0)
    assert alert["last_log_lines"] == []
    given = {"EXIT_CODE": "killed", "EXIT_STATUS": "SEGV", "SERVICE_RESULT": "signal", "INVOCATION_ID": "run 2"}
    for name, value in given.items():
        monkeypatch.setenv(f"MONITOR_{name}", value)
    (alert,) = Desk(systemd, tmp_path).run()
    assert (alert["result"], alert["exit_status"]) == ("signal", "SEGV")


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("0", "0", None),
        ("1", "78", 78),
        ("2", "9", "KILL"),
        ("3", "11", "SEGV"),
        ("2", "36", "RTMIN+2"),
        ("", "", None),
    ],
)
def test_an_exit_status_is_a_number_or_a_signals_name(code: str, status: str, expected: int | str | None) -> None:
    assert read_outcome(FAILED | {"ExecMainCode": code, "ExecMainStatus": status}, {}).exit_status == expected


def test_an_exit_status_that_systemd_gave_along_reads_the_same() -> None:
    given = {"MONITOR_EXIT_CODE": "exited", "MONITOR_EXIT_STATUS": "78", "MONITOR_SERVICE_RESULT": "exit-code"}
    assert read_outcome({}, given) == Outcome("", "", "exit-code", 78, 0)


@pytest.mark.parametrize("command", [("false",), ("no-such-command",)])
def test_a_command_that_fails_says_nothing(command: tuple[str, ...]) -> None:
    assert ask(*command) == ""
    assert ask("echo", "hello") == "hello\n"


def test_alerts_are_listed_by_unit_and_forgotten_one_by_one(tmp_path: Path) -> None:
    alerts = Alerts(tmp_path)
    content = FailureAlert(CLIENT, "a.service", "exit-code", 1, 5, BOOT, datetime.now(UTC), ("a\nb",))
    payload = telemetry.encode_failure_alert(content)
    both = [Alert("a.service", "1", payload), Alert("b.mount", "", payload)]
    for alert in reversed(both):
        alerts.write(alert)
    assert alerts.standing() == both
    alerts.forget("a.service")
    alerts.forget("a.service")
    assert alerts.standing() == both[1:]
    assert alerts.read("a.service") is None


def test_what_is_no_alert_is_not_listed(tmp_path: Path) -> None:
    assert Alerts(tmp_path / "missing").standing() == []
    (tmp_path / "torn.service.alert").write_bytes(b"run 1")
    (tmp_path / "a.service.alert.4711").write_bytes(b"run 1\n{}")
    for number, rubbish in enumerate((b"", b"{}", b"\xff\x00", b"[" * 100_000, b'{"event": "service_failed"}')):
        (tmp_path / f"rubbish{number}.service.alert").write_bytes(b"run 1\n" + rubbish)
    (tmp_path / "directory.service.alert").mkdir()
    (tmp_path / "not a unit.alert").write_bytes(b"run 1\n{}")
    assert Alerts(tmp_path).standing() == []


def test_the_address_needs_the_broker_and_the_client_only() -> None:
    good = {"MQTT_BROKER": "broker.example", "CLIENT_UUID": CLIENT}
    broker, client_uuid = config.load_address(good | {"COMMAND_CLOCK_TIMEOUT_S": "never"})
    assert (broker.host, client_uuid) == ("broker.example", CLIENT)
    with pytest.raises(ConfigError, match="MQTT_PORT"):
        config.load_address(good | {"MQTT_PORT": "x"})
