"""Finds out, in small steps and as the agent's own user, whether the broker is there and lets the agent in."""

# It speaks MQTT without paho: only MQTT 5 says that a publish was not authorised, and paho 1.6 does not pass that on.

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from infoscreen_reboot.client import config, lasting
from infoscreen_reboot.client.config import Settings
from infoscreen_reboot.client.doctor.finding import Finding, ok, problem, warning
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.contract.telemetry import Executor
from infoscreen_reboot.contract.topics import Topics
from infoscreen_reboot.mqtt import packets, reasons
from infoscreen_reboot.mqtt.messages import BrokerSettings
from infoscreen_reboot.mqtt.packets import Kind, MalformedPacket, Packet, Protocol
from infoscreen_reboot.mqtt.tls import tls_context, tls_trouble

_PATIENCE_S = 5.0
_CLOSED = "the broker closed the connection without an answer; is TLS expected on this port?"
_NOT_MQTT = "the answer was not MQTT; is TLS expected on this port?"
_OTHER_VERSION, _NOT_AUTHORISED, _REFUSED = (0x01, 0x84), 0x87, 0x80
# QoS 1; in MQTT 5 also "send no retained message", because we need none here.
_SUBSCRIPTION = {Protocol.MQTT_3_1_1: 0x01, Protocol.MQTT_5: 0x21}
_KEEP_ALIVE_S = 60


class _Trouble(Exception):
    """The step cannot be finished; `code` is MQTT's reason if the broker gave one."""

    def __init__(self, words: str, code: int = 0) -> None:
        super().__init__(words)
        self.code = code


def main(environment: Mapping[str, str]) -> int:
    """Prints one JSON object a line, each as soon as it is known: settings that the doctor needs, and findings.

    Returns 0 even if something is wrong: the lines say what.
    """
    for sentence in config.unknown_names(environment):
        _print(asdict(warning("configuration", sentence, "correct its name, or take it away")))
    try:
        settings = config.load(environment)
    except config.ConfigError as error:
        for sentence in error.problems:
            advice = "correct it in /etc/infoscreen-reboot, then: systemctl restart infoscreen-simclient"
            _print(asdict(problem("configuration", sentence, advice)))
        return 0
    wanted = {
        "needs_clock": settings.require_synced_clock,
        "offers_shutdown": Action.SHUTDOWN_HOST in settings.offered,
        "is_mock": settings.executor is Executor.MOCK,
    }
    _print({"settings": wanted})
    # Judged here, because the agent's user may write there. Before its first start there is nothing to judge.
    if lasting.STATE.exists() and (unfit := lasting.unfit_because(lasting.STATE)):
        advice = f"give both state directories a place that stays: {lasting.RECIPE}"
        _print(asdict(problem("state", unfit, advice)))
    for finding in examine(settings):
        _print(asdict(finding))
    return 0


def _print(content: Mapping[str, object]) -> None:
    print(json.dumps(content), flush=True)


def examine(settings: Settings) -> Iterator[Finding]:
    """One finding for each step, in order. After a problem come only steps that do not depend on it."""
    broker = settings.broker
    transport = "TLS" if broker.tls else "plain TCP"
    yield ok("configuration", f"client {settings.client_uuid}, broker {broker.address} over {transport}")
    try:
        found = socket.getaddrinfo(broker.host, broker.port, type=socket.SOCK_STREAM)
    except OSError as error:
        text = f"{broker.host} has no address: {_words(error)}"
        yield problem("name resolution", text, "correct MQTT_BROKER, or the name server in /etc/resolv.conf")
        return
    yield ok("name resolution", f"{broker.host} is {', '.join(dict.fromkeys(str(one[4][0]) for one in found))}")
    try:
        sock = _reach(broker)
    except OSError as error:
        advice = "correct MQTT_BROKER and MQTT_PORT, start the broker, or open the firewall between"
        yield problem("TCP", f"{broker.address} cannot be reached: {_words(error)}", advice)
        return
    yield ok("TCP", f"{broker.address} accepts connections")
    try:
        sock = _secure(sock, broker)
    except (OSError, ValueError) as error:
        sock.close()
        advice = (
            "set MQTT_TLS_CA to the authority of the broker's certificate, MQTT_BROKER to the name in it, and "
            "MQTT_PORT to the port with TLS"
        )
        yield problem("TLS", _words(error), advice)
        return
    with sock:
        is_tls = isinstance(sock, ssl.SSLSocket)
        yield ok("TLS", f"the broker proves to be {broker.host}" if is_tls else "not used: MQTT_TLS is off")
        yield from _talk(sock, settings)


def _reach(broker: BrokerSettings) -> socket.socket:
    return socket.create_connection((broker.host, broker.port), _PATIENCE_S)


def _secure(sock: socket.socket, broker: BrokerSettings) -> socket.socket:
    """TLS as in the agent's connections: certificate and host name are verified."""
    return sock if broker.tls is None else tls_context(broker.tls).wrap_socket(sock, server_hostname=broker.host)


