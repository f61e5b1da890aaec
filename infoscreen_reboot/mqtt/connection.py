"""Runs one connection to the broker, from CONNECT to its end, on the asyncio loop."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from infoscreen_reboot.mqtt import packets, paho_client, reasons
from infoscreen_reboot.mqtt.manner import Manner, Trial
from infoscreen_reboot.mqtt.messages import (
    CLOSED,
    LEFT,
    NOT_MQTT,
    TOO_LONG,
    UNASKED_QOS_2,
    BrokerSettings,
    Delivery,
    Message,
    NotDelivered,
    Redeliver,
    Refused,
    words,
)
from infoscreen_reboot.mqtt.obstacles import messages_on, subscription_to
from infoscreen_reboot.mqtt.packets import Kind, Protocol
from infoscreen_reboot.mqtt.paho_client import PahoClient
from infoscreen_reboot.mqtt.terms import UNLIMITED_BYTES, Terms
from infoscreen_reboot.mqtt.tls import tls_context

log = logging.getLogger(__name__)

# How long the broker may take for one answer, and a network for one address. A message that is not acknowledged in time
# is set aside, and all others have to be through 30 s after it was sent.
ANSWER_S = 12.0
_REACH_S = 5.0
# No answer may take longer than so many keep-alives: MQTT gives a silent client the same time.
PATIENCE = 1.5
# Larger than all that we send. The larger a payload, the more bytes has the length before it.
_LARGE = 20_000
# The broker ended the connection for a reason that has nothing to do with what was under way: it or somebody else goes,
# or the network was silent.
_NOBODYS_FAULT = (0x8B, 0x8D, reasons.TAKEN_OVER_CODE, 0x98, 0x9C, 0x9D, 0xA0)


def configure_mqtt_security(client: PahoClient, settings: BrokerSettings) -> None:
    """Set login and TLS. The files are read for each connection, so a renewed certificate needs no restart."""
    if settings.username is not None:
        client.username_pw_set(settings.username, settings.password)
    if settings.tls is not None:
        client.tls_set_context(tls_context(settings.tls))


@dataclass(frozen=True, slots=True)
class Granted:
    """The broker's answer to a subscription or to its end: a code, and what it means if it is a refusal."""

    code: int
    words: str

    @property
    def is_refusal(self) -> bool:
        return self.code >= reasons.REFUSED


@dataclass(slots=True)
class _Awaited:
    """An answer that has to come. `what` was sent, in the words of `obstacles`; `number` counts what was sent."""

    answer: asyncio.Future[Any]
    what: str
    number: int
    since_s: float


