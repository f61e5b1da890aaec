"""Where it is played: a bus that lets everything through, fakes on it, and the real helper and agent as processes."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from dbus_next.aio.message_bus import MessageBus
from dbus_next.message import Message

from tests.broker.conftest import Broker
from tests.bus.conftest import BOOT_ID, REBOOT, ROOT, SHUTDOWN, HelperCaller, HelperProcess
from tests.bus.conftest import HELPER as HELPER_CALL
from tests.bus.fakes import (
    FREE_FOR_ALL,
    Answer,
    Behaviour,
    DelayingLogind,
    FakePolkit,
    FakeSystemd,
    Loop,
    PrivateBus,
    connect,
    disconnect,
    eventually,
)
from tools.fuzzing.calls import HELPER, Storm
from tools.fuzzing.outcome import Outcome, resident_mb
from tools.fuzzing.payloads import CLIENT

# Also answers that nobody has asked for, which the system's own bus keeps back.
NO_RULES = (
    FREE_FOR_ALL
    + """
  <policy context="default">
    <allow send_requested_reply="false"/>
    <allow receive_requested_reply="false"/>
  </policy>"""
)
# Else glibc learns from the first great block to keep the next ones, and what is resident is not what is in use.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "131072"}
HELPER_MAY_GROW_MB, AGENT_MAY_GROW_MB = 16.0, 16.0
CALLERS_THAT_VANISH = 50
SMALL_CALLS = 1500


class TirelessLogind(DelayingLogind):
    """Agrees to every order and begins none, so that the next one is told from it."""

    def own_answer(self, message: Message) -> Behaviour:
        if message.member in ("RebootWithFlags", "PowerOffWithFlags"):
            return Answer()
        return super().own_answer(message)


@dataclass
class Stage:
    loop: Loop
    address: str
    polkit: FakePolkit
    logind: DelayingLogind
    agent: HelperCaller
    helper: HelperProcess

    def executed(self) -> list[str]:
        """The ids of the commands that logind was told to carry out, as far as they were said."""
        said = [text.split()[-1] for text, _ in self.logind.asked("SetWallMessage") if text]
        return said + ["?"] * (len(self.logind.orders) - len(said))


@contextlib.contextmanager
def stage(directory: Path, constants: dict[str, float] | None = None) -> Iterator[Stage]:
    """With `constants` the helper has those instead of its own."""
    with ExitStack() as stack:
        loop = stack.enter_context(closing(Loop()))
        bus = stack.enter_context(closing(PrivateBus(directory, NO_RULES)))
        polkit = stack.enter_context(closing(FakePolkit(loop, bus.address)))
        logind = stack.enter_context(closing(TirelessLogind(loop, bus.address)))
        stack.enter_context(closing(FakeSystemd(loop, bus.address)))
        agent = stack.enter_context(closing(HelperCaller(loop, bus.address)))
        polkit.allow(agent.name, REBOOT, SHUTDOWN)
        (directory / "helper-state").mkdir()
        helper = stack.enter_context(closing(HelperProcess(bus.address, directory / "helper-state", agent)))
        helper.start(constants, **GIVE_BACK)
        yield Stage(loop, bus.address, polkit, logind, agent, helper)


def fuzz_helper(directory: Path, calls: int, seed: int, *, as_agent: bool) -> Outcome:
    """`calls` in all, of which the walk over everything is a part."""
    who = "the agent" if as_agent else "a stranger"
    outcome = Outcome(f"D-Bus calls of the helper by {who}", calls, HELPER_MAY_GROW_MB)
    with stage(directory) as at:
        bus = at.loop.run(connect(at.address))
        if as_agent:
            at.polkit.allow(str(bus.unique_name), REBOOT, SHUTDOWN)
        storm, started = Storm(HELPER, seed, may_order=as_agent), time.monotonic()
        walk = list(storm.walk())
        storm.random.shuffle(walk)
        try:
            at.loop.run(storm.send(bus, iter(walk[: calls // 4])), timeout_s=3600)
            at.loop.run(storm.blow(bus, calls // 2), timeout_s=3600)
            outcome.before_mb = _settled_mb(at)
            at.loop.run(storm.blow(bus, calls), timeout_s=3600)
            at.loop.run(_call_and_vanish(at.address, storm), timeout_s=600)
        except (OSError, EOFError, TimeoutError) as error:
            outcome.complaints.append(f"the bus put us out: {error!r}")
        outcome.done, outcome.seconds = storm.sent, time.monotonic() - started
        check_still_right(at, storm, outcome)
        outcome.after_mb = _settled_mb(at)
        at.loop.run(disconnect(bus))
        if at.helper.process.poll() is None and at.helper.stop() != 0:
            outcome.crashes += 1
        outcome.tracebacks = len(storm.showing) + at.helper.log.count("Traceback")
        outcome.complaints += storm.showing[:3]
        if "Traceback" in at.helper.log:
            outcome.complaints.append(at.helper.log[at.helper.log.index("Traceback") :][:3000])
        if storm.unanswered:
            outcome.complaints.append(f"{storm.unanswered} calls had no answer")
        words = (f"{number} {name.rpartition('.')[2]}" for name, number in storm.answers.most_common(6))
        outcome.note = ", ".join([*words, f"{len(storm.obeyed)} right orders obeyed"])
    return outcome


async def _call_and_vanish(address: str, storm: Storm) -> None:
    """Callers that do not wait for their answers."""
    for _ in range(CALLERS_THAT_VANISH):
        bus: MessageBus = await connect(address)
        for message in storm.any(20):
            if not storm.is_order(message):
                lost = bus.send(message)
                lost.add_done_callback(lambda sent: sent.cancelled() or sent.exception())
        await asyncio.sleep(0)
        await disconnect(bus)


def _settled_mb(at: Stage) -> float:
    """What the helper keeps, once it has been busy for long enough to collect the garbage of great messages."""
    for _ in range(SMALL_CALLS // 100):
        at.agent.together(*(at.agent.call_async(*HELPER_CALL, "Preview", "s", "x") for _ in range(100)))
    return resident_mb(at.helper.process.pid)


def check_still_right(at: Stage, storm: Storm, outcome: Outcome) -> None:
    """A right call is answered as ever, and logind was told nothing but what was rightly ordered and obeyed."""
    if at.helper.process.poll() is not None:
        outcome.crashes += 1
        return
    command_id = str(uuid.uuid4())
    preview, shutdown = at.agent.ask("Preview", "shutdown_host"), at.agent.ask("Shutdown", command_id)
    if preview.body != (True, "", "") or shutdown.error:
        outcome.complaints.append(f"a right call is no longer answered: {preview}, {shutdown}")
    executed = at.executed()
    outcome.executions = len(executed) - len(set(executed) & (storm.obeyed | {command_id}))


class AgentProcess:
    """The agent as it is installed, but on the private bus, with a broker beside it."""

    def __init__(self, at: Stage, broker: Broker, directory: Path) -> None:
        self._at, self._log = at, directory / "agent.log"
        # Not in /tmp, which may lie in memory: there the agent executes nothing.
        self.state = Path(tempfile.mkdtemp(dir="/var/tmp"))
        self._environment = {
            "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8",
            "DBUS_SYSTEM_BUS_ADDRESS": at.address, "STATE_DIRECTORY": str(self.state), "CLIENT_UUID": CLIENT,
            "MQTT_BROKER": broker.host, "MQTT_PORT": str(broker.port), "MQTT_TLS": "no",
            "COMMAND_REQUIRE_SYNCED_CLOCK": "no",
            **GIVE_BACK,
        }  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = "from infoscreen_reboot.client.agent.app import main; raise SystemExit(main())"
        argv = [sys.executable, "-c", program, "--boot-id", str(uuid.UUID(BOOT_ID))]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(argv, cwd=ROOT, stderr=log, env=self._environment)
        self._at.polkit.allow(eventually(self.bus_name), REBOOT, SHUTDOWN)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the agent was not started"
        return self._process

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def bus_name(self) -> str:
        """Its own name on the bus, as anyone can find it out; "" if it has none yet."""
        bus = "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus"
        for name in self._at.agent.call(*bus, "ListNames").body[0]:
            owner = self._at.agent.call(*bus, "GetConnectionUnixProcessID", "s", name)
            if owner.body[0] == self.process.pid:
                return str(name)
        return ""

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)
        shutil.rmtree(self.state)


def fuzz_agent(directory: Path, calls: int, seed: int) -> Outcome:
    """The agent offers nothing on the bus; here, unlike on the system's own bus, everybody may call it all the same."""
    outcome = Outcome("D-Bus calls of the agent by a stranger", calls, AGENT_MAY_GROW_MB)
    (directory / "broker").mkdir()
    broker = Broker(directory / "broker")
    with stage(directory) as at, closing(AgentProcess(at, broker, directory)) as agent:
        broker.start()
        agent.start()
        name, bus = agent.bus_name(), at.loop.run(connect(at.address))
        storm, started = Storm(name, seed), time.monotonic()
        walk = list(storm.walk())
        random.Random(seed).shuffle(walk)
        at.loop.run(storm.send(bus, iter(walk[: calls // 4])), timeout_s=3600)
        at.loop.run(storm.blow(bus, calls // 2), timeout_s=3600)
        outcome.before_mb = resident_mb(agent.process.pid)
        at.loop.run(storm.blow(bus, calls), timeout_s=3600)
        outcome.done, outcome.seconds = storm.sent, time.monotonic() - started
        outcome.after_mb = resident_mb(agent.process.pid)
        at.loop.run(disconnect(bus))
        outcome.crashes = 0 if agent.process.poll() is None else 1
        outcome.executions = len(at.executed())
        outcome.tracebacks = len(storm.showing) + agent.log.count("Traceback")
        outcome.complaints += storm.showing[:3]
        if "Traceback" in agent.log:
            outcome.complaints.append(agent.log[agent.log.index("Traceback") :][:3000])
        if storm.unanswered:
            outcome.complaints.append(f"{storm.unanswered} calls had no answer")
        words = (f"{number} {name.rpartition('.')[2]}" for name, number in storm.answers.most_common(6))
        outcome.note = ", ".join(words)
        broker.stop()
    return outcome
