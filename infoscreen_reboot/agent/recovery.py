"""Opens the journal whatever is found: a bad file is set aside; where nothing can be written, memory has to serve."""

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from infoscreen_reboot.agent import disk
from infoscreen_reboot.agent.journal import (
    KEPT_RECORDS,
    OWED_BOUND,
    Journal,
    JournalBusy,
    JournalError,
    JournalFull,
    JournalUnusable,
)

log = logging.getLogger(__name__)

_CURE = "free or mend the disk, then restart infoscreen-simclient.service"


def open_journal(path: Path, begin: Callable[[Journal], None]) -> tuple[Journal, str | None]:
    """An open journal on which `begin` was called and, where it is in memory, why no command may be executed.

    Raises JournalBusy: whoever holds the file will let go of it.
    """
    try:
        return _begun_or_set_aside(path, begin), None
    except JournalBusy:
        raise
    except (JournalError, OSError) as error:
        log.error("%s; until that is mended the state is kept in memory, and no command is executed", error)
        journal = Journal(path, in_memory=True)
        begin(journal)
        return journal, f"this client cannot write down what it does ({error}); {_CURE}"


def hand_over(memory: Journal, path: Path) -> bool:
    """Whether a journal in memory is needed no more: the file can be written, and the disk is not full.

    The file then knows the commands that were refused meanwhile: else the same one again would be executed. It knows
    whether the boot was reported, too: that is done once.
    """
    if disk.is_full(path.parent):
        return False
    try:
        with contextlib.closing(_begun_or_set_aside(path, lambda journal: None)) as journal:
            for record in reversed(memory.last_records(KEPT_RECORDS)):
                if journal.find(record.command_id) is None:
                    journal.commit(record)
            if (boot := memory.last_boot()) is not None:
                journal.open_boot(boot)
            journal.owe_again([owed.letter for owed in memory.owed(OWED_BOUND)])
    except (JournalError, OSError):
        return False
    memory.take_no_more()
    return True


def set_aside(path: Path, why: JournalUnusable) -> None:
    """Raises OSError."""
    aside = disk.set_aside(path)
    log.error("%s; it is set aside as %s, and a new one is begun", why, aside)


def _begun_or_set_aside(path: Path, begin: Callable[[Journal], None]) -> Journal:
    try:
        return _begun(path, begin)
    except JournalUnusable as error:
        set_aside(path, error)
    return _begun(path, begin)


def _begun(path: Path, begin: Callable[[Journal], None]) -> Journal:
    try:
        return _open(path, begin)
    except JournalFull as error:
        if not disk.Reserve(path.parent).give_up():
            raise
        log.warning("%s; the reserve is given up", error)
    return _open(path, begin)


def _open(path: Path, begin: Callable[[Journal], None]) -> Journal:
    if path.is_dir():
        raise JournalUnusable(f"cannot open the journal {path}: it is a directory")
    journal = Journal(path)
    try:
        journal.examine()
        journal.check_writable()
        begin(journal)
    except BaseException:
        journal.close()
        raise
    return journal
