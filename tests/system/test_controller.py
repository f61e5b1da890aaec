"""A controller, mosquitto with the broker kit, and a client of each suite: all from packages, and over TLS."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.system.conftest import MACHINES
from tests.system.hands import stop_slowly
from tests.system.kit import set_up_broker
from tests.system.server import PASSWORD, SIGNING_KEY, UNIT, Server, Stream
from tests.system.test_signature import KEYS, Key
from tools.lab import tree
from tools.lab.container import connect
from tools.lab.machine import AGENT, POWERED_OFF, Machine, layers_of_server
from tools.lab.patience import Patience

CA = "/etc/{}/broker-ca.crt"
BROKER = {"MQTT_BROKER": "broker.example", "MQTT_USER": "infoscreen-controller"}
BROKER["MQTT_TLS_CA"] = CA.format("infoscreen-reboot-controller")
SHUT_DOWN = ["queued", "sent", "accepted", "execution_started", "completed"]
REBOOTED = [*SHUT_DOWN[:-1], "awaiting_reconnect", "completed"]


@dataclass(frozen=True, slots=True)
class Site:
    """Each client has a cable of its own to the server; all are up, accepted and online."""

    server: Server
    trixie: Machine
    bookworm: Machine
    folder: Path

    @property
    def clients(self) -> tuple[Machine, Machine]:
        return self.trixie, self.bookworm


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    tree.ensure_host()
    debs = tree.build_all("trixie")
    folder = tmp_path_factory.mktemp("site")
    with ExitStack() as stack:
        machine = stack.enter_context(Machine("trixie", debs[0], layers=layers_of_server("trixie", debs)))
        clients = [stack.enter_context(Machine(s, tree.build(s), auto_restart=True)) for s in ("trixie", "bookworm")]
        machine.boot()
        machine.wait_booted()
        certificates = folder / "certificates"
        certificates.mkdir()
        set_up_broker(machine, certificates)
        server = Server(machine)
        machine.run("install", "-m", "644", "/root/kit/ca.crt", BROKER["MQTT_TLS_CA"])
        machine.write(PASSWORD, "infoscreen-controller-secret\n", 0o600)
        server.configure(**BROKER)
        server.log_in()
        for number, client in enumerate(clients):
            prepare_client(server, client, number, certificates / "ca.crt")
        machine.run("systemctl", "reload", "mosquitto")
        for client in clients:
            client.boot()
        for client in clients:
            client.wait_booted()
            # What is heard in one step of the engine is one to it: it would not see the client away.
            stop_slowly(client, 3)
            assert server.wait_online(client.uuid)["standing"] == "unknown"
            server.call("POST", f"/clients/{client.uuid}/standing", {"standing": "accepted"})
            server.call("PATCH", f"/clients/{client.uuid}", {"name": client.suite, "labels": {"site": "lab"}})
        yield Site(server, clients[0], clients[1], folder)


def prepare_client(server: Server, client: Machine, number: int, ca: Path) -> None:
    """As the kit's README has it, with a login of its own."""
    address, _ = connect(server.machine, client, number)
    client.write("/etc/hosts", f"{address} broker.example\n")
    client.write(CA.format("infoscreen-reboot"), ca.read_text())
    client.write("/etc/credstore/mqtt-password-broker", f"{client.uuid}-secret\n", 0o600)
    client.configure(
        MQTT_BROKER="broker.example",
        MQTT_TLS_CA=CA.format("infoscreen-reboot"),
        MQTT_USER=client.uuid,
        CLIENT_UUID=client.uuid,
    )
    client.set_clock_synchronised()
    passwords = "/etc/mosquitto/infoscreen.passwd"
    server.machine.run("mosquitto_passwd", "-b", passwords, client.uuid, f"{client.uuid}-secret")


@pytest.fixture
def site(everything: Site, request: pytest.FixtureRequest) -> Site:
    request.node.stash[MACHINES] += [everything.server.machine, *everything.clients]
    return everything


