"""Who hears a screen and sends it commands: mosquitto's own programs, in MQTT 3.1.1, which every broker speaks."""

from __future__ import annotations

import itertools
import json
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from uuid import uuid4

from infoscreen_reboot.contract import command, wire
from infoscreen_reboot.contract.command import Action, Command
from infoscreen_reboot.contract.topics import Leaf, Topics
from tools.lab.patience import Patience

PATIENCE_S = 90.0
# From an answer of the broker to what it would have said before, at the latest.
SOON_S = 0.3
DONE = ["accepted", "execution_started", "completed"]


@dataclass(frozen=True, slots=True)
class Said:
    leaf: str
    retained: bool
    payload: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.payload)


class Controller:
    """`address` are the options by which mosquitto's programs come in."""

    def __init__(self, address: Sequence[str], uuid: str) -> None:
        self.topics = Topics(uuid)
        self._given = address
        self._number = itertools.count(1)
        self._prefix = f"infoscreen/{uuid}/"
        self._said: list[Said] = []
        self._marks: set[str] = set()
        self._news = threading.Condition()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.deafen()

    @property
    def _address(self) -> list[str]:
        """With a client id of its own each time; some brokers give rights by it."""
        return [*self._given, "-i", f"infoscreen-controller-{next(self._number)}"]

    def listen(self) -> None:
        """Hears everything from now on, and what is retained."""
        # One by one: to a subscription with a wildcard, RabbitMQ delivers nothing that is retained.
        self._process = self._subscribed([self._prefix + leaf for leaf in Leaf], self._said)

    def deafen(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _subscribed(self, topics: Sequence[str], said: list[Said]) -> subprocess.Popen[bytes]:
        """A mosquitto_sub that the broker delivers to already; what it hears is added to `said`."""
        # Nobody's commands, which a controller may send and hear.
        mark = Topics(str(uuid4())).commands
        options = [option for one in (*topics, mark) for option in ("-t", one)]
        # Line by line, or what it hears would stay in its buffer.
        argv = ["stdbuf", "-oL", "mosquitto_sub", *self._address, "-q", "1", *options, "-F", "%r %x %t"]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE)
        threading.Thread(target=self._read, args=(process, said), daemon=True).start()
        patience = Patience(PATIENCE_S)
        try:
            with self._news:
                while mark not in self._marks:
                    assert not patience.is_over, "the broker does not deliver"
                    self.publish(mark, b"?")
                    self._news.wait(0.1)
        except BaseException:
            process.kill()
            process.wait()
            raise
        return process

    def _read(self, process: subprocess.Popen[bytes], said: list[Said]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                retained, payload, topic = line.decode().rstrip("\n").split(" ")
                with self._news:
                    self._on_message(topic, bytes.fromhex(payload), retained == "1", said)
                    self._news.notify_all()

    def _on_message(self, topic: str, payload: bytes, retained: bool, said: list[Said]) -> None:
        leaf = topic.removeprefix(self._prefix)
        if leaf == topic:
            self._marks.add(topic)
        elif payload:
            wire.check("ack" if leaf.endswith("ack") else leaf, json.loads(payload))
            said.append(Said(leaf, retained, payload))

    def now(self) -> int:
        """A place in what was heard, for `after`."""
        with self._news:
            return len(self._said)

    def wait_for(self, is_it: Callable[[Said], bool], after: int = 0) -> Said:
        patience = Patience(PATIENCE_S)
        with self._news:
            while not (found := [said for said in self._said[after:] if is_it(said)]):
                assert not patience.is_over, "not heard: " + "\n".join(map(str, self._said[-12:]))
                self._news.wait(patience.look_s)
        return found[0]

    def wait_status(self, reason: str, after: int = 0) -> Said:
        return self.wait_for(lambda said: said.leaf == "status" and said.json["reason"] == reason, after)

    def retained(self, topic: str) -> Any:
        """What somebody who comes now is told of it, on a topic of the screen's; None if that is nothing."""
        said: list[Said] = []

        def is_there() -> bool:
            return any(one.retained for one in said)

        process = self._subscribed([topic], said)
        try:
            # The broker has delivered what came later. Should it keep no order, what is retained comes soon.
            with self._news:
                Patience(SOON_S).wait_for(self._news, is_there)
                return next((one.json for one in said if one.retained), None)
        finally:
            process.kill()
            process.wait()

    def publish(self, topic: str, payload: bytes) -> None:
        """Returns when the broker has it."""
        argv = ["mosquitto_pub", *self._address, "-q", "1", "-t", topic, "-s"]
        subprocess.run(argv, input=payload, check=True, timeout=2 * PATIENCE_S)

    def send(self, order: Command) -> None:
        self.publish(self.topics.commands, command.encode(order))

    def order(self) -> Command:
        now = datetime.now(UTC)
        ends = now + timedelta(hours=1)
        return Command(str(uuid4()), self.topics.client_uuid, Action.REBOOT_HOST, now, ends, "operator:17", None)

    def acks(self, order: Command) -> list[str]:
        """Each ack once, however often it was sent: the words, in the order in which they came first."""
        with self._news:
            mine = [said for said in self._said if said.leaf == "commands/ack"]
        payloads = dict.fromkeys(said.payload for said in mine if said.json["command_id"] == order.command_id)
        acks = [json.loads(payload) for payload in payloads]
        return [ack["error_code"] or ack["status"] for ack in acks]

    def wait_done(self, order: Command) -> None:
        def is_end(said: Said) -> bool:
            is_mine = said.leaf == "commands/ack" and said.json["command_id"] == order.command_id
            return is_mine and said.json["status"] in ("completed", "failed")

        self.wait_for(is_end)

    def answers(self) -> None:
        """Returns when the screen has answered a command, one that has expired: nothing is executed."""
        order = self.order()
        hour = timedelta(hours=1)
        late = replace(order, issued_at=order.issued_at - hour, expires_at=order.issued_at - hour / 2)
        self.send(late)
        self.wait_done(late)
