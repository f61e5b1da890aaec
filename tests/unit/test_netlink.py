"""What the kernel says of the network, and what of it is news to somebody who waits for a broker."""

from __future__ import annotations

import socket
import struct

import pytest

from infoscreen_reboot.client.agent import netlink
from infoscreen_reboot.client.agent.netlink import Network

NEW_LINK, DEL_LINK, NEW_ADDRESS, DEL_ADDRESS, NEW_ROUTE, DEL_ROUTE, NEW_NEIGHBOUR = 16, 17, 20, 21, 24, 25, 28
DONE, ERROR = 3, 2
IN_DUMP = 0x2
UP, LOWER_UP, RUNNING = 0x1, 0x10000, 0x40
PERMANENT, TENTATIVE, OPTIMISTIC = 0x80, 0x40, 0x04
UNICAST, LOCAL = 1, 2
ETHERNET, GATEWAY, OTHER_GATEWAY = 3, bytes([10, 0, 0, 254]), bytes([10, 0, 0, 253])
IP4, IP6 = socket.AF_INET, socket.AF_INET6
OURS = bytes([10, 0, 0, 1])


def message(kind: int, body: bytes, flags: int = 0) -> bytes:
    data = struct.pack("=IHHII", 16 + len(body), kind, flags, 0, 0) + body
    return data + bytes(-len(data) % 4)


def attribute(name: int, value: bytes) -> bytes:
    data = struct.pack("=HH", 4 + len(value), name) + value
    return data + bytes(-len(data) % 4)


def link(flags: int, kind: int = NEW_LINK, index: int = ETHERNET, in_dump: int = 0) -> bytes:
    return message(kind, struct.pack("=BxHiII", 0, 1, index, flags, 0) + attribute(3, b"eth0\0"), in_dump)


def address(
    kind: int = NEW_ADDRESS, own: bytes = OURS, flags: int = PERMANENT, valid_s: int = 3600, in_dump: int = 0
) -> bytes:
    fixed = struct.pack("=BBBBI", IP4 if len(own) == 4 else IP6, 24, flags, 0, ETHERNET)
    lifetime = struct.pack("=IIII", valid_s, valid_s, 0, 0)
    return message(kind, fixed + attribute(1, own) + attribute(3, b"eth0\0") + attribute(6, lifetime), in_dump)


def route(
    kind: int = NEW_ROUTE, gateway: bytes = GATEWAY, use: int = UNICAST, expires_s: int = 0, in_dump: int = 0
) -> bytes:
    fixed = struct.pack("=BBBBBBBBI", IP4, 0, 0, 0, 254, 16, 0, use, 0)
    lifetime = struct.pack("=IIiIIIII", 0, 0, expires_s, 0, 0, 0, 0, 0)
    words = attribute(15, struct.pack("=I", 254)) + attribute(5, gateway) + attribute(4, struct.pack("=I", ETHERNET))
    return message(kind, fixed + words + attribute(12, lifetime), in_dump)


@pytest.mark.parametrize(
    "datagram",
    [
        link(UP | LOWER_UP),
        address(),
        address(own=bytes(15) + b"\1", flags=OPTIMISTIC | TENTATIVE),
        route(),
        route(expires_s=300),
    ],
    ids=["a carrier", "an address", "an optimistic address", "a route", "a route that expires"],
)
def test_a_carrier_an_address_or_a_route_is_news_once(datagram: bytes) -> None:
    network = Network()
    assert network.hear(datagram)
    assert not network.hear(datagram)


@pytest.mark.parametrize(
    "datagram",
    [
        link(UP),
        link(UP | LOWER_UP, DEL_LINK),
        address(DEL_ADDRESS),
        address(own=bytes(15) + b"\1", flags=TENTATIVE),
        route(DEL_ROUTE),
        route(use=LOCAL),
        message(NEW_NEIGHBOUR, struct.pack("=BxxxiHBB", IP4, ETHERNET, 2, 0, 1) + attribute(1, GATEWAY)),
    ],
    ids=["no carrier", "a link goes", "an address goes", "not usable yet", "a route goes", "to us", "a neighbour"],
)
def test_what_helps_nobody_to_connect_is_no_news(datagram: bytes) -> None:
    assert not Network().hear(datagram)


def test_what_was_there_from_the_start_is_no_news() -> None:
    network = Network()
    for datagram in (
        link(UP | LOWER_UP, in_dump=IN_DUMP) + link(UP, index=4, in_dump=IN_DUMP),
        address(in_dump=IN_DUMP),
        route(in_dump=IN_DUMP) + message(DONE, bytes(4), IN_DUMP),
    ):
        assert not network.hear(datagram)
    assert not network.hear(link(UP | LOWER_UP | RUNNING))
    assert not network.hear(address())
    assert not network.hear(route())
    assert network.hear(link(UP | LOWER_UP, index=4))


def test_a_lifetime_that_is_prolonged_is_no_news() -> None:
    network = Network()
    network.hear(address(valid_s=100) + route(expires_s=100))
    assert not network.hear(address(valid_s=200))
    assert not network.hear(route(expires_s=200))


@pytest.mark.parametrize(
    ("comes", "goes"),
    [
        (link(UP | LOWER_UP), link(UP)),
        (link(UP | LOWER_UP), link(0, DEL_LINK)),
        (address(), address(DEL_ADDRESS)),
        (route(), route(DEL_ROUTE)),
    ],
    ids=["carrier", "link", "address", "route"],
)
def test_what_comes_back_is_news_again(comes: bytes, goes: bytes) -> None:
    network = Network()
    network.hear(comes)
    assert not network.hear(goes)
    assert network.hear(comes)


def test_an_address_is_news_when_it_may_be_used() -> None:
    network = Network()
    ours = bytes(15) + b"\1"
    assert not network.hear(address(own=ours, flags=TENTATIVE))
    assert network.hear(address(own=ours, flags=PERMANENT))


def test_another_address_or_another_gateway_is_news() -> None:
    network = Network()
    network.hear(address() + route())
    assert network.hear(address(own=bytes([10, 0, 0, 2])))
    assert network.hear(route(gateway=OTHER_GATEWAY))


def test_news_among_other_messages_is_found() -> None:
    assert Network().hear(address(DEL_ADDRESS) + link(UP) + route() + route(DEL_ROUTE, OTHER_GATEWAY))


def test_after_a_gap_everything_is_news_because_what_went_in_it_may_come_back() -> None:
    network = Network()
    network.hear(address())
    network.miss()
    # The kernel tells of the gap first, and then of what it had said before.
    assert network.hear(address())
    assert network.hear(address())
    assert not network.hear(address(DEL_ADDRESS))


def test_an_answer_ends_with_its_last_datagram_or_with_an_error() -> None:
    assert not netlink.is_end(address(in_dump=IN_DUMP) + route(in_dump=IN_DUMP))
    assert netlink.is_end(message(DONE, bytes(4), IN_DUMP))
    assert netlink.is_end(route(in_dump=IN_DUMP) + message(DONE, bytes(4), IN_DUMP))
    assert netlink.is_end(message(ERROR, struct.pack("=i", -1) + bytes(16)))


@pytest.mark.parametrize("datagram", [b"", bytes(3), bytes(64), route()[:-1]], ids=["empty", "short", "nil", "cut"])
def test_what_is_cut_or_has_no_length_is_read_to_its_end(datagram: bytes) -> None:
    assert not netlink.is_end(datagram)
    Network().hear(datagram)
