"""The days of a rule: what RFC 5545 says of them, and what is refused by name."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infoscreen_reboot.controller.recurrence import days, in_words, parse

ANCHOR = date(2026, 1, 14)  # a Wednesday


def short(rule: str, first: str, last: str) -> str:
    found = days(parse(rule), ANCHOR, date.fromisoformat(first), date.fromisoformat(last))
    return " ".join(f"{day:%m-%d}" for day in found)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("FREQ=DAILY;INTERVAL=10", "01-14 01-24 02-03 02-13 02-23 03-05"),
        ("FREQ=DAILY;INTERVAL=10;UNTIL=20260203", "01-14 01-24 02-03"),
        ("FREQ=WEEKLY;BYDAY=SU", "01-18 01-25 02-01 02-08 02-15 02-22 03-01 03-08"),
        # Every other week, counted in weeks that begin on Monday: the first Monday is in the week after the next.
        ("FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,TH", "01-15 01-26 01-29 02-09 02-12 02-23 02-26 03-09"),
        ("FREQ=MONTHLY;BYMONTHDAY=1,-1", "01-31 02-01 02-28 03-01"),
        ("FREQ=MONTHLY;BYDAY=1MO,-1FR", "01-30 02-02 02-27 03-02"),
        ("FREQ=MONTHLY;BYDAY=FR;BYMONTHDAY=13", "02-13"),
        ("rrule:freq=monthly;interval=2;bymonthday=15", "01-15"),
        ("FREQ=DAILY;UNTIL=20251231", ""),
    ],
)
def test_the_days_of_a_rule(rule: str, expected: str) -> None:
    assert short(rule, str(ANCHOR), "2026-03-10") == expected


@pytest.mark.parametrize(
    ("rule", "named"),
    [
        ("", "no part of a rule"),
        ("FREQ=YEARLY", "YEARLY"),
        ("FREQ=DAILY;COUNT=3", "COUNT"),
        ("FREQ=DAILY;BYHOUR=4", "BYHOUR"),
        ("FREQ=DAILY;FREQ=DAILY", "more than once"),
        ("FREQ=DAILY;INTERVAL=0", "INTERVAL"),
        ("FREQ=DAILY;INTERVAL=2;BYDAY=MO", "FREQ=WEEKLY"),
        ("FREQ=DAILY;UNTIL=20260230", "UNTIL"),
        ("FREQ=WEEKLY", "BYDAY"),
        ("FREQ=WEEKLY;BYDAY=MO,XX", "XX"),
        ("FREQ=WEEKLY;BYDAY=1MO", "FREQ=MONTHLY"),
        ("FREQ=WEEKLY;BYDAY=MO;BYMONTHDAY=1", "BYMONTHDAY"),
        ("FREQ=MONTHLY", "BYMONTHDAY"),
        ("FREQ=MONTHLY;BYMONTHDAY=31", "-1 is the last day"),
        ("FREQ=MONTHLY;BYDAY=5FR", "-4 to 4"),
        ("FREQ=DAILY;" * 40, "at most 200"),
    ],
)
def test_what_is_refused_and_by_which_word(rule: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        parse(rule)


@given(
    st.sampled_from(
        ["FREQ=DAILY;INTERVAL=366"]
        + [f"FREQ=MONTHLY;INTERVAL=12;BYMONTHDAY={day}" for day in (-28, -1, 1, 28)]
        + [f"FREQ=MONTHLY;INTERVAL=12;BYDAY={number}{day}" for number in (-4, 4) for day in ("MO", "SU")]
        + ["FREQ=WEEKLY;INTERVAL=52;BYDAY=MO"]
    ),
    st.dates(date(2026, 1, 1), date(2032, 1, 1)),
)
def test_no_rule_waits_for_a_day_that_never_comes(rule: str, anchor: date) -> None:
    assert days(parse(rule), anchor, anchor, anchor + timedelta(days=750))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("FREQ=DAILY", "01-12 01-13 01-14 01-15"),
        ("FREQ=DAILY;INTERVAL=2", "01-12 01-14"),
        ("FREQ=WEEKLY;BYDAY=MO,TU", "01-12 01-13"),
        ("FREQ=WEEKLY;INTERVAL=2;BYDAY=TU,TH", "01-13 01-15"),
        ("FREQ=MONTHLY;BYMONTHDAY=13", "01-13"),
    ],
)
def test_a_zone_two_days_behind_has_the_same_days(rule: str, expected: str) -> None:
    assert short(rule, "2026-01-12", "2026-01-15") == expected


def test_asking_in_pieces_gives_the_same_days() -> None:
    rule = parse("FREQ=WEEKLY;INTERVAL=3;BYDAY=TU,SA")
    first, last = date(2026, 1, 1), date(2027, 1, 1)
    one_by_one = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    pieces = [found for day in one_by_one for found in days(rule, ANCHOR, day, day)]
    assert pieces == list(days(rule, ANCHOR, first, last))


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("FREQ=DAILY", "every day"),
        ("FREQ=DAILY;INTERVAL=10;UNTIL=20271231", "every 10 days, until 2027-12-31"),
        ("FREQ=DAILY;BYDAY=MO,TU", "every Monday and Tuesday"),
        ("FREQ=WEEKLY;BYDAY=MO,TH,SU", "every Monday, Thursday and Sunday"),
        ("FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,TH", "every 2 weeks on Monday and Thursday"),
        (
            "FREQ=MONTHLY;BYDAY=1MO,-1FR,-2SU",
            "every month on the first Monday, the last Friday and the second last Sunday",
        ),
        (
            "FREQ=MONTHLY;BYMONTHDAY=1,-1,-3,-12",
            "every month on day 1, the last day, the 3rd last day and the 12th last day",
        ),
        ("FREQ=MONTHLY;BYDAY=FR", "every month on each Friday"),
        ("FREQ=MONTHLY;BYDAY=FR,SA;BYMONTHDAY=13", "every month on day 13, if that is a Friday or Saturday"),
        ("FREQ=MONTHLY;INTERVAL=3;BYMONTHDAY=15", "every 3 months on day 15"),
    ],
)
def test_a_rule_in_words(rule: str, said: str) -> None:
    assert in_words(parse(rule)) == said
