"""TLS towards the broker: certificate and host name are verified, and nothing switches that off."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """Without a CA file the system's authorities count; a key may also stand in the certificate's file."""

    ca_file: Path | None
    cert_file: Path | None
    key_file: Path | None


class _Socket(ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()  # paho leaves it to the garbage collector, and an idle process collects seldom
            raise


def tls_context(tls: TlsSettings) -> ssl.SSLContext:
    """Raises ValueError naming the file that is no good."""
    for file in filter(None, (tls.ca_file, tls.cert_file, tls.key_file)):
        try:
            file.read_bytes()  # because ssl's own errors do not say which file
        except OSError as error:
            raise ValueError(f"cannot read {file}: {error.strerror}") from error
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
    except ssl.SSLError as error:
        raise ValueError(f"cannot use {tls.ca_file} as certificate authority: {tls_trouble(error)}") from error
    # Python 3.13 began to refuse an authority without a key usage extension, as mosquitto-tls(7) makes it.
    # An upgrade must not cut a client off from its broker; chain, name and dates are verified all the same.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.sslsocket_class = _Socket
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.cert_file:
        try:
            # A password, because OpenSSL would ask for one on the terminal.
            context.load_cert_chain(tls.cert_file, tls.key_file, password="")
        except ssl.SSLError as error:
            key = tls.key_file or tls.cert_file
            raise ValueError(f"cannot use {tls.cert_file} with the key in {key}: {tls_trouble(error)}") from error
    return context


def tls_trouble(error: ssl.SSLError) -> str:
    """The error in an operator's words."""
    match error:
        case ssl.SSLCertVerificationError():
            return f"the broker's certificate is not accepted: {error.verify_message.rstrip('.')}"
        case ssl.SSLEOFError():
            return "the connection was closed in the TLS handshake; is TLS expected on this port?"
        case ssl.SSLError(reason="WRONG_VERSION_NUMBER" | "RECORD_LAYER_FAILURE"):
            return "the answer was not TLS; is TLS expected on this port?"
    return f"TLS: {(error.reason or str(error)).lower().replace('_', ' ')}"
