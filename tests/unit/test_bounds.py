"""Nobody makes the client forget what it may not forget, or swell; a disk that takes nothing ends no delivery."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from infoscreen_reboot.client.agent import store as stores
from infoscreen_reboot.client.agent.ledger import Ledger
from infoscreen_reboot.client.agent.lifecycle import Accepted, ExecutionStarted, Failed, Record, State
from infoscreen_reboot.client.agent.outbox import Outbox
from infoscreen_reboot.client.agent.store import Letter, Store, StoreFull
from infoscreen_reboot.contract import ack
from infoscreen_reboot.contract.ack import ErrorCode
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.mqtt.messages import Message
from tests import world as w
from tests.virtual import VirtualLoop
from tests.world import COMMAND_ID, OTHER_ID, TOPICS, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "journal.sqlite3")


def test_rubbish_pushes_out_no_command_that_could_be_executed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "KEPT_RECORDS", 20)
    monkeypatch.setattr(stores, "KEPT_REFUSALS", 3)
    monkeypatch.setattr(stores, "_FORGET_EVERY", 1)
    world.helper = "nothing"

    async def nature() -> None:
        world.send(w.payload())
        world.send(w.payload(command_id=OTHER_ID))
        await asyncio.sleep(1)
        for number in range(50):
            junk = f"{number:08x}-7e85-44fb-8f38-3f5d5da5e2e4"
            world.send(w.payload(command_id=junk).replace(b"reason", b"season"))
            world.send(w.payload(command_id=junk.replace("7e85", "7e86"), client_uuid=OTHER_ID))
        await asyncio.sleep(1)
        world.send(w.payload(command_id=OTHER_ID))
        await asyncio.sleep(70)
        world.send(w.payload())

    w.run(world.play(nature))
    heard = [letter.payload for letter in world.received]
    for command_id, end in ((OTHER_ID, "busy"), (COMMAND_ID, "execution_timeout")):
        told = [
            content
            for content in heard
            if f'"command_id":"{command_id}"'.encode() in content and b'"failed"' in content
        ]
        assert len(told) == 2 and len(set(told)) == 1
        assert ack.parse(told[0]).error_code == end
    assert world.on_disk("00000000-7e85-44fb-8f38-3f5d5da5e2e4") is None
    assert len(world.helper_calls) == 1


class Told:
    """What a ledger says of its own accord."""

    def __init__(self, path: Path) -> None:
        self.once: list[Letter] = []
        self.store = Store(path)
        self.world = World(path)
        self.ledger = Ledger(w.CLIENT, self.store, self.world, lambda: None, self.once.extend, compat_topics=True)


def new(command_id: str) -> Record:
    return Record(command_id, w.BOOTS[0], w.payload(), Action.REBOOT_HOST, keep_until_s=1e12)


def test_at_the_bound_new_work_is_refused_on_record_and_what_is_taken_in_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "OWED_BOUND", 2)

    async def test() -> None:
        told = Told(tmp_path / "store")
        told.ledger.apply(new(COMMAND_ID), Accepted(1e9))
        told.ledger.apply(new(w.BOOTS[1]), Failed(ErrorCode.BUSY, "later"))
        told.ledger.apply(new(OTHER_ID), Accepted(1e9))
        refused = told.store.find(OTHER_ID)
        assert refused is not None and refused.state is State.FAILED and refused.ack is not None
        assert ack.parse(refused.ack).error_code is ErrorCode.INTERNAL_ERROR
        assert "wait for the broker" in (ack.parse(refused.ack).error_message or "")
        assert told.once == [Letter(TOPICS.commands_ack, refused.ack)]
        assert told.store.owed_count() == 2
        # Who is refused for want of room must not push out anybody.
        assert refused.keep_until_s is None
        open_record = told.store.find(COMMAND_ID)
        assert open_record is not None
        told.ledger.advance(open_record, ExecutionStarted(w.BOOTS[0], 1e9))
        assert told.store.owed_count() == 3
        told.store.close()

    asyncio.run(test())


class Line:
    """A broker that acknowledges at once, and remembers what came at which quality of service."""

    def __init__(self) -> None:
        self.sent: list[Message] = []

    is_connected = has_room = True

    def topics_set_aside(self) -> Sequence[str]:
        return []

    def next_try_s(self) -> float | None:
        return None

    def send(self, message: Message) -> asyncio.Future[bool]:
        self.sent.append(message)
        done = asyncio.get_running_loop().create_future()
        done.set_result(True)
        return done

    async def wait_connected(self) -> None: ...

    async def leave(self, farewell: Message, timeout_s: float) -> None: ...

    def come_back(self) -> None: ...


class FullStore(Store):
    """Whose disk takes nothing while it is full."""

    is_full = False

    def strike_out(self, letters: Sequence[int]) -> None:
        if self.is_full:
            raise StoreFull("cannot write the store: database or disk is full")
        super().strike_out(letters)


def test_what_cannot_be_struck_out_is_not_sent_again_and_stops_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        store, line = FullStore(tmp_path / "store"), Line()
        outbox = Outbox(store, line)
        store.is_full = True
        running = asyncio.ensure_future(outbox.run())
        for number in range(3):
            store.commit(replace(new(str(number)), state=State.FAILED), [Letter("acks", b"%d" % number)])
            outbox.nudge()
            assert await outbox.wait_empty(1)
        assert [message.payload for message in line.sent] == [b"0", b"1", b"2"]
        assert store.owed_count() == 3
        store.is_full = False
        store.commit(replace(new("3"), state=State.FAILED), [Letter("acks", b"3")])
        outbox.nudge()
        assert await outbox.wait_empty(1)
        assert [message.payload for message in line.sent] == [b"0", b"1", b"2", b"3"]
        assert store.owed_count() == 0
        running.cancel()
        store.close()

    w.run(test())


def test_what_could_not_be_struck_out_is_so_as_soon_as_there_is_room_though_nothing_else_happens(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        store, line = FullStore(tmp_path / "store"), Line()
        outbox = Outbox(store, line)
        store.is_full = True
        running = asyncio.ensure_future(outbox.run())
        store.commit(replace(new("0"), state=State.FAILED), [Letter("acks", b"0")])
        outbox.nudge()
        assert await outbox.wait_empty(1)
        await asyncio.sleep(3 * 3600)
        assert store.owed_count() == 1
        store.is_full = False
        await asyncio.sleep(31)
        assert store.owed_count() == 0
        assert [message.payload for message in line.sent] == [b"0"]
        assert len(caplog.records) == 1, "a full disk is told once, and not each time"
        running.cancel()
        store.close()

    loop = VirtualLoop()
    loop.run_until_complete(test())
    loop.close()


def test_an_answer_at_the_bound_does_not_overtake_what_is_owed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "OWED_BOUND", 2)

    async def test() -> None:
        store, line = Store(tmp_path / "store"), Line()
        outbox = Outbox(store, line)
        for content in (b"accepted", b"started"):
            store.commit(replace(new(COMMAND_ID), state=State.EXECUTING), [Letter("acks", content)])
        # The command came again, by the other topic: what it is told first must not be the last that was said.
        outbox.answer_again([Letter("acks", b"started"), Letter("other acks", b"started")])
        running = asyncio.ensure_future(outbox.run())
        assert await outbox.wait_empty(1)
        await asyncio.sleep(0)
        assert [message.payload for message in line.sent] == [b"accepted", b"started"]
        running.cancel()
        store.close()

    w.run(test())


def test_an_answer_at_the_bound_is_sent_on_the_next_connection_and_not_owed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "OWED_BOUND", 1)

    async def test() -> None:
        store, line = Store(tmp_path / "store"), Line()
        store.commit(replace(new("a"), state=State.FAILED), [Letter("acks", b"a")])
        outbox = Outbox(store, line)
        # The broker delivers what it has kept before the connection is of use to us.
        outbox.answer_again([Letter("acks", b"known")])
        await asyncio.sleep(0)
        assert (line.sent, store.owed_count()) == ([], 1)
        running = asyncio.ensure_future(outbox.run())
        assert await outbox.wait_empty(1)
        assert [(message.payload, message.qos) for message in line.sent] == [(b"known", 0), (b"a", 1)]
        store.commit(replace(new("b"), state=State.FAILED), [Letter("acks", b"b")])
        outbox.answer_again([Letter("acks", b"again")])
        await asyncio.sleep(0)
        assert (line.sent[-1].payload, line.sent[-1].qos) == (b"again", 0)
        running.cancel()
        store.close()

    w.run(test())
