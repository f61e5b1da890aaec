"""Runs simulated clients with the real agent at a broker on this machine until it is stopped."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import random
import signal
from pathlib import Path

from tools.simulated import agents
from tools.simulated.manner import Manner, client_uuid


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m tools.simulated", description=__doc__)
    parser.add_argument("--port", type=int, default=1883, help="the broker's, on 127.0.0.1 (default: %(default)s)")
    parser.add_argument("--state", type=Path, required=True, help="the folder for what they write down")
    parser.add_argument("--count", type=int, default=20, help="how many (default: %(default)s)")
    parser.add_argument(
        "--reboot-s", type=float, nargs=2, default=(20, 40), metavar=("LEAST", "MOST"), help="how long a reboot takes"
    )
    parser.add_argument("--slow", type=int, action="append", default=[], metavar="N", help="takes five times as long")
    parser.add_argument("--lost", type=int, action="append", default=[], metavar="N", help="never comes back")
    parser.add_argument("--mock", type=int, action="append", default=[], metavar="N", help="only says that it reboots")
    parser.add_argument("--list", action="store_true", help="only print their UUIDs, in order")
    options = parser.parse_args()
    if options.list:
        print("\n".join(client_uuid(number) for number in range(1, options.count + 1)))
        return
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    clients = []
    for number in range(1, options.count + 1):
        least, most = options.reboot_s
        factor = 5 if number in options.slow else 1
        manner = Manner(
            (least * factor, most * factor),
            comes_back=number not in options.lost,
            mocks=number in options.mock,
            chance=random.Random(number),
        )
        clients.append((options.state / f"{number:02}", client_uuid(number), manner))
    with asyncio.Runner(loop_factory=agents.FleetLoop) as runner:
        loop = runner.get_loop()
        fleet = loop.create_task(
            agents.run([agents.SimulatedClient(state, name, options.port, manner) for state, name, manner in clients])
        )
        signal.signal(signal.SIGTERM, lambda *_: loop.call_soon_threadsafe(fleet.cancel))
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(fleet)


if __name__ == "__main__":
    main()
