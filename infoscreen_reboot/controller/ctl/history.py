"""`commands`, `batch`, `explain` and `cancel`: what was made, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from infoscreen_reboot.controller.ctl import course, times
from infoscreen_reboot.controller.ctl.call import Call
from infoscreen_reboot.controller.ctl.course import STATES
from infoscreen_reboot.controller.ctl.outcome import Failure, Outcome
from infoscreen_reboot.controller.ctl.screen import clean
from infoscreen_reboot.controller.ctl.shapes import Batch, Client, Command, Explanation, Member, Rule
from infoscreen_reboot.controller.ctl.targets import SHORT, client_named, command_or_batch, id_of


def commands(call: Call) -> Outcome:
    options = call.options
    client = None if options.client is None else client_named(call.connection, options.client)["uuid"]
    batch = None if options.batch is None else id_of(call.connection, "batches", options.batch)
    is_open = "true" if options.open else None
    found: list[Command] = call.connection.pages(
        "/commands", most=options.limit, client=client, batch=batch, state=options.state, open=is_open
    )
    if call.screen.is_json:
        call.screen.document(found)
        return Outcome.DONE
    names = _names(call) if found else {}
    rows = [
        (
            each["id"][:SHORT],
            times.clock(each["created_at"], call.now),
            names.get(each["client_uuid"], each["client_uuid"]),
            each["action"].removesuffix("_host"),
            each["state"],
            each["created_by"],
        )
        for each in found
    ]
    call.screen.listing(("id", "made", "client", "action", "state", "by"), rows, "No commands.")
    return Outcome.DONE


def batches(call: Call) -> Outcome:
    found: list[Batch] = call.connection.pages("/batches", most=call.options.limit)
    if call.screen.is_json:
        call.screen.document(found)
        return Outcome.DONE
    rows = [
        (
            each["id"][:SHORT],
            times.clock(each["created_at"], call.now),
            each["action"].removesuffix("_host"),
            sum(each["states"].values()),
            _counted(each["states"]),
            each["created_by"],
        )
        for each in found
    ]
    call.screen.listing(("id", "made", "action", "#clients", "states", "by"), rows, "No batches.")
    return Outcome.DONE


def show_batch(call: Call) -> Outcome:
    batch_id = id_of(call.connection, "batches", call.options.id)
    batch: Batch = call.connection.get(f"/batches/{batch_id}")
    members: list[Member] = call.connection.get(f"/batches/{batch_id}/members", state=call.options.state)
    if call.screen.is_json:
        call.screen.document({"batch": batch, "members": members})
        return Outcome.DONE
    call.screen.facts(
        (
            ("batch", batch["id"]),
            ("action", batch["action"]),
            ("reason", batch["reason"]),
            ("made", f"{times.stamp(batch['created_at'])} by {batch['created_by']}"),
            ("states", _counted(batch["states"])),
        )
    )
    call.screen.say()
    rows = [
        (each["name"] or each["client_uuid"], each["state"], each["command_id"][:SHORT], _why(each)) for each in members
    ]
    call.screen.listing(("client", "state", "command", "why"), rows, "No members.")
    return Outcome.DONE


def _why(member: Member) -> str:
    if member["why"] is None and member["state"] == "timed_out":
        return f"too late: {member['kind']}"
    return member["why"] or member["kind"] or ""


def cancel(call: Call) -> Outcome:
    """A command, or all of a batch that was not sent."""
    kind, found = command_or_batch(call.connection, call.options.id)
    answer = call.connection.send("POST", f"/{kind}/{found}/cancel")
    if call.screen.is_json:
        call.screen.document(answer)
    if kind == "commands":
        call.screen.say("Cancelled. It was not sent.")
        return Outcome.DONE
    stopped, late = answer["cancelled"], answer["too_late"]
    call.screen.say(f"{stopped} of {stopped + late} were stopped.")
    if not late:
        return Outcome.DONE
    if call.screen.is_json:
        return Outcome.REFUSED
    raise Failure(Outcome.REFUSED, f"{late} could not be stopped any more: they were sent, or have ended")


def explain(call: Call) -> Outcome:
    """Every rule with its inputs, and what happened so far."""
    command_id = id_of(call.connection, "commands", call.options.id)
    told: Explanation = call.connection.get(f"/commands/{command_id}/explain")
    if call.screen.is_json:
        call.screen.document(told)
        return Outcome.DONE
    command = told["command"]
    client: Client = call.connection.get(f"/clients/{command['client_uuid']}")
    call.screen.facts(_about(call, command, client))
    call.screen.say()
    call.screen.title("Evidence")
    call.screen.facts([(name, _shown(name, value)) for name, value in command["evidence"].items() if value], indent=2)
    call.screen.say()
    call.screen.title("Rules, asked again now as if this command was not there")
    call.screen.table(("rule", "answer", "inputs"), [_rule(call, rule) for rule in told["rules"]], indent=2)
    call.screen.say()
    call.screen.title("Events")
    rows = [(times.stamp(event["at"]), course.words_of(event) or event["kind"]) for event in told["events"]]
    call.screen.table(("at", "what"), rows, indent=2)
    return Outcome.DONE


def _about(call: Call, command: Command, client: Client) -> list[tuple[str, object]]:
    pairs: list[tuple[str, object]] = [
        ("command", command["id"]),
        ("client", f"{client['name'] or '(no name)'}, {client['uuid']}"),
        ("action", command["action"]),
        ("state", course.why(command)),
        ("reason", command["reason"]),
        ("made", f"{times.stamp(command['created_at'])} by {command['created_by']} ({command['via']})"),
        ("expires", times.stamp(command["expires_at"])),
    ]
    if command["waits_for"] is not None:
        pairs.append(("waits for", f"{command['waits_for']}, until {times.until(command['due_at'], call.now)}"))
    if command["hold"] is not None:
        pairs.append(("held by", f"{command['hold']['rule']}: {command['hold']['why']}"))
        if command["is_open"]:
            pairs.append(("opens", times.opens(command["hold"], call.now)))
    if command["late"] is not None:
        pairs.append(("late truth", f"the client says {command['late']}"))
    return pairs


def _rule(call: Call, rule: Rule) -> Sequence[object]:
    answer = "ok"
    if rule["warning"] is not None:
        answer = f"warning: {rule['warning']}"
    if not rule["is_yes"]:
        opens = f"; opens {times.until(rule['opens_at'], call.now)}" if rule["opens_at"] else ""
        answer = f"held: {rule['hold']}{opens}"
    return rule["rule"], answer, _inputs(rule["inputs"])


def _inputs(inputs: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {_input(name, value)}" for name, value in inputs.items())


def _input(name: str, value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case list():
            return "; ".join(clean(each) for each in value) or "none"
        case str() if name.endswith("_at"):
            return times.stamp(value)
    return str(value)


def _shown(name: str, value: str) -> str:
    return times.stamp(value) if name.endswith("_at") else value


def _counted(states: Mapping[str, int]) -> str:
    return ", ".join(f"{states[state]} {state}" for state in STATES if states.get(state))


def _names(call: Call) -> dict[str, str]:
    everybody: list[Client] = call.connection.get("/clients")
    return {client["uuid"]: client["name"] for client in everybody if client["name"]}
