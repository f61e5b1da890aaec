"""For people on the machine: what the agent knows, and whether its configuration is good."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from infoscreen_reboot import __version__
from infoscreen_reboot.agent import boot
from infoscreen_reboot.agent.app import JOURNAL_NAME
from infoscreen_reboot.agent.journal import Journal, JournalError
from infoscreen_reboot.agent.lifecycle import Record
from infoscreen_reboot.contract import ack, wire

UNIT = "infoscreen-simclient.service"
_AGENT = "/usr/libexec/infoscreen-reboot/infoscreen-simclient"
_STATE = Path("/var/lib/infoscreen-reboot")
# What decides over the agent's environment; systemd reads it, so that we need no parser of our own.
_ENVIRONMENT = ("Environment", "EnvironmentFiles", "LoadCredential")


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
    """Ask the agent itself, as its own user and in its own environment."""
    unit = _show("User", *_ENVIRONMENT)
    properties = [f"User={unit['User']}", "Type=exec"]
    for line in unit["EnvironmentFiles"].splitlines():
        path, _, options = line.rpartition(" (")
        properties.append(f"EnvironmentFile={'-' if 'ignore_errors=yes' in options else ''}{path}")
    properties += [f"{name}={unit[name]}" for name in ("Environment", "LoadCredential") if unit[name]]
    words = [word for line in properties for word in ("-p", line)]
    run = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", *words, "--", _AGENT, "--check-config"]
    return subprocess.run(run, check=False).returncode


def _show(*names: str) -> dict[str, str]:
    """Properties of the agent's unit; one that systemd lists on several lines keeps them all."""
    shown = subprocess.run(
        ["systemctl", "show", UNIT, *(f"--property={n}" for n in names)],
        capture_output=True,
        text=True,
        check=False,
    )
    if shown.returncode != 0:
        raise SystemExit(f"infoscreen-reboot: cannot ask systemd: {shown.stderr.strip()}")
    found = dict.fromkeys(names, "")
    for line in shown.stdout.splitlines():
        name, _, value = line.partition("=")
        found[name] = f"{found[name]}\n{value}" if found.get(name) else value
    return found
