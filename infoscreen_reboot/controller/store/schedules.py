"""Schedules: their rules, what became of each night, and who was in it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import RowMapping, and_, delete, exists, insert, or_, select, update

from infoscreen_reboot.controller.calendar import SITE_LABEL, Night, NightState
from infoscreen_reboot.controller.lifecycle import VERDICT_RANK, Record, State
from infoscreen_reboot.controller.report import Member
from infoscreen_reboot.controller.store.bulk import among
from infoscreen_reboot.controller.store.commands import record_of
from infoscreen_reboot.controller.store.database import Transaction
from infoscreen_reboot.controller.store.tables import (
    batch_member,
    client,
    command,
    label,
    schedule,
    schedule_member,
    schedule_night,
    schedule_skip,
    to_moment,
    to_number,
)

_LIVES = schedule.c.deleted_at.is_(None)

# --- Rules


def living(tx: Transaction) -> list[RowMapping]:
    """The oldest first."""
    return list(tx.db.execute(select(schedule).where(_LIVES).order_by(schedule.c.created_at, schedule.c.id)).mappings())


def schedule_of(tx: Transaction, schedule_id: str) -> RowMapping | None:
    """Also one that was deleted."""
    return tx.db.execute(select(schedule).where(schedule.c.id == schedule_id)).mappings().one_or_none()


def bearer_of(tx: Transaction, name: str, but: str | None = None) -> str | None:
    """The id of another schedule that has this name."""
    query = select(schedule.c.id).where(schedule.c.name == name, _LIVES)
    if but is not None:
        query = query.where(schedule.c.id != but)
    return tx.db.execute(query).scalar_one_or_none()


def create(tx: Transaction, values: Mapping[str, Any], by: str) -> str:
    made = str(uuid4())
    known = {"id": made, "created_at": tx.now, "created_by": by, "changed_at": tx.now, "changed_by": by}
    tx.db.execute(insert(schedule).values(**values, **known, looked_at=tx.now))
    return made


def change(tx: Transaction, schedule_id: str, values: Mapping[str, Any], by: str) -> None:
    """From now on: a night that has begun stays as it began."""
    known = {"changed_at": tx.now, "changed_by": by, "version": schedule.c.version + 1}
    tx.db.execute(update(schedule).where(schedule.c.id == schedule_id).values(**values, **known))


def pause(tx: Transaction, schedule_id: str, by: str | None) -> None:
    """None: it goes on, and what was to begin before now is none of it."""
    values: dict[str, Any] = {"paused_at": None, "paused_by": None, "changed_at": tx.now}
    if by is not None:
        values = {"paused_at": tx.now, "paused_by": by}
    tx.db.execute(update(schedule).where(schedule.c.id == schedule_id).values(**values))


def remove(tx: Transaction, schedule_id: str, by: str) -> None:
    values = {"deleted_at": tx.now, "deleted_by": by}
    tx.db.execute(update(schedule).where(schedule.c.id == schedule_id).values(**values))


def looked(tx: Transaction) -> None:
    """Whatever was over by now was looked at."""
    tx.db.execute(update(schedule).where(_LIVES, schedule.c.looked_at < tx.now).values(looked_at=tx.now))


def skips(tx: Transaction, schedule_ids: Collection[str]) -> dict[str, dict[date, str]]:
    """By schedule: the days that were taken out, and by whom."""
    found: dict[str, dict[date, str]] = {schedule_id: {} for schedule_id in schedule_ids}
    query = select(schedule_skip).where(among(tx, schedule_skip.c.schedule_id, schedule_ids))
    for row in tx.db.execute(query.order_by(schedule_skip.c.day)):
        found[row.schedule_id][date.fromisoformat(row.day)] = row.made_by
    return found


def skip(tx: Transaction, schedule_id: str, day: date, by: str) -> bool:
    """Returns False if it was taken out before."""
    if day in skips(tx, [schedule_id])[schedule_id]:
        return False
    values = {"schedule_id": schedule_id, "day": day.isoformat(), "made_by": by, "made_at": tx.now}
    tx.db.execute(insert(schedule_skip).values(**values))
    return True


def unskip(tx: Transaction, schedule_id: str, day: date) -> bool:
    which = and_(schedule_skip.c.schedule_id == schedule_id, schedule_skip.c.day == day.isoformat())
    return tx.db.execute(delete(schedule_skip).where(which)).rowcount == 1


# --- Nights


def decided(tx: Transaction, schedule_ids: Collection[str], since: datetime) -> set[tuple[str, str, str]]:
    """The schedule, occurrence and zone of each night that ended after `since` and has a row."""
    columns = schedule_night.c.schedule_id, schedule_night.c.occurrence, schedule_night.c.zone
    which = and_(among(tx, schedule_night.c.schedule_id, schedule_ids), schedule_night.c.ends_at > since)
    return {(row.schedule_id, row.occurrence, row.zone) for row in tx.db.execute(select(*columns).where(which))}


@dataclass(frozen=True, slots=True)
class Made:
    """A night that gets its row. `report` is for one that has ended with it."""

    schedule_id: str
    occurrence: str
    night: Night
    state: NightState
    words: str | None = None
    batch_id: str | None = None
    report: Mapping[str, Any] | None = None


def add_night(tx: Transaction, made: Made) -> str:
    """Returns its id."""
    night_id, night = str(uuid4()), made.night
    values = {
        "id": night_id,
        "schedule_id": made.schedule_id,
        "occurrence": made.occurrence,
        "zone": night.zone,
        "state": str(made.state),
        "starts_at": night.starts_at,
        "ends_at": night.ends_at,
        "back_by": night.back_by,
        "batch_id": made.batch_id,
        "words": made.words,
        "made_at": tx.now,
        "ended_at": None if made.state is NightState.RUNNING else tx.now,
        "report": None if made.report is None else dict(made.report),
    }
    tx.db.execute(insert(schedule_night).values(**values))
    return night_id


def end_night(tx: Transaction, night_id: str, state: NightState, words: str, report: Mapping[str, Any]) -> None:
    values = {"state": str(state), "words": words, "ended_at": tx.now, "report": dict(report)}
    tx.db.execute(update(schedule_night).where(schedule_night.c.id == night_id).values(**values))


def running(tx: Transaction) -> list[RowMapping]:
    """With the name of the schedule, also of one that was deleted meanwhile."""
    query = select(schedule_night, schedule.c.name).join(schedule, schedule.c.id == schedule_night.c.schedule_id)
    query = query.where(schedule_night.c.state == NightState.RUNNING).order_by(schedule_night.c.starts_at)
    return list(tx.db.execute(query).mappings())


def night_of(tx: Transaction, night_id: str) -> RowMapping | None:
    query = select(schedule_night, schedule.c.name).join(schedule, schedule.c.id == schedule_night.c.schedule_id)
    return tx.db.execute(query.where(schedule_night.c.id == night_id)).mappings().one_or_none()


def night_of_batch(tx: Transaction, batch_id: str) -> RowMapping | None:
    query = select(schedule_night.c.id).where(schedule_night.c.batch_id == batch_id)
    found = tx.db.execute(query).scalar_one_or_none()
    return None if found is None else night_of(tx, found)


def nights_page(
    tx: Transaction, schedule_id: str | None, limit: int, cursor: str | None, is_running: bool | None = None
) -> tuple[list[RowMapping], str | None]:
    """The newest first, without their reports, of all or only of those that run, or do not.

    Raises ValueError for a cursor that is none of ours.
    """
    columns = [column for column in schedule_night.c if column.name != "report"]
    query = select(*columns, schedule.c.name).join(schedule, schedule.c.id == schedule_night.c.schedule_id)
    if schedule_id is not None:
        query = query.where(schedule_night.c.schedule_id == schedule_id)
    if is_running is not None:
        running = schedule_night.c.state == NightState.RUNNING
        query = query.where(running if is_running else ~running)
    if cursor is not None:
        number, _, last = cursor.partition(".")
        if not number.isascii() or not number.isdigit() or len(number) > 18 or len(last) != 36:
            raise ValueError(f"{cursor[:60]!r} is no cursor of ours")
        at = to_moment(int(number))
        is_before = and_(schedule_night.c.starts_at == at, schedule_night.c.id < last)
        query = query.where(or_(schedule_night.c.starts_at < at, is_before))
    query = query.order_by(schedule_night.c.starts_at.desc(), schedule_night.c.id.desc()).limit(limit + 1)
    rows = list(tx.db.execute(query).mappings())
    is_last = len(rows) <= limit
    rows = rows[:limit]
    return rows, None if is_last else f"{to_number(rows[-1]['starts_at'])}.{rows[-1]['id']}"


# --- Members


def add_members(
    tx: Transaction,
    schedule_id: str,
    occurrence: str,
    night_id: str,
    batch_id: str | None,
    skipped: Mapping[str, str],
) -> None:
    """Those that have a command in the batch, and those that were left out, each with the reason."""
    key = {"schedule_id": schedule_id, "occurrence": occurrence, "night_id": night_id}
    rows: list[dict[str, Any]] = [
        {**key, "client_uuid": uuid, "command_id": None, "skipped": why} for uuid, why in skipped.items()
    ]
    if batch_id is not None:
        columns = batch_member.c.client_uuid, batch_member.c.command_id
        ordered = tx.db.execute(select(*columns).where(batch_member.c.batch_id == batch_id))
        rows += [
            {**key, "client_uuid": row.client_uuid, "command_id": row.command_id, "skipped": None} for row in ordered
        ]
    if rows:
        tx.db.execute(insert(schedule_member), rows)


def taken(tx: Transaction, schedule_id: str, occurrence: str) -> set[str]:
    """Who is in another night of this occurrence: a client is in one only, whatever its zone is meanwhile."""
    which = and_(schedule_member.c.schedule_id == schedule_id, schedule_member.c.occurrence == occurrence)
    return set(tx.db.execute(select(schedule_member.c.client_uuid).where(which)).scalars())


def in_others(tx: Transaction, schedule_id: str, night: Night, uuids: Iterable[str]) -> dict[str, str]:
    """Who has a command in a night of another schedule that overlaps this one, and the name of that schedule."""
    query = (
        select(schedule_member.c.client_uuid, schedule.c.name)
        .join(schedule_night, schedule_night.c.id == schedule_member.c.night_id)
        .join(schedule, schedule.c.id == schedule_member.c.schedule_id)
        .where(
            schedule_night.c.schedule_id != schedule_id,
            schedule_night.c.starts_at < night.ends_at,
            schedule_night.c.ends_at > night.starts_at,
            schedule_member.c.command_id.is_not(None),
            among(tx, schedule_member.c.client_uuid, uuids),
        )
    )
    return {row.client_uuid: row.name for row in tx.db.execute(query)}


def is_open(tx: Transaction, batch_id: str | None) -> bool:
    """Whether one of its commands has no verdict."""
    which = and_(command.c.batch_id == batch_id, command.c.rank < VERDICT_RANK)
    return batch_id is not None and bool(tx.db.execute(select(exists().where(which))).scalar_one())


def overdue(tx: Transaction, batch_id: str | None) -> list[Record]:
    """Those of its commands that were sent, and on which time gave the verdict."""
    which = and_(
        command.c.batch_id == batch_id,
        command.c.state.in_([State.EXPIRED, State.TIMED_OUT]),
        command.c.sent_at.is_not(None),
    )
    return [record_of(row) for row in tx.db.execute(select(command).where(which)).mappings()]


def members(tx: Transaction, night_id: str) -> list[Member]:
    site = and_(label.c.client_uuid == schedule_member.c.client_uuid, label.c.key == SITE_LABEL)
    columns = schedule_member.c.client_uuid.label("member"), schedule_member.c.skipped
    query = (
        select(*columns, client.c.name, label.c.value.label("site"), command)
        .join(command, command.c.id == schedule_member.c.command_id, isouter=True)
        .join(client, client.c.uuid == schedule_member.c.client_uuid, isouter=True)
        .join(label, site, isouter=True)
        .where(schedule_member.c.night_id == night_id)
    )
    return [_member(row) for row in tx.db.execute(query).mappings()]


def _member(row: RowMapping) -> Member:
    record = record_of(row) if row["id"] is not None else None
    return Member(row["member"], row["name"], row["site"], row["id"], record, row["hold_why"], row["skipped"])


def sites_and_names(tx: Transaction, uuids: Sequence[str]) -> list[tuple[str, str | None, str | None]]:
    """Of each client its UUID, name and site."""
    site = and_(label.c.client_uuid == client.c.uuid, label.c.key == SITE_LABEL)
    query = select(client.c.uuid, client.c.name, label.c.value).join(label, site, isouter=True)
    rows = tx.db.execute(query.where(among(tx, client.c.uuid, uuids)))
    return [(row.uuid, row.name, row.value) for row in rows]
