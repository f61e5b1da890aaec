"""What must run after a boot: real programs, and a host that says what it is told to."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from infoscreen_reboot.client.agent import post_boot
from infoscreen_reboot.client.agent.lifecycle import ChecksPassed, Failed
from infoscreen_reboot.client.agent.post_boot import PostBootChecks
from infoscreen_reboot.contract.ack import ErrorCode
from infoscreen_reboot.contract.command import Action
from tests import world as w
from tests.endings import has_ended


class FakeHost:
    """Up for `up_s` seconds when first asked."""

    def __init__(self, up_s: float = 0.0, **states: str) -> None:
        self.started = time.monotonic() - up_s
        self.states = states
        self.active_since = self.started - 1000

    async def uptime_s(self) -> float:
        return time.monotonic() - self.started

    async def unit_state(self, name: str) -> str | None:
        return self.states[name.partition(".")[0]]

    async def active_for_s(self, name: str) -> float:
        return time.monotonic() - self.active_since

    async def request(self, action: Action, command_id: str) -> None: ...

    async def clock_is_synchronised(self) -> bool:
        return True

    async def is_going_down(self) -> bool:
        return False

    def delay_max_s(self) -> float:
        return 5.0

    def release_delay(self) -> None: ...


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(post_boot, "POST_BOOT_DIRECTORY", tmp_path)
    monkeypatch.setattr(post_boot, "_POLL_S", 0.01)
    return tmp_path


def program(directory: Path, script: str) -> str:
    path = directory / "lit"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path.name


def verdict(
    host: FakeHost, units: tuple[str, ...] = (), command: str | None = None, timeout_s: float = 0.3
) -> ChecksPassed | Failed:
    settings = w.settings(post_boot_units=units, post_boot_command=command, post_boot_timeout_s=timeout_s)
    return asyncio.run(PostBootChecks(settings, host).verdict())


def words(ending: ChecksPassed | Failed) -> str:
    assert isinstance(ending, Failed) and ending.code is ErrorCode.POST_CHECK_FAILED
    return ending.message


def test_without_checks_there_is_nothing_to_wait_for() -> None:
    assert verdict(FakeHost(up_s=1e6)) == ChecksPassed()


def test_every_unit_that_is_not_active_is_named() -> None:
    host = FakeHost(a="active", b="failed", c="not found", d="reloading")
    message = words(verdict(host, ("a.service", "b.service", "c.service", "d.service")))
    assert message.endswith("these are missing: b.service is failed; c.service is not found")


def test_a_command_is_run_again_until_it_succeeds(programs: Path) -> None:
    name = program(programs, 'cd "${0%/*}"; [ -e second ] && exit 0; touch second; exit 1')
    assert verdict(FakeHost(), command=name, timeout_s=30) == ChecksPassed()


def test_the_status_of_a_command_that_keeps_failing_is_told(programs: Path) -> None:
    assert words(verdict(FakeHost(), command=program(programs, "exit 7"))).endswith(f"{programs}/lit ended with 7")


def test_a_command_is_not_run_before_the_units_are_active(programs: Path) -> None:
    name = program(programs, 'touch "$0.ran"')
    assert "a.service is failed" in words(verdict(FakeHost(a="failed"), ("a.service",), name))
    assert not (programs / "lit.ran").exists()


def test_a_command_that_hangs_is_ended_with_its_children(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = programs / "lit.child"
    timeout = asyncio.timeout

    @asynccontextmanager
    async def over_when_it_hangs(_: float) -> AsyncIterator[None]:
        """However long a busy machine takes for the start of a program."""
        async with timeout(None) as limit:
            loop = asyncio.get_running_loop()

            def look() -> None:
                if child.exists() and child.read_text().endswith("\n"):
                    limit.reschedule(loop.time())
                else:
                    loop.call_later(0.01, look)

            look()
            yield

    monkeypatch.setattr(asyncio, "timeout", over_when_it_hangs)
    name = program(programs, 'sleep 1000 & echo $! > "$0.child"; wait')
    assert "did not end within 10 s" in words(verdict(FakeHost(up_s=1000), command=name))
    assert has_ended(int(child.read_text())), "the child lives"


def test_a_command_that_is_missing_or_not_executable_is_named(programs: Path) -> None:
    assert "cannot be run: No such file" in words(verdict(FakeHost(), command="none"))
    program(programs, "exit 0")
    (programs / "lit").chmod(0o644)
    assert "cannot be run: Permission denied" in words(verdict(FakeHost(), command="lit"))


def test_a_command_learns_nothing_of_the_agents_environment(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQTT_PASSWORD_BROKER", "open sesame")
    name = program(programs, 'env > "$0.env"')
    assert verdict(FakeHost(), command=name, timeout_s=30) == ChecksPassed()
    assert "sesame" not in (programs / "lit.env").read_text()


def test_after_the_deadline_there_is_still_one_look() -> None:
    assert verdict(FakeHost(up_s=1000, a="active"), ("a.service",)) == ChecksPassed()
    assert words(verdict(FakeHost(up_s=1000, a="failed"), ("a.service",)))


def test_a_unit_must_have_been_active_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post_boot, "_STEADY_S", 0.5)
    host = FakeHost(a="active")
    host.active_since = time.monotonic()
    assert verdict(host, ("a.service",), timeout_s=30) == ChecksPassed()
    assert time.monotonic() - host.active_since >= 0.5


def test_what_came_in_time_may_show_after_the_deadline_that_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post_boot, "_STEADY_S", 0.5)
    host = FakeHost(a="active")
    host.active_since = time.monotonic()
    assert verdict(host, ("a.service",), timeout_s=0.4) == ChecksPassed()


def test_a_unit_that_comes_and_goes_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post_boot, "_STEADY_S", 0.2)

    class Flapping(FakeHost):
        async def active_for_s(self, name: str) -> float:
            return 0.1

    assert words(verdict(Flapping(a="active"), ("a.service",))).endswith("a.service has been active for 0 s only")
