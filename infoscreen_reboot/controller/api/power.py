"""`/power`: the ports that feed clients, and power cycles."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from infoscreen_reboot.controller.api import files, models, problems
from infoscreen_reboot.controller.api.access import Admin, Operator, Viewer
from infoscreen_reboot.controller.api.problems import Problem, documented
from infoscreen_reboot.controller.inventory import Outcome
from infoscreen_reboot.controller.orders import Kind
from infoscreen_reboot.controller.power import cycle, port
from infoscreen_reboot.controller.power.cycle import Pace, State
from infoscreen_reboot.controller.power.port import Entry, Port, PowerError
from infoscreen_reboot.controller.power.worker import restore_all
from infoscreen_reboot.controller.store import fleet, power
from infoscreen_reboot.controller.store.database import Row, Transaction

router = APIRouter(prefix="/power", tags=["power"])

_EXAMPLE_CSV = (
    "client,switch,address,port,profile,backend\r\n"
    "9b8d1856-ff34-4864-a726-12de072d0f77,core-1,10.0.0.2,1.7,campus,snmp\r\n"
)
_EXAMPLE_ANSIBLE = {
    "_meta": {
        "hostvars": {
            "bar-left": {
                "infoscreen_client_uuid": "9b8d1856-ff34-4864-a726-12de072d0f77",
                "infoscreen_power_switch": "core-1",
                "infoscreen_power_address": "10.0.0.2",
                "infoscreen_power_port": "1.7",
                "infoscreen_power_profile": "campus",
            }
        }
    }
}
CycleId = Annotated[int, Path(ge=1, lt=2**63)]


@router.get("/ports", summary="List the ports", responses=documented())
def list_ports(call: Viewer) -> list[models.PowerPort]:
    """Which port feeds which client."""
    with call.read() as tx:
        return [_port(row) for row in power.port_rows(tx)]


@router.put(
    "/ports/{client_uuid:uuid}",
    summary="Say which port feeds a client",
    responses=documented("no_such_client", "exists", "too_large"),
)
def put_port(call: Admin, client_uuid: UUID, content: models.NewPowerPort) -> models.PowerPort:
    """A port feeds one client. What was said of this client before is replaced; a cycle under way is not changed."""
    uuid = str(client_uuid)
    wanted = Port(content.switch, content.port, content.address, content.profile, content.backend)
    fault = port.fault(wanted)
    if fault is not None:
        raise Problem("invalid", fault)
    with call.write() as (tx, caller):
        _check_client(tx, uuid)
        fed = power.feeds(tx, wanted.place)
        if fed not in (None, uuid):
            raise Problem("exists", f"{wanted} feeds client {fed}", client_uuid=fed)
        power.put_port(tx, uuid, wanted, caller.name)
        call.note(tx, "put port", uuid, "changed", content.model_dump(mode="json"))
        return _port(power.port_rows(tx, uuid)[0])


@router.delete(
    "/ports/{client_uuid:uuid}",
    status_code=204,
    response_model=None,
    summary="Forget the port of a client",
    responses=documented("not_found"),
)
def delete_port(call: Admin, client_uuid: UUID) -> None:
    """Nothing is switched. If a power cycle has left the port off, it is switched on all the same."""
    with call.write() as (tx, _):
        if not power.remove_port(tx, str(client_uuid)):
            raise Problem("not_found", f"no port of client {client_uuid} is known")
        call.note(tx, "delete port", str(client_uuid), "deleted")


async def _content(request: Request, call: Admin) -> list[Entry]:
    """Whoever is not allowed to send a file need not be read."""
    return await files.entries(request, port.read_csv, port.read_ansible)


@router.post(
    "/ports/import",
    summary="Import ports from a file",
    responses=documented("rows_refused", "too_large"),
    openapi_extra=files.documented(_EXAMPLE_CSV, _EXAMPLE_ANSIBLE),
    response_model=models.Imported,
)
def import_ports(
    call: Admin,
    entries: Annotated[list[Entry], Depends(_content)],
    dry_run: Annotated[bool, Query(description="Only say what would come of each row.")] = True,
) -> Response | models.Imported:
    """From CSV (columns `client`, `switch`, `port`, and any of `address`, `profile`, `backend`), or from Ansible.

    In what `ansible-inventory --list` prints, the variables of a host are `infoscreen_power_switch` and so on. `client`
    is a UUID or a name. A client that the file does not name keeps its port. If one row is refused, none is applied.
    """
    with call.write() as (tx, caller):
        rows = port.plan(entries, power.known(tx))
        refused = sum(row.outcome is Outcome.REFUSED for row in rows)
        if not dry_run and not refused:
            moving = (Outcome.CREATED, Outcome.CHANGED)
            pairs = zip(entries, rows, strict=True)
            moved = [(row.uuid, entry.port) for entry, row in pairs if row.outcome in moving and entry.port is not None]
            power.put_ports(tx, moved, caller.name)
            call.note(tx, "import ports", None, f"{len(moved)} changed", {"rows": len(rows)})
    shown = models.Imported(
        dry_run=dry_run,
        applied=not dry_run and not refused,
        rows=[
            models.ImportedRow(line=row.line, uuid=row.uuid, name=row.name, outcome=row.outcome, why=row.why)
            for row in rows
        ],
    )
    if not refused:
        return shown
    words = f"{refused} of {len(rows)} rows cannot be taken, so none was"
    return problems.answer(Problem("rows_refused", words, **shown.model_dump(mode="json")))


@router.post(
    "/ports/{client_uuid:uuid}/test", summary="Read a port, and change nothing", responses=documented("not_found")
)
def test_port(call: Operator, client_uuid: UUID) -> models.PowerTest:
    """Asks the switch. It may take some seconds until it is known that the switch does not answer."""
    with call.write() as (tx, _):
        wanted = power.port_of(tx, str(client_uuid))
        if wanted is None:
            raise Problem("not_found", f"no port of client {client_uuid} is known")
        call.note(tx, "test port", str(client_uuid), "asked")
    try:
        reading = call.site.outlets.read(wanted)
    except PowerError as error:
        return models.PowerTest(is_on=None, delivers=None, words=str(error), fault=str(error))
    fault = cycle.fault_before_off(reading)
    return models.PowerTest(is_on=reading.is_on, delivers=reading.delivers, words=reading.words, fault=fault)


@router.post(
    "/cycles",
    status_code=201,
    summary="Switch the port of a client off and on again",
    responses=documented("no_such_client", "power_refused", "too_large"),
)
def create_cycle(call: Operator, content: models.NewPowerCycle) -> models.PowerCycle:
    """Whoever holds the lease does it within seconds, one port at a time of each switch; read it to see how it went.

    A client that is online loses its power only if `is_online_anyway` says so: for a player that runs, this is a power
    cut.
    """
    uuid = str(content.client_uuid)
    with call.write() as (tx, caller):
        _check_client(tx, uuid)
        refusal = power.refusal(tx, uuid, content.is_online_anyway)
        if refusal is not None:
            raise Problem("power_refused", refusal[1], rule=refusal[0])
        made = power.request(tx, uuid, caller.name, content.reason, content.is_online_anyway)
        call.note(tx, "power cycle", uuid, "made", content.model_dump(mode="json"))
        row = power.cycle_of(tx, made or 0)
        assert row is not None
        return _cycle(tx, row)


@router.get("/cycles", summary="List power cycles", responses=documented())
def list_cycles(
    call: Viewer,
    client: Annotated[UUID | None, Query(description="Only those of this client.")] = None,
    held_off: Annotated[bool, Query(description="Only those whose port should be on again by now.")] = False,
    limit: Annotated[int, Query(ge=1, le=200, description="How many at most.")] = 50,
    cursor: Annotated[int | None, Query(ge=1, lt=2**63, description="`next` of the page before.")] = None,
) -> models.PowerCyclePage:
    """The newest first."""
    with call.read() as tx:
        rows = power.cycles(tx, limit + 1, cursor, str(client) if client is not None else None, is_held_off=held_off)
        shown = [_cycle(tx, row) for row in rows[:limit]]
    return models.PowerCyclePage(items=shown, next=shown[-1].id if len(rows) > limit else None)


@router.get("/cycles/{cycle_id}", summary="Read a power cycle", responses=documented("not_found"))
def read_cycle(call: Viewer, cycle_id: CycleId) -> models.PowerCycle:
    """Where it is, and in which words it ended."""
    with call.read() as tx:
        row = power.cycle_of(tx, cycle_id)
        if row is None:
            raise Problem("not_found", f"there is no power cycle {cycle_id}")
        return _cycle(tx, row)


@router.post("/restore", summary="Switch on all that is owed, now", responses=documented())
def restore(call: Operator) -> list[models.Restored]:
    """What a power cycle has left off, or may have. This instance does it, whoever holds the lease."""
    with call.write() as (tx, _):
        call.note(tx, "restore ports", None, "asked")
    found = restore_all(call.site.database, call.site.outlets, Pace())
    return [
        models.Restored(
            cycle_id=row["id"], client_uuid=row["client_uuid"], switch=row["switch"], port=row["port"], why=why
        )
        for row, why in found
    ]


def _check_client(tx: Transaction, uuid: str) -> None:
    if uuid not in fleet.standings(tx, [uuid]):
        raise Problem(Kind.NO_SUCH_CLIENT, f"there is no client {uuid}", clients=[uuid])


def _port(row: Row) -> models.PowerPort:
    return models.PowerPort(**{name: row[name] for name in models.PowerPort.model_fields})


def _cycle(tx: Transaction, row: Row) -> models.PowerCycle:
    is_held_off = cycle.is_held_off(State(row["state"]), row["must_be_on_by"], tx.now)
    columns = {name: row[name] for name in models.PowerCycle.model_fields if name != "is_held_off"}
    return models.PowerCycle(**columns, is_held_off=is_held_off)
