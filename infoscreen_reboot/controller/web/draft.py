"""A rollout that is not made yet: how it should go, who would be in which stage, and what its brake would do."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Response

from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.controller import brake, stages
from infoscreen_reboot.controller.api import models, rollouts
from infoscreen_reboot.controller.api.access import Call
from infoscreen_reboot.controller.api.problems import Problem, checked
from infoscreen_reboot.controller.orders import Refused
from infoscreen_reboot.controller.web import action, shell
from infoscreen_reboot.controller.web.record import labels_in
from infoscreen_reboot.controller.web.session import Form, Operator, Sent

router = APIRouter()

_EMPTY = {
    "selector": "",
    "stages": "\n".join(stages.DEFAULT),
    "max_failed": "",
    "minimum_sample": str(brake.MINIMUM),
    "settle_min": "2",
    "pause_min": "5",
    "wait_min": "60",
    "labels": "",
    "reason": "",
}
# Fields of more than one line.
_MOST = 20_000


@router.get("/rollouts/new")
def show_new(call: Operator) -> Response:
    return _form(call, _EMPTY)


@router.post("/rollouts/new")
def preview(call: Operator, sent: Sent) -> Response:
    """Makes nothing, so it may be read again."""
    said = _said(sent)
    try:
        wanted = checked(models.RolloutPreviewRequest, **_terms(said), selector=said["selector"])
        shown = rollouts.preview_rollout(call, wanted)
        if not shown.clients:
            raise Problem("invalid", "no accepted client fits this selector")
    except Problem as problem:
        return _form(call, said, problem)
    except Refused as error:
        return _form(call, said, Problem(error.kind, str(error)))
    return _confirmation(call, said, shown)


@router.post("/rollouts")
def make(call: Operator, sent: Sent) -> Response:
    said, uuids = _said(sent), sent.uuids("client")
    terms = _terms(said)
    wanted = checked(models.NewRollout, **terms, clients=uuids, hash=sent.text("hash"), count=action.count_of(sent))
    try:
        made = rollouts.create_rollout(call, Response(), wanted, action.order_id_of(sent))
    except Refused as error:
        if error.kind not in action.MOVED:
            raise
        shown = rollouts.preview_rollout(call, checked(models.RolloutPreviewRequest, **terms, clients=uuids))
        return _confirmation(call, said, shown, str(error))
    return shell.see(f"/rollouts/{made.id}")


def _form(call: Call, said: dict[str, str], problem: Problem | None = None) -> Response:
    return shell.page(
        call,
        "rollout-new.html",
        200 if problem is None else shell.again(problem),
        said=said,
        max_failed=call.site.max_failed,
        preview=None,
        fault=problem.detail if problem is not None else None,
    )


def _confirmation(call: Call, said: dict[str, str], shown: models.RolloutPreview, fault: str | None = None) -> Response:
    going = [uuid for stage in shown.stages for uuid in stage.clients]
    return shell.page(
        call,
        "rollout-new.html",
        200 if fault is None else 412,
        said=said,
        max_failed=shown.max_failed,
        preview=shown,
        meant=action.meant(call, shown.clients, going),
        waiting={str(uuid) for uuid in going if str(uuid) in shown.held},
        order_id=str(uuid4()),
        fault=fault,
    )


def _said(sent: Form) -> dict[str, str]:
    """A browser ends lines in its own way."""
    return {name: sent.text(name, _MOST).replace("\r\n", "\n") for name in _EMPTY}


def _terms(said: dict[str, str]) -> dict[str, Any]:
    """As the API takes them. Raises Problem for what cannot be meant."""
    return {
        "action": Action.REBOOT_HOST,
        "reason": said["reason"] or None,
        "stages": [line.strip() for line in said["stages"].split("\n") if line.strip()],
        "max_failed": said["max_failed"] or None,
        "minimum_sample": shell.number(said, "minimum_sample", "how many, as 20"),
        "settle_s": _seconds(said, "settle_min"),
        "pause_s": _seconds(said, "pause_min"),
        "wait_s": _seconds(said, "wait_min"),
        "labels": labels_in(said["labels"]),
    }


def _seconds(said: dict[str, str], name: str) -> int:
    return 60 * shell.number(said, name, shell.MINUTES)
