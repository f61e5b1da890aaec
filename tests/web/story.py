"""A fleet as it may be one morning: three places, a night that went well but for one screen, and what is wrong now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import NAMESPACE_DNS, UUID, uuid5
from zoneinfo import ZoneInfo

import httpx
from sqlalchemy import Table, delete, func, select, text, update

from infoscreen_reboot import __version__
from infoscreen_reboot.contract.ack import AckStatus
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.contract.telemetry import (
    BootReport,
    BrokerConnection,
    Capabilities,
    Cause,
    Commands,
    Executor,
    Health,
    Lockout,
    StateDirectory,
)
from infoscreen_reboot.controller import recovery
from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.ingest import Heard
from infoscreen_reboot.controller.lifecycle import Acked, Limits, Seen
from infoscreen_reboot.controller.orders import House
from infoscreen_reboot.controller.recovery import Due, Step
from infoscreen_reboot.controller.schedules import Schedules
from infoscreen_reboot.controller.store import clients, commands, lease, recoveries, sites
from infoscreen_reboot.controller.store.database import Transaction
from infoscreen_reboot.controller.store.tables import (
    Moment,
    batch,
    client,
    command,
    health,
    label,
    schedule,
    schedule_member,
    schedule_night,
    to_number,
)
from infoscreen_reboot.controller.store.tables import lease as leases
from tests.controller.played_fleet import NEW_BOOT, OLD_BOOT, Fleet

ZONE = ZoneInfo("Europe/Vienna")
PLACES = {
    "central-station": (
        *("Platform 1 north", "Platform 1 south", "Platform 2 north", "Platform 2 south", "Platform 3 north"),
        *("Platform 3 south", "Ticket hall left", "Ticket hall right"),
    ),
    "city-museum": ("Entrance", "Cloakroom", "Café menu 1", "Café menu 2", "Room 4", "Room 7"),
    "harbour-hall": ("Foyer", "Stairs east", "Stairs west", "Box office"),
}
LOST, LATE, GOING, AWAY, WELL = "Platform 3 south", "Ticket hall left", "Foyer", "Café menu 2", "Entrance"
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Story:
    """Where its pages are."""

    night: str
    well: str


def told(fleet: Fleet) -> Story:
    """Plays it. The night was at 03:30 in Vienna, whatever the time is now."""
    with fleet.database.write() as tx:
        for place in PLACES:
            sites.put(tx, place, {"zone": str(ZONE)})
    for place, names in PLACES.items():
        for name in names:
            fleet.add(name, site=place, uuid=str(uuid5(NAMESPACE_DNS, f"{name}.{place}.example")))
    headers = {"Authorization": f"Bearer {fleet.tokens[Role.OPERATOR]}"}
    with httpx.Client(base_url=f"{fleet.address}/api/v1", headers=headers, timeout=60) as api:
        _night(fleet, api)
        _morning(fleet, api)
        [night] = api.get("/nights").json()["items"]
    return Story(f"/nights/{night['id']}", f"/c/{fleet.uuids[WELL]}")


def _night(fleet: Fleet, api: httpx.Client) -> None:
    plan = {"name": "nightly", "selector": "site", "rule": "FREQ=DAILY", "start": "03:30", "zone": str(ZONE)}
    api.post("/schedules", json=plan).raise_for_status()
    with fleet.database.write() as tx:
        began_at = tx.now - timedelta(minutes=1)
        # The night is begun now, and it is moved to where it belongs when all is over.
        values = {"start": f"{began_at.astimezone(ZONE):%H:%M}", "changed_at": began_at - timedelta(days=2)}
        tx.db.execute(update(schedule).values(looked_at=began_at - timedelta(minutes=1), **values))
        Schedules(House(), Limits()).step(tx, [])
    fleet.send()
    for name in fleet.uuids:
        fleet.lose(name) if name == LOST else fleet.complete(name)
    with fleet.database.write() as tx:
        began_at = began_at.replace(second=0, microsecond=0)
        wanted = _last_night(tx.now)
        for table in (command, batch, schedule_night):
            _move(tx, table, began_at - wanted)
        for number, uuid in enumerate(fleet.uuids.values()):
            took = timedelta(seconds=-41 - number * 47 % 23)
            _move(tx, command, took, "back_at", "ended_at", of=uuid)
        tx.db.execute(update(schedule_night).values(occurrence=f"{wanted.astimezone(ZONE):%Y-%m-%d}"))
        tx.db.execute(update(schedule_member).values(occurrence=f"{wanted.astimezone(ZONE):%Y-%m-%d}"))
        tx.db.execute(update(schedule).values(start="03:30", changed_at=tx.now, looked_at=tx.now))
        Schedules(House(), Limits()).step(tx, [])
        tx.db.execute(update(schedule_night).values(ended_at=schedule_night.c.back_by))


def _last_night(now: datetime) -> datetime:
    """The last one that is over, with all that came after it."""
    today = now.astimezone(ZONE).replace(hour=3, minute=30, second=0, microsecond=0)
    return today if today < now - timedelta(hours=1) else today - timedelta(days=1)


def _move(
    tx: Transaction, table: Table, by: timedelta, *names: str, of: str | None = None, since: datetime | None = None
) -> None:
    """Back in time: all times of its rows, or some of them; of one client or of all; of what was made since then."""
    moments = names or [column.name for column in table.c if isinstance(column.type, Moment)]
    changed = ", ".join(f"{name} = {name} - ({by // _MICROSECOND})" for name in moments)
    where = ["true"] + ["client_uuid = :of"] * (of is not None) + ["created_at >= :since"] * (since is not None)
    given = {"of": of, "since": to_number(since) if since is not None else None}
    tx.db.execute(text(f"UPDATE {table.name} SET {changed} WHERE {' AND '.join(where)}"), given)


def _morning(fleet: Fleet, api: httpx.Client) -> None:
    fleet.add("new", site="", uuid=str(uuid5(NAMESPACE_DNS, "new")), standing="unknown", name=None)
    with fleet.database.write() as tx:
        tx.db.execute(delete(label).where(label.c.value == ""))
        epoch = lease.take(tx, "server")
        assert epoch is not None
        lease.listen(tx, epoch, is_heard=True)
        tx.db.execute(update(leases).values(ends_at=tx.now + timedelta(days=1)))
        said = [each for number, name in enumerate(fleet.uuids) for each in _said(tx.now, fleet, name, number)]
        clients.hear(tx, [Heard(each.client_uuid, each, False) for each in said], accepts_all=False)
        tx.db.execute(update(client).values(presence_at=_last_night(tx.now) + timedelta(seconds=52)))
        tx.db.execute(update(client).where(client.c.uuid != fleet.uuids[LOST]).values(boot_id=NEW_BOOT))
        away_since = tx.now - timedelta(hours=3)
        _call_a_person(tx, fleet.uuids[LOST], fleet.commands()[LOST])
    fleet.change(LOST, is_online=False, note="Behind the blue door. The key is at the ticket office, 555 0141.")
    fleet.change(AWAY, is_online=False, presence_at=away_since)
    for name, seconds in ((LATE, 104), (GOING, 21)):
        order = {"action": "reboot_host", "client_uuid": fleet.uuids[name], "reason": "picture frozen"}
        made = api.post("/commands", json=order).raise_for_status().json()["id"]
        fleet.send()
        with fleet.database.write() as tx:
            steps = Acked(tx.now, AckStatus.ACCEPTED, NEW_BOOT), Acked(tx.now, AckStatus.EXECUTION_STARTED, NEW_BOOT)
            commands.learn(tx, [(made, fact) for fact in (*steps, Seen(tx.now, False, NEW_BOOT))], Limits())
            _move(tx, command, timedelta(seconds=seconds), of=fleet.uuids[name], since=tx.now - timedelta(minutes=1))
            gone = {"is_online": False, "presence_at": tx.now - timedelta(seconds=seconds)}
            tx.db.execute(update(client).where(client.c.uuid == fleet.uuids[name]).values(**gone))
    with fleet.database.write() as tx:
        went_at = select(client.c.presence_at).where(client.c.uuid == health.c.client_uuid, ~client.c.is_online)
        tx.db.execute(update(health).values(heard_at=func.coalesce(went_at.scalar_subquery(), health.c.heard_at)))


def _said(now: datetime, fleet: Fleet, name: str, number: int) -> Iterator[Health | BootReport]:
    """Of the boot in which the night has left it; the lost one is still in that of the night before."""
    uuid, boot_id = fleet.uuids[name], OLD_BOOT if name == LOST else NEW_BOOT
    began_at = _last_night(now) + timedelta(seconds=31 + number * 47 % 23, days=-1 if name == LOST else 0)
    yield Health(
        client_uuid=uuid,
        timestamp=now,
        boot_id=boot_id,
        uptime_s=int((now - began_at).total_seconds()),
        agent_version=__version__,
        executor=Executor.HELPER,
        broker_connection=BrokerConnection(True, 0, None, None),
        commands=Commands(None, None, 0, 0, 0),
        lockout=Lockout(1, 3, 900, None),
        clock_synchronized=True,
        capabilities=Capabilities((Action.REBOOT_HOST,), True, (), 2),
        state=StateDirectory(True, False, 0),
    )
    before = began_at - timedelta(seconds=9)
    command_id = str(UUID(int=number, version=4))
    yield BootReport(uuid, boot_id, None, Cause.COMMAND, command_id, True, began_at, now, before)


def _call_a_person(tx: Transaction, uuid: str, command_id: str) -> None:
    """After all steps of its recovery."""
    began_at = _last_night(tx.now) + timedelta(minutes=4)
    first = record = recovery.begin(began_at, (Step.ASK, Step.WATCHDOG), True, timedelta(seconds=150), began_at)
    while (due_at := recovery.deadline(record)) is not None:
        record = recovery.learn(record, Due(due_at))
    row = recoveries.one(tx, recoveries.begin(tx, uuid, command_id, first, None))
    assert row is not None
    recoveries.write(tx, row, record, recovery.ticket(record, recoveries.subject(tx, uuid, command_id)))
