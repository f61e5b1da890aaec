"""Ports that feed clients, and their power cycles: asked for, moved on step by step, and what is owed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import and_, delete, insert, inspect, or_, select, update

from infoscreen_reboot.controller.lifecycle import VERDICT_RANK
from infoscreen_reboot.controller.power import cycle
from infoscreen_reboot.controller.power.cycle import CYCLES_WITHIN, ENDED, MAY_BE_OFF, Asked, State, Step
from infoscreen_reboot.controller.power.port import Backend, Known, Port
from infoscreen_reboot.controller.safety import Standing
from infoscreen_reboot.controller.store import facts, notices
from infoscreen_reboot.controller.store.bulk import among
from infoscreen_reboot.controller.store.commands import shown
from infoscreen_reboot.controller.store.database import Row, Transaction
from infoscreen_reboot.controller.store.tables import client, command, event, label, power_cycle, power_port

# When a state was entered.
_ENTERED = {State.OWED: "owed_at", State.OFF: "off_at", State.ON: "on_at"}
_RETIRED = select(client.c.uuid).where(client.c.standing == Standing.RETIRED)


def is_there(tx: Transaction) -> bool:
    """Whether the database knows of ports: one of an older version does not."""
    return inspect(tx.db).has_table(power_cycle.name)


# --- Ports


def port_in(row: Row) -> Port:
    """The port that a row is about, of either table."""
    return Port(row["switch"], row["port"], row["address"], row["profile"], Backend(row["backend"]))


def _columns(port: Port) -> dict[str, Any]:
    return {
        "switch": port.switch,
        "address": port.address,
        "port": port.port,
        "profile": port.profile,
        "backend": str(port.backend),
    }


def port_of(tx: Transaction, client_uuid: str) -> Port | None:
    row = tx.db.execute(select(power_port).where(power_port.c.client_uuid == client_uuid)).mappings().one_or_none()
    return port_in(row) if row is not None else None


def port_rows(tx: Transaction, client_uuid: str | None = None) -> list[Row]:
    """Of all clients, or of one, each with its client's name; in the order of their places."""
    query = select(power_port, client.c.name).join(client, client.c.uuid == power_port.c.client_uuid)
    if client_uuid is not None:
        query = query.where(power_port.c.client_uuid == client_uuid)
    return list(tx.db.execute(query.order_by(power_port.c.switch, power_port.c.port)).mappings())


def known(tx: Transaction) -> Known:
    """What a list of ports is compared with. A retired client has no name that anybody can mean."""
    standing = client.c.standing != Standing.RETIRED
    names = {row.uuid: row.name for row in tx.db.execute(select(client.c.uuid, client.c.name).where(standing))}
    rows = tx.db.execute(select(power_port)).mappings()
    return Known(names, {row["client_uuid"]: port_in(row) for row in rows if row["client_uuid"] in names})


def feeds(tx: Transaction, place: str) -> str | None:
    """Whom a port feeds. The place of a retired client is free."""
    fed = and_(power_port.c.place == place, power_port.c.client_uuid.not_in(_RETIRED))
    query = select(power_port.c.client_uuid).where(fed)
    return tx.db.execute(query).scalar_one_or_none()


def put_port(tx: Transaction, client_uuid: str, port: Port, by: str) -> None:
    """What was there before is replaced. A power cycle that is under way goes on with the port that it began with."""
    put_ports(tx, [(client_uuid, port)], by)


def put_ports(tx: Transaction, ports: Sequence[tuple[str, Port]], by: str) -> None:
    """All at once: two clients may exchange their ports."""
    for client_uuid, _ in ports:
        remove_port(tx, client_uuid)
    places = among(tx, power_port.c.place, [port.place for _, port in ports])
    tx.db.execute(delete(power_port).where(places, power_port.c.client_uuid.in_(_RETIRED)))
    rows = [
        {"client_uuid": uuid, "place": port.place, "changed_at": tx.now, "changed_by": by, **_columns(port)}
        for uuid, port in ports
    ]
    if rows:
        tx.db.execute(insert(power_port), rows)


