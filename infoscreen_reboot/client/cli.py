"""The command line for people on the machine: it shows what the agent knows, and what is wrong."""

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from infoscreen_reboot import __version__
from infoscreen_reboot.client import kernel
from infoscreen_reboot.client.agent.boot_report import Boot
from infoscreen_reboot.client.agent.lifecycle import Record
from infoscreen_reboot.client.agent.store import STORE_NAME, Store, StoreError
from infoscreen_reboot.client.doctor import judgement, survey
from infoscreen_reboot.client.doctor.finding import Finding, Verdict
from infoscreen_reboot.contract import ack, wire
from infoscreen_reboot.contract.command import MAX_BYTES

_STORE = Path("/var/lib/infoscreen-reboot", STORE_NAME)
_SHOWN_BY_STATUS = 10
_ASKED = "requested_by", "reason", "issued_at", "expires_at"
_ANSWERED, _WRONG = 0, 1


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="infoscreen-reboot", description="Remote reboot and shutdown of this client.")
    made.add_argument("--version", action="version", version=__version__)
    commands = made.add_subparsers(dest="command", required=True)
    status = commands.add_parser("status", help="what the agent is doing, and the last commands")
    history = commands.add_parser("history", help="the commands so far, the newest first, with all that is known")
    history.add_argument("--limit", type=_number, default=20, metavar="N", help="at most so many (default: 20)")
    check = commands.add_parser("doctor", help="whether a remote reboot would work, and what to do if not")
    for command in (status, history, check):
        command.add_argument("--json", action="store_true", help="the same for programs")
    commands.add_parser("check-config", help="whether the agent's configuration is good, and what is wrong with it")
    return made


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    if os.geteuid() != 0:
        print("infoscreen-reboot: cannot read the agent's state; run it as root", file=sys.stderr)
        return _WRONG
    try:
        match arguments.command:
            case "check-config":
                return subprocess.run(survey.as_agent(survey.AGENT_PROGRAM, "--check-config"), check=False).returncode
            case "doctor":
                return _doctor(arguments.json)
            case "history":
                return _history(arguments.limit, arguments.json)
        return _status(arguments.json)
    except StoreError as error:
        print(f"infoscreen-reboot: {error}", file=sys.stderr)
    except survey.NoAnswer as error:
        print(f"infoscreen-reboot: cannot ask systemd: {error}", file=sys.stderr)
    return _WRONG


def _status(as_json: bool) -> int:
    unit = survey.show(survey.UNIT, "ActiveState", "SubState", "Result", "StatusText")
    report: dict[str, object] = {"unit": unit, "boot_id": kernel.boot_id()}
    lines = [f"{survey.UNIT}: {unit['ActiveState']} ({unit['SubState']})"]
    lines += [f"  {unit['StatusText']}"] if unit["StatusText"] else []
    try:
        lines += _say_what_is_kept(report)
    except StoreError as error:
        # The agent goes on without the store. Its own status line, printed above, says so.
        report["error"] = str(error)
        lines.append(str(error))
    print(json.dumps(report, indent=2) if as_json else "\n".join(lines))
    return _ANSWERED


def _say_what_is_kept(report: dict[str, object]) -> list[str]:
    """Returns the store's part of the status as lines, and adds it to `report`."""
    if not _STORE.exists():
        return ["no commands yet: the agent has not run"]
    kept = _read_store(_SHOWN_BY_STATUS)
    last_boot = kept.last_boot
    unreadable, conflicts, bad_signatures = (
        kept.counters.get(name, 0) for name in ("unreadable", "conflicts", "bad_signatures")
    )
    known = [_known(record) for record in kept.records]
    report |= {"outbox": kept.owed, "unreadable": unreadable, "conflicts": conflicts, "bad_signatures": bad_signatures}
    report["commands"] = known
    lines = []
    if last_boot is not None:
        report["boot"] = asdict(last_boot)
        after = f" {last_boot.command_id}" if last_boot.command_id else ""
        lines.append(f"this boot came about by {last_boot.cause}{after}")
    lines.append(f"acks to deliver: {kept.owed}, unreadable payloads: {unreadable}, conflicting repeats: {conflicts}")
    lines += [f"without a good signature: {bad_signatures}"] if bad_signatures else []
    return lines + [_line(one) for one in known]


def _history(limit: int, as_json: bool) -> int:
    records = _read_store(limit).records if _STORE.exists() else []
    known = [_known(record) for record in records]
    if as_json:
        print(json.dumps(known, indent=2))
    for one in known if not as_json else ():
        print(_line(one))
        told = (f"{name.replace('_', ' ')}: {one[name]}" for name in _ASKED if one[name] is not None)
        print(_printable("    " + (", ".join(told) or "it does not say who asked, and why")))
    if not known and not as_json:
        print("no commands yet")
    return _ANSWERED


class _Kept(NamedTuple):
    """What the store says: how many messages are owed, the counters, the newest records and the newest boot."""

    owed: int
    counters: dict[str, int]
    records: list[Record]
    last_boot: Boot | None


def _read_store(limit: int) -> _Kept:
    """`limit` is how many records are wanted."""
    store = Store(_STORE, read_only=True)
    try:
        return _Kept(store.owed_count(), store.counters(), store.last_records(limit), store.last_boot())
    finally:
        store.close()


def _known(record: Record) -> dict[str, object]:
    """All facts of a command; None for what is not known. A refused command may hold anything, or be no JSON at all."""
    last = ack.parse(record.ack) if record.ack is not None else None
    try:
        asked = wire.decode(record.command, MAX_BYTES)
    except wire.ContractError:
        asked = {}
    return {
        "command_id": record.command_id,
        "action": record.action,
        "state": record.state,
        "timestamp": wire.format_time(last.timestamp) if last else None,
        "error_code": last.error_code if last else None,
        "error_message": last.error_message if last else None,
        "requested_by": asked.get("requested_by"),
        "reason": asked.get("reason"),
        "issued_at": asked.get("issued_at"),
        "expires_at": asked.get("expires_at"),
        "received_boot_id": record.received_boot_id,
        "started_boot_id": record.started_boot_id,
    }


def _line(known: dict[str, object]) -> str:
    what = f"{known['command_id']}  {known['action'] or '-'!s:13}  {known['state']}"
    error = f"  {known['error_code']}: {known['error_message']}" if known["error_code"] else ""
    return _printable(f"{known['timestamp'] or '-':24}  {what}{error}")


def _printable(text: str) -> str:
    """Replaces control characters: text from a stranger must not control the terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _doctor(as_json: bool) -> int:
    findings = judgement.diagnose(survey.gather())
    verdict = max((finding.verdict for finding in findings), key=list(Verdict).index)
    if as_json:
        print(json.dumps({"verdict": verdict, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        print("\n".join([*map(_told, findings), "", _summary(findings)]))
    return _WRONG if verdict is Verdict.PROBLEM else _ANSWERED


def _told(finding: Finding) -> str:
    line = f"{finding.verdict:7}  {finding.check}: {finding.text}"
    return _printable(line) + (f"\n         -> {_printable(finding.advice)}" if finding.advice else "")


def _summary(findings: list[Finding]) -> str:
    count = Counter(finding.verdict for finding in findings)
    problems, warnings = count[Verdict.PROBLEM], count[Verdict.WARNING]
    told = [f"{number} {word}{'s' * (number != 1)}" for number, word in ((problems, "problem"), (warnings, "warning"))]
    end = "a remote reboot will not work" if problems else "nothing here stands in the way of a remote reboot"
    return f"{', '.join(told)}: {end}"
