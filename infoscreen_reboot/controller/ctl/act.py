"""`reboot`, `shutdown` and `batch retry`: what would come of it, the question, and then just that or nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from infoscreen_reboot.controller.ctl import course, times
from infoscreen_reboot.controller.ctl.call import Call
from infoscreen_reboot.controller.ctl.outcome import Failure, Outcome, Refused, Unreachable
from infoscreen_reboot.controller.ctl.screen import PROGRAM, clean, plural, usage
from infoscreen_reboot.controller.ctl.shapes import Client, Hold, Preview
from infoscreen_reboot.controller.ctl.targets import SHORT, clients_named, id_of, name_of, nobody
from infoscreen_reboot.controller.ctl.watch import summary, to_end

# The contract's words for what the program calls by a verb.
ACTIONS = {"reboot": "reboot_host", "shutdown": "shutdown_host"}
VERBS = {"reboot_host": "Reboot", "shutdown_host": "Shut down"}
_SHOWN_NAMES = 20
NOTHING = "Nothing was made."


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for, and what was seen: the preview, and the clients in it by UUID."""

    wish: Mapping[str, Any]
    preview: Preview
    clients: Mapping[str, Client]

    @property
    def verb(self) -> str:
        return VERBS[self.preview["action"]]

    @property
    def ready(self) -> list[str]:
        """They get it at once."""
        return [uuid for uuid in self.preview["clients"] if uuid not in self.preview["held"]]

    @property
    def waiting(self) -> int:
        """How many get it later, when what holds them ends."""
        return self.preview["count"] - len(self.ready)

    @property
    def left_out(self) -> int:
        return len(self.preview["held"]) - self.waiting

    def name(self, uuid: str) -> str:
        return name_of(self.clients[uuid]) if uuid in self.clients else uuid


def act(call: Call) -> Outcome:
    """`reboot` and `shutdown`."""
    options = call.options
    if bool(options.clients) == (options.selector is not None):
        raise usage("say either clients or -l SELECTOR")
    if options.selector is not None and not options.selector.strip():
        raise usage("an empty selector means all clients, and is most likely a variable that is not set")
    wish = {
        "action": ACTIONS[options.command],
        "reason": options.reason,
        **_how(call),
    }
    if options.selector is not None:
        found: list[Client] = call.connection.get("/clients", selector=options.selector)
        whom: dict[str, Any] = {"selector": options.selector}
    else:
        found = clients_named(call.connection, options.clients)
        whom = {"clients": [client["uuid"] for client in found]}
    preview: Preview = call.connection.send("POST", "/batches/preview", {**wish, **whom})
    if not preview["clients"]:
        raise nobody(options.selector)
    plan = Plan(wish, preview, {client["uuid"]: client for client in found})
    return _one(call, plan) if len(preview["clients"]) == 1 else _many(call, plan)


def _how(call: Call) -> dict[str, Any]:
    options = call.options
    return {
        "wait_until": None if options.wait_until is None else times.as_sent(options.wait_until),
        "someone_is_there": options.someone_is_there,
    }


def retry(call: Call) -> Outcome:
    """The members of a batch that did not come back, or that a rule refused."""
    batch_id = id_of(call.connection, "batches", call.options.id)
    batch = call.connection.get(f"/batches/{batch_id}")
    how = _how(call)
    preview: Preview = call.connection.send("POST", f"/batches/{batch_id}/retry", how)
    wish = {"action": preview["action"], "reason": batch["reason"], **how}
    everybody: list[Client] = call.connection.get("/clients")
    wanted = set(preview["clients"])
    plan = Plan(wish, preview, {client["uuid"]: client for client in everybody if client["uuid"] in wanted})
    return _many(call, plan)


# --- One client


def _one(call: Call, plan: Plan) -> Outcome:
    [uuid] = plan.preview["clients"]
    name = plan.name(uuid)
    hold = plan.preview["held"].get(uuid)
    if plan.preview["count"] == 0 and hold is not None:
        raise _held(call, plan, f"{name}: {hold['why']}", hold)
    if not call.screen.is_json:
        for warning in plan.preview["warnings"].get(uuid, []):
            call.screen.say(f"Warning: {name}: {warning}", "yellow")
        if hold is not None:
            until = times.clock(plan.wish["wait_until"], call.now)
            call.screen.say(f"{name} waits until {until} at most: {hold['why']}", "yellow")
    _confirm_one(call, f"{plan.verb} {name}{_labels(plan.clients.get(uuid))}? [y/N]", plan.preview)
    command_id = str(uuid4())
    content = {**plan.wish, "client_uuid": uuid, "command_id": command_id}
    try:
        command = call.connection.create("/commands", content)
    except Refused as refused:
        if refused.status >= 500:
            raise may_be_made(refused, f"watch {command_id}") from None
        if refused.kind == "held":
            _add_opening(call, refused)
        raise
    except (Unreachable, KeyboardInterrupt) as error:
        raise may_be_made(error, f"watch {command_id}") from None
    return _made(call, plan, "commands", "command", command)


