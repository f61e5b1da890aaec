"""How clients stand: each once, under the sickest that it is; the sickest first, and each count is that of its rows."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from infoscreen_reboot.controller import recovery as ladder
from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.condition import LATE_AFTER, Condition
from infoscreen_reboot.controller.store import conditions
from infoscreen_reboot.controller.store.conditions import Wanted
from infoscreen_reboot.controller.store.database import Database
from infoscreen_reboot.controller.store.tables import client, command, label, recovery
from tests.controller.played_fleet import Fleet
from tests.controller.web import Web, kind

SECOND = timedelta(seconds=1)
HELD = {"hold_rule": "freeze", "hold_why": "frozen"}


class Town(Fleet):
    """Clients of which things are said directly."""

    def order(self, name: str, **ago_s: int) -> None:
        """A command without a verdict; columns `…_at` as so many seconds ago."""
        with self.database.write() as tx:
            moments = {f"{step}_at": tx.now - seconds * SECOND for step, seconds in ago_s.items()}
            values: dict[str, Any] = {
                "id": self.uuids[name],
                "client_uuid": self.uuids[name],
                "action": "reboot_host",
                "rank": 0,
            }
            values |= {"created_at": tx.now, "created_by": "ann", "via": "api", "state": "queued"}
            tx.db.execute(insert(command).values(**values, expires_at=tx.now + timedelta(minutes=4), **moments))

    def hold(self, name: str) -> None:
        self.order(name)
        with self.database.write() as tx:
            tx.db.execute(update(command).where(command.c.client_uuid == self.uuids[name]).values(**HELD))

    def lose_for_long(self, name: str, state: ladder.State, is_over: bool = False) -> None:
        with self.database.write() as tx:
            values: dict[str, Any] = {
                "client_uuid": self.uuids[name],
                "command_id": self.uuids[name],
                "state": str(state),
            }
            values |= {"began_at": tx.now, "since": tx.now, "ended_at": tx.now if is_over else None, "words": ""}
            values |= {"steps_left": [], "tried": [], "boots_within_s": 150, "asks_from": tx.now}
            tx.db.execute(insert(recovery).values(**values))

    def stands(self, text: str | None = None) -> dict[str, str]:
        """By name, in the order of the page."""
        names = {uuid: name for name, uuid in self.uuids.items()}
        with self.database.read() as tx:
            wanted = Wanted(text)
            found = {names[uuid]: str(how) for uuid, how in conditions.page(tx, wanted, None, 200, 0)}
            counts = conditions.counts(tx, wanted)
            for condition in Condition:
                page = conditions.page(tx, wanted, condition, 200, 0)
                assert len(page) == counts[condition] == list(found.values()).count(condition)
                assert {how for _, how in page} <= {condition}
            by_uuid = conditions.of(tx, list(names))
        assert {names[uuid]: str(how) for uuid, how in by_uuid.items() if names[uuid] in found} == found
        return found


@pytest.fixture
def town(database: Database) -> Town:
    return Town(database)


def test_each_client_stands_in_one_way_and_the_sickest_are_first(town: Town) -> None:
    town.add("well", "held", "rebooting", "going down", "late", "lost", "helpless", "back")
    town.add("dark", "dark and held", is_online=False)
    town.add("new", standing="unknown", is_online=False)
    town.add("gone", standing="retired")
    town.add("no", standing="rejected")
    town.add("two", is_online=False)
    town.hold("held")
    town.hold("dark and held")
    town.order("rebooting", sent=1)
    almost = int(LATE_AFTER.total_seconds())
    town.order("going down", sent=95, down=almost - 10)
    town.order("late", sent=95, down=almost)
    for name in ("going down", "late"):
        town.change(name, is_online=False)
    town.lose_for_long("lost", ladder.State.COOLING)
    town.lose_for_long("helpless", ladder.State.NEEDS_PERSON)
    town.lose_for_long("back", ladder.State.BACK, is_over=True)
    with town.database.write() as tx:
        tx.db.execute(update(client).where(client.c.uuid == town.uuids["two"]).values(two_hosts_at=tx.now))
    assert list(town.stands().items()) == [
        ("helpless", "needs_person"),
        ("two", "needs_person"),
        ("late", "late"),
        ("lost", "late"),
        ("dark", "offline"),
        ("dark and held", "offline"),
        ("going down", "rebooting"),
        ("rebooting", "rebooting"),
        ("held", "held"),
        ("new", "unknown"),
        ("back", "healthy"),
        ("well", "healthy"),
    ]


def test_a_client_that_came_back_in_time_is_late_no_more(town: Town) -> None:
    town.add("slow")
    town.order("slow", sent=200, down=190, back=10)
    assert town.stands() == {"slow": "rebooting"}


def test_of_two_open_commands_the_one_that_is_on_its_way_counts(town: Town) -> None:
    town.add("busy")
    town.hold("busy")
    with town.database.write() as tx:
        row = dict(tx.db.execute(select(command)).mappings().one())
        row |= {"id": town.uuids["busy"][::-1], "hold_rule": None, "hold_why": None, "sent_at": tx.now}
        tx.db.execute(insert(command).values(**row))
    assert town.stands() == {"busy": "rebooting"}


def test_a_text_is_looked_for_as_it_stands_in_name_note_labels_and_uuid(town: Town) -> None:
    town.add("Bar left", "50 % off", "a_b", "axb", site="plain")
    town.add("lobby", site="Hotel Alpin", note="key at the bar")
    assert set(town.stands("BAR")) == {"Bar left", "lobby"}
    assert set(town.stands("%")) == {"50 % off"} and set(town.stands("a_b")) == {"a_b"}
    assert set(town.stands("hotel alp")) == {"lobby"}
    assert set(town.stands(town.uuids["axb"])) == {"axb"}
    assert town.stands("\\") == {} and len(town.stands("")) == 5


def test_names_are_in_the_order_of_people_and_those_without_come_last(town: Town) -> None:
    town.add("b", "A", "C")
    town.add("nameless")
    with town.database.write() as tx:
        tx.db.execute(update(client).where(client.c.uuid == town.uuids["nameless"]).values(name=None))
    assert list(town.stands()) == ["A", "b", "C", "nameless"]


def test_the_api_counts_and_pages(web: Web) -> None:
    def asked(address: str) -> Any:
        answer = web.call("GET", address, Role.VIEWER)
        assert answer.status_code == 200, answer.text
        return answer.json()

    with web.database.write() as tx:
        tx.db.execute(update(client).where(client.c.uuid == web.uuids[1]).values(is_online=False))
        tx.db.execute(insert(label).values(client_uuid=web.uuids[1], key="room", value="bar"))
    told = asked("/fleet")
    assert {each["condition"]: each["count"] for each in told["conditions"] if each["count"]} == {
        "offline": 1,
        "healthy": 2,
    }
    assert [each["condition"] for each in told["conditions"]] == list(Condition) and told["count"] == 3
    first, second = asked("/fleet/clients?limit=2"), asked("/fleet/clients?limit=2&page=2")
    assert (first["count"], first["page"], first["pages"], second["page"]) == (3, 1, 2, 2)
    shown = [*first["items"], *second["items"]]
    assert shown[0]["uuid"] == web.uuids[1] and {each["uuid"] for each in shown} == set(web.uuids)
    assert [each["condition"] for each in shown] == ["offline", "healthy", "healthy"]
    assert asked("/fleet/clients?limit=2&page=3")["items"] == []
    assert asked("/fleet/clients?condition=late") == {"items": [], "count": 0, "page": 1, "pages": 1}
    assert [each["uuid"] for each in asked("/fleet/clients?condition=offline&text=BAR")["items"]] == [web.uuids[1]]
    assert asked("/fleet?selector=room=bar")["count"] == 1 == asked("/fleet/clients?selector=room=bar")["count"]
    assert {each["uuid"]: each["condition"] for each in asked("/clients")}[web.uuids[1]] == "offline"
    assert kind(web.call("GET", "/fleet?selector=site=")) == (400, "bad_selector")
    for address in ("/fleet?text=%00", "/fleet/clients?text=%1b", "/fleet?text="):
        assert kind(web.call("GET", address)) == (422, "invalid"), address
