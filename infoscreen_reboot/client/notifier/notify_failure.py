"""Tells the controller that systemd gave up on a unit; it needs nothing of the agent but who we are and the broker."""

import argparse
import asyncio
import logging
import math
import os
import random
import re
import signal
import subprocess
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from infoscreen_reboot.client import config, kernel, log
from infoscreen_reboot.client.alerts import Alert, Alerts
from infoscreen_reboot.contract.telemetry import (
    MAX_LOG_LINES,
    FailureAlert,
    encode_failure_alert,
    shorten_failure_alert,
)
from infoscreen_reboot.contract.topics import Topics
from infoscreen_reboot.mqtt.connection import PATIENCE, Connection
from infoscreen_reboot.mqtt.manner import Trial
from infoscreen_reboot.mqtt.messages import BrokerSettings, Message, NotDelivered
from infoscreen_reboot.mqtt.session import back_off_s
from systemd.daemon import notify

# A unit that is restarted again and again is up, or down, for a moment now and then. So we look more than once.
LOOK_AGAIN_S, STEADY_S = 2.0, 10.0
_ASK_TIMEOUT_S = 10
# If PID 1 cannot use a line of the settings, it logs it with its content, for example `export MQTT_PASSWORD_BROKER=…`.
_TOLD_BY_PID_1 = re.compile("(invalid environment assignment '[^=]*=|invalid UTF-8 value for key [^:]*: ).*")
_SHOWN = "ActiveState,Result,ExecMainCode,ExecMainStatus,NRestarts,InvocationID"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the unit's last `run`; `state` is empty if systemd did not answer."""

    state: str
    run: str
    result: str
    exit_status: int | str | None
    restarts: int


def read_outcome(shown: Mapping[str, str], environment: Mapping[str, str]) -> Outcome:
    """Read the unit's properties or, if there are none, the MONITOR_ variables from systemd (systemd.exec(5))."""
    if shown:
        status = _exit_status(shown.get("ExecMainCode", ""), shown.get("ExecMainStatus", ""))
        state, run = shown.get("ActiveState", ""), shown.get("InvocationID", "")
        return Outcome(state, run, shown.get("Result") or "unknown", status, _number(shown.get("NRestarts", "")) or 0)
    word: int | str | None = environment.get("MONITOR_EXIT_STATUS")
    if environment.get("MONITOR_EXIT_CODE") == "exited":
        word = _number(str(word))
    result = environment.get("MONITOR_SERVICE_RESULT") or "unknown"
    return Outcome("", environment.get("MONITOR_INVOCATION_ID", ""), result, word, 0)


def _exit_status(code: str, status: str) -> int | str | None:
    """`code` is that of waitid(2): exited, killed, or killed with a core dump; "0" if no process has run."""
    number = _number(status)
    if code == "1" or number is None:
        return number
    if code not in ("2", "3"):
        return None
    try:
        return signal.Signals(number).name.removeprefix("SIG")
    except ValueError:  # Python has no names for most of the real-time signals
        return f"RTMIN+{number - signal.SIGRTMIN}"


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None


