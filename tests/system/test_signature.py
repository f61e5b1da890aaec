"""A client that requires signatures: who has the broker, or its password, sends no screen down any more."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.system.hands import DONE, check_stays_up, start, status, story, unit
from tools.lab.machine import AGENT, Machine

KEYS = "/etc/infoscreen-reboot/command-keys.d"


class Key:
    """A key pair made by openssl, as SERVER_TEAM_ACTIONS.md has it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self._file = name, folder / f"{name}.key"
        openssl("genpkey", "-algorithm", "ed25519", "-out", str(self._file))

    @property
    def public(self) -> str:
        return openssl("pkey", "-in", str(self._file), "-pubout").decode()

    @property
    def private(self) -> str:
        return self._file.read_text()

    def sign(self, topic: str, payload: bytes) -> list[tuple[str, str]]:
        signed = self._file.with_suffix(".signed")
        signed.write_bytes(b"\0".join((b"infoscreen-command-signature-v1", topic.encode(), payload)))
        value = openssl("pkeyutl", "-sign", "-rawin", "-inkey", str(self._file), "-in", str(signed))
        return [("signature-key-id", self.name), ("signature", base64.b64encode(value).decode())]


def openssl(*args: str) -> bytes:
    return subprocess.run(["openssl", *args], check=True, capture_output=True).stdout


@pytest.fixture
def old(tmp_path: Path) -> Key:
    return Key(tmp_path, "2026a")


@pytest.fixture
def machine(parked: Machine, old: Key) -> Machine:
    """Online, with that key."""
    parked.write(f"{KEYS}/{old.name}.pem", old.public)
    parked.configure(COMMAND_REQUIRE_SIGNATURE="yes")
    start(parked)
    return parked


def send_signed(machine: Machine, key: Key, command: dict[str, Any], tail: str = "commands") -> bytes:
    payload = json.dumps(command).encode()
    machine.send(payload, tail, properties=key.sign(machine.topic(tail), payload))
    return payload


def check_refused(machine: Machine, command: dict[str, Any], why: str) -> None:
    ack = machine.wait_ack(command["command_id"], "failed")
    assert (ack["error_code"], ack["error_message"]) == ("invalid_signature", why)
    assert story(machine, command) == ["invalid_signature"]


def test_only_who_has_the_key_reboots_the_client(machine: Machine, old: Key, tmp_path: Path) -> None:
    does_not_fit = "the signature does not fit the topic and the payload"
    topic, transitional = machine.topic("commands"), machine.topic("command")
    thief = Key(tmp_path, "thief")

    unsigned = machine.command()
    machine.send(unsigned)
    check_refused(machine, unsigned, "the command is not signed")

    stranger = machine.command()
    send_signed(machine, thief, stranger)
    check_refused(machine, stranger, "this client has no key thief")

    forged = machine.command()
    payload = json.dumps(forged).encode()
    machine.send(payload, properties=[("signature-key-id", old.name), thief.sign(topic, payload)[1]])
    check_refused(machine, forged, does_not_fit)

    moved = machine.command()
    payload = json.dumps(moved).encode()
    machine.send(payload, "command", properties=old.sign(topic, payload))
    check_refused(machine, moved, does_not_fit)

    altered = machine.command()
    payload = json.dumps(altered).encode()
    machine.send(payload.replace(b"reboot_host", b"shutdown_host"), properties=old.sign(topic, payload))
    check_refused(machine, altered, does_not_fit)

    elsewhere = machine.command()
    payload = json.dumps(elsewhere).encode()
    signed_for_another = old.sign("infoscreen/00000000-0000-4000-8000-000000000000/commands", payload)
    machine.send(payload, properties=signed_for_another)
    check_refused(machine, elsewhere, does_not_fit)

    check_stays_up(machine, 1)
    assert status(machine)["bad_signatures"] == 6
    health = machine.broker.wait_for(
        lambda m: m.topic == machine.topic("health") and m.json["commands"].get("bad_signatures") == 6
    )
    assert health.json["commands"]["in_progress"] is None

    good = machine.command()
    payload = json.dumps(good).encode()
    machine.send(payload, "command", properties=old.sign(transitional, payload))
    machine.follow_reboot()
    machine.wait_ack(good["command_id"], "completed")
    assert story(machine, good) == DONE

    # What was recorded on its way is of no use a second time.
    machine.send(payload, "command", properties=old.sign(transitional, payload))
    check_stays_up(machine, 2)
    assert story(machine, good) == DONE


def test_keys_are_rotated_by_files_without_a_restart(machine: Machine, old: Key, tmp_path: Path) -> None:
    new = Key(tmp_path, "2026b")
    machine.write(f"{KEYS}/{new.name}.pem", new.public)
    for key in (old, new):
        # Trusted, and then judged.
        late = machine.command(issued_at="2026-04-03T12:48:10Z", expires_at="2026-04-03T12:52:10Z")
        send_signed(machine, key, late)
        assert machine.wait_ack(late["command_id"], "failed")["error_code"] == "expired"
    machine.run("rm", f"{KEYS}/{old.name}.pem")
    withdrawn = machine.command()
    send_signed(machine, old, withdrawn)
    check_refused(machine, withdrawn, "this client has no key 2026a")
    good = machine.command()
    send_signed(machine, new, good)
    machine.follow_reboot()
    machine.wait_ack(good["command_id"], "completed")
    assert unit(machine, AGENT, "NRestarts") == "0"


def test_without_a_key_the_agent_says_what_is_missing_and_does_not_start(parked: Machine) -> None:
    parked.configure(COMMAND_REQUIRE_SIGNATURE="yes")
    parked.boot()
    parked.wait_booted()
    alert = parked.hear("service_failed", 60, event="service_failed")
    lines = "\n".join(alert.json["last_log_lines"])
    assert f"COMMAND_REQUIRE_SIGNATURE is on, but there is no key in {KEYS}" in lines
    assert unit(parked, AGENT, "ExecMainStatus") == "78"
