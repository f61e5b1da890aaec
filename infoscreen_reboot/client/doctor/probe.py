"""Finds out, in small steps and as the agent's own user, whether the broker is there and lets the agent in."""

from __future__ import annotations

import json
import socket
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from infoscreen_reboot.client import config, greeting, kernel, lasting
from infoscreen_reboot.client.config import Settings
from infoscreen_reboot.client.doctor import visit
from infoscreen_reboot.client.doctor.finding import Finding, ok, problem, warning
from infoscreen_reboot.client.doctor.visit import Cause, Trouble, Visit
from infoscreen_reboot.contract import ack
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.contract.telemetry import Executor
from infoscreen_reboot.contract.topics import Topics
from infoscreen_reboot.mqtt import packets, reasons
from infoscreen_reboot.mqtt.manner import PROTOCOLS, UNWILLING
from infoscreen_reboot.mqtt.messages import BrokerSettings
from infoscreen_reboot.mqtt.packets import Connect, MalformedPacket, Property, Protocol, Will
from infoscreen_reboot.mqtt.paho_client import MAX_PACKET_BYTES
from infoscreen_reboot.mqtt.terms import NEVER_EXPIRES, UNLIMITED_BYTES, Terms

_LOGIN_ADVICE = (
    "correct MQTT_USER and MQTT_PASSWORD_BROKER (or the credential), MQTT_TLS_CERT where the broker wants one, or the "
    "broker's users"
)
_LOG_ADVICE = "look into the broker's log for the reason; the agent tries again by itself"
# What to do about a refused login, by what the broker says (MQTT 5, 2.4).
_ADVICE = {
    reasons.BAD_LOGIN: _LOGIN_ADVICE,
    reasons.NOT_AUTHORISED: _LOGIN_ADVICE,
    reasons.PROTOCOL_VERSION: "set MQTT_PROTOCOL=auto, or let the broker speak the version that is asked for",
    0x85: "let the broker accept the client ids that begin with infoscreen-",
    0x8A: "find out in the broker why it has banned this client, and lift that",
    **dict.fromkeys((0x9C, 0x9D), "set MQTT_BROKER to that other server; the broker's administrator knows its name"),
}
# With these a broker may refuse the version alone; the agent then tries the next one.
_MAYBE_THE_VERSION = (reasons.PROTOCOL_VERSION, *UNWILLING)
# When our will was written. amqtt 0.12 publishes the will of a client that leaves very soon. Who hears this one takes
# it for the late will of a session that has ended, and not for a loss of the agent's.
_LONG_AGO = datetime.fromtimestamp(0, UTC)
# An ack may be so large, with its topic. Health is smaller.
_NEEDED_BYTES = ack.MAX_BYTES + 128
_TERMS_ADVICE = "allow more in the broker if it can; mosquitto.conf has max_qos, retain_available and max_packet_size"


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
        text = f"{broker.host} has no address: {visit.words(error)}"
        yield problem("name resolution", text, "correct MQTT_BROKER, or the name server in /etc/resolv.conf")
        return
    yield ok("name resolution", f"{broker.host} is {', '.join(dict.fromkeys(str(one[4][0]) for one in found))}")
    try:
        sock = visit.reach(broker)
    except OSError as error:
        advice = "correct MQTT_BROKER and MQTT_PORT, start the broker, or open the firewall between"
        yield problem("TCP", f"{broker.address} cannot be reached: {visit.words(error)}", advice)
        return
    yield ok("TCP", f"{broker.address} accepts connections")
    try:
        sock = visit.secure(sock, broker)
    except (OSError, ValueError) as error:
        advice = (
            "set MQTT_TLS_CA to the authority of the broker's certificate, MQTT_BROKER to the name in it, and "
            "MQTT_PORT to the port with TLS"
        )
        yield problem("TLS", visit.words(error), advice)
        return
    finally:
        sock.close()
    yield ok("TLS", f"the broker proves to be {broker.host}" if broker.tls else "not used: MQTT_TLS is off")
    yield from _talk(settings)


@dataclass(frozen=True, slots=True)
class _Agreement:
    """How the broker lets us in.

    `will` is what it takes of ours, `earlier` what stood in the way of a newer version.
    """

    protocol: Protocol
    terms: Terms
    will: Will | None
    earlier: Trouble | None


