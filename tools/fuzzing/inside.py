"""The long form, inside a workshop: each stretch says what it came to on a line of JSON. See tools/fuzz."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from tools.fuzzing import arena, messages, payloads
from tools.fuzzing.outcome import Outcome


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("payloads", "calls", "messages", "packets", "seed"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--into", type=Path, required=True, help="where outcomes.jsonl and what is left of a fault go")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    # A stranger's calls and those of the agent's account add up to --calls.
    half, seed = given.calls // 2, given.seed
    stretches: list[tuple[int, Callable[[Path], Outcome]]] = [
        (given.payloads, lambda here: payloads.fuzz(here, given.payloads, seed)),
        (given.calls, lambda here: arena.fuzz_helper(here, half, seed, as_agent=False)),
        (given.calls, lambda here: arena.fuzz_helper(here, given.calls - half, seed + 1, as_agent=True)),
        (given.calls, lambda here: arena.fuzz_agent(here, given.calls // 10, seed + 2)),
        (given.messages, lambda here: messages.fuzz_messages(here, given.messages, seed)),
        (given.packets, lambda _: messages.fuzz_packets(given.packets, seed)),
    ]
    for number, (count, fuzz) in enumerate(stretches):
        if count:
            here = given.into / str(number)
            here.mkdir(parents=True)
            outcome = fuzz(here)
            with (given.into / "outcomes.jsonl").open("a") as file:
                file.write(json.dumps(asdict(outcome) | {"faults": outcome.faults}) + "\n")
            print(
                f"{outcome.what}: {outcome.done} in {outcome.seconds:.0f} s; {'; '.join(outcome.faults) or 'good'}",
                flush=True,
            )


if __name__ == "__main__":
    main()
