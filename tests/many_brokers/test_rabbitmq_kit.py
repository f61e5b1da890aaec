"""The kit for RabbitMQ of docs/examples/rabbitmq: who may do what, tried, by both ways in."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infoscreen_reboot.client import config
from infoscreen_reboot.client.doctor import probe, visit
from infoscreen_reboot.client.doctor.finding import Verdict
from infoscreen_reboot.contract.topics import Leaf, Topics
from tests.broker.kit import COMMANDS, TOLD, others
from tests.many_brokers.kit import (
    ADMIN,
    CLIENT,
    CONTROLLER,
    EXAMPLES,
    KIT,
    NAME,
    OTHER,
    PASSWORD,
    PORT,
    Cluster,
    commands,
)
from tests.many_brokers.servers import START_S

WAYS = ("login", "certificate")
ELSEWHERE = [f"infoscreen/{CLIENT}/other", f"infoscreen/{CLIENT}", "infoscreen", "other/topic"]
EVERY = sorted(COMMANDS | TOLD | others(COMMANDS | TOLD)) + ELSEWHERE
CLEARED = {f"infoscreen/{client}/{leaf}" for client in (CLIENT, OTHER) for leaf in ("status", "boot", "service_failed")}
MAY_SAY = {CLIENT: TOLD, CONTROLLER: COMMANDS | others(COMMANDS), ADMIN: CLEARED}
EVERYTHING = {leaf.filter for leaf in Leaf} | {"infoscreen/#"}
MAY_HEAR = {CLIENT: COMMANDS, CONTROLLER: EVERYTHING, ADMIN: EVERYTHING}
ASKED = [*EVERY, *sorted(EVERYTHING), "#", "+/+/+", "infoscreen/+/commands", f"infoscreen/{CLIENT}/#"]
ASKED += [f"+/{CLIENT}/commands"]
ID = {CLIENT: f"infoscreen-{CLIENT}", CONTROLLER: "infoscreen-reboot-controller", ADMIN: ADMIN}


def came(cluster: Cluster, way: str, who: str) -> list[str]:
    return cluster.by_login(who) if way == "login" else cluster.by_certificate(who)


def says(address: list[str], topic: str) -> str:
    """What was complained of, in MQTT 5; nothing if the broker took it."""
    argv = ["mosquitto_pub", *address, "-V", "mqttv5", "-q", "1", "-t", topic, "-m", "word"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=START_S, check=False)
    return done.stderr.strip() or ("" if done.returncode == 0 else f"ended with {done.returncode}")


def hears(address: list[str], client_id: str, topic: str) -> bool:
    """Whether it is allowed to subscribe, with that client id and no session that stays."""
    argv = ["mosquitto_sub", *address, "-V", "mqttv5", "-i", client_id, "-q", "1", "-t", topic, "-E"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=START_S, check=False)
    return done.returncode == 0 and not done.stderr


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("who", MAY_SAY)
def test_who_may_publish_where(cluster: Cluster, way: str, who: str) -> None:
    refused = {topic: says(came(cluster, way, who), topic) for topic in EVERY}
    assert {topic for topic, words in refused.items() if not words} == MAY_SAY[who], refused


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("who", MAY_HEAR)
def test_who_may_subscribe_to_what(cluster: Cluster, way: str, who: str) -> None:
    granted = {topic for topic in ASKED if hears(came(cluster, way, who), ID[who], topic)}
    wanted = {topic for topic in ASKED if topic in MAY_HEAR[who]}
    if who != CLIENT:
        wanted |= {topic for topic in ASKED if topic.startswith("infoscreen/")}
    assert granted == wanted


def test_nobody_reads_in_the_session_of_somebody_else(cluster: Cluster) -> None:
    topic = Topics(OTHER).commands
    assert not hears(cluster.by_login(OTHER), ID[CLIENT], topic)
    assert hears(cluster.by_login(OTHER), f"infoscreen-{OTHER}", topic)


def test_who_takes_over_a_clients_id_does_not_get_what_waits_for_it(cluster: Cluster, tmp_path: Path) -> None:
    session = ["-i", ID[CLIENT], "-c", "-V", "mqttv5", "-x", "300", "-q", "1"]
    keep = ["mosquitto_sub", *cluster.by_login(CLIENT), *session, "-t", Topics(CLIENT).commands]
    subprocess.run([*keep, "-E"], check=True, timeout=START_S)
    assert says(cluster.by_login(CONTROLLER), Topics(CLIENT).commands) == ""
    thief = ["mosquitto_sub", *cluster.by_login(OTHER), "-i", ID[CLIENT], "-V", "mqttv5", "-t", Topics(OTHER).commands]
    stolen = subprocess.run(
        [*thief, "-q", "1", "-C", "1", "-W", "2"], capture_output=True, timeout=START_S, check=False
    )
    assert stolen.stdout == b""
    keep += ["-C", "1", "-W", f"{START_S:.0f}"]
    heard = subprocess.run(keep, capture_output=True, timeout=2 * START_S, check=False)
    assert heard.stdout == b"word\n"


INTRUDERS: dict[str, Callable[[Cluster, Path], list[str]]] = {
    "nobody at all": lambda cluster, _: cluster.by_login(CLIENT)[:-4],
    "a wrong password": lambda cluster, _: [*cluster.by_login(CLIENT)[:-1], "open barley"],
    "an empty password": lambda cluster, _: [*cluster.by_login(CLIENT)[:-1], ""],
    "an unknown user": lambda cluster, _: cluster.by_login("33333333-2222-4333-8444-555555555555"),
    "RabbitMQ's own guest": lambda cluster, _: [*cluster.by_login("guest")[:-1], "guest"],
    "without TLS": lambda cluster, _: ["-h", NAME, "-p", str(PORT), "-u", CLIENT, "-P", PASSWORD],
    "a certificate of another authority": lambda cluster, folder: foreign(cluster, folder),
    "the broker's own certificate": lambda cluster, _: cluster.by_certificate("broker"),
}


def foreign(cluster: Cluster, folder: Path) -> list[str]:
    for arguments in (("authority",), ("user", CLIENT)):
        script = EXAMPLES / "mosquitto/certificates"
        subprocess.run([script, *arguments], cwd=folder, check=True, capture_output=True)
    shown = [*cluster.by_certificate(CLIENT)]
    at = shown.index("--cert")
    return [*shown[:at], "--cert", str(folder / f"{CLIENT}.crt"), "--key", str(folder / f"{CLIENT}.key")]


@pytest.mark.parametrize("who", INTRUDERS)
def test_who_does_not_get_in(cluster: Cluster, tmp_path: Path, who: str) -> None:
    assert says(INTRUDERS[who](cluster, tmp_path), Topics(CLIENT).health)


def test_a_packet_that_is_too_long_is_not_taken(cluster: Cluster, tmp_path: Path) -> None:
    for size, taken in ((60_000, True), (140_000, False)):
        (tmp_path / "long").write_bytes(b"x" * size)
        argv = ["mosquitto_pub", *cluster.by_login(CLIENT), "-q", "1", "-t", Topics(CLIENT).health]
        done = subprocess.run([*argv, "-f", tmp_path / "long"], capture_output=True, timeout=START_S, check=False)
        assert (done.returncode == 0) == taken, done.stderr


def test_a_session_is_on_all_three_nodes_and_stays_until_somebody_takes_it_away(cluster: Cluster) -> None:
    scrapped = "55555555-2222-4333-8444-555555555555"
    cluster.do(f"./user {scrapped}")
    keep = ["mosquitto_sub", *cluster.by_login(scrapped), "-i", f"infoscreen-{scrapped}", "-c", "-V", "mqttv5", "-x"]
    subprocess.run([*keep, "4294967295", "-q", "1", "-t", Topics(scrapped).commands, "-E"], check=True, timeout=START_S)
    (queue,) = queues_of(cluster, scrapped)
    assert queue["type"] in ("quorum", "rabbit_quorum_queue")
    assert len(queue["members"]) == 3
    assert "x-expires" not in [argument[0] for argument in queue["arguments"]]
    for line in commands("A client that is gone for good"):
        cluster.do(line.replace(CLIENT, scrapped))
    assert queues_of(cluster, scrapped) == []


def queues_of(cluster: Cluster, client: str) -> list[dict[str, Any]]:
    columns = "name", "type", "members", "arguments"
    listed = json.loads(cluster.nodes[0].ctl("rabbitmqctl", "list_queues", "--formatter=json", *columns))
    return [queue for queue in listed if client in queue["name"]]


def test_nodes_listen_for_mqtt_over_tls_and_for_each_other(cluster: Cluster) -> None:
    listed = json.loads(cluster.nodes[0].ctl("rabbitmq-diagnostics", "listeners", "--formatter=json"))
    assert {one["protocol"] for one in listed["listeners"]} == {"clustering", "mqtt/ssl"}


def test_the_doctor_finds_nothing_wrong(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visit, "PATIENCE_S", START_S)
    settings = config.load(
        {
            "MQTT_BROKER": NAME,
            "MQTT_TLS_CA": str(cluster.certs / "ca.crt"),
            "MQTT_USER": CLIENT,
            "MQTT_PASSWORD_BROKER": PASSWORD,
            "CLIENT_UUID": CLIENT,
        }
    )
    findings = list(probe.examine(settings))
    # It tries the right to publish with QoS 2, which RabbitMQ does not have: it says that it cannot tell.
    assert [finding.check for finding in findings if finding.verdict is not Verdict.OK] == ["publish"], findings
    assert Verdict.PROBLEM not in {finding.verdict for finding in findings}


def test_a_stolen_clients_login_can_be_taken_away(cluster: Cluster) -> None:
    stolen = "44444444-2222-4333-8444-555555555555"
    cluster.do(f"./user {stolen}")
    topic = Topics(stolen).health
    assert [says(came(cluster, way, stolen), topic) for way in WAYS] == ["", ""]
    for line in commands("A client that was stolen"):
        cluster.do(line.replace(CLIENT, stolen))
    assert all(says(came(cluster, way, stolen), topic) for way in WAYS)


def test_no_user_is_made_of_a_name_that_is_nobodys(cluster: Cluster) -> None:
    for name in ("infoscreen", "+", ".*", CLIENT.upper(), f"{CLIENT}x", f"x\n{CLIENT}", ""):
        done = subprocess.run([KIT / "user", name], input=b"x\n", capture_output=True, timeout=START_S, check=False)
        assert done.returncode == 1 and b"is neither a UUID" in done.stderr, name
