"""Builds the health report from facts that others have gathered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from infoscreen_reboot.client.agent.lifecycle import Record, State
from infoscreen_reboot.contract import ack
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.contract.telemetry import (
    BrokerConnection,
    Capabilities,
    Commands,
    Executor,
    Health,
    LastCommand,
    Lockout,
    StateDirectory,
)

HARDWARE_WATCHDOG_TIER, SOFTWARE_TIER = 2, 1


@dataclass(frozen=True, slots=True)
class About:
    """What stays the same as long as the agent runs."""

    client_uuid: str
    boot_id: str
    agent_version: str
    executor: Executor
    actions: frozenset[Action]
    requires_signature: bool
    post_boot_checks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known at one moment; `last` is the newest command that was answered."""

    now: datetime
    uptime_s: float
    broker: BrokerConnection
    open_records: Sequence[Record]
    last: Record | None
    outbox: int
    counters: Mapping[str, int]
    lockout: Lockout | None
    clock_is_synchronised: bool
    watchdog_is_armed: bool
    state: StateDirectory


def health(about: About, facts: Facts) -> Health:
    return Health(
        client_uuid=about.client_uuid,
        timestamp=facts.now,
        boot_id=about.boot_id,
        uptime_s=int(facts.uptime_s),
        agent_version=about.agent_version,
        executor=about.executor,
        broker_connection=facts.broker,
        commands=Commands(
            in_progress=facts.open_records[0].command_id if facts.open_records else None,
            last=_last(facts.last),
            outbox=facts.outbox,
            unreadable=facts.counters.get("unreadable", 0),
            conflicts=facts.counters.get("conflicts", 0),
            bad_signatures=facts.counters.get("bad_signatures", 0) if about.requires_signature else None,
        ),
        lockout=facts.lockout,
        clock_synchronized=facts.clock_is_synchronised,
        capabilities=Capabilities(
            actions=tuple(sorted(about.actions)),
            hardware_watchdog=facts.watchdog_is_armed,
            post_boot_checks=about.post_boot_checks,
            recovery_tier=HARDWARE_WATCHDOG_TIER if facts.watchdog_is_armed else SOFTWARE_TIER,
        ),
        state=facts.state,
    )


def _last(record: Record | None) -> LastCommand | None:
    if record is None or record.ack is None:
        return None
    answer = ack.parse(record.ack)
    return LastCommand(record.command_id, answer.status, answer.timestamp)


# While reboots count, the helper's answer changes with time alone. We ask for such a change no more often than this.
_LOCKOUT_AGES_S = 300.0


@dataclass(frozen=True, slots=True)
class LockoutAge:
    """The helper's last answer, when it came (monotonic seconds), and after which execution."""

    lockout: Lockout | None
    asked_at_s: float
    execution: tuple[str, str] | None


def should_ask_helper(known: LockoutAge | None, now_s: float, now: datetime, execution: tuple[str, str] | None) -> bool:
    """Whether the lockout may have changed. If not, we do not ask: each question starts a process that runs as root.

    `execution` is the id and the state of the last executed command. It changes when the helper has been asked to do
    something.
    """
    if execution is not None and execution[1] == State.EXECUTING:
        return False  # the helper is busy with this command, and its answer will change with it
    if known is None or known.execution != execution:
        return True
    if known.lockout is None or not known.lockout.used:
        return False
    unlocks_at = known.lockout.unlocks_at
    return now_s - known.asked_at_s >= _LOCKOUT_AGES_S or (unlocks_at is not None and now >= unlocks_at)
