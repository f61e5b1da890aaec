"""How long clients were away, in bars, with the two limits that an operator knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

# docs/contract.md, "Operational defaults": from 90 s on the display is amber, after 150 s the command has timed out.
AMBER_S, RED_S = 90, 150
STEP_S = 15
_WIDTH = 40


def draw(times_s: Sequence[float]) -> list[str]:
    """One line for each 15 s, up to the longest time, and at least up to the second limit."""
    bars = Counter(int(time_s // STEP_S) for time_s in times_s)
    last = max([*bars, RED_S // STEP_S])
    most = max(bars.values(), default=1)
    lines = []
    for number in range(last + 1):
        begin = number * STEP_S
        if begin in (AMBER_S, RED_S):
            lines.append(f"  {'- ' * 3}{begin} s: {'the display is amber' if begin == AMBER_S else 'timed out'}")
        bar = "#" * -(-bars[number] * _WIDTH // most)
        lines.append(f"  {begin:3}-{begin + STEP_S:3} s {bars[number]:4}  {bar}".rstrip())
    return lines


def summary(times_s: Sequence[float]) -> str:
    """How many were back within each limit."""
    if not times_s:
        return "nobody came back"
    ordered = sorted(times_s)
    in_amber = sum(time_s <= AMBER_S for time_s in ordered)
    in_red = sum(time_s <= RED_S for time_s in ordered)
    middle = ordered[(len(ordered) - 1) // 2]
    return (
        f"{len(ordered)} came back: {in_amber} within {AMBER_S} s, {in_red} within {RED_S} s; "
        f"half of them within {middle:.0f} s, the last after {ordered[-1]:.0f} s"
    )
