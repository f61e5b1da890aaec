"""What a client has said of itself, as the API shows it: health, boots and alerts, whole and in a row of the fleet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event, insert, update

from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.contract.telemetry import (
    BootReport,
    BrokerConnection,
    Capabilities,
    Cause,
    Commands,
    Executor,
    FailureAlert,
    Health,
    Lockout,
    PresenceReason,
    StateDirectory,
    Status,
)
from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.ingest import Cleared, Heard
from infoscreen_reboot.controller.power.port import Backend, Port
from infoscreen_reboot.controller.store import clients, power, sites
from infoscreen_reboot.controller.store.tables import alert, boot, client, label
from tests.controller.test_orders import site as some_clients
from tests.controller.web import Web, kind

MINUTE = timedelta(minutes=1)
NOW = datetime.now(UTC).replace(microsecond=0)
BOOT, LATER, COMMAND = (str(UUID(int=number, version=4)) for number in (501, 502, 601))


def born(uuid: str, boot_id: str = BOOT, session: int = 1) -> Status:
    told_at = NOW + timedelta(seconds=session)
    return Status(PresenceReason.CONNECTED, uuid, str(UUID(int=session, version=4)), boot_id, told_at)


def booted(uuid: str, boot_id: str = BOOT, started_at: datetime = NOW - MINUTE) -> BootReport:
    return BootReport(uuid, boot_id, None, Cause.COMMAND, COMMAND, True, started_at, NOW, NOW - 2 * MINUTE)


def failed(uuid: str, unit: str, status: int | str | None = 1) -> FailureAlert:
    return FailureAlert(uuid, unit, "exit-code", status, 5, BOOT, NOW, ("<b>cannot</b> play", "\x1b[2J"))


def well(uuid: str) -> Health:
    return Health(
        client_uuid=uuid,
        timestamp=NOW,
        boot_id=BOOT,
        uptime_s=60,
        agent_version="7.2",
        executor=Executor.HELPER,
        broker_connection=BrokerConnection(True, 0, None, None),
        commands=Commands(None, None, 0, 0, 0),
        lockout=Lockout(3, 3, 900, NOW + MINUTE),
        clock_synchronized=False,
        capabilities=Capabilities((Action.REBOOT_HOST,), True, (), 2),
        state=StateDirectory(True, True, 0),
    )


def hear(web: Web, *said: Any) -> datetime:
    """Returns when the controller has heard it."""
    with web.database.write() as tx:
        clients.hear(tx, [Heard(each.client_uuid, each, False) for each in said], accepts_all=True)
        return tx.now


def asked(web: Web, address: str) -> Any:
    answer = web.call("GET", address, Role.VIEWER)
    assert answer.status_code == 200, answer.text
    return answer.json()


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_of_a_client_that_has_said_nothing_nothing_is_made_up(web: Web) -> None:
    one = f"/clients/{web.uuids[0]}"
    assert asked(web, f"{one}/health") == {"heard_at": None, "content": None}
    assert asked(web, f"{one}/boots") == [] == asked(web, f"{one}/alerts")
    shown = asked(web, one)
    assert (shown["presence_at"], shown["last_boot"], shown["health"]) == (None, None, None)
    assert (shown["zone"], shown["has_port"]) == ("UTC", False)


@pytest.mark.parametrize("what", ["health", "boots", "alerts"])
def test_a_client_that_does_not_exist_is_not_one_that_is_silent(web: Web, what: str) -> None:
    assert kind(web.call("GET", f"/clients/{uuid4()}/{what}", Role.VIEWER)) == (404, "not_found")


def test_the_health_is_the_last_one_as_the_client_told_it(web: Web) -> None:
    uuid, other, _ = web.uuids
    hear(web, replace(well(uuid), uptime_s=30), well(other))
    heard_at = hear(web, well(uuid))
    shown = asked(web, f"/clients/{uuid}/health")
    assert at(shown["heard_at"]) == heard_at
    content = shown["content"]
    assert (content["client_uuid"], content["uptime_s"]) == (uuid, 60)
    assert content["capabilities"]["actions"] == ["reboot_host"] and content["lockout"]["window_s"] == 900


def test_boots_are_the_newest_first_and_say_why_once_they_were_reported(web: Web) -> None:
    uuid, other, _ = web.uuids
    first = hear(web, born(uuid), booted(uuid), born(other)) - MINUTE
    with web.database.write() as tx:
        tx.db.execute(update(boot).values(first_heard_at=first, heard_at=first))
    second = hear(web, born(uuid, LATER, session=2))
    newest, oldest = asked(web, f"/clients/{uuid}/boots")
    assert (newest["boot_id"], at(newest["first_heard_at"])) == (LATER, second)
    assert {newest[name] for name in ("cause", "clean_shutdown", "command_id", "boot_started_at")} == {None}
    assert (oldest["boot_id"], at(oldest["first_heard_at"]), at(oldest["heard_at"])) == (BOOT, first, first)
    assert (oldest["cause"], oldest["clean_shutdown"], oldest["command_id"]) == ("command", True, COMMAND)
    assert at(oldest["boot_started_at"]) == NOW - MINUTE
    assert at(oldest["previous_boot_last_seen_at"]) == NOW - 2 * MINUTE


def test_no_more_than_the_last_50_boots_and_alerts_are_shown(web: Web) -> None:
    uuid = web.uuids[0]
    ids = [str(UUID(int=700 + number, version=4)) for number in range(52)]
    # All at once, as after an outage of the controller.
    births = [born(uuid, boot_id, number) for number, boot_id in enumerate(ids)]
    hear(web, *births, *(failed(uuid, f"{number}.service") for number in range(52)))
    boots, alerts = asked(web, f"/clients/{uuid}/boots"), asked(web, f"/clients/{uuid}/alerts")
    assert [each["boot_id"] for each in boots] == ids[:1:-1]
    assert [each["unit"] for each in alerts] == [f"{number}.service" for number in range(51, 1, -1)]


def test_alerts_that_stand_come_first_with_their_log_lines_as_they_are(web: Web) -> None:
    uuid, other, _ = web.uuids
    hear(web, failed(uuid, "old.service"))
    hear(web, failed(uuid, "new.service", "SIGKILL"))
    cleared_at = hear(web, Cleared(uuid), failed(other, "other.service"))
    raised_at = hear(web, failed(uuid, "now.service", None)) - 60 * MINUTE
    with web.database.write() as tx:
        # It stands, although it is the oldest one.
        tx.db.execute(update(alert).where(alert.c.unit == "now.service").values(raised_at=raised_at))
    shown = asked(web, f"/clients/{uuid}/alerts")
    assert [each["unit"] for each in shown] == ["now.service", "new.service", "old.service"]
    assert [each["exit_status"] for each in shown] == [None, "SIGKILL", 1]
    assert at(shown[1]["cleared_at"]) == cleared_at and at(shown[0].pop("raised_at")) == raised_at
    assert shown[0] == {
        "unit": "now.service",
        "cleared_at": None,
        "result": "exit-code",
        "exit_status": None,
        "restarts": 5,
        "log_lines": ["<b>cannot</b> play", "\x1b[2J"],
    }


def test_a_row_of_the_fleet_has_what_each_client_has_said(web: Web) -> None:
    uuid, other, third = web.uuids
    heard_at = hear(web, born(uuid), booted(uuid), well(uuid), replace(well(other), lockout=None), born(other))
    with web.database.write() as tx:
        sites.put(tx, "alpine", {"zone": "Europe/Vienna"})
        zones = {other: "Asia/Kolkata", third: "Mars/Olympus"}
        tx.db.execute(insert(label), [{"client_uuid": of, "key": "tz", "value": zone} for of, zone in zones.items()])
        power.put_port(tx, uuid, Port("core-1", "1", "10.0.0.1", "site", Backend.SNMP), "ann")
        power.put_port(tx, other, Port("core-2", "1", backend=Backend.DRY_RUN), "ann")
    rows = {row["uuid"]: row for row in asked(web, "/fleet/clients")["items"]}
    row = rows[uuid]
    assert row == asked(web, f"/clients/{uuid}")
    assert at(row["presence_at"]) == heard_at
    last = row["last_boot"]
    assert (last["boot_id"], last["cause"], last["clean_shutdown"]) == (BOOT, "command", True)
    assert at(last["at"]) == NOW - MINUTE
    said = row["health"]
    assert (at(said.pop("heard_at")), at(said.pop("unlocks_at"))) == (heard_at, NOW + MINUTE)
    assert said == {
        "agent_version": "7.2",
        "clock_synchronized": False,
        "executor": "helper",
        "lockout_used": 3,
        "lockout_limit": 3,
        "recovery_tier": 2,
        "disk_full": True,
    }
    assert {rows[other]["health"][name] for name in ("lockout_used", "lockout_limit", "unlocks_at")} == {None}
    assert at(rows[other]["last_boot"]["at"]) == heard_at and rows[other]["last_boot"]["cause"] is None
    assert (rows[third]["last_boot"], rows[third]["health"]) == (None, None)
    assert [rows[each]["zone"] for each in web.uuids] == ["Europe/Vienna", "Asia/Kolkata", "Europe/Vienna"]
    assert [rows[each]["has_port"] for each in web.uuids] == [True, False, False], "a dry run switches nothing"
    assert "health" not in asked(web, "/clients")[0]


def test_the_last_boot_is_the_one_in_which_a_client_is_and_did_not_begin_after_it_was_heard(web: Web) -> None:
    """Its clock may have been wrong after the boot, and reports of other boots may come late."""
    uuid = web.uuids[0]
    heard_at = hear(web, born(uuid, LATER), booted(uuid, LATER, NOW + 500 * MINUTE))
    hear(web, booted(uuid, str(UUID(int=503, version=4))), booted(uuid, BOOT))
    last = asked(web, f"/clients/{uuid}")["last_boot"]
    assert (last["boot_id"], at(last["at"])) == (LATER, heard_at)


def test_a_change_of_a_client_shows_it_as_it_is_read(web: Web) -> None:
    one = f"/clients/{web.uuids[0]}"
    changed = web.call("PATCH", one, json={"name": "Bar left"})
    assert changed.json() == asked(web, one)


@pytest.fixture
def statements(web: Web) -> Iterator[list[str]]:
    """What is asked of the database, from now on."""
    found: list[str] = []

    def note(*told: Any) -> None:
        found.append(told[2])

    event.listen(web.database.engine, "before_cursor_execute", note)
    yield found
    event.remove(web.database.engine, "before_cursor_execute", note)


def test_a_page_of_50_asks_the_database_no_more_than_a_page_of_one(web: Web, statements: list[str]) -> None:
    with web.database.write() as tx:
        some_clients(tx, 50, first=100)
        tx.db.execute(update(client).values(boot_id=BOOT))
    asked(web, "/fleet/clients")  # that the token was used is written down once
    counts = []
    for limit in (1, 50):
        statements.clear()
        assert len(asked(web, f"/fleet/clients?limit={limit}")["items"]) == limit
        counts.append(len(statements))
    assert counts[0] == counts[1]
