"""Whether a process that is not our own child has ended."""

from __future__ import annotations

import os
import select


def has_ended(pid: int, within_s: float = 10) -> bool:
    """A signal to kill it is not its end: until a processor is free for it, it is still there."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([process], [], [], within_s)[0])
    finally:
        os.close(process)
