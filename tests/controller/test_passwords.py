"""Passwords: what they have to be, who sets them, and that nothing ever repeats one."""

from __future__ import annotations

import logging
import os
import unicodedata
from collections.abc import Callable
from typing import Any

import argon2
import pytest
from sqlalchemy import select

from infoscreen_reboot.controller import passwords
from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.store import people
from infoscreen_reboot.controller.store.database import Transaction
from infoscreen_reboot.controller.store.people import NewToken
from infoscreen_reboot.controller.store.tables import audit, event
from tests.controller.desk import Desk
from tests.controller.web import Web, kind

OLD, NEW = "an old umbrella", "nine pins and a dog"
OWN, OTHERS = "/users/a operator/password", "/users/a viewer/password"


def put(web: Web, path: str, role: Role = Role.OPERATOR, **content: Any) -> Any:
    return web.call("PUT", path, role, json=content)


def stored(web: Web, name: str = "a operator") -> str | None:
    with web.database.read() as tx:
        return people.password_hash_of(tx, name)


def opens(web: Web, password: str, name: str = "a operator") -> bool:
    return passwords.is_right(stored(web, name), password)


# --- What a password is


@pytest.mark.parametrize(
    ("password", "words"),
    [
        ("", "characters"),
        ("x" * 11, "characters"),
        ("x" * 257, "characters"),
        ("\u0301" * 2_000_000, "characters"),
        ("a\u0301" * 11, "characters"),
        ("twelve\x00signs", "control"),
        ("twelve signs\n", "control"),
        ("twelve \ud800 signs", "control"),
        ("Ann of the Hill", "name"),
    ],
)
def test_what_is_no_password_is_said_in_words_that_do_not_repeat_it(password: str, words: str) -> None:
    fault = passwords.fault_of(password, "ann of the hill")
    assert fault is not None and words in fault
    assert not password or password not in fault


@pytest.mark.parametrize("password", ["x" * 12, "x" * 256, "a\u0301" * 256, "Grüße an alle ☂"])
def test_what_is_a_password(password: str) -> None:
    assert passwords.fault_of(password, "ann") is None


def test_a_password_is_right_however_a_keyboard_writes_it_and_no_other_one_is() -> None:
    made = passwords.hashed("Grüße an alle")
    assert made.startswith("$argon2id$v=19$m=19456,t=2,p=1$") and made != passwords.hashed("Grüße an alle")
    assert passwords.is_right(made, unicodedata.normalize("NFD", "Grüße an alle"))
    for wrong in ("", "Grüße an Alle", "Grüße an alle ", "\ud800", "x" * 2_000_000):
        assert not passwords.is_right(made, wrong)


def test_where_there_is_no_password_as_much_is_done_and_nothing_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Counting(argon2.PasswordHasher):  # type: ignore[misc]  # Debian's argon2 has no types
        def verify(self, hash: str, password: bytes) -> bool:
            asked.append(hash)
            return bool(super().verify(hash, password))

    with monkeypatch.context() as known:
        known.setattr(passwords, "_NOBODYS", passwords.hashed(OLD))
        assert not passwords.is_right(None, OLD)
    monkeypatch.setattr(passwords, "_HASHER", Counting(2, 19_456, 1))
    for password in (OLD, ""):
        assert not passwords.is_right(None, password)
    assert len(asked) == 2 and not any(map(passwords.is_outdated, asked)), "with the settings of the others"


def test_a_hash_of_other_settings_is_outdated_and_still_right() -> None:
    weak = argon2.PasswordHasher(1, 8192, 1).hash(OLD)
    assert passwords.is_right(weak, OLD) and passwords.is_outdated(weak)
    assert not passwords.is_outdated(passwords.hashed(OLD))


# --- Who sets it


def test_everybody_sets_his_own_and_the_next_one_needs_the_current_one(web: Web) -> None:
    assert web.call("GET", "/whoami").json()["has_password"] is False
    assert put(web, OWN, password=OLD).status_code == 204
    assert web.call("GET", "/whoami").json()["has_password"] is True
    for wrong in ({}, {"current": None}, {"current": ""}, {"current": NEW}):
        assert kind(put(web, OWN, password=NEW, **wrong)) == (403, "forbidden")
    assert opens(web, OLD) and not opens(web, NEW)
    assert put(web, OWN, password=NEW, current=OLD).status_code == 204
    assert opens(web, NEW) and not opens(web, OLD)


