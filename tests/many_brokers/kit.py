"""The kit of docs/examples/rabbitmq: three nodes that have its files, and whoever comes to them."""

from __future__ import annotations

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.many_brokers.servers import START_S, RabbitMQ
from tools.lab.patience import MOST

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
KIT = EXAMPLES / "rabbitmq"
# Under which the three nodes are to be reached, and their own names; all stand in /etc/hosts here.
NAME, NODES = "broker.example", ("node1", "node2", "node3")
PORT = 8883
CLIENT, OTHER = "9b8d1856-ff34-4864-a726-12de072d0f77", "11111111-2222-4333-8444-555555555555"
CONTROLLER, ADMIN = "infoscreen-controller", "infoscreen-admin"
PASSWORD = "open sesame"


class Node(RabbitMQ):
    """One of three; only what is not ours is replaced: the folders of the system, and the address."""

    def __init__(self, cluster: Path, number: int) -> None:
        folder = cluster / NODES[number - 1]
        folder.mkdir()
        super().__init__(folder)
        self.host, self.port = NODES[number - 1], PORT
        self.address_v4 = f"127.0.0.{number}"
        self.name = f"rabbit{number}@{self.host}"
        self._cluster = cluster

    def lines(self) -> list[str]:
        text = (KIT / "rabbitmq.conf").read_text().replace("/etc/rabbitmq", str(self._cluster))
        # They share a machine, and so its list of names.
        text = re.sub(r"rabbit@node(\d)", r"rabbit\1@node\1", text)
        return text.replace("ssl.default = 8883", f"ssl.1 = {self.address_v4}:{PORT}").splitlines()

    def _environment(self) -> dict[str, str]:
        # In HOME is the cookie by which they know each other.
        return super()._environment() | {"HOME": str(self._cluster)}

    def _takes(self) -> bool:
        argv = ["mosquitto_pub", *by_login(self._cluster, self.host, "nobody"), "-t", "ready", "-m", "?"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=START_S, check=False)
        return "onnection refused: " in done.stderr.lower() or "not authorised" in done.stderr.lower()


class Cluster:
    def __init__(self, folder: Path) -> None:
        self.folder, self.certs = folder, folder / "certs"
        self.certs.mkdir()
        self.certificates("authority")
        self.certificates("broker", NAME, *NODES)
        self.nodes = [Node(folder, number) for number in (1, 2, 3)]
        (folder / ".erlang.cookie").write_text("COOKIE")
        (folder / ".erlang.cookie").chmod(0o400)

    def start(self) -> None:
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            node.wait_ready()
        self.nodes[0].ctl("rabbitmqctl", "await_online_nodes", str(len(self.nodes)))
        # Each for a user of its own.
        with ThreadPoolExecutor() as pool:
            list(pool.map(self.do, [*commands("2. "), f"./user {OTHER}"]))

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()

    def certificates(self, *arguments: str) -> None:
        script = EXAMPLES / "mosquitto/certificates"
        subprocess.run([script, *arguments], cwd=self.certs, check=True, capture_output=True)

    def do(self, line: str) -> None:
        """A line of the kit's README, on the first node. rabbitmqctl is the one that does not insist on root."""
        environment = self.nodes[0].environment()
        environment["PATH"] = f"/usr/lib/rabbitmq/bin:{environment['PATH']}"
        argv, given = ["sh", "-euc", line], f"{PASSWORD}\n"
        pipe, both = subprocess.PIPE, subprocess.STDOUT
        done = subprocess.run(
            argv, cwd=KIT, env=environment, input=given, stdout=pipe, stderr=both, text=True, timeout=MOST * START_S
        )
        assert done.returncode == 0, done.stdout
        if line.startswith("./user"):
            self.certificates("user", line.split()[1])

    def by_login(self, user: str, host: str = NAME) -> list[str]:
        return by_login(self.folder, host, user)

    def by_certificate(self, user: str, host: str = NAME) -> list[str]:
        files = ["--cert", str(self.certs / f"{user}.crt"), "--key", str(self.certs / f"{user}.key")]
        return [*to(self.folder, host), *files]

    def node_at(self, address: str) -> Node:
        (found,) = (node for node in self.nodes if node.address_v4 == address)
        return found


def commands(section: str) -> list[str]:
    """The lines of a section of the README that speak to a running broker."""
    text = (KIT / "README.md").read_text().partition(f"\n## {section}")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith(("rabbitmqctl ", "./user "))]


def to(folder: Path, host: str) -> list[str]:
    return ["-h", host, "-p", str(PORT), "--cafile", str(folder / "certs/ca.crt")]


def by_login(folder: Path, host: str, user: str, password: str = PASSWORD) -> list[str]:
    return [*to(folder, host), "-u", user, "-P", password]
