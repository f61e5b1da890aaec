"""Deletes what is older than the site wants to keep. What is open, or stands, is never touched."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ColumnElement, Table, and_, delete, exists, or_, select

from infoscreen_reboot.controller.lifecycle import VERDICT_RANK
from infoscreen_reboot.controller.rollout import OVER
from infoscreen_reboot.controller.store.database import Transaction
from infoscreen_reboot.controller.store.tables import (
    alert,
    audit,
    batch,
    batch_member,
    boot,
    client,
    command,
    event,
    freeze,
    message,
    notice,
    power_cycle,
    preview,
    recovery,
    rollout,
    schedule,
    schedule_member,
    schedule_night,
    schedule_skip,
)

# Of each table in one transaction: nobody waits long for the lock of the writers.
_MOST = 500


def forget(tx: Transaction, before: datetime) -> int:
    """Returns how many rows are gone; 0 when nothing is left that is so old."""
    return (
        _forget_nights(tx, before)
        + _forget_commands(tx, before)
        + _forget_events(tx, before)
        + sum(
            _delete(tx, table, which)
            for table, which in (
                (alert, alert.c.cleared_at < before),
                (audit, audit.c.at < before),
                (notice, notice.c.at < before),
                (recovery, recovery.c.ended_at < before),
                (power_cycle, power_cycle.c.ended_at < before),
                (message, message.c.made_at < before),
                (preview, preview.c.made_at < before),
                (schedule_skip, schedule_skip.c.day < before.date().isoformat()),
                (freeze, or_(freeze.c.ended_at < before, freeze.c.until < before)),
                (rollout, and_(rollout.c.ended_at < before, rollout.c.state.in_(OVER), ~rollout.c.recovery_off)),
                (boot, and_(boot.c.heard_at < before, ~_is_present(boot.c.client_uuid, boot.c.boot_id))),
                (batch, and_(batch.c.created_at < before, ~exists().where(command.c.batch_id == batch.c.id))),
            )
        )
    )


def _forget_commands(tx: Transaction, before: datetime) -> int:
    """With its events: they would say nothing without it."""
    old = and_(command.c.created_at < before, command.c.rank == VERDICT_RANK, command.c.ended_at < before)
    ids = list(tx.db.execute(select(command.c.id).where(old).limit(_MOST)).scalars())
    if ids:
        tx.db.execute(delete(event).where(event.c.command_id.in_(ids)))
        tx.db.execute(delete(batch_member).where(batch_member.c.command_id.in_(ids)))
        tx.db.execute(delete(command).where(command.c.id.in_(ids)))
    return len(ids)


def _forget_nights(tx: Transaction, before: datetime) -> int:
    """With their members and reports; and schedules that were deleted, when none of their nights is left."""
    old = and_(schedule_night.c.ends_at < before, schedule_night.c.state != "running")
    ids = list(tx.db.execute(select(schedule_night.c.id).where(old).limit(_MOST)).scalars())
    if ids:
        tx.db.execute(delete(schedule_member).where(schedule_member.c.night_id.in_(ids)))
        tx.db.execute(delete(schedule_night).where(schedule_night.c.id.in_(ids)))
    is_empty = ~exists().where(schedule_night.c.schedule_id == schedule.c.id)
    return len(ids) + _delete(tx, schedule, and_(schedule.c.deleted_at < before, is_empty))


def _forget_events(tx: Transaction, before: datetime) -> int:
    """Those that are of no command. Their numbers are in the order of their times, so no index of times is needed."""
    of_no_command = ~exists().where(command.c.id == event.c.command_id)
    oldest = select(event.c.seq, event.c.at).where(of_no_command).order_by(event.c.seq).limit(_MOST)
    old = [row.seq for row in tx.db.execute(oldest) if row.at < before]
    tx.db.execute(delete(event).where(event.c.seq.in_(old)))
    return len(old)


def _is_present(uuid: ColumnElement[str], boot_id: ColumnElement[str]) -> ColumnElement[bool]:
    """Whether it is the boot in which its client is now."""
    return exists().where(and_(client.c.uuid == uuid, client.c.boot_id == boot_id))


def _delete(tx: Transaction, table: Table, which: ColumnElement[bool]) -> int:
    keys = list(table.primary_key.columns)
    rows = tx.db.execute(select(*keys).where(which).limit(_MOST)).all()
    for row in rows:
        same = and_(*(key == value for key, value in zip(keys, row, strict=True)))
        tx.db.execute(delete(table).where(same))
    return len(rows)
