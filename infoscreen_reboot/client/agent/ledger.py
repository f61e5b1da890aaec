"""Writes down each step of a command: record and owed ack in one transaction, and one line in systemd's journal."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from infoscreen_reboot.client.agent.lifecycle import Event, Failed, Record, State, step
from infoscreen_reboot.client.agent.ports import Clock
from infoscreen_reboot.client.agent.store import Letter, Store
from infoscreen_reboot.contract import ack
from infoscreen_reboot.contract.ack import Ack, ErrorCode
from infoscreen_reboot.contract.topics import Topics

log = logging.getLogger(__name__)

# At any time the same message would get the same one of these refusals. After any other refusal, a command could be
# executed if we forgot it and it came again before it expires.
_FOR_ALL_TIME = frozenset(
    {ErrorCode.INVALID_SCHEMA, ErrorCode.INVALID_SIGNATURE, ErrorCode.WRONG_CLIENT, ErrorCode.EXPIRED}
)


class Ledger:
    """Applies events to records, and nobody else does. `on_entry` is called when a step is on disk.

    While the store can take in no new command, each new one is refused. The refusal is stored, but its ack is not owed:
    `send_once` sends it.
    """

    def __init__(
        self,
        client_uuid: str,
        store: Store,
        clock: Clock,
        on_entry: Callable[[], None],
        send_once: Callable[[Sequence[Letter]], None],
        compat_topics: bool,
    ) -> None:
        """`compat_topics`: what came on the transitional topic is answered there, too."""
        self._client_uuid = client_uuid
        self._topics = Topics(client_uuid)
        self._store = store
        self._clock = clock
        self._on_entry = on_entry
        self._send_once = send_once
        self._compat_topics = compat_topics

    def advance(self, record: Record, event: Event) -> None:
        """Apply `event` to `record` as the store has it now, unless the command has ended meanwhile."""
        current = self._store.find(record.command_id)
        if current is not None and not current.state.is_terminal:
            self.apply(current, event)

    def apply(self, record: Record, event: Event) -> None:
        """Apply `event` to `record`. If this raises StoreError, nothing has changed."""
        why_no_new_command = self._store.why_no_new_command() if record.state is State.NEW else None
        is_for_all_time = record.state is State.NEW and isinstance(event, Failed) and event.code in _FOR_ALL_TIME
        if why_no_new_command is not None and not isinstance(event, Failed):
            event = Failed(ErrorCode.INTERNAL_ERROR, why_no_new_command)
        after, reply = step(record, event)
        if after == record:
            return
        if is_for_all_time or why_no_new_command is not None:
            after = replace(after, keep_until_s=None)
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
        letters = self.letters(after) if reply is not None else []
        self._store.commit(after, letters if why_no_new_command is None else ())
        self._on_entry()
        if why_no_new_command is not None:
            self._send_once(letters)
        why = f" ({reply.code}: {reply.message})" if reply is not None and reply.code is not None else ""
        what = record.action or "command"
        log.info("%s %s: %s -> %s%s", what, record.command_id, record.state, after.state, why, extra=log_field(record))

    def letters(self, record: Record) -> list[Letter]:
        """The record's current ack, one letter for each topic on which it is sent."""
        if record.ack is None:
            return []
        topics = [self._topics.commands_ack]
        if record.came_by_transitional and self._compat_topics:
            topics.append(self._topics.transitional_ack)
        return [Letter(topic, record.ack) for topic in topics]


def log_field(record: Record) -> dict[str, str]:
    """The command's id as a field of its own in systemd's journal."""
    return {"COMMAND_ID": record.command_id}
