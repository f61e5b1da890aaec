"""Opens each night of each schedule once, and ends it with a report; a night that nobody could open is missed.

All that is decided of a night is in one transaction: its row, its members, their commands. The keys of the tables make
it once: killed in between, it is as if nobody had looked.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.controller import calendar, orders, recurrence, report, selection
from infoscreen_reboot.controller.calendar import Night, NightState, Plan, Turn
from infoscreen_reboot.controller.lifecycle import Limits
from infoscreen_reboot.controller.orders import Caller, House, Wish
from infoscreen_reboot.controller.report import Member, Outcome
from infoscreen_reboot.controller.store import batches, notices, people, sites
from infoscreen_reboot.controller.store import schedules as store
from infoscreen_reboot.controller.store.commands import Change
from infoscreen_reboot.controller.store.database import Row, Transaction
from infoscreen_reboot.controller.store.notices import Kind
from infoscreen_reboot.controller.store.schedules import Made

log = logging.getLogger(__name__)

_LOOK_EVERY = timedelta(seconds=1)
# How often it is written down until when somebody has looked.
_MARK_EVERY = timedelta(minutes=1)
# How many nights without clients one process remembers.
_MOST_EMPTY = 10_000
_AWAY = "the controller was not at work, or did not hear the broker"
# The zone of an occurrence that a person has begun.
RUN = "run"


def plan_of(row: Row | Mapping[str, Any], limits: Limits, since: datetime) -> Plan:
    """What a schedule says about time. Raises ValueError, which names what is wrong with it."""
    return Plan(
        rule=recurrence.parse(row["rule"]),
        start=time.fromisoformat(row["start"]),
        window=timedelta(minutes=row["window_min"]),
        spread=timedelta(minutes=row["spread_min"]),
        back_by=timedelta(minutes=row["back_by_min"]),
        anchor=date.fromisoformat(row["anchor"]),
        since=since,
        takes=limits.down + limits.word + limits.back,
    )


@dataclass(slots=True)
class _Whom:
    """Whom a schedule means now, by zone; read when the first of its nights needs it."""

    row: Row
    house: House
    _found: dict[str, list[str]] | None = None

    def by_zone(self, tx: Transaction) -> dict[str, list[str]]:
        if self._found is None:
            self._found = clients_by_zone(tx, self.row["selector"], self.row["zone"], self.house)
        return self._found


def clients_by_zone(tx: Transaction, selector: str, zone: str | None, house: House) -> dict[str, list[str]]:
    """The clients that a selector means, under the name of their zone, or all under `zone`. Raises SelectorError."""
    labels = batches.selected_labels(tx, selection.parse(selector))
    if zone is not None:
        return {zone: list(labels)} if labels else {}
    of_sites = sites.zones(tx)
    found: dict[str, list[str]] = {}
    for uuid, of_client in labels.items():
        found.setdefault(calendar.zone_of(of_client, of_sites, house.zone), []).append(uuid)
    return found


class Schedules:
    """A plan of the engine."""

    def __init__(self, house: House, limits: Limits) -> None:
        self._house = house
        self._limits = limits
        self._looked_at: datetime | None = None
        self._marked_at: datetime | None = None
        self._empty: set[tuple[str, str, str, int]] = set()

    def step(self, tx: Transaction, changes: Sequence[Change]) -> None:
        if self._looked_at is not None and self._looked_at <= tx.now < self._looked_at + _LOOK_EVERY:
            return
        self._looked_at = tx.now
        self._look(tx)
        for row in store.running(tx):
            self._end(tx, row)

    def _look(self, tx: Transaction) -> None:
        rows = store.living(tx)
        if not rows:
            return
        ids = [row["id"] for row in rows]
        skips = store.skips(tx, ids)
        since = min([tx.now, *(row["looked_at"] for row in rows)])
        decided = store.decided(tx, ids, since - timedelta(days=1))
        own = self._zones(tx) if any(row["zone"] is None for row in rows) else []
        for row in rows:
            self._look_at(tx, row, [row["zone"]] if row["zone"] is not None else own, skips[row["id"]], decided)
        if self._marked_at is None or not self._marked_at <= tx.now < self._marked_at + _MARK_EVERY:
            self._marked_at = tx.now
            store.looked(tx)

    def _zones(self, tx: Transaction) -> list[str]:
        """Each zone that a client may have."""
        named = {*sites.values_of(tx, calendar.ZONE_LABEL), *sites.zones(tx).values(), self._house.zone}
        return sorted(named)

    def _look_at(
        self,
        tx: Transaction,
        row: Row,
        zones: Sequence[str],
        skips: Mapping[date, str],
        decided: set[tuple[str, str, str]],
    ) -> None:
        try:
            plan = plan_of(row, self._limits, row["changed_at"])
            selection.parse(row["selector"])
        except ValueError as error:  # it was written by another version
            log.error("cannot follow schedule %s: %s", row["name"], error)
            return
        whom = _Whom(row, self._house)
        missed: list[Night] = []
        for name in zones:
            for night in calendar.begun(plan, self._reckoned(name), row["looked_at"], tx.now, name):
                key = row["id"], night.day.isoformat(), name
                if key in decided or (*key, row["version"]) in self._empty:
                    continue
                is_paused = row["paused_at"] is not None
                turn = calendar.turn_of(night, tx.now, is_paused=is_paused, skips=skips)
                if turn is None:
                    continue
                uuids = self._members(tx, row, night, whom)
                if not uuids:
                    self._forget(row, night)
                elif turn is Turn.LEFT_OUT:
                    by = skips.get(night.day) or row["paused_by"]
                    self._settle(tx, row, night, turn, f"skipped by {by}" if night.day in skips else f"paused by {by}")
                elif turn is Turn.PASSED:
                    self._settle(tx, row, night, turn, _AWAY)
                    missed.append(night)
                elif calendar.known(name) is None:
                    self._refuse(tx, row, night, uuids)
                else:
                    self._open(tx, row, plan, night, uuids)
        if missed:
            _tell_missed(tx, row, missed)

    def _reckoned(self, name: str) -> ZoneInfo:
        """In a zone that nobody knows, a night is where it is in the fleet's."""
        return calendar.known(name) or calendar.known(self._house.zone) or ZoneInfo("UTC")

    def _members(self, tx: Transaction, row: Row, night: Night, whom: _Whom) -> list[str]:
        uuids = whom.by_zone(tx).get(night.zone, [])
        if not uuids:
            return []
        taken = store.taken(tx, row["id"], night.day.isoformat())
        return [uuid for uuid in uuids if uuid not in taken]

    def _forget(self, row: Row, night: Night) -> None:
        """Nobody was there when it began: whoever comes later waits for the next one."""
        if len(self._empty) >= _MOST_EMPTY:
            self._empty.clear()
        self._empty.add((row["id"], night.day.isoformat(), night.zone, row["version"]))

    def _settle(
        self,
        tx: Transaction,
        row: Row,
        night: Night,
        turn: Turn,
        words: str,
        kept: Mapping[str, Any] | None = None,
    ) -> str:
        state = calendar.turned(NightState.DUE, turn)
        log.info("%s is %s: %s", _called(row["name"], night), state, words)
        return store.add_night(tx, Made(row["id"], night.day.isoformat(), night, state, words, report=kept))

    def _refuse(self, tx: Transaction, row: Row, night: Night, uuids: Sequence[str]) -> None:
        """Its clients have no time of day: they are left out, by name."""
        words = f"the system's tzdata has no zone {night.zone!r}"
        members = [Member(uuid, name, site, skipped=words) for uuid, name, site in store.sites_and_names(tx, uuids)]
        kept = report.content([report.line(member, night.back_by) for member in members])
        night_id = self._settle(tx, row, night, Turn.PASSED, words, kept)
        sentence = f"{_called(row['name'], night)} was missed: {words}"
        notices.tell(tx, Kind.MISSED, f"night/{night_id}", sentence, {"schedule": row["name"], "clients": len(uuids)})

    def _open(self, tx: Transaction, row: Row, plan: Plan, night: Night, uuids: Sequence[str]) -> None:
        occurrence = night.day.isoformat()
        elsewhere = store.in_others(tx, row["id"], night, uuids)
        begin = max(night.starts_at, tx.now)
        spread = min(plan.spread, night.ends_at - begin)
        turns = {
            uuid: calendar.member_turn(row["id"], occurrence, uuid, begin, spread)
            for uuid in uuids
            if uuid not in elsewhere
        }
        batch_id = None
        if turns:
            wish = Wish(
                Action(row["action"]),
                f"schedule {row['name']}",
                night.ends_at,
                idempotency_key=f"{row['id']}/{occurrence}/{night.zone}",
            )
            caller = _caller(row)
            batch_id = orders.order_planned(tx, caller, wish, turns, self._house)
            about = {"clients": len(turns), "night": occurrence, "zone": night.zone}
            people.note(tx, caller.name, caller.via, None, f"batch {row['action']}", batch_id, "made", about)
        state = calendar.turned(NightState.DUE, Turn.OPENED)
        night_id = store.add_night(tx, Made(row["id"], occurrence, night, state, batch_id=batch_id))
        skipped = {uuid: f"it is in the schedule {name} tonight" for uuid, name in elsewhere.items()}
        store.add_members(tx, row["id"], occurrence, night_id, batch_id, skipped)
        log.info("%s has begun: %d clients, %d left out", _called(row["name"], night), len(turns), len(skipped))
        if turns:
            back_by = night.back_by.astimezone(self._reckoned(night.zone))
            words = f"{_called(row['name'], night)} has begun: {len(turns)} clients, all back by {back_by:%H:%M} there"
            content = {"schedule": row["name"], "occurrence": occurrence, "zone": night.zone, "clients": len(turns)}
            notices.tell(tx, Kind.STARTED, f"night/{night_id}", words, content)

    def _end(self, tx: Transaction, row: Row) -> None:
        """When every command has its verdict, and whoever is missing has had all the time that was said."""
        if store.is_open(tx, row["batch_id"]):
            return
        may_come = not all(report.is_settled(record) for record in store.overdue(tx, row["batch_id"]))
        if may_come and tx.now < row["back_by"]:
            return
        members = store.members(tx, row["id"])
        kept = report.content([report.line(member, row["back_by"]) for member in members])
        words = report.in_words(kept["counts"])
        state = calendar.turned(NightState(row["state"]), Turn.CLOSED)
        store.end_night(tx, row["id"], state, words, kept)
        sentence = f"{called(row)}: {words}"
        log.info("%s", sentence)
        content = {"schedule": row["name"], "occurrence": row["occurrence"], "zone": row["zone"]}
        content |= {"counts": kept["counts"], "missing": report.named(kept, Outcome.NOT_BACK)}
        notices.tell(tx, Kind.FINISHED, f"night/{row['id']}", sentence, content)


