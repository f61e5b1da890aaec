"""Signs commands and checks signatures (Ed25519); the only import of cryptography, and only where it is switched on."""

from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from infoscreen_reboot.contract import signature
from infoscreen_reboot.contract.signature import Signature, SignatureError

_SUFFIX = ".pem"


class KeyRing:
    """The public keys whose commands are carried out, in files `<key id>.pem` of one folder.

    They are read each time: a key counts from the moment its file is there, and no longer than that.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def fault(self, topic: str, payload: bytes, properties: Sequence[tuple[str, str]]) -> str | None:
        """Why nobody whom we trust has sent this, in a sentence for its sender; None where its signature is good.

        `properties` are the user properties of the message, in their order.
        """
        try:
            signed = signature.read(properties)
            self._key(signed.key_id).verify(signed.value, signature.signed_bytes(topic, payload))
        except SignatureError as error:
            return str(error)
        except InvalidSignature:
            return "the signature does not fit the topic and the payload"
        return None

    def faults(self) -> list[str]:
        """Why not every command could be checked, one sentence for each file; empty where all is well."""
        try:
            files = sorted(file for file in self._folder.iterdir() if file.suffix == _SUFFIX)
        except OSError as error:
            return [f"the keys in {self._folder} cannot be read: {error.strerror}"]
        if not files:
            return [f"there is no key in {self._folder}"]
        faults = []
        for file in files:
            try:
                if not signature.is_key_id(file.stem):
                    raise SignatureError("its name is no key id")
                self._key(file.stem)
            except SignatureError as error:
                faults.append(f"{file} is of no use: {error}")
        return faults

    def _key(self, key_id: str) -> Ed25519PublicKey:
        try:
            key = load_pem_public_key((self._folder / f"{key_id}{_SUFFIX}").read_bytes())
        except FileNotFoundError:
            raise SignatureError(f"this client has no key {key_id}") from None
        except OSError as error:
            raise SignatureError(f"key {key_id} cannot be read here: {error.strerror}") from None
        except Exception as error:  # by version of the library, ValueError, UnsupportedAlgorithm and others
            raise SignatureError(f"the file of key {key_id} holds no public key ({type(error).__name__})") from None
        if not isinstance(key, Ed25519PublicKey):
            raise SignatureError(f"key {key_id} is not of the kind Ed25519")
        return key


class Signer:
    """A private key in a PEM file without a passphrase, and the id by which the clients know its public half."""

    def __init__(self, key_id: str, private_key: Path) -> None:
        """Raises OSError or ValueError."""
        key = load_pem_private_key(private_key.read_bytes(), password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError(f"{private_key} holds no Ed25519 key")
        if not signature.is_key_id(key_id):
            raise ValueError(f"{key_id!r} is no name of a key")
        self._key_id, self._key = key_id, key

    def properties(self, topic: str, payload: bytes) -> Sequence[tuple[str, str]]:
        """The user properties that make these bytes on that topic a signed command."""
        value = self._key.sign(signature.signed_bytes(topic, payload))
        return signature.properties(Signature(self._key_id, value))
