"""`schedule` and `report`: commands that are made night after night, what comes next, and how each night ended."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import uuid4

from infoscreen_reboot.controller.ctl import course, times
from infoscreen_reboot.controller.ctl.act import Plan, confirm, show_preview
from infoscreen_reboot.controller.ctl.call import Call
from infoscreen_reboot.controller.ctl.connection import Connection
from infoscreen_reboot.controller.ctl.outcome import Failure, Outcome
from infoscreen_reboot.controller.ctl.screen import PROGRAM, plural, usage
from infoscreen_reboot.controller.ctl.shapes import Client, Forecast, Night, Preview, Schedule
from infoscreen_reboot.controller.ctl.targets import SHORT, uuid_of
from infoscreen_reboot.controller.ctl.watch import summary, to_end

# What is typed for "each client's own zone".
OWN = "own"
_FIELDS = {
    "selector": "selector",
    "rule": "rule",
    "start": "start",
    "window": "window_min",
    "spread": "spread_min",
    "back_by": "back_by_min",
    "rename": "name",
}
_WORDS = {
    "not_back": "not back",
    "back_late": "back late",
    "skipped": "skipped",
    "mock": "only pretended",
    "back": "back",
}


def schedules(call: Call) -> Outcome:
    found: list[Schedule] = call.connection.get("/schedules")
    if call.screen.is_json:
        call.screen.document(found)
        return Outcome.DONE
    rows = [
        (
            each["name"],
            each["selector"] or "all",
            each["rule"],
            f"{each['start']} {each['zone'] or 'each own zone'}",
            _minutes(each["window_min"]),
            f"paused by {each['paused_by']}" if each["paused_at"] else "",
        )
        for each in found
    ]
    call.screen.listing(("schedule", "clients", "rule", "start", "window", ""), rows, "No schedules.")
    return Outcome.DONE


def show(call: Call) -> Outcome:
    found = _named(call.connection, call.options.name)
    forecasts: list[Forecast] = call.connection.get(f"/schedules/{found['id']}/preview", nights=5)
    nights: list[Night] = call.connection.pages(f"/schedules/{found['id']}/nights", most=5)
    if call.screen.is_json:
        call.screen.document({"schedule": found, "preview": forecasts, "nights": nights})
        return Outcome.DONE
    paused = f"by {found['paused_by']}, {times.stamp(found['paused_at'])}" if found["paused_at"] else "no"
    call.screen.facts(
        (
            ("schedule", found["name"]),
            ("id", found["id"]),
            ("clients", found["selector"] or "all"),
            ("rule", found["rule"]),
            ("start", f"{found['start']} in {found['zone'] or 'the zone of each client'}"),
            ("window", f"{_minutes(found['window_min'])}, spread over {_minutes(found['spread_min'])}"),
            ("all back by", f"{_minutes(found['back_by_min'])} after the start"),
            ("paused", paused),
            ("skipped", ", ".join(found["skips"]) or None),
            ("made", f"by {found['created_by']}, {times.stamp(found['created_at'])}"),
            ("changed", f"by {found['changed_by']}, {times.stamp(found['changed_at'])}"),
        )
    )
    _show_forecasts(call, forecasts)
    if nights:
        call.screen.say()
        call.screen.title("Last nights")
        _show_nights(call, nights)
    return Outcome.DONE


def add(call: Call) -> Outcome:
    options = call.options
    if options.selector is not None and not options.selector.strip():
        raise usage("an empty selector is most likely a variable that is not set", "for all clients: --all")
    if (options.selector is None) != options.all:
        raise usage("say either -l SELECTOR or --all")
    content = _said(call) | {"name": options.name, "selector": options.selector or ""}
    if options.dry_run:
        forecasts: list[Forecast] = call.connection.send("POST", "/schedules/preview", content)
        if call.screen.is_json:
            call.screen.document({"preview": forecasts})
        _show_forecasts(call, forecasts)
        call.screen.say("Nothing was made: this was a dry run.")
        return Outcome.DONE
    made: Schedule = call.connection.send("POST", "/schedules", content)
    forecasts = call.connection.get(f"/schedules/{made['id']}/preview", nights=2)
    if call.screen.is_json:
        call.screen.document({"schedule": made, "preview": forecasts})
        return Outcome.DONE
    call.screen.say(f"Schedule {made['name']} is made.")
    _show_forecasts(call, forecasts)
    return Outcome.DONE


def edit(call: Call) -> Outcome:
    found = _named(call.connection, call.options.name)
    said = _said(call)
    if not said:
        raise usage("say what shall be another way", f"run: {PROGRAM} schedule edit --help")
    content = said | {"version": found["version"]}
    changed: Schedule = call.connection.send("PATCH", f"/schedules/{found['id']}", content)
    if call.screen.is_json:
        call.screen.document(changed)
    call.screen.say(f"Schedule {changed['name']} is changed, from the next night on that has not begun.")
    return Outcome.DONE


def _said(call: Call) -> dict[str, Any]:
    """What was typed, by the API's names."""
    options = vars(call.options)
    said = {field: options[name] for name, field in _FIELDS.items() if options.get(name) is not None}
    if options.get("zone") is not None:
        said["zone"] = None if options["zone"] == OWN else options["zone"]
    return said


