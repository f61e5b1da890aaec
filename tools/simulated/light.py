"""Light clients: they say what the contract says, over the agent's own connection code, and write nothing down.

A test holds them against the real agent: the same commands lead to the same messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from infoscreen_reboot import __version__
from infoscreen_reboot.contract import ack, command, telemetry
from infoscreen_reboot.contract.ack import Ack, AckStatus, ErrorCode
from infoscreen_reboot.contract.command import Action, Command
from infoscreen_reboot.contract.telemetry import (
    BootReport,
    BrokerConnection,
    Capabilities,
    Cause,
    Commands,
    Executor,
    Health,
    LastCommand,
    Lockout,
    PresenceReason,
    StateDirectory,
    Status,
)
from infoscreen_reboot.contract.topics import Topics
from infoscreen_reboot.contract.wire import ContractError
from infoscreen_reboot.mqtt.connection import Connection
from infoscreen_reboot.mqtt.messages import BrokerSettings, Delivery, Message, NotDelivered
from tools.simulated.manner import Manner

HEALTH_EVERY_S = 30.0
_TICK_S = 5.0
_AGAIN_S = 1.0
# mosquitto's queue of new connections is short: with more at once, some wait a second for the kernel to try again.
_CONNECTS_AT_ONCE = 100


class LightClient:
    """One client, from its first boot on. What it knows of commands outlives its boots."""

    def __init__(self, settings: BrokerSettings, client_uuid: str, manner: Manner, gate: asyncio.Semaphore) -> None:
        self.uuid = client_uuid
        self.manner = manner
        self.boots = 0
        self.executed: list[str] = []
        self._settings = settings
        self._gate = gate
        self._topics = Topics(client_uuid)
        self._connection: Connection | None = None
        self._boot_id = str(uuid.uuid4())
        self._boot_before: str | None = None
        self._booted_at = datetime.now(UTC)
        self._session_id = ""
        self._acks: dict[str, Ack] = {}
        self._open: Command | None = None
        self._owed: deque[bytes] = deque()
        self._owes_nothing = asyncio.Event()
        self._owes_nothing.set()
        self._owes_report = True
        self._goes_down: asyncio.Future[Action] | None = None
        self._execution: asyncio.Task[None] | None = None

    @property
    def is_connected(self) -> bool:
        return self._connection is not None

    async def run(self) -> None:
        """Connected, or away while it reboots, until it is off for good or cancelled."""
        try:
            while True:
                self._goes_down = asyncio.get_running_loop().create_future()
                await self._serve()
                if not self._goes_down.done():
                    await asyncio.sleep(self.manner.chance.uniform(0, _AGAIN_S))
                    continue
                if self._goes_down.result() is Action.SHUTDOWN_HOST or not self.manner.comes_back:
                    return
                await asyncio.sleep(self.manner.away_s())
                self._boot()
        finally:
            if self._execution is not None:
                self._execution.cancel()

    def tick(self) -> None:
        if self._connection is not None:
            self._connection.tick()

    def tell_health(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(NotDelivered):
                self._connection.send(Message(self._topics.health, telemetry.encode_health(self._health()), qos=0))

    async def _serve(self) -> None:
        """One connection, until it is lost or the host goes down."""
        self._session_id = str(uuid.uuid4())
        will = self._status(PresenceReason.CONNECTION_LOST)
        connection = Connection(self._settings, f"infoscreen-{self.uuid}", will, self._on_message)
        assert self._goes_down is not None
        try:
            async with self._gate:
                await connection.open()
                await connection.subscribe(self._topics.commands)
                await connection.subscribe(self._topics.transitional_command)
                await connection.publish(self._status(PresenceReason.CONNECTED))
            self._connection = connection
            self._deliver_owed()
            self._end_reboot()
            self.tell_health()
            ends: list[asyncio.Future[Any]] = [self._goes_down, connection.closed]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if self._goes_down.done():
                await self._leave(connection, self._goes_down.result())
        except NotDelivered:
            pass
        finally:
            self._connection = None
            connection.close("over")

    async def _leave(self, connection: Connection, action: Action) -> None:
        is_reboot = action is Action.REBOOT_HOST
        await connection.publish(self._status(PresenceReason.REBOOTING if is_reboot else PresenceReason.SHUTTING_DOWN))
        connection.disconnect()

    def _boot(self) -> None:
        self.boots += 1
        self._boot_before, self._boot_id = self._boot_id, str(uuid.uuid4())
        self._booted_at = datetime.now(UTC)
        self._owes_report = True

    # --- Commands

    def _on_message(self, delivery: Delivery) -> None:
        try:
            order = command.parse(delivery.payload)
        except ContractError as error:
            if error.command_id is not None and error.command_id not in self._acks:
                self._answer(error.command_id, AckStatus.FAILED, ErrorCode.INVALID_SCHEMA, str(error))
            return
        known = self._acks.get(order.command_id)
        if known is not None:
            self._owe(ack.encode(known))
        elif (why := self._refusal(order, delivery.retain)) is not None:
            self._answer(order.command_id, AckStatus.FAILED, *why)
        else:
            self._open = order
            self._answer(order.command_id, AckStatus.ACCEPTED)
            self._execution = asyncio.get_running_loop().create_task(self._execute(order))

    def _refusal(self, order: Command, is_retained: bool) -> tuple[ErrorCode, str] | None:
        if is_retained:
            return ErrorCode.RETAINED, "a retained command is never executed"
        if order.client_uuid != self.uuid:
            return ErrorCode.WRONG_CLIENT, "this command is for another client"
        if order.expires_at < datetime.now(UTC):
            return ErrorCode.EXPIRED, "expired on receipt"
        if self._open is not None:
            return ErrorCode.BUSY, f"command {self._open.command_id} is not terminal yet"
        return None

    async def _execute(self, order: Command) -> None:
        self.executed.append(order.command_id)
        self._answer(order.command_id, AckStatus.EXECUTION_STARTED)
        await self._owes_nothing.wait()
        if self.manner.mocks or order.action is Action.SHUTDOWN_HOST:
            self._answer(order.command_id, AckStatus.COMPLETED)
            self._open = None
            await self._owes_nothing.wait()
        if not self.manner.mocks and self._goes_down is not None and not self._goes_down.done():
            self._goes_down.set_result(order.action)

    def _end_reboot(self) -> None:
        """After `execution_started`, another boot is the proof."""
        order = self._open
        if order is not None and self._acks[order.command_id].boot_id != self._boot_id:
            self._open = None
            self._answer(order.command_id, AckStatus.COMPLETED)
        if self._owes_report:
            self._owes_report = False
            self._send(Message(self._topics.boot, self._report(order), retain=True))

    def _answer(
        self, command_id: str, status: AckStatus, code: ErrorCode | None = None, message: str | None = None
    ) -> None:
        said = Ack(command_id, self.uuid, status, datetime.now(UTC), self._boot_id, code, message)
        self._acks[command_id] = said
        self._owe(ack.encode(said))

    # --- What it says

    def _owe(self, payload: bytes) -> None:
        self._owed.append(payload)
        self._owes_nothing.clear()
        self._send_owed(payload)

    def _deliver_owed(self) -> None:
        for payload in list(self._owed):
            self._send_owed(payload)

    def _send_owed(self, payload: bytes) -> None:
        answer = self._send(Message(self._topics.commands_ack, payload))
        if answer is not None:
            answer.add_done_callback(lambda sent: self._strike_out(payload, sent))

    def _strike_out(self, payload: bytes, sent: asyncio.Future[bool]) -> None:
        if not sent.cancelled() and sent.exception() is None and payload in self._owed:
            self._owed.remove(payload)
        if not self._owed:
            self._owes_nothing.set()

    def _send(self, message: Message) -> asyncio.Future[bool] | None:
        if self._connection is None:
            return None
        try:
            answer = self._connection.send(message)
        except NotDelivered:
            return None
        answer.add_done_callback(lambda sent: None if sent.cancelled() else sent.exception())
        return answer

    def _status(self, reason: PresenceReason) -> Message:
        status = Status(reason, self.uuid, self._session_id, self._boot_id, datetime.now(UTC))
        return Message(self._topics.status, telemetry.encode_status(status), retain=True)

    def _report(self, order: Command | None) -> bytes:
        cause = Cause.UNKNOWN if self._boot_before is None else Cause.COMMAND if order else Cause.LOCAL
        report = BootReport(
            client_uuid=self.uuid,
            boot_id=self._boot_id,
            previous_boot_id=self._boot_before,
            cause=cause,
            command_id=order.command_id if order is not None and cause is Cause.COMMAND else None,
            clean_shutdown=self._boot_before is not None,
            boot_started_at=self._booted_at,
            reported_at=datetime.now(UTC),
            previous_boot_last_seen_at=self._booted_at if self._boot_before is not None else None,
        )
        return telemetry.encode_boot_report(report)

    def _health(self) -> Health:
        now = datetime.now(UTC)
        last = next(reversed(self._acks.values()), None)
        return Health(
            client_uuid=self.uuid,
            timestamp=now,
            boot_id=self._boot_id,
            uptime_s=int((now - self._booted_at).total_seconds()),
            agent_version=__version__,
            executor=Executor.MOCK if self.manner.mocks else Executor.HELPER,
            broker_connection=BrokerConnection(True, 0, None, None),
            commands=Commands(
                in_progress=self._open.command_id if self._open is not None else None,
                last=LastCommand(last.command_id, last.status, last.timestamp) if last is not None else None,
                outbox=len(self._owed),
                unreadable=0,
                conflicts=0,
            ),
            lockout=None if self.manner.mocks else Lockout(0, 3, 900, None),
            clock_synchronized=True,
            capabilities=Capabilities(tuple(sorted(Action)), False, (), 1),
            state=StateDirectory(True, False, 0),
        )


class Crowd:
    """Many light clients on the running loop; each says its health every 30 s, one after the other."""

    def __init__(self, settings: BrokerSettings, uuids: Sequence[str], manner: Manner) -> None:
        gate = asyncio.Semaphore(_CONNECTS_AT_ONCE)
        self.clients = [LightClient(settings, each, manner, gate) for each in uuids]

    async def run(self, health_every_s: float | None = HEALTH_EVERY_S) -> None:
        async with asyncio.TaskGroup() as tasks:
            for client in self.clients:
                tasks.create_task(client.run())
            tasks.create_task(self._tick())
            if health_every_s is not None:
                tasks.create_task(self._tell_health(health_every_s))

    async def connected(self) -> None:
        """Until all of them are."""
        while not all(client.is_connected for client in self.clients):
            await asyncio.sleep(0.05)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            for client in self.clients:
                client.tick()

    async def _tell_health(self, every_s: float) -> None:
        """Evenly: a fleet has no common clock."""
        loop = asyncio.get_running_loop()
        began, told = loop.time(), 0
        while True:
            due = int((loop.time() - began) / every_s * len(self.clients))
            while told < due:
                self.clients[told % len(self.clients)].tell_health()
                told += 1
            await asyncio.sleep(0.01)
