"""What the texts name is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[1]
TEXTS = sorted(path for path in TREE.rglob("*.md") if "CHANGELOG" not in path.name)
SECURITY = TREE / "docs/security.md"


def names_of(file: Path) -> set[str]:
    nodes = ast.parse(file.read_text("utf-8")).body
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: str(path.relative_to(TREE)))
def test_every_test_and_every_file_that_a_text_names_exists(text: Path) -> None:
    content = text.read_text("utf-8")
    missing = [
        f"{file}::{name}"
        for file, name in re.findall(r"(tests/[\w/]+\.py)::(\w+)", content)
        if not TREE.joinpath(file).is_file() or name not in names_of(TREE / file)
    ]
    # A table's head may name the file, and its rows the tests.
    for table in re.findall(r"(?:^\|.*\n)+", content, re.MULTILINE):
        for file in re.findall(r"tests/[\w/]+\.py", table.partition("\n")[0]):
            missing += set(re.findall(r"`(test_\w+)`", table)) - names_of(TREE / file)
    targets = re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", content)
    missing += [target for target in targets if not (text.parent / target).exists()]
    assert missing == []


def test_every_threat_has_a_test_that_shows_what_stops_it() -> None:
    sections = SECURITY.read_text("utf-8").split("\n## ")[1:]
    without = [text.splitlines()[0] for text in sections if "::test_" not in text]
    assert without == ["What is worth something", "Report a vulnerability"]
