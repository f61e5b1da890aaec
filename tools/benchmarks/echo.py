"""The least that a client in Python costs: paho, in MQTT 5 as the agent, gives each message back at QoS 1.

With DATABASE after one insert on the disk.

A program of its own: `echo.py PORT FROM TO [DATABASE]`.
"""

from __future__ import annotations

import socket
import sqlite3
import sys
from typing import Any

import paho.mqtt.client as paho


def without_delay(_client: Any, _userdata: Any, sock: Any) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def main(port: str, source: str, target: str, database: str = "") -> None:
    db = sqlite3.connect(database, isolation_level=None) if database else None
    if db is not None:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("CREATE TABLE command (seq INTEGER PRIMARY KEY, payload BLOB NOT NULL)")

    def on_message(client: Any, _userdata: Any, message: Any) -> None:
        if db is not None:
            db.execute("INSERT INTO command (payload) VALUES (?)", [message.payload])
        client.publish(target, message.payload, qos=1)

    options: dict[str, Any] = {"protocol": paho.MQTTv5}
    if hasattr(paho, "CallbackAPIVersion"):
        options["callback_api_version"] = paho.CallbackAPIVersion.VERSION2
    client = paho.Client(client_id=target.replace("/", "-"), **options)
    client.on_socket_open = without_delay
    client.on_connect = lambda client, *_: client.subscribe(source, qos=1)
    client.on_message = on_message
    client.connect("127.0.0.1", int(port))
    client.loop_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
