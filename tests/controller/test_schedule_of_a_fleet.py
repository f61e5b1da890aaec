"""A night of 400 clients in four zones and 40 sites, through the engine in virtual time: no site is ever dark."""

from __future__ import annotations

import contextlib
import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import insert, select, update

from infoscreen_reboot.contract import ack, telemetry, wire
from infoscreen_reboot.contract import command as on_the_wire
from infoscreen_reboot.contract.ack import Ack, AckStatus
from infoscreen_reboot.contract.telemetry import PresenceReason, Status
from infoscreen_reboot.contract.topics import Topics
from infoscreen_reboot.controller import engine as engines
from infoscreen_reboot.controller import windows
from infoscreen_reboot.controller.engine import Engine, Orders
from infoscreen_reboot.controller.lifecycle import Limits
from infoscreen_reboot.controller.orders import House
from infoscreen_reboot.controller.policies import budget
from infoscreen_reboot.controller.schedules import Schedules
from infoscreen_reboot.controller.store import lease, sites
from infoscreen_reboot.controller.store import schedules as store
from infoscreen_reboot.controller.store.database import Database, Row, Transaction
from infoscreen_reboot.controller.store.facts import Policy
from infoscreen_reboot.controller.store.tables import (
    client,
    command,
    event,
    label,
    metadata,
    notice,
    schedule,
    schedule_night,
)
from infoscreen_reboot.mqtt.consumer import Consumer, Puback, Received
from infoscreen_reboot.mqtt.messages import Delivery, Message
from infoscreen_reboot.mqtt.terms import Terms
from tests.controller.test_ingest import HEALTH
from tests.controller.test_schedules import NIGHTLY

ZONES = ("Asia/Kolkata", "Europe/Berlin", "America/Nuuk", "America/New_York")
# Half of the sites have two screens, and half eighteen: 400 in all.
SIZES = (2, 18)
TICK = timedelta(seconds=30)


class Clock(Database):
    """A database whose clock is set by hand."""

    now = datetime(2026, 10, 24, 12, tzinfo=UTC)

    @contextlib.contextmanager
    def write(self) -> Iterator[Transaction]:
        with super().write() as tx:
            yield replace(tx, now=self.now)


@dataclass
class Played:
    """A client, with what it does wrong; `comes` are the messages that are still to come."""

    uuid: str
    site: str
    misfit: str | None = None
    boot_id: str = field(default_factory=lambda: str(uuid4()))
    executed: int = 0

    def says(self, now: datetime, command_id: str, chance: random.Random) -> list[tuple[datetime, Message]]:
        """What follows from a command, and when it is heard."""
        if self.misfit in ("offline", "frozen"):
            return []
        self.executed += 1
        begun = [self._ack(now, command_id, status) for status in (AckStatus.ACCEPTED, AckStatus.EXECUTION_STARTED)]
        if self.misfit == "mock":
            return [*begun, self._ack(now + TICK, command_id, AckStatus.COMPLETED)]
        gone = [*begun, self._status(now + timedelta(seconds=3), PresenceReason.REBOOTING)]
        if self.misfit == "never back":
            return gone
        away = timedelta(minutes=9) if self.misfit == "late" else timedelta(seconds=chance.randrange(25, 110))
        self.boot_id = str(uuid4())
        back = now + away
        return [
            *gone,
            self._status(back, PresenceReason.CONNECTED),
            self._ack(back + timedelta(seconds=8), command_id, AckStatus.COMPLETED),
        ]

    def _ack(self, at: datetime, command_id: str, status: AckStatus) -> tuple[datetime, Message]:
        said = Ack(command_id, self.uuid, status, at, self.boot_id)
        return at, Message(Topics(self.uuid).commands_ack, ack.encode(said))

    def _status(self, at: datetime, reason: PresenceReason) -> tuple[datetime, Message]:
        said = Status(reason, self.uuid, self.boot_id, self.boot_id, at)
        return at, Message(Topics(self.uuid).status, telemetry.encode_status(said), retain=True)


