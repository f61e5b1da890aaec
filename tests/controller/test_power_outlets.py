"""A real switch by SNMPv3, and hooks: on, off, read, and every way in which that fails."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from infoscreen_reboot.controller.power.hook import Hook
from infoscreen_reboot.controller.power.outlet import Outlets, switch_on
from infoscreen_reboot.controller.power.port import Backend, Port, PowerError, Reading
from infoscreen_reboot.controller.power.snmp import Snmp
from tests.controller.played_switch import AUTH, PRIV, PROFILE, Switch, write_profile
from tests.endings import has_ended
from tools.lab.patience import slow


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Switch]:
    found = Switch(tmp_path_factory.mktemp("snmp") / "switch")
    found.start()
    yield found
    found.kill()


@pytest.fixture
def switch(running: Switch) -> Switch:
    running.be_stubborn(False)
    for number in range(1, 5):
        running.set(f"1.{number}", is_on=True)
    return running


@pytest.fixture
def snmp(tmp_path: Path) -> Snmp:
    return Snmp(write_profile(tmp_path / "credentials"))


def port_of(switch: Switch, port: str = "1", profile: str = "lab") -> Port:
    return Port("core", port, switch.address, profile)


def failure(snmp: Snmp, port: Port) -> str:
    with pytest.raises(PowerError) as caught:
        snmp.read(port)
    assert AUTH not in str(caught.value) and PRIV not in str(caught.value)
    return str(caught.value)


def test_a_port_is_read_switched_off_and_on_again(switch: Switch, snmp: Snmp) -> None:
    port = port_of(switch, "2")
    assert snmp.read(port) == Reading(True, True, "it delivers power")
    snmp.switch(port, False)
    assert (switch.is_on("1.2"), snmp.read(port)) == (False, Reading(False, False, "it is switched off"))
    assert switch_on(snmp, port).delivers and switch.is_on("1.2") and switch.is_on("1.1")
    assert snmp.read(port_of(switch, "4")) == Reading(True, False, "it looks for a device and finds none")


def test_what_was_switched_off_is_still_off_when_the_switch_comes_back(switch: Switch, snmp: Snmp) -> None:
    port = port_of(switch)
    snmp.switch(port, False)
    switch.kill()
    try:
        assert "no answer from the switch" in failure(snmp, port)
    finally:
        switch.start()
    assert not snmp.read(port).is_on
    assert switch_on(snmp, port).is_on


def test_a_write_without_effect_is_seen(switch: Switch, snmp: Snmp) -> None:
    port = port_of(switch)
    snmp.switch(port, False)
    switch.be_stubborn(True)
    with pytest.raises(PowerError, match="port 1 of core stays off: it takes the value, without effect"):
        switch_on(snmp, port)


def test_each_failure_has_its_words_and_none_of_them_a_secret(
    switch: Switch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "credentials"
    for name, content in {
        "auth": PROFILE.replace(AUTH, "another-secret"),
        "priv": PROFILE.replace(PRIV, "another-secret"),
        "user": PROFILE.replace("poe", "nobody"),
        "short": PROFILE.replace(AUTH, "short"),
        "odd": f"{AUTH} {PRIV}\n{PROFILE.replace(AUTH, '')}",
    }.items():
        write_profile(folder, name, content)
    snmp = Snmp(write_profile(folder))
    words = {name: failure(snmp, port_of(switch, profile=name)) for name in ("auth", "priv", "user", "short", "odd")}
    assert "does not take the authentication key" in words["auth"]
    assert "or the privacy key is wrong" in words["priv"]
    assert "does not know this user" in words["user"]
    assert "the SNMP profile has a fault" in words["short"]
    assert words["odd"].startswith("cannot read port 1 of core: ")
    assert "has no such port" in failure(snmp, port_of(switch, "99"))
    with pytest.raises(PowerError, match="has no such port, or this user may not switch it"):
        snmp.switch(port_of(switch, "99"), False)
    assert "no host of that name" in failure(snmp, replace(port_of(switch), address="no-such-host.invalid"))
    assert "no SNMP profile gone; it is /etc/credstore/" in failure(snmp, port_of(switch, profile="gone"))
    (folder / "infoscreen-controller.snmp.lab").chmod(0o644)
    assert "others can read or change the SNMP profile lab" in failure(snmp, port_of(switch))
    assert "no SNMP profile was given" in failure(Snmp(None), port_of(switch))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    assert "cannot start snmpget" in failure(Snmp(write_profile(folder, "x")), port_of(switch, profile="x"))
    monkeypatch.undo()
    assert "apt-get install snmp" in failure(Snmp(write_profile(folder, "x"), tmp_path), port_of(switch, profile="x"))


def test_nothing_secret_is_in_an_argument_and_nothing_of_ours_in_the_environment(
    switch: Switch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MQTT_PASSWORD_BROKER", "broker-secret")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("snmpget", "snmpset"):
        shim = f'#!/bin/sh\necho "$0 $*" >> {tmp_path}/argv\nenv >> {tmp_path}/environment\nexec /usr/bin/{name} "$@"\n'
        (programs / name).write_text(shim)
        (programs / name).chmod(0o755)
    snmp = Snmp(write_profile(tmp_path / "credentials"), programs)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    snmp.switch(port_of(switch), False)
    assert switch_on(snmp, port_of(switch)).is_on
    said = (tmp_path / "argv").read_text() + (tmp_path / "environment").read_text()
    assert said.count("snmpset ") == 2 and "snmpget " in said
    assert not [secret for secret in (AUTH, PRIV, "broker-secret") if secret in said]
    assert f"SNMPCONFPATH={scratch}/snmp-" in said and not list(scratch.iterdir()), "what it needs is gone with it"


# --- Hooks

HOOK = """#!/bin/sh
cat > {folder}/asked
test -n "$SLEEP" && sleep 60
exit {code}
"""


def hook(folder: Path, code: int, limit_s: float = 20, script: str = HOOK) -> tuple[Hook, Port]:
    hooks = folder / "power.d"
    hooks.mkdir(0o755, exist_ok=True)
    (hooks / "pdu").write_text(script.format(folder=folder, code=code))
    (hooks / "pdu").chmod(0o755)
    return Hook(hooks, os.getuid(), limit_s), Port("rack 4", "outlet 3", None, "pdu", Backend.HOOK)


def test_a_hook_is_asked_in_json_and_answers_by_its_exit_code(tmp_path: Path) -> None:
    for code, is_on, delivers in ((0, True, True), (10, True, False), (11, True, None), (12, False, False)):
        backend, port = hook(tmp_path, code)
        reading = backend.read(port)
        assert (reading.is_on, reading.delivers) == (is_on, delivers)
    backend, port = hook(tmp_path, 0)
    Outlets(hook=backend).switch(port, False)
    asked = json.loads((tmp_path / "asked").read_text())
    assert asked == {"do": "off", "switch": "rack 4", "address": None, "port": "outlet 3"}
    backend, port = hook(tmp_path, 3)
    with pytest.raises(PowerError, match="cannot switch port outlet 3 of rack 4 on: the hook pdu ended with 3"):
        backend.switch(port, True)
    with pytest.raises(PowerError, match="the hook pdu ended with 3"):
        backend.read(port)


def test_a_hook_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    script = "#!/bin/sh\nsleep 61.7 & echo $! > {folder}/child; wait\n"
    backend, port = hook(tmp_path, 0, limit_s := slow(1), script)
    began_s = time.monotonic()
    with pytest.raises(PowerError, match=f"did not end in {limit_s} s"):
        backend.read(port)
    assert time.monotonic() - began_s < 60
    assert has_ended(int((tmp_path / "child").read_text())), "the child lives"


def test_a_hook_that_somebody_else_may_change_is_not_run(tmp_path: Path) -> None:
    backend, port = hook(tmp_path, 0)
    file = tmp_path / "power.d/pdu"
    file.chmod(0o775)
    with pytest.raises(PowerError, match="nobody else may write it"):
        backend.read(port)
    file.chmod(0o755)
    file.parent.chmod(0o777)
    with pytest.raises(PowerError, match="nobody else may write it"):
        backend.read(port)
    file.parent.chmod(0o755)
    with pytest.raises(PowerError, match="has to belong to root"):
        Hook(file.parent, os.getuid() + 1).read(port)
    file.rename(tmp_path / "pdu")
    file.symlink_to(tmp_path / "pdu")
    with pytest.raises(PowerError, match="is no plain file"):
        backend.read(port)
    with pytest.raises(PowerError, match="there is no hook"):
        backend.read(replace(port, profile="gone"))
    assert not (tmp_path / "asked").exists()


def test_a_dry_run_switches_nothing_and_remembers_what_it_was_told() -> None:
    outlets, port = Outlets(), Port("core", "7", backend=Backend.DRY_RUN)
    outlets.switch(port, False)
    assert not outlets.read(port).is_on and outlets.read(replace(port, port="8")).is_on
    assert switch_on(outlets, port).is_on
