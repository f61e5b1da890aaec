"""Three nodes of RabbitMQ with quorum sessions: the node of a screen dies in each step of a command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.many_brokers.controller import DONE, Controller
from tests.many_brokers.kit import CLIENT, CONTROLLER, NAME, PASSWORD, PORT, Cluster, Node
from tests.many_brokers.screen import Screen

# What the screen's log has when it stands still.
STEPS = {
    "before the command": "",
    "after accepted": "new -> accepted",
    "after execution_started": "accepted -> executing",
    "while the host is down": "",
}
# Long enough for a node to die in.
REBOOT_S = 3.0


def screen_at(cluster: Cluster, folder: Path, stands_still_at: str) -> Screen:
    settings = {
        "MQTT_BROKER": NAME,
        "MQTT_PORT": str(PORT),
        "MQTT_TLS": "yes",
        "MQTT_TLS_CA": str(cluster.certs / "ca.crt"),
        "MQTT_USER": CLIENT,
        "MQTT_PASSWORD_BROKER": PASSWORD,
    }
    return Screen(folder / "screen", CLIENT, settings, stands_still_at=stands_still_at, reboot_s=REBOOT_S)


def controller_at(cluster: Cluster, host: str) -> Controller:
    return Controller(cluster.by_login(CONTROLLER, host), CLIENT)


def node_of(cluster: Cluster, screen: Screen) -> Node:
    with controller_at(cluster, NAME) as controller:
        controller.listen()
        now = controller.now()  # a node may have kept what the screen said in the test before
        screen.start()
        controller.wait_status("connected", after=now)
    return cluster.node_at(screen.peer(PORT))


@contextmanager
def mortal(node: Node) -> Iterator[None]:
    """Whatever becomes of it, it is there again for the next test."""
    try:
        yield
    finally:
        node.kill()
        node.start()


@pytest.mark.parametrize("step", STEPS)
def test_a_command_is_executed_once_and_gets_all_its_acks_though_the_node_dies(
    cluster: Cluster, tmp_path: Path, step: str
) -> None:
    with screen_at(cluster, tmp_path, STEPS[step]) as screen:
        node = node_of(cluster, screen)
        node.ctl("rabbitmq-upgrade", "await_online_quorum_plus_one")
        another = next(other for other in cluster.nodes if other is not node)
        with mortal(node), controller_at(cluster, another.host) as controller:
            controller.listen()
            order = controller.order()
            if step == "before the command":
                node.kill()
            now = controller.now()
            controller.send(order)
            if step == "while the host is down":
                controller.wait_status("rebooting", after=now)
                node.kill()
            if STEPS[step]:
                screen.wait_still()
                node.kill()
                screen.go_on()
            try:
                controller.wait_done(order)
            except AssertionError as error:
                error.add_note(screen.words()[-4000:])
                raise
            assert controller.acks(order) == DONE
            # It tells what it has done once more, and does it no more.
            controller.send(order)
            controller.answers()
            assert controller.acks(order) == DONE
            assert screen.times_down() == 1
            assert cluster.node_at(screen.peer(PORT)) is not node
