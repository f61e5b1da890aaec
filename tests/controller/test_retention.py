"""What is deleted when it is old, and what never is."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

from sqlalchemy import func, insert, select, update

from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.controller import recovery
from infoscreen_reboot.controller.lifecycle import Limits, Overdue, Step
from infoscreen_reboot.controller.orders import Caller, House, Wish, order
from infoscreen_reboot.controller.store import commands, fleet, people, recoveries, retention
from infoscreen_reboot.controller.store.database import Database, Transaction
from infoscreen_reboot.controller.store.tables import (
    alert,
    audit,
    batch,
    boot,
    client,
    command,
    event,
    freeze,
    metadata,
    outbox,
)
from tests.controller.test_orders import site

YEAR = timedelta(days=365)


def count(tx: Transaction, name: str) -> int:
    return int(tx.db.execute(select(func.count()).select_from(metadata.tables[name])).scalar_one())


def grow_old(tx: Transaction) -> None:
    """As if everything that is there had happened two years ago."""
    for table in metadata.sorted_tables:
        for column in table.columns:
            if type(column.type).__name__ == "Moment":
                tx.db.execute(update(table).where(column.is_not(None)).values({column.name: tx.now - 2 * YEAR}))


def forget_all(tx: Transaction) -> None:
    while retention.forget(tx, tx.now - YEAR):
        pass


def test_what_is_open_or_stands_is_kept_however_old_it_is(database: Database) -> None:
    boot_id = str(uuid4())
    with database.write() as tx:
        uuids = site(tx, 2)
        caller = Caller("ann", "api")
        is_open, _ = order(tx, caller, Wish(Action.REBOOT_HOST), uuids[0], None, House())
        ended, _ = order(tx, caller, Wish(Action.REBOOT_HOST), uuids[1], None, House())
        commands.learn(tx, [(ended, Overdue(tx.now, Step.SEND))], Limits())
        tx.db.execute(update(client).values(boot_id=boot_id))
        tx.db.execute(
            insert(boot).values(client_uuid=uuids[0], boot_id=boot_id, first_heard_at=tx.now, heard_at=tx.now)
        )
        tx.db.execute(
            insert(boot).values(client_uuid=uuids[0], boot_id=str(uuid4()), first_heard_at=tx.now, heard_at=tx.now)
        )
        tx.db.execute(
            insert(alert),
            [{"client_uuid": uuids[0], "unit": unit, "raised_at": tx.now, "content": {}} for unit in "ab"],
        )
        tx.db.execute(update(alert).where(alert.c.unit == "b").values(cleared_at=tx.now))
        fleet.begin_freeze(tx, "stands", "ann", None)
        over = fleet.begin_freeze(tx, "over", "ann", None)
        fleet.end_freeze(tx, over["id"], "ann")
        people.note(tx, "ann", "api", None, "x", None, "made")
        begun = recovery.begin(tx.now, (), False, timedelta(0), tx.now)
        not_back = recoveries.begin(tx, uuids[0], is_open, begun, None)
        is_back = recoveries.begin(tx, uuids[1], ended, begun, None)
        row = recoveries.one(tx, is_back)
        assert row is not None
        recoveries.write(tx, row, recovery.learn(begun, recovery.Back(tx.now, "it is online")))
        grow_old(tx)
    with database.write() as tx:
        forget_all(tx)
        assert [row["id"] for row in recoveries.page(tx, 10, None, None, None)[0]] == [not_back]
        assert list(tx.db.execute(select(command.c.id)).scalars()) == [is_open]
        assert set(tx.db.execute(select(event.c.command_id)).scalars()) == {is_open}
        assert list(tx.db.execute(select(outbox.c.command_id)).scalars()) == [is_open]
        assert list(tx.db.execute(select(boot.c.boot_id)).scalars()) == [boot_id]
        assert list(tx.db.execute(select(alert.c.unit)).scalars()) == ["a"]
        assert list(tx.db.execute(select(freeze.c.why)).scalars()) == ["stands"]
        assert count(tx, "client") == 2 and count(tx, "audit") == 0


def test_what_is_young_is_kept(database: Database) -> None:
    with database.write() as tx:
        [uuid] = site(tx, 1)
        made, _ = order(tx, Caller("ann", "api"), Wish(Action.REBOOT_HOST), uuid, None, House())
        commands.learn(tx, [(made, Overdue(tx.now, Step.SEND))], Limits())
        people.note(tx, "ann", "api", None, "x", None, "made")
        before = {table.name: count(tx, table.name) for table in metadata.sorted_tables}
        assert retention.forget(tx, tx.now - YEAR) == 0
        assert {table.name: count(tx, table.name) for table in metadata.sorted_tables} == before


def test_thousands_go_in_pieces(database: Database) -> None:
    with database.write() as tx:
        rows = [{"at": tx.now - YEAR, "who": "ann", "via": "api", "what": "x", "outcome": "made"} for _ in range(1201)]
        tx.db.execute(insert(audit), rows)
        tx.db.execute(
            insert(batch).values(
                id=str(uuid4()),
                action="reboot_host",
                created_at=tx.now - YEAR,
                created_by="a",
                via="api",
                send_at=tx.now,
            )
        )
        assert [retention.forget(tx, tx.now) for _ in range(4)] == [501, 500, 201, 0]


def test_a_number_of_an_event_is_never_given_twice(database: Database) -> None:
    """A reader of the stream goes on behind the last event that it saw."""
    with database.write() as tx:
        told = {"at": tx.now - YEAR, "kind": "seen", "content": {}}
        last = tx.db.execute(insert(event).values(**told).returning(event.c.seq)).scalar_one()
        assert retention.forget(tx, tx.now) == 1
        assert tx.db.execute(insert(event).values(**told).returning(event.c.seq)).scalar_one() > last
