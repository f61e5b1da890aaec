"""How each client stands, reckoned from the rows each time: a word that is kept beside them would drift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Select, and_, case, exists, false, func, or_, select, true

from infoscreen_reboot.controller.condition import LATE_AFTER, Condition
from infoscreen_reboot.controller.lifecycle import VERDICT_RANK
from infoscreen_reboot.controller.recovery import State as RecoveryState
from infoscreen_reboot.controller.safety import Standing
from infoscreen_reboot.controller.store.bulk import among
from infoscreen_reboot.controller.store.database import Transaction
from infoscreen_reboot.controller.store.tables import client, command, label, recovery

_ORDER: list[Condition] = list(Condition)
# What stands for any text in LIKE.
_LITERAL = str.maketrans({"\\": "\\\\", "%": "\\%", "_": "\\_"})


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which clients: those that have a text in their name, note, UUID or labels, and are among `uuids`. None: all."""

    text: str | None = None
    uuids: Sequence[str] | None = None


def counts(tx: Transaction, wanted: Wanted) -> dict[Condition, int]:
    """How many clients stand in which way; those that were rejected or retired are not counted."""
    ranked = _ranked(tx, wanted).subquery()
    query = select(ranked.c.rank, func.count()).group_by(ranked.c.rank)
    found = {rank: number for rank, number in tx.db.execute(query)}
    return {condition: found.get(rank, 0) for rank, condition in enumerate(_ORDER)}


def page(
    tx: Transaction, wanted: Wanted, condition: Condition | None, limit: int, offset: int
) -> list[tuple[str, Condition]]:
    """UUIDs and how they stand, the sickest first, then by name; all, or those that stand in this way."""
    ranked = _ranked(tx, wanted).subquery()
    query = select(ranked.c.uuid, ranked.c.rank)
    if condition is not None:
        query = query.where(ranked.c.rank == _ORDER.index(condition))
    order = ranked.c.rank, ranked.c.name.is_(None), func.lower(ranked.c.name), ranked.c.uuid
    rows = tx.db.execute(query.order_by(*order).limit(limit).offset(offset))
    return [(row.uuid, _ORDER[row.rank]) for row in rows]


def of(tx: Transaction, uuids: Sequence[str]) -> dict[str, Condition]:
    """Of those of these clients that have one."""
    rows = tx.db.execute(_ranked(tx, Wanted(uuids=uuids)))
    return {row.uuid: _ORDER[row.rank] for row in rows}


def _ranked(tx: Transaction, wanted: Wanted) -> Select[tuple[str, str | None, int]]:
    # Few commands and recoveries are open: each is read once, and not once for each client.
    is_sent = command.c.sent_at.is_not(None)
    is_late = and_(command.c.down_at <= tx.now - LATE_AFTER, command.c.back_at.is_(None))
    is_held = and_(command.c.sent_at.is_(None), command.c.hold_rule.is_not(None))
    opened = (
        select(
            command.c.client_uuid,
            _any(is_sent).label("is_sent"),
            _any(is_late).label("is_late"),
            _any(is_held).label("is_held"),
        )
        .where(command.c.rank < VERDICT_RANK)
        .group_by(command.c.client_uuid)
        .subquery()
    )
    needs_person = recovery.c.state == RecoveryState.NEEDS_PERSON
    lost = (
        select(recovery.c.client_uuid, _any(needs_person).label("needs_person"))
        .where(recovery.c.ended_at.is_(None))
        .group_by(recovery.c.client_uuid)
        .subquery()
    )
    rank = case(
        (client.c.standing == Standing.UNKNOWN, _ORDER.index(Condition.UNKNOWN)),
        (or_(client.c.two_hosts_at.is_not(None), lost.c.needs_person == 1), _ORDER.index(Condition.NEEDS_PERSON)),
        (or_(lost.c.client_uuid.is_not(None), opened.c.is_late == 1), _ORDER.index(Condition.LATE)),
        (opened.c.is_sent == 1, _ORDER.index(Condition.REBOOTING)),
        (client.c.is_online == false(), _ORDER.index(Condition.OFFLINE)),
        (opened.c.is_held == 1, _ORDER.index(Condition.HELD)),
        else_=_ORDER.index(Condition.HEALTHY),
    )
    query = (
        select(client.c.uuid, client.c.name, rank.label("rank"))
        .outerjoin(opened, opened.c.client_uuid == client.c.uuid)
        .outerjoin(lost, lost.c.client_uuid == client.c.uuid)
        # Said this way, no index of `standing` is used: it would be read through for the sake of a few UUIDs.
        .where(client.c.standing.not_in((Standing.REJECTED, Standing.RETIRED)))
    )
    return query.where(*_bounds(tx, wanted))


def _any(what: ColumnElement[bool]) -> ColumnElement[int]:
    return func.max(case((what, 1), else_=0))


def _bounds(tx: Transaction, wanted: Wanted) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = [true()]
    if wanted.uuids is not None:
        found.append(among(tx, client.c.uuid, wanted.uuids))
    if wanted.text:
        pattern = f"%{wanted.text.translate(_LITERAL)}%"
        of_client = and_(label.c.client_uuid == client.c.uuid, label.c.value.ilike(pattern, escape="\\"))
        columns = (client.c.name, client.c.note, client.c.uuid)
        found.append(or_(*(column.ilike(pattern, escape="\\") for column in columns), exists().where(of_client)))
    return found
