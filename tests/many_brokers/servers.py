"""Real brokers as Debian, npm and PyPI have them, each with a folder, a port and a configuration of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from tests.broker.conftest import MOSQUITTO, free_ports
from tools.lab.patience import MOST, Patience

HOST = "127.0.0.1"
# An Erlang virtual machine on two busy cores.
START_S = 120.0
LOOK_S = 0.1
OPT = Path("/opt")


class Server:
    """Stops and starts as a test wishes; what it keeps lies in `data`."""

    kind: ClassVar[str]
    # Whether a limit can be set, in seconds, for how long it keeps a session whose client is away.
    expires: ClassVar[bool] = False
    login: ClassVar[tuple[str, str] | None] = None

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "data"
        self.host = HOST
        (self.port,) = free_ports(1)
        # In seconds; None is what the broker does by itself.
        self.expiry_s: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.version()}"

    def version(self) -> str:
        raise NotImplementedError

    def _configure(self) -> None:
        raise NotImplementedError

    def _argv(self) -> list[str]:
        raise NotImplementedError

    def _environment(self) -> dict[str, str]:
        return {}

    def environment(self) -> dict[str, str]:
        inherited = os.environ | {"HOME": str(self.folder)} | self._environment()
        # Whoever started the tests is not to be told that a broker is up; RabbitMQ ends if it cannot tell.
        return {name: value for name, value in inherited.items() if name != "NOTIFY_SOCKET"}

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def address(self) -> list[str]:
        """The options by which mosquitto's programs come in."""
        login = [] if self.login is None else ["-u", self.login[0], "-P", self.login[1]]
        return ["-h", self.host, "-p", str(self.port), *login]

    def start(self) -> None:
        """Returns when it takes a message."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        self._configure()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv(),
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        assert self._process is not None
        patience = Patience(START_S)
        while not self._takes():
            if self._process.poll() is not None or patience.is_over:
                raise RuntimeError(f"{self.kind} does not start:\n{self.words()}")
            time.sleep(LOOK_S)

    def _takes(self) -> bool:
        argv = ["mosquitto_pub", *self.address(), "-q", "1", "-t", "ready", "-m", "?"]
        return subprocess.run(argv, capture_output=True, timeout=START_S, check=False).returncode == 0

    def stop(self) -> None:
        """In order: it may write down what it has."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def forget(self) -> None:
        shutil.rmtree(self.data)

    def words(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            if how is signal.SIGTERM:
                process.send_signal(how)
                process.wait(START_S)
            # What it has started, too.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(START_S)


def debian_version(package: str) -> str:
    query = ["dpkg-query", "-W", "-f", "${source:Upstream-Version}", package]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout


class Mosquitto(Server):
    kind = "mosquitto"

    def version(self) -> str:
        return debian_version("mosquitto")

    def _configure(self) -> None:
        lines = [
            f"listener {self.port} {HOST}",
            "allow_anonymous true",
            "persistence true",
            f"persistence_location {self.data}/",
            "max_inflight_messages 0",
            "max_queued_messages 0",
        ]
        (self.folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")

    def _argv(self) -> list[str]:
        return [MOSQUITTO, "-c", str(self.folder / "mosquitto.conf")]


class RabbitMQ(Server):
    kind = "RabbitMQ"
    expires = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port, self.distribution_port = free_ports(2)
        self.name = f"rabbit-{self.port}@localhost"

    def version(self) -> str:
        return debian_version("rabbitmq-server")

    def lines(self) -> list[str]:
        expiry = []
        if self.expiry_s is not None:
            is_old = self.version().startswith("3.10.")
            option = "subscription_ttl" if is_old else "max_session_expiry_interval_seconds"
            expiry = [f"mqtt.{option} = {self.expiry_s * (1000 if is_old else 1)}"]
        return ["listeners.tcp = none", f"mqtt.listeners.tcp.1 = {self.host}:{self.port}", *expiry]

    def _configure(self) -> None:
        (self.folder / "rabbitmq.conf").write_text("\n".join(self.lines()) + "\n")
        (self.folder / "plugins").write_text("[rabbitmq_mqtt].\n")

    def _argv(self) -> list[str]:
        # The wrapper on the PATH insists on root or rabbitmq.
        return ["/usr/lib/rabbitmq/bin/rabbitmq-server"]

    def _environment(self) -> dict[str, str]:
        return {
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_DIST_PORT": str(self.distribution_port),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "env"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.data),
            "RABBITMQ_LOG_BASE": str(self.folder / "logs"),
            "RABBITMQ_LOGS": "-",
            # Schedulers that spin while they wait take the processors from all the others.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none",
        }

    def ctl(self, program: str, *arguments: str) -> str:
        """What one of its tools says of this node."""
        argv = [f"/usr/lib/rabbitmq/bin/{program}", "-q", *arguments]
        done = subprocess.run(
            argv, env=self.environment(), capture_output=True, text=True, timeout=MOST * START_S, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(argv)} ended with {done.returncode}: {done.stderr}")
        return done.stdout


class Ejabberd(Server):
    kind = "ejabberd"
    expires = True
    # It lets in anybody who has a name.
    login = "screen@localhost", "open sesame"

    def version(self) -> str:
        return debian_version("ejabberd")

    def _configure(self) -> None:
        options: dict[str, object] = {} if self.expiry_s is None else {"session_expiry": f"{self.expiry_s} seconds"}
        # YAML is a superset of JSON.
        configuration = {
            "hosts": ["localhost"],
            "loglevel": "info",
            "auth_method": ["anonymous"],
            "allow_multiple_connections": True,
            "anonymous_protocol": "login_anon",
            "listen": [{"ip": HOST, "port": self.port, "module": "mod_mqtt"}],
            "modules": {"mod_mqtt": options},
        }
        (self.folder / "ejabberd.yml").write_text(json.dumps(configuration))

    def _argv(self) -> list[str]:
        name = ["-sname", f"ejabberd-{self.port}@localhost", "+sbwt", "none"]
        # What `ejabberdctl foreground` runs; ejabberdctl itself insists on root or ejabberd.
        return ["erl", *name, "-noinput", "-mnesia", "dir", f'"{self.data}"', "-s", "ejabberd"]

    def _environment(self) -> dict[str, str]:
        return {
            "EJABBERD_CONFIG_PATH": str(self.folder / "ejabberd.yml"),
            "EJABBERD_LOG_PATH": str(self.folder / "ejabberd.log"),
            "ERL_LIBS": "/usr/lib/x86_64-linux-gnu",
        }


AEDES = """\
import { Aedes } from '/opt/node_modules/aedes/aedes.js'
import { createServer } from 'node:net'
const broker = await Aedes.createBroker()
createServer(broker.handle).listen(%d, '%s')
process.on('SIGTERM', () => process.exit(0))
"""


class Aedes(Server):
    kind = "aedes"

    def version(self) -> str:
        package = json.loads((OPT / "node_modules/aedes/package.json").read_text())
        return str(package["version"])

    def _configure(self) -> None:
        (self.folder / "broker.mjs").write_text(AEDES % (self.port, HOST))

    def _argv(self) -> list[str]:
        return ["node", str(self.folder / "broker.mjs")]


class Amqtt(Server):
    kind = "amqtt"

    def version(self) -> str:
        (found,) = (OPT / "amqtt").glob("amqtt-*.dist-info")
        return found.name.removeprefix("amqtt-").removesuffix(".dist-info")

    def _configure(self) -> None:
        configuration = {
            "listeners": {"default": {"type": "tcp", "bind": f"{HOST}:{self.port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
        (self.folder / "amqtt.yml").write_text(json.dumps(configuration))

    def _argv(self) -> list[str]:
        return [sys.executable, str(OPT / "amqtt/bin/amqtt"), "-c", str(self.folder / "amqtt.yml")]

    def _environment(self) -> dict[str, str]:
        return {"PYTHONPATH": str(OPT / "amqtt")}
