"""What the system's journal shows: one line per transition, the command's id as a field of its own."""

import logging
import os
import sys

from systemd import journal


def set_up(identifier: str) -> None:
    """Log to the journal where stderr is connected to it, else to stderr for the person who started us."""
    handler: logging.Handler
    if "JOURNAL_STREAM" in os.environ:
        handler = _ToJournal(SYSLOG_IDENTIFIER=identifier)
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class _ToJournal(journal.JournalHandler):  # type: ignore[misc]  # it has no types
    """systemd's own gives two dozen fields, all that Python knows of a line: time for each, and room in the journal."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            priority, logger = self.map_priority(record.levelno), record.name
            fields = self._extra | {"MESSAGE": self.format(record), "PRIORITY": priority, "LOGGER": logger}
            if command_id := getattr(record, "COMMAND_ID", None):
                fields["COMMAND_ID"] = command_id
            journal.sendv(*(f"{name}={value}" for name, value in fields.items()))
        except Exception:
            self.handleError(record)
