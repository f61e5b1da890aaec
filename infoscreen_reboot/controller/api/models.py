"""What goes into the API and comes out of it; the examples stand in the OpenAPI document."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StringConstraints,
)

from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.controller import brake, stages, text
from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.brake import Count
from infoscreen_reboot.controller.inventory import Outcome
from infoscreen_reboot.controller.lifecycle import Proof, State, Step
from infoscreen_reboot.controller.rollout import State as RolloutState
from infoscreen_reboot.controller.safety import Standing


def _check_text(value: object) -> object:
    if isinstance(value, int | float):
        raise ValueError("a time is text, as 2026-11-26T14:00:00Z")
    return value


Reason = Annotated[str, StringConstraints(max_length=text.MOST_REASON, pattern=text.LINE)]
Why = Annotated[str, StringConstraints(min_length=1, max_length=text.MOST_REASON, pattern=text.LINE)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=text.MOST_NAME, pattern=text.LINE)]
Note = Annotated[str, StringConstraints(max_length=text.MOST_NOTE, pattern=text.LINES)]
UserName = Annotated[str, StringConstraints(max_length=64, pattern=text.USER_NAME)]
StageText = Annotated[str, StringConstraints(min_length=1, max_length=300, pattern=text.LINE)]
ThresholdText = Annotated[str, StringConstraints(min_length=1, max_length=32, pattern=text.LINE)]
# A number would be seconds to one and milliseconds to another.
Moment = Annotated[AwareDatetime, BeforeValidator(_check_text)]
Key = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern="^[ -~]+$")]
# Standings that people give; `unknown` is what nobody has looked at.
GivenStanding = Literal["accepted", "rejected", "retired"]

_CLIENT = "9b8d1856-ff34-4864-a726-12de072d0f77"
_COMMAND = "0d9a1a86-6ff0-4b0e-8f40-3b2d8f1d7c11"
_BATCH = "7e1f0d36-3b4f-4f67-9a2e-54a4d0a3b9c8"
_BOOT, _BOOT_BEFORE = "c4c3a1f0-7d56-4d0f-9d8e-1f1c2d3e4f50", "5f0d7c8e-2b1a-4c3d-8e9f-0a1b2c3d4e5f"
_HASH = "3b1f" * 16


def _at(clock: str) -> str:
    return f"2026-11-26T{clock}Z"


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


def _example(content: Any) -> ConfigDict:
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [content]})


def examples_of(name: str) -> list[Any] | None:
    """Those of the model of that name; None if there is none."""
    model = globals().get(name)
    return list(model.model_config["json_schema_extra"]["examples"]) if model is not None else None


class Wish(Model):
    """What is asked for, whoever gets it."""

    action: Action
    reason: Reason | None = None
    wait_until: Moment | None = Field(
        None, description="Until when it may wait for a hold that ends by itself; at most 24 hours. Null: do not wait."
    )
    someone_is_there: StrictBool = Field(False, description="For a shutdown: someone will switch the client on again.")


class NewCommand(Wish):
    model_config = _example({"action": "reboot_host", "client_uuid": _CLIENT, "reason": "player frozen"})

    client_uuid: UUID
    command_id: UUID | None = Field(None, description="Made by you: the same request with it makes nothing more.")


_HOLD = {
    "rule": "lockout",
    "why": "3 reboots of this client in the last 15 minutes",
    "opens_at": _at("14:12:07"),
}


class Hold(Model):
    """Why a command may not go now."""

    model_config = _example(_HOLD)

    rule: str
    why: str
    opens_at: datetime | None = Field(description="When it ends, if that is known.")


class Evidence(Model):
    """What proves the state."""

    sent_at: datetime | None
    published_at: datetime | None
    accepted_at: datetime | None
    started_at: datetime | None
    started_boot_id: str | None
    down_at: datetime | None
    back_at: datetime | None
    back_boot_id: str | None
    ended_at: datetime | None
    ended_boot_id: str | None
    proof: Proof | None = Field(description="Of a completed reboot: only `boot_id` counts as one.")


_COMPLETED = {
    "id": _COMMAND,
    "client_uuid": _CLIENT,
    "batch_id": None,
    "action": "reboot_host",
    "state": "completed",
    "is_open": False,
    "reason": "player frozen",
    "created_at": _at("14:00:00"),
    "created_by": "ann",
    "via": "api",
    "expires_at": _at("14:04:00"),
    "wait_until": None,
    "hold": None,
    "waits_for": None,
    "due_at": None,
    "error_code": None,
    "error_message": None,
    "late": None,
    "evidence": {
        "sent_at": _at("14:00:00.1"),
        "published_at": _at("14:00:00.2"),
        "accepted_at": _at("14:00:00.3"),
        "started_at": _at("14:00:00.4"),
        "started_boot_id": _BOOT_BEFORE,
        "down_at": _at("14:00:03"),
        "back_at": _at("14:00:41"),
        "back_boot_id": _BOOT,
        "ended_at": _at("14:00:52"),
        "ended_boot_id": _BOOT,
        "proof": "boot_id",
    },
}


class Command(Model):
    model_config = _example(_COMPLETED)

    id: UUID
    client_uuid: UUID
    batch_id: UUID | None
    action: Action
    state: State
    is_open: bool
    reason: str | None
    created_at: datetime
    created_by: str
    via: str
    expires_at: datetime
    wait_until: datetime | None
    hold: Hold | None
    waits_for: Step | None = Field(description="The step that an open command waits for.")
    due_at: datetime | None = Field(description="When that step has taken too long.")
    error_code: str | None
    error_message: str | None
    late: str | None = Field(description="What the client said after the verdict, if it was something else.")
    evidence: Evidence


class Page(Model):
    """`next` is the cursor of the next page; null on the last one."""

    model_config = _example({"items": [_COMPLETED], "next": f"1795701600000000.{_COMMAND}"})

    items: list[Command]
    next: str | None


_EVENT = {
    "seq": 4711,
    "at": _at("14:00:52"),
    "kind": "completed",
    "client_uuid": _CLIENT,
    "command_id": _COMMAND,
    "batch_id": None,
    "content": {"fact": "acked", "status": "completed", "boot_id": _BOOT},
}


class Event(Model):
    model_config = _example(_EVENT)

    seq: int
    at: datetime
    kind: str
    client_uuid: UUID | None
    command_id: UUID | None
    batch_id: UUID | None
    content: dict[str, Any]


_RULE = {
    "rule": "lockout",
    "is_yes": True,
    "hold": None,
    "opens_at": None,
    "warning": None,
    "inputs": {"reboots": 1, "limit": 3, "window_s": 900},
}


class Rule(Model):
    model_config = _example(_RULE)

    rule: str
    is_yes: bool
    hold: str | None
    opens_at: datetime | None
    warning: str | None
    inputs: dict[str, Any]


class Explanation(Model):
    """Every rule with its inputs and its answer, as things stand now, and what happened so far."""

    model_config = _example({"command": _COMPLETED, "rules": [_RULE], "events": [_EVENT]})

    command: Command
    rules: list[Rule]
    events: list[Event]


class Selection(Model):
    """Whom it is about: either ids, or a selector. Only accepted clients are meant by a selector."""

    clients: list[UUID] | None = Field(None, max_length=20_000)
    selector: str | None = Field(None, max_length=1000)


class PreviewRequest(Wish, Selection):
    model_config = _example({"action": "reboot_host", "selector": "site=alpine,room!=bar", "reason": "new playlist"})


class Preview(Model):
    """What would come of it. Send `clients`, `hash` and, from two clients on, `count` when you create the batch."""

    model_config = _example(
        {
            "action": "reboot_host",
            "hash": _HASH,
            "count": 1,
            "clients": [_CLIENT, _BATCH],
            "held": {_BATCH: _HOLD},
            "held_by_rule": {"lockout": 1},
            "warnings": {_CLIENT: ["this client's disk is full"]},
        }
    )

    action: Action
    hash: str
    count: int = Field(description="How many of the clients would get the command.")
    clients: list[UUID] = Field(description="All that are meant, also those that a rule holds.")
    held: dict[str, Hold]
    held_by_rule: dict[str, int]
    warnings: dict[str, list[str]]


class NewBatch(Wish):
    model_config = _example(
        {"action": "reboot_host", "clients": [_CLIENT, _BATCH], "hash": _HASH, "count": 2, "reason": "new playlist"}
    )

    clients: list[UUID] = Field(min_length=1, max_length=20_000)
    hash: str = Field(min_length=64, max_length=64)
    count: StrictInt | None = None


class Retry(Model):
    """How the members that did not succeed are tried again."""

    model_config = _example({"wait_until": _at("16:00:00")})

    wait_until: Moment | None = None
    someone_is_there: StrictBool = False


_A_BATCH = {
    "id": _BATCH,
    "action": "reboot_host",
    "reason": "new playlist",
    "created_at": _at("14:00:00"),
    "created_by": "ann",
    "send_at": _at("14:00:05"),
    "states": {"completed": 19, "awaiting_reconnect": 1},
    "is_over": False,
}


class Batch(Model):
    model_config = _example(_A_BATCH)

    id: UUID
    action: Action
    reason: str | None
    created_at: datetime
    created_by: str
    send_at: datetime
    states: dict[str, int] = Field(description="How many of its commands are in each state.")
    is_over: bool


class BatchPage(Model):
    """`next` is the cursor of the next page; null on the last one."""

    model_config = _example({"items": [_A_BATCH], "next": None})

    items: list[Batch]
    next: str | None


class Member(Model):
    model_config = _example({"client_uuid": _CLIENT, "name": "Bar left", "command_id": _COMMAND, "state": "completed"})

    client_uuid: UUID
    name: str | None
    command_id: UUID
    state: State


class Cancelled(Model):
    """How many were stopped, and how many could not be any more."""

    model_config = _example({"cancelled": 18, "too_late": 2})

    cancelled: int
    too_late: int


class RolloutTerms(Model):
    """How a rollout goes. The same terms are sent for the preview and for what is made of it."""

    action: Action
    reason: Reason | None = None
    someone_is_there: StrictBool = Field(False, description="For a shutdown: someone will switch the clients on again.")
    stages: list[StageText] = Field(
        list(stages.DEFAULT),
        max_length=stages.MOST,
        description="Each a number of clients, a percentage of all, or a selector; what they leave is a last stage.",
    )
    max_failed: ThresholdText | None = Field(
        None, description="It stops when more than that percentage of those that ran failed. Null: as the site has set."
    )
    minimum_sample: StrictInt = Field(
        brake.MINIMUM, ge=1, le=10_000, description="Until so many have run, any failure pauses it and asks."
    )
    settle_s: StrictInt = Field(
        120, ge=0, le=86_400, description="After the last verdict of a stage: time for what shows itself late."
    )
    pause_s: StrictInt = Field(300, ge=0, le=604_800, description="From there to the next stage.")
    wait_s: StrictInt = Field(
        3600, ge=60, le=86_400, description="How long a client may wait for what holds it, once its stage has begun."
    )
    labels: dict[str, str] = Field(
        default_factory=dict, max_length=8, description="Set on each client when it has completed."
    )


_TERMS = {
    "action": "reboot_host",
    "reason": "new player",
    "stages": ["canary 1", "10 %", "site=alpine"],
    "max_failed": "5 %",
    "labels": {"version": "7.2"},
}


class RolloutPreviewRequest(RolloutTerms, Selection):
    model_config = _example(_TERMS | {"selector": "model=pi5", "stages": ["canary 1", "10 %"]})


class PlannedStage(Model):
    name: str
    clients: list[UUID] = Field(description="In the order in which they come: the least recently rebooted first.")
    brake: str = Field(description="What the brake will do in this stage, if all went well before.")


_PLANNED = "none has run so far; failure 1 stops it"


class RolloutPreview(Model):
    """What would come of it. Send `clients`, `hash` and, from two clients on, `count` when you create the rollout."""

    model_config = _example(
        {
            "action": "reboot_host",
            "hash": _HASH,
            "count": 1,
            "max_failed": "5 %",
            "clients": [_CLIENT, _BATCH],
            "stages": [{"name": "canary 1", "clients": [_CLIENT], "brake": _PLANNED}],
            "held": {_BATCH: _HOLD},
            "held_by_rule": {"lockout": 1},
            "warnings": {},
        }
    )

    action: Action
    hash: str
    count: int = Field(description="How many of the clients would get the command.")
    max_failed: str
    clients: list[UUID] = Field(description="All that are meant, also those that a rule holds.")
    stages: list[PlannedStage]
    held: dict[str, Hold]
    held_by_rule: dict[str, int]
    warnings: dict[str, list[str]]


class NewRollout(RolloutTerms):
    model_config = _example(_TERMS | {"clients": [_CLIENT, _BATCH], "hash": _HASH, "count": 2})

    clients: list[UUID] = Field(min_length=1, max_length=20_000)
    hash: str = Field(min_length=64, max_length=64)
    count: StrictInt | None = None


class RolloutPause(Model):
    model_config = _example({"why": "a screen in the bar is dark"})

    why: Why | None = None


class RolloutStage(Model):
    number: int
    name: str
    began_at: datetime | None
    ended_at: datetime | None
    states: dict[str, int] = Field(description="How many of its clients are in each state; `waiting` has no command.")
    batches: list[UUID] = Field(description="The commands that were made for it; after a resume there is one more.")


class RolloutBrake(Model):
    """What it counts since the last resume after a stop: refused, expired, cancelled and pretended ones are not in."""

    ran: int
    failed: int
    left: int = Field(description="How many have no verdict yet.")
    words: str


_A_ROLLOUT = {
    "id": _BATCH,
    "action": "reboot_host",
    "reason": "new player",
    "created_at": _at("14:00:00"),
    "created_by": "ann",
    "via": "api",
    "state": "running",
    "is_over": False,
    "why": None,
    "changed_by": None,
    "changed_at": _at("14:09:00"),
    "due_at": None,
    "ended_at": None,
    "stage": 2,
    "run": 1,
    "recovery_off": False,
    "max_failed": "5 %",
    "minimum_sample": 20,
    "settle_s": 120,
    "pause_s": 300,
    "wait_s": 3600,
    "labels": {"version": "7.2"},
    "states": {"completed": 20, "awaiting_reconnect": 1, "waiting": 179},
    "brake": {
        "ran": 20,
        "failed": 0,
        "left": 180,
        "words": "0 of 20 failed: the true rate may still be 14 %; failure 2 stops it if no other client succeeds"
        " before; failure 11 of 200 stops it in any case",
    },
    "stages": [
        {
            "number": 1,
            "name": "canary 1",
            "began_at": _at("14:00:05"),
            "ended_at": _at("14:02:00"),
            "states": {"completed": 1},
            "batches": [_COMMAND],
        }
    ],
}


class Rollout(Model):
    model_config = _example(_A_ROLLOUT)

    id: UUID
    action: Action
    reason: str | None
    created_at: datetime
    created_by: str
    via: str
    state: RolloutState
    is_over: bool
    why: str | None = Field(description="Of the last pause or stop.")
    changed_by: str | None = Field(description="Who has brought it into this state; null: the controller itself.")
    changed_at: datetime | None
    due_at: datetime | None = Field(description="When time moves it on.")
    ended_at: datetime | None
    stage: int = Field(description="The number of the present stage; 0 before the first.")
    run: int = Field(description="Grows with each resume.")
    recovery_off: bool = Field(description="Its brake has stopped it: the controller recovers none of its clients.")
    max_failed: str
    minimum_sample: int
    settle_s: int
    pause_s: int
    wait_s: int
    labels: dict[str, str]
    states: dict[str, int] = Field(description="How many of its clients are in each state.")
    brake: RolloutBrake
    stages: list[RolloutStage]


class RolloutPage(Model):
    """`next` is the cursor of the next page; null on the last one."""

    model_config = _example({"items": [_A_ROLLOUT], "next": None})

    items: list[Rollout]
    next: str | None


class RolloutMember(Model):
    model_config = _example(
        {
            "client_uuid": _CLIENT,
            "name": "Bar left",
            "stage": 2,
            "command_id": _COMMAND,
            "state": "timed_out",
            "counted": "failed",
            "counted_at": _at("14:12:00"),
            "late": "completed",
        }
    )

    client_uuid: UUID
    name: str | None
    stage: int
    command_id: UUID | None = Field(description="Null while it has none, or if it was taken back.")
    state: str = Field(description="Of its command; as it was when it was counted. `waiting`: it has none.")
    counted: Count | None = Field(description="What it is for the brake; null: it has no verdict yet.")
    counted_at: datetime | None
    late: str | None = Field(description="What the client said afterwards. It changes no count.")


class RolledBack(Model):
    """How many commands were cancelled; on how many clients the labels were restored, and were left as they are."""

    model_config = _example({"cancelled": 18, "labels_restored": 20, "labels_left": 1})

    cancelled: int
    labels_restored: int
    labels_left: int


class Client(Model):
    model_config = _example(
        {
            "uuid": _CLIENT,
            "name": "Bar left",
            "note": "behind the panel, key at the reception",
            "standing": "accepted",
            "labels": {"site": "alpine", "room": "bar"},
            "is_online": True,
            "presence_reason": "boot",
            "boot_id": _BOOT,
            "heard_at": _at("14:00:41"),
            "two_hosts": False,
            "open_command_id": None,
            "alerts": [],
        }
    )

    uuid: UUID
    name: str | None
    note: str | None
    standing: Standing
    labels: dict[str, str]
    is_online: bool
    presence_reason: str | None
    boot_id: str | None
    heard_at: datetime | None
    two_hosts: bool = Field(description="Two hosts use this UUID: no command goes out until it is accepted again.")
    open_command_id: UUID | None
    alerts: list[str] = Field(description="The units that have failed on it.")


class ClientChange(Model):
    """What is not named stays; null removes."""

    model_config = _example({"name": "Bar left", "labels": {"site": "alpine", "spare": None}})

    name: Name | None = None
    note: Note | None = None
    labels: dict[str, str | None] | None = Field(None, max_length=text.MOST_LABELS)


class NewStanding(Model):
    model_config = _example({"standing": "accepted"})

    standing: GivenStanding


class NewStandings(Model):
    """Say either `clients` or `all_unknown`."""

    model_config = _example({"clients": [_CLIENT], "standing": "accepted"})

    standing: GivenStanding
    clients: list[UUID] | None = Field(None, max_length=20_000)
    all_unknown: StrictBool = Field(False, description="All that nobody has said anything about yet.")


class Changed(Model):
    model_config = _example({"changed": 12})

    changed: int


class ImportedRow(Model):
    line: int = Field(description="In a CSV file its line; in an inventory of Ansible the number of the host.")
    uuid: str
    name: str | None
    outcome: Outcome
    why: str | None = Field(description="Of a row that is refused.")


class Imported(Model):
    model_config = _example(
        {
            "dry_run": True,
            "applied": False,
            "rows": [{"line": 2, "uuid": _CLIENT, "name": "Bar left", "outcome": "changed", "why": None}],
        }
    )

    dry_run: bool
    applied: bool
    rows: list[ImportedRow]


class Whoami(Model):
    model_config = _example({"name": "ann", "role": "operator", "may_shut_down": False})

    name: str
    role: Role
    may_shut_down: bool


class NewFreeze(Model):
    model_config = _example({"why": "trade fair", "until": _at("18:00:00")})

    why: Why
    until: Moment | None = None


_FREEZE = {"id": 3, "why": "trade fair", "made_by": "ann", "made_at": _at("08:00:00"), "until": _at("18:00:00")}


class Freeze(Model):
    model_config = _example(_FREEZE)

    id: int
    why: str
    made_by: str
    made_at: datetime
    until: datetime | None


class Waiting(Model):
    """Commands that one rule holds now."""

    rule: str
    why: str = Field(description="Of one of them.")
    opens_at: datetime | None = Field(description="When the first of them may go, if that is known.")
    count: int


class Holds(Model):
    model_config = _example(
        {
            "freezes": [_FREEZE],
            "waiting": [
                {"rule": "freeze", "why": "frozen by ann: trade fair", "opens_at": _at("18:00:00"), "count": 12}
            ],
        }
    )

    freezes: list[Freeze]
    waiting: list[Waiting]


class NewUser(Model):
    model_config = _example({"name": "ann", "role": "operator", "may_shut_down": False})

    name: UserName
    role: Role
    may_shut_down: StrictBool = False


class UserChange(Model):
    """What is not named stays."""

    model_config = _example({"is_disabled": True})

    role: Role | None = None
    may_shut_down: StrictBool | None = None
    is_disabled: StrictBool | None = None


class User(Model):
    model_config = _example(
        {
            "name": "ann",
            "role": "operator",
            "may_shut_down": False,
            "is_disabled": False,
            "created_at": _at("08:00:00"),
        }
    )

    name: str
    role: Role
    may_shut_down: bool
    is_disabled: bool
    created_at: datetime


class NewToken(Model):
    """A token never has more rights than its user, nor than the token that made it."""

    model_config = _example({"name": "deploy script", "role": "operator", "expires_in_days": 90})

    name: Name
    user: UserName | None = Field(None, description="Whose it is; an admin may name somebody else.")
    role: Role | None = Field(None, description="Null: that of the user.")
    may_shut_down: StrictBool = False
    expires_in_days: StrictInt | None = Field(
        None,
        ge=1,
        le=3650,
        description="Null: it ends when it is revoked. A token that ends makes none that outlives it.",
    )


_TOKEN = {
    "id": _BATCH,
    "name": "deploy script",
    "user": "ann",
    "role": "operator",
    "may_shut_down": False,
    "created_at": _at("08:00:00"),
    "expires_at": None,
    "used_at": None,
}


class Token(Model):
    model_config = _example(_TOKEN)

    id: UUID
    name: str
    user: str
    role: Role
    may_shut_down: bool
    created_at: datetime
    expires_at: datetime | None
    used_at: datetime | None = Field(description="When it was last used, within five minutes.")


class MadeToken(Token):
    model_config = _example(_TOKEN | {"token": "irc_Qm9vIQ…"})

    token: str = Field(description="Shown once, and stored nowhere.")


_AUDIT = {
    "seq": 99,
    "at": _at("14:00:00"),
    "who": "ann",
    "via": "api",
    "address": "192.0.2.7",
    "what": "command reboot_host",
    "target": _COMMAND,
    "outcome": "made",
    "content": None,
}


class AuditLine(Model):
    model_config = _example(_AUDIT)

    seq: int
    at: datetime
    who: str
    via: str
    address: str | None
    what: str
    target: str | None
    outcome: str
    content: dict[str, Any] | None


class AuditPage(Model):
    """`next` is the cursor of the next page; null on the last one."""

    model_config = _example({"items": [_AUDIT], "next": 99})

    items: list[AuditLine]
    next: int | None
