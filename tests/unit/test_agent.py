"""One command and everything that may befall it, in a world where only what lies beyond the ports is pretended."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from infoscreen_reboot.client.agent.boot_report import Boot
from infoscreen_reboot.client.agent.lifecycle import State
from infoscreen_reboot.client.agent.ports import HELPER_S, Departure, NoReply, Refusal
from infoscreen_reboot.client.agent.store import Store
from infoscreen_reboot.contract.ack import ErrorCode
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.contract.telemetry import Cause, Executor
from infoscreen_reboot.mqtt.messages import Message
from tests import world as w
from tests.world import COMMAND_ID, OTHER_ID, TOPICS, World

DONE = ["accepted", "execution_started", "completed"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "journal.sqlite3")


def play(world: World, nature: Callable[[], Awaitable[None]] | None = None, **command: object) -> None:
    async def just_the_command() -> None:
        world.send(w.payload(**command))

    w.run(world.play(nature or just_the_command))


def reasons(world: World) -> list[str]:
    return [status.decode().split('"reason":"')[1].split('"')[0] for status in world.statuses]


def test_a_reboot_is_acked_executed_and_proved_by_the_new_boot_id(world: World) -> None:
    play(world)
    assert world.story() == DONE
    assert world.helper_calls == [(Action.REBOOT_HOST, COMMAND_ID)]
    assert world.boots == 1
    assert [a.boot_id for a in world.acks()] == [w.BOOTS[0], w.BOOTS[0], w.BOOTS[1]]
    assert reasons(world) == ["connected", "rebooting", "connected"]


def test_a_shutdown_completes_before_the_host_is_down(world: World) -> None:
    play(world, action=Action.SHUTDOWN_HOST)
    assert world.story() == DONE
    assert {a.boot_id for a in world.acks()} == {w.BOOTS[0]}
    assert reasons(world) == ["connected", "shutting_down", "connected"]


def test_a_shutdowns_last_word_is_delivered_after_the_start_when_the_broker_was_away(world: World) -> None:
    async def nature() -> None:
        await asyncio.sleep(1)
        world.send(w.payload(action=Action.SHUTDOWN_HOST))
        await asyncio.sleep(0.0007)  # it has arrived, and no answer has
        world.broker_is_up = False
        await asyncio.sleep(60)
        assert world.story() == []
        world.broker_is_up = True

    play(world, nature)
    assert world.story() == DONE
    assert len(world.helper_calls) == 1


def test_the_host_is_let_go_within_loginds_five_seconds_when_the_broker_is_away(world: World) -> None:
    async def nature() -> None:
        await asyncio.sleep(1)
        world.send(w.payload())
        await asyncio.sleep(0.0007)
        world.broker_is_up = False
        await asyncio.sleep(2.5)
        started = asyncio.get_running_loop().time()
        while world.boots == 0:
            await asyncio.sleep(0.05)
        assert asyncio.get_running_loop().time() - started < 4.5
        world.broker_is_up = True

    play(world, nature)
    assert world.story() == DONE


def test_with_nothing_left_to_say_the_host_is_not_held_up_by_a_broker_that_is_away(world: World) -> None:
    async def nature() -> None:
        await asyncio.sleep(1)
        world.broker_is_up = False
        world.go_down(Departure.REBOOTING)
        await asyncio.sleep(0.5)
        assert world.boots == 1

    play(world, nature)


def test_the_same_command_again_gets_the_same_ack_and_no_second_reboot(world: World) -> None:
    async def nature() -> None:
        world.send(w.payload())
        await asyncio.sleep(100)
        world.send(w.payload())
        await asyncio.sleep(10)
        world.send(w.payload(), topic=TOPICS.transitional_command)

    play(world, nature)
    assert world.story() == [*DONE, "completed", "completed"]
    assert len({a for a in world.acks() if a.status == "completed"}) == 1
    assert [str(a.status) for a in world.acks(tail="/command/ack")] == ["completed"]
    assert len(world.helper_calls) == 1


def test_the_same_command_right_behind_the_receipt_of_its_ack_is_answered_too(world: World) -> None:
    """The broker's PUBACK and the command come in one breath."""
    hear, is_first = world.broker._heard, iter([True])

    def hear_and_send_again(message: Message) -> None:
        hear(message)
        if message.topic == TOPICS.commands_ack and b'"completed"' in message.payload and next(is_first, False):
            asyncio.get_running_loop().call_soon(world.send, w.payload())

    world.broker._heard = hear_and_send_again
    play(world)
    assert world.story() == [*DONE, "completed"]
    assert len({a for a in world.acks() if a.status == "completed"}) == 1


