"""`power`: the ports that feed clients, and what is done with them."""

from __future__ import annotations

import time
from typing import Any

from infoscreen_reboot.controller.ctl import transfer
from infoscreen_reboot.controller.ctl.act import confirm
from infoscreen_reboot.controller.ctl.call import Call
from infoscreen_reboot.controller.ctl.outcome import Failure, Outcome
from infoscreen_reboot.controller.ctl.screen import plural
from infoscreen_reboot.controller.ctl.shapes import PowerCycle, PowerPort
from infoscreen_reboot.controller.ctl.targets import client_named, name_of

_LOOK_S = 0.5
_ENDED = ("done", "failed")
_WORDS = {
    "requested": "waits for its turn: one port at a time of each switch",
    "owed": "is about to go off; from now on it has to be on again",
    "off": "is off",
    "on": "is on again; does it deliver power?",
}


def ports(call: Call) -> Outcome:
    found: list[PowerPort] = call.connection.get("/power/ports")
    held = held_off(call)
    if call.screen.is_json:
        call.screen.document({"ports": found, "held_off": held})
        return Outcome.DONE
    rows = [
        (
            each["name"] or each["client_uuid"],
            each["switch"],
            each["port"],
            each["address"],
            f"{each['backend']} {each['profile'] or ''}".strip(),
        )
        for each in found
    ]
    call.screen.listing(("client", "switch", "port", "address", "by"), rows, "No ports: nothing can be power-cycled.")
    show_held_off(call, held)
    return Outcome.DONE


def held_off(call: Call) -> list[PowerCycle]:
    return call.connection.pages("/power/cycles", held_off="true")


def show_held_off(call: Call, held: list[PowerCycle]) -> None:
    """Nothing worse can be wrong: somebody's screen has no power."""
    if held:
        call.screen.say()
        call.screen.say(f"{plural(len(held), 'port')} held off: infoscreen-rebootctl power restore", style="red")
        rows = [(each["switch"], each["port"], each["attempts"], each["words"] or "") for each in held]
        call.screen.table(("switch", "port", "#attempts", "said last"), rows, indent=2)


def add(call: Call) -> Outcome:
    options = call.options
    client = client_named(call.connection, options.client)
    content = {name: getattr(options, name) for name in ("switch", "address", "port", "profile", "backend")}
    made: PowerPort = call.connection.send("PUT", f"/power/ports/{client['uuid']}", content)
    if call.screen.is_json:
        call.screen.document(made)
    call.screen.say(f"Port {made['port']} of {made['switch']} feeds {name_of(client)}.")
    call.screen.say(f"Try it, without switching: infoscreen-rebootctl power test {name_of(client)}")
    return Outcome.DONE


def remove(call: Call) -> Outcome:
    client = client_named(call.connection, call.options.client)
    call.connection.send("DELETE", f"/power/ports/{client['uuid']}")
    if call.screen.is_json:
        call.screen.document({"removed": client["uuid"]})
    call.screen.say(f"The port of {name_of(client)} is forgotten; nothing was switched.")
    return Outcome.DONE


def import_ports(call: Call) -> Outcome:
    return transfer.import_file(call, "/power/ports/import")


def test(call: Call) -> Outcome:
    """4 if the port would not be switched off."""
    client = client_named(call.connection, call.options.client)
    answer: dict[str, Any] = call.connection.send("POST", f"/power/ports/{client['uuid']}/test")
    if call.screen.is_json:
        call.screen.document(answer)
    elif answer["is_on"] is None:
        call.screen.say(answer["words"])
    else:
        call.screen.say(f"{name_of(client)}: the port is {'on' if answer['is_on'] else 'off'}, {answer['words']}.")
        call.screen.say(answer["fault"] or "It can be power-cycled.")
    return Outcome.DONE if answer["fault"] is None else Outcome.REFUSED


def cycle(call: Call) -> Outcome:
    options = call.options
    client = client_named(call.connection, options.client)
    online = " It is ONLINE." if client["is_online"] else ""
    confirm(call, f"Cut the power of {name_of(client)} for some seconds?{online}", 1)
    content = {
        "client_uuid": client["uuid"],
        "reason": options.reason,
        "is_online_anyway": options.online_anyway,
    }
    made: PowerCycle = call.connection.send("POST", "/power/cycles", content)
    if options.watch:
        made = _watch(call, made)
    if made["state"] == "failed":
        is_untouched = made["owed_at"] is None
        outcome = Outcome.REFUSED if is_untouched else Outcome.NOT_BACK
        advice = "Nothing was switched." if is_untouched else None
        raise Failure(outcome, made["words"] or "it failed", advice, {"cycle": made})
    if call.screen.is_json:
        call.screen.document(made)
    return Outcome.DONE


def _watch(call: Call, made: PowerCycle) -> PowerCycle:
    """Until it has ended. Whoever interrupts this ends the watching only."""
    shown = None
    while True:
        state = f"held off: {made['words']}" if made["is_held_off"] else _WORDS.get(made["state"], made["state"])
        if state != shown:
            shown = state
            call.screen.say(f"Port {made['port']} of {made['switch']}: {_ended(made) or state}.")
        if made["state"] in _ENDED:
            return made
        time.sleep(_LOOK_S)
        made = call.connection.get(f"/power/cycles/{made['id']}")


def _ended(made: PowerCycle) -> str | None:
    return f"{made['state']}, {made['words']}" if made["state"] in _ENDED else None


def restore(call: Call) -> Outcome:
    """3 if a port is not known to be on."""
    found: list[dict[str, Any]] = call.connection.send("POST", "/power/restore")
    if call.screen.is_json:
        call.screen.document(found)
    else:
        rows = [(each["switch"], each["port"], each["why"] or "on again") for each in found]
        call.screen.listing(("switch", "port", ""), rows, "No port is held off.")
    return Outcome.DONE if all(each["why"] is None for each in found) else Outcome.NOT_BACK
