"""What a stretch of fuzzing came to, and what is bad about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Outcome:
    """Memory is what is resident of the process under test, in MB; `may_grow_mb` is how much more is no leak."""

    what: str
    wanted: int
    may_grow_mb: float
    done: int = 0
    seconds: float = 0.0
    crashes: int = 0
    tracebacks: int = 0
    executions: int = 0  # that nobody with the right to do so had asked for
    before_mb: float = 0.0
    after_mb: float = 0.0
    complaints: list[str] = field(default_factory=list)
    note: str = ""

    @property
    def faults(self) -> list[str]:
        found = [f"{number} {what}" for what, number in (
            ("crashes", self.crashes), ("tracebacks", self.tracebacks), ("executions", self.executions),
        ) if number]  # fmt: skip
        if self.done < self.wanted:
            found.append(f"only {self.done} of {self.wanted} were done")
        if not self.before_mb or not self.after_mb:
            found.append("the memory could not be measured")
        elif self.after_mb - self.before_mb > self.may_grow_mb:
            found.append(f"memory grew by {self.after_mb - self.before_mb:.1f} MB, allowed are {self.may_grow_mb:g}")
        return found + self.complaints


def resident_mb(pid: int) -> float:
    """0 where there is no such process."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    line = next((line for line in status.splitlines() if line.startswith("VmRSS:")), "VmRSS: 0")
    return int(line.split()[1]) / 1024
