"""Labels to print and to stick to the screens: whoever stands in front of one opens its page with a phone."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from markupsafe import Markup

from infoscreen_reboot.controller.api import fleet, models
from infoscreen_reboot.controller.condition import Condition
from infoscreen_reboot.controller.orders import Kind, Refused
from infoscreen_reboot.controller.web import shell
from infoscreen_reboot.controller.web.codes import NoCodes, drawn
from infoscreen_reboot.controller.web.fleet import Chosen, Text
from infoscreen_reboot.controller.web.session import Viewer

router = APIRouter()

# Three times eight on A4: sheets of labels of 70 by 37 mm, as several makers have them.
SHEET = 24
# Ten sheets: a code takes 8 ms to draw (measured 2026-11-27), and meanwhile others wait.
MOST = 10 * SHEET
# No phone gets there.
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


@router.get("/labels")
def show(request: Request, call: Viewer, condition: Chosen = "", selector: Text = "", text: Text = "") -> Response:
    """Of the clients that the fleet page shows for the same search, by site and name: so one walks."""
    chosen = Condition(condition) if condition else None
    fault, uuids = None, []
    try:
        uuids = fleet.matching(call, chosen, selector or None, text or None)
    except Refused as error:
        if error.kind != Kind.BAD_SELECTOR:
            raise
        fault = str(error)
    # What the browser was told is what this person's phone will reach, too; no setting has to say it again.
    origin = f"{request.url.scheme}://{request.url.netloc}"
    clients = sorted(fleet.read_some(call, uuids), key=_walk) if len(uuids) <= MOST else []
    codes: dict[str, Markup] = {}
    try:
        codes = {str(each.uuid): drawn(f"{origin}/c/{each.uuid}") for each in clients}
    except NoCodes as error:
        fault = str(error)
    labels = [each for each in clients if str(each.uuid) in codes]
    return shell.page(
        call,
        "labels.html",
        sheets=[labels[start : start + SHEET] for start in range(0, len(labels), SHEET)],
        codes=codes,
        count=len(uuids),
        most=MOST,
        origin=origin,
        is_this_machine=request.url.hostname in _THIS_MACHINE,
        condition=chosen,
        selector=selector,
        text=text,
        fault=fault,
    )


def _walk(client: models.FleetClient) -> tuple[str, str, str]:
    return client.labels.get("site", ""), client.name or "", str(client.uuid)
