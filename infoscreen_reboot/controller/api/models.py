"""What goes into the API and comes out of it; the examples stand in the OpenAPI document."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.controller.lifecycle import Proof, State, Step
from infoscreen_reboot.controller.safety import Standing

Reason = Annotated[str, StringConstraints(max_length=500)]
Key = Annotated[str, StringConstraints(min_length=1, max_length=128)]
_UUID = "9b8d1856-ff34-4864-a726-12de072d0f77"


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Wish(Model):
    """What is asked for, whoever gets it."""

    action: Action
    reason: Reason | None = Field(None, examples=["player frozen"])
    wait_until: datetime | None = Field(
        None, description="Until when it may wait for a hold that ends by itself; at most 24 hours. Null: do not wait."
    )
    someone_is_there: bool = Field(False, description="For a shutdown: someone will switch the client on again.")


class NewCommand(Wish):
    client_uuid: UUID = Field(examples=[_UUID])
    command_id: UUID | None = Field(None, description="Made by you: the same request with it makes nothing more.")


class Hold(Model):
    """Why a command may not go now."""

    rule: str = Field(examples=["lockout"])
    why: str = Field(examples=["3 reboots of this client in the last 15 minutes"])
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


class Command(Model):
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

    items: list[Command]
    next: str | None


class Event(Model):
    seq: int
    at: datetime
    kind: str
    client_uuid: UUID | None
    command_id: UUID | None
    batch_id: UUID | None
    content: dict[str, Any]


class Rule(Model):
    rule: str
    is_yes: bool
    hold: str | None
    opens_at: datetime | None
    warning: str | None
    inputs: dict[str, Any]


class Explanation(Model):
    """Every rule with its inputs and its answer, as things stand now, and what happened so far."""

    command: Command
    rules: list[Rule]
    events: list[Event]


class Selection(Model):
    """Whom it is about: either ids, or a selector. Only accepted clients are meant by a selector."""

    clients: list[UUID] | None = Field(None, max_length=20_000)
    selector: str | None = Field(None, max_length=1000, examples=["site=alpine,room!=bar"])


class PreviewRequest(Wish, Selection):
    pass


class Preview(Model):
    """What would come of it. Send `hash` and, from two clients on, `count` when you create the batch."""

    action: Action
    hash: str
    count: int
    clients: list[UUID]
    held: dict[str, Hold]
    held_by_rule: dict[str, int]
    warnings: dict[str, list[str]]


class NewBatch(Wish):
    clients: list[UUID] = Field(min_length=1, max_length=20_000)
    hash: str = Field(min_length=64, max_length=64)
    count: int | None = None


class Batch(Model):
    id: UUID
    action: Action
    reason: str | None
    created_at: datetime
    created_by: str
    send_at: datetime
    states: dict[str, int] = Field(description="How many of its commands are in each state.")
    is_over: bool


class Member(Model):
    client_uuid: UUID
    name: str | None
    command_id: UUID
    state: State


class Cancelled(Model):
    """How many were stopped, and how many could not be any more."""

    cancelled: int
    too_late: int


class Client(Model):
    uuid: UUID
    name: str | None
    note: str | None
    standing: Standing
    labels: dict[str, str]
    is_online: bool
    presence_reason: str | None
    boot_id: str | None
    heard_at: datetime | None
    two_hosts: bool
    open_command_id: UUID | None
    alerts: list[str]


class Whoami(Model):
    name: str
    role: str
    may_shut_down: bool


class NewFreeze(Model):
    why: Annotated[str, StringConstraints(min_length=1, max_length=500)]
    until: datetime | None = None


class Freeze(Model):
    id: int
    why: str
    made_by: str
    made_at: datetime
    until: datetime | None


class ClientChange(Model):
    name: Annotated[str, StringConstraints(max_length=128)] | None = None
    note: Annotated[str, StringConstraints(max_length=2000)] | None = None
    labels: dict[str, str | None] | None = Field(None, examples=[{"site": "alpine", "spare": None}])


class NewStanding(Model):
    standing: Standing