def remove_port(tx: Transaction, client_uuid: str) -> bool:
    """Returns False if there was none."""
    return tx.db.execute(delete(power_port).where(power_port.c.client_uuid == client_uuid)).rowcount == 1


# --- Cycles


def refusal(
    tx: Transaction, client_uuid: str, is_online_anyway: bool = False, without: int | None = None
) -> tuple[str, str] | None:
    """Which rule speaks against a power cycle now, and in which words; `without` is the cycle that is asked about."""
    found = tx.db.execute(select(client).where(client.c.uuid == client_uuid)).mappings().one_or_none()
    is_going = or_(command.c.sent_at.is_not(None), command.c.hold_rule.is_(None))
    going = and_(command.c.client_uuid == client_uuid, command.c.rank < VERDICT_RANK, is_going)
    others = and_(power_cycle.c.client_uuid == client_uuid, power_cycle.c.id != (without or 0))
    is_open = and_(others, power_cycle.c.ended_at.is_(None))
    owed_at = select(power_cycle.c.owed_at).where(others, power_cycle.c.owed_at > tx.now - CYCLES_WITHIN)
    frozen = facts.freezes(tx)
    return cycle.refusal(
        Asked(
            now=tx.now,
            port=port_of(tx, client_uuid),
            is_accepted=found is not None and found["standing"] == Standing.ACCEPTED,
            is_online=found is not None and found["is_online"],
            is_online_anyway=is_online_anyway,
            open_command_id=tx.db.execute(select(command.c.id).where(going).limit(1)).scalar_one_or_none(),
            open_cycle_id=tx.db.execute(select(power_cycle.c.id).where(is_open)).scalar_one_or_none(),
            freeze=frozen[0].why if frozen else None,
            cycled_at=tuple(tx.db.execute(owed_at).scalars()),
        )
    )


def request(tx: Transaction, client_uuid: str, by: str, why: str | None, is_online_anyway: bool = False) -> int | None:
    """Ask for a power cycle of the client's port; returns its number, or None if a rule refuses it."""
    if refusal(tx, client_uuid, is_online_anyway) is not None:
        return None
    port = port_of(tx, client_uuid)
    assert port is not None  # a rule says so
    values = {
        "client_uuid": client_uuid,
        "requested_at": tx.now,
        "requested_by": by,
        "why": why,
        "is_online_anyway": is_online_anyway,
        "state": str(State.REQUESTED),
        **_columns(port),
    }
    made = tx.db.execute(insert(power_cycle).values(**values).returning(power_cycle.c.id)).scalar_one()
    row = _row(tx, made)
    _tell(tx, row, f"power_{State.REQUESTED}", {"by": by, "why": why})
    return int(made)


def outcome(tx: Transaction, cycle_id: int) -> tuple[str, str] | None:
    """`done` or `failed`, and why; None while it is under way. A cycle that is not there any more has failed."""
    row = cycle_of(tx, cycle_id)
    if row is None:
        return str(State.FAILED), "this power cycle is not known any more"
    return (row["state"], row["words"] or "") if row["state"] in ENDED else None


def cycle_of(tx: Transaction, cycle_id: int) -> Row | None:
    return tx.db.execute(select(power_cycle).where(power_cycle.c.id == cycle_id)).mappings().one_or_none()


def _row(tx: Transaction, cycle_id: int) -> Row:
    return tx.db.execute(select(power_cycle).where(power_cycle.c.id == cycle_id)).mappings().one()


def cycles(
    tx: Transaction, limit: int, before: int | None = None, client_uuid: str | None = None, *, is_held_off: bool = False
) -> list[Row]:
    """The newest first, up to the one of that number."""
    query = select(power_cycle)
    if is_held_off:
        query = query.where(power_cycle.c.id.in_([row["id"] for row in held_off(tx)]))
    if before is not None:
        query = query.where(power_cycle.c.id < before)
    if client_uuid is not None:
        query = query.where(power_cycle.c.client_uuid == client_uuid)
    return list(tx.db.execute(query.order_by(power_cycle.c.id.desc()).limit(limit)).mappings())


