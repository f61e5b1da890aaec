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
    SecretStr,
    StrictBool,
    StrictInt,
    StringConstraints,
)

from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.contract.telemetry import Cause, Executor
from infoscreen_reboot.controller import brake, passwords, recurrence, stages, text
from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.brake import Count
from infoscreen_reboot.controller.calendar import NightState
from infoscreen_reboot.controller.condition import MEANINGS, Condition
from infoscreen_reboot.controller.inventory import Outcome
from infoscreen_reboot.controller.lifecycle import Proof, State, Step
from infoscreen_reboot.controller.notifying import Kind
from infoscreen_reboot.controller.power.cycle import State as PowerState
from infoscreen_reboot.controller.power.port import Backend
from infoscreen_reboot.controller.recovery import State as RecoveryState
from infoscreen_reboot.controller.recovery import Step as RecoveryStep
from infoscreen_reboot.controller.report import Outcome as NightOutcome
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
# It is in no message of a fault, and in no text that somebody makes of the model.
Password = Annotated[SecretStr, Field(max_length=passwords.MOST_TYPED)]
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
    "opens_at_local": "2026-11-26T15:12:07+01:00",
    "zone": "Europe/Berlin",
}


class Hold(Model):
    """Why a command may not go now."""

    model_config = _example(_HOLD)

    rule: str
    why: str
    opens_at: datetime | None = Field(description="When it ends, if that is known.")
    opens_at_local: datetime | None = Field(None, description="The same moment, by the clock where the client is.")
    zone: str | None = Field(None, description="Of that clock.")


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
            "eligible": [_CLIENT],
            "held": {_BATCH: _HOLD},
            "held_by_rule": {"lockout": 1},
            "warnings": {_CLIENT: ["this client's disk is full"]},
            "dark_sites": ["alpine"],
        }
    )

    action: Action
    hash: str
    count: int = Field(description="How many of the clients would get the command.")
    clients: list[UUID] = Field(description="All that are meant, also those that a rule holds.")
    eligible: list[UUID] = Field(description="Those that would get it: now, or when what holds them ends in time.")
    held: dict[str, Hold]
    held_by_rule: dict[str, int]
    warnings: dict[str, list[str]]
    dark_sites: list[str] = Field(description="Sites where no client stays up: these go, and all others are away.")


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
    """`kind` and `why` say what is in the way, or was: a rule, the code of a failure, or a step that took too long."""

    model_config = _example(
        {
            "client_uuid": _CLIENT,
            "name": "Bar left",
            "command_id": _COMMAND,
            "state": "timed_out",
            "kind": "client back on MQTT",
            "why": None,
        }
    )

    client_uuid: UUID
    name: str | None
    command_id: UUID
    state: State
    kind: str | None
    why: str | None


class BatchReason(Model):
    """How many of a batch are in a state for the same reason; `why` has the words of one of them."""

    model_config = _example(
        {
            "state": "failed",
            "kind": "not_authorized",
            "why": "polkit denies it: org.freedesktop.login1.reboot",
            "count": 3,
        }
    )

    state: State
    kind: str
    why: str | None
    count: int


_RECONNECTS = {
    "late_after_s": 90,
    "lost_after_s": 150,
    "slots": [
        {"from_s": 30, "to_s": 45, "count": 17},
        {"from_s": 90, "to_s": 105, "count": 2},
        {"from_s": 150, "to_s": None, "count": 0},
    ],
    "not_back": 1,
    "on_the_way": 0,
}


class ReconnectSlot(Model):
    from_s: int
    to_s: int | None = Field(description="It is not in. Null: all that took longer.")
    count: int


class Reconnects(Model):
    """How many came back how long after their `execution_started`. Whoever did not go down is not counted."""

    model_config = _example(_RECONNECTS)

    late_after_s: int = Field(description="From then on the display turns amber.")
    lost_after_s: int = Field(description="And red.")
    slots: list[ReconnectSlot] = Field(description="All of them, also those with nobody in it.")
    not_back: int = Field(description="They were given up, and have not come back since.")
    on_the_way: int = Field(description="They have begun, and may still come.")


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


