"""Sends one message to one target, whatever that is; or a test message to some at once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from infoscreen_reboot.controller import apprised, webhook
from infoscreen_reboot.controller.notifying import NotSent, Post
from infoscreen_reboot.controller.targets import Target

log = logging.getLogger(__name__)

# How long somebody who sends a test message waits for its outcome.
_TEST_S = 20.0
Deliver = Callable[[Target, Post, datetime], None]


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of a test message: sent, if there are no `words` that say why not."""

    target: Target
    words: str | None


def deliver(target: Target, post: Post, now: datetime) -> None:
    """Raises NotSent."""
    if target.is_webhook:
        webhook.deliver(target, post, now)
    else:
        apprised.deliver(target, post)


def fault(deliver: Deliver, target: Target, post: Post, now: datetime) -> str | None:
    """Why it was not sent; None: it was."""
    try:
        deliver(target, post, now)
    except NotSent as error:
        return str(error)
    except Exception as error:  # of a library that is not ours: its sentence may hold a secret
        log.warning("an error while a message was sent to %s: %s", target.name, type(error).__name__)
        return f"an error in the library: {type(error).__name__}"
    return None


def test(targets: Sequence[Target], now: datetime, deliver: Deliver = deliver, limit_s: float = _TEST_S) -> list[Tried]:
    """A test message to each of them, at the same time."""
    words = "This is a test. Whoever reads it will hear when a client needs a person."
    post = Post(0, now, "test", "infoscreen: a test message", words, False, {})
    found: dict[str, str | None] = {target.name: f"no outcome within {limit_s:.0f} s" for target in targets}

    def run(target: Target) -> None:
        found[target.name] = fault(deliver, target, post, now)

    threads = [threading.Thread(target=run, args=(target,), daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(limit_s)
    return [Tried(target, found[target.name]) for target in targets]
