"""The doctor's questions to a broker: what each is told, and that nobody else hears of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from infoscreen_reboot.client import config
from infoscreen_reboot.client.doctor import probe
from infoscreen_reboot.client.doctor.finding import Finding, Verdict
from tests.broker.conftest import Authority, Broker, MakeBroker, Run, tls_listener

CLIENT = "827ddfe1-7aef-4642-8f05-d962543065b6"
TOPIC = f"infoscreen/{CLIENT}"
ALL_STEPS = ["configuration", "name resolution", "TCP", "TLS", "login", "subscribe", "publish"]


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
    assert (subscribe.verdict, subscribe.text) == (Verdict.PROBLEM, f"the broker refuses {TOPIC}/command")
    assert publish.verdict is Verdict.OK
    assert examine(broker.port, COMMAND_COMPAT_TOPICS="no")[-2].verdict is Verdict.OK

    broker = make_broker(rights(tmp_path, every[0], ("publishClientSend", f"{TOPIC}/commands/ack")))
    assert last(examine(broker.port), len(ALL_STEPS)) == f"{TOPIC}/health: not authorised"


def test_what_is_no_answer_of_a_broker_is_named_at_its_step(tls_broker: Broker, authority: Authority) -> None:
    tls = {"MQTT_TLS": "yes", "MQTT_TLS_CA": str(authority.certificate)}
    assert "is TLS expected on this port?" in last(examine(tls_broker.port, **tls), 4)
    assert "is TLS expected on this port?" in last(examine(tls_broker.tls_port), 5)
    with played(b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"x" * 100) as port:
        assert "the answer was not MQTT" in last(examine(port), 5)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert "connection refused" in last(examine(closed.getsockname()[1]), 3)


def test_a_certificate_for_another_host_is_named(make_broker: MakeBroker, authority: Authority) -> None:
    broker = make_broker(listener=tls_listener(authority.issue("broker", "DNS:other.example")))
    told = last(examine(broker.tls_port, MQTT_TLS="yes", MQTT_TLS_CA=str(authority.certificate)), 4)
    assert "certificate is not valid for '127.0.0.1'" in told


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (b"\x20\x03\x00\x86\x00", "bad user name or password"),
        (b"\x20\x03\x00\x87\x00", "not authorised"),
        (b"\x20\x03\x00\x97\x00", "a limit of the broker is reached"),
        (b"\xe0\x02\x89\x00", "the broker is busy"),
    ],
)
def test_a_login_that_is_refused_is_told_in_words(refusal: bytes, words: str) -> None:
    with played(refusal) as port:
        assert words in last(examine(port, MQTT_USER="screen", MQTT_PASSWORD_BROKER="x" * 300), 5)


def test_a_broker_that_knows_only_the_older_version_is_asked_in_it_and_of_publishing_nothing_is_claimed() -> None:
    # CONNACK "unacceptable protocol version"; then in 3.1.1 a CONNACK, and a SUBACK for two topics.
    with played(b"\x20\x02\x00\x01", b"\x20\x02\x00\x00" + b"\x90\x04\x00\x01\x01\x01") as port:
        assert "cannot tell: the broker knows MQTT 3.1.1 only" in last(examine(port), 7, Verdict.WARNING)


def test_a_broker_that_takes_no_qos_2_leaves_it_open_whether_publishing_is_allowed() -> None:
    answers = b"\x20\x03\x00\x00\x00" + b"\x90\x05\x00\x01\x00\x01\x01" + b"\xe0\x02\x9b\x00"
    with played(answers) as port:
        assert "cannot tell" in last(examine(port), 7, Verdict.WARNING)


@contextlib.contextmanager
def played(*answers: bytes) -> Iterator[int]:
    """A port where each connection in turn gets those bytes once it has said something, whatever that was."""

    def serve() -> None:
        for answer in answers:
            connection, _ = server.accept()
            # One that leaves with bytes unread, because it has had enough, resets the connection.
            with connection, contextlib.suppress(ConnectionResetError):
                connection.recv(4096)
                connection.sendall(answer)
                while connection.recv(4096):
                    pass

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, name="played broker")
        thread.start()
        yield int(server.getsockname()[1])
        thread.join()
