"""For people on the machine: what the agent knows, and whether its configuration is good."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from infoscreen_reboot import __version__
from infoscreen_reboot.agent import boot
from infoscreen_reboot.agent.app import JOURNAL_NAME
from infoscreen_reboot.agent.journal import Journal, JournalError
from infoscreen_reboot.agent.lifecycle import Record
from infoscreen_reboot.contract import ack, wire

UNIT = "infoscreen-simclient.service"
_AGENT = "/usr/libexec/infoscreen-reboot/infoscreen-simclient"
_STATE = Path("/var/lib/infoscreen-reboot")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="infoscreen-reboot", description="Remote reboot and shutdown of this client.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    status = commands.add_parser("status", help="what the agent is doing, and the last commands")
    status.add_argument("--json", action="store_true", help="the same for programs")
    commands.add_parser("check-config", help="whether the agent's configuration is good, and what is wrong with it")
    arguments = parser.parse_args(argv)
    if os.geteuid() != 0:
        print("infoscreen-reboot: cannot read the agent's state; run it as root", file=sys.stderr)
        return 1
    if arguments.command == "check-config":
        return _check_config()
    return _status(as_json=arguments.json)


def _status(as_json: bool) -> int:
    unit = _show("ActiveState", "SubState", "Result", "StatusText")
    report: dict[str, object] = {"unit": unit, "boot_id": boot.boot_id()}
    path = _STATE / JOURNAL_NAME
    if path.exists():
        try:
            report |= _read_journal(path)
        except JournalError as error:
            print(f"infoscreen-reboot: {error}", file=sys.stderr)
            return 1
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        print(_readable(report))
    return 0


def _read_journal(path: Path) -> dict[str, object]:
    journal = Journal(path, read_only=True)
    try:
        counters = journal.counters()
        return {
            "outbox": journal.owed_count(),
            "unreadable": counters.get("unreadable", 0),
            "conflicts": counters.get("conflicts", 0),
            "commands": [_summary(record) for record in journal.last_records(10)],
        }
    finally:
        journal.close()


def _summary(record: Record) -> dict[str, object]:
    last = ack.parse(record.ack) if record.ack is not None else None
    return {
        "command_id": record.command_id,
        "action": record.action,
        "state": record.state,
        "timestamp": wire.format_time(last.timestamp) if last else None,
        "error_code": last.error_code if last else None,
        "error_message": last.error_message if last else None,
    }


def _readable(report: dict[str, object]) -> str:
    unit = report["unit"]
    assert isinstance(unit, dict)
    lines = [f"{UNIT}: {unit['ActiveState']} ({unit['SubState']})"]
    if unit["StatusText"]:
        lines.append(f"  {unit['StatusText']}")
    if "commands" not in report:
        return "\n".join([*lines, "no commands yet: the agent has not run"])
    lines.append(
        f"acks to deliver: {report['outbox']}, unreadable payloads: {report['unreadable']}, "
        f"conflicting repeats: {report['conflicts']}"
    )
    commands = report["commands"]
    assert isinstance(commands, list)
    for command in commands:
        when, what = command["timestamp"] or "-", f"{command['command_id']}  {command['action']!s:13}"
        line = f"{when:24}  {what}  {command['state']}"
        error = f"  {command['error_code']}: {command['error_message']}" if command["error_code"] else ""
        lines.append(line + error)
    return "\n".join(lines)


def _check_config() -> int:
    """Ask the agent itself, as its own user and with the environment and the credentials its unit gives it."""
    properties = [f"User={_unit_property('User')}"]
    properties += [f"EnvironmentFile={'-' * may_miss}{path}" for path, may_miss in _unit_property("EnvironmentFiles")]
    properties += [f"LoadCredential={name}:{path}" for name, path in _unit_property("LoadCredential")]
    properties += [f"LoadCredentialEncrypted={n}:{path}" for n, path in _unit_property("LoadCredentialEncrypted")]
    words = [f"--setenv={assignment}" for assignment in _unit_property("Environment")]
    words += [f"--property={line}" for line in properties]
    run = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", *words, "--", _AGENT, "--check-config"]
    return subprocess.run(run, check=False).returncode


def _unit_property(name: str) -> Any:
    """A property of the agent's unit by way of the bus: `systemctl show` of systemd 252 leaves some out."""
    path = "/org/freedesktop/systemd1/unit/infoscreen_2dsimclient_2eservice"
    where = ["org.freedesktop.systemd1", path, "org.freedesktop.systemd1.Service", name]
    return json.loads(_ask("busctl", "--json=short", "get-property", *where))["data"]


def _show(*names: str) -> dict[str, str]:
    shown = _ask("systemctl", "show", UNIT, *(f"--property={name}" for name in names))
    return dict(line.split("=", 1) for line in shown.splitlines())


def _ask(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"infoscreen-reboot: cannot ask systemd: {done.stderr.strip()}")
    return done.stdout