_OF_CLIENT = {
    "uuid": _CLIENT,
    "name": "Bar left",
    "note": "behind the panel, key at the reception",
    "standing": "accepted",
    "labels": {"site": "alpine", "room": "bar"},
    "condition": "healthy",
    "is_online": True,
    "presence_reason": "boot",
    "boot_id": _BOOT,
    "first_heard_at": _at("08:00:00"),
    "heard_at": _at("14:00:41"),
    "two_hosts": False,
    "open_command_id": None,
    "recovery_id": None,
    "recovery_state": None,
    "alerts": [],
}


class Client(Model):
    model_config = _example(_OF_CLIENT)

    uuid: UUID
    name: str | None
    note: str | None
    standing: Standing
    labels: dict[str, str]
    condition: Condition | None = Field(description="How it stands. None if it was rejected or retired.")
    is_online: bool
    presence_reason: str | None
    boot_id: str | None
    first_heard_at: datetime | None = Field(description="Null if it was never heard: somebody has brought it in.")
    heard_at: datetime | None
    two_hosts: bool = Field(description="Two hosts use this UUID: no command goes out until it is accepted again.")
    open_command_id: UUID | None
    recovery_id: int | None = Field(description="The open one, if it did not come back from a reboot.")
    recovery_state: RecoveryState | None
    alerts: list[str] = Field(description="The units that have failed on it.")


_LAST_BOOT = {"boot_id": _BOOT, "at": _at("14:00:12"), "cause": "command", "clean_shutdown": True}
_SHORT_HEALTH = {
    "heard_at": _at("14:05:11"),
    "agent_version": "0.1.0",
    "clock_synchronized": True,
    "executor": "helper",
    "lockout_used": 1,
    "lockout_limit": 3,
    "unlocks_at": None,
    "recovery_tier": 2,
    "disk_full": False,
}


class LastBoot(Model):
    """The boot in which a client was heard last."""

    model_config = _example(_LAST_BOOT)

    boot_id: UUID
    at: datetime = Field(description="When it began, as the client says; else when it was first heard.")
    cause: Cause | None = Field(description="Why the boot before it ended. Null until the client has reported that.")
    clean_shutdown: bool | None = Field(description="Whether the boot before it was shut down cleanly.")


class ShortHealth(Model):
    """What matters most of the last health of a client."""

    model_config = _example(_SHORT_HEALTH)

    heard_at: datetime
    agent_version: str
    clock_synchronized: bool
    executor: Executor
    lockout_used: int | None = Field(description="How many reboots the client's own lockout has counted.")
    lockout_limit: int | None
    unlocks_at: datetime | None = Field(description="When the client may be rebooted again, if it is locked out.")
    recovery_tier: int = Field(description="1: only a command reboots it. 2: also its hardware watchdog, if it hangs.")
    disk_full: bool


_OF_FLEET = {
    **_OF_CLIENT,
    "presence_at": _at("14:00:41"),
    "last_boot": _LAST_BOOT,
    "health": _SHORT_HEALTH,
    "zone": "Europe/Berlin",
    "has_port": False,
}


class FleetClient(Client):
    """A client with what it has said of itself."""

    model_config = _example(_OF_FLEET)

    presence_at: datetime | None = Field(description="Since when it is online, or offline.")
    last_boot: LastBoot | None
    health: ShortHealth | None
    zone: str = Field(description="Where it is: its label `tz`, else the zone of its site, else the fleet's.")
    has_port: bool = Field(description="Its power can be switched off and on.")


class ClientHealth(Model):
    """The last health of a client. What stands in `content` is in the contract."""

    model_config = _example({"heard_at": _at("14:05:11"), "content": {"agent_version": "0.1.0", "uptime_s": 319}})

    heard_at: datetime | None
    content: dict[str, Any] | None


class Boot(Model):
    """A boot of a client. What the client reports of it is null until then."""

    model_config = _example(
        {
            "boot_id": _BOOT,
            "first_heard_at": _at("14:00:41"),
            "heard_at": _at("14:00:41"),
            "cause": "command",
            "clean_shutdown": True,
            "command_id": _COMMAND,
            "boot_started_at": _at("14:00:12"),
            "previous_boot_last_seen_at": _at("14:00:03"),
        }
    )

    boot_id: UUID
    first_heard_at: datetime
    heard_at: datetime = Field(description="When it last connected in this boot.")
    cause: Cause | None = Field(description="Why the boot before it ended.")
    clean_shutdown: bool | None = Field(description="Whether the boot before it was shut down cleanly.")
    command_id: UUID | None = Field(description="The command that ended the boot before it.")
    boot_started_at: datetime | None = Field(description="By the client's clock.")
    previous_boot_last_seen_at: datetime | None = Field(description="By the client's clock.")