def _labels(client: Client | None) -> str:
    if client is None or not client["labels"]:
        return ""
    return f" ({', '.join(f'{key} {value}' for key, value in sorted(client['labels'].items()))})"


def _confirm_one(call: Call, question: str, preview: Preview | None) -> None:
    if _is_confirmed(call, 1, preview):
        return
    if call.screen.ask(question).lower() not in ("y", "yes"):
        raise Failure(Outcome.REFUSED, "not confirmed", NOTHING)


def _add_opening(call: Call, refused: Refused) -> None:
    if refused.problem.get("opens_at") is not None:
        refused.advice = f"It opens at {times.opens(refused.problem, call.now)}."


def _held(call: Call, plan: Plan, sentence: str, hold: Hold) -> Failure:
    """Nobody can get it: a refusal by a rule, or for want of the right to shut down."""
    rules = set(plan.preview["held_by_rule"])
    outcome = Outcome.NOT_PERMITTED if rules == {"right_to_shut_down"} else Outcome.REFUSED
    advice = NOTHING
    if hold["opens_at"] is not None:
        advice = f"It opens at {times.opens(hold, call.now)}. {NOTHING}"
    elif hold["rule"] in ("online", "one_open_command", "budget", "fleet_cap"):
        advice = f"{NOTHING} To let it wait: --wait-until 1h"
    elif hold["rule"] == "can_be_woken":
        advice = f"{NOTHING} If someone will switch it on again: --someone-is-there"
    return Failure(outcome, sentence, advice, {"kind": "held", "preview": plan.preview})


# --- Many


def _many(call: Call, plan: Plan) -> Outcome:
    if not call.screen.is_json:
        show_preview(call, plan)
    count = plan.preview["count"]
    if count == 0:
        hold = min(plan.preview["held"].values(), key=_opens_first)
        raise _held(call, plan, f"none of {plural(len(plan.preview['clients']), 'client')} can get it now", hold)
    if count == 1:
        waits = len(plan.ready) == 0
        whom = "one client" if waits else plan.name(plan.ready[0])
        _confirm_one(call, f"{plan.verb} {whom}? [y/N]", plan.preview)
    else:
        _confirm_count(call, f"{plan.verb} {count} clients?", count, plan.preview)
    content = {
        **plan.wish,
        "clients": plan.preview["clients"],
        "hash": plan.preview["hash"],
        "count": count,
    }
    try:
        batch = call.connection.create("/batches", content, key=str(uuid4()))
    except Refused as refused:
        if refused.status == 412:
            raise _moved(call, plan, refused) from None
        if refused.status >= 500:
            raise may_be_made(refused, "batch list") from None
        raise
    except (Unreachable, KeyboardInterrupt) as error:
        raise may_be_made(error, "batch list") from None
    if not call.screen.is_json:
        call.screen.say(f"Made batch {batch['id']}.")
        call.screen.say(f"It can be taken back for 5 seconds: {PROGRAM} cancel {batch['id'][:SHORT]}")
    return _made(call, plan, "batches", "batch", batch)


def _opens_first(hold: Hold) -> str:
    return hold["opens_at"] or "~"


def confirm(call: Call, question: str, count: int) -> None:
    """Asks as for a reboot: y or n for one, the typed count from two on, `--yes COUNT` for scripts."""
    if count == 1:
        _confirm_one(call, f"{question} [y/N]", None)
    else:
        _confirm_count(call, question, count, None)


def _confirm_count(call: Call, question: str, count: int, preview: Preview | None) -> None:
    if _is_confirmed(call, count, preview):
        return
    typed = call.screen.ask(f"{question} Type {count} to go on:")
    if typed != str(count):
        raise Failure(Outcome.REFUSED, "not confirmed", NOTHING)


def _is_confirmed(call: Call, count: int, preview: Preview | None) -> bool:
    """By --yes. Without it there has to be a terminal to ask on. Raises Failure."""
    given = call.options.yes
    if given == count:
        return True
    if given is None and call.screen.can_ask:
        return False
    about = f"this is about {plural(count, 'client')}"
    advice = f"{NOTHING} If you mean that number: --yes {count}"
    document = {"kind": "not_confirmed", "count": count, "preview": preview}
    if given is None:
        raise Failure(Outcome.USAGE, f"there is no terminal to ask on, and {about}", advice, document)
    raise Failure(Outcome.REFUSED, f"--yes {given}, but {about}", advice, document)