def under_way(tx: Transaction) -> list[Row]:
    """All that have not ended, the oldest first."""
    query = select(power_cycle).where(power_cycle.c.ended_at.is_(None)).order_by(power_cycle.c.id)
    return list(tx.db.execute(query).mappings())


def owed(tx: Transaction) -> list[Row]:
    """Cycles whose port may be off, and has to be on again."""
    return [row for row in under_way(tx) if row["state"] in MAY_BE_OFF]


def held_off(tx: Transaction) -> list[Row]:
    """Cycles whose port should be on again by now."""
    return [row for row in under_way(tx) if cycle.is_held_off(State(row["state"]), row["must_be_on_by"], tx.now)]


def move(
    tx: Transaction, cycle_id: int, step: Step, words: str | None = None, must_be_on_by: datetime | None = None
) -> State | None:
    """The state after this step; None if it changes nothing: somebody else has moved it on."""
    row = cycle_of(tx, cycle_id)
    to = cycle.after(State(row["state"]), step) if row is not None else None
    if row is None or to is None:
        return None
    values: dict[str, Any] = {"state": str(to)}
    if to in _ENTERED and row[_ENTERED[to]] is None:
        values[_ENTERED[to]] = tx.now
    if to in ENDED:
        values["ended_at"] = tx.now
    if words is not None:
        values["words"] = words
    if must_be_on_by is not None:
        values["must_be_on_by"] = must_be_on_by
    tx.db.execute(update(power_cycle).where(power_cycle.c.id == cycle_id).values(**values))
    _tell(tx, row, f"power_{to}", {"words": words})
    if row["told_at"] is not None and step is Step.SEE_ON:
        _tell(tx, row, "power_restored", {"attempts": row["attempts"]})
    return to


def note_off(tx: Transaction, cycle_id: int) -> None:
    """It was seen off by somebody who cannot say yet that it stays on."""
    is_unseen = and_(power_cycle.c.id == cycle_id, power_cycle.c.off_at.is_(None))
    tx.db.execute(update(power_cycle).where(is_unseen).values(off_at=tx.now))


def fail(tx: Transaction, cycle_id: int, words: str) -> None:
    """It could not be switched on again. People are told once, when it should be on."""
    row = cycle_of(tx, cycle_id)
    if row is None or row["state"] not in MAY_BE_OFF:
        return
    is_held = cycle.is_held_off(State(row["state"]), row["must_be_on_by"], tx.now)
    told_at = tx.now if is_held and row["told_at"] is None else row["told_at"]
    values = {"attempts": row["attempts"] + 1, "words": words, "told_at": told_at}
    tx.db.execute(update(power_cycle).where(power_cycle.c.id == cycle_id).values(**values))
    if is_held and row["told_at"] is None:
        _tell(tx, row, "power_held_off", {"words": words})
        subject = f"client/{row['client_uuid']}"
        said = f"{port_in(row)} was switched off, and cannot be switched on again: {words}"
        content = {
            "cycle_id": cycle_id,
            "client_uuid": row["client_uuid"],
            "switch": row["switch"],
            "port": row["port"],
        }
        notices.tell(tx, notices.Kind.PORTS_OFF, subject, said, content, _site(tx, row["client_uuid"]))


def _site(tx: Transaction, client_uuid: str) -> str | None:
    of_client = and_(label.c.client_uuid == client_uuid, label.c.key == "site")
    return tx.db.execute(select(label.c.value).where(of_client)).scalar_one_or_none()


def _tell(tx: Transaction, row: Row, kind: str, content: dict[str, Any]) -> None:
    about = {"cycle_id": row["id"], "switch": row["switch"], "port": row["port"]}
    said = shown(about | {name: value for name, value in content.items() if value is not None})
    tx.db.execute(insert(event).values(at=tx.now, kind=kind, client_uuid=row["client_uuid"], content=said))
