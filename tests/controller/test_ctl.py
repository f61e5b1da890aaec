"""The operator's command line, against the real API: what it asks, what it makes, what it shows, how it ends."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import pty
import re
import select
import shlex
import socket
import stat
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func
from sqlalchemy import select as sql_select

from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.ctl import connection as connections
from infoscreen_reboot.controller.ctl import doctor, times
from infoscreen_reboot.controller.ctl import watch as watches
from infoscreen_reboot.controller.ctl.course import STATES
from infoscreen_reboot.controller.ctl.main import main
from infoscreen_reboot.controller.ctl.options import parser
from infoscreen_reboot.controller.ctl.outcome import EXIT_CODES, Outcome
from infoscreen_reboot.controller.store.database import Database
from infoscreen_reboot.controller.store.tables import batch, command
from tests.controller.played_fleet import OLD_BOOT, Fleet, uuid

TOP = Path(__file__).parents[2]
PROGRAM = (sys.executable, "-m", "infoscreen_reboot.controller.ctl.main")
NAMES = ("bar-left", "bar-right", "lobby")
# A colour, a right-to-left override, and what rich would read as markup.
HOSTILE = "\x1b[31mred\x07[bold]\u202e"
SHOWN = r"\x1b[31mred\x07[bold]\u202e"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")


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
                os.write(ours, waiting.pop(0)[1].encode())
        os.close(ours)
        return Done(started.wait(60), written.decode(), "")


def _take_the_terminal() -> None:
    """So that ctrl-c is a signal, and not a character."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def desk(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Desk]:
    fleet = Fleet(database, NAMES)
    home = tmp_path / "home"
    home.mkdir()
    with Path(os.devnull).open() as nothing, fleet.serving():
        monkeypatch.setattr("sys.stdin", nothing)
        yield Desk(fleet, home, capsys, monkeypatch)


def all_complete(desk: Desk) -> Callable[[], None]:
    def play() -> None:
        desk.fleet.send()
        for name in desk.fleet.commands():
            desk.fleet.complete(name)

    return play


# --- One client


def test_a_reboot_is_followed_to_its_verdict(desk: Desk) -> None:
    desk.fleet.on_wake = all_complete(desk)
    done = desk("reboot", "lobby", "--yes", "1", "--reason", "frozen")
    assert done.code == 0 and "lobby: completed, in a new boot" in done.out
    for words in ("queued by an-operator", "published", "accepted", "execution_started", "awaiting_reconnect"):
        assert words in done.out
    with desk.fleet.database.read() as tx:
        row = tx.db.execute(sql_select(command)).mappings().one()
    assert (row["client_uuid"], row["via"], row["reason"]) == (desk.fleet.uuids["lobby"], "cli", "frozen")


@pytest.mark.parametrize(
    "typed", ["00000000-0000-0000-0000-000000000003", "00000000-0000-0000-0000-000000000003".upper()]
)
def test_a_client_is_named_by_its_uuid_too(desk: Desk, typed: str) -> None:
    assert desk("reboot", typed, "--yes", "1", "--no-watch").code == 0
    assert desk.fleet.commands().keys() == {"lobby"}


def test_what_does_not_come_back_ends_with_3_and_its_name_on_a_line(desk: Desk) -> None:
    def play() -> None:
        desk.fleet.send()
        desk.fleet.lose("lobby")

    desk.fleet.on_wake = play
    done = desk("reboot", "lobby", "--yes", "1")
    assert done.code == 3 and done.out.endswith("Did not come back:\nlobby\n")
    assert "timed_out, waiting for: client back on MQTT" in done.out


def test_a_client_that_only_pretends_did_not_come_back(desk: Desk) -> None:
    def play() -> None:
        desk.fleet.send()
        desk.fleet.complete("lobby", OLD_BOOT)

    desk.fleet.on_wake = play
    done = desk("reboot", "lobby", "--yes", "1")
    assert done.code == 3 and "only pretended (mock)" in done.out


def test_what_a_rule_holds_is_told_with_when_it_opens_and_nothing_is_made(desk: Desk) -> None:
    assert desk("freeze", "begin", "trade fair", "--until", "3h").code == 0
    done = desk("reboot", "lobby", "--yes", "1")
    assert done.code == 4 and "frozen by an-operator: trade fair" in done.err
    assert re.search(r"opens at .*\d\d:\d\d(:\d\d)? \w+ \(in 3 h\)", done.err), done.err
    assert desk.count() == 0


def test_a_rule_that_answers_after_the_preview_is_a_refusal_too(desk: Desk) -> None:
    """A single command is not bound to a preview: the server asks its rules again."""
    real = connections.Connection.create

    def late(self: Any, path: str, content: Any, key: str | None = None) -> Any:
        desk.fleet.change("lobby", is_online=False)
        return real(self, path, content, key)

    desk.patch.setattr(connections.Connection, "create", late)
    done = desk("reboot", "lobby", "--yes", "1")
    assert done.code == 4 and "this client is offline" in done.err


