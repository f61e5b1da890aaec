"""Messages at real servers: what a webhook sends and whom it believes, and what apprise makes of a message."""

from __future__ import annotations

import json
import ssl
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from infoscreen_reboot.controller import apprised, sending, targets, webhook
from infoscreen_reboot.controller.notifying import NotSent, Post
from infoscreen_reboot.controller.targets import Target
from tests.broker.conftest import Authority
from tests.controller.receiver import SECRET, is_signed, receiving
from tools.lab.patience import Patience

NOW = datetime(2026, 11, 27, 4, tzinfo=UTC)
POST = Post(7, NOW, "needs_person", "infoscreen: a client", "lobby <b>x</b>", True, {"count": 1, "notices": [{}]})


def target(line: str) -> Target:
    [found], faults = targets.parse(line)
    assert not faults
    return found


def why_not(found: Target) -> str:
    with pytest.raises(NotSent) as refused:
        sending.deliver(found, POST, NOW)
    return str(refused.value)


def test_a_webhook_gets_a_message_that_it_can_check() -> None:
    with receiving() as receiver:
        sending.deliver(target(receiver.line("hook", "secret=the-one-before-16")), POST, NOW)
        [(path, headers, body)] = receiver.got
    assert path == "/told" and headers["Infoscreen-Message"] == "7"
    assert headers["Infoscreen-Timestamp"] == str(int(NOW.timestamp()))
    assert is_signed(headers, body) and is_signed(headers, body, "the-one-before-16")
    assert not is_signed(headers, body + b" ") and not is_signed(headers, body, "another secret")
    assert json.loads(body) == {
        "id": 7,
        "at": "2026-11-27T04:00:00.000Z",
        "kind": "needs_person",
        "loud": True,
        "title": "infoscreen: a client",
        "text": "lobby <b>x</b>",
        "count": 1,
        "notices": [{}],
    }


def test_the_receiver_of_the_documents_believes_what_is_signed_and_new() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs/controller.md").read_text("utf-8")
    found: dict[str, Any] = {}
    exec(text.partition("```python\n")[2].partition("```")[0], found)
    with receiving() as receiver:
        sending.deliver(target(receiver.line()), POST, NOW)
        [(_, headers, body)] = receiver.got
    is_ours, secret, now = found["is_ours"], SECRET.encode(), NOW.timestamp()
    assert is_ours(headers, body, secret, now + 100)
    assert not is_ours(headers, body, secret, now + 400) and not is_ours(headers, body, b"another", now)
    assert not is_ours(headers | {"Infoscreen-Timestamp": str(int(now) + 400)}, body, secret, now + 400)


def test_a_message_that_is_too_long_goes_without_its_single_notices() -> None:
    long = Post(7, NOW, "finished", "title", "text", False, {"count": 9, "notices": [{"words": "x" * 300_000}]})
    assert json.loads(webhook.payload(long))["notices"] == [] and json.loads(webhook.payload(long))["count"] == 9


