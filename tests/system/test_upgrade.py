"""The package on a host that changes under it: other Python packages, earlier state, a helper that stumbles."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.system.hands import DONE, HELPER_CALL, drop_in, refused, start, story, unit, wait_logged
from tests.system.test_signature import KEYS, Key, send_signed
from tests.system.test_telemetry import health_of
from tools.lab.machine import AGENT, HELPER, Machine

UPGRADES = Path(__file__).parents[1] / "upgrades"
STATE = "/var/lib/infoscreen-reboot"
HELPER_STATE = "/var/lib/infoscreen-reboot-helper"
PYTHON_PACKAGES = ("/usr/lib/python3", "/usr/share/infoscreen-reboot", "/usr/lib/python{version}")


@pytest.mark.parametrize(("journal", "history"), [("1", "json"), ("3", "jsonl")])
def test_the_state_of_earlier_formats_keeps_commands_replay_memory_and_lockout(
    parked: Machine, journal: str, history: str
) -> None:
    said = json.loads((UPGRADES / f"agent-{journal}.json").read_text())
    done, expired, open_one = said["commands"]
    parked.uuid = json.loads(said["commands"][done])["client_uuid"]
    parked.configure_for_broker()
    lay(parked, f"{STATE}/journal.sqlite3", UPGRADES / f"agent-{journal}.sqlite3")
    lay(parked, f"{HELPER_STATE}/history.{history}", UPGRADES / f"helper-history.{history}")
    start(parked)

    # It was being executed when the host went down for the upgrade.
    assert parked.wait_ack(open_one, "completed")["boot_id"] == parked.boot_id
    for command_id in (done, expired):
        parked.send(said["commands"][command_id].encode())
        status = json.loads(said["last_acks"][command_id])["status"]
        parked.wait_ack(command_id, status)
        assert parked.acks(command_id)[-1].payload.decode() == said["last_acks"][command_id]

    code, message = refused(parked, parked.command())
    assert (code, message.partition(" in ")[0]) == ("lockout", "3 reboots")
    for executed in ("aa1f8b4b-7e85-44fb-8f38-3f5d5da5e2e4", "dd1f8b4b-7e85-44fb-8f38-3f5d5da5e2e4"):
        answer = parked.run("busctl", "call", *HELPER_CALL, "Shutdown", "s", executed, check=False)
        assert f"command {executed} was executed before" in answer


def lay(machine: Machine, place: str, file: Path) -> None:
    path = machine.path(place)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.read_bytes())
    path.chmod(0o600)
    owner = path.parent.stat()
    os.chown(path, owner.st_uid, owner.st_gid)


def test_refusals_signatures_and_a_lost_broker_need_nothing_of_python_that_is_not_loaded_yet(
    parked: Machine, tmp_path: Path
) -> None:
    """In the middle of a dist-upgrade its packages are those of another version, or not there at all."""
    key = Key(tmp_path, "2026a")
    parked.write(f"{KEYS}/{key.name}.pem", key.public)
    parked.configure(COMMAND_REQUIRE_SIGNATURE="yes")
    start(parked)
    # What it does once after its start is done: the helper has answered it, too.
    health_of(parked, lambda health: health["lockout"])
    time.sleep(3)
    version = parked.run("python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip()
    places = [place.format(version=version) for place in PYTHON_PACKAGES]
    for place in places:
        parked.run("mv", place, f"{place}.away")
    heard = len(parked.broker.messages)

    for command, code in (
        (parked.command("format_disk"), "invalid_schema"),
        (parked.command(expires_at=...), "invalid_schema"),
        (parked.command(requested_by=["x"]), "invalid_schema"),
        (parked.command(expires_at="2026-01-01T00:10:00Z", issued_at="2026-01-01T00:00:00Z"), "expired"),
    ):
        send_signed(parked, key, command)
        assert parked.wait_ack(command["command_id"], "failed")["error_code"] == code
    unsigned = parked.command()
    assert refused(parked, unsigned)[0] == "invalid_signature"
    parked.send(b"{broken")
    parked.broker.stop()
    parked.broker.start()
    parked.wait_online(90, after=heard)
    parked.hear("health", 60, after=heard)
    assert unit(parked, AGENT, "NRestarts") == "0"
    log = parked.journal(AGENT)
    assert "Error: No module" not in log and "Traceback" not in log

    for place in places:
        parked.run("mv", f"{place}.away", place)
    order = parked.command()
    send_signed(parked, key, order)
    parked.follow_reboot()
    parked.wait_ack(order["command_id"], "completed")
    assert story(parked, order) == DONE


def test_a_helper_that_ends_at_its_start_is_started_again_whatever_ended_it(parked: Machine) -> None:
    """The agent's first question, about the lockout, starts it."""
    once = "test -e /run/stumbled || { touch /run/stumbled; exit 1; }"
    drop_in(parked, HELPER, f"ExecStartPre=+/bin/sh -c '{once}'")
    start(parked)
    order = parked.command()
    parked.send(order)
    parked.follow_reboot(timeout_s=20)
    parked.wait_ack(order["command_id"], "completed")
    assert story(parked, order) == DONE
    assert "Failed with result 'exit-code'" in parked.journal(HELPER)


def test_a_helper_with_a_bad_setting_is_not_started_again(parked: Machine) -> None:
    parked.configure(COMMAND_EXECUTOR="mock")  # which asks for no helper
    drop_in(parked, HELPER, "Environment=LOCKOUT_LIMIT=none")
    start(machine := parked)
    machine.run("systemctl", "start", HELPER, check=False)
    assert unit(machine, HELPER, "ActiveState") == "failed"
    assert unit(machine, HELPER, "ExecMainStatus") == "78"
    assert unit(machine, HELPER, "NRestarts") == "0"
    wait_logged(machine, "cannot start: LOCKOUT_LIMIT is 'none'", HELPER)


def test_state_of_a_later_version_is_set_aside_and_the_client_stays_reachable(parked: Machine) -> None:
    """A downgrade: to be locked for a quarter of an hour is better than a drive to the site."""
    start(parked)
    refused(parked, parked.command("format_disk"))
    parked.run("systemctl", "stop", AGENT)
    parked.run("systemctl", "stop", HELPER)
    later = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('PRAGMA user_version = 99')"
    parked.run("python3", "-c", later, f"{STATE}/journal.sqlite3")
    parked.write(f"{HELPER_STATE}/history.jsonl", '{"version": 2}\n', 0o600)
    heard = len(parked.broker.messages)
    parked.run("systemctl", "start", AGENT)
    parked.wait_online(after=heard)
    assert refused(parked, parked.command())[0] == "lockout"
    assert parked.read(f"{HELPER_STATE}/history.jsonl.corrupt") == '{"version": 2}\n'
    assert unit(parked, AGENT, "ActiveState") == "active"
