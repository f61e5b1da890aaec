"""Puts the agent together, keeps systemd's watchdog fed, and stops in good order."""

import argparse
import asyncio
import logging
import os
import signal
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

from infoscreen_reboot import __version__
from infoscreen_reboot.client import config, disk, greeting, kernel, lasting, log
from infoscreen_reboot.client.agent import recovery, surroundings
from infoscreen_reboot.client.agent.agent import Agent
from infoscreen_reboot.client.agent.host import SystemHost
from infoscreen_reboot.client.agent.monitor import Monitor, open_boot, recall_statistics
from infoscreen_reboot.client.agent.outbox import Outbox
from infoscreen_reboot.client.agent.ports import Signatures
from infoscreen_reboot.client.agent.presence import StatusWriter
from infoscreen_reboot.client.agent.store import STORE_NAME, Store, StoreError, StoreFull, StoreUnusable
from infoscreen_reboot.client.alerts import Alerts
from infoscreen_reboot.contract import wire
from infoscreen_reboot.contract.telemetry import Executor
from infoscreen_reboot.contract.topics import Topics
from infoscreen_reboot.mqtt.session import Session
from systemd.daemon import notify

EX_CONFIG = 78  # sysexits.h; the unit does not restart after it
EX_TEMPFAIL = 75  # the unit restarts after it
NOT_RUNNING_NAME = "not-running-in"  # written by ExecStopPost= of the unit
# The session's own timer runs at least every 10 s, whether the broker is there or not.
_SESSION_STALE_S = 30.0
# Changes come in bursts, and each new status line counts the outbox again.
_STATUS_AT_MOST_EVERY_S = 0.2
_START_IS_OVER_S = 2.0
# A broker that once did not answer in MQTT 5 is asked in it again after so long. Without MQTT 5 there are no
# signatures, and a client that requires them takes no command.
_MQTT_5_AGAIN_S = {False: 300.0, True: 60.0}

logger = logging.getLogger(__name__)


class SystemClock:
    """The kernel's boot id and clocks."""

    def __init__(self, boot_id: str) -> None:
        self._boot_id = boot_id

    def boot_id(self) -> str:
        return self._boot_id

    def boot_clock_s(self) -> float:
        return kernel.boot_clock_s()

    def now(self) -> datetime:
        return datetime.now(UTC)


