"""Who holds the lease, and for how long, when the broker goes away and comes back."""

from __future__ import annotations

import time
from datetime import timedelta
from types import SimpleNamespace

import pytest

from infoscreen_reboot.controller import leader as leaders
from infoscreen_reboot.controller.engine import Orders
from infoscreen_reboot.controller.leader import Leader
from infoscreen_reboot.controller.store import lease
from infoscreen_reboot.controller.store.database import Database, Row
from tests.broker.conftest import Broker
from tests.controller.played import settings_of
from tools.lab.patience import Patience


def held(database: Database, *, after_epoch: int = 0, is_heard: bool = True) -> Row:
    """The lease, when its holder hears the broker, or does not."""
    patience = Patience(30)
    while True:
        with database.read() as tx:
            row = lease.standing(tx)
        if row is not None and row["epoch"] > after_epoch and (row["listening_since"] is not None) is is_heard:
            return row
        assert not patience.is_over, f"the lease is {row}"
        time.sleep(0.05)


def test_whoever_has_heard_the_broker_for_long_keeps_the_lease_when_it_is_restarted(
    database: Database, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else all that the holder does beside, as power cycles, would end, too."""
    ahead_s = 0.0
    monkeypatch.setattr(leaders, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + ahead_s))
    leader = Leader(database, settings_of(broker), Orders(), None, "here", timedelta(days=1))
    leader.start()
    try:
        before = held(database)
        ahead_s = 3600.0
        broker.stop()
        held(database, is_heard=False)
        broker.start()
        assert held(database)["epoch"] == before["epoch"]
    finally:
        leader.stop()
