"""What goes to the system's journal."""

import logging
import os

import pytest

from infoscreen_reboot.client import log
from systemd import journal


def set_up(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What goes to the journal from now on; logging is as it was after the test."""
    fields_of_lines: list[tuple[str, ...]] = []
    monkeypatch.setattr(journal, "sendv", lambda *fields: fields_of_lines.append(fields))
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging.getLogger(), "level", logging.WARNING)
    for switch in ("_srcfile", "logThreads", "logProcesses", "logMultiprocessing"):
        monkeypatch.setattr(logging, switch, True)
    log.set_up("infoscreen-simclient")
    return fields_of_lines


def stderr_as_systemd_names_it() -> str:
    stderr = os.fstat(2)
    return f"{stderr.st_dev}:{stderr.st_ino}"


def test_a_line_has_its_own_fields_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", stderr_as_systemd_names_it())
    sent = set_up(monkeypatch)
    logging.getLogger("one").info("command %s is %s", "5d1f", "new", extra={"COMMAND_ID": "5d1f"})
    logging.getLogger("two").debug("not said")
    try:
        raise ValueError("odd")
    except ValueError:
        logging.getLogger("two").exception("cannot")
    line, failure = sent
    who = "SYSLOG_IDENTIFIER=infoscreen-simclient"
    assert line == (who, "MESSAGE=command 5d1f is new", "PRIORITY=6", "LOGGER=one", "COMMAND_ID=5d1f")
    assert (failure[0], *failure[2:]) == (who, "PRIORITY=3", "LOGGER=two")
    assert failure[1].startswith("MESSAGE=cannot\nTraceback") and failure[1].endswith("ValueError: odd")


@pytest.mark.parametrize("stream", ["8:1", "", None])
def test_a_journal_that_is_connected_to_another_stderr_is_told_nothing(
    stream: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if stream is None:
        monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    else:
        monkeypatch.setenv("JOURNAL_STREAM", stream)
    sent = set_up(monkeypatch)
    logging.getLogger("one").info("for whoever started us")
    assert (sent, capsys.readouterr().err) == ([], "INFO for whoever started us\n")