def _caller(row: Row) -> Caller:
    return Caller(f"schedule {row['name']}", "schedule")


def called(row: Row) -> str:
    """How a night is called in a sentence."""
    if row["zone"] == RUN:
        return f"Schedule {row['name']}, {row['occurrence']}"
    return f"Schedule {row['name']}, night of {row['occurrence']} in {row['zone']}"


def _called(name: str, night: Night) -> str:
    return f"Schedule {name}, night of {night.day.isoformat()} in {night.zone}"


def _tell_missed(tx: Transaction, row: Row, missed: Sequence[Night]) -> None:
    """One message, however many there are."""
    days = sorted({night.day.isoformat() for night in missed})
    zones = sorted({night.zone for night in missed})
    when = f"the night of {days[0]}" if len(days) == 1 else f"{len(days)} nights from {days[0]} to {days[-1]}"
    verb = "was" if len(days) == 1 else "were"
    sentence = f"Schedule {row['name']}: {when} in {', '.join(zones)} {verb} missed, because {_AWAY}"
    content = {"schedule": row["name"], "days": days[-100:], "zones": zones}
    notices.tell(tx, Kind.MISSED, f"schedule/{row['id']}", sentence, content)


# --- What people ask for


@dataclass(frozen=True, slots=True)
class Forecast:
    """The next nights in one zone, each with how the clocks change in it, and who has taken it out."""

    zone: str
    clients: int
    fault: str | None
    nights: tuple[tuple[Night, str | None, str | None], ...]


