"""The console in a browser on a server, with mosquitto, and clients that really reboot; all from packages."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.system.conftest import MACHINES
from tests.system.hands import stop_slowly
from tests.system.server import PORT, Server
from tools.demonstration.site import Simulated
from tools.lab import tree
from tools.lab.container import connect
from tools.lab.machine import Machine, layers_of_server
from tools.lab.patience import MOST
from tools.lab.roots import layers_of_browser

GATES = 37
PASSWORD = "as long as it has to be"
PYTEST = "/usr/bin/python3", "-B", "-m", "pytest", "-p", "no:cacheprovider", "--color=no", "-q", "tests/web/journeys.py"
CELLAR = "0190cccc-0000-7000-8000-000000000000"
# As polkit/rules.d/50-infoscreen-reboot.rules says how to forbid it.
FORBIDDEN = """\
polkit.addRule(function (action) {
    if (action.id == "org.infoscreen.reboothelper1.reboot") return polkit.Result.NO;
});
"""


class Place:
    """The server, its clients, and an office with a browser on the server itself."""

    def __init__(self, stack: ExitStack, request: pytest.FixtureRequest) -> None:
        debs = tree.build_all("trixie")
        self.machine = stack.enter_context(Machine("trixie", debs[0], layers=layers_of_server("trixie", debs)))
        self.client = stack.enter_context(Machine("bookworm", tree.build("bookworm"), auto_restart=True))
        request.node.stash[MACHINES] += [self.machine, self.client]
        self.machine.start_broker_for_others()
        self.machine.boot()
        self.machine.wait_booted()
        self.server = Server(self.machine)
        self.server.configure(MQTT_BROKER="127.0.0.1", MQTT_TLS="no")
        self.server.log_in()
        self.server.set_password("ann", PASSWORD)
        shop = stack.enter_context(tree.Workshop("trixie", tree.sources()))
        self.gates = Simulated(shop, self.machine, GATES, ["--reboot-s", "2", "6"])
        rows = [f"{uuid},gate-{number:02},accepted,gates" for number, uuid in enumerate(self.gates.uuids, 1)]
        rows.append(f"{CELLAR},cellar,accepted,cellar")
        self.machine.write("/root/clients.csv", "\n".join(["uuid,name,standing,label:site", *rows, ""]))
        self.server.ctl("import", "/root/clients.csv")
        address, _ = connect(self.machine, self.client, 0)
        self.client.broker = self.machine.broker
        self.client.configure(MQTT_BROKER=address, MQTT_TLS="no", CLIENT_UUID=self.client.uuid)
        self.client.set_clock_synchronised()
        self.client.boot()
        self.client.wait_booted()
        stop_slowly(self.client, 5)  # a page asks every three seconds
        self.server.wait_for("/clients", lambda clients: sum(bool(each["is_online"]) for each in clients) == GATES + 1)
        self.office = stack.enter_context(tree.Workshop("trixie", tree.sources(), layers_of_browser("trixie")))

    def walk(self, *journeys: str) -> None:
        """Raises AssertionError with all that they say unless every one of them was good."""
        about = {"URL": f"http://127.0.0.1:{PORT}", "NAME": "ann", "PASSWORD": PASSWORD, "TOKEN": self.server.token}
        about["CLIENT"] = self.client.uuid
        environment = {f"CONSOLE_{name}": value for name, value in about.items()}
        chosen = " or ".join(journeys)
        argv = *PYTEST, "-k", chosen
        process = self.office.start(*argv, env=environment, output=subprocess.PIPE, network=self.machine.name)
        said, _ = process.communicate(timeout=600 * MOST)
        words = said.decode(errors="replace")
        assert process.returncode == 0 and re.search(rf"^{len(journeys)} passed", words, re.MULTILINE), words


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    tree.ensure_host()
    with ExitStack() as stack:
        yield Place(stack, request)


def test_a_day_with_the_console(place: Place) -> None:
    server, client = place.server, place.client
    boots = len(client.lives)
    place.walk("signing_in_and_out", "unknown_client", "operators_morning", "technicians_phone", "bulk_of_37")
    # What the pages said is so: two reboots, and the last one is proved by the kernel's boot id.
    assert len(client.lives) == boots + 2
    [last] = server.call("GET", f"/commands?client={client.uuid}&limit=1")["items"]
    assert (last["state"], last["via"], last["evidence"]["proof"]) == ("completed", "console", "boot_id")
    assert last["evidence"]["ended_boot_id"] == client.boot_id
    states = [batch["states"] for batch in server.call("GET", "/batches")["items"]]
    assert states == [{"completed": GATES - 1}, {"completed": 1}, {"completed": 1}]

    client.write("/etc/polkit-1/rules.d/40-no-remote-reboot.rules", FORBIDDEN)
    client.run("systemctl", "restart", "polkit")
    server.call("PATCH", f"/clients/{client.uuid}", {"labels": {"site": "entrance", "role": "canary"}})
    place.walk("rollout", "schedule")
    assert len(client.lives) == boots + 2
    commands = server.call("GET", f"/commands?client={client.uuid}")["items"]
    assert [each["state"] for each in commands] == ["failed", "completed", "completed"]
