"""`site`: what is known of each place, by the label `site` of its clients."""

from __future__ import annotations

from urllib.parse import quote

from infoscreen_reboot.controller.ctl.call import Call
from infoscreen_reboot.controller.ctl.outcome import Outcome
from infoscreen_reboot.controller.ctl.screen import usage
from infoscreen_reboot.controller.ctl.shapes import Site

_FIELDS = ("zone", "opening_hours", "note")


def sites(call: Call) -> Outcome:
    found: list[Site] = call.connection.get("/sites")
    if call.screen.is_json:
        call.screen.document(found)
        return Outcome.DONE
    rows = [(each["name"], each["zone"], each["opening_hours"] or "always", each["note"] or "") for each in found]
    call.screen.listing(("site", "zone", "open", "note"), rows, "Nothing is known of any site.")
    return Outcome.DONE


def set_site(call: Call) -> Outcome:
    """What is not typed stays; an empty text removes."""
    name = call.options.name
    found: list[Site] = call.connection.get("/sites")
    known = {each["name"]: each for each in found}.get(name)
    typed = {field: getattr(call.options, field) for field in _FIELDS}
    if all(value is None for value in typed.values()):
        raise usage("say --zone, --opening-hours or --note")
    before = dict(known) if known is not None else {}
    content = {field: before.get(field) if typed[field] is None else typed[field].strip() or None for field in _FIELDS}
    changed: Site = call.connection.send("PUT", f"/sites/{quote(name)}", content)
    if call.screen.is_json:
        call.screen.document(changed)
    call.screen.say(f"Site {name} is {'new' if known is None else 'changed'}.")
    return Outcome.DONE


def delete_site(call: Call) -> Outcome:
    name = call.options.name
    call.connection.send("DELETE", f"/sites/{quote(name)}")
    if call.screen.is_json:
        call.screen.document({"deleted": name})
    call.screen.say(f"Nothing is known of the site {name} any more. Its clients keep their label.")
    return Outcome.DONE