class Alert(Model):
    """A unit that has failed on a client: systemd does not start it again."""

    model_config = _example(
        {
            "unit": "player.service",
            "raised_at": _at("14:20:00"),
            "cleared_at": None,
            "result": "exit-code",
            "exit_status": 1,
            "restarts": 5,
            "log_lines": ["cannot open the playlist"],
        }
    )

    unit: str
    raised_at: datetime
    cleared_at: datetime | None = Field(description="Null while it stands.")
    result: str | None = Field(description="In systemd's words.")
    exit_status: int | str | None = Field(description="The exit code, or the name of a signal.")
    restarts: int | None
    log_lines: list[str] = Field(description="The last ones of the unit. They may hold anything: show them as text.")


class ConditionCount(Model):
    model_config = _example({"condition": "needs_person", "count": 1, "meaning": MEANINGS[Condition.NEEDS_PERSON]})

    condition: Condition
    count: int
    meaning: str


class FleetSummary(Model):
    """How the clients stand. Each of them is counted once, under the sickest that it is."""

    model_config = _example(
        {
            "conditions": [
                {"condition": "needs_person", "count": 1, "meaning": MEANINGS[Condition.NEEDS_PERSON]},
                {"condition": "healthy", "count": 399, "meaning": MEANINGS[Condition.HEALTHY]},
            ],
            "count": 400,
        }
    )

    conditions: list[ConditionCount] = Field(description="The sickest first.")
    count: int


class ClientPage(Model):
    """A page of clients, the sickest first, then by name."""

    model_config = _example({"items": [_OF_FLEET], "count": 37, "page": 1, "pages": 1})

    items: list[FleetClient]
    count: int = Field(description="How many match, on all pages.")
    page: int
    pages: int


_TRIED = {"step": "ask", "at": _at("14:05:10"), "outcome": "no answer"}
_RECOVERY = {
    "id": 12,
    "client_uuid": _CLIENT,
    "command_id": _COMMAND,
    "state": "cycling_power",
    "is_open": True,
    "words": "switch its power off and on; next: call a person",
    "began_at": _at("14:04:00"),
    "due_at": _at("14:16:10"),
    "ended_at": None,
    "tried": [_TRIED, {"step": "power", "at": _at("14:06:10"), "outcome": None}],
    "next_steps": [],
    "ticket": None,
}


class Tried(Model):
    model_config = _example(_TRIED)

    step: RecoveryStep
    at: datetime
    outcome: str | None = Field(description="Null while it is under way.")


class Recovery(Model):
    model_config = _example(_RECOVERY)

    id: int
    client_uuid: UUID
    command_id: UUID = Field(description="The reboot from which the client did not come back.")
    state: RecoveryState
    is_open: bool
    words: str = Field(description="The newest of what happened.")
    began_at: datetime
    due_at: datetime | None = Field(description="When the next step begins, if the client is not back by then.")
    ended_at: datetime | None
    tried: list[Tried]
    next_steps: list[RecoveryStep]
    ticket: str | None = Field(description="For whoever goes there; since it has needed a person.")


class RecoveryPage(Model):
    """`next` is the cursor of the next page; null on the last one."""

    model_config = _example({"items": [_RECOVERY], "next": None})

    items: list[Recovery]
    next: int | None


class RecoveryStop(Model):
    model_config = _example({"why": "the janitor is there"})

    why: Why


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


_PORT = {
    "switch": "core-1",
    "address": None,
    "port": "1.7",
    "profile": None,
    "backend": "dry-run",
}
_PORT_HELP = "As in `7`, or `1.7`: group and index of RFC 3621. For a hook, what it knows it by."
PortWord = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=text.LINE)]


class NewPowerPort(Model):
    """The port that feeds a client."""

    model_config = _example(_PORT)

    switch: Name = Field(description="What people call the switch.")
    address: Annotated[str, StringConstraints(min_length=1, max_length=270, pattern=text.LINE)] | None = Field(
        None, description="Of the switch, as in `10.0.0.2`, `switch.example:1161` or `[2001:db8::2]`."
    )
    port: PortWord = Field(description=_PORT_HELP)
    profile: PortWord | None = Field(None, description="The name of the settings of SNMP, or that of the hook.")
    backend: Backend = Backend.SNMP


