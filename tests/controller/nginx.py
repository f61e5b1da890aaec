"""nginx, of which everything but one location is as Debian has it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tools.lab.patience import Patience


@contextlib.contextmanager
def nginx(folder: Path, location: str) -> Iterator[str]:
    """Yields its address, once it listens there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    kinds = "client_body", "proxy", "fastcgi", "uwsgi", "scgi"
    own = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; pid {folder}/nginx.pid; events {{}}\n"
        f"http {{ access_log off; {own} server {{ listen 127.0.0.1:{port}; {location} }} }}\n"
    )
    process = subprocess.Popen(["/usr/sbin/nginx", "-e", "stderr", "-c", config])
    try:
        patience = Patience(10)
        while not _listens(port):
            assert not patience.is_over and process.poll() is None, "nginx does not start"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        tried.settimeout(0.2)
        return tried.connect_ex(("127.0.0.1", port)) == 0
