"""A unit that really needs long to stop, as unattended-upgrades does that installs at shutdown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.system.hands import rebooted, start
from tools.lab.machine import Machine

TUNING = (Path(__file__).parents[2] / "docs/ssd-tuning.md").read_text("utf-8")
# In place of the package's 45 s.
LIMIT = "[Unit]\nJobTimeoutSec=4s\n"
# In place of minutes; where it is cut off nobody waits for it, and a busy machine is slow to cut it off.
STOP_TAKES_S = {False: 60, True: 8}
UPGRADE = """\
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
ExecStop=/bin/sh -c 'sleep {stop_takes_s}; touch /var/tmp/whole'
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
    parked.write("/etc/systemd/system/upgrade-at-shutdown.service", UPGRADE.format(stop_takes_s=STOP_TAKES_S[follows]))
    start(parked)
    parked.run("systemctl", "enable", "--now", "upgrade-at-shutdown")
    if follows:
        parked.run("sh", "-euc", recipe())
    rebooted(parked, parked.command())
    assert parked.path("/var/tmp/whole").exists() is follows
