"""One line of the doctor's report."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """`text` says what was seen, `advice` what to do."""

    check: str
    verdict: Verdict
    text: str
    advice: str = ""


def ok(check: str, text: str, advice: str = "") -> Finding:
    return Finding(check, Verdict.OK, text, advice)


def warning(check: str, text: str, advice: str) -> Finding:
    return Finding(check, Verdict.WARNING, text, advice)


def problem(check: str, text: str, advice: str) -> Finding:
    return Finding(check, Verdict.PROBLEM, text, advice)
