"""Takes each command from its delivery to its last ack: event, decide, commit, act, always in this order."""

# A message is sent only after it is on disk. The helper is asked only after `execution_started` is on disk and had time
# to go out. If the process or the power dies between any two lines of this file, `wake` on the next start brings every
# open command to its right end, or goes on with it.

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace

from infoscreen_reboot.client.agent import policy
from infoscreen_reboot.client.agent.ledger import Ledger, log_field
from infoscreen_reboot.client.agent.lifecycle import (
    Accepted,
    AgentStarted,
    ExecutionStarted,
    Failed,
    GoingDown,
    Held,
    Mocked,
    Record,
    State,
)
from infoscreen_reboot.client.agent.outbox import Outbox
from infoscreen_reboot.client.agent.ports import HELPER_S, Clock, Departure, Host, NoReply, Post, Refusal, Signatures
from infoscreen_reboot.client.agent.post_boot import PostBootChecks
from infoscreen_reboot.client.agent.store import Store, StoreError, StoreUnusable
from infoscreen_reboot.client.config import Settings
from infoscreen_reboot.contract import command, wire
from infoscreen_reboot.contract.ack import ErrorCode
from infoscreen_reboot.contract.command import Action, Command
from infoscreen_reboot.contract.telemetry import Executor, PresenceReason
from infoscreen_reboot.contract.topics import Topics
from infoscreen_reboot.contract.wire import ContractError
from infoscreen_reboot.mqtt.messages import Delivery, Message, Redeliver

log = logging.getLogger(__name__)

# How long we wait for `execution_started` to reach the broker. After that we ask the helper all the same.
DELIVERY_S = 2.0
# The sum of these two is below logind's InhibitDelayMaxSec= (5 s). After that time logind no longer waits for us.
LAST_WORDS_S = 3.0
FAREWELL_S = 1.0
_CLOCK_POLL_S = 1.0


