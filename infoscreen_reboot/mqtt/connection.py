"""Runs one connection to the broker, from CONNECT to its end, on the asyncio loop."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from typing import Any

from infoscreen_reboot.mqtt import paho_client
from infoscreen_reboot.mqtt.messages import (
    CLOSED,
    FAREWELLS,
    LEFT,
    NOT_MQTT,
    REFUSALS,
    TOO_NEW,
    UNASKED_QOS_2,
    BrokerSettings,
    Delivery,
    Message,
    NotDelivered,
    Redeliver,
    words,
)
from infoscreen_reboot.mqtt.packets import Protocol
from infoscreen_reboot.mqtt.paho_client import PahoClient
from infoscreen_reboot.mqtt.tls import tls_context

log = logging.getLogger(__name__)


def configure_mqtt_security(client: PahoClient, settings: BrokerSettings) -> None:
    """Set login and TLS. The files are read for each connection, so a renewed certificate needs no restart."""
    if settings.username is not None:
        client.username_pw_set(settings.username, settings.password)
    if settings.tls is not None:
        client.tls_set_context(tls_context(settings.tls))


class Connection:
    """One connection, from its CONNECT to its end. No state of a lost connection gets into the next one.

    It speaks MQTT 5, or 3.1.1 if the broker says that it does not know MQTT 5.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        client_id: str,
        will: Message | None,
        on_message: Callable[[Delivery], None],
        *,
        clean_session: bool = False,
    ) -> None:
        self._settings = settings
        self._client_id = client_id
        self._will = will
        self._clean_session = clean_session
        self._deliver = on_message
        self._loop = asyncio.get_running_loop()
        self._is_too_new = False
        self._farewell: str | None = None
        self._fd: int | None = None
        self._is_full = False
        self._awaited: dict[str, asyncio.Future[Any]] = {}
        # Why the connection ended, in words for operators; or the exception of on_message.
        self.closed: asyncio.Future[str] = self._loop.create_future()
        self.protocol = Protocol.MQTT_5
        self._client = self._new_client()

    def _new_client(self) -> PahoClient:
        client = paho_client.new_client(self.protocol, self._client_id, self._clean_session)
        if self._will is not None:
            client.will_set(self._will.topic, self._will.payload, self._will.qos, self._will.retain)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_unsubscribe = self._on_unsubscribe
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        # With this callback paho only queues, and whoever has queued something calls _write(). It is set early: what
        # the thread's connect() says must not go out, because a late CONNECT throws out the next connection.
        client.on_socket_register_write = lambda *_: None
        paho_client.heed_disconnect(client, self._on_farewell)
        return client

    async def open(self) -> None:
        """Connect, and wait until the broker has let us in; raises NotDelivered."""
        connected = self._expect("connack")
        self._start()
        await connected

    def _start(self) -> None:
        # Not asyncio's executor: then a name look-up that hangs would keep the process from ending.
        threading.Thread(target=self._open, name="mqtt-connect", daemon=True).start()

    async def subscribe(self, topics: Sequence[str]) -> list[str]:
        """Subscribe; returns the topics that the broker refused. Raises NotDelivered."""
        if not topics:
            return []
        if self.closed.done():
            raise NotDelivered("not connected")
        _, mid = self._client.subscribe(paho_client.subscriptions(self.protocol, topics))
        answer = self._expect(f"suback {mid}")
        self._write()
        granted: list[int] = await answer
        if len(granted) != len(topics):
            self.close(NOT_MQTT)
            raise NotDelivered(NOT_MQTT)
        return [topic for topic, code in zip(topics, granted, strict=True) if code >= 0x80]

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        """Raises NotDelivered."""
        if not topics:
            return
        if self.closed.done():
            raise NotDelivered("not connected")
        _, mid = self._client.unsubscribe(list(topics))
        answer = self._expect(f"unsuback {mid}")
        self._write()
        await answer

    async def publish(self, message: Message) -> None:
        """Wait for the PUBACK (QoS 1), or until the message is in the socket (QoS 0). Raises NotDelivered."""
        await self.send(message)

    def send(self, message: Message) -> asyncio.Future[Any]:
        """Returns what publish() waits for. The message is already out, or in the socket's queue."""
        if self.closed.done():
            raise NotDelivered("not connected")
        info = self._client.publish(message.topic, message.payload, message.qos, message.retain)
        if info.rc != paho_client.ERR_SUCCESS:
            raise NotDelivered(paho_client.error_string(info.rc))
        answer = self._expect(f"puback {info.mid}")
        self._write()
        return answer

    def tick(self) -> None:
        """Does the keep-alive. Call it a few times in keep_alive_s."""
        if self._client.is_connected() and not self.closed.done():
            self._drive(self._client.loop_misc, "the broker did not answer the keep-alive")
            self._write()

    def disconnect(self) -> None:
        """Sends DISCONNECT: the broker then drops the will."""
        if self._fd is not None:
            self._client.disconnect()
            self._drive(self._client.loop_write, LEFT)

    def close(self, reason: str) -> None:
        """Ends the connection without DISCONNECT. If called again, the first reason stays."""
        self._detach()
        self._close_socket()
        if reason == CLOSED and "connack" in self._awaited:
            reason += " without an answer; is TLS expected on this port?"
        if not self.closed.done():
            self.closed.set_result(reason)
        while self._awaited:
            _, answer = self._awaited.popitem()
            if not answer.done():
                answer.set_exception(NotDelivered(reason))

    def _open(self) -> None:
        """Runs in the thread. The paho client belongs to the thread until the loop adopts it."""
        error: Exception | None = None
        try:
            configure_mqtt_security(self._client, self._settings)
            options = paho_client.session_options(self.protocol, self._clean_session)
            self._client.connect(self._settings.host, self._settings.port, self._settings.keep_alive_s, **options)
        except Exception as failure:
            error = failure
        try:
            self._loop.call_soon_threadsafe(self._adopt, error)
        except RuntimeError:  # the loop is closed: nobody waits any more
            self._close_socket()

    def _fall_back(self) -> None:
        """Try the same again in MQTT 3.1.1, on a new network connection."""
        log.info("the broker at %s does not speak MQTT 5; going on in 3.1.1", self._settings.address)
        self._detach()
        self._close_socket()
        self._is_too_new = False
        self.protocol = Protocol.MQTT_3_1_1
        self._client = self._new_client()
        self._start()

    def _adopt(self, error: Exception | None) -> None:
        client: Any = self._client
        sock = client.socket()
        if error is not None:
            self._give_up(error)
        elif sock is None or self.closed.done():
            self.close(CLOSED)
        else:
            # Without this, an ack sent right after a PUBACK waits 40 ms for the broker's delayed TCP acknowledgement.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            fd = self._fd = sock.fileno()
            self._loop.add_reader(fd, self._read)
            self._write()

    def _detach(self) -> None:
        if self._fd is not None:
            self._client.on_socket_register_write = None
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
            self._fd = None
            self._is_full = False

    def _close_socket(self) -> None:
        if sock := self._client.socket():
            sock.close()

    def _read(self) -> None:
        # paho takes one packet. OpenSSL may have read more, and that does not make the socket readable again.
        more = True
        while more:
            self._drive(self._client.loop_read)
            sock = None if self._fd is None else self._client.socket()
            more = isinstance(sock, ssl.SSLSocket) and sock.pending() > 0
        self._write()

    def _write(self) -> None:
        """Send at once what paho has queued: the loop would send it only after all work that is waiting already."""
        if self._fd is not None and self._client.want_write():
            self._drive(self._client.loop_write)
        if self._fd is not None and self._is_full != self._client.want_write():
            # The socket takes no more, or it takes all again.
            self._is_full = not self._is_full
            if self._is_full:
                self._loop.add_writer(self._fd, self._write)
            else:
                self._loop.remove_writer(self._fd)

    def _drive(self, step: Callable[[], int], reason: str = CLOSED) -> None:
        """Lets paho do a step. If paho finds the connection lost, it closes the socket itself.

        on_socket_close would tell us, too. But for that callback paho takes a lock that it holds while it answers a
        delivery.
        """
        try:
            result = step()
        except Exception as error:
            self._give_up(error)
        else:
            if self._is_too_new:
                self._fall_back()
            elif result == paho_client.ERR_PROTOCOL:
                self.close("the answer was not MQTT; is TLS expected on this port?")
            elif self._farewell is not None or self._client.socket() is None:
                # paho 1.6 ignores a DISCONNECT if it cannot read a reason in it.
                self.close(self._farewell or reason)
            elif paho_client.unreleased(self._client) > paho_client.IN_FLIGHT:
                self.close(UNASKED_QOS_2)

    def _give_up(self, error: Exception) -> None:
        """A fault of network, TLS or broker ends the connection; a bug ends the session."""
        if not isinstance(error, (OSError, ValueError, Redeliver, *paho_client.UNREADABLE)) and not self.closed.done():
            self.closed.set_exception(error)
        self.close(words(error))

    def _expect(self, answer: str) -> asyncio.Future[Any]:
        awaited = self._awaited[answer] = self._loop.create_future()
        return awaited

    def _settle(self, answer: str, result: object = None) -> None:
        awaited = self._awaited.pop(answer, None)
        if awaited is not None and not awaited.done():
            awaited.set_result(result)

    def _on_connect(self, _client: Any, _userdata: Any, _flags: Any, reason: Any, *_: Any) -> None:
        if (code := paho_client.code(reason)) == 0:
            self._settle("connack")
        elif code in TOO_NEW and self.protocol is Protocol.MQTT_5:
            self._is_too_new = True
        else:
            self.close(REFUSALS.get(code, f"the broker refused with code {code}"))

    def _on_subscribe(self, _client: Any, _userdata: Any, mid: int, granted: Sequence[Any], *_: Any) -> None:
        self._settle(f"suback {mid}", [paho_client.code(reason) for reason in granted])

    def _on_unsubscribe(self, _client: Any, _userdata: Any, mid: int, *_: Any) -> None:
        self._settle(f"unsuback {mid}")

    def _on_publish(self, _client: Any, _userdata: Any, mid: int, *_: Any) -> None:
        self._settle(f"puback {mid}")

    def _on_farewell(self, code: int) -> None:
        self._farewell = FAREWELLS.get(code, CLOSED)

    def _on_message(self, _client: Any, _userdata: Any, message: Any) -> None:
        """paho sends the PUBACK when this returns. If this raises, there is no PUBACK, and the connection ends."""
        try:
            topic = message.topic
        except UnicodeDecodeError:  # acknowledged, or it would come again for ever
            log.warning("dropped a delivery whose topic is not UTF-8")
            return
        try:
            properties = paho_client.user_properties(message)
            self._deliver(Delivery(topic, bytes(message.payload), bool(message.retain), properties))
        except Redeliver:
            raise
        except Exception as error:
            if not self.closed.done():
                self.closed.set_exception(error)
            raise
