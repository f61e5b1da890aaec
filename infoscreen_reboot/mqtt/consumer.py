"""Takes many messages at once from the broker, in one thread, and acknowledges them when they are stored.

`Connection` is for a client that handles one message after the other, and acknowledges each as soon as it is handled.
Here the caller decides: what it has not acknowledged comes again on the next connection, to whoever has this client id
then. Nothing is read that the caller did not ask for, so a slow database fills no memory: the broker keeps the rest.
"""

from __future__ import annotations

import contextlib
import logging
import math
import select
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from infoscreen_reboot.mqtt import packets, paho_client, reasons
from infoscreen_reboot.mqtt.manner import PROTOCOLS
from infoscreen_reboot.mqtt.messages import (
    CLOSED,
    NOT_MQTT,
    BrokerSettings,
    Delivery,
    Message,
    NotDelivered,
    words,
)
from infoscreen_reboot.mqtt.packets import Kind, Protocol
from infoscreen_reboot.mqtt.reasons import NO_SUBSCRIBERS
from infoscreen_reboot.mqtt.terms import Terms
from infoscreen_reboot.mqtt.tls import tls_context

log = logging.getLogger(__name__)

# How long the broker may take for each answer while a connection begins.
PATIENCE_S = 30.0
# How long to wait for more once a message is there: at 1,000 messages a second the batches are six times as large, and
# the process takes half as much of a core (measured 2026-11-25).
LINGER_S = 0.01
# Nobody waits for what comes at QoS 0, as the health of each client does every half minute. With longer batches, the
# health of 10,000 clients takes a third of the processor's time (measured 2026-11-26).
UNHURRIED_LINGER_S = 0.1


@dataclass(frozen=True, slots=True)
class Received:
    """A message, and what it takes to acknowledge it."""

    delivery: Delivery
    packet_id: int
    qos: int


@dataclass(frozen=True, slots=True)
class Puback:
    """The broker's answer to a publish. From 0x80 on it is a refusal (MQTT 5, 3.4.2.1); MQTT 3.1.1 knows none."""

    packet_id: int
    reason: int

    @property
    def is_refusal(self) -> bool:
        return self.reason >= reasons.REFUSED


class Lost(Exception):
    """The connection is over; the text says why, for an operator."""


