"""Many clients in stages: where each stage is, what the sample proves, and which failure will stop it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from infoscreen_reboot.controller import lifecycle
from infoscreen_reboot.controller.api import models, rollouts
from infoscreen_reboot.controller.api.access import Call
from infoscreen_reboot.controller.api.problems import checked
from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.brake import Count
from infoscreen_reboot.controller.rollout import ASKING, State
from infoscreen_reboot.controller.store.rollouts import WAITING
from infoscreen_reboot.controller.web import shell
from infoscreen_reboot.controller.web.session import Operator, Sent, Viewer

router = APIRouter()


@dataclass(frozen=True, slots=True)
class Stage:
    """`over` of its `count` clients have a verdict."""

    told: models.RolloutStage
    count: int
    over: int
    is_present: bool


_PAGE = 30
_VERDICTS = [state for state in lifecycle.State if state.is_verdict]
_MEANINGS = {
    State.PLANNED: "it begins at once; nobody is touched before",
    State.RUNNING: "a stage runs",
    State.SETTLING: "the stage has ended; what shows itself late has time to do so",
    State.PAUSING: "the stage was good; the next one follows by itself",
    State.PAUSED: "nothing more goes out until a person resumes it",
    State.STOPPED: "its brake has stopped it: nothing more goes out until a person resumes it",
    State.FINISHED: "all stages have ended",
    State.ABORTED: "a person has ended it; who had no command got none",
    State.ROLLED_BACK: "a person has ended it, and its labels were taken back",
}
# Before the first stage there is nothing to pause.
_CAN_PAUSE = (State.RUNNING, State.SETTLING, State.PAUSING)


@router.get("/rollouts")
def show_all(call: Viewer, cursor: Annotated[str | None, Query(max_length=80)] = None) -> Response:
    page = rollouts.list_rollouts(call, limit=_PAGE, cursor=cursor)
    return shell.page(call, "rollouts.html", page=page, may_change=call.who.role.covers(Role.OPERATOR))


@router.get("/rollouts/{rollout_id:uuid}")
def show(call: Viewer, rollout_id: UUID) -> Response:
    rollout = rollouts.read_rollout(call, rollout_id)
    return shell.page(
        call,
        "rollout.html",
        rollout=rollout,
        count=sum(rollout.states.values()),
        meaning=_MEANINGS[rollout.state],
        stages=[_stage(each, rollout) for each in rollout.stages],
        reconnects=rollouts.read_rollout_reconnects(call, rollout_id),
        failed=rollouts.list_rollout_members(call, rollout_id, None, Count.FAILED),
        can=_possible(rollout) if call.who.role.covers(Role.OPERATOR) else set(),
    )


def _stage(told: models.RolloutStage, rollout: models.Rollout) -> Stage:
    over = sum(number for state, number in told.states.items() if state in _VERDICTS)
    is_present = told.number == rollout.stage and not rollout.is_over
    return Stage(told, sum(told.states.values()), over, is_present)


@router.post("/rollouts/{rollout_id:uuid}/pause")
def pause(call: Operator, rollout_id: UUID, sent: Sent) -> Response:
    rollouts.pause_rollout(call, rollout_id, checked(models.RolloutPause, why=sent.text("why") or None))
    return _see(rollout_id)


@router.get("/rollouts/{rollout_id:uuid}/resume")
def confirm_resume(call: Operator, rollout_id: UUID) -> Response:
    return _confirmation(call, rollout_id, "resume")


@router.post("/rollouts/{rollout_id:uuid}/resume")
def resume(call: Operator, rollout_id: UUID) -> Response:
    rollouts.resume_rollout(call, rollout_id)
    return _see(rollout_id)


@router.get("/rollouts/{rollout_id:uuid}/recovery")
def confirm_recovery(call: Operator, rollout_id: UUID) -> Response:
    return _confirmation(call, rollout_id, "recovery")


@router.post("/rollouts/{rollout_id:uuid}/recovery")
def allow_recovery(call: Operator, rollout_id: UUID) -> Response:
    rollouts.allow_rollout_recovery(call, rollout_id)
    return _see(rollout_id)


@router.get("/rollouts/{rollout_id:uuid}/abort")
def confirm_abort(call: Operator, rollout_id: UUID) -> Response:
    return _confirmation(call, rollout_id, "abort")


@router.post("/rollouts/{rollout_id:uuid}/abort")
def abort(call: Operator, rollout_id: UUID) -> Response:
    rollouts.abort_rollout(call, rollout_id)
    return _see(rollout_id)


@router.get("/rollouts/{rollout_id:uuid}/rollback")
def confirm_roll_back(call: Operator, rollout_id: UUID) -> Response:
    return _confirmation(call, rollout_id, "rollback")


@router.post("/rollouts/{rollout_id:uuid}/rollback")
def roll_back(call: Operator, rollout_id: UUID) -> Response:
    rollouts.roll_back_rollout(call, rollout_id)
    return _see(rollout_id)


def _confirmation(call: Call, rollout_id: UUID, what: str) -> Response:
    """Looking does nothing."""
    rollout = rollouts.read_rollout(call, rollout_id)
    return shell.page(
        call,
        "rollout-say.html",
        rollout=rollout,
        what=what,
        is_possible=what in _possible(rollout),
        count=sum(rollout.states.values()),
        waiting=rollout.states.get(WAITING, 0),
        labelled=len(rollouts.list_rollout_members(call, rollout_id, None, Count.RAN)) if rollout.labels else 0,
    )


def _possible(rollout: models.Rollout) -> set[str]:
    """What a person may say to it now."""
    answers = {
        "pause": rollout.state in _CAN_PAUSE,
        "resume": rollout.state in ASKING,
        "recovery": rollout.recovery_off,
        "abort": not rollout.is_over,
        "rollback": bool(rollout.labels) and rollout.state is not State.ROLLED_BACK,
    }
    return {name for name, is_possible in answers.items() if is_possible}


def _see(rollout_id: UUID) -> Response:
    return shell.see(f"/rollouts/{rollout_id}")
