"""An event loop on virtual time: a wait of a minute takes none, and signals come when a test says so."""

import asyncio
import selectors
import signal
from collections.abc import Callable
from typing import Any


class Crash(BaseException):
    """The process is gone; nothing it still wanted to do happens."""


class _VirtualSelector(selectors.DefaultSelector):
    """Does not wait: lets the loop's clock jump to what it would have waited for."""

    # A story that is longer never ends.
    LONGEST_S = 20_000.0

    # A turn of a real loop takes time, too: who waits for the rest of a rounding error would wait for ever.
    TURN_S = 1e-7

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        self.now += self.TURN_S
        if not ready and timeout is None:
            raise AssertionError("everything waits for something that will never come")
        if not ready and timeout is not None:
            self.now += timeout
            assert self.now < self.LONGEST_S, "a test waits for something that does not come"
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """`handlers` are those that the process in this loop has for signals; the world calls them."""

    def __init__(self) -> None:
        self.virtual = _VirtualSelector()
        super().__init__(self.virtual)
        self.handlers: dict[int, Callable[[], object]] = {}
        self.set_exception_handler(_report_all_but_crashes)

    def time(self) -> float:
        return self.virtual.now

    # typeshed ties the callback to its arguments, which says nothing here.
    def add_signal_handler(  # type: ignore[override]
        self, sig: int, callback: Callable[..., object], *args: Any
    ) -> None:
        self.handlers[sig] = lambda: callback(*args)

    def remove_signal_handler(self, sig: int) -> bool:
        return self.handlers.pop(sig, None) is not None

    def deliver(self, sig: signal.Signals) -> None:
        if sig in self.handlers:
            self.handlers[sig]()


def _report_all_but_crashes(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if not isinstance(context.get("exception"), Crash):
        loop.default_exception_handler(context)


class Wire:
    """What is sent on it arrives in order, `DELAY_S` later, and nothing arrives after it was cut."""

    DELAY_S = 0.0005

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._under_way: list[Callable[[], None]] = []
        self.is_cut = False
        self.is_frozen = False

    def send(self, arrival: Callable[[], None]) -> None:
        if not self.is_cut:
            self._under_way.append(arrival)
            self._loop.call_later(self.DELAY_S, self._arrive)

    def thaw(self) -> None:
        self.is_frozen = False
        for _ in list(self._under_way):
            self._loop.call_soon(self._arrive)

    def cut(self) -> None:
        self.is_cut = True
        self._under_way.clear()

    def _arrive(self) -> None:
        # Timers of the same moment run in any order, what they stand for may not.
        if self._under_way and not self.is_frozen:
            self._under_way.pop(0)()
