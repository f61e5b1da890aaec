"""What measured programs stand on, inside a workshop: a broker, a system bus with fakes, and where their words go."""

from __future__ import annotations

import json
import os
import queue
import re
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from dbus_next.message import Message as Call
from dbus_next.signature import Variant

from tests.bus.fakes import Answer, Behaviour, Fail, FakeLogind, FakePolkit, FakeSystemd, Loop, PrivateBus

AGENT = "/usr/libexec/infoscreen-reboot/infoscreen-simclient"
HELPER = "/usr/libexec/infoscreen-reboot/infoscreen-reboot-helper"
PYTHON = "/usr/bin/python3"
BOOT_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
CLIENT = "9b8d1856-ff34-4864-a726-12de072d0f77"
COMMANDS, ACKS = f"infoscreen/{CLIENT}/commands", f"infoscreen/{CLIENT}/commands/ack"
BROKER = """\
listener {port} 127.0.0.1
allow_anonymous true
user root
set_tcp_nodelay true
max_queued_messages 0
max_inflight_messages 0
log_dest stderr
log_type error
log_type subscribe
"""
# journald and systemd as far as their clients can tell: datagrams are taken from them.
SINK = """
import os, select, socket, sys
sinks = [socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in sys.argv[1:]]
for sink, path in zip(sinks, sys.argv[1:]):
    sink.bind(path)
print("ready", flush=True)
while True:
    for sink in select.select(sinks, [], [])[0]:
        sink.recv(1 << 18)
"""
JOURNAL = Path("/run/systemd/journal/socket")
_SUBSCRIBED = re.compile(r"^[0-9]+: (?P<client>\S+) [0-2] (?P<topic>\S+)$")


class Polkit(FakePolkit):
    """Allows everything to everyone."""

    def own_answer(self, message: Call) -> Behaviour:
        return Answer("(bba{ss})", ([True, False, {}],))


class Logind(FakeLogind):
    """Notes when it was told to take the host down, and refuses: the next command can come at once."""

    def __init__(self, loop: Loop, address: str) -> None:
        self.ordered: queue.SimpleQueue[float] = queue.SimpleQueue()
        super().__init__(loop, address)

    async def _answer(self, message: Call) -> None:
        if message.member != "Inhibit":
            return await super()._answer(message)
        ours, theirs = os.pipe()
        await self._bus.send(Call.new_method_return(message, "h", [0], unix_fds=[theirs]))
        os.close(theirs)
        os.close(ours)

    def own_answer(self, message: Call) -> Behaviour:
        match message.member:
            case "RebootWithFlags" | "ScheduleShutdown":
                self.ordered.put(time.perf_counter())
                return Fail("org.freedesktop.login1.OperationInProgress")
            case "Get":
                return Answer("v", (Variant("b", False),))
        return super().own_answer(message)


