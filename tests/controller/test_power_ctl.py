"""`infoscreen-rebootctl power`: what an operator types, and what comes of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert

from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.ctl import power as ctl
from infoscreen_reboot.controller.power.cycle import Step
from infoscreen_reboot.controller.power.outlet import Outlet, Outlets
from infoscreen_reboot.controller.power.port import Port
from infoscreen_reboot.controller.store import power
from infoscreen_reboot.controller.store.tables import power_cycle
from tests.controller.desk import Desk
from tests.controller.test_power import working

ADD = "power", "add", "bar-left", "--switch", "core-1", "--port", "1.7", "--backend", "dry-run"
CYCLE = "power", "cycle", "bar-left", "--reason", "frozen", "--yes", "1"


@contextmanager
def at_work(desk: Desk, monkeypatch: pytest.MonkeyPatch, outlet: Outlet) -> Iterator[None]:
    monkeypatch.setattr(ctl, "_LOOK_S", 0.05)
    with working(desk.fleet.database, outlet):
        yield


def test_ports_are_said_listed_tested_and_forgotten(desk: Desk) -> None:
    assert "nothing can be power-cycled" in desk("power").out
    assert desk(*ADD).code == 5, "an operator may not"
    done = desk(*ADD, role=Role.ADMIN)
    assert (done.code, done.out.splitlines()[0]) == (0, "Port 1.7 of core-1 feeds bar-left.")
    assert "bar-left" in desk("power", "list").out
    assert [each["port"] for each in desk("power", "--json").json["ports"]] == ["1.7"]
    tested = desk("power", "test", "bar-left")
    assert (tested.code, tested.out.splitlines()) == (
        0,
        ["bar-left: the port is on, it only pretends.", "It can be power-cycled."],
    )
    assert desk("power", "remove", "bar-left", role=Role.ADMIN).code == 0
    assert (desk("power", "test", "bar-left").code, desk("power", "test", "nobody").code) == (2, 2)


def test_a_file_of_ports(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "ports.csv"
    file.write_text("client,switch,port,backend\nbar-left,core-1,7,dry-run\nnobody,core-1,8,dry-run\n")
    refused = desk("power", "import", str(file), role=Role.ADMIN)
    assert refused.code == 4 and "there is no such client" in refused.out
    file.write_text("client,switch,port,backend\nbar-left,core-1,7,dry-run\n")
    assert "1 created" in desk("power", "import", "--dry-run", str(file), role=Role.ADMIN).out
    assert desk("power", "--json").json["ports"] == []
    assert desk("power", "import", str(file), role=Role.ADMIN).code == 0
    assert len(desk("power", "--json").json["ports"]) == 1


def test_a_cycle_asks_and_is_followed_to_its_end(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk(*ADD, role=Role.ADMIN)
    assert desk(*CYCLE[:-2]).code == 2, "there is nobody to ask"
    refused = desk(*CYCLE)
    assert refused.code == 4 and "the client is online" in refused.err
    with at_work(desk, monkeypatch, Outlets()):
        done = desk(*CYCLE, "--online-anyway")
    assert done.code == 0, done
    lines = done.out.splitlines()
    assert lines[-1] == "Port 1.7 of core-1: done, it only pretends." and len(lines) > 1


def test_how_a_cycle_fails_is_in_the_exit_code(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk(*ADD, role=Role.ADMIN)
    outlets = Outlets()
    with desk.fleet.database.write() as tx:
        [port] = [power.port_in(row) for row in power.port_rows(tx)]
    outlets.switch(port, False)
    with at_work(desk, monkeypatch, outlets):
        done = desk(*CYCLE, "--online-anyway")
    assert done.code == 4 and "off already" in done.err and "Nothing was switched." in done.err

    class Stubborn:
        """Takes "off", without effect."""

        def __init__(self, outlet: Outlet) -> None:
            self.read = outlet.read

        def switch(self, port: Port, is_on: bool) -> None:
            pass

    with at_work(desk, monkeypatch, Stubborn(Outlets())):
        done = desk(*CYCLE, "--online-anyway", "--json")
    assert done.code == 3 and done.json["problem"]["cycle"]["state"] == "failed"
    assert "without effect" in done.json["problem"]["detail"]


def test_a_port_that_is_held_off_is_shown_first_and_restored(desk: Desk) -> None:
    desk(*ADD, role=Role.ADMIN)
    assert desk("power", "restore").out == "No port is held off.\n"
    desk(*CYCLE, "--online-anyway", "--no-watch")
    with desk.fleet.database.write() as tx:
        [row] = power.under_way(tx)
        power.move(tx, row["id"], Step.OWE, must_be_on_by=tx.now - timedelta(seconds=1))
        power.move(tx, row["id"], Step.SEE_OFF)
        over = {
            name: row[name] for name in ("client_uuid", "requested_at", "requested_by", "switch", "port", "backend")
        }
        tx.db.execute(insert(power_cycle), [{**over, "state": "done", "ended_at": tx.now}] * 201)
    listed = desk("power").out
    assert "1 port held off: infoscreen-rebootctl power restore" in listed
    assert "1 port held off" in desk("status").out
    restored = desk("power", "restore")
    assert restored.code == 0 and "on again" in restored.out
    assert "held off" not in desk("status").out
