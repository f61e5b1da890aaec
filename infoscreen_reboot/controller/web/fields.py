"""A schedule as it is typed into a form: what the API takes of it, and how what there is looks in the form."""

from __future__ import annotations

from collections.abc import Mapping

from infoscreen_reboot.controller import recurrence
from infoscreen_reboot.controller.api import models
from infoscreen_reboot.controller.api.problems import Problem, checked
from infoscreen_reboot.controller.web import shell
from infoscreen_reboot.controller.web.session import Form
from infoscreen_reboot.controller.windows import DAYS

_DAYS = [day[:2].upper() for day in DAYS]
WEEKDAYS = list(zip(_DAYS, recurrence.DAY_WORDS, strict=True))
_FIELDS = ("name", "selector", "often", "rule", "start", "zone", "window_min", "spread_min", "back_by_min")
EMPTY = dict.fromkeys(_FIELDS, "") | {"often": "daily", "start": "03:30", "window_min": "120", "spread_min": "60"}
_DAILY = "FREQ=DAILY"
_WEEKLY = "FREQ=WEEKLY;BYDAY="


def said(sent: Form) -> tuple[dict[str, str], list[str]]:
    """What was typed, and the weekdays that were chosen."""
    return {name: sent.text(name) for name in _FIELDS}, [day for day in _DAYS if day in sent.get("day", [])]


def filled(known: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The form of a schedule, of which `known` has the fields of the API as text."""
    rule = known["rule"]
    days = rule.removeprefix(_WEEKLY).split(",")
    if rule == _DAILY:
        return dict(known) | {"often": "daily", "rule": ""}, []
    if rule.startswith(_WEEKLY) and days == [day for day in _DAYS if day in days]:
        return dict(known) | {"often": "weekly", "rule": ""}, days
    return dict(known) | {"often": "rule"}, []


def wanted(said: Mapping[str, str], days: list[str]) -> models.NewSchedule:
    """Raises Problem for what cannot be meant."""
    return checked(
        models.NewSchedule,
        name=said["name"],
        selector=said["selector"],
        rule=_rule(said, days),
        start=said["start"],
        zone=said["zone"] or None,
        window_min=shell.number(said, "window_min", shell.MINUTES),
        spread_min=shell.number(said, "spread_min", shell.MINUTES),
        back_by_min=shell.number(said, "back_by_min", shell.MINUTES) if said["back_by_min"] else None,
    )


def _rule(said: Mapping[str, str], days: list[str]) -> str:
    match said["often"]:
        case "daily":
            return _DAILY
        case "weekly" if days:
            return f"{_WEEKLY}{','.join(days)}"
        case "weekly":
            raise Problem("invalid", "no weekday is chosen: choose at least one")
    return said["rule"]


def rule_in_words(rule: str) -> str:
    """As it is written, if a later version has written what this one cannot read."""
    try:
        return recurrence.in_words(recurrence.parse(rule))
    except ValueError:
        return rule
