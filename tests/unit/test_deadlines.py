"""The constants of agent, helper and logind that rest on each other, added up."""

import ast
import re
from pathlib import Path

from infoscreen_reboot.client import config
from infoscreen_reboot.client.agent import host
from infoscreen_reboot.client.agent.agent import DELIVERY_S, FAREWELL_S, LAST_WORDS_S
from infoscreen_reboot.client.agent.bus import CONNECT_TIMEOUT_S
from infoscreen_reboot.client.agent.ports import HELPER_S

ROOT = Path(__file__).parents[2]
HELPER = ROOT / "helper/infoscreen_reboot_helper.py"
# dbus-daemon's system.conf: what a service is given to have its name, after which the call is dropped.
ACTIVATION_S = 25
# The functions of the helper through which an order goes, one after the other.
ON_THE_WAY = ("answer", "gate", "authorise", "order", "check")
# With these it asks.
QUESTIONS = ("ask", "ask_or_refuse")
LOGIND_DELAY_S = host._DELAY_MAX_S


def helper_answer_timeout_s() -> float:
    for node in ast.parse(HELPER.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ANSWER_TIMEOUT_S":
            return float(ast.literal_eval(node.value))
    raise AssertionError("the helper no longer says how long it waits for an answer")


def questions_on_the_way() -> int:
    """How often the helper asks someone before an order is out, and for its answer."""
    functions = [node for node in ast.walk(ast.parse(HELPER.read_text())) if isinstance(node, ast.AsyncFunctionDef)]
    found = 0
    for function in functions:
        if function.name in ON_THE_WAY:
            calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
            found += sum(isinstance(call, ast.Attribute) and call.attr in QUESTIONS for call in calls)
    return found


def test_a_request_is_given_as_long_as_the_helper_can_take() -> None:
    assert questions_on_the_way() >= 4, "of the bus, of polkit, and two of logind"
    worst_s = CONNECT_TIMEOUT_S + ACTIVATION_S + questions_on_the_way() * helper_answer_timeout_s()
    assert HELPER_S - worst_s >= 5


def test_the_least_execution_timeout_is_what_it_waits_for() -> None:
    assert helper_answer_timeout_s() + LOGIND_DELAY_S == config.LEAST_EXECUTION_TIMEOUT_S


def test_the_documents_name_the_least_execution_timeout() -> None:
    range_of_it = f"{config.LEAST_EXECUTION_TIMEOUT_S} to 600"
    manual = (ROOT / "docs/man/infoscreen-reboot.env.5").read_text()
    assert range_of_it in manual.partition("COMMAND_EXECUTION_TIMEOUT_S")[2].partition(".It")[0]
    comment, _, _ = (ROOT / "debian/agent.env").read_text().partition("#COMMAND_EXECUTION_TIMEOUT_S")
    assert range_of_it in comment.splitlines()[-1]


def test_the_campaign_and_the_tests_on_machines_set_what_is_allowed() -> None:
    for path in [*ROOT.glob("tools/*/*.py"), *ROOT.glob("tests/system/*.py")]:
        for number in re.findall(r'EXECUTION_TIMEOUT_S="(\d+)"', path.read_text()):
            assert int(number) >= config.LEAST_EXECUTION_TIMEOUT_S, path


def test_the_tests_on_machines_know_when_the_helper_must_be_through() -> None:
    hands = (ROOT / "tests/system/hands.py").read_text()
    assert f"\nTHROUGH_S = {DELIVERY_S + HELPER_S:.0f}\n" in hands


def test_the_last_words_fit_into_loginds_delay() -> None:
    assert LOGIND_DELAY_S > LAST_WORDS_S + FAREWELL_S
