"""The operator's command line, against the real API: what it asks, what it makes, what it shows, how it ends."""

from __future__ import annotations

import re
import socket
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select as sql_select

from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.ctl import connection as connections
from infoscreen_reboot.controller.ctl import watch as watches
from infoscreen_reboot.controller.store.tables import batch, command
from tests.controller.desk import NAMES, Desk, Proxy, all_complete
from tests.controller.played_fleet import OLD_BOOT, Fleet, uuid

# --- One client


def test_a_reboot_is_followed_to_its_verdict(desk: Desk) -> None:
    desk.fleet.on_wake = all_complete(desk)
    done = desk("reboot", "lobby", "--yes", "1", "--reason", "frozen")
    assert done.code == 0 and "lobby: completed, in a new boot" in done.out
    for words in ("queued by an-operator", "published", "accepted", "execution_started", "awaiting_reconnect"):
        assert words in done.out
    with desk.fleet.database.read() as tx:
        row = tx.db.execute(sql_select(command)).mappings().one()
    assert (row["client_uuid"], row["via"], row["reason"]) == (desk.fleet.uuids["lobby"], "cli", "frozen")


@pytest.mark.parametrize(
    "typed", ["00000000-0000-0000-0000-000000000003", "00000000-0000-0000-0000-000000000003".upper()]
)
def test_a_client_is_named_by_its_uuid_too(desk: Desk, typed: str) -> None:
    assert desk("reboot", typed, "--yes", "1", "--no-watch").code == 0
    assert desk.fleet.commands().keys() == {"lobby"}


def test_what_does_not_come_back_ends_with_3_and_its_name_on_a_line(desk: Desk) -> None:
    def play() -> None:
        desk.fleet.send()
        desk.fleet.lose("lobby")

    desk.fleet.on_wake = play
    done = desk("reboot", "lobby", "--yes", "1")
    assert done.code == 3 and done.out.endswith("Did not come back:\nlobby\n")
    assert "timed_out, waiting for: client back on MQTT" in done.out


def test_a_client_that_only_pretends_did_not_come_back(desk: Desk) -> None:
    def play() -> None:
        desk.fleet.send()
        desk.fleet.complete("lobby", OLD_BOOT)

    desk.fleet.on_wake = play
    done = desk("reboot", "lobby", "--yes", "1")
    assert done.code == 3 and "only pretended (mock)" in done.out


def test_what_a_rule_holds_is_told_with_when_it_opens_and_nothing_is_made(desk: Desk) -> None:
    assert desk("freeze", "begin", "trade fair", "--until", "3h").code == 0
    done = desk("reboot", "lobby", "--yes", "1")
    assert done.code == 4 and "frozen by an-operator: trade fair" in done.err
    assert re.search(r"opens at .*\d\d:\d\d(:\d\d)? \w+ \(in 3 h\)", done.err), done.err
    assert desk.count() == 0


def test_a_rule_that_answers_after_the_preview_is_a_refusal_too(desk: Desk) -> None:
    """A single command is not bound to a preview: the server asks its rules again."""
    real = connections.Connection.create

    def late(self: Any, path: str, content: Any, key: str | None = None) -> Any:
        desk.fleet.change("lobby", is_online=False)
        return real(self, path, content, key)

    desk.patch.setattr(connections.Connection, "create", late)
    done = desk("reboot", "lobby", "--yes", "1")
    assert done.code == 4 and "this client is offline" in done.err


def test_an_offline_client_can_be_waited_for(desk: Desk) -> None:
    desk.fleet.change("lobby", is_online=False)
    assert desk("reboot", "lobby", "--yes", "1").code == 4
    done = desk("reboot", "lobby", "--yes", "1", "--wait-until", "2h", "--no-watch")
    assert done.code == 0 and "lobby waits until" in done.out
    with desk.fleet.database.read() as tx:
        row = tx.db.execute(sql_select(command)).mappings().one()
    assert row["hold_rule"] == "online"
    assert timedelta(minutes=119) < row["wait_until"] - datetime.now(UTC) < timedelta(minutes=121)


