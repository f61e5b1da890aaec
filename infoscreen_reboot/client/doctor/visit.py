"""Asks the broker single questions, and says why there was no good answer."""

# It speaks MQTT without paho: only MQTT 5 says that a publish was not authorised, and paho 1.6 does not pass that on.

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from enum import Enum, auto

from infoscreen_reboot.mqtt import packets, reasons
from infoscreen_reboot.mqtt.messages import BrokerSettings
from infoscreen_reboot.mqtt.packets import Connack, Connect, Kind, MalformedPacket, Packet, Property, Protocol
from infoscreen_reboot.mqtt.tls import tls_context, tls_trouble

# For a connection, a handshake, an answer.
PATIENCE_S = 5.0
_CLOSED = "the broker closed the connection without an answer"
_NOT_MQTT = "the answer was not MQTT"
# QoS 1; in MQTT 5 also "send no retained message", because we need none here.
_SUBSCRIPTION = {Protocol.MQTT_3_1_1: 0x01, Protocol.MQTT_5: 0x21}


class Cause(Enum):
    """What was there instead of a yes. SAID: the broker gave a code. NETWORK: TCP or TLS failed."""

    SAID = auto()
    CLOSED = auto()
    SILENT = auto()
    RUBBISH = auto()
    NETWORK = auto()


class Trouble(Exception):
    """The text is for an operator; `code` is what the broker said, as a code of MQTT 5, or None if it said none."""

    def __init__(self, cause: Cause, text: str, code: int | None = None) -> None:
        super().__init__(text)
        self.cause = cause
        self.code = code


def reach(broker: BrokerSettings) -> socket.socket:
    """Raises OSError."""
    return socket.create_connection((broker.host, broker.port), PATIENCE_S)


def secure(sock: socket.socket, broker: BrokerSettings) -> socket.socket:
    """TLS as in the agent's connections: certificate and host name are verified. Raises OSError and ValueError."""
    return sock if broker.tls is None else tls_context(broker.tls).wrap_socket(sock, server_hostname=broker.host)


def dial(broker: BrokerSettings) -> socket.socket:
    """Raises what reach() and secure() raise."""
    sock = reach(broker)
    try:
        return secure(sock, broker)
    except (OSError, ValueError):
        sock.close()
        raise


def words(error: Exception) -> str:
    """What is wrong with the way to the broker."""
    match error:
        case ssl.SSLError():
            return tls_trouble(error)
        case ConnectionResetError():
            return "the connection was closed; is TLS expected on this port?"
        case TimeoutError():
            return f"no answer within {PATIENCE_S:g} s"
        case OSError(strerror=str(text)):
            return text[:1].lower() + text[1:]
    return str(error)


def greet(broker: BrokerSettings, connect: Connect, protocol: Protocol) -> Connack:
    """Log in and leave at once; returns the broker's yes. Raises Trouble.

    CONNECT and DISCONNECT go out together, as MQTT allows (5: 3.1.4, 3.1.1: the same section). Whatever happens to us
    afterwards, the broker has been told to drop the will; else it could say that the client is offline, and that would
    be wrong. In MQTT 5 the DISCONNECT also ends the session.
    """
    ends_session = packets.write_properties({Property.SESSION_EXPIRY: 0}) if protocol is Protocol.MQTT_5 else b""
    farewell = packets.Disconnect(properties=ends_session)
    with contextlib.closing(_Link(broker, protocol)) as link:
        link.send(connect.write(protocol) + farewell.write())
        connack = link.connack()
        link.wait_for_the_end()
    return connack


