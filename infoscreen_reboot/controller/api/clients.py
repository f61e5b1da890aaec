"""`/clients`: who there is, who may get commands, and the whole list as a file."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response

from infoscreen_reboot.controller import inventory, orders, text
from infoscreen_reboot.controller.api import files, models, problems, show
from infoscreen_reboot.controller.api.access import Admin, Call, Operator, Viewer
from infoscreen_reboot.controller.api.problems import Problem, documented
from infoscreen_reboot.controller.inventory import Entry, Outcome, Row
from infoscreen_reboot.controller.orders import Kind
from infoscreen_reboot.controller.safety import Standing
from infoscreen_reboot.controller.store import fleet, reports, views
from infoscreen_reboot.controller.store.database import Row as DatabaseRow
from infoscreen_reboot.controller.store.database import Transaction

router = APIRouter(prefix="/clients", tags=["clients"])

_EXAMPLE_CSV = (
    "uuid,name,note,standing,label:site\r\n9b8d1856-ff34-4864-a726-12de072d0f77,Bar left,,accepted,alpine\r\n"
)
_EXAMPLE_ANSIBLE = {
    "_meta": {"hostvars": {"bar-left": {"infoscreen_client_uuid": "9b8d1856-ff34-4864-a726-12de072d0f77"}}},
    "all": {"children": ["ungrouped", "alpine"]},
    "alpine": {"hosts": ["bar-left"]},
}


@router.get("", summary="List clients", responses=documented("bad_selector"))
def list_clients(
    call: Viewer,
    selector: Annotated[str | None, Query(max_length=1000, description="As in `site=alpine,room!=bar`.")] = None,
    standing: Annotated[Standing | None, Query(description="Only those of this standing.")] = None,
    name: Annotated[models.Name | None, Query(description="Exactly this name.")] = None,
) -> list[models.Client]:
    """All, or those that a selector means; a selector means accepted clients only."""
    with call.read() as tx:
        uuids = orders.select_clients(tx, selector) if selector is not None else None
        return show.clients(tx, views.client_rows(tx, uuids, str(standing) if standing else None, name))


@router.post(
    "/standing",
    summary="Accept, reject or retire many clients",
    responses=documented("no_such_client", "exists", "too_large"),
)
def set_standings(call: Admin, content: models.NewStandings) -> models.Changed:
    """If one of them does not exist, nothing is changed."""
    if (content.clients is None) != content.all_unknown:
        raise Problem("invalid", "say either clients or all_unknown")
    wanted = Standing(content.standing)
    uuids = None if content.clients is None else sorted({str(uuid) for uuid in content.clients})
    with call.write() as (tx, _):
        found = fleet.standings(tx, uuids)
        if uuids is None:
            uuids = [uuid for uuid, standing in found.items() if standing is Standing.UNKNOWN]
        missing = [uuid for uuid in uuids if uuid not in found]
        if missing:
            raise Problem(Kind.NO_SUCH_CLIENT, f"{len(missing)} of these clients do not exist", clients=missing)
        _give(tx, call, uuids, wanted)
        changed = [uuid for uuid in uuids if found[uuid] is not wanted]
        call.note(tx, f"{wanted} clients", None, f"{len(changed)} changed", {"clients": uuids[:100]})
    return models.Changed(changed=len(changed))


def _give(tx: Transaction, call: Call, uuids: list[str], standing: Standing) -> None:
    """A name that was free while its client was retired may have another bearer now."""
    retired = [row for row in views.client_rows(tx, uuids) if row["standing"] == Standing.RETIRED]
    fleet.set_standing(tx, uuids, standing, call.who.name, call.site.limits)
    for row in retired:
        if standing is not Standing.RETIRED and row["name"] is not None:
            _check_name(tx, row["uuid"], row["name"])


def _check_name(tx: Transaction, uuid: str, name: str) -> None:
    bearer = fleet.bearer_of(tx, name, but=uuid)
    if bearer is not None:
        raise Problem("exists", f"{name!r} is the name of client {bearer}", client_uuid=bearer)


async def _content(request: Request, call: Admin) -> list[Entry]:
    """The file, once it is known who sends it. Whoever is not allowed to send one need not be read."""
    return await files.entries(request, inventory.read_csv, inventory.read_ansible)


@router.post(
    "/import",
    summary="Import clients from a file",
    responses=documented("rows_refused", "too_large"),
    openapi_extra=files.documented(_EXAMPLE_CSV, _EXAMPLE_ANSIBLE),
    response_model=models.Imported,
)
def import_clients(
    call: Admin,
    entries: Annotated[list[Entry], Depends(_content)],
    dry_run: Annotated[bool, Query(description="Only say what would come of each row.")] = True,
) -> Response | models.Imported:
    """From CSV (columns `uuid`, `name`, `note`, `standing`, `label:KEY`) or what `ansible-inventory --list` prints.

    A column that is there says how it shall be, an empty cell too; a column that is not there changes nothing. If one
    row is refused, none is applied, and the answer is 422 `rows_refused` with all rows. A client that is new is
    accepted, if the file says nothing else.
    """
    with call.write() as (tx, caller):
        known = fleet.known(tx)
        rows = inventory.plan(entries, known)
        is_refused = any(row.outcome is Outcome.REFUSED for row in rows)
        if not dry_run and not is_refused:
            moving = (Outcome.CREATED, Outcome.CHANGED)
            moved = [entry for entry, row in zip(entries, rows, strict=True) if row.outcome in moving]
            fleet.apply(tx, moved, known, caller.name, call.site.limits)
            call.note(tx, "import clients", None, f"{len(moved)} changed", {"rows": len(rows)})
    shown = models.Imported(dry_run=dry_run, applied=not dry_run and not is_refused, rows=list(map(_row, rows)))
    if not is_refused:
        return shown
    refused = sum(row.outcome is Outcome.REFUSED for row in rows)
    words = f"{refused} of {len(rows)} rows cannot be taken, so none was"
    return problems.answer(Problem("rows_refused", words, **shown.model_dump(mode="json")))


def _row(row: Row) -> models.ImportedRow:
    return models.ImportedRow(line=row.line, uuid=row.uuid, name=row.name, outcome=row.outcome, why=row.why)


@router.get(
    "/export",
    summary="Export the clients as CSV",
    response_class=Response,
    responses=documented(well={"description": "A CSV file", "content": {files.CSV: {"example": _EXAMPLE_CSV}}}),
)
def export_clients(call: Viewer) -> Response:
    """What can be imported again. A cell that a spreadsheet would take for a formula begins with an apostrophe."""
    with call.read() as tx:
        content = inventory.write_csv(fleet.known(tx).items())
    headers = {"Content-Disposition": 'attachment; filename="clients.csv"'}
    return Response(content, media_type=files.CSV, headers=headers)


@router.get("/{client_uuid:uuid}", summary="Read a client", responses=documented("not_found"))
def read_client(call: Viewer, client_uuid: UUID) -> models.FleetClient:
    """How things stand with it."""
    with call.read() as tx:
        return _shown(tx, call, str(client_uuid))


@router.get("/{client_uuid:uuid}/health", summary="Read the health of a client", responses=documented("not_found"))
def read_health(call: Viewer, client_uuid: UUID) -> models.ClientHealth:
    """The last one, as the client told it; both null if it never told any."""
    uuid = str(client_uuid)
    with call.read() as tx:
        _found(tx, uuid)
        said = reports.healths(tx, [uuid]).get(uuid)
    if said is None:
        return models.ClientHealth(heard_at=None, content=None)
    return models.ClientHealth(heard_at=said.heard_at, content=said.content)


@router.get("/{client_uuid:uuid}/boots", summary="List the boots of a client", responses=documented("not_found"))
def list_boots(call: Viewer, client_uuid: UUID) -> list[models.Boot]:
    """The newest first, at most 50."""
    uuid = str(client_uuid)
    with call.read() as tx:
        _found(tx, uuid)
        return [show.boot(row) for row in reports.boots(tx, uuid)]


@router.get("/{client_uuid:uuid}/alerts", summary="List the alerts of a client", responses=documented("not_found"))
def list_alerts(call: Viewer, client_uuid: UUID) -> list[models.Alert]:
    """Those that stand, then those that are over, each the newest first; at most 50."""
    uuid = str(client_uuid)
    with call.read() as tx:
        _found(tx, uuid)
        return [show.alert(row) for row in reports.alerts(tx, uuid)]


@router.patch(
    "/{client_uuid:uuid}",
    summary="Change name, note and labels of a client",
    responses=documented("not_found", "exists", "too_large"),
)
def change_client(call: Operator, client_uuid: UUID, content: models.ClientChange) -> models.FleetClient:
    """Labels that are named are set, those set to null are removed, the others stay. A name is given once."""
    uuid = str(client_uuid)
    columns = content.model_dump(exclude_unset=True, exclude={"labels"})
    labels = content.labels or {}
    faults = [text.fault_of_label(key, value) for key, value in labels.items()]
    faults.append(text.fault_of_name(content.name) if content.name is not None else None)
    faults.append(text.fault_of_note(content.note) if content.note is not None else None)
    fault = next((each for each in faults if each is not None), None)
    if fault is not None:
        raise Problem("invalid", fault)
    with call.write() as (tx, _):
        before = _shown(tx, call, uuid)
        if content.name is not None and before.standing is not Standing.RETIRED:
            _check_name(tx, uuid, content.name)
        fleet.change_client(tx, uuid, columns, labels)
        call.note(tx, "change client", uuid, "changed", content.model_dump(exclude_unset=True))
        after = _shown(tx, call, uuid)
        if len(after.labels) > text.MOST_LABELS:
            raise Problem("invalid", f"a client has at most {text.MOST_LABELS} labels")
        return after


@router.post(
    "/{client_uuid:uuid}/standing",
    summary="Accept, reject or retire a client",
    responses=documented("not_found", "exists", "too_large"),
)
def set_standing(call: Admin, client_uuid: UUID, content: models.NewStanding) -> models.FleetClient:
    """To accept one again says that it is one host now. From another one, what was not sent is taken back."""
    uuid = str(client_uuid)
    with call.write() as (tx, _):
        _shown(tx, call, uuid)
        _give(tx, call, [uuid], Standing(content.standing))
        call.note(tx, f"{content.standing} client", uuid, "changed")
        return _shown(tx, call, uuid)


def _shown(tx: Transaction, call: Call, uuid: str) -> models.FleetClient:
    return show.fleet_clients(tx, [_found(tx, uuid)], call.site.fleet_zone)[0]


def _found(tx: Transaction, uuid: str) -> DatabaseRow:
    rows = views.client_rows(tx, [uuid])
    if not rows:
        raise Problem("not_found", f"there is no client {uuid}")
    return rows[0]