def test_a_shutdown_needs_the_right_and_someone_who_is_there(desk: Desk) -> None:
    assert desk("shutdown", "lobby", "--yes", "1", role=Role.OPERATOR).code == 5
    done = desk("shutdown", "lobby", "--yes", "1", role=Role.ADMIN)
    assert done.code == 4 and "--someone-is-there" in done.err
    desk.fleet.on_wake = all_complete(desk)
    assert desk("shutdown", "lobby", "--yes", "1", "--someone-is-there", role=Role.ADMIN).code == 0


def test_an_unknown_name_makes_nothing_and_the_close_one_is_told(desk: Desk) -> None:
    done = desk("reboot", "lobbi", "--yes", "1")
    assert (done.code, desk.count()) == (2, 0) and "did you mean lobby?" in done.err
    assert desk("reboot", uuid(99), "--yes", "1").code == 2


def test_an_answer_about_another_client_reboots_nobody(desk: Desk) -> None:
    """A server that does not know `name=` would answer with all clients."""
    real = connections.Connection.get
    desk.patch.setattr(
        connections.Connection,
        "get",
        lambda self, path, **given: real(self, path) if "name" in given else real(self, path, **given),
    )
    assert desk("reboot", "nobody", "--yes", "1").code == 2
    assert desk("reboot", "lobby", "--yes", "1", "--no-watch").code == 0
    assert desk.fleet.commands().keys() == {"lobby"}


# --- Questions


def test_on_a_terminal_one_client_is_asked_for_with_its_labels(desk: Desk) -> None:
    question = "Reboot lobby (site alpine)? [y/N]"
    for answer in ("\n", "n\n", "x\n", "\x04"):
        done = desk.terminal("reboot", "lobby", answers=[(question, answer)])
        assert done.code == 4 and question in done.out and "Nothing was made." in done.out
    assert desk.count() == 0
    desk.fleet.on_wake = all_complete(desk)
    done = desk.terminal("reboot", "lobby", answers=[(question, "y\n")])
    assert done.code == 0 and "1 of 1" in done.out and "in a new boot" in done.out


def test_on_a_terminal_the_count_of_many_is_typed(desk: Desk) -> None:
    question = "Type 3 to go on:"
    for answer in ("y\n", "2\n", "\n"):
        done = desk.terminal("reboot", "-l", "site=alpine", answers=[(question, answer)])
        assert done.code == 4 and "not confirmed" in done.out
    assert desk.count() == 0
    desk.fleet.on_wake = all_complete(desk)
    done = desk.terminal("reboot", "-l", "site=alpine", answers=[(question, "3\n")])
    assert done.code == 0 and "3 of 3" in done.out


def test_ctrl_c_at_the_question_makes_nothing(desk: Desk) -> None:
    done = desk.terminal("reboot", "lobby", answers=[("[y/N]", "\x03")])
    assert done.code == 130 and desk.count() == 0


def test_without_a_terminal_it_refuses_and_says_how(desk: Desk) -> None:
    for argv, number in ((("reboot", "lobby"), 1), (("reboot", "-l", "site=alpine"), 3)):
        done = desk(*argv)
        assert done.code == 2 and f"--yes {number}" in done.err
    assert desk.count() == 0


def test_with_json_nobody_is_asked_and_the_preview_is_in_the_answer(desk: Desk) -> None:
    done = desk.terminal("reboot", "lobby", "--json")
    assert done.code == 2 and desk.count() == 0 and "[y/N]" not in done.out
    told = desk("reboot", "-l", "site=alpine", "--json").json["problem"]
    assert (told["kind"], told["count"], told["preview"]["count"]) == ("not_confirmed", 3, 3)


def test_a_wrong_count_makes_nothing(desk: Desk) -> None:
    for argv, wrong in ((("reboot", "lobby"), "2"), (("reboot", "-l", "site=alpine"), "2"), (("reboot", *NAMES), "4")):
        assert desk(*argv, "--yes", wrong).code == 4
    assert (desk.count(), desk.count(batch)) == (0, 0)


