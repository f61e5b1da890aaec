"""The file of targets: what it takes, what it says of a line that is none, and that it gives no secret away."""

from __future__ import annotations

import pytest

from infoscreen_reboot.controller import targets
from infoscreen_reboot.controller.notifying import Kind

SECRET = "correct-horse-battery"
HOOK = f"hook webhook https://hooks.example/infoscreen secret={SECRET}"


def test_a_file_of_targets() -> None:
    text = f"""
    # who is on duty
    mail    mailtos://user:topsecret@mail.example/?to=ops@site.example
    phone   ntfys://ntfy.example/alarms  loud kinds=needs_person,stopped
    {HOOK} secret=another-one-of-16 internal
    """
    found, faults = targets.parse(text)
    assert not faults
    assert [(each.name, each.shown) for each in found] == [
        ("mail", "mailtos://mail.example"),
        ("phone", "ntfys://ntfy.example"),
        ("hook", "webhook https://hooks.example"),
    ]
    mail, phone, hook = found
    assert hook.is_webhook and hook.is_internal and hook.secrets == (SECRET, "another-one-of-16")
    assert mail.takes(Kind.BACK, False) and phone.takes(Kind.STOPPED, True)
    assert not phone.takes(Kind.STOPPED, False) and not phone.takes(Kind.BACK, True)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("mailto://x@y", "allowed is `NAME URL`"),
        ("mail", "allowed is `NAME URL`"),
        ("mail topsecret", "the address has no scheme"),
        ("mail mailto://u:topsecret@h topsecret", "no option"),
        ("mail mailto://u:topsecret@h internal", "no option"),
        ("mail mailto://u:topsecret@h kinds=stoped", "kinds= takes started, "),
        ("mail http://[topsecret/", "cannot be read"),
        ("hook webhook", "no scheme"),
        ("hook webhook https://h/topsecret", "needs a secret"),
        ("hook webhook https://h/ secret=topsecret", "16 characters"),
        ("hook webhook http://h/ secret=topsecret-topsecret", "needs https"),
        ("hook webhook ftp://h/ secret=topsecret-topsecret", "as in https://host/path"),
        ("hook webhook https:///topsecret secret=topsecret-topsecret", "as in https://host/path"),
        ("hook webhook https://h:99999/ secret=topsecret-topsecret", "cannot be read"),
        ("hook webhook https://u:topsecret@h/ secret=topsecret-topsecret", "no password"),
        ("same mailto://topsecret@h", "two targets with the name same"),
    ],
)
def test_a_line_that_is_no_target_is_named_and_the_others_count(line: str, fault: str) -> None:
    found, faults = targets.parse(f"same mailto://x@y\n{line}\n{HOOK}\n")
    assert [each.name for each in found] == ["same", "hook"]
    assert len(faults) == 1 and faults[0].startswith("line 2: ") and fault in faults[0]
    assert "topsecret" not in faults[0]


@pytest.mark.parametrize(
    "address",
    [
        "tgram://topsecret/x",
        "slack://bot@topsecret/x",
        "ntfy://topsecret",
        "matrix://topsecret/",
        "mailto://u:topsecret@h",
    ],
)
def test_what_is_shown_of_a_target_is_no_secret(address: str) -> None:
    [target], _ = targets.parse(f"one {address}")
    hook = targets.parse(HOOK)[0][0]
    assert "topsecret" not in f"{target.shown} {target}" and SECRET not in f"{hook.shown} {hook}"


def test_there_is_room_for_20_targets() -> None:
    found, faults = targets.parse("\n".join(f"t{number} mailto://a@b" for number in range(22)))
    assert (len(found), faults) == (20, ("line 21: there may be 20 targets", "line 22: there may be 20 targets"))
