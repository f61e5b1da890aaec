"""`doctor`: whether the controller can be used from here, and on the server itself also what its own doctor says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from infoscreen_reboot import __version__
from infoscreen_reboot.controller.ctl.call import Call
from infoscreen_reboot.controller.ctl.connection import PREFIX
from infoscreen_reboot.controller.ctl.outcome import Failure, Outcome, Refused, Unreachable
from infoscreen_reboot.controller.ctl.shapes import Whoami

SERVER = Path("/usr/sbin/infoscreen-reboot-controller")
# The header has whole seconds, and the answer takes some time.
_MOST_CLOCK_DIFFERENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    verdict: str
    check: str
    text: str
    advice: str | None = None


def doctor(call: Call) -> Outcome:
    findings = list(examine(call))
    call.screen.findings([(each.verdict, each.text, each.advice) for each in findings])
    sys.stdout.flush()  # the other program writes to it, too
    on_server = local_doctor(call)
    if call.screen.is_json:
        document: dict[str, object] = {"findings": [asdict(finding) for finding in findings], "server": None}
        if on_server is not None:
            document["server"] = {"exit_code": on_server.returncode, "answer": _answer(on_server.stdout)}
        call.screen.document(document)
    return _outcome(findings, on_server)


def _answer(text: str) -> object:
    """A program that cannot run the doctor at all says so in no JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def local_doctor(call: Call) -> subprocess.CompletedProcess[str] | None:
    """The server's own doctor; None where it cannot run: elsewhere, or as somebody else than root."""
    if not SERVER.exists() or os.geteuid() != 0:
        return None
    how = ["--json"] if call.screen.is_json else []
    output = subprocess.PIPE if call.screen.is_json else None
    return subprocess.run([SERVER, "doctor", *how], check=False, text=True, stdout=output)


def _outcome(findings: list[Finding], on_server: subprocess.CompletedProcess[str] | None) -> Outcome:
    problems = {finding.check for finding in findings if finding.verdict == "problem"}
    if problems == {"token"}:
        return Outcome.NOT_PERMITTED
    if problems or (on_server is not None and on_server.returncode != 0):
        return Outcome.UNREACHABLE
    return Outcome.DONE


def examine(call: Call) -> Iterator[Finding]:
    """A check that depends on a failed one is left out, so that each fault is named once."""
    url = call.connection.settings.url
    before = datetime.now(UTC)
    try:
        alive = call.connection.raw("/healthz")
    except Unreachable as error:
        yield Finding("problem", "address", str(error), _advice(url, str(error)))
        return
    after = datetime.now(UTC)
    if not alive.is_success:
        yield Finding(
            "problem", "address", f"{url} answers with {alive.status_code}", "is this the address of a controller?"
        )
        return
    yield Finding("ok", "address", f"{url} answers")
    yield _transport(url)
    yield examine_clock(alive.headers.get("Date"), before, after)
    ready = call.connection.raw("/readyz")
    if ready.is_success:
        yield Finding("ok", "ready", "the server is ready")
    else:
        advice = "look at its log: journalctl -u infoscreen-reboot-controller"
        yield Finding("problem", "ready", f"the server is not ready: {ready.status_code}", advice)
    yield _version(call)
    yield _token(call)


def _advice(url: str, words: str) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in words:
        return "if the certificate is of an authority of your own: --ca FILE"
    if url.startswith("unix:"):
        return "does the service run? systemctl status infoscreen-reboot-controller"
    return "is the address right, does the service run, does a firewall stop it?"


def _transport(url: str) -> Finding:
    if url.startswith("https:"):
        return Finding("ok", "tls", "TLS, and the certificate is trusted")
    if url.startswith("unix:") or url.startswith(("http://127.", "http://localhost", "http://[::1]")):
        return Finding("ok", "tls", "the connection stays on this machine")
    return Finding("warning", "tls", "without TLS everybody on the way can read the token", "use https://")


def examine_clock(date: str | None, before: datetime, after: datetime) -> Finding:
    try:
        server = parsedate_to_datetime(date or "")
    except ValueError:
        return Finding("warning", "clock", "the server does not say what time it is there")
    late_s = (before - server).total_seconds() - 1
    early_s = (server - after).total_seconds()
    off_s = max(late_s, early_s, 0.0)
    if off_s <= _MOST_CLOCK_DIFFERENCE_S:
        return Finding("ok", "clock", "the clocks of the server and of this machine agree")
    return Finding(
        "warning",
        "clock",
        f"the clocks of the server and of this machine differ by {off_s:.0f} s",
        "set the one that is wrong: timedatectl; a time for --wait-until is of this machine's clock",
    )


def _version(call: Call) -> Finding:
    response = call.connection.raw(f"{PREFIX}/openapi.json")
    try:
        version = str(response.json()["info"]["version"])
    except (ValueError, KeyError, TypeError):
        return Finding("problem", "version", "this is no controller", "is this the right address?")
    if version == __version__:
        return Finding("ok", "version", f"server and program have version {version}")
    return Finding("warning", "version", f"the server has version {version}, this program {__version__}")


def _token(call: Call) -> Finding:
    if call.connection.settings.token is None:
        return Finding("problem", "token", "there is no token for this address", "run: infoscreen-rebootctl login")
    try:
        who: Whoami = call.connection.get("/whoami")
    except Refused as refused:
        return Finding("problem", "token", str(refused), "run: infoscreen-rebootctl login")
    except Failure as failure:
        return Finding("problem", "token", str(failure))
    may = " and may shut down" if who["may_shut_down"] else ""
    return Finding("ok", "token", f"the token is {who['name']}'s, who is {who['role']} here{may}")