class Air:
    """The broker and all clients, for the engine; what is published is acknowledged in the next step."""

    def __init__(self, clock: Clock, fleet: dict[str, Played]) -> None:
        self.terms = Terms()
        self._clock, self._fleet = clock, fleet
        self._pubacks: list[Puback] = []
        locked = [each for each in fleet.values() if each.misfit == "locked out"]
        self._coming = [(clock.now, lockout_of(each)) for each in locked]
        self._known: set[str] = set()

    def receive(self, most: int, idle_s: float) -> tuple[list[Received], list[Puback]]:
        due = sorted([each for each in self._coming if each[0] <= self._clock.now], key=_when)[:most]
        self._coming = [each for each in self._coming if each not in due]
        pubacks, self._pubacks = self._pubacks, []
        return [Received(Delivery(said.topic, said.payload, False), 0, 1) for _, said in due], pubacks

    def acknowledge(self, received: Sequence[Received]) -> None:
        pass

    def publish(self, message: Message, properties: Sequence[tuple[str, str]] = ()) -> int:
        sent = on_the_wire.parse(message.payload)
        if sent.command_id not in self._known:
            assert sent.expires_at > self._clock.now
            self._known.add(sent.command_id)
            # The same in each run, in whatever order the commands go out.
            chance = random.Random(sent.client_uuid)
            self._coming += self._fleet[sent.client_uuid].says(self._clock.now, sent.command_id, chance)
        self._pubacks.append(Puback(len(self._known), 0))
        return len(self._known)

    @property
    def is_quiet(self) -> bool:
        return not self._coming


def _when(each: tuple[datetime, Message]) -> datetime:
    return each[0]


MISFITS = {
    "never back": ("not_back", "it did not come back in time"),
    "late": ("back_late", "timed_out"),
    "locked out": ("skipped", "rebooted 3 times"),
    "offline": ("skipped", "offline"),
    "mock": ("mock", "pretended"),
    "frozen": ("not_back", "never answered"),
    "cloned": ("skipped", "two hosts"),
}


