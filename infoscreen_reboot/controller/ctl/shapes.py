"""What the API answers, as far as this program reads it."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict


class Hold(TypedDict):
    rule: str
    why: str
    opens_at: str | None
    opens_at_local: NotRequired[str | None]
    zone: NotRequired[str | None]


class Client(TypedDict):
    uuid: str
    name: str | None
    note: str | None
    standing: str
    labels: dict[str, str]
    condition: str | None
    is_online: bool
    presence_reason: str | None
    boot_id: str | None
    heard_at: str | None
    two_hosts: bool
    open_command_id: str | None
    recovery_id: int | None
    recovery_state: str | None
    alerts: list[str]


class Command(TypedDict):
    id: str
    client_uuid: str
    batch_id: str | None
    action: str
    state: str
    is_open: bool
    reason: str | None
    created_at: str
    created_by: str
    via: str
    expires_at: str
    wait_until: str | None
    hold: Hold | None
    waits_for: str | None
    due_at: str | None
    error_code: str | None
    error_message: str | None
    late: str | None
    evidence: dict[str, str | None]


class Page(TypedDict):
    items: list[Any]
    next: str | None


class Event(TypedDict):
    seq: int
    at: str
    kind: str
    client_uuid: str | None
    command_id: str | None
    batch_id: str | None
    content: dict[str, Any]


class Rule(TypedDict):
    rule: str
    is_yes: bool
    hold: str | None
    opens_at: str | None
    warning: str | None
    inputs: dict[str, Any]


class Explanation(TypedDict):
    command: Command
    rules: list[Rule]
    events: list[Event]


class Preview(TypedDict):
    action: str
    hash: str
    count: int
    clients: list[str]
    eligible: list[str]
    held: dict[str, Hold]
    held_by_rule: dict[str, int]
    warnings: dict[str, list[str]]


class Batch(TypedDict):
    id: str
    action: str
    reason: str | None
    created_at: str
    created_by: str
    send_at: str
    states: dict[str, int]
    is_over: bool


class Member(TypedDict):
    client_uuid: str
    name: str | None
    command_id: str
    state: str
    kind: str | None
    why: str | None


class PlannedStage(TypedDict):
    name: str
    clients: list[str]
    brake: str


class RolloutPreview(Preview):
    max_failed: str
    stages: list[PlannedStage]


class RolloutStage(TypedDict):
    number: int
    name: str
    began_at: str | None
    ended_at: str | None
    states: dict[str, int]
    batches: list[str]


class Rollout(TypedDict):
    id: str
    action: str
    reason: str | None
    created_at: str
    created_by: str
    state: str
    is_over: bool
    why: str | None
    changed_by: str | None
    due_at: str | None
    stage: int
    recovery_off: bool
    max_failed: str
    labels: dict[str, str]
    states: dict[str, int]
    brake: dict[str, Any]
    stages: list[RolloutStage]


class RolloutMember(TypedDict):
    client_uuid: str
    name: str | None
    stage: int
    command_id: str | None
    state: str
    counted: str | None
    late: str | None


class Whoami(TypedDict):
    name: str
    role: str
    may_shut_down: bool
    has_password: bool
    by_provider: bool


class Freeze(TypedDict):
    id: int
    why: str
    made_by: str
    made_at: str
    begins_at: str | None
    until: str | None


class Delivery(TypedDict):
    target: str
    state: str


class Message(TypedDict):
    title: str
    deliveries: list[Delivery]


class Notice(TypedDict):
    id: int
    at: str
    kind: str
    words: str
    is_settled: bool
    message: Message | None


class Target(TypedDict):
    name: str
    address: str
    kinds: list[str] | None
    only_loud: bool
    waiting: int
    failed: int
    words: str | None


class TestSent(TypedDict):
    target: str
    address: str
    is_sent: bool
    words: str | None


class Site(TypedDict):
    name: str
    zone: str | None
    opening_hours: str | None
    note: str | None


class Schedule(TypedDict):
    id: str
    version: int
    name: str
    selector: str
    action: str
    rule: str
    start: str
    zone: str | None
    window_min: int
    spread_min: int
    back_by_min: int
    created_at: str
    created_by: str
    changed_at: str
    changed_by: str
    paused_at: str | None
    paused_by: str | None
    skips: list[str]


class ComingNight(TypedDict):
    day: str
    starts_at: str
    starts_local: str
    ends_at: str
    back_by: str
    clocks: str | None
    skipped_by: str | None


class Opening(TypedDict):
    opens_at: str
    closes_at: str
    opens_local: str
    clocks: str | None


class Window(TypedDict):
    selector: str
    days: list[str]
    start: str
    duration_h: float
    zone: str
    clients: int
    is_open: bool
    openings: list[Opening]


class Forecast(TypedDict):
    zone: str
    clients: int
    fault: str | None
    nights: list[ComingNight]


class Night(TypedDict):
    id: str
    schedule_id: str
    schedule: str
    occurrence: str
    zone: str
    state: str
    starts_at: str
    ends_at: str
    back_by: str
    batch_id: str | None
    words: str | None
    ended_at: str | None


class Tried(TypedDict):
    step: str
    at: str
    outcome: str | None


class Recovery(TypedDict):
    id: int
    client_uuid: str
    command_id: str
    state: str
    is_open: bool
    words: str
    began_at: str
    due_at: str | None
    ended_at: str | None
    tried: list[Tried]
    next_steps: list[str]
    ticket: str | None


class PowerPort(TypedDict):
    client_uuid: str
    name: str | None
    switch: str
    address: str | None
    port: str
    profile: str | None
    backend: str


class PowerCycle(TypedDict):
    id: int
    client_uuid: str
    switch: str
    port: str
    state: str
    is_held_off: bool
    owed_at: str | None
    attempts: int
    words: str | None