def delete(call: Call) -> Outcome:
    found = _named(call.connection, call.options.name)
    call.connection.send("DELETE", f"/schedules/{found['id']}")
    if call.screen.is_json:
        call.screen.document({"deleted": found["id"]})
    call.screen.say(f"Schedule {found['name']} is deleted. A night that runs goes on: to stop it, cancel its batch.")
    return Outcome.DONE


_DONE = {
    "pause": "Schedule {name} is paused: no night begins until it is resumed. One that runs goes on.",
    "resume": "Schedule {name} goes on, from the next night on that has not begun.",
    "skip": "Schedule {name} leaves out the night of {day}.",
    "unskip": "Schedule {name} has the night of {day} again, where it has not begun.",
}


def change(call: Call) -> Outcome:
    """`pause`, `resume`, `skip` and `unskip`."""
    options = call.options
    found = _named(call.connection, options.name)
    day = {"day": options.day} if options.what in ("skip", "unskip") else {}
    changed: Schedule = call.connection.send("POST", f"/schedules/{found['id']}/{options.what}", day or None)
    if call.screen.is_json:
        call.screen.document(changed)
    call.screen.say(_DONE[options.what].format(name=found["name"], **day))
    return Outcome.DONE


def preview(call: Call) -> Outcome:
    found = _named(call.connection, call.options.name)
    forecasts: list[Forecast] = call.connection.get(f"/schedules/{found['id']}/preview", nights=call.options.nights)
    if call.screen.is_json:
        call.screen.document(forecasts)
        return Outcome.DONE
    _show_forecasts(call, forecasts)
    return Outcome.DONE


def run(call: Call) -> Outcome:
    """As a batch: what would come of it, the question, and then just that or nothing."""
    found = _named(call.connection, call.options.name)
    address = f"/schedules/{found['id']}/run"
    seen: Preview = call.connection.send("POST", f"{address}/preview")
    if not seen["clients"]:
        raise Failure(Outcome.REFUSED, f"no accepted client is meant by {found['selector']!r}", "Nothing was made.")
    everybody: list[Client] = call.connection.get("/clients")
    until = times.as_sent(call.now + timedelta(minutes=found["window_min"]))
    wish = {"reason": f"schedule {found['name']}", "wait_until": until}
    plan = Plan(wish, seen, {client["uuid"]: client for client in everybody if client["uuid"] in seen["clients"]})
    if not call.screen.is_json:
        show_preview(call, plan)
    if seen["count"] == 0:
        raise Failure(Outcome.REFUSED, "none of them can get it now", "Nothing was made.", {"preview": seen})
    confirm(call, f"Reboot {plural(seen['count'], 'client')}?", seen["count"])
    content = {"clients": seen["clients"], "hash": seen["hash"], "count": seen["count"]}
    night: Night = call.connection.create(address, content, key=str(uuid4()))
    document = {"preview": seen, "night": night}
    call.screen.say(f"It has begun. Its report: {PROGRAM} report {night['id'][:SHORT]}")
    if not call.options.watch:
        if call.screen.is_json:
            call.screen.document(document | {"exit_code": int(Outcome.DONE)})
        return Outcome.DONE
    commands = to_end(call, "batches", str(night["batch_id"]), is_told=False)
    outcome = course.outcome(commands)
    if call.screen.is_json:
        call.screen.document(document | summary(commands, outcome))
    return outcome


