"""The least that a controller costs: paho in one thread, JSON, and the same rows; nothing is checked.

A program of its own: `bare.py PORT URL COUNT` takes COUNT acks, each batch in one transaction, and PUBACKs it then.
"""

from __future__ import annotations

import json
import select
import sqlite3
import sys
import time
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

# That of the controller, whose session it drains.
CLIENT_ID = "infoscreen-reboot-controller"
BATCH = 500
RANKS = {"accepted": 2, "execution_started": 3, "completed": 5, "failed": 5}
INSERT = "INSERT INTO event (at, kind, client_uuid, command_id, content) "
UPDATE_SQLITE = """
UPDATE command SET state = v.state, rank = v.rank, accepted_at = coalesce(command.accepted_at, v.accepted_at),
    started_at = coalesce(command.started_at, v.started_at), started_boot_id =
    coalesce(command.started_boot_id, v.started_boot_id), ended_at = v.ended_at, due_at = v.due_at
FROM (SELECT json_extract(value, '$[0]') AS id, json_extract(value, '$[1]') AS state, json_extract(value, '$[2]') AS
    rank, json_extract(value, '$[3]') AS accepted_at, json_extract(value, '$[4]') AS started_at,
    json_extract(value, '$[5]') AS started_boot_id, json_extract(value, '$[6]') AS ended_at,
    json_extract(value, '$[7]') AS due_at FROM json_each(?)) AS v
WHERE command.id = v.id AND command.rank < v.rank
"""
UPDATE_POSTGRESQL = """
UPDATE command SET state = v.state, rank = v.rank, accepted_at = coalesce(command.accepted_at, v.accepted_at),
    started_at = coalesce(command.started_at, v.started_at), started_boot_id =
    coalesce(command.started_boot_id, v.started_boot_id), ended_at = v.ended_at, due_at = v.due_at
FROM unnest(%s::text[], %s::text[], %s::int[], %s::bigint[], %s::bigint[], %s::text[], %s::bigint[], %s::bigint[])
    AS v(id, state, rank, accepted_at, started_at, started_boot_id, ended_at, due_at)
WHERE command.id = v.id AND command.rank < v.rank
"""


class SQLite:
    def __init__(self, url: str) -> None:
        self._db = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")

    def commit(self, events: list[tuple[Any, ...]], rows: list[tuple[Any, ...]]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany(INSERT + "VALUES (?, ?, ?, ?, ?)", events)
        self._db.execute(UPDATE_SQLITE, [json.dumps(rows)])
        self._db.execute("COMMIT")


class PostgreSQL:
    def __init__(self, url: str) -> None:
        import psycopg  # only where it is measured

        self._db = psycopg.connect(url, autocommit=True)

    def commit(self, events: list[tuple[Any, ...]], rows: list[tuple[Any, ...]]) -> None:
        with self._db.transaction(), self._db.cursor() as cursor:
            columns = [list(column) for column in zip(*events, strict=True)]
            kinds = "%s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[]"
            select_all = (
                "INSERT INTO event (at, kind, client_uuid, command_id, content) SELECT at, kind, uuid, id, c::json"
            )
            cursor.execute(f"{select_all} FROM unnest({kinds}) AS v(at, kind, uuid, id, c)", columns)
            cursor.execute(UPDATE_POSTGRESQL, [list(column) for column in zip(*rows, strict=True)])


def main(port: str, url: str, count: str) -> None:
    store = SQLite(url) if url.startswith("sqlite") else PostgreSQL(url)
    arrived: list[Any] = []
    options: Any = {"protocol": paho.MQTTv5, "manual_ack": True}
    client: Any = paho.Client(CallbackAPIVersion.VERSION2, client_id=CLIENT_ID, **options)
    client.on_message = lambda _client, _userdata, message: arrived.append(message)
    client.connect("127.0.0.1", int(port), clean_start=False)
    left, began, began_cpu = int(count), 0.0, 0.0
    while left > 0:
        until = time.monotonic() + 0.01
        while len(arrived) < BATCH and (not arrived or time.monotonic() < until):
            readable, _, _ = select.select([client.socket()], [], [], 0.01)
            if client.want_write():
                client.loop_write()
            if readable:
                client.loop_read()
        if not began:
            began, began_cpu = time.time(), time.process_time()
        batch = arrived[:BATCH]
        del arrived[:BATCH]
        take(store, batch)
        for message in batch:
            client.ack(message.mid, message.qos)
        while client.want_write():
            client.loop_write()
        left -= len(batch)
    print(json.dumps({"seconds": time.time() - began, "cpu": time.process_time() - began_cpu}), flush=True)


def take(store: SQLite | PostgreSQL, batch: list[Any]) -> None:
    now = int(time.time() * 1e6)
    events, latest = [], {}
    for message in batch:
        said = json.loads(message.payload)
        status = said["status"]
        content = json.dumps({"fact": "acked", "status": status, "boot_id": said["boot_id"]})
        events.append((now, status, said["client_uuid"], said["command_id"], content))
        latest[said["command_id"]] = (
            said["command_id"],
            status,
            RANKS[status],
            now if status == "accepted" else None,
            now if status == "execution_started" else None,
            said["boot_id"] if status == "execution_started" else None,
            now if status in ("completed", "failed") else None,
            now + 60_000_000,
        )
    store.commit(events, list(latest.values()))


if __name__ == "__main__":
    main(*sys.argv[1:])