def check_a_reboot_is_proved(server: Server, command_id: str, client: Machine, old_boot_id: str) -> None:
    """By two boot ids, in what the controller says of it, and it says by which rules it was sent."""
    told = server.call("GET", f"/commands/{command_id}/explain")
    evidence = told["command"]["evidence"]
    assert (told["command"]["state"], evidence["proof"]) == ("completed", "boot_id")
    assert (evidence["started_boot_id"], evidence["ended_boot_id"]) == (old_boot_id, client.boot_id)
    assert old_boot_id != client.boot_id
    times = [evidence[f"{step}_at"] for step in ("sent", "published", "accepted", "started", "down", "back", "ended")]
    assert None not in times, evidence
    assert {rule["rule"]: rule["hold"] for rule in told["rules"]}["lockout"] is None
    assert steps([event["kind"] for event in told["events"]]) == REBOOTED


def steps(kinds: list[str]) -> list[str]:
    """Without `published`, which an acknowledgement may overtake, and what its presence says between two steps."""
    assert kinds.count("published") == 1, kinds
    return [kind for kind in kinds if kind not in ("published", "seen")]


def follow(stream: Stream, client: Machine, command_id: str, boots: int) -> None:
    """Its reboot, live, and the machine's own word for it."""
    assert steps(stream.wait_for(command_id, "completed", 90)) == REBOOTED
    client.wait_booted(boots + 1)
    assert len(client.lives) == boots + 1


def wait_held(server: Server, client: Machine, rule: str) -> None:
    """Until that rule holds a reboot of the client."""
    wish = {"clients": [client.uuid], "action": "reboot_host"}
    patience = Patience(60)
    while server.call("POST", "/batches/preview", wish)["held_by_rule"] != {rule: 1}:
        assert not patience.is_over, f"{rule} holds nothing"
        threading.Event().wait(0.2)


def test_a_reboot_of_each_client_by_the_api_is_seen_live_and_proved(site: Site) -> None:
    server = site.server
    old = {client.uuid: (client.boot_id, len(client.lives)) for client in site.clients}
    with server.watching() as stream:
        made = {
            client.uuid: server.call("POST", "/commands", {"client_uuid": client.uuid, "action": "reboot_host"})["id"]
            for client in site.clients
        }
        for client in site.clients:
            follow(stream, client, made[client.uuid], old[client.uuid][1])
    for client in site.clients:
        check_a_reboot_is_proved(server, made[client.uuid], client, old[client.uuid][0])


def test_a_reboot_of_all_by_the_command_line_ends_with_0_and_is_explained(site: Site) -> None:
    server = site.server
    old = {client.uuid: (client.boot_id, len(client.lives)) for client in site.clients}
    told = server.ctl("reboot", "--selector", "site=lab", "--reason", "by hand", "--yes", "2")
    assert {"trixie", "bookworm"} <= set(told.split()), told
    made = json.loads(server.ctl("commands", "--limit", "2", "--json"))
    assert {(each["via"], each["reason"], each["state"]) for each in made} == {("cli", "by hand", "completed")}
    of_client = {each["client_uuid"]: each["id"] for each in made}
    for client in site.clients:
        boot_id, boots = old[client.uuid]
        client.wait_booted(boots + 1)
        explained = json.loads(server.ctl("explain", of_client[client.uuid], "--json"))
        assert explained["command"]["evidence"]["proof"] == "boot_id"
        check_a_reboot_is_proved(server, of_client[client.uuid], client, boot_id)


def test_only_a_key_reboots_a_client_that_wants_signatures(site: Site) -> None:
    server, client = site.server, site.trixie
    key = Key(site.folder, "2026a")
    client.write(f"{KEYS}/{key.name}.pem", key.public)
    client.configure(COMMAND_REQUIRE_SIGNATURE="yes")
    client.run("systemctl", "restart", AGENT)
    order = {"client_uuid": client.uuid, "action": "reboot_host"}
    wait_held(server, client, "signature")  # from its next health on
    status, answer = server.ask("POST", "/api/v1/commands", order)
    assert (status, answer["kind"], answer["rule"]) == (409, "held", "signature"), answer

    server.machine.write(SIGNING_KEY, key.private, 0o600)
    server.configure(**BROKER, COMMAND_SIGNING_KEY_ID=key.name)
    server.wait_online(client.uuid)
    old, boots = client.boot_id, len(client.lives)
    with server.watching() as stream:
        made = server.call("POST", "/commands", order)["id"]
        follow(stream, client, made, boots)
    check_a_reboot_is_proved(server, made, client, old)