class Stage:
    """Everything on it ends with it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._processes: list[subprocess.Popen[bytes]] = []
        self._subscribed: queue.SimpleQueue[tuple[float, str]] = queue.SimpleQueue()
        self._runs = 0
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._open_sinks()
        self._open_broker()
        self.loop = Loop()
        self.bus = PrivateBus(directory)
        self.logind = Logind(self.loop, self.bus.address)
        self.polkit = Polkit(self.loop, self.bus.address)
        self.systemd = FakeSystemd(self.loop, self.bus.address)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._processes):
            process.kill()
            process.wait()
        for fake in (self.logind, self.polkit, self.systemd):
            fake.close()
        self.loop.close()
        self.bus.close()

    def _open_sinks(self) -> None:
        JOURNAL.parent.mkdir(parents=True, exist_ok=True)
        JOURNAL.unlink(missing_ok=True)
        self._notify = self.directory / "notify"
        argv = [PYTHON, "-I", "-c", SINK, str(JOURNAL), str(self._notify)]
        sink = subprocess.Popen(argv, stdout=subprocess.PIPE)
        self._processes.append(sink)
        assert sink.stdout is not None
        assert sink.stdout.readline() == b"ready\n"

    def _open_broker(self) -> None:
        configuration = self.directory / "mosquitto.conf"
        configuration.write_text(BROKER.format(port=self.port))
        argv = ["/usr/sbin/mosquitto", "-c", str(configuration)]
        broker = subprocess.Popen(argv, stderr=subprocess.PIPE)
        self._processes.append(broker)
        threading.Thread(target=self._read_broker, args=(broker,), daemon=True).start()
        deadline = time.monotonic() + 10
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if time.monotonic() > deadline:
                raise RuntimeError("mosquitto does not start")
            time.sleep(0.01)

    def _read_broker(self, broker: subprocess.Popen[bytes]) -> None:
        assert broker.stderr is not None
        for line in broker.stderr:
            at = time.perf_counter()
            if match := _SUBSCRIBED.match(line.decode().rstrip()):
                self._subscribed.put((at, match["topic"]))
            elif b"Error" in line:
                sys.stderr.write(line.decode())

    def await_subscription(self, topic: str, timeout_s: float = 30) -> float:
        """When the broker granted it."""
        while True:
            at, granted = self._subscribed.get(timeout=timeout_s)
            if granted == topic:
                return at

    def start(self, *argv: str, **environment: str) -> subprocess.Popen[bytes]:
        """A program with a journal and a service manager to talk to, as a unit of systemd has."""
        self._runs += 1
        with (self.directory / f"log-{self._runs}").open("wb") as log:
            told = os.fstat(log.fileno())
            manager = {
                "PATH": "/usr/bin:/bin",
                "LANG": "C.UTF-8",
                "JOURNAL_STREAM": f"{told.st_dev}:{told.st_ino}",
                "NOTIFY_SOCKET": str(self._notify),
                "DBUS_SYSTEM_BUS_ADDRESS": self.bus.address,
            }
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=log, env=manager | environment)
        self._processes.append(process)
        return process

    def agent(self, state: str = "", before: Sequence[str] = (), **settings: str) -> subprocess.Popen[bytes]:
        """The installed agent; an executor that only pretends, if not told otherwise."""
        place = self.directory / (state or f"state-{uuid.uuid4()}")
        place.mkdir(exist_ok=True)
        environment = {
            "MQTT_BROKER": "127.0.0.1",
            "MQTT_PORT": str(self.port),
            "MQTT_TLS": "no",
            "CLIENT_UUID": CLIENT,
            "COMMAND_REQUIRE_SYNCED_CLOCK": "no",
            "STATE_DIRECTORY": str(place),
            "WATCHDOG_USEC": "60000000",
        }
        if "COMMAND_EXECUTOR" not in settings:
            environment |= {"COMMAND_EXECUTOR": "mock", "COMMAND_MOCK_REBOOT_IMMEDIATE_COMPLETE": "yes"}
        return self.start(*before, AGENT, f"--boot-id={BOOT_ID}", **environment | settings)

    def helper(self) -> subprocess.Popen[bytes]:
        """The installed helper, resident until it has been idle for 30 s; its lockout is out of the way."""
        place = self.directory / f"helper-{uuid.uuid4()}"
        place.mkdir()
        limits = {"LOCKOUT_LIMIT": "100", "LOCKOUT_WINDOW_S": "1"}
        return self.start(HELPER, STATE_DIRECTORY=str(place), BOOT_ID=BOOT_ID.replace("-", ""), **limits)

    def echo(self, name: str, insert: bool = False) -> subprocess.Popen[bytes]:
        """Answers on NAME/ack what comes on NAME."""
        database = [str(self.directory / f"{name}.sqlite3")] if insert else []
        program = str(Path(__file__).with_name("echo.py"))
        return self.start(PYTHON, "-I", program, str(self.port), name, f"{name}/ack", *database)

    def least(self, name: str) -> None:
        """Reboots on what comes on NAME, answers on NAME/ack."""
        least = PYTHON, "-I", str(Path(__file__).with_name("least.py"))
        self.start(*least, "helper", str(self.directory / f"{name}.history"))
        self.start(*least, "agent", str(self.port), name, str(self.directory / f"{name}.sqlite3"))

    def systemctl_mqtt(self, prefix: str) -> subprocess.Popen[bytes]:
        place = "/opt/peers/systemctl-mqtt"
        options = "--mqtt-host=127.0.0.1", f"--mqtt-port={self.port}", "--mqtt-disable-tls"
        argv = PYTHON, f"{place}/bin/systemctl-mqtt", *options, f"--mqtt-topic-prefix={prefix}"
        return self.start(*argv, PYTHONPATH=place)

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """By SIGTERM, and awaited."""
        process.terminate()
        process.wait(15)
        self._processes.remove(process)


def command(action: str = "reboot_host", valid: bool = True) -> tuple[str, bytes]:
    """Its id, and a command as a controller sends it; one that is not valid has expired."""
    now = time.time() if valid else time.time() - 3600
    members = {
        "schema_version": "1.0",
        "command_id": str(uuid.uuid4()),
        "client_uuid": CLIENT,
        "action": action,
        "issued_at": _rfc_3339(now),
        "expires_at": _rfc_3339(now + 240),
        "requested_by": "operator:17",
        "reason": "player frozen",
    }
    return str(members["command_id"]), json.dumps(members).encode()


def _rfc_3339(moment_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment_s))
