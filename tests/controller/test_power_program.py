"""The program with a switch: stopped, killed and misconfigured while a port is off."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from infoscreen_reboot.controller.power.cycle import State, Step
from infoscreen_reboot.controller.power.port import Backend, Port
from infoscreen_reboot.controller.store import power
from infoscreen_reboot.controller.store.database import Database
from tests.broker.conftest import Broker
from tests.controller.played_switch import AUTH, PRIV, Switch, write_profile
from tests.controller.test_app import Program, eventually
from tests.controller.test_orders import site


@pytest.fixture
def switch(tmp_path: Path) -> Iterator[Switch]:
    found = Switch(tmp_path / "switch")
    found.start()
    yield found
    found.kill()


@pytest.fixture
def program(tmp_path: Path, broker: Broker, switch: Switch) -> Iterator[Program]:
    credentials = write_profile(tmp_path / "credentials")
    (tmp_path / "state").mkdir()
    found = Program(tmp_path / "state", broker, CREDENTIALS_DIRECTORY=str(credentials), POWER_OFF_S="60")
    found.start()
    yield found
    found.kill()


def switch_off(program: Program, switch: Switch) -> int:
    """The number of a power cycle whose port is off now, for a minute."""
    database = Database(f"sqlite:///{program.log.parent}/controller.sqlite3")
    with database.write() as tx:
        [uuid] = site(tx, 1, is_online=False)
        power.put_port(tx, uuid, Port("core", "1", switch.address, "lab"), "ann")
        made = power.request(tx, uuid, "ann", None)
    assert made is not None

    def is_off() -> bool:
        with database.read() as tx:
            row = power.cycle_of(tx, made)
        return row is not None and row["state"] == State.OFF

    eventually(is_off, 30)
    database.close()
    assert not switch.is_on("1.1")
    return made


def test_a_stop_switches_on_what_is_off(program: Program, switch: Switch) -> None:
    switch_off(program, switch)
    assert program.stop() == 0
    assert switch.is_on("1.1")
    log = program.log.read_text()
    assert "port 1 of core" in log and AUTH not in log and PRIV not in log


def test_after_a_kill_the_unit_of_its_own_switches_on_and_so_does_the_next_start(
    program: Program, switch: Switch
) -> None:
    switch_off(program, switch)
    program.kill()
    assert not switch.is_on("1.1")
    program.environment["FLEET_CAP"] = "many"
    assert program.does("serve").returncode == 78, "it cannot even start"
    done = program.does("power-restore")
    assert (done.returncode, done.stdout) == (0, "port 1 of core: on again\n")
    assert switch.is_on("1.1")
    again = program.does("power-restore")
    assert (again.returncode, again.stdout) == (0, ""), "nothing is owed any more"


def test_after_a_kill_the_next_start_switches_on(program: Program, switch: Switch) -> None:
    switch_off(program, switch)
    program.kill()
    switch.kill()
    done = program.does("power-restore")
    assert done.returncode == 1 and "no answer from the switch" in done.stdout, "systemd asks again"
    switch.start()
    program.start()
    eventually(lambda: switch.is_on("1.1"), 30)


def test_the_doctor_says_what_a_port_lacks(program: Program, switch: Switch) -> None:
    def told() -> list[tuple[str, str]]:
        findings = json.loads(program.does("doctor", "--json").stdout)["findings"]
        return [(found["verdict"], found["text"]) for found in findings if found["check"] == "power"]

    assert told() == []
    database = Database(f"sqlite:///{program.log.parent}/controller.sqlite3")
    with database.write() as tx:
        first, second, third = site(tx, 3)
        power.put_port(tx, first, Port("core", "1", switch.address, "lab"), "ann")
    assert told() == [("ok", "1 port; what switches them is there")]
    program.stop()  # or it would mend it
    with database.write() as tx:
        power.put_port(tx, second, Port("core", "2", switch.address, "attic"), "ann")
        power.put_port(tx, third, Port("strip", "a", None, "strip", Backend.HOOK), "ann")
        made = power.request(tx, first, "ann", None, is_online_anyway=True)
        assert made is not None
        power.move(tx, made, Step.OWE, must_be_on_by=tx.now - timedelta(seconds=1))
    database.close()
    hook = "/etc/infoscreen-reboot-controller/power.d/strip"
    assert told() == [
        ("problem", "1 port should be on again by now, and may be off"),
        (
            "problem",
            "cannot use port 2 of core: no SNMP profile attic; it is /etc/credstore/infoscreen-controller.snmp.attic",
        ),
        ("problem", f"cannot use port a of strip: there is no hook {hook}"),
    ]


def test_where_there_is_no_database_nothing_is_owed(program: Program) -> None:
    program.stop()
    program.environment["DATABASE_URL"] = f"sqlite:///{program.log.parent}/none.sqlite3"
    assert program.does("power-restore").returncode == 0
    assert not (program.log.parent / "none.sqlite3").exists()
