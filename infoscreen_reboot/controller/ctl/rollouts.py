"""`rollout`: many clients in stages, with a brake: a preview, the question, and what a person says to it later."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from infoscreen_reboot.controller.ctl import progress, times
from infoscreen_reboot.controller.ctl.act import ACTIONS, NOTHING, VERBS, Plan, confirm, holds, may_be_made
from infoscreen_reboot.controller.ctl.call import Call
from infoscreen_reboot.controller.ctl.outcome import Failure, Outcome, Refused, Unreachable
from infoscreen_reboot.controller.ctl.screen import PROGRAM, plural, usage
from infoscreen_reboot.controller.ctl.shapes import Client, Rollout, RolloutMember, RolloutPreview
from infoscreen_reboot.controller.ctl.targets import SHORT, clients_named, id_of, nobody

_COLUMNS = ("id", "made", "action", "#clients", "state", "stage", "by")


def preview(call: Call) -> Outcome:
    """Makes nothing."""
    plan = _plan(call)
    if call.screen.is_json:
        call.screen.document(plan.preview)
    else:
        _show_plan(call, plan)
    return Outcome.DONE if plan.preview["count"] else Outcome.REFUSED


def start(call: Call) -> Outcome:
    plan = _plan(call)
    count = plan.preview["count"]
    if not call.screen.is_json:
        _show_plan(call, plan)
    if count == 0:
        raise Failure(Outcome.REFUSED, "none of these clients can get it", NOTHING, {"preview": plan.preview})
    confirm(call, f"{plan.verb} {plural(count, 'client')} in {plural(len(_stages(plan)), 'stage')}?", count)
    content = {**plan.wish, "clients": plan.preview["clients"], "hash": plan.preview["hash"], "count": count}
    try:
        made: Rollout = call.connection.create("/rollouts", content, key=str(uuid4()))
    except Refused as refused:
        if refused.status == 412:
            refused.advice = f"{NOTHING} Run it again to see how things stand."
        if refused.status >= 500:
            raise may_be_made(refused, "rollout list") from None
        raise
    except (Unreachable, KeyboardInterrupt) as error:
        raise may_be_made(error, "rollout list") from None
    call.screen.say(f"Made rollout {made['id']}.")
    call.screen.say(
        f"It begins in 5 seconds. Until then nobody is touched: {PROGRAM} rollout abort {made['id'][:SHORT]}"
    )
    if call.options.watch:
        return progress.follow(call, made["id"], is_told=False)
    if call.screen.is_json:
        call.screen.document({"rollout": made, "exit_code": int(Outcome.DONE)})
    return Outcome.DONE


def _plan(call: Call) -> Plan:
    options = call.options
    if bool(options.clients) == (options.selector is not None):
        raise usage("say either clients or -l SELECTOR")
    if options.selector is not None and not options.selector.strip():
        raise usage("an empty selector means all clients, and is most likely a variable that is not set")
    if options.selector is not None:
        found: list[Client] = call.connection.get("/clients", selector=options.selector)
        whom: dict[str, Any] = {"selector": options.selector}
    else:
        found = clients_named(call.connection, options.clients)
        whom = {"clients": [client["uuid"] for client in found]}
    terms = _terms(options)
    shown: RolloutPreview = call.connection.send("POST", "/rollouts/preview", {**terms, **whom})
    if not shown["clients"]:
        raise nobody(options.selector)
    return Plan(terms, shown, {client["uuid"]: client for client in found})


def _terms(options: Any) -> dict[str, Any]:
    """What was typed; the server knows the rest."""
    typed = {
        "stages": options.stage,
        "max_failed": options.max_failed,
        "minimum_sample": options.minimum_sample,
        "settle_s": _seconds(options.settle),
        "pause_s": _seconds(options.pause),
        "wait_s": _seconds(options.wait),
        "labels": dict(options.set) if options.set else None,
    }
    known = {name: value for name, value in typed.items() if value is not None}
    return {
        "action": ACTIONS[options.action],
        "reason": options.reason,
        "someone_is_there": options.someone_is_there,
        **known,
    }


def _seconds(span: Any) -> int | None:
    return None if span is None else int(span.total_seconds())


def _stages(plan: Plan) -> list[Any]:
    shown: Any = plan.preview
    return list(shown["stages"])


def _show_plan(call: Call, plan: Plan) -> None:
    screen, shown = call.screen, plan.preview
    reason = f": {plan.wish['reason']}" if plan.wish["reason"] else ""
    screen.title(f"{plan.verb} {plural(len(shown['clients']), 'client')} in stages{reason}")
    screen.say()
    screen.facts((("get it", shown["count"]), ("do not get it", plan.left_out)), indent=2)
    screen.say()
    rows = [(len(each["clients"]), each["name"], each["brake"]) for each in _stages(plan)]
    screen.table(("#clients", "stage", "the brake, if all went well before"), rows, indent=2)
    if shown["held"]:
        screen.say()
        screen.table(("held by", "#clients", "opens", "such as"), holds(call, plan), indent=2)
    screen.say()


# --- What there is


def rollouts(call: Call) -> Outcome:
    found: list[Rollout] = call.connection.pages("/rollouts", most=call.options.limit)
    if call.screen.is_json:
        call.screen.document(found)
        return Outcome.DONE
    rows = [
        (
            each["id"][:SHORT],
            times.clock(each["created_at"], call.now),
            each["action"].removesuffix("_host"),
            sum(each["states"].values()),
            each["state"],
            f"{each['stage']} of {len(each['stages'])}",
            each["created_by"],
        )
        for each in found
    ]
    call.screen.listing(_COLUMNS, rows, "No rollouts.")
    return Outcome.DONE


def show(call: Call) -> Outcome:
    found = _id(call)
    rollout: Rollout = call.connection.get(f"/rollouts/{found}")
    members: list[RolloutMember] = call.connection.get(f"/rollouts/{found}/members", stage=call.options.stage)
    if call.screen.is_json:
        call.screen.document({"rollout": rollout, "members": members})
        return Outcome.DONE
    show_rollout(call, rollout)
    call.screen.say()
    rows = [
        (each["stage"], each["name"] or each["client_uuid"], each["state"], (each["command_id"] or "-")[:SHORT])
        for each in members
    ]
    call.screen.listing(("#stage", "client", "state", "command"), rows, "No members.")
    return Outcome.DONE


def show_rollout(call: Call, rollout: Rollout) -> None:
    """All but its members."""
    pairs: list[tuple[str, object]] = [
        ("rollout", rollout["id"]),
        ("action", VERBS[rollout["action"]]),
        ("reason", rollout["reason"]),
        ("made", f"{times.stamp(rollout['created_at'])} by {rollout['created_by']}"),
        ("state", rollout["state"]),
    ]
    if rollout["why"] is not None:
        pairs.append(("why", rollout["why"]))
    if rollout["due_at"] is not None:
        pairs.append(("goes on", times.until(rollout["due_at"], call.now)))
    pairs.append(("brake", f"at most {rollout['max_failed']}; {rollout['brake']['words']}"))
    if rollout["labels"]:
        pairs.append(("sets", ", ".join(f"{key}={value}" for key, value in sorted(rollout["labels"].items()))))
    if rollout["recovery_off"]:
        pairs.append(("recovery", f"off for its clients, until: {PROGRAM} rollout recovery {rollout['id'][:SHORT]}"))
    call.screen.facts(pairs)
    call.screen.say()
    rows = [
        (
            f"{each['number']}{' <' if each['number'] == rollout['stage'] else ''}",
            each["name"],
            sum(each["states"].values()),
            progress.counted(each["states"]),
        )
        for each in rollout["stages"]
    ]
    call.screen.table(("stage", "name", "#clients", "states"), rows)


# --- What a person says


def watch(call: Call) -> Outcome:
    return progress.follow(call, _id(call), is_told=True)


def pause(call: Call) -> Outcome:
    content = None if call.options.reason is None else {"why": call.options.reason}
    return _say(call, "pause", "Paused. What was not sent is taken back; what runs runs on.", content)


def resume(call: Call) -> Outcome:
    return _say(call, "resume", "It goes on.")


def abort(call: Call) -> Outcome:
    return _say(call, "abort", "Aborted. What was not sent is cancelled; what runs runs on.")


def recovery(call: Call) -> Outcome:
    return _say(call, "recovery", "Its clients may be recovered again.")


def roll_back(call: Call) -> Outcome:
    answer = call.connection.send("POST", f"/rollouts/{_id(call)}/rollback")
    if call.screen.is_json:
        call.screen.document(answer)
    call.screen.say(f"Rolled back. {plural(answer['cancelled'], 'command')} cancelled.")
    call.screen.say(f"Labels restored: {plural(answer['labels_restored'], 'client')}.")
    if answer["labels_left"]:
        call.screen.say(f"Changed by somebody since, and left as they are: {plural(answer['labels_left'], 'client')}.")
    return Outcome.DONE


def _say(call: Call, what: str, words: str, content: Any = None) -> Outcome:
    answer: Rollout = call.connection.send("POST", f"/rollouts/{_id(call)}/{what}", content)
    if call.screen.is_json:
        call.screen.document(answer)
    call.screen.say(words)
    return Outcome.DONE


def _id(call: Call) -> str:
    return id_of(call.connection, "rollouts", call.options.id)