class PowerPort(Model):
    model_config = _example(
        _PORT | {"client_uuid": _CLIENT, "name": "Bar left", "changed_at": _at("08:00:00"), "changed_by": "ann"}
    )

    client_uuid: UUID
    name: str | None = Field(description="Of the client.")
    switch: str
    address: str | None
    port: str
    profile: str | None
    backend: Backend
    changed_at: datetime
    changed_by: str


class PowerTest(Model):
    """How a port is. Nothing was changed."""

    model_config = _example({"is_on": True, "delivers": True, "words": "it delivers power", "fault": None})

    is_on: bool | None = Field(description="Null: it cannot be read.")
    delivers: bool | None = Field(description="Whether something takes power there; null if nothing can tell.")
    words: str
    fault: str | None = Field(description="Why it would not be switched off; null if it would.")


class NewPowerCycle(Model):
    # Another client than the one in the example of a command: that one has an open command then.
    model_config = _example({"client_uuid": _BATCH, "reason": "does not come back", "is_online_anyway": True})

    client_uuid: UUID
    reason: Why
    is_online_anyway: StrictBool = Field(
        False, description="The client may be online: somebody has looked, and wants to cut its power all the same."
    )


_CYCLE = {
    "id": 12,
    "client_uuid": _CLIENT,
    "switch": "core-1",
    "port": "1.7",
    "backend": "snmp",
    "state": "done",
    "is_held_off": False,
    "requested_at": _at("14:00:00"),
    "requested_by": "ann",
    "why": "does not come back",
    "owed_at": _at("14:00:01"),
    "must_be_on_by": _at("14:00:26"),
    "off_at": _at("14:00:01"),
    "on_at": _at("14:00:11"),
    "ended_at": _at("14:00:14"),
    "attempts": 0,
    "words": "it delivers power",
}


class PowerCycle(Model):
    model_config = _example(_CYCLE)

    id: int
    client_uuid: UUID
    switch: str
    port: str
    backend: Backend
    state: PowerState
    is_held_off: bool = Field(description="The port may be off, and should be on again by now.")
    requested_at: datetime
    requested_by: str
    why: str | None
    owed_at: datetime | None = Field(description="From then on the port had to be on again.")
    must_be_on_by: datetime | None
    off_at: datetime | None = Field(description="When the switch said so.")
    on_at: datetime | None
    ended_at: datetime | None
    attempts: int = Field(description="How often it could not be switched on again.")
    words: str | None = Field(description="What was said last.")


class PowerCyclePage(Model):
    """`next` is the cursor of the next page; null on the last one."""

    model_config = _example({"items": [_CYCLE], "next": None})

    items: list[PowerCycle]
    next: int | None


class Restored(Model):
    """A port that was owed; `why` is null if it is on again for sure."""

    model_config = _example({"cycle_id": 12, "client_uuid": _CLIENT, "switch": "core-1", "port": "1.7", "why": None})

    cycle_id: int
    client_uuid: UUID
    switch: str
    port: str
    why: str | None


class Whoami(Model):
    model_config = _example(
        {"name": "ann", "role": "operator", "may_shut_down": False, "has_password": True, "by_provider": False}
    )

    name: str
    role: Role
    may_shut_down: bool
    has_password: bool
    by_provider: bool = Field(description="Signs in by the OpenID provider, which says the role each time.")


class NewFreeze(Model):
    model_config = _example({"why": "trade fair", "until": _at("18:00:00")})

    why: Why
    until: Moment | None = None


_FREEZE = {
    "id": 3,
    "why": "trade fair",
    "made_by": "ann",
    "made_at": _at("08:00:00"),
    "begins_at": None,
    "until": _at("18:00:00"),
}


class Freeze(Model):
    model_config = _example(_FREEZE)

    id: int
    why: str
    made_by: str
    made_at: datetime
    begins_at: datetime | None = Field(description="Of an event of the calendar. By hand: it began when it was made.")
    until: datetime | None


class Calendar(Model):
    """The file of freezes. While it cannot be read (`fault`), the last good one counts."""

    file: str
    read_at: datetime | None
    events: int | None
    fault: str | None
    fault_since: datetime | None


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
            "calendar": None,
            "waiting": [
                {"rule": "freeze", "why": "frozen by ann: trade fair", "opens_at": _at("18:00:00"), "count": 12}
            ],
        }
    )

    freezes: list[Freeze]
    calendar: Calendar | None = Field(description="Null if none is set.")
    waiting: list[Waiting]


