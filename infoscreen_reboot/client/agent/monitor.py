"""Reports without being asked: health every half minute and on change, the boot, and which alerts still stand."""

import asyncio
import contextlib
import json
import logging
import time
import uuid
from datetime import datetime, timedelta
from pathlib import Path

from infoscreen_reboot import __version__
from infoscreen_reboot.client import disk
from infoscreen_reboot.client.agent import boot_report
from infoscreen_reboot.client.agent.health import About, Facts, LockoutAge, health, should_ask_helper
from infoscreen_reboot.client.agent.host import SystemHost
from infoscreen_reboot.client.agent.outbox import Outbox
from infoscreen_reboot.client.agent.ports import Clock
from infoscreen_reboot.client.agent.store import Letter, Store, StoreError, StoreUnusable
from infoscreen_reboot.client.alerts import AGENT_UNIT, Alerts
from infoscreen_reboot.client.config import Settings
from infoscreen_reboot.contract import telemetry, wire
from infoscreen_reboot.contract.telemetry import BrokerConnection, Executor, FailureAlert, Lockout, StateDirectory
from infoscreen_reboot.contract.topics import Topics
from infoscreen_reboot.mqtt.messages import Message, NotDelivered
from infoscreen_reboot.mqtt.session import Session, Statistics

log = logging.getLogger(__name__)

INTERVAL_S = 30.0
# Changes come in bursts; one report tells their result.
_AT_MOST_EVERY_S = 1.0
# The part that made the change goes on first: the report must not delay the first connection or a command.
_AFTER_S = 0.05
_CLOCK_POLL_S = 5.0
_STATISTICS = "broker"


def recall_statistics(store: Store) -> Statistics:
    """What earlier runs of the agent counted of the connection to the broker. Raises StoreError."""
    text = store.recall(_STATISTICS)
    if text is None:
        return Statistics()
    try:
        known = json.loads(text)
        at = known["last_disconnect_at"]
        return Statistics(**known | {"last_disconnect_at": datetime.fromisoformat(at) if at else None})
    except (ValueError, TypeError, KeyError) as error:  # of another version, or damaged: no promise depends on it
        log.warning("cannot read how the connection fared before (%r): it is counted anew", error)
        return Statistics()


def open_boot(store: Store, clock: Clock, not_running_in: Path) -> None:
    """If the store does not know this boot yet, write down how the boot before it ended. Raises StoreError.

    `not_running_in` is a file that holds the id of the boot in which the agent last ended, in good order or not
    (ExecStopPost= of its unit writes it). The agent is running again now, so the file is removed.
    """
    last = store.last_boot()
    if last is None or last.boot_id != clock.boot_id():
        executed = store.executed_in(last.boot_id) if last else None
        was_down = last is not None and _was_not_running(not_running_in, last.boot_id)
        store.open_boot(boot_report.follow(last, clock.boot_id(), clock.now(), executed, was_down))
    if not store.is_in_memory:
        _remove(not_running_in)


def _was_not_running(path: Path, boot_id: str) -> bool:
    """Whether the file names that boot. Yes, too, if the file cannot be read or is empty, as on a full disk."""
    try:
        return str(uuid.UUID(path.read_text("ascii").strip())) == boot_id
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True


