"""`watch`: how far a command or a batch is, as it happens, until each has its verdict."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from infoscreen_reboot.controller.ctl import course, times
from infoscreen_reboot.controller.ctl.call import Call
from infoscreen_reboot.controller.ctl.course import NOT_BACK, STATES, STOPPED, Course, Line
from infoscreen_reboot.controller.ctl.outcome import Failure, Outcome, Refused, Unreachable
from infoscreen_reboot.controller.ctl.screen import PROGRAM, STYLES, clean, plural
from infoscreen_reboot.controller.ctl.shapes import Command, Event, Member
from infoscreen_reboot.controller.ctl.targets import command_or_batch

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

_SHOWN_LINES = 8
WIDEST_BAR, _WIDEST_NAME = 60, 32
# After the first loss of the stream, the second, and so on; the last for all others.
RECONNECT_AFTER_S = (0.2, 1.0, 2.0, 5.0)
# Without any connection for so long, the call ends: a script must not hang for ever.
GIVE_UP_S = 120.0
_VERBS = {"reboot_host": "Reboot", "shutdown_host": "Shutdown"}


def watch(call: Call) -> Outcome:
    kind, found = command_or_batch(call.connection, call.options.id)
    return follow(call, kind, found)


def follow(call: Call, kind: str, found: str) -> Outcome:
    """Shows how it goes on, and what came of it."""
    commands = to_end(call, kind, found, is_told=True)
    call_outcome = course.outcome(commands)
    if call.screen.is_json:
        call.screen.json_line({"kind": "ended", **summary(commands, call_outcome)})
    return call_outcome


def to_end(call: Call, kind: str, found: str, is_told: bool) -> list[Command]:
    """Until each has its verdict; returns the commands as they ended. Events go to `--json` lines if `is_told`."""
    try:
        return _to_end(call, kind, found, is_told)
    except KeyboardInterrupt:
        raise _interrupted(found) from None
    except (Unreachable, Refused) as error:
        error.advice = f"The commands go on. Watch again: {PROGRAM} watch {found}"
        raise


def _to_end(call: Call, kind: str, found: str, is_told: bool) -> list[Command]:
    about, members = _members(call, kind, found)
    names = {member["client_uuid"]: member["name"] or member["client_uuid"] for member in members}
    run = Course(names, {member["command_id"]: member["client_uuid"] for member in members})
    title = f"{_VERBS[about['action']]} of {_whom(names)}"
    with _shown(call, title, run) as tell:
        for event in _events(call, kind, found, run):
            line = run.hear(event)
            if line is not None:
                tell(line)
            if call.screen.is_json and is_told:
                call.screen.json_line(event)
    commands = _commands(call, kind, found)
    if not call.screen.is_json:
        show_end(call, commands, run.names, run.words)
    return commands


def summary(commands: Sequence[Command], call_outcome: Outcome) -> dict[str, Any]:
    return {
        "exit_code": int(call_outcome),
        "states": {state: sum(each["state"] == state for each in commands) for state in STATES},
        "did_not_come_back": [each["client_uuid"] for each in commands if course.did_not_come_back(each)],
        "commands": list(commands),
    }


def _interrupted(found: str) -> Failure:
    advice = f"The commands go on. Watch again: {PROGRAM} watch {found}"
    return Failure(Outcome.INTERRUPTED, "stopped watching", advice)


def _whom(names: dict[str, str]) -> str:
    return next(iter(names.values())) if len(names) == 1 else plural(len(names), "client")


def _members(call: Call, kind: str, found: str) -> tuple[Any, list[Member]]:
    about = call.connection.get(f"/{kind}/{found}")
    if kind == "batches":
        return about, call.connection.get(f"/batches/{found}/members")
    client = call.connection.get(f"/clients/{about['client_uuid']}")
    only: Member = {
        "client_uuid": about["client_uuid"],
        "name": client["name"],
        "command_id": about["id"],
        "state": about["state"],
        "kind": about["error_code"],
        "why": about["error_message"],
    }
    return about, [only]


def _commands(call: Call, kind: str, found: str) -> list[Command]:
    if kind == "batches":
        return call.connection.pages("/commands", batch=found)
    return [call.connection.get(f"/commands/{found}")]


def _events(call: Call, kind: str, found: str, run: Course) -> Iterator[Event]:
    """All events of it from its beginning on, each once, whatever becomes of the connection, until all have ended."""
    which = {"batch" if kind == "batches" else "command": found}
    losses = 0
    lost_at = time.monotonic()
    while not run.is_over:
        try:
            for event in call.connection.events(which, run.last_seq):
                losses = 0
                lost_at = time.monotonic()
                if event is not None:
                    yield event
                else:  # nothing happens: is it so, or was the last event taken away by the server's retention?
                    _settle(call, kind, found, run)
                if run.is_over:
                    return
        except Unreachable:
            if time.monotonic() > lost_at + GIVE_UP_S:
                raise
        except Refused as refused:
            if refused.status < 500 or time.monotonic() > lost_at + GIVE_UP_S:
                raise
        if losses == 1:
            call.screen.note("The connection was lost. Trying again; the commands go on.")
        time.sleep(RECONNECT_AFTER_S[min(losses, len(RECONNECT_AFTER_S) - 1)])
        losses += 1


def _settle(call: Call, kind: str, found: str, run: Course) -> None:
    about, members = _members(call, kind, found)
    is_over = about["is_over"] if kind == "batches" else not about["is_open"]
    if is_over:
        run.settle({member["command_id"]: member["state"] for member in members})


# --- Shown


@contextmanager
def _shown(call: Call, title: str, run: Course) -> Iterator[Any]:
    """Hands over what takes each line: to a picture that is drawn again and again, or to plain lines."""
    if not call.screen.is_live:
        yield lambda line: _plain(call, line)
        return
    from rich.live import Live

    call.screen.say()

    picture = Picture(title, run, call.screen.console.width, call.now)
    with Live(picture, console=call.screen.console, refresh_per_second=4, vertical_overflow="crop") as live:
        yield picture.add
        live.update(picture)


def _plain(call: Call, line: Line) -> None:
    if not call.screen.is_json:
        print(f"{times.stamp(line.at)}  {clean(line.name)}  {clean(line.words)}", flush=True)


class Picture:
    """A bar, the counts by state, and the last lines. Another thread draws it, so that the time goes on."""

    def __init__(self, title: str, run: Course, width: int, now: datetime) -> None:
        self._title = title
        self._run = run
        self._width = width
        self._now = now
        self._started_s = time.monotonic()
        self._lines: deque[Line] = deque(maxlen=_SHOWN_LINES)
        self._lock = threading.Lock()

    def add(self, line: Line) -> None:
        with self._lock:
            self._lines.append(line)

    def __rich__(self) -> Group:
        from rich.console import Group
        from rich.text import Text

        with self._lock:
            lines = list(self._lines)
        counts = dict(self._run.counts)
        total = len(self._run.clients)
        ended = sum(counts.get(state, 0) for state in course.VERDICTS)
        passed = times.elapsed(time.monotonic() - self._started_s)
        head = Text.assemble((clean(self._title), "bold"), (f"   {passed}", "dim"))
        done = f"  {ended} of {total}"
        bar = bar_of(counts, total, min(WIDEST_BAR, self._width - len(done) - 1))
        bar.append(done)
        return Group(head, bar, count_line_of(counts), Text(), *self._drawn(lines))

    def _drawn(self, lines: Sequence[Line]) -> Iterable[Text]:
        widest = max((len(clean(line.name)) for line in lines), default=0)
        for line in lines:
            yield line_of(line, self._now, min(widest, _WIDEST_NAME), self._width)


def line_of(line: Line, now: datetime, widest: int, width: int) -> Text:
    from rich.text import Text

    name = clean(line.name)
    if len(name) > widest:
        name = name[: widest - 1] + "…"
    drawn = Text.assemble((times.clock(line.at, now), "dim"), f"  {name:{widest}}  ")
    drawn.append(clean(line.words), STYLES.get(line.kind, ""))
    drawn.truncate(width, overflow="ellipsis")
    drawn.no_wrap = True
    return drawn


def bar_of(counts: Mapping[str, int], total: int, width: int) -> Text:
    """As long as the whole, and with a part for each kind of end; the rest is still to come."""
    from rich.text import Text

    parts = (
        (counts.get("completed", 0), "green"),
        (sum(counts.get(state, 0) for state in NOT_BACK), "red"),
        (sum(counts.get(state, 0) for state in STOPPED), "yellow"),
    )
    bar = Text()
    drawn = so_far = 0
    for count, style in parts:
        so_far += count
        end = width * so_far // max(1, total)
        bar.append("━" * (end - drawn), style)
        drawn = end
    bar.append("─" * (width - drawn), "dim")
    return bar


def count_line_of(counts: Mapping[str, int]) -> Text:
    """How many are in each state, in the colours of the states."""
    from rich.text import Text

    line = Text()
    for state in STATES:
        if counts.get(state):
            line.append("   " if line else "")
            line.append(f"{counts[state]} {state}", STYLES.get(state, ""))
    return line


def show_end(call: Call, commands: Sequence[Command], names: Any, words: Any) -> None:
    """How it ended: a sentence, what became of the others, and the names of those that did not come back."""
    call.screen.say()
    if len(commands) == 1:
        [only] = commands
        name = names.get(only["client_uuid"], only["client_uuid"])
        call.screen.say(f"{name}: {course.why(only, words.get(only['id']))}", STYLES.get(only["state"]))
    else:
        done = sum(each["state"] == "completed" and not course.is_mock(each) for each in commands)
        call.screen.say(f"{done} of {len(commands)} completed.", "bold")
    others = [each for each in commands if each["state"] != "completed" or course.is_mock(each)]
    if len(commands) > 1 and others:
        call.screen.say()
        rows = [(_name(names, each), course.why(each, words.get(each["id"]))) for each in others]
        call.screen.table(("client", "verdict"), sorted(rows))
    lost = sorted(_name(names, each) for each in others if course.did_not_come_back(each))
    if lost:
        call.screen.say()
        call.screen.say("Did not come back:", "bold")
        for name in lost:
            call.screen.bare(name)


def _name(names: Any, command: Command) -> str:
    return str(names.get(command["client_uuid"], command["client_uuid"]))
