"""A fleet without a broker, and a clock that a test turns: the real engine and database, and clients that answer.

What the broker has for the controller stays until it is acknowledged, and comes again to the next one.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import uuid4

from sqlalchemy import URL, func, insert, select
from sqlalchemy.event import listen

from infoscreen_reboot.contract import ack, telemetry
from infoscreen_reboot.contract.ack import Ack, AckStatus, ErrorCode
from infoscreen_reboot.contract.command import parse
from infoscreen_reboot.contract.telemetry import PresenceReason, Status
from infoscreen_reboot.contract.topics import Topics
from infoscreen_reboot.controller import rollouts
from infoscreen_reboot.controller.engine import Engine, Orders
from infoscreen_reboot.controller.lifecycle import Limits
from infoscreen_reboot.controller.orders import Caller, House
from infoscreen_reboot.controller.recoveries import Recoveries
from infoscreen_reboot.controller.rollouts import Rollouts, Terms
from infoscreen_reboot.controller.store import lease, views
from infoscreen_reboot.controller.store import rollouts as stored
from infoscreen_reboot.controller.store.database import Database, Row, Transaction
from infoscreen_reboot.controller.store.facts import Policy
from infoscreen_reboot.controller.store.tables import client, command, label, notice
from infoscreen_reboot.mqtt.consumer import Consumer, Puback, Received
from infoscreen_reboot.mqtt.messages import Delivery, Message
from infoscreen_reboot.mqtt.terms import Terms as BrokerTerms

ANN = Caller("ann", "api")
SECOND = timedelta(seconds=1)
EVENING = datetime(2026, 11, 27, 22, tzinfo=UTC)


class Clockwork(Database):
    """`dies` kills this process with SIGKILL, before or after the next commit."""

    clock = EVENING
    dies: str | None = None

    def __init__(self, url: str | URL) -> None:
        super().__init__(url)
        if self.is_sqlite:
            listen(self.engine, "connect", _do_not_sync)

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        with super().write() as tx:
            yield replace(tx, now=self.clock)
            if self.dies == "before":
                os.kill(os.getpid(), signal.SIGKILL)
        if self.dies == "after":
            os.kill(os.getpid(), signal.SIGKILL)

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        with super().read() as tx:
            yield replace(tx, now=self.clock)


def _do_not_sync(connection: Any, _record: Any) -> None:
    """What a killed process has written is there; only a machine that loses its power needs more."""
    connection.execute("PRAGMA synchronous = OFF")


@dataclass
class PlayedHost:
    """`how` is what becomes of a reboot: it completes, fails, or is lost."""

    uuid: str
    how: str = "completes"
    boot_id: str = field(default_factory=lambda: str(uuid4()))
    session_id: str = field(default_factory=lambda: str(uuid4()))
    acks: dict[str, bytes] = field(default_factory=dict)
    executed: list[str] = field(default_factory=list)

    @property
    def topics(self) -> Topics:
        return Topics(self.uuid)


class Air:
    """In the place of the consumer: the broker and all clients."""

    def __init__(self, hosts: Sequence[PlayedHost]) -> None:
        self.hosts = {host.uuid: host for host in hosts}
        # The broker keeps what it has for the controller, also while there is none.
        self.terms = BrokerTerms(has_session=True)
        self.now = EVENING
        self.boot_takes = SECOND
        self._given: list[Received] = []
        self._next: list[Received] = []
        self._later: list[tuple[datetime, PlayedHost, str]] = []
        self._pubacks: list[Puback] = []
        self._number = 0

    def receive(self, most: int, idle_s: float) -> tuple[list[Received], list[Puback]]:
        pubacks, self._pubacks = self._pubacks, []
        self._given = self._next[:most]
        return list(self._given), pubacks

    def acknowledge(self, received: Sequence[Received]) -> None:
        known = {each.packet_id for each in received}
        self._next = [each for each in self._next if each.packet_id not in known]

    def lose(self) -> None:
        """The connection is over: what has no PUBACK by then never gets one."""
        self._pubacks = []

    def publish(self, message: Message, properties: Sequence[tuple[str, str]] = ()) -> int:
        self._number += 1
        self._pubacks.append(Puback(self._number, 0))
        sent = parse(message.payload)
        host = self.hosts[sent.client_uuid]
        if sent.command_id in host.acks:
            self._say(host.topics.commands_ack, host.acks[sent.command_id])
        else:
            self._execute(host, sent.command_id)
        return self._number

    def _execute(self, host: PlayedHost, command_id: str) -> None:
        host.executed.append(command_id)
        self._answer(host, command_id, AckStatus.ACCEPTED)
        self._answer(host, command_id, AckStatus.EXECUTION_STARTED)
        if host.how == "fails":
            self._answer(host, command_id, AckStatus.FAILED, ErrorCode.INHIBITED)
            return
        self._be(host, PresenceReason.REBOOTING)
        if host.how == "completes":
            self._later.append((self.now + self.boot_takes, host, command_id))

    def pass_time(self, now: datetime) -> None:
        self.now = now
        back = [each for each in self._later if each[0] <= now]
        self._later = [each for each in self._later if each[0] > now]
        for _, host, command_id in back:
            host.boot_id, host.session_id = str(uuid4()), str(uuid4())
            self._be(host, PresenceReason.CONNECTED)
            self._answer(host, command_id, AckStatus.COMPLETED)

    def _be(self, host: PlayedHost, reason: PresenceReason) -> None:
        said = Status(reason, host.uuid, host.session_id, host.boot_id, self.now)
        self._say(host.topics.status, telemetry.encode_status(said))

    def _answer(self, host: PlayedHost, command_id: str, status: AckStatus, code: ErrorCode | None = None) -> None:
        said = Ack(command_id, host.uuid, status, self.now, host.boot_id, code, "why" if code else None)
        host.acks[command_id] = ack.encode(said)
        self._say(host.topics.commands_ack, host.acks[command_id])

    def _say(self, topic: str, payload: bytes) -> None:
        self._number += 1
        self._next.append(Received(Delivery(topic, payload, False), self._number, 1))


class Town:
    """Accepted clients, in sites, and a controller that takes a step at each tick."""

    def __init__(self, database: Clockwork, sites: dict[str, int], fleet_cap: int | None = None) -> None:
        self.database = database
        self.uuids: dict[str, list[str]] = {}
        hosts: list[PlayedHost] = []
        with database.write() as tx:
            for site, count in sites.items():
                first = len(hosts) + 1
                self.uuids[site] = [f"00000000-0000-0000-0000-{number:012}" for number in range(first, first + count)]
                hosts += [PlayedHost(uuid) for uuid in self.uuids[site]]
                known = {"standing": "accepted", "is_online": True, "heard_at": tx.now}
                ours = {host.uuid: host for host in hosts}
                rows = [
                    {"uuid": uuid, "boot_id": ours[uuid].boot_id, "session_id": ours[uuid].session_id, **known}
                    for uuid in self.uuids[site]
                ]
                tx.db.execute(insert(client), rows)
                labels = [{"client_uuid": uuid, "key": "site", "value": site} for uuid in self.uuids[site]]
                tx.db.execute(insert(label), labels)
        self.air = Air(hosts)
        self.pace = SECOND
        self.recovers = False
        self.start(fleet_cap)

    @property
    def everybody(self) -> list[str]:
        return list(self.air.hosts)

    def start(self, fleet_cap: int | None = None) -> None:
        """A controller, also after one that was killed."""
        self.fleet_cap = fleet_cap
        self.house = House(Policy(fleet_cap))
        plans = Rollouts(self.house, Limits()), Recoveries(is_off=stored.recovery_is_off)
        orders = Orders(Limits(), Policy(fleet_cap), plans=plans if self.recovers else plans[:1])
        self.air.lose()
        with self.database.write() as tx:
            epoch = lease.take(tx, "test")
        assert epoch is not None
        self.engine = Engine(self.database, cast(Consumer, self.air), orders, epoch, None)
        self.engine.begin()

    def behave(self, how: str, *uuids: str) -> None:
        for uuid in uuids:
            self.air.hosts[uuid].how = how

    def roll_out(self, terms: Terms, uuids: Sequence[str] | None = None) -> str:
        with self.database.write() as tx:
            wanted = self.everybody if uuids is None else uuids
            shown = rollouts.preview(tx, ANN, terms, wanted, self.house)
            made, _ = rollouts.create(tx, ANN, terms, wanted, shown.hash, shown.shown.count, None, self.house)
        return made

    def tick(self, count: int = 1) -> None:
        for _ in range(count):
            self.turn()
            self.engine.step()

    def turn(self) -> None:
        """Time passes, and the controller has not looked at it yet."""
        self.database.clock += self.pace
        self.air.pass_time(self.database.clock)

    def until(self, rollout_id: str, *states: str, most: int = 2000) -> Row:
        for _ in range(most):
            row = self.row(rollout_id)
            if row["state"] in states:
                return row
            self.tick()
        raise AssertionError(f"it is {row['state']} in stage {row['stage']}, not {states}: {self.states(rollout_id)}")

    def row(self, rollout_id: str) -> Row:
        with self.database.read() as tx:
            row = stored.found(tx, rollout_id)
        assert row is not None
        return row

    def states(self, rollout_id: str) -> dict[int, Counter[str]]:
        with self.database.read() as tx:
            return stored.states(tx, rollout_id)

    def notices(self) -> list[tuple[str, str]]:
        with self.database.read() as tx:
            return [(row.kind, row.words) for row in tx.db.execute(select(notice).order_by(notice.c.id))]

    def made(self) -> Counter[str]:
        """How many commands there are for each client."""
        with self.database.read() as tx:
            rows = tx.db.execute(select(command.c.client_uuid, func.count()).group_by(command.c.client_uuid))
            return Counter({row[0]: row[1] for row in rows})

    def revision(self) -> int:
        with self.database.read() as tx:
            return views.revision(tx)

    def executed(self) -> list[str]:
        """The clients that were rebooted, once for each time."""
        return [host.uuid for host in self.air.hosts.values() for _ in host.executed]
