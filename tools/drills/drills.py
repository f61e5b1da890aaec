"""Each fault: how it is made on real machines, and the verdict of the controller that has to come of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tests.system.server import Server
from tools.demonstration.site import UNIT, Site
from tools.lab.machine import AGENT
from tools.lab.patience import Patience
from tools.lab.scratch import LabError

# Numbers of simulated clients.
MOCK, LOST, CLONED = 18, 20, 1
# Which of them answer as a healthy client does; one is slow.
FLEET = range(2, 18), range(19, 20)
AWAY_S = 20
# A lost client is given up 150 s after it went down; a wrong clock is waited for 60 s.
VERDICT_S = 400


@dataclass(frozen=True, slots=True)
class Result:
    """`took_s` is from the command to its verdict, `away_s` for how long the client was away; None: it was not."""

    drill: str
    done: str
    expected: str
    got: str
    took_s: float
    away_s: float | None = None

    @property
    def is_good(self) -> bool:
        return self.got == self.expected


class Ground:
    """The site of the demonstration, and the API of its controller."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.server = Server(site.server)
        self.server.token = site.token
        site.client.auto_restart = True

    def reboot(self, client_uuid: str) -> str:
        """Asked as a script would; the id of the command, also if it is refused."""
        wish = {"client_uuid": client_uuid, "action": "reboot_host", "reason": "drill"}
        status, answer = self.server.ask("POST", "/api/v1/commands", wish)
        if status == 409:
            return str(answer["command_id"])
        if status >= 400:
            raise LabError(f"the reboot of {client_uuid} was answered {status}: {answer}")
        return str(answer["id"])

    def verdict(self, command_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.server.wait_for(
            f"/commands/{command_id}", lambda command: not command["is_open"], VERDICT_S
        )
        return found

    def result(self, drill: str, done: str, expected: str, command_id: str) -> Result:
        found = self.verdict(command_id)
        evidence = found["evidence"]
        took_s = _seconds(found["created_at"], evidence["ended_at"]) or 0.0
        return Result(
            drill, done, expected, described(found), took_s, _seconds(evidence["down_at"], evidence["back_at"])
        )

    def until(self, command_id: str, state: str) -> None:
        self.server.wait_for(f"/commands/{command_id}", lambda command: command["evidence"][f"{state}_at"] is not None)


def described(command: dict[str, Any]) -> str:
    """`completed (boot_id)`, `failed: inhibited`, `blocked_safety: lockout`, `timed_out`."""
    state, proof = command["state"], command["evidence"]["proof"]
    if proof is not None:
        return f"{state} ({proof})"
    return f"{state}: {command['error_code']}" if command["error_code"] is not None else str(state)


def _seconds(begin: str | None, end: str | None) -> float | None:
    if begin is None or end is None:
        return None
    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()


# --- The real client. It may reboot three times, and the fourth time is a drill of its own.


def failed(ground: Ground) -> Result:
    client = ground.site.client
    blocker = "systemd-inhibit", "--what=shutdown", "--mode=block", "--who=drill", "--why=half an upgrade"
    client.run("systemd-run", "-q", "--unit=blocker", *blocker, "sleep", "infinity")
    client.run("sh", "-c", "until systemd-inhibit --list | grep -q 'half an upgrade'; do :; done")
    result = ground.result(
        "failed", "apt holds a block inhibitor on the client", "failed: inhibited", ground.reboot(client.uuid)
    )
    client.run("systemctl", "stop", "blocker")
    return result


def wrong_clock(ground: Ground) -> Result:
    client = ground.site.client
    client.set_clock_synchronised(False)
    client.run("systemctl", "restart", AGENT)
    ground.server.wait_online(client.uuid)
    result = ground.result(
        "wrong clock",
        "the client's clock is not synchronised",
        "failed: clock_unsynchronized",
        ground.reboot(client.uuid),
    )
    client.set_clock_synchronised()
    client.run("systemctl", "restart", AGENT)
    ground.server.wait_online(client.uuid)
    return result


def broker_away(ground: Ground) -> Result:
    made = ground.reboot(ground.site.client.uuid)
    ground.until(made, "started")
    broker = ground.site.server.broker
    broker.kill(forget=True)
    threading.Event().wait(AWAY_S)
    broker.start()
    done = f"the broker is killed for {AWAY_S} s after execution_started, and forgets all"
    return ground.result("broker away", done, "completed (boot_id)", made)


def controller_away(ground: Ground) -> Result:
    made = ground.reboot(ground.site.client.uuid)
    ground.until(made, "accepted")
    ground.site.server.kill(UNIT)
    ground.site.server.run("systemctl", "stop", UNIT)
    threading.Event().wait(AWAY_S)
    ground.site.server.run("systemctl", "start", UNIT)
    done = f"the controller is killed after accepted, and is away for {AWAY_S} s"
    return ground.result("controller away", done, "completed (boot_id)", made)


def power_cut(ground: Ground) -> Result:
    client = ground.site.client
    made = ground.reboot(client.uuid)
    ground.until(made, "started")
    client.power_cut()
    client.boot()
    done = "the client loses its power after execution_started, and gets it back"
    return ground.result("power cut", done, "completed (boot_id)", made)


def lockout(ground: Ground) -> Result:
    client = ground.site.client
    client.wait_booted()
    ground.server.wait_online(client.uuid)
    done = "a fourth reboot of the same client in 15 minutes"
    return ground.result("lockout", done, "blocked_safety: lockout", ground.reboot(client.uuid))


# --- Simulated clients: the real agent, on hosts that are only pretended.


def mock(ground: Ground) -> Result:
    done = "a client that only says that it reboots"
    return ground.result("mock", done, "completed (mock)", ground.reboot(ground.site.uuids[MOCK - 1]))


def timed_out(ground: Ground) -> Result:
    done = "a client that does not come back"
    return ground.result("timed out", done, "timed_out", ground.reboot(ground.site.uuids[LOST - 1]))


def cloned(ground: Ground) -> Result:
    """Both hosts fight for one session at the broker until the controller sees that they are two."""
    uuid = ground.site.uuids[CLONED - 1]
    clone = ground.site.simulate(CLONED)
    ground.server.wait_for("/clients", lambda clients: any(c["uuid"] == uuid and c["two_hosts"] for c in clients), 300)
    result = ground.result(
        "cloned id", "a second host with the same client UUID", "blocked_safety: one_host", ground.reboot(uuid)
    )
    clone.stop()
    return result


Drill = Callable[[Ground], Result]
REFUSED_BY_THE_CLIENT: tuple[Drill, ...] = (failed, wrong_clock)
# One after the other: the last one is about the three before it.
REBOOTS_OF_THE_CLIENT: tuple[Drill, ...] = (broker_away, controller_away, power_cut, lockout)
OF_SIMULATED: tuple[Drill, ...] = (mock, cloned, timed_out)


def fleet(ground: Ground) -> tuple[list[float], int]:
    """All healthy simulated clients at once, one of them slow; for how long each was away, in seconds, and how many did
    not come back in time."""
    numbers = [number for some in FLEET for number in some]
    wish = {"clients": [ground.site.uuids[number - 1] for number in numbers], "action": "reboot_host"}
    seen = ground.server.call("POST", "/batches/preview", wish)
    batch = ground.server.call("POST", "/batches", {**wish, "hash": seen["hash"], "count": seen["count"]})
    patience = Patience(VERDICT_S)
    while not ground.server.call("GET", f"/batches/{batch['id']}")["is_over"]:
        if patience.is_over:
            raise LabError("the reboot of the fleet does not end")
        threading.Event().wait(1)
    members = ground.server.call("GET", f"/batches/{batch['id']}/members")
    found = [ground.server.call("GET", f"/commands/{member['command_id']}")["evidence"] for member in members]
    times = [_seconds(evidence["down_at"], evidence["back_at"]) for evidence in found]
    back = [time_s for time_s in times if time_s is not None]
    return back, len(times) - len(back)
