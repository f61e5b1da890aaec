"""How a client asks to be let in, and what it tries next if it is not."""

from __future__ import annotations

import pytest

from infoscreen_reboot.mqtt.manner import Manner, Trial
from infoscreen_reboot.mqtt.packets import Protocol

V5, V3 = Protocol.MQTT_5, Protocol.MQTT_3_1_1


def asked(trial: Trial, tries: int) -> list[tuple[Protocol, bool, bool]]:
    """Protocol, whether for a new session, whether with a will; the broker answers none of the tries."""
    manners = []
    for _ in range(tries):
        manner = trial.manner()
        manners.append((manner.protocol, manner.is_new, manner.has_will))
        trial.on_no_answer()
    return manners


def welcome(trial: Trial, now_s: float = 0.0, *, has_retained: bool = True, maximum_qos: int = 2) -> None:
    trial.on_welcome(trial.manner(), now_s, has_retained=has_retained, maximum_qos=maximum_qos)


def test_a_broker_that_does_not_answer_is_asked_in_each_way_and_then_from_the_beginning() -> None:
    old, new, no_will = (False, True), (True, True), (False, False)
    ways = [(V5, *old), (V3, *old), (V5, *old), (V5, *new), (V3, *new), (V5, *no_will), (V3, *no_will)]
    assert asked(Trial(), 9) == [*ways, *ways[:2]]


@pytest.mark.parametrize(("setting", "protocol"), [("5", V5), ("3.1.1", V3)])
def test_a_protocol_that_is_set_is_the_only_one(setting: str, protocol: Protocol) -> None:
    assert {each for each, _, _ in asked(Trial(setting, speaks_3_1_1=True), 20)} == {protocol}


def test_what_worked_is_remembered_and_mqtt_5_is_tried_again_after_a_while() -> None:
    trial = Trial(mqtt_5_again_s=100)
    trial.on_no_answer()
    assert trial.manner().protocol is V3
    welcome(trial, now_s=1000)
    assert trial.speaks_3_1_1
    assert trial.manner() == Manner(V3)
    assert not trial.wants_mqtt_5_again(1099)
    assert trial.wants_mqtt_5_again(1100)
    trial.try_mqtt_5()
    assert trial.manner() == Manner(V5)
    trial.on_no_answer()
    welcome(trial, now_s=1101)
    assert not trial.wants_mqtt_5_again(1300), "each time that it is in vain the pause doubles"
    assert trial.wants_mqtt_5_again(1301)


def test_another_run_begins_with_what_worked() -> None:
    assert Trial(speaks_3_1_1=True).manner().protocol is V3


def test_a_broker_that_says_that_it_does_not_know_mqtt_5_is_asked_anew_each_time() -> None:
    trial = Trial()
    trial.on_welcome(Manner(V3), 0.0, has_retained=True, maximum_qos=2)  # the connection itself went on in 3.1.1
    assert not trial.speaks_3_1_1
    assert trial.manner() == Manner(V5)


@pytest.mark.parametrize("code", [0x80, 0x81, 0x82, 0x83])
def test_three_refusals_of_a_broker_that_cannot_lead_to_a_new_session(code: int) -> None:
    trial = Trial("5")
    for _ in range(3):
        assert not trial.manner().is_new
        trial.on_refusal(code)
    assert trial.manner().is_new
    welcome(trial)
    assert not trial.manner().is_new


def test_in_mqtt_3_1_1_a_broker_that_cannot_only_says_that_it_is_not_available() -> None:
    trial = Trial("3.1.1")
    for _ in range(3):
        assert not trial.manner().is_new
        trial.on_refusal(0x88, V3)
    assert trial.manner().is_new


@pytest.mark.parametrize("code", [0x86, 0x88, 0x89, 0x8A, 0x97, 0x9F])
def test_a_refusal_that_has_nothing_to_do_with_how_we_ask_changes_nothing(code: int) -> None:
    trial = Trial()
    for _ in range(20):
        assert trial.manner() == Manner()
        trial.on_refusal(code)


def test_a_client_that_is_not_authorised_keeps_its_session_and_tries_without_a_will_now_and_then() -> None:
    trial = Trial()
    manners = []
    for _ in range(8):
        manners.append(trial.manner())
        trial.on_refusal(0x87)
    assert [manner.has_will for manner in manners] == [True, True, True, False] * 2
    assert not any(manner.is_new for manner in manners)


def test_the_will_is_what_the_broker_can_keep() -> None:
    trial = Trial()
    welcome(trial, has_retained=False, maximum_qos=0)
    assert (trial.manner().will_retain, trial.manner().will_qos) == (False, 0)
    welcome(trial)
    assert (trial.manner().will_retain, trial.manner().will_qos) == (True, 1)


def test_in_mqtt_3_1_1_too_a_new_session_is_asked_for_once() -> None:
    trial = Trial("3.1.1")
    for _ in range(3):
        trial.on_poison()
    assert trial.manner().is_new
    # There the connection makes the broker forget the old session, and then comes in without asking for a new one.
    trial.on_welcome(Manner(V3), 0.0, has_retained=True, maximum_qos=2)
    assert not trial.manner().is_new


def test_what_cannot_be_taken_three_times_is_left_behind_with_the_session() -> None:
    trial = Trial()
    trial.on_poison()
    trial.on_poison()
    trial.on_good_service()
    for _ in range(3):
        assert not trial.manner().is_new
        trial.on_poison()
    assert trial.manner().is_new
    welcome(trial)
    assert not trial.manner().is_new
