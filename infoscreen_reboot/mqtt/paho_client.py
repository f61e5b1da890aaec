"""A paho client, the same of 1.6 and of 2.x, in MQTT 5 and in 3.1.1; the only import of paho."""

import struct
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt import properties as paho_properties
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.subscribeoptions import SubscribeOptions

# As the broker keeps a session of MQTT 3.1.1: until it is told otherwise.
NEVER_EXPIRES = 0xFFFFFFFF
# What a broker may send us at once, properties and all. A command has 4 KiB; and paho takes time that grows with the
# square of a packet's properties: a second or two for these, many minutes for a few megabytes.
MAX_PACKET_BYTES = 128 * 1024
# paho does not heed what a broker says of this; HiveMQ's default is the lowest known to us.
IN_FLIGHT = 10

ERR_SUCCESS, ERR_PROTOCOL = paho.MQTT_ERR_SUCCESS, paho.MQTT_ERR_PROTOCOL
# How paho takes a packet that it cannot read.
UNREADABLE = (struct.error, UnicodeDecodeError, LookupError, AssertionError, paho_properties.MQTTException)

PahoClient = paho.Client
error_string = paho.error_string


class Protocol(IntEnum):
    MQTT_3_1_1 = paho.MQTTv311
    MQTT_5 = paho.MQTTv5


def new_client(protocol: Protocol, client_id: str, clean_session: bool) -> PahoClient:
    # paho's own answer to a refusal would be a reconnect that blocks the loop.
    options: dict[str, Any] = {"protocol": int(protocol), "reconnect_on_failure": False}
    if protocol is Protocol.MQTT_3_1_1:
        options["clean_session"] = clean_session
    if hasattr(paho, "CallbackAPIVersion"):
        options["callback_api_version"] = paho.CallbackAPIVersion.VERSION2
    client = paho.Client(client_id=client_id, **options)
    # What is in flight keeps its order, and paho's queue is unlimited: none is dropped.
    client.max_inflight_messages_set(IN_FLIGHT)
    return client


def session_options(protocol: Protocol, clean_session: bool) -> dict[str, Any]:
    """What connect() wants to know besides the address."""
    if protocol is Protocol.MQTT_3_1_1:
        return {}
    properties = paho_properties.Properties(PacketTypes.CONNECT)
    properties.MaximumPacketSize = MAX_PACKET_BYTES
    if not clean_session:
        properties.SessionExpiryInterval = NEVER_EXPIRES
    return {"clean_start": clean_session, "properties": properties}


def subscriptions(protocol: Protocol, topics: Sequence[str]) -> list[tuple[str, Any]]:
    """What subscribe() wants for QoS 1."""
    how: Any = SubscribeOptions(qos=1) if protocol is Protocol.MQTT_5 else 1
    return [(topic, how) for topic in topics]


def unreleased(client: PahoClient) -> int:
    """How many deliveries of QoS 2 it holds whose PUBREL has not come: paho keeps them without a bound.

    We subscribe with QoS 1, so a broker that keeps to the rules sends none. paho has no public word for it.
    """
    return len(client._in_messages)


def heed_disconnect(client: Any, heard: Callable[[int], None]) -> None:
    """Calls `heard` with the reason of the broker's DISCONNECT.

    paho reads no reason from a short one, as mosquitto sends it, and its own callback takes a lock that is held while a
    delivery is answered.
    """
    handle = client._handle_disconnect

    def remember() -> Any:
        heard((bytes(client._in_packet["packet"]) or b"\0")[0])
        return handle()

    client._handle_disconnect = remember


def code(reason: Any) -> int:
    """paho 1.6 gives MQTT 3.1.1 codes as integers, paho 2 and MQTT 5 as objects."""
    return int(getattr(reason, "value", reason))


def user_properties(message: Any) -> tuple[tuple[str, str], ...]:
    """paho 1.6 gives a message of 3.1.1 no properties at all."""
    return tuple(getattr(getattr(message, "properties", None), "UserProperty", ()))


def _read_utf(buffer: bytes, max_bytes: int) -> tuple[str, int]:
    """The text that a length of two bytes stands before, and how many bytes both took."""
    (length,) = struct.unpack_from("!H", buffer)
    if length + 2 > max_bytes:
        raise paho_properties.MalformedPacket("text longer than its packet")
    return buffer[2 : length + 2].decode("utf-8", "replace"), length + 2


# paho's own takes U+FEFF for an error, which MQTT 5 (1.5.4-3) allows: one message with it would be delivered, end the
# connection and be delivered again, for ever.
paho_properties.readUTF = _read_utf
