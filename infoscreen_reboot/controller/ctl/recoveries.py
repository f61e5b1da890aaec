"""`recovery`: clients that did not come back from their reboot, and what is done about them."""

from __future__ import annotations

from infoscreen_reboot.controller.ctl import times
from infoscreen_reboot.controller.ctl.call import Call
from infoscreen_reboot.controller.ctl.outcome import Outcome
from infoscreen_reboot.controller.ctl.shapes import Client, Recovery
from infoscreen_reboot.controller.ctl.targets import client_named, name_of


def recoveries(call: Call) -> Outcome:
    options = call.options
    uuid = None if options.client is None else client_named(call.connection, options.client)["uuid"]
    is_open = None if options.all else "true"
    found: list[Recovery] = call.connection.pages("/recoveries", options.limit, open=is_open, client=uuid)
    if call.screen.is_json:
        call.screen.document(found)
        return Outcome.DONE
    clients: list[Client] = call.connection.get("/clients") if found else []
    names = {client["uuid"]: name_of(client) for client in clients}
    rows = [
        (
            each["id"],
            names.get(each["client_uuid"], each["client_uuid"]),
            each["state"],
            times.ago(each["began_at"], call.now),
            each["words"],
        )
        for each in found
    ]
    nothing = "No recoveries." if options.all else "No recovery is open. Those that are over: recovery --all"
    call.screen.listing(("#id", "client", "state", "began", ""), rows, nothing)
    return Outcome.DONE


def show_recovery(call: Call) -> Outcome:
    found: Recovery = call.connection.get(f"/recoveries/{call.options.id}")
    if call.screen.is_json:
        call.screen.document(found)
        return Outcome.DONE
    client: Client = call.connection.get(f"/clients/{found['client_uuid']}")
    facts: list[tuple[str, object]] = [
        ("recovery", found["id"]),
        ("client", name_of(client)),
        ("command", found["command_id"]),
        ("state", found["state"]),
        ("", found["words"]),
        ("began", times.stamp(found["began_at"])),
    ]
    if found["ended_at"] is not None:
        facts.append(("ended", times.stamp(found["ended_at"])))
    if found["due_at"] is not None:
        facts.append(("goes on", times.until(found["due_at"], call.now)))
    call.screen.facts(facts)
    rows = [
        (times.clock(each["at"], call.now), each["step"], each["outcome"] or "under way") for each in found["tried"]
    ]
    rows += [("", step, "to come") for step in found["next_steps"]]
    if rows:
        call.screen.say()
        call.screen.title("Steps")
        call.screen.table(("at", "step", ""), rows, indent=2)
    if found["ticket"] is not None:
        call.screen.say()
        call.screen.title("For a ticket")
        for line in found["ticket"].splitlines():
            call.screen.say(line)
    return Outcome.DONE


def stop_recovery(call: Call) -> Outcome:
    options = call.options
    stopped: Recovery = call.connection.send("POST", f"/recoveries/{options.id}/stop", {"why": options.why})
    if call.screen.is_json:
        call.screen.document(stopped)
    call.screen.say(f"Recovery {stopped['id']} is stopped: nothing more is tried, and nobody is called.")
    return Outcome.DONE
