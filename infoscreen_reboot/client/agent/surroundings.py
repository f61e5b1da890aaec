"""Tells when a broker that could not be reached may be reachable: the network has come, or the clock has been set."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator

from infoscreen_reboot.client.agent import netlink

log = logging.getLogger(__name__)

# Twice as much as the kernel puts into one at most (netlink(7) says 32 KiB).
_DATAGRAM_MAX = 1 << 16
# linux/timerfd.h
_ABSOLUTE_TIME, _CANCEL_ON_SET = 1, 2


@contextlib.contextmanager
def watch(on_news: Callable[[], None]) -> Iterator[None]:
    """On the running loop, call `on_news` for a new carrier, address or route, and when the wall clock has been set.

    The kernel tells all of this, whoever changes it, so nothing runs in between. What it does not let us watch is
    logged once, and is not watched.
    """
    with contextlib.ExitStack() as watched:
        for what, of in ("the network", _network), ("the clock", _clock):
            try:
                watched.enter_context(of(on_news))
            except (OSError, ImportError) as error:
                _say_once(f"cannot watch {what}: {error}; a broker that can be reached again is noticed later")
        yield


def load() -> None:
    """Load what `watch` needs, and a start does not.

    When the connection is lost, it may be too late: in the middle of a dist-upgrade, Python's own files are away.
    """
    import ctypes  # noqa: F401


@functools.cache
def _say_once(text: str) -> None:
    log.warning("%s", text)


@contextlib.contextmanager
def _network(on_news: Callable[[], None]) -> Iterator[None]:
    network = netlink.Network()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        # It listens before it asks, so nothing is missed in between.
        kernel.bind((0, netlink.GROUPS))
        kernel.setblocking(False)
        # Where the kernel does not say what there is, everything that it says later counts as new.
        with contextlib.suppress(OSError):
            _learn(kernel, network)
        with _followed(kernel.fileno(), functools.partial(_has_come, kernel, network), on_news):
            yield


def _learn(kernel: socket.socket, network: netlink.Network) -> None:
    """Hear what there is already. The kernel answers at once, so this does not wait."""
    for question in netlink.QUESTIONS:
        kernel.send(question)
        is_over = False
        while not is_over:
            answer = kernel.recv(_DATAGRAM_MAX)
            network.hear(answer)
            is_over = netlink.is_end(answer)


def _has_come(kernel: socket.socket, network: netlink.Network) -> bool:
    try:
        return network.hear(kernel.recv(_DATAGRAM_MAX))
    except OSError as error:
        if error.errno != errno.ENOBUFS:
            raise
        # There was more than the socket's buffer takes, and what did not fit may have been what we wait for.
        network.miss()
        return True


@contextlib.contextmanager
def _clock(on_news: Callable[[], None]) -> Iterator[None]:
    timer = _timer()
    try:
        with _followed(timer, functools.partial(_was_set, timer), on_news):
            yield
    finally:
        os.close(timer)


def _timer() -> int:
    """A timer at the end of time: before that, the kernel ends it if the wall clock is set (timerfd_create(2)).

    Not by D-Bus: timedated does not signal a change of NTPSynchronized (systemd 252 and 257).
    """
    import ctypes  # see load(); not os.timerfd_create(), which Python 3.11 does not have

    libc = ctypes.CDLL(None, use_errno=True)
    end_of_time = 2 ** (8 * ctypes.sizeof(ctypes.c_long) - 1) - 1
    # struct itimerspec: seconds and nanoseconds of the interval, then of the time itself.
    times = (ctypes.c_long * 4)(0, 0, end_of_time, 0)
    timer: int = libc.timerfd_create(time.CLOCK_REALTIME, os.O_NONBLOCK | os.O_CLOEXEC)
    if timer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    if libc.timerfd_settime(timer, _ABSOLUTE_TIME | _CANCEL_ON_SET, times, None) < 0:
        os.close(timer)
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return timer


def _was_set(timer: int) -> bool:
    try:
        os.read(timer, 8)
    except OSError as error:
        if error.errno != errno.ECANCELED:
            raise
    return True


@contextlib.contextmanager
def _followed(file: int, hear: Callable[[], bool], on_news: Callable[[], None]) -> Iterator[None]:
    """Call `hear` whenever there is something to read, and `on_news` if it is news."""
    loop = asyncio.get_running_loop()

    def on_readable() -> None:
        try:
            is_news = hear()
        except OSError as error:
            # It would be readable again at once, and for ever.
            loop.remove_reader(file)
            _say_once(f"cannot go on watching network or clock: {error}")
            return
        if is_news:
            on_news()

    loop.add_reader(file, on_readable)
    try:
        yield
    finally:
        loop.remove_reader(file)