def test_an_offline_client_can_be_waited_for(desk: Desk) -> None:
    desk.fleet.change("lobby", is_online=False)
    assert desk("reboot", "lobby", "--yes", "1").code == 4
    done = desk("reboot", "lobby", "--yes", "1", "--wait-until", "2h", "--no-watch")
    assert done.code == 0 and "lobby waits until" in done.out
    with desk.fleet.database.read() as tx:
        row = tx.db.execute(sql_select(command)).mappings().one()
    assert row["hold_rule"] == "online"
    assert timedelta(minutes=119) < row["wait_until"] - datetime.now(UTC) < timedelta(minutes=121)


def test_a_shutdown_needs_the_right_and_someone_who_is_there(desk: Desk) -> None:
    assert desk("shutdown", "lobby", "--yes", "1", role=Role.OPERATOR).code == 5
    done = desk("shutdown", "lobby", "--yes", "1", role=Role.ADMIN)
    assert done.code == 4 and "--someone-is-there" in done.err
    desk.fleet.on_wake = all_complete(desk)
    assert desk("shutdown", "lobby", "--yes", "1", "--someone-is-there", role=Role.ADMIN).code == 0


def test_an_unknown_name_makes_nothing_and_the_close_one_is_told(desk: Desk) -> None:
    done = desk("reboot", "lobbi", "--yes", "1")
    assert (done.code, desk.count()) == (2, 0) and "did you mean lobby?" in done.err
    assert desk("reboot", uuid(99), "--yes", "1").code == 2


def test_an_answer_about_another_client_reboots_nobody(desk: Desk) -> None:
    """A server that does not know `name=` would answer with all clients."""
    real = connections.Connection.get
    desk.patch.setattr(
        connections.Connection,
        "get",
        lambda self, path, **given: real(self, path) if "name" in given else real(self, path, **given),
    )
    assert desk("reboot", "nobody", "--yes", "1").code == 2
    assert desk("reboot", "lobby", "--yes", "1", "--no-watch").code == 0
    assert desk.fleet.commands().keys() == {"lobby"}


# --- Questions


def test_on_a_terminal_one_client_is_asked_for_with_its_labels(desk: Desk) -> None:
    question = "Reboot lobby (site alpine)? [y/N]"
    for answer in ("\n", "n\n", "x\n", "\x04"):
        done = desk.terminal("reboot", "lobby", answers=[(question, answer)])
        assert done.code == 4 and question in done.out and "Nothing was made." in done.out
    assert desk.count() == 0
    desk.fleet.on_wake = all_complete(desk)
    done = desk.terminal("reboot", "lobby", answers=[(question, "y\n")])
    assert done.code == 0 and "1 of 1" in done.out and "in a new boot" in done.out


def test_on_a_terminal_the_count_of_many_is_typed(desk: Desk) -> None:
    question = "Type 3 to go on:"
    for answer in ("y\n", "2\n", "\n"):
        done = desk.terminal("reboot", "-l", "site=alpine", answers=[(question, answer)])
        assert done.code == 4 and "not confirmed" in done.out
    assert desk.count() == 0
    desk.fleet.on_wake = all_complete(desk)
    done = desk.terminal("reboot", "-l", "site=alpine", answers=[(question, "3\n")])
    assert done.code == 0 and "3 of 3" in done.out


def test_ctrl_c_at_the_question_makes_nothing(desk: Desk) -> None:
    done = desk.terminal("reboot", "lobby", answers=[("[y/N]", "\x03")])
    assert done.code == 130 and desk.count() == 0


def test_without_a_terminal_it_refuses_and_says_how(desk: Desk) -> None:
    for argv, number in ((("reboot", "lobby"), 1), (("reboot", "-l", "site=alpine"), 3)):
        done = desk(*argv)
        assert done.code == 2 and f"--yes {number}" in done.err
    assert desk.count() == 0


def test_with_json_nobody_is_asked_and_the_preview_is_in_the_answer(desk: Desk) -> None:
    done = desk.terminal("reboot", "lobby", "--json")
    assert done.code == 2 and desk.count() == 0 and "[y/N]" not in done.out
    told = desk("reboot", "-l", "site=alpine", "--json").json["problem"]
    assert (told["kind"], told["count"], told["preview"]["count"]) == ("not_confirmed", 3, 3)


def test_a_wrong_count_makes_nothing(desk: Desk) -> None:
    for argv, wrong in ((("reboot", "lobby"), "2"), (("reboot", "-l", "site=alpine"), "2"), (("reboot", *NAMES), "4")):
        assert desk(*argv, "--yes", wrong).code == 4
    assert (desk.count(), desk.count(batch)) == (0, 0)


# --- Many


def test_many_are_shown_made_and_followed(desk: Desk) -> None:
    desk.fleet.add("dark", is_online=False)

    def play() -> None:
        desk.fleet.send()
        desk.fleet.complete("bar-left")
        desk.fleet.lose("bar-right")
        desk.fleet.fail("lobby")

    desk.fleet.on_wake = play
    done = desk("reboot", "-l", "site=alpine", "--yes", "3")
    assert done.code == 3
    assert re.search(r"get it now +3\n +do not get it +1\n", done.out)
    assert re.search(r"online +1 +not known +dark: this client is offline", done.out)
    assert "1 of 3 completed." in done.out
    assert re.search(r"^lobby +failed: not_authorized \(polkit denies it\)$", done.out, re.MULTILINE)
    assert done.out.endswith("Did not come back:\nbar-right\nlobby\n")
    assert "dark" not in desk.fleet.commands()


