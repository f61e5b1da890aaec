"""A real mosquitto in a network of its own, and a listener that hears everything on it."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tools.lab.notify import Readiness
from tools.lab.patience import MOST, Patience
from tools.lab.scratch import LabError, Scratch

CONFIGURATION = """\
listener 1883 127.0.0.1
allow_anonymous true
user root
set_tcp_nodelay true
max_queued_messages 0
max_inflight_messages 0
persistence true
persistence_location {directory}/
log_dest file {directory}/mosquitto.log
log_type all
"""

HELLO = "lab/hello"


@dataclass(frozen=True, slots=True)
class Message:
    """What the listener heard: `retain` as it was published, `heard_at` in seconds of the wall clock."""

    heard_at: float
    qos: int
    retain: bool
    payload: bytes
    topic: str

    @property
    def json(self) -> Any:
        return json.loads(self.payload)


class Broker:
    """Starts and stops as a test wishes; sessions, queued and retained messages outlive a stop."""

    def __init__(self, scratch: Scratch) -> None:
        """Everything runs in the network namespace that has the scratch root's name."""
        self._scratch = scratch
        self._process: subprocess.Popen[bytes] | None = None
        self._listener: subprocess.Popen[bytes] | None = None
        self._messages: list[Message] = []
        self._heard = threading.Condition()
        self._listens = threading.Event()
        self.directory = scratch.directory / "broker"
        self.directory.mkdir()
        self.configuration = self.directory / "mosquitto.conf"
        self.configuration.write_text(CONFIGURATION.format(directory=self.directory))

    def _in_network(self, *args: str) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{self._scratch.name}", *args]

    def _client(self, kind: str) -> list[str]:
        # By number: a bare Debian knows no `localhost`.
        return self._in_network(f"mosquitto_{kind}", "-h", "127.0.0.1")

    def start(self) -> None:
        with Readiness(self.directory / "notify") as ready:
            argv = self._in_network("mosquitto", "-c", str(self.configuration))
            self._process = self._scratch.popen(*argv, group="broker", env=ready.env, output=subprocess.DEVNULL)
            if ready.wait_for("READY", self._process, 10) is None:
                raise LabError(f"cannot start mosquitto; {self.directory}/mosquitto.log says:\n{self.log()[-2000:]}")
        if self._listener is None:
            self._listen()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10 * MOST)
            self._process = None

    def kill(self, forget: bool = False) -> None:
        """SIGKILL: what it had not written to its state file is lost; with `forget` that file is lost as well."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10 * MOST)
            self._process = None
        if forget:
            (self.directory / "mosquitto.db").unlink(missing_ok=True)

    def log(self) -> str:
        path = self.directory / "mosquitto.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _listen(self) -> None:
        # A session that never expires hears also what is published before it has come back after a stop of the broker.
        # It is then told the retained messages again: count acks, not status.
        session = "-V", "mqttv5", "-i", "listener", "-c", "-x", "4294967295", "--retain-as-published", "-q", "1"
        argv = *self._client("sub"), *session, "-F", "%U %q %r %l %x %t", "-t", "#"
        self._listener = self._scratch.popen(*argv, group="broker", output=subprocess.PIPE)
        threading.Thread(target=self._read, args=(self._listener,), name="listener", daemon=True).start()
        # Only a message that came back proves that the subscription stands.
        patience = Patience(10)
        while not self._listens.wait(0.1):
            if patience.is_over:
                raise LabError(f"cannot listen at the broker; its log says:\n{self.log()[-2000:]}")
            self.publish(HELLO, b"listening?", qos=0)

    def _read(self, listener: subprocess.Popen[bytes]) -> None:
        assert listener.stdout is not None
        with listener.stdout as lines:
            for line in lines:
                self._on_line(line)

    def _on_line(self, line: bytes) -> None:
        words = line.decode().rstrip("\n").split(" ", 5)
        if len(words) < 6:
            return  # its complaints while the broker is away
        at, qos, retain, _, payload, topic = words
        if topic == HELLO:
            self._listens.set()
            return
        message = Message(float(at), int(qos), retain == "1", bytes.fromhex(payload), topic)
        with self._heard:
            self._messages.append(message)
            self._heard.notify_all()

    @property
    def messages(self) -> list[Message]:
        """Everything heard so far, in order."""
        with self._heard:
            return list(self._messages)

    def on(self, topic: str) -> list[Message]:
        return [message for message in self.messages if message.topic == topic]

    def wait_for(self, predicate: Callable[[Message], bool], timeout_s: float = 30, after: int = 0) -> Message:
        """The first message, heard already or in time, that the predicate is true for; `after` skips that many."""
        patience = Patience(timeout_s)
        seen = after
        with self._heard:
            while True:
                for message in self._messages[seen:]:
                    if predicate(message):
                        return message
                seen = len(self._messages)
                if patience.is_over:
                    break
                self._heard.wait(patience.look_s)
        story = "\n".join(f"  {m.heard_at:.3f} {m.topic} {m.payload[:300]!r}" for m in self.messages[-12:])
        raise LabError(f"not heard within {timeout_s:g} s; the last messages were:\n{story or '  none'}")

    def publish(
        self,
        topic: str,
        payload: bytes,
        retain: bool = False,
        qos: int = 1,
        properties: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Returns when the broker has it. `properties` are user properties, of MQTT 5."""
        content, flags = "-s" if payload else "-n", ["-r"] if retain else []
        flags += ["-V", "5"] if properties else []
        flags += [word for pair in properties for word in ("-D", "publish", "user-property", *pair)]
        argv = *self._client("pub"), "-t", topic, "-q", str(qos), content, *flags
        done = subprocess.run(argv, input=payload, capture_output=True, timeout=30 * MOST)
        if done.returncode != 0:
            raise LabError(f"cannot publish on {topic}: {done.stderr.decode(errors='replace').strip()}")

    def publish_lines(self, topic: str, payloads: Sequence[bytes]) -> None:
        """Many on one connection; none may hold a line feed. Returns when the broker has them."""
        argv = *self._client("pub"), "-t", topic, "-q", "1", "-l"
        done = subprocess.run(argv, input=b"\n".join(payloads), capture_output=True, timeout=120)
        if done.returncode != 0:
            raise LabError(f"cannot publish on {topic}: {done.stderr.decode(errors='replace').strip()}")

    def retained(self, topic: str) -> bytes | None:
        """What a new subscriber of the topic would be told at once."""
        # A broker tells what is retained in the order of the subscriptions: the hello comes first only if nothing is.
        self.publish(HELLO, b"nothing?", retain=True)
        argv = *self._client("sub"), "-t", topic, "-t", HELLO, "-C", "1", "--retained-only", "-F", "%t %x"
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30 * MOST)
        if done.returncode != 0:
            raise LabError(f"cannot ask what is retained on {topic}: {done.stderr.strip()}")
        found, _, payload = done.stdout.strip().partition(" ")
        return bytes.fromhex(payload) if found != HELLO else None