class Consumer:
    """One connection with a persistent session, from `open` to its end. Only `wake` may be called by other threads."""

    def __init__(
        self, settings: BrokerSettings, client_id: str, topics: Sequence[str], *, is_forgotten: bool = False
    ) -> None:
        """`is_forgotten`: the broker keeps nothing for this client id when the connection is over."""
        self._settings = settings
        self._is_forgotten = is_forgotten
        self._client_id = client_id
        self._topics = topics
        self._client: Any = None
        self._arrived: list[Received] = []
        self._pubacks: list[Puback] = []
        # Whether something has arrived that the broker expects an answer to.
        self._is_awaited = False
        self._answers: dict[str, list[int]] = {}
        self._farewell: str | None = None
        self._next_misc = 0.0
        self._waker, self._wakes = socket.socketpair()
        for end in (self._waker, self._wakes):
            end.setblocking(False)
        self._keep_alive_s = settings.keep_alive_s
        self.protocol = PROTOCOLS[settings.protocol][0]
        self.terms = Terms()

    def open(self) -> None:
        """Connect and subscribe. Raises Lost, and a refused subscription is one: half an ear is worse than none."""
        self.connect()
        refused = self.subscribe()
        if refused:
            self.close()
            raise Lost(f"the broker refuses the subscription to {', '.join(refused)}")

    def connect(self) -> None:
        """In MQTT 5, or in 3.1.1 if the broker says that it does not speak 5. Raises Lost."""
        self.protocol = PROTOCOLS[self._settings.protocol][0]
        try:
            self._connect()
        except _TooNewError:
            self.close()
            log.info("the broker at %s does not speak MQTT 5; going on in 3.1.1", self._settings.address)
            self.protocol = Protocol.MQTT_3_1_1
            self._connect()

    def subscribe(self) -> list[str]:
        """Returns the topics that the broker refused. Raises Lost."""
        _, packet_id = self._client.subscribe(paho_client.subscriptions(self.protocol, self._topics))
        granted = self._await(f"suback {packet_id}")
        if len(granted) != len(self._topics):
            self._lose(NOT_MQTT)
        return [topic for topic, code in zip(self._topics, granted, strict=True) if code != 1]

    def receive(self, most: int, idle_s: float) -> tuple[list[Received], list[Puback]]:
        """Wait up to `idle_s` for the first message, PUBACK or wake(), then a moment for more, up to `most` messages.

        Raises Lost.
        """
        until = time.monotonic() + idle_s
        linger_s = math.inf
        while len(self._arrived) < most:
            if self._linger_s() < linger_s:
                linger_s = self._linger_s()
                until = min(until, time.monotonic() + linger_s)
            left = until - time.monotonic()
            if not self._read(max(0.0, left)) and left <= 0:
                break
            if self._is_woken():
                until = min(until, time.monotonic())
        arrived, pubacks = self._arrived[:most], self._pubacks
        self._arrived, self._pubacks = self._arrived[most:], []
        self._is_awaited = any(each.qos for each in self._arrived)
        return arrived, pubacks

    def _linger_s(self) -> float:
        if self._is_awaited or self._pubacks:
            return LINGER_S
        return UNHURRIED_LINGER_S if self._arrived else math.inf

    def acknowledge(self, received: Sequence[Received]) -> None:
        """Tell the broker that these are stored. Raises Lost."""
        for each in received:
            if each.qos:
                self._client.ack(each.packet_id, each.qos)
        self._write()

    def publish(self, message: Message, properties: Sequence[tuple[str, str]] = ()) -> int:
        """Returns the id by which `receive` will tell of the PUBACK. Raises Lost."""
        options = paho_client.publish_options(self.protocol, properties)
        info = self._client.publish(message.topic, message.payload, message.qos, message.retain, **options)
        if info.rc != paho_client.ERR_SUCCESS:
            self._lose(paho_client.error_string(info.rc))
        self._write()
        return int(info.mid)

    def wake(self) -> None:
        """Let `receive` return at once; any thread may call this."""
        with contextlib.suppress(BlockingIOError):  # then it wakes all the same
            self._wakes.send(b"x")

    def end(self) -> None:
        """Close it for good; it cannot be opened again."""
        self.close()
        self._waker.close()
        self._wakes.close()

    def close(self) -> None:
        """End the connection; the broker keeps the session, and all that is not acknowledged."""
        if self._client is not None and (sock := self._client.socket()) is not None:
            self._client.disconnect()
            sock.close()
        self._client = None
        self._arrived, self._pubacks, self._is_awaited = [], [], False

    def _connect(self) -> None:
        self._answers, self._farewell = {}, None
        client: Any = paho_client.new_client(self.protocol, self._client_id, self._is_forgotten, manual_ack=True)
        self._client = client
        client.max_inflight_messages_set(0)  # the caller has a cap of its own
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.on_socket_register_write = lambda *_: None
        paho_client.heed_disconnect(client, self._on_farewell)
        settings = self._settings
        try:
            if settings.username is not None:
                client.username_pw_set(settings.username, settings.password)
            if settings.tls is not None:
                client.tls_set_context(tls_context(settings.tls))
            options = paho_client.session_options(self.protocol, self._is_forgotten, is_forgotten=self._is_forgotten)
            client.connect(settings.host, settings.port, settings.keep_alive_s, **options)
        except (OSError, ValueError) as error:
            self._lose(words(error))
        if (sock := client.socket()) is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._await("connack")

    def _await(self, answer: str) -> list[int]:
        until = time.monotonic() + PATIENCE_S
        self._write()
        while answer not in self._answers:
            left = until - time.monotonic()
            if left <= 0:
                self._lose(f"no answer within {PATIENCE_S:g} s")
            self._read(left)
        return self._answers.pop(answer)

    def _read(self, wait_s: float) -> bool:
        """Take what one look at the socket gives; returns whether there was anything."""
        sock = self._socket()
        is_pending = isinstance(sock, ssl.SSLSocket) and sock.pending() > 0
        writes = [sock] if self._client.want_write() else []
        wait_s = 0.0 if is_pending else min(wait_s, max(0.0, self._next_misc - time.monotonic()))
        readable, writable, _ = select.select([sock, self._waker], writes, [], wait_s)
        if writable:
            self._write()
        if sock in readable or is_pending:
            self._drive(self._client.loop_read())
        if time.monotonic() >= self._next_misc:
            self._next_misc = time.monotonic() + self._keep_alive_s / 4
            self._drive(self._client.loop_misc())
        return bool(readable) or is_pending

    def _is_woken(self) -> bool:
        try:
            return bool(self._waker.recv(4096))
        except BlockingIOError:
            return False

    def _write(self) -> None:
        if self._client.want_write():
            self._drive(self._client.loop_write())

    def _socket(self) -> socket.socket:
        sock: socket.socket | None = self._client.socket() if self._client is not None else None
        if sock is None:
            self._lose(self._farewell or CLOSED)
        assert sock is not None
        return sock

    def _drive(self, result: int) -> None:
        if result == paho_client.ERR_PROTOCOL:
            self._lose(NOT_MQTT)
        if result != paho_client.ERR_SUCCESS or self._farewell is not None:
            self._lose(self._farewell or CLOSED)

    def _lose(self, why: str) -> None:
        self.close()
        raise Lost(why)

    def _on_connect(self, client: Any, _userdata: Any, _flags: Any, _reason: Any, *_: Any) -> None:
        connack = packets.Connack.read(paho_client.incoming(client, Kind.CONNACK))
        code = reasons.of_connack(connack.code)
        if code == reasons.PROTOCOL_VERSION and self.protocol is not PROTOCOLS[self._settings.protocol][-1]:
            raise _TooNewError
        if code != 0:
            raise Lost(reasons.words(code, connack.properties))
        self.terms = Terms.read(connack)
        self._keep_alive_s = self.terms.keep_alive_s or self._settings.keep_alive_s
        self._next_misc = 0.0
        paho_client.heed_keep_alive(client, self._keep_alive_s)
        self._answers["connack"] = []

    def _on_subscribe(self, _client: Any, _userdata: Any, packet_id: int, granted: Sequence[Any], *_: Any) -> None:
        self._answers[f"suback {packet_id}"] = [paho_client.code(reason) for reason in granted]

    def _on_publish(self, _client: Any, _userdata: Any, packet_id: int, reason: Any = 0, *_: Any) -> None:
        self._pubacks.append(Puback(packet_id, paho_client.code(reason)))

    def _on_farewell(self, packet: packets.Packet) -> None:
        farewell = packets.Disconnect.read(packet)
        is_said = farewell.reason >= reasons.REFUSED
        self._farewell = reasons.words(farewell.reason, farewell.properties) if is_said else CLOSED

    def _on_message(self, client: Any, _userdata: Any, message: Any) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""  # nobody's; it is counted as rubbish, and acknowledged
        properties = paho_client.user_properties(message)
        delivery = Delivery(topic, bytes(message.payload), bool(message.retain), properties)
        self._arrived.append(Received(delivery, message.mid, message.qos))
        self._is_awaited = self._is_awaited or message.qos > 0


class _TooNewError(Exception):
    """The broker does not know MQTT 5."""


__all__ = ["NO_SUBSCRIBERS", "Consumer", "Lost", "NotDelivered", "Puback", "Received", "Terms"]
