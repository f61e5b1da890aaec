"""The command line: what it offers, and that the shell offers the same."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from infoscreen_reboot.client import cli

TREE = Path(__file__).parents[2]


def options(parser: argparse.ArgumentParser) -> set[str]:
    found: set[str] = set(re.findall(r"--[a-z-]+", parser.format_help()))
    return found


def offered() -> dict[str, set[str]]:
    """The options of each command."""
    (commands,) = (action for action in cli.parser()._actions if isinstance(action, argparse._SubParsersAction))
    return {name: options(parser) for name, parser in commands.choices.items()}


def test_the_completion_offers_each_command_and_each_option() -> None:
    text = (TREE / "debian/completions/infoscreen-reboot").read_text("utf-8")
    cases = re.findall(r"^\t(.+)\) choices='(.*)' ;;$", text, re.MULTILINE)
    completed = {name: set(words.split()) for names, words in cases for name in names.split(" | ")}
    start = completed.pop("*")
    assert completed == offered()
    assert start == set(offered()) | {"--help", "--version"}


def test_the_man_page_explains_each_command_and_each_option() -> None:
    page = (TREE / "docs/man/infoscreen-reboot.8").read_text("utf-8")
    explained = re.findall(r"^\.It Cm (\S+)(.*)$", page, re.MULTILINE)
    found = {name: {f"--{o}" for o in re.findall(r"Fl Fl (\S+)", rest)} | {"--help"} for name, rest in explained}
    assert found == offered()