def _remove(path: Path) -> None:
    """Remove the file, or set it aside if that fails (it may be a directory): the next one needs its place."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        try:
            log.error("cannot remove %s (%s); it is set aside as %s", path, error, disk.set_aside(path))
        except OSError:
            log.error("cannot remove %s: %s", path, error)


class Monitor:
    """Publishes the reports. Call `nudge` when something has changed."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        outbox: Outbox,
        session: Session,
        host: SystemHost,
        clock: Clock,
        alerts: Alerts,
        state: Path,
        unfit: str | None = None,
    ) -> None:
        """`state` is the store's directory.

        `unfit` says why no command is executed: then no action is offered. None if commands are executed.
        """
        self._settings = settings
        self._about = About(
            client_uuid=settings.client_uuid,
            boot_id=clock.boot_id(),
            agent_version=__version__,
            executor=settings.executor,
            actions=settings.offered if unfit is None else frozenset(),
            requires_signature=settings.require_signature,
            post_boot_checks=settings.post_boot_checks,
        )
        self._topics = Topics(settings.client_uuid)
        self._store = store
        self._outbox = outbox
        self._session = session
        self._host = host
        self._clock = clock
        self._alerts = alerts
        self._state = state
        self._alert_of_state: tuple[list[Path], bytes] = ([], b"")
        self._told_alert: bytes | None = None
        self._changed = asyncio.Event()
        self._changed.set()
        self._saved_statistics = session.statistics
        self._clock_is_synchronised = False
        self._lockout: LockoutAge | None = None

    def nudge(self) -> None:
        self._changed.set()

    def tell_again(self) -> None:
        """The broker may have forgotten what it keeps of this client: the standing alert and the boot report.

        Raises StoreUnusable.
        """
        self._told_alert = None
        try:
            self._report_boot_again()
        except StoreUnusable:
            raise
        except StoreError as error:
            log.warning("%s; the boot report is not said again", error)
        self.nudge()

    def _report_boot_again(self) -> None:
        report = self._store.last_boot_report()
        if report is not None and telemetry.parse_boot_report(report).boot_id == self._clock.boot_id():
            self._outbox.answer_again([Letter(self._topics.boot, report, retain=True)])

    async def run(self) -> None:
        """Runs for ever. Raises StoreError."""
        while True:
            if self._changed.is_set():
                await asyncio.sleep(_AFTER_S)
                self._changed.clear()
            self._save()
            if self._session.is_connected:
                for tell in (self._tell_health, self._tell_alert):
                    with contextlib.suppress(NotDelivered):  # the next turn of the loop sends it again
                        await tell()
                await asyncio.sleep(_AT_MOST_EVERY_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL_S):
                    await self._changed.wait()

    async def report_boot(self) -> None:
        """Give the boot report to the outbox, once a boot, as soon as its times can be right. Raises StoreUnusable."""
        boot = self._store.last_boot()
        if boot is None or boot.is_reported:
            return
        if self._settings.require_synced_clock:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.clock_timeout_s):
                    while not await self._host.clock_is_synchronised():
                        await asyncio.sleep(_CLOCK_POLL_S)
        uptime = timedelta(seconds=await self._host.uptime_s())
        now = self._clock.now()
        report = telemetry.encode_boot_report(boot_report.report(boot, self._settings.client_uuid, now - uptime, now))
        while not self._owes(boot.boot_id, Letter(self._topics.boot, report, retain=True)):
            await asyncio.sleep(INTERVAL_S)
        self._outbox.nudge()
        log.info("boot %s came about by %s", boot.boot_id, boot.cause)

    def _owes(self, boot_id: str, report: Letter) -> bool:
        try:
            self._store.report_boot(boot_id, report)
        except StoreUnusable:
            raise
        except StoreError as error:
            log.warning("%s; the boot report has to wait", error)
            return False
        return True

    def _save(self) -> None:
        """Store what a later run of the agent, or the next boot, will need to know."""
        self._store.see_boot(self._clock.boot_id(), wire.format_time(self._clock.now()))
        statistics = self._session.statistics
        if statistics != self._saved_statistics:
            at = statistics.last_disconnect_at
            known = {
                "is_lost": statistics.is_lost,
                "reconnect_count": statistics.reconnect_count,
                "last_disconnect_at": wire.format_time(at) if at else None,
                "last_disconnect_reason": statistics.last_disconnect_reason,
                "speaks_3_1_1": statistics.speaks_3_1_1,
            }
            self._store.remember(_STATISTICS, json.dumps(known))
            self._saved_statistics = statistics

    async def _tell_health(self) -> None:
        payload = telemetry.encode_health(health(self._about, await self._facts()))
        await self._session.publish(Message(self._topics.health, payload, qos=0))

    async def _tell_alert(self) -> None:
        """Publish an alert that stands, and take back those of units that are not failed any more.

        Our own unit is not failed any more: the agent is running.
        """
        standing = self._alerts.standing()
        failed = [alert for alert in standing if await self._host.unit_state(alert.unit) in ("failed", None)]
        payload = failed[-1].payload if failed else self._tell_what_was_set_aside()
        if payload == self._told_alert and failed == standing:
            return
        most_bytes = self._session.largest_payload_bytes(self._topics.service_failed)
        shortened = telemetry.shorten_failure_alert(payload, most_bytes)
        await self._session.publish(Message(self._topics.service_failed, shortened, retain=True))
        self._told_alert = payload
        for alert in standing:
            if alert not in failed:
                log.info("%s is not failed any more: its alert is taken back", alert.unit)
                self._forget(alert.unit)

    def _tell_what_was_set_aside(self) -> bytes:
        """An alert that stands until somebody has removed the files that were set aside; b"" if there are none.

        It stays the same byte for byte as long as the files are the same.
        """
        files = disk.set_aside_files(self._state)
        if files != self._alert_of_state[0]:
            self._alert_of_state = files, self._alert(files) if files else b""
        return self._alert_of_state[1]

    def _alert(self, files: list[Path]) -> bytes:
        content = FailureAlert(
            client_uuid=self._settings.client_uuid,
            unit=AGENT_UNIT,
            result="state-set-aside",
            exit_status=None,
            restarts=0,
            boot_id=self._clock.boot_id(),
            timestamp=disk.set_aside_at(files[-1]) or self._clock.now(),
            last_log_lines=(
                *(f"set aside because it could not be used: {file}" for file in files),
                "A new file was begun. The client knows nothing of earlier commands; the helper does, and executes "
                "none of them a second time.",
                "Check the disk, then remove the files that were set aside: this alert goes with them.",
            ),
        )
        return telemetry.encode_failure_alert(content)

    def _forget(self, unit: str) -> None:
        try:
            self._alerts.forget(unit)
        except OSError as error:
            log.warning("cannot remove the alert for %s: %s", unit, error)

    async def _facts(self) -> Facts:
        lockout = await self._ask_lockout()
        self._clock_is_synchronised = self._clock_is_synchronised or await self._host.clock_is_synchronised()
        uptime_s, watchdog_is_armed = await self._host.uptime_s(), await self._host.watchdog_is_armed()
        statistics = self._session.statistics
        answered = (record for record in self._store.last_records(2) if record.ack is not None)
        return Facts(
            now=self._clock.now(),
            uptime_s=uptime_s,
            broker=BrokerConnection(
                self._session.is_connected,
                statistics.reconnect_count,
                statistics.last_disconnect_at,
                statistics.last_disconnect_reason,
            ),
            open_records=self._store.open_records(),
            last=next(answered, None),
            outbox=self._store.owed_count(),
            counters=self._store.counters(),
            lockout=lockout,
            clock_is_synchronised=self._clock_is_synchronised,
            watchdog_is_armed=watchdog_is_armed,
            state=StateDirectory(
                writable=not self._store.is_in_memory,
                disk_full=disk.is_full(self._state),
                set_aside=len(disk.set_aside_files(self._state)),
            ),
        )

    async def _ask_lockout(self) -> Lockout | None:
        if self._settings.executor is not Executor.HELPER:
            return None
        last = self._store.last_executed()
        execution = (last.command_id, str(last.state)) if last else None
        now_s = time.monotonic()
        if should_ask_helper(self._lockout, now_s, self._clock.now(), execution):
            self._lockout = LockoutAge(await self._host.lockout(), now_s, execution)
        return self._lockout.lockout if self._lockout is not None else None
