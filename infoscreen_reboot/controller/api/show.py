"""Rows as the API shows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from infoscreen_reboot.controller import lifecycle
from infoscreen_reboot.controller import rollout as rules
from infoscreen_reboot.controller.api import models
from infoscreen_reboot.controller.brake import Brake
from infoscreen_reboot.controller.condition import LATE_AFTER, LOST_AFTER
from infoscreen_reboot.controller.lifecycle import Limits
from infoscreen_reboot.controller.safety import Answer
from infoscreen_reboot.controller.store import commands, conditions, facts, recoveries, reports, rollouts, views
from infoscreen_reboot.controller.store.database import Row, Transaction
from infoscreen_reboot.controller.store.reconnects import LAST_SLOT, SLOT_S, Reconnects
from infoscreen_reboot.controller.store.reports import Said
from infoscreen_reboot.controller.store.zones import zones_of

_EVIDENCE = [name for name in models.Evidence.model_fields if name != "proof"]


def command(row: Row, fleet: Limits, zones: Mapping[str, str]) -> models.Command:
    """`zones` has the zone of its client."""
    record = commands.record_of(row)
    waits_for = lifecycle.deadline(record, commands.limits_of(row["limits"], fleet))
    hold = None
    if row["hold_rule"] is not None:
        hold = _hold(row["hold_rule"], row["hold_why"], row["hold_opens_at"], zones[row["client_uuid"]])
    return models.Command(
        id=row["id"],
        client_uuid=row["client_uuid"],
        batch_id=row["batch_id"],
        action=record.action,
        state=record.state,
        is_open=not record.state.is_verdict,
        reason=row["reason"],
        created_at=row["created_at"],
        created_by=row["created_by"],
        via=row["via"],
        expires_at=record.expires_at,
        wait_until=row["wait_until"],
        hold=hold,
        waits_for=waits_for[0] if waits_for else None,
        due_at=row["due_at"] if waits_for else None,
        error_code=record.error_code,
        error_message=record.error_message,
        late=record.late,
        evidence=models.Evidence(proof=record.proof, **{name: row[name] for name in _EVIDENCE}),
    )


def reconnects(found: Reconnects) -> models.Reconnects:
    starts = [(number, number * SLOT_S) for number in range(LAST_SLOT + 1)]
    return models.Reconnects(
        late_after_s=int(LATE_AFTER.total_seconds()),
        lost_after_s=int(LOST_AFTER.total_seconds()),
        slots=[
            models.ReconnectSlot(
                from_s=start, to_s=start + SLOT_S if number < LAST_SLOT else None, count=found.slots[number]
            )
            for number, start in starts
        ],
        not_back=found.not_back,
        on_the_way=found.on_the_way,
    )


def event(row: Row) -> models.Event:
    return models.Event(**row)


def hold(answer: Answer, zone: str) -> models.Hold:
    return _hold(answer.rule, answer.hold or "", answer.opens_at, zone)


def _hold(rule: str, why: str, opens_at: datetime | None, zone: str) -> models.Hold:
    return models.Hold(rule=rule, why=why, opens_at=opens_at, opens_at_local=at_client(opens_at, zone), zone=zone)


def at_client(moment: datetime | None, zone: str) -> datetime | None:
    """By the clock where the client is."""
    return None if moment is None else moment.astimezone(ZoneInfo(zone))


def rule(answer: Answer) -> models.Rule:
    return models.Rule(
        rule=answer.rule,
        is_yes=answer.is_yes,
        hold=answer.hold,
        opens_at=answer.opens_at,
        warning=answer.warning,
        inputs=commands.shown(answer.inputs),
    )


def batch(tx: Transaction, row: Row) -> models.Batch:
    return batches(tx, [row])[0]


def batches(tx: Transaction, rows: Sequence[Row]) -> list[models.Batch]:
    states = views.batch_states(tx, [row["id"] for row in rows])
    return [_batch(row, states[row["id"]]) for row in rows]


def _batch(row: Row, states: Mapping[str, int]) -> models.Batch:
    return models.Batch(
        id=row["id"],
        action=row["action"],
        reason=row["reason"],
        created_at=row["created_at"],
        created_by=row["created_by"],
        send_at=row["send_at"],
        states=dict(states),
        is_over=not any(state in lifecycle.OPEN for state in states),
    )


def rollout(tx: Transaction, row: Row) -> models.Rollout:
    of_stage = rollouts.states(tx, row["id"])
    batches_of: dict[int, list[str]] = {}
    for each in rollouts.batches_of(tx, row["id"]):
        batches_of.setdefault(each["stage"], []).append(each["batch_id"])
    sample = rollouts.sample(tx, row["id"], row["counts_from"])
    words = Brake(row["threshold"], row["minimum"]).words(sample)
    names = {"max_failed": "threshold", "minimum_sample": "minimum"}
    ours = set(models.Rollout.model_fields) - {"stages", "states", "brake", "is_over"}
    return models.Rollout(
        **{name: row[names.get(name, name)] for name in ours},
        is_over=rules.State(row["state"]).is_over,
        states=dict(sum(of_stage.values(), Counter[str]())),
        brake=models.RolloutBrake(ran=sample.ran, failed=sample.failed, left=sample.left, words=words),
        stages=[
            models.RolloutStage(
                number=each["number"],
                name=each["name"],
                began_at=each["began_at"],
                ended_at=each["ended_at"],
                states=dict(of_stage.get(each["number"], {})),
                batches=[UUID(batch_id) for batch_id in batches_of.get(each["number"], [])],
            )
            for each in rollouts.stages_of(tx, row["id"])
        ],
    )


def clients(tx: Transaction, rows: Sequence[Row]) -> list[models.Client]:
    uuids = [row["uuid"] for row in rows]
    labels, opened = views.labels_of(tx, uuids), views.open_commands(tx, uuids)
    alerts, lost = views.standing_alerts(tx, uuids), recoveries.open_of(tx, uuids)
    stands = conditions.of(tx, uuids)
    return [
        _client(
            row,
            labels[row["uuid"]],
            stands.get(row["uuid"]),
            opened.get(row["uuid"]),
            lost.get(row["uuid"]),
            alerts.get(row["uuid"], []),
        )
        for row in rows
    ]


def _client(
    row: Row, labels: dict[str, str], condition: Any, opened: Any, recovery: Row | None, alerts: list[str]
) -> models.Client:
    return models.Client(
        uuid=row["uuid"],
        name=row["name"],
        note=row["note"],
        standing=row["standing"],
        labels=labels,
        condition=condition,
        is_online=row["is_online"],
        presence_reason=row["presence_reason"],
        boot_id=row["boot_id"],
        first_heard_at=row["first_heard_at"],
        heard_at=row["heard_at"],
        two_hosts=row["two_hosts_at"] is not None,
        open_command_id=opened,
        recovery_id=recovery["id"] if recovery else None,
        recovery_state=recovery["state"] if recovery else None,
        alerts=alerts,
    )


def fleet_clients(tx: Transaction, rows: Sequence[Row], fleet_zone: str) -> list[models.FleetClient]:
    """With what each has said of itself: for a page of clients, and not for all."""
    uuids = [row["uuid"] for row in rows]
    said, booted = reports.healths(tx, uuids), reports.last_boots(tx, uuids)
    zone_of, with_port = zones_of(tx, uuids, fleet_zone), facts.switched(tx, uuids)
    return [
        models.FleetClient(
            **shown.model_dump(),
            presence_at=row["presence_at"],
            last_boot=_last_boot(booted[row["uuid"]]) if row["uuid"] in booted else None,
            health=_short(said[row["uuid"]]) if row["uuid"] in said else None,
            zone=zone_of[row["uuid"]],
            has_port=row["uuid"] in with_port,
        )
        for row, shown in zip(rows, clients(tx, rows), strict=True)
    ]


def _last_boot(row: Row) -> models.LastBoot:
    report = row["report"] or {}
    return models.LastBoot(
        boot_id=row["boot_id"],
        at=reports.began_at(row),
        cause=report.get("cause"),
        clean_shutdown=report.get("clean_shutdown"),
    )


def _short(said: Said) -> models.ShortHealth:
    content = said.content
    lockout = content["lockout"] or {}
    return models.ShortHealth(
        heard_at=said.heard_at,
        agent_version=content["agent_version"],
        clock_synchronized=content["clock_synchronized"],
        executor=content["executor"],
        lockout_used=lockout.get("used"),
        lockout_limit=lockout.get("limit"),
        unlocks_at=lockout.get("unlocks_at"),
        recovery_tier=content["capabilities"]["recovery_tier"],
        disk_full=content["state"]["disk_full"],
    )


def boot(row: Row) -> models.Boot:
    report = row["report"] or {}
    names = "cause", "clean_shutdown", "command_id", "boot_started_at", "previous_boot_last_seen_at"
    return models.Boot(
        boot_id=row["boot_id"],
        first_heard_at=row["first_heard_at"],
        heard_at=row["heard_at"],
        **{name: report.get(name) for name in names},
    )


def alert(row: Row) -> models.Alert:
    content = row["content"]
    return models.Alert(
        unit=row["unit"],
        raised_at=row["raised_at"],
        cleared_at=row["cleared_at"],
        result=content.get("result"),
        exit_status=content.get("exit_status"),
        restarts=content.get("restarts"),
        log_lines=content.get("last_log_lines", []),
    )
