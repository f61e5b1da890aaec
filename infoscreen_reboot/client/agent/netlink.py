"""Reads what the kernel says about links, addresses and routes (rtnetlink(7)); pure."""

from __future__ import annotations

import struct
from collections.abc import Iterator

# What the values mean: linux/netlink.h, linux/rtnetlink.h, linux/if_addr.h and linux/if.h.
_MESSAGE = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")

_ERROR, _DONE = 2, 3
_NEW_LINK, _DEL_LINK, _GET_LINK = 16, 17, 18
_NEW_ADDRESS, _DEL_ADDRESS, _GET_ADDRESS = 20, 21, 22
_NEW_ROUTE, _DEL_ROUTE, _GET_ROUTE = 24, 25, 26

_REQUEST_DUMP = 0x301
_PART_OF_DUMP = 0x2
_LOWER_UP = 0x10000
_TENTATIVE, _OPTIMISTIC = 0x40, 0x04
_UNICAST = 1
# The peer's address, and our own.
_ADDRESS_NAMES = 1, 2
# Destination, interface, gateway, priority, table, gateway of the other family. Others change while a route stays what
# it is: how long it is still valid, for example.
_ROUTE_NAMES = 1, 4, 5, 6, 15, 18

# Links, addresses and routes, both of IPv4 and of IPv6.
GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
# What the kernel has to be asked to say everything that there is. It answers one question at a time.
QUESTIONS = tuple(
    _MESSAGE.pack(_MESSAGE.size + 4, kind, _REQUEST_DUMP, 0, 0) + bytes(4)
    for kind in (_GET_LINK, _GET_ADDRESS, _GET_ROUTE)
)

# A link with a carrier, an address that may be used, or a route.
Thing = tuple[object, ...]


class Network:
    """What there is, as far as the kernel has said. At first nothing is known, so everything would be news.

    It is remembered because the kernel says the same again at any time: when a router or a DHCP server has prolonged
    an address, or when anything about a link has changed.
    """

    def __init__(self) -> None:
        self._there: set[Thing] = set()
        self._has_gap = False

    def hear(self, datagram: bytes) -> bool:
        """Returns whether there is now something that was not there before. An answer to a question is no news."""
        is_news = False
        for (kind, flags, _, _), body in _parts(datagram, _MESSAGE):
            thing, is_there = _read(kind, body)
            if not is_there:
                self._there.discard(thing)
            elif self._has_gap or thing not in self._there:
                self._there.add(thing)
                is_news = is_news or not flags & _PART_OF_DUMP
        return is_news

    def miss(self) -> None:
        """The kernel has said something that was not heard. From now on everything is news, even if it seems known."""
        self._has_gap = True


def is_end(datagram: bytes) -> bool:
    """Whether the answer to a question ends here."""
    return any(kind in (_ERROR, _DONE) for (kind, *_), _ in _parts(datagram, _MESSAGE))


def _read(kind: int, body: bytes) -> tuple[Thing, bool]:
    """What the message is about, and whether that is there now and of use for a connection."""
    if kind in (_NEW_LINK, _DEL_LINK):
        _, _, index, flags, _ = _LINK.unpack_from(body)
        return ("link", index), kind == _NEW_LINK and bool(flags & _LOWER_UP)
    if kind in (_NEW_ADDRESS, _DEL_ADDRESS):
        family, length, flags, _, index = _ADDRESS.unpack_from(body)
        # Nothing is sent from it before the kernel knows that no other host has it.
        is_usable = not flags & _TENTATIVE or bool(flags & _OPTIMISTIC)
        name = _attributes(body, _ADDRESS, _ADDRESS_NAMES)
        return ("address", index, family, length, name), kind == _NEW_ADDRESS and is_usable
    if kind in (_NEW_ROUTE, _DEL_ROUTE):
        family, length, _, service, table, _, _, use, _ = _ROUTE.unpack_from(body)
        # Others lead to ourselves, to everybody or to nobody.
        is_to_a_host = use == _UNICAST
        name = _attributes(body, _ROUTE, _ROUTE_NAMES)
        return ("route", family, length, service, table, use, name), kind == _NEW_ROUTE and is_to_a_host
    return (), False


def _attributes(body: bytes, fixed: struct.Struct, names: tuple[int, ...]) -> tuple[tuple[int, bytes], ...]:
    """Those of these names, in the kernel's order."""
    found = _parts(body[fixed.size :], _ATTRIBUTE)
    return tuple((name, value) for (name,), value in found if name in names)


def _parts(data: bytes, header: struct.Struct) -> Iterator[tuple[list[int], bytes]]:
    """Each part's header without its length, and its body. Lengths do not count what fills a part up to 4 bytes."""
    while len(data) >= header.size:
        length, *rest = header.unpack_from(data)
        if length < header.size:
            return
        yield rest, data[header.size : length]
        data = data[(length + 3) & ~3 :]
