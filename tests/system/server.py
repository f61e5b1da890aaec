"""The controller on a machine, as an administrator sets it up and as its users see it: over HTTP."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

from tests.system.hands import unit
from tools.lab.machine import Machine
from tools.lab.patience import MOST, Patience
from tools.lab.scratch import LabError

UNIT = "infoscreen-reboot-controller.service"
SETTINGS = "/etc/infoscreen-reboot-controller/controller.env.d/50-test.env"
PASSWORD = "/etc/credstore/infoscreen-controller.mqtt-password-broker"
SIGNING_KEY = "/etc/credstore/infoscreen-controller.command-signing-key"
PORT = 8480


class Server:
    """The one on this machine. Users come from outside; only the network is the machine's."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.token = ""

    # As an administrator of the machine.

    def configure(self, **variables: str) -> None:
        """Its settings, in force at once."""
        self.machine.write(SETTINGS, "".join(f'{name}="{value}"\n' for name, value in variables.items()), 0o640)
        try:
            self.machine.run("systemctl", "restart", UNIT)
        except LabError as error:
            raise LabError(f"{error}\n{self.machine.journal(UNIT)[-3000:]}") from None

    def do(self, *words: str, check: bool = True) -> str:
        return self.machine.run("infoscreen-reboot-controller", *words, check=check)

    def log_in(self, name: str = "ann") -> None:
        """From now on calls are made as that administrator."""
        self.token = self.do("admin", name).splitlines()[-1]

    def ctl(self, *words: str, timeout_s: float = 120) -> str:
        """What the operator's command line printed; it is the machine's own, and comes with the token."""
        token = f"INFOSCREEN_REBOOTCTL_TOKEN={self.token}"
        return self.machine.run("env", token, "infoscreen-rebootctl", *words, timeout_s=timeout_s)

    def set_password(self, name: str, password: str) -> None:
        """With it, that user signs in at the console."""
        self.call("PUT", f"/users/{name}/password", {"password": password})

    @property
    def pid(self) -> str:
        return unit(self.machine, UNIT, "MainPID")

    # As a user of the API.

    def _connect(self) -> HTTPConnection:
        """A socket belongs for good to the network in which its thread was when it was made."""

        def make() -> socket.socket:
            with Path("/run/netns", self.machine.name).open() as network:
                if ctypes.CDLL(None, use_errno=True).setns(network.fileno(), 0):
                    raise LabError(f"cannot enter a network: {os.strerror(ctypes.get_errno())}")
            return socket.create_connection(("127.0.0.1", PORT), 30 * MOST)

        connection = HTTPConnection("127.0.0.1", PORT)
        with ThreadPoolExecutor(1) as elsewhere:
            connection.sock = elsewhere.submit(make).result()
        return connection

    def ask(self, method: str, path: str, content: dict[str, Any] | None = None) -> tuple[int, Any]:
        """The status and the content of the answer."""
        body = json.dumps(content) if content is not None else None
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        with closing(self._connect()) as connection:
            connection.request(method, path, body, headers)
            with connection.getresponse() as answer:
                text = answer.read()
                return answer.status, json.loads(text) if text else None

    def call(self, method: str, path: str, content: dict[str, Any] | None = None) -> Any:
        """The content of the answer; raises LabError if the call was refused."""
        status, answer = self.ask(method, f"/api/v1{path}", content)
        if status >= 400:
            raise LabError(f"{method} {path} was answered {status}: {answer}")
        return answer

    def wait_for(self, path: str, is_so: Callable[[Any], bool], timeout_s: float = 60) -> Any:
        """What is read there, once it is so."""
        patience = Patience(timeout_s)
        while not is_so(answer := self.call("GET", path)):
            if patience.is_over:
                raise LabError(f"{path} did not become so within {timeout_s:g} s: {answer}")
            threading.Event().wait(0.2)
        return answer

    def wait_online(self, client_uuid: str, after: str = "") -> dict[str, Any]:
        """Until that client is there, in another boot than `after`."""

        def is_there(clients: list[dict[str, Any]]) -> bool:
            return any(c["uuid"] == client_uuid and c["is_online"] and c["boot_id"] != after for c in clients)

        clients = self.wait_for("/clients", is_there)
        return next(client for client in clients if client["uuid"] == client_uuid)

    @contextmanager
    def watching(self) -> Iterator[Stream]:
        """All events from now on, as they happen."""
        with closing(self._connect()) as connection:
            connection.request("GET", "/api/v1/events", headers={"Authorization": f"Bearer {self.token}"})
            with connection.getresponse() as answer:
                stream = Stream(answer)
                try:
                    yield stream
                finally:
                    connection.sock.shutdown(socket.SHUT_RDWR)
                    stream.thread.join()


class Stream:
    """The events that came so far, in their order."""

    def __init__(self, answer: HTTPResponse) -> None:
        assert answer.status == 200, answer.read()
        self._turn = threading.Condition()
        self._events: list[dict[str, Any]] = []
        # The first line says from where on they come: now they do.
        answer.readline()
        self.thread = threading.Thread(target=self._read, args=(answer,), name="events")
        self.thread.start()

    def _read(self, answer: HTTPResponse) -> None:
        while line := answer.readline():
            if line.startswith(b"data: "):
                with self._turn:
                    self._events.append(json.loads(line.removeprefix(b"data: ")))
                    self._turn.notify_all()

    def _of(self, command_id: str) -> list[str]:
        return [event["kind"] for event in self._events if event["command_id"] == command_id]

    def wait_for(self, command_id: str, kind: str, timeout_s: float = 60) -> list[str]:
        """Until that has happened to the command; all that happened to it."""
        with self._turn:
            if not Patience(timeout_s).wait_for(self._turn, lambda: kind in self._of(command_id)):
                raise LabError(f"no event {kind} within {timeout_s:g} s, only {self._of(command_id)}")
            return self._of(command_id)