def fill(clock: Clock) -> dict[str, Played]:
    """The fleet; the misfits are at large sites, one at each."""
    fleet: dict[str, Played] = {}
    planted = list(MISFITS)
    with clock.write() as tx:
        for number in range(40):
            site, size = f"site-{number:02}", SIZES[number % 2]
            sites.put(tx, site, {"zone": ZONES[number % 8 // 2]})
            for _ in range(size):
                uuid = str(UUID(int=len(fleet) + 1))
                fleet[uuid] = Played(uuid, site)
            if size > 2 and planted:
                fleet[uuid].misfit = planted.pop(0)
        columns = [_row(tx, each) for each in fleet.values()]
        tx.db.execute(insert(client), columns)
        rows = [{"client_uuid": each.uuid, "key": "site", "value": each.site} for each in fleet.values()]
        tx.db.execute(insert(label), rows)
        store.create(tx, NIGHTLY | {"window_min": 25, "spread_min": 5, "back_by_min": 35}, "ann")
        # The turns of the clients follow from it: how many go at once is no matter of chance.
        tx.db.execute(update(schedule).values(id=str(UUID(int=14))))
    return fleet


def _row(tx: Transaction, each: Played) -> dict[str, Any]:
    return {
        "uuid": each.uuid,
        "name": each.misfit,
        "standing": "accepted",
        "is_online": each.misfit != "offline",
        "heard_at": tx.now,
        "boot_id": each.boot_id,
        "presence_at": tx.now,
        "presence_told_at": tx.now,
        "session_id": each.boot_id,
        "two_hosts_at": tx.now if each.misfit == "cloned" else None,
    }


def lockout_of(each: Played) -> Message:
    """It says so itself, and until after the night."""
    lockout = {"used": 3, "limit": 3, "window_s": 900, "unlocks_at": "2026-10-27T00:00:00Z"}
    said = HEALTH | {"client_uuid": each.uuid, "lockout": lockout}
    return Message(Topics(each.uuid).health, json.dumps(said).encode())


def play(clock: Clock, air: Air, engine: Engine) -> None:
    """From one moment at which something happens to the next; when nothing is on its way, to the next night."""
    for zone in ZONES:
        begins = windows.start_on(date(2026, 10, 25), time(3), ZoneInfo(zone))
        clock.now = begins - TICK
        while clock.now < begins + timedelta(minutes=37):
            clock.now += TICK
            engine.step()
            with clock.read() as tx:
                is_begun = clock.now > begins + timedelta(minutes=1)
                if is_begun and air.is_quiet and not store.running(tx):
                    break


def test_a_night_in_four_zones_in_which_the_clocks_change_and_seven_clients_misbehave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "SILENT", timedelta(days=9))  # they send no health
    clock = Clock(f"sqlite:///{tmp_path / 'controller.sqlite3'}")
    metadata.create_all(clock.engine)
    fleet = fill(clock)
    policy = Policy(budgets=(budget("site min_available=1"),))
    with clock.write() as tx:
        epoch = lease.take(tx, "test")
    assert epoch is not None
    air = Air(clock, fleet)
    orders = Orders(policy=policy, plans=(Schedules(House(policy), Limits()),))
    engine = Engine(clock, cast(Consumer, air), orders, epoch, None)
    engine.begin()
    play(clock, air, engine)
    with clock.read() as tx:
        nights = tx.db.execute(select(schedule_night).order_by(schedule_night.c.starts_at)).mappings().all()
        events = tx.db.execute(select(event).order_by(event.c.seq)).mappings().all()
        made = tx.db.execute(select(command.c.client_uuid)).scalars().all()
        told = tx.db.execute(select(notice).order_by(notice.c.id)).all()
    clock.close()
    assert [(night["zone"], night["state"]) for night in nights] == [(zone, "ended") for zone in ZONES]
    lines = [line for night in nights for line in night["report"]["lines"]]
    assert len(lines) == len(made) == len(set(made)) == 400 and {each.executed for each in fleet.values()} <= {0, 1}
    for line in lines:
        misfit = fleet[line["client_uuid"]].misfit
        outcome, why = MISFITS[misfit] if misfit is not None else ("back", "")
        assert line["outcome"] == outcome and why in (line["why"] or ""), line
    assert sum(night["report"]["counts"]["back"] for night in nights) == 393
    for night in nights:
        on_time = [line["back_at"] for line in night["report"]["lines"] if line["outcome"] == "back"]
        assert max(on_time) <= wire.format_time(night["back_by"])
    started, ended = ([each for each in told if each.kind == kind] for kind in ("started", "finished"))
    assert len(started) == len(ended) == 4 and all("100 clients, all back by 03:35" in each.words for each in started)
    assert "1 not back" in ended[0].words and ended[0].content["missing"] == ["never back"]
    least = darkest(events, fleet)
    assert least[2] == 1 and 1 <= least[18] < 12, "many went at once, and no site was dark"


def darkest(events: Sequence[Row], fleet: Mapping[str, Played]) -> dict[int, int]:
    """By the size of a site, the least of its screens that were there at any moment; from the events alone."""
    there = Counter(each.site for each in fleet.values() if each.misfit != "offline")
    sizes = Counter(each.site for each in fleet.values())
    down: set[str] = set()
    least: dict[int, int] = {}
    for told in events:
        uuid = told["client_uuid"]
        site = fleet[uuid].site
        if told["kind"] == "execution_started" and fleet[uuid].misfit != "mock" and uuid not in down:
            down.add(uuid)
            there[site] -= 1
        elif uuid in down and told["kind"] in ("completed", "late_truth"):
            down.remove(uuid)
            there[site] += 1
        least[sizes[site]] = min(least.get(sizes[site], 99), there[site])
    return least
