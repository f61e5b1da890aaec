"""What a broker allows, as it says with its CONNACK, and what follows from it for a client."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from infoscreen_reboot.mqtt import packets
from infoscreen_reboot.mqtt.packets import Connack, Property

# MQTT 5, 3.2.2.3.2: this session never expires.
NEVER_EXPIRES = 0xFFFFFFFF
UNLIMITED_BYTES = 0xFFFFFFFF
# Nothing that is sent to us counts for longer, so a session need not be kept for longer.
_LONG_ENOUGH_S = 24 * 3600


@dataclass(frozen=True, slots=True)
class Terms:
    """MQTT 5, 3.2.2.3. MQTT 3.1.1 says only `has_session`; the rest is then as it is where nothing is said.

    `has_session`: the broker knows the client from before. `receive_maximum` is how many messages may be without their
    PUBACK; who sends more may be thrown out. `session_expiry_s` and `client_id` are None if we got what we asked for.
    """

    has_session: bool = False
    keep_alive_s: int | None = None
    receive_maximum: int = 65535
    maximum_packet_bytes: int = UNLIMITED_BYTES
    maximum_qos: int = 2
    has_retained: bool = True
    session_expiry_s: int | None = None
    client_id: str | None = None
    has_wildcards: bool = True
    has_subscription_ids: bool = True
    has_shared_subscriptions: bool = True

    @classmethod
    def read(cls, connack: Connack) -> Self:
        """Raises packets.MalformedPacket."""
        said = packets.read_properties(connack.properties)

        def number(name: Property, otherwise: int) -> int:
            return int(said.get(name, otherwise))

        expiry_s, client_id = said.get(Property.SESSION_EXPIRY), said.get(Property.ASSIGNED_CLIENT_ID)
        return cls(
            has_session=connack.has_session,
            # 0 is "not needed"; ours does no harm then.
            keep_alive_s=number(Property.SERVER_KEEP_ALIVE, 0) or None,
            # 0 is against the rules, and one at a time is the least that makes sense of it.
            receive_maximum=max(1, number(Property.RECEIVE_MAXIMUM, 65535)),
            maximum_packet_bytes=number(Property.MAXIMUM_PACKET_SIZE, UNLIMITED_BYTES),
            maximum_qos=number(Property.MAXIMUM_QOS, 2),
            has_retained=number(Property.RETAIN_AVAILABLE, 1) != 0,
            session_expiry_s=None if expiry_s is None or expiry_s == NEVER_EXPIRES else int(expiry_s),
            client_id=str(client_id) if client_id is not None else None,
            has_wildcards=number(Property.WILDCARDS_AVAILABLE, 1) != 0,
            has_subscription_ids=number(Property.SUBSCRIPTION_IDS_AVAILABLE, 1) != 0,
            has_shared_subscriptions=number(Property.SHARED_AVAILABLE, 1) != 0,
        )

    def shortcomings(self) -> Iterator[str]:
        """One sentence for each term that costs this client something."""
        if self.maximum_qos == 0:
            yield (
                "the broker takes and gives QoS 0 only: it acknowledges nothing, so commands can get lost, and what is "
                "owed is kept and sent again on each connection"
            )
        if not self.has_retained:
            yield "the broker keeps no retained messages: who subscribes later does not see the status"
        if self.session_expiry_s is not None and self.session_expiry_s < _LONG_ENOUGH_S:
            yield (
                f"the broker forgets this client {self.session_expiry_s} s after its connection is lost, and with it "
                "the commands that wait for it"
            )
        if self.client_id is not None:
            yield f"the broker calls this client {self.client_id!r}, not as it asked"