def test_an_admin_sets_those_of_others_and_nobody_else_does(web: Web) -> None:
    assert put(web, OTHERS, Role.ADMIN, password=OLD).status_code == 204
    assert put(web, OTHERS, Role.ADMIN, password=NEW).status_code == 204
    assert kind(put(web, OTHERS, password=OLD, current=NEW)) == (403, "forbidden")
    assert opens(web, NEW, "a viewer")
    assert kind(put(web, "/users/nobody/password", Role.ADMIN, password=OLD)) == (404, "not_found")
    assert kind(put(web, "/users/nobody/password", password=OLD)) == (403, "forbidden"), "he learns nothing"
    users = {each["name"]: each["has_password"] for each in web.call("GET", "/users", Role.ADMIN).json()}
    assert users == {"a admin": False, "a operator": False, "a viewer": True}


def test_an_admin_too_has_to_know_his_own(web: Web) -> None:
    path = "/users/a admin/password"
    assert put(web, path, Role.ADMIN, password=OLD).status_code == 204
    assert kind(put(web, path, Role.ADMIN, password=NEW)) == (403, "forbidden")


@pytest.mark.parametrize("less", [{"role": "viewer"}, {"expires_in_days": 1}, {"may_shut_down": False}])
def test_a_lesser_token_is_not_the_way_to_a_first_password(web: Web, less: dict[str, Any]) -> None:
    web.call("PATCH", "/users/a operator", Role.ADMIN, json={"may_shut_down": True})
    content = {"name": "t", "user": "a operator", "may_shut_down": True}
    for wanted, status in ((less, 403), ({}, 204)):
        made = web.call("POST", "/tokens", Role.ADMIN, json=content | wanted).json()
        web.tokens[Role.OPERATOR] = NewToken(made["id"], made["token"])
        assert put(web, OWN, password=OLD).status_code == status


def test_a_password_revokes_nothing_and_can_be_taken_away(web: Web) -> None:
    assert put(web, OWN, password=OLD).status_code == 204
    assert web.call("GET", "/whoami").status_code == 200
    with web.database.write() as tx:
        people.set_password(tx, "a operator", None)
    assert stored(web) is None and not opens(web, OLD)


def test_a_password_that_is_none_is_refused_and_changes_nothing(web: Web) -> None:
    for bad in ("short", "a\x00" * 12, "A OPERATOR\u0301", "a operator"):
        assert kind(put(web, OWN, password=bad)) == (422, "invalid")
    assert stored(web) is None


def meanwhile(web: Web, monkeypatch: pytest.MonkeyPatch, change: Callable[[Transaction], None]) -> None:
    """Another instance changes something while this one makes the hash."""
    make = passwords.hashed

    def then_another_writes(password: str) -> str:
        with web.again() as other, other.database.write() as tx:
            change(tx)
        return make(password)

    monkeypatch.setattr(passwords, "hashed", then_another_writes)


