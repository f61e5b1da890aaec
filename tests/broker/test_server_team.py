"""What SERVER_TEAM_ACTIONS.md shows works as it stands, and its table of errors is that of the lifecycle."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from infoscreen_reboot.agent.lifecycle import TABLE, State
from infoscreen_reboot.connection import BrokerSettings, Connection, Delivery
from infoscreen_reboot.contract import command
from infoscreen_reboot.contract.ack import ErrorCode
from infoscreen_reboot.contract.topics import Topics
from infoscreen_reboot.signing import KeyRing
from tests.broker.conftest import PATIENCE_S, Authority, Broker, MakeBroker, Run

TEXT = (Path(__file__).parents[2] / "SERVER_TEAM_ACTIONS.md").read_text("utf-8")
CONTROLLER, ADMIN = "infoscreen-controller", "infoscreen-admin"
CLIENT, OTHER = "9b8d1856-ff34-4864-a726-12de072d0f77", "11111111-2222-4333-8444-555555555555"
PASSWORD = "secret"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", TEXT, re.MULTILINE | re.DOTALL)


def topics_of(client_uuid: str) -> dict[str, str]:
    """Each topic by the name of its property."""
    names = (name for name, member in vars(Topics).items() if isinstance(member, property))
    return {name: getattr(Topics(client_uuid), name) for name in names}


COMMANDS = {topics_of(CLIENT)[name] for name in ("commands", "transitional_command")}
TOLD = set(topics_of(CLIENT).values()) - COMMANDS


@pytest.fixture
def broker(make_broker: MakeBroker, authority: Authority, tmp_path: Path) -> Broker:
    """As the text sets it up, with files and ports of our own."""
    settings, rules = blocks("conf")
    identity, passwords, acl = authority.issue("broker"), tmp_path / "passwd", tmp_path / "acl"
    acl.write_text(rules)
    passwords.touch()
    for login in (CLIENT, OTHER, CONTROLLER, ADMIN):
        subprocess.run(["mosquitto_passwd", "-b", passwords, login, PASSWORD], check=True, capture_output=True)
    ours = {
        "certfile": identity.certificate,
        "keyfile": identity.key,
        "password_file": passwords,
        "acl_file": acl,
    }
    lines = dict(line.split(" ", 1) for line in settings.splitlines() if not line.startswith("#"))
    assert set(ours) < set(lines)
    del lines["listener"]
    listener = "".join(f"{name} {ours[name]}\n" for name in ("certfile", "keyfile") if lines.pop(name))
    return make_broker("\n".join(f"{name} {ours.get(name, value)}" for name, value in lines.items()), listener=listener)


def login(user: str) -> list[str]:
    return ["-u", user, "-P", PASSWORD]


@contextmanager
def started(argv: list[str], env: dict[str, str] | None = None) -> Iterator[Iterator[str]]:
    """The lines that it prints, which end when it takes too long; stopped afterwards, with what it has started."""
    limited = ["timeout", f"{PATIENCE_S:.0f}", *argv]
    process = subprocess.Popen(limited, stdout=subprocess.PIPE, text=True, start_new_session=True, env=env)
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def heard(broker: Broker, user: str, readable: str, publishers: list[str]) -> set[tuple[str, str]]:
    """Who of `publishers` is heard where by `user`, each having published on every topic of two clients."""
    broker.publish(readable, "begin", "--retain", *login(ADMIN))
    address = ["-h", broker.host, "-p", str(broker.port), *login(user)]
    found: set[tuple[str, str]] = set()
    with started(["mosquitto_sub", *address, "-q", "1", "-t", "infoscreen/#", "-F", "%t %p"]) as lines:
        assert next(lines) == f"{readable} begin\n"
        for publisher in publishers:
            for topic in (*topics_of(CLIENT).values(), *topics_of(OTHER).values()):
                broker.publish(topic, publisher, *login(publisher))
        broker.publish(readable, "end", *login(ADMIN))
        for line in lines:
            topic, payload = line.split()
            if payload == "end":
                return found
            found.add((topic, payload))
    raise AssertionError("mosquitto_sub ended")


def test_by_the_acl_each_may_say_what_the_contract_has_it_say_and_nothing_else(broker: Broker) -> None:
    said = heard(broker, ADMIN, Topics(CLIENT).boot, [CLIENT, CONTROLLER])
    assert {topic for topic, who in said if who == CLIENT} == TOLD
    to_all = COMMANDS | {Topics(OTHER).commands, Topics(OTHER).transitional_command}
    assert {topic for topic, who in said if who == CONTROLLER} == to_all


def test_by_the_acl_a_client_hears_its_own_commands_only(broker: Broker) -> None:
    assert heard(broker, CLIENT, Topics(CLIENT).commands, [ADMIN]) == {(topic, ADMIN) for topic in COMMANDS}


def test_by_the_acl_the_controller_hears_what_every_client_says(broker: Broker) -> None:
    told = TOLD | {topic.replace(CLIENT, OTHER) for topic in TOLD}
    assert heard(broker, CONTROLLER, Topics(CLIENT).boot, [ADMIN]) == {(topic, ADMIN) for topic in told}


@pytest.fixture
def shell(broker: Broker, tmp_path: Path) -> dict[str, str]:
    """The environment of someone who has done what the text says of the two logins."""
    for folder, user in ((".config", CONTROLLER), ("admin", ADMIN)):
        options = f"-h {broker.host}\n-p {broker.port}\n-u {user}\n-P {PASSWORD}\n"
        (tmp_path / folder).mkdir()
        for program in ("mosquitto_pub", "mosquitto_sub"):
            (tmp_path / folder / program).write_text(options)
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}


def test_the_command_that_the_text_sends_is_one(broker: Broker, shell: dict[str, str], tmp_path: Path) -> None:
    (send,) = (block for block in blocks("sh") if "cat > command.json" in block)
    address = ["-h", broker.host, "-p", str(broker.port), *login(CLIENT), "-i", "client", "-q", "1"]
    topic = Topics(CLIENT).commands
    # A session that the broker keeps, as the agent's: it need not be there when the command is sent.
    subprocess.run(["mosquitto_sub", *address, "-c", "-E", "-t", topic], check=True)
    subprocess.run(["sh", "-eu", "-c", send], cwd=tmp_path, env=shell, check=True)
    sent = subprocess.check_output(["mosquitto_sub", *address, "-c", "-C", "1", "-N", "-W", "15", "-t", topic])
    assert command.parse(sent).client_uuid == CLIENT


def test_a_command_signed_as_the_text_does_it_is_trusted(
    broker: Broker, shell: dict[str, str], tmp_path: Path, run: Run
) -> None:
    (compose,) = (block.partition("mosquitto_pub")[0] for block in blocks("sh") if "cat > command.json" in block)
    (make_keys,) = (block for block in blocks("sh") if "genpkey" in block)
    (sign,) = (block for block in blocks("sh") if "pkeyutl" in block)
    keys = KeyRing(tmp_path / "keys")
    (tmp_path / "keys").mkdir()
    place = "mv 2026a.pem keys"

    async def story() -> None:
        settings = BrokerSettings(broker.host, broker.port, CLIENT, PASSWORD, None)
        inbox: asyncio.Queue[Delivery] = asyncio.Queue()
        client = Connection(settings, "client", None, inbox.put_nowait)
        try:
            await client.open()
            await client.subscribe([Topics(CLIENT).commands])
            text = "\n".join((compose, make_keys, place, sign))
            await asyncio.to_thread(
                subprocess.run, ["bash", "-euo", "pipefail", "-c", text], cwd=tmp_path, env=shell, check=True
            )
            delivery = await inbox.get()
        finally:
            client.close("seen")
        assert command.parse(delivery.payload).client_uuid == CLIENT
        assert keys.fault(delivery) is None

    run(story())


@pytest.mark.parametrize("block", [block for block in blocks("sh") if "mosquitto_sub" in block])
def test_each_subscription_of_the_text_hears_its_topics(broker: Broker, shell: dict[str, str], block: str) -> None:
    for topic in topics_of(CLIENT).values():
        broker.publish(topic, "x", "--retain", *login(ADMIN))
    wanted = {part.replace("+", CLIENT) for part in re.findall(r"-t '(.+?)'", block)}
    with started(["sh", "-eu", "-c", block], shell) as lines:
        found = {re.search(r"infoscreen/\S+", next(lines)) for _ in wanted}
    assert {topic[0] for topic in found if topic} == wanted


def test_what_a_scrapped_client_has_left_is_removed(broker: Broker, shell: dict[str, str]) -> None:
    (clear,) = (block for block in blocks("sh") if "-r -n" in block)
    for topic in (*topics_of(CLIENT).values(), *topics_of(OTHER).values()):
        broker.publish(topic, "x", "--retain", *login(ADMIN))
    subprocess.run(["sh", "-eu", "-c", f"client={CLIENT}\n{clear}"], env=shell, check=True)
    address = ["-h", broker.host, "-p", str(broker.port), *login(ADMIN)]
    topics = topics_of(CLIENT)
    left = set(topics.values()) - {topics[name] for name in ("status", "boot", "service_failed")}
    # The retained messages of the other client's come last: by then the first one's would have come.
    filters = "-t", f"infoscreen/{CLIENT}/#", "-t", f"infoscreen/{OTHER}/#"
    count = str(len(left) + len(topics))
    options = "-C", count, "-W", "15", "-F", "%t"
    shown = subprocess.check_output(["mosquitto_sub", *address, *filters, *options], text=True)
    assert set(shown.split()) == left | set(topics_of(OTHER).values())


def test_the_table_of_errors_is_that_of_the_lifecycle() -> None:
    after = {State.NEW: "nothing", State.HELD: "nothing", State.ACCEPTED: "accepted"}
    lifecycle = {(after.get(row.state, "execution_started"), code) for row in TABLE for code in row.codes}
    table = defaultdict[str, set[str]](set)
    section = TEXT.partition("## 3.")[2].partition("## 4.")[0].partition("`error_code`")[2]
    for status, codes in re.findall(r"^\| `?(\w+)`? \| (`.+?`) \|", section, re.MULTILINE):
        table[status] |= set(re.findall(r"`(\w+)`", codes))
    told = {(status, ErrorCode(code)) for status, codes in table.items() for code in codes}
    assert {code for _, code in told} == set(ErrorCode)
    assert lifecycle <= told
    # Nor is any code told of where the lifecycle does not have it.
    assert {pair for pair in told if pair[1] in {code for _, code in lifecycle}} == lifecycle
