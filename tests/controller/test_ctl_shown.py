"""What the command line shows, and what it says of people, clients and itself."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert, update

from infoscreen_reboot.controller import policies, targets
from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.ctl import doctor
from infoscreen_reboot.controller.freezing import Event
from infoscreen_reboot.controller.notifying import Message, NotSent, Post
from infoscreen_reboot.controller.orders import House
from infoscreen_reboot.controller.store import calendars, deliveries, notices
from infoscreen_reboot.controller.store.facts import Policy
from infoscreen_reboot.controller.store.notices import Kind
from infoscreen_reboot.controller.store.tables import client, label
from infoscreen_reboot.controller.targets import Target
from tests.controller.desk import PROGRAM, TOP, Desk, all_complete
from tests.controller.played_fleet import uuid

# A colour, a right-to-left override, and what rich would read as markup.
HOSTILE = "\x1b[31mred\x07[bold]\u202e"
SHOWN = r"\x1b[31mred\x07[bold]\u202e"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")


# --- Who one is


def test_without_a_valid_token_nothing_goes(desk: Desk) -> None:
    assert desk("status", role=None).code == 5
    assert desk("status", token="irc_wrong").code == 5
    assert desk("reboot", "lobby", "--yes", "1", role=Role.VIEWER).code == 5
    assert desk.count() == 0


def test_a_login_stores_a_token_that_only_its_owner_can_read(desk: Desk) -> None:
    read, write = os.pipe()
    os.write(write, f"{desk.fleet.tokens[Role.OPERATOR]}\n".encode())
    os.close(write)
    with os.fdopen(read) as typed:
        desk.patch.setattr("sys.stdin", typed)
        assert desk("login", role=None).code == 0
    path = desk.home / ".config/infoscreen-rebootctl/config"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    desk.patch.delenv("INFOSCREEN_REBOOTCTL_URL")
    assert desk("status", role=None).code == 0
    other = desk.fleet.address.replace("127.0.0.1", "localhost")
    assert desk("status", role=None, url=other).code == 5, "another server never sees the token"
    path.chmod(0o640)
    done = desk("status", role=None)
    assert done.code == 2 and f"chmod 600 {path}" in done.err


def test_a_login_on_a_terminal_asks_and_does_not_show_the_token(desk: Desk) -> None:
    secret = desk.fleet.tokens[Role.ADMIN]
    done = desk.terminal("login", answers=[("Token (is not shown):", f"{secret}\n")])
    assert done.code == 0 and "You are an-admin, admin." in done.out and secret not in done.out
    wrong = desk.terminal("login", answers=[("Token (is not shown):", "irc_wrong\n")])
    assert wrong.code == 5 and secret in (desk.home / ".config/infoscreen-rebootctl/config").read_text()


def test_tokens_and_users_are_made_changed_and_ended(desk: Desk) -> None:
    assert desk("user", "add", "bob", "--role", "operator", role=Role.ADMIN).code == 0
    assert desk("user", "add", "bob", "--role", "operator", role=Role.ADMIN).code == 4
    made = desk("token", "create", "nightly", "--user", "bob", "--expires-in-days", "3", role=Role.ADMIN)
    assert made.code == 0 and re.fullmatch(r"irc_\S+\n", made.out), "only the token, so that it can be piped"
    assert desk("status", "--json", token=made.out.strip()).json["whoami"]["name"] == "bob"
    assert desk("user", "change", "bob", "--role", "viewer", "--may-shut-down", role=Role.ADMIN).code == 0
    assert re.search(r"^bob +viewer, may shut down$", desk("user", role=Role.ADMIN).out, re.MULTILINE)
    tokens = desk("token", "list", "--json", role=Role.ADMIN).json
    [of_bob] = [each["id"] for each in tokens if each["user"] == "bob"]
    assert desk("token", "revoke", of_bob, role=Role.ADMIN).code == 0
    assert desk("token", "revoke", of_bob, role=Role.ADMIN).code == 2
    assert desk("user", "change", "bob", role=Role.ADMIN).code == 2
    assert desk("user", "change", "an-admin", "--disabled", role=Role.ADMIN).code == 4, "the last admin stays"
    assert desk("user", role=Role.OPERATOR).code == 5
    assert "add user" in desk("audit", role=Role.ADMIN).out


# --- How things stand


def test_the_status_counts_what_there_is(desk: Desk) -> None:
    desk.fleet.add("dark", is_online=False)
    desk.fleet.add("new", standing="unknown")
    desk("reboot", "lobby", "--yes", "1", "--no-watch")
    desk("freeze", "begin", "trade fair")
    done = desk("status")
    assert done.code == 0
    for words in ("an-operator, operator", "3 online, 1 offline, 1 unknown", "1 queued", "trade fair (an-operator)"):
        assert words in done.out
    assert desk("status", "--json").json["clients"] == {"online": 3, "offline": 1, "unknown": 1}
    number = str(desk("freeze", "--json").json[0]["id"])
    assert desk("freeze", "end", number).code == 0
    assert desk("freeze", "end", number).code == 2


def test_the_sickest_clients_are_first(desk: Desk) -> None:
    desk.fleet.add("dark", is_online=False)
    desk.fleet.add("a-new-one", standing="unknown")
    desk.fleet.add("gone", standing="retired")
    with desk.fleet.database.write() as tx:
        tx.db.execute(update(client).where(client.c.name == "lobby").values(two_hosts_at=tx.now))
    rows = [line.split()[:2] for line in desk("clients").out.splitlines()[1:]]
    assert rows == [
        ["lobby", "needs_person"],
        ["dark", "offline"],
        ["a-new-one", "unknown"],
        ["bar-left", "online"],
        ["bar-right", "online"],
        ["gone", "retired"],
    ]
    shown = desk("clients", "show", "dark").out
    assert re.search("^condition +offline$", shown, re.MULTILINE)


def test_the_windows_are_shown_with_their_next_openings(desk: Desk) -> None:
    assert "No windows: commands go out at any time." in desk("window").out
    # Sixty Sundays are more than a year; sixty nights of a week-end may all lie between two changes of the clocks.
    entries = (
        "site=alpine sun 01:00 4h America/New_York",
        "site=harbour mon-sun 00:00 24h UTC",
        "site=pier sat,sun 01:00 4h America/New_York",
    )
    house = House(Policy(windows=tuple(map(policies.window, entries))))
    desk.fleet.app.state.site = replace(desk.fleet.app.state.site, house=house)
    done = desk("window", "list", "--openings", "60")
    assert done.code == 0
    assert re.search(r"^site=alpine: sun 01:00 for 4 h in America/New_York\n  3 clients; ", done.out)
    assert re.search(r"^ +\S+ 01:00 -0[45]00  .*  clocks go (forward|back) by 60 min at", done.out, re.MULTILINE)
    assert re.search(r"^site=harbour: .*\n  0 clients; open now\n", done.out, re.MULTILINE)
    assert re.search(r"^site=pier: sat,sun 01:00 for 4 h in America/New_York\n  0 clients; ", done.out, re.MULTILINE)
    assert [len(each["openings"]) for each in desk("window", "--json").json] == [5, 5, 5]


def test_clients_are_listed_changed_and_accepted(desk: Desk) -> None:
    desk.fleet.add("new-1", "new-2", standing="unknown")
    assert desk("clients", "--names").out.split() == ["bar-left", "bar-right", "lobby", "new-1", "new-2"]
    assert (
        "lobby" in desk("clients", "-l", "site=alpine").out and "new-1" in desk("clients", "--standing", "unknown").out
    )
    assert desk("clients", "label", "lobby", "room=hall", "site-").code == 0
    assert desk("clients", "note", "lobby", "key at the reception").code == 0
    assert desk("clients", "name", "lobby", "hall").code == 0
    shown = desk("clients", "show", "hall")
    assert "room=hall" in shown.out and "key at the reception" in shown.out and "site=" not in shown.out
    assert desk("clients", "name", "hall", "bar-left").code == 4, "there is one of that name"
    assert desk("clients", "label", "hall", "wrong").code == 2
    assert desk("clients", "accept", "new-1").code == 5, "an operator may not"
    assert desk("clients", "accept", "--all-unknown", role=Role.ADMIN).out == "2 clients accepted.\n"
    assert desk("clients", "accept", role=Role.ADMIN).code == 2
    assert desk("clients", "reject", "new-1", role=Role.ADMIN).code == 0
    assert desk("clients", "retire", "new-1", "new-2", role=Role.ADMIN).code == 2, "asks, and there is no terminal"
    assert desk("clients", "retire", "new-1", "new-2", "--yes", "2", role=Role.ADMIN).code == 0
    assert desk("clients", "--names", "--standing", "retired").out.split() == ["new-1", "new-2"]


def test_commands_are_listed_and_explained(desk: Desk) -> None:
    desk.fleet.on_wake = all_complete(desk)
    desk("reboot", "lobby", "--yes", "1")
    made = desk.fleet.commands()["lobby"]
    listed = desk("commands", "--client", "lobby", "--state", "completed").out
    assert made[:8] in listed and "an-operator" in listed
    assert desk("commands", "--open").out == "No commands.\n"
    told = desk("explain", made[:8]).out
    for words in (made, "completed, in a new boot", "started_boot_id", "lockout", "execution_started"):
        assert words in told


def test_clients_come_from_a_file_and_go_to_one(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "clients.csv"
    file.write_text(f"uuid,name,label:site\n{uuid(50)},foyer,alpine\n{uuid(3)},lobby,alpine\n")
    dry = desk("import", str(file), "--dry-run", role=Role.ADMIN)
    assert dry.code == 0 and "1 created, 1 unchanged" in dry.out and "dry run" in dry.out
    assert "foyer" not in desk("clients", "--names").out
    assert desk("import", str(file), role=Role.ADMIN).code == 0
    assert "foyer" in desk("clients", "--names").out
    file.write_text(f"uuid,name\n{uuid(51)},ok\nwrong,bad\n")
    refused = desk("import", str(file), role=Role.ADMIN)
    assert refused.code == 4 and re.search(r"3 +bad +refused", refused.out) and "Nothing was changed." in refused.err
    hosts = {"_meta": {"hostvars": {"terrace": {"infoscreen_client_uuid": uuid(52)}}}, "alpine": {"hosts": ["terrace"]}}
    file.write_text(json.dumps(hosts))
    assert desk("import", str(file), role=Role.ADMIN).code == 0
    assert "terrace" in desk("clients", "--names").out
    out = tmp_path / "out.csv"
    assert desk("export", str(out)).code == 0 and f"{uuid(50)},foyer" in out.read_text()
    assert desk("export").out == out.read_bytes().decode()
    assert desk("export", str(out)).code == 2, "what is there is not overwritten"
    assert desk("import", str(tmp_path / "none"), role=Role.ADMIN).code == 2


def test_the_doctor_finds_what_is_wrong_from_here(desk: Desk) -> None:
    desk.patch.setattr(doctor, "SERVER", desk.home / "no-server")
    done = desk("doctor", "--json")
    findings = {each["check"]: each["verdict"] for each in done.json["findings"]}
    assert done.code == 0 and findings == dict.fromkeys(("address", "tls", "clock", "ready", "version", "token"), "ok")
    done = desk("doctor", role=None)
    assert done.code == 5 and "problem there is no token for this address" in done.out


@pytest.mark.parametrize(("ends_with", "code"), [(0, 0), (1, 6)])
def test_on_the_server_the_doctor_asks_the_servers_own_too(desk: Desk, ends_with: int, code: int) -> None:
    server = desk.home / "server"
    server.write_text(f"""#!/bin/sh\necho '{{"asked": "'"$*"'"}}'\nexit {ends_with}\n""")
    server.chmod(0o755)
    desk.patch.setattr(doctor, "SERVER", server)
    desk.patch.setattr(os, "geteuid", lambda: 1000)
    assert desk("doctor", "--json").json["server"] is None
    desk.patch.setattr(os, "geteuid", lambda: 0)
    done = desk("doctor", "--json")
    assert done.code == code
    assert done.json["server"] == {"exit_code": ends_with, "answer": {"asked": "doctor --json"}}


