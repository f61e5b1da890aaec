"""What the broker does not take is set aside for longer each time, and forgotten when it takes it."""

from __future__ import annotations

from infoscreen_reboot.mqtt.obstacles import FIRST_PAUSE_S, LONGEST_PAUSE_S, Obstacles, messages_on, subscription_to

ACKS, COMMANDS = messages_on("screen/acks"), subscription_to("screen/commands")


def test_the_pause_doubles_up_to_a_bound_and_begins_anew_after_a_success() -> None:
    obstacles = Obstacles()
    now_s, pauses = 0.0, []
    for _ in range(9):
        obstacles.put(ACKS, "no", now_s)
        pauses.append(obstacles.next_try_s(now_s))
        now_s += pauses[-1] or 0.0
    assert pauses == [FIRST_PAUSE_S * 2**n for n in range(6)] + [LONGEST_PAUSE_S] * 3
    assert obstacles.remove(ACKS)
    assert not obstacles.remove(ACKS)
    obstacles.put(ACKS, "no", now_s)
    assert obstacles.next_try_s(now_s) == FIRST_PAUSE_S


def test_it_is_set_aside_during_the_pause_and_due_after_it() -> None:
    obstacles = Obstacles()
    assert not obstacles.is_due(COMMANDS, 0.0)
    obstacles.put(COMMANDS, "no", 10.0)
    assert obstacles.is_set_aside(COMMANDS, 14.9) and not obstacles.is_due(COMMANDS, 14.9)
    assert not obstacles.is_set_aside(COMMANDS, 15.0) and obstacles.is_due(COMMANDS, 15.0)
    assert obstacles.next_try_s(15.0) is None, "it may be tried already"


def test_only_what_is_said_for_the_first_time_or_for_another_reason_is_news() -> None:
    obstacles = Obstacles()
    assert obstacles.put(ACKS, "no", 0.0)
    assert not obstacles.put(ACKS, "no", 5.0)
    assert obstacles.put(ACKS, "never", 15.0)
    assert list(obstacles.sentences()) == ["the broker refuses messages on screen/acks: never"]


def test_on_a_new_connection_all_is_tried_again_but_what_ends_connections() -> None:
    obstacles = Obstacles()
    obstacles.put(ACKS, "it ends the connection", 0.0, ends_connections=True)
    obstacles.put(COMMANDS, "no", 0.0)
    obstacles.begin_anew(1.0)
    assert obstacles.is_due(COMMANDS, 1.0)
    assert obstacles.is_set_aside(ACKS, 1.0)
    obstacles.put(COMMANDS, "no", 1.0)
    assert obstacles.is_set_aside(COMMANDS, 1.0 + 2 * FIRST_PAUSE_S - 0.1), "the pause grows all the same"


def test_topics_of_messages_are_told_from_subscriptions() -> None:
    obstacles = Obstacles()
    obstacles.put(COMMANDS, "no", 0.0)
    obstacles.put(ACKS, "no", 0.0)
    assert obstacles.topics_set_aside(1.0) == ["screen/acks"]
    assert obstacles.topics_set_aside(FIRST_PAUSE_S) == []
