"""How a scripted broker treats what a client asks, packet by packet and topic by topic."""

from __future__ import annotations

from dataclasses import dataclass

from infoscreen_reboot.mqtt import reasons
from infoscreen_reboot.mqtt.packets import Kind, Protocol


@dataclass(frozen=True, slots=True)
class Refused:
    """By a code and a sentence. Where MQTT 3.1.1 has no place for a code, the connection is closed."""

    code: int = reasons.NOT_AUTHORISED


@dataclass(frozen=True, slots=True)
class Closed:
    """The connection ends; with a code the broker says it first, in MQTT 5."""

    code: int | None = None


@dataclass(frozen=True, slots=True)
class Silent:
    """No answer comes, and nothing is done."""


@dataclass(frozen=True, slots=True)
class Lowered:
    """A subscription is granted with QoS 0."""


Manner = Refused | Closed | Silent | Lowered


@dataclass(frozen=True, slots=True)
class Rule:
    """How the broker treats packets of this kind. The topic of a CONNECT is that of its will; None is any."""

    kind: Kind
    topic: str | None
    manner: Manner
    protocol: Protocol | None = None
