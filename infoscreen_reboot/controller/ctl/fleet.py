"""`status`, `clients`, `window` and `freeze`: how things stand, and what people say about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from infoscreen_reboot.controller.ctl import power, times
from infoscreen_reboot.controller.ctl.act import confirm
from infoscreen_reboot.controller.ctl.call import Call
from infoscreen_reboot.controller.ctl.course import STATES
from infoscreen_reboot.controller.ctl.outcome import Outcome
from infoscreen_reboot.controller.ctl.screen import plural, usage
from infoscreen_reboot.controller.ctl.shapes import Client, Command, Freeze, Night, Rollout, Whoami, Window
from infoscreen_reboot.controller.ctl.targets import SHORT, client_named, clients_named, name_of

_SHOWN = 10
# The sickest first; None has who was rejected or retired. What only a newer server knows comes before all of them.
_CONDITIONS = ("needs_person", "late", "offline", "rebooting", "held", "unknown", "healthy", None)
_STATES = {"healthy": "online"}


def status(call: Call) -> Outcome:
    whoami: Whoami = call.connection.get("/whoami")
    holds = call.connection.get("/holds")
    commands: list[Command] = call.connection.pages("/commands", open="true")
    clients: list[Client] = call.connection.get("/clients")
    accepted = [client for client in clients if client["standing"] == "accepted"]
    counts = {
        "online": sum(client["is_online"] for client in accepted),
        "offline": sum(not client["is_online"] for client in accepted),
        "unknown": sum(client["standing"] == "unknown" for client in clients),
    }
    alerted = [client for client in accepted if client["alerts"]]
    lost = [client for client in clients if client["recovery_id"] is not None]
    held_off = power.held_off(call)
    rollouts: list[Rollout] = call.connection.pages("/rollouts", open="true")
    nights: list[Night] = call.connection.pages("/nights", open="true")
    if call.screen.is_json:
        call.screen.document(
            {
                "url": call.connection.settings.url,
                "whoami": whoami,
                "clients": counts,
                "holds": holds,
                "open_commands": commands,
                "rollouts": rollouts,
                "nights": nights,
                "ports_held_off": held_off,
                "alerts": {client["uuid"]: client["alerts"] for client in alerted},
                "recoveries": {client["uuid"]: client["recovery_state"] for client in lost},
            }
        )
        return Outcome.DONE
    may = ", may shut down" if whoami["may_shut_down"] else ""
    states = {state: sum(command["state"] == state for command in commands) for state in STATES}
    call.screen.facts(
        (
            ("controller", call.connection.settings.url),
            ("you are", f"{whoami['name']}, {whoami['role']}{may}"),
            ("clients", _counted(counts)),
            ("open commands", _counted(states)),
            ("recoveries", _counted_lost(lost)),
            ("alerts", plural(len(alerted), "client") if alerted else "none"),
            ("holds", _counted_holds(holds)),
        )
    )
    power.show_held_off(call, held_off)
    _show_holds(call, holds)
    _warn_of_calendar(call, holds.get("calendar"))
    _show_plans(call, rollouts, nights)
    _show_open(call, commands, {client["uuid"]: name_of(client) for client in clients})
    if lost:
        call.screen.say()
        call.screen.title("Not back from a reboot")
        call.screen.table(("client", "state"), [(name_of(each), each["recovery_state"]) for each in lost[:_SHOWN]], 2)
        _and_more(call, len(lost), "recovery")
    if alerted:
        call.screen.say()
        call.screen.title("Alerts")
        rows = [(name_of(client), ", ".join(client["alerts"])) for client in alerted[:_SHOWN]]
        call.screen.table(("client", "failed units"), rows, indent=2)
        _and_more(call, len(alerted), "clients")
    if counts["unknown"]:
        call.screen.say()
        whom = plural(counts["unknown"], "client")
        call.screen.say(f"{whom} not accepted yet: infoscreen-rebootctl clients --standing unknown")
    return Outcome.DONE


def _show_plans(call: Call, rollouts: Sequence[Rollout], nights: Sequence[Night]) -> None:
    """What the controller does by itself now, and what of it waits for a person."""
    rows = [
        (
            f"schedule {each['schedule']}",
            each["zone"],
            each["state"],
            f"all back by {times.clock(each['back_by'], call.now)}",
        )
        for each in nights
    ]
    for each in rollouts:
        where = f"stage {each['stage']} of {len(each['stages'])}"
        rows.append((f"rollout {each['id'][:SHORT]}", where, each["state"], each["why"] or ""))
    if rows:
        call.screen.say()
        call.screen.title("Plans")
        call.screen.table(("plan", "where", "state", ""), rows, indent=2)


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none"


def _counted_lost(lost: Sequence[Client]) -> str:
    if not lost:
        return "none"
    needed = sum(client["recovery_state"] == "needs_person" for client in lost)
    return f"{plural(len(lost), 'client')}, {needed} of them need a person" if needed else plural(len(lost), "client")


def _counted_holds(holds: Any) -> str:
    waiting = sum(each["count"] for each in holds["waiting"])
    freezes = len(holds["freezes"])
    parts = [plural(freezes, "freeze")] if freezes else []
    parts += [f"{plural(waiting, 'command')} waiting"] if waiting else []
    return ", ".join(parts) or "none"


def _show_holds(call: Call, holds: Any) -> None:
    rows = [
        (f"freeze {each['id']}", f"{each['why']} ({each['made_by']})", _end(call, each["until"]), "")
        for each in holds["freezes"]
    ]
    rows += [
        (each["rule"], each["why"], times.until(each["opens_at"], call.now), plural(each["count"], "command"))
        for each in holds["waiting"]
    ]
    if rows:
        call.screen.say()
        call.screen.title("Holds")
        call.screen.table(("held by", "why", "until", "waiting"), rows, indent=2)


def _warn_of_calendar(call: Call, calendar: Any) -> None:
    if calendar is not None and calendar["fault"] is not None:
        since = times.clock(calendar["fault_since"], call.now)
        words = f"{calendar['file']} cannot be read since {since}, the last good one counts: {calendar['fault']}"
        call.screen.note(f"Warning: {words}")


def _end(call: Call, until: str | None) -> str:
    return "somebody ends it" if until is None else times.until(until, call.now)


def _show_open(call: Call, commands: Sequence[Command], names: dict[str, str]) -> None:
    if not commands:
        return
    call.screen.say()
    call.screen.title("Open commands")
    rows = []
    for each in commands[:_SHOWN]:
        waits = each["waits_for"] or ""
        if each["due_at"] is not None:
            waits = f"{waits}, at most {times.left(each['due_at'], call.now)}"
        if each["hold"] is not None:
            waits = each["hold"]["why"]
            if each["hold"]["opens_at"] is not None:
                waits = f"{waits}, until {times.opens(each['hold'], call.now)}"
        rows.append((each["id"][:SHORT], names.get(each["client_uuid"], each["client_uuid"]), each["state"], waits))
    call.screen.table(("id", "client", "state", "waits for"), rows, indent=2)
    _and_more(call, len(commands), "commands")


def _and_more(call: Call, count: int, what: str) -> None:
    if count > _SHOWN:
        call.screen.say(f"  and {count - _SHOWN} more: infoscreen-rebootctl {what}")


# --- Clients


def clients(call: Call) -> Outcome:
    options = call.options
    found: list[Client] = call.connection.get("/clients", selector=options.selector, standing=options.standing)
    if options.names:  # for the shell's completion
        for client in found:
            if client["name"]:
                call.screen.bare(client["name"])
        return Outcome.DONE
    if call.screen.is_json:
        call.screen.document(found)
        return Outcome.DONE
    rows = [
        (
            name_of(client),
            _state(client),
            times.ago(client["heard_at"], call.now),
            " ".join(f"{key}={value}" for key, value in sorted(client["labels"].items())),
            _remarks(client),
        )
        for client in sorted(found, key=lambda client: (_sickness(client), name_of(client)))
    ]
    call.screen.listing(("client", "state", "heard", "labels", ""), rows, "No clients.")
    return Outcome.DONE


def _sickness(client: Client) -> int:
    condition = client["condition"]
    return _CONDITIONS.index(condition) if condition in _CONDITIONS else -1


def _state(client: Client) -> str:
    condition = client["condition"]
    return client["standing"] if condition is None else _STATES.get(condition, condition)


def _remarks(client: Client) -> str:
    remarks = []
    if client["two_hosts"]:
        remarks.append("two hosts with this UUID")
    if client["open_command_id"] is not None:
        remarks.append(f"command {client['open_command_id'][:SHORT]}")
    if client["recovery_id"] is not None:
        remarks.append(f"recovery {client['recovery_id']}: {client['recovery_state']}")
    if client["alerts"]:
        remarks.append(plural(len(client["alerts"]), "alert"))
    return ", ".join(remarks)


def show_client(call: Call) -> Outcome:
    client = client_named(call.connection, call.options.client)
    if call.screen.is_json:
        call.screen.document(client)
        return Outcome.DONE
    presence = "online" if client["is_online"] else "offline"
    if client["presence_reason"] is not None:
        presence = f"{presence} ({client['presence_reason']})"
    heard = "never" if client["heard_at"] is None else times.stamp(client["heard_at"])
    call.screen.facts(
        (
            ("client", client["uuid"]),
            ("name", client["name"]),
            ("note", client["note"]),
            ("standing", client["standing"]),
            ("condition", client["condition"]),
            ("presence", presence),
            ("heard", heard),
            ("boot id", client["boot_id"]),
            ("labels", " ".join(f"{key}={value}" for key, value in sorted(client["labels"].items())) or None),
            ("two hosts", "yes: give one of them another machine id" if client["two_hosts"] else "no"),
            ("open command", client["open_command_id"]),
            ("recovery", _recovery(client)),
            ("alerts", ", ".join(client["alerts"]) or "none"),
        )
    )
    return Outcome.DONE


def _recovery(client: Client) -> str | None:
    return None if client["recovery_id"] is None else f"{client['recovery_id']}, {client['recovery_state']}"


_STANDINGS = {"accept": "accepted", "reject": "rejected", "retire": "retired"}


def set_standing(call: Call) -> Outcome:
    options = call.options
    standing = _STANDINGS[options.what]
    if bool(options.clients) == options.all_unknown:
        raise usage("say either clients or --all-unknown")
    if options.all_unknown:
        content: dict[str, Any] = {"all_unknown": True, "standing": standing}
    else:
        found = clients_named(call.connection, options.clients)
        if standing == "retired":
            whom = name_of(found[0]) if len(found) == 1 else plural(len(found), "client")
            confirm(call, f"Retire {whom}? It gets no command any more.", len(found))
        content = {"clients": [client["uuid"] for client in found], "standing": standing}
    answer = call.connection.send("POST", "/clients/standing", content)
    if call.screen.is_json:
        call.screen.document(answer)
    call.screen.say(f"{plural(answer['changed'], 'client')} {standing}.")
    return Outcome.DONE


def label(call: Call) -> Outcome:
    labels: dict[str, str | None] = {}
    for text in call.options.labels:
        key, equals, value = text.partition("=")
        if not equals and not text.endswith("-"):
            raise usage(f"{text!r} is no label", "say KEY=VALUE to set one, or KEY- to take it away")
        labels[key if equals else text[:-1]] = value if equals else None
    return _change(call, {"labels": labels})


def name(call: Call) -> Outcome:
    return _change(call, {"name": call.options.text or None})


def note(call: Call) -> Outcome:
    return _change(call, {"note": call.options.text or None})


def _change(call: Call, content: dict[str, Any]) -> Outcome:
    client = client_named(call.connection, call.options.client)
    changed: Client = call.connection.send("PATCH", f"/clients/{client['uuid']}", content)
    if call.screen.is_json:
        call.screen.document(changed)
    call.screen.say(f"{name_of(changed)} is changed.")
    return Outcome.DONE


# --- Windows and freezes


def windows(call: Call) -> Outcome:
    """Those of the server's settings, with their next openings."""
    found: list[Window] = call.connection.get("/windows", openings=call.options.openings)
    if call.screen.is_json:
        call.screen.document(found)
        return Outcome.DONE
    if not found:
        call.screen.say("No windows: commands go out at any time. To have some: WINDOWS in the server's settings.")
    for number, each in enumerate(found):
        if number:
            call.screen.say()
        state = "open now" if each["is_open"] else "closed now"
        when = f"{','.join(each['days'])} {each['start']} for {each['duration_h']:g} h in {each['zone']}"
        call.screen.title(f"{each['selector'] or 'all clients'}: {when}")
        call.screen.say(f"  {plural(each['clients'], 'client')}; {state}")
        rows = [
            (
                times.local(opening["opens_local"]),
                times.clock(opening["opens_at"], call.now),
                times.clock(opening["closes_at"], call.now),
                opening["clocks"] or "",
            )
            for opening in each["openings"]
        ]
        call.screen.table(("opens there", "opens here", "closes here", ""), rows, indent=2)
    return Outcome.DONE


