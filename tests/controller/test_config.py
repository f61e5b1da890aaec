"""The settings: what is meant, and every fault by its name."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import pytest

from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.controller import config, safety, selection
from infoscreen_reboot.controller.config import ConfigError, SigningKey, load
from infoscreen_reboot.controller.notifying import GRACE
from infoscreen_reboot.controller.safety import Amount, Budget
from infoscreen_reboot.controller.windows import Window

LEAST = {"MQTT_BROKER": "broker.example", "MQTT_TLS": "no"}


def test_a_broker_is_all_that_is_needed() -> None:
    settings = load(LEAST)
    assert settings.database_url == "sqlite:////var/lib/infoscreen-reboot-controller/controller.sqlite3"
    assert (settings.listen.address, settings.accepts_all) == ("http://127.0.0.1:8480", False)
    assert (settings.fleet_cap, settings.keep, settings.deadlines) == (None, timedelta(days=400), ())
    assert settings.valid_for == timedelta(minutes=4) and settings.limits.back == timedelta(seconds=150)
    assert (settings.budgets, settings.windows, settings.fleet_zone) == ((), (), "UTC")
    assert settings.recovery == ()
    assert settings.power_off == timedelta(seconds=10)
    assert (settings.budgets, settings.windows, settings.max_failed) == ((), (), "5 %")


def test_budgets_and_windows() -> None:
    written = {
        "BUDGETS": "site max_unavailable=1; site,room min_available=50% max_unavailable=3",
        "WINDOWS": "site=alpine mon-fri 22:00 6h Europe/Berlin; sat,sun 01:30 4h UTC; sun-mon 03:00 1h UTC",
        "FLEET_CAP": "50",
    }
    settings = load(LEAST | written)
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
        ("POWER_OFF_S", "1", "from 2"),
        ("COMMAND_VALID_S", "5", "from 30"),
        ("MQTT_PROTOCOL", "4", "auto, 5, 3.1.1"),
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
        ("FLEET_ZONE", "Mars/Base", "Mars/Base"),
        ("FLEET_ZONE", "Europe", "Europe/Berlin"),
        ("LISTEN", "8480", "127.0.0.1:8480"),
        ("LISTEN", "127.0.0.1:99999", "127.0.0.1:8480"),
        ("LISTEN_TLS_CERT", "/etc/hostname", "go together"),
        ("TRUSTED_PROXIES", "127.0.0.1, nginx", "'nginx'"),
        ("DEADLINES", "site=alpine", "back=300"),
        ("DEADLINES", "site=alpine back=1", "60 to 7200"),
        ("DEADLINES", "site=alpine up=100", "allowed are down, back, last_ack"),
        ("DEADLINES", "site=< back=100", "site=<"),
        ("RECOVERY", "power,ask", "in this order"),
        ("RECOVERY", "ask; site=< person", "site=<"),
        ("KEEP_DAYS", "0", "from 1"),
        ("FLEET_ZONE", "Mars/Base", "Europe/Berlin"),
        ("FLEET_ZONE", "../../etc/passwd", "Europe/Berlin"),
        ("NOTIFY_GRACE_S", "0", "from 5"),
        ("FREEZE_CALENDAR", "https://example.org/x.ics", "path of a file"),
        ("ROLLOUT_MAX_FAILED", "5", "'5' is no threshold"),
    ],
)
def test_a_fault_is_named(name: str, value: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(LEAST | {name: value})
    [problem] = caught.value.problems
    assert problem.startswith(name) and words in problem


def test_all_faults_are_told_at_once_and_a_slip_is_a_warning() -> None:
    with pytest.raises(ConfigError) as caught:
        load({"MQTT_TLS": "no", "FLEET_CAP": "x", "WINDOWS": "x"})
    assert len(caught.value.problems) == 3
    assert config.unknown_names({"FLEET_CAPP": "1", "HOME": "/", "NOTIFY_SOCKET": "/run/systemd/notify"}) == [
        "FLEET_CAPP is not a setting of ours and is ignored; did you mean FLEET_CAP?"
    ]


def test_where_it_listens() -> None:
    def address(text: str) -> str:
        return load(LEAST | {"LISTEN": text}).listen.address

    assert address("0.0.0.0:8480") == "http://0.0.0.0:8480"
    assert address("unix:/run/x/api.sock") == "unix:/run/x/api.sock"
    assert load(LEAST | {"LISTEN": "[::1]:80"}).listen.host == "::1"
    assert load(LEAST | {"TRUSTED_PROXIES": "127.0.0.1, 10.0.0.0/8"}).listen.proxies == (
        "127.0.0.1",
        "10.0.0.0/8",
    )


def test_secrets_from_credentials(tmp_path: Path) -> None:
    (tmp_path / "database-url").write_text("postgresql://controller:secret@db/infoscreen\n")
    (tmp_path / "command-signing-key").write_text("a key")
    given = LEAST | {"CREDENTIALS_DIRECTORY": str(tmp_path), "COMMAND_SIGNING_KEY_ID": "site-2026"}
    settings = load(given)
    assert settings.database_url == "postgresql://controller:secret@db/infoscreen"
    assert settings.signing_key == SigningKey("site-2026", tmp_path / "command-signing-key")
    with pytest.raises(ConfigError) as caught:
        load(given | {"DATABASE_URL": "sqlite:////x", "COMMAND_SIGNING_KEY_ID": ""})
    assert [problem.split()[0] for problem in caught.value.problems] == ["DATABASE_URL", "COMMAND_SIGNING_KEY_ID"]
    assert "secret" not in str(caught.value)


def test_the_id_of_a_key_is_the_name_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "site-2026.pem"
    file.write_text("a key")
    assert load(LEAST | {"COMMAND_SIGNING_KEY": str(file)}).signing_key == SigningKey("site-2026", file)


def test_signatures_and_a_version_that_cannot_carry_them_do_not_go_together(tmp_path: Path) -> None:
    (tmp_path / "site-2026.pem").write_text("a key")
    given = LEAST | {"COMMAND_SIGNING_KEY": str(tmp_path / "site-2026.pem")}
    assert load(given | {"MQTT_PROTOCOL": "5"}).broker.protocol == "5"
    with pytest.raises(ConfigError, match=r"MQTT_PROTOCOL is 3\.1\.1"):
        load(given | {"MQTT_PROTOCOL": "3.1.1"})


def test_a_file_of_targets_that_others_may_write_is_not_used_and_nothing_else_fails(tmp_path: Path) -> None:
    file = tmp_path / "notify.conf"
    file.write_text("mail mailto://user:topsecret@mail.example\nhook webhook https://topsecret\n")
    for mode, names, faults in (
        (0o640, ["mail"], ["line 2"]),
        (0o600, ["mail"], ["line 2"]),
        (0o644, ["mail"], ["line 2", "everybody may read it"]),
        (0o660, [], ["others than root may write it"]),
        (0o642, [], ["others than root may write it"]),
    ):
        file.chmod(mode)
        found = load(LEAST | {"NOTIFY_FILE": str(file)}).notify
        assert [target.name for target in found.targets] == names
        assert len(found.faults) == len(faults)
        assert all(words in fault for words, fault in zip(faults, found.faults, strict=True))
        assert "topsecret" not in str(found)
    file.write_bytes(b"\xff")
    file.chmod(0o600)
    for path, words in ((file, "UTF-8"), (tmp_path, "cannot be read"), (tmp_path / "none", "there is no")):
        [fault] = load(LEAST | {"NOTIFY_FILE": str(path)}).notify.faults
        assert words in fault
    assert load(LEAST).notify == config.Notify(config.NOTIFY_FILE, GRACE)


def test_the_file_of_targets_may_be_a_credential(tmp_path: Path) -> None:
    (tmp_path / "notify").write_text("mail mailto://user:pass@mail.example")
    (tmp_path / "notify").chmod(0o400)
    given = LEAST | {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert [target.name for target in load(given).notify.targets] == ["mail"]
    with pytest.raises(ConfigError, match="both set"):
        load(given | {"NOTIFY_FILE": "/etc/hostname"})


def test_the_documents_have_every_setting_and_every_rule() -> None:
    tree = Path(__file__).resolve().parents[2]
    for name in ("docs/controller.md", "docs/man/infoscreen-reboot-controller.env.5", "debian/controller.env"):
        text = (tree / name).read_text("utf-8")
        assert [setting for setting in config._NAMES if setting not in text] == [], name
    table = (tree / "docs/controller.md").read_text("utf-8").partition("## The rules")[2].partition("\n## ")[0]
    told = set(re.findall(r"`([a-z_]+)`", "".join(line.split("|")[1] for line in table.splitlines() if "|" in line)))
    now = datetime(2026, 4, 3, tzinfo=UTC)
    facts = safety.Facts(now, Action.REBOOT_HOST, safety.Standing.ACCEPTED, is_online=True, heard_at=now)
    assert told == {answer.rule for answer in safety.ask(facts)}


OIDC = {
    "OIDC_ISSUER": "https://login.example/realms/site",
    "OIDC_CLIENT_ID": "signage",
    "OIDC_CLIENT_SECRET": "topsecret",
    "OIDC_ROLES": "groups: signage=operator",
    "CONSOLE_URL": "https://screens.example/",
}


def test_a_provider_of_sign_ins(tmp_path: Path) -> None:
    assert load(LEAST).oidc is None
    found = load(LEAST | OIDC).oidc
    assert found is not None
    assert (found.callback, found.scopes) == ("https://screens.example/sign-in/oidc/back", "openid profile email")
    assert "topsecret" not in str(found)
    (tmp_path / "oidc-client-secret").write_text("of a file\n")
    given = LEAST | OIDC | {"OIDC_CLIENT_SECRET": "", "CREDENTIALS_DIRECTORY": str(tmp_path)}
    by_file = load(given).oidc
    assert by_file is not None and by_file.client_secret == "of a file"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("OIDC_CLIENT_ID", "", "needs OIDC_CLIENT_ID"),
        ("OIDC_CLIENT_SECRET", "", "needs OIDC_CLIENT_SECRET"),
        ("OIDC_ROLES", "", "needs OIDC_ROLES"),
        ("CONSOLE_URL", "", "needs CONSOLE_URL"),
        ("OIDC_ISSUER", "http://login.example", "OIDC_ISSUER is"),
        ("OIDC_ISSUER", "login.example", "OIDC_ISSUER is"),
        ("CONSOLE_URL", "http://screens.example", "CONSOLE_URL is"),
        ("OIDC_SCOPES", "profile", "openid has to be among them"),
        ("OIDC_ROLES", "signage=operator", "allowed is as in"),
    ],
)
def test_a_provider_that_cannot_be_used_is_said_to_without_its_secret(name: str, value: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(LEAST | OIDC | {name: value})
    [problem] = caught.value.problems
    assert words in problem
    assert "topsecret" not in problem


def test_a_server_in_front_is_believed_at_a_socket_only_that_not_everybody_reaches(tmp_path: Path) -> None:
    header = {"TRUSTED_USER_HEADER": "X-Forwarded-User"}
    socket = {"LISTEN": f"unix:{tmp_path}/api.sock"}
    tmp_path.chmod(0o750)
    assert load(LEAST | header | socket).listen.user_header == "X-Forwarded-User"
    tmp_path.chmod(0o755)
    for given, words in (
        (socket, "everybody may enter"),
        ({}, "at a Unix socket only"),
        ({"LISTEN": "0.0.0.0:8480"}, "at a Unix socket only"),
        ({"LISTEN": "unix:/nowhere/x.sock", "TRUSTED_USER_HEADER": "X User"}, "allowed is as in X-Forwarded-User"),
    ):
        with pytest.raises(ConfigError, match=words):
            load(LEAST | header | given)
