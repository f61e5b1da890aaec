"""The broker kit of docs/examples/mosquitto: its files as they are, and whoever comes to a broker that has them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from infoscreen_reboot.contract.topics import Topics
from tests.broker.conftest import PATIENCE_S, Broker

KIT = Path(__file__).parents[2] / "docs/examples/mosquitto"
CLIENT, OTHER = "9b8d1856-ff34-4864-a726-12de072d0f77", "11111111-2222-4333-8444-555555555555"
CONTROLLER, ADMIN = "infoscreen-controller", "infoscreen-admin"
PASSWORD = "open sesame"


def topics_of(client_uuid: str) -> dict[str, str]:
    """Each topic by the name of its property."""
    names = (name for name, member in vars(Topics).items() if isinstance(member, property))
    return {name: getattr(Topics(client_uuid), name) for name in names}


COMMANDS = {topics_of(CLIENT)[name] for name in ("commands", "transitional_command")}
TOLD = set(topics_of(CLIENT).values()) - COMMANDS
# Where a marker reaches a client, and where it reaches everyone else; and who may send it.
POSTS = {Topics(CLIENT).transitional_command: CONTROLLER, Topics(CLIENT).boot: CLIENT}


def others(topics: set[str]) -> set[str]:
    """The same of the other client."""
    return {topic.replace(CLIENT, OTHER) for topic in topics}


class KitBroker(Broker):
    """A mosquitto with Debian's own configuration and the kit's files; `port` takes logins, `tls_port` certificates.

    Only what is not ours is replaced: the folders of the system and the two ports.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._listening = self.port, self.tls_port
        self.folder, self.certs = folder, folder / "certs"
        for name in ("certs", "conf.d"):
            (folder / name).mkdir()
        (folder / "infoscreen.acl").write_text((KIT / "infoscreen.acl").read_text())
        (folder / "conf.d/infoscreen.conf").write_text(self._moved((KIT / "infoscreen.conf").read_text()))
        # "user root", or as root it gives up the rights to its folder.
        ours = self._moved(Path("/etc/mosquitto/mosquitto.conf").read_text())
        (folder / "mosquitto.conf").write_text(f"user root\n{ours}")
        self.certificates("authority")
        self.certificates("broker", self.host)
        passwords = folder / "infoscreen.passwd"
        passwords.touch()
        for file in (passwords, folder / "infoscreen.acl"):
            file.chmod(0o640)
        for user in (CLIENT, OTHER, CONTROLLER, ADMIN):
            subprocess.run(["mosquitto_passwd", "-b", passwords, user, PASSWORD], check=True, capture_output=True)
            self.certificates("user", user)

    def _moved(self, text: str) -> str:
        text = re.sub("/etc/mosquitto|/run/mosquitto|/var/(lib|log)/mosquitto", str(self.folder), text)
        return text.replace("listener 8883", f"listener {self.port}").replace("8884", str(self.tls_port))

    def certificates(self, *arguments: str, folder: Path | None = None) -> None:
        """Runs the kit's script, where the broker's certificates are or in another folder."""
        where = folder or self.certs
        subprocess.run([KIT / "certificates", *arguments], cwd=where, check=True, capture_output=True)

    def expire(self, name: str, into: Path) -> None:
        """Puts there a certificate that has the same in it, but for its time, and the key."""
        old = self.certs / f"{name}.crt"
        (into / f"{name}.key").write_bytes((self.certs / f"{name}.key").read_bytes())
        ca = "openssl", "ca", "-batch", "-notext", "-config", "expired.cnf", "-cert", "ca.crt", "-keyfile", "ca.key"
        time_ = "-startdate", "20200101000000Z", "-enddate", "20200102000000Z"
        (self.certs / "expired.cnf").write_text(
            "[ca]\ndefault_ca = own\n[own]\ndatabase = ca.index\nnew_certs_dir = .\nrand_serial = yes\n"
            "default_md = sha256\npolicy = any\ncopy_extensions = copy\nunique_subject = no\n"
            "[any]\ncommonName = supplied\n"
        )
        request = "openssl", "x509", "-x509toreq", "-copy_extensions", "copy", "-in", old, "-signkey", f"{name}.key"
        for argv in (
            (*request, "-out", "expired.csr"),
            (*ca, *time_, "-in", "expired.csr", "-out", into / f"{name}.crt"),
        ):
            subprocess.run(argv, cwd=self.certs, check=True, capture_output=True)

    def by_login(self, user: str | None, password: str = PASSWORD) -> list[str]:
        """The options by which mosquitto's programs come in."""
        login = [] if user is None else ["-u", user, "-P", password]
        return ["-h", self.host, "-p", str(self.port), *self.trusting(), *login]

    def by_certificate(self, user: str, folder: Path | None = None) -> list[str]:
        shown = (folder or self.certs) / user
        files = ["--cert", f"{shown}.crt", "--key", f"{shown}.key"]
        return ["-h", self.host, "-p", str(self.tls_port), *self.trusting(), *files]

    def trusting(self) -> list[str]:
        return ["--cafile", str(self.certs / "ca.crt")]

    def by(self, way: str, user: str) -> list[str]:
        return self.by_login(user) if way == "login" else self.by_certificate(user)

    def says(self, came: Sequence[str], topic: str, payload: str, *options: str) -> str:
        """Publishes with MQTT 5, in which a refusal is told; what was complained of, nothing if all is well."""
        what = "-s" if payload else "-n"
        argv = ["mosquitto_pub", *came, "-V", "mqttv5", "-q", "1", "-t", topic, what, *options]
        done = subprocess.run(argv, input=payload, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        return done.stderr.strip() or ("" if done.returncode == 0 else f"ended with {done.returncode}")

    @contextmanager
    def hearing(self, came: Sequence[str], *filters: str, posts: Mapping[str, str] = POSTS) -> Iterator[Ear]:
        """Subscribed when the block begins, as one who may read one of the posts; what is retained is left out."""
        what = [option for one in (*filters, *posts) for option in ("-t", one)]
        # Line by line, or the word that it is subscribed would stay in its buffer.
        argv = ["stdbuf", "-oL", "mosquitto_sub", "-d", "-R", *came, "-q", "1", *what, "-F", "heard %t %p"]
        with started(argv) as lines:
            assert any(line.startswith("Subscribed") for line in lines), "mosquitto_sub ended"
            yield Ear(self, lines, posts)


class Ear:
    """What one who subscribed is really told: deliveries are in order, so a marker ends what came before it."""

    def __init__(self, kit: KitBroker, lines: Iterator[str], posts: Mapping[str, str]) -> None:
        self._kit = kit
        self._lines = lines
        self._posts = posts

    def heard(self) -> list[tuple[str, str]]:
        """Topic and payload of all since the last time."""
        marker = f"marker-{time.monotonic_ns()}"
        for post, publisher in self._posts.items():
            assert self._kit.says(self._kit.by_login(publisher), post, marker) == ""
        found: list[tuple[str, str]] = []
        for line in self._lines:
            if line.startswith("heard "):
                _, topic, payload = line.rstrip("\n").split(" ", 2)
                if payload == marker:
                    return found
                if not payload.startswith("marker-"):
                    found.append((topic, payload))
        raise AssertionError("mosquitto_sub ended")


@contextmanager
def started(argv: list[str], env: dict[str, str] | None = None) -> Iterator[Iterator[str]]:
    """The lines that it prints, which end when it takes too long; stopped afterwards, with what it has started."""
    limited = ["timeout", f"{PATIENCE_S:.0f}", *argv]
    process = subprocess.Popen(limited, stdout=subprocess.PIPE, text=True, start_new_session=True, env=env)
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
