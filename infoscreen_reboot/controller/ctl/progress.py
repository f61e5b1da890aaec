"""`rollout watch`: how a rollout goes on, until it is over or asks a person. It is read once a second."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from infoscreen_reboot.controller.ctl import times
from infoscreen_reboot.controller.ctl.act import VERBS
from infoscreen_reboot.controller.ctl.call import Call
from infoscreen_reboot.controller.ctl.course import NOT_BACK, STATES, STOPPED, VERDICTS
from infoscreen_reboot.controller.ctl.outcome import Failure, Outcome, Refused, Unreachable
from infoscreen_reboot.controller.ctl.screen import PROGRAM, STYLES, clean, plural
from infoscreen_reboot.controller.ctl.shapes import Rollout, RolloutMember
from infoscreen_reboot.controller.ctl.watch import GIVE_UP_S, WIDEST_BAR, bar_of, count_line_of

if TYPE_CHECKING:
    from rich.console import Group

POLL_S = 1.0
_ASKS = ("paused", "stopped")
_WAITING = "waiting"


def follow(call: Call, found: str, is_told: bool) -> Outcome:
    """Shows how it goes on, and what came of it. With `--json`: a line for each change if `is_told`, and at the end."""
    try:
        rollout = _to_end(call, found, is_told)
        members: list[RolloutMember] = call.connection.get(f"/rollouts/{found}/members")
    except KeyboardInterrupt:
        raise Failure(Outcome.INTERRUPTED, "stopped watching", _goes_on(found)) from None
    except (Unreachable, Refused) as error:
        error.advice = _goes_on(found)
        raise
    outcome = _outcome(rollout, members)
    if call.screen.is_json:
        document = {"kind": "ended", "exit_code": int(outcome), "rollout": rollout}
        call.screen.json_line(
            document | {"did_not_come_back": [each["client_uuid"] for each in members if _is_lost(each)]}
        )
    else:
        _show_end(call, rollout, members)
    return outcome


def _goes_on(found: str) -> str:
    return f"The rollout goes on. Watch again: {PROGRAM} rollout watch {found}"


def _to_end(call: Call, found: str, is_told: bool) -> Rollout:
    """Until nothing more happens without a person."""
    before: Rollout | None = None
    with _shown(call) as show:
        while True:
            now = _read(call, found)
            if now != before:
                show(now)
                if call.screen.is_json and is_told:
                    call.screen.json_line({"kind": "rollout", **now})
            # What runs runs on: its verdicts belong to what is told at the end.
            if (now["is_over"] or now["state"] in _ASKS) and not _running(now):
                return now
            before = now
            time.sleep(POLL_S)


def _running(rollout: Rollout) -> int:
    return sum(count for state, count in rollout["states"].items() if state not in (*VERDICTS, _WAITING))


def _read(call: Call, found: str) -> Rollout:
    """A server that starts anew is waited for."""
    give_up_at_s = time.monotonic() + GIVE_UP_S
    while True:
        try:
            rollout: Rollout = call.connection.get(f"/rollouts/{found}")
        except (Unreachable, Refused) as error:
            is_final = isinstance(error, Refused) and error.status < 500
            if is_final or time.monotonic() > give_up_at_s:
                raise
            time.sleep(POLL_S)
        else:
            return rollout


def _outcome(rollout: Rollout, members: list[RolloutMember]) -> Outcome:
    if rollout["state"] != "finished":
        return Outcome.REFUSED
    if any(_is_lost(each) for each in members):
        return Outcome.NOT_BACK
    return Outcome.REFUSED if any(each["state"] in STOPPED for each in members) else Outcome.DONE


def _is_lost(member: RolloutMember) -> bool:
    """Also who only pretended: it completed, and the brake does not count it."""
    is_mock = member["state"] == "completed" and member["counted"] == "not_counted"
    return member["state"] in NOT_BACK or is_mock


def counted(states: Mapping[str, int]) -> str:
    return ", ".join(f"{states[state]} {state}" for state in (*STATES, _WAITING) if states.get(state))


def words_of(rollout: Rollout) -> str:
    """Where it is, in a line."""
    stage = next((each for each in rollout["stages"] if each["number"] == rollout["stage"]), None)
    where = "" if stage is None else f", stage {stage['number']} of {len(rollout['stages'])} ({stage['name']})"
    why = f": {rollout['why']}" if rollout["why"] else ""
    return f"{rollout['state']}{where}{why}"


# --- Shown


@contextmanager
def _shown(call: Call) -> Iterator[Any]:
    """Hands over what takes each state of it: a picture that is drawn again and again, or plain lines."""
    if not call.screen.is_live:
        yield lambda rollout: _plain(call, rollout)
        return
    from rich.live import Live

    call.screen.say()
    with Live(console=call.screen.console, refresh_per_second=4, vertical_overflow="crop") as live:
        yield lambda rollout: live.update(picture(call, rollout))


def _plain(call: Call, rollout: Rollout) -> None:
    if not call.screen.is_json:
        at = call.now.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
        print(f"{at}  {clean(words_of(rollout))}; {counted(rollout['states'])}", flush=True)


def picture(call: Call, rollout: Rollout) -> Group:
    """A bar, the counts, a line for each stage, and the brake."""
    from rich.console import Group
    from rich.text import Text

    states = rollout["states"]
    total = sum(states.values())
    ended = sum(states.get(state, 0) for state in VERDICTS)
    done = f"  {ended} of {total}"
    bar = bar_of(states, total, min(WIDEST_BAR, call.screen.console.width - len(done) - 1))
    bar.append(done)
    head = Text(f"{VERBS[rollout['action']]} {plural(total, 'client')} in stages", "bold")
    where = Text(clean(words_of(rollout)), STYLES.get(rollout["state"], ""))
    if rollout["due_at"] is not None:
        where.append(f"   goes on {times.until(rollout['due_at'], call.now)}", "dim")
    lines = [
        Text(f"{'>' if each['number'] == rollout['stage'] else ' '} {clean(each['name'])}: {counted(each['states'])}")
        for each in rollout["stages"]
    ]
    return Group(head, bar, count_line_of(states), Text(), where, *lines, Text(rollout["brake"]["words"], "dim"))


def _show_end(call: Call, rollout: Rollout, members: list[RolloutMember]) -> None:
    screen = call.screen
    done = sum(each["counted"] == "ran" for each in members)
    screen.say()
    screen.say(f"It is {rollout['state']}: {done} of {len(members)} completed.", STYLES.get(rollout["state"]))
    if rollout["state"] in _ASKS:
        screen.say(f"Why: {rollout['why']}")
        screen.say(f"{rollout['brake']['words'].capitalize()}.")
        short = rollout["id"][:8]
        screen.say(f"Go on: {PROGRAM} rollout resume {short}. End it: {PROGRAM} rollout abort {short}, or rollback.")
    lost = sorted(each["name"] or each["client_uuid"] for each in members if _is_lost(each))
    if lost:
        screen.say()
        screen.say("Did not come back:", "bold")
        for name in lost:
            screen.bare(name)