def test_an_ack_of_a_transitional_command_goes_to_both_topics(world: World) -> None:
    async def nature() -> None:
        world.send(w.payload(), topic=TOPICS.transitional_command)

    play(world, nature)
    assert world.story() == DONE
    assert world.acks(tail="/command/ack") == world.acks()


def test_with_the_transitional_topics_off_nothing_that_still_comes_by_them_is_executed(world: World) -> None:
    world.settings = w.settings(compat_topics=False)

    async def nature() -> None:
        world.send(w.payload(), topic=TOPICS.transitional_command)

    play(world, nature)
    assert (world.received, world.helper_calls, world.queue) == ([], [], [])


def test_with_the_transitional_topics_off_nothing_more_is_said_on_them_though_it_is_owed(world: World) -> None:
    async def nature() -> None:
        await asyncio.sleep(5)  # it is connected, and owes nothing
        world.broker.withholds_pubacks = True
        world.send(w.payload(action=Action.SHUTDOWN_HOST, client_uuid=OTHER_ID), topic=TOPICS.transitional_command)
        await asyncio.sleep(5)
        said = len(world.acks(tail="/command/ack"))
        assert said == 1
        world.settings = w.settings(compat_topics=False)
        world.terminate()
        await asyncio.sleep(5)
        world.broker.withholds_pubacks = False
        await asyncio.sleep(60)
        # The same command again, on the canonical topic: it is answered there only.
        world.send(w.payload(action=Action.SHUTDOWN_HOST, client_uuid=OTHER_ID))
        await asyncio.sleep(60)
        assert len(world.acks(tail="/command/ack")) == said

    play(world, nature)
    assert world.story()[-1] == "wrong_client"
    assert Store(world.path).owed_count() == 0


def test_other_content_under_a_known_id_is_counted_and_changes_nothing(world: World) -> None:
    async def nature() -> None:
        world.send(w.payload())
        await asyncio.sleep(100)
        world.send(w.payload(action=Action.SHUTDOWN_HOST))

    play(world, nature)
    assert world.story() == [*DONE, "completed"]
    assert len(world.helper_calls) == 1
    assert world.counters() == {"conflicts": 1}


def test_what_has_no_readable_id_is_counted_and_gets_its_puback(world: World) -> None:
    async def nature() -> None:
        for junk in (b"", b"x" * 1024 * 1024, b"{", b"\xff"):
            world.send(junk)

    play(world, nature)
    assert not world.queue and not world.received
    assert world.counters() == {"unreadable": 4}


@pytest.mark.parametrize("code", [ErrorCode.LOCKOUT, ErrorCode.INHIBITED, ErrorCode.HELPER_UNAVAILABLE])
def test_a_refusal_is_an_answer_and_no_other_way_is_tried(world: World, code: ErrorCode) -> None:
    world.helper = Refusal(code, "because")
    play(world)
    assert world.story() == ["accepted", "execution_started", str(code)]
    assert (world.acks()[-1].error_message or "").endswith("because")
    assert (len(world.helper_calls), world.boots) == (1, 0)


def test_after_a_refusal_the_next_command_works(world: World) -> None:
    world.helper = Refusal(ErrorCode.INHIBITED, "dpkg is running")

    async def nature() -> None:
        world.send(w.payload())
        await asyncio.sleep(10)
        world.helper = "down"
        world.send(w.payload(command_id=OTHER_ID))

    play(world, nature)
    assert world.story()[-1] == "inhibited"
    assert world.story(OTHER_ID) == DONE


