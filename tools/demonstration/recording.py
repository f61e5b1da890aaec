"""The demonstration in a terminal that is recorded, as an SVG that moves: what the README shows."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from tools.lab import tree
from tools.lab.roots import recorder
from tools.lab.scratch import LabError

COLUMNS_AND_ROWS = "118x24"
# Nobody wants to look at a build for its whole time; the times that are shown are the true ones.
LONGEST_FRAME_MS = 2500
END_MS = 6000


def record(target: Path, *options: str) -> int:
    """Run tools/demo with these options and write it to `target`, unless the command was not completed: exit code 1.

    Raises LabError if nothing was recorded.
    """
    made = target.with_name(f".{target.name}")
    termtosvg = sys.executable, "-m", "termtosvg", str(made)
    shape = "-g", COLUMNS_AND_ROWS, "-M", str(LONGEST_FRAME_MS), "-D", str(END_MS)
    demo = shlex.join([str(tree.TREE / "tools/demo"), *options])
    environment = os.environ | {"PYTHONPATH": str(recorder()), "TERM": "xterm-256color"}
    # It ends when its input does: an input that stays open and says nothing lets the demonstration end by itself.
    with subprocess.Popen([*termtosvg, *shape, "-c", demo], stdin=subprocess.PIPE, env=environment) as recording:
        recording.wait()
    if recording.returncode != 0 or not made.exists():
        raise LabError(f"termtosvg ended with {recording.returncode} and recorded nothing")
    if "COMPLETED: " not in (seen := made.read_text()) or "NOT COMPLETED" in seen:
        made.unlink()
        return 1
    made.rename(target)
    return 0
