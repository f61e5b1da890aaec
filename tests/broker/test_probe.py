"""The doctor's questions to a broker: what each is told, and that nobody else hears of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import socket
import struct
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infoscreen_reboot.client import config
from infoscreen_reboot.client.doctor import probe, visit
from infoscreen_reboot.client.doctor.finding import Finding, Verdict
from infoscreen_reboot.client.doctor.judgement import BROKER_CHECKS
from infoscreen_reboot.client.doctor.visit import Trouble
from infoscreen_reboot.contract.telemetry import PresenceReason, Status, parse_status
from infoscreen_reboot.controller import presence
from infoscreen_reboot.mqtt import packets
from infoscreen_reboot.mqtt.messages import BrokerSettings
from infoscreen_reboot.mqtt.packets import (
    Acknowledgement,
    Connack,
    Kind,
    Packet,
    Property,
    Protocol,
    Publish,
    Suback,
    write_properties,
)
from tests.broker.conftest import PATIENCE_S, Authority, Broker, MakeBroker, Run, tls_listener
from tools.simulated import agents
from tools.simulated.agents import FleetLoop, SimulatedClient
from tools.simulated.manner import Manner

CLIENT = "827ddfe1-7aef-4642-8f05-d962543065b6"
TOPIC = f"infoscreen/{CLIENT}"
ALL_STEPS = list(BROKER_CHECKS)
LOGIN = ALL_STEPS.index("login") + 1


def examine(port: int, **variables: str) -> list[Finding]:
    environment = {"MQTT_BROKER": "127.0.0.1", "MQTT_PORT": str(port), "MQTT_TLS": "no", "CLIENT_UUID": CLIENT}
    return list(probe.examine(config.load(environment | variables)))


def last(findings: Sequence[Finding], steps: int, verdict: Verdict = Verdict.PROBLEM) -> str:
    """The text of the last finding, all before it being ok."""
    assert [finding.check for finding in findings] == ALL_STEPS[:steps]
    assert [finding.verdict for finding in findings] == [Verdict.OK] * (steps - 1) + [verdict]
    assert findings[-1].advice or verdict is Verdict.OK
    return findings[-1].text


def rights(folder: Path, *allowed: tuple[str, str]) -> str:
    """A configuration of mosquitto that allows that and nothing else, and says so to a subscriber, too."""
    plugin = next(Path("/usr/lib").glob("*/mosquitto_dynamic_security.so"))
    acls = [{"acltype": kind, "topic": topic, "priority": 0, "allow": True} for kind, topic in allowed]
    rules = {
        "defaultACLAccess": {"publishClientSend": False, "publishClientReceive": False, "subscribe": False},
        "anonymousGroup": "everyone",
        "groups": [{"groupname": "everyone", "roles": [{"rolename": "screen"}]}],
        "roles": [{"rolename": "screen", "acls": acls}],
    }
    (folder / "rules.json").write_text(json.dumps(rules))
    return f"plugin {plugin}\nplugin_opt_config_file {folder / 'rules.json'}"


def test_where_all_is_well_each_step_is_ok_and_a_subscriber_of_everything_hears_nothing(
    tls_broker: Broker, authority: Authority, run: Run
) -> None:
    async def story() -> None:
        for topic in ("commands", "command"):
            tls_broker.publish(f"{TOPIC}/{topic}", "left behind", "--retain")
        async with tls_broker.observe("infoscreen/#", "end") as observer:
            tls = {"MQTT_TLS": "yes", "MQTT_TLS_CA": str(authority.certificate)}
            findings = await asyncio.to_thread(examine, tls_broker.tls_port, **tls)
            last(findings, len(ALL_STEPS), Verdict.OK)
            tls_broker.publish("end", "")
            assert [seen.topic for seen in await observer.until(lambda seen: seen.topic == "end")] == ["end"]
        assert len(observer.retained) == 2

    run(story())


def test_a_subscription_and_a_publish_that_are_not_allowed_are_problems_each(
    make_broker: MakeBroker, tmp_path: Path
) -> None:
    every = [(kind, f"{TOPIC}/#") for kind in ("subscribePattern", "publishClientSend")]
    broker = make_broker(rights(tmp_path, *every))
    assert all(finding.verdict is Verdict.OK for finding in examine(broker.port))

    broker = make_broker(rights(tmp_path, every[1], ("subscribeLiteral", f"{TOPIC}/commands")))
    *_, subscribe, publish = examine(broker.port)
    told = f"the broker refuses {TOPIC}/command: not authorised"
    assert (subscribe.verdict, subscribe.text) == (Verdict.PROBLEM, told)
    assert publish.verdict is Verdict.OK
    assert examine(broker.port, COMMAND_COMPAT_TOPICS="no")[-2].verdict is Verdict.OK

    broker = make_broker(rights(tmp_path, every[0], ("publishClientSend", f"{TOPIC}/commands/ack")))
    assert last(examine(broker.port), len(ALL_STEPS)) == f"{TOPIC}/health: not authorised"


def test_what_is_not_there_or_has_no_tls_is_named_at_its_step(tls_broker: Broker, authority: Authority) -> None:
    tls = {"MQTT_TLS": "yes", "MQTT_TLS_CA": str(authority.certificate)}
    assert "is TLS expected on this port?" in last(examine(tls_broker.port, **tls), 4)
    findings = examine(tls_broker.tls_port)
    last(findings, LOGIN)
    assert "if this port expects TLS, set MQTT_TLS=yes" in findings[-1].advice
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert "connection refused" in last(examine(closed.getsockname()[1]), 3)


def test_a_certificate_for_another_host_is_named(make_broker: MakeBroker, authority: Authority) -> None:
    broker = make_broker(listener=tls_listener(authority.issue("broker", "DNS:other.example")))
    told = last(examine(broker.tls_port, MQTT_TLS="yes", MQTT_TLS_CA=str(authority.certificate)), 4)
    assert "certificate is not valid for '127.0.0.1'" in told


def test_a_broker_that_wants_a_certificate_of_the_client_says_so_after_the_handshake(
    make_broker: MakeBroker, authority: Authority
) -> None:
    wanted = f"require_certificate true\ncafile {authority.certificate}"
    broker = make_broker(listener=f"{tls_listener(authority.issue('broker'))}\n{wanted}")
    tls = {"MQTT_TLS": "yes", "MQTT_TLS_CA": str(authority.certificate)}
    findings = examine(broker.tls_port, **tls)
    last(findings, LOGIN)
    assert "MQTT_TLS_CERT" in findings[-1].advice and "MQTT_PASSWORD" not in findings[-1].advice


# --- A broker that answers as it is told to, in MQTT 5 and in 3.1.1

YES = object()
# What stands on the wire instead of an answer, and what an operator reads then.
CLOSED, RESET, SILENT, RUBBISH = object(), object(), object(), b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"x" * 100
SPOILT = {
    "closed": (CLOSED, "the broker closed the connection"),
    "reset": (RESET, "the broker closed the connection"),
    "silent": (SILENT, "no answer within"),
    "rubbish": (RUBBISH, "the answer was not MQTT"),
}
# What it is asked: a CONNECT with a will, one without, a subscription or a publish on a topic.
Answer = Callable[[str, Protocol], object]
QUESTIONS = ("will", "login", f"{TOPIC}/commands", f"{TOPIC}/command", f"{TOPIC}/commands/ack", f"{TOPIC}/health")


class ScriptedBroker:
    """Says yes to everything for which `answer` gives YES, and else sends those bytes, or ends the connection."""

    def __init__(self, answer: Answer) -> None:
        self.port = 0
        self.connects: list[Packet] = []
        self.left: list[bool] = []
        self._answer = answer

    def serve(self, server: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the server is closed at the end
            while True:
                connection, _ = server.accept()
                # A client that has had enough resets the connection.
                with connection, contextlib.suppress(ConnectionResetError, BrokenPipeError):
                    self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        reader, protocol, answer = packets.Reader(), Protocol.MQTT_5, YES
        while data := connection.recv(4096):
            reader.feed(data)
            while (packet := reader.next_packet()) is not None:
                if answer is SILENT:
                    continue
                if packet.kind is Kind.DISCONNECT:
                    self.left.append(True)
                    return
                if packet.kind is Kind.CONNECT:
                    protocol = packets.protocol_of(packet)
                    self.connects.append(packet)
                answer = self._answer(question(packet, protocol), protocol)
                if answer is YES:
                    answer = assent(packet, protocol)
                if answer is RESET:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                if answer in (RESET, CLOSED):
                    return
                if answer is SILENT:
                    connection.send(b"!", socket.MSG_OOB)
                if isinstance(answer, bytes):
                    connection.sendall(answer)


def question(packet: Packet, protocol: Protocol) -> str:
    if packet.kind is Kind.CONNECT:
        return "will" if Hello.read(packet).will else "login"
    if packet.kind is Kind.SUBSCRIBE:
        start = packet.start + (5 if protocol is Protocol.MQTT_5 else 4)
        return packet.raw[start:-1].decode()
    return Publish.read(packet, protocol).topic


def assent(packet: Packet, protocol: Protocol) -> bytes:
    if packet.kind is Kind.CONNECT:
        return Connack(0).write(protocol)
    if packet.kind is Kind.SUBSCRIBE:
        return Suback(int.from_bytes(packet.raw[packet.start : packet.start + 2]), (1,)).write(protocol)
    return Acknowledgement(Kind.PUBREC, Publish.read(packet, protocol).packet_id).write()


@contextlib.contextmanager
def scripted(answer: Answer) -> Iterator[ScriptedBroker]:
    broker = ScriptedBroker(answer)
    with socket.create_server(("127.0.0.1", 0)) as server:
        broker.port = int(server.getsockname()[1])
        thread = threading.Thread(target=broker.serve, args=(server,), name="scripted broker")
        thread.start()
        try:
            yield broker
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def but(**spoilt: object) -> Answer:
    """Yes to all but these questions."""
    return lambda asked, _: spoilt.get(asked, YES)


def refused_at_login(code: int, reason: str = "") -> Answer:
    said = write_properties({Property.REASON_STRING: reason}) if reason else b""
    return lambda _asked, protocol: Connack(code, properties=said).write(protocol)


def by_check(findings: Sequence[Finding]) -> dict[str, Finding]:
    """The worst finding of each check."""
    worst = sorted(findings, key=lambda finding: list(Verdict).index(finding.verdict))
    return {finding.check: finding for finding in worst}


class Impatient(socket.socket):
    """Waits for every answer but for one of which the scripted broker says, out of band, that it will not come."""

    def recv(self, size: int, flags: int = 0) -> bytes:
        readable, _, _ = select.select([self], [], [self], PATIENCE_S)
        if not readable:
            raise TimeoutError
        return super().recv(size, flags)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a scripted broker that does not answer. That the time is up by the clock is tried with a frozen one."""
    dial = visit.dial
    monkeypatch.setattr(visit, "dial", lambda broker: Impatient(fileno=dial(broker).detach()))


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize("asked", QUESTIONS)
def test_a_broker_that_ends_or_spoils_any_step_is_told_at_that_step(
    impatient: None, asked: str, how: str, protocol: str
) -> None:
    spoilt, words = SPOILT[how]
    # A broker that lets nobody in does so whether there is a will or not.
    questions = ("will", "login") if asked == "login" else (asked,)
    with scripted(but(**dict.fromkeys(questions, spoilt))) as broker:
        findings = examine(broker.port, MQTT_PROTOCOL=protocol)
    told = by_check(findings)
    steps = {QUESTIONS[2]: "subscribe", QUESTIONS[3]: "subscribe", QUESTIONS[4]: "publish", QUESTIONS[5]: "publish"}
    step = steps.get(asked, asked)
    if step == "publish" and protocol == "3.1.1":
        words = "cannot tell"  # the broker is not even asked
    assert told[step].verdict is (Verdict.WARNING if step in ("will", "publish") else Verdict.PROBLEM)
    assert words in told[step].text and told[step].advice
    assert "user" not in told[step].text and "MQTT_USER" not in told[step].advice
    others = {check for check, finding in told.items() if finding.verdict is not Verdict.OK} - {step}
    assert others == ({"publish"} if protocol == "3.1.1" and step not in ("login", "publish") else set())
    assert set(told) == set(ALL_STEPS[:LOGIN] if step == "login" else ALL_STEPS)


