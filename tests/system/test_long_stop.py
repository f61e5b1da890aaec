"""A unit that really needs long to stop, as unattended-upgrades does that installs at shutdown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.system.hands import rebooted, start
from tools.lab.machine import Machine

TUNING = (Path(__file__).parents[2] / "docs/ssd-tuning.md").read_text("utf-8")
# In place of the package's 45 s and of an upgrade of minutes.
LIMIT, STOP_TAKES_S = "[Unit]\nJobTimeoutSec=4s\n", 8
UPGRADE = f"""\
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
ExecStop=/bin/sh -c 'sleep {STOP_TAKES_S}; touch /var/tmp/whole'
TimeoutStopSec=1800
[Install]
WantedBy=multi-user.target
"""


def recipe() -> str:
    section = TUNING.partition("## Upgrades at shutdown")[2].partition("\n## ")[0]
    (block,) = re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return str(block)


@pytest.mark.parametrize("follows", [False, True], ids=["as-installed", "with-the-recipe"])
def test_an_upgrade_at_shutdown_is_cut_off_unless_the_recipe_is_followed(parked: Machine, follows: bool) -> None:
    parked.write("/etc/systemd/system/reboot.target.d/91-in-short.conf", LIMIT)
    parked.write("/etc/systemd/system/upgrade-at-shutdown.service", UPGRADE)
    start(parked)
    parked.run("systemctl", "enable", "--now", "upgrade-at-shutdown")
    if follows:
        parked.run("sh", "-euc", recipe())
    rebooted(parked, parked.command())
    assert parked.path("/var/tmp/whole").exists() is follows
