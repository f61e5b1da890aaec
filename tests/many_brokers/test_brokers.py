"""The whole agent at real brokers: what each of them does for a screen, and the same in a table of the docs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path

import pytest

from infoscreen_reboot.contract.topics import Leaf
from tests.many_brokers import servers
from tests.many_brokers.controller import DONE, Controller
from tests.many_brokers.screen import Screen
from tests.many_brokers.servers import Server
from tools.simulated.manner import client_uuid

DOC = Path(__file__).parents[2] / "docs/brokers.md"
# How long a broker that has a limit keeps a session, in the part of the story that is longer.
EXPIRY_S = 5


@dataclass(slots=True)
class Row:
    """What the table of the docs says of a broker, in its order."""

    broker: str
    speaks: str = ""
    acks: str = ""
    will: str = ""
    retained: str = ""
    away: str = ""
    too_long_away: str = "no limit"
    restarted: str = ""
    retained_over_restart: str = ""
    forgotten: str = ""

    def __str__(self) -> str:
        return f"| {' | '.join(astuple(self))} |"


def kinds() -> list[type[Server]]:
    here = [servers.Mosquitto, servers.RabbitMQ, servers.Ejabberd]
    return [*here, servers.Aedes, servers.Amqtt] if servers.OPT.joinpath("amqtt").exists() else here


def story(server: Server, folder: Path) -> Row:
    """Everything that can happen between a screen and this broker, one after the other."""
    uuid = client_uuid(1)
    settings = {"MQTT_PORT": str(server.port)}
    if server.login is not None:
        settings |= {"MQTT_USER": server.login[0], "MQTT_PASSWORD_BROKER": server.login[1]}
    row = Row(str(server))
    try:
        server.start()
        with Controller(server.address(), uuid) as controller, Screen(folder / "screen", uuid, settings) as screen:
            try:
                live_through(row, server, controller, screen)
            except BaseException as error:
                error.add_note(f"{row}\n{screen.words()[-3000:]}\n{server.words()[-1500:]}")
                raise
    finally:
        server.kill()
    return row


def live_through(row: Row, server: Server, controller: Controller, screen: Screen) -> None:
    controller.listen()
    screen.start()
    controller.wait_status("connected")
    found = [controller.retained(topic) for topic in (controller.topics.status, Leaf.STATUS.filter)]
    row.retained = " and ".join(word for word, status in zip(("by topic", "by wildcard"), found, strict=True) if status)

    order = controller.order()
    controller.send(order)
    controller.wait_done(order)
    row.speaks = screen.protocol()
    row.acks = "all" if controller.acks(order) == DONE else " ".join(controller.acks(order))
    controller.answers()

    now = controller.now()
    screen.cut_power()
    row.will = "sent" if controller.wait_status("connection_lost", after=now) else "-"

    row.away = kept(finds(controller, screen, lambda: None))

    def restart() -> None:
        controller.deafen()
        server.stop()
        server.start()
        row.retained_over_restart = kept(controller.retained(controller.topics.status) is not None)
        controller.listen()

    lose(controller, screen)
    row.restarted = kept(finds(controller, screen, restart))

    assert screen.times_unanswered() <= 1, "it forgets which version of MQTT the broker speaks"

    # Power has failed at the broker, and its disk is a new one.
    controller.deafen()
    server.kill()
    server.forget()
    server.expiry_s = EXPIRY_S if server.expires else None
    server.start()
    now = controller.now()
    controller.listen()
    controller.wait_status("connected", after=now)
    order = controller.order()
    controller.send(order)
    controller.wait_done(order)
    row.forgotten = "comes back" if is_online(controller) and controller.acks(order) == DONE else "-"
    controller.answers()

    if server.expires:
        lose(controller, screen)
        row.too_long_away = kept(finds(controller, screen, lambda: time.sleep(2 * EXPIRY_S)))


def rows() -> list[str]:
    """The lines of the docs' table."""
    lines = DOC.read_text().partition("\n| broker | MQTT |")[2].partition("\n\n")[0].splitlines()
    return lines[2:]


def kept(is_kept: bool) -> str:
    return "kept" if is_kept else "lost"


def is_online(controller: Controller) -> bool:
    status = controller.retained(controller.topics.status)
    return status is not None and status["state"] == "online"


def lose(controller: Controller, screen: Screen) -> None:
    """The broker has noticed it when this returns."""
    now = controller.now()
    screen.cut_power()
    controller.wait_status("connection_lost", after=now)


def finds(controller: Controller, screen: Screen, meanwhile: Callable[[], None]) -> bool:
    """Whether a screen that is away finds a command when it comes back. If not, the command is sent again."""
    order = controller.order()
    controller.send(order)
    meanwhile()
    now = controller.now()
    screen.start()
    controller.wait_status("connected", after=now)
    # A broker delivers in order: what has not come before the answer to this one never comes.
    controller.answers()
    is_kept = bool(controller.acks(order))
    if not is_kept:
        controller.send(order)
    controller.wait_done(order)
    assert controller.acks(order) == DONE
    controller.answers()
    return is_kept


Stories = dict[type[Server], Future[Row]]


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stories]:
    """All at once: most of the time of each is waiting."""
    with ThreadPoolExecutor() as pool:
        folders = {kind: tmp_path_factory.mktemp(kind.kind) for kind in kinds()}
        yield {kind: pool.submit(story, kind(folder), folder) for kind, folder in folders.items()}


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.kind)
def test_a_broker_does_for_a_screen_what_the_docs_say(
    stories: Stories, kind: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    row = stories[kind].result()
    with capsys.disabled():
        print(f"\n{row}")
    assert str(row) in rows()


def test_the_docs_have_a_line_for_each_broker_of_both_suites_and_no_other() -> None:
    both = ["mosquitto", "RabbitMQ", "ejabberd"]
    assert [row.split()[1] for row in rows()] == [*(name for name in both for _ in "12"), "aedes", "amqtt"]
