#!/usr/bin/python3
"""The installed controller, from its first start to the acknowledgement of a command; the client is played here."""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

UNIT = "infoscreen-reboot-controller.service"
SETTINGS = Path("/etc/infoscreen-reboot-controller/controller.env.d/99-autopkgtest.env")
CONFIGURATION = """\
MQTT_BROKER=127.0.0.1
MQTT_TLS=no
ACCEPT_CLIENTS=auto
"""
API = "http://127.0.0.1:8480"
CLIENT = "3f0c6a3e-6d0b-4f0e-9a55-5a4f1de0a002"
BOOT, SESSION = "11111111-2222-4333-8444-555555555555", "66666666-7777-4888-9999-aaaaaaaaaaaa"
BROKER = "-h", "127.0.0.1", "-q", "1"
PATIENCE_S = 60


def run(*argv: str) -> str:
    # What is written to stderr would count as a failure of the test.
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, stderr=sys.stdout, text=True).stdout.strip()


def step(what: str) -> None:
    print(f"== {what}", flush=True)


def until(what: str) -> Iterator[None]:
    """Comes again and again for a minute."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        yield
        time.sleep(0.2)
    raise AssertionError(f"not within {PATIENCE_S} s: {what}")


def ask(path: str, token: str = "", **content: str) -> Any:
    """GET, or POST where there is content."""
    data = json.dumps(content).encode() if content else None
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    with urllib.request.urlopen(urllib.request.Request(API + path, data, headers), timeout=PATIENCE_S) as answer:
        return json.load(answer)


def say(leaf: str, *options: str, **members: str | None) -> None:
    always = {"client_uuid": CLIENT, "boot_id": BOOT, "timestamp": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"}
    run("mosquitto_pub", *BROKER, "-t", f"infoscreen/{CLIENT}/{leaf}", "-m", json.dumps(always | members), *options)


def state_of(unit: str) -> str:
    return run("systemctl", "show", "--property=ActiveState", "--value", unit)


def check_unconfigured() -> None:
    step("without configuration it is enabled, does nothing and says what is missing")
    assert run("systemctl", "is-enabled", UNIT) == "enabled"
    for _ in until("it has ended"):
        if state_of(UNIT) == "inactive":
            break
    assert "set MQTT_BROKER" in run("journalctl", "--unit", UNIT, "--no-pager", "--output=cat")


def check_a_command() -> None:
    step("configured, it finds its configuration good and serves")
    SETTINGS.write_text(CONFIGURATION)
    assert run("infoscreen-reboot-controller", "check-config").startswith("ok: ")
    run("systemctl", "restart", UNIT)
    assert ask("/healthz") == {"status": "ok"}

    step("an administrator gets a token")
    token = run("infoscreen-reboot-controller", "admin", "autopkgtest").splitlines()[-1]
    assert ask("/api/v1/whoami", token)["role"] == "admin"

    step("it hears of a client")
    hear = "mosquitto_sub", *BROKER, "-i", "autopkgtest-client", "-c", "-t", f"infoscreen/{CLIENT}/commands"
    run(*hear, "-E")
    say("status", "--retain", state="online", reason="connected", session_id=SESSION)
    for _ in until("the client is listed"):
        if any(client["uuid"] == CLIENT for client in ask("/api/v1/clients", token)):
            break

    step("a command reaches the client, and its acknowledgement comes back")
    made = ask("/api/v1/commands", token, action="reboot_host", client_uuid=CLIENT)
    heard = json.loads(run(*hear, "-C", "1", "-W", str(PATIENCE_S)))
    assert heard["command_id"] == made["id"]
    ack = {"schema_version": "1.0", "command_id": heard["command_id"], "status": "accepted"}
    say("commands/ack", **ack, error_code=None, error_message=None)
    for _ in until("the command is accepted"):
        if ask(f"/api/v1/commands/{made['id']}", token)["state"] == "accepted":
            break

    step("nothing of ours has failed")
    assert run("systemctl", "list-units", "--failed", "--plain", "--no-legend", "infoscreen*") == ""


try:
    check_unconfigured()
    check_a_command()
finally:
    SETTINGS.unlink(missing_ok=True)
    with suppress(subprocess.CalledProcessError):
        run("mosquitto_pub", *BROKER, "-t", f"infoscreen/{CLIENT}/status", "--retain", "-n")
    run("systemctl", "restart", UNIT)