def test_several_names_are_a_batch_and_each_counts_once(desk: Desk) -> None:
    desk.fleet.on_wake = all_complete(desk)
    again = desk.fleet.uuids["bar-left"]
    assert desk("reboot", "bar-left", "lobby", again, "--yes", "2").code == 0
    assert (desk.count(), desk.count(batch)) == (2, 1)


def test_nobody_is_meant(desk: Desk) -> None:
    assert desk("reboot", "-l", "site=nowhere", "--yes", "1").code == 4
    assert desk("reboot", "-l", "site=<", "--yes", "1").code == 2
    empty = desk("reboot", "-l", "", "--yes", "3")
    assert empty.code == 2 and "a variable that is not set" in empty.err and desk.count() == 0
    for argv in (("reboot",), ("reboot", "lobby", "-l", "site=alpine")):
        assert desk(*argv).code == 2


def test_all_are_held(desk: Desk) -> None:
    for name in NAMES:
        desk.fleet.change(name, is_online=False)
    done = desk("reboot", "-l", "site=alpine", "--yes", "3")
    assert done.code == 4 and "none of 3 clients can get it now" in done.err
    assert "--wait-until" in done.err


def test_what_moved_since_the_preview_is_told_and_nothing_is_made(desk: Desk) -> None:
    real = connections.Connection.create

    def late(self: Any, path: str, content: Any, key: str | None = None) -> Any:
        desk.fleet.change("lobby", is_online=False)
        return real(self, path, content, key)

    desk.patch.setattr(connections.Connection, "create", late)
    done = desk("reboot", "-l", "site=alpine", "--yes", "3")
    assert done.code == 4 and "Since the preview:\n  lobby: this client is offline\n" in done.out
    assert "Nothing was made." in done.err and (desk.count(), desk.count(batch)) == (0, 0)


def test_a_batch_is_listed_shown_and_tried_again(desk: Desk) -> None:
    def play() -> None:
        desk.fleet.send()
        desk.fleet.complete("bar-left")
        desk.fleet.fail("lobby")
        desk.fleet.lose("bar-right")

    desk.fleet.on_wake = play
    made = desk("reboot", "-l", "site=alpine", "--yes", "3", "--json").json["batch"]["id"]
    assert re.search(rf"^{made[:8]} .* 3 +1 completed, 1 failed, 1 timed_out", desk("batch").out, re.MULTILINE)
    shown = desk("batch", "show", made[:8], "--state", "failed")
    assert "lobby" in shown.out and "bar-left" not in shown.out
    desk.fleet.on_wake = None
    again = desk("batch", "retry", made, "--yes", "2", "--no-watch", "--json")
    assert again.code == 0 and again.json["batch"]["states"] == {"queued": 2}
    assert desk("batch", "retry", again.json["batch"]["id"], "--yes", "2").code == 4, "nothing has failed there"
    assert desk("cancel", again.json["batch"]["id"]).out == "2 of 2 were stopped.\n"


def test_what_was_sent_cannot_be_cancelled(desk: Desk) -> None:
    made = desk("reboot", "-l", "site=alpine", "--yes", "3", "--no-watch", "--json").json["batch"]["id"]
    one = desk.fleet.commands()["lobby"]
    assert desk("cancel", one[:8]).code == 0
    desk.fleet.send()
    done = desk("batch", "cancel", made)
    assert done.code == 4 and "0 of 2 were stopped." in done.out
    assert desk("cancel", desk.fleet.commands()["bar-left"]).code == 4


# --- Watching


def test_a_watch_tells_each_step_as_it_happens(desk: Desk) -> None:
    """Each step is made only when the line about the one before it was read."""
    assert desk("reboot", "lobby", "--yes", "1", "--no-watch").code == 0
    desk("reboot", "bar-left", "--yes", "1", "--no-watch")
    with desk.process("watch", desk.fleet.commands()["lobby"]) as watching:
        assert watching.stdout is not None and watching.stderr is not None
        lines = []
        for step, words in (
            (None, "queued"),
            (desk.fleet.send, "published"),
            (lambda: desk.fleet.start("lobby"), "accepted"),
            (None, "execution_started"),
            (lambda: desk.fleet.complete("lobby"), "awaiting_reconnect"),
        ):
            if step is not None:
                step()
            lines.append(watching.stdout.readline())
            assert words in lines[-1]
        rest = watching.stdout.read()
        assert watching.wait(60) == 0, watching.stderr.read()
    assert "bar-left" not in rest
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d CES?T  lobby  ", line) for line in lines)


def test_an_interrupted_watch_says_that_the_commands_go_on(desk: Desk) -> None:
    desk("reboot", "lobby", "--yes", "1", "--no-watch")
    made = desk.fleet.commands()["lobby"]
    with desk.process("watch", made) as watching:
        assert watching.stdout is not None and watching.stderr is not None
        assert "queued" in watching.stdout.readline()
        watching.send_signal(2)
        assert watching.wait(60) == 130
        told = watching.stderr.read()
    assert "The commands go on." in told and f"infoscreen-rebootctl watch {made}" in told


