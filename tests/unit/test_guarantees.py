"""The campaign's judge: what keeps every promise passes, and each lie is found."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from tools.campaign.guarantees import Ack, Evidence, Kept, Life, Order, broken

ID, OTHER = "5d1f8b4b-7e85-44fb-8f38-3f5d5da5e2e4", "11111111-7e85-44fb-8f38-3f5d5da5e2e4"
BEFORE, AFTER = "boot-before", "boot-after"


def ack(status: str, boot_id: str = BEFORE, code: str | None = None, command_id: str = ID, at: str = "12:00") -> Ack:
    content = {"command_id": command_id, "status": status, "error_code": code, "boot_id": boot_id, "timestamp": at}
    return Ack.of(json.dumps(content).encode())


ACCEPTED, STARTED, COMPLETED = ack("accepted"), ack("execution_started"), ack("completed", AFTER)
STORY = (ACCEPTED, STARTED, COMPLETED)
GOOD = Evidence(
    orders=(Order(ID, "reboot_host", frozenset({"completed", "busy"})),),
    said=STORY,
    taken=frozenset(ack.payload for ack in STORY),
    arrived_live=frozenset({ID}),
    received=frozenset({ID}),
    heard=STORY,
    asked=Counter({ID: 1}),
    executed=Counter({ID: 1}),
    recorded=Counter({ID: 1}),
    lives=(Life(BEFORE, "rebooted"), Life(AFTER, None)),
    kept=(Kept(ID, "completed", "completed", was_started=True),),
)
REFUSED = replace(
    GOOD,
    said=(ack("failed", code="busy"),),
    heard=(ack("failed", code="busy"),),
    taken=frozenset({ack("failed", code="busy").payload}),
    asked=Counter(),
    executed=Counter(),
    recorded=Counter(),
    lives=(Life(BEFORE, None),),
    kept=(Kept(ID, "failed", "busy", was_started=False),),
)
LOST_WITH_THE_BROKER = replace(GOOD, heard=(COMPLETED,), broker_forgot=True)
NEVER_ARRIVED = Evidence(orders=GOOD.orders, lives=(Life(BEFORE, None),), broker_forgot=True)


@pytest.mark.parametrize(
    "evidence",
    [
        GOOD,
        REFUSED,
        LOST_WITH_THE_BROKER,
        NEVER_ARRIVED,
        # Sent again byte for byte, also out of turn: a loss of power may bring the last ack back.
        replace(GOOD, said=(*STORY, COMPLETED, STARTED), heard=(ACCEPTED, *STORY, COMPLETED)),
        # A power cut comes between the helper's record and the reboot: another boot is a proof all the same.
        replace(GOOD, lives=(Life(BEFORE, "power cut"), Life(AFTER, None))),
        # A broker that was killed brings a command of an earlier run again, and it is answered again.
        replace(GOOD, earlier=frozenset({OTHER}), heard=(ack("failed", code="busy", command_id=OTHER), *STORY)),
        # And after it has lost its record it asks the helper, who knows the command.
        replace(
            GOOD,
            earlier=frozenset({OTHER}),
            forgotten=frozenset({OTHER}),
            asked=Counter({ID: 1, OTHER: 1}),
            heard=(ack("failed", code="helper_failed", command_id=OTHER), *STORY),
        ),
        # In a flood it is refused for want of room, and the only ack is lost.
        replace(
            REFUSED,
            was_flooded=True,
            said=(),
            heard=(),
            taken=frozenset(),
            kept=(Kept(ID, "failed", "internal_error", was_started=False),),
        ),
        # Such a refusal is for all time, and is forgotten when many more come.
        replace(
            REFUSED,
            was_flooded=True,
            orders=(replace(GOOD.orders[0], ends=frozenset({"internal_error"})),),
            said=(ack("failed", code="internal_error"),),
            heard=(),
            taken=frozenset(),
            kept=(),
        ),
        # A record that was destroyed: the client forgets an end, and the helper's record speaks the last word.
        replace(GOOD, client_forgot=True, kept=(), heard=(*STORY, ack("failed", code="helper_failed"))),
        # The power was cut before nspawn could tell which boot it was.
        replace(GOOD, lives=(Life(BEFORE, "rebooted"), Life("", "power cut"), Life("boot-later", None))),
    ],
)
def test_what_keeps_every_promise_passes(evidence: Evidence) -> None:
    assert broken(evidence) == []


def lie(**changes: object) -> Evidence:
    return replace(GOOD, **changes)  # type: ignore[arg-type]  # names are checked by replace


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        (lie(asked=Counter({ID: 2})), f"{ID} was handed to the helper 2 times"),
        (lie(executed=Counter({ID: 2})), f"{ID} was executed by the helper 2 times"),
        (lie(recorded=Counter({ID: 2})), f"{ID} was recorded by the helper 2 times"),
        (lie(asked=Counter({ID: 1, OTHER: 1})), f"{OTHER} was handed to the helper, which no valid command asked for"),
        (lie(asked=Counter({ID: 1, OTHER: 1}), earlier=frozenset({OTHER})), f"{OTHER} was handed to the helper"),
        (lie(orders=(replace(GOOD.orders[0], may_run=False),)), "which no valid command asked for"),
        (lie(arrived_live=frozenset()), "never came to the client without the retain flag"),
        (
            lie(lives=(Life(BEFORE, "rebooted"), Life("boot-between", "rebooted"), Life(AFTER, None))),
            "the machine rebooted 2 times for 1 executed commands",
        ),
        (lie(lives=(Life(BEFORE, "powered off"), Life(AFTER, None))), "powered off 1 times for 0 executed commands"),
        (lie(recorded=Counter()), "the machine rebooted 1 times for 0 executed commands"),
        (lie(said=(*STORY, ack("failed", code="busy")), heard=STORY), "it ended as busy and as completed"),
        (lie(said=(*STORY, ack("completed", AFTER, at="12:01"))), "2 different acks say completed"),
        (lie(heard=(ACCEPTED, ack("accepted", at="12:01"), STARTED, COMPLETED)), "2 different acks say accepted"),
        (lie(heard=(STARTED, ACCEPTED, COMPLETED)), "heard in the order execution_started, accepted, completed"),
        (lie(said=(COMPLETED, STARTED, ACCEPTED)), "said in the order completed, execution_started, accepted"),
        (lie(heard=(ACCEPTED, COMPLETED)), "execution_started was taken by the broker, and nobody heard it"),
        (
            lie(heard=STORY[:2], taken=frozenset({ACCEPTED.payload, STARTED.payload})),
            "the ack completed is lost: the broker never acknowledged it, and nobody heard it",
        ),
        (
            lie(heard=STORY[1:], said=STORY[1:], broker_forgot=True),
            "the ack accepted is lost: the broker never acknowledged it, and nobody heard it",
        ),
        (lie(said=STORY[:2], heard=STORY[:2]), "the broker was told that it arrived, and no ack ever ended it"),
        (lie(kept=()), "the broker was told that it arrived, and the client does not know it"),
        (replace(NEVER_ARRIVED, broker_forgot=False), "it never arrived, and the broker had not lost it"),
        (lie(kept=(Kept(ID, "executing", "executing", True),)), "the client still has it as executing"),
        (lie(kept=(Kept(ID, "failed", "lockout", True),)), "the client has it as lockout, which it never said"),
        (lie(orders=(replace(GOOD.orders[0], ends=frozenset({"expired"})),)), "it ended as completed; allowed are"),
        (lie(said=(), heard=(ACCEPTED, COMPLETED)), "completed without having been started"),
        (
            lie(said=(), heard=(ACCEPTED, STARTED, ack("completed", BEFORE))),
            f"completed in boot {BEFORE}, in which it was started: there was no reboot",
        ),
        (lie(lives=(Life(BEFORE, "rebooted"),)), f"the ack completed names boot {AFTER}, which never was"),
        (lie(heard=(*STORY, ack("accepted", command_id=OTHER))), f"an ack for {OTHER}, which nobody sent"),
        (
            lie(earlier=frozenset({OTHER}), asked=Counter({ID: 1, OTHER: 1})),
            f"{OTHER} was handed to the helper, which no valid command asked for",
        ),
        (
            lie(earlier=frozenset({OTHER}), forgotten=frozenset({OTHER}), executed=Counter({ID: 1, OTHER: 1})),
            f"{OTHER} was executed by the helper, which no valid command asked for",
        ),
        (lie(was_flooded=True, kept=()), "and the client does not know it"),
        (lie(client_forgot=True, executed=Counter({ID: 2})), f"{ID} was executed by the helper 2 times"),
        (lie(client_forgot=True, kept=(), heard=(STARTED, ack("completed", BEFORE))), "there was no reboot"),
        (lie(ailments=("2 messages wait in the outbox",)), "at the end 2 messages wait in the outbox"),
    ],
)
def test_a_broken_guarantee_is_told(evidence: Evidence, words: str) -> None:
    assert any(words in sentence for sentence in broken(evidence)), broken(evidence)
