"""What an agent has in memory from its start on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TREE = Path(__file__).parents[2]


def test_an_agent_has_in_memory_from_its_start_on_what_a_refusal_needs() -> None:
    """In the middle of a dist-upgrade nothing more can be imported, and no file of ours is what it was."""
    program = """
import sys
from infoscreen_reboot.client.agent import app
from infoscreen_reboot.contract import command, wire
loaded = set(sys.modules)
assert "jsonschema" in loaded
assert not sys.modules.get("gi")
wire.load()
asked_for = []
sys.addaudithook(lambda event, args: asked_for.append(args[0]) if event in ("import", "open") else None)
content = {"schema_version": "1.0", "command_id": ID, "client_uuid": ID, "action": "reboot_host",
           "issued_at": "2026-04-03T12:48:10Z", "expires_at": "2026-04-03T12:52:10Z"}
command.parse(wire.encode(content))
for field in ("action", "client_uuid", "force"):
    try:
        command.parse(wire.encode(content | {field: "dance"}))
    except wire.ContractError as error:
        assert error.field == field
    else:
        raise AssertionError(f"{field} is not refused")
assert not asked_for, asked_for
later = set(sys.modules) - loaded
assert not later, later
""".replace("ID", repr("9b8d1856-ff34-4864-a726-12de072d0f77"))
    subprocess.run([sys.executable, "-c", program], cwd=TREE, check=True)