def test_of_two_who_set_it_at_the_same_moment_the_second_is_told(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    meanwhile(web, monkeypatch, lambda tx: people.set_password(tx, "a viewer", "another"))
    assert kind(put(web, OTHERS, Role.ADMIN, password=OLD)) == (412, "changed_meanwhile")
    assert stored(web, "a viewer") == "another"


def test_rights_that_end_while_the_hash_is_made_set_nothing(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    def lower(tx: Transaction) -> None:
        people.add_user(tx, "second", Role.ADMIN, may_shut_down=False)
        people.change_user(tx, "a admin", Role.VIEWER, None, None)

    meanwhile(web, monkeypatch, lower)
    assert kind(put(web, OTHERS, Role.ADMIN, password=OLD)) == (403, "forbidden")
    assert stored(web, "a viewer") is None


# --- That nothing repeats it


@pytest.mark.parametrize(
    "content",
    [
        f'{{"password": "{OLD}"',
        f'"{OLD}"',
        f'["{OLD}"]',
        f'{{"password": ["{OLD}"]}}',
        f'{{"password": {{"a": "{OLD}"}}}}',
        f'{{"password": "{OLD * 100}"}}',
        f'{{"password": "{OLD}", "current": ["{OLD}"]}}',
        f'{{"password": "{OLD}", "again": "{OLD}"}}',
        f'{{"current": "{OLD}"}}',
        f'{{"password": "{OLD}\\u0000"}}',
        f'{{"password": "{OLD}\\ud800"}}',
    ],
)
def test_what_cannot_be_read_is_refused_without_being_repeated(web: Web, content: str) -> None:
    answer = web.call("PUT", OWN, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422) and OLD not in answer.text
    assert stored(web) is None


def test_no_answer_log_or_audit_has_a_password_in_it(
    web: Web, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    answers = [put(web, OWN, password=OLD), put(web, OWN, password=NEW, current=NEW), put(web, OTHERS, password=NEW)]
    answers.append(put(web, OWN, password=NEW, current=OLD))
    answers += [web.call("GET", path, Role.ADMIN) for path in ("/users", "/audit", "/whoami")]
    monkeypatch.setattr(passwords, "hashed", lambda password: 1 / 0)
    answers.append(put(web, OWN, password=OLD, current=NEW))
    assert [answer.status_code for answer in answers] == [204, 403, 403, 204, 200, 200, 200, 500]
    with web.database.read() as tx:
        lines = [dict(row) for row in tx.db.execute(select(audit)).mappings()]
        events = [dict(row) for row in tx.db.execute(select(event)).mappings()]
    said = [(line["who"], line["what"], line["target"], line["outcome"]) for line in lines]
    refused = ("a operator", "PUT /api/v1/users/{name}/password", None, "forbidden")
    done = ("a operator", "set password", "a operator", "changed")
    assert said == [done, refused, refused, done]
    assert "cannot answer PUT" in caplog.text
    everything = f"{caplog.text}{lines}{events}{[answer.text for answer in answers]}"
    assert not any(secret in everything for secret in (OLD, NEW, str(stored(web))))


# --- The command line


def typed(desk: Desk, text: bytes, *argv: str, role: Role = Role.OPERATOR) -> Any:
    """Sent to an input that is no terminal."""
    read, write = os.pipe()
    os.write(write, text)
    os.close(write)
    with os.fdopen(read, encoding="utf-8") as lines:
        desk.patch.setattr("sys.stdin", lines)
        return desk("user", "password", *argv, role=role)


def is_of(desk: Desk, password: str, name: str = "an-operator") -> bool:
    with desk.fleet.database.read() as tx:
        return passwords.is_right(people.password_hash_of(tx, name), password)


def test_on_a_terminal_a_password_is_asked_for_twice_and_not_shown(desk: Desk) -> None:
    first = ("New password of an-operator (is not shown):", f"{OLD}\n"), ("The same once more", f"{OLD}\n")
    done = desk.terminal("user", "password", "an-operator", answers=first)
    assert done.code == 0 and OLD not in done.out and is_of(desk, OLD)
    second = (
        ("Your current password (is not shown):", f"{OLD}\n"),
        ("New password", f"{NEW}\n"),
        ("The same once more", f"{NEW} \n"),
    )
    done = desk.terminal("user", "password", "an-operator", answers=second)
    assert done.code == 2 and "two different passwords" in done.out and NEW not in done.out
    assert is_of(desk, OLD), "nothing was changed"


def test_without_a_terminal_each_password_is_a_line(desk: Desk) -> None:
    assert typed(desk, f" {OLD} \r\n".encode(), "an-operator").code == 0
    assert is_of(desk, f" {OLD} "), "spaces belong to it"
    done = typed(desk, f"{OLD}\n{NEW}\n".encode(), "an-operator")
    assert done.code == 5 and "the current password is another one" in done.err
    assert typed(desk, f" {OLD} \n{NEW}\n".encode(), "an-operator").code == 0
    assert is_of(desk, NEW)
    shown = typed(desk, f"{OLD}\n".encode(), "an-operator", "--json", role=Role.ADMIN)
    assert shown.json == {"name": "an-operator", "has_password": True} and is_of(desk, OLD)


def test_what_is_no_password_on_the_command_line(desk: Desk) -> None:
    for text, code in ((b"", 2), (b"short\n", 2), (b"twelve signs \xff\n", 2)):
        done = typed(desk, text, "an-operator")
        assert (done.code, "Traceback" in done.err) == (code, False), done.err
    assert not is_of(desk, "")
