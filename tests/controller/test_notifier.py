"""From a notice to its target: with a database, real servers, and time that is passed in."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import event, insert, select

from infoscreen_reboot.controller import sending, targets, webhook
from infoscreen_reboot.controller.lifecycle import Limits
from infoscreen_reboot.controller.notifier import Notifier
from infoscreen_reboot.controller.notifying import GRACE, Notice, NotSent, Post
from infoscreen_reboot.controller.safety import Standing
from infoscreen_reboot.controller.store import clients, deliveries, figures, fleet, lease, notices, retention
from infoscreen_reboot.controller.store.database import Database, StoreError, Transaction
from infoscreen_reboot.controller.store.lease import LeaseLost
from infoscreen_reboot.controller.store.notices import Kind
from infoscreen_reboot.controller.store.tables import client, delivery, label, message, notice, site
from infoscreen_reboot.controller.targets import Target
from tests.controller.receiver import SECRET, is_signed, receiving
from tests.controller.test_store import NEW, OLD, a_status, uuid
from tools.lab.patience import Patience

HOUR = timedelta(hours=1)
UNDELIVERED = {"target": "hook", "words": "it answers 500"}


@dataclass
class Later:
    """A database whose clock is ahead of the real one, as far as one wants."""

    database: Database
    ahead: timedelta = timedelta()

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        with self.database.write() as tx:
            yield replace(tx, now=tx.now + self.ahead)

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        with self.database.read() as tx:
            yield replace(tx, now=tx.now + self.ahead)


class House:
    """The holder of the lease with its notifier; a new one takes over when it is killed."""

    def __init__(self, database: Database, *lines: str) -> None:
        self.clock = Later(database)
        self.targets, faults = targets.parse("\n".join(lines))
        assert not faults
        self.sent: list[tuple[str, Post]] = []
        self.down: set[str] = set()
        self.deliver = self.take
        self.begin()

    def begin(self) -> None:
        """Whatever the one before had in its memory is gone."""
        with self.clock.database.write() as tx:
            lease.seize(tx)
            taken = lease.take(tx, str(uuid4()))
        assert taken is not None
        self.epoch = taken
        self.notifier = Notifier(self.clock, self.targets, "UTC", deliver=self.deliver)

    def take(self, target: Target, post: Post, now: datetime) -> None:
        if target.name in self.down:
            raise NotSent("it answers 500")
        self.sent.append((target.name, post))

    def tell(self, kind: Kind, count: int = 1, site: str | None = None) -> None:
        with self.clock.write() as tx:
            for number in range(count):
                notices.tell(tx, kind, f"client/{number}", f"client {number}", site=site)

    def pass_time(self, time: timedelta, seconds: float = 60.0) -> None:
        """One round afterwards, and another one for what came of it."""
        self.clock.ahead += time
        self.notifier.work(self.epoch)
        self.notifier.finish(self.epoch, seconds)

    def states(self) -> dict[str, tuple[str, int, str | None]]:
        with self.clock.read() as tx:
            rows = tx.db.execute(select(delivery).order_by(delivery.c.message_id)).all()
        return {row.target: (row.state, row.attempts, row.words) for row in rows}


def test_400_failures_are_one_message_at_each_target(database: Database) -> None:
    house = House(database, "mail mailto://a@b", "phone ntfys://h/t loud", "log json://h kinds=finished")
    house.tell(Kind.NEEDS_PERSON, 400, site="alpine")
    house.pass_time(GRACE / 2)
    assert house.sent == []
    house.pass_time(GRACE)
    assert sorted((name, post.title) for name, post in house.sent) == [
        ("mail", "infoscreen: 400 clients need a person"),
        ("phone", "infoscreen: 400 clients need a person"),
    ]
    house.pass_time(HOUR)
    assert len(house.sent) == 2
    with database.read() as tx:
        assert len(set(tx.db.execute(select(notice.c.message_id)).scalars())) == 1
        assert not notices.is_something_pending(tx)


def test_a_closed_site_hears_at_its_opening_what_still_is_so(database: Database) -> None:
    house = House(database, "mail mailto://a@b")
    with house.clock.write() as tx:
        opens = (tx.now + 5 * HOUR).replace(minute=0)
        days = "mon,tue,wed,thu,fri,sat,sun"
        tx.db.execute(insert(site).values(name="alpine", zone="UTC", opening_hours=f"{days} {opens:%H:%M} 2h"))
        tx.db.execute(insert(site).values(name="harbour", opening_hours="when somebody is there"))
    house.tell(Kind.NEEDS_PERSON, 3, "alpine")
    with house.clock.write() as tx:
        notices.tell(tx, Kind.NEEDS_PERSON, "client/h", "the harbour's", site="harbour")
    house.pass_time(2 * GRACE)
    assert [post.body for _, post in house.sent] == ["the harbour's"], "hours that nobody can read hide nothing"
    with house.clock.write() as tx:
        notices.tell(tx, Kind.BACK, "client/1", "client 1 is back", site="alpine")
    house.pass_time(3 * HOUR)
    assert len(house.sent) == 1
    house.pass_time(2 * HOUR)
    assert house.sent[-1][1].body.splitlines() == ["Sites: alpine (2).", "- client 0", "- client 2"]
    house.tell(Kind.BACK, 3, "alpine")
    house.pass_time(2 * GRACE)
    assert house.sent[-1][1].title == "infoscreen: 2 clients are back" and len(house.sent) == 3


def test_a_target_that_is_down_is_tried_again_for_a_day_and_then_given_up(database: Database) -> None:
    house = House(database, "mail mailto://a@b", "hook json://h")
    house.down = {"hook"}
    house.tell(Kind.STOPPED)
    house.pass_time(GRACE)
    assert house.states() == {"mail": ("sent", 1, None), "hook": ("waiting", 1, "it answers 500")}
    with house.clock.read() as tx:
        assert [dict(row) for row in deliveries.undelivered(tx)] == [UNDELIVERED | {"waiting": 1, "failed": 0}]
        assert figures.count(tx).undelivered == 1
    for _ in range(100):
        house.pass_time(HOUR / 4)
    state, attempts, words = house.states()["hook"]
    assert (state, words) == ("failed", "it answers 500") and 24 < attempts < 36
    with house.clock.read() as tx:
        assert [dict(row) for row in deliveries.undelivered(tx)] == [UNDELIVERED | {"waiting": 0, "failed": 1}]
    house.pass_time(24 * HOUR)
    with house.clock.read() as tx:
        assert deliveries.undelivered(tx) == []
    assert [name for name, _ in house.sent] == ["mail"]


def test_what_comes_late_says_so(database: Database) -> None:
    house = House(database, "hook json://h")
    house.down = {"hook"}
    house.tell(Kind.STOPPED)
    house.pass_time(GRACE)
    house.down = set()
    house.pass_time(HOUR)
    [(_, post)] = house.sent
    assert post.body.splitlines()[0] == "client 0" and "could not be sent before" in post.body
    assert house.states() == {"hook": ("sent", 2, None)}


def test_who_is_killed_on_the_way_sends_again_and_nothing_is_lost(database: Database) -> None:
    """Killed before it is sent, then after it was sent and before that was written down."""
    house = House(database, "hook json://h")
    house.tell(Kind.STOPPED)

    class Killed(BaseException):
        pass

    def dies(attempt: object) -> None:
        raise Killed

    house.notifier._begin = dies  # type: ignore[method-assign]
    with pytest.raises(Killed):
        house.pass_time(GRACE)
    assert house.states() == {"hook": ("waiting", 1, "no answer yet to attempt 1")} and not house.sent
    house.begin()
    house.clock.ahead += HOUR
    house.notifier.work(house.epoch)
    while not house.sent:
        threading.Event().wait(0.01)
    house.begin()  # its answer was in the memory of the one before
    house.pass_time(HOUR)
    assert [post.id for _, post in house.sent] == [1, 1] and house.states()["hook"][0] == "sent"


def test_what_was_sent_is_written_down_later_if_the_database_cannot_be_used_now(database: Database) -> None:
    house = House(database, "hook json://h")
    house.tell(Kind.STOPPED)
    house.clock.ahead += GRACE
    house.notifier.work(house.epoch)
    while not house.sent:
        threading.Event().wait(0.01)
    with pytest.MonkeyPatch.context() as patch:

        @contextmanager
        def broken() -> Iterator[Transaction]:
            raise StoreError("the disk is full")
            yield

        patch.setattr(house.clock, "write", broken)
        with pytest.raises(StoreError):
            house.notifier.finish(house.epoch, 5)
    house.pass_time(HOUR)
    assert house.states() == {"hook": ("sent", 1, None)} and len(house.sent) == 1


def test_an_error_of_ours_ends_neither_the_controller_nor_what_is_told_later(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("_LOOK_EVERY_S", "_REST_S"):
        monkeypatch.setattr(f"infoscreen_reboot.controller.notifier.{name}", 0.02)
    house = House(database, "hook json://h")
    house.tell(Kind.STOPPED)
    house.clock.ahead += GRACE
    real, calls = notices.pending, []

    def pending(tx: Transaction) -> list[Notice]:
        calls.append(tx)
        if len(calls) == 1:
            raise ValueError("a bug")
        return real(tx)

    monkeypatch.setattr(notices, "pending", pending)
    house.notifier.start(house.epoch)
    patience = Patience(30)
    while not house.sent and not patience.is_over:
        house.clock.ahead += GRACE
        threading.Event().wait(0.02)
    house.notifier.stop()
    assert len(house.sent) == 1 and "an error of ours" in caplog.text


def test_killed_at_any_statement_everything_is_told_and_each_thing_in_one_message(database: Database) -> None:
    """The connection is cut before the first, the second, … statement of a round, until a round has no more of them."""
    house = House(database, "hook json://h", "mail mailto://a@b")
    left = 0

    class Killed(BaseException):
        pass

    def cut(*_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed

    listen = database.engine, "before_cursor_execute", cut
    killed = 0
    for number in range(1, 100):
        with house.clock.write() as tx:
            notices.tell(tx, Kind.STOPPED, f"rollout/{number}", f"rollout {number} was stopped")
        house.clock.ahead += 2 * GRACE
        left = number
        event.listen(*listen)
        try:
            house.notifier.work(house.epoch)
            is_over = left > 0
        except Killed:
            is_over = False
            killed += 1
        event.remove(*listen)
        house.notifier.finish(house.epoch, 5)
        house.begin()
        house.pass_time(HOUR)
        house.pass_time(HOUR)
        if is_over:
            break
    assert killed > 10
    with database.read() as tx:
        assert tx.db.execute(select(delivery).where(delivery.c.state != "sent")).all() == []
        told = tx.db.execute(select(message.c.body)).scalars().all()
    assert sorted(told) == sorted(f"rollout {each} was stopped" for each in range(1, number + 1))
    for name in ("hook", "mail"):
        ids = [post.id for target, post in house.sent if target == name]
        assert len(set(ids)) == number and len(ids) == number, "what was not committed was not sent"


def test_a_holder_that_has_lost_the_lease_tells_nobody(database: Database) -> None:
    house = House(database, "hook json://h")
    house.tell(Kind.STOPPED)
    with database.write() as tx:
        lease.seize(tx)
    with pytest.raises(LeaseLost):
        house.pass_time(GRACE)
    assert not house.sent and house.states() == {}


def test_what_is_for_a_target_that_is_gone_ends_and_without_targets_notices_are_still_settled(
    database: Database,
) -> None:
    house = House(database, "hook json://h")
    house.down = {"hook"}
    house.tell(Kind.STOPPED)
    house.pass_time(GRACE)
    house.targets = ()
    house.begin()
    house.tell(Kind.STARTED)
    house.pass_time(HOUR)
    assert house.states() == {"hook": ("failed", 1, "there is no such target any more")}
    with database.read() as tx:
        assert not notices.is_something_pending(tx) and not deliveries.is_something_due(tx)


def test_a_slow_target_holds_nobody_up_but_itself(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real servers: one takes everything, one never answers, one redirects to this machine, one is down."""
    monkeypatch.setattr(webhook, "LIMIT_S", 60.0)
    with receiving() as good, receiving("nothing") as slow, receiving(302) as astray, receiving() as inner:
        astray.elsewhere = inner.url
        lines = [good.line("good"), slow.line("slow"), astray.line("astray")]
        lines.append(f"down webhook http://127.0.0.1:9/ secret={SECRET} internal")
        house = House(database, *lines)
        house.deliver = sending.deliver
        house.begin()
        for number in range(3):
            house.tell(Kind.STOPPED, number + 1)
            house.pass_time(GRACE, 0)
            patience = Patience(30)
            while house.notifier._busy != {"slow"} or not slow.got:
                assert not patience.is_over, house.states()
                house.notifier.finish(house.epoch, 0.05)
        assert [json.loads(body)["count"] for _, _, body in good.got] == [1, 2, 3]
        assert all(is_signed(headers, body) for _, headers, body in good.got)
        assert len(slow.got) == 1, "one after the other"
        assert inner.got == [] and len(astray.got) >= 3
        with house.clock.read() as tx:
            told = {row["target"]: row["words"] for row in deliveries.undelivered(tx)}
        assert told["slow"] == "no answer yet to attempt 1"
        assert "no redirect is followed" in told["astray"] and "Connection refused" in told["down"]
        slow.does = 200
        slow.ends.set()
        house.pass_time(timedelta())
        house.pass_time(HOUR)
        assert len(slow.got) > 1