# --- Many


def test_many_are_shown_made_and_followed(desk: Desk) -> None:
    desk.fleet.add("dark", is_online=False)

    def play() -> None:
        desk.fleet.send()
        desk.fleet.complete("bar-left")
        desk.fleet.lose("bar-right")
        desk.fleet.fail("lobby")

    desk.fleet.on_wake = play
    done = desk("reboot", "-l", "site=alpine", "--yes", "3")
    assert done.code == 3
    assert re.search(r"get it now +3\n +do not get it +1\n", done.out)
    assert re.search(r"online +1 +not known +dark: this client is offline", done.out)
    assert "1 of 3 completed." in done.out
    assert re.search(r"^lobby +failed: not_authorized \(polkit denies it\)$", done.out, re.MULTILINE)
    assert done.out.endswith("Did not come back:\nbar-right\nlobby\n")
    assert "dark" not in desk.fleet.commands()


def test_several_names_are_a_batch_and_each_counts_once(desk: Desk) -> None:
    desk.fleet.on_wake = all_complete(desk)
    again = desk.fleet.uuids["bar-left"]
    assert desk("reboot", "bar-left", "lobby", again, "--yes", "2").code == 0
    assert (desk.count(), desk.count(batch)) == (2, 1)


def test_nobody_is_meant(desk: Desk) -> None:
    assert desk("reboot", "-l", "site=nowhere", "--yes", "1").code == 4
    assert desk("reboot", "-l", "site=<", "--yes", "1").code == 2
    empty = desk("reboot", "-l", "", "--yes", "3")
    assert empty.code == 2 and "a variable that is not set" in empty.err and desk.count() == 0
    for argv in (("reboot",), ("reboot", "lobby", "-l", "site=alpine")):
        assert desk(*argv).code == 2


def test_all_are_held(desk: Desk) -> None:
    for name in NAMES:
        desk.fleet.change(name, is_online=False)
    done = desk("reboot", "-l", "site=alpine", "--yes", "3")
    assert done.code == 4 and "none of 3 clients can get it now" in done.err
    assert "--wait-until" in done.err


def test_what_moved_since_the_preview_is_told_and_nothing_is_made(desk: Desk) -> None:
    real = connections.Connection.create

    def late(self: Any, path: str, content: Any, key: str | None = None) -> Any:
        desk.fleet.change("lobby", is_online=False)
        return real(self, path, content, key)

    desk.patch.setattr(connections.Connection, "create", late)
    done = desk("reboot", "-l", "site=alpine", "--yes", "3")
    assert done.code == 4 and "Since the preview:\n  lobby: this client is offline\n" in done.out
    assert "Nothing was made." in done.err and (desk.count(), desk.count(batch)) == (0, 0)


def test_a_batch_is_listed_shown_and_tried_again(desk: Desk) -> None:
    def play() -> None:
        desk.fleet.send()
        desk.fleet.complete("bar-left")
        desk.fleet.fail("lobby")
        desk.fleet.lose("bar-right")

    desk.fleet.on_wake = play
    made = desk("reboot", "-l", "site=alpine", "--yes", "3", "--json").json["batch"]["id"]
    assert re.search(rf"^{made[:8]} .* 3 +1 completed, 1 failed, 1 timed_out", desk("batch").out, re.MULTILINE)
    shown = desk("batch", "show", made[:8])
    assert re.search(r"^bar-left +completed +\w{8} *$", shown.out, re.MULTILINE)
    assert re.search(r"^bar-right +timed_out +\w{8} +too late: client back on MQTT *$", shown.out, re.MULTILINE)
    shown = desk("batch", "show", made[:8], "--state", "failed")
    assert re.search(r"^lobby +failed +\w{8} +\S", shown.out, re.MULTILINE) and "bar-left" not in shown.out
    desk.fleet.on_wake = None
    again = desk("batch", "retry", made, "--yes", "2", "--no-watch", "--json")
    assert again.code == 0 and again.json["batch"]["states"] == {"queued": 2}
    assert desk("batch", "retry", again.json["batch"]["id"], "--yes", "2").code == 4, "nothing has failed there"
    assert desk("cancel", again.json["batch"]["id"]).out == "2 of 2 were stopped.\n"