class Visit:
    """Asks one question after the other. A broker may end the connection at any of them; the next has a new one."""

    def __init__(self, broker: BrokerSettings, connect: Connect, protocol: Protocol) -> None:
        """`connect` has no will, and asks for no session that outlives the connection."""
        self._broker = broker
        self._connect = connect
        self._protocol = protocol
        self._link: _Link | None = None
        self._packet_id = 0

    def subscribe(self, topic: str) -> int:
        """Returns the QoS that the broker grants; raises Trouble.

        With an acl_file mosquitto refuses no topic: it drops what comes in later.
        """
        self._packet_id += 1
        question = packets.Subscribe(self._packet_id, [topic], _SUBSCRIPTION[self._protocol])
        with self._question() as link:
            link.send(question.write(self._protocol))
            suback = packets.Suback.read(link.answer(Kind.SUBACK), self._protocol)
            if len(suback.codes) != 1:
                raise MalformedPacket("one topic has one code")
        (code,) = suback.codes
        if code >= reasons.REFUSED:
            raise _said(code, suback.properties)
        return code

    def offer(self, topic: str) -> None:
        """Ask for the right to publish; raises Trouble.

        We send only the first half of an empty QoS 2 message: the broker judges it, and is never told to pass it on.
        mosquitto then tells nobody. A broker that passes it on at once shows subscribers an empty payload. It is
        retained nowhere, and by the contract it is neither an ack nor a health report.
        """
        self._packet_id += 1
        question = packets.Publish(topic, b"", qos=2, packet_id=self._packet_id)
        with self._question() as link:
            link.send(question.write(self._protocol))
            pubrec = packets.Acknowledgement.read(link.answer(Kind.PUBREC))
        if pubrec.reason >= reasons.REFUSED:
            raise _said(pubrec.reason, pubrec.properties)

    def leave(self) -> None:
        if self._link is not None:
            with contextlib.suppress(Trouble):
                self._link.send(packets.Disconnect().write())
            self._link.close()
            self._link = None

    @contextlib.contextmanager
    def _question(self) -> Iterator[_Link]:
        """A connection that the broker has let in. Without an answer, it is closed."""
        link, self._link = self._link or self._log_in(), None
        try:
            with _as_trouble():
                yield link
        except BaseException:
            link.close()
            raise
        self._link = link

    def _log_in(self) -> _Link:
        link = _Link(self._broker, self._protocol)
        try:
            link.send(self._connect.write(self._protocol))
            link.connack()
        except BaseException:
            link.close()
            raise
        return link


class _Link:
    """One network connection to the broker; what is wrong with it is raised as Trouble."""

    def __init__(self, broker: BrokerSettings, protocol: Protocol) -> None:
        self._protocol = protocol
        self._reader = packets.Reader()
        with _as_trouble():
            self._sock = dial(broker)

    def close(self) -> None:
        self._sock.close()

    def send(self, data: bytes) -> None:
        self._sock.settimeout(PATIENCE_S)
        # If the broker has hung up: what it said before can still be read.
        with _as_trouble(), contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._sock.sendall(data)

    def connack(self) -> Connack:
        with _as_trouble():
            connack = Connack.read(self.answer(Kind.CONNACK))
        if connack.code:
            raise _said(reasons.of_connack(connack.code), connack.properties)
        return connack

    def answer(self, kind: Kind) -> Packet:
        """Wait for the next packet of that kind. A command that comes meanwhile is ignored: it is for the agent."""
        until = time.monotonic() + PATIENCE_S
        with _as_trouble():
            while (packet := self._next_packet(until)).kind is not kind:
                if packet.kind is Kind.DISCONNECT and self._protocol is Protocol.MQTT_5:
                    farewell = packets.Disconnect.read(packet)
                    if farewell.reason < reasons.REFUSED:
                        raise Trouble(Cause.CLOSED, _CLOSED)
                    raise _said(farewell.reason, farewell.properties)
                if packet.kind is not Kind.PUBLISH:
                    raise MalformedPacket(f"{packet.kind.name} is no answer")
        return packet

    def wait_for_the_end(self) -> None:
        """Until the broker closes the connection. If we closed it first, what we sent last could get lost."""
        self._sock.settimeout(PATIENCE_S)
        with contextlib.suppress(OSError):
            self._sock.recv(1)

    def _next_packet(self, until: float) -> Packet:
        while (packet := self._reader.next_packet()) is None:
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            self._sock.settimeout(left_s)
            part = self._sock.recv(65536)
            if not part:
                raise Trouble(Cause.CLOSED, _CLOSED)
            self._reader.feed(part)
        return packet


@contextlib.contextmanager
def _as_trouble() -> Iterator[None]:
    try:
        yield
    except (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
        raise Trouble(Cause.CLOSED, _CLOSED) from error
    except MalformedPacket as error:
        raise Trouble(Cause.RUBBISH, _NOT_MQTT) from error
    except TimeoutError as error:
        raise Trouble(Cause.SILENT, words(error)) from error
    except (OSError, ValueError) as error:
        raise Trouble(Cause.NETWORK, words(error)) from error


def _said(code: int, properties: bytes) -> Trouble:
    return Trouble(Cause.SAID, reasons.words(code, properties), code)