def forecast(
    tx: Transaction,
    row: Row | Mapping[str, Any],
    skips: Mapping[date, str],
    house: House,
    limits: Limits,
    count: int,
) -> list[Forecast]:
    """In each zone that a client of the schedule has now. Raises ValueError."""
    plan = plan_of(row, limits, tx.now)
    found = []
    for name, uuids in sorted(clients_by_zone(tx, row["selector"], row["zone"], house).items()):
        zone = calendar.known(name)
        if zone is None:
            found.append(Forecast(name, len(uuids), f"the system's tzdata has no zone {name!r}", ()))
            continue
        following = calendar.following(plan, zone, tx.now, count)
        nights = tuple((each, calendar.clock_change(*each.span, zone), skips.get(each.day)) for each in following)
        found.append(Forecast(name, len(uuids), None, nights))
    return found


def wish_of(tx: Transaction, row: Row, key: str | None = None) -> Wish:
    """What a person asks for who runs it now: as in a night that begins now, all at once."""
    window = min(timedelta(minutes=row["window_min"]), orders.LONGEST_WAIT)
    return Wish(Action(row["action"]), f"schedule {row['name']}", tx.now + window, idempotency_key=key)


def run_now(
    tx: Transaction,
    caller: Caller,
    row: Row,
    uuids: Sequence[str],
    seen: tuple[str, int | None],
    house: House,
    key: str | None,
) -> tuple[Row, bool]:
    """An occurrence of its own, from a preview as for any batch: `seen` is its hash and the count that was typed.

    Returns the night and whether it is new. Raises orders.Refused.
    """
    wish = wish_of(tx, row, key)
    known = batches.known(tx, caller.name, key)
    if known is not None:
        wish = replace(wish, wait_until=known["wait_until"])
    held = orders.preview(tx, caller, wish, uuids, house).held if known is None else {}
    batch_id, is_new = orders.order_many(tx, caller, wish, uuids, seen[0], seen[1], house)
    if is_new:
        occurrence = f"run {tx.now.astimezone(UTC).isoformat(timespec='milliseconds')}"
        back_by = tx.now + timedelta(minutes=row["back_by_min"])
        night = Night(tx.now.date(), RUN, tx.now, wish.wait_until or back_by, back_by)
        made = Made(row["id"], occurrence, night, NightState.RUNNING, batch_id=batch_id)
        night_id = store.add_night(tx, made)
        skipped = {uuid: answer.hold or answer.rule for uuid, answer in held.items() if not answer.can_wait}
        store.add_members(tx, row["id"], occurrence, night_id, batch_id, skipped)
    found = store.night_of_batch(tx, batch_id)
    if found is None:
        raise orders.Refused(orders.Kind.KEY_USED_OTHERWISE, f"batch {batch_id} is of no schedule")
    return found, is_new