@pytest.mark.parametrize(
    ("helper", "after_s"),
    [("nothing", 60), (NoReply("it is gone", is_over=True), 60), (NoReply("no answer"), HELPER_S + 60)],
)
def test_a_host_that_does_not_go_down_is_told_at_the_deadline(
    world: World, helper: str | Exception, after_s: float
) -> None:
    world.helper = helper
    play(world)
    assert world.story() == ["accepted", "execution_started", "execution_timeout"]
    started, ended = world.acks()[1:]
    assert after_s <= (ended.timestamp - started.timestamp).total_seconds() < after_s + 2.5


def test_a_lost_reply_is_settled_by_the_boot_id(world: World) -> None:
    world.helper = NoReply("the helper died")

    async def nature() -> None:
        world.send(w.payload())
        await asyncio.sleep(3)
        world.go_down(Departure.REBOOTING)

    play(world, nature)
    assert world.story() == DONE


def test_an_agent_restarted_after_the_start_of_execution_waits_for_the_boot_id_and_asks_no_more(
    world: World,
) -> None:
    world.helper = "kill"
    play(world)
    assert world.story() == ["accepted", "execution_started", "not_rebooted"]
    assert len(world.helper_calls) == 1


def test_a_second_command_is_told_to_wait(world: World) -> None:
    world.helper = "nothing"

    async def nature() -> None:
        world.send(w.payload())
        world.send(w.payload(command_id=OTHER_ID))

    play(world, nature)
    assert world.story(OTHER_ID) == ["busy"]
    assert world.story()[-1] == "execution_timeout"


def test_a_command_is_held_until_the_clock_is_right(world: World) -> None:
    world.clock_synchronised = False

    async def nature() -> None:
        world.send(w.payload())
        await asyncio.sleep(30)
        assert world.story() == []
        world.clock_synchronised = True

    play(world, nature)
    assert world.story() == DONE


def test_a_clock_that_never_comes_right_ends_the_wait_after_a_minute(world: World) -> None:
    world.clock_synchronised = False
    play(world)
    assert world.story() == ["clock_unsynchronized"]
    assert (world.acks()[0].timestamp - w.START).total_seconds() == pytest.approx(60, abs=1.5)
    assert not world.helper_calls


def test_a_site_without_time_may_do_without(world: World) -> None:
    world.clock_synchronised = False
    world.settings = replace(world.settings, require_synced_clock=False)
    play(world)
    assert world.story() == DONE


def test_a_clock_that_jumps_after_acceptance_does_not_matter(world: World) -> None:
    world.helper = NoReply("no answer")

    async def nature() -> None:
        await asyncio.sleep(1)
        world.send(w.payload())
        await asyncio.sleep(0.1)
        world.wall_offset = timedelta(days=-400)
        await asyncio.sleep(5)
        world.go_down(Departure.REBOOTING)

    play(world, nature)
    assert world.story() == DONE


def test_someone_elses_reboot_interrupts_a_command_that_had_not_begun(world: World) -> None:
    world.clock_synchronised = False

    async def nature() -> None:
        world.send(w.payload())
        await asyncio.sleep(5)
        world.go_down(Departure.REBOOTING)
        await asyncio.sleep(10)
        world.clock_synchronised = True

    play(world, nature)
    assert world.story() == ["interrupted"]
    assert not world.helper_calls


def test_a_shutdown_that_turned_out_a_reboot_is_not_called_completed_before_the_boot_proves_it(
    world: World,
) -> None:
    world.helper = NoReply("no answer")

    async def nature() -> None:
        world.send(w.payload(action=Action.SHUTDOWN_HOST))
        await asyncio.sleep(3)
        world.go_down(Departure.REBOOTING)

    play(world, nature)
    assert [a.boot_id for a in world.acks()] == [w.BOOTS[0], w.BOOTS[0], w.BOOTS[1]]


def test_without_a_disk_there_is_no_puback_and_nothing_happens(world: World) -> None:
    async def nature() -> None:
        await asyncio.sleep(1)
        world.disk_is_full = True
        world.send(w.payload())
        await asyncio.sleep(20)
        assert world.queue and not world.received and not world.helper_calls
        world.disk_is_full = False

    play(world, nature)
    assert world.story() == DONE


