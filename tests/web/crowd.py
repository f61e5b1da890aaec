"""The console of ten thousand clients, in a process of its own: python3 -m tests.web.crowd DATABASE_FILE."""

from __future__ import annotations

import sys
import threading

from infoscreen_reboot.controller.store.database import Database
from tests.controller.played_fleet import Fleet


def main() -> None:
    fleet = Fleet(Database(f"sqlite:///{sys.argv[1]}"))
    with fleet.serving() as address:
        print(address, *fleet.tokens.values(), flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
