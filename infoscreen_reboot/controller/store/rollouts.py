"""Rollouts with their stages and members: whose command is on its way, and what was counted of it, once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, insert, or_, select, update

from infoscreen_reboot.controller import rollout as rules
from infoscreen_reboot.controller.brake import Count, Sample
from infoscreen_reboot.controller.lifecycle import VERDICT_RANK
from infoscreen_reboot.controller.rollout import OVER, Record, State
from infoscreen_reboot.controller.stages import Dealt
from infoscreen_reboot.controller.store import views
from infoscreen_reboot.controller.store.bulk import among, insert_many
from infoscreen_reboot.controller.store.commands import shown
from infoscreen_reboot.controller.store.database import Row, Transaction
from infoscreen_reboot.controller.store.tables import (
    alert,
    batch_member,
    boot,
    client,
    command,
    event,
    rollout,
    rollout_batch,
    rollout_member,
    rollout_stage,
)

# In place of a state, of a member that has no command now.
WAITING = "waiting"
_FIELDS = tuple(field.name for field in fields(Record))
_is_awaited = and_(rollout_member.c.command_id.is_not(None), rollout_member.c.verdict.is_(None))


def recovery_is_off(tx: Transaction, client_uuid: str) -> bool:
    """Whether the client is in a rollout that the brake has stopped, and nobody has allowed its recovery since."""
    query = select(rollout.c.id).join(rollout_member, rollout_member.c.rollout_id == rollout.c.id)
    query = query.where(rollout_member.c.client_uuid == client_uuid, rollout.c.recovery_off).limit(1)
    return tx.db.execute(query).first() is not None


# --- The rollout itself


def create(tx: Transaction, rollout_id: str, values: Mapping[str, Any], record: Record, dealt: Sequence[Dealt]) -> None:
    known = {name: getattr(record, name) for name in _FIELDS}
    tx.db.execute(insert(rollout).values(id=rollout_id, **values, **known))
    stages = [{"rollout_id": rollout_id, "number": number, "name": each.name} for number, each in _numbered(dealt)]
    tx.db.execute(insert(rollout_stage), stages)
    members = [
        {"rollout_id": rollout_id, "client_uuid": uuid, "stage": number, "position": position}
        for number, each in _numbered(dealt)
        for position, uuid in enumerate(each.clients)
    ]
    insert_many(tx, rollout_member, members)
    _tell(tx, rollout_id, record, values["created_by"])


def _numbered(dealt: Sequence[Dealt]) -> list[tuple[int, Dealt]]:
    return list(enumerate(dealt, start=1))


def found(tx: Transaction, rollout_id: str) -> Row | None:
    return tx.db.execute(select(rollout).where(rollout.c.id == rollout_id)).mappings().one_or_none()


def known(tx: Transaction, by: str, key: str | None) -> Row | None:
    """The rollout that an earlier request with the same key of this caller has made."""
    if key is None:
        return None
    of_caller = and_(rollout.c.created_by == by, rollout.c.idempotency_key == key)
    return tx.db.execute(select(rollout).where(of_caller)).mappings().one_or_none()


def record_of(row: Row) -> Record:
    stored = {name: row[name] for name in _FIELDS}
    return Record(**(stored | {"state": State(stored["state"])}))


def learn(tx: Transaction, rollout_id: str, record: Record, fact: rules.Fact) -> Record:
    """The record after `fact`, which is stored, and told as an event if its state is another one."""
    after = rules.learn(record, fact)
    if after == record:
        return record
    values = {name: getattr(after, name) for name in _FIELDS}
    tx.db.execute(update(rollout).where(rollout.c.id == rollout_id).values(**values))
    if after.state is record.state:
        return after
    _tell(tx, rollout_id, after, after.changed_by)
    if after.stage != record.stage or after.state is State.SETTLING:
        column = "began_at" if after.stage != record.stage else "ended_at"
        which = and_(rollout_stage.c.rollout_id == rollout_id, rollout_stage.c.number == after.stage)
        tx.db.execute(update(rollout_stage).where(which).values({column: tx.now}))
    return after


def _tell(tx: Transaction, rollout_id: str, record: Record, by: str | None) -> None:
    content = shown({"rollout_id": rollout_id, "stage": record.stage, "why": record.why, "by": by})
    tx.db.execute(insert(event).values(at=tx.now, kind=f"rollout_{record.state}", content=content))


def going(tx: Transaction) -> list[Row]:
    """Those that time or a verdict may move on, and those that still wait for a verdict after their end."""
    awaited = select(rollout_member.c.rollout_id).where(_is_awaited)
    query = select(rollout).where(or_(rollout.c.state.not_in(OVER), rollout.c.id.in_(awaited)))
    return list(tx.db.execute(query.order_by(rollout.c.created_at, rollout.c.id)).mappings())


def page(tx: Transaction, limit: int, cursor: str | None, is_open: bool | None = None) -> tuple[list[Row], str | None]:
    """The newest first, of all or only of those that are not over, or are.

    Raises ValueError for a cursor that is none of ours.
    """
    state = rollout.c.state
    where = {None: None, True: state.not_in(OVER), False: state.in_(OVER)}[is_open]
    return views.newest_first(tx, rollout, limit, cursor, where)


def stages_of(tx: Transaction, rollout_id: str) -> list[Row]:
    of_it = rollout_stage.c.rollout_id == rollout_id
    return list(tx.db.execute(select(rollout_stage).where(of_it).order_by(rollout_stage.c.number)).mappings())


def batches_of(tx: Transaction, rollout_id: str) -> list[Row]:
    """The batches that were made for it, by stage and run."""
    of_it = rollout_batch.c.rollout_id == rollout_id
    query = select(rollout_batch).where(of_it).order_by(rollout_batch.c.stage, rollout_batch.c.run)
    return list(tx.db.execute(query).mappings())


# --- Its members


@dataclass(frozen=True, slots=True)
class Ended:
    """A member whose command has its verdict now."""

    client_uuid: str
    command: Row


def to_give_out(tx: Transaction, rollout_id: str, stage: int) -> list[str]:
    """The clients of a stage that have no command, in their order."""
    where = and_(
        rollout_member.c.rollout_id == rollout_id,
        rollout_member.c.stage == stage,
        rollout_member.c.command_id.is_(None),
        rollout_member.c.verdict.is_(None),
    )
    query = select(rollout_member.c.client_uuid).where(where).order_by(rollout_member.c.position)
    return list(tx.db.execute(query).scalars())


def give_out(tx: Transaction, rollout_id: str, stage: int, run: int, batch_id: str, uuids: Sequence[str]) -> list[str]:
    """Note the commands of a batch as those of these members; returns the clients for which none was made."""
    made = {"rollout_id": rollout_id, "stage": stage, "run": run, "batch_id": batch_id}
    tx.db.execute(insert(rollout_batch).values(**made))
    given = select(batch_member.c.command_id).where(
        batch_member.c.batch_id == batch_id, batch_member.c.client_uuid == rollout_member.c.client_uuid
    )
    of_them = and_(rollout_member.c.rollout_id == rollout_id, among(tx, rollout_member.c.client_uuid, uuids))
    tx.db.execute(
        update(rollout_member).where(of_them).values(command_id=given.correlate(rollout_member).scalar_subquery())
    )
    without = select(rollout_member.c.client_uuid).where(of_them, rollout_member.c.command_id.is_(None))
    return list(tx.db.execute(without).scalars())


def ended(tx: Transaction, rollout_id: str) -> list[Ended]:
    """Members whose command has a verdict that was not counted yet."""
    query = select(command).join(rollout_member, rollout_member.c.command_id == command.c.id)
    query = query.where(rollout_member.c.rollout_id == rollout_id, _is_awaited, command.c.rank == VERDICT_RANK)
    return [Ended(row["client_uuid"], row) for row in tx.db.execute(query).mappings()]


def count(tx: Transaction, rollout_id: str, uuids: Sequence[str], verdict: str, counted: Count, run: int) -> None:
    """Write down what came of these members. It is done once: what has a verdict keeps it."""
    which = and_(
        rollout_member.c.rollout_id == rollout_id,
        rollout_member.c.verdict.is_(None),
        among(tx, rollout_member.c.client_uuid, uuids),
    )
    values = {"verdict": verdict, "counted": str(counted), "counted_at": tx.now, "run": run}
    tx.db.execute(update(rollout_member).where(which).values(**values))


def sample(tx: Transaction, rollout_id: str, counts_from: int) -> Sample:
    """What the brake judges: the verdicts of the runs from `counts_from` on, and all that have none yet."""
    counts = _counted(tx, rollout_id, rollout_member.c.run >= counts_from)
    failed = counts[Count.FAILED]
    is_left = and_(rollout_member.c.rollout_id == rollout_id, rollout_member.c.verdict.is_(None))
    left = int(tx.db.execute(select(func.count()).select_from(rollout_member).where(is_left)).scalar_one())
    return Sample(failed + counts[Count.RAN], failed, left)


def _counted(tx: Transaction, rollout_id: str, which: ColumnElement[bool]) -> Counter[str]:
    query = select(rollout_member.c.counted, func.count()).where(rollout_member.c.rollout_id == rollout_id, which)
    return Counter({row[0]: row[1] for row in tx.db.execute(query.group_by(rollout_member.c.counted))})


def is_stage_over(tx: Transaction, rollout_id: str, stage: int) -> bool:
    is_open = and_(
        rollout_member.c.rollout_id == rollout_id,
        rollout_member.c.stage == stage,
        rollout_member.c.verdict.is_(None),
    )
    return tx.db.execute(select(rollout_member.c.client_uuid).where(is_open).limit(1)).first() is None


def unsent(tx: Transaction, rollout_id: str) -> list[str]:
    """The commands on their way to members that were not given to the broker."""
    query = select(command.c.id).join(rollout_member, rollout_member.c.command_id == command.c.id)
    is_unsent = and_(command.c.rank < VERDICT_RANK, command.c.sent_at.is_(None))
    return list(tx.db.execute(query.where(rollout_member.c.rollout_id == rollout_id, is_unsent)).scalars())


def take_back(tx: Transaction, command_ids: Sequence[str]) -> None:
    """Their members have no command now: they get another one when the rollout goes on."""
    of_them = and_(among(tx, rollout_member.c.command_id, command_ids), rollout_member.c.verdict.is_(None))
    tx.db.execute(update(rollout_member).where(of_them).values(command_id=None))


def gone_wrong(tx: Transaction, rollout_id: str, stage: int, counts_from: int) -> dict[str, str]:
    """Members of a stage that had completed and are offline now, or have a unit that has failed since; with the words
    for it."""
    has_failed = (
        select(alert.c.id)
        .where(
            alert.c.client_uuid == rollout_member.c.client_uuid,
            alert.c.cleared_at.is_(None),
            alert.c.raised_at >= command.c.created_at,
        )
        .correlate(rollout_member, command)
        .exists()
    )
    query = select(rollout_member.c.client_uuid, client.c.is_online)
    query = query.join(client, client.c.uuid == rollout_member.c.client_uuid)
    query = query.join(command, command.c.id == rollout_member.c.command_id).where(
        rollout_member.c.rollout_id == rollout_id,
        rollout_member.c.stage == stage,
        rollout_member.c.counted == Count.RAN,
        rollout_member.c.run >= counts_from,
        or_(~client.c.is_online, has_failed),
    )
    return {row.client_uuid: "a unit has failed" if row.is_online else "is offline" for row in tx.db.execute(query)}


def note_labels(tx: Transaction, rollout_id: str, before: Mapping[str, Mapping[str, str | None]]) -> None:
    """What the labels were before the rollout has set them, by client."""
    for uuid, labels in before.items():
        of_it = and_(rollout_member.c.rollout_id == rollout_id, rollout_member.c.client_uuid == uuid)
        tx.db.execute(update(rollout_member).where(of_it).values(labels_before=dict(labels)))


def take_labels(tx: Transaction, rollout_id: str) -> dict[str, dict[str, str | None]]:
    """As note_labels has them; they are forgotten with that."""
    has_some = and_(rollout_member.c.rollout_id == rollout_id, rollout_member.c.labels_before.is_not(None))
    query = select(rollout_member.c.client_uuid, rollout_member.c.labels_before).where(has_some)
    before = {row.client_uuid: dict(row.labels_before) for row in tx.db.execute(query)}
    tx.db.execute(update(rollout_member).where(has_some).values(labels_before=None))
    return before


# --- Read


def last_rebooted(tx: Transaction, uuids: Sequence[str]) -> dict[str, datetime | None]:
    """When each client was first heard in its newest boot, as far as that is known."""
    query = select(boot.c.client_uuid, func.max(boot.c.first_heard_at).label("at"))
    query = query.where(among(tx, boot.c.client_uuid, uuids)).group_by(boot.c.client_uuid)
    found: dict[str, datetime | None] = dict.fromkeys(uuids)
    found |= {row.client_uuid: row.at for row in tx.db.execute(query)}
    return found


def states(tx: Transaction, rollout_id: str) -> dict[int, Counter[str]]:
    """How many members of each stage are in each state: counted from the rows, each time."""
    state = _state().label("state")
    query = select(rollout_member.c.stage, state, func.count()).select_from(_with_command())
    query = query.where(rollout_member.c.rollout_id == rollout_id).group_by(rollout_member.c.stage, state)
    found: dict[int, Counter[str]] = {}
    for stage, name, number in tx.db.execute(query):
        found.setdefault(stage, Counter())[name] = number
    return found


def members(
    tx: Transaction, rollout_id: str, stage: int | None = None, counted: Count | None = None, state: str | None = None
) -> list[Row]:
    """In the order of their stages; with `state`, and with the name of the client."""
    columns = rollout_member, _state().label("state"), client.c.name
    columns += (command.c.error_code, command.c.error_message, command.c.overdue, command.c.late)  # type: ignore[assignment]
    joined = _with_command().outerjoin(client, client.c.uuid == rollout_member.c.client_uuid)
    query = select(*columns).select_from(joined).where(rollout_member.c.rollout_id == rollout_id)
    if stage is not None:
        query = query.where(rollout_member.c.stage == stage)
    if counted is not None:
        query = query.where(rollout_member.c.counted == counted)
    if state is not None:
        query = query.where(_state() == state)
    return list(tx.db.execute(query.order_by(rollout_member.c.stage, rollout_member.c.position)).mappings())


def _with_command() -> Any:
    return rollout_member.outerjoin(command, command.c.id == rollout_member.c.command_id)


def _state() -> ColumnElement[str]:
    """A verdict as it was counted, else the state of its command."""
    return case(
        (rollout_member.c.verdict.is_not(None), rollout_member.c.verdict),
        (command.c.state.is_not(None), command.c.state),
        else_=WAITING,
    )
