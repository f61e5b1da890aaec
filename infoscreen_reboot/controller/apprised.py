"""The only door to apprise: mail, ntfy, Teams, Slack, Matrix and a hundred more. Loaded where a target needs it."""

from __future__ import annotations

import logging
import re
import threading
from typing import Any
from urllib.parse import unquote, urlsplit

from infoscreen_reboot.controller.notifying import NotSent, Post
from infoscreen_reboot.controller.targets import Target

# For each step of a delivery: to connect, to read.
_STEP_S = 5.0
_SHORTEST_SECRET = 4
# The words that these services have for how much a message matters, in the address.
_PRIORITIES = {"ntfy": ("high", "default"), "ntfys": ("high", "default"), "pover": ("high", "normal")}
_MISSING = "apprise is not installed: apt install apprise"


def fault_of(target: Target) -> str | None:
    """Why nothing can be sent to it; None if nothing speaks against it."""
    try:
        _service(target, is_loud=False)
    except NotSent as error:
        return str(error)
    return None


def deliver(target: Target, post: Post) -> None:
    """Raises NotSent."""
    service = _service(target, post.is_loud)
    service.socket_connect_timeout = service.socket_read_timeout = _STEP_S
    heard = _Heard()
    logger = logging.getLogger("apprise")
    logger.addHandler(heard)
    try:
        kind = _library().NotifyType.WARNING if post.is_loud else _library().NotifyType.INFO
        # As text: so what a name holds is no markup where a message is HTML.
        is_sent = service.notify(body=post.body, title=post.title, notify_type=kind, body_format="text")
    finally:
        logger.removeHandler(heard)
    if not is_sent:
        raise NotSent(_without_secrets(heard.words or "it was not taken", target.address))


def _service(target: Target, is_loud: bool) -> Any:
    library = _library()
    service = library.Apprise.instantiate(with_priority(target.address, is_loud), asset=library.AppriseAsset())
    if service is None:
        raise NotSent("apprise cannot read this address")
    return service


def with_priority(address: str, is_loud: bool) -> str:
    """With the priority that the message has, if the service knows one and the address says none."""
    parts = urlsplit(address)
    words = _PRIORITIES.get(parts.scheme)
    if words is None or "priority=" in parts.query:
        return address
    return f"{address}{'&' if parts.query else '?'}priority={words[0] if is_loud else words[1]}"


def _library() -> Any:
    try:
        import apprise
    except ImportError:
        raise NotSent(_MISSING) from None
    # What it has to say about a failure becomes our words; its own lines could hold parts of an address.
    logging.getLogger("apprise").propagate = False
    return apprise


class _Heard(logging.Handler):
    """The last warning that this thread has caused."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._thread = threading.get_ident()
        self.words = ""

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self.words = record.getMessage()


def _without_secrets(words: str, address: str) -> str:
    """No part of the address stays in what is shown and stored."""
    parts = {unquote(part) for part in re.split(r"[/:@?&=,]", address)} | set(re.split(r"[/:@?&=,]", address))
    for part in sorted(parts, key=len, reverse=True):
        if len(part) >= _SHORTEST_SECRET and part != urlsplit(address).scheme:
            words = words.replace(part, "…")
    return " ".join(words.split())