def _talk(settings: Settings) -> Iterator[Finding]:
    """Check version, login, will and rights."""
    topics = Topics(settings.client_uuid)
    login = "as " + settings.broker.username if settings.broker.username else "without a user name"
    will = greeting.will(settings.client_uuid, str(uuid.uuid4()), kernel.boot_id(), _LONG_AGO)
    try:
        agreed, refused = _meet(settings, Will(will.topic, will.payload, will.qos, will.retain))
    except Trouble as trouble:
        yield _not_let_in(settings.broker, login, trouble)
        return
    yield ok("login", f"the broker lets us in {login}")
    yield _judge_version(settings, agreed)
    if refused is None:
        how = "" if agreed.will is not None and agreed.will.retain else " that is not retained"
        yield ok("will", f"the broker lets us leave a will{how} on {topics.status}")
    else:
        text = (
            f"the broker does not let this client leave a will on {topics.status}: {refused}. The agent goes without, "
            "and nobody is told when its connection is lost"
        )
        advice = f"let it publish retained messages on {topics.status} in the broker's access rules"
        yield warning("will", text, advice)
    yield from _judge_terms(settings.broker, agreed)
    visitor = Visit(settings.broker, _connect(settings, agreed.protocol, None, is_kept=False), agreed.protocol)
    yield from _subscriptions(visitor, [topics.commands] + [topics.transitional_command] * settings.compat_topics)
    yield _rights(visitor, agreed, [topics.commands_ack, topics.health])
    visitor.leave()


def _meet(settings: Settings, will: Will) -> tuple[_Agreement, Trouble | None]:
    """Returns also why the broker does not take the will, if it lets us in without one. Raises Trouble."""
    try:
        return _agree(settings, will), None
    except Trouble as refused:
        if refused.code == reasons.BAD_LOGIN:
            raise  # not tried twice, because there are brokers that count
        return _agree(settings, None), refused


def _connect(settings: Settings, protocol: Protocol, will: Will | None, *, is_kept: bool) -> Connect:
    """The agent's own, but for two things: its id would throw the agent out, and the session is a new one.

    `is_kept` asks for a session that does not end with the connection: only then the broker says for how long it keeps
    the agent's.
    """
    broker = settings.broker
    wanted: dict[Property, int | str] = {Property.MAXIMUM_PACKET_SIZE: MAX_PACKET_BYTES}
    if is_kept:
        wanted[Property.SESSION_EXPIRY] = NEVER_EXPIRES
    return Connect(
        f"{greeting.client_id(settings.client_uuid)}-probe",
        broker.keep_alive_s,
        broker.username,
        broker.password,
        will,
        packets.write_properties(wanted) if protocol is Protocol.MQTT_5 else b"",
    )


def _agree(settings: Settings, will: Will | None) -> _Agreement:
    """Log in with the newest version that the broker speaks; raises the Trouble of the last one that was tried."""
    earlier = None
    for protocol in PROTOCOLS[settings.broker.protocol]:
        try:
            terms, will = _greet(settings, protocol, will)
        except Trouble as trouble:
            if trouble.cause is Cause.SAID and trouble.code not in _MAYBE_THE_VERSION:
                raise
            earlier = trouble
        else:
            return _Agreement(protocol, terms, will, earlier)
    assert earlier is not None
    raise earlier


def _greet(settings: Settings, protocol: Protocol, will: Will | None) -> tuple[Terms, Will | None]:
    """If the broker refuses how the will is to be published, it gets one that asks for less."""
    try:
        connack = visit.greet(settings.broker, _connect(settings, protocol, will, is_kept=True), protocol)
        return Terms.read(connack), will
    except MalformedPacket as error:
        raise Trouble(Cause.RUBBISH, "the answer was not MQTT") from error
    except Trouble as trouble:
        lesser = will and _lesser(will, trouble.code)
        if lesser == will:
            raise
        terms, lesser = _greet(settings, protocol, lesser)
        if trouble.code == reasons.RETAIN_NOT_SUPPORTED:
            return replace(terms, has_retained=False), lesser
        return replace(terms, maximum_qos=0), lesser


def _lesser(will: Will, refusal: int | None) -> Will:
    """The will that the agent leaves after a broker's no to the one that it would like to leave."""
    match refusal:
        case reasons.RETAIN_NOT_SUPPORTED:
            return replace(will, retain=False)
        case reasons.QOS_NOT_SUPPORTED:
            return replace(will, qos=0)
    return will


def _not_let_in(broker: BrokerSettings, login: str, trouble: Trouble) -> Finding:
    is_set = len(PROTOCOLS[broker.protocol]) == 1
    tried = f"{broker.protocol}, which MQTT_PROTOCOL says" if is_set else "5 and 3.1.1"
    secure = "; if this port expects TLS, set MQTT_TLS=yes"
    if broker.tls:
        # With TLS 1.3 a broker that misses the certificate says so only after the handshake.
        secure = "; if the broker wants a certificate of this client, set MQTT_TLS_CERT and MQTT_TLS_KEY"
    match trouble.cause:
        case Cause.SAID if trouble.code in (reasons.BAD_LOGIN, reasons.NOT_AUTHORISED):
            return problem("login", f"the broker refuses the login {login}: {trouble}", _LOGIN_ADVICE)
        case Cause.SAID:
            text = f"the broker refuses this client: {trouble}"
            return problem("login", text, _ADVICE.get(trouble.code or 0, _LOG_ADVICE))
        case Cause.CLOSED:
            advice = f"look into the broker's log for the reason{secure}"
        case Cause.SILENT:
            advice = f"look whether the broker hangs, and whether MQTT_PORT is its port{secure}"
        case Cause.RUBBISH:
            advice = f"correct MQTT_PORT, for what is there is no MQTT broker{secure}"
        case Cause.NETWORK:
            advice = f"{_LOG_ADVICE}{secure}"
    return problem("login", f"there is no answer in MQTT {tried}: {trouble}", advice)


