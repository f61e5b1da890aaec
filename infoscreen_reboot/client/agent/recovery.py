"""Opens the store in any case: it sets a bad file aside, and goes on in memory if nothing can be written."""

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from infoscreen_reboot.client import disk
from infoscreen_reboot.client.agent.store import (
    KEPT_RECORDS,
    OWED_BOUND,
    Store,
    StoreBusy,
    StoreError,
    StoreFull,
    StoreUnusable,
)

log = logging.getLogger(__name__)

_CURE = "free or mend the disk, then restart infoscreen-simclient.service"


def open_store(path: Path, begin: Callable[[Store], None]) -> tuple[Store, str | None]:
    """Open a store and call `begin` on it. If the store is in memory, also return why no command may be executed.

    Raises StoreBusy if another process holds the file: it will let go of it.
    """
    try:
        return _begun_or_set_aside(path, begin), None
    except StoreBusy:
        raise
    except (StoreError, OSError) as error:
        log.error("%s; until that is mended the state is kept in memory, and no command is executed", error)
        store = Store(path, in_memory=True)
        begin(store)
        return store, f"this client cannot write down what it does ({error}); {_CURE}"


def hand_over(memory: Store, path: Path) -> bool:
    """Whether the store in memory is no longer needed: the file can be written, and the disk is not full.

    The file then has what came meanwhile: the commands that were refused (else the same command would be executed if it
    came again), what is owed, and whether the boot was reported (that is done once).
    """
    if disk.is_full(path.parent):
        return False
    try:
        with contextlib.closing(_begun_or_set_aside(path, lambda store: None)) as store:
            for record in reversed(memory.last_records(KEPT_RECORDS)):
                if store.find(record.command_id) is None:
                    store.commit(record)
            if (boot := memory.last_boot()) is not None:
                store.open_boot(boot)
            store.owe_again([owed.letter for owed in memory.owed(OWED_BOUND)])
    except (StoreError, OSError):
        return False
    memory.take_no_more()
    return True


def set_aside(path: Path, why: StoreUnusable) -> None:
    """Rename a store that cannot be used, so that a new one can be begun. Raises OSError."""
    aside = disk.set_aside(path)
    log.error("%s; it is set aside as %s, and a new one is begun", why, aside)


def _begun_or_set_aside(path: Path, begin: Callable[[Store], None]) -> Store:
    try:
        return _begun(path, begin)
    except StoreUnusable as error:
        set_aside(path, error)
    return _begun(path, begin)


def _begun(path: Path, begin: Callable[[Store], None]) -> Store:
    try:
        return _open(path, begin)
    except StoreFull as error:
        if not disk.Reserve(path.parent).give_up():
            raise
        log.warning("%s; the reserve is given up", error)
    return _open(path, begin)


def _open(path: Path, begin: Callable[[Store], None]) -> Store:
    if path.is_dir():
        raise StoreUnusable(f"cannot open the store {path}: it is a directory")
    store = Store(path)
    try:
        store.examine()
        store.check_writable()
        begin(store)
    except BaseException:
        store.close()
        raise
    return store