def test_a_shutdown_is_over_when_the_client_is_off(site: Site) -> None:
    server, client = site.server, site.bookworm
    order: dict[str, Any] = {"client_uuid": client.uuid, "action": "shutdown_host", "someone_is_there": True}
    old = client.boot_id
    with server.watching() as stream:
        made = server.call("POST", "/commands", order)["id"]
        assert steps(stream.wait_for(made, "completed", 90)) == SHUT_DOWN
    assert client.wait_down() == POWERED_OFF
    evidence = server.call("GET", f"/commands/{made}/explain")["command"]["evidence"]
    assert (evidence["started_boot_id"], evidence["ended_boot_id"]) == (old, old)
    check_it_is_off_and_come(server, client, old)


def test_a_shutdown_by_the_command_line_ends_with_0_and_is_explained(site: Site) -> None:
    """Of the client that takes signed commands only."""
    server, client = site.server, site.trixie
    old = client.boot_id
    server.ctl("shutdown", client.suite, "--someone-is-there", "--yes", "1")
    assert client.wait_down() == POWERED_OFF
    [made] = json.loads(server.ctl("commands", "--limit", "1", "--json"))
    explained = json.loads(server.ctl("explain", made["id"], "--json"))
    assert (explained["command"]["action"], explained["command"]["state"]) == ("shutdown_host", "completed")
    assert steps([event["kind"] for event in explained["events"]]) == SHUT_DOWN
    check_it_is_off_and_come(server, client, old)


def check_it_is_off_and_come(server: Server, client: Machine, old_boot_id: str) -> None:
    """Someone is there, and switches it on again."""
    server.wait_for(f"/clients/{client.uuid}", lambda known: known["presence_reason"] == "shutting_down")
    client.boot()
    client.wait_booted()
    server.wait_online(client.uuid, after=old_boot_id)


STATE = "/var/lib/infoscreen-reboot-controller"


def test_on_a_full_disk_no_ack_is_taken_from_the_broker_and_the_verdict_comes_later(site: Site) -> None:
    """The disk stays full over the whole reboot. The client goes on: what it has said waits at the broker."""
    # Not the one of trixie: it has had three reboots above, and its helper allows no fourth.
    server, client, machine = site.server, site.bookworm, site.server.machine
    machine.run("systemctl", "stop", UNIT)
    machine.run("mount", "-t", "tmpfs", "-o", "size=16m,mode=0700", "tmpfs", STATE)
    machine.run("chown", "infoscreen-controller:", STATE)
    machine.run("systemctl", "start", UNIT)
    server.log_in()
    server.wait_online(client.uuid)
    server.call("POST", f"/clients/{client.uuid}/standing", {"standing": "accepted"})
    old, boots = client.boot_id, len(client.lives)
    client.run("systemctl", "kill", "--signal=STOP", AGENT)
    made = server.call("POST", "/commands", {"client_uuid": client.uuid, "action": "reboot_host"})["id"]
    server.wait_for(f"/commands/{made}", lambda command: command["state"] == "published")
    machine.run("sh", "-c", f"cat /dev/zero > {STATE}/filler", check=False)
    client.run("systemctl", "kill", "--signal=CONT", AGENT)
    client.wait_booted(boots + 1)

    assert server.call("GET", f"/commands/{made}")["state"] == "published"
    status, answer = server.ask("POST", "/api/v1/freezes", {"why": "x"})
    assert (status, answer["kind"]) == (503, "unavailable"), answer
    assert "database or disk is full" in machine.journal(UNIT)
    machine.run("rm", f"{STATE}/filler")
    found = server.wait_for(f"/commands/{made}", lambda command: not command["is_open"])
    evidence = found["evidence"]
    assert (found["state"], evidence["proof"]) == ("completed", "boot_id")
    assert (evidence["started_boot_id"], evidence["ended_boot_id"]) == (old, client.boot_id)
    assert None not in (evidence["accepted_at"], evidence["started_at"], evidence["back_at"])
    assert len(client.lives) == boots + 1