def _judge_version(settings: Settings, agreed: _Agreement) -> Finding:
    if agreed.earlier is None:
        is_set = len(PROTOCOLS[settings.broker.protocol]) == 1
        version = "5" if agreed.protocol is Protocol.MQTT_5 else "3.1.1"
        return ok("protocol", f"MQTT {version}" + ", as MQTT_PROTOCOL says" * is_set)
    text = f"the broker speaks MQTT 3.1.1 only; in MQTT 5: {agreed.earlier}"
    if settings.require_signature:
        advice = "let the broker speak MQTT 5, or set COMMAND_REQUIRE_SIGNATURE=no"
        return problem("protocol", f"{text}. Signatures need MQTT 5, so every command is refused", advice)
    if agreed.earlier.cause is Cause.SAID:
        return ok("protocol", text)
    return warning("protocol", text, "set MQTT_PROTOCOL=3.1.1, or each connection begins with a try that fails")


def _judge_terms(broker: BrokerSettings, agreed: _Agreement) -> Iterator[Finding]:
    """What the broker sets with its CONNACK, and what of it costs this client something."""
    if agreed.protocol is Protocol.MQTT_3_1_1:
        yield ok("broker", "in MQTT 3.1.1 it does not say what it allows")
        return
    terms = agreed.terms
    kept = "until it is ended" if terms.session_expiry_s is None else f"for {terms.session_expiry_s} s"
    size = f"{terms.maximum_packet_bytes} bytes" if terms.maximum_packet_bytes < UNLIMITED_BYTES else "any"
    said = {
        "keep-alive": f"{terms.keep_alive_s or broker.keep_alive_s} s",
        "receive maximum": str(terms.receive_maximum),
        "largest packet": size,
        "largest QoS": str(terms.maximum_qos),
        "retained messages": _yes(terms.has_retained),
        "session kept": kept,
        "wildcards": _yes(terms.has_wildcards),
        "shared subscriptions": _yes(terms.has_shared_subscriptions),
        "subscription identifiers": _yes(terms.has_subscription_ids),
        "client id": "as asked" if terms.client_id is None else "another one",
    }
    yield ok("broker", ", ".join(f"{name}: {value}" for name, value in said.items()))
    for sentence in terms.shortcomings():
        yield warning("broker", sentence, _TERMS_ADVICE)
    if terms.maximum_packet_bytes < _NEEDED_BYTES:
        text = (
            f"the broker takes packets of {terms.maximum_packet_bytes} bytes at most; an ack may have {_NEEDED_BYTES}"
        )
        yield warning("broker", text, _TERMS_ADVICE)


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


def _subscriptions(visitor: Visit, topics: Sequence[str]) -> Iterator[Finding]:
    advice = f"let it subscribe to {', '.join(topics)} in the broker's access rules"
    sound = True
    for topic in topics:
        try:
            qos = visitor.subscribe(topic)
        except Trouble as trouble:
            verb = "refuses" if trouble.cause is Cause.SAID else "does not grant"
            yield problem("subscribe", f"the broker {verb} {topic}: {trouble}", advice)
        else:
            if qos >= 1:
                continue
            text = f"the broker grants {topic} with QoS 0 only: a command is lost if the connection breaks on its way"
            yield problem("subscribe", text, "let the broker grant QoS 1; in mosquitto.conf it is max_qos")
        sound = False
    if sound:
        yield ok("subscribe", f"the broker grants {', '.join(topics)}")


def _rights(visitor: Visit, agreed: _Agreement, topics: Sequence[str]) -> Finding:
    if agreed.protocol is Protocol.MQTT_3_1_1:
        text = "cannot tell: in MQTT 3.1.1 a broker answers yes also to what it drops"
        return warning("publish", text, f"look into the broker's access rules for {', '.join(topics)}")
    if agreed.terms.maximum_qos < 2:
        text = "cannot tell: the broker does not take QoS 2, with which the doctor asks without publishing anything"
        return warning("publish", text, f"look into the broker's access rules for {', '.join(topics)}")
    for topic in topics:
        advice = f"let it publish on {', '.join(topics)} in the broker's access rules"
        try:
            visitor.offer(topic)
        except Trouble as trouble:
            text = f"{topic}: {trouble}"
            if trouble.code == reasons.NOT_AUTHORISED:
                return problem("publish", text, advice)
            return warning("publish", f"cannot tell for {text}", advice)
    return ok("publish", f"the broker takes {', '.join(topics)}")
