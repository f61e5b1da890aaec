"""What a scripted broker keeps of a client while it is away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from infoscreen_reboot.mqtt.packets import Publish
from tests.broker import requests
from tests.broker.requests import Breach


class Session:
    """Its subscriptions, and each delivery until its PUBACK."""

    def __init__(self) -> None:
        self.subscriptions: dict[str, int] = {}
        self._waiting: dict[int, Publish] = {}
        self._sent: set[int] = set()
        self._last_id = 0

    def give(self, message: Publish) -> bool:
        """Puts it into the queue if the client has subscribed to its topic, once, with the best QoS (3.3.4)."""
        options = [said for wanted, said in self.subscriptions.items() if requests.matches(wanted, message.topic)]
        if options:
            qos = min(message.qos, max(said & requests.QOS for said in options))
            is_retained = message.retain and any(said & requests.AS_PUBLISHED for said in options)
            self.queue(replace(message, qos=qos, retain=is_retained))
        return bool(options)

    def queue(self, message: Publish) -> None:
        self._last_id += 1
        self._waiting[self._last_id] = replace(message, packet_id=self._last_id if message.qos else 0)

    def to_send(self, receive_maximum: int) -> Iterator[Publish]:
        """What waits and is not under way, as many as the client takes at once."""
        for number in sorted(self._waiting.keys() - self._sent):
            message = self._waiting[number]
            if message.qos:
                if len(self._sent) >= receive_maximum:
                    return
                self._sent.add(number)
            else:
                del self._waiting[number]
            yield message

    def on_puback(self, packet_id: int) -> None:
        if packet_id not in self._sent:
            raise Breach(requests.AGAINST_THE_RULES, f"PUBACK: nothing was sent as {packet_id}")
        self._sent.discard(packet_id)
        del self._waiting[packet_id]

    def line_is_lost(self) -> None:
        """What was under way goes out again, and says that it is not the first time (3.3.1-1)."""
        for number in self._sent:
            self._waiting[number].dup = True
        self._sent.clear()
