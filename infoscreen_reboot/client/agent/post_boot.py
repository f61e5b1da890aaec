"""Checks what must run on the host after a boot: not only the system has to be back, but also the screen."""

import asyncio
import contextlib
import logging
import os
import signal

from infoscreen_reboot.client.agent.lifecycle import ChecksPassed, Failed
from infoscreen_reboot.client.agent.ports import Host
from infoscreen_reboot.client.config import POST_BOOT_DIRECTORY, Settings
from infoscreen_reboot.contract.ack import ErrorCode

log = logging.getLogger(__name__)

_POLL_S = 1.0
# systemd calls a service active as soon as its process is there. A service that crashes at its start has one, too, for
# a moment.
_STEADY_S = 5.0
# How long a command may take if the deadline has passed before it could run once.
_LAST_LOOK_S = 10.0
# The command gets nothing of the agent's own environment, because the broker's password is in it.
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


class PostBootChecks:
    """The units that must be active, and the command that must succeed, within the time counted from the boot."""

    def __init__(self, settings: Settings, host: Host) -> None:
        self._units = settings.post_boot_units
        self._command = settings.post_boot_command
        self._timeout_s = settings.post_boot_timeout_s
        self._host = host

    async def verdict(self) -> ChecksPassed | Failed:
        """Returns as soon as all is well, or when the time is over. It looks at least once, however late it is."""
        while True:
            missing, unsteady = await self._look()
            if not missing and not unsteady and self._command is not None:
                left_s = self._timeout_s - await self._host.uptime_s()
                missing = await _run(self._command, max(left_s, _LAST_LOOK_S))
            if not missing and not unsteady:
                return ChecksPassed()
            left_s = self._timeout_s - await self._host.uptime_s()
            # A unit that became active in time gets the time to show that it stays active.
            if left_s <= (0 if missing else -_STEADY_S):
                return Failed(
                    ErrorCode.POST_CHECK_FAILED,
                    f"{self._timeout_s:.0f} s after the boot these are missing: {'; '.join(missing + unsteady)}",
                )
            await asyncio.sleep(min(left_s, _POLL_S) if left_s > 0 else _POLL_S)

    async def _look(self) -> tuple[list[str], list[str]]:
        """The units that are not active, and those that are active, but not for long enough."""
        missing, unsteady = [], []
        for name in self._units:
            state = await self._host.unit_state(name)
            if state not in ("active", "reloading"):
                missing.append(f"{name} is {state or 'not known, for systemd does not answer'}")
            elif (active_for_s := await self._host.active_for_s(name)) < _STEADY_S:
                unsteady.append(f"{name} has been active for {active_for_s:.0f} s only")
        return missing, unsteady


async def _run(name: str, timeout_s: float) -> list[str]:
    """Run the executable of that name; returns what is missing because of it. Its output goes to systemd's journal."""
    path = POST_BOOT_DIRECTORY / name
    try:
        process = await asyncio.create_subprocess_exec(
            path, env=_ENVIRONMENT, stdin=asyncio.subprocess.DEVNULL, start_new_session=True
        )
    except OSError as error:
        return [f"{path} cannot be run: {error.strerror}"]
    try:
        async with asyncio.timeout(timeout_s):
            status = await process.wait()
    except TimeoutError:
        return [f"{path} did not end within {timeout_s:.0f} s"]
    finally:
        # This kills its children, too, and also happens if the agent is stopped meanwhile.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    return [f"{path} ended with {status}"] if status else []