class Service:
    """One agent with all it needs, from `run` until a signal to stop."""

    def __init__(
        self, settings: config.Settings, store: Store, clock: SystemClock, state: Path, unfit: str | None = None
    ) -> None:
        """`state` is the store's directory. `unfit` says why no command is executed; None if commands are executed."""
        topics = Topics(settings.client_uuid)
        status = StatusWriter(settings.client_uuid, clock)
        self._store = store
        self._changed = asyncio.Event()
        self._executor = settings.executor
        self._unfit = unfit
        self._state = state
        self._stop = asyncio.Event()
        self._starts_again = False
        self._is_short_of_room = False
        self._has_failed_to_write = False
        self._address = f"{settings.broker.host}:{settings.broker.port}"
        self._session = Session(
            settings.broker,
            client_id=greeting.client_id(settings.client_uuid),
            subscriptions=[topics.commands] + [topics.transitional_command] * settings.compat_topics,
            unsubscriptions=[topics.transitional_command] * (not settings.compat_topics),
            presence=status.open_session,
            on_message=lambda delivery: self._agent.on_message(delivery),
            on_change=self._on_change,
            on_free=lambda: self._outbox.resume(),
            on_forgotten=lambda: self._monitor.tell_again(),
            statistics=recall_statistics(store),
            surroundings=surroundings.watch,
            mqtt_5_again_s=_MQTT_5_AGAIN_S[settings.require_signature],
        )
        self._host = SystemHost(lambda kind: self._agent.on_departure(kind), lambda: self._agent.on_stay())
        self._outbox = Outbox(store, self._session)
        self._agent = Agent(
            settings,
            store,
            self._outbox,
            self._session,
            self._host,
            clock,
            status.write,
            self._on_change,
            _signatures(settings),
            unfit,
        )
        alerts = Alerts.of(os.environ)
        self._monitor = Monitor(settings, store, self._outbox, self._session, self._host, clock, alerts, state, unfit)

    async def run(self) -> bool:
        """Run until SIGTERM or SIGINT; returns whether the agent should be started again.

        If a part ends with an error, this raises it in an ExceptionGroup.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        self._agent.wake()
        async with asyncio.TaskGroup() as tasks:
            parts = [
                tasks.create_task(self._session.run(), name="session"),
                tasks.create_task(self._host.run(), name="host"),
                tasks.create_task(self._outbox.run(), name="outbox"),
                tasks.create_task(self._agent.run(), name="agent"),
                tasks.create_task(self._monitor.run(), name="monitor"),
                tasks.create_task(self._monitor.report_boot(), name="boot report"),
                tasks.create_task(self._keep_alive(), name="keep-alive"),
                tasks.create_task(self._keep_status(), name="status"),
                tasks.create_task(self._make_room(), name="room"),
            ]
            # After this every part has run once, so the first attempt to connect is under way.
            await asyncio.sleep(0)
            self._say_status()
            notify("READY=1")
            await self._stop.wait()
            notify("STOPPING=1")
            await self._agent.leave()
            for part in parts:
                part.cancel()
        return self._starts_again

    async def _keep_alive(self) -> None:
        """Feed systemd's watchdog only while the loop, the session's timers and the store are alive."""
        interval_s = int(os.environ.get("WATCHDOG_USEC", "60000000")) / 3e6
        while True:
            stale_s = time.monotonic() - self._session.last_tick()
            if stale_s > _SESSION_STALE_S:
                logger.error("the MQTT session has not moved for %.0f s; the watchdog is not fed", stale_s)
            elif self._store_is_alive():
                notify("WATCHDOG=1")
            self._say_status()
            await asyncio.sleep(interval_s)

    def _store_is_alive(self) -> bool:
        """Whether the store works; it does on a full disk, too, because a restart would give no room.

        Raises StoreError if only a new start can help: that sets the file aside, or goes on in memory.
        """
        if self._store.is_in_memory and recovery.hand_over(self._store, self._state / STORE_NAME):
            logger.info("the state can be written to the disk again: the agent starts anew")
            self._starts_again = True
            self._stop.set()
            return True  # what was handed over can be written no more
        self._is_short_of_room = self._tell_room(self._store.is_short_of_room())
        try:
            self._store.check_writable()
        except StoreUnusable:
            raise
        except StoreFull as error:
            logger.error("%s", error)  # a restart gives no room
        except StoreError as error:
            if self._has_failed_to_write:
                raise
            logger.error("%s; the watchdog is not fed", error)
            self._has_failed_to_write = True
            return False
        self._has_failed_to_write = False
        return True

    def _tell_room(self, is_short: bool) -> bool:
        if is_short != self._is_short_of_room:
            what = "the disk is full: free some room on the file system of" if is_short else "there is room again in"
            logger.log(logging.ERROR if is_short else logging.INFO, "%s %s", what, self._state)
            self._monitor.nudge()
        return is_short

    def _on_change(self) -> None:
        self._monitor.nudge()
        self._changed.set()

    async def _make_room(self) -> None:
        """Take the store's room when the start is over, because this takes some milliseconds.

        A new client does it at once, before its first command. Then load what only a lost connection needs.
        """
        try:
            if self._store.has_room():
                await asyncio.sleep(_START_IS_OVER_S)
            self._store.make_room()
        except StoreError as error:
            logger.warning("%s; commands will take longer", error)
        surroundings.load()

    async def _keep_status(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._say_status()
            await asyncio.sleep(_STATUS_AT_MOST_EVERY_S)

    def _say_status(self) -> None:
        """One line for `systemctl status`: what we wait for, in an operator's words."""
        parts = [self._connection_words()]
        parts += [f"{record.action} {record.command_id} is {record.state}" for record in self._store.open_records()]
        owed = self._store.owed_count()
        if owed:
            parts.append(f"{owed} messages to deliver")
        if self._executor is Executor.MOCK:
            parts.append("executor: mock, nothing is executed")
        if self._is_short_of_room:
            parts.append(f"the disk is full: free some room on the file system of {self._state}")
        if set_aside := disk.set_aside_files(self._state):
            parts.append(f"{len(set_aside)} files could not be used and were set aside, the last as {set_aside[-1]}")
        if self._unfit is not None:
            parts.append(f"no command is executed: {self._unfit}")
        notify("STATUS=" + "; ".join(parts))

    def _connection_words(self) -> str:
        if self._session.is_away:
            return "the host is going down: no connection to the broker until it is up again, or stays up after all"
        if self._session.is_connected:
            trouble = self._session.trouble
            return f"connected to {self._address}, " + (f"but {trouble}" if trouble else "ready for commands")
        return self._session.trouble or f"connecting to {self._address}"


