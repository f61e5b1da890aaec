"""The controller is killed right after each commit, before and after each publish and PUBACK, and a new one goes on.

Each story takes a command to another end. It is played once undisturbed, which counts the points at which the process
can be killed, and then once for each point: the first process is killed there, the second at its first point, and the
third goes on. The engine, the database and mosquitto are real; each process is a fork.
"""

from __future__ import annotations

import os
import shutil
import signal
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from mmap import mmap
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, insert, or_, select, text

from infoscreen_reboot.contract import ack
from infoscreen_reboot.contract.ack import Ack, AckStatus, ErrorCode
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.contract.telemetry import PresenceReason
from infoscreen_reboot.contract.topics import Topics
from infoscreen_reboot.controller import engine as engines
from infoscreen_reboot.controller import ingest
from infoscreen_reboot.controller.engine import Engine, Orders
from infoscreen_reboot.controller.lifecycle import VERDICT_RANK, VERDICTS, Limits, State
from infoscreen_reboot.controller.store import commands, lease, views
from infoscreen_reboot.controller.store.commands import Letter, New, Request
from infoscreen_reboot.controller.store.database import Database, Transaction
from infoscreen_reboot.controller.store.tables import client, command, event, outbox
from infoscreen_reboot.mqtt.consumer import Consumer, Received
from infoscreen_reboot.mqtt.messages import BrokerSettings, Message
from tests.broker.conftest import Broker
from tests.controller.played import PlayedClient, aged, emptied, forked, ordered, settings_of
from tools.lab.patience import Patience

# A step takes milliseconds; on a busy machine, seconds.
PATIENCE_S = 60.0
# Each look is a transaction, and takes the processor from the engine that is waited for.
LOOK_S = 0.02
AN_HOUR = timedelta(hours=1)
CLIENT = str(UUID(int=1))


class Points:
    """Where the process can be killed. The numbers are shared with the parent."""

    def __init__(self, kill_at: int) -> None:
        self.kill_at = kill_at
        self._shared = mmap(-1, 16)

    @property
    def passed(self) -> int:
        return int(struct.unpack_from("q", self._shared, 0)[0])

    @property
    def breaches(self) -> int:
        """How many messages went out for a command that had ended."""
        return int(struct.unpack_from("q", self._shared, 8)[0])

    def reach(self) -> None:
        struct.pack_into("q", self._shared, 0, self.passed + 1)
        if self.passed == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def breach(self) -> None:
        struct.pack_into("q", self._shared, 8, self.breaches + 1)


class WatchedDatabase(Database):
    """A commit is a point if it told something."""

    def __init__(self, url: str, points: Points) -> None:
        super().__init__(url)
        self._points = points
        self._revision = 0

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        with super().write() as tx:
            yield tx
            revision = views.revision(tx)
        if revision != self._revision:
            self._revision = revision
            self._points.reach()


class WatchedConsumer(Consumer):
    def __init__(self, settings: BrokerSettings, database: Database, points: Points) -> None:
        super().__init__(settings, "infoscreen-controller", ingest.TOPICS)
        self._database, self._points = database, points

    def acknowledge(self, received: Sequence[Received]) -> None:
        super().acknowledge(received)
        if received:
            self._points.reach()

    def publish(self, message: Message, properties: Sequence[tuple[str, str]] = ()) -> int:
        self._points.reach()
        with self._database.read() as tx:
            query = select(command.c.rank).join(outbox, outbox.c.command_id == command.c.id, isouter=True)
            ranks = list(tx.db.execute(query.where(outbox.c.payload == message.payload)).scalars())
        if ranks == [] or min(ranks) == VERDICT_RANK:
            self._points.breach()
        packet_id = super().publish(message, properties)
        self._points.reach()
        return packet_id


def serve(url: str, broker: Broker, points: Points) -> None:
    os.closerange(3, 1024)  # what belongs to the parent
    database = WatchedDatabase(url, points)
    consumer = WatchedConsumer(settings_of(broker), database, points)
    with database.write() as tx:
        epoch = lease.take(tx, str(os.getpid()))
    assert epoch is not None
    engine = Engine(database, consumer, Orders(accepts_all=True), epoch, None)
    consumer.open()
    engine.begin()
    while True:
        engine.step()