def test_what_was_sent_cannot_be_cancelled(desk: Desk) -> None:
    made = desk("reboot", "-l", "site=alpine", "--yes", "3", "--no-watch", "--json").json["batch"]["id"]
    one = desk.fleet.commands()["lobby"]
    assert desk("cancel", one[:8]).code == 0
    desk.fleet.send()
    done = desk("batch", "cancel", made)
    assert done.code == 4 and "0 of 2 were stopped." in done.out
    assert desk("cancel", desk.fleet.commands()["bar-left"]).code == 4


# --- Watching


def test_a_watch_tells_each_step_as_it_happens(desk: Desk) -> None:
    """Each step is made only when the line about the one before it was read."""
    assert desk("reboot", "lobby", "--yes", "1", "--no-watch").code == 0
    desk("reboot", "bar-left", "--yes", "1", "--no-watch")
    with desk.process("watch", desk.fleet.commands()["lobby"]) as watching:
        assert watching.stdout is not None and watching.stderr is not None
        lines = []
        for step, words in (
            (None, "queued"),
            (desk.fleet.send, "published"),
            (lambda: desk.fleet.start("lobby"), "accepted"),
            (None, "execution_started"),
            (lambda: desk.fleet.complete("lobby"), "awaiting_reconnect"),
        ):
            if step is not None:
                step()
            lines.append(watching.stdout.readline())
            assert words in lines[-1]
        rest = watching.stdout.read()
        assert watching.wait(60) == 0, watching.stderr.read()
    assert "bar-left" not in rest
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d CES?T  lobby  ", line) for line in lines)


def test_an_interrupted_watch_says_that_the_commands_go_on(desk: Desk) -> None:
    desk("reboot", "lobby", "--yes", "1", "--no-watch")
    made = desk.fleet.commands()["lobby"]
    with desk.process("watch", made) as watching:
        assert watching.stdout is not None and watching.stderr is not None
        assert "queued" in watching.stdout.readline()
        watching.send_signal(2)
        assert watching.wait(60) == 130
        told = watching.stderr.read()
    assert "The commands go on." in told and f"infoscreen-rebootctl watch {made}" in told


def test_a_watch_of_what_has_ended_ends_at_once(desk: Desk) -> None:
    desk.fleet.on_wake = all_complete(desk)
    desk("reboot", "-l", "site=alpine", "--yes", "3")
    with desk.fleet.database.read() as tx:
        made = tx.db.execute(sql_select(batch.c.id)).scalar_one()
    done = desk("watch", made[:8])
    assert done.code == 0 and done.out.count("completed\n") >= 3 and "3 of 3 completed." in done.out
    assert desk("watch", uuid(99)).code == 2
    assert desk("watch", "xyz").code == 2
    assert desk("watch", "00000000").code == 2


def test_a_watch_goes_on_where_its_stream_was_cut(desk: Desk) -> None:
    """The proxy cuts each stream after its first events. No line is missing, none comes twice."""
    desk.patch.setattr(watches, "RECONNECT_AFTER_S", (0.01,))
    desk.fleet.on_wake = all_complete(desk)
    desk("reboot", "-l", "site=alpine", "--yes", "3", "--no-watch")
    with desk.fleet.database.read() as tx:
        made = tx.db.execute(sql_select(batch.c.id)).scalar_one()
    whole = desk("watch", made)
    with Proxy(desk.fleet.address, cut_streams_after=1200) as proxy:
        cut = desk("watch", made, url=proxy.address)
    assert proxy.cuts > 1 and cut.code == 0
    assert cut.out == whole.out


