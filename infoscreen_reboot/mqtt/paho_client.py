"""Makes paho 1.6 and 2.x look alike, in MQTT 5 and in 3.1.1; the only import of paho."""

import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt import properties as paho_properties
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.subscribeoptions import SubscribeOptions

from infoscreen_reboot.mqtt.packets import Kind, Packet, Protocol
from infoscreen_reboot.mqtt.terms import NEVER_EXPIRES

# The largest packet that a broker may send us, with all properties. A command has at most 4 KiB. The time that paho
# needs grows with the square of a packet's properties: a second or two for 128 KiB, many minutes for a few megabytes.
MAX_PACKET_BYTES = 128 * 1024
# How many messages may be in flight, if the broker allows so many; HiveMQ's default is the lowest known to us.
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


def session_options(protocol: Protocol, clean_start: bool, *, is_forgotten: bool = False) -> dict[str, Any]:
    """The arguments of connect() that belong to the session.

    `clean_start`: forget the one before. `is_forgotten`: this one ends with its connection.
    """
    if protocol is Protocol.MQTT_3_1_1:
        return {}
    properties = paho_properties.Properties(PacketTypes.CONNECT)
    properties.MaximumPacketSize = MAX_PACKET_BYTES
    if not is_forgotten:
        # As the broker keeps a session of MQTT 3.1.1.
        properties.SessionExpiryInterval = NEVER_EXPIRES
    return {"clean_start": clean_start, "properties": properties}


def publish_options(protocol: Protocol, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The argument of publish() for user properties. MQTT 3.1.1 has none, so there they are left out."""
    if protocol is Protocol.MQTT_3_1_1 or not pairs:
        return {}
    properties = paho_properties.Properties(PacketTypes.PUBLISH)
    properties.UserProperty = list(pairs)
    return {"properties": properties}


def subscriptions(protocol: Protocol, topics: Sequence[str], *, as_published: bool = False) -> list[tuple[str, Any]]:
    """The argument of subscribe() for QoS 1. `as_published`: keep the retain flag that the publisher set."""
    how: Any = 1
    if protocol is Protocol.MQTT_5:
        how = SubscribeOptions(qos=1, retainAsPublished=as_published)
    return [(topic, how) for topic in topics]


def unreleased(client: PahoClient) -> int:
    """How many QoS 2 deliveries paho holds because their PUBREL has not come. paho has no bound for them.

    We subscribe with QoS 1, so a broker that keeps to the rules sends none. paho has no public name for this.
    """
    return len(client._in_messages)


def incoming_bytes(client: Any) -> int:
    """How long the packet is that paho is reading; it would read up to 256 MB. 0 between packets."""
    return int(client._in_packet["remaining_length"])


def incoming(client: Any, kind: Kind) -> Packet:
    """In a callback: the packet that it is about. paho 1.6 does not pass on all that is in it."""
    return Packet(kind, bytes(client._in_packet["packet"]), 0)


def heed_disconnect(client: Any, heard: Callable[[Packet], None]) -> None:
    """Calls `heard` with the broker's DISCONNECT.

    paho's own callback is of no use here. paho reads no reason from a short DISCONNECT, as mosquitto sends it; and for
    the callback it takes a lock that it holds while it answers a delivery.
    """
    handle = client._handle_disconnect

    def remember() -> Any:
        heard(incoming(client, Kind.DISCONNECT))
        return handle()

    client._handle_disconnect = remember


def heed_pings(client: Any, sent: Callable[[], None], answered: Callable[[], None]) -> None:
    """Calls these when paho has sent a PINGREQ, and when its answer is there. paho has no callbacks for them."""
    send, handle = client._send_pingreq, client._handle_pingresp

    def send_and_tell() -> Any:
        sent()
        return send()

    def tell() -> Any:
        answered()
        return handle()

    client._send_pingreq, client._handle_pingresp = send_and_tell, tell


def ping(client: Any) -> None:
    """Ask for a sign of life now, unless one is on its way."""
    if client._ping_t == 0:
        client._send_pingreq()


def heed_keep_alive(client: Any, seconds: int) -> None:
    """The broker's word on it, that comes with its CONNACK; paho does not heed it."""
    client._keepalive = seconds


def heed_receive_maximum(client: Any, most: int) -> None:
    """The same for how many messages may be in flight. paho's own setter refuses while there is a connection."""
    client._max_inflight_messages = min(IN_FLIGHT, most)


def use_socket(client: Any, connect: Callable[[], socket.socket]) -> None:
    """Lets `connect` make the network connection. paho would begin with the same address each time."""
    client._create_socket_connection = connect


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
