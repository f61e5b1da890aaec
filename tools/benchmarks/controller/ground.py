"""What measured controllers stand on: a broker, a database of each kind, a fleet in it, and messages that wait."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import insert, text

from infoscreen_reboot.contract import ack
from infoscreen_reboot.contract.ack import Ack, AckStatus
from infoscreen_reboot.contract.topics import Topics
from infoscreen_reboot.controller import ingest
from infoscreen_reboot.controller.ingest import Heard
from infoscreen_reboot.controller.leader import CLIENT_ID
from infoscreen_reboot.controller.lifecycle import State
from infoscreen_reboot.controller.store import clients, schema
from infoscreen_reboot.controller.store.database import Database, Transaction
from infoscreen_reboot.controller.store.tables import client, command
from infoscreen_reboot.mqtt import packets
from infoscreen_reboot.mqtt.consumer import Consumer
from infoscreen_reboot.mqtt.messages import BrokerSettings
from infoscreen_reboot.mqtt.packets import Connect, Kind, Publish, Reader

POSTGRESQL = Path("/usr/lib/postgresql/17/bin")
BROKER = """\
listener {port} 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
max_queued_messages 0
max_inflight_messages 0
log_dest stderr
log_type error
"""
_VERSION = packets.Protocol.MQTT_3_1_1
_CHUNK = 1000
STORY = (AckStatus.ACCEPTED, AckStatus.EXECUTION_STARTED, AckStatus.COMPLETED)


class Broker:
    """A mosquitto without persistence; what waits for a session that is away is in its memory."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        configuration = folder / "mosquitto.conf"
        configuration.write_text(BROKER.format(port=self.port) + ("user root\n" if os.geteuid() == 0 else ""))
        self._process = subprocess.Popen(["/usr/sbin/mosquitto", "-c", str(configuration)])
        wait_for_port(self.port, self._process)

    @property
    def settings(self) -> BrokerSettings:
        return BrokerSettings("127.0.0.1", self.port, None, None, None)

    def remember_controller(self) -> None:
        """From now on everything that clients say waits for the controller."""
        consumer = Consumer(self.settings, CLIENT_ID, ingest.TOPICS)
        consumer.open()
        consumer.end()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


class Serves(Protocol):
    """A PostgreSQL server."""

    @property
    def url(self) -> str: ...


class PostgreSQL:
    """A server of our own, which flushes as it should, on a socket in its folder."""

    def __init__(self) -> None:
        # The path of a socket has at most 107 bytes.
        self.folder = Path(f"/tmp/bench-pg-{os.getpid()}")
        self.folder.mkdir(0o700)
        self._data = self.folder / "data"
        options = "--auth=trust", "--username=controller", "--no-sync", "--locale=C.UTF-8"
        subprocess.run([POSTGRESQL / "initdb", "-D", self._data, *options], check=True, capture_output=True)
        lines = "listen_addresses = ''", f"unix_socket_directories = '{self.folder}'"
        with (self._data / "postgresql.conf").open("a") as file:
            file.write("\n".join(lines) + "\n")
        log = self.folder / "log"
        subprocess.run(
            [POSTGRESQL / "pg_ctl", "-D", self._data, "-l", log, "-w", "start"], check=True, capture_output=True
        )

    @property
    def url(self) -> str:
        return f"postgresql:///postgres?host={self.folder}&user=controller"

    def close(self) -> None:
        stop = POSTGRESQL / "pg_ctl", "-D", self._data, "-m", "immediate", "stop"
        subprocess.run(stop, check=False, capture_output=True)
        shutil.rmtree(self.folder)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes], timeout_s: float = 30) -> None:
    until = time.monotonic() + timeout_s
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"nothing listens on port {port}")
        time.sleep(0.01)


# --- Databases


@contextmanager
def new_database(folder: Path, server: Serves | None) -> Iterator[str]:
    """The address of an empty one, with all tables."""
    if server is None:
        path = folder / f"{uuid.uuid4()}.sqlite3"
        url = f"sqlite:///{path}"
    else:
        url = server.url
    database = Database(url)
    if server is not None:
        with database.engine.begin() as db:
            db.execute(text("DROP SCHEMA public CASCADE"))
            db.execute(text("CREATE SCHEMA public"))
    schema.prepare(database, folder)
    database.close()
    yield url
    if server is None:
        for left in folder.glob(f"{path.name}*"):
            left.unlink()


@dataclass(frozen=True, slots=True)
class Order:
    """A command that was published; its client has not answered yet."""

    client_uuid: str
    command_id: str
    boot_id: str


def populate(url: str, count: int, with_commands: bool = True) -> list[Order]:
    """A fleet of `count` clients that are accepted and online; each has a command that was published."""
    orders = [Order(*(str(uuid.uuid4()) for _ in range(3))) for _ in range(count)]
    database = Database(url)
    for at in range(0, count, _CHUNK):
        with database.write() as tx:
            _add_clients(tx, orders[at : at + _CHUNK])
            if with_commands:
                _add_commands(tx, orders[at : at + _CHUNK])
    if database.is_sqlite:
        with database.engine.connect() as db:
            db.exec_driver_sql("ANALYZE")
    else:
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
            db.exec_driver_sql("VACUUM ANALYZE")
    database.close()
    return orders


