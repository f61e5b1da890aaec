"""`login`, `token`, `user` and `audit`: who may do what, and who did what."""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path
from typing import Any

from infoscreen_reboot.controller.ctl import settings, times
from infoscreen_reboot.controller.ctl.call import Call
from infoscreen_reboot.controller.ctl.connection import Connection
from infoscreen_reboot.controller.ctl.outcome import Outcome
from infoscreen_reboot.controller.ctl.screen import usage
from infoscreen_reboot.controller.ctl.settings import Settings
from infoscreen_reboot.controller.ctl.shapes import Whoami
from infoscreen_reboot.controller.ctl.targets import SHORT, uuid_of


def login(call: Call) -> Outcome:
    """Asks for address and token, tries them, and stores them for the next calls."""
    options = call.options
    known = settings.load(os.environ, options.url, options.ca)
    url = known.url
    if options.url is None and settings.URL not in os.environ and call.screen.is_at_terminal:
        url = call.screen.ask(f"Address of the controller [{known.url}]:") or known.url
    ca = None if known.ca is None else str(Path(known.ca).resolve())
    chosen = Settings(settings.checked(url), _typed_token(call), ca)
    connection = Connection(chosen)
    try:
        who: Whoami = connection.get("/whoami")
    finally:
        connection.close()
    path = settings.config_path(os.environ)
    settings.write(path, chosen)
    if call.screen.is_json:
        call.screen.document({"url": chosen.url, "whoami": who, "stored_in": str(path)})
    call.screen.say(f"You are {who['name']}, {who['role']}. Stored in {path}.")
    if chosen.url.startswith("http://") and not _is_local(chosen.url):
        call.screen.note("Warning: over http:// everybody on the way can read the token; use https://.")
    return Outcome.DONE


def _typed_token(call: Call) -> str:
    token = _typed(call, "Token").strip()
    if not token:
        raise usage("there is no token", "type it when asked, or send it to standard input")
    return token


def _typed(call: Call, what: str) -> str:
    """A secret. Never from the command line: other users can see that."""
    try:
        if call.screen.is_at_terminal:
            text = getpass.getpass(f"{what} (is not shown): ", stream=sys.stderr)
        else:
            text = sys.stdin.readline().rstrip("\r\n")
        text.encode()
    except UnicodeError:
        raise usage("what was typed is no text in UTF-8", "look at the settings of the terminal: locale") from None
    return text


def _is_local(url: str) -> bool:
    host = url.removeprefix("http://")
    return host.startswith(("127.", "localhost", "[::1]"))


# --- Tokens


def tokens(call: Call) -> Outcome:
    found: list[dict[str, Any]] = call.connection.get("/tokens")
    if call.screen.is_json:
        call.screen.document(found)
        return Outcome.DONE
    rows = [
        (
            each["id"][:SHORT],
            each["name"],
            each["user"],
            _rights(each),
            "never" if each["expires_at"] is None else times.clock(each["expires_at"], call.now),
        )
        for each in found
    ]
    call.screen.listing(("id", "name", "user", "rights", "expires"), rows, "No tokens.")
    return Outcome.DONE


def create_token(call: Call) -> Outcome:
    options = call.options
    content: dict[str, Any] = {"name": options.name}
    if options.user is not None:
        content["user"] = options.user
    if options.role is not None:
        content["role"] = options.role
    if options.may_shut_down:
        content["may_shut_down"] = True
    if options.expires_in_days is not None:
        content["expires_in_days"] = options.expires_in_days
    made = call.connection.send("POST", "/tokens", content)
    if call.screen.is_json:
        call.screen.document(made)
        return Outcome.DONE
    call.screen.note("The token is shown this once. Keep it as you keep a password:")
    call.screen.bare(made["token"])
    return Outcome.DONE


def revoke_token(call: Call) -> Outcome:
    found: list[dict[str, Any]] = call.connection.get("/tokens")
    matches = [each["id"] for each in found if each["id"].startswith(call.options.id.lower())]
    if len(matches) != 1 or len(call.options.id) < SHORT:
        raise usage(f"{call.options.id!r} is not the id of one token", "run: infoscreen-rebootctl token")
    call.connection.send("DELETE", f"/tokens/{matches[0]}")
    if call.screen.is_json:
        call.screen.document({"revoked": matches[0]})
    call.screen.say("Revoked.")
    return Outcome.DONE


def _rights(each: dict[str, Any]) -> str:
    return f"{each['role']}, may shut down" if each["may_shut_down"] else str(each["role"])


# --- Users


def users(call: Call) -> Outcome:
    found: list[dict[str, Any]] = call.connection.get("/users")
    if call.screen.is_json:
        call.screen.document(found)
        return Outcome.DONE
    rows = [(each["name"], _rights(each), "disabled" if each["is_disabled"] else "") for each in found]
    call.screen.listing(("name", "rights", ""), rows, "No users.")
    return Outcome.DONE


def add_user(call: Call) -> Outcome:
    options = call.options
    content = {"name": options.name, "role": options.role, "may_shut_down": bool(options.may_shut_down)}
    made = call.connection.send("POST", "/users", content)
    if call.screen.is_json:
        call.screen.document(made)
    call.screen.say(f"{made['name']} is added. A token: infoscreen-rebootctl token create NAME --user {made['name']}")
    return Outcome.DONE


def change_user(call: Call) -> Outcome:
    options = call.options
    asked = {"role": options.role, "may_shut_down": options.may_shut_down, "is_disabled": options.disabled}
    content = {name: value for name, value in asked.items() if value is not None}
    if not content:
        raise usage("there is nothing to change", "say --role, --may-shut-down or --disabled, or one with --no-")
    changed = call.connection.send("PATCH", f"/users/{_in_path(options.name)}", content)
    if call.screen.is_json:
        call.screen.document(changed)
    state = ", disabled" if changed["is_disabled"] else ""
    call.screen.say(f"{changed['name']} is {_rights(changed)}{state}.")
    return Outcome.DONE


def set_password(call: Call) -> Outcome:
    name = call.options.name
    who: Whoami = call.connection.get("/whoami")
    content: dict[str, str] = {}
    if who["name"] == name and who["has_password"]:
        content["current"] = _typed(call, "Your current password")
    content["password"] = _typed(call, f"New password of {name}")
    if call.screen.is_at_terminal and _typed(call, "The same once more") != content["password"]:
        raise usage("these are two different passwords", "nothing was changed: try again")
    call.connection.send("PUT", f"/users/{_in_path(name)}/password", content)
    if call.screen.is_json:
        call.screen.document({"name": name, "has_password": True})
    call.screen.say(f"{name} has a new password. Tokens that were made before stay as they are.")
    return Outcome.DONE


def _in_path(name: str) -> str:
    from urllib.parse import quote

    return quote(name, safe="")


# --- Audit


def audit(call: Call) -> Outcome:
    found = call.connection.pages("/audit", most=call.options.limit)
    if call.screen.is_json:
        call.screen.document(found)
        return Outcome.DONE
    rows = [
        (
            times.clock(each["at"], call.now),
            f"{each['who']} ({each['via']})",
            each["what"],
            each["target"][:SHORT] if uuid_of(each["target"] or "") else each["target"],
            each["outcome"],
        )
        for each in found
    ]
    call.screen.listing(("at", "who", "what", "target", "outcome"), rows, "The audit is empty.")
    return Outcome.DONE