# --- What is shown


@pytest.mark.parametrize(
    "argv",
    [
        ("status",),
        ("clients",),
        ("clients", "show", "lobby"),
        ("commands",),
        ("batch",),
        ("freeze",),
        ("window",),
        ("recovery",),
        ("token",),
        ("user",),
        ("audit",),
        ("export",),
        ("doctor",),
        ("explain", "ID"),
        ("batch", "show", "BATCH"),
        ("reboot", "lobby", "--yes", "1"),
        ("reboot", "-l", "site=alpine", "--yes", "3"),
        ("reboot", "nobody"),
        ("cancel", "ID"),
    ],
    ids=" ".join,
)
def test_json_is_one_document_on_stdout(desk: Desk, argv: tuple[str, ...]) -> None:
    desk.fleet.on_wake = all_complete(desk)
    made = desk("reboot", "bar-left", "bar-right", "--yes", "2", "--json").json
    ids = {"ID": made["commands"][0]["id"], "BATCH": made["batch"]["id"]}
    done = desk(*(ids.get(word, word) for word in argv), "--json", role=Role.ADMIN)
    assert done.json is not None and done.out.isascii()
    if done.code != 0:
        assert done.json["exit_code"] == done.code and done.json["problem"]["detail"]


def test_a_watch_writes_json_lines_and_the_end_is_the_last(desk: Desk) -> None:
    desk.fleet.on_wake = all_complete(desk)
    desk("reboot", "lobby", "--yes", "1", "--no-watch")
    lines = [json.loads(line) for line in desk("watch", desk.fleet.commands()["lobby"], "--json").out.splitlines()]
    assert lines[0]["kind"] == "queued"
    assert (lines[-1]["kind"], lines[-1]["exit_code"], lines[-1]["did_not_come_back"]) == ("ended", 0, [])