@pytest.mark.parametrize(
    ("code", "protocol", "words"),
    [
        (0x86, "5", "the broker refuses the login as screen: bad user name or password"),
        (4, "3.1.1", "the broker refuses the login as screen: bad user name or password"),
        (0x87, "5", "the broker refuses the login as screen: not authorised"),
        (5, "3.1.1", "the broker refuses the login as screen: not authorised"),
    ],
)
def test_that_the_login_is_wrong_is_said_where_the_broker_says_so(code: int, protocol: str, words: str) -> None:
    with scripted(refused_at_login(code)) as broker:
        findings = examine(broker.port, MQTT_USER="screen", MQTT_PASSWORD_BROKER="x" * 300, MQTT_PROTOCOL=protocol)
    assert last(findings, LOGIN) == words
    assert "MQTT_PASSWORD_BROKER" in findings[-1].advice
    # With a wrong password it is not asked again without a will, because there are brokers that count.
    assert len(broker.connects) == (1 if "password" in words else 2)


@pytest.mark.parametrize(
    ("answer", "words", "advice"),
    [
        (refused_at_login(0x97), "a limit of the broker is reached", "look into the broker's log"),
        (refused_at_login(0x8A, "two\nlines"), 'the broker has banned this client ("two?lines")', "lift that"),
        (refused_at_login(0x85), "does not accept our client id", "client ids that begin with infoscreen-"),
        (refused_at_login(0x9C), "asks us to use another server", "set MQTT_BROKER"),
        (but(will=b"\xe0\x02\x89\x00", login=b"\xe0\x02\x89\x00"), "the broker is busy", "look into the broker's log"),
    ],
)
def test_another_refusal_is_told_in_the_brokers_words_and_not_as_a_wrong_login(
    answer: Answer, words: str, advice: str
) -> None:
    with scripted(answer) as broker:
        findings = examine(broker.port, MQTT_USER="screen", MQTT_PASSWORD_BROKER="x", MQTT_PROTOCOL="5")
    assert words in last(findings, LOGIN)
    assert advice in findings[-1].advice and "MQTT_PASSWORD_BROKER" not in findings[-1].advice


