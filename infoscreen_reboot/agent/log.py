"""What the system's journal shows: one line per transition, the command's id as a field of its own."""

import logging
import os
import sys

from systemd.journal import JournalHandler


def set_up(identifier: str) -> None:
    """Log to the journal where stderr is connected to it, else to stderr for the person who started us."""
    handler: logging.Handler
    if "JOURNAL_STREAM" in os.environ:
        handler = JournalHandler(SYSLOG_IDENTIFIER=identifier)
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