class Agent:
    """Handles one client's commands, from the broker's delivery to a terminal ack.

    `on_message`, `on_departure` and `on_stay` are called on the loop and never wait; `run` drives the open command.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        outbox: Outbox,
        post: Post,
        host: Host,
        clock: Clock,
        farewell: Callable[[PresenceReason], Message],
        on_change: Callable[[], None] = lambda: None,
        signatures: Signatures | None = None,
        unfit: str | None = None,
    ) -> None:
        """Without `signatures` no signature is checked. `unfit` says why this client executes no command at all."""
        self._settings = settings
        self._topics = Topics(settings.client_uuid)
        self._store = store
        self._outbox = outbox
        self._post = post
        self._host = host
        self._clock = clock
        self._farewell = farewell
        self._checks = PostBootChecks(settings, host)
        self._boot_id = clock.boot_id()
        self._clock_is_trusted = not settings.require_synced_clock
        # The id of the command for which the helper was asked last. There is only one at a time.
        self._asked_command_id: str | None = None
        # When the helper had finished with that command. While this is not known: when it must have finished.
        self._helper_done_at_s = 0.0
        self._no_call = asyncio.Event()
        self._no_call.set()
        # The departure that logind has announced and not taken back: the host is going down.
        self._departure: Departure | None = None
        self._departure_began_s = 0.0
        self._departure_is_of: Action | None = None
        self._last_words: asyncio.Task[None] | None = None
        self._staying = asyncio.Event()
        self._staying.set()
        self._changed = asyncio.Event()
        self._ledger = Ledger(
            settings.client_uuid, store, clock, self._on_entry, outbox.send_once, settings.compat_topics
        )
        self._on_change = on_change
        self._signatures = signatures
        self._unfit = unfit

    def _on_entry(self) -> None:
        self._outbox.nudge()
        self._changed.set()
        self._on_change()

    def wake(self) -> None:
        """End the commands that an earlier run left open, or go on with them. Raises StoreError."""
        boot = self._store.last_boot()
        if boot is not None and boot.boot_id == self._boot_id and boot.shutdown_began:
            # This is still the same boot, so the shutdown that an earlier run saw begin did not happen.
            self._mark_shutdown(began=False)
        if not self._settings.compat_topics and (count := self._store.forget_owed(self._topics.transitional_ack)):
            # Each of these acks is owed on the canonical topic, too.
            log.info("%d acks on the transitional topic are dropped: COMMAND_COMPAT_TOPICS is off", count)
        for record in self._store.open_records():
            self._ledger.apply(record, AgentStarted(self._boot_id))

    def on_message(self, delivery: Delivery) -> None:
        """Take a command in. When this returns, it is on disk. Raises Redeliver if it could not be written."""
        try:
            self._receive(delivery)
        except StoreUnusable:
            raise  # the agent ends, and starts with a new store
        except StoreError as error:
            raise Redeliver(str(error)) from error

    def _receive(self, delivery: Delivery) -> None:
        is_transitional = delivery.topic == self._topics.transitional_command
        if is_transitional and not self._settings.compat_topics:
            # The broker queued it when the session was still subscribed to this topic.
            log.warning("ignored a message on %s: COMMAND_COMPAT_TOPICS is off", delivery.topic)
            return
        if not is_transitional and delivery.topic != self._topics.commands:
            # A right to publish on another topic is no right to send commands.
            log.warning("ignored a message on %.200r: it is no topic for commands to this client", delivery.topic)
            return
        request: Command | None = None
        fault: ContractError | None = None
        try:
            request = command.parse(delivery.payload)
            command_id = request.command_id
        except ContractError as error:
            if error.command_id is None:
                total = self._store.count("unreadable")
                log.warning("unreadable payload of %d bytes: %s (%d so far)", len(delivery.payload), error, total)
                return
            command_id, fault = error.command_id, error
        distrust = self._distrust(delivery)
        if distrust is not None:
            total = self._store.count("bad_signatures")
            log.warning("command %s cannot be trusted: %s (%d so far)", command_id, distrust, total)
        record = Record(
            command_id=command_id,
            received_boot_id=self._boot_id,
            command=delivery.payload,
            action=request.action if request is not None else None,
            came_by_transitional=is_transitional,
            keep_until_s=request.expires_at.timestamp() if request is not None else None,
        )
        known = self._store.find(command_id)
        if known is not None:
            self._repeat(known, record)
        elif distrust is not None:
            self._ledger.apply(record, Failed(ErrorCode.INVALID_SIGNATURE, distrust))
        elif request is not None:
            self._ledger.apply(record, self._judge_safely(request, delivery.retain))
        else:
            self._ledger.apply(record, Failed(ErrorCode.INVALID_SCHEMA, str(fault)))
        self._changed.set()

    def _distrust(self, delivery: Delivery) -> str | None:
        if self._signatures is None:
            return None
        return self._signatures.fault(delivery.topic, delivery.payload, delivery.properties)

    def _repeat(self, known: Record, again: Record) -> None:
        """The same command came again: send the same answer again, and do nothing else."""
        if not command.say_the_same(known.command, again.command):
            self._store.count("conflicts")
            log.warning("command %s came again with other content", known.command_id, extra=log_field(known))
        if again.came_by_transitional and not known.came_by_transitional:
            known = replace(known, came_by_transitional=True)
            self._store.commit(known)
        self._outbox.answer_again(self._ledger.letters(known))

    def _judge_safely(self, request: Command, retained: bool) -> Held | Accepted | Failed:
        try:
            return self._judge(request, retained, self._store.open_id())
        except StoreError:
            raise
        except Exception as error:
            # If it were delivered again, it would only fail again. So the command ends with this answer.
            log.exception("cannot judge command %s", request.command_id)
            return Failed(ErrorCode.INTERNAL_ERROR, f"cannot judge this command: {type(error).__name__}")

    def _judge(self, request: Command, retained: bool, busy_with: str | None) -> Held | Accepted | Failed:
        facts = policy.Facts(
            client_uuid=self._settings.client_uuid,
            offered=self._settings.offered,
            retained=retained,
            now=self._clock.now(),
            clock_is_trusted=self._clock_is_trusted,
            busy_with=busy_with,
            unfit=self._unfit,
        )
        match policy.decide(request, facts):
            case policy.Yes(valid_for_s):
                return Accepted(self._clock.boot_clock_s() + valid_for_s)
            case policy.Hold():
                return Held(self._clock.boot_clock_s() + self._settings.clock_timeout_s)
            case Failed() as refusal:
                return refusal

    async def run(self) -> None:
        """Run for ever, and drive the open command if there is one. Raises StoreError."""
        self._clock_is_trusted |= await self._host.clock_is_synchronised()
        while True:
            self._changed.clear()
            match self._store.open_records():
                case [Record(state=State.HELD) as record, *_]:
                    await self._await_clock(record)
                case [Record(state=State.ACCEPTED) as record, *_]:
                    await self._execute(record)
                case [Record(state=State.EXECUTING) as record, *_]:
                    await self._await_down(record)
                case [Record(state=State.CHECKING) as record, *_]:
                    self._ledger.advance(record, await self._checks.verdict())
                case _:
                    await self._changed.wait()

    async def _await_clock(self, record: Record) -> None:
        assert record.decide_by_s is not None
        self._clock_is_trusted |= await self._host.clock_is_synchronised()
        left_s = record.decide_by_s - self._clock.boot_clock_s()
        if self._clock_is_trusted:
            request = command.parse(record.command)
            self._ledger.advance(record, self._judge(request, retained=False, busy_with=None))
        elif left_s <= 0:
            why = f"the clock was not synchronised within {self._settings.clock_timeout_s:.0f} s"
            self._ledger.advance(record, Failed(ErrorCode.CLOCK_UNSYNCHRONIZED, why))
        else:
            await asyncio.sleep(min(left_s, _CLOCK_POLL_S))

    async def _execute(self, record: Record) -> None:
        assert record.expires_at_s is not None and record.action is not None
        # Someone else's shutdown may be under way. If the host does go down, this command is interrupted.
        await self._staying.wait()
        if self._expire(record):
            return
        # This deadline is for a later run of the agent: it cannot know when the helper finished.
        latest_s = DELIVERY_S + HELPER_S + self._settings.execution_timeout_s
        self._ledger.advance(record, ExecutionStarted(self._boot_id, self._clock.boot_clock_s() + latest_s))
        await self._outbox.wait_empty(DELIVERY_S)
        if self._settings.executor is Executor.MOCK:
            self._pretend(record)
            return
        await self._staying.wait()
        if self._expire(record):
            return
        self._asked_command_id = record.command_id
        self._helper_done_at_s = self._clock.boot_clock_s() + HELPER_S
        self._no_call.clear()
        try:
            await self._host.request(record.action, record.command_id)
        except Refusal as refusal:
            self._ledger.advance(record, Failed(refusal.code, refusal.message))
        except NoReply as unknown:
            log.warning("command %s: %s; the boot id will tell", record.command_id, unknown, extra=log_field(record))
            if unknown.is_over:
                self._helper_done_at_s = self._clock.boot_clock_s()
        else:
            log.info("command %s: the helper said yes", record.command_id, extra=log_field(record))
            self._helper_done_at_s = self._clock.boot_clock_s()
            self._claim_departure(record, record.action)
        finally:
            self._no_call.set()

    def _expire(self, record: Record) -> bool:
        """Whether it is too late to begin. If so, this ends the record."""
        assert record.expires_at_s is not None
        if self._clock.boot_clock_s() < record.expires_at_s:
            return False
        self._ledger.advance(record, Failed(ErrorCode.EXPIRED, "expired before execution could start"))
        return True

    def _claim_departure(self, record: Record, action: Action) -> None:
        """After the helper's yes: decide whether this command is the cause of the departure that logind has announced.

        logind announces a departure before it answers the helper, and answers with an error while another departure is
        under way. So a departure that is announced by now is ours, unless it is known to be of another kind.
        """
        if self._departure is None or not self._departure.fits(action):
            return
        self._departure_is_of = action
        if action is Action.SHUTDOWN_HOST:
            try:
                self._ledger.advance(record, GoingDown())
            except StoreError as error:
                log.error("%s; the next boot will tell what became of the command", error)

    def _pretend(self, record: Record) -> None:
        """Execute nothing. A reboot may count as done all the same; a shutdown never does."""
        if self._settings.mocks_reboots and record.action is Action.REBOOT_HOST:
            log.warning("command %s: MOCKED, this host does not reboot", record.command_id, extra=log_field(record))
            self._ledger.advance(record, Mocked())
        else:
            why = "COMMAND_EXECUTOR is mock: this client executes nothing"
            self._ledger.advance(record, Failed(ErrorCode.HELPER_UNAVAILABLE, why))

    async def _await_down(self, record: Record) -> None:
        assert record.down_by_s is not None
        timeout_s = self._settings.execution_timeout_s
        was_asked = self._asked_command_id == record.command_id
        down_by_s = self._helper_done_at_s + timeout_s if was_asked else record.down_by_s
        if self._departure is not None:
            # Other programs may delay the departure for as long as logind lets them.
            down_by_s = max(down_by_s, self._departure_began_s + self._host.delay_max_s() + timeout_s)
        left_s = down_by_s - self._clock.boot_clock_s()
        if left_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._changed.wait()
        elif not was_asked:
            why = f"the agent was restarted, and by the deadline the boot id is still {self._boot_id}"
            self._ledger.advance(record, Failed(ErrorCode.NOT_REBOOTED, why))
        else:
            why = f"the host had not gone down {timeout_s:.0f} s after the helper's answer, or the wait for one"
            self._ledger.advance(record, Failed(ErrorCode.EXECUTION_TIMEOUT, why))

    def on_departure(self, announced: Departure) -> None:
        """logind says that the host is going down: deliver what is owed, say farewell, then let the host go down."""
        if self._departure is None:
            self._departure_began_s = self._clock.boot_clock_s()
        self._departure = announced
        self._staying.clear()
        self._mark_shutdown()
        self._changed.set()
        if self._last_words is None or self._last_words.done():
            self._last_words = asyncio.create_task(self._depart(), name="last words")

    async def _depart(self) -> None:
        try:
            await self._say_last_words()
        except StoreError as error:
            log.error("%s; what is owed is delivered after the boot", error)
        finally:
            # If the departure was taken back meanwhile, we keep the delay: it is already the one for the next time.
            if self._last_words is asyncio.current_task():
                self._host.release_delay()

    async def _say_last_words(self) -> None:
        now_s = asyncio.get_running_loop().time
        until_s = now_s() + LAST_WORDS_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until_s):
                # The helper's yes comes right after the announcement. With it we know that the command is the cause.
                await self._no_call.wait()
        await self._outbox.wait_empty(max(0.0, until_s - now_s()))
        await self._post.leave(self._farewell(self._reason()), FAREWELL_S)

    def _reason(self) -> PresenceReason:
        if self._departure_is_of is not None:
            return _REASON_OF[self._departure_is_of]
        return _REASONS[self._departure or Departure.UNKNOWN]

    def on_stay(self) -> None:
        """The host is not going down after all: go on as before, even if the last words were already said."""
        if self._last_words is not None:
            self._last_words.cancel()
        self._last_words = self._departure = self._departure_is_of = None
        self._mark_shutdown(began=False)
        self._staying.set()
        self._changed.set()
        self._post.come_back()

    async def leave(self) -> None:
        """The agent is being stopped: say farewell to the broker, unless the last words have done so already."""
        if (words := self._last_words) is not None:
            # We do not await the task itself: if the shutdown is taken back, the task is cancelled, and we with it.
            await asyncio.wait([words])
            if not words.cancelled():
                return
        if await self._host.is_going_down():
            self._mark_shutdown()
        await self._post.leave(self._farewell(PresenceReason.STOPPED), FAREWELL_S)

    def _mark_shutdown(self, began: bool = True) -> None:
        """Note whether an orderly shutdown began. The next boot needs this to tell it from a loss of power."""
        try:
            self._store.mark_shutdown(self._boot_id, wire.format_time(self._clock.now()), began)
        except StoreError as error:
            log.error("%s; the next boot will not know that this one ended in good order", error)


_REASON_OF = {Action.REBOOT_HOST: PresenceReason.REBOOTING, Action.SHUTDOWN_HOST: PresenceReason.SHUTTING_DOWN}
_REASONS = {
    Departure.REBOOTING: PresenceReason.REBOOTING,
    Departure.SHUTTING_DOWN: PresenceReason.SHUTTING_DOWN,
    Departure.OTHER: PresenceReason.STOPPED,
    Departure.UNKNOWN: PresenceReason.STOPPED,
}
