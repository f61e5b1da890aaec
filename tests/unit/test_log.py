"""What goes to the system's journal."""

import logging

import pytest

from infoscreen_reboot.agent import log
from systemd import journal


def test_a_line_has_its_own_fields_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, ...]] = []
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    monkeypatch.setattr(journal, "sendv", lambda *fields: sent.append(fields))
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging.getLogger(), "level", logging.WARNING)
    for switch in ("_srcfile", "logThreads", "logProcesses", "logMultiprocessing"):
        monkeypatch.setattr(logging, switch, True)  # as it was, after the test
    log.set_up("infoscreen-simclient")
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