class OwnTime:
    """Passes only while somebody sleeps, so that a busy machine does not end a wait."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def monotonic(self) -> float:
        return self._now_s

    def sleep(self, seconds: float) -> None:
        self._now_s += seconds


def test_a_controller_that_stays_away_ends_the_watch_and_the_commands_go_on(desk: Desk) -> None:
    own_time = OwnTime()
    desk.patch.setattr(watches, "time", own_time)
    desk("reboot", "lobby", "--yes", "1", "--no-watch")
    made = desk.fleet.commands()["lobby"]
    with Proxy(desk.fleet.address, cut_streams_after=300, is_gone_after_a_cut=True) as proxy:
        done = desk("watch", made, url=proxy.address)
    assert done.code == 6 and f"Watch again: infoscreen-rebootctl watch {made}" in done.err
    assert "The connection was lost. Trying again" in done.err
    longest_pause_s = watches.RECONNECT_AFTER_S[-1]
    assert watches.GIVE_UP_S < own_time.monotonic() <= watches.GIVE_UP_S + longest_pause_s


def test_a_token_that_is_revoked_ends_the_watch(desk: Desk) -> None:
    desk("reboot", "lobby", "--yes", "1", "--no-watch")
    with desk.process("watch", desk.fleet.commands()["lobby"]) as watching:
        assert watching.stdout is not None
        assert "queued" in watching.stdout.readline()
        mine = next(each for each in desk("token", "--json").json if each["user"] == "an-operator")
        assert desk("token", "revoke", mine["id"]).code == 0
        assert watching.wait(60) == 5


# --- A network that loses things


@pytest.mark.parametrize("argv", [("reboot", "lobby", "--yes", "1"), ("reboot", *NAMES, "--yes", "3")])
def test_a_lost_answer_makes_nothing_twice(desk: Desk, argv: tuple[str, ...]) -> None:
    desk.patch.setattr(connections, "REPEAT_AFTER_S", (0.01, 0.01, 0.01))
    with Proxy(desk.fleet.address, lose_answers=2) as proxy:
        done = desk(*argv, "--no-watch", url=proxy.address)
    assert done.code == 0, done.err
    assert len(proxy.posts) == 3 and desk.count() == (1 if "lobby" in argv[1] else 3)


def test_an_answer_that_never_comes_leaves_it_open_what_was_made(desk: Desk) -> None:
    desk.patch.setattr(connections, "REPEAT_AFTER_S", (0.01,))
    with Proxy(desk.fleet.address, lose_answers=9) as proxy:
        done = desk("reboot", "lobby", "--yes", "1", url=proxy.address)
    assert done.code == 6 and "It is not known whether it was made." in done.err
    assert f"watch {desk.fleet.commands()['lobby']}" in done.err, "it was, and can be looked at"


def test_nobody_answers(desk: Desk) -> None:
    desk.patch.setattr(connections, "REPEAT_AFTER_S", (0.01,))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for argv in (("status",), ("reboot", "lobby", "--yes", "1"), ("doctor",)):
        assert desk(*argv, url=f"http://127.0.0.1:{port}").code == 6


def test_only_a_certificate_that_is_trusted_is_spoken_with(desk: Desk, tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-days", "2", "-subj", "/CN=controller", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*made, *names, "-keyout", key, "-out", cert], check=True, capture_output=True)
    with Fleet(desk.fleet.database).serving(tls=(cert, key)) as address:
        assert address.startswith("https:")
        done = desk("doctor", url=address)
        assert done.code == 6 and "--ca FILE" in done.out
        assert desk("status", "--ca", str(cert), url=address).code == 0
        assert desk("status", "--ca", str(tmp_path / "none"), url=address).code == 2
        assert "TLS, and the certificate is trusted" in desk("doctor", "--ca", str(cert), url=address).out


def test_a_unix_socket_is_an_address_too(desk: Desk, tmp_path: Path) -> None:
    with Fleet(desk.fleet.database).serving(tmp_path / "s") as address:
        assert address.startswith("unix:/")
        assert "an-operator" in desk("status", url=address).out