_MESSAGE = {
    "id": 7,
    "made_at": _at("14:01:00"),
    "title": "infoscreen: a client needs a person",
    "is_loud": True,
    "deliveries": [{"target": "mail", "state": "sent", "attempts": 1, "next_at": None, "words": None}],
}
_NOTICE = {
    "id": 12,
    "at": _at("14:00:00"),
    "kind": "needs_person",
    "subject": f"client/{_CLIENT}",
    "words": "alpine-bar-1 did not come back after a reboot",
    "site": "alpine",
    "content": {},
    "is_settled": True,
    "message": _MESSAGE,
}


class Delivery(Model):
    """A message to one target."""

    target: str
    state: Literal["waiting", "sent", "failed"]
    attempts: int
    next_at: datetime | None = Field(description="When it is tried again.")
    words: str | None = Field(description="Why it was not sent.")


class Message(Model):
    """What goes out. It tells one notice, or many of one kind."""

    id: int
    made_at: datetime
    title: str
    is_loud: bool
    deliveries: list[Delivery]


class Notice(Model):
    """Something that people are told. It is settled when a message tells it, or when none will (`message` is null)."""

    model_config = _example(_NOTICE)

    id: int
    at: datetime
    kind: Kind
    subject: str
    words: str
    site: str | None
    content: dict[str, Any]
    is_settled: bool
    message: Message | None


class NoticePage(Model):
    """`next` is the cursor of the next page; null on the last one."""

    model_config = _example({"items": [_NOTICE], "next": 12})

    items: list[Notice]
    next: int | None


_TARGET = {"name": "mail", "address": "mailtos://mail.example", "kinds": None, "only_loud": False}


class Target(Model):
    """Who is told. `kinds` is null for everything."""

    name: str
    address: str = Field(description="What kind of address it is, and its host; never a secret.")
    kinds: list[Kind] | None
    only_loud: bool
    waiting: int = Field(description="Messages that it has not taken, and that are tried again.")
    failed: int = Field(description="Those that were given up within the last day.")
    words: str | None = Field(description="Why one of them was not sent.")


class Targets(Model):
    model_config = _example({"targets": [_TARGET | {"waiting": 0, "failed": 0, "words": None}], "faults": []})

    targets: list[Target]
    faults: list[str] = Field(description="What cannot be used of the file of targets.")


class NotifyTest(Model):
    model_config = _example({"target": None})

    target: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=text.LINE)] | None = Field(
        None, description="Its name. Null: all."
    )


class TestSent(Model):
    """What came of a test message."""

    model_config = _example({"target": "mail", "address": "mailtos://mail.example", "is_sent": True, "words": None})

    target: str
    address: str
    is_sent: bool
    words: str | None


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
            "has_password": True,
            "by_provider": False,
            "created_at": _at("08:00:00"),
        }
    )

    name: str
    role: Role
    may_shut_down: bool
    is_disabled: bool
    has_password: bool
    by_provider: bool = Field(description="Signs in by the OpenID provider, which says the role each time.")
    created_at: datetime


