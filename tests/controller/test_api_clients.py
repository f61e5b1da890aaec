"""Clients over the API: their standing, names that are given once, the whole list as a file, and what retiring ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import update

from infoscreen_reboot.contract.ack import Ack, AckStatus
from infoscreen_reboot.contract.telemetry import FailureAlert, PresenceReason, Status
from infoscreen_reboot.controller.api.door import MOST_BYTES_OF_FILE
from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.ingest import Cleared, Heard
from infoscreen_reboot.controller.lifecycle import Limits
from infoscreen_reboot.controller.store import clients, commands, views
from infoscreen_reboot.controller.store.tables import client, command
from tests.controller.web import Web, kind

CSV = {"Content-Type": "text/csv"}


def give(web: Web, standing: str, **whom: Any) -> Any:
    return web.call("POST", "/clients/standing", Role.ADMIN, json={"standing": standing, **whom})


def audited(web: Web) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = web.call("GET", "/audit?limit=200", Role.ADMIN).json()["items"]
    return found


def send(web: Web, content: str, dry_run: bool = False) -> Any:
    address = f"/clients/import?dry_run={str(dry_run).lower()}"
    return web.call("POST", address, Role.ADMIN, content=content, headers=CSV)


def unknown(web: Web, count: int) -> list[str]:
    uuids = [str(uuid4()) for _ in range(count)]
    with web.database.write() as tx:
        clients.hear(tx, [Heard(uuid, Cleared(uuid), False) for uuid in uuids], accepts_all=False)
    return uuids


def test_many_get_their_standing_at_once(web: Web) -> None:
    new = unknown(web, 3)
    assert give(web, "accepted", clients=new[:1]).json() == {"changed": 1}
    assert give(web, "rejected", all_unknown=True).json() == {"changed": 2}
    assert give(web, "rejected", all_unknown=True).json() == {"changed": 0}
    standings = {each["uuid"]: each["standing"] for each in web.call("GET", "/clients").json()}
    assert [standings[uuid] for uuid in new] == ["accepted", "rejected", "rejected"]
    for wrong in ({}, {"clients": new, "all_unknown": True}):
        assert kind(give(web, "accepted", **wrong)) == (422, "invalid")
    assert kind(give(web, "unknown", clients=new)) == (422, "invalid")


def test_a_foreign_id_in_a_bulk_refuses_the_whole_and_is_audited(web: Web) -> None:
    """Pitfall 4: for standings, for a preview and for a batch."""
    foreign = str(uuid4())
    seen = web.preview()
    mixed = {"action": "reboot_host", "clients": [*web.uuids, foreign]}
    answers = [
        give(web, "retired", clients=[*web.uuids, foreign]),
        web.call("POST", "/batches/preview", json=mixed),
        web.call("POST", "/batches", json=mixed | {"hash": seen["hash"], "count": 3}),
    ]
    for answer in answers:
        assert kind(answer) == (404, "no_such_client") and answer.json()["clients"] == [foreign]
    assert {each["standing"] for each in web.call("GET", "/clients").json()} == {"accepted"}
    assert web.call("GET", "/commands").json()["items"] == []
    lines = [(each["who"], each["what"], each["outcome"], each["content"]["clients"]) for each in audited(web)]
    assert lines == [
        ("a operator", "POST /api/v1/batches", "no_such_client", [foreign]),
        ("a operator", "POST /api/v1/batches/preview", "no_such_client", [foreign]),
        ("a admin", "POST /api/v1/clients/standing", "no_such_client", [foreign]),
    ]


def test_a_client_that_was_retired_or_filtered_away_since_the_preview_is_412(web: Web) -> None:
    """Pitfall 3: what was shown is not so any more; nothing is made."""
    seen = web.preview()
    content = {"action": "reboot_host", "clients": seen["clients"], "hash": seen["hash"], "count": 3}
    smaller = content | {"clients": seen["clients"][:2], "count": 2}
    assert kind(web.call("POST", "/batches", json=smaller)) == (412, "preview_changed")
    give(web, "retired", clients=web.uuids[:1])
    assert kind(web.call("POST", "/batches", json=content)) == (412, "preview_changed")
    assert web.call("GET", "/batches").json() == {"items": [], "next": None}


def test_a_name_is_given_once_among_those_that_are_not_retired(web: Web) -> None:
    one, two, three = (f"/clients/{uuid}" for uuid in web.uuids)
    assert web.call("PATCH", one, json={"name": "Bar"}).status_code == 200
    assert web.call("PATCH", one, json={"name": "Bar"}).status_code == 200
    taken = web.call("PATCH", two, json={"name": "Bar"})
    assert kind(taken) == (409, "exists") and taken.json()["client_uuid"] == web.uuids[0]
    give(web, "retired", clients=web.uuids[:1])
    assert web.call("PATCH", two, json={"name": "Bar"}).status_code == 200
    assert kind(give(web, "accepted", clients=web.uuids[:1])) == (409, "exists")
    named = [each["uuid"] for each in web.call("GET", "/clients?name=Bar").json()]
    assert named == web.uuids[:2] and web.call("GET", "/clients?name=bar").json() == []
    for name in ("", " Bar", "Bar ", web.uuids[1], "a\nb"):
        assert kind(web.call("PATCH", three, json={"name": name})) == (422, "invalid")


def test_two_retired_clients_of_one_name_cannot_both_come_back(web: Web) -> None:
    for uuid in web.uuids[:2]:
        web.call("PATCH", f"/clients/{uuid}", json={"name": "Bar"})
        give(web, "retired", clients=[uuid])
    assert kind(give(web, "accepted", clients=web.uuids[:2])) == (409, "exists")
    assert give(web, "accepted", clients=web.uuids[:1]).json() == {"changed": 1}


def test_an_import_says_what_comes_of_each_row_and_applies_all_or_nothing(web: Web) -> None:
    new = str(uuid4())
    text = f"uuid,name,label:room\n{web.uuids[0]},Bar,bar\n{web.uuids[1]},,\n{new},Spa,\n"
    tried = send(web, text, dry_run=True).json()
    assert (tried["dry_run"], tried["applied"]) == (True, False)
    assert [row["outcome"] for row in tried["rows"]] == ["changed", "unchanged", "created"]
    assert len(web.call("GET", "/clients").json()) == 3, "a dry run"
    assert send(web, text).json()["applied"] is True
    assert [row["outcome"] for row in send(web, text).json()["rows"]] == ["unchanged"] * 3
    made = web.call("GET", f"/clients/{new}").json()
    assert (made["name"], made["standing"], made["is_online"]) == ("Spa", "accepted", False)
    assert web.call("GET", f"/clients/{web.uuids[0]}").json()["labels"] == {"site": "alpine", "room": "bar"}
    bad = send(web, f"uuid,name\n{web.uuids[1]},Door\n{web.uuids[2]},Spa\n")
    assert kind(bad) == (422, "rows_refused")
    assert [(row["outcome"], row["why"]) for row in bad.json()["rows"]] == [
        ("changed", None),
        ("refused", "'Spa' would be the name of 2 clients"),
    ]
    assert web.call("GET", f"/clients/{web.uuids[1]}").json()["name"] is None, "nothing was applied"


def test_an_import_of_ansible_and_what_is_neither(web: Web) -> None:
    hosts = {"_meta": {"hostvars": {"bar": {"infoscreen_client_uuid": web.uuids[0]}}}, "spa": {"hosts": ["bar"]}}
    assert web.call("POST", "/clients/import?dry_run=false", Role.ADMIN, json=hosts).json()["applied"] is True
    [found] = web.call("GET", "/clients?selector=group/spa").json()
    assert found["name"] == "bar"
    address = "/clients/import"
    assert kind(web.call("POST", address, Role.ADMIN, content=b"{", headers={"Content-Type": "application/json"})) == (
        400,
        "bad_request",
    )
    assert kind(web.call("POST", address, Role.ADMIN, content=b"uuid")) == (400, "bad_request")
    assert kind(web.call("POST", address, Role.ADMIN, content=b"[" * 100_000, headers=CSV))[0] == 422


def test_what_was_exported_can_be_imported(web: Web) -> None:
    """Pitfall 49: a name that a spreadsheet would run."""
    web.call("PATCH", f"/clients/{web.uuids[0]}", json={"name": "=cmd|' /C calc'!A0", "note": "a\nb"})
    answer = web.call("GET", "/clients/export", Role.VIEWER)
    assert answer.headers["content-type"].startswith("text/csv") and ",'=cmd|" in answer.text
    assert {row["outcome"] for row in send(web, answer.text).json()["rows"]} == {"unchanged"}


def test_a_file_of_more_than_five_megabytes_is_413(web: Web) -> None:
    """Pitfall 49: a file of 100 MB is not read to its end; with its length said, it is not read at all."""
    answer = send(web, "x" * (MOST_BYTES_OF_FILE + 1))
    assert kind(answer) == (413, "too_large")


def test_retiring_ends_what_was_not_sent_and_so_its_batch(web: Web) -> None:
    """Pitfalls 25 and 42: a batch whose clients are all retired, or rejected, ends."""
    seen = web.preview()
    content = {"action": "reboot_host", "clients": seen["clients"], "hash": seen["hash"], "count": 3}
    batch = web.call("POST", "/batches", json=content).json()["id"]
    give(web, "retired", clients=web.uuids[:2])
    assert web.call("GET", f"/batches/{batch}").json()["states"] == {"cancelled": 2, "queued": 1}
    give(web, "rejected", clients=web.uuids[2:])
    ended = web.call("GET", f"/batches/{batch}").json()
    assert (ended["states"], ended["is_over"]) == ({"cancelled": 3}, True)
    with web.database.read() as tx:
        assert commands.to_send(tx, 10) == []
    [first] = web.call("GET", f"/commands?batch={batch}&client={web.uuids[0]}").json()["items"]
    [*_, last] = web.call("GET", f"/commands/{first['id']}/events").json()
    assert (last["kind"], last["content"]["by"]) == ("cancelled", "a admin")
    assert last["content"]["why"] == "the client was retired"


def test_a_batch_whose_clients_are_all_blocked_ends_and_can_be_tried_again(web: Web) -> None:
    """Pitfall 42: all blocked. And the retry of those that did not succeed is a preview as any."""
    seen = web.preview()
    content = {"action": "reboot_host", "clients": seen["clients"], "hash": seen["hash"], "count": 3}
    batch = web.call("POST", "/batches", json=content).json()["id"]
    assert kind(web.call("POST", f"/batches/{batch}/retry")) == (409, "nothing_eligible")
    with web.database.write() as tx:
        blocked = {"state": "blocked_safety", "rank": 5, "ended_at": tx.now}
        tx.db.execute(update(command).values(**blocked))
    assert web.call("GET", f"/batches/{batch}").json()["is_over"] is True
    again = web.call("POST", f"/batches/{batch}/retry").json()
    assert (again["count"], again["clients"]) == (3, web.uuids)
    content = {"action": again["action"], "clients": again["clients"], "hash": again["hash"], "count": 3}
    assert web.call("POST", "/batches", json=content).status_code == 201
    assert [each["states"] for each in web.call("GET", "/batches").json()["items"]] == [
        {"queued": 3},
        {"blocked_safety": 3},
    ]


def test_a_batch_is_counted_by_reason(web: Web) -> None:
    seen = web.preview()
    content = {"action": "reboot_host", "clients": seen["clients"], "hash": seen["hash"], "count": 3}
    batch = web.call("POST", "/batches", json=content).json()["id"]
    assert web.call("GET", f"/batches/{batch}/reasons").json() == []
    held = {"state": "expired", "rank": 5, "hold_rule": "window", "hold_why": "closed", "overdue": "to be sent"}
    with web.database.write() as tx:
        tx.db.execute(update(command).values(**held))
        failed = {"state": "failed", "error_code": "inhibited", "error_message": "apt", "overdue": None}
        silent = {"overdue": "first answer of the client"}
        for uuid, values in ((web.uuids[0], failed), (web.uuids[1], silent)):
            sent = update(command).where(command.c.client_uuid == uuid)
            tx.db.execute(sent.values(sent_at=tx.now, **values))
    assert web.call("GET", f"/batches/{batch}/reasons", Role.VIEWER).json() == [
        {"state": "expired", "kind": "first answer of the client", "why": None, "count": 1},
        {"state": "expired", "kind": "window", "why": "closed", "count": 1},
        {"state": "failed", "kind": "inhibited", "why": "apt", "count": 1},
    ]
    [member] = web.call("GET", f"/batches/{batch}/members?kind=inhibited").json()
    assert (member["client_uuid"], member["kind"], member["why"]) == (web.uuids[0], "inhibited", "apt")


def told(web: Web, uuid: str) -> list[str]:
    with web.database.read() as tx:
        return [row["kind"] for row in views.events_after(tx, 0, 1000, client_uuid=uuid)]


def hear(web: Web, uuid: str, said: Any, is_retained: bool = False) -> clients.Batch:
    with web.database.write() as tx:
        return clients.hear(tx, [Heard(uuid, said, is_retained)], accepts_all=False)


def alert(uuid: str) -> FailureAlert:
    return FailureAlert(uuid, "x.service", "exit-code", 1, 3, str(uuid4()), datetime.now(UTC), ())


def born(uuid: str) -> Status:
    return Status(PresenceReason.CONNECTED, uuid, str(uuid4()), str(uuid4()), datetime.now(UTC))


def test_a_retired_client_is_a_tombstone_and_a_sign_of_life_an_alarm(web: Web) -> None:
    """Pitfall 25: its retained messages are nothing, what it says itself is an alarm once an hour, and no new row."""
    uuid = web.uuids[0]
    give(web, "retired", clients=[uuid])
    hear(web, uuid, born(uuid), is_retained=True)
    hear(web, uuid, Cleared(uuid), is_retained=True)
    assert told(web, uuid) == ["client_retired"]
    for _ in range(3):
        hear(web, uuid, born(uuid))
        hear(web, uuid, alert(uuid))
    kinds = told(web, uuid)
    assert kinds.count("retired_client_heard") == 1 and "alert_raised" not in kinds
    assert [(each["who"], each["via"]) for each in audited(web) if each["what"] == "retired client heard"] == [
        (uuid, "mqtt")
    ]
    with web.database.write() as tx:
        tx.db.execute(update(client).values(heard_at=tx.now - timedelta(minutes=61)))
    hear(web, uuid, born(uuid))
    assert told(web, uuid).count("retired_client_heard") == 2
    listed = {each["uuid"]: each["standing"] for each in web.call("GET", "/clients").json()}
    assert len(listed) == 3 and listed[uuid] == "retired"


def test_a_rejected_client_is_listed_and_its_alerts_and_boots_are_not(web: Web) -> None:
    """Pitfall 25, of a client that was rejected: no alarm, no row but its own."""
    uuid = web.uuids[0]
    give(web, "rejected", clients=[uuid])
    hear(web, uuid, alert(uuid))
    assert told(web, uuid) == ["client_rejected"]
    assert web.call("GET", f"/clients/{uuid}").json()["alerts"] == []
    assert web.order().json()["rule"] == "client_accepted"


def test_what_was_sent_before_a_client_was_retired_still_gets_its_verdict(web: Web) -> None:
    command_id, uuid = web.order().json()["id"], web.uuids[0]
    with web.database.write() as tx:
        commands.mark_sent(tx, commands.to_send(tx, 10), Limits())
    give(web, "retired", clients=[uuid])
    assert web.call("GET", f"/commands/{command_id}").json()["is_open"] is True
    batch = hear(web, uuid, Ack(command_id, uuid, AckStatus.ACCEPTED, datetime.now(UTC), str(uuid4())))
    assert [ack.status for _, ack in batch.acks] == [AckStatus.ACCEPTED]
