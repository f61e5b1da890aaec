"""The exact bytes of a command, and when the same bytes may go out again as a question. Pure, but for the signature."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol

from infoscreen_reboot.contract import command
from infoscreen_reboot.contract.command import Action, Command
from infoscreen_reboot.contract.topics import Topics
from infoscreen_reboot.controller.lifecycle import Record

# SERVER_TEAM_ACTIONS.md, section 2: not more than once a minute.
ASK_AGAIN = timedelta(seconds=60)
# docs/contract.md: the client takes a string of up to 128 characters, and a reason of up to 500.
_MOST_BY, _MOST_REASON = 128, 500


class Signs(Protocol):
    def properties(self, topic: str, payload: bytes) -> Sequence[tuple[str, str]]: ...


def compose(
    command_id: str, client_uuid: str, action: Action, times: tuple[datetime, datetime], by: str, reason: str | None
) -> tuple[str, bytes]:
    """Topic and payload. `times` are when it was issued and when it expires."""
    content = Command(
        command_id=command_id,
        client_uuid=client_uuid,
        action=action,
        issued_at=times[0],
        expires_at=times[1],
        requested_by=by[:_MOST_BY],
        reason=None if reason is None else reason[:_MOST_REASON],
    )
    return Topics(client_uuid).commands, command.encode(content)


def may_ask(
    record: Record, now: datetime, asked_at: datetime | None, sent_boot_id: str | None, boot_id: str | None
) -> bool:
    """Whether the same bytes may go out again: who knows the command sends its present ack and does nothing else.

    A client that has lost its records would execute a command that has not expired. So before `expires_at` the bytes
    go out again only if nothing was heard, and if the client is still in the boot in which they first went out.
    """
    if record.sent_at is None or record.state.is_verdict:
        return False
    if asked_at is not None and now < asked_at + ASK_AGAIN:
        return False
    if now > record.expires_at:
        return True
    return not record.is_heard_of and (sent_boot_id is None or sent_boot_id == boot_id)