def _signatures(settings: config.Settings) -> Signatures | None:
    if not settings.require_signature:
        return None
    from infoscreen_reboot.signing import KeyRing  # loaded only where signatures are required

    return KeyRing(config.COMMAND_KEYS_DIRECTORY)


def main(argv: list[str] | None = None) -> int:
    """The agent as systemd starts it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="infoscreen-simclient", description=__doc__)
    parser.add_argument("--check-config", action="store_true", help="only tell whether the environment is good")
    # The unit passes the boot id that PID 1 knows (%b). The sandbox may give a service a /proc of its own, and in a
    # container with systemd 252 that /proc shows the boot id of the container's host.
    parser.add_argument("--boot-id", type=uuid.UUID, default=kernel.boot_id(), help="default: what /proc says")
    arguments = parser.parse_args(argv)
    if arguments.check_config:
        return _check_config()
    return _serve(SystemClock(str(arguments.boot_id)))


def _check_config() -> int:
    for sentence in config.unknown_names(os.environ):
        print(f"warning: {sentence}")
    try:
        settings = config.load(os.environ)
    except config.ConfigError as error:
        for problem in error.problems:
            print(f"problem: {problem}")
        return EX_CONFIG
    broker = settings.broker
    transport = "TLS" if broker.tls else "plain TCP"
    signed = "; commands must be signed" if settings.require_signature else ""
    print(f"ok: client {settings.client_uuid}, broker {broker.host}:{broker.port} over {transport}{signed}")
    return 0


def _serve(clock: SystemClock) -> int:
    log.set_up("infoscreen-simclient")
    if not config.is_configured(os.environ):
        logger.warning("%s", config.NOT_CONFIGURED)
        # A service of Type=notify that ends before it was ready counts as failed.
        notify(f"READY=1\nSTATUS={config.NOT_CONFIGURED}")
        return config.EX_NOT_CONFIGURED
    for sentence in config.unknown_names(os.environ):
        logger.warning("%s", sentence)
    try:
        settings = config.load(os.environ)
    except config.ConfigError as error:
        for problem in error.problems:
            logger.error("cannot start: %s", problem)
        notify(f"STATUS=cannot start: {error}")
        return EX_CONFIG
    wire.load()
    state = Path(os.environ.get("STATE_DIRECTORY", lasting.STATE))
    path = state / STORE_NAME
    try:
        store, unfit = recovery.open_store(path, lambda new: open_boot(new, clock, state / NOT_RUNNING_NAME))
    except StoreError as error:
        logger.error("%s", error)
        notify(f"STATUS={error}")
        return 1
    unfit = unfit or lasting.unfit_because(state)
    if unfit is not None:
        logger.error("no command will be executed: %s", unfit)
    logger.info("infoscreen-simclient %s, client %s, boot %s", __version__, settings.client_uuid, clock.boot_id())
    try:
        return EX_TEMPFAIL if asyncio.run(Service(settings, store, clock, state, unfit).run()) else 0
    except* StoreUnusable as errors:
        _set_aside(path, errors)
        raise
    finally:
        # However the run ended: this leaves on the disk what the next start needs.
        store.close()


def _set_aside(path: Path, errors: BaseExceptionGroup[StoreUnusable]) -> None:
    first: BaseException = errors
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    assert isinstance(first, StoreUnusable)
    try:
        recovery.set_aside(path, first)
    except OSError as error:
        logger.error("cannot set %s aside: %s", path, error)