def test_text_of_others_can_do_a_terminal_no_harm(desk: Desk) -> None:
    """Pitfall 50: names, notes, reasons and messages with escapes and markup."""
    desk.fleet.add(HOSTILE, note=HOSTILE)

    def play() -> None:
        desk.fleet.send()
        desk.fleet.fail(HOSTILE, HOSTILE)

    desk.fleet.on_wake = play
    one = desk.fleet.uuids[HOSTILE]
    done = desk("reboot", one, "--yes", "1", "--reason", "frozen")
    assert done.code == 3 and SHOWN in done.out
    made = desk.fleet.commands()[HOSTILE]
    seen = [done]
    seen += [desk(*argv) for argv in (("clients",), ("clients", "show", one), ("commands",), ("explain", made))]
    seen += [desk("watch", made), desk("clients", "--names"), desk("freeze", "begin", "x"), desk("status")]
    seen += [desk("reboot", "no\x1b[2Jbody")]
    for each in seen:
        assert not CONTROL.search(each.out + each.err)
    on_terminal = desk.terminal("clients")
    assert SHOWN in on_terminal.out.replace("\r\n", "") and "\x1b[31m" not in on_terminal.out.replace("\x1b[31mof", "")


def test_no_line_on_a_terminal_is_wider_than_80_columns(desk: Desk) -> None:
    desk.fleet.add(*(f"alpine-ski-depot-level-{number:02}" for number in range(20)))
    desk.fleet.on_wake = all_complete(desk)
    shown = desk.terminal("reboot", "-l", "site=alpine", answers=[("Type 23 to go on:", "23\n")]).out
    shown += "".join(desk.terminal(*argv).out for argv in (("clients",), ("commands",), ("batch",), ("status",)))
    for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "\n").split("\n"):
        assert len(line) <= 80, line


