"""What the system's journal shows: one line per transition, the command's id as a field of its own."""

import logging
import os
import sys

from systemd import journal

# systemd's handler gives all attributes of Python's record, two dozen: time for each line, and room in the journal.
_FIELDS = ("PRIORITY", "SYSLOG_IDENTIFIER", "LOGGER", "COMMAND_ID")


def set_up(identifier: str) -> None:
    """Log to the journal where stderr is connected to it, else to stderr for the person who started us."""
    handler: logging.Handler
    if "JOURNAL_STREAM" in os.environ:
        handler = journal.JournalHandler(sender_function=_send, SYSLOG_IDENTIFIER=identifier)
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _send(message: str, /, **fields: object) -> None:
    journal.sendv(f"MESSAGE={message}", *(f"{name}={fields[name]}" for name in _FIELDS if name in fields))