class Notifier:
    """Delivers one unit's alert. `ask` runs a command and returns its output, `send` raises NotDelivered.

    The `secret` is left out of the alert, whoever has logged it.
    """

    def __init__(
        self,
        unit: str,
        client_uuid: str,
        boot_id: str,
        alerts: Alerts,
        ask: Callable[..., str],
        send: Callable[[Message], Awaitable[None]],
        secret: str | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._unit = unit
        self._client_uuid = client_uuid
        self._boot_id = boot_id
        self._alerts = alerts
        self._ask = ask
        self._send = send
        self._secret = secret
        self._sleep = sleep
        self._alert: Alert | None = None
        self._trouble = ""

    async def run(self) -> None:
        """Runs until the broker has the alert, or the unit is not failed any more."""
        topic = Topics(self._client_uuid).service_failed
        sent: Alert | None = None
        failures = 0
        # We look again after the sending: systemd starts no second notifier for a unit that failed again meanwhile.
        while (alert := await self._owed()) is not None and alert != sent:
            self._keep(alert)
            try:
                await self._send(Message(topic, alert.payload, qos=1, retain=True))
            except NotDelivered as error:
                failures += 1
                delay_s = back_off_s(failures, random.random())
                self._report(f"cannot send the alert for {self._unit}: {error}", delay_s)
                await self._sleep(delay_s)
            else:
                sent = alert
                # If the unit came up while we were sending, the agent may have cleared the topic before our message
                # came. We write the file again: if the agent finds it, it clears the topic again.
                self._keep(alert)
                logger.info("sent the alert for %s", self._unit)
        if sent is None:
            logger.info("%s is not failed, or not any more: there is nothing to send", self._unit)

    async def _owed(self) -> Alert | None:
        """The alert, or None if the unit is not failed after all.

        Since systemd 254 OnFailure= comes with each restart (systemd issue 27594). Only the last outcome counts.
        """
        outcome, steady_s = self._look(), 0.0
        while outcome.state not in ("", "failed") and steady_s < STEADY_S:
            await self._sleep(LOOK_AGAIN_S)
            before, outcome = outcome, self._look()
            is_steady = outcome.state in ("active", "inactive") and outcome == before
            steady_s = steady_s + LOOK_AGAIN_S if is_steady else 0.0
        return self._alert_of(outcome) if outcome.state in ("", "failed") else None

    def _look(self) -> Outcome:
        shown = self._ask("systemctl", "show", f"--property={_SHOWN}", "--", self._unit)
        properties = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
        return read_outcome(properties, os.environ)

    def _alert_of(self, outcome: Outcome) -> Alert:
        """The alert that was already made for this run, by us or by an earlier notifier; else a new one."""
        alert = self._alert or self._alerts.read(self._unit)
        if alert is None or alert.run != outcome.run:
            content = FailureAlert(
                client_uuid=self._client_uuid,
                unit=self._unit,
                result=outcome.result,
                exit_status=outcome.exit_status,
                restarts=outcome.restarts,
                boot_id=self._boot_id,
                timestamp=datetime.now(UTC),
                last_log_lines=self._last_log_lines(),
            )
            alert = Alert(self._unit, outcome.run, encode_failure_alert(content))
            logger.info(
                "%s failed: %s, exit status %s, restarted %d times",
                self._unit, outcome.result, outcome.exit_status, outcome.restarts,
            )  # fmt: skip
        self._alert = alert
        return alert

    def _last_log_lines(self) -> tuple[str, ...]:
        # We name the boot by its id: a sandboxed service in a container of systemd 252 sees another one in /proc.
        boot_id = f"--boot={self._boot_id.replace('-', '')}"
        what = boot_id, f"--unit={self._unit}", f"--lines={MAX_LOG_LINES}"
        lines = self._ask("journalctl", "--quiet", "--no-pager", "--output=cat", *what).split("\n")
        return tuple([self._fit_to_be_seen(line) for line in lines if line.strip()][-MAX_LOG_LINES:])

    def _fit_to_be_seen(self, line: str) -> str:
        """Leaves secrets out: people who read alerts may have no right to read the journal."""
        line = _TOLD_BY_PID_1.sub(r"\1(left out)", line)
        return line.replace(self._secret, "(left out)") if self._secret else line

    def _keep(self, alert: Alert) -> None:
        try:
            self._alerts.write(alert)
        except OSError as error:
            logger.warning("cannot keep the alert for %s, which is sent all the same: %s", self._unit, error)

    def _report(self, trouble: str, delay_s: float) -> None:
        text = f"{trouble}; next attempt in {math.ceil(delay_s)} s"
        # A broker that is away for days would fill the journal with the same line.
        logger.log(logging.WARNING if trouble != self._trouble else logging.DEBUG, "%s", text)
        self._trouble = trouble
        notify(f"STATUS={text}")


def ask(*command: str) -> str:
    """What the command printed, or nothing if it failed: an alert that says less is better than none."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_ASK_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("the alert will say less: %s", error)
        return ""
    return done.stdout.decode(errors="replace")


class Sender:
    """Sends over a new connection each time, without a will and with a session that ends with it."""

    def __init__(self, broker: BrokerSettings, client_id: str) -> None:
        self._broker = broker
        self._client_id = client_id
        self._trial = Trial(broker.protocol)
        self._turn = 0

    async def send(self, alert: Message) -> None:
        """An alert that is too large for the broker is sent with fewer log lines. Raises NotDelivered."""
        broker = self._broker
        connection = Connection(
            broker, self._client_id, None, lambda _: None,
            clean_session=True, manner=self._trial.manner(), turn=self._turn,
        )  # fmt: skip
        patience_s = PATIENCE * broker.keep_alive_s
        try:
            async with asyncio.timeout(patience_s):
                await connection.open()
                most_bytes = connection.largest_payload_bytes(alert.topic)
                await connection.publish(replace(alert, payload=shorten_failure_alert(alert.payload, most_bytes)))
            connection.disconnect()
        except TimeoutError:
            raise NotDelivered(f"no answer from {broker.address} within {patience_s:g} s") from None
        except NotDelivered as error:
            raise NotDelivered(f"{broker.address}: {error}") from None
        finally:
            connection.close("left")
            await connection.closed  # raises what was our own fault
            connection.teach(self._trial)
            self._turn = connection.turn + 1


def main(argv: list[str] | None = None) -> int:
    """The notifier as systemd starts it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="infoscreen-notify-failure", description=__doc__)
    parser.add_argument("--boot-id", type=uuid.UUID, default=kernel.boot_id(), help="default: what /proc says")
    parser.add_argument("unit", help="the full name of the unit that failed")
    arguments = parser.parse_args(argv)
    log.set_up("infoscreen-notify-failure")
    if not config.is_configured(os.environ):
        logger.warning("cannot send the alert for %s: %s", arguments.unit, config.NOT_CONFIGURED)
        return config.EX_NOT_CONFIGURED
    try:
        broker, client_uuid = config.load_address(os.environ)
    except config.ConfigError as error:
        for problem in error.problems:
            logger.error("cannot send the alert for %s: %s", arguments.unit, problem)
        notify(f"STATUS=cannot send: {error}")
        return os.EX_CONFIG
    # More than one notifier may be at work, and the broker lets each client id in only once.
    client_id = f"infoscreen-{client_uuid}-alert-{os.getpid()}"
    deliver = Sender(broker, client_id).send
    boot_id, alerts = str(arguments.boot_id), Alerts.of(os.environ)
    notifier = Notifier(arguments.unit, client_uuid, boot_id, alerts, ask, deliver, broker.password)
    asyncio.run(notifier.run())
    return 0
