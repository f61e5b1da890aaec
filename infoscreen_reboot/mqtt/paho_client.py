"""Makes paho 1.6 and 2.x look alike, in MQTT 5 and in 3.1.1; the only import of paho."""

import struct
from collections.abc import Callable, Sequence
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt import properties as paho_properties
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.subscribeoptions import SubscribeOptions

from infoscreen_reboot.mqtt.packets import Protocol

# The broker keeps a session of MQTT 3.1.1 until it is told otherwise; so should it in MQTT 5.
NEVER_EXPIRES = 0xFFFFFFFF
# The largest packet that a broker may send us, with all properties. A command has at most 4 KiB. The time that paho
# needs grows with the square of a packet's properties: a second or two for 128 KiB, many minutes for a few megabytes.
MAX_PACKET_BYTES = 128 * 1024
# How many messages may be in flight. paho ignores the broker's own limit; HiveMQ's default is the lowest known to us.
IN_FLIGHT = 10

ERR_SUCCESS, ERR_PROTOCOL = paho.MQTT_ERR_SUCCESS, paho.MQTT_ERR_PROTOCOL
# What paho raises for a packet that it cannot read.
UNREADABLE = (struct.error, UnicodeDecodeError, LookupError, AssertionError, paho_properties.MQTTException)

PahoClient = paho.Client
error_string = paho.error_string


def new_client(protocol: Protocol, client_id: str, clean_session: bool, manual_ack: bool = False) -> PahoClient:
    """`manual_ack` needs paho 2."""
    # Without this option, paho answers a refusal with a reconnect that blocks the loop.
    options: dict[str, Any] = {"protocol": int(protocol), "reconnect_on_failure": False}
    if manual_ack:
        options["manual_ack"] = True
    if protocol is Protocol.MQTT_3_1_1:
        options["clean_session"] = clean_session
    if hasattr(paho, "CallbackAPIVersion"):
        options["callback_api_version"] = paho.CallbackAPIVersion.VERSION2
    client = paho.Client(client_id=client_id, **options)
    # Messages in flight keep their order. paho's queue is unlimited, so no message is dropped.
    client.max_inflight_messages_set(IN_FLIGHT)
    return client


def session_options(protocol: Protocol, clean_session: bool) -> dict[str, Any]:
    """The arguments of connect() that belong to the session."""
    if protocol is Protocol.MQTT_3_1_1:
        return {}
    properties = paho_properties.Properties(PacketTypes.CONNECT)
    properties.MaximumPacketSize = MAX_PACKET_BYTES
    if not clean_session:
        properties.SessionExpiryInterval = NEVER_EXPIRES
    return {"clean_start": clean_session, "properties": properties}


def publish_options(protocol: Protocol, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The argument of publish() for user properties. MQTT 3.1.1 has none, so there they are left out."""
    if protocol is Protocol.MQTT_3_1_1 or not pairs:
        return {}
    properties = paho_properties.Properties(PacketTypes.PUBLISH)
    properties.UserProperty = list(pairs)
    return {"properties": properties}


def subscriptions(protocol: Protocol, topics: Sequence[str]) -> list[tuple[str, Any]]:
    """The argument of subscribe() for QoS 1."""
    how: Any = SubscribeOptions(qos=1) if protocol is Protocol.MQTT_5 else 1
    return [(topic, how) for topic in topics]


def unreleased(client: PahoClient) -> int:
    """How many QoS 2 deliveries paho holds because their PUBREL has not come. paho has no bound for them.

    We subscribe with QoS 1, so a broker that keeps to the rules sends none. paho has no public name for this.
    """
    return len(client._in_messages)


def heed_disconnect(client: Any, heard: Callable[[int], None]) -> None:
    """Calls `heard` with the reason of the broker's DISCONNECT.

    paho's own callback is of no use here. paho reads no reason from a short DISCONNECT, as mosquitto sends it; and for
    the callback it takes a lock that it holds while it answers a delivery.
    """
    handle = client._handle_disconnect

    def remember() -> Any:
        heard((bytes(client._in_packet["packet"]) or b"\0")[0])
        return handle()

    client._handle_disconnect = remember


def heed_keep_alive(client: Any, seconds: int) -> None:
    """The broker's word on it, that comes with its CONNACK; paho does not heed it."""
    client._keepalive = seconds


def said(properties: Any, name: str, otherwise: int) -> int:
    """A number among the properties of a packet; `name` is paho's. MQTT 3.1.1 has none of them."""
    return int(getattr(properties, name, otherwise))


def code(reason: Any) -> int:
    """paho 1.6 gives MQTT 3.1.1 codes as integers, paho 2 and MQTT 5 as objects."""
    return int(getattr(reason, "value", reason))


def user_properties(message: Any) -> tuple[tuple[str, str], ...]:
    """paho 1.6 gives a message of 3.1.1 no properties at all."""
    return tuple(getattr(getattr(message, "properties", None), "UserProperty", ()))


def _read_utf(buffer: bytes, max_bytes: int) -> tuple[str, int]:
    """Reads a length of two bytes and the text behind it; returns the text, and how many bytes both took."""
    (length,) = struct.unpack_from("!H", buffer)
    if length + 2 > max_bytes:
        raise paho_properties.MalformedPacket("text longer than its packet")
    return buffer[2 : length + 2].decode("utf-8", "replace"), length + 2


# MQTT 5 allows U+FEFF (1.5.4-3), but paho's own function takes it for an error. A message with it would be delivered,
# would end the connection and be delivered again, for ever.
paho_properties.readUTF = _read_utf
