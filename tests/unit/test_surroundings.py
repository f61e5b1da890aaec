"""The kernel's word on network and clock, as the agent's loop hears it; tests/system and tests/vm change both."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import sys

import pytest

from infoscreen_reboot.client.agent import surroundings


def open_files() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


def test_it_is_silent_while_nothing_changes_and_leaves_nothing_open(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        news: list[None] = []
        before = open_files()
        for _ in range(3):
            with surroundings.watch(lambda: news.append(None)):
                assert len(open_files()) == len(before) + 2
                await asyncio.sleep(0.05)
        assert open_files() == before
        assert not news

    asyncio.run(main())
    assert not caplog.records


def test_an_error_of_the_waiting_comes_through_and_leaves_nothing_open() -> None:
    async def main() -> None:
        before = open_files()
        with pytest.raises(OSError, match="the broker"), surroundings.watch(lambda: None):
            raise OSError("the broker")
        assert open_files() == before

    asyncio.run(main())


def test_what_cannot_be_watched_is_said_once_and_the_rest_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with surroundings.watch(lambda: None):  # what it needs is loaded
            pass
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        for _ in range(2):
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                with surroundings.watch(lambda: None):
                    await asyncio.sleep(0)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    asyncio.run(main())
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 2
    assert told[0].startswith("cannot watch the network: ") and "Too many open files" in told[0]
    assert told[1].startswith("cannot watch the clock: ")


def test_without_python_s_own_files_the_network_is_watched_all_the_same(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ctypes", None)  # as in the middle of an upgrade

    async def main() -> None:
        before = open_files()
        with surroundings.watch(lambda: None):
            assert len(open_files()) == len(before) + 1

    asyncio.run(main())
    (told,) = caplog.records
    assert told.getMessage().startswith("cannot watch the clock: import of ctypes halted")
