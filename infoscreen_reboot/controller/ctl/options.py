"""What can be typed."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

from infoscreen_reboot import __version__
from infoscreen_reboot.controller.ctl import (
    act,
    doctor,
    fleet,
    history,
    people,
    power,
    recoveries,
    rollouts,
    schedule,
    site,
    telling,
    times,
    transfer,
    watch,
)
from infoscreen_reboot.controller.ctl.call import Call
from infoscreen_reboot.controller.ctl.course import STATES
from infoscreen_reboot.controller.ctl.outcome import EXIT_CODES, Outcome
from infoscreen_reboot.controller.ctl.screen import PROGRAM

_ROLES = ("viewer", "operator", "admin")
_BACKENDS = ("snmp", "hook", "dry-run")
_STANDINGS = ("unknown", "accepted", "rejected", "retired")
Run = Callable[[Call], Outcome]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Reboot and shut down signage clients through their controller, and see what becomes of it.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=__version__)
    _everywhere(made, None)
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_acting(commands)
    _add_looking(commands)
    _add_rollouts(commands)
    _add_clients(commands)
    _add_schedules(commands)
    _add_recoveries(commands)
    _add_power(commands)
    _add_people(commands)
    _add_transfer(commands)
    return made


def _everywhere(parser: argparse.ArgumentParser, default: Any) -> None:
    """Before the command and after it. The second must not overwrite the first with its default."""
    off = False if default is None else default
    parser.add_argument("--url", default=default, help="address: http://…, https://… or unix:/path")
    parser.add_argument("--ca", default=default, metavar="FILE", help="trust these certificates")
    parser.add_argument("--json", action="store_true", default=off, help="the same for programs")


def _add(commands: Any, name: str, run: Run | None, words: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(
        name, help=words, description=f"{words[0].upper()}{words[1:]}.", allow_abbrev=False
    )
    _everywhere(made, argparse.SUPPRESS)
    if run is not None:
        made.set_defaults(run=run)
    return made


def _add_acting(commands: Any) -> None:
    for name, words in (("reboot", "reboot clients"), ("shutdown", "shut clients down")):
        made = _add(commands, name, act.act, words)
        made.add_argument("clients", nargs="*", metavar="CLIENT", help="name or UUID")
        made.add_argument("-l", "--selector", help="all that have these labels, as in site=alpine,room!=bar")
        made.add_argument("--reason", metavar="TEXT", help="why, for the records")
        _add_how(made)
    watching = _add(commands, "watch", watch.watch, "show how a command or a batch goes on, until it has ended")
    watching.add_argument("id", metavar="ID", help="of a command or a batch")
    cancelling = _add(commands, "cancel", history.cancel, "take back what was not sent yet")
    cancelling.add_argument("id", metavar="ID", help="of a command or a batch")
    explaining = _add(commands, "explain", history.explain, "show every rule, what happened, and what proves it")
    explaining.add_argument("id", metavar="ID", help="of a command")


def _add_how(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--wait-until", type=_when, metavar="TIME", help="wait for what holds it: 30m, 04:00, 2026-11-27T04:00"
    )
    made.add_argument("--someone-is-there", action="store_true", help="someone will switch it on again")
    made.add_argument("--watch", action=argparse.BooleanOptionalAction, default=True, help="show how it goes on")
    _add_yes(made)


def _add_yes(made: argparse.ArgumentParser) -> None:
    made.add_argument("--yes", type=_number, metavar="COUNT", help="do not ask, if it is about just so many clients")


def _add_looking(commands: Any) -> None:
    _add(commands, "status", fleet.status, "show who you are, what holds, and what is open")
    listing = _add(commands, "commands", history.commands, "list commands, the newest first")
    listing.add_argument("--client", help="name or UUID")
    listing.add_argument("--batch", metavar="ID")
    listing.add_argument("--state", choices=STATES)
    listing.add_argument("--open", action="store_true", help="only those without a verdict")
    _add_limit(listing)
    batch = _add(commands, "batch", history.batches, "list batches, or look at one")
    batch.set_defaults(limit=20)
    below = batch.add_subparsers(dest="what", metavar="COMMAND")
    _add_limit(_add(below, "list", history.batches, "list them, the newest first"))
    show = _add(below, "show", history.show_batch, "show one and its members")
    show.add_argument("id", metavar="ID")
    show.add_argument("--state", choices=STATES, help="only the members in this state")
    retrying = _add(below, "retry", act.retry, "order again what did not come back or was refused")
    retrying.add_argument("id", metavar="ID")
    _add_how(retrying)
    cancelling = _add(below, "cancel", history.cancel, "take back what was not sent yet")
    cancelling.add_argument("id", metavar="ID")


def _add_rollouts(commands: Any) -> None:
    rollout = _add(commands, "rollout", rollouts.rollouts, "reboot many clients in stages, with a brake")
    rollout.set_defaults(limit=20)
    below = rollout.add_subparsers(dest="what", metavar="COMMAND")
    _add_limit(_add(below, "list", rollouts.rollouts, "list them, the newest first"))
    _add_terms(_add(below, "preview", rollouts.preview, "show who would be in which stage, and make nothing"))
    starting = _add_terms(_add(below, "start", rollouts.start, "show that, ask, and make it"))
    starting.add_argument("--watch", action=argparse.BooleanOptionalAction, default=True, help="show how it goes on")
    _add_yes(starting)
    show = _add(below, "show", rollouts.show, "show one, its stages and its members")
    show.add_argument("id", metavar="ID")
    show.add_argument("--stage", type=_number, metavar="N", help="only the members of this stage")
    pausing = _add(below, "pause", rollouts.pause, "begin no new stage, and take back what was not sent")
    pausing.add_argument("id", metavar="ID")
    pausing.add_argument("--reason", metavar="TEXT", help="why, for the others")
    for name, run, words in (
        ("watch", rollouts.watch, "show how it goes on, until it is over or asks"),
        ("resume", rollouts.resume, "go on with one that was paused or stopped"),
        ("abort", rollouts.abort, "end it, and cancel what was not sent"),
        ("rollback", rollouts.roll_back, "end it, and give labels their old values"),
        ("recovery", rollouts.recovery, "let its clients be recovered again, after a stop"),
    ):
        _add(below, name, run, words).add_argument("id", metavar="ID")


def _add_terms(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
    made.add_argument("clients", nargs="*", metavar="CLIENT", help="name or UUID")
    made.add_argument("-l", "--selector", help="all that have these labels, as in site=alpine,room!=bar")
    made.add_argument("--action", choices=tuple(act.ACTIONS), default="reboot")
    made.add_argument("--reason", metavar="TEXT", help="why, for the records")
    made.add_argument("--someone-is-there", action="store_true", help="someone will switch them on again")
    made.add_argument(
        "--stage", action="append", metavar="STAGE", help="'canary 1', '10 %%', 25 or site=alpine; several, in order"
    )
    made.add_argument("--max-failed", metavar="PERCENT", help="stop above it, as in '5 %%'")
    made.add_argument("--minimum-sample", type=_number, metavar="N", help="until so many ran, any failure asks")
    for name, words in (
        ("settle", "after a stage, for what shows itself late"),
        ("pause", "from there to the next stage"),
        ("wait", "how long a client may wait for what holds it"),
    ):
        made.add_argument(f"--{name}", type=_span, metavar="TIME", help=f"{words}: 90s, 30m")
    made.add_argument(
        "--set", action="append", type=_label, metavar="KEY=VALUE", help="label of each client that has completed"
    )
    return made


def _add_limit(made: argparse.ArgumentParser) -> None:
    made.add_argument("--limit", type=_number, default=20, metavar="N", help="at most so many (default: 20)")


def _add_clients(commands: Any) -> None:
    clients = _add(commands, "clients", fleet.clients, "list clients, or change them")
    _add_filter(clients, None)
    below = clients.add_subparsers(dest="what", metavar="COMMAND")
    _add_filter(_add(below, "list", fleet.clients, "list them"), argparse.SUPPRESS)
    _add_client(_add(below, "show", fleet.show_client, "show one"))
    for name, words in (
        ("accept", "let clients get commands"),
        ("reject", "let clients get no commands"),
        ("retire", "say that clients are gone for good"),
    ):
        standing = _add(below, name, fleet.set_standing, words)
        standing.add_argument("clients", nargs="*", metavar="CLIENT", help="name or UUID")
        if name == "retire":
            standing.set_defaults(all_unknown=False)
            _add_yes(standing)
        else:
            standing.add_argument("--all-unknown", action="store_true", help="all that nobody has decided about")
    labels = _add_client(_add(below, "label", fleet.label, "set and remove labels"))
    labels.add_argument("labels", nargs="+", metavar="LABEL", help="KEY=VALUE, or KEY- to remove it")
    _add_client(_add(below, "name", fleet.name, "give a name")).add_argument("text", metavar="NAME")
    _add_client(_add(below, "note", fleet.note, "write a note")).add_argument("text", metavar="TEXT")
    window = _add(commands, "window", fleet.windows, "show when clients may be sent commands")
    listed = _add(window.add_subparsers(dest="what", metavar="COMMAND"), "list", fleet.windows, "list the windows")
    for made, default in ((window, 5), (listed, argparse.SUPPRESS)):
        made.add_argument("--openings", type=_number, default=default, metavar="N", help="of each (default: 5)")
    freeze = _add(commands, "freeze", fleet.freezes, "let no command be sent to anybody")
    frozen = freeze.add_subparsers(dest="what", metavar="COMMAND")
    freeze.set_defaults(coming=False)
    listing = _add(frozen, "list", fleet.freezes, "list those that hold now")
    listing.add_argument("--coming", action="store_true", help="those of the calendar that have not begun, instead")
    begin = _add(frozen, "begin", fleet.begin_freeze, "from now on nothing is sent")
    begin.add_argument("why", metavar="WHY")
    begin.add_argument("--until", type=_when, metavar="TIME", help="3h, 06:00, 2026-11-27T06:00; or until it is ended")
    _add(frozen, "end", fleet.end_freeze, "end one").add_argument("id", type=_number, metavar="ID")


def _add_filter(made: argparse.ArgumentParser, default: Any) -> None:
    off = False if default is None else default
    made.add_argument("-l", "--selector", default=default, help="accepted ones that have these labels")
    made.add_argument("--standing", choices=_STANDINGS, default=default)
    made.add_argument("--names", action="store_true", default=off, help="only names, one a line")


def _add_client(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
    made.add_argument("client", metavar="CLIENT", help="name or UUID")
    return made


def _add_schedules(commands: Any) -> None:
    made = _add(commands, "schedule", schedule.schedules, "list schedules, or change them")
    below = made.add_subparsers(dest="what", metavar="COMMAND")
    _add(below, "list", schedule.schedules, "list them")
    _add_name(_add(below, "show", schedule.show, "show one, its next nights and its last ones"))
    adding = _add_name(_add(below, "add", schedule.add, "make one"))
    _add_plan(adding, is_new=True)
    adding.add_argument("--all", action="store_true", help="for all accepted clients")
    adding.add_argument("--dry-run", action="store_true", help="only show its next nights")
    editing = _add_name(_add(below, "edit", schedule.edit, "change one, from its next night on"))
    editing.add_argument("--rename", metavar="NAME")
    _add_plan(editing, is_new=False)
    for name, run, words in (
        ("delete", schedule.delete, "end one for good"),
        ("pause", schedule.change, "begin no night until it is resumed"),
        ("resume", schedule.change, "begin nights again"),
    ):
        _add_name(_add(below, name, run, words))
    for name, words in (("skip", "leave one night out"), ("unskip", "take a night in again")):
        skipping = _add_name(_add(below, name, schedule.change, words))
        skipping.add_argument("day", metavar="DAY", type=_day, help="the local day, as in 2026-12-24")
    running = _add_name(_add(below, "run", schedule.run, "run it now, beside its nights"))
    running.add_argument("--watch", action=argparse.BooleanOptionalAction, default=True, help="show how it goes on")
    _add_yes(running)
    previewing = _add_name(_add(below, "preview", schedule.preview, "show its next nights in each zone"))
    previewing.add_argument("--nights", type=_number, default=5, metavar="N", help="how many (default: 5)")
    reporting = _add(commands, "report", schedule.report, "show how a night ended, or list the nights")
    reporting.add_argument("id", nargs="?", metavar="ID", help="of a night")
    reporting.add_argument("--csv", action="store_true", help="for a spreadsheet")
    reporting.add_argument("--schedule", metavar="NAME", help="only nights of this one")
    _add_limit(reporting)
    places = _add(commands, "site", site.sites, "list sites, or say what is known of them")
    sites = places.add_subparsers(dest="what", metavar="COMMAND")
    _add(sites, "list", site.sites, "list them")
    setting = _add_name(_add(sites, "set", site.set_site, "say its time zone, opening hours or a note"))
    setting.add_argument("--zone", metavar="ZONE", help="as in Europe/Vienna; an empty text removes it")
    setting.add_argument("--opening-hours", metavar="HOURS", help="as in 'mon-fri 08:00 12h'")
    setting.add_argument("--note", metavar="TEXT")
    _add_name(_add(sites, "delete", site.delete_site, "forget what is known of one"))


def _add_name(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
    made.add_argument("name", metavar="NAME")
    return made


def _add_plan(made: argparse.ArgumentParser, *, is_new: bool) -> None:
    made.add_argument("-l", "--selector", help="for the clients that have these labels, as in site=alpine,room!=bar")
    rule = "FREQ=DAILY" if is_new else None
    made.add_argument("--rule", metavar="RULE", default=rule, help="on which days, as in 'FREQ=WEEKLY;BYDAY=MO,TH'")
    made.add_argument("--start", metavar="HH:MM", required=is_new, help="local time")
    made.add_argument("--zone", metavar="ZONE", help="as in Europe/Berlin; `own` is that of each client (default)")
    made.add_argument("--window", type=_minutes, metavar="TIME", help="how long commands go out: 2h (default), 90m")
    made.add_argument("--spread", type=_minutes, metavar="TIME", help="over how long the clients are spread")
    made.add_argument("--back-by", type=_minutes, metavar="TIME", help="all back so long after the start: 2h30m")


def _add_recoveries(commands: Any) -> None:
    recovery = _add(commands, "recovery", recoveries.recoveries, "list clients that did not come back, or take over")
    _add_which(recovery, None)
    below = recovery.add_subparsers(dest="what", metavar="COMMAND")
    _add_which(_add(below, "list", recoveries.recoveries, "list them, the newest first"), argparse.SUPPRESS)
    show = _add(below, "show", recoveries.show_recovery, "show the steps of one, and the text for a ticket")
    show.add_argument("id", type=_number, metavar="ID")
    stop = _add(below, "stop", recoveries.stop_recovery, "try nothing more: somebody is there")
    stop.add_argument("id", type=_number, metavar="ID")
    stop.add_argument("why", metavar="WHY")


def _add_which(made: argparse.ArgumentParser, default: Any) -> None:
    off, limit = (False, 20) if default is None else (default, default)
    made.add_argument("--all", action="store_true", default=off, help="also those that are over")
    made.add_argument("--client", default=default, help="name or UUID")
    made.add_argument("--limit", type=_number, default=limit, metavar="N", help="at most so many (default: 20)")


def _add_power(commands: Any) -> None:
    top = _add(commands, "power", power.ports, "list the ports that feed clients, or switch them off and on")
    below = top.add_subparsers(dest="what", metavar="COMMAND")
    _add(below, "list", power.ports, "list them, and what is held off")
    adding = _add_client(_add(below, "add", power.add, "say which port feeds a client"))
    adding.add_argument("--switch", metavar="NAME", required=True, help="what people call the switch")
    adding.add_argument("--port", metavar="PORT", required=True, help="as in 7 or 1.7; for a hook, what it knows it by")
    adding.add_argument("--address", metavar="HOST", help="of the switch")
    adding.add_argument("--profile", metavar="NAME", help="the settings of SNMP, or the hook")
    adding.add_argument("--backend", choices=_BACKENDS, default=_BACKENDS[0], help="default: snmp")
    _add_client(_add(below, "remove", power.remove, "forget the port of a client"))
    importing = _add(below, "import", power.import_ports, "take ports from a file")
    importing.add_argument("file", metavar="FILE", help="CSV, or what `ansible-inventory --list` prints; - is stdin")
    importing.add_argument("--dry-run", action="store_true", help="say what it would change")
    _add_client(_add(below, "test", power.test, "read a port, and change nothing"))
    cycling = _add_client(_add(below, "cycle", power.cycle, "switch a port off and on again"))
    cycling.add_argument("--reason", metavar="TEXT", required=True, help="why, for the records")
    cycling.add_argument("--online-anyway", action="store_true", help="cut the power also if the client is online")
    cycling.add_argument("--watch", action=argparse.BooleanOptionalAction, default=True, help="show how it goes on")
    _add_yes(cycling)
    _add(below, "restore", power.restore, "switch on what a power cycle has left off")


def _add_people(commands: Any) -> None:
    _add(commands, "login", people.login, "ask for address and token, and store them")
    token = _add(commands, "token", people.tokens, "list tokens, or make and revoke them")
    below = token.add_subparsers(dest="what", metavar="COMMAND")
    _add(below, "list", people.tokens, "list them")
    create = _add(below, "create", people.create_token, "make one; it is shown once")
    create.add_argument("name", metavar="NAME", help="what it is for")
    create.add_argument("--user", metavar="NAME", help="whose it is (default: yours)")
    create.add_argument("--role", choices=_ROLES, help="with fewer rights than the user has")
    create.add_argument("--may-shut-down", action="store_true")
    create.add_argument("--expires-in-days", type=_number, metavar="N")
    _add(below, "revoke", people.revoke_token, "end one").add_argument("id", metavar="ID")
    user = _add(commands, "user", people.users, "list users, or change them")
    users = user.add_subparsers(dest="what", metavar="COMMAND")
    _add(users, "list", people.users, "list them")
    adding = _add(users, "add", people.add_user, "add one")
    adding.add_argument("name", metavar="NAME")
    adding.add_argument("--role", choices=_ROLES, required=True)
    adding.add_argument("--may-shut-down", action="store_true")
    changing = _add(users, "change", people.change_user, "change rights, or disable")
    changing.add_argument("name", metavar="NAME")
    changing.add_argument("--role", choices=_ROLES)
    changing.add_argument("--may-shut-down", action=argparse.BooleanOptionalAction)
    changing.add_argument("--disabled", action=argparse.BooleanOptionalAction)
    password = _add(users, "password", people.set_password, "set a password; it is asked for, and not shown")
    password.add_argument("name", metavar="NAME")
    notify = _add(commands, "notify", telling.notices, "show what people were told, or try whether it arrives")
    notify.set_defaults(limit=20)
    told = notify.add_subparsers(dest="what", metavar="COMMAND")
    _add_limit(_add(told, "list", telling.notices, "list what people were told, the newest first"))
    _add(told, "targets", telling.targets, "list who is told, and what has not arrived")
    trying = _add(told, "test", telling.test, "send a test message")
    trying.add_argument("target", metavar="TARGET", nargs="?", help="only to this one")
    _add_limit(_add(commands, "audit", people.audit, "list who did what, the newest first"))


def _add_transfer(commands: Any) -> None:
    importing = _add(commands, "import", transfer.import_clients, "take clients from a file")
    importing.add_argument("file", metavar="FILE", help="CSV, or what `ansible-inventory --list` prints; - is stdin")
    importing.add_argument("--dry-run", action="store_true", help="say what it would change")
    exporting = _add(commands, "export", transfer.export_clients, "write all clients as CSV")
    exporting.add_argument("file", metavar="FILE", nargs="?", default="-", help="a new file (default: stdout)")
    _add(commands, "doctor", doctor.doctor, "find out whether the controller can be used from here")


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:9]) > 0 and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _minutes(text: str) -> int:
    seconds = (_when(text) - datetime.now(UTC)).total_seconds() if text[-1:] in ("m", "h") else 0
    if round(seconds / 60) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; say 90m, 2h or 2h30m")
    return round(seconds / 60)


def _day(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no day; say it as in 2026-12-24") from None


def _span(text: str) -> timedelta:
    try:
        return times.parse_span(text)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; say 90s, 30m or 1h30m") from None


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is no label; say KEY=VALUE")
    return key, value


def _when(text: str) -> datetime:
    try:
        return times.parse_when(text, datetime.now(UTC))
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is no time; say 30m, 04:00 or 2026-11-27T04:00") from None
