#!/usr/bin/python3
"""Sends a reboot_host over MQTT: the agent reboots the testbed, then says completed in a boot with a new id."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

AGENT = "infoscreen-simclient.service"
CLIENT = "3f0c6a3e-6d0b-4f0e-9a55-5a4f1de0a001"
COMMAND = "5d1f8b4b-7e85-44fb-8f38-3f5d5da5e2e4"
SETTINGS = Path("/etc/infoscreen-reboot/agent.env.d/99-autopkgtest.env")
# The clock of a testbed may never be synchronised.
CONFIGURATION = f"""\
MQTT_BROKER=127.0.0.1
MQTT_TLS=no
CLIENT_UUID={CLIENT}
COMMAND_REQUIRE_SYNCED_CLOCK=no
"""
PREPARE = "/tmp/autopkgtest-reboot-prepare"
# A session that the broker keeps: it also gets what the agent says while the testbed goes down and comes up.
SESSION = "-c", "-i", "autopkgtest"


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def listen(topic: str, *options: str) -> Iterator[dict[str, Any]]:
    """Each message on one of our topics, for two minutes at most."""
    argv = ["mosquitto_sub", "-h", "127.0.0.1", "-t", f"infoscreen/{CLIENT}/{topic}", "-q", "1", "-W", "120"]
    with subprocess.Popen([*argv, *options], stdout=subprocess.PIPE) as heard:
        assert heard.stdout is not None
        try:
            for line in heard.stdout:
                print(line.decode().strip(), flush=True)
                yield json.loads(line)
        finally:
            heard.terminate()


def restart_agent() -> None:
    subprocess.run(["systemctl", "restart", AGENT], check=True)


def order_the_reboot() -> None:
    SETTINGS.write_text(CONFIGURATION)
    restart_agent()
    list(listen("commands/ack", *SESSION, "-E"))
    assert any(status["state"] == "online" for status in listen("status"))
    now = datetime.now(UTC)
    command = {
        "schema_version": "1.0",
        "command_id": COMMAND,
        "client_uuid": CLIENT,
        "action": "reboot_host",
        "issued_at": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "expires_at": f"{now + timedelta(minutes=4):%Y-%m-%dT%H:%M:%SZ}",
    }
    # Returns when autopkgtest has saved its state and expects the testbed to go down.
    subprocess.run([PREPARE, boot_id()], check=True)
    publish = ["mosquitto_pub", "-h", "127.0.0.1", "-q", "1", "-t", f"infoscreen/{CLIENT}/commands"]
    subprocess.run([*publish, "-m", json.dumps(command)], check=True)


def judge(old_boot_id: str) -> None:
    print(f"boot {old_boot_id} -> {boot_id()}")
    assert boot_id() != old_boot_id
    acks: list[dict[str, Any]] = []
    for ack in listen("commands/ack", *SESSION):
        # One that the broker had not confirmed comes twice, with the same content.
        if ack not in acks:
            acks.append(ack)
        if ack["status"] in ("completed", "failed"):
            break
    assert [ack["status"] for ack in acks] == ["accepted", "execution_started", "completed"]
    assert [ack["boot_id"] for ack in acks] == [old_boot_id, old_boot_id, boot_id()]
    said = subprocess.run(["infoscreen-reboot", "status", "--json"], check=True, capture_output=True).stdout
    (known,) = (one for one in json.loads(said)["commands"] if one["command_id"] == COMMAND)
    assert known["state"] == "completed"
    SETTINGS.unlink()
    restart_agent()


if before := os.environ.get("AUTOPKGTEST_REBOOT_MARK"):
    judge(before)
else:
    order_the_reboot()
    sys.exit("the testbed did not reboot")