def test_a_watch_of_what_has_ended_ends_at_once(desk: Desk) -> None:
    desk.fleet.on_wake = all_complete(desk)
    desk("reboot", "-l", "site=alpine", "--yes", "3")
    with desk.fleet.database.read() as tx:
        made = tx.db.execute(sql_select(batch.c.id)).scalar_one()
    done = desk("watch", made[:8])
    assert done.code == 0 and done.out.count("completed\n") >= 3 and "3 of 3 completed." in done.out
    assert desk("watch", uuid(99)).code == 2
    assert desk("watch", "xyz").code == 2
    assert desk("watch", "00000000").code == 2


def test_a_watch_goes_on_where_its_stream_was_cut(desk: Desk) -> None:
    """The proxy cuts each stream after its first events. No line is missing, none comes twice."""
    desk.patch.setattr(watches, "RECONNECT_AFTER_S", (0.01,))
    desk.fleet.on_wake = all_complete(desk)
    desk("reboot", "-l", "site=alpine", "--yes", "3", "--no-watch")
    with desk.fleet.database.read() as tx:
        made = tx.db.execute(sql_select(batch.c.id)).scalar_one()
    whole = desk("watch", made)
    with Proxy(desk.fleet.address, cut_streams_after=1200) as proxy:
        cut = desk("watch", made, url=proxy.address)
    assert proxy.cuts > 1 and cut.code == 0
    assert cut.out == whole.out


def test_a_controller_that_stays_away_ends_the_watch_and_the_commands_go_on(desk: Desk) -> None:
    desk.patch.setattr(watches, "RECONNECT_AFTER_S", (0.01,))
    desk.patch.setattr(watches, "GIVE_UP_S", 0.05)
    desk("reboot", "lobby", "--yes", "1", "--no-watch")
    made = desk.fleet.commands()["lobby"]
    with Proxy(desk.fleet.address, cut_streams_after=300, is_gone_after_a_cut=True) as proxy:
        done = desk("watch", made, url=proxy.address)
    assert done.code == 6 and f"Watch again: infoscreen-rebootctl watch {made}" in done.err
    assert "The connection was lost. Trying again" in done.err


def test_a_token_that_is_revoked_ends_the_watch(desk: Desk) -> None:
    desk("reboot", "lobby", "--yes", "1", "--no-watch")
    with desk.process("watch", desk.fleet.commands()["lobby"]) as watching:
        assert watching.stdout is not None
        assert "queued" in watching.stdout.readline()
        mine = next(each for each in desk("token", "--json").json if each["user"] == "an-operator")
        assert desk("token", "revoke", mine["id"]).code == 0
        assert watching.wait(60) == 5


# --- A network that loses things


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
        with near, socket.create_connection(self._server) as far:
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
                        is_stream = is_stream or b"/events" in part
                        far.sendall(part)
                    elif is_lost:
                        self._lose -= 1
                        return
                    else:
                        passed += len(part)
                        near.sendall(part)
                        if is_stream and self._cut is not None and passed > self._cut:
                            self.cuts += 1
                            if self._is_gone_after_a_cut:
                                self._stop()
                            return


@pytest.mark.parametrize("argv", [("reboot", "lobby", "--yes", "1"), ("reboot", *NAMES, "--yes", "3")])
def test_a_lost_answer_makes_nothing_twice(desk: Desk, argv: tuple[str, ...]) -> None:
    desk.patch.setattr(connections, "REPEAT_AFTER_S", (0.01, 0.01, 0.01))
    with Proxy(desk.fleet.address, lose_answers=2) as proxy:
        done = desk(*argv, "--no-watch", url=proxy.address)
    assert done.code == 0, done.err
    assert len(proxy.posts) == 3 and desk.count() == (1 if "lobby" in argv[1] else 3)


def test_an_answer_that_never_comes_leaves_it_open_what_was_made(desk: Desk) -> None:
    desk.patch.setattr(connections, "REPEAT_AFTER_S", (0.01,))
    with Proxy(desk.fleet.address, lose_answers=9) as proxy:
        done = desk("reboot", "lobby", "--yes", "1", url=proxy.address)
    assert done.code == 6 and "It is not known whether it was made." in done.err
    assert f"watch {desk.fleet.commands()['lobby']}" in done.err, "it was, and can be looked at"


def test_nobody_answers(desk: Desk) -> None:
    desk.patch.setattr(connections, "REPEAT_AFTER_S", (0.01,))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for argv in (("status",), ("reboot", "lobby", "--yes", "1"), ("doctor",)):
        assert desk(*argv, url=f"http://127.0.0.1:{port}").code == 6


