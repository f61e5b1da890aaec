"""How a signed command says who signed what: over the topic and the exact bytes, in user properties of MQTT 5."""

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass

KEY_ID_PROPERTY, SIGNATURE_PROPERTY = "signature-key-id", "signature"
# RFC 8032, 5.1.6: an Ed25519 signature.
SIGNATURE_BYTES = 64
# No other message that a key of the fleet may ever sign can be taken for a command.
_PURPOSE = b"infoscreen-command-signature-v1"
# It names a file on the client.
_KEY_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")


class SignatureError(ValueError):
    """Why a message counts as not signed, in a sentence for its sender."""


@dataclass(frozen=True, slots=True)
class Signature:
    key_id: str
    value: bytes


def signed_bytes(topic: str, payload: bytes) -> bytes:
    """What is signed. No topic holds a NUL (MQTT 5, 4.7.3), so no two messages give the same bytes."""
    return b"\0".join((_PURPOSE, topic.encode("utf-8"), payload))


def is_key_id(text: str) -> bool:
    """1..64 characters of A-Z a-z 0-9 _ - and, but for the first, the full stop."""
    return _KEY_ID.fullmatch(text) is not None


def read(properties: Iterable[tuple[str, str]]) -> Signature:
    """Raises SignatureError unless there is one of each property, and each is well-formed."""
    pairs = [pair for pair in properties if pair[0] in (KEY_ID_PROPERTY, SIGNATURE_PROPERTY)]
    if not pairs:
        raise SignatureError("the command is not signed")
    found = dict(pairs)
    if len(pairs) != 2 or len(found) != 2:
        raise SignatureError(f"there must be one {KEY_ID_PROPERTY} and one {SIGNATURE_PROPERTY}")
    if not is_key_id(found[KEY_ID_PROPERTY]):
        raise SignatureError(f"{KEY_ID_PROPERTY} is no name of a key")
    try:
        value = base64.b64decode(found[SIGNATURE_PROPERTY], validate=True)
    except (binascii.Error, ValueError):
        value = b""
    if len(value) != SIGNATURE_BYTES:
        raise SignatureError(f"{SIGNATURE_PROPERTY} is not the base64 form of {SIGNATURE_BYTES} bytes")
    return Signature(found[KEY_ID_PROPERTY], value)


def properties(signature: Signature) -> tuple[tuple[str, str], ...]:
    """The user properties to send it in."""
    value = base64.b64encode(signature.value).decode("ascii")
    return ((KEY_ID_PROPERTY, signature.key_id), (SIGNATURE_PROPERTY, value))
