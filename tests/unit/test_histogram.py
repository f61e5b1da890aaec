"""The bars of `tools/drill`: how long clients were away."""

from __future__ import annotations

from tools.drills import histogram


def test_each_time_is_in_one_bar_and_the_limits_stand_between_the_bars() -> None:
    lines = histogram.draw([20, 22, 30, 89.9, 90, 149, 210])
    assert lines == [
        "    0- 15 s    0",
        "   15- 30 s    2  ########################################",
        "   30- 45 s    1  ####################",
        "   45- 60 s    0",
        "   60- 75 s    0",
        "   75- 90 s    1  ####################",
        "  - - - 90 s: the display is amber",
        "   90-105 s    1  ####################",
        "  105-120 s    0",
        "  120-135 s    0",
        "  135-150 s    1  ####################",
        "  - - - 150 s: timed out",
        "  150-165 s    0",
        "  165-180 s    0",
        "  180-195 s    0",
        "  195-210 s    0",
        "  210-225 s    1  ####################",
    ]
    assert histogram.summary([20, 22, 30, 90, 149, 210]) == (
        "6 came back: 4 within 90 s, 5 within 150 s; half of them within 30 s, the last after 210 s"
    )


def test_a_fleet_of_which_nobody_came_back_is_told_as_that() -> None:
    assert histogram.summary([]) == "nobody came back"
    assert len(histogram.draw([])) == 13
