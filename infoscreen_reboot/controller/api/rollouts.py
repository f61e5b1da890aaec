"""`/rollouts`: many commands in stages, with a brake; what was shown is what is made, or nothing is."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from infoscreen_reboot.controller import orders, rollouts
from infoscreen_reboot.controller.api import models, show
from infoscreen_reboot.controller.api.access import Call, Operator, Viewer
from infoscreen_reboot.controller.api.commands import MADE_BEFORE, Cursor, IdempotencyKey, Limit
from infoscreen_reboot.controller.api.problems import Problem, documented
from infoscreen_reboot.controller.brake import Count
from infoscreen_reboot.controller.orders import Caller
from infoscreen_reboot.controller.rollouts import Terms
from infoscreen_reboot.controller.store import reconnects
from infoscreen_reboot.controller.store import rollouts as stored
from infoscreen_reboot.controller.store.database import Row, Transaction
from infoscreen_reboot.controller.store.zones import zones_of

router = APIRouter(prefix="/rollouts", tags=["rollouts"])

_SAID = documented("not_found", "wrong_state")
_SAID_WITH_WORDS = documented("not_found", "wrong_state", "too_large")


def _terms(call: Call, content: models.RolloutTerms) -> Terms:
    return Terms(
        content.action,
        content.reason,
        content.someone_is_there,
        tuple(content.stages),
        call.site.max_failed if content.max_failed is None else content.max_failed,
        content.minimum_sample,
        timedelta(seconds=content.settle_s),
        timedelta(seconds=content.pause_s),
        timedelta(seconds=content.wait_s),
        dict(content.labels),
    )


@router.post(
    "/preview",
    summary="Preview a rollout",
    responses=documented("no_such_client", "bad_selector", "bad_terms", "too_large"),
)
def preview_rollout(call: Operator, content: models.RolloutPreviewRequest) -> models.RolloutPreview:
    """Who would be in which stage, and which failure would stop it: nothing is made. Say `clients` or `selector`."""
    if (content.clients is None) == (content.selector is None):
        raise Problem("invalid", "say either clients or selector")
    caller = Caller(call.who.name, call.via, call.address, call.who.may_shut_down)
    with call.read() as tx:
        if content.selector is not None:
            uuids = orders.select_clients(tx, content.selector)
        else:
            uuids = sorted({str(uuid) for uuid in content.clients or []})
        plan = rollouts.preview(tx, caller, _terms(call, content), uuids, call.site.house)
        zones = zones_of(tx, plan.shown.held.keys(), call.site.fleet_zone)
    return models.RolloutPreview(
        action=plan.terms.action,
        hash=plan.hash,
        count=plan.shown.count,
        max_failed=plan.terms.max_failed,
        clients=[UUID(uuid) for uuid in uuids],
        stages=[
            models.PlannedStage(name=each.name, clients=[UUID(uuid) for uuid in each.clients], brake=words)
            for each, words in zip(plan.dealt, plan.words(), strict=True)
        ],
        held={uuid: show.hold(answer, zones[uuid]) for uuid, answer in plan.shown.held.items()},
        held_by_rule=dict(Counter(answer.rule for answer in plan.shown.held.values())),
        warnings={uuid: list(words) for uuid, words in plan.shown.warnings.items()},
    )


@router.post(
    "",
    status_code=201,
    summary="Create a rollout",
    responses=documented(
        *("no_such_client", "preview_changed", "count_differs", "nothing_eligible", "bad_terms", "key_used_otherwise"),
        "too_large",
        well={"model": models.Rollout, "description": MADE_BEFORE},
    ),
)
def create_rollout(
    call: Operator, response: Response, content: models.NewRollout, idempotency_key: IdempotencyKey = None
) -> models.Rollout:
    """Make what the preview has shown, with the same terms. It begins after 5 seconds: until then nobody is touched."""
    uuids = [str(uuid) for uuid in content.clients]
    terms = _terms(call, content)
    with call.write() as (tx, caller):
        made, is_new = rollouts.create(
            tx, caller, terms, uuids, content.hash, content.count, idempotency_key, call.site.house
        )
        if is_new:
            call.note(tx, f"rollout {content.action}", made, "made", {"clients": len(uuids), **terms.said()})
        shown = show.rollout(tx, _found(tx, UUID(made)))
    call.site.wake()
    response.status_code = 201 if is_new else 200
    return shown


@router.get("", summary="List rollouts", responses=documented())
def list_rollouts(
    call: Viewer,
    is_open: Annotated[bool | None, Query(alias="open", description="Only those that are not over, or are.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> models.RolloutPage:
    """The newest first."""
    with call.read() as tx:
        try:
            rows, following = stored.page(tx, limit, cursor, is_open)
        except ValueError as error:
            raise Problem("bad_request", str(error)) from None
        return models.RolloutPage(items=[show.rollout(tx, row) for row in rows], next=following)


@router.get("/{rollout_id:uuid}", summary="Read a rollout", responses=documented("not_found"))
def read_rollout(call: Viewer, rollout_id: UUID) -> models.Rollout:
    """Where it is, how many of each stage are in each state, what that proves, and which failure will stop it."""
    with call.read() as tx:
        return show.rollout(tx, _found(tx, rollout_id))


@router.get("/{rollout_id:uuid}/members", summary="List the members of a rollout", responses=documented("not_found"))
def list_rollout_members(
    call: Viewer,
    rollout_id: UUID,
    stage: Annotated[int | None, Query(ge=1, le=1000, description="Only those of the stage with this number.")] = None,
    counted: Annotated[Count | None, Query(description="Only those that the brake counts in this way.")] = None,
) -> list[models.RolloutMember]:
    """Its clients in the order of the stages, with what came of each."""
    with call.read() as tx:
        _found(tx, rollout_id)
        rows = stored.members(tx, str(rollout_id), stage, counted)
    return [models.RolloutMember(**{name: row[name] for name in models.RolloutMember.model_fields}) for row in rows]


@router.get("/{rollout_id:uuid}/reconnects", summary="Read who came back how fast", responses=documented("not_found"))
def read_rollout_reconnects(call: Viewer, rollout_id: UUID) -> models.Reconnects:
    """Of the clients of a rollout, in steps of 15 seconds."""
    with call.read() as tx:
        _found(tx, rollout_id)
        return show.reconnects(reconnects.of_rollout(tx, str(rollout_id)))


@router.post("/{rollout_id:uuid}/pause", summary="Pause a rollout", responses=_SAID_WITH_WORDS)
def pause_rollout(call: Operator, rollout_id: UUID, content: models.RolloutPause | None = None) -> models.Rollout:
    """No new stage begins, and what was not given to the broker is taken back. What runs runs on."""
    why = content.why if content is not None else None
    with call.write() as (tx, caller):
        rollouts.pause(tx, _found(tx, rollout_id), caller.name, why, call.site.limits)
        return _said(tx, call, "pause rollout", rollout_id, "paused")


@router.post("/{rollout_id:uuid}/recovery", summary="Allow recovery again", responses=_SAID)
def allow_rollout_recovery(call: Operator, rollout_id: UUID) -> models.Rollout:
    """After its brake has stopped it, the controller recovers none of its clients by itself until somebody says so."""
    with call.write() as (tx, caller):
        rollouts.allow_recovery(tx, _found(tx, rollout_id), caller.name)
        return _said(tx, call, "allow recovery", rollout_id, "allowed")


@router.post("/{rollout_id:uuid}/resume", summary="Resume a rollout", responses=_SAID)
def resume_rollout(call: Operator, rollout_id: UUID) -> models.Rollout:
    """It goes on where it was; who failed is not tried again.

    If the brake had paused or stopped it, the brake counts anew: you have accepted what had failed.
    """
    with call.write() as (tx, caller):
        rollouts.resume(tx, _found(tx, rollout_id), caller.name)
        shown = _said(tx, call, "resume rollout", rollout_id, "resumed")
    call.site.wake()
    return shown


@router.post("/{rollout_id:uuid}/abort", summary="Abort a rollout", responses=_SAID)
def abort_rollout(call: Operator, rollout_id: UUID) -> models.Rollout:
    """It ends here. What was not given to the broker is cancelled; what runs runs on."""
    with call.write() as (tx, caller):
        rollouts.abort(tx, _found(tx, rollout_id), caller.name, call.site.limits)
        return _said(tx, call, "abort rollout", rollout_id, "aborted")


@router.post("/{rollout_id:uuid}/rollback", summary="Roll a rollout back", responses=_SAID)
def roll_back_rollout(call: Operator, rollout_id: UUID) -> models.RolledBack:
    """It ends here, and the labels that it has set are again what they were, where nobody has changed them since.

    Also of a rollout that is over. A reboot cannot be taken back.
    """
    with call.write() as (tx, caller):
        row = _found(tx, rollout_id)
        cancelled, restored, left = rollouts.roll_back(tx, row, caller.name, call.site.limits)
        counts = {"cancelled": cancelled, "labels_restored": restored, "labels_left": left}
        call.note(tx, "roll back rollout", str(rollout_id), "rolled back", counts)
    return models.RolledBack(**counts)


def _said(tx: Transaction, call: Call, what: str, rollout_id: UUID, outcome: str) -> models.Rollout:
    call.note(tx, what, str(rollout_id), outcome)
    return show.rollout(tx, _found(tx, rollout_id))


def _found(tx: Transaction, rollout_id: UUID) -> Row:
    row = stored.found(tx, str(rollout_id))
    if row is None:
        raise Problem("not_found", f"there is no rollout {rollout_id}")
    return row
