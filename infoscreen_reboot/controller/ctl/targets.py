"""Which clients, commands and batches are meant by what was typed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from uuid import UUID

from infoscreen_reboot.controller.ctl.connection import Connection
from infoscreen_reboot.controller.ctl.outcome import Failure, Outcome, Refused
from infoscreen_reboot.controller.ctl.screen import usage
from infoscreen_reboot.controller.ctl.shapes import Client

# The lists show so many digits of an id, and take them.
SHORT = 8
_ONE = {"batches": "batch", "commands": "command", "rollouts": "rollout"}
_BEGINNING = re.compile(rf"[0-9a-f-]{{{SHORT},36}}")


def name_of(client: Client) -> str:
    return client["name"] or client["uuid"]


def uuid_of(text: str) -> str | None:
    """The UUID that a text is, in the form that the API uses; None for a name."""
    try:
        return str(UUID(text)) if len(text) == 36 else None
    except ValueError:
        return None


def client_named(connection: Connection, text: str) -> Client:
    """By UUID or by exact name. Raises Failure if it is not just one."""
    uuid = uuid_of(text)
    if uuid is not None:
        try:
            one: Client = connection.get(f"/clients/{uuid}")
        except Refused as refused:
            if refused.status != 404:
                raise
            raise usage(f"there is no client {uuid}") from None
        return one
    answer: list[Client] = connection.get("/clients", name=text)
    # Looked at here again: an answer with other clients in it must not reboot those.
    found = [client for client in answer if client["name"] == text]
    standing = [client for client in found if client["standing"] != "retired"] or found
    if len(standing) == 1:
        return standing[0]
    if standing:
        uuids = ", ".join(client["uuid"] for client in standing)
        raise usage(f"{len(standing)} clients have the name {text!r}", f"say which one: {uuids}")
    raise usage(f"there is no client {text!r}", _close(connection, text))


def clients_named(connection: Connection, names: Sequence[str]) -> list[Client]:
    """Each once, in the order in which they were typed."""
    found = [client_named(connection, name) for name in dict.fromkeys(names)]
    return list({client["uuid"]: client for client in found}.values())


def _close(connection: Connection, text: str) -> str | None:
    everybody: list[Client] = connection.get("/clients")
    close = difflib.get_close_matches(text, [client["name"] for client in everybody if client["name"]], n=3)
    return f"did you mean {' or '.join(close)}?" if close else "run: infoscreen-rebootctl clients"


def command_or_batch(connection: Connection, text: str) -> tuple[str, str]:
    """`("commands", id)` or `("batches", id)`, by a whole id or by its beginning. Raises Failure."""
    text = text.lower()
    uuid = uuid_of(text)
    if uuid is not None:
        for kind in ("batches", "commands"):
            try:
                connection.get(f"/{kind}/{uuid}")
            except Refused as refused:
                if refused.status != 404:
                    raise
            else:
                return kind, uuid
        raise usage(f"there is no command and no batch {uuid}")
    matches = [*_beginning(connection, "batches", text), *_beginning(connection, "commands", text)]
    if len(matches) != 1:
        raise _not_one(text, "command or batch", len(matches))
    return matches[0]


def id_of(connection: Connection, kind: str, text: str) -> str:
    """The id of a command (`commands`), batch (`batches`) or rollout (`rollouts`). Raises Failure."""
    text = text.lower()
    uuid = uuid_of(text)
    if uuid is not None:
        return uuid
    matches = _beginning(connection, kind, text)
    if len(matches) != 1:
        raise _not_one(text, _ONE[kind], len(matches))
    return matches[0][1]


def _beginning(connection: Connection, kind: str, text: str) -> list[tuple[str, str]]:
    """Among the newest only: an old one is named by its whole id."""
    if not _BEGINNING.fullmatch(text):
        raise usage(f"{text!r} is no id", f"an id has 36 characters; the first {SHORT} are enough for a new one")
    return [(kind, item["id"]) for item in connection.pages(f"/{kind}", most=1000) if item["id"].startswith(text)]


def _not_one(text: str, what: str, count: int) -> Failure:
    if count:
        return usage(f"{count} ids begin with {text!r}", "say more of it")
    return usage(f"no new {what} has an id that begins with {text!r}", "say the whole id")


def nobody(selector: str) -> Failure:
    return Failure(Outcome.REFUSED, f"no accepted client is meant by {selector!r}", "nothing was made")
