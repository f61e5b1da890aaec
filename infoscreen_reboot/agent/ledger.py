"""Enters each step of a command: record and owed ack in one transaction, and one line in the system's journal."""

import logging
from collections.abc import Callable
from dataclasses import replace

from infoscreen_reboot.agent.journal import Journal, Letter
from infoscreen_reboot.agent.lifecycle import Event, Record, step
from infoscreen_reboot.agent.ports import Clock
from infoscreen_reboot.contract import ack
from infoscreen_reboot.contract.ack import Ack
from infoscreen_reboot.contract.topics import Topics

log = logging.getLogger(__name__)


class Ledger:
    """The one who applies events to records; `on_entry` is called when a step is on disk."""

    def __init__(self, client_uuid: str, journal: Journal, clock: Clock, on_entry: Callable[[], None]) -> None:
        self._client_uuid = client_uuid
        self._topics = Topics(client_uuid)
        self._journal = journal
        self._clock = clock
        self._on_entry = on_entry

    def advance(self, record: Record, event: Event) -> None:
        """Apply `event` to what the journal now knows of `record`, unless its story has ended meanwhile."""
        current = self._journal.find(record.command_id)
        if current is not None and not current.state.is_terminal:
            self.apply(current, event)

    def apply(self, record: Record, event: Event) -> None:
        """Raises JournalError, and then nothing has changed."""
        after, reply = step(record, event)
        if after == record:
            return
        if reply is not None:
            answer = Ack(
                command_id=record.command_id,
                client_uuid=self._client_uuid,
                status=reply.status,
                timestamp=self._clock.now(),
                boot_id=self._clock.boot_id(),
                error_code=reply.code,
                error_message=reply.message,
            )
            after = replace(after, ack=ack.encode(answer))
        self._journal.commit(after, self.letters(after) if reply is not None else ())
        self._on_entry()
        why = f" ({reply.code}: {reply.message})" if reply is not None and reply.code is not None else ""
        what = record.action or "command"
        log.info("%s %s: %s -> %s%s", what, record.command_id, record.state, after.state, why, extra=log_field(record))

    def letters(self, record: Record) -> list[Letter]:
        """The record's current ack, to each topic that wants it."""
        if record.ack is None:
            return []
        topics = [self._topics.commands_ack]
        if record.came_by_transitional:
            topics.append(self._topics.transitional_ack)
        return [Letter(topic, record.ack) for topic in topics]


def log_field(record: Record) -> dict[str, str]:
    """The command's id as a field of its own in the system's journal."""
    return {"COMMAND_ID": record.command_id}
