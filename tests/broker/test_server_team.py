"""What SERVER_TEAM_ACTIONS.md shows works as it stands, and its table of errors is that of the lifecycle."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from infoscreen_reboot.client.agent.lifecycle import TABLE, State
from infoscreen_reboot.contract import command
from infoscreen_reboot.contract.ack import ErrorCode
from infoscreen_reboot.contract.topics import Topics
from infoscreen_reboot.mqtt.connection import Connection
from infoscreen_reboot.mqtt.messages import BrokerSettings, Delivery
from infoscreen_reboot.mqtt.tls import TlsSettings
from infoscreen_reboot.signing import KeyRing
from tests.broker.conftest import Run
from tests.broker.kit import (
    ADMIN,
    CLIENT,
    COMMANDS,
    CONTROLLER,
    OTHER,
    PASSWORD,
    KitBroker,
    others,
    started,
    topics_of,
)

TEXT = (Path(__file__).parents[2] / "SERVER_TEAM_ACTIONS.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[KitBroker]:
    """As the text has it set up: by the kit."""
    kit = KitBroker(tmp_path)
    kit.start()
    yield kit
    kit.kill()


def leave_everywhere(kit: KitBroker, *clients: str) -> None:
    """A retained message on each of their topics, by who may."""
    for client in clients:
        for topic in topics_of(client).values():
            user = CONTROLLER if topic in COMMANDS | others(COMMANDS) else client
            assert kit.says(kit.by_login(user), topic, "x", "--retain") == ""


@pytest.fixture
def shell(broker: KitBroker, tmp_path: Path) -> dict[str, str]:
    """The environment of someone who has done what the text says of the two logins."""
    for folder, user in ((".config", CONTROLLER), ("admin", ADMIN)):
        options = f"-h {broker.host}\n-p {broker.port}\n{' '.join(broker.trusting())}\n-u {user}\n-P {PASSWORD}\n"
        (tmp_path / folder).mkdir()
        for program in ("mosquitto_pub", "mosquitto_sub"):
            (tmp_path / folder / program).write_text(options)
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}


def test_the_command_that_the_text_sends_is_one(broker: KitBroker, shell: dict[str, str], tmp_path: Path) -> None:
    (send,) = (block for block in blocks("sh") if "cat > command.json" in block)
    address = [*broker.by_login(CLIENT), "-i", "client", "-q", "1"]
    topic = Topics(CLIENT).commands
    # A session that the broker keeps, as the agent's: it need not be there when the command is sent.
    subprocess.run(["mosquitto_sub", *address, "-c", "-E", "-t", topic], check=True)
    subprocess.run(["sh", "-eu", "-c", send], cwd=tmp_path, env=shell, check=True)
    sent = subprocess.check_output(["mosquitto_sub", *address, "-c", "-C", "1", "-N", "-W", "15", "-t", topic])
    assert command.parse(sent).client_uuid == CLIENT


def test_a_command_signed_as_the_text_does_it_is_trusted(
    broker: KitBroker, shell: dict[str, str], tmp_path: Path, run: Run
) -> None:
    (compose,) = (block.partition("mosquitto_pub")[0] for block in blocks("sh") if "cat > command.json" in block)
    (make_keys,) = (block for block in blocks("sh") if "genpkey" in block)
    (sign,) = (block for block in blocks("sh") if "pkeyutl" in block)
    keys = KeyRing(tmp_path / "keys")
    (tmp_path / "keys").mkdir()
    place = "mv 2026a.pem keys"

    async def story() -> None:
        tls = TlsSettings(broker.certs / "ca.crt", None, None)
        settings = BrokerSettings(broker.host, broker.port, CLIENT, PASSWORD, tls)
        inbox: asyncio.Queue[Delivery] = asyncio.Queue()
        client = Connection(settings, "client", None, inbox.put_nowait)
        try:
            await client.open()
            await client.subscribe(Topics(CLIENT).commands)
            text = "\n".join((compose, make_keys, place, sign))
            await asyncio.to_thread(
                subprocess.run, ["bash", "-euo", "pipefail", "-c", text], cwd=tmp_path, env=shell, check=True
            )
            delivery = await inbox.get()
        finally:
            client.close("seen")
        assert command.parse(delivery.payload).client_uuid == CLIENT
        assert keys.fault(delivery.topic, delivery.payload, delivery.properties) is None

    run(story())


@pytest.mark.parametrize("block", [block for block in blocks("sh") if "mosquitto_sub" in block])
def test_each_subscription_of_the_text_hears_its_topics(broker: KitBroker, shell: dict[str, str], block: str) -> None:
    leave_everywhere(broker, CLIENT)
    wanted = {part.replace("+", CLIENT) for part in re.findall(r"-t '(.+?)'", block)}
    with started(["sh", "-eu", "-c", block], shell) as lines:
        found = {re.search(r"infoscreen/\S+", next(lines)) for _ in wanted}
    assert {topic[0] for topic in found if topic} == wanted


def test_what_a_scrapped_client_has_left_is_removed(broker: KitBroker, shell: dict[str, str]) -> None:
    (clear,) = (block for block in blocks("sh") if "-r -n" in block)
    leave_everywhere(broker, CLIENT, OTHER)
    subprocess.run(["sh", "-eu", "-c", f"client={CLIENT}\n{clear}"], env=shell, check=True)
    address = broker.by_login(ADMIN)
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