def freezes(call: Call) -> Outcome:
    """Those that hold now, or those of the calendar that are to come."""
    is_coming = call.options.coming
    found: list[Freeze] = call.connection.get("/freezes", coming="true" if is_coming else None)
    if call.screen.is_json:
        call.screen.document(found)
        return Outcome.DONE
    rows = [
        (each["id"], each["why"], times.clock(_begins(each), call.now), each["made_by"], _end(call, each["until"]))
        for each in found
    ]
    nothing = "No freeze is to come." if is_coming else "Nothing is frozen."
    call.screen.listing(("#id", "why", "from" if is_coming else "since", "by", "until"), rows, nothing)
    return Outcome.DONE


def _begins(freeze: Freeze) -> str:
    return freeze.get("begins_at") or freeze["made_at"]


def begin_freeze(call: Call) -> Outcome:
    until = None if call.options.until is None else times.as_sent(call.options.until)
    made: Freeze = call.connection.send("POST", "/freezes", {"why": call.options.why, "until": until})
    if call.screen.is_json:
        call.screen.document(made)
    call.screen.say(f"Frozen: no command is sent until {_end(call, made['until'])}.")
    call.screen.say(f"To end it: infoscreen-rebootctl freeze end {made['id']}")
    return Outcome.DONE


def end_freeze(call: Call) -> Outcome:
    call.connection.send("DELETE", f"/freezes/{call.options.id}")
    if call.screen.is_json:
        call.screen.document({"ended": call.options.id})
    call.screen.say(f"Freeze {call.options.id} has ended.")
    return Outcome.DONE
