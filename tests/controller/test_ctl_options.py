"""What can be typed: options, times, completion and manual."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from infoscreen_reboot.controller.ctl import doctor, times
from infoscreen_reboot.controller.ctl.course import STATES, Course
from infoscreen_reboot.controller.ctl.main import main
from infoscreen_reboot.controller.ctl.options import parser
from infoscreen_reboot.controller.ctl.outcome import EXIT_CODES, Outcome
from infoscreen_reboot.controller.ctl.shapes import Event
from tests.controller.desk import TOP


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


# --- Events


def told(seq: int, command_id: str, kind: str) -> Event:
    return {
        "seq": seq,
        "at": "2026-11-26T16:00:00Z",
        "kind": kind,
        "client_uuid": None,
        "command_id": command_id,
        "batch_id": None,
        "content": {},
    }


def test_an_event_counts_once_and_only_for_a_command_that_is_watched() -> None:
    run = Course({}, {"a": "client-a", "b": "client-b"})
    assert run.hear(told(1, "a", "completed")) == ("2026-11-26T16:00:00Z", "client-a", "completed", "completed")
    assert run.hear(told(1, "b", "completed")) is None, "after a reconnect"
    assert run.hear(told(2, "c", "completed")) is None and not run.is_over
    assert (run.counts["queued"], run.counts["completed"]) == (1, 1)
    run.settle({"a": "completed", "b": "expired"})
    assert run.is_over and run.counts["expired"] == 1


def test_the_events_of_a_large_batch_cost_no_more_each_than_those_of_a_small_one() -> None:
    ids = [str(number) for number in range(20_000)]
    run = Course({}, {each: each for each in ids})
    kinds = ("queued", "published", "accepted", "execution_started", "completed")
    began_s = time.process_time()
    for seq, (kind, each) in enumerate(((kind, each) for kind in kinds for each in ids), start=1):
        assert not run.is_over
        run.hear(told(seq, each, kind))
    assert run.is_over and time.process_time() - began_s < 20


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


@pytest.mark.usefixtures("berlin")
def test_the_time_at_the_client_is_shown_where_its_clock_shows_another_one() -> None:
    now = datetime(2026, 11, 26, 16, tzinfo=UTC)
    hold: dict[str, object] = {"opens_at": "2026-11-26T16:09:00Z"}
    here = "17:09:00 CET (in 9 min)"
    assert times.opens(hold, now) == here and times.opens({"opens_at": None, "zone": "UTC"}, now) == "not known"
    for there, zone, words in (
        ("2026-11-26T17:09:00+01:00", "Europe/Oslo", here),
        ("2026-11-26T11:09:00-05:00", "America/New_York", f"{here}, at the client 11:09 America/New_York"),
        (
            "2026-11-27T06:09:00+14:00",
            "Pacific/Kiritimati",
            f"{here}, at the client 2026-11-27 06:09 Pacific/Kiritimati",
        ),
    ):
        assert times.opens(hold | {"opens_at_local": there, "zone": zone}, now) == words


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


def test_no_option_takes_a_token() -> None:
    """Other users of the machine can read a command line."""
    assert all("--token" not in made.format_help() for made in paths().values())


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