class NewPassword(Model):
    model_config = _example({"password": "four words and a comma,", "current": None})

    password: Password = Field(
        description=f"{passwords.FEWEST} to {passwords.MOST} characters, no control characters, not the user's name."
    )
    current: Password | None = Field(None, description="Of your own, if you have one.")


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
    password: Password | None = Field(
        None, description="Your own: with it, your token may outlive the one that makes it."
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


# --- Schedules and sites

ScheduleName = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=text.LINE)]
SelectorText = Annotated[str, StringConstraints(max_length=1000)]
RuleText = Annotated[str, StringConstraints(min_length=1, max_length=recurrence.MOST)]
Clock = Annotated[str, StringConstraints(pattern="^([01][0-9]|2[0-3]):[0-5][0-9]$")]
Zone = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Day = Annotated[str, StringConstraints(pattern="^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]
_DAY_MIN = 24 * 60

_NEW_SCHEDULE: dict[str, Any] = {
    "name": "nightly",
    "selector": "site=alpine,room!=bar",
    "action": "reboot_host",
    "rule": "FREQ=WEEKLY;BYDAY=MO,TH",
    "start": "03:30",
    "zone": None,
    "window_min": 120,
    "spread_min": 60,
    "back_by_min": 150,
}


class NewSchedule(Model):
    """Commands go out from `start` on for `window_min`, or for as long as a client can still be back in time, if that
    is shorter."""

    model_config = _example(_NEW_SCHEDULE)

    name: ScheduleName
    selector: SelectorText = Field(description="Whom it means is looked at when a night begins.")
    action: Literal[Action.REBOOT_HOST] = Action.REBOOT_HOST
    rule: RuleText = Field(description="RFC 5545: FREQ=DAILY, WEEKLY or MONTHLY; INTERVAL, BYDAY, BYMONTHDAY, UNTIL.")
    start: Clock
    zone: Zone | None = Field(None, description="Null: each client's own (its label tz, its site's, or the fleet's).")
    window_min: StrictInt = Field(120, ge=1, le=_DAY_MIN)
    spread_min: StrictInt = Field(0, ge=0, le=_DAY_MIN, description="Over how long the clients are spread.")
    back_by_min: StrictInt | None = Field(
        None, ge=5, le=2 * _DAY_MIN, description="All back by so long after `start`. Null: a quarter of an hour later."
    )


class ScheduleChange(Model):
    """What is not named stays. `version` is that of the schedule that was looked at."""

    model_config = _example({"version": 1, "start": "04:00"})

    version: StrictInt = Field(ge=1, le=2**31 - 1)
    name: ScheduleName | None = None
    selector: SelectorText | None = None
    rule: RuleText | None = None
    start: Clock | None = None
    zone: Zone | None = None
    window_min: StrictInt | None = Field(None, ge=1, le=_DAY_MIN)
    spread_min: StrictInt | None = Field(None, ge=0, le=_DAY_MIN)
    back_by_min: StrictInt | None = Field(None, ge=5, le=2 * _DAY_MIN)


class Skip(Model):
    model_config = _example({"day": "2026-12-24"})

    day: Day = Field(description="The local day by which the night is called: the one on which it begins.")


_SCHEDULE = _NEW_SCHEDULE | {
    "id": _BATCH,
    "version": 1,
    "created_at": _at("14:00:00"),
    "created_by": "ann",
    "changed_at": _at("14:00:00"),
    "changed_by": "ann",
    "paused_at": None,
    "paused_by": None,
    "skips": ["2026-12-24"],
}


class Schedule(Model):
    model_config = _example(_SCHEDULE)

    id: UUID
    version: int
    name: str
    selector: str
    action: Action
    rule: str
    start: str
    zone: str | None
    window_min: int
    spread_min: int
    back_by_min: int
    created_at: datetime
    created_by: str
    changed_at: datetime
    changed_by: str
    paused_at: datetime | None
    paused_by: str | None
    skips: list[str] = Field(description="Local days that were taken out, from a week ago on.")


class Opening(Model):
    opens_at: datetime
    closes_at: datetime
    opens_local: str = Field(description="When it opens, in the window's own zone.")
    clocks: str | None = Field(description="How the clocks change while it is open, or in the 12 hours before.")


class Window(Model):
    """When clients may be sent commands; one entry of the setting `WINDOWS`."""

    model_config = _example(
        {
            "selector": "site=alpine",
            "days": ["sat", "sun"],
            "start": "01:00",
            "duration_h": 4,
            "zone": "Europe/Berlin",
            "clients": 38,
            "is_open": False,
            "openings": [
                {
                    "opens_at": "2027-03-28T00:00:00Z",
                    "closes_at": "2027-03-28T04:00:00Z",
                    "opens_local": "2027-03-28T01:00:00+01:00",
                    "clocks": "clocks go forward by 60 min at 02:00",
                }
            ],
        }
    )

    selector: str = Field(description="Empty: for all clients.")
    days: list[str] = Field(description="The local days on which it opens.")
    start: str
    duration_h: float = Field(description="Real time, in the nights in which the clocks change, too.")
    zone: str
    clients: int = Field(description="So many accepted clients have it now.")
    is_open: bool
    openings: list[Opening]


class ComingNight(Model):
    day: str
    starts_at: datetime
    starts_local: str = Field(description="The same in its own zone.")
    ends_at: datetime = Field(description="No command goes out from then on.")
    back_by: datetime
    clocks: str | None = Field(description="How the clocks change in this night, or in the 12 hours before it.")
    skipped_by: str | None


class Forecast(Model):
    """The next nights in one zone."""

    model_config = _example(
        {
            "zone": "Europe/Berlin",
            "clients": 38,
            "fault": None,
            "nights": [
                {
                    "day": "2027-03-28",
                    "starts_at": "2027-03-28T01:30:00Z",
                    "starts_local": "2027-03-28T03:30:00+02:00",
                    "ends_at": "2027-03-28T03:30:00Z",
                    "back_by": "2027-03-28T04:00:00Z",
                    "clocks": "clocks go forward by 60 min at 02:00",
                    "skipped_by": None,
                }
            ],
        }
    )

    zone: str
    clients: int
    fault: str | None = Field(description="Why there are none: the server knows no such zone.")
    nights: list[ComingNight]


class RunSchedule(Model):
    """What the preview of the run has shown."""

    model_config = _example({"clients": [_CLIENT, _BATCH], "hash": _HASH, "count": 2})

    clients: list[UUID] = Field(min_length=1, max_length=20_000)
    hash: str = Field(min_length=64, max_length=64)
    count: StrictInt | None = None


_NIGHT = {
    "id": _CLIENT,
    "schedule_id": _BATCH,
    "schedule": "nightly",
    "occurrence": "2026-11-26",
    "zone": "Europe/Berlin",
    "state": "ended",
    "starts_at": "2026-11-26T02:30:00Z",
    "ends_at": "2026-11-26T04:30:00Z",
    "back_by": "2026-11-26T05:00:00Z",
    "batch_id": _BATCH,
    "words": "1 not back, 37 back",
    "ended_at": "2026-11-26T05:00:00Z",
}


class Night(Model):
    """One occurrence in one zone."""

    model_config = _example(_NIGHT)

    id: UUID
    schedule_id: UUID
    schedule: str
    occurrence: str = Field(description="A local day; or `run` and a time, where a person began it.")
    zone: str
    state: NightState
    starts_at: datetime
    ends_at: datetime
    back_by: datetime
    batch_id: UUID | None
    words: str | None = Field(description="How it ended, or why it did not run.")
    ended_at: datetime | None


class NightPage(Model):
    """`next` is the cursor of the next page; null on the last one."""

    model_config = _example({"items": [_NIGHT], "next": None})

    items: list[Night]
    next: str | None


class ReportLine(Model):
    client_uuid: UUID
    name: str | None
    site: str | None
    outcome: NightOutcome
    why: str | None
    back_at: datetime | None
    command_id: UUID | None


class Report(Model):
    """How a night ended, client by client. What is heard later changes no report that is final."""

    model_config = _example(
        {
            "night": _NIGHT,
            "is_final": True,
            "counts": {"not_back": 1, "back_late": 0, "skipped": 0, "mock": 0, "back": 37},
            "lines": [
                {
                    "client_uuid": _CLIENT,
                    "name": "Bar left",
                    "site": "alpine",
                    "outcome": "not_back",
                    "why": "it did not come back in time",
                    "back_at": None,
                    "command_id": _COMMAND,
                }
            ],
        }
    )

    night: Night
    is_final: bool
    counts: dict[str, int]
    lines: list[ReportLine]


class SiteContent(Model):
    """What is not named is removed."""

    model_config = _example({"zone": "Europe/Vienna", "opening_hours": "mon-fri 08:00 12h", "note": "key at the desk"})

    zone: Zone | None = Field(None, description="An IANA name. Null: the fleet's.")
    opening_hours: Annotated[str, StringConstraints(max_length=80)] | None = Field(
        None, description="Days, start and duration, in the site's zone. Null: always."
    )
    note: Note | None = None


class Site(SiteContent):
    model_config = _example(
        {"name": "alpine", "zone": "Europe/Vienna", "opening_hours": "mon-fri 08:00 12h", "note": None}
    )

    name: str


class ViewContent(Model):
    """What is not named is not searched for."""

    model_config = _example({"condition": "offline", "selector": "site=alpine", "text": None})

    condition: Condition | None = None
    selector: SelectorText | None = None
    text: Name | None = Field(None, description="In their name, note, UUID or labels.")


class View(ViewContent):
    model_config = _example({"name": "dark at alpine", "condition": "offline", "selector": "site=alpine", "text": None})

    name: Name
