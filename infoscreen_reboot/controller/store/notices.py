"""What people are to be told: written in the transaction of what happened, sent by whoever holds the lease."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import insert

from infoscreen_reboot.controller.notifying import Kind as Kind  # whoever tells something takes it from here
from infoscreen_reboot.controller.store.commands import shown
from infoscreen_reboot.controller.store.database import Transaction
from infoscreen_reboot.controller.store.tables import notice


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
