"""How long the hosts of a batch or of a rollout took to come back: counted from the rows, each time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from sqlalchemy import BigInteger, ColumnElement, and_, case, func, select, type_coerce

from infoscreen_reboot.contract.ack import AckStatus
from infoscreen_reboot.controller.lifecycle import VERDICT_RANK, State, Step
from infoscreen_reboot.controller.store.database import Transaction
from infoscreen_reboot.controller.store.tables import command, rollout_member

SLOT_S = 15
# From here on they are counted together.
LAST_SLOT = 10


@dataclass(frozen=True, slots=True)
class Reconnects:
    """From `execution_started` to "back on MQTT", by the number of the slot. Whoever came back after the verdict did
    so when it said `completed`. A host that did not go down at all is not counted.
    """

    slots: Counter[int]
    not_back: int
    on_the_way: int


def of_batch(tx: Transaction, batch_id: str) -> Reconnects:
    return _counted(tx, command.c.batch_id == batch_id)


def of_rollout(tx: Transaction, rollout_id: str) -> Reconnects:
    of_it = select(rollout_member.c.command_id).where(rollout_member.c.rollout_id == rollout_id)
    return _counted(tx, command.c.id.in_(of_it))


def _counted(tx: Transaction, which: ColumnElement[bool]) -> Reconnects:
    late_at = case((command.c.late == AckStatus.COMPLETED, command.c.late_at))
    back_at = type_coerce(func.coalesce(command.c.back_at, late_at), BigInteger)
    slot = ((back_at - type_coerce(command.c.started_at, BigInteger)) // (SLOT_S * 1_000_000)).label("slot")
    is_lost = and_(command.c.state == State.TIMED_OUT, command.c.overdue == Step.BACK)
    became = case((command.c.rank < VERDICT_RANK, "on the way"), (is_lost, "not back")).label("became")
    query = select(slot, became, func.count()).where(which, command.c.started_at.is_not(None))
    slots: Counter[int] = Counter()
    others: Counter[str | None] = Counter()
    for number, name, count in tx.db.execute(query.group_by("slot", "became")):
        if number is None:
            others[name] += count
        else:
            slots[min(number, LAST_SLOT)] += count
    return Reconnects(slots, others["not back"], others["on the way"])
