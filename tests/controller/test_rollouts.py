"""Rollouts at work: over played clients, with the real engine, by a clock that is turned; and killed at every step."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import insert, select, update

from infoscreen_reboot.contract.ack import AckStatus
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.controller import engine as engines
from infoscreen_reboot.controller import rollouts
from infoscreen_reboot.controller.lifecycle import Acked, Cancelled, Limits
from infoscreen_reboot.controller.orders import Kind, Refused
from infoscreen_reboot.controller.rollouts import Rollouts, Terms
from infoscreen_reboot.controller.store import commands, retention, views
from infoscreen_reboot.controller.store import rollouts as stored
from infoscreen_reboot.controller.store.database import Database
from infoscreen_reboot.controller.store.tables import (
    alert,
    boot,
    client,
    command,
    event,
    label,
    notice,
    recovery,
    rollout,
    rollout_batch,
    rollout_member,
)
from tests.controller.played import forked
from tests.controller.played_rollout import ANN, Clockwork, Town

QUICK = Terms(
    Action.REBOOT_HOST,
    "new player",
    stages=("canary 1", "20 %"),
    settle=timedelta(seconds=3),
    pause=timedelta(seconds=5),
)


@pytest.fixture
def clockwork(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clockwork]:
    monkeypatch.setattr(engines, "HEARING_AGAIN", timedelta(0))
    monkeypatch.setattr(engines, "SILENT", timedelta(days=9))  # they send no health
    database.close()
    found = Clockwork(database.url)
    yield found
    found.close()


def operate(town: Town, rollout_id: str, what: Callable[..., object], *more: object) -> object:
    """As a route of the API does it, for bob."""
    with town.database.write() as tx:
        row = stored.found(tx, rollout_id)
        assert row is not None
        return what(tx, row, "bob", *more)


def pause(town: Town, rollout_id: str) -> None:
    operate(town, rollout_id, rollouts.pause, "lunch", Limits())


def resume(town: Town, rollout_id: str) -> None:
    operate(town, rollout_id, rollouts.resume)


def test_one_site_of_ten_fails_and_it_stops_after_the_failure_that_the_plan_named(clockwork: Clockwork) -> None:
    sites = {f"s{number}": 20 for number in range(10)}
    town = Town(clockwork, sites)
    town.behave("fails", *town.uuids["s9"])
    terms = replace(QUICK, stages=("canary 1", "20 %", "site=s9"))
    with clockwork.read() as tx:
        plan = rollouts.preview(tx, ANN, terms, town.everybody, town.house)
    assert [(each.name, len(each.clients)) for each in plan.dealt] == [
        ("canary 1", 1),
        ("20 %", 40),
        ("site=s9", 20),
        ("rest", 139),
    ]
    assert plan.words()[2] == (
        "0 of 41 failed: the true rate may still be 7 %; failure 3 stops it if no other client succeeds before; "
        "failure 11 of 200 stops it in any case"
    )
    made = town.roll_out(terms)
    while town.row(made)["stage"] < 2 or town.row(made)["state"] != "pausing":
        town.tick()
    town.start(fleet_cap=1)
    row = town.until(made, "stopped")
    assert row["why"] == "3 of 44 failed (6.8 %), and at most 5 % may"
    assert town.states(made) == {
        1: {"completed": 1},
        2: {"completed": 40},
        3: {"failed": 3, "waiting": 17},
        4: {"waiting": 139},
    }
    before = town.executed()
    assert len(before) == 44
    town.pace = timedelta(minutes=1)
    town.tick(3)
    town.pace = timedelta(seconds=1)
    assert town.executed() == before and town.row(made)["state"] == "stopped", "the rest is untouched"
    with clockwork.read() as tx:
        assert stored.recovery_is_off(tx, town.uuids["s9"][0]) and stored.recovery_is_off(tx, town.uuids["s3"][5])
        assert not stored.recovery_is_off(tx, "somebody else")
    assert [kind for kind, _ in town.notices()] == ["started", "stopped"]
    assert "is stopped by its brake: 3 of 44 failed" in town.notices()[1][1]
    town.behave("completes", *town.uuids["s9"])
    town.start()
    resume(town, made)
    town.until(made, "finished")
    assert len(town.executed()) == 200 and max(town.made().values()) <= 2
    assert town.states(made)[3] == {"failed": 3, "completed": 17}
    assert [kind for kind, _ in town.notices()] == ["started", "stopped", "finished"]
    assert town.notices()[2][1].endswith("197 of 200 completed")
    with clockwork.read() as tx:
        assert not stored.recovery_is_off(tx, town.uuids["s9"][0])
        assert [(row["stage"], row["run"]) for row in stored.batches_of(tx, made)] == [
            (1, 1),
            (2, 1),
            (3, 1),
            (3, 2),
            (4, 2),
        ]


def test_a_failure_in_a_small_sample_pauses_and_asks_and_what_runs_runs_on(clockwork: Clockwork) -> None:
    town = Town(clockwork, {"alpine": 40})
    town.behave("fails", town.everybody[1])
    town.air.boot_takes = timedelta(seconds=2)
    made = town.roll_out(QUICK)
    row = town.until(made, "paused")
    assert (row["is_asking"], row["recovery_off"], row["stage"]) == (True, False, 2)
    assert row["why"] == "1 of 2 failed (50 %): of fewer than 20 nobody can tell if at most 5 % may"
    town.tick(10)
    assert town.states(made) == {1: {"completed": 1}, 2: {"failed": 1, "completed": 7}, 3: {"waiting": 31}}
    resume(town, made)
    assert town.until(made, "finished", "stopped", "paused")["state"] == "finished"
    assert sorted(town.executed()) == town.everybody


def killed_at_every_step(town: Town, made: str, end: str) -> int:
    """Each step is first taken by a process that is killed before its commit, and then, if it tells something, by one
    that is killed right after it. Returns how many were killed."""
    killed = 0
    town.pace = timedelta(seconds=3)
    for _ in range(400):
        if town.row(made)["state"] == end:
            return killed
        town.turn()
        before = town.revision()
        for dies in ("before", "after"):
            town.database.close()

            def step(dies: str = dies) -> None:
                town.start(town.fleet_cap)
                town.database.dies = dies
                town.engine.step()

            _, status = os.waitpid(forked(step), 0)
            assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
            killed += 1
            if dies == "before":
                assert town.revision() == before
        town.start(town.fleet_cap)
        town.engine.step()
    raise AssertionError(town.row(made)["state"])


def test_killed_at_every_step_of_every_stage_nobody_is_rebooted_twice(clockwork: Clockwork) -> None:
    town = Town(clockwork, {"alpine": 6})
    made = town.roll_out(replace(QUICK, stages=("canary 1", "2"), labels={"version": "7"}))
    assert killed_at_every_step(town, made, "finished") > 20
    assert sorted(town.executed()) == town.everybody and set(town.made().values()) == {1}
    assert [kind for kind, _ in town.notices()] == ["started", "finished"]
    with clockwork.read() as tx:
        kinds = list(tx.db.execute(select(event.c.kind).where(event.c.kind.like("rollout%"))).scalars())
        assert [(row["stage"], row["run"]) for row in stored.batches_of(tx, made)] == [(1, 1), (2, 1), (3, 1)]
        assert {labels["version"] for labels in views.labels_of(tx, town.everybody).values()} == {"7"}
    stage = ["rollout_running", "rollout_settling", "rollout_pausing"]
    assert kinds == ["rollout_planned", *stage, *stage, *stage[:2], "rollout_finished"]


def test_killed_while_the_brake_stops_it_is_stopped_once(clockwork: Clockwork) -> None:
    town = Town(clockwork, {"alpine": 4})
    town.behave("fails", town.everybody[1])
    made = town.roll_out(replace(QUICK, stages=("canary 1", "1")))
    assert killed_at_every_step(town, made, "stopped") > 10
    assert [kind for kind, _ in town.notices()] == ["started", "stopped"]
    assert town.executed() == town.everybody[:2]
    resume(town, made)
    killed_at_every_step(town, made, "finished")
    assert sorted(town.executed()) == town.everybody


def test_what_is_said_later_never_changes_what_was_counted(clockwork: Clockwork) -> None:
    town = Town(clockwork, {"alpine": 3})
    town.behave("lost", town.everybody[0])
    town.pace = timedelta(seconds=10)
    made = town.roll_out(replace(QUICK, max_failed="10 %"))
    row = town.until(made, "stopped")
    assert row["why"].startswith("1 of 1 failed (100 %): however the other 2 end")
    with clockwork.write() as tx:
        first = tx.db.execute(select(command.c.id)).scalar_one()
        commands.learn(tx, [(first, Acked(tx.now, AckStatus.COMPLETED, "x"))], Limits())
    town.tick(3)
    with clockwork.read() as tx:
        assert stored.sample(tx, made, 1).failed == 1
        [member] = stored.members(tx, made, stage=1)
    assert (member["state"], member["late"]) == ("timed_out", "completed")


def test_what_was_refused_cancelled_or_only_pretended_is_shown_and_not_counted(clockwork: Clockwork) -> None:
    town = Town(clockwork, {"alpine": 4}, fleet_cap=1)
    made = town.roll_out(replace(QUICK, stages=("1",)))
    blocked, cancelled = town.everybody[1], town.everybody[2]
    with clockwork.write() as tx:
        tx.db.execute(update(client).where(client.c.uuid == blocked).values(standing="rejected"))
    while town.row(made)["stage"] < 2:
        town.tick()
    with clockwork.write() as tx:
        row = tx.db.execute(select(command.c.id).where(command.c.client_uuid == cancelled)).scalar_one()
        commands.learn(tx, [(row, Cancelled(tx.now, "bob"))], Limits())
    town.until(made, "finished")
    assert town.states(made)[2] == {"blocked_safety": 1, "cancelled": 1, "completed": 1}
    with clockwork.read() as tx:
        assert (stored.sample(tx, made, 1).ran, stored.sample(tx, made, 1).failed) == (2, 0)
        ended = tx.db.execute(select(notice.c.content).where(notice.c.kind == "finished")).scalar_one()
    assert [each["client_uuid"] for each in ended["not_completed"]] == [blocked, cancelled]
    assert len(ended["missing"]) == 2 and all(isinstance(name, str) for name in ended["missing"])


def test_the_controller_leaves_the_clients_of_a_stopped_rollout_alone(clockwork: Clockwork) -> None:
    town = Town(clockwork, {"alpine": 3, "city": 1})
    town.recovers, town.pace = True, timedelta(seconds=10)
    town.start()
    town.behave("lost", town.everybody[0], town.everybody[3])
    made = town.roll_out(replace(QUICK, stages=("canary 1",)), town.uuids["alpine"])
    other = town.roll_out(replace(QUICK, max_failed="50 %", minimum=1, stages=()), town.uuids["city"])
    town.until(made, "stopped")
    town.until(other, "stopped")
    operate(town, other, rollouts.allow_recovery)
    town.tick(2)
    with clockwork.read() as tx:
        states = {row.client_uuid: (row.state, row.words) for row in tx.db.execute(select(recovery))}
    assert states[town.everybody[0]][0] == "held_back" and "keeps recovery away" in states[town.everybody[0]][1]


def test_recovery_stays_off_after_an_abort_until_a_person_allows_it(clockwork: Clockwork) -> None:
    town = Town(clockwork, {"alpine": 2})
    town.behave("fails", *town.everybody)
    made = town.roll_out(replace(QUICK, stages=()))
    town.until(made, "stopped")
    operate(town, made, rollouts.abort, Limits())
    with clockwork.read() as tx:
        assert stored.recovery_is_off(tx, town.everybody[0])
    operate(town, made, rollouts.allow_recovery)
    with clockwork.read() as tx:
        assert not stored.recovery_is_off(tx, town.everybody[0])
    with pytest.raises(Refused, match="is not switched off"):
        operate(town, made, rollouts.allow_recovery)


def test_a_threshold_that_cannot_be_read_is_refused_and_in_the_database_it_stops(clockwork: Clockwork) -> None:
    town = Town(clockwork, {"alpine": 3})
    with pytest.raises(Refused) as caught:
        town.roll_out(replace(QUICK, max_failed="5"))
    assert caught.value.kind is Kind.BAD_TERMS
    made = town.roll_out(QUICK)
    with clockwork.write() as tx:
        tx.db.execute(update(rollout).values(threshold="a few"))
    assert town.until(made, "stopped")["why"] == "the threshold 'a few' cannot be read"
    resume(town, made)
    town.until(made, "stopped")
    assert town.executed() == []


def test_a_person_pauses_resumes_and_the_count_goes_on(clockwork: Clockwork) -> None:
    town = Town(clockwork, {"alpine": 8}, fleet_cap=2)
    made = town.roll_out(replace(QUICK, stages=("1",)))
    while len(town.executed()) < 2:
        town.tick()
    pause(town, made)
    row = town.row(made)
    assert (row["state"], row["why"], row["changed_by"]) == ("paused", "paused by bob: lunch", "bob")
    town.tick(9)
    ran = len(town.executed())
    assert 1 < ran < 5 and town.states(made)[2]["waiting"] == 8 - ran
    with pytest.raises(Refused, match="only a rollout that has begun"):
        pause(town, made)
    resume(town, made)
    assert town.row(made)["counts_from"] == 1
    town.until(made, "finished")
    assert sorted(town.executed()) == town.everybody
    with pytest.raises(Refused, match="this rollout is over"):
        operate(town, made, rollouts.abort, Limits())


def test_abort_ends_it_and_what_was_not_sent_is_cancelled(clockwork: Clockwork) -> None:
    town = Town(clockwork, {"alpine": 4}, fleet_cap=1)
    made = town.roll_out(replace(QUICK, stages=("3",)))
    while not town.executed():
        town.tick()
    assert operate(town, made, rollouts.abort, Limits()) == 2
    town.tick(9)
    assert len(town.executed()) == 1
    assert town.states(made) == {1: {"completed": 1, "cancelled": 2}, 2: {"waiting": 1}}
    assert town.notices()[-1][1].startswith("The rollout of reboot_host by ann (new player) was aborted by bob: ")


def test_a_roll_back_restores_the_labels_but_not_what_somebody_has_changed_since(clockwork: Clockwork) -> None:
    town = Town(clockwork, {"alpine": 3})
    first, second, third = town.everybody
    with clockwork.write() as tx:
        views_of = [(first, "6"), (second, "5")]
        rows = [{"client_uuid": uuid, "key": "version", "value": value} for uuid, value in views_of]
        tx.db.execute(insert(label), rows)
    made = town.roll_out(replace(QUICK, stages=(), labels={"version": "7", "ring": "a"}))
    town.until(made, "finished")
    with clockwork.write() as tx:
        found = views.labels_of(tx, town.everybody)
        assert {labels["version"] for labels in found.values()} == {"7"} and found[third]["ring"] == "a"
        tx.db.execute(update(label).where(label.c.key == "ring").values(value="b"))
        tx.db.execute(update(label).where(label.c.client_uuid == second).values(value="8"))
    assert operate(town, made, rollouts.roll_back, Limits()) == (0, 0, 3)
    with clockwork.read() as tx:
        found = views.labels_of(tx, town.everybody)
    assert found[first] == {"site": "alpine", "version": "6", "ring": "b"}
    assert found[second]["version"] == "8" and "version" not in found[third]
    with pytest.raises(Refused, match="rolled back before"):
        operate(town, made, rollouts.roll_back, Limits())


def test_a_client_that_completes_after_the_roll_back_gets_no_label(clockwork: Clockwork) -> None:
    town = Town(clockwork, {"alpine": 2})
    made = town.roll_out(replace(QUICK, stages=(), labels={"version": "7"}))
    while not town.executed():
        town.tick()
    operate(town, made, rollouts.roll_back, Limits())
    town.tick(20)
    assert town.states(made) == {1: {"completed": 2}}
    with clockwork.read() as tx:
        assert views.labels_of(tx, town.everybody)[town.everybody[0]] == {"site": "alpine"}


@pytest.mark.parametrize("what", ["offline", "a unit"])
def test_what_breaks_while_it_settles_pauses_and_asks(clockwork: Clockwork, what: str) -> None:
    town = Town(clockwork, {"alpine": 40})
    made = town.roll_out(QUICK)
    town.until(made, "settling")
    [canary] = town.executed()
    with clockwork.write() as tx:
        if what == "offline":
            tx.db.execute(update(client).where(client.c.uuid == canary).values(is_online=False))
        else:
            tx.db.execute(insert(alert).values(client_uuid=canary, unit="player", raised_at=tx.now, content={}))
    row = town.until(made, "paused")
    assert canary in row["why"] and row["is_asking"]
    resume(town, made)
    town.until(made, "finished")
    assert sorted(town.executed()) == town.everybody, "whoever resumed has accepted it"


def test_the_clients_are_taken_in_the_order_of_their_last_reboot(clockwork: Clockwork) -> None:
    town = Town(clockwork, {"alpine": 3})
    ages = dict(zip(town.everybody, (5, 50, 1), strict=True))
    with clockwork.write() as tx:
        for uuid, days in ages.items():
            at = tx.now - timedelta(days=days)
            for earlier in (timedelta(days=400), timedelta(0)):
                known = {
                    "boot_id": f"{uuid[:-1]}{earlier.days % 7}",
                    "first_heard_at": at - earlier,
                    "heard_at": tx.now,
                }
                tx.db.execute(insert(boot).values(client_uuid=uuid, **known))
        plan = rollouts.preview(tx, ANN, replace(QUICK, stages=("1", "1")), town.everybody, town.house)
    assert [each.clients[0] for each in plan.dealt] == [town.everybody[number] for number in (1, 0, 2)]


def test_what_was_shown_is_what_is_made_or_nothing_is(clockwork: Clockwork) -> None:
    town = Town(clockwork, {"alpine": 3})
    with clockwork.write() as tx:
        shown = rollouts.preview(tx, ANN, QUICK, town.everybody, town.house)

        def refused(terms: Terms, seen: str, count: int | None, key: str | None = None) -> Kind:
            with pytest.raises(Refused) as caught:
                rollouts.create(tx, ANN, terms, town.everybody, seen, count, key, town.house)
            return caught.value.kind

        assert refused(replace(QUICK, max_failed="50 %"), shown.hash, 3) is Kind.PREVIEW_CHANGED
        assert refused(replace(QUICK, stages=("2",)), shown.hash, 3) is Kind.PREVIEW_CHANGED
        assert refused(QUICK, shown.hash, 2) is Kind.COUNT_DIFFERS
        assert refused(replace(QUICK, stages=("site=none",)), shown.hash, 3) is Kind.BAD_TERMS
        assert refused(replace(QUICK, labels={"a b": "x"}), shown.hash, 3) is Kind.BAD_TERMS
        assert tx.db.execute(select(rollout)).all() == []
        one = rollouts.create(tx, ANN, QUICK, town.everybody, shown.hash, 3, "k", town.house)
        again = rollouts.create(tx, ANN, QUICK, town.everybody, shown.hash, 3, "k", town.house)
        assert one == (again[0], True) and again[1] is False
        assert refused(replace(QUICK, reason="other"), shown.hash, 3, "k") is Kind.KEY_USED_OTHERWISE
        tx.db.execute(update(client).where(client.c.uuid == town.everybody[0]).values(standing="rejected"))
        assert refused(QUICK, shown.hash, 3) is Kind.PREVIEW_CHANGED


def test_a_stage_whose_clients_all_wait_in_vain_ends(clockwork: Clockwork) -> None:
    town = Town(clockwork, {"alpine": 2})
    with clockwork.write() as tx:
        tx.db.execute(update(client).where(client.c.uuid == town.everybody[0]).values(is_online=False))
    town.pace = timedelta(seconds=10)
    made = town.roll_out(replace(QUICK, stages=("1",), wait=timedelta(minutes=1)))
    town.until(made, "finished")
    assert town.states(made) == {1: {"expired": 1}, 2: {"completed": 1}}


def test_a_clock_that_is_put_back_keeps_nothing_waiting(clockwork: Clockwork) -> None:
    plan = Rollouts(Town(clockwork, {"alpine": 1}).house, Limits())
    looks = []
    for seconds in (0, 0.5, 1, -3600, -3599.5, -3599):
        with clockwork.write() as tx:
            before = plan._looked_at
            plan.step(replace(tx, now=tx.now + timedelta(seconds=seconds)), [])
            looks.append(plan._looked_at != before)
    assert looks == [True, False, True, True, False, True]


def test_what_is_over_is_forgotten_after_its_time_and_what_asks_never(clockwork: Clockwork) -> None:
    town = Town(clockwork, {"alpine": 2, "city": 2})
    town.behave("fails", *town.uuids["city"])
    over = town.roll_out(replace(QUICK, stages=()), town.uuids["alpine"])
    town.until(over, "finished")
    asks = town.roll_out(replace(QUICK, stages=()), town.uuids["city"])
    town.until(asks, "stopped")
    with clockwork.write() as tx:
        while retention.forget(tx, tx.now + timedelta(days=9)):
            pass
        assert list(tx.db.execute(select(rollout.c.id)).scalars()) == [asks]
        for table in (rollout_member, rollout_batch):
            assert set(tx.db.execute(select(table.c.rollout_id)).scalars()) == {asks}
