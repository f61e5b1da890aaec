"""A short stretch of each kind of fuzzing, the same each time, and that whatever may go wrong is seen."""

from __future__ import annotations

import itertools
import random
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dbus_next.message import Message
from dbus_next.signature import Variant

from infoscreen_reboot.contract import command
from infoscreen_reboot.contract.wire import ContractError
from tests.bus.conftest import HELPER
from tests.bus.fakes import Answer, Behaviour, Fail, Fake, Loop, PrivateBus, connect, disconnect
from tools.fuzzing import arena, messages, payloads
from tools.fuzzing.calls import Storm, reveals
from tools.fuzzing.outcome import Outcome

SEED = 20261124
GOOD = Outcome("nothing", wanted=10, may_grow_mb=5, done=10, before_mb=30, after_mb=35)


def test_every_payload_is_a_command_or_a_refusal(tmp_path: Path) -> None:
    outcome = payloads.fuzz(tmp_path, 20_000, SEED)
    assert outcome.faults == []
    assert "commands" in outcome.note and "refused by its id" in outcome.note, "all were junk"


@pytest.mark.parametrize("as_agent", [False, True], ids=["stranger", "agent"])
def test_no_call_does_the_helper_any_harm(tmp_path: Path, as_agent: bool) -> None:
    outcome = arena.fuzz_helper(tmp_path, 3000, SEED, as_agent=as_agent)
    assert outcome.faults == [], outcome


def test_no_call_does_the_agent_any_harm(tmp_path: Path) -> None:
    outcome = arena.fuzz_agent(tmp_path, 1000, SEED)
    assert outcome.faults == [], "\n".join(outcome.faults)


def test_no_message_does_the_agent_any_harm_and_the_next_right_command_is_executed(tmp_path: Path) -> None:
    outcome = messages.fuzz_messages(tmp_path, 400, SEED)
    assert outcome.faults == [], "\n".join(outcome.faults)


def test_no_packet_of_a_broker_that_lies_ends_the_session() -> None:
    assert messages.fuzz_packets(5000, SEED).faults == []


# --- What may go wrong is seen


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"crashes": 1}, "1 crashes"),
        ({"tracebacks": 2}, "2 tracebacks"),
        ({"executions": 3}, "3 executions"),
        ({"done": 9}, "only 9 of 10 were done"),
        ({"after_mb": 35.2}, "memory grew by 5.2 MB, allowed are 5"),
        ({"after_mb": 0.0}, "the memory could not be measured"),
        ({"complaints": ["it is odd"]}, "it is odd"),
    ],
)
def test_each_fault_is_told(change: dict[str, Any], fault: str) -> None:
    assert GOOD.faults == []
    assert replace(GOOD, **change).faults == [fault]


PLANTED = """
import sys
from infoscreen_reboot.contract import command
from tools.fuzzing import payloads

def read(payload):
    if b'"reason"' in payload and payload.startswith(b"{") and payload.endswith(b"}"):
        raise KeyError("planted")
    return command.parse(payload)

payloads.main(sys.argv[1:], read)
"""


def test_a_parse_that_breaks_is_seen(tmp_path: Path) -> None:
    outcome = payloads.fuzz(tmp_path, 20_000, SEED, ("-c", PLANTED))
    assert outcome.crashes == 1
    assert "KeyError: 'planted'" in "".join(outcome.complaints)


def test_an_answer_that_is_none_is_seen() -> None:
    class Teller:
        def __init__(self, answer: Any) -> None:
            self.answer = answer

        def read(self, payload: bytes) -> Any:
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer

    good = ContractError("", "payload is odd")
    assert payloads.judge(Teller(good).read, b"{}") == "unreadable"
    wrong: list[Any] = [None, {}, ContractError("", "no field"), ContractError("action", "")]
    for answer in wrong:
        with pytest.raises(payloads.Wrong):
            payloads.judge(Teller(answer).read, b"{}")


def test_a_command_that_the_payload_does_not_say_is_seen() -> None:
    said = payloads.a_command(random.Random(1))
    right = command.parse(messages.encoded(said))
    for payload in (said | {"force": True}, said | {"action": "halt"}, {**said, "reason": "another"}):
        with pytest.raises(payloads.Wrong):
            payloads.judge(lambda _: right, messages.encoded(payload))


@pytest.mark.parametrize("value", ["Traceback (most", ["x", {"a": Variant("s", 'File "x.py"')}]])
def test_a_traceback_is_seen_wherever_it_stands(value: object) -> None:
    assert reveals(value)
    assert not reveals(["x", {"a": 1}, ("File",)])


class Indiscreet(Fake):
    """Shows its inside when it is asked for a reboot, and no one else's."""

    name = HELPER[0]

    def own_answer(self, message: Message) -> Behaviour:
        return Fail("a.b", 'Traceback\n File "x.py"') if message.member == "Reboot" else Answer("s", ("nothing",))


def test_a_traceback_over_the_wire_is_seen(loop: Loop, bus: PrivateBus) -> None:
    with closing(Indiscreet(loop, bus.address)):
        caller, storm = loop.run(connect(bus.address)), Storm(HELPER[0], SEED)
        loop.run(storm.send(caller, itertools.islice(storm.walk(), 500)), timeout_s=60)
        loop.run(disconnect(caller))
    assert 0 < len(storm.showing) < storm.sent


def test_a_helper_that_is_gone_is_seen(tmp_path: Path) -> None:
    with arena.stage(tmp_path) as at:
        outcome = replace(GOOD, complaints=[])
        at.helper.kill()
        arena.check_still_right(at, Storm(HELPER[0], SEED), outcome)
        assert outcome.faults == ["1 crashes"]


def test_an_execution_that_nobody_ordered_is_seen(tmp_path: Path) -> None:
    with arena.stage(tmp_path) as at:
        outcome, storm = replace(GOOD, complaints=[]), Storm(HELPER[0], SEED, may_order=True)
        arena.check_still_right(at, storm, outcome)
        assert outcome.executions == 0
        assert at.agent.ask("Reboot", "5d1f8b4b-7e85-44fb-8f38-3f5d5da5e2e4").error == ""
        arena.check_still_right(at, storm, outcome)
        assert outcome.executions == 2, "the one that nobody ordered, and the earlier right call, for this was another"
