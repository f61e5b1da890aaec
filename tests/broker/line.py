"""One network connection of a scripted broker, from its first byte to its last."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from infoscreen_reboot.mqtt import packets, reasons
from infoscreen_reboot.mqtt.packets import (
    Acknowledgement,
    Connack,
    Disconnect,
    Kind,
    Packet,
    Property,
    Protocol,
    Publish,
    Suback,
)
from infoscreen_reboot.mqtt.terms import NEVER_EXPIRES, Terms
from tests.broker import requests
from tests.broker.kept import Session
from tests.broker.requests import Breach, Connection, Subscription, Unsubscription
from tests.broker.rules import Closed, Lowered, Manner, Refused, Silent
from tools.lab.patience import Patience

if TYPE_CHECKING:
    from tests.broker.scripted import ScriptedBroker

# What a client has sent before this is over counts as sent at once: so a Receive Maximum is enforced.
ANSWERS_AFTER_S = 0.01
# The Reason String of what a rule says. It names no topic: what a client says of one, it knows by itself.
WHY = "the script says so"
KEEP_ALIVE_OVER, TOO_MANY_AT_ONCE = 0x8D, 0x93
# A client may be silent for so many of its keep-alives (3.1.2-22).
_PATIENCE = 1.5
_LAST_LOOK_S = 0.01
_NOTHING_SAID = Terms()
_TO_3_1_1 = {0x84: 1, 0x85: 2, 0x88: 3, 0x86: 4, 0x87: 5}
_OF_TERMS = {
    "keep_alive_s": Property.SERVER_KEEP_ALIVE,
    "receive_maximum": Property.RECEIVE_MAXIMUM,
    "maximum_packet_bytes": Property.MAXIMUM_PACKET_SIZE,
    "maximum_qos": Property.MAXIMUM_QOS,
    "has_retained": Property.RETAIN_AVAILABLE,
    "session_expiry_s": Property.SESSION_EXPIRY,
    "client_id": Property.ASSIGNED_CLIENT_ID,
    "has_wildcards": Property.WILDCARDS_AVAILABLE,
    "has_subscription_ids": Property.SUBSCRIPTION_IDS_AVAILABLE,
    "has_shared_subscriptions": Property.SHARED_AVAILABLE,
}


@dataclass(frozen=True, slots=True)
class Heard:
    """A packet as it came: when, by the loop's clock, and on which connection, counted from 1."""

    at_s: float
    line: int
    kind: Kind
    size: int
    topics: tuple[str, ...] = ()