class Connection:
    """One connection, from its CONNECT to its end. No state of a lost connection gets into the next one.

    What the broker explicitly asks for, it gets at once, on a new network connection: MQTT 3.1.1 (if `settings` allow
    it), or another will.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        client_id: str,
        will: Message | None,
        on_message: Callable[[Delivery], None],
        *,
        clean_session: bool = False,
        manner: Manner | None = None,
        turn: int = 0,
        on_taken: Callable[[str, str | None], None] = lambda _what, _refusal: None,
    ) -> None:
        """`turn` says with which address of the broker's name to begin.

        `on_taken` is told what the broker has taken, in the words of `obstacles`, or for which reason it has not.
        """
        self._settings = settings
        self._client_id = client_id
        self._will = will
        self._clean_session = clean_session
        self._deliver = on_message
        self._on_taken = on_taken
        self._loop = asyncio.get_running_loop()
        self._starts_over: Manner | None = None
        self._farewell: str | None = None
        self._fd: int | None = None
        self._is_full = False
        # paho hangs if something is written at QoS 0 while it delivers a message. Then it is written after that.
        self._is_delivering = self._writes_later = False
        self._awaited: dict[str, _Awaited] = {}
        self._number = self._unacknowledged = 0
        # What was sent at QoS 0 and may have ended the connection: only an answer to something later proves that not.
        self._unproved: list[tuple[int, str]] = []
        self._ping_number = 0
        self.manner = manner or Manner()
        self.turn = turn
        self.terms = Terms()
        # Whether the network connection stood, with TLS, so that the broker got our CONNECT.
        self.is_reached = False
        self.is_welcome = False
        # The broker's no, as a code of MQTT 5.
        self.refusal: int | None = None
        # How it ended: the broker hung up, and not because it or somebody else had to go; it sent what we cannot take.
        self.was_hung_up = self.is_poisoned = False
        # What was under way then, in order; what of it had had its time.
        self.unanswered: list[str] = []
        self.overdue: list[str] = []
        # Why the connection ended, in words for operators; or the exception of on_message.
        self.closed: asyncio.Future[str] = self._loop.create_future()
        self._client = self._new_client()

    @property
    def keep_alive_s(self) -> int:
        return self.terms.keep_alive_s or self._settings.keep_alive_s

    @property
    def answer_s(self) -> float:
        """How long the broker may take for one answer."""
        return min(ANSWER_S, PATIENCE * self._settings.keep_alive_s)

    @property
    def under_way(self) -> int:
        """How many messages the broker has not acknowledged."""
        return self._unacknowledged

    @property
    def unproved(self) -> int:
        """How many messages were sent at QoS 0, and no answer to something later shows that the broker took them."""
        return len(self._unproved)

    def _new_client(self) -> PahoClient:
        manner = self.manner
        client = paho_client.new_client(manner.protocol, self._client_id, self._is_clean)
        if self._will is not None and manner.has_will:
            retain = self._will.retain and manner.will_retain
            client.will_set(self._will.topic, self._will.payload, min(self._will.qos, manner.will_qos), retain)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_unsubscribe = self._on_unsubscribe
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        # With this callback paho only queues, and whoever has queued something calls _write(). It is set early: what
        # the thread's connect() says must not go out, because a late CONNECT throws out the next connection.
        client.on_socket_register_write = lambda *_: None
        paho_client.heed_disconnect(client, self._on_farewell)
        paho_client.heed_pings(client, self._on_ping_sent, self._on_ping_answered)
        return client

    @property
    def _is_clean(self) -> bool:
        return self._clean_session or self.manner.is_new

    async def open(self) -> None:
        """Connect, and wait until the broker has let us in; raises NotDelivered."""
        connected = self._expect("connack")
        self._start()
        await connected

    def _start(self) -> None:
        # Not asyncio's executor: then a name look-up that hangs would keep the process from ending.
        threading.Thread(target=self._open, args=(self._client,), name="mqtt-connect", daemon=True).start()

    async def subscribe(self, topic: str) -> Granted:
        """Raises NotDelivered."""
        self._check_open()
        wanted = paho_client.subscriptions(self.manner.protocol, [topic], as_published=True)
        _, mid = self._client.subscribe(wanted)
        answer = self._expect(f"suback {mid}", subscription_to(topic))
        self._write()
        granted: Granted = await answer
        return granted

    async def unsubscribe(self, topic: str) -> Granted:
        """Raises NotDelivered."""
        self._check_open()
        _, mid = self._client.unsubscribe(topic)
        answer = self._expect(f"unsuback {mid}", subscription_to(topic))
        self._write()
        granted: Granted = await answer
        return granted

    async def publish(self, message: Message) -> bool:
        """Wait for the PUBACK (QoS 1), or until the message is in the socket (QoS 0). Raises NotDelivered.

        Returns whether there was a PUBACK. If the broker knows only QoS 0, there is none.
        """
        return await self.send(message)

    def send(self, message: Message) -> asyncio.Future[bool]:
        """Returns what publish() waits for. The message is already out, or in the socket's queue."""
        self._check_open()
        most = self.terms.maximum_packet_bytes
        if most < UNLIMITED_BYTES and (size := packets.publish_bytes(message.topic, message.payload)) > most:
            refusal = f"a message of {size} bytes is too large for this broker, which takes {most}"
            self._on_taken(messages_on(message.topic), refusal)
            raise Refused(refusal)
        qos = min(message.qos, self.terms.maximum_qos)
        retain = message.retain and self.terms.has_retained
        info = self._client.publish(message.topic, message.payload, qos, retain)
        if info.rc != paho_client.ERR_SUCCESS:
            raise NotDelivered(paho_client.error_string(info.rc))
        answer = self._expect(f"{'puback' if qos else 'written'} {info.mid}", messages_on(message.topic))
        if qos:
            self._unacknowledged += 1
        elif self._is_delivering:
            self._writes_later = True
        self._write()
        return answer

    def largest_payload_bytes(self, topic: str) -> int:
        """The largest payload on this topic that the broker takes."""
        around = packets.publish_bytes(topic, bytes(_LARGE)) - _LARGE
        return max(0, self.terms.maximum_packet_bytes - around)

    def prove(self) -> None:
        """Ask for an answer now if something was sent for which none comes by itself."""
        if self._unproved and not self.closed.done():
            paho_client.ping(self._client)
            self._write()

    def tick(self) -> None:
        """Does the keep-alive, and ends the connection if an answer is missing. Call it a few times in keep_alive_s."""
        if self.closed.done():
            return
        if self._client.is_connected():
            self._drive(self._client.loop_misc, "the broker did not answer the keep-alive")
            self._write()
        if self.is_reached:
            self._look_for_answers()

    def _look_for_answers(self) -> None:
        latest_s = time.monotonic() - self.answer_s
        overdue = [each.what for name, each in self._awaited.items() if each.since_s < latest_s and name != "connack"]
        if overdue:
            self.overdue = list(dict.fromkeys(overdue))
            self.close(f"no answer to {overdue[0]} within {self.answer_s:g} s")
        elif (connack := self._awaited.get("connack")) is not None and connack.since_s < latest_s:
            self.close(f"no answer within {self.answer_s:g} s")

    def teach(self, trial: Trial) -> None:
        """Once it has ended: say how the broker took our CONNECT, and whether it sent what we cannot take."""
        if self.is_poisoned:
            trial.on_poison()
        elif self.refusal is not None:
            trial.on_refusal(self.refusal, self.manner.protocol)
        elif self.is_reached and not self.is_welcome:
            trial.on_no_answer()

    def disconnect(self) -> None:
        """Sends DISCONNECT: the broker then drops the will."""
        if self._fd is not None:
            self._client.disconnect()
            self._drive(self._client.loop_write, LEFT)

    def close(self, reason: str) -> None:
        """Ends the connection without DISCONNECT. If called again, the first reason stays."""
        self._detach()
        self._close_socket()
        if self.closed.done():
            return
        if reason == CLOSED and "connack" in self._awaited:
            reason += " without an answer; is TLS expected on this port?"
        waiting = sorted((each.number, each.what) for each in self._awaited.values() if each.what)
        self.unanswered = list(dict.fromkeys(what for _, what in sorted(waiting + self._unproved)))
        self.closed.set_result(reason)
        self._give_up_waiting(reason)

    def _give_up_waiting(self, reason: str) -> None:
        while self._awaited:
            _, awaited = self._awaited.popitem()
            if not awaited.answer.done():
                awaited.answer.set_exception(NotDelivered(reason))

    def _open(self, client: Any) -> None:
        """Runs in the thread. The paho client belongs to the thread until the loop adopts it."""
        error: Exception | None = None
        try:
            configure_mqtt_security(client, self._settings)
            paho_client.use_socket(client, self._reach)
            options = paho_client.session_options(
                self.manner.protocol, self._is_clean, is_forgotten=self._clean_session
            )
            client.connect(self._settings.host, self._settings.port, self._settings.keep_alive_s, **options)
        except Exception as failure:
            error = failure
        try:
            self._loop.call_soon_threadsafe(self._adopt, client, error)
        except RuntimeError:  # the loop is closed: nobody waits any more
            self._close_socket()

    def _reach(self) -> socket.socket:
        """The first address that takes us. Which one is asked first is a matter of `turn`."""
        settings = self._settings
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
        trouble: OSError | None = None
        for number in range(self.turn, self.turn + len(found)):
            family, kind, protocol, _, address = found[number % len(found)]
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(_REACH_S)
                sock.connect(address)
            except OSError as error:
                sock.close()
                trouble = trouble or error
                if self.closed.done():
                    break
            else:
                self.turn = number % len(found)
                return sock
        raise trouble or OSError(f"{settings.host} has no address")

    def _start_over(self, manner: Manner) -> None:
        """Try again in another manner, on a new network connection."""
        if self.manner.is_new:
            self._client.disconnect()  # the broker let us in, and must not take it for a loss
            self._client.loop_write()
        self._detach()
        self._close_socket()
        self._starts_over = None
        self.manner = manner
        self.is_reached = False
        self._client = self._new_client()
        self._start()

    def _adopt(self, client: Any, error: Exception | None) -> None:
        sock = client.socket()
        if self.closed.done():
            self._close_socket()
        elif error is not None:
            self._give_up(error)
        elif sock is None:
            self.close(CLOSED)
        else:
            # Without this, an ack sent right after a PUBACK waits 40 ms for the broker's delayed TCP acknowledgement.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.is_reached = True
            if (connack := self._awaited.get("connack")) is not None:
                connack.since_s = time.monotonic()
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
        if self._writes_later:
            return
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
            if self.closed.done():
                return
            if self._starts_over is not None:
                self._start_over(self._starts_over)
            elif result == paho_client.ERR_PROTOCOL:
                self.close("the answer was not MQTT; is TLS expected on this port?")
            elif self._farewell is not None or self._client.socket() is None:
                # paho 1.6 ignores a DISCONNECT if it cannot read a reason in it.
                self.was_hung_up = self.was_hung_up or (self._farewell is None and reason == CLOSED)
                self.close(self._farewell or reason)
            elif paho_client.unreleased(self._client):
                self._refuse_delivery(UNASKED_QOS_2)
            elif paho_client.incoming_bytes(self._client) > paho_client.MAX_PACKET_BYTES:
                self._refuse_delivery(TOO_LONG)

    def _refuse_delivery(self, why: str) -> None:
        self.is_poisoned = True
        self.close(why)

    def _give_up(self, error: Exception) -> None:
        """A fault of network, TLS or broker ends the connection; a bug ends the session."""
        if not isinstance(error, (OSError, ValueError, Redeliver, *paho_client.UNREADABLE)) and not self.closed.done():
            self.closed.set_exception(error)
            self._give_up_waiting(words(error))
        if self.is_reached and isinstance(error, ConnectionError | ssl.SSLEOFError):
            self.was_hung_up = True
            self.close(CLOSED)  # what OpenSSL says of an end is about handshakes
        else:
            self.close(words(error))

    def _check_open(self) -> None:
        if self.closed.done():
            raise NotDelivered("not connected")

    def _expect(self, answer: str, what: str = "") -> asyncio.Future[Any]:
        self._number += 1
        future = self._loop.create_future()
        self._awaited[answer] = _Awaited(future, what, self._number, time.monotonic())
        return future

    def _settle(self, name: str, result: object = None, refusal: str | None = None) -> None:
        """The answer is there. Whoever waits for it hears of a refusal as Refused."""
        awaited = self._awaited.pop(name, None)
        if awaited is None:
            return
        if name.startswith("written"):
            self._unproved.append((awaited.number, awaited.what))
        else:
            self._prove(awaited.number)
            if name.startswith("puback"):
                self._unacknowledged -= 1
                self._on_taken(awaited.what, refusal)
        if awaited.answer.done():
            return
        if refusal is None:
            awaited.answer.set_result(result)
        else:
            awaited.answer.set_exception(Refused(refusal))

    def _prove(self, number: int) -> None:
        """The broker has answered this, so it has taken all that was sent before."""
        while self._unproved and self._unproved[0][0] < number:
            self._on_taken(self._unproved.pop(0)[1], None)

    def _on_ping_sent(self) -> None:
        self._ping_number = self._number + 1

    def _on_ping_answered(self) -> None:
        self._prove(self._ping_number)

    def _on_connect(self, client: Any, _userdata: Any, _flags: Any, _reason: Any, *_: Any) -> None:
        connack = packets.Connack.read(paho_client.incoming(client, Kind.CONNACK))
        code, manner = reasons.of_connack(connack.code), self.manner
        is_old = manner.protocol is Protocol.MQTT_3_1_1
        if code == 0 and manner.is_new and is_old:
            # In MQTT 3.1.1, a new session would end with its connection: this one only makes the broker forget the old.
            self._starts_over = replace(manner, is_new=False)
        elif code == 0:
            self.terms = Terms.read(connack)
            paho_client.heed_keep_alive(client, self.keep_alive_s)
            paho_client.heed_receive_maximum(client, self.terms.receive_maximum)
            self.is_welcome = True
            self._settle("connack")
        elif code == reasons.PROTOCOL_VERSION and not is_old and self._settings.protocol == "auto":
            log.info("the broker at %s does not speak MQTT 5; going on in 3.1.1", self._settings.address)
            self._starts_over = replace(manner, protocol=Protocol.MQTT_3_1_1)
        elif code == reasons.RETAIN_NOT_SUPPORTED and manner.will_retain:
            self._starts_over = replace(manner, will_retain=False)
        elif code == reasons.QOS_NOT_SUPPORTED and manner.will_qos:
            self._starts_over = replace(manner, will_qos=0)
        else:
            self.refusal = code
            self.close(reasons.words(code, connack.properties))

    def _on_subscribe(self, client: Any, _userdata: Any, mid: int, *_: Any) -> None:
        suback = packets.Suback.read(paho_client.incoming(client, Kind.SUBACK), self.manner.protocol)
        self._on_granted(f"suback {mid}", suback)

    def _on_unsubscribe(self, client: Any, _userdata: Any, mid: int, *_: Any) -> None:
        if self.manner.protocol is Protocol.MQTT_3_1_1:
            self._settle(f"unsuback {mid}", Granted(0, ""))  # it has no codes there
        else:
            # It is built as a SUBACK (MQTT 5, 3.11).
            unsuback = packets.Suback.read(paho_client.incoming(client, Kind.UNSUBACK), self.manner.protocol)
            self._on_granted(f"unsuback {mid}", unsuback)

    def _on_granted(self, name: str, answer: packets.Suback) -> None:
        """To a question about one topic."""
        if len(answer.codes) != 1:
            self.close(NOT_MQTT)
            return
        code = answer.codes[0]
        self._settle(name, Granted(code, reasons.words(code, answer.properties)))

    def _on_publish(self, client: Any, _userdata: Any, mid: int, *_: Any) -> None:
        if f"written {mid}" in self._awaited:
            self._settle(f"written {mid}", False)
            return
        puback = packets.Acknowledgement.read(paho_client.incoming(client, Kind.PUBACK))
        is_refused = puback.reason >= reasons.REFUSED
        refusal = reasons.words(puback.reason, puback.properties) if is_refused else None
        self._settle(f"puback {mid}", True, refusal)

    def _on_farewell(self, packet: packets.Packet) -> None:
        farewell = packets.Disconnect.read(packet)
        self.was_hung_up = farewell.reason not in _NOBODYS_FAULT
        said = reasons.reason_string(farewell.properties)
        if farewell.reason >= reasons.REFUSED:
            self._farewell = reasons.words(farewell.reason, farewell.properties)
        else:
            self._farewell = f'{CLOSED} ("{said}")' if said else CLOSED

    def _on_message(self, _client: Any, _userdata: Any, message: Any) -> None:
        """paho sends the PUBACK when this returns. If this raises, there is no PUBACK, and the connection ends."""
        try:
            topic = message.topic
        except UnicodeDecodeError:  # acknowledged, or it would come again for ever
            log.warning("dropped a delivery whose topic is not UTF-8")
            return
        self._is_delivering = True
        try:
            properties = paho_client.user_properties(message)
            self._deliver(Delivery(topic, bytes(message.payload), bool(message.retain), properties))
        except Redeliver:
            raise
        except Exception as error:
            if not self.closed.done():
                self.closed.set_exception(error)
                self._give_up_waiting(str(error))
            raise
        finally:
            self._is_delivering = self._writes_later = False