def test_only_a_certificate_that_is_trusted_is_spoken_with(desk: Desk, tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-days", "2", "-subj", "/CN=controller", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*made, *names, "-keyout", key, "-out", cert], check=True, capture_output=True)
    with Fleet(desk.fleet.database).serving(tls=(cert, key)) as address:
        assert address.startswith("https:")
        done = desk("doctor", url=address)
        assert done.code == 6 and "--ca FILE" in done.out
        assert desk("status", "--ca", str(cert), url=address).code == 0
        assert desk("status", "--ca", str(tmp_path / "none"), url=address).code == 2
        assert "TLS, and the certificate is trusted" in desk("doctor", "--ca", str(cert), url=address).out


def test_a_unix_socket_is_an_address_too(desk: Desk, tmp_path: Path) -> None:
    with Fleet(desk.fleet.database).serving(tmp_path / "s") as address:
        assert address.startswith("unix:/")
        assert "an-operator" in desk("status", url=address).out


# --- Who one is


def test_without_a_valid_token_nothing_goes(desk: Desk) -> None:
    assert desk("status", role=None).code == 5
    assert desk("status", token="irc_wrong").code == 5
    assert desk("reboot", "lobby", "--yes", "1", role=Role.VIEWER).code == 5
    assert desk.count() == 0


def test_a_login_stores_a_token_that_only_its_owner_can_read(desk: Desk) -> None:
    read, write = os.pipe()
    os.write(write, f"{desk.fleet.tokens[Role.OPERATOR]}\n".encode())
    os.close(write)
    with os.fdopen(read) as typed:
        desk.patch.setattr("sys.stdin", typed)
        assert desk("login", role=None).code == 0
    path = desk.home / ".config/infoscreen-rebootctl/config"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    desk.patch.delenv("INFOSCREEN_REBOOTCTL_URL")
    assert desk("status", role=None).code == 0
    other = desk.fleet.address.replace("127.0.0.1", "localhost")
    assert desk("status", role=None, url=other).code == 5, "another server never sees the token"
    path.chmod(0o640)
    done = desk("status", role=None)
    assert done.code == 2 and f"chmod 600 {path}" in done.err


def test_a_login_on_a_terminal_asks_and_does_not_show_the_token(desk: Desk) -> None:
    secret = desk.fleet.tokens[Role.ADMIN]
    done = desk.terminal("login", answers=[("Token (is not shown):", f"{secret}\n")])
    assert done.code == 0 and "You are an-admin, admin." in done.out and secret not in done.out
    wrong = desk.terminal("login", answers=[("Token (is not shown):", "irc_wrong\n")])
    assert wrong.code == 5 and secret in (desk.home / ".config/infoscreen-rebootctl/config").read_text()


def test_tokens_and_users_are_made_changed_and_ended(desk: Desk) -> None:
    assert desk("user", "add", "bob", "--role", "operator", role=Role.ADMIN).code == 0
    assert desk("user", "add", "bob", "--role", "operator", role=Role.ADMIN).code == 4
    made = desk("token", "create", "nightly", "--user", "bob", "--expires-in-days", "3", role=Role.ADMIN)
    assert made.code == 0 and re.fullmatch(r"irc_\S+\n", made.out), "only the token, so that it can be piped"
    assert desk("status", "--json", token=made.out.strip()).json["whoami"]["name"] == "bob"
    assert desk("user", "change", "bob", "--role", "viewer", "--may-shut-down", role=Role.ADMIN).code == 0
    assert re.search(r"^bob +viewer, may shut down$", desk("user", role=Role.ADMIN).out, re.MULTILINE)
    tokens = desk("token", "list", "--json", role=Role.ADMIN).json
    [of_bob] = [each["id"] for each in tokens if each["user"] == "bob"]
    assert desk("token", "revoke", of_bob, role=Role.ADMIN).code == 0
    assert desk("token", "revoke", of_bob, role=Role.ADMIN).code == 2
    assert desk("user", "change", "bob", role=Role.ADMIN).code == 2
    assert desk("user", "change", "an-admin", "--disabled", role=Role.ADMIN).code == 4, "the last admin stays"
    assert desk("user", role=Role.OPERATOR).code == 5
    assert "add user" in desk("audit", role=Role.ADMIN).out


# --- How things stand


def test_the_status_counts_what_there_is(desk: Desk) -> None:
    desk.fleet.add("dark", is_online=False)
    desk.fleet.add("new", standing="unknown")
    desk("reboot", "lobby", "--yes", "1", "--no-watch")
    desk("freeze", "begin", "trade fair")
    done = desk("status")
    assert done.code == 0
    for words in ("an-operator, operator", "3 online, 1 offline, 1 unknown", "1 queued", "trade fair (an-operator)"):
        assert words in done.out
    assert desk("status", "--json").json["clients"] == {"online": 3, "offline": 1, "unknown": 1}
    number = str(desk("freeze", "--json").json[0]["id"])
    assert desk("freeze", "end", number).code == 0
    assert desk("freeze", "end", number).code == 2


def test_clients_are_listed_changed_and_accepted(desk: Desk) -> None:
    desk.fleet.add("new-1", "new-2", standing="unknown")
    assert desk("clients", "--names").out.split() == ["bar-left", "bar-right", "lobby", "new-1", "new-2"]
    assert (
        "lobby" in desk("clients", "-l", "site=alpine").out and "new-1" in desk("clients", "--standing", "unknown").out
    )
    assert desk("clients", "label", "lobby", "room=hall", "site-").code == 0
    assert desk("clients", "note", "lobby", "key at the reception").code == 0
    assert desk("clients", "name", "lobby", "hall").code == 0
    shown = desk("clients", "show", "hall")
    assert "room=hall" in shown.out and "key at the reception" in shown.out and "site=" not in shown.out
    assert desk("clients", "name", "hall", "bar-left").code == 4, "there is one of that name"
    assert desk("clients", "label", "hall", "wrong").code == 2
    assert desk("clients", "accept", "new-1").code == 5, "an operator may not"
    assert desk("clients", "accept", "--all-unknown", role=Role.ADMIN).out == "2 clients accepted.\n"
    assert desk("clients", "accept", role=Role.ADMIN).code == 2
    assert desk("clients", "reject", "new-1", role=Role.ADMIN).code == 0
    assert desk("clients", "retire", "new-1", "new-2", role=Role.ADMIN).code == 2, "asks, and there is no terminal"
    assert desk("clients", "retire", "new-1", "new-2", "--yes", "2", role=Role.ADMIN).code == 0
    assert desk("clients", "--names", "--standing", "retired").out.split() == ["new-1", "new-2"]


def test_commands_are_listed_and_explained(desk: Desk) -> None:
    desk.fleet.on_wake = all_complete(desk)
    desk("reboot", "lobby", "--yes", "1")
    made = desk.fleet.commands()["lobby"]
    listed = desk("commands", "--client", "lobby", "--state", "completed").out
    assert made[:8] in listed and "an-operator" in listed
    assert desk("commands", "--open").out == "No commands.\n"
    told = desk("explain", made[:8]).out
    for words in (made, "completed, in a new boot", "started_boot_id", "lockout", "execution_started"):
        assert words in told


def test_clients_come_from_a_file_and_go_to_one(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "clients.csv"
    file.write_text(f"uuid,name,label:site\n{uuid(50)},foyer,alpine\n{uuid(3)},lobby,alpine\n")
    dry = desk("import", str(file), "--dry-run", role=Role.ADMIN)
    assert dry.code == 0 and "1 created, 1 unchanged" in dry.out and "dry run" in dry.out
    assert "foyer" not in desk("clients", "--names").out
    assert desk("import", str(file), role=Role.ADMIN).code == 0
    assert "foyer" in desk("clients", "--names").out
    file.write_text(f"uuid,name\n{uuid(51)},ok\nwrong,bad\n")
    refused = desk("import", str(file), role=Role.ADMIN)
    assert refused.code == 4 and re.search(r"3 +bad +refused", refused.out) and "Nothing was changed." in refused.err
    hosts = {"_meta": {"hostvars": {"terrace": {"infoscreen_client_uuid": uuid(52)}}}, "alpine": {"hosts": ["terrace"]}}
    file.write_text(json.dumps(hosts))
    assert desk("import", str(file), role=Role.ADMIN).code == 0
    assert "terrace" in desk("clients", "--names").out
    out = tmp_path / "out.csv"
    assert desk("export", str(out)).code == 0 and f"{uuid(50)},foyer" in out.read_text()
    assert desk("export").out == out.read_bytes().decode()
    assert desk("export", str(out)).code == 2, "what is there is not overwritten"
    assert desk("import", str(tmp_path / "none"), role=Role.ADMIN).code == 2


def test_the_doctor_finds_what_is_wrong_from_here(desk: Desk) -> None:
    done = desk("doctor", "--json")
    findings = {each["check"]: each["verdict"] for each in done.json["findings"]}
    assert done.code == 0 and findings == dict.fromkeys(("address", "tls", "clock", "ready", "version", "token"), "ok")
    desk.patch.setattr(doctor, "SERVER", desk.home / "no-server")
    done = desk("doctor", role=None)
    assert done.code == 5 and "problem there is no token for this address" in done.out


@pytest.mark.parametrize(("ends_with", "code"), [(0, 0), (1, 6)])
def test_on_the_server_the_doctor_asks_the_servers_own_too(desk: Desk, ends_with: int, code: int) -> None:
    server = desk.home / "server"
    server.write_text(f"""#!/bin/sh\necho '{{"asked": "'"$*"'"}}'\nexit {ends_with}\n""")
    server.chmod(0o755)
    desk.patch.setattr(doctor, "SERVER", server)
    desk.patch.setattr(os, "geteuid", lambda: 1000)
    assert desk("doctor", "--json").json["server"] is None
    desk.patch.setattr(os, "geteuid", lambda: 0)
    done = desk("doctor", "--json")
    assert done.code == code
    assert done.json["server"] == {"exit_code": ends_with, "answer": {"asked": "doctor --json"}}


def test_a_clock_that_differs_is_found() -> None:
    now = datetime(2026, 11, 26, 16, 0, 0, tzinfo=UTC)
    for date, verdict in (
        ("Thu, 26 Nov 2026 16:00:03 GMT", "ok"),
        ("Thu, 26 Nov 2026 15:59:56 GMT", "ok"),
        ("Thu, 26 Nov 2026 16:01:00 GMT", "warning"),
        ("Thu, 26 Nov 2026 15:59:00 GMT", "warning"),
        ("soon", "warning"),
        (None, "warning"),
    ):
        assert doctor.examine_clock(date, now, now).verdict == verdict, date


# --- Times


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30m", "2026-11-26T16:30:00+00:00"),
        ("1h30m", "2026-11-26T17:30:00+00:00"),
        ("90s", "2026-11-26T16:01:30+00:00"),
        ("1d", "2026-11-27T16:00:00+00:00"),
        ("04:00", "2026-11-27T03:00:00+00:00"),
        ("17:30", "2026-11-26T16:30:00+00:00"),
        ("17:00", "2026-11-27T16:00:00+00:00"),
        ("2026-11-27T04:00", "2026-11-27T03:00:00+00:00"),
        ("2026-11-27T04:00Z", "2026-11-27T04:00:00+00:00"),
        ("2026-11-27T04:00-05:00", "2026-11-27T09:00:00+00:00"),
    ],
)
@pytest.mark.usefixtures("berlin")
def test_a_time_is_read_as_people_write_it(text: str, expected: str) -> None:
    assert times.as_sent(times.parse_when(text, datetime(2026, 11, 26, 16, tzinfo=UTC))) == expected


