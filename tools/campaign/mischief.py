"""The faults of a campaign: how each is done to a machine, and how it is taken away again."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from tools.campaign.ground import UPGRADE, Ground
from tools.lab.machine import AGENT, HELPER
from tools.lab.scratch import LabError, command

Fault = Callable[[Ground, random.Random], "Iterator[None]"]
FAULTS: dict[str, Fault] = {}
# Of a flood: how many, and the beginning of their ids, by which the judge knows them.
FLOOD, FLOOD_ID = 1500, "f100df10-"


def flood_line(number: int) -> bytes:
    """A command that breaks the schema."""
    return json.dumps({"command_id": f"{FLOOD_ID}0000-4000-8000-{number:012x}", "junk": "x" * 200}).encode()


def fault(function: Fault) -> Fault:
    """What comes before its `yield` does it, what comes after takes it away."""
    FAULTS[function.__name__] = function
    return function


@fault
def power_cut(ground: Ground, chance: random.Random) -> Iterator[None]:
    ground.power_cut()
    yield
    ground.boot()


@fault
def agent_killed(ground: Ground, chance: random.Random) -> Iterator[None]:
    ground.kill(AGENT)
    yield


@fault
def helper_killed(ground: Ground, chance: random.Random) -> Iterator[None]:
    """It lives only while it is asked, so it is waited for."""
    events = ground.scratch.cgroup / "payload/system.slice" / HELPER / "cgroup.events"
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        with suppress(OSError):
            if "populated 1" in events.read_text():
                time.sleep(chance.random() * 0.4)
                ground.kill(HELPER)
                break
        time.sleep(0.002)
    yield


@fault
def dbus_killed(ground: Ground, chance: random.Random) -> Iterator[None]:
    ground.kill("dbus.service")
    yield


@fault
def broker_restarted(ground: Ground, chance: random.Random) -> Iterator[None]:
    ground.broker.stop()
    yield
    ground.broker.start()


@fault
def broker_killed(ground: Ground, chance: random.Random) -> Iterator[None]:
    ground.broker.kill()
    yield
    ground.broker.start()


@fault
def broker_forgets(ground: Ground, chance: random.Random) -> Iterator[None]:
    ground.broker.kill(forget=True)
    yield
    ground.broker.start()


@fault
def link_down(ground: Ground, chance: random.Random) -> Iterator[None]:
    command("ip", "-n", ground.name, "link", "set", "lo", "down")
    yield
    command("ip", "-n", ground.name, "link", "set", "lo", "up")


def _while(ground: Ground, **switches: bool) -> Iterator[None]:
    """The witness does that until all is healed."""
    ground.witness.set(**switches)
    yield
    ground.witness.set(**dict.fromkeys(switches, False))


@fault
def refused(ground: Ground, chance: random.Random) -> Iterator[None]:
    yield from _while(ground, refuses=True)


@fault
def stalled(ground: Ground, chance: random.Random) -> Iterator[None]:
    yield from _while(ground, stalls=True)


@fault
def half_open(ground: Ground, chance: random.Random) -> Iterator[None]:
    """Only the keep-alive tells the agent that its connection is dead."""
    ground.witness.forsake()
    yield


@fault
def slow(ground: Ground, chance: random.Random) -> Iterator[None]:
    """By the kernel where it can; else the witness lets through a few bytes at a time."""
    has_netem = netem(ground, "add", "delay", "60ms", "30ms")
    ground.witness.set(is_slow=not has_netem)
    yield
    if has_netem:
        netem(ground, "del")
    ground.witness.set(is_slow=False)


def has_netem() -> bool:
    """Whether the kernel can make a link slow."""
    name = f"netem-{os.getpid()}"
    command("ip", "netns", "add", name)
    try:
        command("tc", "-n", name, "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms")
    except LabError:
        return False
    finally:
        command("ip", "netns", "del", name)
    return True


def netem(ground: Ground, verb: str, *what: str) -> bool:
    argv = ["tc", "-n", ground.name, "qdisc", verb, "dev", "lo", "root", "netem", *what]
    return subprocess.run(argv, capture_output=True).returncode == 0


@fault
def doubled(ground: Ground, chance: random.Random) -> Iterator[None]:
    yield from _while(ground, doubles=True)


@fault
def reordered(ground: Ground, chance: random.Random) -> Iterator[None]:
    yield from _while(ground, reorders=True)


@fault
def puback_lost(ground: Ground, chance: random.Random) -> Iterator[None]:
    ground.witness.set(loses_puback_of_client=chance.random() < 0.5)
    yield
    ground.witness.set(loses_puback_of_client=None)


@fault
def disk_full(ground: Ground, chance: random.Random) -> Iterator[None]:
    ballast = ground.disk / "ballast"
    with suppress(OSError) as _, ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise LabError(f"cannot fill {ground.disk}: {error}") from error
    yield
    ballast.unlink()


@fault
def full_for_good(ground: Ground, chance: random.Random) -> Iterator[None]:
    yield from disk_full(ground, chance)


@fault
def disk_read_only(ground: Ground, chance: random.Random) -> Iterator[None]:
    """The kernel does not take from a process what it has open for writing: so the agent goes first."""
    for _ in range(20):
        ground.kill(AGENT)
        with suppress(LabError):
            ground.remount("ro")
            break
    yield
    ground.remount("rw")
    # A boot may have begun just before, and found its folders read-only.
    ground.owes_mount = True
    ground.owes_restart = True


@fault
def read_only_for_good(ground: Ground, chance: random.Random) -> Iterator[None]:
    yield from disk_read_only(ground, chance)


@fault
def state_rubbish(ground: Ground, chance: random.Random) -> Iterator[None]:
    """As a dying disk leaves it; nobody puts it right."""
    store = ground.disk / "agent/journal.sqlite3"
    content = store.read_bytes()
    rubbish = {
        "zeroes": bytes(len(content)),
        "noise": chance.randbytes(20_000),
        "a torn end": content[: len(content) // 2],
        "a newer format": content[:60] + (99).to_bytes(4, "big") + content[64:],
    }
    ground.kill(AGENT)
    store.write_bytes(rubbish[chance.choice(list(rubbish))])
    yield


@fault
def junk_flood(ground: Ground, chance: random.Random) -> Iterator[None]:
    """What a broken server sends in seconds: refusals, each with an id of its own."""
    ground.broker.publish_lines(ground.topic("commands"), [flood_line(number) for number in range(FLOOD)])
    yield


@fault
def taken_back(ground: Ground, chance: random.Random) -> Iterator[None]:
    """Somebody's reboot is announced, and systemd then refuses it. Over the next boot the reason is gone."""
    refusal = "[Unit]\\nRefuseManualStart=yes\\n"
    folders = "/run/systemd/system/reboot.target.d /run/systemd/system/poweroff.target.d"
    refuse = (
        f"mkdir -p {folders}; for d in {folders}; do printf '{refusal}' >$d/lab.conf; done; systemctl daemon-reload"
    )
    with suppress(LabError):  # it may be down at this moment
        ground.run("sh", "-c", f"{refuse}; systemctl --no-block reboot", check=False)
    yield
    with suppress(LabError):
        ground.run("sh", "-c", f"rm -rf {folders}; systemctl daemon-reload")


@fault
def clock_jumps(ground: Ground, chance: random.Random) -> Iterator[None]:
    ground.set_clock(chance.choice(["-86400", "-3600", "-20", "+20", "+3600", "+86400"]))
    yield
    ground.set_clock("+0")


@fault
def upgraded(ground: Ground, chance: random.Random) -> Iterator[None]:
    """Left to systemd, so that nothing of ours is in the way when the machine goes down."""
    ground.owes_dpkg = True
    ground.debs.reverse()
    with suppress(LabError):  # it may be down at this moment
        start = "systemd-run", "-q", "--no-block", "--collect", f"--unit={UPGRADE}"
        ground.run(*start, "dpkg", "-i", ground.debs[0])
    yield