def _talk(sock: socket.socket, settings: Settings) -> Iterator[Finding]:
    """Check login and rights, in MQTT 5, or in 3.1.1 if the broker knows no other."""
    broker, topics = settings.broker, Topics(settings.client_uuid)
    login = "as " + broker.username if broker.username else "without a user name"
    mqtt = _Mqtt(sock, Protocol.MQTT_5)
    try:
        try:
            mqtt.log_in(broker, topics)
        except _Trouble as trouble:
            if trouble.code not in _OTHER_VERSION:
                raise
            sock.close()
            sock = _secure(_reach(broker), broker)
            mqtt = _Mqtt(sock, Protocol.MQTT_3_1_1)
            mqtt.log_in(broker, topics)
    except (_Trouble, MalformedPacket, OSError) as error:
        advice = (
            "correct MQTT_USER and MQTT_PASSWORD_BROKER (or the credential), MQTT_TLS_CERT where the broker wants one, "
            "or the broker's users"
        )
        yield problem("login", f"the broker refuses the login {login}: {_words(error)}", advice)
        return
    with sock:
        yield ok("login", f"the broker lets us in {login}")
        wanted = [topics.commands] + [topics.transitional_command] * settings.compat_topics
        advice = f"let it subscribe to {', '.join(wanted)} in the broker's access rules"
        try:
            refused = mqtt.subscribe(wanted)
        except (_Trouble, MalformedPacket, OSError) as error:
            yield problem("subscribe", f"the broker ends the connection at a subscription: {_words(error)}", advice)
            return
        if refused:
            yield problem("subscribe", f"the broker refuses {', '.join(refused)}", advice)
        else:
            yield ok("subscribe", f"the broker grants {', '.join(wanted)}")
        yield _rights(mqtt, [topics.commands_ack, topics.health])
        mqtt.leave()


def _rights(mqtt: _Mqtt, topics: Sequence[str]) -> Finding:
    if mqtt.protocol is Protocol.MQTT_3_1_1:
        text = "cannot tell: the broker knows MQTT 3.1.1 only, in which it answers yes also to what it drops"
        return warning("publish", text, f"look into the broker's access rules for {', '.join(topics)}")
    for topic in topics:
        advice = f"let it publish on {', '.join(topics)} in the broker's access rules"
        try:
            mqtt.offer(topic)
        except (_Trouble, MalformedPacket, OSError) as error:
            text = f"{topic}: {_words(error)}"
            if isinstance(error, _Trouble) and error.code == _NOT_AUTHORISED:
                return problem("publish", text, advice)
            return warning("publish", f"cannot tell for {text}", advice)
    return ok("publish", f"the broker takes {', '.join(topics)}")


class _Mqtt:
    """One connection that asks and leaves. It has a client id of its own: the agent's id would throw the agent out."""

    def __init__(self, sock: socket.socket, protocol: Protocol) -> None:
        self.protocol = protocol
        self._sock = sock
        self._reader = packets.Reader()
        self._offered = 0

    def log_in(self, broker: BrokerSettings, topics: Topics) -> None:
        """Open a new session that has no will and ends with the connection."""
        client_id = f"infoscreen-{topics.client_uuid}-probe"
        connect = packets.Connect(client_id, _KEEP_ALIVE_S, broker.username, broker.password)
        self._sock.sendall(connect.write(self.protocol))
        code = packets.Connack.read(self._answer(Kind.CONNACK)).code
        if code:
            raise _Trouble(reasons.words(reasons.of_connack(code)), code)

    def subscribe(self, topics: Sequence[str]) -> list[str]:
        """Subscribe; returns the topics that the broker refuses.

        With an acl_file mosquitto refuses none: it drops what comes in later.
        """
        self._sock.sendall(packets.Subscribe(1, topics, _SUBSCRIPTION[self.protocol]).write(self.protocol))
        codes = packets.Suback.read(self._answer(Kind.SUBACK), self.protocol).codes
        if len(codes) != len(topics):
            raise _Trouble(_NOT_MQTT)
        return [topic for topic, code in zip(topics, codes, strict=True) if code >= _REFUSED]

    def offer(self, topic: str) -> None:
        """Ask for the right to publish; raises _Trouble with the broker's reason.

        We send only the first half of an empty QoS 2 message: the broker judges it, and is never told to pass it on.
        mosquitto then tells nobody. A broker that passes it on at once shows subscribers an empty payload. It is
        retained nowhere, and by the contract it is neither an ack nor a health report.
        """
        self._offered += 1
        self._sock.sendall(packets.Publish(topic, b"", qos=2, packet_id=self._offered).write(self.protocol))
        reason = packets.Acknowledgement.read(self._answer(Kind.PUBREC)).reason
        if reason >= _REFUSED:
            raise _Trouble(reasons.words(reason), reason)

    def leave(self) -> None:
        self._sock.sendall(packets.Disconnect().write())

    def _answer(self, kind: Kind) -> Packet:
        """Wait for the next packet of that kind. A command that comes meanwhile is ignored: it is for the agent."""
        while True:
            packet = self._next_packet()
            if packet.kind is kind:
                return packet
            if packet.kind is Kind.DISCONNECT:
                code = packets.Disconnect.read(packet).reason
                raise _Trouble(reasons.words(code), code)
            if packet.kind is not Kind.PUBLISH:
                raise _Trouble(_NOT_MQTT)

    def _next_packet(self) -> Packet:
        while (packet := self._reader.next_packet()) is None:
            part = self._sock.recv(65536)
            if not part:
                raise _Trouble(_CLOSED)
            self._reader.feed(part)
        return packet


def _words(error: Exception) -> str:
    match error:
        case ssl.SSLError():
            return tls_trouble(error)
        case ConnectionResetError():
            return _CLOSED
        case MalformedPacket():
            return _NOT_MQTT
        case TimeoutError():
            return f"no answer within {_PATIENCE_S:g} s"
        case OSError(strerror=str(text)):
            return text[:1].lower() + text[1:]
    return str(error)
