"""Shows a command's whole life on a machine in a container, live and with times, and says whether it was good."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tools.demonstration.narrative import Event, Story
from tools.demonstration.recording import record
from tools.lab import tree
from tools.lab.machine import AGENT, HELPER, POWERED_OFF, Machine, bare_machine, timestamp
from tools.lab.roots import larder
from tools.lab.scratch import LabError

DEADLINE_S = 180
FRAME_S = 0.02
# How long a machine that was shut down stays off under --keep: long enough to be seen.
OFF_S = 3
ACTIONS = ("reboot_host", "shutdown_host")
GREEN, RED, BOLD, DIM = "32", "31", "1", "2"


def paint(text: str, color: str) -> str:
    is_plain = not color or not sys.stdout.isatty() or "NO_COLOR" in os.environ
    return text if is_plain else f"\033[{color}m{text}\033[0m"


def say(text: str = "", color: str = "") -> None:
    print(paint(text, color), flush=True)


@contextmanager
def step(title: str) -> Iterator[None]:
    """A line that ends in how long it took."""
    print(f"  {title:<66}", end="", flush=True)
    started = time.monotonic()
    yield
    print(f"{time.monotonic() - started:6.1f} s", flush=True)


def tell(events: list[Event], since: float) -> None:
    for event in events:
        color = {True: GREEN, False: RED, None: BOLD if event.who == "you" else ""}[event.is_good]
        line = f"{event.at - since:10.3f} s   {event.who:<8} {event.what:<24} "
        say(paint(line, color) + paint(event.why, RED if event.is_good is False else DIM))


def play(suite: str, action: str, keep: bool) -> bool:
    """The whole demonstration; whether the command was completed as it should be."""
    say(f"infoscreen-reboot: {action} on Debian {suite}\n", BOLD)
    with step("building the package (the first time: and the workshop, a minute)"):
        deb = tree.build(suite)
    with step("getting what it depends on (the first time: and a plain Debian)"):
        larder(suite, deb)
    with bare_machine(suite, deb) as machine:
        with step("booting a plain Debian with systemd"):
            machine.boot()
            machine.wait_booted()
        with step(f"apt-get install ./{deb.name}"):
            machine.install(deb)
        with step("starting mosquitto; agent.env.d/50-test.env; restarting the agent"):
            machine.broker.start()
            machine.configure_for_broker()
            machine.set_clock_synchronised()
            machine.run("systemctl", "restart", AGENT)
            machine.wait_online()
        story = Story(machine)
        story.news()
        good = perform(machine, story, action)
        if keep:
            stay(machine, story)
        return good


def perform(machine: Machine, story: Story, action: str) -> bool:
    old_boot_id = machine.boot_id
    machine.auto_restart = True
    command = machine.command(action)
    say(f"\n since publish   {'who':<8} {'what':<24} in other words", DIM)
    machine.send(command)
    since = machine.broker.wait_for(lambda message: message.topic == machine.topic("commands")).heard_at
    deadline = time.monotonic() + DEADLINE_S
    while not is_over(machine, command) and time.monotonic() < deadline:
        tell(story.news(), since)
        time.sleep(FRAME_S)
    tell(story.news(), since)
    return judge(machine, command, old_boot_id)


def is_over(machine: Machine, command: dict[str, Any]) -> bool:
    statuses = machine.statuses(command["command_id"])
    if "failed" in statuses:
        return True
    if command["action"] == "shutdown_host":
        return not machine.is_running
    return "completed" in statuses and machine.lives[-1].booted_at is not None


def judge(machine: Machine, command: dict[str, Any], old_boot_id: str) -> bool:
    """Says whether all that must come true did, and if not, what the machine says about it."""
    statuses = machine.statuses(command["command_id"])
    if command["action"] == "shutdown_host":
        proof = not machine.is_running and machine.wait_down() == POWERED_OFF
        result = "the machine is off, and said so before"
    else:
        proof = machine.boot_id not in ("", old_boot_id) and len(machine.lives) == 2
        result = f"one reboot, proved by the kernel: boot {old_boot_id[:8]} -> {machine.boot_id[:8]}"
    say()
    if proof and statuses == ["accepted", "execution_started", "completed"]:
        say(f"COMPLETED: {result}.", GREEN)
        return True
    say(f"NOT COMPLETED: acknowledged were {statuses or 'none'}. The journal of our units ends:", RED)
    say(machine.journal(AGENT, HELPER)[-3000:])
    return False


def stay(machine: Machine, story: Story) -> None:
    """Leaves machine and broker running and goes on telling, until Ctrl-C."""
    invite(machine)
    since = time.time()
    while True:
        for event in story.news():
            if event.who == "you":
                since = event.at
            tell([event], since)
            if event.is_good is not None:
                invite(machine)
        if machine.lives[-1].exit_code == POWERED_OFF:
            time.sleep(OFF_S)
            machine.boot()
        time.sleep(FRAME_S)


def invite(machine: Machine) -> None:
    expires = datetime.now(UTC) + timedelta(hours=23)
    payload = json.dumps(machine.command(requested_by="demo", expires_at=timestamp(expires)))
    client = f"ip netns exec {machine.name} mosquitto_pub -h 127.0.0.1 -q 1"
    say("\nMachine and broker are running. Ctrl-C stops both and leaves nothing. From another terminal, as root:", BOLD)
    say(f"{client} -t {machine.topic('commands')} -m {shlex.quote(payload)}\n")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tools/demo",
        description="Builds the package, installs it by apt on a Debian machine in a container with real systemd, "
        "sends it a command through a real broker and shows what happens. What is started is stopped.",
    )
    parser.add_argument(
        "--suite", choices=tree.SUITES, default="trixie", help="the machine's Debian (default: %(default)s)"
    )
    parser.add_argument("--action", choices=ACTIONS, default=ACTIONS[0], help="the command (default: %(default)s)")
    ending = parser.add_mutually_exclusive_group()
    ending.add_argument("--keep", action="store_true", help="leave machine and broker running to try it oneself")
    ending.add_argument("--record", type=Path, metavar="FILE", help="write what is seen there, as an animated SVG")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        tree.ensure_host()
        if options.record is not None:
            return record(options.record, "--suite", options.suite, "--action", options.action)
        return 0 if play(options.suite, options.action, options.keep) else 1
    except LabError as error:
        say(f"\ntools/demo: {error}", RED)
        return 1
    except KeyboardInterrupt:
        say("\nStopped; nothing is left running.")
        return 0 if options.keep else 130


if __name__ == "__main__":
    sys.exit(main())