class Line:
    """`number` counts the connections of the broker, from 1."""

    def __init__(self, broker: ScriptedBroker, writer: asyncio.StreamWriter, number: int) -> None:
        self._broker = broker
        self._writer = writer
        self._number = number
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = None
        self._terms = broker.terms
        self._is_let_in = False
        self._is_mute = False
        self._unanswered: set[int] = set()
        self._will: Publish | None = None
        self.is_open = True

    @property
    def protocol(self) -> Protocol:
        return Protocol.MQTT_5 if self._connection is None else self._connection.protocol

    @property
    def owes_no_answer(self) -> bool:
        return not self._unanswered

    @property
    def receive_maximum(self) -> int:
        return 65535 if self._connection is None else self._connection.receive_maximum

    @property
    def session_expiry_s(self) -> int | None:
        """None is never."""
        assert self._connection is not None
        asked_s = self._connection.session_expiry_s
        said_s = self._terms.session_expiry_s if self.protocol is Protocol.MQTT_5 else None
        expiry_s = asked_s if said_s is None else said_s
        return None if expiry_s == NEVER_EXPIRES else expiry_s

    async def read(self, reader: asyncio.StreamReader) -> bytes:
        """Raises Breach where the client was silent too long. Time that a busy machine took does not count."""
        keep_alive_s = self._keep_alive_s()
        if not keep_alive_s:
            return await reader.read(65536)
        patience, is_over = Patience(_PATIENCE * keep_alive_s), False
        while not is_over:
            # The last look is for what has come while this loop was held up.
            is_over = patience.is_over
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience.look_s or _LAST_LOOK_S):
                    return await reader.read(65536)
        raise Breach(KEEP_ALIVE_OVER, f"it was silent for 1.5 times {keep_alive_s} s")

    def _keep_alive_s(self) -> int:
        """0 is none."""
        if self._connection is None or self._is_mute:
            return 0
        if self.protocol is Protocol.MQTT_5 and self._terms.keep_alive_s is not None:
            return self._terms.keep_alive_s
        return self._connection.keep_alive_s

    def hear(self, packet: Packet) -> None:
        if self._is_mute:
            return
        if (packet.kind is Kind.CONNECT) == (self._connection is not None):
            raise Breach(requests.AGAINST_THE_RULES, f"{packet.kind.name}: CONNECT comes first, and once")
        if packet.kind in requests.NOT_FOR_CLIENTS:
            raise Breach(requests.AGAINST_THE_RULES, f"{packet.kind.name}: only a broker may say it")
        if packet.kind is not Kind.CONNECT and len(packet.raw) > self._terms.maximum_packet_bytes:
            self._note(packet)
            raise Breach(reasons.PACKET_TOO_LARGE, f"{packet.kind.name}: it has {len(packet.raw)} bytes")
        match packet.kind:
            case Kind.CONNECT:
                self._on_connect(packet)
            case Kind.PUBLISH:
                self._on_publish(packet)
            case Kind.PUBACK:
                self._note(packet)
                self._on_puback(requests.read_answer(packet, self.protocol))
            case Kind.SUBSCRIBE:
                self._on_subscribe(packet)
            case Kind.UNSUBSCRIBE:
                self._on_unsubscribe(packet)
            case Kind.PINGREQ:
                self._note(packet)
                if not self._is_treated(Kind.PINGREQ, None):
                    self._write(packets.frame(Kind.PINGRESP))
            case Kind.DISCONNECT:
                self._note(packet)
                self._on_disconnect(requests.read_farewell(packet, self.protocol))
            case _:
                raise Breach(requests.AGAINST_THE_RULES, f"{packet.kind.name}: nobody asked for QoS 2")

    def deliver(self, message: Publish) -> bool:
        """Whether it went out: what is larger than the client takes is dropped (3.1.2-24)."""
        properties = message.properties if self.protocol is Protocol.MQTT_5 else b""
        data = replace(message, properties=properties).write(self.protocol)
        assert self._connection is not None
        if len(data) > self._connection.maximum_packet_bytes:
            return False
        self._write(data)
        return True

    def throw_out(self, code: int, why: str = "") -> None:
        if self._is_let_in and self.protocol is Protocol.MQTT_5:
            self._write(Disconnect(code, self._why(why)).write())
        self.close()

    def breach(self, code: int, sentence: str) -> None:
        self._broker.breaches.append(sentence)
        self.throw_out(code, sentence)

    def close(self) -> None:
        self.is_open = False
        self._writer.close()

    def end(self) -> None:
        """The will is for every end but a DISCONNECT that says 0 (3.1.2.5)."""
        if (will := self._will) is not None:
            self._will = None
            self._broker.take(will, is_will=True)
        self._broker.lose(self)

    # --- Each kind of packet

    def _on_connect(self, packet: Packet) -> None:
        broker = self._broker
        try:
            connection = Connection.read(packet)
        except Breach as error:
            if error.code == requests.WRONG_VERSION:
                self._write(Connack(1).write(Protocol.MQTT_3_1_1))
            raise
        topic = connection.will.topic if connection.will is not None else None
        self._note(packet, topic)
        broker.connections.append(connection)
        self._connection, self._terms = connection, broker.terms
        if connection.protocol not in broker.speaks:
            self._write(Connack(1).write(Protocol.MQTT_3_1_1))  # as a broker says it that knows no other
            self.close()
            return
        manner = broker.manner(Kind.CONNECT, topic, connection.protocol)
        if manner is None and broker.session is not None and not connection.is_clean:
            manner = broker.at_old_session
        if manner is not None:
            self._treat_connect(manner)
        elif (code := self._fault_of_will(connection.will)) is not None:
            self._refuse_connect(code, WHY)
        else:
            self._let_in(connection)

    def _fault_of_will(self, will: Publish | None) -> int | None:
        if will is None or self.protocol is not Protocol.MQTT_5:
            return None
        if will.qos > self._terms.maximum_qos:
            return reasons.QOS_NOT_SUPPORTED  # 3.2.2-12
        if will.retain and not self._terms.has_retained:
            return reasons.RETAIN_NOT_SUPPORTED  # 3.2.2-13
        return None

    def _let_in(self, connection: Connection) -> None:
        has_session = self._broker.welcome(self, connection)
        self._is_let_in = True
        self._will = connection.will
        self._write(Connack(0, has_session, self._said()).write(self.protocol))
        self._broker.deliver()
        self._broker.nudge()

    def _said(self) -> bytes:
        """What differs from what a client takes for granted; nothing in MQTT 3.1.1."""
        if self.protocol is not Protocol.MQTT_5:
            return b""
        said = {
            name: getattr(self._terms, field)
            for field, name in _OF_TERMS.items()
            if getattr(self._terms, field) != getattr(_NOTHING_SAID, field)
        }
        return packets.write_properties(said)

    def _treat_connect(self, manner: Manner) -> None:
        match manner:
            case Refused(code):
                self._refuse_connect(code, WHY)
            case Silent():
                self._is_mute = True
            case _:
                self.close()

    def _refuse_connect(self, code: int, why: str) -> None:
        if self.protocol is Protocol.MQTT_5:
            self._write(Connack(code, properties=self._why(why)).write(self.protocol))
        else:
            self._write(Connack(_TO_3_1_1.get(code, 3)).write(self.protocol))
        self.close()

    def _on_publish(self, packet: Packet) -> None:
        message = requests.read_publish(packet, self.protocol)
        self._note(packet, message.topic)
        if self.protocol is Protocol.MQTT_5:
            self._check_terms(message)
        if message.packet_id in self._unanswered:
            raise Breach(requests.AGAINST_THE_RULES, f"PUBLISH: {message.packet_id} is in use")  # 2.2.1-3
        if message.qos == 2:
            raise Breach(requests.AGAINST_THE_RULES, "PUBLISH: this broker was not asked to learn QoS 2")
        if message.qos:
            self._unanswered.add(message.packet_id)
        manner = self._broker.manner(Kind.PUBLISH, message.topic, self.protocol)
        match manner:
            case Closed(code):
                self._close_with(code)
            case Silent():
                pass
            case Refused(code) if message.qos and self.protocol is Protocol.MQTT_5:
                self._answer_publish(message, code)
            case Refused():
                # 3.3.5: at QoS 0 it is thrown away without a word. MQTT 3.1.1 has no word for it (3.3.5-2 there).
                if message.qos:
                    self.close()
            case _:
                is_wanted = self._broker.take(message)
                if message.qos:
                    is_new = self.protocol is Protocol.MQTT_5
                    self._answer_publish(message, reasons.NO_SUBSCRIBERS if is_new and not is_wanted else 0)

    def _check_terms(self, message: Publish) -> None:
        if message.qos > self._terms.maximum_qos:
            raise Breach(reasons.QOS_NOT_SUPPORTED, f"PUBLISH: QoS {message.qos}")  # 3.2.2-11
        if message.retain and not self._terms.has_retained:
            raise Breach(reasons.RETAIN_NOT_SUPPORTED, "PUBLISH: it is to be retained")  # 3.2.2-14
        if message.qos and len(self._unanswered) >= self._terms.receive_maximum:
            raise Breach(TOO_MANY_AT_ONCE, f"PUBLISH: {len(self._unanswered)} are without their PUBACK")  # 3.3.4-9

    def _answer_publish(self, message: Publish, code: int) -> None:
        def answer() -> None:
            if self.is_open:
                self._unanswered.discard(message.packet_id)
                properties = self._why(WHY) if code >= reasons.REFUSED else b""
                self._write(Acknowledgement(Kind.PUBACK, message.packet_id, code, properties).write())
                self._broker.nudge()

        self._loop.call_later(ANSWERS_AFTER_S, answer)

    def _on_puback(self, packet_id: int) -> None:
        if (session := self._broker.session) is not None:
            session.on_puback(packet_id)
            self._broker.deliver()
            self._broker.nudge()

    def _on_subscribe(self, packet: Packet) -> None:
        asked = Subscription.read(packet, self.protocol)
        topics = tuple(topic for topic, _ in asked.wanted)
        self._note(packet, *topics)
        if asked.has_id and not self._terms.has_subscription_ids:
            raise Breach(requests.NO_SUBSCRIPTION_IDS, "SUBSCRIBE: it has a subscription identifier")
        manners = {topic: self._broker.manner(Kind.SUBSCRIBE, topic, self.protocol) for topic in topics}
        if self._gives_no_answer(manners.values()):
            return
        session = self._broker.session
        assert session is not None
        codes = []
        for topic, options in asked.wanted:
            codes.append(code := self._grant(topic, options, manners[topic]))
            if code < reasons.REFUSED:
                is_new = topic not in session.subscriptions
                session.subscriptions[topic] = options & ~requests.QOS | code
                self._give_retained(session, topic, session.subscriptions[topic], is_new)
        why = self._why(WHY) if max(codes) >= reasons.REFUSED else b""
        self._write(Suback(asked.packet_id, tuple(codes), why).write(self.protocol))
        self._broker.deliver()
        self._broker.nudge()

    def _grant(self, topic: str, options: int, manner: Manner | None) -> int:
        """The code of a SUBACK for this topic (3.9.3)."""
        is_new = self.protocol is Protocol.MQTT_5
        match manner:
            case Refused(code):
                return code if is_new else reasons.REFUSED
            case Lowered():
                return 0
        if is_new and topic.startswith("$share/") and not self._terms.has_shared_subscriptions:
            return 0x9E
        if is_new and set("+#") & set(topic) and not self._terms.has_wildcards:
            return 0xA2
        return min(options & requests.QOS, self._terms.maximum_qos if is_new else 2)

    def _give_retained(self, session: Session, wanted: str, options: int, is_new: bool) -> None:
        """3.8.3.1: 0 always, 1 only to a new subscription, 2 never."""
        handling = (options & requests.HANDLING) >> 4
        if handling == 0 or (handling == 1 and is_new):
            for topic, message in self._broker.retained.items():
                if requests.matches(wanted, topic):
                    session.queue(
                        replace(message, qos=min(message.qos, options & requests.QOS), retain=True, dup=False)
                    )

    def _on_unsubscribe(self, packet: Packet) -> None:
        asked = Unsubscription.read(packet, self.protocol)
        self._note(packet, *asked.topics)
        manners = {topic: self._broker.manner(Kind.UNSUBSCRIBE, topic, self.protocol) for topic in asked.topics}
        if self._gives_no_answer(manners.values()):
            return
        session = self._broker.session
        assert session is not None
        codes = []
        for topic in asked.topics:
            match manners[topic]:
                case Refused(code):
                    codes.append(code)
                case _:
                    codes.append(0 if session.subscriptions.pop(topic, None) is not None else 0x11)
        if self.protocol is Protocol.MQTT_5:
            body = asked.packet_id.to_bytes(2), b"\0", bytes(codes)
        else:
            body = asked.packet_id.to_bytes(2), b"", b""
        self._write(packets.frame(Kind.UNSUBACK, *body))

    def _on_disconnect(self, reason: int) -> None:
        if not reason:
            self._will = None
        self._broker.farewells.append(reason)
        self.close()

    # --- What they share

    def _is_treated(self, kind: Kind, topic: str | None) -> bool:
        """Whether a rule stands in the way of a packet that has no code in its answer."""
        match self._broker.manner(kind, topic, self.protocol):
            case None:
                return False
            case Closed(code):
                self._close_with(code)
        return True

    def _gives_no_answer(self, manners: Collection[Manner | None]) -> bool:
        """Whether a rule for one of the topics of a packet leaves it without an answer; it may close the connection."""
        closed = next((manner for manner in manners if isinstance(manner, Closed)), None)
        if closed is not None:
            self._close_with(closed.code)
        return closed is not None or Silent() in manners

    def _close_with(self, code: int | None) -> None:
        if code is None:
            self.close()
        else:
            self.throw_out(code, WHY)

    def _why(self, sentence: str) -> bytes:
        """A Reason String, where the client wants to read it (3.1.2.11.7)."""
        is_read = self._connection is not None and self._connection.wants_reasons
        if not sentence or not is_read or self.protocol is not Protocol.MQTT_5:
            return b""
        return packets.write_properties({Property.REASON_STRING: sentence})

    def _note(self, packet: Packet, *topics: str | None) -> None:
        named = tuple(topic for topic in topics if topic is not None)
        self._broker.note(Heard(self._loop.time(), self._number, packet.kind, len(packet.raw), named))

    def _write(self, data: bytes) -> None:
        if self.is_open:
            self._writer.write(data)
