"""Selectors, and the hash that freezes what a preview has shown."""

from __future__ import annotations

import pytest

from infoscreen_reboot.controller import selection
from infoscreen_reboot.controller.selection import SelectorError, parse, preview_hash

LABELS = {"site": "alpine", "room": "bar 2", "spare": "x"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ("site=alpine", True),
        ("site==alpine", True),
        ("site = alpine , room = bar 2", True),
        ("site=alpin", False),
        ("site!=alpine", False),
        ("model!=pi4", True),
        ("site in (alpine, plain)", True),
        ("site in (plain)", False),
        ("site notin (plain,hill)", True),
        ("model notin (pi4)", True),
        ("spare", True),
        ("!spare", False),
        ("!model", True),
        ("site in (alpine,plain),room=bar 2,!model", True),
        ("site=alpine,spare!=x", False),
    ],
)
def test_which_clients_a_selector_means(text: str, expected: bool) -> None:
    assert parse(text).matches(LABELS) is expected
    assert parse(str(parse(text))) == parse(text)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("site=", "'site='"),
        ("=alpine", "'=alpine'"),
        ("site=a,,room=b", "comma"),
        ("site in (a,)", "''"),
        ("site in a", "'site in a'"),
        ("site in (a", "'site in (a'"),
        ("site=<b>", "'site=<b>'"),
        ("a=b=c", "'a=b=c'"),
        (",", "comma"),
    ],
)
def test_what_cannot_be_read_is_named(text: str, named: str) -> None:
    with pytest.raises(SelectorError, match=named.replace("(", r"\(")):
        parse(text)


def test_a_hash_is_of_the_clients_and_of_what_holds_them_and_not_of_their_order() -> None:
    one = preview_hash("reboot_host", ["a", "b"], {"c": "online", "d": "freeze"})
    assert one == preview_hash("reboot_host", ["b", "a"], {"d": "freeze", "c": "online"})
    others = {
        preview_hash("shutdown_host", ["a", "b"], {"c": "online", "d": "freeze"}),
        preview_hash("reboot_host", ["a"], {"c": "online", "d": "freeze"}),
        preview_hash("reboot_host", ["a", "b"], {"c": "online"}),
        preview_hash("reboot_host", ["a", "b"], {"c": "online", "d": "budget"}),
        preview_hash("reboot_host", ["a", "b", "d"], {"c": "online"}),
        one,
    }
    assert len(others) == 6
    assert selection.parse("") == selection.Selector()
