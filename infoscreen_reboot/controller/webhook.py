"""Posts a message to a webhook: signed, within a bounded time, and never to an address that was not meant."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import SplitResult, urlsplit

from infoscreen_reboot import __version__
from infoscreen_reboot.contract import wire
from infoscreen_reboot.controller.notifying import NotSent, Post
from infoscreen_reboot.controller.targets import Target

# For all of it, from the connection to the first line of the answer. To ask for the address is up to the resolver.
LIMIT_S = 10.0
_MOST_BYTES = 256 << 10
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r]")
_FIRST_LINE = 1024
# Addresses of IPv4 in those of IPv6, for networks that have no IPv4 (RFC 6052).
_NAT64 = IPv6Network("64:ff9b::/96")
_Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]


def deliver(target: Target, post: Post, now: datetime) -> None:
    """Raises NotSent. `now` is the time that is signed."""
    deadline_s = time.monotonic() + LIMIT_S
    body = payload(post)
    try:
        status = _exchange(target, body, headers(target, post.id, body, now), deadline_s)
    except TimeoutError:
        raise NotSent(f"no answer within {LIMIT_S:.0f} s") from None
    except ssl.SSLCertVerificationError as error:
        raise NotSent(f"its certificate is not trusted: {error.verify_message}") from None
    except (OSError, HTTPException) as error:
        words = getattr(error, "strerror", None) or type(error).__name__
        raise NotSent(f"cannot reach it: {words}") from None
    if 300 <= status < 400:
        raise NotSent(f"it answers {status}: no redirect is followed, so the target needs the final address")
    if not 200 <= status < 300:
        raise NotSent(f"it answers {status}")


def payload(post: Post) -> bytes:
    """As docs/controller.md describes it. What makes it too long is left out: the list of single notices."""
    said = {
        "id": post.id,
        "at": wire.format_time(post.made_at),
        "kind": post.kind,
        "loud": post.is_loud,
        "title": post.title,
        "text": post.body,
    }
    body = json.dumps(said | post.content).encode()
    return body if len(body) <= _MOST_BYTES else json.dumps(said | post.content | {"notices": []}).encode()


def headers(target: Target, number: int, body: bytes, now: datetime) -> dict[str, str]:
    timestamp = str(int(now.timestamp()))
    signed = [
        hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
        for secret in target.secrets
    ]
    return {
        "Content-Type": "application/json",
        "User-Agent": f"infoscreen-reboot-controller/{__version__}",
        "Infoscreen-Message": str(number),
        "Infoscreen-Timestamp": timestamp,
        "Infoscreen-Signature": ", ".join(f"v1={digest}" for digest in signed),
        "Connection": "close",
    }


def is_public(text: str) -> bool:
    """Whether an address is one of the internet, and of no network of one's own."""
    address: IPv4Address | IPv6Address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        address = inner or address
    return address.is_global and not address.is_multicast


def _exchange(target: Target, body: bytes, heads: dict[str, str], deadline_s: float) -> int:
    """The status of the answer."""
    parts = urlsplit(target.address)
    secure = parts.scheme == "https"
    host = parts.hostname or ""
    port = parts.port or (443 if secure else 80)
    plain = _connect(list(_allowed(target, host, port)), deadline_s)
    with plain:
        channel = plain
        connection = HTTPConnection(host, port)
        if secure:
            context = ssl.create_default_context()
            # Python 3.13 refuses an authority without a key usage extension, as `openssl req` makes it by default.
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
            channel = context.wrap_socket(plain, server_hostname=host)
            connection = HTTPSConnection(host, port, context=context)
        with channel:
            connection.sock = channel  # so it resolves and connects to nothing by itself
            channel.settimeout(_left_s(deadline_s))
            connection.request("POST", _path(parts), body, heads)
            return _status(channel, deadline_s)


def _allowed(target: Target, host: str, port: int) -> Iterator[_Address]:
    """What the host's name means now, checked; the connection goes to just these. A name asked for twice may mean
    another address the second time.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    allowed = [each for each in found if target.is_internal or is_public(str(each[4][0]))]
    if not allowed:
        raise NotSent("its name is an address in a private network: if that is meant, write `internal` in its line")
    yield from ((each[0], each[4]) for each in allowed[:4])


def _connect(addresses: list[_Address], deadline_s: float) -> socket.socket:
    """To the first one that answers; each gets its share of the time."""
    for number, (family, address) in enumerate(addresses, start=1):
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.settimeout(_left_s(deadline_s) / (len(addresses) - number + 1))
            connection.connect(address)
            connection.settimeout(_left_s(deadline_s))
            return connection
        except OSError:
            connection.close()
            if number == len(addresses):
                raise
    raise OSError("no address")


def _status(channel: socket.socket, deadline_s: float) -> int:
    """Only the first line is read: a server that says one byte in nine seconds would else keep us for hours."""
    read = b""
    while b"\n" not in read and len(read) < _FIRST_LINE:
        channel.settimeout(_left_s(deadline_s))
        part = channel.recv(_FIRST_LINE)
        if not part:
            break
        read += part
    found = _STATUS.match(read)
    if found is None:
        raise NotSent("its answer is no HTTP")
    return int(found[1])


def _path(parts: SplitResult) -> str:
    return f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"


def _left_s(deadline_s: float) -> float:
    """Raises TimeoutError when nothing is left: zero would mean not to wait at all, and that is another error."""
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s