def test_a_bug_in_judging_is_answered_and_does_not_come_back(world: World) -> None:
    world.settings = w.settings(offered=w.Breaking(Action))
    play(world)
    assert world.story() == ["internal_error"]
    assert "RuntimeError" in (world.acks()[0].error_message or "")
    assert not world.queue


def test_acks_wait_for_the_broker_and_keep_their_order(world: World) -> None:
    async def nature() -> None:
        await asyncio.sleep(1)
        world.send(w.payload())
        await asyncio.sleep(0.0007)
        world.broker_is_up = False
        await asyncio.sleep(120)
        assert world.boots == 1 and not world.received
        world.broker_is_up = True

    play(world, nature)
    assert world.story() == DONE


def test_a_shutdown_that_was_taken_back_leaves_the_agent_at_work(world: World) -> None:
    async def nature() -> None:
        world.announce(Departure.SHUTTING_DOWN)
        await asyncio.sleep(10)
        world.take_back()
        world.send(w.payload())

    play(world, nature)
    assert world.story() == DONE


def test_a_refused_command_leaves_a_record_that_ends_it_for_good(world: World) -> None:
    async def nature() -> None:
        world.send(w.payload(), retain=True)
        await asyncio.sleep(5)
        world.send(w.payload())

    play(world, nature)
    assert world.story() == ["retained", "retained"]
    record = world.on_disk()
    assert record is not None and record.state is State.FAILED


def checked(world: World, **changes: object) -> None:
    world.settings = w.settings(post_boot_units=("player.service",), **changes)


def test_a_reboot_is_over_only_when_what_must_run_runs(world: World) -> None:
    checked(world)

    async def nature() -> None:
        world.unit_states = {1: "activating"}
        world.send(w.payload())
        await asyncio.sleep(100)
        assert world.story() == ["accepted", "execution_started"]
        world.send(w.payload(command_id=OTHER_ID))
        world.unit_states = {}
        await asyncio.sleep(2)
        assert world.story() == DONE

    play(world, nature)
    assert world.story(OTHER_ID) == ["busy"]


def test_what_does_not_run_by_the_deadline_is_named(world: World) -> None:
    checked(world, post_boot_timeout_s=40)

    async def nature() -> None:
        world.unit_states = {1: "failed"}
        world.send(w.payload())
        await asyncio.sleep(39)
        assert world.story() == ["accepted", "execution_started"]
        await asyncio.sleep(2 + w.BOOT_S)
        assert world.story() == ["accepted", "execution_started", "post_check_failed"]

    play(world, nature)
    message = world.acks()[-1].error_message
    assert message == "40 s after the boot these are missing: player.service is failed"


def test_a_host_that_goes_down_again_is_checked_anew(world: World) -> None:
    checked(world)

    async def nature() -> None:
        world.unit_states = {1: "activating"}
        world.send(w.payload())
        await asyncio.sleep(60)
        world.go_down(Departure.REBOOTING)

    play(world, nature)
    assert world.boots == 2
    assert world.story() == DONE
    assert world.acks()[-1].boot_id == w.BOOTS[2]


def test_a_shutdown_is_not_checked(world: World) -> None:
    checked(world)
    world.unit_states = {1: "failed"}
    play(world, action=Action.SHUTDOWN_HOST)
    assert world.story() == DONE