@pytest.mark.parametrize("will", [Connack(0x87).write(Protocol.MQTT_5), CLOSED])
def test_a_will_that_the_broker_does_not_take_is_told_as_that_and_the_rest_goes_on(will: object) -> None:
    with scripted(but(will=will)) as broker:
        told = by_check(examine(broker.port, MQTT_PROTOCOL="5"))
    assert told["login"].verdict is told["subscribe"].verdict is told["publish"].verdict is Verdict.OK
    assert told["will"].verdict is Verdict.WARNING
    assert f"does not let this client leave a will on {TOPIC}/status" in told["will"].text
    assert f"publish retained messages on {TOPIC}/status" in told["will"].advice


def test_a_login_with_a_will_is_over_before_anything_else_and_leaves_nothing_behind() -> None:
    """Else a probe that is stopped in between would make the broker say that the client is offline."""
    with scripted(but()) as broker:
        examine(broker.port)
    with_will, without = (Hello.read(packet) for packet in broker.connects)
    assert with_will.will and not without.will
    assert broker.left == [True, True]
    assert without.properties.get(Property.SESSION_EXPIRY, 0) == 0


def test_a_broker_that_publishes_the_will_all_the_same_does_not_take_the_client_offline() -> None:
    with scripted(but()) as broker:
        examine(broker.port)
    will = parse_status(Hello.read(broker.connects[0]).payload)
    at = datetime(2026, 4, 3, tzinfo=UTC)
    birth = Status(PresenceReason.CONNECTED, CLIENT, str(uuid.uuid4()), will.boot_id, at)
    online = presence.hear(presence.Presence(), birth, at)
    assert presence.hear(online, will, at + timedelta(seconds=1)).is_online
    assert presence.hear(online, replace(will, timestamp=at + timedelta(seconds=1)), at).is_online is False


