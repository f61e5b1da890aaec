"""`notify`: what people were told, whom, and whether it arrives."""

from __future__ import annotations

from infoscreen_reboot.controller.ctl import times
from infoscreen_reboot.controller.ctl.call import Call
from infoscreen_reboot.controller.ctl.outcome import Outcome
from infoscreen_reboot.controller.ctl.screen import plural
from infoscreen_reboot.controller.ctl.shapes import Notice, Target, TestSent


def notices(call: Call) -> Outcome:
    found: list[Notice] = call.connection.pages("/notices", most=call.options.limit)
    if call.screen.is_json:
        call.screen.document(found)
        return Outcome.DONE
    rows = [(times.clock(each["at"], call.now), each["kind"], each["words"], _told(each)) for each in found]
    call.screen.listing(("at", "what", "in words", "told"), rows, "Nobody was told anything.")
    return Outcome.DONE


def _told(notice: Notice) -> str:
    if notice["message"] is None:
        return "not told" if notice["is_settled"] else "not yet"
    deliveries = notice["message"]["deliveries"]
    return ", ".join(f"{each['target']} {each['state']}" for each in deliveries) or "nobody"


def targets(call: Call) -> Outcome:
    answer = call.connection.get("/notify/targets")
    if call.screen.is_json:
        call.screen.document(answer)
        return Outcome.DONE
    found: list[Target] = answer["targets"]
    rows = [(each["name"], each["address"], _wants(each), _arrives(each)) for each in found]
    call.screen.listing(("target", "address", "what", "state"), rows, "Nobody is told: the file of targets names none.")
    for fault in answer["faults"]:
        call.screen.note(f"Warning: {fault}")
    return Outcome.DONE


def _wants(target: Target) -> str:
    what = "everything" if target["kinds"] is None else ", ".join(target["kinds"])
    return f"{what}, if it is loud" if target["only_loud"] else what


def _arrives(target: Target) -> str:
    parts = [plural(target["waiting"], "message") + " tried again"] if target["waiting"] else []
    parts += [plural(target["failed"], "message") + " given up"] if target["failed"] else []
    return f"problem: {', '.join(parts)}: {target['words']}" if parts else "ok"


def test(call: Call) -> Outcome:
    """One line for each target; a target that has not taken it is a problem."""
    found: list[TestSent] = call.connection.send("POST", "/notify/test", {"target": call.options.target})
    outcome = Outcome.DONE if all(each["is_sent"] for each in found) else Outcome.UNREACHABLE
    if call.screen.is_json:
        call.screen.document(found)
        return outcome
    rows = [(each["target"], each["address"], _outcome(each)) for each in found]
    call.screen.listing(("target", "address", "outcome"), rows, "Nobody is told: the file of targets names none.")
    return outcome


def _outcome(tried: TestSent) -> str:
    return "ok: sent" if tried["is_sent"] else f"problem: {tried['words']}"
