"""Messages for a running agent by way of a real broker, and packets for its connection from a broker that lies."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from infoscreen_reboot.contract import command
from infoscreen_reboot.contract.topics import Topics
from infoscreen_reboot.mqtt.connection import Connection
from infoscreen_reboot.mqtt.messages import BrokerSettings, Message, NotDelivered
from infoscreen_reboot.mqtt.packets import Connack, Protocol, Reader, Suback, coded_length, protocol_of, text
from infoscreen_reboot.mqtt.paho_client import MAX_PACKET_BYTES
from tests.broker.conftest import Broker
from tests.bus.fakes import eventually
from tools.fuzzing.arena import AGENT_MAY_GROW_MB, AgentProcess, Stage, stage
from tools.fuzzing.outcome import Outcome, resident_mb
from tools.fuzzing.payloads import CLIENT, a_command, judge, nearly

TOPICS = Topics(CLIENT)
SIZES = (4095, 4096, 4097, 65_536, 262_144, 1_048_576)
# MQTT ends a topic at 65,535 bytes.
_MINE = f"infoscreen/{CLIENT}"
STRANGE_TOPICS = (
    f"{_MINE}/", f"{_MINE}/commands/", f"/{_MINE}/commands", f"{_MINE.upper()}/commands", "infoscreen//commands", " ",
    f"{_MINE}/commands/ack", f"{_MINE}/health", f"{_MINE}/status", f"{_MINE}/boot", f"{_MINE}/" + "x" * 65_000,
    "infoscreen/" + "/" * 150, "infoscreen/\u202e😀",
)  # fmt: skip
LIES_MAY_GROW_MB = 16.0


class Someone:
    """A client of the broker that is not our code, and keeps what it hears."""

    def __init__(self, broker: Broker, name: str = "", will: tuple[str, bytes, bool] | None = None) -> None:
        options: dict[str, Any] = {"client_id": name, "protocol": paho.MQTTv5}
        if hasattr(paho, "CallbackAPIVersion"):
            options["callback_api_version"] = paho.CallbackAPIVersion.VERSION2
        self._paho = paho.Client(**options)
        self._paho.max_inflight_messages_set(1000)
        self.heard: list[dict[str, Any]] = []
        self._turn = threading.Condition()
        if will is not None:
            self._paho.will_set(will[0], will[1], 1, will[2])
        connected, subscribed = threading.Event(), threading.Event()
        self._paho.on_connect = lambda *_: connected.set()
        self._paho.on_subscribe = lambda *_: subscribed.set()
        self._paho.on_message = self._on_message
        self._paho.connect(broker.host, broker.port, clean_start=True)
        self._paho.loop_start()
        assert connected.wait(15)
        if not name and will is None:
            self._paho.subscribe([(TOPICS.commands_ack, 1), (TOPICS.status, 1)])
            assert subscribed.wait(15)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._paho.disconnect()
        self._paho.loop_stop()

    def _on_message(self, _client: Any, _userdata: Any, message: Any) -> None:
        try:
            content = json.loads(message.payload)
        except (ValueError, RecursionError):
            return  # junk of our own on these topics
        if isinstance(content, dict):
            with self._turn:
                self.heard.append(content)
                self._turn.notify_all()

    def publish(
        self, topic: str, payload: bytes, qos: int = 1, retain: bool = False, said: Sequence[tuple[str, str]] = ()
    ) -> Any:
        properties: Any = Properties(PacketTypes.PUBLISH)
        if said:
            properties.UserProperty = list(said)
        return self._paho.publish(topic, payload, qos, retain, properties)

    def wait_for(
        self, is_it: Callable[[dict[str, Any]], bool], timeout_s: float = 600, after: int = 0
    ) -> dict[str, Any]:
        with self._turn:
            while True:
                found = next((content for content in self.heard[after:] if is_it(content)), None)
                if found is not None:
                    return found
                if not self._turn.wait(timeout_s):
                    raise TimeoutError(f"nothing like it was heard in {timeout_s:g} s")

    def wait_ack(self, command_id: str, status: str, timeout_s: float = 600) -> dict[str, Any]:
        return self.wait_for(lambda c: c.get("command_id") == command_id and c.get("status") == status, timeout_s)

    def vanish(self) -> None:
        """Without a DISCONNECT: the broker publishes the will."""
        self._paho.loop_stop()
        sock: Any = self._paho.socket()
        sock.close()


def now_valid(**changes: Any) -> dict[str, Any]:
    now = datetime.now(UTC)
    times = {"issued_at": now, "expires_at": now + timedelta(minutes=4)}
    said = {name: moment.strftime("%Y-%m-%dT%H:%M:%SZ") for name, moment in times.items()}
    return {**a_command(random.Random()), **said, "command_id": str(uuid.uuid4()), "action": "reboot_host", **changes}


def encoded(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode()


class Flood:
    """Junk, and how much of it the agent must count as unreadable."""

    def __init__(self, someone: Someone, seed: int) -> None:
        self._someone, self._random = someone, random.Random(seed)
        self.sent = 0
        self.unreadable = 0
        self.ids: set[str] = set()

    def send(self, count: int) -> None:
        """Until the agent has taken all of it."""
        for _ in range(count):
            self._one()
        self.sent += count
        marker = now_valid(schema_version="the end")
        self._someone.publish(TOPICS.commands, encoded(marker))
        self._someone.wait_ack(marker["command_id"], "failed")
        self.ids.add(marker["command_id"])

    def _one(self) -> Any:
        draw = self._random
        if draw.random() < 0.1:
            return self._someone.publish(draw.choice(STRANGE_TOPICS), draw.randbytes(99), draw.choice([0, 1]))
        payload = nearly(draw, a_command(draw))
        if draw.random() < 0.01:
            payload = (draw.choice([b"{", b'"', b"x", payload]) * 1_048_576)[: draw.choice(SIZES)]
        if judge(command.parse, payload) == "unreadable":
            # What is too big for the agent's connection stays with the broker.
            self.unreadable += len(payload) < MAX_PACKET_BYTES
        else:
            self.ids.add(json.loads(payload)["command_id"].lower())
        topic = draw.choice([TOPICS.commands] * 3 + [TOPICS.transitional_command])
        # With QoS 1, since what the agent counts is compared; of the retained the last is there for a new session.
        words = ("signature-key-id", "signature", "", "x", "../../etc/passwd", "a" * 999, "\U0001f600", "AAAA")
        said = [(draw.choice(words), draw.choice(words)) for _ in range(draw.choice([0, 0, 0, 1, 2, 9]))]
        return self._someone.publish(topic, payload, 1, draw.random() < 0.05, said)


def fuzz_messages(directory: Path, messages: int, seed: int) -> Outcome:
    outcome = Outcome("MQTT messages to the agent", messages, AGENT_MAY_GROW_MB)
    (directory / "broker").mkdir()
    broker, started = Broker(directory / "broker"), time.monotonic()
    # Nothing on this bus would start a helper that has gone away idle.
    with stage(directory, {"IDLE_S": 3600}) as at, closing(AgentProcess(at, broker, directory)) as agent:
        broker.start()
        try:
            with Someone(broker) as someone:
                agent.start()
                someone.wait_for(lambda content: content.get("state") == "online", 30)
                _flood_and_games(outcome, at, agent, broker, someone, messages, seed)
            outcome.tracebacks = agent.log.count("Traceback")
            if outcome.tracebacks:
                outcome.complaints.append(agent.log[agent.log.index("Traceback") :][:3000])
        finally:
            broker.stop()
    outcome.seconds = time.monotonic() - started
    return outcome


def _flood_and_games(
    outcome: Outcome, at: Stage, agent: AgentProcess, broker: Broker, someone: Someone, messages: int, seed: int
) -> None:
    flood, process = Flood(someone, seed), agent.process
    flood.send(messages // 4)
    outcome.before_mb = resident_mb(process.pid)
    flood.send(messages - messages // 4)
    wills, unreadable = _play_wills(broker, someone), flood.unreadable
    flood.ids |= wills
    _take_over(broker, someone)
    outcome.after_mb, outcome.done = resident_mb(process.pid), flood.sent
    if process.poll() is not None:
        outcome.crashes += 1
        return
    counted = _counter(agent.state, "unreadable")
    # Each new connection hears what is retained once more.
    if not unreadable <= counted <= unreadable + 20:
        outcome.complaints.append(f"{counted} unreadable messages were counted, {unreadable} were sent")
    retained = _play_retained(agent, broker, someone)
    outcome.executions = len(at.executed())
    acked = {content["command_id"]: content["status"] for content in someone.heard if "status" in content}
    if unknown := set(acked) - flood.ids - {retained}:
        outcome.complaints.append(f"acks of commands that were never sent: {list(unknown)[:3]}")
    if missing := flood.ids - set(acked):
        outcome.complaints.append(f"{len(missing)} commands without an ack, as {list(missing)[:3]}")
    if not_failed := [name for name, status in acked.items() if status != "failed"]:
        outcome.complaints.append(f"commands that were not refused: {not_failed[:3]}")
    right = now_valid()
    someone.publish(TOPICS.commands, encoded(right))
    someone.wait_ack(right["command_id"], "execution_started", 60)
    eventually(lambda: at.logind.orders)
    outcome.executions += len(at.executed()) - 1
    if at.executed() != [right["command_id"]]:
        outcome.complaints.append(f"the next right command was not executed once: {at.executed()}")
    if agent.process.poll() is not None:
        outcome.crashes += 1
    outcome.note = f"{unreadable} unreadable, {len(flood.ids)} refused by their id, the next right command executed"


def _counter(state: Path, name: str) -> int:
    with closing(sqlite3.connect(state / "journal.sqlite3")) as journal:
        [[value]] = journal.execute("SELECT value FROM counter WHERE name = ?", [name]).fetchall()
    return int(value)


def _play_wills(broker: Broker, someone: Someone) -> set[str]:
    """Strangers who die with an old command, or one for another client, in their will; the ids."""
    rng = random.Random(0)
    wills = [a_command(rng), now_valid(client_uuid=str(uuid.uuid4())), now_valid(expires_at="2020-01-01T00:00:00Z")]
    for will in wills:
        for retained in (False, True):
            Someone(broker, f"stranger-{retained}", (TOPICS.commands, encoded(will), retained)).vanish()
            someone.wait_ack(will["command_id"], "failed", 30)
    return {will["command_id"] for will in wills}


def _take_over(broker: Broker, someone: Someone) -> None:
    """Strangers who say that they are this client: each time the agent is put out, and comes back."""
    for _ in range(2):
        after = len(someone.heard)
        with Someone(broker, f"infoscreen-{CLIENT}") as thief:
            thief.publish(TOPICS.commands, b"", retain=True)
        someone.wait_for(lambda content: content.get("state") == "online", 120, after)


def _play_retained(agent: AgentProcess, broker: Broker, someone: Someone) -> str:
    """A right command that was there before the agent is retained: refused, and gone with an empty message."""
    agent.process.terminate()
    agent.process.wait(30)
    with Someone(broker, f"infoscreen-{CLIENT}"):
        pass  # a new session ends the agent's: else the broker keeps the command for it as if it had been there
    left = now_valid()
    someone.publish(TOPICS.commands, encoded(left), retain=True).wait_for_publish(30)
    agent.start()
    ack = someone.wait_ack(left["command_id"], "failed", 60)
    assert ack["error_code"] == "retained", ack
    someone.publish(TOPICS.commands, b"", retain=True)
    return str(left["command_id"])


# --- A broker that lies


def a_lie(rng: random.Random, is_5: bool) -> bytes:
    """Packets of which most were right once."""
    topic = text(TOPICS.commands)
    after = rng.choice([b"", b"\x00", b"\x03\x26\x00\x01", b"\x05\x11\xff\xff\xff\xff"]) if is_5 else b""
    number = rng.choice([b"\x00\x00", b"\x00\x01", b"\x00\x02", b"\xff\xff"])
    packets = (
        (0x20, b"\x00" + rng.randbytes(1) + after), (0x90, number + after + rng.randbytes(rng.randrange(4))),
        (0x30, topic + after + b"junk"), (0xB0, number + after),
        (0x32, topic + number + after + b"junk"), (0x40, number + after),
        (0x34, topic + number + after + b"junk"), (0x50, number + after),
        (0x62, number + after), (0x70, number), (0xD0, b""), (0xE0, after), (0xF0, b"\x00" + after), (0x10, topic[2:]),
        (rng.randrange(256), rng.randbytes(rng.randrange(40))),
    )  # fmt: skip
    kind, body = rng.choice(packets)
    if rng.random() < 0.5 and body:
        at = rng.randrange(len(body))
        body = rng.choice([body[:at], body[:at] + rng.randbytes(1) + body[at + 1 :], body + body])
    wrong = [b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff\xff", b"\x80\x00", b"\x7f"]
    length = coded_length(len(body)) if rng.random() < 0.7 else rng.choice(wrong)
    return bytes([kind]) + length + body


async def _lie(packets: int, rng: random.Random, outcome: Outcome) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            hello = Reader()
            hello.feed(await reader.read(2000))
            connect = hello.next_packet()
            protocol = Protocol.MQTT_3_1_1 if connect is None else protocol_of(connect)
            is_5 = protocol is Protocol.MQTT_5
            if is_5 and rng.random() < 0.3:
                writer.write(Connack(1).write(Protocol.MQTT_3_1_1))  # knows no MQTT 5: the next connection is in 3.1.1
                return
            if rng.random() < 0.9:
                writer.write(Connack(0).write(protocol))
            if rng.random() < 0.5:
                writer.write(Suback(1, (1,)).write(protocol))
            for _ in range(rng.randrange(1, 20)):
                writer.write(a_lie(rng, is_5))
                outcome.done += 1
            await writer.drain()
            writer.write_eof()
            await reader.read()
        except OSError:
            pass  # put out in the middle of it
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    settings = BrokerSettings("127.0.0.1", server.sockets[0].getsockname()[1], None, None, None)
    async with server:
        while outcome.done < packets:
            connection = Connection(settings, "client", Message("status", b"lost"), lambda _: None)
            try:
                async with asyncio.timeout(10):
                    await connection.open()
                    await connection.subscribe(TOPICS.commands)
                    await connection.publish(Message("status", b"online"))
            except NotDelivered:
                pass
            try:
                await asyncio.wait_for(asyncio.shield(connection.closed), 10)
            except TimeoutError:
                outcome.complaints.append("a connection that the broker had ended was not closed")
            except Exception as bug:
                outcome.crashes += 1
                outcome.complaints.append(f"this would end the agent: {bug!r}")
            connection.close("done")
            if not outcome.before_mb and outcome.done > packets // 4:
                outcome.before_mb = resident_mb(os.getpid())


def fuzz_packets(packets: int, seed: int) -> Outcome:
    outcome, started = Outcome("MQTT packets of a broker that lies", packets, LIES_MAY_GROW_MB), time.monotonic()
    asyncio.run(_lie(packets, random.Random(seed), outcome))
    outcome.seconds, outcome.after_mb = time.monotonic() - started, resident_mb(os.getpid())
    outcome.complaints = sorted(set(outcome.complaints))
    return outcome