def test_a_probe_that_is_killed_at_any_moment_leads_to_no_will(
    broker: Broker, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker gets CONNECT and DISCONNECT in one piece, and is too slow for the probe."""
    monkeypatch.setattr(visit, "PATIENCE_S", 1)

    async def story() -> None:
        async with broker.observe(f"{TOPIC}/status", "end") as observer:
            with broker.frozen(), pytest.raises(Trouble, match="no answer within 1 s"):
                await asyncio.to_thread(greet_with_a_will, broker.port)
            broker.publish("end", "")
            assert [seen.topic for seen in await observer.until(lambda seen: seen.topic == "end")] == ["end"]

    run(story())
    assert f"{CLIENT}-probe" in broker.log(), "the broker has not read the CONNECT"


def greet_with_a_will(port: int) -> None:
    will = packets.Will(f"{TOPIC}/status", b"gone", 1, retain=True)
    settings = BrokerSettings("127.0.0.1", port, None, None, None)
    visit.greet(settings, packets.Connect(f"infoscreen-{CLIENT}-probe", 20, will=will), Protocol.MQTT_5)


# --- Versions


def only_3_1_1(no: object) -> Answer:
    return lambda _, protocol: YES if protocol is Protocol.MQTT_3_1_1 else no


@pytest.mark.parametrize(
    ("no", "verdict", "words"),
    [
        (b"\x20\x02\x00\x01", Verdict.OK, "does not accept this protocol version"),
        (Connack(0x84).write(Protocol.MQTT_5), Verdict.OK, "does not accept this protocol version"),
        (Connack(0x81).write(Protocol.MQTT_5), Verdict.OK, "cannot read what we sent"),
        (CLOSED, Verdict.WARNING, "closed the connection"),
        (RESET, Verdict.WARNING, "closed the connection"),
        (SILENT, Verdict.WARNING, "no answer within"),
        (RUBBISH, Verdict.WARNING, "was not MQTT"),
    ],
)
def test_a_broker_that_lets_us_in_with_the_older_version_only_is_asked_in_it(
    impatient: None, no: object, verdict: Verdict, words: str
) -> None:
    with scripted(only_3_1_1(no)) as broker:
        told = by_check(examine(broker.port))
    assert told["protocol"].verdict is verdict
    assert "speaks MQTT 3.1.1 only" in told["protocol"].text and words in told["protocol"].text
    assert told["subscribe"].verdict is Verdict.OK
    assert told["publish"].verdict is Verdict.WARNING and "cannot tell" in told["publish"].text


def test_where_commands_must_be_signed_a_broker_without_mqtt_5_is_a_problem() -> None:
    settings = config.load({"MQTT_BROKER": "127.0.0.1", "MQTT_TLS": "no", "CLIENT_UUID": CLIENT})
    with scripted(only_3_1_1(CLOSED)) as played:
        broker = replace(settings.broker, port=played.port)
        told = by_check(list(probe.examine(replace(settings, broker=broker, require_signature=True))))
    assert told["protocol"].verdict is Verdict.PROBLEM
    assert "every command is refused" in told["protocol"].text


@pytest.mark.parametrize(("set_to", "protocol"), [("5", Protocol.MQTT_5), ("3.1.1", Protocol.MQTT_3_1_1)])
def test_a_version_that_is_set_is_the_only_one_that_is_tried(set_to: str, protocol: Protocol) -> None:
    with scripted(but()) as broker:
        told = by_check(examine(broker.port, MQTT_PROTOCOL=set_to))
    assert told["protocol"].text == f"MQTT {set_to}, as MQTT_PROTOCOL says"
    assert {packets.protocol_of(packet) for packet in broker.connects} == {protocol}
    with scripted(but(will=CLOSED, login=CLOSED)) as broker:
        findings = examine(broker.port, MQTT_PROTOCOL=set_to)
    assert f"in MQTT {set_to}, which MQTT_PROTOCOL says" in last(findings, LOGIN)
    assert {packets.protocol_of(packet) for packet in broker.connects} == {protocol}


# --- What the broker sets


@pytest.mark.parametrize(
    ("said", "line", "costs"),
    [
        ((Property.SERVER_KEEP_ALIVE, 7), "keep-alive: 7 s", None),
        ((Property.RECEIVE_MAXIMUM, 3), "receive maximum: 3", None),
        ((Property.MAXIMUM_PACKET_SIZE, 8192), "largest packet: 8192 bytes", "packets of 8192 bytes at most"),
        ((Property.MAXIMUM_QOS, 1), "largest QoS: 1", None),
        ((Property.MAXIMUM_QOS, 0), "largest QoS: 0", "QoS 0 only"),
        ((Property.RETAIN_AVAILABLE, 0), "retained messages: no", "keeps no retained messages"),
        ((Property.SESSION_EXPIRY, 300), "session kept: for 300 s", "forgets this client 300 s after"),
        ((Property.WILDCARDS_AVAILABLE, 0), "wildcards: no", None),
        ((Property.SHARED_AVAILABLE, 0), "shared subscriptions: no", None),
        ((Property.SUBSCRIPTION_IDS_AVAILABLE, 0), "subscription identifiers: no", None),
        ((Property.ASSIGNED_CLIENT_ID, "other"), "client id: another one", "calls this client 'other'"),
    ],
    ids=lambda value: f"{value[0].name} {value[1]}" if isinstance(value, tuple) else "",
)
def test_each_property_of_a_connack_is_reported_and_what_costs_something_is_a_warning(
    said: tuple[Property, int | str], line: str, costs: str | None
) -> None:
    name, value = said
    connack = Connack(0, properties=write_properties({name: value})).write(Protocol.MQTT_5)
    with scripted(but(will=connack, login=connack)) as broker:
        findings = [finding for finding in examine(broker.port) if finding.check == "broker"]
    assert line in findings[0].text.split(", ") and findings[0].verdict is Verdict.OK
    assert [finding.verdict for finding in findings[1:]] == [Verdict.WARNING] * (costs is not None)
    assert costs is None or (costs in findings[1].text and findings[1].advice)


def test_a_connack_that_breaks_the_rules_is_no_answer() -> None:
    malformed = Connack(0, properties=b"\x7f").write(Protocol.MQTT_5)
    with scripted(but(will=malformed, login=malformed)) as broker:
        assert "the answer was not MQTT" in last(examine(broker.port, MQTT_PROTOCOL="5"), LOGIN)


@pytest.mark.parametrize(
    ("code", "line"), [(0x9A, "retained messages: no"), (0x9B, "largest QoS: 0")], ids=["retain", "QoS"]
)
def test_a_broker_that_refuses_how_the_will_is_sent_gets_a_lesser_one_as_from_the_agent(code: int, line: str) -> None:
    def answer(asked: str, protocol: Protocol) -> object:
        asks_for_it = asked == "will" and len(broker.connects) == 1
        return Connack(code).write(protocol) if asks_for_it else YES

    with scripted(answer) as broker:
        findings = examine(broker.port)
    told = [finding for finding in findings if finding.check == "broker"]
    assert line in told[0].text and [finding.verdict for finding in told[1:]] == [Verdict.WARNING]
    assert by_check(findings)["will"].verdict is Verdict.OK
    first, second = (Hello.read(packet) for packet in broker.connects[:2])
    assert (first.qos, first.retain) == (1, True)
    assert (second.qos, second.retain) == ((1, False) if code == 0x9A else (0, True))


def test_what_a_real_broker_sets_is_told(make_broker: MakeBroker) -> None:
    broker = make_broker("retain_available false\nmax_keepalive 10", listener="max_qos 0\nallow_anonymous true")
    told = by_check(examine(broker.tls_port))
    assert told["broker"].verdict is told["publish"].verdict is Verdict.WARNING
    assert told["will"].text.startswith("the broker lets us leave a will that is not retained")
    assert told["subscribe"].verdict is Verdict.PROBLEM and "QoS 0 only" in told["subscribe"].text
    assert "max_qos" in told["subscribe"].advice


@pytest.mark.parametrize("protocol", list(Protocol))
def test_a_subscription_with_qos_0_only_is_a_problem(protocol: Protocol) -> None:
    granted = Suback(1, (0,)).write(protocol)
    with scripted(but(**{f"{TOPIC}/commands": granted})) as broker:
        told = by_check(examine(broker.port, MQTT_PROTOCOL="5" if protocol is Protocol.MQTT_5 else "3.1.1"))
    assert told["subscribe"].verdict is Verdict.PROBLEM
    assert f"grants {TOPIC}/commands with QoS 0 only" in told["subscribe"].text


def test_a_broker_that_takes_no_qos_2_leaves_it_open_whether_publishing_is_allowed() -> None:
    with scripted(but(**{f"{TOPIC}/commands/ack": b"\xe0\x02\x9b\x00"})) as broker:
        assert "cannot tell" in last(examine(broker.port), len(ALL_STEPS), Verdict.WARNING)


# --- The doctor is the agent


@dataclass(frozen=True)
class Hello:
    """A CONNECT, read by the standard (MQTT 5, 3.1; MQTT 3.1.1, 3.1)."""

    protocol: Protocol
    is_clean: bool
    keep_alive_s: int
    properties: dict[Property, int | str]
    properties_bytes: int
    client_id: str
    will: str
    payload: bytes
    qos: int
    retain: bool
    will_properties: bytes
    username: str
    password: bytes

    @classmethod
    def read(cls, packet: Packet) -> Hello:
        protocol = packets.protocol_of(packet)
        rest = packet.raw[packet.start + 6 :]

        def take(count: int) -> bytes:
            nonlocal rest
            taken, rest = rest[:count], rest[count:]
            assert len(taken) == count
            return taken

        def binary() -> bytes:
            return take(int.from_bytes(take(2)))

        def properties() -> bytes:
            if protocol is Protocol.MQTT_3_1_1:
                return b""
            header = packets.read_length(rest, 0)
            assert header is not None
            take(header[1])
            return take(header[0])

        take(1)
        flags, keep_alive_s = take(1)[0], int.from_bytes(take(2))
        said, client_id = properties(), binary().decode()
        will_properties, will, payload = (properties(), binary(), binary()) if flags & 0x04 else (b"", b"", b"")
        username, password = binary() if flags & 0x80 else b"", binary() if flags & 0x40 else b""
        assert not rest
        return cls(
            protocol,
            bool(flags & 0x02),
            keep_alive_s,
            packets.read_properties(said),
            len(said),
            client_id,
            will.decode(),
            payload,
            flags >> 3 & 3,
            bool(flags & 0x20),
            will_properties,
            username.decode(),
            password,
        )

    def without_what_differs_each_time(self) -> Hello:
        status = json.loads(self.payload)
        assert status.pop("session_id") and status.pop("timestamp") and status.pop("boot_id")
        return replace(self, payload=json.dumps(status).encode())


def test_the_connect_of_the_doctor_is_that_of_the_agent(tmp_path: Path) -> None:
    login = {"MQTT_USER": "screen", "MQTT_PASSWORD_BROKER": "open sesame"}
    both = threading.Event()

    def too_new(_: str, protocol: Protocol) -> object:
        """In neither version anybody is let in."""
        if protocol is Protocol.MQTT_3_1_1:
            both.set()
            return b"\x20\x02\x00\x03"
        return b"\x20\x02\x00\x01"

    async def live(port: int) -> None:
        agent = SimulatedClient(tmp_path, CLIENT, port, Manner(), **login)
        living = asyncio.ensure_future(agents.run([agent]))
        await asyncio.to_thread(both.wait, PATIENCE_S)
        living.cancel()
        await asyncio.wait([living])

    with scripted(too_new) as of_agent, asyncio.Runner(loop_factory=FleetLoop) as runner:
        runner.run(live(of_agent.port))
    with scripted(too_new) as of_doctor:
        examine(of_doctor.port, **login)
    for protocol in Protocol:
        agent, doctor = (
            next(hello for hello in map(Hello.read, seen.connects) if hello.protocol is protocol)
            for seen in (of_agent, of_doctor)
        )
        assert (agent.username, agent.will, agent.qos, agent.retain) == ("screen", f"{TOPIC}/status", 1, True)
        assert doctor.client_id == f"{agent.client_id}-probe"
        assert (agent.is_clean, doctor.is_clean) == (False, True)
        same = replace(agent, client_id=doctor.client_id, is_clean=True)
        assert doctor.without_what_differs_each_time() == same.without_what_differs_each_time()
