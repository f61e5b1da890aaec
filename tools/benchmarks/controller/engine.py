"""The real engine with its lease, as the service runs it, and a note of when each message was committed.

A program of its own: `engine.py PORT URL COUNT [CAP]` ends when it has committed COUNT messages, or at SIGTERM. It
prints its CPU, and how long each message took from the time in its payload to its commit, in milliseconds.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from infoscreen_reboot.controller import ingest
from infoscreen_reboot.controller.engine import Engine, Orders
from infoscreen_reboot.controller.leader import CLIENT_ID
from infoscreen_reboot.controller.store import lease
from infoscreen_reboot.controller.store.database import Database
from infoscreen_reboot.controller.store.facts import Policy
from infoscreen_reboot.mqtt.consumer import Consumer, Received
from infoscreen_reboot.mqtt.messages import BrokerSettings


class Watched(Consumer):
    """Acknowledging comes right after the commit, so that is where it is noted."""

    committed: list[tuple[float, list[bytes]]]
    count = 0
    began = began_cpu = 0.0

    def receive(self, most: int, idle_s: float) -> Any:
        found = super().receive(most, idle_s)
        if found[0] and not self.began:
            self.began, self.began_cpu = time.time(), time.process_time()
        return found

    def acknowledge(self, received: Sequence[Received]) -> None:
        if received:
            self.count += len(received)
            self.committed.append((time.time(), [each.delivery.payload for each in received]))
        super().acknowledge(received)


def main(port: str, url: str, count: str, cap: str = "") -> None:
    database = Database(url)
    consumer = Watched(BrokerSettings("127.0.0.1", int(port), None, None, None), CLIENT_ID, ingest.TOPICS)
    consumer.committed = []
    while (epoch := _take(database)) is None:
        time.sleep(0.2)
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopping.append(number))
    orders = Orders(policy=Policy(fleet_cap=int(cap) if cap else None), accepts_all=True)
    engine = Engine(database, consumer, orders, epoch, None)
    consumer.open()
    engine.begin()
    print("ready", flush=True)
    while not stopping and consumer.count < int(count):
        engine.step()
    ended, cpu = consumer.committed[-1][0] if consumer.committed else time.time(), time.process_time()
    consumer.end()
    found: dict[str, Any] = {
        "seconds": ended - consumer.began,
        "cpu": cpu - consumer.began_cpu,
        "count": consumer.count,
    }
    found["lags_ms"] = [lag for at, payloads in consumer.committed for lag in _lags_ms(at, payloads)]
    print(json.dumps(found), flush=True)


def _take(database: Database) -> int | None:
    with database.write() as tx:
        return lease.take(tx, "bench")


def _lags_ms(at: float, payloads: list[bytes]) -> list[float]:
    """A boot report has no such time."""
    found = []
    mark = b'"timestamp":"'
    for payload in payloads:
        start = payload.find(mark) + len(mark)
        if start >= len(mark):
            told = datetime.fromisoformat(payload[start : start + 24].decode())
            found.append((at - told.timestamp()) * 1e3)
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
