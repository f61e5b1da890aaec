"""The agent goes on with the state that each earlier format of its store has left; see tests/upgrades/README.md."""

import asyncio
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from infoscreen_reboot.client.agent.store import Store
from tests import world as w
from tests.world import World

FIXTURES = Path(__file__).parents[1] / "upgrades"
FORMATS = ("1", "2", "3")


@pytest.mark.parametrize("number", FORMATS)
def test_a_store_of_each_earlier_format_is_carried_over(tmp_path: Path, number: str) -> None:
    said = json.loads((FIXTURES / f"agent-{number}.json").read_text())
    done, expired, open_one = said["commands"]
    path = tmp_path / "journal.sqlite3"
    shutil.copy(FIXTURES / f"agent-{number}.sqlite3", path)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (int(number),)
    world = World(path, boots=2)  # the fixture ends in the boot before

    async def nature() -> None:
        await asyncio.sleep(1)
        for command_id in (done, expired):
            world.send(said["commands"][command_id].encode())

    w.run(world.play(nature))
    # What was owed is delivered, and the reboot in whose middle the host was upgraded is proved.
    assert world.story(open_one) == ["accepted", "execution_started", "completed"]
    assert said["last_acks"][open_one].encode() in [letter.payload for letter in world.received]
    for command_id in (done, expired):
        acks = [letter.payload.decode() for letter in world.received if command_id.encode() in letter.payload]
        assert acks == [said["last_acks"][command_id]], "the same bytes, and nothing else"
    assert world.helper_calls == []


def test_there_is_a_fixture_of_each_format_but_the_present_one(tmp_path: Path) -> None:
    """Before you add a format, run the code of today as tests/upgrades/README.md says, and keep what it leaves."""
    Store(tmp_path / "journal.sqlite3").close()
    with closing(sqlite3.connect(tmp_path / "journal.sqlite3")) as database:
        [present] = database.execute("PRAGMA user_version").fetchone()
    assert [str(number) for number in range(1, present)] == list(FORMATS)
