"""Gathers what the rules ask for, for many clients at once, in the transaction that makes or releases commands."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select

from infoscreen_reboot.contract import wire
from infoscreen_reboot.contract.ack import ErrorCode
from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.contract.telemetry import Executor
from infoscreen_reboot.controller.lifecycle import VERDICT_RANK
from infoscreen_reboot.controller.power.port import Backend
from infoscreen_reboot.controller.safety import (
    LOCKOUT_WINDOW,
    Budget,
    Facts,
    Freeze,
    Group,
    Reported,
    Standing,
)
from infoscreen_reboot.controller.selection import Selector
from infoscreen_reboot.controller.store.bulk import among
from infoscreen_reboot.controller.store.database import Transaction
from infoscreen_reboot.controller.store.tables import client, command, freeze, health, label, power_port
from infoscreen_reboot.controller.windows import Window

_LEAVING = timedelta(minutes=3)
# With these the client's helper, or logind, has said no: it counts such a reboot neither.
_REFUSED = (ErrorCode.LOCKOUT, ErrorCode.NOT_AUTHORIZED, ErrorCode.INHIBITED, ErrorCode.HELPER_UNAVAILABLE)
# A command waits for a day at most. There is an index on the time of its making.
_OLDEST_SHUTDOWN = timedelta(hours=25)


@dataclass(frozen=True, slots=True)
class Policy:
    """What the settings say about sending. A client gets the windows of each selector that it matches."""

    fleet_cap: int | None = None
    budgets: tuple[Budget, ...] = ()
    windows: tuple[tuple[Selector, Window], ...] = ()
    has_signing_key: bool = False


def gather(
    tx: Transaction,
    uuids: Sequence[str],
    action: Action,
    policy: Policy,
    *,
    may_shut_down: bool,
    someone_is_there: bool,
    without: Sequence[str] = (),
) -> dict[str, Facts]:
    """Facts by UUID; clients that do not exist are left out. Commands in `without` are those that are asked about."""
    rows = tx.db.execute(select(client).where(among(tx, client.c.uuid, uuids))).mappings().all()
    found = {row["uuid"]: row for row in rows}
    open_commands = _open(tx, without)
    # A budget counts the others, too; without one, the labels of these clients are enough.
    labels = _labels(tx, None if policy.budgets else uuids)
    groups: dict[str, list[_Members]] = {}
    for group in _groups(tx, policy.budgets, labels, open_commands):
        for uuid in group.members & found.keys():
            groups.setdefault(uuid, []).append(group)
    started, reported, standing = _started(tx, uuids, without), _reported(tx, uuids), freezes(tx)
    fed = switched(tx, uuids)
    return {
        uuid: Facts(
            now=tx.now,
            action=action,
            standing=Standing(row["standing"]),
            is_online=row["is_online"],
            heard_at=row["heard_at"],
            has_two_hosts=row["two_hosts_at"] is not None,
            open_command_id=open_commands.get(uuid),
            started=started.get(uuid, ()),
            health=reported.get(uuid),
            groups=tuple(group.for_client(uuid) for group in groups.get(uuid, ())),
            fleet_cap=policy.fleet_cap,
            others_open=len(open_commands) - (uuid in open_commands),
            windows=tuple(window for selector, window in policy.windows if selector.matches(labels.get(uuid, {}))),
            freezes=standing,
            may_shut_down=may_shut_down,
            can_be_woken=uuid in fed,
            someone_is_there=someone_is_there,
            has_signing_key=policy.has_signing_key,
        )
        for uuid, row in found.items()
    }


@dataclass(frozen=True, slots=True)
class _Members:
    """The clients of one group, and those of them that are unavailable."""

    name: str
    budget: Budget
    members: frozenset[str]
    unavailable: frozenset[str]

    def for_client(self, uuid: str) -> Group:
        return Group(self.name, self.budget, len(self.members), len(self.unavailable) - (uuid in self.unavailable))


def _open(tx: Transaction, without: Sequence[str]) -> dict[str, str]:
    """The command on its way, or about to be, of each client. One that waits for a rule holds nobody else up."""
    is_going = or_(command.c.sent_at.is_not(None), command.c.hold_rule.is_(None))
    where = and_(command.c.rank < VERDICT_RANK, is_going, ~among(tx, command.c.id, without))
    return {row.client_uuid: row.id for row in tx.db.execute(select(command.c.client_uuid, command.c.id).where(where))}


def _labels(tx: Transaction, uuids: Sequence[str] | None) -> dict[str, dict[str, str]]:
    """Of these clients, or of all."""
    query = select(label.c.client_uuid, label.c.key, label.c.value)
    if uuids is not None:
        query = query.where(among(tx, label.c.client_uuid, uuids))
    found: dict[str, dict[str, str]] = {}
    for row in tx.db.execute(query).all():
        found.setdefault(row.client_uuid, {})[row.key] = row.value
    return found


def _groups(
    tx: Transaction,
    budgets: Sequence[Budget],
    labels: Mapping[str, Mapping[str, str]],
    open_commands: Mapping[str, str],
) -> list[_Members]:
    """A client without one of the labels is in no group of that budget."""
    if not budgets:
        return []
    accepted = select(client.c.uuid, client.c.is_online).where(client.c.standing == Standing.ACCEPTED)
    leaving = _leaving(tx)
    online = {row.uuid: row.is_online and row.uuid not in leaving for row in tx.db.execute(accepted)}
    found = []
    for budget in budgets:
        members: dict[str, set[str]] = {}
        for uuid in online:
            values = [labels.get(uuid, {}).get(key) for key in budget.group_by]
            if None not in values:
                name = ",".join(f"{key}={value}" for key, value in zip(budget.group_by, values, strict=True))
                members.setdefault(name, set()).add(uuid)
        for name, uuids in members.items():
            down = frozenset(uuid for uuid in uuids if not online[uuid] or uuid in open_commands)
            found.append(_Members(name, budget, frozenset(uuids), down))
    return found


def _leaving(tx: Transaction) -> set[str]:
    """Clients that have said `completed` to a shutdown: they say it just before they go down.

    If the shutdown is refused after that, the client is there for good: so it counts for a few minutes only.
    """
    where = and_(
        command.c.action == Action.SHUTDOWN_HOST,
        command.c.state == "completed",
        command.c.created_at > tx.now - _OLDEST_SHUTDOWN,
        command.c.ended_at > tx.now - _LEAVING,
        command.c.started_boot_id == client.c.boot_id,
    )
    query = select(command.c.client_uuid).join(client, client.c.uuid == command.c.client_uuid).where(where)
    return set(tx.db.execute(query).scalars())


def _started(tx: Transaction, uuids: Sequence[str], without: Sequence[str]) -> dict[str, tuple[datetime, ...]]:
    """Reboots that were begun lately, by our commands: not those of a mock, nor those that the client was refused."""
    is_mock = and_(command.c.state == "completed", command.c.ended_boot_id == command.c.started_boot_id)
    is_refused = and_(command.c.state == "failed", command.c.error_code.in_(_REFUSED))
    where = and_(
        among(tx, command.c.client_uuid, uuids),
        command.c.action == Action.REBOOT_HOST,
        command.c.started_at > tx.now - LOCKOUT_WINDOW,
        ~among(tx, command.c.id, without),
        ~func.coalesce(or_(is_mock, is_refused), False),
    )
    found: dict[str, list[datetime]] = {}
    for row in tx.db.execute(select(command.c.client_uuid, command.c.started_at).where(where)):
        found.setdefault(row.client_uuid, []).append(row.started_at)
    return {uuid: tuple(times) for uuid, times in found.items()}


def switched(tx: Transaction, uuids: Sequence[str]) -> set[str]:
    """Clients whose power we can switch off and on: that starts a host that was shut down."""
    is_real = power_port.c.backend != Backend.DRY_RUN
    query = select(power_port.c.client_uuid).where(among(tx, power_port.c.client_uuid, uuids), is_real)
    return set(tx.db.execute(query).scalars())


def _reported(tx: Transaction, uuids: Sequence[str]) -> dict[str, Reported]:
    rows = tx.db.execute(select(health).where(among(tx, health.c.client_uuid, uuids))).all()
    return {row.client_uuid: _read(json.loads(row.content), row.heard_at) for row in rows}


def _read(content: dict[str, Any], at: datetime) -> Reported:
    lockout = content["lockout"] or {"used": None, "limit": None, "unlocks_at": None}
    unlocks_at = lockout["unlocks_at"]
    return Reported(
        at=at,
        actions=frozenset(Action(action) for action in content["capabilities"]["actions"]),
        executor=Executor(content["executor"]),
        is_clock_synchronized=content["clock_synchronized"],
        requires_signature=content["commands"]["bad_signatures"] is not None,
        lockout_used=lockout["used"],
        lockout_limit=lockout["limit"],
        unlocks_at=None if unlocks_at is None else wire.parse_time(unlocks_at, "lockout.unlocks_at"),
        is_disk_full=content["state"]["disk_full"],
        agent_version=content["agent_version"],
        has_watchdog=content["capabilities"]["hardware_watchdog"],
    )


def freezes(tx: Transaction) -> tuple[Freeze, ...]:
    """Those that hold now: by hand, and of the calendar."""
    rows = tx.db.execute(select(freeze).where(freezes_now(tx)).order_by(freeze.c.id))
    return tuple(Freeze(row.why, row.made_by, row.until) for row in rows)


def freezes_now(tx: Transaction) -> ColumnElement[bool]:
    has_begun = or_(freeze.c.begins_at.is_(None), freeze.c.begins_at <= tx.now)
    return and_(has_begun, freeze.c.ended_at.is_(None), or_(freeze.c.until.is_(None), freeze.c.until > tx.now))
