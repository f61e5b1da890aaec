"""Power cycles at a real switch: carried out, killed between any two steps, and never left with a port off."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.controller import orders
from infoscreen_reboot.controller.orders import Caller, House, Wish
from infoscreen_reboot.controller.power import snmp
from infoscreen_reboot.controller.power.cycle import TAKEN_WITHIN, Pace, State, Step
from infoscreen_reboot.controller.power.outlet import Outlet, Outlets
from infoscreen_reboot.controller.power.port import Backend, Port, PowerError, Reading
from infoscreen_reboot.controller.power.snmp import Snmp
from infoscreen_reboot.controller.power.worker import Worker, restore_all
from infoscreen_reboot.controller.store import facts, fleet, lease, power, retention
from infoscreen_reboot.controller.store.database import Database, Row, Transaction
from infoscreen_reboot.controller.store.facts import Policy
from infoscreen_reboot.controller.store.tables import client, event, notice, power_cycle
from tests.controller.played import forked
from tests.controller.played_switch import AUTH, PRIV, Switch, write_profile
from tests.controller.test_crash import Points
from tests.controller.test_orders import site
from tools.lab.patience import Patience

QUICK = Pace(
    off_for=timedelta(seconds=0.1),
    sent_within=timedelta(minutes=1),
    grace=timedelta(seconds=0.5),
    closed_after=timedelta(seconds=0.5),
    delivers_within=timedelta(seconds=1),
    looks_every=timedelta(seconds=0.1),
    asks_every=timedelta(seconds=0.05),
    retries_every=timedelta(seconds=0.2),
)
PATIENCE_S = 30


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Switch]:
    found = Switch(tmp_path_factory.mktemp("snmp") / "switch")
    found.start()
    yield found
    found.kill()


@pytest.fixture
def switch(running: Switch) -> Switch:
    running.be_stubborn(False)
    for number in range(1, 4):
        running.set(f"1.{number}", is_on=True, device=True)
    return running


@pytest.fixture
def outlets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Outlets:
    """The switch may answer as late as it likes: here it is always there."""
    monkeypatch.setattr(snmp, "_OPTIONS", ("-Oqvne", "-t", "1", "-r", "60"))
    monkeypatch.setattr(snmp, "_LIMIT_S", 60.0)
    return Outlets(Snmp(write_profile(tmp_path / "credentials")))


def fed(tx: Transaction, switch: Switch, count: int = 3) -> list[str]:
    """Clients that are offline, each with a port."""
    uuids = site(tx, count, is_online=False)
    for number, uuid in enumerate(uuids, 1):
        power.put_port(tx, uuid, Port("core", str(number), switch.address, "lab"), "ann")
    return uuids


def take(database: Database) -> int:
    with database.write() as tx:
        lease.seize(tx)
        epoch = lease.take(tx, "us")
    assert epoch is not None
    return epoch


def working(database: Database, outlet: Outlet, pace: Pace = QUICK) -> Worker:
    return Worker(database, outlet, take(database), pace)


def row_of(database: Database, cycle_id: int) -> Row:
    with database.read() as tx:
        found = power.cycle_of(tx, cycle_id)
    assert found is not None
    return found


def wait(database: Database, cycle_id: int, is_so: Callable[[Row], bool] | None = None) -> Row:
    """Until it has ended, or is as is asked for."""
    patience = Patience(PATIENCE_S)
    while True:
        row = row_of(database, cycle_id)
        if row["ended_at"] is not None if is_so is None else is_so(row):
            return row
        assert not patience.is_over, dict(row)
        time.sleep(0.02)


def kinds(database: Database, client_uuid: str) -> list[str]:
    with database.read() as tx:
        rows = tx.db.execute(select(event.c.kind).where(event.c.client_uuid == client_uuid).order_by(event.c.seq))
        return [kind for kind in rows.scalars() if kind.startswith("power_")]


# --- The course of a cycle


def test_a_port_goes_off_and_on_and_each_step_is_an_event(database: Database, switch: Switch, outlets: Outlets) -> None:
    with database.write() as tx:
        [one, *_] = fed(tx, switch)
        made = power.request(tx, one, "ann", "player frozen")
        assert made is not None and power.outcome(tx, made) is None
        assert power.request(tx, one, "bob", None) is None, "one at a time"
    with working(database, outlets):
        row = wait(database, made, lambda row: row["state"] != State.REQUESTED)
        assert row["must_be_on_by"] - row["owed_at"] == QUICK.off_for + QUICK.grace
        wait(database, made, lambda row: row["off_at"] is not None)
        wait(database, made)
    with database.read() as tx:
        assert power.outcome(tx, made) == ("done", "it delivers power")
    row = row_of(database, made)
    assert row["owed_at"] < row["off_at"] < row["on_at"] <= row["ended_at"] and switch.is_on("1.1")
    assert row["on_at"] - row["off_at"] >= QUICK.off_for
    assert kinds(database, one) == [f"power_{each}" for each in ("requested", "owed", "off", "on", "done")]
    with database.read() as tx:
        said = repr(tx.db.execute(select(event)).all()) + repr(tx.db.execute(select(power_cycle)).all())
        assert tx.db.execute(select(func.count()).select_from(notice)).scalar_one() == 0
    assert AUTH not in said and PRIV not in said and "player frozen" in said


class Watched:
    """An outlet that notes what it is asked, and may be held up, fail, or do something in between."""

    def __init__(self, outlet: Outlet, before: Callable[[str, Port], None]) -> None:
        self._outlet, self._before = outlet, before

    def read(self, port: Port) -> Reading:
        self._before("read", port)
        return self._outlet.read(port)

    def switch(self, port: Port, is_on: bool) -> None:
        self._before("on" if is_on else "off", port)
        self._outlet.switch(port, is_on)


def test_one_port_at_a_time_of_a_switch(database: Database, switch: Switch, outlets: Outlets) -> None:
    off: list[list[str]] = []

    def note(does: str, _port: Port) -> None:
        off.append([index for index in ("1.1", "1.2", "1.3") if not switch.is_on(index)])

    with database.write() as tx:
        made = [power.request(tx, uuid, "ann", None) for uuid in fed(tx, switch)]
    with working(database, Watched(outlets, note)):
        rows = [wait(database, cycle_id or 0) for cycle_id in made]
    assert [row["state"] for row in rows] == ["done"] * 3
    assert max(map(len, off)) == 1
    times = [(row["owed_at"], row["ended_at"]) for row in rows]
    assert all(ended <= owed for (_, ended), (owed, _) in pairwise(times))


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ({"device": False}, "delivers no power (it looks for a device and finds none): it may be an uplink"),
        ({"is_on": False}, "off already, and not by us"),
    ],
)
def test_a_port_that_may_be_an_uplink_is_left_alone(
    what: dict[str, bool], why: str, database: Database, switch: Switch, outlets: Outlets
) -> None:
    switch.set("1.1", **what)
    asked: list[str] = []
    with database.write() as tx:
        made = power.request(tx, fed(tx, switch, 1)[0], "ann", None) or 0
    with working(database, Watched(outlets, lambda does, _: asked.append(does))):
        row = wait(database, made)
    assert (row["state"], row["owed_at"]) == ("failed", None) and why in row["words"]
    assert asked == ["read"]


def test_a_client_that_came_back_meanwhile_keeps_its_power(
    database: Database, switch: Switch, outlets: Outlets
) -> None:
    def come(does: str, _port: Port) -> None:
        with database.write() as tx:
            tx.db.execute(update(client).values(is_online=True))

    with database.write() as tx:
        uuid, other = fed(tx, switch, 2)
        made, forced = power.request(tx, uuid, "ann", None) or 0, power.request(tx, other, "ann", None, True) or 0
    asked: list[str] = []
    with working(database, Watched(Watched(outlets, come), lambda does, port: asked.append(f"{does} {port.port}"))):
        row = wait(database, made)
        assert (row["state"], "the client is online" in row["words"]) == ("failed", True)
        assert wait(database, forced)["state"] == "done", "somebody has said so"
    assert "off 1" not in asked and "off 2" in asked
    with database.write() as tx:
        assert power.refusal(tx, uuid) == (
            "client_online",
            "the client is online: a reboot does it less harm than a power cut",
        )
        fleet.begin_freeze(tx, "trade fair", "ann", None)
        assert power.refusal(tx, uuid, True) == ("freeze", "everything is frozen: trade fair")


def test_a_client_whose_command_has_not_ended_keeps_its_power(database: Database, switch: Switch) -> None:
    with database.write() as tx:
        [uuid] = fed(tx, switch, 1)
        tx.db.execute(update(client).values(is_online=True))
        command_id, _ = orders.order(tx, Caller("ann", "cli"), Wish(Action.REBOOT_HOST), uuid, None, House())
        refused = power.refusal(tx, uuid, True)
        assert refused is not None and refused[0] == "one_open_command" and command_id in refused[1]
        assert power.request(tx, uuid, "ladder", None) is None


def test_what_nobody_took_up_in_time_does_not_happen(database: Database, switch: Switch, outlets: Outlets) -> None:
    with database.write() as tx:
        [uuid] = fed(tx, switch, 1)
        long_ago = replace(tx, now=tx.now - TAKEN_WITHIN - timedelta(seconds=1))
        made = power.request(long_ago, uuid, "ann", None) or 0
    asked: list[str] = []
    with working(database, Watched(outlets, lambda does, _: asked.append(does))):
        assert "nobody took it up in time" in wait(database, made)["words"]
    assert asked == []


def test_a_write_without_effect_is_no_power_cycle(database: Database, switch: Switch, outlets: Outlets) -> None:
    switch.be_stubborn(True)
    with database.write() as tx:
        made = power.request(tx, fed(tx, switch, 1)[0], "ann", None) or 0
    with working(database, outlets):
        row = wait(database, made)
    assert (row["state"], row["words"]) == ("failed", "port 1 of core stays on: it takes the value, without effect")


def test_a_device_that_takes_no_power_afterwards_is_told(database: Database, switch: Switch, outlets: Outlets) -> None:
    def unplug(does: str, _port: Port) -> None:
        if does == "off":
            switch.set("1.1", device=False)

    with database.write() as tx:
        made = power.request(tx, fed(tx, switch, 1)[0], "ann", None) or 0
    with working(database, Watched(outlets, unplug)):
        row = wait(database, made)
    assert row["state"] == "failed" and "on again, but delivers no power: it looks for a device" in row["words"]


# --- What is owed


def test_a_port_that_moved_meanwhile_the_old_one_goes_on(database: Database, switch: Switch, outlets: Outlets) -> None:
    def move(does: str, _port: Port) -> None:
        if does == "on":
            with database.write() as tx:
                power.put_port(tx, uuid, Port("core", "3", switch.address, "lab"), "bob")

    with database.write() as tx:
        [uuid] = fed(tx, switch, 1)
        made = power.request(tx, uuid, "ann", None) or 0
    asked: list[str] = []
    with working(database, Watched(Watched(outlets, move), lambda does, port: asked.append(f"{does} {port.port}"))):
        assert wait(database, made)["state"] == "done"
    assert "on 1" in asked and not [each for each in asked if "3" in each] and switch.is_on("1.1")
    with database.write() as tx:
        again = power.request(tx, uuid, "ann", None) or 0
        power.put_port(tx, uuid, Port("core", "2", switch.address, "lab"), "bob")
    with working(database, outlets):
        assert "another port of this client" in wait(database, again)["words"]


def test_a_switch_that_cannot_be_reached_is_asked_until_the_port_is_on(
    database: Database, switch: Switch, outlets: Outlets
) -> None:
    dead, is_back = threading.Event(), threading.Event()

    def die(does: str, port: Port) -> None:
        if does == "on":
            dead.set()
        if dead.is_set() and not is_back.is_set():
            raise PowerError(f"cannot reach {port.switch}")

    with database.write() as tx:
        [uuid] = fed(tx, switch, 1)
        made = power.request(tx, uuid, "ann", None) or 0
        assert power.held_off(tx) == []
    with working(database, Watched(outlets, die)):
        wait(database, made, lambda row: row["attempts"] >= 4 and row["told_at"] is not None)
        assert not switch.is_on("1.1")
        with database.read() as tx:
            assert [row["id"] for row in power.held_off(tx)] == [made]
            [told] = tx.db.execute(select(notice)).all()
        assert (told.kind, told.subject, told.site) == ("ports_off", f"client/{uuid}", "alpine")
        assert told.words.endswith(
            "port 1 of core was switched off, and cannot be switched on again: cannot reach core"
        )
        is_back.set()
        assert wait(database, made)["state"] == "done" and switch.is_on("1.1")
    assert kinds(database, uuid)[-4:] == ["power_held_off", "power_on", "power_restored", "power_done"]


def test_a_holder_that_slept_switches_nothing_off(database: Database, switch: Switch, outlets: Outlets) -> None:
    asked: list[str] = []
    with database.write() as tx:
        made = power.request(tx, fed(tx, switch, 1)[0], "ann", None) or 0
    worker = Worker(database, Watched(outlets, lambda does, _: asked.append(does)), take(database), QUICK)
    take(database)
    with worker:
        patience = Patience(PATIENCE_S)
        while asked.count("read") < 1 and not patience.is_over:
            time.sleep(0.02)
    assert row_of(database, made)["state"] == "requested" and "off" not in asked


def test_off_is_sent_at_once_or_not_at_all(database: Database, switch: Switch, outlets: Outlets) -> None:
    """A process that was stopped right after it wrote down what it owes finds that its time is over."""
    asked: list[str] = []
    with database.write() as tx:
        made = power.request(tx, fed(tx, switch, 1)[0], "ann", None) or 0
    pace = replace(QUICK, sent_within=timedelta(seconds=-1))
    with working(database, Watched(outlets, lambda does, _: asked.append(does)), pace):
        row = wait(database, made)
    assert row["state"] == "failed" and "held up" in row["words"] and "off" not in asked and "on" in asked


def test_whoever_is_asked_to_stop_switches_on_first(database: Database, switch: Switch, outlets: Outlets) -> None:
    with database.write() as tx:
        made = power.request(tx, fed(tx, switch, 1)[0], "ann", None) or 0
    with working(database, outlets, replace(QUICK, off_for=timedelta(minutes=5))):
        wait(database, made, lambda row: row["state"] == State.OFF)
        assert not switch.is_on("1.1")
    assert switch.is_on("1.1") and row_of(database, made)["state"] in ("on", "done")
    with working(database, outlets):
        assert wait(database, made)["state"] == "done", "the next one looks whether it delivers power"


# --- Killed


class WatchedDatabase(Database):
    def __init__(self, url: str, points: Points) -> None:
        super().__init__(url)
        self._points = points

    def write(self) -> Any:
        return _Reached(super().write(), self._points)


class _Reached:
    """A transaction whose end is a point."""

    def __init__(self, inner: Any, points: Points) -> None:
        self._inner, self._points = inner, points

    def __enter__(self) -> Transaction:
        found: Transaction = self._inner.__enter__()
        return found

    def __exit__(self, *error: Any) -> Any:
        self._points.reach()
        done = self._inner.__exit__(*error)
        self._points.reach()
        return done


class Reaching:
    """Before and after each question to the switch there is a point."""

    def __init__(self, outlet: Outlet, points: Points) -> None:
        self._outlet, self._points = outlet, points

    def read(self, port: Port) -> Reading:
        self._points.reach()
        found = self._outlet.read(port)
        self._points.reach()
        return found

    def switch(self, port: Port, is_on: bool) -> None:
        self._points.reach()
        self._outlet.switch(port, is_on)
        self._points.reach()


def serve(url: str, epoch: int, outlet: Outlet, points: Points, made: int) -> None:
    database = WatchedDatabase(url, points)
    with Worker(database, Reaching(outlet, points), epoch, QUICK):
        while True:
            with database.read() as tx:
                if power.outcome(tx, made) is not None:
                    return
            time.sleep(0.02)


def life(database: Database, outlet: Outlet, made: int, kill_at: int) -> int:
    """One process of the controller, that is killed at that point; returns how many it has passed."""
    points, epoch = Points(kill_at), take(database)
    url = database.url.render_as_string(hide_password=False)
    database.close()  # no connection is shared
    pid = forked(lambda: serve(url, epoch, outlet, points, made))
    os.waitpid(pid, 0)
    return points.passed


def test_killed_at_any_statement_the_port_is_on_again(database: Database, switch: Switch, outlets: Outlets) -> None:
    """By the next start; and without one, by the unit of its own."""
    with database.write() as tx:
        [uuid] = fed(tx, switch, 1)
    kill_at, left_off, passed = 0, 0, 0
    while passed == kill_at:  # it was killed
        kill_at += 1
        for has_unit in (False, True):
            with database.write() as tx:
                tx.db.execute(update(power_cycle).values(owed_at=tx.now - timedelta(days=1)))  # else: three in an hour
                made = power.request(tx, uuid, "ann", None) or 0
            passed = life(database, outlets, made, kill_at)
            was_off = not switch.is_on("1.1")
            if was_off:
                left_off += 1
                with database.read() as tx:
                    assert [row["id"] for row in power.owed(tx)] == [made], "it is written down"
            if has_unit:
                restore_all(database, outlets, QUICK)
                assert switch.is_on("1.1")
            patience = Patience(PATIENCE_S)
            with working(database, outlets):
                while not switch.is_on("1.1"):
                    assert not patience.is_over, "it stays off"
                    time.sleep(0.01)
                row = wait(database, made)
            assert switch.is_on("1.1")
            if was_off:
                assert row["off_at"] is not None and row["state"] == "done", "and it is known that it was off"
            else:
                break
    assert kill_at > 12 and left_off >= 8 and row["state"] == "done"


def test_what_is_owed_is_not_closed_while_an_off_may_still_come(
    database: Database, switch: Switch, outlets: Outlets
) -> None:
    """A process that nobody sees sends its "off" after somebody else has switched on: the port goes on once more."""
    with database.write() as tx:
        [uuid] = fed(tx, switch, 1)
        made = power.request(tx, uuid, "ann", None) or 0
        power.move(tx, made, Step.OWE, must_be_on_by=tx.now + timedelta(seconds=1))
    [(_, words)] = restore_all(database, outlets, replace(QUICK, closed_after=timedelta(hours=1)))
    assert words is not None and "whether it stays on is known in 3600 s" in words
    outlets.switch(Port("core", "1", switch.address, "lab"), False)
    with working(database, outlets):
        row = wait(database, made)
    assert switch.is_on("1.1") and row["state"] == "done" and row["off_at"] is not None


# --- Ports


def test_a_client_with_a_port_can_be_woken_but_not_by_one_that_only_pretends(
    database: Database, switch: Switch
) -> None:
    def woken(tx: Transaction) -> bool:
        found = facts.gather(tx, [uuid], Action.SHUTDOWN_HOST, Policy(), may_shut_down=True, someone_is_there=False)
        return found[uuid].can_be_woken

    with database.write() as tx:
        [uuid] = site(tx, 1)
        assert not woken(tx)
        power.put_port(tx, uuid, Port("core", "1", backend=Backend.DRY_RUN), "ann")
        assert not woken(tx)
        power.put_port(tx, uuid, Port("core", "1", switch.address, "lab"), "ann")
        assert woken(tx)
        assert power.remove_port(tx, uuid) and not power.remove_port(tx, uuid) and not woken(tx)


def test_a_cycle_is_forgotten_when_it_is_old_and_never_while_it_is_owed(database: Database, switch: Switch) -> None:
    with database.write() as tx:
        made = [power.request(tx, uuid, "ann", None) or 0 for uuid in fed(tx, switch, 2)]
        power.move(tx, made[0], Step.REFUSE, "no")
        power.move(tx, made[1], Step.OWE, must_be_on_by=tx.now)
        retention.forget(tx, tx.now + timedelta(days=1))
        assert [row["id"] for row in power.cycles(tx, 10)] == [made[1]]
        assert power.outcome(tx, made[0]) == ("failed", "this power cycle is not known any more")
