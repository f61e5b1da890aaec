"""Shows a command's whole life, from the operator's terminal to the machine and back, and says whether it was good."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tools.demonstration.narrative import Event, Story
from tools.demonstration.recording import record
from tools.demonstration.site import CTL, NAME, PASSWORD, URL, USER, Site
from tools.lab import tree
from tools.lab.machine import AGENT, HELPER, POWERED_OFF, Machine
from tools.lab.scratch import LabError

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
    with ExitStack() as stack:
        site = Site(stack, suite)
        for title, work in site.steps():
            with step(title):
                work()
        say()
        site.show("clients")
        story = site.story()
        story.news()
        good = perform(site, story, action)
        if keep:
            stay(site, story)
        return good


def perform(site: Site, story: Story, action: str) -> bool:
    machine = site.client
    old_boot_id = machine.boot_id
    machine.auto_restart = True
    number = len(machine.broker.messages)
    words = "reboot" if action == "reboot_host" else "shutdown --someone-is-there"
    say(f"\n$ {CTL} {words} {NAME} --reason demonstration --yes 1", BOLD)
    status = site.show(*words.split(), NAME, "--reason", "demonstration", "--yes", "1")
    command = next(m.json for m in machine.broker.messages[number:] if m.topic == machine.topic("commands"))
    since = machine.sent_at(command["command_id"])
    if action == "reboot_host":
        machine.wait_booted()
    else:
        machine.wait_down()
    say(f"\n since publish   {'who':<8} {'what':<24} in other words", DIM)
    tell(story.news(), since)
    say(f"\n$ {CTL} explain {command['command_id'][:8]}", BOLD)
    site.show("explain", command["command_id"])
    return judge(machine, command, old_boot_id, status)


def judge(machine: Machine, command: dict[str, Any], old_boot_id: str, status: int) -> bool:
    """Says whether all that must come true did, and if not, what the machine says about it."""
    statuses = machine.statuses(command["command_id"])
    if command["action"] == "shutdown_host":
        proof = not machine.is_running and machine.wait_down() == POWERED_OFF
        result = "the machine is off, and said so before"
    else:
        proof = machine.boot_id not in ("", old_boot_id) and len(machine.lives) == 2
        result = f"one reboot, proved by the kernel: boot {old_boot_id[:8]} -> {machine.boot_id[:8]}"
    say()
    if proof and status == 0 and statuses == ["accepted", "execution_started", "completed"]:
        say(f"COMPLETED: {result}.", GREEN)
        return True
    told = f"{CTL} ended with {status}, acknowledged were {statuses or 'none'}"
    say(f"NOT COMPLETED: {told}. The journal of our units ends:", RED)
    say(machine.journal(AGENT, HELPER)[-3000:])
    return False


def stay(site: Site, story: Story) -> None:
    """Leaves all of it running and goes on telling, until Ctrl-C."""
    machine = site.client
    invite(site)
    since = time.time()
    while True:
        for event in story.news():
            if event.who == "you":
                since = event.at
            tell([event], since)
        if machine.lives[-1].exit_code == POWERED_OFF:
            time.sleep(OFF_S)
            machine.boot()
        time.sleep(FRAME_S)


def invite(site: Site) -> None:
    ctl = shlex.join(site.server.outside(CTL))
    api = f"ip netns exec {site.server.name} curl -H 'Authorization: Bearer {site.token}' {URL}/api/v1/clients"
    site.open_console()
    say("\nAll of it is running. Ctrl-C stops it and leaves nothing.", BOLD)
    say(f"\nIn a browser on this machine: {URL}   name: {USER}   password: {PASSWORD}")
    say("\nFrom another terminal, as root:\n", BOLD)
    for words, why in (
        ("status", "what is open, and what holds"),
        ("reboot -l site=hall", "ten clients: it asks for their number"),
        ("reboot screen-18", "one that only says that it reboots: it is told as that"),
        ("reboot screen-20", "one that does not come back: what the controller says after three minutes"),
        ("freeze begin 'opening night'", "then try a reboot, and `freeze end 1`"),
        (f"shutdown {NAME} --someone-is-there", f"the real one; it is switched on again after {OFF_S} s"),
    ):
        say(f"  {ctl} {words}")
        say(f"      {why}", DIM)
    say(f"\nThe API, and what travels at the broker:\n\n  {api}")
    say(f"  ip netns exec {site.server.name} mosquitto_sub -h 127.0.0.1 -v -t 'infoscreen/+/commands/#'\n")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tools/demo",
        description="Builds the packages; boots a server with the controller, and a Debian machine on which apt "
        "installs the client, both in containers with real systemd; adds twenty simulated clients; and has the real "
        "one rebooted from the command line, live. What is started is stopped.",
    )
    parser.add_argument(
        "--suite", choices=tree.SUITES, default="trixie", help="the machine's Debian (default: %(default)s)"
    )
    parser.add_argument("--action", choices=ACTIONS, default=ACTIONS[0], help="the command (default: %(default)s)")
    ending = parser.add_mutually_exclusive_group()
    ending.add_argument("--keep", action="store_true", help="leave all of it running to try it oneself")
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
