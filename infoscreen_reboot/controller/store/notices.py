"""What people are to be told: written in the transaction of what happened, sent by whoever holds the lease."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from sqlalchemy import insert

from infoscreen_reboot.controller.store.commands import shown
from infoscreen_reboot.controller.store.database import Transaction
from infoscreen_reboot.controller.store.tables import notice


class Kind(StrEnum):
    """What happened. `BACK` is told only where `NEEDS_PERSON` was."""

    STARTED = "started"
    STOPPED = "stopped"
    FINISHED = "finished"
    MISSED = "missed"
    NEEDS_PERSON = "needs_person"
    BACK = "back"
    UNKNOWN_CLIENT = "unknown_client"
    TWO_HOSTS = "two_hosts"
    PORTS_OFF = "ports_off"


def tell(
    tx: Transaction,
    kind: Kind,
    subject: str,
    words: str,
    content: Mapping[str, Any] | None = None,
    site: str | None = None,
) -> None:
    """`subject` is what it is about, as `rollout/<id>`; `words` is one sentence, which can stand alone in a message."""
    values = {"at": tx.now, "kind": str(kind), "subject": subject, "words": words, "site": site}
    tx.db.execute(insert(notice).values(**values, content=shown(content or {})))