def _add_clients(tx: Transaction, orders: Sequence[Order]) -> None:
    rows = [
        {
            "uuid": order.client_uuid,
            "standing": "accepted",
            "name": f"screen-{order.client_uuid[:8]}",
            "first_heard_at": tx.now,
            "heard_at": tx.now,
            "is_online": True,
            "presence_reason": "connected",
            "presence_at": tx.now,
            "presence_told_at": tx.now,
            "session_id": order.boot_id,
            "boot_id": order.boot_id,
        }
        for order in orders
    ]
    tx.db.execute(insert(client), rows)
    said = [ingest.read(f"infoscreen/{order.client_uuid}/health", health_of(order), False) for order in orders]
    clients.hear(tx, [each for each in said if isinstance(each, Heard)], accepts_all=True)


def _add_commands(tx: Transaction, orders: Sequence[Order]) -> None:
    expires_at = tx.now + timedelta(minutes=30)
    rows = [
        {
            "id": order.command_id,
            "client_uuid": order.client_uuid,
            "action": "reboot_host",
            "created_at": tx.now,
            "created_by": "bench",
            "via": "bench",
            "state": str(State.PUBLISHED),
            "rank": State.PUBLISHED.rank,
            "expires_at": expires_at,
            "sent_at": tx.now,
            "published_at": tx.now,
            "sent_boot_id": order.boot_id,
            "due_at": expires_at + timedelta(seconds=60),
        }
        for order in orders
    ]
    tx.db.execute(insert(command), rows)


# --- Messages

Sent = tuple[str, bytes]


def stories(orders: Sequence[Order], wave: int = 1000) -> Iterator[Sent]:
    """All acks of all commands, in waves: in each, every client says `accepted` before the first one goes on."""
    for at in range(0, len(orders), wave):
        for status in STORY:
            for order in orders[at : at + wave]:
                yield ack_of(order, status)


def ack_of(order: Order, status: AckStatus) -> Sent:
    """`completed` is told in another boot."""
    boot_id = order.boot_id if status is not AckStatus.COMPLETED else str(uuid.uuid4())
    said = Ack(order.command_id, order.client_uuid, status, datetime.now(UTC), boot_id)
    return Topics(order.client_uuid).commands_ack, ack.encode(said)


def health_of(order: Order) -> bytes:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    content: dict[str, Any] = {
        "schema_version": "1.0",
        "client_uuid": order.client_uuid,
        "timestamp": now,
        "boot_id": order.boot_id,
        "uptime_s": 4711,
        "agent_version": "2.0.0",
        "executor": "helper",
        "broker_connection": {
            "broker_reachable": True,
            "reconnect_count": 2,
            "last_disconnect_at": now,
            "last_disconnect_reason": "the broker closed the connection",
        },
        "commands": {
            "in_progress": None,
            "last": {"command_id": order.command_id, "status": "completed", "timestamp": now},
            "outbox": 0,
            "unreadable": 0,
            "conflicts": 0,
        },
        "lockout": {"used": 0, "limit": 3, "window_s": 900, "unlocks_at": None},
        "clock_synchronized": True,
        "capabilities": {
            "actions": ["reboot_host", "shutdown_host"],
            "hardware_watchdog": True,
            "post_boot_checks": ["player.service"],
            "recovery_tier": 2,
        },
        "state": {"writable": True, "disk_full": False, "set_aside": 0},
    }
    return json.dumps(content, separators=(",", ":")).encode()


class Hose:
    """One connection that publishes as fast as it can, or at a rate; it counts the broker's PUBACKs."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 10)
        self._socket.settimeout(None)  # it may have nothing to say for a while
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = Reader()
        self._packet_id = 0
        self._sent = self._confirmed = 0
        self._all_confirmed = threading.Condition()
        self._socket.sendall(Connect(f"hose-{uuid.uuid4()}", keep_alive_s=0).write(_VERSION))
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._listener.join()
        self._socket.close()

    def send_at(self, rate: float, messages: Iterable[Sent], qos: int = 1) -> None:
        """So many a second. Each is made when it is due, so that its time is right."""
        began, sent = time.monotonic(), 0
        waiting = iter(messages)
        while True:
            due = int((time.monotonic() - began) * rate) - sent
            some = list(itertools.islice(waiting, due))
            self.send(some, qos)
            sent += len(some)
            if len(some) < due:
                return
            time.sleep(0.002)

    def send(self, messages: Iterable[Sent], qos: int = 1) -> None:
        packets = []
        for topic, payload in messages:
            self._packet_id = self._packet_id % 65535 + 1
            packets.append(Publish(topic, payload, qos, self._packet_id if qos else 0).write(_VERSION))
            if len(packets) == 100:
                self._write(packets, qos)
        self._write(packets, qos)

    def _write(self, packets: list[bytes], qos: int) -> None:
        self._sent += len(packets) if qos else 0
        self._socket.sendall(b"".join(packets))
        packets.clear()

    def settle(self, timeout_s: float = 120) -> None:
        """Until the broker has confirmed all."""
        with self._all_confirmed:
            if not self._all_confirmed.wait_for(lambda: self._confirmed == self._sent, timeout_s):
                raise RuntimeError(f"{self._confirmed} of {self._sent} messages were confirmed")

    def _listen(self) -> None:
        while data := self._received():
            self._reader.feed(data)
            count = 0
            while (packet := self._reader.next_packet()) is not None:
                count += packet.kind is Kind.PUBACK
            with self._all_confirmed:
                self._confirmed += count
                self._all_confirmed.notify_all()

    def _received(self) -> bytes:
        try:
            return self._socket.recv(1 << 16)
        except OSError:
            return b""
