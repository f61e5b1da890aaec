"""Where an operator sits: the command line with its environment, a terminal, and a network that loses things."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func
from sqlalchemy import select as sql_select

from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.ctl.main import main
from infoscreen_reboot.controller.store.tables import command
from tests.controller.played_fleet import Fleet

TOP = Path(__file__).parents[2]
PROGRAM = (sys.executable, "-m", "infoscreen_reboot.controller.ctl.main")
NAMES = ("bar-left", "bar-right", "lobby")


@dataclass
class Done:
    """How a call ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Desk:
    """Where the operator sits: a home, an environment, and a fleet that can be reached."""

    fleet: Fleet
    home: Path
    capture: pytest.CaptureFixture[str]
    patch: pytest.MonkeyPatch
    environment: dict[str, str] = field(default_factory=dict)

    def __call__(
        self, *argv: str, role: Role | None = Role.OPERATOR, url: str | None = None, token: str | None = None
    ) -> Done:
        """Runs it here, with an input that is no terminal."""
        for name, value in self.variables(role, url).items():
            self.patch.setenv(name, value)
        if token is not None:
            self.patch.setenv("INFOSCREEN_REBOOTCTL_TOKEN", token)
        if role is None:
            self.patch.delenv("INFOSCREEN_REBOOTCTL_TOKEN", raising=False)
        self.capture.readouterr()
        try:
            code = main(argv)
        except SystemExit as stopped:  # argparse
            code = int(str(stopped.code))
        written = self.capture.readouterr()
        return Done(code, written.out, written.err)

    def variables(self, role: Role | None = Role.OPERATOR, url: str | None = None) -> dict[str, str]:
        given = {"HOME": str(self.home), "XDG_CONFIG_HOME": "", "INFOSCREEN_REBOOTCTL_URL": url or self.fleet.address}
        if role is not None:
            given["INFOSCREEN_REBOOTCTL_TOKEN"] = self.fleet.tokens[role]
        return given

    def count(self, table: Any = command) -> int:
        with self.fleet.database.read() as tx:
            return int(tx.db.execute(sql_select(func.count()).select_from(table)).scalar_one())

    @contextlib.contextmanager
    def process(self, *argv: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
        environment = os.environ | self.variables() | {"PYTHONPATH": str(TOP), "TZ": "Europe/Berlin"}
        started = subprocess.Popen(
            [*PROGRAM, *argv],
            env=environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )
        with started:
            yield started

    def terminal(self, *argv: str, answers: Sequence[tuple[str, str]] = (), role: Role = Role.OPERATOR) -> Done:
        """Runs it on a terminal of 80 columns; types each answer when its question is there."""
        ours, theirs = pty.openpty()
        environment = os.environ | self.variables(role) | {"PYTHONPATH": str(TOP), "TERM": "xterm", "COLUMNS": "80"}
        started = subprocess.Popen(
            [*PROGRAM, *argv],
            env=environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=_take_the_terminal,
        )
        os.close(theirs)
        written, waiting = b"", list(answers)
        while select.select([ours], [], [], 60)[0]:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            written += part
            if waiting and waiting[0][0].encode() in written:
                _until_it_waits(started.pid)
                os.write(ours, waiting.pop(0)[1].encode())
        os.close(ours)
        return Done(started.wait(60), written.decode(), "")


def _take_the_terminal() -> None:
    """So that ctrl-c is a signal, and not a character."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _until_it_waits(pid: int) -> None:
    """A ctrl-c that comes just before Python waits for a line is noticed when there is one, and not before."""
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "SZ":
        time.sleep(0.001)


def all_complete(desk: Desk) -> Callable[[], None]:
    def play() -> None:
        desk.fleet.send()
        for name in desk.fleet.commands():
            desk.fleet.complete(name)

    return play


class Proxy:
    """Passes bytes on, and loses answers or cuts streams."""

    def __init__(
        self,
        address: str,
        lose_answers: int = 0,
        cut_streams_after: int | None = None,
        is_gone_after_a_cut: bool = False,
    ) -> None:
        host, _, port = address.removeprefix("http://").partition(":")
        self._server = host, int(port)
        self._lose, self._cut = lose_answers, cut_streams_after
        self._is_gone_after_a_cut = is_gone_after_a_cut
        self.posts: list[bytes] = []
        self.cuts = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Proxy:
        self._threads.append(threading.Thread(target=self._accept))
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        for thread in self._threads:
            thread.join()

    def _stop(self) -> None:
        with contextlib.suppress(OSError):  # it was stopped before
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(near,)))
            self._threads[-1].start()

    def _serve(self, near: socket.socket) -> None:
        # Whoever ends while something is on its way to it resets the connection.
        with contextlib.suppress(ConnectionError), near, socket.create_connection(self._server) as far:
            is_lost = is_stream = False
            passed = 0
            while True:
                for ready in select.select([near, far], [], [])[0]:
                    part = ready.recv(65536)
                    if not part:
                        return
                    if ready is near:
                        if part.startswith(b"POST") and b"/preview" not in part:
                            self.posts.append(part)
                            is_lost = self._lose > 0
                        if not is_stream and b"/events" in part:
                            is_stream, passed = True, 0
                        far.sendall(part)
                    elif is_lost:
                        self._lose -= 1
                        return
                    elif is_stream and self._cut is not None and passed + len(part) > self._cut:
                        near.sendall(part[: self._cut - passed])  # how much comes at once is a matter of chance
                        self.cuts += 1
                        if self._is_gone_after_a_cut:
                            self._stop()
                        return
                    else:
                        passed += len(part)
                        near.sendall(part)