def test_it_works_by_itself_and_stops_in_good_order(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("_LOOK_EVERY_S", 0.02), ("_LAST_S", 60.0)):
        monkeypatch.setattr(f"infoscreen_reboot.controller.notifier.{name}", seconds)
    arrived = threading.Event()
    house = House(database, "hook json://h")

    def deliver(target: Target, post: Post, now: datetime) -> None:
        arrived.set()

    house.deliver = deliver
    house.begin()
    house.tell(Kind.STOPPED)
    house.clock.ahead = GRACE
    house.notifier.start(house.epoch)
    assert arrived.wait(30)
    house.notifier.stop()
    house.notifier.stop()
    assert house.states() == {"hook": ("sent", 1, None)}


def test_unknown_clients_are_one_message_and_two_hosts_are_told_once(database: Database) -> None:
    house = House(database, "mail mailto://a@b")
    with house.clock.write() as tx:
        heard = [a_status("connected", of=uuid(number)) for number in range(1, 1201)]
        assert clients.hear(tx, heard, accepts_all=False).turned_away == 200
        clients.hear(tx, heard, accepts_all=False)
        tx.db.execute(insert(client).values(uuid=uuid(2000), standing=Standing.ACCEPTED, name="lobby"))
        tx.db.execute(insert(label).values(client_uuid=uuid(2000), key="site", value="alpine"))
        for session, boot_id in enumerate([OLD, NEW, OLD, NEW, OLD, NEW], start=1):
            clients.hear(tx, [a_status("connected", session, boot_id, of=uuid(2000))], accepts_all=False)
    house.pass_time(GRACE)
    house.pass_time(timedelta())
    unknown, two = (post for _, post in house.sent)
    assert unknown.title == "infoscreen: 1000 clients that nobody knows" and not unknown.is_loud
    assert two.is_loud and two.content["sites"] == {"alpine": 1}
    assert two.body == "two hosts use the UUID of client lobby: give one of them another machine id"


def test_a_client_that_somebody_accepts_at_once_is_not_told(database: Database) -> None:
    house = House(database, "mail mailto://a@b")
    with house.clock.write() as tx:
        clients.hear(tx, [a_status("connected", of=uuid(number)) for number in (1, 2, 3)], accepts_all=False)
        fleet.set_standing(tx, [uuid(1), uuid(2)], Standing.ACCEPTED, "ann", Limits())
    house.pass_time(GRACE)
    assert [post.content["count"] for _, post in house.sent] == [1]
    assert uuid(3) in house.sent[0][1].body


def test_old_messages_are_forgotten_with_their_deliveries(database: Database) -> None:
    house = House(database, "mail mailto://a@b")
    house.tell(Kind.STOPPED)
    house.pass_time(GRACE)
    with database.write() as tx:
        assert retention.forget(tx, tx.now - HOUR) == 0
        assert retention.forget(tx, tx.now + HOUR) == 2
        assert [tx.db.execute(select(each)).all() for each in (notice, message, delivery)] == [[], [], []]
