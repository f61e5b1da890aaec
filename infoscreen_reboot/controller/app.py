"""Puts the controller together: the API, the thread that speaks with the broker, and systemd's watchdog."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from infoscreen_reboot import __version__
from infoscreen_reboot.controller import config
from infoscreen_reboot.controller.calendars import Calendars
from infoscreen_reboot.controller.config import Settings
from infoscreen_reboot.controller.engine import Orders
from infoscreen_reboot.controller.leader import Leader, Worker
from infoscreen_reboot.controller.notifier import Notifier
from infoscreen_reboot.controller.orders import House
from infoscreen_reboot.controller.power.cycle import Pace
from infoscreen_reboot.controller.power.outlet import Outlets
from infoscreen_reboot.controller.power.snmp import Snmp
from infoscreen_reboot.controller.power.worker import Cycles
from infoscreen_reboot.controller.recoveries import Recoveries
from infoscreen_reboot.controller.rollouts import Rollouts
from infoscreen_reboot.controller.schedules import Schedules
from infoscreen_reboot.controller.store import lease, power, rollouts, schema
from infoscreen_reboot.controller.store.database import Database, StoreError
from infoscreen_reboot.controller.store.facts import Policy
from infoscreen_reboot.controller.store.schema import SchemaTooNew

if TYPE_CHECKING:
    import uvicorn

# A step waits for the database for 30 s at most, and an attempt to connect for about 65 s.
_LEADER_STALE_S = 90.0
# How long open requests may take at a stop. Streams of events end by themselves.
_GRACE_S = 3
_STATUS_EVERY_S = 5.0
_BACKLOG = 512
_PRIORITIES = (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.NOTSET, 7)

log = logging.getLogger(__name__)


def main(argv: Sequence[str], environment: Mapping[str, str]) -> int:
    """The program that the unit starts, and what an administrator does on the server; returns the exit code."""
    parser = argparse.ArgumentParser(prog="infoscreen-reboot-controller", description=__doc__)
    does = parser.add_subparsers(dest="does", required=True, metavar="COMMAND")
    does.add_parser("serve", help="run the controller, as its unit does")
    does.add_parser("check-config", help="only tell whether the settings are good")
    asked = does.add_parser("doctor", help="say what is wrong, and what to do about it")
    asked.add_argument("--json", action="store_true")
    admin = does.add_parser("admin", help="make an administrator, or a new token for one")
    admin.add_argument("name")
    saved = does.add_parser("backup", help="copy the SQLite database while the controller runs")
    saved.add_argument("file", type=Path)
    does.add_parser("power-restore", help="switch on all ports that a power cycle has left off")
    options = parser.parse_args(argv)
    if options.does == "serve":
        return _serve(environment)
    if options.does == "check-config":
        return _check_config(environment)
    from infoscreen_reboot.controller import hands  # what the server itself never needs

    match options.does:
        case "doctor":
            return hands.doctor(environment, options.json)
        case "admin":
            return hands.admin(environment, options.name)
        case "power-restore":
            _set_up_log(environment)
            return hands.power_restore(environment)
    return hands.backup(environment, options.file)


def _policy(settings: Settings) -> Policy:
    return Policy(settings.fleet_cap, settings.budgets, settings.windows, settings.signing_key is not None)


def _check_config(environment: Mapping[str, str]) -> int:
    for sentence in config.unknown_names(environment):
        print(f"warning: {sentence}")
    try:
        settings = config.load(environment)
        config.signer_of(settings)
    except config.ConfigError as error:
        for problem in error.problems:
            print(f"problem: {problem}")
        return os.EX_CONFIG
    faults = _faults_of_notify(settings)
    for fault in faults:
        print(f"problem: {fault}")
    if faults:
        return os.EX_CONFIG
    broker = settings.broker
    transport = "TLS" if broker.tls else "plain TCP"
    print(f"ok: {settings.listen.address}, broker {broker.host}:{broker.port} over {transport}")
    return 0


def _faults_of_notify(settings: Settings) -> list[str]:
    """What keeps somebody from being told. The controller runs without."""
    from infoscreen_reboot.controller import apprised  # which loads a library if a target needs it

    found = list(settings.notify.faults)
    for target in settings.notify.targets:
        fault = None if target.is_webhook else apprised.fault_of(target)
        if fault is not None:
            found.append(f"{settings.notify.file}: {target.name}: {fault}")
    return found


def _serve(environment: Mapping[str, str]) -> int:
    _set_up_log(environment)
    if not config.is_configured(environment):
        log.warning("%s", config.NOT_CONFIGURED)
        # A service of Type=notify that ends before it was ready counts as failed.
        _notify(f"READY=1\nSTATUS={config.NOT_CONFIGURED}")
        return config.EX_NOT_CONFIGURED
    for sentence in config.unknown_names(environment):
        log.warning("%s", sentence)
    try:
        settings = config.load(environment)
        signer = config.signer_of(settings)
    except config.ConfigError as error:
        for problem in error.problems:
            log.error("cannot start: %s", problem)
        _notify(f"STATUS=cannot start: {error}")
        return os.EX_CONFIG
    try:
        database = Database(settings.database_url)
        lock = _lock(database)
        schema.prepare_apart(database, config.backups(environment))
        if lock is not None:
            with database.write() as tx:
                lease.seize(tx)  # whoever held it is dead
        listener = _listen(settings)
    except (StoreError, SchemaTooNew, OSError) as error:
        log.error("cannot start: %s", error)
        _notify(f"STATUS=cannot start: {error}")
        return os.EX_CONFIG if isinstance(error, SchemaTooNew) else 1
    for fault in settings.notify.faults:
        log.error("%s", fault)
    house = House(_policy(settings), settings.valid_for, signer, settings.deadlines, settings.fleet_zone)
    plans = (
        Schedules(house, settings.limits),
        Rollouts(house, settings.limits),
        # After the rollouts: they may just have said that their clients are to be left alone.
        Recoveries(settings.recovery, settings.limits, power, rollouts.recovery_is_off),
    )
    orders = Orders(settings.limits, _policy(settings), settings.valid_for, settings.accepts_all, plans)
    # Two containers may have the same name, and the same process number.
    holder = f"{socket.gethostname()}/{secrets.token_hex(3)}"
    where = settings.listen.address
    log.info("infoscreen-reboot-controller %s at %s as %s, %s", __version__, where, holder, database.address)
    outlets = Outlets(Snmp(config.credentials(environment)))
    notify = settings.notify
    workers: list[Worker] = [
        Notifier(database, notify.targets, settings.fleet_zone, notify.grace),
        Calendars(database, settings.freeze_calendar, settings.fleet_zone),
        Cycles(database, outlets, Pace(off_for=settings.power_off)),
    ]
    leader = Leader(database, settings.broker, orders, signer, holder, settings.keep, workers)
    with lock or contextlib.nullcontext():
        return asyncio.run(_run(settings, database, house, leader, outlets, listener))


async def _run(
    settings: Settings,
    database: Database,
    house: House,
    leader: Leader,
    outlets: Outlets,
    listener: socket.socket | None,
) -> int:
    # Both take half a second: what cannot start says so before.
    import uvicorn

    from infoscreen_reboot.controller.api.access import Site
    from infoscreen_reboot.controller.api.app import create_app
    from infoscreen_reboot.controller.oidc import Provider
    from infoscreen_reboot.controller.web.console import add_pages

    notify = settings.notify
    site = Site(
        *(database, house, settings.limits, leader.wake, leader.ignored, outlets),
        targets=notify.targets,
        notify_faults=notify.faults,
        max_failed=settings.max_failed,
        user_header=settings.listen.user_header,
        provider=None if settings.oidc is None else Provider(settings.oidc),
    )
    app = create_app(site)
    add_pages(app, site)
    where = settings.listen
    server = _new_server(
        uvicorn.Config(
            app,
            uds=str(where.path) if where.path else None,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(where.proxies),
            forwarded_allow_ips=list(where.proxies),
            timeout_graceful_shutdown=_GRACE_S,
            ssl_certfile=where.tls_cert,
            ssl_keyfile=where.tls_key,
        )
    )

    def stop() -> None:
        app.state.is_stopping = True
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    leader.start()
    watch = asyncio.create_task(_keep_alive(leader, stop), name="keep-alive")
    await server.serve(None if listener is None else [listener])
    _notify("STOPPING=1")
    watch.cancel()
    await asyncio.to_thread(leader.stop)
    database.close()
    if leader.failed is not None:
        log.error("the thread that speaks with the broker has ended: %s", leader.failed, exc_info=leader.failed)
        return os.EX_CONFIG if isinstance(leader.failed, SchemaTooNew) else 1
    return 0


async def _keep_alive(leader: Leader, stop: Callable[[], None]) -> None:
    """Feed systemd's watchdog only while this loop and the leader are alive."""
    interval_s = min(int(os.environ.get("WATCHDOG_USEC", "60000000")) / 3e6, _STATUS_EVERY_S)
    while leader.is_alive():
        stale_s = time.monotonic() - leader.moved_at_s
        if stale_s > _LEADER_STALE_S:
            log.error("the thread that speaks with the broker has not moved for %.0f s", stale_s)
        else:
            _notify(f"WATCHDOG=1\nSTATUS={leader.words}")
        await asyncio.sleep(interval_s)
    stop()


