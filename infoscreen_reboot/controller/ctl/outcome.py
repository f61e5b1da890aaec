"""How a call can end: the exit codes, and the one exception that leads to them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any


class Outcome(IntEnum):
    """The exit codes. 1 is none of them: Python ends with it after an error of ours."""

    DONE = 0
    USAGE = 2
    NOT_BACK = 3
    REFUSED = 4
    NOT_PERMITTED = 5
    UNREACHABLE = 6
    INTERRUPTED = 130


EXIT_CODES = """exit codes:
  0    done: all clients completed
  2    the command line is wrong, or names something that does not exist
  3    some clients did not come back: failed, expired or timed_out
  4    a rule or a person held, refused or cancelled it
  5    the token is not valid, or may not do this
  6    the controller cannot be reached, or cannot answer
  130  interrupted; commands that were made go on
"""


class Failure(Exception):
    """Ends the call. `advice` says what to do; `document` is for --json."""

    def __init__(
        self, outcome: Outcome, sentence: str, advice: str | None = None, document: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(sentence)
        self.outcome = outcome
        self.advice = advice
        self.document = dict(document or {})


class Unreachable(Failure):
    """No answer came, or none of a controller: what was asked for may have happened or not."""

    def __init__(self, sentence: str, advice: str | None = None) -> None:
        super().__init__(Outcome.UNREACHABLE, sentence, advice)


class Refused(Failure):
    """The controller said no. `kind` is its word for why."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.kind = str(problem.get("kind", ""))
        self.problem = dict(problem)
        detail = str(problem.get("detail") or problem.get("title") or f"the answer was {status}")
        super().__init__(_outcome_of(status, self.kind), detail, document=problem)


# The kinds of a 4xx that tell of a fault in what was typed.
_USAGE = ("bad_request", "bad_selector", "bad_terms", "bad_wait", "invalid", "too_large", "not_found", "no_such_client")


def _outcome_of(status: int, kind: str) -> Outcome:
    if status in (401, 403):
        return Outcome.NOT_PERMITTED
    if status >= 500 or not kind:  # without a kind it is the answer of something else, as of a proxy
        return Outcome.UNREACHABLE
    return Outcome.USAGE if kind in _USAGE else Outcome.REFUSED
