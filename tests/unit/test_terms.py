"""What a broker allows, and what of it costs a client something."""

from __future__ import annotations

import pytest

from infoscreen_reboot.mqtt.packets import Connack, Property, write_properties
from infoscreen_reboot.mqtt.terms import NEVER_EXPIRES, Terms


def said(**properties: int | str) -> Terms:
    return Terms.read(Connack(0, properties=write_properties({Property[name]: x for name, x in properties.items()})))


def test_a_broker_that_says_nothing_allows_everything() -> None:
    assert Terms.read(Connack(0, has_session=True)) == Terms(has_session=True)
    assert list(Terms().shortcomings()) == []


@pytest.mark.parametrize(
    ("property", "value", "terms"),
    [
        ("SERVER_KEEP_ALIVE", 10, Terms(keep_alive_s=10)),
        ("SERVER_KEEP_ALIVE", 0, Terms()),  # not needed; ours does no harm
        ("RECEIVE_MAXIMUM", 7, Terms(receive_maximum=7)),
        ("RECEIVE_MAXIMUM", 0, Terms(receive_maximum=1)),  # against the rules (3.2.2.3.3)
        ("MAXIMUM_PACKET_SIZE", 8192, Terms(maximum_packet_bytes=8192)),
        ("MAXIMUM_QOS", 1, Terms(maximum_qos=1)),
        ("RETAIN_AVAILABLE", 0, Terms(has_retained=False)),
        ("SESSION_EXPIRY", 300, Terms(session_expiry_s=300)),
        ("SESSION_EXPIRY", NEVER_EXPIRES, Terms()),
        ("ASSIGNED_CLIENT_ID", "x", Terms(client_id="x")),
        ("WILDCARDS_AVAILABLE", 0, Terms(has_wildcards=False)),
        ("SUBSCRIPTION_IDS_AVAILABLE", 0, Terms(has_subscription_ids=False)),
        ("SHARED_AVAILABLE", 0, Terms(has_shared_subscriptions=False)),
    ],
)
def test_each_property_is_heard(property: str, value: int | str, terms: Terms) -> None:
    assert said(**{property: value}) == terms


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        (Terms(maximum_qos=0), "QoS 0 only"),
        (Terms(has_retained=False), "keeps no retained messages"),
        (Terms(session_expiry_s=86_399), "forgets this client 86399 s after"),
        (Terms(client_id="x"), "calls this client 'x'"),
    ],
)
def test_what_costs_the_client_something_is_said(terms: Terms, words: str) -> None:
    (sentence,) = terms.shortcomings()
    assert words in sentence


def test_a_session_that_is_kept_for_as_long_as_a_command_lives_is_kept_long_enough() -> None:
    assert list(Terms(session_expiry_s=86_400).shortcomings()) == []