def test_a_reader_that_goes_away_is_no_fault(desk: Desk) -> None:
    read, write = os.pipe()
    os.close(read)
    environment = os.environ | desk.variables() | {"PYTHONPATH": str(TOP)}
    done = subprocess.run([*PROGRAM, "clients"], env=environment, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (130, "")


def test_options_of_all_commands_stand_before_or_after(desk: Desk) -> None:
    for argv in (
        ("--json", "clients"),
        ("clients", "--json"),
        ("clients", "list", "--json"),
        ("clients", "--json", "list"),
    ):
        assert isinstance(desk(*argv).json, list)


# --- What people were told, and the calendar


def test_what_people_were_told_and_whether_it_arrives(desk: Desk) -> None:
    assert "Nobody was told anything." in desk("notify").out and "names none" in desk("notify", "targets").out
    found, _ = targets.parse("mail mailto://user:topsecret@h kinds=back\nphone ntfys://topsecret loud")

    def deliver(target: Target, post: Post, now: datetime) -> None:
        if target.name == "phone":
            raise NotSent("it answers 500")

    site = replace(desk.fleet.app.state.site, targets=found, notify_faults=("line 3: no",), deliver=deliver)
    desk.fleet.app.state.site = site
    with desk.fleet.database.write() as tx:
        notices.tell(tx, Kind.STOPPED, "rollout/1", f"rollout {HOSTILE} was stopped")
        notices.tell(tx, Kind.BACK, "client/1", "lobby is back")
        told = Message(Kind.STOPPED, "title", "body", True, {}, (1,))
        notices.make(tx, told, ["mail", "phone"])
        [first, second] = deliveries.claim(tx, ["mail", "phone"])
        deliveries.end(tx, first, None)
        deliveries.end(tx, second, "it answers 500")
    listed = desk("notify", "list", "--limit", "9").out
    assert "mail sent, phone waiting" in listed and "not yet" in listed and SHOWN in listed
    assert not CONTROL.search(listed)
    shown = desk("notify", "targets")
    assert "back" in shown.out and "everything, if it is loud" in shown.out and "line 3: no" in shown.err
    assert "problem: 1 message tried again: it answers 500" in shown.out and "topsecret" not in shown.out + shown.err
    assert desk("notify", "test").code == 5, "an operator may not"
    done = desk("notify", "test", role=Role.ADMIN)
    assert done.code == 6 and "ok: sent" in done.out and "problem: it answers 500" in done.out
    assert desk("notify", "test", "mail", "--json", role=Role.ADMIN).json[0]["is_sent"]
    assert desk("notify", "test", "fax", role=Role.ADMIN).code == 2


def test_freezes_of_the_calendar_are_listed_and_one_that_cannot_be_read_is_a_warning(desk: Desk) -> None:
    assert "No freeze is to come." in desk("freeze", "list", "--coming").out
    with desk.fleet.database.write() as tx:
        hour = timedelta(hours=1)
        calendars.take(tx, "/srv/x.ics", [Event(tx.now + hour, tx.now + 9 * hour, "fair")])
        assert calendars.cannot_read(tx, "/srv/x.ics", "it is no calendar")
    assert "fair" in desk("freeze", "list", "--coming").out and "Nothing is frozen." in desk("freeze").out
    assert "the last good one counts: it is no calendar" in desk("status").err


def test_a_hold_says_when_it_opens_here_and_where_the_client_is(desk: Desk) -> None:
    with desk.fleet.database.write() as tx:
        tx.db.execute(insert(label).values(client_uuid=desk.fleet.uuids["lobby"], key="tz", value="Pacific/Kiritimati"))
    assert desk("freeze", "begin", "fair", "--until", "3h").code == 0
    there = r"\(in 3 h\), at the client [0-9: -]+ Pacific/Kiritimati"
    assert re.search(there, desk("reboot", "lobby", "--yes", "1").err)
    assert desk("reboot", "lobby", "--yes", "1", "--wait-until", "5h", "--no-watch").code == 0
    assert re.search(there, desk("status").out)
    assert re.search(there, desk("explain", desk.fleet.commands()["lobby"]).out)