def _new_server(settings: uvicorn.Config) -> uvicorn.Server:
    import uvicorn

    class Server(uvicorn.Server):
        """uvicorn would end the process by the signal that it got; we still have the lease to give up."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                _notify("READY=1")

    return Server(settings)


def _lock(database: Database) -> IO[bytes] | None:
    """An SQLite file is used by one controller only, so it need not wait for the lease of one that was killed.

    Raises StoreError or OSError. The lock goes with the process.
    """
    if database.file is None:
        return None
    try:
        lock = database.file.with_suffix(".lock").open("wb")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StoreError(f"another controller uses {database.file}") from None
    except OSError as error:
        raise StoreError(f"cannot lock {database.file}: {error.strerror}") from None
    return lock


def _listen(settings: Settings) -> socket.socket | None:
    """Raises OSError. uvicorn makes a Unix socket by itself."""
    where = settings.listen
    if where.path is not None:
        return None
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    try:
        listener = socket.create_server((where.host, where.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise OSError(f"cannot listen at {where.address}: {error.strerror or error}") from None
    # Its connections inherit this; asyncio does it only for sockets that were made as IPPROTO_TCP. Without it, each
    # answer but a connection's first takes 40 ms, the delay of the other side's TCP acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _set_up_log(environment: Mapping[str, str]) -> None:
    """To stderr; systemd reads the priority in front of each line (sd-daemon(3))."""
    handler = logging.StreamHandler(sys.stderr)
    is_for_systemd = "JOURNAL_STREAM" in environment
    handler.setFormatter(
        _WithPriority("%(message)s") if is_for_systemd else logging.Formatter("%(levelname)s %(message)s")
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for library in ("alembic", "uvicorn"):
        logging.getLogger(library).setLevel(logging.WARNING)


class _WithPriority(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        priority = next(number for level, number in _PRIORITIES if record.levelno >= level)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


def _notify(words: str) -> None:
    if "NOTIFY_SOCKET" in os.environ:
        from systemd.daemon import notify

        notify(words)