def show_preview(call: Call, plan: Plan) -> None:
    preview, screen = plan.preview, call.screen
    reason = f": {plan.wish['reason']}" if plan.wish["reason"] else ""
    screen.title(f"{plan.verb} {plural(len(preview['clients']), 'client')}{reason}")
    screen.say()
    rows: list[tuple[str, object]] = [("get it now", len(plan.ready))]
    if plan.wish["wait_until"] is not None:
        until = times.until(plan.wish["wait_until"], call.now)
        rows.append((f"wait for what holds them, until {until}", plan.waiting))
    rows.append(("do not get it", plan.left_out))
    screen.facts(rows, indent=2)
    _show_names(call, plan)
    if preview["held"]:
        screen.say()
        screen.table(("held by", "#clients", "opens", "such as"), holds(call, plan), indent=2)
    if preview["warnings"]:
        screen.say()
        warned = Counter(word for words in preview["warnings"].values() for word in words)
        screen.table(("#clients", "warning"), [(count, word) for word, count in warned.most_common()], indent=2)
    screen.say()


def _show_names(call: Call, plan: Plan) -> None:
    names = sorted(plan.name(uuid) for uuid in plan.ready)
    if not names:
        return
    shown = [clean(name) for name in names[:_SHOWN_NAMES]]
    if len(names) > len(shown):
        shown.append(f"and {len(names) - len(shown)} more")
    call.screen.say()
    call.screen.paragraph(", ".join(shown), indent=2)


def holds(call: Call, plan: Plan) -> list[tuple[object, ...]]:
    """A row for each rule: how many it holds, until when, and one of them."""
    rows: list[tuple[object, ...]] = []
    for rule, count in sorted(plan.preview["held_by_rule"].items()):
        holds = {uuid: hold for uuid, hold in plan.preview["held"].items() if hold["rule"] == rule}
        first = min(holds.values(), key=_opens_first)
        opens = times.opens(first, call.now)
        name = next(plan.name(uuid) for uuid, hold in holds.items() if hold is first)
        rows.append((rule, count, opens, f"{name}: {first['why']}"))
    return rows


def _moved(call: Call, plan: Plan, refused: Refused) -> Failure:
    """What is another way now than it was shown."""
    whom = {"clients": plan.preview["clients"]}
    now: Preview = call.connection.send("POST", "/batches/preview", {**plan.wish, **whom})
    before, after = plan.preview["held"], now["held"]
    moved = []
    for uuid in plan.preview["clients"]:
        was = before[uuid]["rule"] if uuid in before else None
        rule = after[uuid]["rule"] if uuid in after else None
        if was != rule:
            moved.append(f"{plan.name(uuid)}: {after[uuid]['why'] if rule is not None else 'is free now'}")
    if not call.screen.is_json:
        call.screen.say("Since the preview:")
        for line in moved[:_SHOWN_NAMES]:
            call.screen.say(f"  {line}")
        if len(moved) > _SHOWN_NAMES:
            call.screen.say(f"  and {len(moved) - _SHOWN_NAMES} more")
    sentence = f"something has moved since the preview: {plural(len(moved), 'client')}"
    return Failure(refused.outcome, sentence, f"{NOTHING} Run it again to see how things stand.", refused.problem)


# --- Made


def may_be_made(error: BaseException, look: str) -> Failure:
    """The answer to what was to be made is lost; `look` is the command that shows whether it is there."""
    outcome = Outcome.INTERRUPTED if isinstance(error, KeyboardInterrupt) else Outcome.UNREACHABLE
    words = str(error) or "interrupted"
    return Failure(outcome, words, f"It is not known whether it was made. Look: {PROGRAM} {look}")


def _made(call: Call, plan: Plan, kind: str, name: str, made: Any) -> Outcome:
    document = {"preview": plan.preview, name: made}
    if not call.options.watch:
        if call.screen.is_json:
            call.screen.document(document | {"exit_code": int(Outcome.DONE)})
        call.screen.say(f"Made. To see how it goes on: {PROGRAM} watch {made['id']}")
        return Outcome.DONE
    commands = to_end(call, kind, made["id"], is_told=False)
    outcome = course.outcome(commands)
    if call.screen.is_json:
        call.screen.document(document | summary(commands, outcome))
    return outcome
