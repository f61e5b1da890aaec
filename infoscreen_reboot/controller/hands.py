"""What an administrator does on the server itself, as the controller's user: doctor, admin, backup."""

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
from infoscreen_reboot.controller.store import people, schema
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


def _settings(environment: Mapping[str, str]) -> Settings | None:
    try:
        return config.load(environment)
    except config.ConfigError as error:
        for problem in error.problems:
            print(f"problem: {problem}", file=sys.stderr)
        return None
