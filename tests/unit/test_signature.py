"""Signed commands: what is signed, who may sign, and that everything else is refused with its reason and counted."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from infoscreen_reboot.client import config
from infoscreen_reboot.client.config import ConfigError
from infoscreen_reboot.contract import signature
from infoscreen_reboot.contract.signature import Signature, SignatureError
from infoscreen_reboot.contract.topics import Topics
from infoscreen_reboot.signing import KeyRing, Signer
from tests.world import CLIENT, COMMAND_ID, OTHER_ID, START, TOPICS, World, payload, run

DONE = ["accepted", "execution_started", "completed"]
OTHER_CLIENT = "00000000-ff34-4864-a726-12de072d0f77"
Pairs = Sequence[tuple[str, str]]


def make_key(folder: Path, key_id: str, kind: str = "ed25519") -> Signer | None:
    """A key pair: the public half in `folder`/keys, a signer with the private one."""
    key = ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else ec.generate_private_key(ec.SECP256R1())
    keys = folder / "keys"
    keys.mkdir(exist_ok=True)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (keys / f"{key_id}.pem").write_bytes(public)
    private = folder / f"{key_id}.key"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return Signer(key_id, private) if kind == "ed25519" else None


def signer(folder: Path, key_id: str = "2026a") -> Signer:
    made = make_key(folder, key_id)
    assert made is not None
    return made


def signed(pairs: Pairs, topic: str = TOPICS.commands, content: bytes | None = None) -> tuple[str, bytes, Pairs]:
    """Topic, payload and user properties."""
    return topic, content or payload(), pairs


def test_a_good_signature_is_no_fault(tmp_path: Path) -> None:
    pairs = signer(tmp_path).properties(TOPICS.commands, payload())
    assert KeyRing(tmp_path / "keys").fault(*signed(pairs)) is None
    assert KeyRing(tmp_path / "keys").fault(*signed([("other", "property"), *pairs])) is None


def test_each_topic_has_a_signature_of_its_own(tmp_path: Path) -> None:
    pairs = signer(tmp_path).properties(TOPICS.commands, payload())
    keys = KeyRing(tmp_path / "keys")
    does_not_fit = "the signature does not fit the topic and the payload"
    assert keys.fault(*signed(pairs, TOPICS.transitional_command)) == does_not_fit
    assert keys.fault(*signed(pairs, Topics(OTHER_CLIENT).commands)) == does_not_fit


def test_every_byte_of_the_payload_counts(tmp_path: Path) -> None:
    content = payload()
    pairs = signer(tmp_path).properties(TOPICS.commands, content)
    keys = KeyRing(tmp_path / "keys")
    for at in range(len(content)):
        altered = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        assert keys.fault(*signed(pairs, content=altered)) is not None
    for altered in (content + b" ", b" " + content, content[:-1]):
        assert keys.fault(*signed(pairs, content=altered)) is not None


def test_every_bit_of_the_signature_counts(tmp_path: Path) -> None:
    (key_id, (name, text)) = signer(tmp_path).properties(TOPICS.commands, payload())
    value = base64.b64decode(text)
    keys = KeyRing(tmp_path / "keys")
    for bit in range(8 * len(value)):
        altered = bytearray(value)
        altered[bit // 8] ^= 1 << bit % 8
        assert keys.fault(*signed([key_id, (name, base64.b64encode(altered).decode())])) is not None


def test_a_key_counts_as_long_as_its_file_is_there(tmp_path: Path) -> None:
    old, new = signer(tmp_path, "2026a"), signer(tmp_path, "2026b")
    keys = KeyRing(tmp_path / "keys")
    for one in (old, new):
        assert keys.fault(*signed(one.properties(TOPICS.commands, payload()))) is None
    (tmp_path / "keys/2026a.pem").unlink()
    assert keys.fault(*signed(old.properties(TOPICS.commands, payload()))) == "this client has no key 2026a"
    assert keys.fault(*signed(new.properties(TOPICS.commands, payload()))) is None


def test_a_key_under_anothers_name_signs_nothing(tmp_path: Path) -> None:
    stranger = signer(tmp_path, "stranger")
    signer(tmp_path, "2026a")
    ((name, _), value) = stranger.properties(TOPICS.commands, payload())
    assert "does not fit" in (KeyRing(tmp_path / "keys").fault(*signed([(name, "2026a"), value])) or "")


GOOD = base64.b64encode(bytes(64)).decode()


@pytest.mark.parametrize(
    ("pairs", "why"),
    [
        ([], "the command is not signed"),
        ([("x", "y")], "the command is not signed"),
        ([("signature", GOOD)], "there must be one"),
        ([("signature-key-id", "a")], "there must be one"),
        ([("signature", GOOD), ("signature-key-id", "a"), ("signature", GOOD)], "there must be one"),
        ([("signature", GOOD), ("signature-key-id", "a"), ("signature-key-id", "b")], "there must be one"),
        ([("signature", GOOD), ("signature", GOOD)], "there must be one"),
        ([("signature", GOOD), ("signature-key-id", "")], "no name of a key"),
        ([("signature", GOOD), ("signature-key-id", "../../../etc/passwd")], "no name of a key"),
        ([("signature", GOOD), ("signature-key-id", ".hidden")], "no name of a key"),
        ([("signature", GOOD), ("signature-key-id", "a\n")], "no name of a key"),
        ([("signature", GOOD), ("signature-key-id", "a" * 65)], "no name of a key"),
        ([("signature", GOOD), ("signature-key-id", "ключ")], "no name of a key"),
        ([("signature", ""), ("signature-key-id", "a")], "is not the base64 form of 64 bytes"),
        ([("signature", "!" + GOOD), ("signature-key-id", "a")], "is not the base64 form of 64 bytes"),
        ([("signature", GOOD + "\n"), ("signature-key-id", "a")], "is not the base64 form of 64 bytes"),
        ([("signature", "é" * 88), ("signature-key-id", "a")], "is not the base64 form of 64 bytes"),
        ([("signature", GOOD[:-4]), ("signature-key-id", "a")], "is not the base64 form of 64 bytes"),
    ],
)
def test_what_is_no_signature_is_told_apart_in_words(pairs: Pairs, why: str) -> None:
    with pytest.raises(SignatureError, match=why):
        signature.read(pairs)


def test_what_is_written_is_read() -> None:
    signed = Signature("2026a", bytes(range(64)))
    assert signature.read(signature.properties(signed)) == signed


def problems(keys: Path, **changes: str) -> list[str]:
    environment = {"MQTT_BROKER": "broker.example", "CLIENT_UUID": CLIENT, "COMMAND_REQUIRE_SIGNATURE": "yes"}
    try:
        assert config.load(environment | changes, keys).require_signature
    except ConfigError as error:
        return error.problems
    return []


def test_the_agent_starts_only_with_keys_that_it_can_use(tmp_path: Path) -> None:
    assert "cannot be read" in problems(tmp_path / "keys")[0]
    (tmp_path / "keys").mkdir()
    assert problems(tmp_path / "keys") == [f"COMMAND_REQUIRE_SIGNATURE is on, but there is no key in {tmp_path}/keys"]
    signer(tmp_path)
    assert problems(tmp_path / "keys") == []
    make_key(tmp_path, "curve", "other")
    (tmp_path / "keys/junk.pem").write_text("-----BEGIN PUBLIC KEY-----\njunk\n-----END PUBLIC KEY-----\n")
    (tmp_path / "keys/private.pem").write_bytes((tmp_path / "2026a.key").read_bytes())
    (tmp_path / "keys/a b.pem").write_text("")
    (tmp_path / "keys/README").write_text("is none")
    told = problems(tmp_path / "keys")
    assert [sentence.partition("keys/")[2].partition(":")[0] for sentence in told] == [
        f"{name}.pem is of no use" for name in ("a b", "curve", "junk", "private")
    ]
    assert "PRIVATE" not in str(told)


def test_signatures_and_a_version_that_cannot_carry_them_do_not_go_together(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    signer(tmp_path)
    assert problems(tmp_path / "keys", MQTT_PROTOCOL="5") == []
    (told,) = problems(tmp_path / "keys", MQTT_PROTOCOL="3.1.1")
    assert "COMMAND_REQUIRE_SIGNATURE" in told and "MQTT_PROTOCOL is 3.1.1" in told


def test_signatures_are_off_unless_asked_for() -> None:
    assert not config.load({"MQTT_BROKER": "broker.example", "CLIENT_UUID": CLIENT}).require_signature


def test_a_signer_says_what_it_cannot_sign_with(tmp_path: Path) -> None:
    make_key(tmp_path, "curve", "other")
    with pytest.raises(ValueError, match="holds no Ed25519 key"):
        Signer("curve", tmp_path / "curve.key")
    signer(tmp_path)
    with pytest.raises(ValueError, match="no name of a key"):
        Signer("../2026a", tmp_path / "2026a.key")


@pytest.fixture
def key(tmp_path: Path) -> Signer:
    return signer(tmp_path)


@pytest.fixture
def world(tmp_path: Path, key: Signer) -> World:
    return World(tmp_path / "journal.sqlite3", signatures=KeyRing(tmp_path / "keys"))


def play(world: World, nature: Callable[[], None]) -> None:
    async def it() -> None:
        nature()

    run(world.play(it))


def test_a_signed_command_is_carried_out_by_either_topic(world: World, key: Signer) -> None:
    topic = TOPICS.transitional_command
    play(world, lambda: world.send(payload(), topic, properties=key.properties(topic, payload())))
    assert world.story() == DONE
    assert world.counters() == {}


def test_an_unsigned_command_is_refused_with_a_code_of_its_own_and_counted(world: World, key: Signer) -> None:
    def nature() -> None:
        world.send(payload())
        world.send(payload(command_id=OTHER_ID), properties=key.properties(TOPICS.commands, payload()))

    play(world, nature)
    assert world.story() == world.story(OTHER_ID) == ["invalid_signature"]
    assert [a.error_message for a in world.acks()] == ["the command is not signed"]
    assert world.helper_calls == []
    assert world.counters() == {"bad_signatures": 2}


def test_what_breaks_the_schema_and_is_not_signed_is_not_even_judged(world: World, key: Signer) -> None:
    broken = payload().replace(b"reboot_host", b"reboot_all")

    def nature() -> None:
        world.send(broken)
        other = broken.replace(COMMAND_ID.encode(), OTHER_ID.encode())
        world.send(other, properties=key.properties(TOPICS.commands, other))
        world.send(b"{}")

    play(world, nature)
    assert (world.story(), world.story(OTHER_ID)) == (["invalid_signature"], ["invalid_schema"])
    assert world.counters() == {"bad_signatures": 1, "unreadable": 1}


def test_a_signed_command_sent_again_without_its_signature_is_answered_and_counted(world: World, key: Signer) -> None:
    def nature() -> None:
        world.send(payload(), properties=key.properties(TOPICS.commands, payload()))
        world.send(payload())

    play(world, nature)
    assert list(dict.fromkeys(world.story())) == DONE, "one story, whatever is told twice"
    assert len(world.helper_calls) == 1
    assert world.counters() == {"bad_signatures": 1}


def test_a_signature_makes_no_retained_or_expired_command_good(world: World, key: Signer) -> None:
    def nature() -> None:
        world.send(payload(), retain=True, properties=key.properties(TOPICS.commands, payload()))
        late = payload(command_id=OTHER_ID, issued_at=START - timedelta(hours=2), expires_at=START)
        world.send(late, properties=key.properties(TOPICS.commands, late))

    play(world, nature)
    assert (world.story(), world.story(OTHER_ID)) == (["retained"], ["expired"])
    assert world.counters() == {}
