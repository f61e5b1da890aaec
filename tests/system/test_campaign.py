"""A short fault campaign from a seed of its own each time, and lies that it must not believe."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tools.campaign.ground import Ground
from tools.campaign.mischief import FAULTS
from tools.campaign.plan import Plan, Sending
from tools.campaign.runs import SEEDS, Campaign
from tools.campaign.trial import Trial

RUNS = 15
CODE = "usr/share/infoscreen-reboot/infoscreen_reboot/client/agent"


def test_a_short_campaign_breaks_no_guarantee(suite: str, capsys: pytest.CaptureFixture[str]) -> None:
    told: list[str] = []
    campaign = Campaign(suite, random.randrange(SEEDS), RUNS, minutes=5, tell=told.append)
    with capsys.disabled():
        print(f"\n{suite}: {RUNS} runs from seed {campaign.seed} on")
    campaign.play()
    assert not campaign.broken, "\n".join([*map(campaign.again, campaign.broken), *told])
    assert len(campaign.results) == RUNS
    assert sum(result.executions for result in campaign.results) > 0


def test_a_disk_that_was_read_only_when_a_boot_began_is_put_right(suite: str, deb: Path) -> None:
    """The fault may come just before a boot: what was read-only when it began stays so inside, whatever the disk is."""
    with Ground(suite, deb, deb) as ground:
        ground.remount("ro")
        ground.boot()
        ground.wait_booted()
        course = FAULTS["disk_read_only"](ground, random.Random(0))
        next(course)
        next(course, None)
        ground.repair()
        ground.run("touch", "/var/lib/infoscreen-reboot/can-be-written")


def change(ground: Ground, file: str, true: str, lie: str) -> None:
    path = ground.root / CODE / file
    code = path.read_text()
    assert code.count(true) == 1
    path.write_text(code.replace(true, lie))


def asks_twice(ground: Ground) -> None:
    ask = "await self._host.request(record.action, record.command_id)"
    change(ground, "agent.py", ask, f"{ask}; {ask}")


def drops_an_ack(ground: Ground) -> None:
    change(ground, "ledger.py", "if record.ack is None:", "if record.ack is None or b'execution_st' in record.ack:")


def claims_a_reboot(ground: Ground) -> None:
    ground.configure(COMMAND_EXECUTOR="mock", COMMAND_MOCK_REBOOT_IMMEDIATE_COMPLETE="yes")


def reboots_for_another(ground: Ground) -> None:
    """For a command that was meant for another client."""
    refusal = 'return Failed(ErrorCode.WRONG_CLIENT, f"this client is {facts.client_uuid}")'
    change(ground, "policy.py", refusal, "pass")


@pytest.mark.parametrize(
    ("lie", "kind", "words"),
    [
        (asks_twice, "reboot", "was handed to the helper 2 times"),
        (drops_an_ack, "reboot", "the ack execution_started is lost"),
        (claims_a_reboot, "reboot", "there was no reboot"),
        (reboots_for_another, "foreign", "which no valid command asked for"),
    ],
)
def test_a_campaign_tells_an_agent_that_lies(
    suite: str, deb: Path, lie: Callable[[Ground], None], kind: str, words: str
) -> None:
    plan = Plan(0, (Sending(kind, after_s=0, waits_for_end=False),), ())
    with Ground(suite, deb, deb) as ground:
        lie(ground)
        ground.boot()
        ground.wait_booted()
        ground.wait_online()
        broken = Trial(ground, plan).play().broken
    assert any(words in sentence for sentence in broken), broken