@pytest.mark.parametrize(
    ("does", "words"),
    [
        (500, "it answers 500"),
        (404, "it answers 404"),
        ("no http", "its answer is no HTTP"),
        ("nothing", "no answer within"),
        ("drips", "no answer within"),
    ],
)
def test_what_does_not_take_a_message_is_told_in_words_and_in_time(
    does: int | str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if words == "no answer within":
        monkeypatch.setattr(webhook, "LIMIT_S", 1.0)
    with receiving(does) as receiver:
        began_s = time.monotonic()
        # Until it was asked, no time is over.
        clock = SimpleNamespace(monotonic=lambda: time.monotonic() if receiver.got else began_s)
        monkeypatch.setattr(webhook, "time", clock)
        assert words in why_not(target(receiver.line()))
        assert time.monotonic() - began_s < webhook.LIMIT_S + 30
        patience = Patience(30)
        while not receiver.got:
            assert not patience.is_over, "it was not asked"
            time.sleep(0.01)
        assert len(receiver.got) == 1
    assert "cannot reach it: Connection refused" in why_not(target(receiver.line()))


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    with receiving() as inner, receiving(status) as receiver:
        receiver.elsewhere = f"{inner.url}/secret"
        assert "no redirect is followed" in why_not(target(receiver.line()))
        assert len(receiver.got) == 1 and inner.got == []


def test_an_address_of_the_own_network_has_to_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the name has a public address first: what was checked is what is connected to."""
    with receiving() as receiver:
        port = receiver.url.rpartition(":")[2]
        for host in ("localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"):
            found = target(f"hook webhook https://{host}:{port}/ secret={SECRET}")
            assert "private network" in why_not(found)
        answers = iter(["192.0.78.1", "127.0.0.1"])

        def rebound(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
            return [(2, 1, 6, "", (next(answers), port))]

        monkeypatch.setattr("socket.getaddrinfo", rebound)
        monkeypatch.setattr(webhook, "LIMIT_S", 0.2)
        found = target(f"hook webhook https://rebinding.example:{port}/ secret={SECRET}")
        why_not(found)
        assert next(answers) == "127.0.0.1", "the name was asked for once"
        assert receiver.got == []


@pytest.mark.parametrize(
    ("address", "is_public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("10.1.2.3", False),
        ("192.168.0.1", False),
        ("172.16.0.1", False),
        ("100.64.0.1", False),
        ("127.0.0.1", False),
        ("169.254.169.254", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::5db8:d70e", True),
        ("2002:7f00:1::", False),
    ],
)
def test_which_addresses_are_of_the_internet(address: str, is_public: bool) -> None:
    assert webhook.is_public(address) == is_public


def test_a_certificate_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path)
    mine, others = authority.issue("mine"), authority.issue("others", "DNS:other.example")
    for identity, trusts, words in (
        (mine, False, "its certificate is not trusted"),
        (others, True, "its certificate is not trusted"),
        (mine, True, None),
    ):
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(identity.certificate, identity.key)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate) if trusts else "/dev/null")
        with receiving(tls=tls) as receiver:
            if words is None:
                sending.deliver(target(receiver.line()), POST, NOW)
                assert is_signed(*receiver.got[0][1:])
            else:
                assert words in why_not(target(receiver.line()))
                assert receiver.got == []


# --- apprise


def test_apprise_brings_the_message_and_says_why_not_without_a_secret() -> None:
    with receiving() as receiver:
        address = receiver.url.replace("http://", "json://user:topsecret@") + "/topsecret"
        found = target(f"ops {address}")
        assert apprised.fault_of(found) is None
        sending.deliver(found, POST, NOW)
        [(_, _, body)] = receiver.got
        assert json.loads(body)["title"] == POST.title and json.loads(body)["type"] == "warning"
        assert json.loads(body)["message"] == POST.body
        receiver.does = 500
        words = why_not(found)
    assert "500" in words and "topsecret" not in words
    assert "topsecret" not in why_not(found)


def test_an_address_that_apprise_cannot_read_is_a_fault() -> None:
    assert apprised.fault_of(target("ops nosuch://topsecret")) == "apprise cannot read this address"
    assert apprised.fault_of(target("ops tgram://topsecret")) == "apprise cannot read this address"


def test_without_apprise_only_what_needs_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    with receiving() as receiver:
        ops, hook = target("ops mailto://user:pass@mail.example"), target(receiver.line())
        tried = sending.test([ops, hook], NOW)
    assert [(each.target.name, each.words) for each in tried] == [
        ("ops", "apprise is not installed: apt install apprise"),
        ("hook", None),
    ]
    assert apprised.fault_of(ops) == "apprise is not installed: apt install apprise"


@pytest.mark.parametrize(
    ("address", "loud", "quiet"),
    [
        ("ntfys://h/t", "ntfys://h/t?priority=high", "ntfys://h/t?priority=default"),
        ("ntfy://h/t?a=b", "ntfy://h/t?a=b&priority=high", "ntfy://h/t?a=b&priority=default"),
        ("ntfy://h/t?priority=low", "ntfy://h/t?priority=low", "ntfy://h/t?priority=low"),
        ("mailto://a@b", "mailto://a@b", "mailto://a@b"),
    ],
)
def test_a_loud_message_has_a_high_priority_where_the_service_knows_one(address: str, loud: str, quiet: str) -> None:
    assert (apprised.with_priority(address, True), apprised.with_priority(address, False)) == (loud, quiet)


class Patient(threading.Thread):
    """It is waited for as long as is said only where its target never answers."""

    def __init__(self, args: tuple[Target], **options: Any) -> None:
        super().__init__(args=args, **options)
        self._ends = args[0].name != "slow"

    def join(self, timeout: float | None = None) -> None:
        super().join(60 if self._ends else timeout)


def test_a_test_message_says_of_each_target_what_came_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "threading", SimpleNamespace(Thread=Patient))
    with receiving() as good, receiving(500) as bad, receiving("nothing") as slow:
        found = [target(good.line("good")), target(bad.line("bad")), target(slow.line("slow"))]
        tried = sending.test(found, NOW, limit_s=0.5)
        assert [each.words for each in tried] == [None, "it answers 500", "no outcome within 0 s"]
        assert json.loads(good.got[0][2])["kind"] == "test"


def test_an_error_in_a_library_gives_no_secret_away(caplog: pytest.LogCaptureFixture) -> None:
    def broken(found: Target, post: Post, now: datetime) -> None:
        raise RuntimeError(f"cannot open {found.address}")

    words = sending.fault(broken, target("ops mailto://user:topsecret@h"), POST, NOW)
    assert words == "an error in the library: RuntimeError" and "topsecret" not in caplog.text
