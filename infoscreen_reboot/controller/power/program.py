"""Runs a program for a bounded time, with nothing of our environment."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

# The broker's password is in ours.
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


class TookTooLong(Exception):
    """It was killed, with all that it had started."""


def run(
    argv: Sequence[str | Path], environment: Mapping[str, str], given: bytes, limit_s: float
) -> tuple[int, str, str]:
    """Exit code, output and errors. Raises TookTooLong, or OSError if it cannot be started."""
    pipe = subprocess.PIPE
    # A session of its own, so that its children are killed with it.
    with subprocess.Popen(
        argv,
        env=_ENVIRONMENT | dict(environment),
        cwd="/",
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        start_new_session=True,
    ) as started:
        try:
            out, err = started.communicate(given, timeout=limit_s)
        except subprocess.TimeoutExpired:
            raise TookTooLong from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
    return started.returncode, out.decode(errors="replace"), err.decode(errors="replace")
