"""Event, decide, commit, act: the one place where order matters.

Nothing is said before it is on disk, and nothing is done before it is said. Kill the process or the power between
any two lines of this file: `wake`, called on the next start, ends every story right.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace

from infoscreen_reboot.agent import policy
from infoscreen_reboot.agent.checks import PostBootChecks
from infoscreen_reboot.agent.config import Settings
from infoscreen_reboot.agent.journal import Journal, JournalError, JournalUnusable
from infoscreen_reboot.agent.ledger import Ledger, log_field
from infoscreen_reboot.agent.lifecycle import Accepted, Due, Failed, GoingDown, Held, Mocked, Record, State, Woke
from infoscreen_reboot.agent.outbox import Outbox
from infoscreen_reboot.agent.ports import Clock, Departure, Host, NoReply, Post, Refusal, Signatures
from infoscreen_reboot.contract import command, wire
from infoscreen_reboot.contract.ack import ErrorCode
from infoscreen_reboot.contract.command import Action, Command
from infoscreen_reboot.contract.telemetry import Executor, PresenceReason
from infoscreen_reboot.contract.topics import Topics
from infoscreen_reboot.contract.wire import ContractError
from infoscreen_reboot.mqtt import Delivery, Message, Redeliver

log = logging.getLogger(__name__)

# What `execution_started` is given to reach the broker before the helper is asked all the same.
DELIVERY_S = 2.0
# Together below logind's InhibitDelayMaxSec= of 5 s, after which it no longer waits for us.
LAST_WORDS_S, FAREWELL_S = 3.0, 1.0
_CLOCK_POLL_S = 1.0


class Agent:
    """One client's commands, from the broker's delivery to a terminal ack.

    `on_message`, `on_departure` and `on_stay` are called on the loop and never wait; `run` drives the open command.
    """

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        outbox: Outbox,
        post: Post,
        host: Host,
        clock: Clock,
        farewell: Callable[[PresenceReason], Message],
        on_change: Callable[[], None] = lambda: None,
        signatures: Signatures | None = None,
        unfit: str | None = None,
    ) -> None:
        """Without `signatures` every command is carried out, whoever sent it; with `unfit`, a reason, none is."""
        self._settings = settings
        self._transitional_topic = Topics(settings.client_uuid).transitional_command
        self._journal = journal
        self._outbox = outbox
        self._post = post
        self._host = host
        self._clock = clock
        self._farewell = farewell
        self._checks = PostBootChecks(settings, host)
        self._boot_id = clock.boot_id()
        self._clock_is_trusted = not settings.require_synced_clock
        self._asked_at_s: dict[str, float] = {}
        self._departure: asyncio.Task[None] | None = None
        self._staying = asyncio.Event()
        self._staying.set()
        self._changed = asyncio.Event()
        self._ledger = Ledger(settings.client_uuid, journal, clock, self._on_entry, outbox.send_once)
        self._on_change = on_change
        self._signatures = signatures
        self._unfit = unfit

    def _on_entry(self) -> None:
        self._outbox.nudge()
        self._changed.set()
        self._on_change()

    def wake(self) -> None:
        """End or go on with what an earlier run left open. Raises JournalError."""
        for record in self._journal.open_records():
            self._ledger.apply(record, Woke(self._boot_id))

    def on_message(self, delivery: Delivery) -> None:
        """Take a command in; when this returns it is on disk. Raises Redeliver when it could not be written."""
        try:
            self._receive(delivery)
        except JournalUnusable:
            raise  # the agent ends, and starts with a new journal
        except JournalError as error:
            raise Redeliver(str(error)) from error

    def _receive(self, delivery: Delivery) -> None:
        if delivery.topic == self._transitional_topic and not self._settings.compat_topics:
            # Queued by the broker for a session that still had the topic.
            log.warning("ignored a message on %s: COMMAND_COMPAT_TOPICS is off", delivery.topic)
            return
        request: Command | None = None
        fault: ContractError | None = None
        try:
            request = command.parse(delivery.payload)
            command_id = request.command_id
        except ContractError as error:
            if error.command_id is None:
                total = self._journal.count("unreadable")
                log.warning("unreadable payload of %d bytes: %s (%d so far)", len(delivery.payload), error, total)
                return
            command_id, fault = error.command_id, error
        distrust = self._signatures.fault(delivery) if self._signatures is not None else None
        if distrust is not None:
            total = self._journal.count("bad_signatures")
            log.warning("command %s cannot be trusted: %s (%d so far)", command_id, distrust, total)
        record = Record(
            command_id=command_id,
            received_boot_id=self._boot_id,
            command=delivery.payload,
            action=request.action if request is not None else None,
            came_by_transitional=delivery.topic == self._transitional_topic,
            keep_until_s=request.expires_at.timestamp() if request is not None else None,
        )
        known = self._journal.find(command_id)
        if known is not None:
            self._repeat(known, record)
        elif distrust is not None:
            self._ledger.apply(record, Failed(ErrorCode.INVALID_SIGNATURE, distrust))
        elif request is not None:
            self._ledger.apply(record, self._judge_safely(request, delivery.retain))
        else:
            self._ledger.apply(record, Failed(ErrorCode.INVALID_SCHEMA, str(fault)))
        self._changed.set()

    def _repeat(self, known: Record, again: Record) -> None:
        """The same command once more: the same answer once more, and nothing else."""
        if not command.say_the_same(known.command, again.command):
            self._journal.count("conflicts")
            log.warning("command %s came again with other content", known.command_id, extra=log_field(known))
        if again.came_by_transitional and not known.came_by_transitional:
            known = replace(known, came_by_transitional=True)
            self._journal.commit(known)
        self._outbox.answer_again(self._ledger.letters(known))

    def _judge_safely(self, request: Command, retained: bool) -> Held | Accepted | Failed:
        try:
            return self._judge(request, retained, self._journal.open_id())
        except JournalError:
            raise
        except Exception as error:
            # Delivered again it would only fail again; this answer is the end of it.
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
        """Drive the open command, if there is one, for ever. Raises JournalError."""
        self._clock_is_trusted |= await self._host.clock_is_synchronised()
        while True:
            self._changed.clear()
            match self._journal.open_records():
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
        # Someone else's shutdown may be under way: if it goes through, this command was interrupted by it.
        await self._staying.wait()
        now_s = self._clock.boot_clock_s()
        if now_s >= record.expires_at_s:
            self._ledger.advance(record, Failed(ErrorCode.EXPIRED, "expired before execution could start"))
            return
        self._ledger.advance(record, Due(self._boot_id, now_s + DELIVERY_S + self._settings.execution_timeout_s))
        await self._outbox.wait_empty(DELIVERY_S)
        if self._settings.executor is Executor.MOCK:
            self._pretend(record)
            return
        await self._staying.wait()
        self._asked_at_s[record.command_id] = self._clock.boot_clock_s()
        try:
            await self._host.request(record.action, record.command_id)
        except Refusal as refusal:
            self._ledger.advance(record, Failed(refusal.code, refusal.message))
        except NoReply as unknown:
            log.warning("command %s: %s; the boot id will tell", record.command_id, unknown, extra=log_field(record))
        else:
            self._asked_at_s[record.command_id] = self._clock.boot_clock_s()
            log.info("command %s: the helper said yes", record.command_id, extra=log_field(record))

    def _pretend(self, record: Record) -> None:
        """Nothing is executed; a reboot may count as done all the same, a shutdown never does."""
        if self._settings.mocks_reboots and record.action is Action.REBOOT_HOST:
            log.warning("command %s: MOCKED, this host does not reboot", record.command_id, extra=log_field(record))
            self._ledger.advance(record, Mocked())
        else:
            why = "COMMAND_EXECUTOR is mock: this client executes nothing"
            self._ledger.advance(record, Failed(ErrorCode.HELPER_UNAVAILABLE, why))

    async def _await_down(self, record: Record) -> None:
        assert record.down_by_s is not None
        asked_at_s = self._asked_at_s.get(record.command_id)
        timeout_s = self._settings.execution_timeout_s
        down_by_s = record.down_by_s if asked_at_s is None else asked_at_s + timeout_s
        left_s = down_by_s - self._clock.boot_clock_s()
        if left_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._changed.wait()
        elif asked_at_s is None:
            why = f"the agent was restarted, and after {timeout_s:.0f} s the boot id is still {self._boot_id}"
            self._ledger.advance(record, Failed(ErrorCode.NOT_REBOOTED, why))
        else:
            why = f"the host had not gone down {timeout_s:.0f} s after the helper was asked"
            self._ledger.advance(record, Failed(ErrorCode.EXECUTION_TIMEOUT, why))

    def on_departure(self, announced: Departure) -> None:
        """logind: the host is going down. Say the last words, then let it."""
        self._staying.clear()
        reason = announced.value
        try:
            self._mark_shutdown()
            for record in self._journal.open_records():
                if record.command_id in self._asked_at_s and record.action is not None:
                    reason = _REASONS[record.action] if announced is Departure.UNKNOWN else reason
                    if reason is PresenceReason.SHUTTING_DOWN:
                        self._ledger.advance(record, GoingDown())
        except JournalError as error:
            log.error("%s; the next boot will tell what became of the command", error)
        self._departure = asyncio.create_task(self._depart(reason), name="last words")

    async def _depart(self, reason: PresenceReason) -> None:
        try:
            await self._outbox.wait_empty(LAST_WORDS_S)
            await self._post.leave(self._farewell(reason), FAREWELL_S)
        finally:
            self._host.release_delay()

    async def leave(self) -> None:
        """The agent is being stopped: farewell to the broker, unless the host's departure has said it already."""
        if self._departure is None:
            if await self._host.is_going_down():
                self._mark_shutdown()
            await self._post.leave(self._farewell(PresenceReason.STOPPED), FAREWELL_S)
        else:
            await self._departure

    def on_stay(self) -> None:
        """logind: the host is not going down after all."""
        self._departure = None
        self._mark_shutdown(began=False)
        self._staying.set()

    def _mark_shutdown(self, began: bool = True) -> None:
        """For the next boot, to tell an orderly shutdown from a loss of power."""
        try:
            self._journal.mark_shutdown(self._boot_id, wire.format_time(self._clock.now()), began)
        except JournalError as error:
            log.error("%s; the next boot will not know that this one ended in good order", error)


_REASONS = {Action.REBOOT_HOST: PresenceReason.REBOOTING, Action.SHUTDOWN_HOST: PresenceReason.SHUTTING_DOWN}
