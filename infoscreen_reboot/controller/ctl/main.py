"""The program `infoscreen-rebootctl`: what was typed becomes an outcome."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Sequence

from infoscreen_reboot.controller.ctl import options, settings
from infoscreen_reboot.controller.ctl.call import Call
from infoscreen_reboot.controller.ctl.connection import Connection
from infoscreen_reboot.controller.ctl.outcome import Failure, Outcome
from infoscreen_reboot.controller.ctl.screen import PROGRAM, Screen


def main(argv: Sequence[str]) -> int:
    """`argv` is without the program's name."""
    given = options.parser().parse_args(argv)
    screen = Screen(given.json)
    try:
        return int(_run(given, screen))
    except Failure as failure:
        screen.complain(failure)
        return int(failure.outcome)
    except KeyboardInterrupt:
        print(f"\n{PROGRAM}: interrupted", file=sys.stderr)
        return int(Outcome.INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has gone, as `head` does. Python would complain of it once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(Outcome.INTERRUPTED)


def _run(given: Namespace, screen: Screen) -> Outcome:
    chosen = settings.load(os.environ, given.url, given.ca)
    connection = Connection(chosen)
    try:
        outcome: Outcome = given.run(Call(given, connection, screen))
        sys.stdout.flush()
        return outcome
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
