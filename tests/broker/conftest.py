"""A real mosquitto on loopback, certificates from our own authority, and an observer that is not our code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# Debian has the daemon where only root's PATH leads.
MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or "mosquitto"
# A wait that is fulfilled costs nothing by being long; on a busy machine it must be.
PATIENCE_S = 120.0
# Far below what would be waited for otherwise: 30 s.
AT_ONCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Seen:
    topic: str
    payload: bytes
    retain: bool


class Observer:
    """What mosquitto_sub sees, in order; `retained` is what was there before."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.retained: list[Seen] = []

    async def next(self) -> Seen:
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            line = await self._process.stdout.readline()
        assert line, "mosquitto_sub ended"
        topic, retain, payload = line.decode().rstrip("\n").split(" ")
        return Seen(topic, bytes.fromhex(payload), retain == "1")

    async def until(self, is_it: Callable[[Seen], bool]) -> list[Seen]:
        """All that is seen up to the one looked for, which is the last."""
        seen = [await self.next()]
        while not is_it(seen[-1]):
            seen.append(await self.next())
        return seen


class Broker:
    """A mosquitto which keeps its ports, and what it has saved, over restarts."""

    def __init__(self, folder: Path, config: str = "", *, listener: str = "") -> None:
        """`config` is for the broker as a whole; `listener`, if any, makes a second one, on tls_port."""
        self.host = "127.0.0.1"
        self.port, self.tls_port = free_ports(2)
        self._listening = (self.port, self.tls_port) if listener else (self.port,)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        lines = [
            "user root",  # else it gives up root's rights, and with them those to its folder
            "persistence true",
            f"persistence_location {folder}/",
            "set_tcp_nodelay true",
            "max_queued_messages 0",
            "max_inflight_messages 0",
            "allow_anonymous true" if "allow_anonymous" not in config else "",
            config,
            f"listener {self.port} {self.host}",
            f"listener {self.tls_port} {self.host}\n{listener}" if listener else "",
        ]
        (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")

    def start(self) -> None:
        with (self._folder / "mosquitto.log").open("ab") as log:
            command = [MOSQUITTO, "-v", "-c", str(self._folder / "mosquitto.conf")]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE_S
        while not self._accepts():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"mosquitto does not start: {self.log()}")
            time.sleep(0.01)

    def stop(self) -> None:
        """In order: it saves its sessions and retained messages."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def restart(self, *, forgetful: bool = False) -> None:
        self.stop()
        if forgetful:
            (self._folder / "mosquitto.db").unlink()
        self.start()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Its connections stay, and nothing is answered."""
        process = self._process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def log(self) -> str:
        return (self._folder / "mosquitto.log").read_text(errors="replace")

    def publish(self, topic: str, payload: bytes | str, *options: str) -> None:
        """With QoS 1; returns on PUBACK. Options are those of mosquitto_pub, such as --retain."""
        data = payload.encode() if isinstance(payload, str) else payload
        source = "-s" if data else "-n"
        command = ["mosquitto_pub", *self._address(), "-q", "1", "-t", topic, *options, source]
        subprocess.run(command, input=data, check=True, timeout=PATIENCE_S)

    @contextlib.asynccontextmanager
    async def observe(self, *topics: str) -> AsyncIterator[Observer]:
        """Subscribed when the block begins."""
        marker = f"observer/{time.monotonic_ns()}"
        self.publish(marker, "here", "--retain")
        filters = [option for topic in (*topics, marker) for option in ("-t", topic)]
        process = await asyncio.create_subprocess_exec(
            "mosquitto_sub", *self._address(), "-q", "1", *filters, "-F", "%t %r %x",
            stdout=subprocess.PIPE, limit=2**23,
        )  # fmt: skip
        observer = Observer(process)
        try:
            observer.retained = (await observer.until(lambda seen: seen.topic == marker))[:-1]
            yield observer
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()

    def _address(self) -> list[str]:
        return ["-h", self.host, "-p", str(self.port)]

    def _accepts(self) -> bool:
        return all(_hangs_up(self.host, port) for port in self._listening)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.send_signal(signal.SIGCONT)
            self._process.wait(PATIENCE_S)
            self._process = None


