"""The OpenAPI document is whole and true: as it is read, and as schemathesis finds it with requests made up of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import insert, select, update

from infoscreen_reboot.contract.command import Action
from infoscreen_reboot.controller import orders, recovery, rollouts
from infoscreen_reboot.controller.api import models, problems
from infoscreen_reboot.controller.api.app import PREFIX
from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.calendar import Night, NightState
from infoscreen_reboot.controller.lifecycle import Limits, Overdue, Step
from infoscreen_reboot.controller.orders import Caller, House, Wish
from infoscreen_reboot.controller.power.port import Backend, Port
from infoscreen_reboot.controller.store import commands, people, power, recoveries, sites
from infoscreen_reboot.controller.store import schedules as store
from infoscreen_reboot.controller.store.database import Database
from infoscreen_reboot.controller.store.schedules import Made
from infoscreen_reboot.controller.store.tables import client, command, rollout
from tests.controller.test_schedules import NIGHTLY
from tests.controller.web import Web, serving

# Of PyPI, for the Python that runs this: tools/lab/roots.py puts it there.
FOLDER = Path(os.environ.get("SCHEMATHESIS", "/opt/schemathesis"))
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "response_headers_conformance,negative_data_rejection,unsupported_method,allow_header_conformance,ignored_auth"
)
EXAMPLES = 5
# What is not valid is the same to all roles: an admin sends it.
_VALID = "--phases=coverage", "--mode=positive"
HOW = {Role.VIEWER: _VALID, Role.OPERATOR: _VALID, Role.ADMIN: ("--phases=examples,coverage,fuzzing", "--mode=all")}
# With these it takes its own token away (it uses what it has read), or freezes the fleet: so they come last.
LAST = (
    *("delete_port", "delete_schedule", "delete_site", "delete_view"),
    *("revoke_token", "change_user", "begin_freeze", "end_freeze"),
)
# A stream that does not end.
STREAM = "follow_events"
# Their success hangs on an answer that was given before: tests of their own show it.
NEVER_WELL = {"create_batch", "create_rollout", "resume_rollout", "run_schedule"}


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_every_operation_says_what_it_does_and_how_it_may_answer(web: Web) -> None:
    document = web.client.get(f"{PREFIX}/openapi.json").json()
    seen = set()
    for name, operation in operations(document):
        assert operation["summary"] and operation["description"] and operation["tags"], name
        assert operation["security"] == [{"HTTPBearer": []}], name
        assert operation["operationId"] not in seen, name
        seen.add(operation["operationId"])
        answers = operation["responses"]
        assert {"400", "401", "403", "422", "503"} <= answers.keys(), name
        assert ("413" in answers) == ("requestBody" in operation), name
        assert ("404" in answers) >= ("{" in name), name
        for status, told in answers.items():
            assert told["description"], (name, status)
            if status >= "400":
                assert told["content"].keys() == {problems.MEDIA_TYPE}, (name, status)
        for parameter in operation.get("parameters", []):
            is_plain = parameter["in"] == "path"
            assert is_plain or parameter.get("description"), (name, parameter["name"])


def test_every_body_and_every_answer_has_an_example_that_is_one(web: Web) -> None:
    document = web.client.get(f"{PREFIX}/openapi.json").json()
    schemas = document["components"]["schemas"]
    for name, operation in operations(document):
        told = [operation.get("requestBody", {}), *operation["responses"].values()]
        for kind, content in [pair for each in told for pair in each.get("content", {}).items()]:
            schema = content.get("schema", {})
            options = [schema, schema.get("items", {}), *schema.get("anyOf", [])]
            [model] = {each["$ref"].rpartition("/")[2] for each in options if "$ref" in each} or {None}
            assert "example" in content or (model and schemas[model]["examples"]), (name, kind)
    for name, schema in schemas.items():
        for example in schema.get("examples", []):
            if name != "ProblemDocument":
                getattr(models, name).model_validate_json(json.dumps(example))


def test_every_kind_is_in_the_document(web: Web) -> None:
    document = web.client.get(f"{PREFIX}/openapi.json").json()
    kinds = document["components"]["schemas"]["ProblemDocument"]["properties"]["kind"]["enum"]
    assert set(kinds) == {str(kind) for kind in problems.KINDS}


def fill(database: Database) -> dict[str, str]:
    """What the examples name is there; returns ids for the addresses."""
    ann = Caller("ann", "cli")
    [example] = models.examples_of("NewBatch") or []
    uuids: list[str] = example["clients"]
    with database.write() as tx:
        people.add_user(tx, "ann", Role.OPERATOR, may_shut_down=False)
        tx.db.execute(insert(client), [{"uuid": uuid, "standing": "accepted", "is_online": True} for uuid in uuids])
        shown = orders.preview(tx, ann, Wish(Action.REBOOT_HOST), uuids, House())
        batch, _ = orders.order_many(tx, ann, Wish(Action.REBOOT_HOST), uuids, shown.hash, 2, House())
        ids = tx.db.execute(select(command.c.id).where(command.c.batch_id == batch)).scalars().all()
        commands.learn(tx, [(each, Overdue(tx.now, Step.SEND)) for each in ids], Limits())
        tx.db.execute(update(client).values(heard_at=tx.now))
        third = str(uuid4())
        tx.db.execute(insert(client).values(uuid=third, standing="accepted", is_online=True))
        for number, uuid in enumerate([*uuids, third], 1):
            power.put_port(tx, uuid, Port("core-2", str(number), backend=Backend.DRY_RUN), "ann")
        # The first number of all is tried without being told.
        assert power.request(tx, third, "ann", None, is_online_anyway=True) == 1
        open_id, _ = orders.order(tx, ann, Wish(Action.REBOOT_HOST), third, None, House())
        token = people.add_token(tx, "ann", "old", Role.OPERATOR, False, None)
        made = store.create(tx, NIGHTLY | {"name": "weekly", "selector": ""}, "ann")
        night = Night(tx.now.date(), "UTC", tx.now, tx.now + timedelta(hours=1), tx.now + timedelta(hours=2))
        night_id = store.add_night(tx, Made(made, "2026-11-26", night, NightState.RUNNING, batch_id=batch))
        store.add_members(tx, made, "2026-11-26", night_id, batch, {})
        sites.put(tx, "alpine", {"zone": "Europe/Vienna"})
        lost = recovery.begin(tx.now, recovery.DEFAULT, False, Limits().back, tx.now)
        recoveries.begin(tx, third, open_id, lost, None)
        fourth = str(uuid4())
        tx.db.execute(insert(client).values(uuid=fourth, standing="accepted", is_online=True))
        terms = rollouts.Terms(Action.REBOOT_HOST)
        plan = rollouts.preview(tx, ann, terms, [fourth], House())
        rollout_id, _ = rollouts.create(tx, ann, terms, [fourth], plan.hash, 1, None, House())
        # In this state each operation has something to do, in the order of the document.
        tx.db.execute(update(rollout).values(state="running", recovery_off=True))
    return {
        "schedule_id": made,
        "night_id": night_id,
        "site_name": "alpine",
        "view_name": "dark at alpine",
        "client_uuid": uuids[0],
        "batch_id": batch,
        "rollout_id": rollout_id,
        "command_id": open_id,
        "token_id": token.token_id,
        "name": "ann",
    }


def run(tmp_path: Path, address: str, secret: str, *options: str) -> tuple[str, dict[str, set[int]]]:
    """What schemathesis printed, if it has found anything, and how each operation has answered."""
    report = tmp_path / f"{uuid4()}.json"
    argv = [
        *(sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"),
        *("--config-file", str(tmp_path / "schemathesis.toml"), "run", f"{address}/openapi.json"),
        *("--header", f"Authorization: Bearer {secret}", "--checks", CHECKS),
        *("--max-examples", str(EXAMPLES), "--generation-deterministic"),
        *("--continue-on-failure", "--no-color", "--warnings=off", "--report=har", f"--report-har-path={report}"),
        *options,
    ]
    environment = {"PYTHONPATH": str(FOLDER), "PATH": os.environ["PATH"], "HOME": str(tmp_path), "LANG": "C.UTF-8"}
    # Its modules lie there as they came, and it may not write beside them: all runs share what the first compiles.
    environment["PYTHONPYCACHEPREFIX"] = str(tmp_path.parent / "compiled")
    both, pipe = subprocess.STDOUT, subprocess.PIPE
    done = subprocess.run(argv, cwd=tmp_path, env=environment, text=True, stdout=pipe, stderr=both, check=False)
    assert report.exists(), done.stdout
    statuses: dict[str, set[int]] = defaultdict(set)
    for entry in json.loads(report.read_text())["log"]["entries"]:
        path = entry["request"]["url"].removeprefix(address).partition("?")[0]
        statuses[f"{entry['request']['method']} {path}"].add(entry["response"]["status"])
    return ("" if done.returncode == 0 else done.stdout), statuses


@pytest.mark.parametrize(
    ("database", "role"),
    [*(("sqlite", role) for role in Role), ("postgresql", Role.ADMIN)],
    indirect=["database"],
)
def test_no_request_that_schemathesis_makes_up_is_answered_otherwise_than_documented(
    web: Web,
    role: Role,
    tmp_path: Path,
) -> None:
    ids = fill(web.database)
    lines = [f'"path.{name}" = "{value}"' for name, value in ids.items()]
    tmp_path.joinpath("schemathesis.toml").write_text("\n".join(["[parameters]", *lines]))
    document = web.client.get(f"{PREFIX}/openapi.json").json()
    with serving(web) as address:
        without = [f"--exclude-operation-id={name}" for name in (STREAM, *LAST)]
        found, statuses = run(tmp_path, address, web.tokens[role].secret, *HOW[role], *without)
        assert not found, found
        only = [f"--include-operation-id={name}" for name in LAST]
        found, last = run(tmp_path, address, web.tokens[role].secret, *HOW[role], *only)
        assert not found, found
    for name, answers in last.items():
        statuses[name] |= answers
    if role is Role.ADMIN:
        assert unproven(document, statuses) == NEVER_WELL


def unproven(document: dict[str, Any], statuses: dict[str, set[int]]) -> set[str]:
    """Operations that were never answered well: nothing is known then of what they do."""
    found = set()
    well = [address for address, answers in statuses.items() if answers & {200, 201, 204}]
    for name, operation in operations(document):
        template = re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(name.replace(PREFIX, ""))))
        if operation["operationId"] != STREAM and not any(map(template.fullmatch, well)):
            found.add(operation["operationId"])
    return found
