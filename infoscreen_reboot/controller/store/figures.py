"""The numbers that are watched, each counted from the rows: a number kept beside them would drift."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Column, ColumnElement, and_, case, func, select

from infoscreen_reboot.controller.calendar import NightState
from infoscreen_reboot.controller.lifecycle import VERDICT_RANK, Proof, State
from infoscreen_reboot.controller.recovery import OPEN
from infoscreen_reboot.controller.rollout import OVER
from infoscreen_reboot.controller.rollout import State as RolloutState
from infoscreen_reboot.controller.store import deliveries, power
from infoscreen_reboot.controller.store.database import Transaction
from infoscreen_reboot.controller.store.tables import alert, client, command, lease, recovery, rollout, schedule_night

# For how long nights are counted after their window.
_NIGHTS = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Figures:
    """`commands` by action, state and proof; `clients` by standing and presence; open `recoveries` and `rollouts`, and
    `nights` whose window was open within the last day, by state."""

    commands: dict[tuple[str, str, str], int]
    clients: dict[tuple[str, str], int]
    oldest_open: timedelta
    alerts: int
    undelivered: int
    recoveries: dict[str, int]
    rollouts: dict[str, int]
    nights: dict[str, int]
    is_lease_held: bool
    is_broker_heard: bool
    ports_held_off: int


def broker(tx: Transaction) -> tuple[bool, datetime | None]:
    """Whether some instance hears the broker, and if not, since when, where that is known."""
    if _lease(tx) == (True, True):
        return True, None
    held = tx.db.execute(select(lease.c.deaf_since, lease.c.ends_at)).one_or_none()
    # Whoever was killed could not write it down.
    return False, None if held is None else held.deaf_since or held.ends_at


def _lease(tx: Transaction) -> tuple[bool, bool]:
    """Whether somebody holds it, and whether he hears the broker."""
    held = tx.db.execute(select(lease.c.holder, lease.c.ends_at, lease.c.listening_since)).one_or_none()
    is_held = held is not None and held.holder is not None and held.ends_at > tx.now
    return is_held, held is not None and is_held and held.listening_since is not None


def count(tx: Transaction) -> Figures:
    is_lease_held, is_heard = _lease(tx)
    return Figures(
        commands=_commands(tx),
        clients=_clients(tx),
        oldest_open=_oldest_open(tx),
        alerts=_alerts(tx),
        undelivered=sum(row["waiting"] + row["failed"] for row in deliveries.undelivered(tx)),
        recoveries=_by_state(tx, recovery.c.state, recovery.c.ended_at.is_(None), OPEN),
        rollouts=_by_state(
            tx, rollout.c.state, rollout.c.state.not_in(OVER), [s for s in RolloutState if not s.is_over]
        ),
        nights=_by_state(
            tx,
            schedule_night.c.state,
            schedule_night.c.ends_at > tx.now - _NIGHTS,
            [s for s in NightState if s is not NightState.DUE],
        ),
        is_lease_held=is_lease_held,
        is_broker_heard=is_heard,
        ports_held_off=len(power.held_off(tx)),
    )


def _commands(tx: Transaction) -> dict[tuple[str, str, str], int]:
    """A completed reboot is one only if the boot id has changed: a mock is counted apart."""
    is_reboot = and_(command.c.state == State.COMPLETED, command.c.action == "reboot_host")
    proof = case(
        (~is_reboot, ""),
        (command.c.started_boot_id.is_(None), str(Proof.UNHEARD)),
        (command.c.started_boot_id == command.c.ended_boot_id, str(Proof.MOCK)),
        else_=str(Proof.BOOT_ID),
    )
    proven = select(command.c.action, command.c.state, proof.label("proof")).subquery()
    columns = proven.c.action, proven.c.state, proven.c.proof
    rows = tx.db.execute(select(*columns, func.count()).group_by(*columns))
    return {(action, state, proof): number for action, state, proof, number in rows}


def _clients(tx: Transaction) -> dict[tuple[str, str], int]:
    presence = case((client.c.is_online, "online"), (client.c.presence_at.is_(None), "unknown"), else_="offline")
    seen = select(client.c.standing, presence.label("presence")).subquery()
    columns = seen.c.standing, seen.c.presence
    rows = tx.db.execute(select(*columns, func.count()).group_by(*columns))
    return {(standing, presence): number for standing, presence, number in rows}


def _oldest_open(tx: Transaction) -> timedelta:
    oldest: datetime | None = tx.db.execute(
        select(func.min(command.c.created_at)).where(command.c.rank < VERDICT_RANK)
    ).scalar_one()
    return tx.now - oldest if oldest is not None else timedelta()


def _alerts(tx: Transaction) -> int:
    return int(tx.db.execute(select(func.count()).where(alert.c.cleared_at.is_(None))).scalar_one())


def _by_state(tx: Transaction, state: Column[str], where: ColumnElement[bool], states: Iterable[str]) -> dict[str, int]:
    """A state in which there is none is counted, too: an alarm needs its 0."""
    query = select(state, func.count()).where(where).group_by(state)
    found = {name: number for name, number in tx.db.execute(query)}
    return {str(each): found.get(each, 0) for each in states}