@pytest.mark.usefixtures("berlin")
def test_in_the_night_of_a_clock_change_the_next_time_of_day_is_right() -> None:
    """03:30 after the summer time ends is 02:30 UTC; 24 hours after the day before it would be 01:30."""
    evening = datetime(2026, 10, 24, 20, tzinfo=UTC)
    assert times.as_sent(times.parse_when("03:30", evening)) == "2026-10-25T02:30:00+00:00"


@pytest.mark.parametrize("text", ["", "soon", "25:00", "12:60", "5", "m", "2026-13-01T00:00", "-1h", "99999999999h"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        times.parse_when(text, datetime(2026, 11, 26, 16, tzinfo=UTC))


@pytest.mark.usefixtures("berlin")
def test_no_time_is_shown_without_its_zone() -> None:
    now = datetime(2026, 11, 26, 16, tzinfo=UTC)
    assert times.clock("2026-11-26T16:05:00Z", now) == "17:05:00 CET"
    assert times.clock("2026-11-26T23:30:00Z", now) == "2026-11-27 00:30 CET"
    assert times.until("2026-11-26T16:09:00Z", now) == "17:09:00 CET (in 9 min)"
    assert times.stamp("2026-07-01T00:00:00Z") == "2026-07-01 02:00:00 CEST"
    assert (times.ago("2026-11-24T15:00:00Z", now), times.ago(None, now)) == ("2 d ago", "never")


# --- What is shown


@pytest.mark.parametrize(
    "argv",
    [
        ("status",),
        ("clients",),
        ("clients", "show", "lobby"),
        ("commands",),
        ("batch",),
        ("freeze",),
        ("token",),
        ("user",),
        ("audit",),
        ("export",),
        ("doctor",),
        ("explain", "ID"),
        ("batch", "show", "BATCH"),
        ("reboot", "lobby", "--yes", "1"),
        ("reboot", "-l", "site=alpine", "--yes", "3"),
        ("reboot", "nobody"),
        ("cancel", "ID"),
    ],
    ids=" ".join,
)
def test_json_is_one_document_on_stdout(desk: Desk, argv: tuple[str, ...]) -> None:
    desk.fleet.on_wake = all_complete(desk)
    made = desk("reboot", "bar-left", "bar-right", "--yes", "2", "--json").json
    ids = {"ID": made["commands"][0]["id"], "BATCH": made["batch"]["id"]}
    done = desk(*(ids.get(word, word) for word in argv), "--json", role=Role.ADMIN)
    assert done.json is not None and done.out.isascii()
    if done.code != 0:
        assert done.json["exit_code"] == done.code and done.json["problem"]["detail"]


def test_a_watch_writes_json_lines_and_the_end_is_the_last(desk: Desk) -> None:
    desk.fleet.on_wake = all_complete(desk)
    desk("reboot", "lobby", "--yes", "1", "--no-watch")
    lines = [json.loads(line) for line in desk("watch", desk.fleet.commands()["lobby"], "--json").out.splitlines()]
    assert lines[0]["kind"] == "queued"
    assert (lines[-1]["kind"], lines[-1]["exit_code"], lines[-1]["did_not_come_back"]) == ("ended", 0, [])


def test_text_of_others_can_do_a_terminal_no_harm(desk: Desk) -> None:
    """Pitfall 50: names, notes, reasons and messages with escapes and markup."""
    desk.fleet.add(HOSTILE, note=HOSTILE)

    def play() -> None:
        desk.fleet.send()
        desk.fleet.fail(HOSTILE, HOSTILE)

    desk.fleet.on_wake = play
    one = desk.fleet.uuids[HOSTILE]
    done = desk("reboot", one, "--yes", "1", "--reason", "frozen")
    assert done.code == 3 and SHOWN in done.out
    made = desk.fleet.commands()[HOSTILE]
    seen = [done]
    seen += [desk(*argv) for argv in (("clients",), ("clients", "show", one), ("commands",), ("explain", made))]
    seen += [desk("watch", made), desk("clients", "--names"), desk("freeze", "begin", "x"), desk("status")]
    seen += [desk("reboot", "no\x1b[2Jbody")]
    for each in seen:
        assert not CONTROL.search(each.out + each.err)
    on_terminal = desk.terminal("clients")
    assert SHOWN in on_terminal.out.replace("\r\n", "") and "\x1b[31m" not in on_terminal.out.replace("\x1b[31mof", "")


def test_no_line_on_a_terminal_is_wider_than_80_columns(desk: Desk) -> None:
    desk.fleet.add(*(f"alpine-ski-depot-level-{number:02}" for number in range(20)))
    desk.fleet.on_wake = all_complete(desk)
    shown = desk.terminal("reboot", "-l", "site=alpine", answers=[("Type 23 to go on:", "23\n")]).out
    shown += "".join(desk.terminal(*argv).out for argv in (("clients",), ("commands",), ("batch",), ("status",)))
    for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "\n").split("\n"):
        assert len(line) <= 80, line


def test_a_reader_that_goes_away_is_no_fault(desk: Desk) -> None:
    read, write = os.pipe()
    os.close(read)
    environment = os.environ | desk.variables() | {"PYTHONPATH": str(TOP)}
    done = subprocess.run([*PROGRAM, "clients"], env=environment, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (130, "")


# --- The program itself


def test_help_needs_neither_the_network_nor_the_libraries() -> None:
    """Completion and --help must be quick."""
    code = (
        "import sys, io, contextlib\n"
        "from infoscreen_reboot.controller.ctl.main import main\n"
        "try:\n"
        "    main(['--help'])\n"
        "except SystemExit:\n"
        "    pass\n"
        "print([name for name in ('httpx', 'rich', 'jsonschema', 'sqlalchemy') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n") and "exit codes:" in done.stdout


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("reboot", "x", "--yes", "0"),
        ("reboot", "x", "--wait-until", "soon"),
        ("dance",),
        ("reboot", "x", "--tok", "y"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_ends_with_2(argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2


def test_no_option_takes_a_token(desk: Desk) -> None:
    """Other users of the machine can read a command line."""
    assert "--token" not in parser().format_help()


def test_options_of_all_commands_stand_before_or_after(desk: Desk) -> None:
    for argv in (
        ("--json", "clients"),
        ("clients", "--json"),
        ("clients", "list", "--json"),
        ("clients", "--json", "list"),
    ):
        assert isinstance(desk(*argv).json, list)


def below(made: Any) -> dict[str, Any]:
    """The commands of a parser, by their names."""
    found = [action.choices for action in made._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found[0]) if found else {}


def paths() -> dict[tuple[str, ...], Any]:
    """Each command of the program, as it is typed, with its parser."""
    found: dict[tuple[str, ...], Any] = {(): parser()}
    for name, made in below(parser()).items():
        found[(name,)] = made
        for word, deeper in below(made).items():
            found[(name, word)] = deeper
    return found


def completed(words: Sequence[str], folder: Path) -> set[str]:
    """What bash offers after these words, while the program knows two clients."""
    program = folder / "infoscreen-rebootctl"
    program.write_text("#!/bin/sh\n[ \"$*\" = 'clients --names' ] && printf '%s\\n' 'bar left' lobby\n")
    program.chmod(0o755)
    line = ("infoscreen-rebootctl", *words)
    script = (
        f"source {TOP}/debian/completions/infoscreen-rebootctl; COMP_WORDS=({' '.join(map(shlex.quote, line))});"
        f" COMP_CWORD={len(line) - 1}; _infoscreen_rebootctl; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-uc", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return set(done.stdout.splitlines())


@pytest.mark.parametrize("path", list(paths()), ids=" ".join)
def test_the_completion_offers_each_command_and_each_option(path: tuple[str, ...], tmp_path: Path) -> None:
    made = paths()[path]
    options = {word for action in made._actions for word in action.option_strings if word.startswith("--")}
    offered = completed((*path, ""), tmp_path)
    files = {"infoscreen-rebootctl"} | {each.name for each in TOP.iterdir()}
    assert {word for word in offered if word.startswith("--")} == options
    assert {word for word in offered if not word.startswith("--")} - files - {r"bar\ left", "lobby"} == set(below(made))
    takes_clients = any(action.metavar == "CLIENT" and not action.option_strings for action in made._actions)
    assert takes_clients == ("lobby" in offered)


def test_the_completion_knows_values_and_quotes_names(tmp_path: Path) -> None:
    assert completed(("commands", "--state", ""), tmp_path) == set(STATES)
    assert completed(("reboot", "b"), tmp_path) == {r"bar\ left"}
    assert completed(("commands", "--client", ""), tmp_path) >= {r"bar\ left", "lobby"}
    assert completed(("user", "add", "x", "--role", ""), tmp_path) == {"viewer", "operator", "admin"}
    assert completed(("reboot", "--yes", ""), tmp_path) == {""}


def test_the_manual_has_each_command_each_option_and_each_exit_code() -> None:
    text = (TOP / "docs/man/infoscreen-rebootctl.1").read_text("utf-8")
    words = set(re.findall(r"[\w-]+", text))
    for path, made in paths().items():
        assert set(path) <= words
        for action in made._actions:
            for option in action.option_strings:
                name = option.lstrip("-").removeprefix("no-")
                assert name in words or name in ("help", "h"), (path, option)
    codes = text[text.index(".Sh EXIT STATUS") : text.index(".Sh EXAMPLES")]
    assert set(re.findall(r"^\.It (\d+)$", codes, re.MULTILINE)) == {str(int(each)) for each in Outcome} | {"1"}
    assert set(re.findall(r"^  (\d+) ", EXIT_CODES, re.MULTILINE)) == {str(int(each)) for each in Outcome}
