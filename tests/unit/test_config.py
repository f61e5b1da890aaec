"""The environment: what is read, and that every fault is named without a secret."""

from pathlib import Path

import pytest

from infoscreen_reboot.client import config
from infoscreen_reboot.client.config import ConfigError, Settings
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.contract.telemetry import Executor
from infoscreen_reboot.mqtt.manner import PROTOCOLS
from tests.world import CLIENT

LEAST = {"MQTT_BROKER": "broker.example", "CLIENT_UUID": CLIENT}


def load(**changes: str) -> Settings:
    return config.load(LEAST | changes)


def problem(**changes: str) -> str:
    with pytest.raises(ConfigError) as refused:
        load(**changes)
    (sentence,) = refused.value.problems
    return sentence


def test_a_broker_is_enough_and_the_defaults_are_safe() -> None:
    settings = load()
    assert (settings.broker.host, settings.broker.port) == ("broker.example", 8883)
    assert settings.broker.tls is not None
    assert settings.offered == frozenset(Action)
    assert settings.compat_topics and settings.require_synced_clock
    assert (settings.clock_timeout_s, settings.execution_timeout_s) == (60, 60)


def test_without_tls_the_port_is_1883_unless_it_is_given() -> None:
    assert load(MQTT_TLS="no").broker.port == 1883
    assert load(MQTT_TLS="no", MQTT_PORT="11883").broker.port == 11883
    assert load(MQTT_TLS="no").broker.tls is None


def test_the_version_of_mqtt_is_found_by_trial_unless_one_is_set() -> None:
    assert load().broker.protocol == load(MQTT_PROTOCOL="").broker.protocol == "auto"
    assert {load(MQTT_PROTOCOL=word).broker.protocol for word in PROTOCOLS} == {"auto", "5", "3.1.1"}


@pytest.mark.parametrize("word", ["no", "NO", "false", "off", "0"])
def test_a_switch_takes_the_usual_words(word: str) -> None:
    settings = load(COMMAND_SHUTDOWN_ENABLED=word, COMMAND_COMPAT_TOPICS=word, COMMAND_REQUIRE_SYNCED_CLOCK=word)
    assert settings.offered == {Action.REBOOT_HOST}
    assert not settings.compat_topics and not settings.require_synced_clock


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("MQTT_PORT", "0", "from 1 to 65535"),
        ("MQTT_PORT", "65536", "from 1 to 65535"),
        ("MQTT_PORT", "mqtts", "from 1 to 65535"),
        ("MQTT_PORT", "-1", "from 1 to 65535"),
        ("MQTT_PORT", "٨٨٨٣", "from 1 to 65535"),
        ("MQTT_TLS", "maybe", "yes and no"),
        ("MQTT_PROTOCOL", "v5", "auto, 5, 3.1.1"),
        ("MQTT_BROKER", "mqtts://broker.example", "host name"),
        ("COMMAND_SHUTDOWN_ENABLED", "2", "yes and no"),
        ("COMMAND_CLOCK_TIMEOUT_S", "61", "from 1 to 60"),
        ("COMMAND_EXECUTION_TIMEOUT_S", "14", "from 15 to 600"),
        ("CLIENT_UUID", "screen-17", "a UUID"),
    ],
)
def test_a_bad_value_is_named_with_its_variable_and_what_is_allowed(name: str, value: str, allowed: str) -> None:
    sentence = problem(**{name: value})
    assert name in sentence and value in sentence and allowed in sentence


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as refused:
        config.load({"CLIENT_UUID": "x", "MQTT_PORT": "y"})
    assert len(refused.value.problems) == 3


def test_a_variable_set_to_nothing_is_not_set() -> None:
    assert load(MQTT_PORT="", MQTT_USER="").broker.port == 8883
    assert "MQTT_BROKER is not set" in problem(MQTT_BROKER="")


def test_the_password_comes_from_the_credential_where_there_is_one(tmp_path: Path) -> None:
    tmp_path.joinpath("mqtt-password-broker").write_text("open sesame\n")
    broker = load(MQTT_USER="screen", CREDENTIALS_DIRECTORY=str(tmp_path)).broker
    assert (broker.username, broker.password) == ("screen", "open sesame")
    assert "keep one" in problem(MQTT_USER="screen", MQTT_PASSWORD_BROKER="other", CREDENTIALS_DIRECTORY=str(tmp_path))


