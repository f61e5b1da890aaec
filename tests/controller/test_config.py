"""The settings: what is meant, and every fault by its name."""

from __future__ import annotations

from datetime import time, timedelta
from pathlib import Path

import pytest

from infoscreen_reboot.controller import config, selection
from infoscreen_reboot.controller.config import ConfigError, load
from infoscreen_reboot.controller.safety import Amount, Budget
from infoscreen_reboot.controller.windows import Window

STATE = Path("/var/lib/infoscreen-reboot-controller")
LEAST = {"MQTT_BROKER": "broker.example", "MQTT_TLS": "no"}


def test_a_broker_is_all_that_is_needed() -> None:
    settings = load(LEAST, STATE)
    assert settings.database_url == f"sqlite:///{STATE}/controller.sqlite3"
    assert (settings.listen, settings.accepts_all, settings.fleet_cap) == ("127.0.0.1:8480", False, None)
    assert settings.valid_for == timedelta(minutes=4) and settings.limits.back == timedelta(seconds=150)
    assert (settings.budgets, settings.windows) == ((), ())


def test_budgets_and_windows() -> None:
    written = {
        "BUDGETS": "site max_unavailable=1; site,room min_available=50% max_unavailable=3",
        "WINDOWS": "site=alpine mon-fri 22:00 6h Europe/Berlin; sat,sun 01:30 4h UTC; sun-mon 03:00 1h UTC",
        "FLEET_CAP": "50",
    }
    settings = load(LEAST | written, STATE)
    assert settings.budgets == (
        Budget(("site",), Amount(1)),
        Budget(("site", "room"), Amount(3), Amount(50, True)),
    )
    everybody = selection.parse("")
    assert settings.windows == (
        (
            selection.parse("site=alpine"),
            Window(frozenset(range(5)), time(22), timedelta(hours=6), "Europe/Berlin"),
        ),
        (everybody, Window(frozenset({5, 6}), time(1, 30), timedelta(hours=4), "UTC")),
        (everybody, Window(frozenset({6, 0}), time(3), timedelta(hours=1), "UTC")),
    )
    assert settings.fleet_cap == 50


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ACCEPT_CLIENTS", "all", "ask and auto"),
        ("FLEET_CAP", "0", "from 1"),
        ("COMMAND_VALID_S", "5", "from 30"),
        ("COMMAND_SIGNING_KEY", "/nowhere", "cannot be read"),
        ("BUDGETS", "site", "max_unavailable=1"),
        ("BUDGETS", "site max_unavailable=101%", "101%"),
        ("BUDGETS", "site max_unavailable=x", "max_unavailable=x"),
        ("BUDGETS", "si<te max_unavailable=1", "si<te"),
        ("WINDOWS", "always", "22:00"),
        ("WINDOWS", "mon 25:00 1h UTC", "hour"),
        ("WINDOWS", "mon 22:00 200h UTC", "168"),
        ("WINDOWS", "mon 22:00 1h Mars/Base", "Mars/Base"),
        ("WINDOWS", "may 22:00 1h UTC", "'may' is no day"),
        ("WINDOWS", "site=< mon 22:00 1h UTC", "site=<"),
    ],
)
def test_a_fault_is_named(name: str, value: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(LEAST | {name: value}, STATE)
    [problem] = caught.value.problems
    assert problem.startswith(name) and words in problem


def test_all_faults_are_told_at_once_and_a_slip_is_a_warning() -> None:
    with pytest.raises(ConfigError) as caught:
        load({"MQTT_TLS": "no", "FLEET_CAP": "x", "WINDOWS": "x"}, STATE)
    assert len(caught.value.problems) == 3
    assert config.unknown_names({"FLEET_CAPP": "1", "HOME": "/"}) == [
        "FLEET_CAPP is not a setting of ours and is ignored; did you mean FLEET_CAP?"
    ]
