"""docs/api.md is true: its examples run as they stand, and its tables are those of the code."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from pathlib import Path

import pytest
from sqlalchemy import insert, select, update

from infoscreen_reboot.contract.ack import AckStatus
from infoscreen_reboot.controller.api import live, problems
from infoscreen_reboot.controller.auth import Role
from infoscreen_reboot.controller.lifecycle import Acked, Limits, Published, Seen
from infoscreen_reboot.controller.store import commands
from infoscreen_reboot.controller.store.tables import client, command, label, token
from tests.controller.web import Web, serving

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
TEXT = (EXAMPLES.parent / "api.md").read_text("utf-8")
BEFORE, AFTER = "5f0d7c8e-2b1a-4c3d-8e9f-0a1b2c3d4e5f", "c4c3a1f0-7d56-4d0f-9d8e-1f1c2d3e4f50"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def test_every_kind_stands_in_the_table_with_its_status() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d{3}) \| .+ \|$", TEXT, re.MULTILINE)
    assert [(kind, int(status)) for kind, status in rows] == sorted(
        ((str(kind), status) for kind, (status, _) in problems.KINDS.items()),
        key=lambda row: (row[1], [kind for kind, _ in rows].index(row[0])),
    )


def test_every_metric_stands_in_the_table(web: Web) -> None:
    told = re.findall(r"^# TYPE (\w+)", web.call("GET", "/metrics", Role.VIEWER).text, re.MULTILINE)
    table = TEXT.partition("| metric | is |")[2]
    assert sorted(set(re.findall(r"`(infoscreen_\w+)`", table))) == sorted(told)
    for file in ("rules.yml", "dashboard.json"):
        asked = set(re.findall(r"\binfoscreen_\w+", (EXAMPLES / "prometheus" / file).read_text("utf-8")))
        assert asked and asked <= set(told), file


def test_the_refusal_that_is_shown_is_one() -> None:
    [shown] = [json.loads(block) for block in blocks("json")]
    status, title = problems.KINDS[shown["kind"]]
    assert (shown["status"], shown["title"]) == (status, title)
    problems.ProblemDocument.model_validate(shown)


def play(web: Web, named: str, is_over: threading.Event) -> None:
    """A client that does what it is told, without a broker. Nothing is sent to the others: a busy machine takes its
    time to cancel."""
    while not is_over.wait(0.05):
        with web.database.write() as tx:
            letters = [letter for letter in commands.to_send(tx, 10) if letter.client_uuid == named]
            commands.mark_sent(tx, letters, Limits())
            for letter in letters:
                commands.learn(tx, [(letter.command_id, Published(tx.now))], Limits())
                for status in (AckStatus.ACCEPTED, AckStatus.EXECUTION_STARTED):
                    commands.learn(tx, [(letter.command_id, Acked(tx.now, status, BEFORE))], Limits())
                commands.learn(tx, [(letter.command_id, Seen(tx.now, True, AFTER))], Limits())
                commands.learn(tx, [(letter.command_id, Acked(tx.now, AckStatus.COMPLETED, AFTER))], Limits())


def test_the_examples_run_as_they_stand(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "COMMENT_S", 0.5)  # curl sees that nobody reads any more when something comes
    [named] = re.findall(r"^client=(\S+)$", TEXT, re.MULTILINE)
    with web.database.write() as tx:
        tx.db.execute(insert(client).values(uuid=named, standing="accepted", is_online=True))
        tx.db.execute(insert(label).values(client_uuid=named, key="site", value="city"))
        tx.db.execute(update(token).values(role="admin"))
    script = "\n".join(["set -eu", *blocks("sh")])
    is_over = threading.Event()
    player = threading.Thread(target=play, args=(web, named, is_over))
    with serving(web) as address:
        for placeholder, real in (
            ("https://controller.example/api/v1", address),
            ("irc_…", web.tokens[Role.ADMIN].secret),
        ):
            assert placeholder in script
            script = script.replace(placeholder, real)
        player.start()
        try:
            done = subprocess.run(["bash", "-c", script], cwd=tmp_path, text=True, capture_output=True, check=False)
        finally:
            is_over.set()
            player.join()
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"proof": "boot_id"' in done.stdout and '"cancelled":3' in done.stdout.replace(" ", "")
    assert f'"uuid": "{web.uuids[0]}"' in done.stdout
    with web.database.read() as tx:
        rows = tx.db.execute(select(command.c.state, command.c.batch_id)).all()
    assert sorted((row.state, row.batch_id is None) for row in rows) == [("cancelled", False)] * 3 + [
        ("completed", True)
    ]
