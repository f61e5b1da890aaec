"""The whole agent at a scripted broker: it is sent commands, and what it says is judged by the contract."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

from infoscreen_reboot.client.alerts import Alert, Alerts
from infoscreen_reboot.contract import ack, command, telemetry
from infoscreen_reboot.contract.ack import AckStatus
from infoscreen_reboot.contract.command import Action, Command
from infoscreen_reboot.contract.telemetry import FailureAlert
from infoscreen_reboot.contract.topics import Topics, from_client
from tests.broker import requests
from tests.broker.scripted import ScriptedBroker
from tools.simulated import agents
from tools.simulated.agents import SimulatedClient
from tools.simulated.manner import Manner, client_uuid

KIOSK = "kiosk.service"
# What a command leads to where nothing stands in its way: the agent only says that it reboots.
COURSE = [AckStatus.ACCEPTED, AckStatus.EXECUTION_STARTED, AckStatus.COMPLETED]

# The same bytes are looked at again whenever something happens.
_parsed = functools.lru_cache(maxsize=None)(ack.parse)


def names_of_topics() -> list[str]:
    """Every topic of the contract, as `Topics` calls it."""
    return [name for name, member in vars(Topics).items() if isinstance(member, property)]


class Play:
    """One agent, its broker, and what both have said."""

    def __init__(self, folder: Path, number: int, broker: ScriptedBroker) -> None:
        self.broker = broker
        self.client = SimulatedClient(folder / str(number), client_uuid(number), broker.port, Manner(mocks=True))
        self.client.on_status = self._on_status
        self.topics = Topics(self.client.uuid)
        self.statuses: list[str] = []
        self.orders: list[tuple[str, Command]] = []
        self.alert = b""

    def _on_status(self) -> None:
        self.statuses.append(self.client.status)
        self.broker.nudge()

    def topic(self, name: str) -> str:
        topic: str = getattr(self.topics, name)
        return topic

    @property
    def subscribed(self) -> list[str]:
        """The topics on which it listens, the canonical one last."""
        topics = [topic for topic in map(self.topic, names_of_topics()) if from_client(topic) is None]
        return sorted(topics, key=lambda topic: topic == self.topics.commands)

    @property
    def ack_topics(self) -> list[str]:
        return self.answers_to(self.topics.transitional_command)

    def answers_to(self, topic: str) -> list[str]:
        """Where the acks of a command go that came on this topic."""
        both = [self.topics.commands_ack, self.topics.transitional_ack]
        return {self.topics.commands: both[:1], self.topics.transitional_command: both}[topic]

    def let_a_unit_fail(self, *lines: str) -> None:
        """systemd has given up on a unit, and the notifier has written the alert down."""
        self.client.unit_states[0] = "failed"
        self.client.alerts.mkdir(parents=True, exist_ok=True)
        content = FailureAlert(
            client_uuid=self.client.uuid,
            unit=KIOSK,
            result="exit-code",
            exit_status=1,
            restarts=5,
            boot_id=self.client.boot_id(),
            timestamp=datetime.now(UTC),
            last_log_lines=lines,
        )
        self.alert = telemetry.encode_failure_alert(content)
        Alerts(self.client.alerts).write(Alert(KIOSK, str(uuid4()), self.alert))

    def listens(self, topic: str, qos: int = 1) -> bool:
        session = self.broker.session
        options = session.subscriptions.get(topic) if session is not None else None
        return options is not None and options & requests.QOS >= qos

    def order(self, topic: str, *, is_expired: bool = False, retain: bool = False) -> Command:
        """Sends a command there."""
        now = datetime.now(UTC)
        issued_at = now - timedelta(seconds=60)
        expires_at = now + timedelta(seconds=-1 if is_expired else 600)
        order = Command(str(uuid4()), self.client.uuid, Action.REBOOT_HOST, issued_at, expires_at)
        self.orders.append((topic, order))
        self.broker.publish(topic, command.encode(order), retain=retain)
        return order

    def acks(self, order: Command, topic: str) -> list[tuple[AckStatus, bytes]]:
        """Of this command on this topic, in order, byte for byte."""
        saids = ((_parsed(payload), payload) for payload in self.broker.payloads(topic))
        return [(said.status, payload) for said, payload in saids if said.command_id == order.command_id]

    def is_answered(self, order: Command, topic: str) -> bool:
        """Whether the last ack of the command is there, on this topic."""
        return any(status.is_terminal for status, _ in self.acks(order, topic))

    def has_ended(self, order: Command) -> bool:
        """Whether its last ack was heard, on any topic."""
        return any(self.is_answered(order, topic) for topic in self.ack_topics)

    def has_spoken(self, topic: str) -> bool:
        """Whether all that the client has to say on this topic is there."""
        if topic in self.ack_topics:
            orders = [order for came_by, order in self.orders if topic in self.answers_to(came_by)]
            return bool(orders) and all(self.is_answered(order, topic) for order in orders)
        payloads = self.broker.payloads(topic)
        return self.alert in payloads if topic == self.topics.service_failed else bool(payloads)

    def unspoken(self) -> list[str]:
        """The topics on which something is still to be said, as `Topics` calls them."""
        topics = ((name, self.topic(name)) for name in names_of_topics())
        return [name for name, topic in topics if from_client(topic) is not None and not self.has_spoken(topic)]

    def faults(self) -> Iterator[str]:
        """What breaks the contract, in a sentence each."""
        for came_by, order in self.orders:
            wordings: dict[AckStatus, set[bytes]] = {}
            for topic in self.answers_to(came_by):
                for status, payload in (acks := self.acks(order, topic)):
                    wordings.setdefault(status, set()).add(payload)
                if (course := list(dict.fromkeys(status for status, _ in acks))) != COURSE:
                    yield f"a command that came by {came_by} has on {topic} the acks {course}"
            if any(len(wording) > 1 for wording in wordings.values()):
                yield f"an ack of the command that came by {came_by} was said in two ways"
        boots = set(self.broker.payloads(self.topics.boot))
        if len(boots) > 1:
            yield f"{len(boots)} boot reports of one boot"
        if self.client.lives != 1:
            yield f"the agent lived {self.client.lives} times"
        yield from (f"the broker had to throw the client out: {breach}" for breach in self.broker.breaches)


@contextlib.asynccontextmanager
async def playing(
    folder: Path, *brokers: ScriptedBroker, prepare: Callable[[Play], object]
) -> AsyncIterator[list[Play]]:
    """An agent for each broker, all in this process, on a FleetLoop; `prepare` is done to each before it starts."""
    async with contextlib.AsyncExitStack() as stack:
        for broker in brokers:
            await stack.enter_async_context(broker.serving())
        plays = [Play(folder, number, broker) for number, broker in enumerate(brokers, 1)]
        for play in plays:
            prepare(play)
        fleet = asyncio.create_task(agents.run([play.client for play in plays]), name="agents")
        try:
            yield plays
        finally:
            fleet.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await fleet  # an agent that died is the cause of whatever else went wrong
