"""The controller's benchmarks: how fast it takes what clients say, what that costs, and what it takes to be killed."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import math
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select, text

from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.controller import orders
from infoscreen_reboot.controller.lifecycle import VERDICTS
from infoscreen_reboot.controller.orders import Caller, House, Wish
from infoscreen_reboot.controller.store.database import Database
from infoscreen_reboot.controller.store.facts import Policy
from infoscreen_reboot.controller.store.tables import event
from tools.benchmarks.controller import ground
from tools.benchmarks.controller.ground import Broker, Hose, Order, Sent, Serves
from tools.lab.patience import Patience
from tools.simulated.light import Crowd
from tools.simulated.manner import Manner, client_uuid

Samples = dict[str, list[float]]
ENDLESS = 10**9
_READERS = 4
_COMPLETED = "SELECT count(*) FROM command WHERE state = 'completed'"
PROGRAM = "import os, sys; from infoscreen_reboot.controller.app import main; sys.exit(main(sys.argv[1:], os.environ))"


@contextmanager
def broker_in(folder: Path) -> Iterator[Broker]:
    broker = Broker(folder)
    try:
        broker.remember_controller()
        yield broker
    finally:
        broker.close()


class Program:
    """A program beside this one, that prints what it found as its last line."""

    def __init__(self, name: str, *args: str) -> None:
        module = f"tools.benchmarks.controller.{name}"
        self.process = subprocess.Popen([sys.executable, "-B", "-m", module, *args], stdout=subprocess.PIPE, text=True)

    @classmethod
    def engine(cls, broker: Broker, url: str, count: int = ENDLESS, cap: int | None = None) -> Program:
        """It has begun to hear when this returns."""
        engine = cls("engine", str(broker.port), url, str(count), *([] if cap is None else [str(cap)]))
        assert engine.process.stdout is not None
        assert engine.process.stdout.readline() == "ready\n", "the engine does not start"
        return engine

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def stop(self) -> dict[str, Any]:
        self.process.terminate()
        return self.result()

    def result(self, timeout_s: float = 600) -> dict[str, Any]:
        told, _ = self.process.communicate(timeout=timeout_s)
        if self.process.returncode != 0:
            raise RuntimeError(f"{self.process.args!r} ended with {self.process.returncode}")
        found: dict[str, Any] = json.loads(told.splitlines()[-1])
        return found


# --- Drained: what waited at the broker


def drained(folder: Path, server: Serves | None, clients: int, rounds: int) -> Samples:
    """Acks a second that are committed, of three for each client: the engine's and a bare subscriber's, in turns."""
    kind = "SQLite" if server is None else "PostgreSQL"
    samples: Samples = {f"{kind} {name}": [] for name in ("engine", "bare", "engine us", "bare us")}
    for _ in range(rounds):
        for name in random.sample(("engine", "bare"), 2):
            seconds, cpu, count = _drain(folder, server, name, clients)
            samples[f"{kind} {name}"].append(count / seconds)
            samples[f"{kind} {name} us"].append(cpu / count * 1e6)
    return samples


def _drain(folder: Path, server: Serves | None, name: str, clients: int) -> tuple[float, float, int]:
    count = clients * len(ground.STORY)
    with broker_in(folder) as broker, ground.new_database(folder, server) as url:
        fleet = ground.populate(url, clients)
        hose = Hose(broker.port)
        hose.send(ground.stories(fleet))
        hose.settle()
        hose.close()
        found = Program(name, str(broker.port), url, str(count)).result()
        prove_all_heard(url, fleet)
    return found["seconds"], found["cpu"], count


def prove_all_heard(url: str, fleet: list[Order]) -> None:
    """Each command is completed, and each of its acks has left its event."""
    database = Database(url)
    with database.read() as tx:
        done = tx.db.execute(text(_COMPLETED)).scalar_one()
        of_story = "kind IN ('accepted', 'execution_started', 'completed')"
        query = f"SELECT count(*) FROM (SELECT DISTINCT command_id, kind FROM event WHERE {of_story}) AS heard"
        heard = tx.db.execute(text(query)).scalar_one()
    database.close()
    assert done == len(fleet), f"{done} of {len(fleet)} commands are completed"
    assert heard == len(fleet) * len(ground.STORY), f"{heard} of {len(fleet) * len(ground.STORY)} acks left an event"


# --- Sustained: as it comes


def sustained(folder: Path, rate: float, seconds: float) -> Samples:
    """From the time in an ack to its commit, in ms."""
    count = int(rate * seconds)
    with broker_in(folder) as broker, ground.new_database(folder, None) as url:
        fleet = ground.populate(url, math.ceil(count / len(ground.STORY)))
        engine = Program.engine(broker, url)
        hose = Hose(broker.port)
        hose.send_at(rate, ground.stories(fleet))
        hose.settle()
        _await_all(url, len(fleet))
        found = engine.stop()
        hose.close()
        prove_all_heard(url, fleet)
    return {"lag ms": thinned(found["lags_ms"]), "CPU %": [100 * found["cpu"] / found["seconds"]]}


def thinned(samples: Sequence[float], most: int = 1001) -> list[float]:
    """So many of them, evenly from the least to the most: their median and percentiles stay the same."""
    ordered = sorted(samples)
    if len(ordered) <= most:
        return ordered
    return [ordered[number * (len(ordered) - 1) // (most - 1)] for number in range(most)]


def health(folder: Path, clients: int, seconds: float, rate: float) -> Samples:
    """What the health of a fleet costs: per cent of a core, and of each message in us.

    `rate` is 333 a second for 10,000 clients. The same rate for fewer clients tells whether their number costs.
    """
    samples: Samples = {}
    count = int(rate * seconds)
    for number in (100, 1000, clients) if clients > 1000 else (10, clients):
        with broker_in(folder) as broker, ground.new_database(folder, None) as url:
            fleet = ground.populate(url, number, with_commands=False)
            engine = Program.engine(broker, url, count)
            hose = Hose(broker.port)
            hose.send_at(rate, _healths(fleet, count), qos=0)
            found = engine.result()
            hose.close()
        name = "the fleet's" if number == clients else f"{number} clients'"
        samples[f"{name} CPU %"] = [100 * found["cpu"] / found["seconds"]]
        samples[f"{name} us"] = [found["cpu"] / found["count"] * 1e6]
    first = f"{(100 if clients > 1000 else 10)} clients' us"
    samples["the fleet's us to the smallest's"] = [samples["the fleet's us"][0] / samples[first][0]]
    return samples


def _healths(fleet: list[Order], count: int) -> Iterator[Sent]:
    for number in range(count):
        order = fleet[number % len(fleet)]
        yield f"infoscreen/{order.client_uuid}/health", ground.health_of(order)


# --- Killed


def killed(folder: Path, rate: float, seconds: float, kills: int) -> Samples:
    """SIGKILL again and again while acks come: how many came more than once; that none is missing is proved.

    The lease of the dead engine is ended by hand: otherwise the next one would wait for ten seconds, with nothing to be
    killed at.
    """
    count = int(rate * seconds)
    with broker_in(folder) as broker, ground.new_database(folder, None) as url:
        fleet = ground.populate(url, math.ceil(count / len(ground.STORY)))
        hose = Hose(broker.port)
        sender = threading.Thread(target=hose.send_at, args=(rate, ground.stories(fleet)))
        engine = Program.engine(broker, url)
        sender.start()
        for _ in range(kills):
            time.sleep(seconds / (kills + 1))
            engine.kill()
            _end_lease(url)
            engine = Program.engine(broker, url)
        sender.join()
        hose.settle()
        _await_all(url, len(fleet))
        engine.stop()
        hose.close()
        prove_all_heard(url, fleet)
        return {"acks": [len(fleet) * len(ground.STORY)], "kills": [kills], "missing": [0.0]}


def _end_lease(url: str) -> None:
    database = Database(url)
    with database.write() as tx:
        tx.db.execute(text("UPDATE lease SET ends_at = 0"))
    database.close()


def _await_all(url: str, commands: int) -> None:
    """Until so many are completed, or no event comes for two seconds in which nobody has waited for a processor."""
    database = Database(url)
    last, quiet = -1, Patience(2)
    while not quiet.is_over:
        with database.read() as tx:
            newest = tx.db.execute(text("SELECT coalesce(max(seq), 0) FROM event")).scalar_one()
            # While some come, the engine is not to be held up.
            done = tx.db.execute(text(_COMPLETED)).scalar_one() if newest == last else 0
        if newest != last:
            last, quiet = newest, Patience(2)
        elif done == commands:
            break
        time.sleep(0.1)
    database.close()


# --- A batch under a cap


def batch(folder: Path, clients: int, cap: int, reboot_s: float) -> Samples:
    """A commanded reboot of a whole fleet of light clients: seconds, beside the least that the cap allows."""
    uuids = [client_uuid(number) for number in range(clients)]
    with broker_in(folder) as broker, ground.new_database(folder, None) as url:
        engine = Program.engine(broker, url, cap=cap)
        fleet = threading.Thread(target=_crowd, args=(broker, uuids, reboot_s, stopped := threading.Event()))
        fleet.start()
        try:
            wall_s = _reboot_all(url, uuids, cap)
        finally:
            stopped.set()
            fleet.join()
        found = engine.stop()
        open_at_once, own_s = prove_cap(url, clients)
    assert open_at_once <= cap, f"{open_at_once} clients had a command on its way at once, and the cap is {cap}"
    least_s = math.ceil(clients / cap) * reboot_s + orders.TAKE_BACK.total_seconds()
    return {
        "seconds": [wall_s],
        "least seconds": [least_s],
        "to the least": [wall_s / least_s],
        "one command's seconds": own_s,
        "most at once": [open_at_once],
        "the engine's CPU %": [100 * found["cpu"] / found["seconds"]],
    }


def _crowd(broker: Broker, uuids: list[str], reboot_s: float, stopped: threading.Event) -> None:
    async def live() -> None:
        crowd = asyncio.ensure_future(Crowd(broker.settings, uuids, Manner((reboot_s, reboot_s))).run())
        while not stopped.is_set():
            await asyncio.sleep(0.1)
            if crowd.done():
                crowd.result()
        crowd.cancel()
        await asyncio.wait([crowd])

    asyncio.run(live())


def _reboot_all(url: str, uuids: list[str], cap: int) -> float:
    database = Database(url)
    caller = Caller("bench", "bench")
    house = House(Policy(fleet_cap=cap))
    _await_count(database, "SELECT count(*) FROM health", len(uuids))
    with database.write() as tx:
        wish = Wish(Action.REBOOT_HOST, wait_until=tx.now + timedelta(hours=2))
        seen = orders.preview(tx, caller, wish, uuids, house)
        orders.order_many(tx, caller, wish, uuids, seen.hash, seen.count, house)
        assert seen.count == len(uuids), f"{seen.count} of {len(uuids)} clients can get the command"
    began = time.monotonic()
    _await_count(database, _COMPLETED, len(uuids))
    database.close()
    return time.monotonic() - began


def _await_count(database: Database, query: str, wanted: int, timeout_s: float = 900) -> None:
    until = time.monotonic() + timeout_s
    while True:
        with database.read() as tx:
            found = tx.db.execute(text(query)).scalar_one()
        if found == wanted:
            return
        if time.monotonic() > until:
            raise RuntimeError(f"`{query}` says {found}, not {wanted}")
        time.sleep(0.1)


def prove_cap(url: str, clients: int) -> tuple[int, list[float]]:
    """From the events alone: how many commands were on their way at once at most, and how long each was, in seconds."""
    database = Database(url)
    with database.read() as tx:
        rows = tx.db.execute(select(event.c.kind, event.c.command_id, event.c.at).order_by(event.c.seq)).all()
    database.close()
    began: dict[str, float] = {}
    took, most = [], 0
    for row in rows:
        if row.kind == "sent":
            began[row.command_id] = row.at.timestamp()
            most = max(most, len(began))
        elif row.kind in VERDICTS:
            took.append(row.at.timestamp() - began.pop(row.command_id))
    assert len(took) == clients, f"{len(took)} commands of {clients} were sent and ended"
    return most, took


# --- The service


class Service:
    """The controller as its unit starts it."""

    def __init__(self, folder: Path, broker: Broker, url: str) -> None:
        self.port = ground.free_port()
        inherited = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
        self.environment = inherited | {
            "MQTT_BROKER": "127.0.0.1",
            "MQTT_PORT": str(broker.port),
            "MQTT_TLS": "no",
            "STATE_DIRECTORY": str(folder),
            "DATABASE_URL": url,
            "LISTEN": f"127.0.0.1:{self.port}",
            "ACCEPT_CLIENTS": "auto",
        }
        self._argv = [sys.executable, "-c", PROGRAM]
        made = subprocess.run([*self._argv, "admin", "bench"], env=self.environment, capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        self.headers = {"Authorization": f"Bearer {made.stdout.strip()}"}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Seconds until it answers that it is ready: it hears the broker then, too."""
        began = time.monotonic()
        self._process = subprocess.Popen([*self._argv, "serve"], env=self.environment, stderr=subprocess.DEVNULL)
        ground.wait_for_port(self.port, self._process)
        with self.line() as line:
            while self.get(line, "/readyz")[0] != 200:
                time.sleep(0.02)
        return time.monotonic() - began

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)

    def line(self) -> contextlib.closing[http.client.HTTPConnection]:
        return contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port))

    def get(self, line: http.client.HTTPConnection, path: str) -> tuple[int, bytes]:
        line.request("GET", path, headers=self.headers)
        answer = line.getresponse()
        return answer.status, answer.read()

    @property
    def rss_mb(self) -> float:
        assert self._process is not None
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def service(folder: Path, clients: int, rate: float, seconds: float, starts: int) -> Samples:
    """The whole program: seconds to its first answer, ms of a read while acks come, MB with all clients' health."""
    samples: Samples = {"serves after s": []}
    with broker_in(folder) as broker, ground.new_database(folder, None) as url:
        count = int(rate * seconds)
        fleet = ground.populate(url, max(clients, math.ceil(count / len(ground.STORY))))
        controller = Service(folder, broker, url)
        hose = Hose(broker.port)
        try:
            for _ in range(starts - 1):
                samples["serves after s"].append(controller.start())
                controller.stop()
            samples["serves after s"].append(controller.start())
            samples["idle MB"] = [controller.rss_mb]
            samples["read ms, quiet"] = _reads(controller, fleet, seconds / 2)
            acks = fleet[: math.ceil(count / len(ground.STORY))]
            sender = threading.Thread(target=hose.send_at, args=(rate, ground.stories(acks)))
            sender.start()
            samples["read ms"] = _reads(controller, fleet, seconds)
            sender.join()
            hose.settle()
            hose.send_at(1000, _healths(fleet, len(fleet)), qos=0)
            for path in ("/api/v1/clients", "/api/v1/commands?limit=100", "/metrics"):
                with controller.line() as line:
                    status, _ = controller.get(line, path)
                assert status == 200, f"{path} answers {status}"
            samples["MB"] = [controller.rss_mb]
        finally:
            controller.stop()
            hose.close()
    return samples


def _reads(controller: Service, fleet: list[Order], seconds: float) -> list[float]:
    """Of single commands, 100 a second over four connections."""
    took: list[float] = []

    def read(every_s: float) -> None:
        with controller.line() as line:
            line.connect()
            due = began = time.perf_counter()
            while due < began + seconds:
                time.sleep(max(0.0, due - time.perf_counter()))
                at = time.perf_counter()
                status, _ = controller.get(line, f"/api/v1/commands/{random.choice(fleet).command_id}")
                took.append((time.perf_counter() - at) * 1e3)
                assert status == 200, f"it answers {status}"
                due += every_s

    threads = [threading.Thread(target=read, args=[_READERS / 100]) for _ in range(_READERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(took) >= seconds * 90, "a reader has ended before its time"
    return took
