"""The program with a switch: stopped, killed and misconfigured while a port is off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from infoscreen_reboot.controller.power.cycle import State
from infoscreen_reboot.controller.power.port import Port
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


def test_where_there_is_no_database_nothing_is_owed(program: Program) -> None:
    program.stop()
    program.environment["DATABASE_URL"] = f"sqlite:///{program.log.parent}/none.sqlite3"
    assert program.does("power-restore").returncode == 0
    assert not (program.log.parent / "none.sqlite3").exists()
