"""What is done on the server itself, as the controller's user: doctor, admin, backup, power-restore."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from infoscreen_reboot.controller import config
from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.config import Settings
from infoscreen_reboot.controller.doctor import Verdict, diagnose
from infoscreen_reboot.controller.power.cycle import Pace
from infoscreen_reboot.controller.power.outlet import Outlets
from infoscreen_reboot.controller.power.snmp import Snmp
from infoscreen_reboot.controller.power.worker import restore_all
from infoscreen_reboot.controller.store import people, power, schema
from infoscreen_reboot.controller.store.database import Database, StoreError
from infoscreen_reboot.controller.store.schema import SchemaTooNew


def admin(environment: Mapping[str, str], name: str) -> int:
    """Print a token of an administrator of that name; who has the server may have that, also when all are lost."""
    settings = _settings(environment)
    if settings is None:
        return os.EX_CONFIG
    try:
        database = Database(settings.database_url)
        schema.prepare(database, config.backups(environment))
        with database.write() as tx:
            people.make_admin(tx, name)
            made = people.add_token(tx, name, "made on the server", Role.ADMIN, True, None)
            people.note(tx, name, "server", None, "make admin", name, "made")
    except (StoreError, SchemaTooNew) as error:
        print(f"cannot make an administrator: {error}", file=sys.stderr)
        return 1
    print(f"{name} is an administrator. This token is shown once, keep it: infoscreen-rebootctl login", file=sys.stderr)
    print(made.secret)
    return 0


def backup(environment: Mapping[str, str], file: Path) -> int:
    """Copy the SQLite database as it stands."""
    settings = _settings(environment)
    if settings is None:
        return os.EX_CONFIG
    try:
        database = Database(settings.database_url)
        if not database.is_sqlite:
            print("this database is PostgreSQL: use pg_dump", file=sys.stderr)
            return 1
        schema.backup(database, file)
    except StoreError as error:
        print(f"cannot make a backup: {error}", file=sys.stderr)
        return 1
    print(file)
    return 0


def doctor(environment: Mapping[str, str], as_json: bool) -> int:
    """Print what was found, and what to do about it; 1 if there is a problem."""
    found = []
    for finding in diagnose(environment):
        found.append(finding)
        if not as_json:
            print(f"{finding.verdict:7}  {finding.check}: {finding.text}")
            if finding.advice:
                print(f"         -> {finding.advice}")
    verdict = max((finding.verdict for finding in found), key=list(Verdict).index)
    if as_json:
        print(json.dumps({"verdict": verdict, "findings": [asdict(finding) for finding in found]}, indent=2))
    return int(verdict is Verdict.PROBLEM)


def power_restore(environment: Mapping[str, str]) -> int:
    """Switch on what a power cycle has left off, straight from the database; 1 if it is not known to be on.

    The unit that systemd starts when the controller has stopped asks again then. It needs no other setting than the
    database's: those may be what the controller stumbles over.
    """
    try:
        database = Database(config.database_url(environment))
        if database.file is not None and not database.file.exists():
            return 0
        with database.read() as tx:
            if not power.is_there(tx):
                return 0
        found = restore_all(database, Outlets(Snmp(config.credentials(environment))), Pace())
    except config.ConfigError as error:
        print(f"problem: {error}", file=sys.stderr)
        return os.EX_CONFIG
    except StoreError as error:
        print(f"cannot read which ports are off: {error}", file=sys.stderr)
        return 1
    for row, why in found:
        print(f"{power.port_in(row)}: {why or 'on again'}")
    return int(any(why is not None for _, why in found))


def _settings(environment: Mapping[str, str]) -> Settings | None:
    try:
        return config.load(environment)
    except config.ConfigError as error:
        for problem in error.problems:
            print(f"problem: {problem}", file=sys.stderr)
        return None