class Theatre:
    """A database, the broker, a client that is played here, and a controller in a process of its own."""

    def __init__(self, database: Database, url: str, broker: Broker, kill_at: int, *, client: bool = True) -> None:
        self.has_client = client
        self.database, self.url, self.broker = database, url, broker
        self.lives = [Points(kill_at), Points(1 if kill_at else 0), Points(0)]
        self.life = 0
        self.pid = 0
        self.command_id = ""

    def __enter__(self) -> Theatre:
        if self.has_client:
            self.client = PlayedClient(self.broker, CLIENT)
            self.client.come()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        if self.has_client:
            self.client.link.end()

    def start(self) -> None:
        self.database.close()  # no child may share a connection
        points = self.lives[self.life]
        self.pid = forked(lambda: serve(self.url, self.broker, points))

    def look_after(self) -> None:
        """A controller that was killed is started again, when the lease of the one before is over."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, "it ended by itself"
            self.life += 1
            with self.database.write() as tx:
                tx.db.execute(text("UPDATE lease SET ends_at = 0"))
            self.start()

    def kill(self) -> None:
        """The next one has begun when this returns."""
        killed = self.pid
        self.lives.append(Points(0))
        os.kill(killed, signal.SIGKILL)
        self.wait(lambda: self.pid != killed, "new life")

    def wait(self, is_so: Callable[[], bool], what: str) -> None:
        patience = Patience(PATIENCE_S)
        while not is_so():
            assert not patience.is_over, f"no {what}: {self.kinds()}"
            self.look_after()
            time.sleep(LOOK_S)

    def kinds(self) -> list[str]:
        with self.database.read() as tx:
            query = select(event.c.kind).where(event.c.command_id == self.command_id).order_by(event.c.seq)
            return list(tx.db.execute(query).scalars())

    def until(self, kind: str) -> None:
        self.wait(lambda: kind in self.kinds(), kind)

    def wait_for_some(self, acks: int) -> None:
        """Until so many of them are stored."""
        self.wait(lambda: self.told().total() >= acks, f"{acks} acks")

    def is_heard(self) -> bool:
        with self.database.read() as tx:
            found = lease.standing(tx)
            return found is not None and found["listening_since"] is not None

    def told(self) -> Counter[str]:
        """How often each status was heard of a command; once, if all is well."""
        status = event.c.content["status"].as_string()
        with self.database.read() as tx:
            rows = tx.db.execute(select(status, func.count()).where(status.is_not(None)).group_by(status))
            return Counter({row[0]: row[1] for row in rows if row[0] in {*PROGRESS}})

    # what happens

    def is_online(self) -> bool:
        with self.database.read() as tx:
            query = text(f"SELECT count(*) FROM client WHERE is_online AND boot_id = '{self.client.boot_id}'")
            return bool(tx.db.execute(query).scalar_one())

    def order(self, action: Action = Action.REBOOT_HOST) -> None:
        self.wait(self.is_online, "birth")
        self.command_id = str(uuid4())
        ordered(self.database, self.command_id, CLIENT, action)

    def client_hears(self) -> None:
        def it_is_new() -> bool:
            # The broker may have kept the command of an earlier story for this client, and gives both at once.
            return self.command_id in self.client.hear()

        self.wait(it_is_new, "command")

    def answer(self, status: str, code: ErrorCode | None = None) -> None:
        self.client.answer(self.command_id, AckStatus(status), code)

    def start_execution(self) -> None:
        self.client_hears()
        self.until("accepted")
        self.client.execute(self.command_id)
        self.until("execution_started")

    def time_passes(self) -> None:
        aged(self.database, AN_HOUR)


def rebooted(play: Theatre) -> None:
    play.order()
    play.start_execution()
    play.client.go_down()
    play.until("awaiting_reconnect")
    play.client.come()
    play.wait(play.is_online, "birth")
    play.answer("completed")
    play.until("completed")


def shut_down(play: Theatre) -> None:
    play.order(Action.SHUTDOWN_HOST)
    play.start_execution()
    play.answer("completed")
    play.client.say(PresenceReason.SHUTTING_DOWN)
    play.until("completed")


def inhibited(play: Theatre) -> None:
    play.order()
    play.start_execution()
    play.answer("failed", ErrorCode.INHIBITED)
    play.until("failed")


def expired(play: Theatre) -> None:
    play.order()
    play.until("published")
    play.client.link.close()
    play.time_passes()
    play.until("expired")


def timed_out_and_late(play: Theatre) -> None:
    play.order()
    play.start_execution()
    play.time_passes()
    play.until("timed_out")
    play.answer("completed")
    play.until("late_truth")


STORIES: dict[Callable[[Theatre], None], State] = {
    rebooted: State.COMPLETED,
    shut_down: State.COMPLETED,
    inhibited: State.FAILED,
    expired: State.EXPIRED,
    timed_out_and_late: State.TIMED_OUT,
}


@pytest.fixture(scope="module")
def one_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    found = Broker(tmp_path_factory.mktemp("broker"))
    found.start()
    yield found
    found.kill()


class Played:
    """Stories in empty databases of one kind."""

    def __init__(self, database: Database, folder: Path, broker: Broker) -> None:
        self.database, self.folder, self.broker = database, folder, broker
        self.url = database.engine.url.render_as_string(hide_password=False)
        self.empty = folder / "empty.sqlite3"
        if self.database.is_sqlite:
            self.database.close()
            shutil.copy(self.file, self.empty)

    @property
    def file(self) -> Path:
        return self.folder / "controller.sqlite3"

    def clear(self) -> None:
        self.database.close()
        self.broker.publish(f"infoscreen/{CLIENT}/status", b"", "--retain")
        if self.database.is_sqlite:
            for file in self.folder.glob("controller.sqlite3*"):
                file.unlink()
            shutil.copy(self.empty, self.file)
        else:
            with self.database.engine.begin() as db:
                db.execute(text(emptied()))

    def play(self, story: Callable[[Theatre], None], kill_at: int) -> tuple[int, Counter[str], list[str]]:
        """Returns how many points the first process has reached, which events were told, and what was executed."""
        self.clear()
        with Theatre(self.database, self.url, self.broker, kill_at) as play:
            story(play)
            kinds = Counter(play.kinds())
            with self.database.read() as tx:
                assert tx.db.execute(select(outbox)).all() == [], "it has ended, and lies in the outbox"
                state = tx.db.execute(select(command.c.state)).scalar_one()
                assert kinds[state] == 1 and sum(kinds[verdict] for verdict in VERDICTS) == 1, "more than one verdict"
            assert [life.breaches for life in play.lives] == [0, 0, 0], "sent after its end"
            return play.lives[0].passed, kinds, play.client.executed


@pytest.fixture
def played(database: Database, tmp_path: Path, one_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Played:
    monkeypatch.setattr(engines, "TICK_S", 0.02)
    monkeypatch.setattr(engines, "HEARING_AGAIN", timedelta(0))
    return Played(database, tmp_path, one_broker)


# However few batches there are: the order, what is sent, and two answers have a commit each, and more.
LEAST_POINTS = 6


@pytest.mark.parametrize("story", STORIES)
def test_killed_at_any_point_the_story_ends_right(played: Played, story: Callable[[Theatre], None]) -> None:
    points, undisturbed, executed = played.play(story, 0)
    assert points >= LEAST_POINTS and undisturbed[STORIES[story]] == 1
    killed = 0
    for point in range(1, points + 1):
        reached, kinds, executed_now = played.play(story, point)
        killed += reached == point
        states = {kind: count for kind, count in kinds.items() if kind in {*State, "late_truth"}}
        wanted = {kind for kind in undisturbed if kind in {*State, "late_truth"}}
        assert states.keys() <= wanted and max(states.values()) == 1, f"killed at {point} of {points}: {states}"
        assert wanted - states.keys() <= {"published"}, f"killed at {point} of {points}: {states}"
        assert len(executed_now) == len(executed), f"killed at {point} of {points}"
    # What comes in one batch and what in several is chance, and so is how many points there are each time.
    assert killed >= LEAST_POINTS


def test_the_stories_come_to_each_end_that_the_engine_can_give() -> None:
    """Who cancels a command, or makes one that is blocked, does so in one transaction of its own."""
    assert {*STORIES.values()} == {*VERDICTS} - {State.CANCELLED, State.BLOCKED_SAFETY}


PROGRESS = (AckStatus.ACCEPTED, AckStatus.EXECUTION_STARTED, AckStatus.COMPLETED)
FLEET = 1500


def test_killed_four_times_under_a_stream_of_acks_none_is_missing(played: Played) -> None:
    played.clear()
    uuids = [str(UUID(int=1000 + number)) for number in range(FLEET)]
    ids = {uuid: str(UUID(int=100_000 + number)) for number, uuid in enumerate(uuids)}
    with played.database.write() as tx:
        tx.db.execute(insert(client), [{"uuid": uuid, "standing": "accepted"} for uuid in uuids])
        commands.create(
            tx,
            Request(Action.REBOOT_HOST, by="ann", via="test"),
            [New(ids[uuid], uuid, None) for uuid in uuids],
            timedelta(hours=1),
        )
        letters = [Letter(ids[uuid], uuid, Topics(uuid).commands, b"{}", ()) for uuid in uuids]
        commands.release(tx, letters, tx.now, tx.now + timedelta(hours=1))
        commands.mark_sent(tx, letters, Limits())
    link = Consumer(settings_of(played.broker), "the-fleet", ["none"])
    link.open()
    with Theatre(played.database, played.url, played.broker, 0, client=False) as play:
        play.wait(play.is_heard, "subscription")  # what is published before it is for nobody
        stream = [(uuid, status) for status in PROGRESS for uuid in uuids]
        kill_at = {len(stream) * part // 5 for part in (1, 2, 3, 4)}
        for number, (uuid, status) in enumerate(stream):
            boot_id = str(UUID(int=2 if status is AckStatus.COMPLETED else 1))
            said = ack.encode(Ack(ids[uuid], uuid, status, datetime.now(UTC), boot_id))
            link.publish(Message(Topics(uuid).commands_ack, said))
            if number % 100 == 0:
                link.receive(1, 0)
            if number in kill_at:
                play.wait_for_some(number // 10)
                play.kill()

        def all_are_told() -> bool:
            link.receive(1, 0)  # what its socket has not taken so far goes out
            return play.told() == Counter({str(status): FLEET for status in PROGRESS})

        play.wait(all_are_told, "word of all")
        assert play.life == 4
    link.end()
    with played.database.read() as tx:
        missing = or_(command.c.accepted_at.is_(None), command.c.started_at.is_(None), command.c.state != "completed")
        assert tx.db.execute(select(func.count()).select_from(command).where(missing)).scalar_one() == 0
