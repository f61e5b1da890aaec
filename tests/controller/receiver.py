"""A server that gets messages to people: it takes them, or is slow, or answers what it should not."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "correct-horse-battery"


@dataclass
class Receiver:
    """`does`: a status, or "nothing" (it takes the request and never answers), "drips", "no http".

    `elsewhere` is where a redirect leads.
    """

    does: int | str = 200
    elsewhere: str = ""
    got: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""
    ends: threading.Event = field(default_factory=threading.Event)

    def line(self, name: str = "hook", *words: str) -> str:
        return " ".join([name, "webhook", f"{self.url}/told", f"secret={SECRET}", "internal", *words])


def is_signed(headers: dict[str, str], body: bytes, secret: str = SECRET) -> bool:
    """As the documents tell a receiver to look at it."""
    signed = headers["Infoscreen-Timestamp"].encode() + b"." + body
    expected = "v1=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
    return any(hmac.compare_digest(one, expected) for one in headers["Infoscreen-Signature"].split(", "))


@contextlib.contextmanager
def receiving(does: int | str = 200, tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    receiver = Receiver(does)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.got.append((self.path, dict(self.headers), body))
            match receiver.does:
                case int():
                    self.send_response(receiver.does)
                    self.send_header("Location", receiver.elsewhere)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                case "no http":
                    self.wfile.write(b"what do you want?\r\n")
                case "drips":
                    with contextlib.suppress(OSError):
                        while not receiver.ends.wait(0.05):
                            self.wfile.write(b"H")
                case _:
                    receiver.ends.wait()

        do_GET = do_POST

        def log_message(self, *_: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """Whoever hangs up before the answer does what he should."""

    server = Quiet(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    receiver.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield receiver
    finally:
        receiver.ends.set()
        server.shutdown()
        thread.join()
        server.server_close()
