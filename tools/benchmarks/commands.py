"""How long a command takes to its ack, how many go through in a second, and how fast what is owed is delivered."""

from __future__ import annotations

import random
import sqlite3
import threading
import time
import uuid
from collections import Counter

from tools.benchmarks.driver import Driver, Heard, driving
from tools.benchmarks.stage import ACKS, COMMANDS, Stage, command

SPACING_S = 0.1
OWED_STATUSES = (b'"status":"accepted"', b'"status":"failed"')
TERMINAL = (b'"status":"completed"', b'"status":"failed"')

Samples = dict[str, list[float]]


def accepted(stage: Stage, rounds: int) -> Samples:
    """Publish to ack in milliseconds: who answers comes in another order each round."""
    topics = {"echo": "echo", "insert": "insert", "accepted": COMMANDS, "refused": COMMANDS, "duplicate": COMMANDS}
    stage.echo("echo")
    stage.await_subscription("echo")
    stage.echo("insert", insert=True)
    stage.await_subscription("insert")
    stage.agent()
    stage.await_subscription(COMMANDS)
    samples: Samples = {name: [] for name in topics}
    with driving(stage.port, "echo/ack", "insert/ack", ACKS) as driver:
        time.sleep(1)
        for number in range(-5, rounds):  # the first are for warming up
            for name in random.sample(sorted(topics), len(topics)):
                command_id, payload = command(valid=name != "refused")
                if name == "duplicate":
                    command_id, payload = command(valid=False)
                    _to_the_end(driver, command_id, driver.publish(COMMANDS, payload))
                    time.sleep(SPACING_S)
                ms = _to_the_end(driver, command_id, driver.publish(topics[name], payload), name)
                if number >= 0:
                    samples[name].append(ms)
                time.sleep(SPACING_S)
    return samples


def _to_the_end(driver: Driver, command_id: str, published_at: float, name: str = "") -> float:
    """The first answer's milliseconds, after all that belong to it have come."""
    marked = command_id.encode()
    first = driver.await_one(lambda heard: marked in heard.payload)
    if name == "accepted":
        assert OWED_STATUSES[0] in first.payload, first
        driver.await_one(lambda heard: marked in heard.payload and TERMINAL[0] in heard.payload)
    return (first.at - published_at) * 1e3


def throughput(stage: Stage, count: int, rounds: int) -> Samples:
    """Commands that were accepted or refused in a second, all sent at once; the echo's beside it."""
    stage.echo("insert", insert=True)
    stage.await_subscription("insert")
    stage.agent()
    stage.await_subscription(COMMANDS)
    samples: Samples = {"insert": [], "agent": []}
    with driving(stage.port, "insert/ack", ACKS) as driver:
        time.sleep(1)
        for _ in range(rounds):
            for name, topic in (("insert", "insert"), ("agent", COMMANDS)):
                samples[name].append(_burst(driver, topic, count))
                time.sleep(1.5)
    return samples


def _burst(driver: Driver, topic: str, count: int) -> float:
    """Answered in a second. Of the agent's the first ack of each command counts, and none may be missing."""
    payloads = dict(command() for _ in range(count))

    def send() -> None:
        for payload in payloads.values():
            driver.publish(topic, payload)

    sender = threading.Thread(target=send)
    started_at = time.perf_counter()
    sender.start()
    answers: Counter[str] = Counter()
    open_stories, last_at = 0, started_at
    for heard in driver.hear():
        if topic == COMMANDS and not any(status in heard.payload for status in OWED_STATUSES):
            open_stories -= TERMINAL[0] in heard.payload
        else:
            answers[_command_id(heard)] += 1
            open_stories += topic == COMMANDS and OWED_STATUSES[0] in heard.payload
            last_at = heard.at
        if len(answers) == count and not open_stories:
            break
    sender.join()
    assert set(answers) == set(payloads) and answers.total() == count, "an answer is missing, or came twice"
    return count / (last_at - started_at)


def _command_id(heard: Heard) -> str:
    mark = b'"command_id":'
    start = heard.payload.index(mark) + len(mark)
    return heard.payload[start:].lstrip(b' "')[:36].decode()


def drain(stage: Stage, count: int, rounds: int) -> Samples:
    """Owed acks in a second, from the broker's first sight of the agent until all are delivered, in order."""
    samples: Samples = {"agent": []}
    for _ in range(rounds):
        state = f"owing-{uuid.uuid4()}"
        with driving(stage.port, ACKS) as driver:
            agent = stage.agent(state)
            stage.await_subscription(COMMANDS)
            time.sleep(1)
            stage.end(agent)
            db = sqlite3.connect(stage.directory / state / "journal.sqlite3")
            letters = [
                (ACKS, b'{"status":"failed","number":"%06d","pad":"%s"}' % (n, b"x" * 300)) for n in range(count)
            ]
            with db:
                db.executemany("INSERT INTO outbox (topic, payload) VALUES (?, ?)", letters)
            db.close()
            agent = stage.agent(state)
            connected_at = stage.await_subscription(COMMANDS)
            heard: list[bytes] = []
            for message in driver.hear():
                heard.append(message.payload)
                if len(heard) == count:
                    break
            samples["agent"].append(count / (message.at - connected_at))
            assert heard == [payload for _, payload in letters], "out of order, or not all"
            stage.end(agent)
    return samples