def test_a_mocked_reboot_is_acked_at_once_and_nothing_goes_down(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.settings = w.settings(executor=Executor.MOCK, mocks_reboots=True)
    play(world)
    assert world.story() == DONE
    assert (world.helper_calls, world.boots) == ([], 0)
    assert {a.boot_id for a in world.acks()} == {w.BOOTS[0]}
    assert "MOCKED" in caplog.text


@pytest.mark.parametrize(("action", "mocks_reboots"), [(Action.SHUTDOWN_HOST, True), (Action.REBOOT_HOST, False)])
def test_a_mock_calls_nothing_else_done(world: World, action: Action, mocks_reboots: bool) -> None:
    world.settings = w.settings(executor=Executor.MOCK, mocks_reboots=mocks_reboots)
    play(world, action=action)
    assert world.story() == ["accepted", "execution_started", "helper_unavailable"]
    assert "mock" in (world.acks()[-1].error_message or "")
    assert (world.helper_calls, world.boots) == ([], 0)


def boot_after(world: World, nature: Callable[[], Awaitable[None]]) -> Boot:
    """What is written down of the second boot."""
    opened: list[Boot] = []

    async def with_boots() -> None:
        await nature()
        await asyncio.sleep(60)
        store = Store(world.path)
        found = store.last_boot()
        store.close()
        assert found is not None
        opened.append(found)

    play(world, with_boots)
    (boot,) = opened
    assert (boot.boot_id, boot.previous_boot_id) == (w.BOOTS[1], w.BOOTS[0])
    return boot


def test_a_commanded_reboot_is_the_cause_of_the_next_boot(world: World) -> None:
    async def nature() -> None:
        world.send(w.payload())

    boot = boot_after(world, nature)
    assert (boot.cause, boot.command_id, boot.clean_shutdown) == (Cause.COMMAND, COMMAND_ID, True)


def test_a_shutdown_that_nobody_commanded_is_local(world: World) -> None:
    async def nature() -> None:
        await asyncio.sleep(1)
        world.go_down(Departure.REBOOTING)

    boot = boot_after(world, nature)
    assert (boot.cause, boot.command_id, boot.clean_shutdown) == (Cause.LOCAL, None, True)


def test_a_stop_in_a_shutdown_that_logind_did_not_announce_is_local_too(world: World) -> None:
    async def nature() -> None:
        await asyncio.sleep(1)
        world.host.is_stopping = True
        world.terminate()
        await asyncio.sleep(5)
        world.cut_power(in_good_order=True)

    assert boot_after(world, nature).cause is Cause.LOCAL


def test_no_mark_is_a_loss_of_power_and_a_mark_that_was_taken_back_is_none(world: World) -> None:
    async def nature() -> None:
        world.announce(Departure.REBOOTING)
        await asyncio.sleep(1)
        world.take_back()
        await asyncio.sleep(1)
        world.cut_power()

    boot = boot_after(world, nature)
    assert (boot.cause, boot.clean_shutdown) == (Cause.POWER_LOSS, False)


def test_power_lost_in_the_middle_of_an_execution_leaves_the_cause_unknown(world: World) -> None:
    world.helper = "nothing"

    async def nature() -> None:
        world.send(w.payload())
        await asyncio.sleep(10)
        world.cut_power()

    boot = boot_after(world, nature)
    assert (boot.cause, boot.command_id, boot.clean_shutdown) == (Cause.UNKNOWN, None, False)
    assert list(dict.fromkeys(world.story())) == DONE, "one story; what had not been flushed is told twice"


def test_a_mocked_reboot_is_no_cause(world: World) -> None:
    world.settings = w.settings(executor=Executor.MOCK, mocks_reboots=True)

    async def nature() -> None:
        world.send(w.payload())
        await asyncio.sleep(5)
        world.go_down(Departure.REBOOTING)

    assert boot_after(world, nature).cause is Cause.LOCAL


@pytest.mark.parametrize(
    "topic",
    [
        TOPICS.commands_ack,
        TOPICS.status,
        f"infoscreen/{w.OTHER_ID}/commands",
        "infoscreen/all/commands",
        "",
    ],
)
def test_a_delivery_on_any_other_topic_is_acknowledged_and_no_command(world: World, topic: str) -> None:
    world.broker.subscriptions.add(topic)  # a broker that sends what nobody asked for

    async def nature() -> None:
        world.send(w.payload(), topic=topic)

    play(world, nature)
    assert not world.queue
    assert (world.received, world.helper_calls, world.counters()) == ([], [], {})


def test_an_agent_that_is_stopped_while_a_shutdown_is_taken_back_ends_in_good_order(world: World) -> None:
    async def nature() -> None:
        await asyncio.sleep(1)
        world.announce(Departure.REBOOTING)
        world.terminate()
        await asyncio.sleep(0.0002)
        world.take_back()

    play(world, nature)
    assert world.lives == 2
    assert reasons(world)[-1] == "connected"