def _show_forecasts(call: Call, forecasts: list[Forecast]) -> None:
    if call.screen.is_json:
        return
    if not forecasts:
        call.screen.say("It means no accepted client now.")
    for each in forecasts:
        call.screen.say()
        call.screen.title(f"{each['zone']}, {plural(each['clients'], 'client')}")
        if each["fault"] is not None:
            call.screen.say(f"  no nights: {each['fault']}", "red")
            continue
        rows = [
            (
                night["day"],
                times.local(night["starts_local"]),
                times.clock(night["starts_at"], call.now),
                times.clock(night["back_by"], call.now),
                f"skipped by {night['skipped_by']}" if night["skipped_by"] else night["clocks"] or "",
            )
            for night in each["nights"]
        ]
        if rows:
            call.screen.table(("night", "begins there", "begins here", "all back by", ""), rows, indent=2)
        else:
            call.screen.say("  no nights any more")


def _named(connection: Connection, text: str) -> Schedule:
    """By name, id, or the beginning of an id. Raises Failure if it is not just one."""
    everything: list[Schedule] = connection.get("/schedules")
    found = [each for each in everything if each["name"] == text]
    if not found and len(text) >= SHORT:
        found = [each for each in everything if each["id"].startswith(text.lower())]
    if len(found) == 1:
        return found[0]
    names = ", ".join(each["name"] for each in everything)
    raise usage(f"there is no schedule {text!r}", f"there are: {names}" if names else None)


# --- Reports


def report(call: Call) -> Outcome:
    """Of one night; without an id, the list of nights."""
    options = call.options
    if options.id is None:
        return _list_nights(call)
    night_id = _night_id(call.connection, options.id)
    if options.csv and not call.screen.is_json:
        call.screen.raw(call.connection.text(f"/nights/{night_id}/report?format=csv"))
        return Outcome.DONE
    found = call.connection.get(f"/nights/{night_id}/report")
    outcome = Outcome.NOT_BACK if found["counts"].get("not_back") else Outcome.DONE
    if call.screen.is_json:
        call.screen.document(found | {"exit_code": int(outcome)})
        return outcome
    night = found["night"]
    call.screen.facts(
        (
            ("schedule", night["schedule"]),
            ("night", f"{night['occurrence']} {night['zone']}"),
            ("state", night["state"] if found["is_final"] else "running: this is how things stand now"),
            ("began", times.stamp(night["starts_at"])),
            ("all back by", times.stamp(night["back_by"])),
            ("result", _counted(found["counts"]) if found["lines"] else night["words"]),
            ("batch", night["batch_id"]),
        )
    )
    rows = [
        (
            each["name"] or each["client_uuid"],
            each["site"] or "",
            _WORDS[each["outcome"]],
            times.clock(each["back_at"], call.now),
            each["why"] or "",
        )
        for each in found["lines"]
    ]
    if rows:
        call.screen.say()
        call.screen.table(("client", "site", "result", "back", "why"), rows)
    return outcome


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{counts[name]} {words}" for name, words in _WORDS.items() if counts.get(name)) or "no clients"


def _list_nights(call: Call) -> Outcome:
    options = call.options
    path = "/nights"
    if options.schedule is not None:
        path = f"/schedules/{_named(call.connection, options.schedule)['id']}/nights"
    found: list[Night] = call.connection.pages(path, most=options.limit)
    if call.screen.is_json:
        call.screen.document(found)
        return Outcome.DONE
    if not found:
        call.screen.say("No nights yet.")
        return Outcome.DONE
    _show_nights(call, found)
    return Outcome.DONE


def _show_nights(call: Call, nights: list[Night]) -> None:
    rows = [
        (
            each["id"][:SHORT],
            each["schedule"],
            each["occurrence"],
            each["zone"],
            times.clock(each["starts_at"], call.now),
            each["state"],
            each["words"] or "",
        )
        for each in nights
    ]
    call.screen.table(("id", "schedule", "night", "zone", "began", "state", "result"), rows)


def _night_id(connection: Connection, text: str) -> str:
    """A whole id, or the beginning of a new one."""
    uuid = uuid_of(text.lower())
    if uuid is not None:
        return uuid
    found: list[Night] = connection.pages("/nights", most=1000)
    matches = [each["id"] for each in found if len(text) >= SHORT and each["id"].startswith(text.lower())]
    if len(matches) != 1:
        raise usage(f"no new night has an id that begins with {text!r}", f"run: {PROGRAM} report")
    return matches[0]


def _minutes(count: int) -> str:
    hours, minutes = divmod(count, 60)
    return f"{hours} h {minutes} min" if hours and minutes else f"{hours} h" if hours else f"{minutes} min"
