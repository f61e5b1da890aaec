"""What people see. Text of others is shown with its control characters escaped, and never read as markup."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from infoscreen_reboot.controller.ctl.outcome import Failure, Outcome

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

PROGRAM = "infoscreen-rebootctl"
# Where nobody looks, a line is as long as it is: a program reads it, or `less`.
_UNBOUNDED = 100_000

# How each state looks. What did not come back is red, what a rule or a person stopped is yellow.
STYLES = {
    "completed": "green",
    "failed": "red",
    "expired": "red",
    "timed_out": "red",
    "cancelled": "yellow",
    "blocked_safety": "yellow",
    "held": "yellow",
    "paused": "yellow",
    "stopped": "red",
    "finished": "green",
    "aborted": "yellow",
    "rolled_back": "yellow",
    "late_truth": "yellow",
    "needs_person": "red",
    "held_back": "yellow",
    "late": "red",
    "rebooting": "yellow",
    "back": "green",
    "online": "green",
    "offline": "red",
    "ok": "green",
    "warning": "yellow",
    "problem": "red",
}

_COLOURED = ("state", "verdict", "outcome", "answer")


def clean(text: object) -> str:
    """One line that can do a terminal no harm: what is not printable is written as in `\\x1b`."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in str(text)
    )


class Screen:
    """Standard output for what was asked for, standard error for questions and complaints."""

    def __init__(self, is_json: bool) -> None:
        self.is_json = is_json
        self._console: Console | None = None

    @property
    def console(self) -> Console:
        if self._console is None:
            from rich.console import Console

            self._console = Console(markup=False, highlight=False, emoji=False, soft_wrap=False)
            if not self._console.is_terminal:
                self._console = Console(markup=False, highlight=False, emoji=False, width=_UNBOUNDED)
        return self._console

    @property
    def is_live(self) -> bool:
        """Whether what was written can be written over."""
        return not self.is_json and self.console.is_terminal and not self.console.is_dumb_terminal

    @property
    def can_ask(self) -> bool:
        """Only who has seen the preview can answer: with --json nobody has."""
        return not self.is_json and self.is_at_terminal

    @property
    def is_at_terminal(self) -> bool:
        return sys.stdin.isatty() and sys.stderr.isatty()

    def document(self, content: Any) -> None:
        """One JSON document, in ASCII: no character of it can harm a terminal."""
        print(json.dumps(content, indent=2))

    def json_line(self, content: Any) -> None:
        print(json.dumps(content), flush=True)

    def say(self, line: str = "", style: str | None = None) -> None:
        if not self.is_json:
            self.console.print(clean(line), style=style)

    def lines(self, lines: Sequence[Text]) -> None:
        for line in lines:
            self.console.print(line)

    def bare(self, line: str) -> None:
        """A line for other programs: never wrapped, never coloured."""
        print(clean(line))

    def raw(self, text: str) -> None:
        """A file, as it is."""
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode())
        sys.stdout.buffer.flush()

    def note(self, line: str) -> None:
        print(clean(line), file=sys.stderr)

    def complain(self, failure: Failure) -> None:
        if self.is_json:
            self.document({"problem": {"detail": str(failure)} | failure.document, "exit_code": int(failure.outcome)})
        self.note(f"{PROGRAM}: {failure}")
        if failure.advice is not None:
            self.note(failure.advice)

    def ask(self, question: str) -> str:
        print(clean(question), end=" ", file=sys.stderr, flush=True)
        answer = sys.stdin.readline()
        if not answer.endswith("\n"):
            self.note("")
        return answer.strip()

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], indent: int = 0) -> None:
        """A state has its colour. A column that begins with `#` holds numbers."""
        from rich.table import Table

        made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for column in columns:
            is_number = column.startswith("#")
            made.add_column(column.removeprefix("#"), justify="right" if is_number else "left", overflow="fold")
        for row in rows:
            made.add_row(*(shown(cell, column) for cell, column in zip(row, columns, strict=True)))
        self._draw(made, indent)

    def listing(self, columns: Sequence[str], rows: Sequence[Sequence[object]], nothing: str) -> None:
        """A table, or a sentence where there is nothing to list."""
        if rows:
            self.table(columns, rows)
        else:
            self.say(nothing)

    def facts(self, pairs: Sequence[tuple[str, object]], indent: int = 0) -> None:
        """Names and values, in two columns."""
        from rich.table import Table

        made = Table.grid(padding=(0, 2, 0, 0))
        made.add_column(style="dim", no_wrap=True)
        made.add_column(overflow="fold")
        for name, value in pairs:
            made.add_row(name, shown(value, name))
        self._draw(made, indent)

    def _draw(self, made: Table, indent: int) -> None:
        """Without the blanks that fill up the last column: they would wrap where a line is pasted."""
        with self.console.capture() as drawn:
            self.console.print(made, width=self.console.width - indent)
        for line in drawn.get().splitlines():
            sys.stdout.write(" " * indent + line.rstrip() + "\n")

    def findings(self, findings: Sequence[tuple[str, str, str | None]]) -> None:
        """Verdict, text and advice, as the client's doctor writes them."""
        if self.is_json:
            return
        from rich.text import Text

        for verdict, text, advice in findings:
            self.console.print(Text.assemble((f"{verdict:<8}", STYLES[verdict]), clean(text)))
            if advice is not None:
                self.console.print(f"        {clean(advice)}")

    def paragraph(self, text: str, indent: int = 0) -> None:
        """Wrapped at its spaces."""
        from rich.padding import Padding
        from rich.text import Text

        self.console.print(Padding(Text(text), (0, 0, 0, indent), expand=False))

    def title(self, text: str) -> None:
        self.console.print(clean(text), style="bold")


def shown(value: object, name: str) -> Text:
    """A cell; where it tells of a state, in the colour of the state that it begins with."""
    from rich.text import Text

    text = clean("-" if value is None else value)
    return Text(text, STYLES.get(text.partition(" ")[0].rstrip(":,"), "") if name in _COLOURED else "")


def usage(sentence: str, advice: str | None = None) -> Failure:
    return Failure(Outcome.USAGE, sentence, advice)


def plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