def _hangs_up(host: str, port: int) -> bool:
    """Whether the broker is at work: it hangs up on who has hung up. An open port does not show that.

    mosquitto listens, then says what SIGTERM does, and only then sets the flag that a SIGTERM takes back. One that
    comes in between is lost: 9 of 839, measured 2026-11-26 with 2.0.11.
    """
    with socket.socket() as probe:
        if probe.connect_ex((host, port)) != 0:
            return False
        probe.settimeout(PATIENCE_S)
        with contextlib.suppress(ConnectionResetError):
            probe.shutdown(socket.SHUT_WR)
            probe.recv(1)
        return True


def free_ports(count: int) -> list[int]:
    """All of them different."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


@dataclass(frozen=True, slots=True)
class Identity:
    certificate: Path
    key: Path


class Authority:
    """A certificate authority made with openssl."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.certificate = folder / "ca.pem"
        (folder / "index").touch()
        (folder / "ca.cnf").write_text(
            "[ca]\ndefault_ca = own\n[own]\ndatabase = index\nnew_certs_dir = .\nrand_serial = yes\n"
            "default_md = sha256\npolicy = any\ncopy_extensions = copy\nunique_subject = no\n"
            "[any]\ncommonName = supplied\n"
        )
        self._openssl("req", "-x509", *self._new_key("ca"), "-subj", "/CN=test authority", "-out", "ca.pem")

    def issue(self, name: str, alternative: str = "IP:127.0.0.1", *, expired: bool = False) -> Identity:
        """`alternative` is the subject's alternative name, against which a client checks the host."""
        request, certificate = f"{name}.csr", f"{name}.pem"
        subject = ("-subj", f"/CN={name}", "-addext", f"subjectAltName={alternative}")
        self._openssl("req", "-new", *self._new_key(name), *subject, "-out", request)
        end = "20200102000000Z" if expired else "20991231235959Z"
        self._openssl(
            "ca", "-batch", "-notext", "-config", "ca.cnf", "-cert", "ca.pem", "-keyfile", "ca.key",
            "-in", request, "-out", certificate, "-startdate", "20200101000000Z", "-enddate", end,
        )  # fmt: skip
        return Identity(self._folder / certificate, self._folder / f"{name}.key")

    def _new_key(self, name: str) -> tuple[str, ...]:
        return (
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-keyout",
            f"{name}.key",
        )

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self._folder, check=True, capture_output=True)


@pytest.fixture(autouse=True)
def patient_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its 5 s are for who waits at a terminal."""
    # By name: what it needs is not there where machines are played, and this file is read there too.
    monkeypatch.setattr("infoscreen_reboot.client.doctor.visit.PATIENCE_S", PATIENCE_S)


MakeBroker = Callable[..., Broker]
Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def make_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeBroker]:
    """Started, and stopped after the test; the arguments are those of Broker after its folder."""
    brokers: list[Broker] = []

    def make(config: str = "", *, listener: str = "") -> Broker:
        brokers.append(Broker(tmp_path_factory.mktemp("broker"), config, listener=listener))
        brokers[-1].start()
        return brokers[-1]

    yield make
    for broker in brokers:
        broker.kill()


@pytest.fixture
def broker(make_broker: MakeBroker) -> Broker:
    return make_broker()


@pytest.fixture
def tls_broker(make_broker: MakeBroker, authority: Authority) -> Broker:
    """Speaks TLS on tls_port, as 127.0.0.1."""
    return make_broker(listener=tls_listener(authority.issue("broker")))


def tls_listener(identity: Identity) -> str:
    return f"certfile {identity.certificate}\nkeyfile {identity.key}"


@pytest.fixture
def run() -> Run:
    """Runs a test's coroutine, bounded, and fails a test that leaks a task."""

    async def guarded(test: Coroutine[Any, Any, None]) -> None:
        async with asyncio.timeout(4 * PATIENCE_S):
            await test
        leaked = asyncio.all_tasks() - {asyncio.current_task()}
        assert not leaked, f"leaked {leaked}"

    return lambda test: asyncio.run(guarded(test))