def test_no_secret_is_ever_shown() -> None:
    secret = "open sesame"
    assert secret not in repr(load(MQTT_USER="screen", MQTT_PASSWORD_BROKER=secret))
    assert secret not in problem(MQTT_PASSWORD_BROKER=secret)
    assert secret not in problem(MQTT_USER="screen", MQTT_PASSWORD_BROKER=secret, MQTT_PORT="x")


def test_a_tls_file_is_named_when_it_is_missing_or_useless(tmp_path: Path) -> None:
    assert "MQTT_TLS_CA is '/nowhere/ca.pem'" in problem(MQTT_TLS_CA="/nowhere/ca.pem")
    useless = tmp_path / "ca.pem"
    useless.write_text("no certificate")
    assert str(useless) in problem(MQTT_TLS_CA=str(useless))
    assert "go together" in problem(MQTT_TLS_CERT=str(useless))


def test_tls_cannot_be_off_by_accident() -> None:
    assert "MQTT_TLS_CA is set" in problem(MQTT_TLS="no", MQTT_TLS_CA="/etc/ssl/ca.pem")


def test_the_client_uuid_can_come_from_a_file_or_from_the_machine(tmp_path: Path) -> None:
    file = tmp_path / "uuid"
    file.write_text(f"{CLIENT.upper()}\n")
    assert config.load({"MQTT_BROKER": "b", "CLIENT_UUID_FILE": str(file)}).client_uuid == CLIENT
    assert "keep one" in problem(CLIENT_UUID_FILE=str(file))
    with pytest.raises(ConfigError, match="/nowhere"):
        config.load({"MQTT_BROKER": "b", "CLIENT_UUID_FILE": "/nowhere"})


def test_a_slip_of_the_pen_is_told_and_does_not_stop_the_agent() -> None:
    environment = LEAST | {"COMMAND_SHUTDOWN_ENABLE": "no", "MQTT_VERIFY": "0", "HOME": "/root"}
    told = config.unknown_names(environment)
    assert len(told) == 2
    assert "did you mean COMMAND_SHUTDOWN_ENABLED?" in told[0]
    assert told[1].startswith("MQTT_VERIFY is not a setting of ours")
    config.load(environment)


def test_checks_after_a_boot_are_named_once_each_and_in_order() -> None:
    settings = load(POST_BOOT_UNITS=r" player@1.service wall\x2dleft.target player@1.service ", POST_BOOT_COMMAND="lit")
    assert settings.post_boot_checks == ("player@1.service", r"wall\x2dleft.target", "lit")
    assert (settings.post_boot_timeout_s, load().post_boot_checks) == (150, ())
    assert load(POST_BOOT_UNITS="a.service", POST_BOOT_COMMAND="a.service").post_boot_checks == ("a.service",)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("POST_BOOT_UNITS", "player"),
        ("POST_BOOT_UNITS", "player.service,browser.service"),
        ("POST_BOOT_UNITS", f"{'x' * 250}.service"),
        ("POST_BOOT_COMMAND", "x" * 256),
        ("POST_BOOT_COMMAND", "/usr/bin/true"),
        ("POST_BOOT_COMMAND", ".."),
        ("POST_BOOT_COMMAND", "lit --now"),
        ("POST_BOOT_TIMEOUT_S", "9"),
        ("COMMAND_EXECUTOR", "systemctl"),
    ],
)
def test_what_cannot_be_checked_or_executed_is_named(name: str, value: str) -> None:
    assert problem(**{name: value}).startswith(f"{name} ")


def test_the_real_executor_and_mocked_completion_exclude_each_other() -> None:
    flag = "COMMAND_MOCK_REBOOT_IMMEDIATE_COMPLETE"
    for executor in ({}, {"COMMAND_EXECUTOR": "helper"}):
        assert "would call a reboot done that never was" in problem(**{flag: "yes"}, **executor)
    assert load(**{flag: "yes", "COMMAND_EXECUTOR": "mock"}).mocks_reboots
    assert not load(COMMAND_EXECUTOR="mock").mocks_reboots
    assert load(**{flag: "no"}).executor is Executor.HELPER
